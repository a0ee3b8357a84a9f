"""Letting old request rows go while the file still proves every balance.

Transfers, audit rows and daily figures stay. Before any row goes, a watermark is written down: up to which request rows
may go, the sums of their charges by tenant and day, and a seal over the transfers so far. The hash of a charge holds
its request's id, which goes with the row, so from then on the seal vouches for those transfers instead. The watermark
itself is bound by the audit chain, and the file's triggers let go of nothing that lies above the newest one.
"""

import asyncio
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from routerx.ledger.batch import GENESIS, Batch, link
from routerx.ledger.ops import Op

ROWS_PER_STEP = 200
"""Requests deleted in one op: some milliseconds of the writer's time, shared with whatever else is waiting."""

_WATERMARK = "SELECT id, request, transfer, seal FROM watermarks ORDER BY id DESC LIMIT 1"
_WATERMARKS = "SELECT id, request, transfer, hex(seal), hex(days) FROM watermarks ORDER BY id"
_PRUNED_DAYS = "SELECT tenant, day, requests, charged FROM pruned_days WHERE watermark = ? ORDER BY tenant, day"
_HAS_TABLE = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'watermarks'"

_OLDEST = "(SELECT n FROM requests WHERE n <= ? ORDER BY n LIMIT ?)"
_DELETE_ATTEMPTS = f"DELETE FROM attempts WHERE request IN {_OLDEST}"  # noqa: S608 A constant from above.
_DELETE_REQUESTS = f"DELETE FROM requests WHERE n IN {_OLDEST}"  # noqa: S608 A constant from above.
_INSERT_WATERMARK = "INSERT INTO watermarks(id, ts_ns, request, transfer, seal, days) VALUES (?, ?, ?, ?, ?, ?)"
_INSERT_DAYS = "INSERT INTO pruned_days(watermark, tenant, day, requests, charged) VALUES (?, ?, ?, ?, ?)"

Day = tuple[int, int, int, int]
"""(account id, UTC day, requests, nano-USD charged)."""


class Watermark(msgspec.Struct, frozen=True):
    """Request rows up to `request` may be gone; `seal` vouches for the transfers up to `transfer` that name one."""

    id: int = 0
    request: int = 0
    transfer: int = 0
    seal: bytes = GENESIS


def newest_watermark(connection: sqlite3.Connection) -> Watermark:
    """Zeros where nothing was ever pruned, or the file is of a version that could not."""
    if connection.execute(_HAS_TABLE).fetchone() is None:
        return Watermark()
    row = connection.execute(_WATERMARK).fetchone()
    return Watermark() if row is None else Watermark(*row)


def fold(seal: bytes, values: Sequence[object], request: int | None, digest: bytes) -> bytes:
    """The seal with one more transfer in it: `values` are its columns as they are hashed, `digest` is its hash. What
    names no request is proven by its own hash for ever and left out."""
    if request is None:
        return seal
    return link(seal, (*values[:9], request, *values[10:14], digest.hex()))


def days_digest(days: Iterable[Day]) -> bytes:
    """One hash over the sums of a watermark, by tenant and day."""
    digest = GENESIS
    for day in days:
        digest = link(digest, day)
    return digest


def recorded(connection: sqlite3.Connection) -> tuple[tuple[str, ...], tuple[Day, ...], list[int]]:
    """(what the audit chain must say of each watermark, all day sums, watermarks whose sums have been changed)."""
    if connection.execute(_HAS_TABLE).fetchone() is None:
        return (), (), []
    details: list[str] = []
    every: list[Day] = []
    changed: list[int] = []
    for number, request, transfer, seal, digest in connection.execute(_WATERMARKS).fetchall():
        days = connection.execute(_PRUNED_DAYS, (number,)).fetchall()
        details.append(audit_detail(Watermark(number, request, transfer, bytes.fromhex(seal)), bytes.fromhex(digest)))
        if days_digest(days).hex() != digest.lower():
            changed.append(number)
        every += days
    return tuple(details), tuple(every), changed


def audit_detail(watermark: Watermark, days: bytes) -> str:
    """A watermark, as the audit chain holds it."""
    values = {
        "watermark": watermark.id,
        "request": watermark.request,
        "transfer": watermark.transfer,
        "seal": watermark.seal.hex(),
        "days": days.hex(),
    }
    return msgspec.json.encode(values).decode()


class WriteWatermark(Op):
    """Write down what vouches for the rows that may go."""

    __slots__ = ("actor", "days", "now_ns", "watermark")

    def __init__(
        self, watermark: Watermark, days: Sequence[Day], actor: str, now_ns: int, future: "asyncio.Future[Any]"
    ) -> None:
        super().__init__(future)
        self.watermark, self.days, self.actor, self.now_ns = watermark, days, actor, now_ns

    def apply(self, batch: Batch) -> object:
        mark, digest = self.watermark, days_digest(self.days)
        batch.flush()
        batch.connection.execute(
            _INSERT_WATERMARK, (mark.id, self.now_ns, mark.request, mark.transfer, mark.seal, digest)
        )
        for day in self.days:
            batch.connection.execute(_INSERT_DAYS, (mark.id, *day))
        batch.audit(self.actor, "ledger.prune", "requests", audit_detail(mark, digest), self.now_ns)
        return None


class DeletePruned(Op):
    """Delete the oldest rows at or below a watermark that is written down."""

    __slots__ = ("upto",)

    def __init__(self, upto: int, future: "asyncio.Future[Any]") -> None:
        super().__init__(future)
        self.upto = upto

    def apply(self, batch: Batch) -> object:
        """How many requests went."""
        batch.connection.execute(_DELETE_ATTEMPTS, (self.upto, ROWS_PER_STEP))
        return batch.connection.execute(_DELETE_REQUESTS, (self.upto, ROWS_PER_STEP)).rowcount
