"""The admin API's routes for provider keys that are tenants' own, over OwnKeyOperations."""

from aiohttp import web

from routerx.clock import Clock
from routerx.control.own_key_values import NewOwnKey
from routerx.control.own_keys import OwnKeyOperations
from routerx.http.admin_kit import Answer, Authorize, guarded, read_body, read_query

OWN_KEYS = "/admin/v1/tenants/{tenant}/byok"


def own_key_routes(keys: OwnKeyOperations, clock: Clock, authorize: Authorize) -> list[web.RouteDef]:
    """All routes; `authorize` as in http/admin.py."""
    desk = _OwnKeyDesk(keys)
    table: tuple[tuple[str, str, Answer], ...] = (
        ("GET", "", desk.every),
        ("PUT", "/{provider}", desk.put),
        ("DELETE", "/{provider}", desk.remove),
    )
    return [web.route(method, OWN_KEYS + path, guarded(clock, authorize, answer)) for method, path, answer in table]


class _OwnKeyDesk:
    """Read the input, call the operation."""

    def __init__(self, keys: OwnKeyOperations) -> None:
        self._keys = keys

    async def every(self, request: web.Request, actor: str) -> object:
        read_query(request)
        return {"data": await self._keys.every(request.match_info["tenant"])}

    async def put(self, request: web.Request, actor: str) -> object:
        new = await read_body(request, NewOwnKey)
        return await self._keys.put(request.match_info["tenant"], request.match_info["provider"], new, actor=actor)

    async def remove(self, request: web.Request, actor: str) -> object:
        reason = read_query(request, "reason").get("reason")
        place = request.match_info
        return await self._keys.remove(place["tenant"], place["provider"], reason=reason, actor=actor)
