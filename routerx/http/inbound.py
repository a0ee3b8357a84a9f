"""From an aiohttp request to an Inbound: whose it is, and its body within its limits."""

from collections.abc import Mapping
from types import MappingProxyType

from aiohttp import web
from multidict import istr

from routerx.clock import Clock
from routerx.config.snapshot import Snapshot, SnapshotHolder
from routerx.dialects.base import CallerDialect
from routerx.domain.call import Operation
from routerx.domain.tenant import Principal
from routerx.errors import AmbiguousCredentials, InvalidApiKey
from routerx.gateway.admit import identify
from routerx.gateway.context import Inbound
from routerx.gateway.wishes import steering_of
from routerx.http.edge import read_body
from routerx.jsonx import Raw
from routerx.ledger.base import Ledger

FORWARDABLE: Mapping[str, tuple[str, ...]] = MappingProxyType({"anthropic": ("anthropic-beta", "anthropic-version")})
"""Headers of a dialect's callers that a provider may want to see; which one gets which is said in providers/."""
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_NO_FIELDS: Mapping[str, Raw] = MappingProxyType({})

USER, TITLE, REFERER = istr("X-RouterX-User"), istr("X-Title"), istr("HTTP-Referer")
LABEL_CHARS_MAX = 128
"""X-RouterX-User, X-Title and HTTP-Referer go to the request log, cut to this."""


def presented_key(request: web.BaseRequest, extra_header: str | None) -> str | None:
    """The one tenant key of a request; None where there is none.

    Raises AmbiguousCredentials when two different ones came (SECURITY.md 9), and InvalidApiKey for an Authorization
    that is no Bearer token. The edge has refused a doubled Authorization.
    """
    headers = request.headers
    authorization = headers.get("Authorization")
    found = None if authorization is None else _bearer(authorization)
    if "x-api-key" not in headers and "x-goog-api-key" not in headers and extra_header is None:
        return found
    others = headers.getall("x-api-key", []) + headers.getall("x-goog-api-key", [])
    if extra_header is not None and extra_header.lower() != "authorization":
        others += [value.removeprefix("Bearer ").strip() for value in headers.getall(extra_header, ())]
    for other in others:
        if found is not None and found != other:
            raise AmbiguousCredentials("The request carries more than one API key. Send exactly one.")
        found = other
    return found


def _bearer(authorization: str) -> str:
    scheme, _, token = authorization.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise InvalidApiKey("The Authorization header must be 'Bearer KEY'.")
    return token


def _label(request: web.BaseRequest, name: str) -> str | None:
    value = request.headers.get(name)
    if value is None:
        return None
    # Bytes that are no UTF-8 come as lone surrogates, which the request log could not write.
    return value[:LABEL_CHARS_MAX].encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _forwardable(request: web.BaseRequest, dialect: CallerDialect) -> Mapping[str, str]:
    names = FORWARDABLE.get(dialect.name)
    if names is None:
        return _NO_HEADERS
    return {name: request.headers[name] for name in names if name in request.headers}


class Arrival:
    """One accepted request before its body is read: its id and when it came."""

    __slots__ = ("request", "request_id", "started_ns", "started_s")

    def __init__(self, request: web.BaseRequest, request_id: str, started_ns: int, started_s: float) -> None:
        self.request = request
        self.request_id = request_id
        self.started_ns = started_ns
        self.started_s = started_s


class Door:
    """Where requests of tenants come in: the key is looked at before a body is let into memory."""

    def __init__(self, holder: SnapshotHolder, ledger: Ledger, clock: Clock) -> None:
        self._holder = holder
        self._ledger = ledger
        self._clock = clock

    async def receive(
        self,
        arrival: Arrival,
        operation: Operation,
        dialect: CallerDialect,
        path_fields: Mapping[str, Raw] = _NO_FIELDS,
    ) -> Inbound:
        """Step 1 of the road: whose request it is, and its body within its size and time limits. `path_fields`: what
        the path said.

        Raises what presented_key(), identify(), read_body() and steering_of() raise.
        """
        request, snapshot = arrival.request, self._holder.current
        server = snapshot.server
        key = presented_key(request, server.auth_header)
        principal = identify(key, snapshot, self._ledger, self._clock.now_ns())
        is_here = request.content.is_eof()
        body = await read_body(
            request,
            bytes_max=server.body_bytes_max,
            idle_s=server.body_idle_timeout_s,
            total_s=server.body_timeout_s,
            clock=self._clock,
        )
        if not is_here:  # A body takes its time; keys are revoked, and files reloaded, at once.
            snapshot = self._holder.current
            principal = identify(key, snapshot, self._ledger, self._clock.now_ns())
        return Inbound(
            request_id=arrival.request_id,
            operation=operation,
            dialect=dialect,
            snapshot=snapshot,
            principal=principal,
            body=body,
            started_ns=arrival.started_ns,
            started_s=arrival.started_s,
            content_type=request.headers.get("Content-Type", "") if operation is Operation.TRANSCRIPTIONS else "",
            user=_label(request, USER),
            app=_label(request, TITLE) or _label(request, REFERER),
            headers=_forwardable(request, dialect),
            path_fields=path_fields,
            steering=steering_of(request.headers),
        )

    def reader(self, request: web.BaseRequest) -> tuple[Snapshot, Principal | None]:
        """Who reads the list of models; None without a key, where `server.public_models` is on."""
        snapshot = self._holder.current
        key = presented_key(request, snapshot.server.auth_header)
        if key is None and snapshot.server.public_models:
            return snapshot, None
        return snapshot, identify(key, snapshot, self._ledger, self._clock.now_ns())
