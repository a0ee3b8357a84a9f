"""A small RouterX for tests of the control plane: real Operations and real admin routes over a ledger in memory."""

import asyncio
import random
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from aiohttp import web

from routerx.config.edit_providers import Written
from routerx.config.snapshot import ServerConfig, Snapshot, SnapshotHolder
from routerx.config.watch import ReloadStatus
from routerx.control.books import BookOperations
from routerx.control.checks import CheckParts, HealthChecks
from routerx.control.operations import Operations
from routerx.control.provider_files import ProviderFiles
from routerx.control.providers import ProviderOperations, ProviderParts
from routerx.control.reports import Reports
from routerx.control.values import NewTenant
from routerx.domain.model import Capability, Endpoint, Kind, Model
from routerx.domain.policy import Policy
from routerx.domain.pricing import PriceCard, PriceSnapshot
from routerx.domain.record import AttemptRecord, BillingMode, RequestRecord
from routerx.domain.tenant import Billing, KeyTerms, Limits, Period, Plan, Principal, SpendLimit, Tenant
from routerx.domain.usage import Usage, UsageSource
from routerx.errors import Conflict, InvalidApiKey, NotFound
from routerx.http.admin import admin_routes
from routerx.http.admin_books import book_routes
from routerx.http.admin_keys import key_routes
from routerx.http.admin_providers import ProviderDesk, provider_routes
from routerx.ledger.base import AuditRow, KeyRow, KeyUse, LedgerHealth, LogQuery, TenantFunds, TransferRow, VerifyReport
from routerx.routing.state import RoutingState
from routerx.secrets import key_digest, key_id
from routerx.upstream.pool import TransportPool
from tests.support.clock import ManualClock

ADMIN_KEY = "admin_key_fake_123456"
DEMO_KEY = "demo_key_fake_123456"
START_NS = 1_767_323_045_678_000_000  # 2026-01-02T03:04:05.678Z
USD = 10**9


def record(number: int, **changes: object) -> RequestRecord:
    """A finished request; its id sorts by `number`."""
    plain = RequestRecord(
        id=f"req_{number:04d}",
        tenant="demo",
        key_id="key_0123456789ab",
        operation="chat",
        model="gpt-4o",
        endpoint="openai/gpt-4o",
        provider="openai",
        stream=True,
        outcome="ok",
        http_status=200,
        billing=BillingMode.PAID,
        usage=Usage(in_fresh=1_200, out_text=34),
        usage_source=UsageSource.PROVIDER,
        price=PriceSnapshot(card=PriceCard(input_pico=2_500_000, output_pico=10_000_000), markup_bp=1_000),
        cost_nano=3_674_000,
        held_nano=50_000_000,
        provider_cost_nano=3_340_000,
        started_ns=START_NS + number * USD,
        duration_ms=1_250,
        ttft_ms=310,
        overhead_us=420,
        attempts=(
            AttemptRecord(
                n=1,
                endpoint="openai/gpt-4o",
                provider="openai",
                credential_id="openai-abcd1234",
                outcome="ok",
                upstream_status=200,
                dispatched=True,
                started_ms=0,
                first_byte_ms=310,
                duration_ms=1_250,
                won=True,
                cost_est_nano=3_340_000,
            ),
        ),
    )
    return msgspec.structs.replace(plain, **changes)


class FakeLedger:
    """The control-plane half of the Ledger protocol, in memory."""

    def __init__(self) -> None:
        self.balances: dict[str, int] = {}
        self.suspensions: dict[str, str | None] = {}
        self.rows: list[TransferRow] = []
        self.issued: dict[str, KeyRow] = {}
        self.records: list[RequestRecord] = []
        self.violations: tuple[str, ...] = ()
        self.audit: list[AuditRow] = []
        self.followers: list[asyncio.Queue[RequestRecord]] = []
        self.joined = threading.Event()
        self.left = asyncio.Event()
        """Set when the last follower has gone."""

    def seen(self, *records: RequestRecord) -> None:
        """Requests settle."""
        for one in records:
            self.records.append(one)
            for queue in self.followers:
                queue.put_nowait(one)

    async def sync_tenants(self, tenants: Iterable[Tenant]) -> None:
        for tenant in tenants:
            if tenant.name not in self.balances:
                self.balances[tenant.name] = 0
                if tenant.opening_balance_nano:
                    self._move(tenant.name, "opening", tenant.opening_balance_nano, ("system", None, None))

    def _move(self, tenant: str, kind: str, amount_nano: int, about: tuple[str, str | None, str | None]) -> TransferRow:
        self.balances[tenant] += amount_nano
        number = len(self.rows) + 1
        self.rows.append(
            TransferRow(
                id=number,
                ts_ns=START_NS + number * USD,
                kind=kind,
                tenant=tenant,
                amount_nano=amount_nano,
                balance_nano=self.balances[tenant],
                request_id=None,
                reference=about[1],
                actor=about[0],
                note=about[2],
            )
        )
        return self.rows[-1]

    async def top_up(
        self, tenant: str, amount_nano: int, *, actor: str, reference: str | None, note: str | None
    ) -> TransferRow:
        for row in self.rows:
            if reference is not None and row.reference == reference:
                return row
        return self._move(tenant, "topup", amount_nano, (actor, reference, note))

    async def adjust(self, tenant: str, amount_nano: int, *, actor: str, note: str | None) -> TransferRow:
        if self.balances[tenant] + amount_nano < 0:
            raise Conflict(f"This would take {tenant!r} below its floor.")
        return self._move(tenant, "adjustment", amount_nano, (actor, None, note))

    async def suspend(self, tenant: str, *, actor: str, reason: str | None) -> None:
        self.suspensions[tenant] = reason

    async def unsuspend(self, tenant: str, *, actor: str) -> None:
        self.suspensions.pop(tenant, None)

    async def remark(self, tenant: str, action: str, detail: str, *, actor: str) -> None:
        self.audit.append(AuditRow(len(self.audit) + 1, START_NS, actor, action, tenant, detail))

    async def history(self, tenant: str, limit: int) -> tuple[AuditRow, ...]:
        return tuple(row for row in self.audit if row.subject == tenant)[-limit:]

    async def issue_key(
        self, tenant: str, *, actor: str, label: str | None, terms: KeyTerms | None = None
    ) -> tuple[str, KeyRow]:
        key = f"rx_fake_{len(self.issued) + 1}"
        row = KeyRow(
            id=key_id(key_digest(key)),
            tenant=tenant,
            label=label,
            created_ns=START_NS,
            revoked_ns=None,
            source="issued",
            terms=terms,
        )
        self.issued[row.id] = row
        return key, row

    async def revoke_key(self, key_id: str, yaml_keys: Sequence[tuple[str, Principal]], *, actor: str) -> KeyRow:
        row = self.issued.get(key_id)
        for _, principal in yaml_keys:
            if principal.key_id == key_id:
                row = KeyRow(
                    id=key_id,
                    tenant=principal.tenant.name,
                    label=None,
                    created_ns=START_NS,
                    revoked_ns=None,
                    source="yaml",
                )
        if row is None:
            raise NotFound(f"There is no key {key_id!r}.")
        self.issued[key_id] = msgspec.structs.replace(row, revoked_ns=START_NS + USD)
        return self.issued[key_id]

    async def limit_key(self, key_id: str, terms: KeyTerms | None, *, actor: str) -> KeyRow:
        self.issued[key_id] = msgspec.structs.replace(self.issued[key_id], terms=terms)
        return self.issued[key_id]

    def key_use(self, tenant: str, key_id: str) -> KeyUse:
        return KeyUse(12, 3_674_000, 3_674_000, 1_003_674_000, 2 * USD, 0)

    async def keys(self, tenant: str | None) -> tuple[KeyRow, ...]:
        return tuple(row for row in self.issued.values() if tenant in (None, row.tenant))

    def funds(self, tenant: str) -> TenantFunds:
        if tenant not in self.balances:
            raise NotFound(f"The ledger has no account of {tenant!r}.")
        return TenantFunds(
            tenant=tenant,
            balance_nano=self.balances[tenant],
            held_nano=50_000_000,
            floor_nano=0,
            spent_today_nano=3_674_000,
            spent_week_nano=503_674_000,
            spent_month_nano=1_003_674_000,
            spent_total_nano=12_003_674_000,
            requests_today=1_234,
            suspended=tenant in self.suspensions,
            suspend_reason=self.suspensions.get(tenant),
        )

    async def transfers(self, tenant: str, limit: int) -> tuple[TransferRow, ...]:
        return tuple(row for row in self.rows if row.tenant == tenant)[-limit:]

    async def log(self, query: LogQuery) -> tuple[RequestRecord, ...]:
        found = [
            one
            for one in self.records
            if query.tenant in (None, one.tenant)
            and query.model in (None, one.model)
            and query.outcome in (None, one.outcome)
            and (query.after_id is None or one.id > query.after_id)
        ]
        return tuple(found[-query.limit :])

    async def request(self, request_id: str) -> RequestRecord | None:
        return next((one for one in self.records if one.id == request_id), None)

    def follow(self) -> asyncio.Queue[RequestRecord]:
        queue: asyncio.Queue[RequestRecord] = asyncio.Queue(100)
        self.followers.append(queue)
        self.joined.set()
        return queue

    def unfollow(self, queue: asyncio.Queue[RequestRecord]) -> None:
        self.followers.remove(queue)
        if not self.followers:
            self.joined.clear()
            self.left.set()

    async def verify(self) -> VerifyReport:
        return VerifyReport(
            violations=self.violations, checked_transfers=len(self.rows), checked_requests=7, tenants=2, duration_ms=3
        )

    def health(self) -> LedgerHealth:
        return LedgerHealth(
            ok=True,
            reason=None,
            synchronous="full",
            flush_us=200,
            survives_power_loss=True,
            queue=0,
            held_nano=50_000_000,
        )


class FakeConfiguration:
    """A folder of tenant files in memory. `refusal` is what the next reloads say; `included`: files are read."""

    def __init__(self, holder: SnapshotHolder) -> None:
        self.holder = holder
        self.files: dict[str, NewTenant] = {}
        self.limits: dict[str, dict[str, str | None]] = {}
        self.refusal: str | None = None
        self.included = True

    def state(self) -> ReloadStatus:
        return ReloadStatus(
            generation=self.holder.current.generation,
            ok=self.refusal is None,
            error=self.refusal,
            restart_needed=("port",),
        )

    async def reload(self) -> ReloadStatus:
        current = self.holder.current
        if self.refusal is None and self.included:
            tenants = dict(current.tenants)
            for new in self.files.values():
                plan = current.plans[new.plan if new.plan is not None else "standard"]
                tenants[new.name] = Tenant(name=new.name, plan=plan, allow=new.allow)
            for name, changes in self.limits.items():
                plan = tenants[name].plan
                counts = {key: None if value is None else int(value) for key, value in changes.items()}
                plan = msgspec.structs.replace(plan, limits=msgspec.structs.replace(plan.limits, **counts))
                tenants[name] = msgspec.structs.replace(tenants[name], plan=plan)
            self.holder.current = msgspec.structs.replace(current, tenants=tenants, generation=current.generation + 1)
        return self.state()

    async def write_tenant(self, tenant: NewTenant) -> str:
        if tenant.name in self.files:
            raise Conflict(f"{tenant.name} is declared already.")
        self.files[tenant.name] = tenant
        return f"tenants.d/{tenant.name}.yaml"

    async def remove_tenant(self, name: str) -> None:
        del self.files[name]

    async def limit_tenant(self, name: str, changes: Mapping[str, str | None]) -> Written | None:
        self.limits[name] = dict(changes)
        return Written(f"tenants.d/{name}.yaml", "before", "after")

    async def take_back(self, written: Written) -> None:
        self.limits.clear()


def endpoint(provider: str, model: str, **changes: object) -> Endpoint:
    plain = Endpoint(
        key=f"{provider}/{model}",
        provider=provider,
        model=model,
        upstream_model=model,
        price=PriceCard(input_pico=2_500_000, output_pico=10_000_000, cache_read_pico=1_250_000),
        capabilities=frozenset({Capability.TOOLS, Capability.VISION}),
        context_tokens=128_000,
        output_tokens_max=16_384,
    )
    return msgspec.structs.replace(plain, **changes)


def snapshot() -> Snapshot:
    """Tenants demo (prepaid) and lab (billing off); models gpt-4o, its alias fast, and an unpriced embedder."""
    standard = Plan(
        name="standard",
        markup_bp=1_000,
        limits=Limits(rpm=300, daily_requests=10_000),
        spend_limit=SpendLimit(amount_nano=500 * USD, period=Period.MONTH),
    )
    free = Plan(name="free", billing=Billing.OFF)
    demo = Tenant(name="demo", plan=standard, allow=("gpt-*",), opening_balance_nano=25 * USD)
    lab = Tenant(name="lab", plan=free)
    chat = Model(
        name="gpt-4o",
        kind=Kind.CHAT,
        endpoints=(endpoint("openai", "gpt-4o"), endpoint("azure", "gpt-4o", price=None)),
        created=1_715_558_400,
        owner="openai",
    )
    embedder = Model(
        name="tiny-embed",
        kind=Kind.EMBEDDING,
        endpoints=(endpoint("ollama", "tiny-embed", price=None, capabilities=frozenset(), context_tokens=None),),
    )
    digest = key_digest(DEMO_KEY)
    return Snapshot(
        generation=1,
        server=ServerConfig(),
        providers={},
        models={"gpt-4o": chat, "fast": chat, "tiny-embed": embedder},
        endpoints={"openai/gpt-4o": msgspec.structs.replace(chat, name="openai/gpt-4o", endpoints=chat.endpoints[:1])},
        policies={"default": Policy(name="default")},
        plans={"standard": standard, "free": free},
        tenants={"demo": demo, "lab": lab},
        keys={digest: Principal(tenant=demo, key_id=key_id(digest))},
        files=("routerx.yaml",),
        notices=("no provider has a key",),
    )


class Control:
    """The parts of a small RouterX, within one event loop."""

    def __init__(self) -> None:
        self.ledger = FakeLedger()
        self.holder = SnapshotHolder(snapshot())
        self.configuration = FakeConfiguration(self.holder)
        self.clock = ManualClock()
        self.operations = Operations(self.ledger, self.holder, self.configuration, self.clock)
        self.routing = RoutingState(random.Random(1))
        transports = TransportPool(self.clock)
        self.checks = HealthChecks(CheckParts(self.holder, self.routing, transports, self.clock))
        self.checks.retain()
        files = ProviderFiles(None, {}, self.holder, self.configuration)
        self.providers = ProviderOperations(ProviderParts(self.holder, self.routing, self.checks, files, self.clock))

    async def start(self) -> "Control":
        await self.ledger.sync_tenants(self.holder.current.tenants.values())
        return self

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes(admin_routes(self.operations, authorize))
        app.add_routes(key_routes(self.operations.keys, self.operations.clock, authorize))
        desk = ProviderDesk(self.providers, Reports(self.ledger, self.clock), self.clock)
        app.add_routes(provider_routes(desk, authorize))
        app.add_routes(book_routes(BookOperations(self.ledger, self.holder, self.clock), authorize))
        return app


def authorize(request: web.Request) -> str:
    """The socket needs no key; over TCP only ADMIN_KEY does."""
    transport = request.transport
    if transport is not None and not transport.get_extra_info("peername"):
        return "socket"
    if request.headers.get("Authorization") != f"Bearer {ADMIN_KEY}":
        raise InvalidApiKey("This needs an admin key.")
    return "admin"


class Running(msgspec.Struct, frozen=True):
    """A server in a thread of its own, beside a test that blocks in the CLI."""

    control: Control
    data_dir: Path
    url: str
    loop: asyncio.AbstractEventLoop

    def settle(self, *records: RequestRecord) -> None:
        """Requests settle, in the server's own thread."""
        self.loop.call_soon_threadsafe(self.control.ledger.seen, *records)

    def wait_for_follower(self) -> None:
        assert self.control.ledger.joined.wait(10)


@contextmanager
def running(data_dir: Path, control: Control | None = None) -> Iterator[Running]:
    """Serve on `data_dir`/admin.sock and on a port of 127.0.0.1."""
    control = control if control is not None else Control()
    ready: list[tuple[asyncio.AbstractEventLoop, str]] = []
    up, stop = threading.Event(), asyncio.Event()

    async def serve() -> None:
        await control.start()
        runner = web.AppRunner(control.app(), handler_cancellation=True, shutdown_timeout=1.0)
        await runner.setup()
        await web.UnixSite(runner, str(data_dir / "admin.sock")).start()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[-1][:2]
        ready.append((asyncio.get_running_loop(), f"http://{host}:{port}"))
        up.set()
        await stop.wait()
        for _ in range(10):  # A connection that was made just before is still on its way through the loop.
            await asyncio.sleep(0)
        control.operations.stop_following()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert up.wait(10)
    loop, url = ready[0]
    try:
        yield Running(control=control, data_dir=data_dir, url=url, loop=loop)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        assert not thread.is_alive()


@contextmanager
def routerx_process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`routerx …` in a process of its own, with pipes; it is gone afterwards."""
    code = "import sys; from routerx.cli import main; sys.argv[0] = 'routerx'; main()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()
