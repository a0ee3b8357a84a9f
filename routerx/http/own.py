"""Routes where tenants see how things are for them: /router/*, /auth/status, /auth/metrics, /v1/health/providers."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from routerx import jsonx
from routerx.clock import Clock
from routerx.config.snapshot import Snapshot, SnapshotHolder
from routerx.control.tenant_views import OwnViews
from routerx.domain.tenant import Principal
from routerx.gateway.admit import identify
from routerx.http.admin_kit import read_query
from routerx.http.inbound import Arrival, presented_key
from routerx.ledger.base import Ledger

Handler = Callable[[Arrival], Awaitable[web.StreamResponse]]
Own = Callable[[web.BaseRequest, Snapshot, Principal], Awaitable[object]]


class OwnApi:
    """Handlers that need a tenant's key."""

    def __init__(self, views: OwnViews, holder: SnapshotHolder, ledger: Ledger, clock: Clock) -> None:
        self._views = views
        self._holder = holder
        self._ledger = ledger
        self._clock = clock

    def routes(self) -> dict[str, Handler]:
        """By path; all are GET."""
        return {
            "/v1/key": self._handler(self._key),
            "/v1/health/providers": self._handler(self._providers),
            "/router/health": self._handler(self._health),
            "/router/stats": self._handler(self._stats),
            "/router/rate-limits": self._handler(self._rate_limits),
            "/auth/status": self._handler(self._status),
            "/auth/metrics": self._handler(self._metrics),
        }

    def _handler(self, own: Own) -> Handler:
        async def handle(arrival: Arrival) -> web.StreamResponse:
            snapshot = self._holder.current
            key = presented_key(arrival.request, snapshot.server.auth_header)
            caller = identify(key, snapshot, self._ledger, self._clock.now_ns())
            value = await own(arrival.request, snapshot, caller)
            return web.Response(
                body=jsonx.encode(value),
                content_type="application/json",
                headers={"X-Request-Id": arrival.request_id, "Cache-Control": "no-store"},
            )

        return handle

    async def _key(self, request: web.BaseRequest, snapshot: Snapshot, caller: Principal) -> object:
        return self._views.key(caller)

    async def _providers(self, request: web.BaseRequest, snapshot: Snapshot, caller: Principal) -> object:
        return {"object": "list", "data": self._views.providers(snapshot, caller.tenant)}

    async def _health(self, request: web.BaseRequest, snapshot: Snapshot, caller: Principal) -> object:
        return self._views.health(snapshot, caller.tenant)

    async def _stats(self, request: web.BaseRequest, snapshot: Snapshot, caller: Principal) -> object:
        return await self._views.stats(snapshot, caller.tenant)

    async def _rate_limits(self, request: web.BaseRequest, snapshot: Snapshot, caller: Principal) -> object:
        return self._views.rate_limits(caller)

    async def _status(self, request: web.BaseRequest, snapshot: Snapshot, caller: Principal) -> object:
        return self._views.status(caller)

    async def _metrics(self, request: web.BaseRequest, snapshot: Snapshot, caller: Principal) -> object:
        return await self._views.metrics(caller.tenant, read_query(request, "period").get("period", "day"))
