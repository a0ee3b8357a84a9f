"""The request root of the public port: one dictionary look-up to the handler, one place where errors become responses.

A plain dispatcher instead of web.Application: the tenant routes are a handful of fixed paths, and nothing that a
request does not need should stand in its way.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping

import msgspec
from aiohttp import web

from routerx.clock import Clock
from routerx.config.snapshot import SnapshotHolder
from routerx.control.vitals import Vitals
from routerx.dialects.anthropic import ANTHROPIC
from routerx.dialects.base import CallerDialect
from routerx.dialects.gemini import GEMINI
from routerx.dialects.openai_chat import OPENAI
from routerx.errors import InternalError, MethodNotAllowed, NotFound, RouterXError, ShuttingDown
from routerx.http import explain
from routerx.http.admin_app import AdminApp
from routerx.http.calls import CALLS, GENERATE_PATHS, MESSAGES_PATH
from routerx.http.explain import ExplainApi
from routerx.http.faults import error_response
from routerx.http.inbound import Arrival
from routerx.http.ops import OpsApi
from routerx.http.own import OwnApi
from routerx.http.tenant import TenantApi
from routerx.ids import new_request_id

log = logging.getLogger("routerx.http")

Handler = Callable[[Arrival], Awaitable[web.StreamResponse]]

MODEL_PATH = "/v1/models/"
ADMIN_PATHS = ("/admin/", "/v1/admin/", "/v1/stats/", "/auth/reload-keys")
NOT_OFFERED = ("/v1/batches", "/v1/realtime")


class Apis(msgspec.Struct, frozen=True):
    """What the public port offers."""

    tenant: TenantApi
    own: OwnApi
    explain: ExplainApi
    admin: AdminApp
    vitals: Vitals
    holder: SnapshotHolder


class App:
    """Dispatches requests of the public port."""

    def __init__(self, apis: "Apis", clock: Clock) -> None:
        self._tenant_api = tenant_api = apis.tenant
        self._admin = apis.admin
        self._vitals = apis.vitals
        self._clock = clock
        ops = OpsApi(apis.vitals, apis.holder)
        probes = {
            "/": ops.root,
            "/health": ops.health,
            "/readyz": ops.ready,
            "/metrics": ops.metrics,
            "/backend/info": ops.info,
        }
        self._routes: Mapping[tuple[str, str], Handler] = {
            **{("POST", path): tenant_api.calls(*what) for path, what in CALLS.items()},
            ("POST", MESSAGES_PATH + "/count_tokens"): tenant_api.count_tokens,
            ("POST", explain.PATH): apis.explain.handle,
            ("GET", "/v1/models"): tenant_api.models,
            **{("GET", path): handler for path, handler in apis.own.routes().items()},
            # Balancers and monitors like to ask for the head alone; aiohttp leaves the body out.
            **{(method, path): handler for path, handler in probes.items() for method in ("GET", "HEAD")},
        }

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """The request root. Every response carries X-Request-Id; no caller sees a traceback."""
        started_ns = self._clock.now_ns()
        arrival = Arrival(request, new_request_id(started_ns), started_ns, self._clock.monotonic_s())
        try:
            return await self._dispatch(arrival)
        except RouterXError as error:
            return error_response(error, _spoken_at(request.path), arrival.request_id)
        except ConnectionError:
            raise
        except Exception:
            log.exception("request %s failed", arrival.request_id)
            if request.transport is None or request.transport.is_closing():
                raise
            ours = InternalError("Something went wrong in this gateway; its log has the details under the request id.")
            return error_response(ours, _spoken_at(request.path), arrival.request_id)

    def _dispatch(self, arrival: Arrival) -> Awaitable[web.StreamResponse]:
        """The answer in the making. Not a coroutine itself: each one that waits is gone through whenever it wakes."""
        request = arrival.request
        method, path = request.method, request.raw_path.partition("?")[0]
        if not path.startswith("/"):  # RFC 9112, 3.2.2: a whole URL as the target; only its path matters here.
            path = request.path
        handler = self._routes.get((method, path))
        if self._vitals.draining and path.startswith(("/v1/", "/v1beta/")):
            raise ShuttingDown("The gateway is shutting down. Send the request again.", retry_after_s=1)
        if handler is not None:
            return handler(arrival)
        if path.startswith(ADMIN_PATHS):
            return self._admin.handle(request)
        if path.startswith(MODEL_PATH) and method == "GET":
            return self._tenant_api.model(arrival, request.path[len(MODEL_PATH) :])
        if path.startswith(GENERATE_PATHS) and ":" in path and method == "POST":
            return self._tenant_api.generate_content(arrival, request.path.split("/models/", 1)[1])
        raise self._no_route(method, path)

    def _no_route(self, method: str, path: str) -> RouterXError:
        allowed = sorted(verb for verb, known in self._routes if known == path)
        if allowed:
            return MethodNotAllowed(f"{method} is not possible on {path}; use {', '.join(allowed)}.")
        if path.startswith(NOT_OFFERED):
            return NotFound(f"{path} is not offered by this gateway.")
        return NotFound(f"There is no route {method} {path[:128]!r}. The API is under /v1/.")


def _spoken_at(path: str) -> CallerDialect:
    """In whose shape errors are told there."""
    if path.startswith(MESSAGES_PATH):
        return ANTHROPIC
    return GEMINI if path.startswith(GENERATE_PATHS) and ":" in path else OPENAI
