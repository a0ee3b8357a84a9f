"""The writer's hold on the disk: its one connection, the files under it, and the ballast for when the disk is full."""

import logging
import os
import sqlite3
from enum import Enum
from pathlib import Path

import msgspec

from routerx.errors import StorageUnavailable
from routerx.ledger.database import Connect, open_writer

log = logging.getLogger("routerx.ledger")

WAL_BYTES_MAX = 64 * 1024 * 1024
BALLAST_NAME = ".ballast"

_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_DEVICE = frozenset(
    {
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
    }
)


class Trouble(Enum):
    """Why a transaction did not work."""

    BUSY = "busy"
    """Another program holds the database."""
    FULL = "full"
    """No space: there may be room to be made."""
    DEVICE = "device"
    """I/O error or a damaged file: nothing that this connection says is believed any more."""
    POISON = "poison"
    """One of the ops is at fault."""


def classify(error: Exception) -> Trouble:
    """By SQLite's primary result code."""
    code = getattr(error, "sqlite_errorcode", None)
    if isinstance(code, int):
        primary = code & 0xFF
        if primary in _BUSY:
            return Trouble.BUSY
        if primary == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_SHMSIZE:  # The index of the WAL grows, too.
            return Trouble.FULL
        if primary in _DEVICE:
            return Trouble.DEVICE
    return Trouble.POISON


class FileLost(sqlite3.OperationalError):
    """The path leads to another file than the one that was opened."""

    sqlite_errorcode = sqlite3.SQLITE_IOERR


class StorageOptions(msgspec.Struct, frozen=True):
    """Which file, and how it is kept."""

    path: str
    synchronous: str
    busy_timeout_s: float
    connect: Connect
    ballast_bytes: int
    free_bytes_min: int


class Storage:
    """Used in the writer thread alone. After an I/O error the connection is dropped and a new one opened."""

    def __init__(self, connection: sqlite3.Connection, options: StorageOptions) -> None:
        self._connection: sqlite3.Connection | None = connection
        self._options = options
        self._identity = _identity(options.path)
        self._ballast = Path(options.path).parent / BALLAST_NAME
        self._low = False
        self._lacks_ballast = False
        """There was no room for one when it was last to be made; told once."""
        self.lost: str | None = None
        """What happened to the file; from then on nothing is written, until a restart."""

    @property
    def open(self) -> bool:
        return self._connection is not None

    def connection(self) -> tuple[sqlite3.Connection, bool]:
        """The connection, and whether it was opened just now. Raises sqlite3.Error."""
        if self.lost is not None:
            raise FileLost(self.lost)
        if self._connection is not None:
            return self._connection, False
        options = self._options
        if _inode(options.path) != self._identity[0]:
            raise FileLost("the ledger's file is gone or another one")
        self._connection = open_writer(options.path, options.synchronous, options.busy_timeout_s, options.connect)
        self._identity = (self._identity[0], None)  # SQLite may have made another WAL.
        return self._connection, True

    def drop(self) -> None:
        """Close the connection; what it says is not believed any more."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def standing_refusal(self) -> StorageUnavailable | None:
        """What is wrong although commits work."""
        if self.lost is not None:
            return StorageUnavailable(self.lost)
        if self._low:
            return StorageUnavailable("The disk of the ledger is nearly full.", retry_after_s=5)
        return None

    def look(self) -> None:
        """Is there space, and does the path still lead to what was opened (FAULTS.md 86, 91, 92)?"""
        self._low = self._free_bytes() < self._options.free_bytes_min
        identity = _identity(self._options.path)
        if self._identity[1] is None:
            self._identity = (self._identity[0], identity[1])
        if identity != self._identity and self._connection is not None and self.lost is None:
            self.lost = "The ledger's file was moved, replaced or removed while it was in use. Restart the server."
            log.critical("%s (%s)", self.lost, self._options.path)
        if self._is_wal_long():
            self.checkpoint("TRUNCATE")

    def relieve(self) -> None:
        """Move the WAL into the database; one that readers have made long is cut, as soon as there is none."""
        self.checkpoint("TRUNCATE" if self._is_wal_long() else "PASSIVE")

    def _is_wal_long(self) -> bool:
        return _size(self._options.path + "-wal") > WAL_BYTES_MAX

    def checkpoint(self, mode: str, *, wait: bool = False) -> None:
        """Move the WAL into the database, between commits. A reader in the way only delays it; `wait` for it when no
        commit has to."""
        if self._connection is None:
            return
        try:
            patience_ms = round(self._options.busy_timeout_s * 1000)
            self._connection.execute(f"PRAGMA busy_timeout = {patience_ms if wait else 0}")
            try:
                self._connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
            finally:
                self._connection.execute(f"PRAGMA busy_timeout = {patience_ms}")
        except sqlite3.Error as error:
            log.warning("checkpoint of the ledger failed: %s", error)

    def keep_ballast(self) -> None:
        """Space that is given back when the disk is full, so that what is under way can still be written. None is taken
        that new work needs."""
        size_bytes = self._options.ballast_bytes - _size(str(self._ballast))
        if size_bytes <= 0:
            return
        try:
            if self._free_bytes() - size_bytes < self._options.free_bytes_min:
                return
            descriptor = os.open(self._ballast, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, self._options.ballast_bytes)
                else:
                    file.write(bytes(self._options.ballast_bytes))
        except OSError as error:
            self._ballast.unlink(missing_ok=True)
            if not self._lacks_ballast:
                log.warning("no room for the ledger's ballast file: %s", error)
        self._lacks_ballast = not self._ballast.exists()

    def make_room(self) -> None:
        """The disk is full: give up the ballast, and move the WAL into the database, so that it is written from its
        beginning again. From now on new work is refused, if the ballast is all that is free."""
        try:
            if self._ballast.exists():
                log.error("the disk is full; the ledger gives up its ballast of %d bytes", _size(str(self._ballast)))
                self._ballast.unlink()
            self.checkpoint("RESTART")
            self.look()
        except OSError as error:
            log.error("the ledger cannot make room: %s", error)

    def _free_bytes(self) -> int:
        disk = os.statvfs(self._ballast.parent)
        return disk.f_bavail * disk.f_frsize


def _identity(path: str) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """Device and inode of the database and of its WAL."""
    return _inode(path), _inode(path + "-wal")


def _inode(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
