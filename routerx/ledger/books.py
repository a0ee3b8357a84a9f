"""The books in memory, in the event loop's thread: holds, settles, and what the writer reports back.

Everything here is synchronous. A debit counts in memory the moment it is decided and is taken back if its commit fails;
a credit counts once it is durable. `_unacknowledged` are the ops given to the writer whose outcome has not come back,
in order; outcomes come back in the same order.
"""

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable, Mapping

import msgspec

from routerx.clock import Clock
from routerx.domain.record import Outcome, RequestRecord
from routerx.domain.tenant import Billing, Period, Principal, Tenant
from routerx.errors import NotFound, RouterXError, StorageBusy, StorageUnavailable
from routerx.ledger import writer
from routerx.ledger.base import Hold, KeyUse, Receipt, TenantFunds, TransferRow
from routerx.ledger.budget import PREPAID_FLOOR_NANO, Funds, day_of, floor_of
from routerx.ledger.corrections import Refund
from routerx.ledger.ops import EXISTS, EnsureAccount, Op, Post, Settle

log = logging.getLogger("routerx.ledger")

SUSPICIONS_MAX = 20
"""Told at a time; the rest is in the log."""

RECENT_MAX = 8_192
"""Receipts of one generation; two are kept."""


class Recent:
    """The receipts of the latest settles, by request id, so that a repeated settle finds its answer."""

    __slots__ = ("_new", "_old")

    def __init__(self) -> None:
        self._new: dict[str, Receipt] = {}
        self._old: dict[str, Receipt] = {}

    def get(self, request_id: str) -> Receipt | None:
        receipt = self._new.get(request_id)
        return receipt if receipt is not None else self._old.get(request_id)

    def put(self, request_id: str, receipt: Receipt) -> None:
        if len(self._new) >= RECENT_MAX:
            self._old, self._new = self._new, {}
        self._new[request_id] = receipt


class Books:
    """Funds of all tenants over one writer."""

    def __init__(self, clock: Clock, funds: dict[str, Funds], queue_max: int, submit: Callable[[Op], None]) -> None:
        self._clock = clock
        self._funds = funds
        self._queue_max = queue_max
        self._submit_to_writer = submit
        self._loop = asyncio.get_running_loop()
        self.on_lost: Callable[[RequestRecord], None] = lambda record: None
        """Told of a settle that is not in the books and never will be; within settle() where that is known at once."""
        self._recent = Recent()
        self._unacknowledged: deque[Op] = deque()
        self._held_nano = 0
        self._refusal: RouterXError | None = None
        self._suspects: dict[str, str] = {}
        self._all_suspect: str | None = None
        self._balance_checks: list[asyncio.Future[tuple[str, ...]]] = []

    # --- the hot path

    def hold(self, tenant: Tenant, amount_nano: int, caller: Principal | None = None) -> Hold:
        """As Ledger.hold."""
        self.require_storage(tenant.name)
        plan = tenant.plan
        if amount_nano == 0 or plan.billing is Billing.OFF:
            return Hold(tenant.name, 0)
        funds = self._funds.get(tenant.name)
        if funds is None:
            funds = self.open_account(tenant.name, floor_of(plan))
        floor_nano = floor_of(plan)
        if floor_nano < funds.file_floor_nano:
            self._set_file_floor(funds, floor_nano)
        self._admit(funds, tenant, amount_nano, floor_nano, caller)
        return Hold(tenant.name, amount_nano, floor_nano, caller)

    def extend(self, tenant: Tenant, hold: Hold, amount_nano: int) -> None:
        """As Ledger.extend."""
        assert hold.open
        assert hold.amount_nano > 0
        self._admit(self._funds[tenant.name], tenant, amount_nano, hold.floor_nano, hold.caller)
        hold.amount_nano += amount_nano

    def _admit(self, funds: Funds, tenant: Tenant, amount_nano: int, floor_nano: int, caller: Principal | None) -> None:
        """Set aside against the tenant and the key, or raise and change nothing."""
        day = day_of(self._clock.now_ns())
        key = None if caller is None else funds.key(caller.key_id)
        if key is not None and caller is not None and caller.terms is not None and caller.terms.spend_limit is not None:
            key.require_within(amount_nano, caller.terms.spend_limit, day)
        funds.admit(amount_nano, floor_nano, tenant.plan.spend_limit, day)
        if key is not None:
            key.held_nano += amount_nano
        self._held_nano += amount_nano

    def room_nano(self, tenant: str) -> int:
        """As Ledger.room_nano."""
        funds = self._funds.get(tenant)
        return funds.room_nano() if funds is not None else 0

    def release(self, hold: Hold) -> None:
        """As Ledger.release."""
        if hold.open:
            hold.open = False
            if hold.amount_nano:
                funds = self._funds[hold.tenant]
                funds.release(hold.amount_nano)
                if hold.caller is not None:
                    funds.key(hold.caller.key_id).held_nano -= hold.amount_nano
                self._held_nano -= hold.amount_nano

    def settle(self, record: RequestRecord, hold: Hold | None) -> tuple[Receipt, RequestRecord | None]:
        """As Ledger.settle, and the record as it was written; None when it was settled before."""
        known = self._recent.get(record.id)
        if known is not None:
            if hold is not None:
                self.release(hold)
            return known, None
        funds = self._funds.get(record.tenant)
        if funds is None:
            funds = self.open_account(record.tenant, 0)
        held_nano, floor_nano = 0, funds.floor_nano
        if hold is not None and hold.open:
            assert hold.tenant == record.tenant
            self.release(hold)
            if hold.amount_nano:
                held_nano, floor_nano = hold.amount_nano, hold.floor_nano
        charged = written_off = 0
        future: asyncio.Future[None] | None = None
        if record.cost_nano > 0 and record.billing.owes:
            charged, written_off = funds.charge(record.cost_nano, held_nano, floor_nano)
            future = self._loop.create_future()
            if written_off:
                record = msgspec.structs.replace(record, flags=(*record.flags, "overrun"))
        if future is not None or belongs_in_books(record):
            now_ns = self._clock.now_ns()
            day = day_of(now_ns)
            funds.spending.add(day, 1, charged)
            funds.key(record.key_id).spending.add(day, 1, charged)
            self.submit(Settle(record, (charged, written_off), now_ns, day, future))
        receipt = Receipt(charged, written_off, funds.balance_nano, future)
        self._recent.put(record.id, receipt)
        return receipt, record

    # --- for the control plane

    def require_storage(self, tenant: str) -> None:
        """Raises StorageUnavailable or StorageBusy where no new work may start."""
        if self._refusal is not None:
            raise again(self._refusal)
        if len(self._unacknowledged) >= self._queue_max:
            raise StorageBusy(
                f"The ledger has {len(self._unacknowledged)} operations waiting; its limit is {self._queue_max}.",
                retry_after_s=1,
            )
        if self._all_suspect is not None or tenant in self._suspects:
            raise StorageUnavailable(
                "The books of this account failed their verification; money operations are off until an operator "
                "has looked at 'routerx ledger verify'."
            )

    def submit(self, op: Op) -> None:
        """Queue an op for the writer; settles are always admitted."""
        if isinstance(self._refusal, Closed):
            self._fail(op, again(self._refusal))
            return
        self._unacknowledged.append(op)
        self._submit_to_writer(op)

    def future(self) -> "asyncio.Future[object]":
        return self._loop.create_future()

    def open_account(self, tenant: str, floor_nano: int) -> Funds:
        """A tenant that the ledger has not seen: balance 0."""
        funds = self._funds[tenant] = Funds(tenant, 0, floor_nano)
        self.submit(EnsureAccount(tenant, floor_nano, self._clock.now_ns(), None))
        return funds

    def apply_floor(self, tenant: str, floor_nano: int) -> None:
        """The floor of the tenant's plan. The file's follows at once where it sinks, and where it rises as soon as
        balance and open holds are above it: until then the debt of the old plan stands."""
        funds = self._funds[tenant]
        funds.floor_nano = floor_nano
        covered = funds.balance_nano - funds.held_nano >= floor_nano
        if floor_nano < funds.file_floor_nano or (floor_nano > funds.file_floor_nano and covered):
            self._set_file_floor(funds, floor_nano)

    def get(self, tenant: str) -> Funds:
        """Raises NotFound."""
        funds = self._funds.get(tenant)
        if funds is None:
            raise NotFound(f"The ledger has no tenant {tenant!r}.")
        return funds

    def knows(self, tenant: str) -> bool:
        return tenant in self._funds

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._funds))

    def view(self, tenant: str, suspension: tuple[bool, str | None]) -> TenantFunds:
        """As Ledger.funds; `suspension` is (suspended, why)."""
        funds = self.get(tenant)
        day = day_of(self._clock.now_ns())
        spending = funds.spending
        return TenantFunds(
            tenant=tenant,
            balance_nano=funds.balance_nano,
            held_nano=funds.held_nano,
            floor_nano=funds.floor_nano,
            spent_today_nano=spending.spent(Period.DAY, day),
            spent_week_nano=spending.spent(Period.WEEK, day),
            spent_month_nano=spending.spent(Period.MONTH, day),
            spent_total_nano=spending.total_nano,
            requests_today=spending.requests(day),
            suspended=suspension[0],
            suspend_reason=suspension[1],
        )

    def key_use(self, tenant: str, key_id: str) -> KeyUse:
        """As Ledger.key_use."""
        key = self.get(tenant).keys.get(key_id)
        if key is None:
            return KeyUse(0, 0, 0, 0, 0, 0)
        day, spending = day_of(self._clock.now_ns()), key.spending
        return KeyUse(
            requests_today=spending.requests(day),
            spent_today_nano=spending.spent(Period.DAY, day),
            spent_week_nano=spending.spent(Period.WEEK, day),
            spent_month_nano=spending.spent(Period.MONTH, day),
            spent_total_nano=spending.total_nano,
            held_nano=key.held_nano,
        )

    @property
    def held_nano(self) -> int:
        return self._held_nano

    @property
    def queue(self) -> int:
        """Operations given to the writer and not yet acknowledged."""
        return len(self._unacknowledged)

    # --- health

    @property
    def trouble(self) -> str | None:
        """Why no money is taken from anybody, in words that anybody may read; None when it is."""
        if self._refusal is not None:
            return self._refusal.message
        return None if self._all_suspect is None else "the books failed verification; see 'routerx ledger verify'"

    @property
    def suspects(self) -> int:
        """Accounts whose money operations are off, each for itself."""
        return len(self._suspects)

    @property
    def suspicions(self) -> tuple[str, ...]:
        """What verification found, with names and amounts: for operators."""
        whole = () if self._all_suspect is None else (self._all_suspect,)
        return (*whole, *itertools.islice(self._suspects.values(), SUSPICIONS_MAX))

    @property
    def degraded(self) -> bool:
        """Commits do not work, or the storage must not be trusted."""
        return self._refusal is not None

    def close(self, refusal: RouterXError) -> None:
        """Refuse all new work from now on."""
        self._refusal = refusal

    def suspect(self, tenant: str | None, why: str) -> None:
        """Switch money operations off for one tenant, or (None) for all: stop rather than be wrong."""
        if tenant is None:
            self._all_suspect = self._all_suspect if self._all_suspect is not None else why
        else:
            self._suspects.setdefault(tenant, why)

    # --- what the writer reports

    def receive(self, report: "writer.Report") -> None:
        """Called in the loop, in the order of the writer's work."""
        match report:
            case writer.Outcome():
                self._acknowledge(report)
            case writer.Health(refusal):
                if not isinstance(self._refusal, Closed):
                    self._refusal = refusal
                if refusal is not None:
                    log.error("the ledger refuses new work: %s", refusal.message)
                else:
                    log.warning("the ledger takes work again")
            case writer.Balances(by_tenant):
                self._compare(by_tenant)

    def check_balances(self) -> "asyncio.Future[tuple[str, ...]]":
        """What differs between memory and file, once the next Balances report is here."""
        future: asyncio.Future[tuple[str, ...]] = self._loop.create_future()
        self._balance_checks.append(future)
        return future

    def _acknowledge(self, outcome: "writer.Outcome") -> None:
        popleft = self._unacknowledged.popleft
        for op, result in zip(outcome.ops, outcome.results, strict=True):
            popleft()
            future = op.future
            if isinstance(result, writer.Failed):
                self._fail(op, result.error)
                continue
            if result is EXISTS:
                self._undo(op)
                result = None
            elif isinstance(op, (Post, Refund)):
                self._posted(op, result)
            if future is not None and not future.done():
                future.set_result(result)

    def _fail(self, op: Op, error: RouterXError) -> None:
        self._undo(op)
        if isinstance(op, Settle):
            self.on_lost(op.record)
        future = op.future
        if future is not None and not future.done():
            future.set_exception(error)
            future.exception()  # Seen: nobody has to wait for it.

    def _posted(self, op: Op, result: object) -> None:
        """A credit counts from now on; a debit that a rule refused has counted too early."""
        row, new = result if isinstance(result, tuple) else (None, False)
        if not new:
            self._undo(op)
        elif isinstance(row, TransferRow) and row.amount_nano > 0:
            self._funds[row.tenant].balance_nano += row.amount_nano

    def _undo(self, op: Op) -> None:
        """Take back what an op changed in memory: it is not in the books."""
        if isinstance(op, Settle):
            funds = self._funds[op.record.tenant]
            funds.balance_nano += op.charged_nano
            funds.spending.add(op.day, -1, -op.charged_nano)
            funds.key(op.record.key_id).spending.add(op.day, -1, -op.charged_nano)
        elif isinstance(op, Post) and op.posting.amount_nano < 0:
            self._funds[op.posting.tenant].balance_nano -= op.posting.amount_nano
        elif isinstance(op, EnsureAccount):
            # The file's floor is not known now: nothing goes below 0 until a hold or a reload sets it again.
            self._funds[op.tenant].file_floor_nano = PREPAID_FLOOR_NANO

    def _compare(self, by_tenant: Mapping[str, int]) -> None:
        """The file's balances less the debits still queued are what memory must have; where not, the file is right."""
        debits: dict[str, int] = {}
        for op in self._unacknowledged:
            if isinstance(op, Settle):
                debits[op.record.tenant] = debits.get(op.record.tenant, 0) + op.charged_nano
            elif isinstance(op, Post) and op.posting.amount_nano < 0:
                debits[op.posting.tenant] = debits.get(op.posting.tenant, 0) - op.posting.amount_nano
        wrong: list[str] = []
        for name, balance_nano in by_tenant.items():
            expected = balance_nano - debits.get(name, 0)
            funds = self._funds.get(name)
            if funds is not None and funds.balance_nano != expected:
                wrong.append(f"memory: balance of {name!r} is {funds.balance_nano}, the file says {expected}")
                log.error("%s; corrected", wrong[-1])
                funds.balance_nano = expected
        checks, self._balance_checks = self._balance_checks, []
        for future in checks:
            if not future.done():
                future.set_result(tuple(wrong))

    def _set_file_floor(self, funds: Funds, floor_nano: int) -> None:
        funds.file_floor_nano = floor_nano
        self.submit(EnsureAccount(funds.tenant, floor_nano, self._clock.now_ns(), None))


class Closed(StorageUnavailable):
    """The ledger has been closed in this process."""


def belongs_in_books(record: RequestRecord) -> bool:
    """Whether a request that owes nothing still gets a row: it was answered, or something was sent upstream for it.
    Refusals before that go to the request log alone."""
    return bool(record.attempts) or record.outcome == Outcome.OK


def again(error: RouterXError) -> RouterXError:
    """A fresh copy: one exception object raised many times would collect everybody's traceback."""
    return type(error)(error.message, retry_after_s=error.retry_after_s)
