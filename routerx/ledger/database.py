"""The ledger's file: how it is recognised, opened and kept in the mode that makes its promises true."""

import os
import sqlite3
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import msgspec

from routerx.errors import LedgerLocked, LedgerUnusable
from routerx.ledger.schema.initial import APPLICATION_ID
from routerx.ledger.schema.migrations import SCHEMA_VERSION, migrate
from routerx.money import SCALE

MAGIC = b"SQLite format 3\x00"
SYNCHRONOUS = {"normal": 1, "full": 2, "extra": 3}
SQLITE_MIN = (3, 37, 0)  # STRICT tables.
QUICK_CHECK_BYTES_MAX = 64 * 1024 * 1024
"""Above this the check of every page at start would be felt; `ledger verify` always checks every page."""

FLUSH_SAMPLES = 5
_TOUCH = "INSERT INTO meta(key, value) VALUES ('probe', ?) ON CONFLICT(key) DO UPDATE SET value = excluded.value"

Connect = Callable[[str, float], sqlite3.Connection]
"""(path, busy timeout in seconds) → a connection in autocommit mode; tests pass one that fails on purpose."""


def connect(path: str, busy_timeout_s: float) -> sqlite3.Connection:
    """A writing connection. Opened in one thread and used in another, never in two at once."""
    return sqlite3.connect(path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False)


def connect_read_only(path: str, busy_timeout_s: float = 5.0) -> sqlite3.Connection:
    """A connection that cannot write, for checks and reports. Raises LedgerUnusable where there is no file."""
    if not os.path.isfile(path):
        raise LedgerUnusable(f"there is no ledger at {path!r}; check ledger.path, or start the server once to make one")
    uri = f"file:{quote(os.path.abspath(path))}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA query_only = ON")
    return connection


class Flush(msgspec.Struct, frozen=True):
    """How durable a commit is here."""

    synchronous: str
    flush_us: int
    survives_power_loss: bool


def inspect(path: str, busy_timeout_s: float) -> int:
    """Schema version of the file; 0 when there is none yet. Only reads, but for a transaction that a crash cut short
    before the file had its WAL: that is rolled back, as by everybody who opens the file.

    Raises LedgerUnusable: no SQLite file, damaged, somebody else's, another money scale or a newer schema.
    """
    if sqlite3.sqlite_version_info < SQLITE_MIN:
        raise LedgerUnusable(f"SQLite {sqlite3.sqlite_version} is too old for the ledger; it needs 3.37 or newer")
    file = Path(path)
    if not file.exists() or file.stat().st_size == 0:
        return 0
    with file.open("rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            raise LedgerUnusable(f"{path!r} is no SQLite database; move it away or set ledger.path to another file")
    try:
        try:
            return _version(path, busy_timeout_s)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_READONLY_ROLLBACK:
                raise
            _roll_back(path, busy_timeout_s)
            return _version(path, busy_timeout_s)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise LedgerLocked(f"the ledger {path!r} is locked by another program; close it there") from error
        raise LedgerUnusable(f"the ledger {path!r} cannot be read: {error}; it was left untouched") from error
    except sqlite3.DatabaseError as error:
        raise LedgerUnusable(
            f"the ledger {path!r} is damaged: {error}; it was left untouched, restore it from a backup"
        ) from error


def _version(path: str, busy_timeout_s: float) -> int:
    connection = connect_read_only(path, busy_timeout_s)
    try:
        version = recognise(connection, path)
        if Path(path).stat().st_size <= QUICK_CHECK_BYTES_MAX:
            _quick_check(connection, path)
        return version
    finally:
        connection.close()


def _roll_back(path: str, busy_timeout_s: float) -> None:
    """Reading suffices, by a connection that may write."""
    connection = connect(path, busy_timeout_s)
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    finally:
        connection.close()


def recognise(connection: sqlite3.Connection, path: str) -> int:
    """Schema version of an open file; 0 when it is still empty. Raises LedgerUnusable."""
    (objects,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if objects == 0:
        return 0  # A crash between making the file and the first migration.
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION_ID:
        raise LedgerUnusable(f"{path!r} is a database of another program; set ledger.path to another file")
    meta = dict(connection.execute("SELECT key, value FROM meta").fetchall())
    if meta.get("scale") != str(SCALE):
        raise LedgerUnusable(f"the ledger {path!r} counts money in another scale ({meta.get('scale')!r}, not {SCALE})")
    version = int(meta.get("schema", "0"))
    if version > SCHEMA_VERSION:
        raise LedgerUnusable(
            f"the ledger {path!r} has schema {version}, this RouterX knows {SCHEMA_VERSION}; run the newer RouterX"
        )
    return version


def _quick_check(connection: sqlite3.Connection, path: str) -> None:
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise LedgerUnusable(f"the ledger {path!r} is damaged: {verdict}; restore it from a backup")


def create_private(path: str) -> None:
    """Make the file for its owner alone; SQLite gives the -wal and -shm files the same mode."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def open_writer(path: str, synchronous: str, busy_timeout_s: float, connect: Connect) -> sqlite3.Connection:
    """The one writing connection, with every setting read back. Raises LedgerUnusable where one did not take."""
    connection = connect(path, busy_timeout_s)
    try:
        level = SYNCHRONOUS[synchronous]
        settings = (
            ("journal_mode", "WAL", "wal"),
            ("synchronous", str(level), level),
            ("foreign_keys", "ON", 1),
            ("wal_autocheckpoint", "0", 0),  # The writer checkpoints between commits, not inside one.
            ("mmap_size", "0", 0),
            ("trusted_schema", "OFF", 0),
            ("cache_size", "-16384", -16384),
            ("cell_size_check", "ON", 1),
        )
        for name, value, expected in settings:
            connection.execute(f"PRAGMA {name} = {value}").fetchall()
            found = connection.execute(f"PRAGMA {name}").fetchone()
            if found is not None and found[0] != expected:
                raise LedgerUnusable(f"the ledger {path!r} does not take {name}={value} (it says {found[0]!r})")
    except BaseException:
        connection.close()
        raise
    return connection


def prepare(connection: sqlite3.Connection, from_version: int, now_ns: int) -> None:
    """Bring the schema up to date and count this start."""
    migrate(connection, from_version, now_ns)
    connection.execute(
        "INSERT INTO meta(key, value) VALUES ('boots', '1') "
        "ON CONFLICT(key) DO UPDATE SET value = CAST(value AS INTEGER) + 1"
    )


def measure_flush(connection: sqlite3.Connection, synchronous: str) -> Flush:
    """Median of a few real commits (MONEY.md section 6)."""
    samples: list[float] = []
    for number in range(FLUSH_SAMPLES):
        started = time.perf_counter()
        touch(connection, str(number))
        samples.append(time.perf_counter() - started)
    return Flush(synchronous, round(statistics.median(samples) * 1e6), synchronous != "normal")


def touch(connection: sqlite3.Connection, value: str) -> None:
    """A commit that changes nothing anybody reads: proves that commits work."""
    connection.execute(_TOUCH, (value,))
