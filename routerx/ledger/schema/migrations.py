"""From any older file to the present schema: ordered, each in one transaction together with its record in the file."""

import sqlite3
from collections.abc import Callable

from routerx.ledger.schema import fees, initial, keys, own_keys
from routerx.money import SCALE


def m001_initial(connection: sqlite3.Connection) -> None:
    """The books of the first release."""
    for statement in initial.INITIAL:
        connection.execute(statement)
    connection.execute("INSERT INTO meta(key, value) VALUES ('scale', ?)", (str(SCALE),))
    connection.execute(f"PRAGMA application_id = {initial.APPLICATION_ID}")


def m002_fees_refunds_pruning(connection: sqlite3.Connection) -> None:
    """Own-key fees, cached answers, re-ratings, refunds and pruning. Copies requests and transfers once."""
    for statement in fees.STATEMENTS:
        connection.execute(statement)


def m003_keys(connection: sqlite3.Connection) -> None:
    """Terms and daily figures of keys. Adds up the requests once."""
    for statement in keys.STATEMENTS:
        connection.execute(statement)


def m004_own_keys(connection: sqlite3.Connection) -> None:
    """Tenants' own provider keys, sealed."""
    for statement in own_keys.STATEMENTS:
        connection.execute(statement)


MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (
    m001_initial,
    m002_fees_refunds_pruning,
    m003_keys,
    m004_own_keys,
)
SCHEMA_VERSION = len(MIGRATIONS)

_SET_SCHEMA = "INSERT INTO meta(key, value) VALUES ('schema', ?) ON CONFLICT(key) DO UPDATE SET value = excluded.value"
_RECORD = "INSERT INTO migrations(version, name, applied_ns) VALUES (?, ?, ?)"


def migrate(connection: sqlite3.Connection, from_version: int, now_ns: int) -> None:
    """Apply what is missing. A crash in between leaves the file at a whole version (FAULTS.md 83).

    Raises sqlite3.DatabaseError; foreign keys are on afterwards.
    """
    if from_version == SCHEMA_VERSION:
        return
    connection.execute("PRAGMA foreign_keys = OFF")  # Else a table cannot be replaced while others refer to it.
    try:
        for version in range(from_version + 1, SCHEMA_VERSION + 1):
            _apply(connection, version, now_ns)
    finally:
        connection.execute("PRAGMA foreign_keys = ON")


def _apply(connection: sqlite3.Connection, version: int, now_ns: int) -> None:
    step = MIGRATIONS[version - 1]
    connection.execute("BEGIN IMMEDIATE")
    try:
        step(connection)
        broken = connection.execute("PRAGMA foreign_key_check").fetchone()
        if broken is not None:
            raise sqlite3.IntegrityError(f"row {broken[1]} of {broken[0]} refers to a row of {broken[2]} that is gone")
        connection.execute(_SET_SCHEMA, (str(version),))
        connection.execute(_RECORD, (version, step.__name__, now_ns))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
