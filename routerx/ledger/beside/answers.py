"""Answers that were given under idempotency keys, on disk and encrypted: told again after a restart.

Apart from the ledger, and worth nothing for the books: what is lost here is an answer that cannot be told again. Each
is sealed for the one use of the one key that it was given for. Nobody waits for one to be written.
"""

import logging
import os
import sqlite3
from collections.abc import Callable

from routerx.errors import ConfigError, StorageUnavailable
from routerx.ledger.beside.sidefile import SideFile, SideFileOptions
from routerx.vault import SealBroken, Vault

log = logging.getLogger("routerx.ledger")

PENDING_BYTES_MAX = 32 * 1024 * 1024
"""Answers on their way to a slow disk; beyond it they are kept in memory alone."""
FREE_BYTES_MIN = 256 * 1024 * 1024
"""On a disk with less than this no answer is written: the room is left to the books."""
SWEEP_ROWS = 100
"""Expired answers that are removed in one transaction."""

_KIND = b"answer\x00"
_SCHEMA = (
    """
CREATE TABLE IF NOT EXISTS answers(
  id INTEGER PRIMARY KEY,
  request TEXT NOT NULL UNIQUE,
  expires_ns INTEGER NOT NULL,
  bytes INTEGER NOT NULL,
  sealed BLOB NOT NULL
) STRICT""",
    "CREATE INDEX IF NOT EXISTS answers_by_expiry ON answers(expires_ns)",
    "CREATE TABLE IF NOT EXISTS total(id INTEGER PRIMARY KEY CHECK (id = 1), bytes INTEGER NOT NULL) STRICT",
    "INSERT OR IGNORE INTO total VALUES (1, 0)",
    """
CREATE TRIGGER IF NOT EXISTS answers_come AFTER INSERT ON answers
BEGIN UPDATE total SET bytes = bytes + NEW.bytes; END""",
    """
CREATE TRIGGER IF NOT EXISTS answers_go AFTER DELETE ON answers
BEGIN UPDATE total SET bytes = bytes - OLD.bytes; END""",
    "PRAGMA secure_delete = ON",  # What has expired does not stay in pages that nobody needs yet.
)
_PUT = "INSERT INTO answers(request, expires_ns, bytes, sealed) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
_TOTAL = "SELECT bytes FROM total"
_DROP_OLDEST = "DELETE FROM answers WHERE id = (SELECT min(id) FROM answers)"
_GET = "SELECT sealed FROM answers WHERE request = ? AND expires_ns > ?"
_SWEEP = f"DELETE FROM answers WHERE id IN (SELECT id FROM answers WHERE expires_ns <= ? LIMIT {SWEEP_ROWS})"  # noqa: S608


class AnswerStore:
    """The file, of at most `bytes_max` bytes of answers; the oldest go first."""

    def __init__(self, path: str, vault: Callable[[], Vault], bytes_max: int) -> None:
        """`vault` may block and raise ConfigError; it is asked in the store's thread."""
        self._file = SideFile(SideFileOptions(path=path, schema=_SCHEMA, synchronous="NORMAL", expendable=True))
        self._path = path
        self._vault = vault
        self._bytes_max = bytes_max
        self._pending_bytes = 0

    def put(self, scope: bytes, request_id: str, expires_ns: int, plain: bytes) -> None:
        """Have an answer written, some time soon."""
        size = len(plain)
        if size > self._bytes_max or self._pending_bytes + size > PENDING_BYTES_MAX:
            return
        self._pending_bytes += size

        def work(db: sqlite3.Connection) -> None:
            if not self._disk_has_room():
                return
            try:
                sealed = self._vault().seal(plain, _context(scope, request_id))
            except ConfigError as error:
                log.error("an answer cannot be kept for its idempotency key: %s", error.message)
                return
            db.execute(_PUT, (request_id, expires_ns, len(sealed), sealed))
            while db.execute(_TOTAL).fetchone()[0] > self._bytes_max and db.execute(_DROP_OLDEST).rowcount:
                continue

        def written(_: object) -> None:
            self._pending_bytes -= size

        self._file.submit(work).add_done_callback(written)

    def _disk_has_room(self) -> bool:
        disk = os.statvfs(os.path.dirname(os.path.abspath(self._path)))
        return disk.f_bavail * disk.f_frsize >= FREE_BYTES_MIN

    async def get(self, scope: bytes, request_id: str, now_ns: int) -> bytes | None:
        """The answer to this request; None where it is not here, or its seal is of a key that is gone. Raises
        StorageUnavailable."""

        def work(db: sqlite3.Connection) -> bytes | None:
            found = db.execute(_GET, (request_id, now_ns)).fetchone()
            try:
                return None if found is None else self._vault().open(found[0], _context(scope, request_id))
            except ConfigError as error:
                log.error("an answer to an idempotency key cannot be opened: %s", error.message)
            except SealBroken:
                log.warning("an answer to an idempotency key was sealed with a vault key that is not here any more")
            return None

        for _ in range(2):  # It may have failed with others' work, or in a damaged file that is gone by now.
            try:
                return await self._file.submit(work) if self._file.exists else None
            except (sqlite3.Error, OSError):
                continue
        raise StorageUnavailable(
            "The answer kept for this Idempotency-Key cannot be read. Send the request again later.", retry_after_s=1
        )

    async def sweep(self, now_ns: int) -> None:
        """Remove what has expired, a little at a time."""
        try:
            while self._file.exists:
                if await self._file.submit(lambda db: db.execute(_SWEEP, (now_ns,)).rowcount) < SWEEP_ROWS:
                    return
        except (sqlite3.Error, OSError):
            return  # The thread has logged it.

    async def close(self) -> None:
        """Once what was begun is written."""
        await self._file.close()


def _context(scope: bytes, request_id: str) -> bytes:
    return _KIND + scope + request_id.encode()
