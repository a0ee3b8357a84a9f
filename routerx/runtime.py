"""Where the parts are wired together, started in order and stopped in reverse. The only module that knows them all."""

import asyncio
import gc
import logging
import os
import random
import signal
import sys
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from types import MappingProxyType

import msgspec
import uvloop
from aiohttp import web

from routerx import __version__
from routerx.clock import Clock, SystemClock
from routerx.config.load import Loader
from routerx.config.settings import Flags, config_path, read_environment
from routerx.config.snapshot import ServerConfig, Snapshot, SnapshotHolder
from routerx.config.watch import ConfigWatcher
from routerx.control.books import BookOperations
from routerx.control.checks import CheckParts, HealthChecks
from routerx.control.configuration import LiveConfiguration
from routerx.control.operations import Operations
from routerx.control.provider_files import ProviderFiles
from routerx.control.providers import ProviderOperations, ProviderParts
from routerx.control.reports import Reports
from routerx.control.tenant_views import OwnSources, OwnViews
from routerx.control.vitals import Vitals
from routerx.domain.record import RequestRecord
from routerx.errors import OperatorError
from routerx.gateway.attempt import AttemptLoop
from routerx.gateway.cache import ResponseCache
from routerx.gateway.explain import Explainer
from routerx.gateway.idempotency import Idempotency
from routerx.gateway.pipeline import Gateway, GatewayParts
from routerx.gateway.settle import Settler
from routerx.gateway.translation import Translator
from routerx.http.admin import admin_routes
from routerx.http.admin_app import AdminApp, admin_actor
from routerx.http.admin_books import book_routes
from routerx.http.admin_keys import key_routes
from routerx.http.admin_own_keys import own_key_routes
from routerx.http.admin_providers import ProviderDesk, provider_routes
from routerx.http.app import Apis, App
from routerx.http.edge import EdgeServer
from routerx.http.edge_limits import EdgeLimits
from routerx.http.explain import ExplainApi, explain_route
from routerx.http.inbound import Door
from routerx.http.own import OwnApi
from routerx.http.tenant import TenantApi
from routerx.keyring import Keyring
from routerx.ledger.beside.answers import AnswerStore
from routerx.ledger.beside.sidefile import remove_side_file
from routerx.ledger.beside.uses import UseIndex
from routerx.ledger.lock import DataDirLock
from routerx.ledger.opening import LedgerOptions
from routerx.ledger.sqlite import SqliteLedger, open_ledger
from routerx.limits.memory import MemoryLimiter
from routerx.routing.state import RoutingState
from routerx.secrets import Secret
from routerx.tasks import TaskSet
from routerx.telemetry.logs import Logs, configure_logging
from routerx.telemetry.metrics import LoopLag, Metrics, Reading
from routerx.upstream.egress import Egress
from routerx.upstream.pool import TransportPool

log = logging.getLogger("routerx")

ADMIN_SOCKET = "admin.sock"
IDEMPOTENCY_FILE = "idempotency.db"
ANSWERS_FILE = "answers.db"
BACKLOG = 1024
GC_THRESHOLDS = (20_000, 20, 50)
"""Requests leave next to no cycles behind; the defaults would have the collector look for some every other request."""
DRAIN_POLL_S = 0.02
FORCED_DRAIN_S = 1.0
"""After a second SIGTERM."""


class ServeOptions(msgspec.Struct, frozen=True):
    """What the server is started with."""

    config: str | None = None
    """`-c`; None: as config_path() finds it."""
    flags: Flags = Flags()
    environ: Mapping[str, str] = MappingProxyType({})
    folder: str = "."
    """Where `.env` and `routerx.yaml` are looked for."""


def loader_for(options: ServeOptions) -> Loader:
    """How this server reads its configuration, first and at each reload. Raises ConfigError."""
    environment = read_environment(options.environ, options.folder)
    path = config_path(options.config, environment, options.folder)
    return Loader(path=path, env=environment, flags=options.flags)


class Runtime:
    """A running gateway. `start` brings all parts up or none; `stop` drains and closes them in reverse."""

    def __init__(self, loader: Loader, snapshot: Snapshot, clock: Clock) -> None:
        self.holder = SnapshotHolder(snapshot)
        self.clock = clock
        self.metrics = Metrics()
        self.routing = RoutingState(random.Random())  # noqa: S311 - jitter and tie-breaking, nothing secret.
        self.limiter = MemoryLimiter(snapshot.server.concurrency_max)
        self.cache = ResponseCache(clock)
        self.watcher = ConfigWatcher(self.holder, loader.load, clock, self._applied, self._prepare)
        self.keyring = Keyring(snapshot.server.vault_keys, snapshot.server.data_dir)
        """What is encrypted at rest; its keys are those that the process was started with."""
        self.logs: Logs | None = None
        self.port = 0
        """The TCP port that is listened on, once started."""
        self._loader = loader
        self._tasks = TaskSet()
        self._stack = AsyncExitStack()
        self._listeners: list[asyncio.Server] = []

    @classmethod
    async def start(cls, options: ServeOptions, clock: Clock | None = None) -> "Runtime":
        """Read the configuration, open the ledger, listen. Raises OperatorError (configuration, ledger, address)."""
        clock = clock if clock is not None else SystemClock()
        loader = msgspec.structs.replace(loader_for(options), clock=clock)
        runtime = cls(loader, loader.load(1), clock)
        try:
            await runtime._start()
        except BaseException:
            await runtime.close()
            raise
        return runtime

    async def _start(self) -> None:
        snapshot, clock = self.holder.current, self.clock
        self.ledger = await self._open_ledger(snapshot)
        transports = TransportPool(clock)
        self._stack.push_async_callback(transports.close)
        self._transports = transports
        egress = Egress()
        self._stack.push_async_callback(egress.close)
        self.vitals = Vitals(self.holder, self.ledger, self.routing, self.metrics, clock)
        self.vitals.reload_status = lambda: self.watcher.status
        parts = GatewayParts(
            ledger=self.ledger,
            limiter=self.limiter,
            routing=self.routing,
            attempts=AttemptLoop(self.routing, transports, Translator(egress.fetch), clock),
            settler=Settler(self.ledger, clock),
            cache=self.cache,
            metrics=self.metrics,
            log=self._log_request,
            clock=clock,
        )
        self.gateway = Gateway(parts)
        self.idempotency = self._idempotency(snapshot.server)
        self.ledger.watch_lost(self.idempotency.lost)
        self._stack.push_async_callback(self.idempotency.close)
        configuration = LiveConfiguration(self._loader.path, self.watcher)
        self.operations = Operations(self.ledger, self.holder, configuration, clock)
        self.operations.cut_off = self.gateway.cut_off_tenant
        self.operations.own_keys.protect = self._protect
        self.checks = HealthChecks(CheckParts(self.holder, self.routing, transports, clock))
        self.vitals.looks = self.checks.book
        files = ProviderFiles(self._loader.path, self._loader.env, self.holder, configuration)
        self.providers = ProviderOperations(ProviderParts(self.holder, self.routing, self.checks, files, clock))
        self._read_metrics()
        self.edge = EdgeServer(self._app().handle, edge_limits(snapshot.server), clock, self.metrics.connection_closed)
        self._take_over(snapshot)
        self._stack.push_async_callback(self.edge.shutdown, 0)
        await self._listen(snapshot.server)
        self._stack.push_async_callback(self._tasks.close)
        self._tasks.spawn("config-watch", self.watcher.run())
        self._tasks.spawn("loop-lag", LoopLag(self.metrics, clock).run())
        self._tasks.spawn("health-checks", self.checks.run())
        self._tasks.spawn("idempotency-sweep", self.idempotency.run())

    async def _open_ledger(self, snapshot: Snapshot) -> SqliteLedger:
        server = snapshot.server
        self._own_data_dir(server)
        options = LedgerOptions(
            path=server.ledger_path,
            synchronous=server.ledger_synchronous,
            log_retention_days=server.log_retention_days,
            retention_days=server.retention_days,
            ballast_bytes=server.ledger_ballast_bytes,
            keyring=self.keyring,
        )
        ledger = await open_ledger(options, self.clock)
        self._stack.push_async_callback(ledger.close)
        ledger.watch_commits(self.metrics.committed)
        await ledger.sync_tenants(snapshot.tenants.values())
        self.limiter.requests_before = partial(_requests_today, ledger)
        return ledger

    def _idempotency(self, server: ServerConfig) -> Idempotency:
        path, bytes_max = os.path.join(server.data_dir, ANSWERS_FILE), server.answers_disk_bytes_max
        answers = None
        if bytes_max is not None:
            answers = AnswerStore(path, self.keyring.vault, bytes_max)
        else:  # What an earlier run has left is not wanted any more.
            remove_side_file(path)
        index = UseIndex(os.path.join(server.data_dir, IDEMPOTENCY_FILE))
        return Idempotency(index, answers, self.ledger.booked, self.clock)

    def _own_data_dir(self, server: ServerConfig) -> None:
        """The ledger locks its own directory; where that is another one, the data directory has to be locked, too."""
        data_dir = Path(server.data_dir).absolute()
        if data_dir != Path(server.ledger_path).absolute().parent:
            lock = DataDirLock(data_dir)
            lock.acquire()
            self._stack.callback(lock.release)

    def _app(self) -> App:
        door = Door(self.holder, self.ledger, self.clock)
        explainer = Explainer(self.routing, self.limiter, self.clock, self.ledger.funds)
        reports = Reports(self.ledger, self.clock)
        desk = ProviderDesk(self.providers, reports, self.clock)
        admin = AdminApp(
            [
                *admin_routes(self.operations, self._authorize),
                *key_routes(self.operations.keys, self.clock, self._authorize),
                *own_key_routes(self.operations.own_keys, self.clock, self._authorize),
                *provider_routes(desk, self._authorize),
                *book_routes(BookOperations(self.ledger, self.holder, self.clock), self._authorize),
                explain_route(explainer, self.holder, self.clock, self._authorize, self.ledger.own_keys),
            ]
        )
        sources = OwnSources(self.ledger, self.limiter, self.vitals, reports, self.clock, self.providers.worst_circuit)
        own = OwnApi(OwnViews(sources), self.holder, self.ledger, self.clock)
        tenant, explain = TenantApi(self.gateway, door, self.idempotency), ExplainApi(explainer, door)
        return App(Apis(tenant, own, explain, admin, self.vitals, self.holder), self.clock)

    def _authorize(self, request: web.BaseRequest) -> str:
        return admin_actor(request, self.holder.current.server.admin_key_digests)

    async def _listen(self, server: ServerConfig) -> None:
        loop = asyncio.get_running_loop()
        try:
            listener = await loop.create_server(self.edge, server.host, server.port, backlog=BACKLOG)
        except OSError as error:
            raise OperatorError(
                f"cannot listen on {server.host}:{server.port}: {error.strerror}; choose another server.listen"
            ) from None
        self._own(listener)
        self.port = listener.sockets[0].getsockname()[1]
        await self._listen_for_admin(os.path.join(server.data_dir, ADMIN_SOCKET))

    async def _listen_for_admin(self, path: str) -> None:
        _unlink(path)  # Of a process that was killed: the ledger's lock says that we are alone here.
        try:
            listener = await asyncio.get_running_loop().create_unix_server(self.edge, path, backlog=BACKLOG)
            os.chmod(path, 0o600)
        except OSError as error:
            raise OperatorError(
                f"cannot make the admin socket {path}: {error.strerror or error}; choose a shorter server.data_dir"
            ) from None
        self._own(listener)
        self._stack.callback(_unlink, path)

    def _own(self, listener: asyncio.Server) -> None:
        self._listeners.append(listener)
        self._stack.callback(listener.close)

    # --- reload

    async def _prepare(self, snapshot: Snapshot) -> None:
        """A new tenant has its account and its opening balance before its first request can come."""
        await self.ledger.sync_tenants(snapshot.tenants.values())

    async def _applied(self, old: Snapshot, new: Snapshot) -> None:
        """A new snapshot is in place: what keeps state by its names follows."""
        self._take_over(new)
        self.ledger.set_retention(new.server.log_retention_days, new.server.retention_days)
        await self.ledger.sync_tenants(new.tenants.values())

    def _log_request(self, record: RequestRecord) -> None:
        self.idempotency.settled(record)
        if self.logs is not None:
            self.logs.request(record)

    def _take_over(self, snapshot: Snapshot) -> None:
        self.limiter.configure(snapshot.tenants, snapshot.server.concurrency_max)
        self.routing.retain(snapshot)
        self._transports.retain(snapshot.providers.values())
        self.checks.retain()
        self.metrics.config_loaded(snapshot.generation, snapshot.models.keys() | snapshot.endpoints.keys())
        self.edge.limits = edge_limits(snapshot.server)
        self._protect(self.secrets())

    def secrets(self) -> list[Secret]:
        """What no log line may show: provider keys, tenants' own and the house's, and the vault keys."""
        snapshot = self.holder.current
        return [*self.ledger.key_safe.secrets(), *snapshot.server.vault_keys, *_secrets(snapshot)]

    def _protect(self, secrets: Iterable[Secret]) -> None:
        """No log line shows them from now on."""
        if self.logs is not None:
            self.logs.protect(secrets)

    def _read_metrics(self) -> None:
        metrics, ledger = self.metrics, self.ledger
        metrics.read_from(Reading.IN_FLIGHT, lambda: self.gateway.in_flight)
        metrics.read_from(Reading.HELD_NANO, ledger.held_nano)
        metrics.read_from(Reading.LEDGER_QUEUE, lambda: ledger.health().queue)
        metrics.read_from(Reading.CACHE_HITS, lambda: self.cache.hits)
        metrics.read_from(Reading.CACHE_COALESCED, lambda: self.cache.coalesced)
        metrics.read_from(Reading.CACHE_MISSES, lambda: self.cache.misses)
        metrics.read_from(Reading.CACHE_BYTES, lambda: self.cache.bytes)
        metrics.read_from(Reading.REPLAYS, lambda: self.idempotency.replays)
        metrics.read_from(Reading.LOG_LINES_DROPPED, lambda: self.logs.dropped if self.logs is not None else 0)
        metrics.read_reloads_from(lambda: (self.watcher.status.ok, self.watcher.status.refused))
        metrics.read_providers_from(self.vitals.providers_up)
        metrics.read_breakers_from(
            lambda: [
                (view.endpoint, view.credential_id, view.circuit)
                for view in self.routing.view(self.clock.monotonic_s())
            ]
        )

    # --- stop

    def begin_drain(self) -> None:
        """Stop accepting; what runs goes on, what still arrives on open connections is told to go elsewhere."""
        self.vitals.draining = True
        self.operations.stop_following()
        for listener in self._listeners:
            listener.close()

    async def stop(self, drain_s: float | None = None) -> None:
        """Drain for at most `drain_s` (None: as configured), cut off the rest in its own shape, close everything."""
        self.begin_drain()
        limit_s = drain_s if drain_s is not None else self.holder.current.server.drain_s
        deadline_s = self.clock.monotonic_s() + limit_s
        # The edge's requests, not the gateway's: a body may still be coming, a whole answer may still be going out.
        while self.edge.in_flight and not self.gateway.cutting_off and self.clock.monotonic_s() < deadline_s:
            await self.clock.sleep(DRAIN_POLL_S)
        cut_off = self.gateway.cut_off()
        if cut_off:
            log.warning("%d requests were cut off after %g s of draining", cut_off, limit_s)
        await self.edge.shutdown(FORCED_DRAIN_S)
        await self.close()

    async def close(self) -> None:
        """Close everything that is open, last opened first, without draining. Idempotent."""
        await self._stack.aclose()


def edge_limits(server: ServerConfig) -> EdgeLimits:
    """The edge's bounds as the configuration has them."""
    return EdgeLimits(
        connections_max=server.connections_max,
        header_timeout_s=server.header_timeout_s,
        keepalive_timeout_s=server.keepalive_timeout_s,
        write_timeout_s=server.write_timeout_s,
    )


def _requests_today(ledger: SqliteLedger, tenant: str, key_id: str | None) -> int:
    """On this UTC day, by the books."""
    if key_id is None:
        return ledger.funds(tenant).requests_today
    return ledger.key_use(tenant, key_id).requests_today


def _unlink(path: str) -> None:
    if os.path.exists(path):
        os.unlink(path)


def _secrets(snapshot: Snapshot) -> list[Secret]:
    return [
        credential.secret
        for provider in (*snapshot.providers.values(), *(idle.provider for idle in snapshot.idle.values()))
        for credential in (*provider.credentials, *provider.credentials_off)
        if credential.secret is not None
    ]


# --- the process


def serve(options: ServeOptions) -> int:
    """Run until SIGTERM or SIGINT; the exit code. Raises OperatorError when it cannot start."""
    os.umask(0o077)  # What is written here is for this user alone (SECURITY.md 20).
    return uvloop.run(_serve(options))


async def _serve(options: ServeOptions) -> int:
    signals = Signals(asyncio.get_running_loop())
    runtime = await Runtime.start(options)
    snapshot = runtime.holder.current
    runtime.logs = logs = configure_logging(snapshot.server.log_level, sys.stderr, json=not sys.stderr.isatty())
    try:
        logs.protect(runtime.secrets())
        _announce(runtime)
        gc.collect()
        gc.freeze()  # What start-up made stays: the collector need not look at it again.
        gc.set_threshold(*GC_THRESHOLDS)
        await _until_signal(runtime, signals)
        return 0
    finally:
        await runtime.close()  # Nothing is left after a proper stop; after a fault, threads would keep the process.
        logs.close()


def _announce(runtime: Runtime) -> None:
    """What an operator wants to know at start, in three lines."""
    snapshot, health = runtime.holder.current, runtime.ledger.health()
    providers = ", ".join(
        f"{name} (mock)" if provider.mock is not None and name != "mock" else name
        for name, provider in snapshot.providers.items()
    )
    log.info(
        "routerx %s serves http://%s:%d, %d models by %s, %d tenants",
        __version__,
        snapshot.server.host,
        runtime.port,
        len(snapshot.models),
        providers if providers else "nobody",
        len(snapshot.tenants),
    )
    log.info(
        "ledger %s, synchronous=%s, flush %.2f ms, charges survive power loss: %s",
        snapshot.server.ledger_path,
        health.synchronous,
        health.flush_us / 1000,
        "yes" if health.survives_power_loss else "no",
    )
    for notice in (*snapshot.notices, *runtime.ledger.key_safe.notices):
        log.warning("%s", notice)


class Signals:
    """What the process is told, from before its start on: a signal while starting is kept, not fatal."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.asked = asyncio.Event()
        """SIGTERM or SIGINT: end."""
        self.forced = asyncio.Event()
        """Once more: end now."""
        self.reload = asyncio.Event()
        """SIGHUP: read the configuration again."""
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        loop.add_signal_handler(signal.SIGHUP, self.reload.set)

    def _end(self) -> None:
        (self.forced if self.asked.is_set() else self.asked).set()


async def _until_signal(runtime: Runtime, signals: Signals) -> None:
    """Serve until told to end; a second signal shortens the drain."""
    tasks = TaskSet()
    tasks.spawn("reload-on-signal", _reload_when_told(runtime, signals))
    await signals.asked.wait()
    log.info("draining: %d requests in flight", runtime.gateway.in_flight)
    tasks.spawn("cut-off-on-signal", _cut_off_when_told(runtime, signals))
    await runtime.stop()
    await tasks.close()
    log.info("stopped")


async def _cut_off_when_told(runtime: Runtime, signals: Signals) -> None:
    await signals.forced.wait()
    log.warning("asked again: %d requests are cut off now", runtime.gateway.cut_off())


async def _reload_when_told(runtime: Runtime, signals: Signals) -> None:
    while True:
        await signals.reload.wait()
        signals.reload.clear()
        await runtime.watcher.reload_now()
