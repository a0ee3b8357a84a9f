"""The proof that is made of rows before they go: each is checked once more, and what it came to is written down."""

import sqlite3
from collections.abc import Callable

from routerx.ledger.batch import GENESIS, link
from routerx.ledger.proof import checks
from routerx.ledger.proof.checks import Progress
from routerx.ledger.proof.pruning import Day, Watermark, fold

PAGE_ROWS = 500

_TRANSFERS = """
SELECT t.id, t.ts_ns, t.kind, t.debit, t.credit, t.amount, t.tenant, t.balance, t.previous, r.id, t.ext_ref, t.reverses,
       t.actor, t.note, t.prev_hash, t.hash, t.request
FROM transfers AS t LEFT JOIN requests AS r ON r.n = t.request
WHERE t.id > ? AND t.id <= ? ORDER BY t.id LIMIT ?"""
_HASH = "SELECT hash FROM transfers WHERE id = ?"


class Unproven(Exception):
    """A row is not what it should be. The message says which."""


def seal_transfers(connection: sqlite3.Connection, since: Watermark, upto: int, pause: Callable[[], None]) -> bytes:
    """The seal of `since`, carried forward to transfer `upto` over an unbroken chain. Raises Unproven."""
    seal, last = since.seal, since.transfer
    found = connection.execute(_HASH, (last,)).fetchone()
    chain = GENESIS if found is None else found[0]
    while rows := connection.execute(_TRANSFERS, (last, upto, PAGE_ROWS)).fetchall():
        for row in rows:
            number, request_id, prev_hash, digest, request = row[0], row[9], row[14], row[15], row[16]
            is_pruned = request is not None and request_id is None and request <= since.request
            if prev_hash != chain or not (is_pruned or link(prev_hash, row[:14]) == digest):
                raise Unproven(f"the hash chain is broken at transfer {number}")
            seal, chain, last = fold(seal, row, request, digest), digest, number
        pause()
    return seal


def sum_requests(connection: sqlite3.Connection, since: int, upto: int, pause: Callable[[], None]) -> tuple[Day, ...]:
    """What the requests after `since` up to `upto` came to, by tenant and day. Raises Unproven."""
    progress = Progress()
    progress.request = since
    while progress.request < upto:
        bounds = (progress.request, min(progress.request + PAGE_ROWS, upto))
        rows = connection.execute(checks.REQUESTS, bounds).fetchall()
        if not rows:
            raise Unproven(f"request rows {bounds[0] + 1} to {bounds[1]} are missing")
        for row in rows:
            for invariant, message in checks.request(row, progress):
                raise Unproven(f"{invariant}: {message}")
        pause()
    return tuple((tenant, day, sums[0], sums[1]) for (tenant, day), sums in sorted(progress.days.items()))
