"""Transfers as they are in the file, oldest first, for other programs. Read-only, in pages, beside a running server."""

import sqlite3
from collections.abc import Iterator

import msgspec

from routerx.errors import LedgerUnusable, NotFound
from routerx.ledger.database import connect_read_only, recognise

PAGE_ROWS = 1_000

_PAGE = """
SELECT t.id, t.ts_ns, t.kind, a.name, CASE t.debit WHEN t.tenant THEN -t.amount ELSE t.amount END, t.balance,
       r.id, r.model, r.endpoint, r.billing, t.ext_ref, t.reverses, t.actor, t.note
FROM transfers AS t
JOIN accounts AS a ON a.id = t.tenant
LEFT JOIN transfers AS c ON c.id = t.reverses
LEFT JOIN requests AS r ON r.n = coalesce(t.request, c.request)
WHERE t.id >= ?1 AND t.id < ?2 AND (?3 IS NULL OR t.tenant = ?3) ORDER BY t.id"""

_ACCOUNT = "SELECT id FROM accounts WHERE kind = 'tenant' AND name = ?"
_LAST = "SELECT coalesce(max(id), 0) FROM transfers"
_AT = "SELECT ts_ns FROM transfers WHERE id = ?"


class ExportQuery(msgspec.Struct, frozen=True):
    """Which transfers: of one tenant or of all, from `since_ns` on, before `until_ns`."""

    tenant: str | None = None
    since_ns: int | None = None
    until_ns: int | None = None


class ExportedTransfer(msgspec.Struct, frozen=True):
    """One transfer with what it was for; amounts in nano-USD, positive towards the tenant."""

    id: int
    ts_ns: int
    kind: str
    tenant: str
    amount_nano: int
    balance_nano: int
    request_id: str | None
    model: str | None
    endpoint: str | None
    billing: str | None
    reference: str | None
    reverses: int | None
    actor: str | None
    note: str | None


def exported(path: str, query: ExportQuery) -> Iterator[ExportedTransfer]:
    """What was there when it began. Raises LedgerUnusable where there is no ledger, NotFound for an unknown tenant."""
    connection = connect_read_only(path)
    try:
        if recognise(connection, path) == 0:
            raise LedgerUnusable(f"there is no ledger in {path!r} yet")
        account = None
        if query.tenant is not None:
            found = connection.execute(_ACCOUNT, (query.tenant,)).fetchone()
            if found is None:
                raise NotFound(f"The ledger has no tenant {query.tenant!r}.", param="tenant")
            account = found[0]
        (last,) = connection.execute(_LAST).fetchone()
        start = 1 if query.since_ns is None else _first_at(connection, query.since_ns, last)
        end = last + 1 if query.until_ns is None else _first_at(connection, query.until_ns, last)
        for page in range(start, end, PAGE_ROWS):
            for row in connection.execute(_PAGE, (page, min(page + PAGE_ROWS, end), account)).fetchall():
                yield ExportedTransfer(*row)
    except sqlite3.DatabaseError as error:
        raise LedgerUnusable(f"the ledger {path!r} cannot be read: {error}") from error
    finally:
        connection.close()


def _first_at(connection: sqlite3.Connection, since_ns: int, last: int) -> int:
    """The first transfer at or after a time, found by halving: their times never run backwards."""
    low, high = 1, last + 1
    while low < high:
        middle = (low + high) // 2
        if connection.execute(_AT, (middle,)).fetchone()[0] < since_ns:
            low = middle + 1
        else:
            high = middle
    return low
