"""Routes for operators and machines: /, /health, /readyz and /backend/info, open to anyone, without secrets, paths or
tenants; and /metrics, which names tenants and what they spend, for this machine and for who has an admin key."""

import ipaddress

from aiohttp import web

from routerx import __version__, jsonx
from routerx.config.snapshot import SnapshotHolder
from routerx.control.vitals import Vitals
from routerx.dialects.anthropic import ANTHROPIC
from routerx.dialects.gemini import GEMINI
from routerx.dialects.openai_chat import OPENAI
from routerx.dialects.responses import RESPONSES
from routerx.domain.call import Operation
from routerx.domain.model import Capability
from routerx.http.admin_app import admin_actor
from routerx.http.inbound import Arrival
from routerx.telemetry.metrics import CONTENT_TYPE

CALLER_DIALECTS = (OPENAI, RESPONSES, ANTHROPIC, GEMINI)


class OpsApi:
    """Handlers of the open routes. They only read; nothing here can fail a request elsewhere."""

    def __init__(self, vitals: Vitals, holder: SnapshotHolder) -> None:
        self._vitals = vitals
        self._holder = holder

    async def root(self, arrival: Arrival) -> web.StreamResponse:
        return self._json(arrival, {"name": "routerx", "version": __version__, "docs": "/health, /metrics, /v1/models"})

    async def info(self, arrival: Arrival) -> web.StreamResponse:
        """What this gateway is and can, for clients that ask before they call."""
        return self._json(
            arrival,
            {
                "name": "routerx",
                "version": __version__,
                "dialects": [dialect.name for dialect in CALLER_DIALECTS],
                "operations": [operation.value for operation in Operation],
                "capabilities": [capability.value for capability in Capability],
            },
        )

    async def health(self, arrival: Arrival) -> web.StreamResponse:
        """200 while the process is alive; the body says how well. For humans and dashboards."""
        return self._json(arrival, self._vitals.health())

    async def ready(self, arrival: Arrival) -> web.StreamResponse:
        """200 when new requests are welcome, else 503. For balancers."""
        reason = self._vitals.unready()
        return self._json(arrival, {"ready": reason is None, "reason": reason}, status=200 if reason is None else 503)

    async def metrics(self, arrival: Arrival) -> web.StreamResponse:
        """Prometheus text. Raises InvalidApiKey where a caller from elsewhere brings no admin key."""
        server = self._holder.current.server
        if not (server.public_metrics or _from_this_machine(arrival.request)):
            admin_actor(arrival.request, server.admin_key_digests)
        return web.Response(
            body=self._vitals.metrics(),
            headers={
                "Content-Type": CONTENT_TYPE,
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


def _from_this_machine(request: web.BaseRequest) -> bool:
    """By the socket's own address, never by a header."""
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    if not isinstance(peer, tuple):
        return request.transport is not None  # A Unix socket.
    address = ipaddress.ip_address(peer[0].partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped if mapped is not None else address).is_loopback
