"""POST /v1/explain for tenants, POST /admin/v1/explain for operators: a request in, its plan out, and nobody called."""

from collections.abc import Callable, Mapping

import msgspec
from aiohttp import web
from multidict import CIMultiDict

from routerx import jsonx
from routerx.clock import Clock
from routerx.config.snapshot import Snapshot, SnapshotHolder
from routerx.control.lookup import require
from routerx.dialects.openai_chat import OPENAI
from routerx.domain.call import Operation
from routerx.domain.explanation import Explanation
from routerx.domain.tenant import Principal
from routerx.errors import InvalidParameter
from routerx.gateway.context import Inbound
from routerx.gateway.explain import Explainer
from routerx.gateway.wishes import steering_of
from routerx.http.admin_kit import Authorize, guarded, read_body
from routerx.http.calls import CALLS, CHAT_PATH, call_at
from routerx.http.inbound import Arrival, Door
from routerx.ids import new_request_id
from routerx.secrets import Secret

ADMIN_PATH = "/admin/v1/explain"
PATH = "/v1/explain"


OwnKeys = Callable[[str], Mapping[str, Secret | None]]
"""A tenant's stored provider keys, by provider, as Ledger.own_keys has them."""


class _Wrapped(msgspec.Struct, forbid_unknown_fields=True):
    """A request of another route than chat completions."""

    request: dict[str, msgspec.Raw]
    route: str = CHAT_PATH


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What an operator asks."""

    request: dict[str, msgspec.Raw]
    """The body."""
    route: str = CHAT_PATH
    tenant: str | None = None
    """As whom; None: as the first tenant."""
    headers: dict[str, str] = {}
    """Of RouterX's own."""
    prompt_tokens: int | None = None
    """How long the prompt is to be taken for."""


class ExplainApi:
    """The tenants' handler."""

    def __init__(self, explainer: Explainer, door: Door) -> None:
        self._explainer = explainer
        self._door = door

    async def handle(self, arrival: Arrival) -> web.StreamResponse:
        """The body is what would be sent to chat completions, or `{"route": …, "request": {…}}`."""
        inbound = await self._door.receive(arrival, Operation.CHAT, OPENAI)
        route = CHAT_PATH
        if "request" in jsonx.request_object(inbound.body):
            wrapped = _unwrapped(inbound.body)
            route = wrapped.route
            inbound = _sent_to(inbound, route, wrapped.request)
        return web.Response(
            body=jsonx.encode(self._explainer.explain(inbound, route)),
            content_type="application/json",
            headers={"X-Request-Id": arrival.request_id, "Cache-Control": "no-store"},
        )


def explain_route(
    explainer: Explainer, holder: SnapshotHolder, clock: Clock, authorize: Authorize, own_keys: OwnKeys
) -> web.RouteDef:
    """The operators' route."""

    async def answer(request: web.Request, actor: str) -> object:
        return answer_operator(explainer, holder.current, clock, await read_body(request, Question), own_keys)

    return web.post(ADMIN_PATH, guarded(clock, authorize, answer))


def answer_operator(
    explainer: Explainer, snapshot: Snapshot, clock: Clock, asked: Question, own_keys: OwnKeys
) -> Explanation:
    """An explanation with all that operators may know. Raises NotFound and InvalidParameter."""
    name = asked.tenant if asked.tenant is not None else next(iter(snapshot.tenants))
    require(name, snapshot.tenants, "tenant")
    if asked.prompt_tokens is not None and asked.prompt_tokens < 0:
        raise InvalidParameter("prompt_tokens must not be negative.", param="prompt_tokens")
    now_ns = clock.now_ns()
    inbound = Inbound(
        request_id=new_request_id(now_ns),
        operation=Operation.CHAT,
        dialect=OPENAI,
        snapshot=snapshot,
        principal=Principal(snapshot.tenants[name], "explain", own_keys=own_keys(name)),
        body=b"{}",
        started_ns=now_ns,
        started_s=clock.monotonic_s(),
        steering=steering_of(CIMultiDict(asked.headers)),
    )
    inbound = _sent_to(inbound, asked.route, asked.request)
    return explainer.explain(inbound, asked.route, for_operator=True, prompt_tokens=asked.prompt_tokens)


def _unwrapped(body: bytes) -> _Wrapped:
    try:
        return msgspec.json.decode(body, type=_Wrapped)
    except msgspec.ValidationError as error:
        raise InvalidParameter(f"{error}.", param="request") from None


def _sent_to(inbound: Inbound, route: str, request: Mapping[str, msgspec.Raw]) -> Inbound:
    """The request as that route would get it."""
    call = call_at(route)
    if call is None:
        known = ", ".join(CALLS)
        raise InvalidParameter(
            f"There is no route {route[:128]!r} that asks a model; use one of {known}.", param="route"
        )
    operation, dialect, path_fields = call
    return msgspec.structs.replace(
        inbound, operation=operation, dialect=dialect, body=jsonx.encode(request), path_fields=path_fields
    )
