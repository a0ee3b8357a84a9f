"""The admin API's routes for keys of tenants, over KeyOperations."""

from aiohttp import web

from routerx.clock import Clock
from routerx.control.key_values import KeyTermsChange, NewKeyOrder
from routerx.control.keys import KeyOperations
from routerx.http.admin_kit import Answer, Authorize, Nothing, guarded, read_body, read_query

KEYS = "/admin/v1/keys"


def key_routes(keys: KeyOperations, clock: Clock, authorize: Authorize) -> list[web.RouteDef]:
    """All routes; `authorize` as in http/admin.py."""
    desk = _KeyDesk(keys)
    table: tuple[tuple[str, str, Answer], ...] = (
        ("GET", "", desk.every),
        ("POST", "", desk.create),
        ("GET", "/{key}", desk.one),
        ("PATCH", "/{key}", desk.limit),
        ("POST", "/{key}/revoke", desk.revoke),
    )
    return [web.route(method, KEYS + path, guarded(clock, authorize, answer)) for method, path, answer in table]


class _KeyDesk:
    """Read the input, call the operation."""

    def __init__(self, keys: KeyOperations) -> None:
        self._keys = keys

    async def every(self, request: web.Request, actor: str) -> object:
        return {"data": await self._keys.every(read_query(request, "tenant").get("tenant"))}

    async def create(self, request: web.Request, actor: str) -> object:
        return await self._keys.create(await read_body(request, NewKeyOrder), actor=actor)

    async def one(self, request: web.Request, actor: str) -> object:
        return await self._keys.one(request.match_info["key"])

    async def limit(self, request: web.Request, actor: str) -> object:
        change = await read_body(request, KeyTermsChange)
        return await self._keys.limit(request.match_info["key"], change, actor=actor)

    async def revoke(self, request: web.Request, actor: str) -> object:
        await read_body(request, Nothing)
        return await self._keys.revoke(request.match_info["key"], actor=actor)
