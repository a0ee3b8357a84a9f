"""The admin API, /admin/v1/…: Operations over HTTP, JSON in and out, one error shape. docs/admin-api.md lists them.

Every route is behind `authorize`, which turns a request into the actor's name. Reached by the Unix socket in data_dir
or, with an admin key, over TCP. It knows nothing of tenants' keys.
"""

import logging
from contextlib import aclosing

import msgspec
from aiohttp import web

from routerx import jsonx
from routerx.control.operations import Operations
from routerx.control.values import ModelQuery, NewTenant, TenantLimitsChange
from routerx.http.admin_kit import Answer, Authorize, Nothing, guarded, read_body, read_flag, read_number, read_query
from routerx.ledger.base import LogQuery

log = logging.getLogger("routerx.http.admin")

PREFIX = "/admin/v1"


class TopUp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    amount: str
    reference: str | None = None
    note: str | None = None


class Adjustment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    amount: str
    note: str | None = None


class Suspension(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    reason: str | None = None
    hard: bool = False


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
        ("PATCH", "/tenants/{tenant}/limits", admin.limit_tenant),
        ("GET", "/tenants/{tenant}/history", admin.history),
        ("GET", "/models", admin.models),
        ("GET", "/models/{model:.+}", admin.model),
        ("GET", "/logs", admin.logs),
        ("GET", "/logs/stream", admin.stream),
        ("GET", "/logs/{request}", admin.log),
        ("GET", "/ledger/verify", admin.verify),
    )
    return [
        web.route(method, PREFIX + path, guarded(operations.clock, authorize, answer)) for method, path, answer in table
    ]


class _Admin:
    """The routes' own parts, each a few lines: read the input, call the operation."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def status(self, request: web.Request, actor: str) -> object:
        return await self._operations.status()

    async def tenants(self, request: web.Request, actor: str) -> object:
        return {"data": await self._operations.tenants()}

    async def create_tenant(self, request: web.Request, actor: str) -> object:
        return await self._operations.create_tenant(await read_body(request, NewTenant), actor=actor)

    async def tenant(self, request: web.Request, actor: str) -> object:
        return await self._operations.tenant(request.match_info["tenant"])

    async def top_up(self, request: web.Request, actor: str) -> object:
        body = await read_body(request, TopUp)
        return await self._operations.top_up(
            request.match_info["tenant"], body.amount, reference=body.reference, note=body.note, actor=actor
        )

    async def adjust(self, request: web.Request, actor: str) -> object:
        body = await read_body(request, Adjustment)
        return await self._operations.adjust(request.match_info["tenant"], body.amount, note=body.note, actor=actor)

    async def suspend(self, request: web.Request, actor: str) -> object:
        body = await read_body(request, Suspension)
        return await self._operations.suspend(
            request.match_info["tenant"], reason=body.reason, hard=body.hard, actor=actor
        )

    async def unsuspend(self, request: web.Request, actor: str) -> object:
        await read_body(request, Nothing)
        return await self._operations.unsuspend(request.match_info["tenant"], actor=actor)

    async def limit_tenant(self, request: web.Request, actor: str) -> object:
        change = await read_body(request, TenantLimitsChange)
        return await self._operations.limit_tenant(request.match_info["tenant"], change, actor=actor)

    async def history(self, request: web.Request, actor: str) -> object:
        limit = read_number(read_query(request, "limit"), "limit", 50)
        return {"data": await self._operations.history(request.match_info["tenant"], limit)}

    async def models(self, request: web.Request, actor: str) -> object:
        values = read_query(request, "provider", "kind", "search", "capability", "everywhere")
        query = ModelQuery(
            provider=values.get("provider"),
            kind=values.get("kind"),
            search=values.get("search"),
            capability=values.get("capability"),
            everywhere=read_flag(values, "everywhere"),
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


def _log_query(request: web.Request) -> LogQuery:
    values = read_query(request, "tenant", "model", "outcome", "after", "limit")
    return LogQuery(
        tenant=values.get("tenant"),
        model=values.get("model"),
        outcome=values.get("outcome"),
        after_id=values.get("after"),
        limit=read_number(values, "limit", 50),
    )
