"""The request log: every finished or refused request in full, in a file of its own, so that money never waits for it.

Rows are kept in memory and written in lots, about once a second; a crash may lose the last of them (the books have
their own row of everything that was charged). What floods in without being served is sampled. Prompts and answers
are never part of a record.
"""

import asyncio
import logging
import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import msgspec

from routerx.clock import Clock
from routerx.domain.record import RequestRecord
from routerx.ledger.database import create_private

log = logging.getLogger("routerx.ledger")

BUFFERED_MAX = 20_000
"""Records waiting for the disk; beyond it the newest are dropped and counted."""

FOLLOWED_MAX = 1_000
REFUSED_PER_SECOND_MAX = 100
"""Refused requests written per second; of a flood of them no more are kept."""

PRUNED_PER_STEP = 2_000
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS log(seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, tenant TEXT NOT NULL,"
    " model TEXT NOT NULL, outcome TEXT NOT NULL, started_ns INTEGER NOT NULL, detail BLOB NOT NULL) STRICT",
    "CREATE INDEX IF NOT EXISTS log_tenant ON log(tenant, seq)",
    "CREATE INDEX IF NOT EXISTS log_model ON log(model, seq)",
    "CREATE INDEX IF NOT EXISTS log_outcome ON log(outcome, seq)",
)
_INSERT = "INSERT OR IGNORE INTO log(id, tenant, model, outcome, started_ns, detail) VALUES (?, ?, ?, ?, ?, ?)"
_PRUNE = "DELETE FROM log WHERE seq IN (SELECT seq FROM log ORDER BY seq LIMIT ?) AND started_ns < ?"

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(RequestRecord).decode


class RequestLog:
    """Owned by the event loop; one thread of its own does the writing."""

    def __init__(self, path: str, clock: Clock) -> None:
        self._clock = clock
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="routerx-log")
        self._connection = _open(path)
        self._buffer: list[RequestRecord] = []
        self._writing: asyncio.Future[None] | None = None
        self._followers: list[asyncio.Queue[RequestRecord]] = []
        self._second = 0
        self._refused_this_second = 0
        self.dropped = 0
        """Records that never reached the file: over a maximum, or the file could not be written."""

    def add(self, record: RequestRecord, *, refused: bool) -> None:
        """Keep a record; `refused` ones only up to a rate."""
        if (refused and not self._admits_refused()) or len(self._buffer) >= BUFFERED_MAX:
            self.dropped += 1
        else:
            self._buffer.append(record)
        for queue in self._followers:
            if not queue.full():
                queue.put_nowait(record)

    def follow(self) -> asyncio.Queue[RequestRecord]:
        queue: asyncio.Queue[RequestRecord] = asyncio.Queue(FOLLOWED_MAX)
        self._followers.append(queue)
        return queue

    def unfollow(self, queue: asyncio.Queue[RequestRecord]) -> None:
        if queue in self._followers:
            self._followers.remove(queue)

    async def flush(self) -> None:
        """Returns when everything added before this call is in the file, or counted as dropped."""
        while self._writing is not None and not self._writing.done():  # Waiting for one that is done yields to nobody.
            await asyncio.shield(self._writing)
        if not self._buffer:
            return
        records, self._buffer = self._buffer, []
        writing = asyncio.get_running_loop().run_in_executor(self._executor, self._write, records)
        self._writing = writing
        writing.add_done_callback(self._written)
        await asyncio.shield(writing)

    async def prune(self, retention_days: int) -> None:
        """Delete records that are older than `retention_days`, oldest first, in small steps."""
        before_ns = self._clock.now_ns() - retention_days * 86_400 * 10**9
        loop = asyncio.get_running_loop()
        deleted = PRUNED_PER_STEP
        while deleted == PRUNED_PER_STEP:
            deleted = await loop.run_in_executor(self._executor, self._prune, before_ns)

    async def close(self) -> None:
        await self.flush()
        await asyncio.to_thread(self._executor.shutdown)
        self._connection.close()

    def _written(self, writing: "asyncio.Future[None]") -> None:
        if self._writing is writing:
            self._writing = None

    def _admits_refused(self) -> bool:
        second = int(self._clock.monotonic_s())
        if second != self._second:
            self._second, self._refused_this_second = second, 0
        self._refused_this_second += 1
        return self._refused_this_second <= REFUSED_PER_SECOND_MAX

    def _write(self, records: list[RequestRecord]) -> None:
        """In the log's thread. A log that cannot be written never stops a request."""
        # Encoded one by one between inserts, so that the interpreter lock is never held for long.
        rows = (row for record in records if (row := self._row(record)) is not None)
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany(_INSERT, rows)
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            self.dropped += len(records)
            log.warning("%d records of the request log were not written: %s", len(records), error)

    def _row(self, record: RequestRecord) -> tuple[str, str, str, str, int, bytes] | None:
        try:
            return record.id, record.tenant, record.model, str(record.outcome), record.started_ns, encode(record)
        except (ValueError, TypeError, OverflowError) as error:
            self.dropped += 1
            log.error("the record of request %r cannot be logged: %s", record.id, error)
            return None

    def _prune(self, before_ns: int) -> int:
        try:
            return self._connection.execute(_PRUNE, (PRUNED_PER_STEP, before_ns)).rowcount
        except sqlite3.Error as error:
            log.warning("the request log was not pruned: %s", error)
            return 0


def _open(path: str) -> sqlite3.Connection:
    """The file, made anew when the old one cannot be read: it is moved aside, not deleted."""
    try:
        return _connect(path)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise
        aside = f"{path}.unreadable"
        log.error("the request log %r is damaged (%s); it was moved to %r", path, error, aside)
        for suffix in ("", "-wal", "-shm"):
            if os.path.exists(path + suffix):
                os.replace(path + suffix, aside + suffix)
        return _connect(path)


def _connect(path: str) -> sqlite3.Connection:
    create_private(path)
    connection = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        for statement in _SCHEMA:
            connection.execute(statement)
    except BaseException:
        connection.close()
        raise
    return connection
