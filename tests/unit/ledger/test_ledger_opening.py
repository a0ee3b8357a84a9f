"""Opening: one owner, private files, no guesses about a file that is not understood."""

import logging
import os
import sqlite3
import stat
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from routerx.errors import LedgerLocked, LedgerUnusable
from routerx.ledger import database
from routerx.ledger.database import connect, inspect
from routerx.ledger.lock import DataDirLock
from routerx.ledger.schema import migrations
from routerx.ledger.schema.migrations import SCHEMA_VERSION
from routerx.ledger.sqlite import open_ledger
from tests.support.clock import ManualClock
from tests.unit.ledger.ledger_kit import USD, ledger_file, opened, options, pay, query, tenant

ACME = tenant(opening=10 * USD)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_a_new_ledger_is_private_to_its_user(tmp_path: Path):
    before = os.umask(0)
    try:
        async with opened(tmp_path) as ledger:
            await ledger.sync_tenants([ACME])
            data = tmp_path / "data"
            assert mode(data) == 0o700
            assert {path.name: mode(path) for path in data.iterdir() if path.name != ".lock"} == dict.fromkeys(
                ("ledger.db", "ledger.db-wal", "ledger.db-shm", "requests.db", "requests.db-wal", "requests.db-shm"),
                0o600,
            )
    finally:
        os.umask(before)


async def test_a_kill_while_the_file_is_made_does_not_keep_the_next_start_from_making_it(tmp_path: Path):
    """SQLite gives a new file its WAL by a transaction of the old kind: its journal may be left behind."""
    file = ledger_file(tmp_path)
    file.parent.mkdir()
    begun = sqlite3.connect(file)
    begun.execute("PRAGMA journal_mode = WAL")
    begun.close()
    journal = bytes.fromhex("d9d505f920a163d7") + struct.pack(">IIIII", 0, 1, 0, 512, 4096)
    file.with_name(f"{file.name}-journal").write_bytes(journal.ljust(512, b"\0"))
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME])
        assert ledger.funds("acme").balance_nano == 10 * USD


def lock_and_tell(folder: Path, caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """What is said while `folder` is locked."""
    caplog.clear()
    with caplog.at_level(logging.INFO, "routerx.ledger"):
        lock = DataDirLock(folder)
        lock.acquire()
        lock.release()
    return [(entry.levelname, entry.getMessage()) for entry in caplog.records]


@pytest.mark.parametrize("names", [(), ("ledger.db", "ledger.db-wal", "requests.db", ".ballast", "default.key")])
def test_a_data_directory_that_others_can_enter_is_closed_to_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, names: tuple[str, ...]
):
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o755)
    for name in names:
        (data / name).touch()
    assert lock_and_tell(data, caplog) == [
        ("INFO", f"the data directory {str(data)!r} had mode 0755 and has 0700 now: it is for RouterX alone")
    ]
    assert mode(data) == 0o700
    assert lock_and_tell(data, caplog) == []


@pytest.mark.parametrize("place", ["config", "cwd", "home", "sticky"])
def test_a_directory_that_is_not_for_data_alone_keeps_its_mode_and_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, place: str
):
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o1777 if place == "sticky" else 0o755)
    if place == "config":
        (data / "routerx.yaml").touch()
    elif place == "cwd":
        monkeypatch.chdir(data)
    elif place == "home":
        monkeypatch.setenv("HOME", str(data))
    before = mode(data)
    (told,) = lock_and_tell(data, caplog)
    assert told[0] == "WARNING"
    assert f"chmod 700 {data}" in told[1]
    assert mode(data) == before


@pytest.mark.parametrize(
    ("synchronous", "level", "survives"), [("full", 2, True), ("extra", 3, True), ("normal", 1, False)]
)
async def test_the_promise_is_the_setting_read_back(tmp_path: Path, synchronous: str, level: int, survives: bool):
    connections: list[sqlite3.Connection] = []

    def remember(path: str, busy_timeout_s: float) -> sqlite3.Connection:
        connections.append(connect(path, busy_timeout_s))
        return connections[-1]

    async with opened(tmp_path, connect=remember, synchronous=synchronous) as ledger:
        health = ledger.health()
        assert (health.synchronous, health.survives_power_loss) == (synchronous, survives)
        assert health.flush_us > 0
        assert connections[0].execute("PRAGMA synchronous").fetchone() == (level,)
        assert connections[0].execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connections[0].execute("PRAGMA foreign_keys").fetchone() == (1,)


async def test_another_synchronous_is_refused(tmp_path: Path):
    with pytest.raises(LedgerUnusable, match="'off'"):
        await open_ledger(options(tmp_path, synchronous="off"), ManualClock())


async def test_a_second_owner_is_told_the_pid_of_the_first(tmp_path: Path):
    async with opened(tmp_path):
        with pytest.raises(LedgerLocked, match=f"process {os.getpid()};"):
            await open_ledger(options(tmp_path), ManualClock())
    async with opened(tmp_path):
        pass


def test_the_lock_dies_with_its_process(tmp_path: Path):
    code = (
        "import sys, pathlib; from routerx.ledger.lock import DataDirLock; "
        "DataDirLock(pathlib.Path(sys.argv[1])).acquire(); print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    lock = DataDirLock(tmp_path)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(LedgerLocked, match=str(process.pid)):
            lock.acquire()
    finally:
        process.kill()
        process.communicate()
    lock.acquire()
    lock.release()


async def refused(folder: Path, match: str) -> None:
    """Opening fails with `match`, says so twice, and leaves file and lock as they were."""
    path = ledger_file(folder)
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(LedgerUnusable, match=match) as refusal:
            await open_ledger(options(folder), ManualClock())
        assert refusal.value.exit_code == 78
    assert path.read_bytes() == before


async def test_a_file_of_another_kind_is_left_alone(tmp_path: Path):
    path = ledger_file(tmp_path)
    path.parent.mkdir()
    path.write_bytes(b"not a database at all")
    await refused(tmp_path, "no SQLite database")
    path.unlink()
    foreign = sqlite3.connect(path)
    foreign.execute("CREATE TABLE notes(text)")
    foreign.close()
    await refused(tmp_path, "another program")


@pytest.mark.parametrize(
    ("statement", "match"),
    [
        ("UPDATE meta SET value = '99' WHERE key = 'schema'", "schema 99"),
        ("UPDATE meta SET value = '6' WHERE key = 'scale'", "another scale"),
        ("DROP TABLE meta", "cannot be read|damaged"),
    ],
)
async def test_a_ledger_of_another_kind_is_left_alone(tmp_path: Path, statement: str, match: str):
    async with opened(tmp_path):
        pass
    connection = sqlite3.connect(ledger_file(tmp_path), isolation_level=None)
    connection.execute(statement)
    connection.close()
    await refused(tmp_path, match)


@pytest.mark.parametrize("keep", [0.5, 0.9])
async def test_a_damaged_ledger_is_left_alone(tmp_path: Path, keep: float):
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME])
        for _ in range(20):
            await pay(ledger, ACME, 1_000)
    path = ledger_file(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    await refused(tmp_path, "damaged")


async def test_an_empty_file_is_a_new_ledger(tmp_path: Path):
    ledger_file(tmp_path).parent.mkdir()
    ledger_file(tmp_path).touch()
    async with opened(tmp_path) as ledger:
        assert ledger.account_names() == ()


async def test_a_ledger_that_is_locked_at_start_says_so(tmp_path: Path):
    async with opened(tmp_path):
        pass
    other = sqlite3.connect(ledger_file(tmp_path), isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises((LedgerLocked, LedgerUnusable), match="locked"):
        await open_ledger(options(tmp_path, busy_timeout_s=0.01), ManualClock())
    other.close()


async def test_a_log_that_cannot_be_read_is_moved_aside(tmp_path: Path):
    async with opened(tmp_path):
        pass
    log = tmp_path / "data" / "requests.db"
    log.write_bytes(b"garbage" * 1_000)
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME])
        done = await pay(ledger, ACME, 1_000)
        assert await ledger.request(done.id) == done
    assert (tmp_path / "data" / "requests.db.unreadable").read_bytes() == b"garbage" * 1_000


async def test_a_log_that_cannot_be_made_leaves_no_lock_behind(tmp_path: Path):
    async with opened(tmp_path):
        pass
    connections: list[sqlite3.Connection] = []

    def remember(path: str, busy_timeout_s: float) -> sqlite3.Connection:
        connections.append(connect(path, busy_timeout_s))
        return connections[-1]

    nowhere = tmp_path / "a-file"
    nowhere.touch()
    with pytest.raises(LedgerUnusable, match=r"request log .* cannot be opened: Not a directory"):
        await open_ledger(options(tmp_path, log_path=str(nowhere / "requests.db")), ManualClock(), remember)
    for connection in connections:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("SELECT 1")
    async with opened(tmp_path):
        pass


def test_a_migration_that_fails_leaves_the_file_at_a_whole_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = str(tmp_path / "ledger.db")
    connection = database.open_writer(path, "full", 5.0, connect)
    migrations.migrate(connection, 0, 1)

    def broken(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE half(x)")
        raise sqlite3.OperationalError("no")

    monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, broken))
    monkeypatch.setattr(migrations, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
    with pytest.raises(sqlite3.OperationalError):
        migrations.migrate(connection, SCHEMA_VERSION, 2)
    connection.close()
    assert inspect(path, 5.0) == SCHEMA_VERSION
    assert query(path, "SELECT name FROM sqlite_schema WHERE name = 'half'") == []
    assert query(path, "SELECT max(version) FROM migrations") == [(SCHEMA_VERSION,)]


async def test_every_start_is_counted_and_the_scale_is_written_down(tmp_path: Path):
    for _ in range(3):
        async with opened(tmp_path):
            pass
    meta = dict(query(ledger_file(tmp_path), "SELECT key, value FROM meta"))
    assert (meta["boots"], meta["scale"], meta["schema"]) == ("3", "9", str(SCHEMA_VERSION))


GUARDED = [
    "UPDATE transfers SET amount = 1",
    "DELETE FROM transfers",
    "UPDATE requests SET cost = 0",
    "DELETE FROM requests",
    "DELETE FROM attempts",
    "UPDATE audit SET actor = 'x'",
    "DELETE FROM accounts",
    "UPDATE accounts SET name = 'x' WHERE name = 'acme'",
    "UPDATE accounts SET balance = -1 WHERE name = 'acme'",
    "UPDATE accounts SET balance = 1.5 WHERE name = 'acme'",
    "DELETE FROM days",
    "DELETE FROM keys",
    "UPDATE keys SET digest = 'x'",
]


@pytest.mark.parametrize("statement", GUARDED)
async def test_the_file_itself_refuses_to_forget(tmp_path: Path, statement: str):
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME])
        await pay(ledger, ACME, USD)
        await ledger.issue_key("acme", actor="op", label=None)
    connection = sqlite3.connect(ledger_file(tmp_path))
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(statement)
    connection.close()
