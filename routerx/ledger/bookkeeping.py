"""What operators do to books that are written already: refunds and re-rating."""

import asyncio
from collections.abc import Sequence

from routerx.clock import Clock
from routerx.errors import InvalidParameter, RouterXError
from routerx.ids import new_id
from routerx.ledger.base import RerateReport, Rerating, TransferRow
from routerx.ledger.books import Books
from routerx.ledger.corrections import Refund, Refunding
from routerx.ledger.ops import Op, Post, Posting
from routerx.ledger.reports import Reader
from routerx.ledger.rerating import Correction, Tally, corrections
from routerx.money import MAX_NANO, format_usd

OWN_REFERENCES = ("opening:", "refund:", "rerate:")
"""Beginnings of references that the ledger gives out itself."""


class SqliteBookkeeper:
    """Implements routerx.ledger.base.Bookkeeper for SqliteLedger."""

    def __init__(self, books: Books, reader: Reader, clock: Clock) -> None:
        self._books = books
        self._reader = reader
        self._clock = clock
        self._rerating = asyncio.Lock()

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
        async with self._rerating:
            async for page in corrections(self._reader, rerating, tally):
                await self._correct(page, rerating, tally)
        return tally.report(dry_run=rerating.dry_run)

    async def _correct(self, page: Sequence[Correction], rerating: Rerating, tally: Tally) -> None:
        """One page: what is owed on top is taken as far as the tenant's floor and holds leave room."""
        waiting: list[asyncio.Future[object]] = []
        taken: dict[str, int] = {}
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
            self._books.require_storage(correction.tenant)
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
    row, _ = result
    assert isinstance(row, TransferRow)
    return row
