"""The admin API, /admin/v1/…: Operations over HTTP, JSON in and out, one error shape. docs/admin-api.md lists them.

Every route is behind `authorize`, which turns a request into the actor's name. Reached by the Unix socket in data_dir
or, with an admin key, over TCP. It knows nothing of tenants' keys.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

import msgspec
from aiohttp import web

from routerx import jsonx
from routerx.control.operations import Operations
from routerx.control.values import ModelQuery, NewTenant
from routerx.errors import InternalError, InvalidJson, InvalidParameter, RequestTimeout, RequestTooLarge, RouterXError
from routerx.ids import new_request_id
from routerx.ledger.base import LogQuery

log = logging.getLogger("routerx.http.admin")

PREFIX = "/admin/v1"
BODY_BYTES_MAX = 64 * 1024
BODY_TIMEOUT_S = 10.0

T = TypeVar("T")
Authorize = Callable[[web.Request], str]
Answer = Callable[[web.Request, str], Awaitable[object]]
"""A route's own part: the request and the actor in, a value to encode out (or a response already under way)."""


class TopUp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    amount: str
    reference: str | None = None
    note: str | None = None


class Adjustment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    amount: str
    note: str | None = None


class Suspension(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    reason: str | None = None


class NewKeyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tenant: str
    label: str | None = None


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An empty body."""


def admin_routes(operations: Operations, authorize: Authorize) -> list[web.RouteDef]:
    """All routes. `authorize` returns the actor's name or raises InvalidApiKey; it runs before anything is read."""
    admin = _Admin(operations)
    table: tuple[tuple[str, str, Answer], ...] = (
        ("GET", "/status", admin.status),
        ("GET", "/tenants", admin.tenants),
        ("POST", "/tenants", admin.create_tenant),
        ("GET", "/tenants/{tenant}", admin.tenant),
        ("POST", "/tenants/{tenant}/topup", admin.top_up),
        ("POST", "/tenants/{tenant}/adjust", admin.adjust),
        ("POST", "/tenants/{tenant}/suspend", admin.suspend),
        ("POST", "/tenants/{tenant}/unsuspend", admin.unsuspend),
        ("GET", "/keys", admin.keys),
        ("POST", "/keys", admin.create_key),
        ("POST", "/keys/{key}/revoke", admin.revoke_key),
        ("GET", "/models", admin.models),
        ("GET", "/models/{model:.+}", admin.model),
        ("GET", "/logs", admin.logs),
        ("GET", "/logs/stream", admin.stream),
        ("GET", "/logs/{request}", admin.log),
        ("GET", "/ledger/verify", admin.verify),
    )
    return [web.route(method, PREFIX + path, _guarded(operations, authorize, answer)) for method, path, answer in table]


def _guarded(
    operations: Operations, authorize: Authorize, answer: Answer
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """A request root: authorise, answer, turn every error into the one shape."""

    async def handle(request: web.Request) -> web.StreamResponse:
        request_id = new_request_id(operations.clock.now_ns())
        try:
            value = await answer(request, authorize(request))
        except RouterXError as error:
            return _error(error, request_id)
        except Exception:
            log.exception("admin request %s failed: %s %s", request_id, request.method, request.path)
            return _error(InternalError("This is a fault of RouterX; its log says more."), request_id)
        if isinstance(value, web.StreamResponse):
            return value
        return _json(jsonx.encode(value), 200, request_id)

    return handle


def _json(body: bytes, status: int, request_id: str) -> web.Response:
    headers = {"X-Request-Id": request_id, "Cache-Control": "no-store"}
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)


def _error(error: RouterXError, request_id: str) -> web.Response:
    body = {
        **error.details,
        "message": error.message,
        "type": error.type,
        "code": error.code,
        "param": error.param,
        "request_id": request_id,
    }
    response = _json(jsonx.encode({"error": body}), error.status, request_id)
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, -int(-error.retry_after_s // 1)))
    return response


class _Admin:
    """The routes' own parts, each a few lines: read the input, call the operation."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def status(self, request: web.Request, actor: str) -> object:
        return await self._operations.status()

    async def tenants(self, request: web.Request, actor: str) -> object:
        return {"data": await self._operations.tenants()}

    async def create_tenant(self, request: web.Request, actor: str) -> object:
        return await self._operations.create_tenant(await _body(request, NewTenant), actor=actor)

    async def tenant(self, request: web.Request, actor: str) -> object:
        return await self._operations.tenant(request.match_info["tenant"])

    async def top_up(self, request: web.Request, actor: str) -> object:
        body = await _body(request, TopUp)
        return await self._operations.top_up(
            request.match_info["tenant"], body.amount, reference=body.reference, note=body.note, actor=actor
        )

    async def adjust(self, request: web.Request, actor: str) -> object:
        body = await _body(request, Adjustment)
        return await self._operations.adjust(request.match_info["tenant"], body.amount, note=body.note, actor=actor)

    async def suspend(self, request: web.Request, actor: str) -> object:
        body = await _body(request, Suspension)
        return await self._operations.suspend(request.match_info["tenant"], reason=body.reason, actor=actor)

    async def unsuspend(self, request: web.Request, actor: str) -> object:
        await _body(request, Nothing)
        return await self._operations.unsuspend(request.match_info["tenant"], actor=actor)

    async def keys(self, request: web.Request, actor: str) -> object:
        return {"data": await self._operations.keys(_query(request, "tenant").get("tenant"))}

    async def create_key(self, request: web.Request, actor: str) -> object:
        body = await _body(request, NewKeyRequest)
        return await self._operations.create_key(body.tenant, body.label, actor=actor)

    async def revoke_key(self, request: web.Request, actor: str) -> object:
        await _body(request, Nothing)
        return await self._operations.revoke_key(request.match_info["key"], actor=actor)

    async def models(self, request: web.Request, actor: str) -> object:
        values = _query(request, "provider", "kind", "search", "capability", "everywhere")
        query = ModelQuery(
            provider=values.get("provider"),
            kind=values.get("kind"),
            search=values.get("search"),
            capability=values.get("capability"),
            everywhere=_flag(values, "everywhere"),
        )
        return {"data": await self._operations.models(query)}

    async def model(self, request: web.Request, actor: str) -> object:
        return await self._operations.model(request.match_info["model"])

    async def logs(self, request: web.Request, actor: str) -> object:
        return {"data": await self._operations.logs(_log_query(request))}

    async def log(self, request: web.Request, actor: str) -> object:
        return await self._operations.log(request.match_info["request"])

    async def verify(self, request: web.Request, actor: str) -> object:
        return await self._operations.verify()

    async def stream(self, request: web.Request, actor: str) -> web.StreamResponse:
        """Log lines as NDJSON until the client leaves or the server drains."""
        async with aclosing(self._operations.follow(_log_query(request))) as lines:
            response = web.StreamResponse(headers={"Cache-Control": "no-store", "Content-Type": "application/x-ndjson"})
            await response.prepare(request)
            try:
                async for line in lines:
                    await response.write(jsonx.encode(line) + b"\n")
                await response.write_eof()
            except ConnectionError:
                log.debug("a follower of the request log has left")
            return response


async def _body(request: web.Request, shape: type[T]) -> T:
    """The JSON body as `shape`, whatever the content type says; an empty body is an empty object."""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            body = bytearray()
            while chunk := await request.content.readany():
                body += chunk
                if len(body) > BODY_BYTES_MAX:
                    raise RequestTooLarge(f"The body is over the admin API's limit of {BODY_BYTES_MAX} bytes.")
    except TimeoutError:
        raise RequestTimeout(f"The body was not here after {BODY_TIMEOUT_S:g} s.") from None
    try:
        return msgspec.json.decode(bytes(body) or b"{}", type=shape)
    except msgspec.ValidationError as error:
        raise InvalidParameter(f"{error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidJson(f"The body is not a JSON object: {error}.") from None


def _query(request: web.Request, *names: str) -> dict[str, str]:
    """The query's parameters; an unknown, repeated or empty one is refused rather than ignored."""
    values: dict[str, str] = {}
    for name, value in request.query.items():
        if name not in names:
            raise InvalidParameter(f"There is no parameter {name!r} here; known: {', '.join(names)}.", param=name)
        if name in values or not value:
            raise InvalidParameter(f"{name} is to be given once, with a value.", param=name)
        values[name] = value
    return values


def _flag(values: dict[str, str], name: str) -> bool:
    if values.get(name) not in (None, "true", "false"):
        raise InvalidParameter(f"{name} must be true or false, not {values[name]!r}.", param=name)
    return values.get(name) == "true"


def _log_query(request: web.Request) -> LogQuery:
    values = _query(request, "tenant", "model", "outcome", "after", "limit")
    limit = values.get("limit", "50")
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 9):
        raise InvalidParameter(f"limit must be a whole number, not {limit!r}.", param="limit")
    return LogQuery(
        tenant=values.get("tenant"),
        model=values.get("model"),
        outcome=values.get("outcome"),
        after_id=values.get("after"),
        limit=int(limit),
    )
