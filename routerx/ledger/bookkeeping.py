"""What operators do to books that are written already: refunds, re-rating, backups and pruning."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from routerx.clock import Clock
from routerx.errors import Conflict, InvalidParameter, RouterXError
from routerx.ids import new_id
from routerx.ledger.backup import back_up
from routerx.ledger.base import BackupReport, PruneReport, RerateReport, Rerating, TransferRow
from routerx.ledger.books import Books
from routerx.ledger.budget import DAY_NS, day_of
from routerx.ledger.corrections import Refund, Refunding
from routerx.ledger.database import connect_read_only
from routerx.ledger.ops import Op, Post, Posting
from routerx.ledger.proof.pruning import Day, DeletePruned, Watermark, WriteWatermark, newest_watermark
from routerx.ledger.proof.sealing import Unproven, seal_transfers, sum_requests
from routerx.ledger.proof.watch import Stopped, Watch
from routerx.ledger.reports import Reader, first_settled, last_request
from routerx.ledger.rerating import Correction, Tally, corrections
from routerx.money import MAX_NANO, format_usd

log = logging.getLogger("routerx.ledger")

T = TypeVar("T")
PRUNE_S = 3_600.0

OWN_REFERENCES = ("opening:", "refund:", "rerate:")
"""Beginnings of references that the ledger gives out itself."""


class SqliteBookkeeper:
    """Implements routerx.ledger.base.Bookkeeper for SqliteLedger."""

    def __init__(self, books: Books, reader: Reader, watch: Watch, path: str, clock: Clock) -> None:
        self._books = books
        self._reader = reader
        self._watch = watch
        self._path = path
        self._clock = clock
        self._working = asyncio.Lock()
        """Held by what reads many rows before it writes: two of a kind would do the same work."""
        self.retention_days: int | None = None
        """Of request rows, in whole days; None keeps them for ever."""

    async def refund(
        self,
        charge: tuple[str, str],
        amount_nano: int | None,
        *,
        actor: str,
        reference: str | None,
        note: str | None,
    ) -> TransferRow:
        """As the protocol says."""
        tenant, request_id = charge
        if amount_nano is not None and not 0 < amount_nano <= MAX_NANO:
            raise InvalidParameter(f"A refund must be above 0 and at most ${format_usd(MAX_NANO)}.", param="amount")
        now_ns = self._clock.now_ns()
        if reference is None:
            reference = f"refund:{request_id}" if amount_nano is None else new_id("rfd", now_ns)
        else:
            refuse_own_reference(reference)
        self._books.get(tenant)
        self._books.require_storage(tenant)
        asked = Refunding(tenant, request_id, amount_nano, actor, reference, note, now_ns)
        return row_of(await submitted(self._books, Refund(asked, self._books.future())))

    async def rerate(self, rerating: Rerating) -> RerateReport:
        """As the protocol says; two at a time would correct the same requests."""
        tally = Tally()
        async with self._working:
            async for page in corrections(self._reader, rerating, tally):
                await self._correct(page, rerating, tally)
        return tally.report(dry_run=rerating.dry_run)

    async def back_up(self, path: str) -> BackupReport:
        """As the protocol says."""
        try:
            return await asyncio.to_thread(back_up, self._path, path, self._watch.pause)
        except Stopped:
            raise Conflict("The ledger was closed while it was copied; there is no backup.") from None

    async def prune(self, before_ns: int, *, actor: str, dry_run: bool) -> PruneReport:
        """As the protocol says. Rows go in small steps between other commits; what is broken off is gone on with."""
        async with self._working:
            last = await last_request(self._reader)
            upto = await first_settled(self._reader, before_ns) - 1
            mark = await asyncio.to_thread(self._read, newest_watermark)
            requests = max(0, upto - mark.request)
            report = PruneReport(requests, max(0, last - max(upto, mark.request)), dry_run)
            if dry_run:
                return report
            if requests:
                mark = await self._write_watermark(mark, upto, actor)
            deleted = 1
            while deleted:
                result = await submitted(self._books, DeletePruned(mark.request, self._books.future()))
                deleted = result if isinstance(result, int) else 0
            return report

    async def keep_retention(self) -> None:
        """Prune what is older than the retention, once an hour, until cancelled."""
        while True:
            await self._clock.sleep(PRUNE_S)
            if self.retention_days is None:
                continue
            before_ns = (day_of(self._clock.now_ns()) - self.retention_days) * DAY_NS
            try:
                report = await self.prune(before_ns, actor="retention", dry_run=False)
            except RouterXError as error:
                log.error("old requests were not pruned: %s", error.message)
            else:
                if report.requests:
                    log.info("pruned %d requests older than %d days", report.requests, self.retention_days)

    async def _write_watermark(self, since: Watermark, upto: int, actor: str) -> Watermark:
        """Prove the books, and write down what vouches for the rows that go."""
        await self._watch.verify()
        proven = self._watch.proven
        if proven is None or proven[0] < upto or self._books.suspects or self._books.trouble is not None:
            raise Conflict("The books cannot be proven now, so nothing is pruned; see 'routerx ledger verify'.")

        def work(connection: sqlite3.Connection) -> tuple[bytes, tuple[Day, ...]]:
            seal = seal_transfers(connection, since, proven[1], self._watch.pause)
            return seal, sum_requests(connection, since.request, upto, self._watch.pause)

        try:
            seal, days = await asyncio.to_thread(self._read, work)
        except Unproven as error:
            raise Conflict(f"The books cannot be proven, so nothing is pruned: {error}.") from None
        mark = Watermark(since.id + 1, upto, proven[1], seal)
        await submitted(self._books, WriteWatermark(mark, days, actor, self._clock.now_ns(), self._books.future()))
        return mark

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """In a thread, on a connection of its own."""
        connection = connect_read_only(self._path)
        try:
            return work(connection)
        except Stopped:
            raise Conflict("The ledger was closed meanwhile; nothing was pruned.") from None
        except sqlite3.DatabaseError as error:
            raise Conflict(f"The ledger's file cannot be read, so nothing is pruned: {error}.") from error
        finally:
            connection.close()

    async def _correct(self, page: Sequence[Correction], rerating: Rerating, tally: Tally) -> None:
        """One page: what is owed on top is taken as far as the tenant's floor and holds leave room."""
        waiting: list[asyncio.Future[object]] = []
        taken: dict[str, int] = {}
        for tenant in {correction.tenant for correction in page}:
            self._books.require_storage(tenant)
        for correction in page:
            amount_nano = correction.amount_nano
            funds = self._books.get(correction.tenant)
            if amount_nano < 0:
                room_nano = max(0, funds.room_nano() - taken.get(correction.tenant, 0))
                amount_nano = -min(-amount_nano, room_nano)
            tally.add(amount_nano, amount_nano - correction.amount_nano)
            if amount_nano == 0:
                continue
            if rerating.dry_run:
                taken[correction.tenant] = taken.get(correction.tenant, 0) - min(amount_nano, 0)
                continue
            if amount_nano < 0:
                funds.balance_nano += amount_nano  # At once; taken back if the commit fails.
            waiting.append(
                submitted(
                    self._books, Post(self._posting(correction, amount_nano, rerating.actor), self._books.future())
                )
            )
        for result in await asyncio.gather(*waiting):
            row_of(result)

    def _posting(self, correction: Correction, amount_nano: int, actor: str) -> Posting:
        return Posting(
            kind="adjustment",
            tenant=correction.tenant,
            amount_nano=amount_nano,
            actor=actor,
            reference=correction.reference,
            note=correction.note,
            now_ns=self._clock.now_ns(),
            request=correction.request,
        )


def refuse_own_reference(reference: str) -> None:
    """Raises InvalidParameter for a reference that could be one of the ledger's own."""
    if reference.startswith(OWN_REFERENCES):
        own = ", ".join(repr(prefix) for prefix in OWN_REFERENCES)
        raise InvalidParameter(f"References that begin with {own} are the ledger's own.", param="reference")


def submitted(books: Books, op: Op) -> "asyncio.Future[object]":
    """The op's result, once it is durable. A caller that leaves does not undo what is on its way."""
    assert op.future is not None
    books.submit(op)
    return asyncio.shield(op.future)


def row_of(result: object) -> TransferRow:
    """The transfer of a Post or a Refund. Raises what a rule refused it with."""
    if isinstance(result, RouterXError):
        raise result
    assert isinstance(result, tuple)
    row, is_new = result
    assert isinstance(row, TransferRow)
    return row if is_new else msgspec.structs.replace(row, repeated=True)
