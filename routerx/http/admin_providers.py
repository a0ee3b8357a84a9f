"""Routes of the admin API about providers, their keys and what was done with them. docs/admin-api.md lists them.

The keys of providers are under /v1/admin/keys and the figures under /v1/stats, where users of earlier gateways look for
them; the keys of tenants are under /admin/v1/keys.
"""

import msgspec
from aiohttp import web

from routerx.clock import Clock
from routerx.control.provider_values import KeyChange, NewProviderKey
from routerx.control.providers import ProviderOperations
from routerx.control.reports import Reports
from routerx.http.admin_kit import Answer, Authorize, Nothing, guarded, read_body, read_number, read_query

WINDOW_MINUTES = 60
STEP_SECONDS = 60


class ProviderDesk(msgspec.Struct, frozen=True):
    """What these routes ask."""

    providers: ProviderOperations
    reports: Reports
    clock: Clock


def provider_routes(desk: ProviderDesk, authorize: Authorize) -> list[web.RouteDef]:
    """All routes; see admin_routes()."""
    admin = _Providers(desk)
    table: tuple[tuple[str, str, Answer], ...] = (
        ("GET", "/admin/v1/providers", admin.providers),
        ("GET", "/admin/v1/providers/{provider}", admin.provider),
        ("POST", "/admin/v1/providers/{provider}/test", admin.test),
        ("POST", "/admin/v1/providers/{provider}/enable", admin.enable),
        ("POST", "/admin/v1/providers/{provider}/disable", admin.disable),
        ("GET", "/v1/admin/keys", admin.keys),
        ("POST", "/v1/admin/keys", admin.add_key),
        ("PATCH", "/v1/admin/keys/{key}", admin.change_key),
        ("DELETE", "/v1/admin/keys/{key}", admin.remove_key),
        ("POST", "/v1/admin/keys/{key}/clear", admin.clear_key),
        ("GET", "/v1/stats/providers", admin.provider_stats),
        ("GET", "/v1/stats/providers/tokens", admin.tokens),
        ("GET", "/v1/stats/keys", admin.keys),
        ("GET", "/v1/stats/keys/{key}/timeseries", admin.key_series),
        ("GET", "/v1/stats/debug/key/{key}", admin.key_debug),
        ("POST", "/auth/reload-keys", admin.reload),
    )
    return [web.route(method, path, guarded(desk.clock, authorize, answer)) for method, path, answer in table]


class _Providers:
    """The routes' own parts."""

    def __init__(self, desk: ProviderDesk) -> None:
        self._providers = desk.providers
        self._reports = desk.reports

    async def providers(self, request: web.Request, actor: str) -> object:
        read_query(request)
        return {"data": await self._providers.providers()}

    async def provider(self, request: web.Request, actor: str) -> object:
        return await self._providers.provider(request.match_info["provider"])

    async def test(self, request: web.Request, actor: str) -> object:
        await read_body(request, Nothing)
        return await self._providers.test(request.match_info["provider"])

    async def enable(self, request: web.Request, actor: str) -> object:
        await read_body(request, Nothing)
        return await self._providers.switch(request.match_info["provider"], enabled=True)

    async def disable(self, request: web.Request, actor: str) -> object:
        await read_body(request, Nothing)
        return await self._providers.switch(request.match_info["provider"], enabled=False)

    async def keys(self, request: web.Request, actor: str) -> object:
        return {"data": await self._providers.keys(read_query(request, "provider").get("provider"))}

    async def add_key(self, request: web.Request, actor: str) -> object:
        return await self._providers.add_key(await read_body(request, NewProviderKey))

    async def change_key(self, request: web.Request, actor: str) -> object:
        return await self._providers.change_key(request.match_info["key"], await read_body(request, KeyChange))

    async def remove_key(self, request: web.Request, actor: str) -> object:
        return await self._providers.remove_key(request.match_info["key"])

    async def clear_key(self, request: web.Request, actor: str) -> object:
        await read_body(request, Nothing)
        return await self._providers.clear_key(request.match_info["key"])

    async def provider_stats(self, request: web.Request, actor: str) -> object:
        read_query(request)
        return {"data": await self._providers.provider_stats()}

    async def tokens(self, request: web.Request, actor: str) -> object:
        values = read_query(request, "period", "tenant")
        return await self._reports.tokens(values.get("period", "day"), values.get("tenant"))

    async def key_series(self, request: web.Request, actor: str) -> object:
        values = read_query(request, "window_minutes", "step_seconds")
        return await self._providers.key_series(
            request.match_info["key"],
            read_number(values, "window_minutes", WINDOW_MINUTES),
            read_number(values, "step_seconds", STEP_SECONDS),
        )

    async def key_debug(self, request: web.Request, actor: str) -> object:
        return await self._providers.key_debug(request.match_info["key"])

    async def reload(self, request: web.Request, actor: str) -> object:
        await read_body(request, Nothing)
        return await self._providers.reload()
