"""The small databases beside the ledger: uses of idempotency keys, and the answers that were given under them."""

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest

from routerx.errors import ConfigError, StorageUnavailable
from routerx.ledger.beside import answers
from routerx.ledger.beside.answers import AnswerStore
from routerx.ledger.beside.sidefile import SideFile, SideFileOptions
from routerx.ledger.beside.uses import SWEEP_ROWS, UseIndex, UseRow
from routerx.vault import Vault

SCOPE = b"s" * 32
FOREVER = 9 * 10**18
VAULT = Vault([b"k" * 32])


def side_file(folder: Path, *, expendable: bool = False) -> SideFile:
    schema = ("CREATE TABLE IF NOT EXISTS t(x INTEGER PRIMARY KEY)",)
    return SideFile(
        SideFileOptions(path=str(folder / "side.db"), schema=schema, synchronous="FULL", expendable=expendable)
    )


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


# --- trains


async def test_what_comes_at_once_shares_a_transaction(tmp_path: Path) -> None:
    file, gate = side_file(tmp_path), threading.Event()
    said: list[str] = []

    def first(db: sqlite3.Connection) -> None:
        gate.wait()
        db.set_trace_callback(said.append)

    jobs = [file.submit(first)]
    jobs += [file.submit(lambda db, x=x: db.execute("INSERT INTO t VALUES (?)", (x,)) and None) for x in range(50)]  # type: ignore[misc]
    gate.set()
    await asyncio.gather(*jobs)
    assert said.count("COMMIT") in (1, 2)  # The first may have left alone.
    assert await file.submit(lambda db: db.execute("SELECT count(*) FROM t").fetchone()) == (50,)
    await file.close()


async def test_a_train_that_fails_has_written_nothing_and_the_next_one_runs(tmp_path: Path) -> None:
    file, gate = side_file(tmp_path), threading.Event()
    first = file.submit(lambda db: gate.wait())
    bad = [file.submit(lambda db: db.execute("INSERT INTO t VALUES (1)").rowcount) for _ in range(2)]
    gate.set()
    results = await asyncio.gather(first, *bad, return_exceptions=True)
    assert [type(result) for result in results[1:]] == [sqlite3.IntegrityError] * 2
    assert await file.submit(lambda db: db.execute("SELECT count(*) FROM t").fetchone()) == (0,)
    await file.close()


async def test_whoever_stops_waiting_has_its_work_done_all_the_same(tmp_path: Path) -> None:
    file, gate = side_file(tmp_path), threading.Event()
    blocked = file.submit(lambda db: gate.wait())
    gone = file.submit(lambda db: db.execute("INSERT INTO t VALUES (1)").rowcount)
    gone.cancel()
    gate.set()
    await blocked
    await file.close()
    assert rows(tmp_path / "side.db", "SELECT x FROM t") == [(1,)]


async def test_closing_waits_for_what_was_submitted_and_takes_no_more(tmp_path: Path) -> None:
    file = side_file(tmp_path)
    for x in range(600):
        file.submit(lambda db, x=x: db.execute("INSERT INTO t VALUES (?)", (x,)).rowcount)  # type: ignore[misc]
    await file.close()
    assert rows(tmp_path / "side.db", "SELECT count(*) FROM t") == [(600,)]
    with pytest.raises(sqlite3.ProgrammingError):
        await file.submit(lambda db: None)


async def test_what_is_never_used_has_neither_thread_nor_file(tmp_path: Path) -> None:
    before = threading.active_count()
    file = side_file(tmp_path)
    assert not file.exists
    await file.close()
    assert threading.active_count() == before
    assert files(tmp_path) == []


@pytest.mark.parametrize("expendable", [False, True])
async def test_only_a_file_that_may_be_lost_is_begun_anew(tmp_path: Path, expendable: bool) -> None:
    (tmp_path / "side.db").write_bytes(b"no database" * 1_000)
    file = side_file(tmp_path, expendable=expendable)
    for attempt in range(2):
        if expendable and attempt == 1:
            assert await file.submit(lambda db: db.execute("INSERT INTO t VALUES (1)").rowcount) == 1
        else:
            with pytest.raises(sqlite3.DatabaseError):
                await file.submit(lambda db: None)
    await file.close()
    assert (tmp_path / "side.db").read_bytes().startswith(b"SQLite" if expendable else b"no database")


# --- uses


async def test_of_two_claims_the_first_stands_until_it_expires(tmp_path: Path) -> None:
    uses = UseIndex(str(tmp_path / "uses.db"))
    one, two = UseRow(b"a", "req_1", 100), UseRow(b"b", "req_2", 200)
    assert await uses.claim(SCOPE, one, 0) is None
    assert await uses.claim(SCOPE, two, 99) == one
    assert await uses.claim(SCOPE, two, 100) is None
    await uses.close()


async def test_a_use_is_taken_over_even_where_it_has_just_been_dropped(tmp_path: Path) -> None:
    uses = UseIndex(str(tmp_path / "uses.db"))
    one, two = UseRow(b"a", "req_1", 100), UseRow(b"b", "req_2", 200)
    await uses.claim(SCOPE, one, 0)
    uses.drop(SCOPE, one)
    await uses.retake(SCOPE, two)
    assert await uses.claim(SCOPE, one, 0) == two
    uses.drop(SCOPE, one)  # Not its use any more.
    assert await uses.claim(SCOPE, one, 0) == two
    await uses.close()


async def test_what_has_expired_is_swept_a_little_at_a_time(tmp_path: Path) -> None:
    uses = UseIndex(str(tmp_path / "uses.db"))
    claims = [uses.claim(b"%d" % x, UseRow(b"", f"req_{x}", x), -1) for x in range(SWEEP_ROWS * 2 + 10)]
    await asyncio.gather(*claims)
    await uses.sweep(SWEEP_ROWS * 2 - 1)
    await uses.close()
    assert rows(tmp_path / "uses.db", "SELECT count(*) FROM uses") == [(10,)]


async def test_a_sweep_makes_no_file(tmp_path: Path) -> None:
    uses, store = UseIndex(str(tmp_path / "uses.db")), AnswerStore(str(tmp_path / "a.db"), lambda: VAULT, 10**6)
    await uses.sweep(0)
    await store.sweep(0)
    assert await store.get(SCOPE, "req_1", 0) is None
    await uses.close()
    await store.close()
    assert files(tmp_path) == []


async def test_a_claim_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    uses = UseIndex(str(tmp_path / "missing" / "uses.db"))
    with pytest.raises(StorageUnavailable):
        await uses.claim(SCOPE, UseRow(b"a", "req_1", 100), 0)
    await uses.close()


# --- answers


async def test_an_answer_opens_for_its_own_use_alone(tmp_path: Path) -> None:
    store = AnswerStore(str(tmp_path / "a.db"), lambda: VAULT, 10**6)
    store.put(SCOPE, "req_1", 100, b"hello")
    assert await store.get(SCOPE, "req_1", 99) == b"hello"
    assert await store.get(SCOPE, "req_1", 100) is None
    assert await store.get(b"t" * 32, "req_1", 99) is None
    assert await store.get(SCOPE, "req_2", 99) is None
    await store.close()


async def test_the_oldest_make_room(tmp_path: Path) -> None:
    store = AnswerStore(str(tmp_path / "a.db"), lambda: VAULT, 10_000)
    for x in range(20):
        store.put(SCOPE, f"req_{x}", FOREVER, bytes(1_000))
    store.put(SCOPE, "too_long", FOREVER, bytes(10_001))
    assert [x for x in range(20) if await store.get(SCOPE, f"req_{x}", 0) is not None] == list(range(11, 20))
    await store.close()
    again = AnswerStore(str(tmp_path / "a.db"), lambda: VAULT, 2_000)  # The bound is another one by now.
    again.put(SCOPE, "req_20", FOREVER, bytes(900))
    await again.close()
    assert rows(tmp_path / "a.db", "SELECT request FROM answers") == [("req_19",), ("req_20",)]
    assert rows(tmp_path / "a.db", "SELECT bytes FROM total") == rows(
        tmp_path / "a.db", "SELECT sum(bytes) FROM answers"
    )


async def test_expired_answers_are_swept(tmp_path: Path) -> None:
    store = AnswerStore(str(tmp_path / "a.db"), lambda: VAULT, 10**6)
    for x in range(answers.SWEEP_ROWS * 2 + 10):
        store.put(SCOPE, f"req_{x}", x, b"hello")
    await store.sweep(answers.SWEEP_ROWS * 2 - 1)
    await store.close()
    assert rows(tmp_path / "a.db", "SELECT count(*) FROM answers") == [(10,)]
    assert rows(tmp_path / "a.db", "SELECT bytes FROM total") == [(10 * (5 + 33),)]


async def test_no_more_waits_for_a_slow_disk_than_memory_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "PENDING_BYTES_MAX", 2_500)
    gate = threading.Event()

    def vault() -> Vault:
        gate.wait()
        return VAULT

    store = AnswerStore(str(tmp_path / "a.db"), vault, 10**6)
    for x in range(4):
        store.put(SCOPE, f"req_{x}", FOREVER, bytes(1_000))
    gate.set()
    assert [await store.get(SCOPE, f"req_{x}", 0) is not None for x in range(4)] == [True, True, False, False]
    store.put(SCOPE, "req_4", FOREVER, bytes(1_000))
    assert await store.get(SCOPE, "req_4", 0) is not None
    await store.close()


async def test_without_a_vault_nothing_is_kept_and_nothing_fails(tmp_path: Path) -> None:
    def none() -> Vault:
        raise ConfigError(("no key",))

    store = AnswerStore(str(tmp_path / "a.db"), none, 10**6)
    store.put(SCOPE, "req_1", FOREVER, b"hello")
    assert await store.get(SCOPE, "req_1", 0) is None
    await store.close()


async def test_what_cannot_be_read_now_is_not_called_gone(tmp_path: Path) -> None:
    (tmp_path / "a.db").mkdir()
    store = AnswerStore(str(tmp_path / "a.db"), lambda: VAULT, 10**6)
    with pytest.raises(StorageUnavailable):
        await store.get(SCOPE, "req_1", 0)
    await store.close()


async def test_a_full_disk_is_left_to_the_books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "FREE_BYTES_MIN", 2**62)
    store = AnswerStore(str(tmp_path / "a.db"), lambda: VAULT, 10**6)
    store.put(SCOPE, "req_1", FOREVER, b"hello")
    assert await store.get(SCOPE, "req_1", 0) is None
    await store.close()
