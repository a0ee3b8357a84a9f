"""A ledger of an older version becomes one of the present version, with every row and proof, or stays what it was."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from routerx.ledger.database import inspect
from routerx.ledger.proof.verify import verify_file
from routerx.ledger.schema import fees
from routerx.ledger.schema.initial import TABLES, guard
from routerx.ledger.schema.migrations import SCHEMA_VERSION, m001_initial
from tests.unit.ledger.ledger_kit import USD, ledger_file, opened, pay, query, tenant
from tests.unit.ledger.test_ledger_verify import ACME, OTHER, build

ROWS = ("accounts", "requests", "attempts", "transfers", "keys", "days", "audit")


def rows_of(path: Path) -> dict[str, list[tuple[object, ...]]]:
    return {table: query(path, f"SELECT * FROM {table} ORDER BY 1, 2") for table in ROWS}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file of version 1 with the rows of test_ledger_verify's ledger."""
    asyncio.run(build(tmp_path))
    path = ledger_file(tmp_path)
    newer = path.rename(path.with_name("newer.db"))
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("ATTACH ? AS newer", (str(newer),))
    m001_initial(connection)
    connection.execute("DROP TRIGGER accounts_no_delete")
    connection.execute("DELETE FROM accounts")
    connection.execute(guard("accounts", "DELETE"))
    for table in TABLES:
        connection.execute(f"INSERT INTO {table} SELECT * FROM newer.{table}")
    connection.execute("INSERT INTO meta(key, value) VALUES ('schema', '1')")
    connection.close()
    newer.unlink()
    return path


async def test_a_ledger_of_version_1_keeps_every_row_and_verifies(old: Path):
    before = rows_of(old)
    assert inspect(str(old), 5.0) == 1
    async with opened(old.parent.parent) as ledger:
        assert rows_of(old) == before
        assert (await ledger.verify()).violations == ()
        await ledger.sync_tenants([ACME, OTHER, tenant("new", opening=USD)])
        await pay(ledger, ACME, USD)
    assert inspect(str(old), 5.0) == SCHEMA_VERSION
    report = verify_file(str(old))
    assert report.violations == ()
    assert report.checked_requests == len(before["requests"]) + 1
    assert query(old, "SELECT version, name FROM migrations") == [
        (2, "m002_fees_refunds_pruning"),
        (3, "m003_keys"),
        (4, "m004_own_keys"),
    ]
    assert query(old, "SELECT tenant, day, sum(requests), sum(charged) FROM key_days GROUP BY 1, 2 ORDER BY 1, 2") == (
        query(old, "SELECT * FROM days ORDER BY 1, 2")
    )


def test_an_old_file_can_be_verified_as_it_is(old: Path):
    before = old.read_bytes()
    report = verify_file(str(old))
    assert (report.violations, report.checked_requests) == ((), 6)
    assert old.read_bytes() == before


@pytest.mark.parametrize("statement", ["DROP TABLE transfers", "CREATE TRIGGER attempts_no_delete"])
def test_a_migration_that_is_killed_leaves_the_old_ledger(old: Path, statement: str):
    before = rows_of(old)
    number = next(number for number, text in enumerate(fees.STATEMENTS) if text.startswith(statement))
    command = [sys.executable, "-m", "tests.unit.ledger.killed_migrator", str(old), str(number)]
    killed = subprocess.run(command, timeout=30, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert inspect(str(old), 5.0) == 1
    assert rows_of(old) == before

    async def again() -> None:
        async with opened(old.parent.parent) as ledger:
            assert (await ledger.verify()).violations == ()

    asyncio.run(again())
    assert inspect(str(old), 5.0) == SCHEMA_VERSION
    assert rows_of(old) == before
