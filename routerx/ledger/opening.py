"""From a path to everything the ledger needs in memory. Blocking: run it off the event loop."""

import os
import sqlite3
from pathlib import Path

import msgspec

from routerx.errors import LedgerUnusable
from routerx.keyring import Keyring
from routerx.ledger import database
from routerx.ledger.access import Access
from routerx.ledger.batch import BooksState, load_state
from routerx.ledger.budget import Funds, day_of
from routerx.ledger.database import SYNCHRONOUS, Connect, Flush
from routerx.ledger.lock import DataDirLock
from routerx.ledger.own_keys import OwnKeys, load_own_keys
from routerx.ledger.storage import StorageOptions

DAYS_LOADED = 40
"""Enough for any running month and week."""


class LedgerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to open a ledger. The lock, the ballast and the request log lie in the directory of `path`."""

    path: str
    synchronous: str = "full"
    """full | extra | normal; with `normal` the last commits may be lost with the power."""
    log_path: str | None = None
    """The request log's file; None: `requests.db` beside the ledger."""
    log_retention_days: int = 30
    retention_days: int | None = None
    """Of the books' own request rows; None keeps them for ever."""
    verify_interval_s: float = 60.0
    busy_timeout_s: float = 5.0
    queue_max: int = 2_000
    ballast_bytes: int = 16 * 1024 * 1024
    free_bytes_min: int = 64 * 1024 * 1024
    """With less space than this on the disk, new work is refused."""
    keyring: Keyring | None = None
    """What opens tenants' own provider keys; None: one whose key lies beside the ledger."""


class Opened(msgspec.Struct, frozen=True):
    """A ledger's file, opened, with what it says."""

    lock: DataDirLock
    connection: sqlite3.Connection
    storage: StorageOptions
    state: BooksState
    funds: dict[str, Funds]
    access: Access
    own_keys: OwnKeys
    keyring: Keyring
    opened: set[str]
    """Tenants that have had their opening balance."""
    flush: Flush
    verified: str | None
    """Watermark of the last verification."""


def open_file(options: LedgerOptions, now_ns: int, connect: Connect) -> Opened:
    """Lock, recognise, migrate, load. Raises LedgerLocked or LedgerUnusable."""
    if options.synchronous not in SYNCHRONOUS:
        raise LedgerUnusable(f"ledger.synchronous is {options.synchronous!r}; it must be full, extra or normal")
    lock = DataDirLock(Path(options.path).parent)
    lock.acquire()
    try:
        return _open_locked(options, now_ns, connect, lock)
    except sqlite3.DatabaseError as error:
        lock.release()
        raise LedgerUnusable(f"the ledger {options.path!r} cannot be opened: {error}") from error
    except OSError as error:
        lock.release()
        raise LedgerUnusable(f"the ledger {options.path!r} cannot be opened: {error.strerror}") from error
    except BaseException:
        lock.release()
        raise


def _open_locked(options: LedgerOptions, now_ns: int, connect: Connect, lock: DataDirLock) -> Opened:
    path = os.path.abspath(options.path)
    keyring = options.keyring if options.keyring is not None else Keyring((), os.path.dirname(path))
    version = database.inspect(path, options.busy_timeout_s)
    database.create_private(path)
    connection = database.open_writer(path, options.synchronous, options.busy_timeout_s, connect)
    try:
        database.prepare(connection, version, now_ns)
        flush = database.measure_flush(connection, options.synchronous)
        verified = connection.execute("SELECT value FROM meta WHERE key = 'verified'").fetchone()
        opened = connection.execute(
            "SELECT a.name FROM transfers AS t JOIN accounts AS a ON a.id = t.tenant "
            "WHERE t.ext_ref >= 'opening:' AND t.ext_ref < 'opening;'"
        )
        return Opened(
            lock=lock,
            connection=connection,
            storage=StorageOptions(
                path=path,
                synchronous=options.synchronous,
                busy_timeout_s=options.busy_timeout_s,
                connect=connect,
                ballast_bytes=options.ballast_bytes,
                free_bytes_min=options.free_bytes_min,
            ),
            state=load_state(connection),
            funds=_load_funds(connection, day_of(now_ns)),
            access=Access.load(connection),
            own_keys=load_own_keys(connection, keyring),
            keyring=keyring,
            opened={name for (name,) in opened},
            flush=flush,
            verified=None if verified is None else verified[0],
        )
    except BaseException:
        connection.close()
        raise


def _load_funds(connection: sqlite3.Connection, today: int) -> dict[str, Funds]:
    """Balances from the accounts, spend from the daily figures."""
    rows = connection.execute("SELECT id, name, balance, floor FROM accounts WHERE kind = 'tenant'").fetchall()
    by_account = {account: Funds(name, balance, floor) for account, name, balance, floor in rows}
    for account, total in connection.execute("SELECT tenant, sum(charged) FROM days GROUP BY tenant"):
        by_account[account].spending.total_nano = total
    recent = connection.execute(
        "SELECT tenant, day, requests, charged FROM days WHERE day BETWEEN ? AND ?",
        (today - DAYS_LOADED, today + DAYS_LOADED),
    )
    for account, day, requests, charged in recent:
        by_account[account].spending.load(day, requests, charged)
    for account, key, total in connection.execute("SELECT tenant, key, sum(charged) FROM key_days GROUP BY 1, 2"):
        by_account[account].key(key).spending.total_nano = total
    recent = connection.execute(
        "SELECT tenant, key, day, requests, charged FROM key_days WHERE day BETWEEN ? AND ?",
        (today - DAYS_LOADED, today + DAYS_LOADED),
    )
    for account, key, day, requests, charged in recent:
        by_account[account].key(key).spending.load(day, requests, charged)
    return {funds.tenant: funds for funds in by_account.values()}
