"""The ledger on SQLite: the books in memory, one writer thread, read-only reports, and the watch over all of them."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from routerx.clock import Clock
from routerx.domain.record import RequestRecord
from routerx.domain.tenant import KeyTerms, Principal, Tenant
from routerx.errors import Conflict, InsufficientBalance, InvalidParameter, LedgerUnusable, NotFound
from routerx.ids import new_id
from routerx.ledger import reports
from routerx.ledger.base import (
    AuditRow,
    Hold,
    KeyRow,
    KeyUse,
    LedgerHealth,
    LogQuery,
    Receipt,
    TenantFunds,
    TransferRow,
    UsageQuery,
    UsageRow,
    VerifyReport,
)
from routerx.ledger.beside.requestlog import RequestLog
from routerx.ledger.bookkeeping import SqliteBookkeeper, refuse_own_reference, row_of, submitted
from routerx.ledger.books import Books, Closed, belongs_in_books
from routerx.ledger.budget import floor_of
from routerx.ledger.database import Connect, connect
from routerx.ledger.opening import LedgerOptions, Opened, open_file
from routerx.ledger.ops import AddKey, Op, Post, Posting, Remark, RevokeKey, SetKeyTerms, Suspend, yaml_tombstones
from routerx.ledger.own_keys import SqliteKeySafe
from routerx.ledger.proof.verify import check_file
from routerx.ledger.proof.watch import Stopped, Watch
from routerx.ledger.storage import Storage
from routerx.ledger.usage import provider_usage
from routerx.ledger.writer import Writer
from routerx.money import MAX_NANO, format_usd
from routerx.secrets import Secret, key_digest, key_id, new_api_key
from routerx.tasks import TaskSet

log = logging.getLogger("routerx.ledger")

LOG_NAME = "requests.db"


async def open_ledger(options: LedgerOptions, clock: Clock, connect: Connect = connect) -> "SqliteLedger":
    """Open the books and become their owner. Raises LedgerLocked or LedgerUnusable; then nothing was changed."""
    opened = await asyncio.to_thread(open_file, options, clock.now_ns(), connect)
    log_path = options.log_path if options.log_path is not None else str(Path(opened.storage.path).parent / LOG_NAME)
    async with AsyncExitStack() as undo:
        undo.callback(opened.lock.release)
        undo.callback(opened.connection.close)
        try:
            requests = await asyncio.to_thread(RequestLog, log_path, clock)
            undo.push_async_callback(requests.close)
            books_reader = await reports.Reader.open(opened.storage.path)
            undo.push_async_callback(books_reader.close)
            log_reader = await reports.Reader.open(log_path)
            undo.push_async_callback(log_reader.close)
        except (sqlite3.Error, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise LedgerUnusable(f"the request log {log_path!r} cannot be opened: {why}") from error
        ledger = SqliteLedger(options, clock, opened, requests, (books_reader, log_reader))
        undo.pop_all()
    return ledger


class SqliteLedger:
    """Implements routerx.ledger.base.Ledger; made by open_ledger()."""

    def __init__(
        self,
        options: LedgerOptions,
        clock: Clock,
        opened: Opened,
        requests: RequestLog,
        readers: tuple[reports.Reader, reports.Reader],
    ) -> None:
        self._clock = clock
        self._lock = opened.lock
        self._path = opened.storage.path
        self._flush = opened.flush
        self._access = opened.access
        self._opened = opened.opened
        self._requests = requests
        self._books_reader, self._log_reader = readers
        self._writer = Writer(Storage(opened.connection, opened.storage), opened.state, clock)
        self._books = Books(clock, opened.funds, options.queue_max, self._writer.submit)
        self._writer.start(asyncio.get_running_loop(), self._books.receive)
        self._watch = Watch(options, clock, self._books, self._writer, requests)
        self._tasks = TaskSet()
        self._watch.begin_at(self._path, opened.verified)
        self._tasks.spawn("ledger watch", self._watch.run())
        self.bookkeeper = SqliteBookkeeper(self._books, self._books_reader, self._watch, self._path, clock)
        self.bookkeeper.retention_days = options.retention_days
        self._own_keys = opened.own_keys
        self.key_safe = SqliteKeySafe(self._books, opened.own_keys, opened.keyring, clock)
        self._tasks.spawn("ledger prune", self.bookkeeper.keep_retention())
        self._closed = False

    # --- hot path

    def suspended(self, tenant: str) -> bool:
        return self._access.is_suspended(tenant)

    def issued_key(self, digest: str) -> KeyRow | None:
        return self._access.issued(digest)

    def revoked(self, digest: str) -> bool:
        return self._access.revoked(digest)

    def own_keys(self, tenant: str) -> Mapping[str, Secret | None]:
        return self._own_keys.of(tenant)

    def hold(self, tenant: Tenant, amount_nano: int, caller: Principal | None = None) -> Hold:
        return self._books.hold(tenant, amount_nano, caller)

    def extend(self, tenant: Tenant, hold: Hold, amount_nano: int) -> None:
        self._books.extend(tenant, hold, amount_nano)

    def room_nano(self, tenant: str) -> int:
        return self._books.room_nano(tenant)

    def settle(self, record: RequestRecord, hold: Hold | None) -> Receipt:
        receipt, written = self._books.settle(record, hold)
        if written is not None:
            self._requests.add(written, refused=not belongs_in_books(written))
        return receipt

    def release(self, hold: Hold) -> None:
        self._books.release(hold)

    def held_nano(self) -> int:
        return self._books.held_nano

    # --- control plane: money

    def account_names(self) -> tuple[str, ...]:
        return self._books.names()

    async def sync_tenants(self, tenants: Iterable[Tenant]) -> None:
        """As the protocol says. An opening balance that is set later than the tenant is made is granted then, once."""
        granted: list[str] = []
        waiting: list[asyncio.Future[object]] = []
        for tenant in tenants:
            floor_nano = floor_of(tenant.plan)
            if not self._books.knows(tenant.name):
                self._books.open_account(tenant.name, floor_nano)
            self._books.apply_floor(tenant.name, floor_nano)
            if tenant.opening_balance_nano > 0 and tenant.name not in self._opened:
                self._opened.add(tenant.name)
                granted.append(tenant.name)
                waiting.append(self._submit_posting(_opening(tenant, self._clock.now_ns())))
        results = await asyncio.gather(*waiting, return_exceptions=True)
        failures = [
            (name, result) for name, result in zip(granted, results, strict=True) if isinstance(result, Exception)
        ]
        self._opened.difference_update(name for name, _ in failures)
        if failures:
            raise failures[0][1]

    async def top_up(
        self, tenant: str, amount_nano: int, *, actor: str, reference: str | None, note: str | None
    ) -> TransferRow:
        """As the protocol says; without a reference it gets one of its own. Raises NotFound, Conflict,
        InvalidParameter, StorageBusy, StorageUnavailable."""
        if not 0 < amount_nano <= MAX_NANO:
            raise InvalidParameter(f"A top-up must be above 0 and at most ${format_usd(MAX_NANO)}.", param="amount")
        now_ns = self._clock.now_ns()
        if reference is None:
            reference = new_id("top", now_ns)
        else:
            refuse_own_reference(reference)
        return await self._post(Posting("topup", tenant, amount_nano, actor, reference, note, now_ns))

    async def adjust(self, tenant: str, amount_nano: int, *, actor: str, note: str | None) -> TransferRow:
        """As the protocol says. Raises also NotFound, StorageBusy, StorageUnavailable."""
        if amount_nano == 0 or abs(amount_nano) > MAX_NANO:
            raise InvalidParameter(
                f"An adjustment must not be 0 and be at most ${format_usd(MAX_NANO)}.", param="amount"
            )
        funds = self._books.get(tenant)
        self._books.require_storage(tenant)
        if amount_nano < 0:
            room_nano = max(0, funds.room_nano())
            if -amount_nano > room_nano:
                raise InsufficientBalance(
                    f"Only ${format_usd(room_nano)} can be taken from {tenant!r}: "
                    "the rest of the balance is below the plan's floor or held by running requests.",
                    details={"needed": format_usd(-amount_nano), "available": format_usd(room_nano)},
                )
            funds.balance_nano += amount_nano  # At once; taken back if the commit fails.
        return await self._post(Posting("adjustment", tenant, amount_nano, actor, None, note, self._clock.now_ns()))

    def funds(self, tenant: str) -> TenantFunds:
        return self._books.view(tenant, self._access.suspension(tenant))

    async def transfers(self, tenant: str, limit: int) -> tuple[TransferRow, ...]:
        """The latest `limit`, oldest first. Raises NotFound."""
        self._books.get(tenant)
        return await reports.transfers(self._books_reader, tenant, limit)

    # --- control plane: access

    async def suspend(self, tenant: str, *, actor: str, reason: str | None) -> None:
        """Effective at once, also when writing it down fails. Raises NotFound."""
        self._books.get(tenant)
        self._access.suspend(tenant, reason)
        await self._submit(Suspend(tenant, actor, reason, self._clock.now_ns(), self._books.future()))

    async def unsuspend(self, tenant: str, *, actor: str) -> None:
        """Effective once written. Raises NotFound."""
        self._books.get(tenant)
        op = Suspend(tenant, actor, None, self._clock.now_ns(), self._books.future())
        op.on = False
        await self._submit(op)
        self._access.unsuspend(tenant)

    async def remark(self, tenant: str, action: str, detail: str, *, actor: str) -> None:
        """As the protocol says."""
        self._books.get(tenant)
        await self._submit(Remark((actor, action, tenant, detail), self._clock.now_ns(), self._books.future()))

    async def issue_key(
        self, tenant: str, *, actor: str, label: str | None, terms: KeyTerms | None = None
    ) -> tuple[str, KeyRow]:
        """Raises NotFound."""
        self._books.get(tenant)
        key = new_api_key()
        digest = key_digest(key)
        row = KeyRow(key_id(digest), tenant, label, self._clock.now_ns(), None, "issued", terms)
        await self._submit(AddKey(row, digest, actor, self._books.future()))
        self._access.add_key(digest, row)
        return key, row

    async def limit_key(self, key_id: str, terms: KeyTerms | None, *, actor: str) -> KeyRow:
        """As the protocol says."""
        row = self._access.key(key_id)
        if row is None:
            raise NotFound(f"The ledger has issued no key {key_id!r}; 'routerx keys list' shows all.")
        if row.revoked_ns is not None or row.source != "issued":
            raise Conflict(f"The key {key_id!r} is revoked for good; issue another one.")
        row = msgspec.structs.replace(row, terms=terms)
        await self._submit(SetKeyTerms(row, actor, self._clock.now_ns(), self._books.future()))
        self._access.set_terms(row)
        return row

    async def revoke_key(self, key_id: str, yaml_keys: Sequence[tuple[str, Principal]], *, actor: str) -> KeyRow:
        """Effective at once; revoking again gives the same row. Raises NotFound."""
        now_ns = self._clock.now_ns()
        row = self._access.key(key_id)
        if row is not None:
            if row.revoked_ns is None:
                row = self._access.revoke(key_id, now_ns)
                await self._submit(RevokeKey(row, actor, now_ns, self._books.future()))
            return row
        for digest, principal in yaml_tombstones(key_id, yaml_keys):
            row = KeyRow(key_id, principal.tenant.name, None, now_ns, now_ns, "yaml")
            self._access.add_key(digest, row)
            await self._submit(AddKey(row, digest, actor, self._books.future()))
            return row
        raise NotFound(f"There is no key {key_id!r}; 'routerx keys list' shows all.")

    async def keys(self, tenant: str | None) -> tuple[KeyRow, ...]:
        return self._access.keys(tenant)

    def key_use(self, tenant: str, key_id: str) -> KeyUse:
        return self._books.key_use(tenant, key_id)

    async def history(self, tenant: str, limit: int) -> tuple[AuditRow, ...]:
        """As the protocol says."""
        self._books.get(tenant)
        return await reports.history(self._books_reader, tenant, limit)

    async def usage(self, query: UsageQuery) -> tuple[UsageRow, ...]:
        return await provider_usage(self._books_reader, query)

    # --- request log

    async def log(self, query: LogQuery) -> tuple[RequestRecord, ...]:
        await self._requests.flush()
        return await reports.log(self._log_reader, query)

    async def request(self, request_id: str) -> RequestRecord | None:
        """From the log, or, without its timings, from the books."""
        await self._requests.flush()
        return await reports.request(self._log_reader, self._books_reader, request_id)

    async def booked(self, request_id: str) -> RequestRecord | None:
        """From the books alone: the log may know of a request whose charge never reached the disk."""
        return await reports.booked(self._books_reader, request_id)

    def follow(self) -> asyncio.Queue[RequestRecord]:
        return self._requests.follow()

    def unfollow(self, queue: asyncio.Queue[RequestRecord]) -> None:
        self._requests.unfollow(queue)

    def watch_commits(self, observe: Callable[[float], None]) -> None:
        """Have `observe` told how many seconds each batch took. It is called by the writer's thread."""
        self._writer.on_commit = observe

    def watch_lost(self, told: Callable[[RequestRecord], None]) -> None:
        """Have `told` hear of every settle that could not be written: nothing is charged for it."""
        self._books.on_lost = told

    def set_retention(self, log_days: int, days: int | None) -> None:
        """A reloaded configuration has another `log_retention_days` and `retention_days`."""
        self._watch.log_retention_days = log_days
        self.bookkeeper.retention_days = days

    # --- health and life

    async def verify(self) -> VerifyReport:
        """The file whole, and memory against the file. What is found also switches money operations off."""
        if self._closed:
            raise Closed("The ledger is closed.")
        try:
            report, violations = await asyncio.to_thread(check_file, self._path, self._watch.pause)
        except Stopped:
            raise Closed("The ledger was closed while it was verified.") from None
        self._watch.stop_money(violations)
        differences = await self._watch.compare_memory()
        return msgspec.structs.replace(report, violations=(*report.violations, *differences))

    def health(self) -> LedgerHealth:
        trouble, suspects = self._books.trouble, self._books.suspects
        reason = trouble
        if reason is None and suspects:
            reason = f"{suspects} account{'s' * (suspects > 1)} failed verification; see 'routerx ledger verify'"
        return LedgerHealth(
            ok=trouble is None,
            reason=reason,
            synchronous=self._flush.synchronous,
            flush_us=self._flush.flush_us,
            survives_power_loss=self._flush.survives_power_loss,
            queue=self._books.queue,
            held_nano=self._books.held_nano,
            suspects=suspects,
            details=self._books.suspicions,
        )

    async def close(self) -> None:
        """Drain the queue, checkpoint, release the lock. Harmless the second time."""
        if self._closed:
            return
        self._closed = True
        self._books.close(Closed("The ledger is closed."))
        await self._tasks.close()
        await asyncio.to_thread(self._writer.stop)
        await self._requests.close()
        await self._log_reader.close()
        await self._books_reader.close()
        self._lock.release()

    # --- helpers

    async def _post(self, posting: Posting) -> TransferRow:
        self._books.get(posting.tenant)
        if posting.amount_nano > 0:
            self._books.require_storage(posting.tenant)
        return row_of(await self._submit_posting(posting))

    def _submit_posting(self, posting: Posting) -> "asyncio.Future[object]":
        return submitted(self._books, Post(posting, self._books.future()))

    async def _submit(self, op: Op) -> None:
        await submitted(self._books, op)


def _opening(tenant: Tenant, now_ns: int) -> Posting:
    return Posting(
        kind="opening",
        tenant=tenant.name,
        amount_nano=tenant.opening_balance_nano,
        actor="config",
        reference=f"opening:{tenant.name}",
        note=None,
        now_ns=now_ns,
    )
