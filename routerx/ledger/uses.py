"""Which idempotency keys have been used, on disk: what is left of them after a crash.

A row is a digest of whose key it is, a digest of the request and the id that it was served under; neither keys nor
prompts nor answers are here. It is on disk before the request goes anywhere, so a charge never stands in the ledger
without it.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import msgspec

from routerx.errors import StorageUnavailable

T = TypeVar("T")

SWEEP_EVERY = 256
"""Claims between two removals of what has expired."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS uses(
  scope BLOB PRIMARY KEY,
  fingerprint BLOB NOT NULL,
  request TEXT NOT NULL,
  expires_ns INTEGER NOT NULL
) STRICT, WITHOUT ROWID"""
_CLAIM = "INSERT INTO uses VALUES (?, ?, ?, ?) ON CONFLICT(scope) DO NOTHING"
_FIND = "SELECT fingerprint, request, expires_ns FROM uses WHERE scope = ?"
_RETAKE = "UPDATE uses SET request = ?, expires_ns = ? WHERE scope = ? AND request = ?"
_DROP = "DELETE FROM uses WHERE scope = ? AND request = ?"


class UseRow(msgspec.Struct, frozen=True):
    """One use of one key."""

    fingerprint: bytes
    request_id: str
    expires_ns: int
    """Wall clock."""


class UseIndex:
    """The file. Every method but close() raises StorageUnavailable; each is durable when it returns."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, "idempotency")
        self._connection: sqlite3.Connection | None = None
        self._claims = 0

    async def claim(self, scope: bytes, use: UseRow, now_ns: int) -> UseRow | None:
        """Write the use down; the one that is there already, where there is one that has not expired."""

        def work(db: sqlite3.Connection) -> UseRow | None:
            self._claims += 1
            if self._claims % SWEEP_EVERY == 1:
                db.execute("DELETE FROM uses WHERE expires_ns <= ?", (now_ns,))
            db.execute("DELETE FROM uses WHERE scope = ? AND expires_ns <= ?", (scope, now_ns))
            row = (scope, use.fingerprint, use.request_id, use.expires_ns)
            if db.execute(_CLAIM, row).rowcount == 1:
                return None
            return UseRow(*db.execute(_FIND, (scope,)).fetchone())

        return await self._run(work)

    async def retake(self, scope: bytes, was: UseRow, use: UseRow) -> None:
        """A use that came to nothing is taken over by another request."""
        await self._run(lambda db: db.execute(_RETAKE, (use.request_id, use.expires_ns, scope, was.request_id)))

    async def drop(self, scope: bytes, use: UseRow) -> None:
        """The use came to nothing: its key is free again."""
        await self._run(lambda db: db.execute(_DROP, (scope, use.request_id)))

    async def close(self) -> None:
        """Once what was begun is done."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, work)
        except sqlite3.Error:
            raise StorageUnavailable(
                "The use of this Idempotency-Key cannot be written down. Send the request again later.", retry_after_s=1
            ) from None

    def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        db = self._connection
        if db is None:  # With the first key: who never sends one has no file.
            db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute(_SCHEMA)
            self._connection = db
        db.execute("BEGIN IMMEDIATE")
        try:
            found = work(db)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        return found

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
