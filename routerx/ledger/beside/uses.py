"""Which idempotency keys have been used, on disk: what is left of them after a crash.

A row is a digest of whose key it is, a digest of the request and the id that it was served under; neither keys nor
prompts nor answers are here. It is on disk before the request goes anywhere, so a charge never stands in the ledger
without it. Requests that come at once share one flush.
"""

import sqlite3
from collections.abc import Callable
from typing import TypeVar

import msgspec

from routerx.errors import StorageUnavailable
from routerx.ledger.beside.sidefile import SideFile, SideFileOptions

T = TypeVar("T")

SWEEP_ROWS = 1_000
"""Expired rows that are removed in one transaction."""

_SCHEMA = (
    """
CREATE TABLE IF NOT EXISTS uses(
  scope BLOB PRIMARY KEY,
  fingerprint BLOB NOT NULL,
  request TEXT NOT NULL,
  expires_ns INTEGER NOT NULL
) STRICT, WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS uses_by_expiry ON uses(expires_ns)",
)
_EXPIRE = "DELETE FROM uses WHERE scope = ? AND expires_ns <= ?"
_CLAIM = "INSERT INTO uses VALUES (?, ?, ?, ?) ON CONFLICT(scope) DO NOTHING"
_FIND = "SELECT fingerprint, request, expires_ns FROM uses WHERE scope = ?"
_RETAKE = "INSERT OR REPLACE INTO uses VALUES (?, ?, ?, ?)"
_DROP = "DELETE FROM uses WHERE scope = ? AND request = ?"
_SWEEP = f"DELETE FROM uses WHERE scope IN (SELECT scope FROM uses WHERE expires_ns <= ? LIMIT {SWEEP_ROWS})"  # noqa: S608 - a constant.


class UseRow(msgspec.Struct, frozen=True):
    """One use of one key."""

    fingerprint: bytes
    request_id: str
    expires_ns: int
    """Wall clock."""


class UseIndex:
    """The file. What is awaited raises StorageUnavailable, and is durable when it returns."""

    def __init__(self, path: str) -> None:
        self._file = SideFile(SideFileOptions(path=path, schema=_SCHEMA, synchronous="FULL"))

    async def claim(self, scope: bytes, use: UseRow, now_ns: int) -> UseRow | None:
        """Write the use down; the one that is there already, where there is one that has not expired."""

        def work(db: sqlite3.Connection) -> UseRow | None:
            db.execute(_EXPIRE, (scope, now_ns))
            if db.execute(_CLAIM, _values(scope, use)).rowcount == 1:
                return None
            return UseRow(*db.execute(_FIND, (scope,)).fetchone())

        return await self._durably(work)

    async def retake(self, scope: bytes, use: UseRow) -> None:
        """A use that came to nothing is taken over by another request."""
        await self._durably(lambda db: db.execute(_RETAKE, _values(scope, use)))

    def drop(self, scope: bytes, use: UseRow) -> None:
        """The use came to nothing: its key is free for whatever is asked of this from now on. If this is lost, the
        ledger has nothing to say of its request, which frees the key just as well."""
        self._file.submit(lambda db: db.execute(_DROP, (scope, use.request_id)))

    async def sweep(self, now_ns: int) -> None:
        """Remove what has expired, a little at a time."""
        while self._file.exists:
            if await self._durably(lambda db: db.execute(_SWEEP, (now_ns,)).rowcount) < SWEEP_ROWS:
                return

    async def close(self) -> None:
        """Once what was begun is done."""
        await self._file.close()

    async def _durably(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await self._file.submit(work)
        except (sqlite3.Error, OSError):
            raise StorageUnavailable(
                "The use of this Idempotency-Key cannot be written down. Send the request again later.", retry_after_s=1
            ) from None


def _values(scope: bytes, use: UseRow) -> tuple[bytes, bytes, str, int]:
    return scope, use.fingerprint, use.request_id, use.expires_ns
