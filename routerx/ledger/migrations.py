"""From any older file to the present schema: ordered, each in one transaction together with its record in the file."""

import sqlite3
from collections.abc import Callable

from routerx.ledger import schema
from routerx.money import SCALE


def m001_initial(connection: sqlite3.Connection) -> None:
    """The books of the first release."""
    for statement in schema.INITIAL:
        connection.execute(statement)
    connection.execute("INSERT INTO meta(key, value) VALUES ('scale', ?)", (str(SCALE),))
    connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")


MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (m001_initial,)
SCHEMA_VERSION = len(MIGRATIONS)

_SET_SCHEMA = "INSERT INTO meta(key, value) VALUES ('schema', ?) ON CONFLICT(key) DO UPDATE SET value = excluded.value"
_RECORD = "INSERT INTO migrations(version, name, applied_ns) VALUES (?, ?, ?)"


def migrate(connection: sqlite3.Connection, from_version: int, now_ns: int) -> None:
    """Apply what is missing. A crash in between leaves the file at a whole version (FAULTS.md 83)."""
    for version in range(from_version + 1, SCHEMA_VERSION + 1):
        step = MIGRATIONS[version - 1]
        connection.execute("BEGIN IMMEDIATE")
        try:
            step(connection)
            connection.execute(_SET_SCHEMA, (str(version),))
            connection.execute(_RECORD, (version, step.__name__, now_ns))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
