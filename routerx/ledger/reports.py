"""What people ask of the files: statements, the request log, one request. Read-only connections with a deadline."""

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import aiosqlite
import msgspec

from routerx.domain.pricing import PriceSnapshot
from routerx.domain.record import AttemptRecord, BillingMode, RequestRecord
from routerx.domain.usage import Usage, UsageSource
from routerx.errors import StorageBusy
from routerx.ledger.base import AuditRow, LogQuery, TransferRow
from routerx.ledger.beside.requestlog import decode

QUERY_S_MAX = 2.0
"""A reader that takes longer is stopped: while it reads, the WAL cannot shrink (FAULTS.md 92)."""

ROWS_MAX = 10_000
_STEPS_PER_LOOK = 10_000

_STATEMENT = """
WITH RECURSIVE statement(id, previous) AS (
  SELECT t.id, t.previous FROM transfers AS t JOIN accounts AS a ON a.last_transfer = t.id
  WHERE a.kind = 'tenant' AND a.name = ?1
  UNION ALL
  SELECT t.id, t.previous FROM statement AS s JOIN transfers AS t ON t.id = s.previous LIMIT ?2
)
SELECT t.id, t.ts_ns, t.kind, ?1, CASE t.debit WHEN t.tenant THEN -t.amount ELSE t.amount END, t.balance,
       r.id, t.ext_ref, t.actor, t.note
FROM statement AS s
JOIN transfers AS t ON t.id = s.id
LEFT JOIN transfers AS c ON c.id = t.reverses
LEFT JOIN requests AS r ON r.n = coalesce(t.request, c.request)
ORDER BY t.id"""

_HISTORY = """
SELECT id, ts_ns, actor, action, subject, detail FROM audit
WHERE subject = ?1 OR subject IN (
  SELECT k.id FROM keys AS k JOIN accounts AS a ON a.id = k.tenant WHERE a.kind = 'tenant' AND a.name = ?1)
ORDER BY id DESC LIMIT ?2"""

_DETAIL = "SELECT detail FROM log WHERE id = ?"
_SEQUENCE = "SELECT seq FROM log WHERE id = ?"
_FIRST_AFTER = "SELECT coalesce(min(seq), 0) FROM (SELECT seq FROM log WHERE id > ? ORDER BY id LIMIT ?)"
SETTLED_LATER_MAX = 1_000
"""Requests that began later but settled earlier, of which none is missed."""

_REQUEST = """
SELECT r.n, r.id, a.name, r.key_id, r.operation, r.model, r.endpoint, r.provider, r.stream, r.outcome, r.http_status,
       r.billing, r.usage, r.usage_source, r.price, r.cost, r.held, r.provider_cost, r.flags, r.started_ns,
       r.duration_ms
FROM requests AS r JOIN accounts AS a ON a.id = r.tenant WHERE r.id = ?"""

_ATTEMPTS = """
SELECT n, endpoint, provider, credential_id, outcome, upstream_status, dispatched, started_ms, first_byte_ms,
       duration_ms, won, cost_est
FROM attempts WHERE request = ? ORDER BY n"""

# Numbers of requests grow with the time they settled at, so the first of a time is found by halving.
_AT = "SELECT settled_ns FROM requests WHERE n >= ? ORDER BY n LIMIT 1"
_LAST = "SELECT coalesce(max(n), 0) FROM requests"


class Reader:
    """One read-only connection. Queries queue behind each other in its thread."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection
        self._turn = asyncio.Lock()
        self._until_s = 0.0

    @classmethod
    async def open(cls, path: str) -> "Reader":
        connection = await aiosqlite.connect(f"file:{quote(path)}?mode=ro", uri=True, isolation_level=None)
        reader = cls(connection)
        await connection.execute("PRAGMA query_only = ON")
        await connection.set_progress_handler(reader._over, _STEPS_PER_LOOK)
        return reader

    async def fetch(self, sql: str, parameters: Sequence[object]) -> list[sqlite3.Row]:
        """All rows. Raises StorageBusy when it takes longer than QUERY_S_MAX."""
        try:
            async with self._turn:  # One at a time, so that each has the whole of its own deadline.
                self._until_s = time.monotonic() + QUERY_S_MAX
                return list(await self._connection.execute_fetchall(sql, parameters))
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_BUSY):
                raise StorageBusy(f"The query took over {QUERY_S_MAX:g} s; narrow it down.") from error
            raise

    async def close(self) -> None:
        await self._connection.close()

    def _over(self) -> int:
        return 1 if time.monotonic() > self._until_s else 0


async def transfers(books: Reader, tenant: str, limit: int) -> tuple[TransferRow, ...]:
    """The tenant's latest transfers, oldest first."""
    rows = await books.fetch(_STATEMENT, (tenant, _bounded(limit)))
    return tuple(TransferRow(*row) for row in rows)


async def history(reader: Reader, tenant: str, limit: int) -> tuple[AuditRow, ...]:
    """The latest audit rows of a tenant and of its keys, oldest first."""
    rows = await reader.fetch(_HISTORY, (tenant, _bounded(limit)))
    return tuple(AuditRow(*row) for row in reversed(rows))


async def log(requests: Reader, query: LogQuery) -> tuple[RequestRecord, ...]:
    """As Ledger.log."""
    conditions: list[str] = []
    parameters: list[object] = []
    for column, value in (("tenant", query.tenant), ("model", query.model), ("outcome", query.outcome)):
        if value is not None:
            conditions.append(f"{column} = ?")
            parameters.append(value)
    if query.after_id is not None:
        found = await requests.fetch(_SEQUENCE, (query.after_id,))
        if found:
            conditions.append("seq > ?")
            parameters.append(found[0][0])
        else:  # A pruned or lost id still says when its request began.
            (first,) = await requests.fetch(_FIRST_AFTER, (query.after_id, SETTLED_LATER_MAX))
            conditions += ["seq >= ?", "id > ?"]
            parameters += [first[0], query.after_id]
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    order = "ASC" if query.after_id is not None else "DESC"
    sql = f"SELECT detail FROM log {where} ORDER BY seq {order} LIMIT ?"  # noqa: S608 Constants from above only.
    rows = await requests.fetch(sql, (*parameters, _bounded(query.limit)))
    records = [decode(row[0]) for row in rows]
    return tuple(records if query.after_id is not None else reversed(records))


async def request(requests: Reader, books: Reader, request_id: str) -> RequestRecord | None:
    """From the log; where that has forgotten it, what the books know of it."""
    rows = await requests.fetch(_DETAIL, (request_id,))
    if rows:
        return decode(rows[0][0])
    return await booked(books, request_id)


async def booked(books: Reader, request_id: str) -> RequestRecord | None:
    """What the books know of a request."""
    rows = await books.fetch(_REQUEST, (request_id,))
    if not rows:
        return None
    attempts = await books.fetch(_ATTEMPTS, (rows[0][0],))
    return _from_books(rows[0], attempts)


async def last_request(books: Reader) -> int:
    """The number of the newest request; 0 where there is none."""
    return int((await books.fetch(_LAST, ()))[0][0])


async def first_settled(books: Reader, since_ns: int) -> int:
    """The smallest number of a request that has settled since then; one above the last where none has."""
    low, high = 1, await last_request(books) + 1
    while low < high:
        middle = (low + high) // 2
        rows = await books.fetch(_AT, (middle,))
        if rows and rows[0][0] < since_ns:
            low = middle + 1
        else:
            high = middle
    return low


def _from_books(row: Sequence[Any], attempts: Sequence[Sequence[Any]]) -> RequestRecord:
    return RequestRecord(
        id=row[1],
        tenant=row[2],
        key_id=row[3],
        operation=row[4],
        model=row[5],
        endpoint=row[6],
        provider=row[7],
        stream=bool(row[8]),
        outcome=row[9],
        http_status=row[10],
        billing=BillingMode(row[11]),
        usage=None if row[12] is None else msgspec.json.decode(row[12], type=Usage),
        usage_source=UsageSource(row[13]),
        price=None if row[14] is None else msgspec.json.decode(row[14], type=PriceSnapshot),
        cost_nano=row[15],
        held_nano=row[16],
        provider_cost_nano=row[17],
        started_ns=row[19],
        duration_ms=row[20],
        ttft_ms=None,
        overhead_us=0,
        attempts=tuple(_attempt(attempt) for attempt in attempts),
        flags=tuple(row[18].split(",")) if row[18] else (),
    )


def _attempt(row: Sequence[Any]) -> AttemptRecord:
    return AttemptRecord(
        n=row[0],
        endpoint=row[1],
        provider=row[2],
        credential_id=row[3],
        outcome=row[4],
        upstream_status=row[5],
        dispatched=bool(row[6]),
        started_ms=row[7],
        first_byte_ms=row[8],
        duration_ms=row[9],
        won=bool(row[10]),
        cost_est_nano=row[11],
    )


def _bounded(limit: int) -> int:
    return max(0, min(limit, ROWS_MAX))
