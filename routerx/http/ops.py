"""Routes for operators and machines: /, /health, /readyz, /metrics. Open, and without secrets, paths or tenants."""

from aiohttp import web

from routerx import __version__, jsonx
from routerx.control.vitals import Vitals
from routerx.http.inbound import Arrival


class OpsApi:
    """Handlers of the open routes. They only read; nothing here can fail a request elsewhere."""

    def __init__(self, vitals: Vitals) -> None:
        self._vitals = vitals

    async def root(self, arrival: Arrival) -> web.StreamResponse:
        return self._json(arrival, {"name": "routerx", "version": __version__, "docs": "/health, /metrics, /v1/models"})

    async def health(self, arrival: Arrival) -> web.StreamResponse:
        """200 while the process is alive; the body says how well. For humans and dashboards."""
        return self._json(arrival, self._vitals.health())

    async def ready(self, arrival: Arrival) -> web.StreamResponse:
        """200 when new requests are welcome, else 503. For balancers."""
        reason = self._vitals.unready()
        return self._json(arrival, {"ready": reason is None, "reason": reason}, status=200 if reason is None else 503)

    async def metrics(self, arrival: Arrival) -> web.StreamResponse:
        return web.Response(
            body=self._vitals.metrics(),
            headers={
                "Content-Type": "text/plain; version=0.0.4; charset=utf-8",
                "X-Request-Id": arrival.request_id,
            },
        )

    def _json(self, arrival: Arrival, value: object, *, status: int = 200) -> web.Response:
        return web.Response(
            status=status,
            body=jsonx.encode(value),
            content_type="application/json",
            headers={"X-Request-Id": arrival.request_id, "Cache-Control": "no-store"},
        )
