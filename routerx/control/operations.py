"""Everything an operator can do to a RouterX, as one object: the admin API and the offline CLI call the same methods.

It owns no state of its own but the followers of the request log. Facts are asked of and told to the ledger; wishes
(a new tenant) go to YAML through `files` and become live by a reload. Callers are authorised before they come here;
`actor` is the name they are recorded under.
"""

import asyncio
import shlex
from collections.abc import AsyncGenerator, Callable

import msgspec

import routerx
from routerx.clock import Clock
from routerx.config.snapshot import Snapshot, SnapshotHolder
from routerx.control import views
from routerx.control.configuration import Configuration
from routerx.control.key_values import NewKeyOrder
from routerx.control.keys import KeyOperations, reference_text, short_text, spend_limit
from routerx.control.lookup import find_model, find_models, require
from routerx.control.own_keys import OwnKeyOperations
from routerx.control.values import (
    AuditView,
    CreatedTenant,
    LogDetail,
    LogEntry,
    LogLine,
    ModelQuery,
    ModelView,
    NewTenant,
    Status,
    TenantDetail,
    TenantLimitsChange,
    TenantSummary,
    TransferView,
    VerifyView,
)
from routerx.domain.record import RequestRecord
from routerx.domain.tenant import Tenant
from routerx.errors import Conflict, GatewayError, InternalError, InvalidParameter, NotFound
from routerx.ids import new_id
from routerx.ledger.base import Ledger, LogQuery
from routerx.money import format_usd, parse_usd

TRANSFERS_SHOWN_MAX = 10
LOG_ROWS_MAX = 1_000
HEARTBEAT_S = 10.0


class Operations:
    """The control plane over one ledger and the configuration in `holder`."""

    def __init__(self, ledger: Ledger, holder: SnapshotHolder, configuration: Configuration, clock: Clock) -> None:
        self._ledger = ledger
        self._holder = holder
        self._configuration = configuration
        self._clock = clock
        self.keys = KeyOperations(ledger, holder, clock)
        self.own_keys = OwnKeyOperations(ledger, holder)
        self.cut_off: Callable[[str], int] = _nothing_runs
        """Ends what runs for a tenant, where a gateway serves; returns how many requests."""
        self._stopped = asyncio.Event()

    @property
    def clock(self) -> Clock:
        return self._clock

    # --- tenants

    async def tenants(self) -> tuple[TenantSummary, ...]:
        """Every configured tenant, by name."""
        tenants = self._snapshot.tenants
        return tuple(views.tenant_summary(tenants[name], self._ledger.funds(name)) for name in sorted(tenants))

    async def tenant(self, name: str) -> TenantDetail:
        """One tenant with its plan, keys and last transfers. Raises NotFound."""
        tenant = self._tenant(name)
        funds = self._ledger.funds(name)
        transfers = await self._ledger.transfers(name, TRANSFERS_SHOWN_MAX)
        return TenantDetail(
            name=tenant.name,
            policy=tenant.policy,
            allow=tenant.allow,
            suspended=funds.suspended,
            suspend_reason=funds.suspend_reason,
            plan=views.plan_view(tenant.plan),
            funds=views.funds_view(funds, tenant.plan),
            keys=await self.keys.every(name),
            transfers=tuple(
                views.transfer_view(row) for row in sorted(transfers, key=lambda row: row.id, reverse=True)
            ),
        )

    async def create_tenant(self, new: NewTenant, *, actor: str) -> CreatedTenant:
        """Write the tenant's YAML file, make it live, credit `topup` and issue its first key.

        Everything is checked before the file is written; where the configuration refuses the file it is taken back.
        Where the ledger fails after that the tenant stays, and the error says what is left to do.
        Raises Conflict, NotFound (plan or policy), InvalidParameter, GatewayError and InternalError.
        """
        topup_nano = _positive_amount(new.topup, "topup") if new.topup is not None else None
        label = short_text(new.label, "label")
        snapshot = self._snapshot
        if new.name in snapshot.tenants:
            raise Conflict(f"There already is a tenant {new.name!r}.", param="name")
        if new.plan is not None:
            require(new.plan, snapshot.plans, "plan")
        if new.policy is not None:
            require(new.policy, snapshot.policies, "policy")
        path = await self._configuration.write_tenant(new)
        await self._make_live(new.name, path)
        reference = new_id("top", self._clock.now_ns())
        credited = False
        try:
            await self._ledger.sync_tenants([self._tenant(new.name)])
            await self._ledger.remark(new.name, "tenant.create", path, actor=actor)
            if topup_nano is not None:
                await self._ledger.top_up(new.name, topup_nano, actor=actor, reference=reference, note="opening top-up")
                credited = True
            key = await self.keys.create(NewKeyOrder(new.name, label), actor=actor)
        except (GatewayError, InternalError) as error:
            raise type(error)(
                f"{error.message} {_what_is_left(new, path, None if credited else reference)}",
                retry_after_s=error.retry_after_s,
            ) from error
        return CreatedTenant(tenant=await self.tenant(new.name), key=key, file=path)

    async def _make_live(self, name: str, path: str) -> None:
        """Reload; a tenant that is not there afterwards leaves no file behind."""
        status = await self._configuration.reload()
        if name in self._snapshot.tenants:
            return
        await self._configuration.remove_tenant(name)
        reason = status.error if status.error is not None else f"the files do not read {path}"
        raise Conflict(f"Tenant {name!r} is not created, because the configuration on disk is refused: {reason}")

    async def top_up(
        self, name: str, amount: str, *, reference: str | None, note: str | None, actor: str
    ) -> TransferView:
        """Credit a positive amount, once per `reference`."""
        nano = _positive_amount(amount, "amount")
        self._tenant(name)
        row = await self._ledger.top_up(
            name,
            nano,
            actor=actor,
            reference=reference_text(reference),
            note=short_text(note, "note"),
        )
        return views.transfer_view(row)

    async def adjust(self, name: str, amount: str, *, note: str | None, actor: str) -> TransferView:
        """A signed correction; refused where it would pass the tenant's floor."""
        nano = _amount(amount, "amount")
        if nano == 0:
            raise InvalidParameter("An adjustment of 0 changes nothing.", param="amount")
        self._tenant(name)
        return views.transfer_view(await self._ledger.adjust(name, nano, actor=actor, note=short_text(note, "note")))

    async def suspend(self, name: str, *, reason: str | None, actor: str, hard: bool = False) -> TenantDetail:
        """Refuse the tenant's requests from now on; `hard` also ends those that run."""
        self._tenant(name)
        reason = short_text(reason, "reason")
        # Nothing can start in between: suspending takes effect before it first waits.
        ended = self.cut_off(name) if hard else 0
        await self._ledger.suspend(name, actor=actor, reason=reason)
        if hard:
            await self._ledger.remark(name, "tenant.cut_off", f"{ended} running requests", actor=actor)
        return await self.tenant(name)

    async def unsuspend(self, name: str, *, actor: str) -> TenantDetail:
        self._tenant(name)
        await self._ledger.unsuspend(name, actor=actor)
        return await self.tenant(name)

    async def limit_tenant(self, name: str, change: TenantLimitsChange, *, actor: str) -> TenantDetail:
        """Write limits that hold in place of the plan's to the tenant's file, live when this returns.

        Raises NotFound, InvalidParameter, and Conflict where the file cannot be changed or would be refused.
        """
        self._tenant(name)
        if change.spend_limit is not msgspec.UNSET:
            spend_limit(change.spend_limit)
        given = msgspec.to_builtins(change)
        changes = {key: None if value is None else str(value) for key, value in given.items()}
        if not changes:
            raise InvalidParameter("There is nothing to change; name at least one limit.")
        before = self._loads()
        written = await self._configuration.limit_tenant(name, changes)
        if written is not None:
            status = await self._configuration.reload()
            if self._loads() == before:
                await self._configuration.take_back(written)
                await self._configuration.reload()
                raise Conflict(f"Nothing was changed, because the configuration would be refused: {status.error}")
            await self._ledger.remark(name, "tenant.limit", msgspec.json.encode(given).decode(), actor=actor)
        return await self.tenant(name)

    async def history(self, name: str, limit: int) -> tuple[AuditView, ...]:
        """Who did what to a tenant and its keys, newest last. Raises NotFound and InvalidParameter."""
        self._tenant(name)
        if not 1 <= limit <= LOG_ROWS_MAX:
            raise InvalidParameter(f"limit must be between 1 and {LOG_ROWS_MAX}, not {limit}.", param="limit")
        return tuple(views.audit_view(row) for row in await self._ledger.history(name, limit))

    # --- models

    async def models(self, query: ModelQuery) -> tuple[ModelView, ...]:
        """The names that callers may ask for, sorted."""
        return find_models(self._snapshot, query)

    async def model(self, name: str) -> ModelView:
        """One model, by name, alias or path. Raises ModelNotFound with the nearest name."""
        return find_model(self._snapshot, name)

    # --- the request log

    async def logs(self, query: LogQuery) -> tuple[LogEntry, ...]:
        """Finished requests, newest last."""
        self._check(query)
        return tuple(views.log_entry(record) for record in await self._ledger.log(query))

    async def log(self, request_id: str) -> LogDetail:
        record = await self._ledger.request(request_id)
        if record is None:
            raise NotFound(f"There is no request {request_id!r} in the log.", param="id")
        return views.log_detail(record)

    def follow(self, query: LogQuery, heartbeat_s: float = HEARTBEAT_S) -> AsyncGenerator[LogLine, None]:
        """Requests as they settle, after what `query` finds in the log; a heartbeat at first and after every
        `heartbeat_s` of silence. Ends with a line that says so once stop_following() is called; close it to leave
        earlier. Raises at once what is wrong with the query.
        """
        self._check(query)
        return self._lines(query, heartbeat_s)

    async def _lines(self, query: LogQuery, heartbeat_s: float) -> AsyncGenerator[LogLine, None]:
        queue = self._ledger.follow()  # Before the log is read, so that nothing falls between the two.
        try:
            yield self._heartbeat()
            seen: set[str] = set()
            for record in await self._ledger.log(query) if query.limit else ():
                seen.add(record.id)
                yield LogLine(entry=views.log_entry(record))
            while (line := await self._next_line(queue, heartbeat_s)) is not None:
                if isinstance(line, LogLine):
                    yield line
                elif line.id not in seen and _matches(line, query):
                    yield LogLine(entry=views.log_entry(line))
            yield LogLine(end="shutting_down")
        finally:
            self._ledger.unfollow(queue)

    async def _next_line(
        self, queue: asyncio.Queue[RequestRecord], heartbeat_s: float
    ) -> RequestRecord | LogLine | None:
        """The next record, a heartbeat, or None when following has been stopped."""
        if not queue.empty() and not self._stopped.is_set():
            return queue.get_nowait()
        arrival = asyncio.ensure_future(queue.get())
        waits = (
            arrival,
            asyncio.ensure_future(self._stopped.wait()),
            asyncio.ensure_future(self._clock.sleep(heartbeat_s)),
        )
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if self._stopped.is_set():
                return None
            if arrival.done():
                return arrival.result()
        finally:
            for wait in waits:
                wait.cancel()
        return self._heartbeat()

    def _heartbeat(self) -> LogLine:
        return LogLine(heartbeat=views.iso_time(self._clock.now_ns()))

    def stop_following(self) -> None:
        """End every follow(), now and later: called once, when the server begins to drain."""
        self._stopped.set()

    # --- the whole

    async def verify(self) -> VerifyView:
        """Prove the books; see MONEY.md 5."""
        return views.verify_view(await self._ledger.verify())

    async def status(self) -> Status:
        snapshot = self._snapshot
        files = self._configuration.state()
        return Status(
            version=routerx.__version__,
            generation=snapshot.generation,
            files=snapshot.files,
            notices=snapshot.notices,
            problems=tuple(files.error.splitlines()) if files.error is not None else (),
            restart_needed=files.restart_needed,
            providers=len(snapshot.providers),
            models=len(snapshot.models),
            tenants=len(snapshot.tenants),
            ledger=views.ledger_view(self._ledger.health()),
        )

    # --- helpers

    def _loads(self) -> int:
        """How many configurations the files have made; prices change by the clock as well."""
        return self._snapshot.generation - self._configuration.state().price_changes

    @property
    def _snapshot(self) -> Snapshot:
        return self._holder.current

    def _tenant(self, name: str) -> Tenant:
        tenants = self._snapshot.tenants
        require(name, tenants, "tenant")
        return tenants[name]

    def _check(self, query: LogQuery) -> None:
        if not 0 <= query.limit <= LOG_ROWS_MAX:
            raise InvalidParameter(f"limit must be between 0 and {LOG_ROWS_MAX}, not {query.limit}.", param="limit")
        if query.tenant is not None:
            self._tenant(query.tenant)


def _nothing_runs(tenant: str) -> int:
    return 0


def _what_is_left(new: NewTenant, path: str, reference: str | None) -> str:
    """For an operator whose new tenant is live, but not whole; `reference` None: the top-up is done."""
    said, left = "", []
    if new.topup is not None and reference is not None:
        left.append(f"`routerx tenants topup {new.name} {shlex.quote(new.topup)} --ref {reference}`")
    elif new.topup is not None:
        said = " and was credited"
    label = f" --label {shlex.quote(new.label)}" if new.label else ""
    left.append(f"`routerx keys create {new.name}{label}`")
    return f"Tenant {new.name!r} is there nevertheless ({path}){said}; what is left: {', '.join(left)}."


def _amount(text: str, param: str) -> int:
    try:
        return parse_usd(text)
    except ValueError as error:
        raise InvalidParameter(f"{error}.", param=param) from None


def _positive_amount(text: str, param: str) -> int:
    nano = _amount(text, param)
    if nano <= 0:
        raise InvalidParameter(
            f"A top-up must be more than 0, not {format_usd(nano)}; use an adjustment to take money away.",
            param=param,
        )
    return nano


def _matches(record: RequestRecord, query: LogQuery) -> bool:
    return (
        query.tenant in (None, record.tenant)
        and query.model in (None, record.model)
        and query.outcome in (None, record.outcome)
    )
