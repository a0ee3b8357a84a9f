"""What is given back of a charge: refunds, and the rule for what a re-rated request should have paid.

Both are new transfers; the charge and its request stay as they were. Together they never give back more than was
charged (I10), which the file enforces for refunds by itself.
"""

import asyncio
from typing import Any

import msgspec

from routerx.errors import Conflict, NotFound
from routerx.ledger.base import TransferRow
from routerx.ledger.batch import About, Batch
from routerx.ledger.ops import Op, by_reference, taken
from routerx.ledger.schema.initial import HOUSE_REVENUE
from routerx.money import format_usd

_encode = msgspec.json.Encoder().encode

CORRECTED = """
       coalesce((SELECT sum(f.amount) FROM transfers AS f WHERE f.reverses = c.id), 0),
       coalesce((SELECT sum(CASE x.credit WHEN x.tenant THEN x.amount ELSE -x.amount END) FROM transfers AS x
                 WHERE x.request = r.n AND x.kind = 'adjustment'), 0)"""
"""Of request r with charge c: nano-USD refunded, and nano-USD given back by re-rating (below 0: more was taken)."""

_CHARGE = f"""
SELECT a.id, a.name, c.id, c.amount, {CORRECTED}
FROM requests AS r
JOIN accounts AS a ON a.id = r.tenant
LEFT JOIN transfers AS c ON c.request = r.n AND c.kind IN ('charge', 'byok_fee')
WHERE r.id = ?"""  # noqa: S608 Constants from above only.


class Refunding(msgspec.Struct, frozen=True):
    """What of which request is to be given back, on whose word."""

    tenant: str
    request_id: str
    amount_nano: int | None
    """None: all that is left of the charge."""
    actor: str
    reference: str
    note: str | None
    now_ns: int


class Refund(Op):
    """Give a charge back, whole or in part. A known reference gives the first refund back."""

    __slots__ = ("refunding",)

    def __init__(self, refunding: Refunding, future: "asyncio.Future[Any]") -> None:
        super().__init__(future)
        self.refunding = refunding

    def apply(self, batch: Batch) -> object:
        """(row, whether it is new), or an error object."""
        asked = self.refunding
        batch.flush()
        known = by_reference(batch, asked.reference)
        if known is not None:
            return (known, False) if _is_same(known, asked) else taken(known)
        row = batch.connection.execute(_CHARGE, (asked.request_id,)).fetchone()
        if row is None or row[1] != asked.tenant:
            return NotFound(f"The books have no request {asked.request_id!r} of {asked.tenant!r}.", param="request_id")
        account, _, charge, charged, refunded, rerated = row
        if charge is None:
            return Conflict(f"Request {asked.request_id!r} was not charged: there is nothing to refund.")
        left = charged - refunded - max(rerated, 0)
        amount = asked.amount_nano if asked.amount_nano is not None else left
        if not 0 < amount <= left:
            return Conflict(
                f"Request {asked.request_id!r} was charged ${format_usd(charged)}, of which "
                f"${format_usd(charged - left)} is given back already: at most ${format_usd(left)} can be refunded."
            )
        about = About(reference=asked.reference, reverses=charge, actor=asked.actor, note=asked.note)
        posted = batch.transfer("refund", (HOUSE_REVENUE, account, account), amount, asked.now_ns, about)
        detail = {"transfer": posted[0], "reverses": charge, "amount_nano": amount}
        batch.audit(asked.actor, "money.refund", asked.tenant, _encode(detail).decode(), asked.now_ns)
        batch.flush()
        number, ts_ns, balance_nano = posted
        refund = TransferRow(
            id=number,
            ts_ns=ts_ns,
            kind="refund",
            tenant=asked.tenant,
            amount_nano=amount,
            balance_nano=balance_nano,
            request_id=asked.request_id,
            reference=asked.reference,
            actor=asked.actor,
            note=asked.note,
        )
        return refund, True


def _is_same(known: TransferRow, asked: Refunding) -> bool:
    return (known.kind, known.tenant, known.request_id) == ("refund", asked.tenant, asked.request_id) and (
        asked.amount_nano is None or known.amount_nano == asked.amount_nano
    )


class Paid(msgspec.Struct, frozen=True):
    """What a request has cost its tenant so far, in nano-USD."""

    cost: int
    """By the price at its time."""
    charged: int
    """Of that; the rest was written off."""
    refunded: int
    rerated: int
    """Given back by earlier re-ratings; below 0 where they took more."""


def correction_nano(paid: Paid, cost_nano: int) -> int:
    """What the tenant gets back (or owes more, below 0) where the request should have cost `cost_nano`.

    A write-off stays the house's loss: what becomes cheaper lowers that first, what becomes dearer is owed on top of
    the charge. Nobody gets back more than is left of the payment after refunds.
    """
    should = paid.charged + cost_nano - paid.cost if cost_nano >= paid.cost else min(paid.charged, cost_nano)
    has = paid.charged - paid.rerated
    return min(has - should, max(0, has - paid.refunded))
