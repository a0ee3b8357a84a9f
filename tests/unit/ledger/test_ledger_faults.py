"""A sick disk, a foreign program, a poisoned record: who is hurt, who is told what, and that the books stay right."""

import asyncio
import logging
import os
import sqlite3
import threading
from pathlib import Path

import pytest

from routerx.domain.tenant import Billing
from routerx.errors import GatewayError, InternalError, StorageBusy, StorageUnavailable
from routerx.ledger import storage, writer
from routerx.ledger.sqlite import SqliteLedger
from tests.support.clock import ManualClock
from tests.unit.ledger.ledger_kit import USD, Fault, ledger_file, opened, pay, query, record, replaced, tenant

ACME = tenant(opening=10 * USD)


async def settled(ledger: SqliteLedger) -> None:
    """Let the writer finish what it was given and report it."""
    for _ in range(2_000):
        if ledger.health().queue == 0:
            return
        await asyncio.sleep(0.001)
    raise AssertionError("the writer does not come to an end")


async def recovered(ledger: SqliteLedger, clock: ManualClock) -> None:
    """Let seconds pass until the watch has found that commits work."""
    for _ in range(500):
        await clock.run(1)
        if ledger.health().ok:
            return
        await asyncio.sleep(0.002)
    raise AssertionError(ledger.health().reason)


async def test_a_full_disk_gives_the_ballast_up_goes_on_and_has_one_again(tmp_path: Path):
    fault, clock = Fault(), ManualClock()
    ballast = tmp_path / "data" / ".ballast"
    async with opened(tmp_path, clock, fault.connect, ballast_bytes=4096) as ledger:
        await ledger.sync_tenants([ACME])
        assert ballast.stat().st_size == 4096
        fault.set(sqlite3.SQLITE_FULL, times=1)
        await pay(ledger, ACME, USD)
        assert not ballast.exists()
        assert ledger.health().ok
        for _ in range(500):
            await clock.run(1)
            if ballast.exists():
                break
            await asyncio.sleep(0.002)
        assert ballast.stat().st_size == 4096
        assert (await ledger.verify()).violations == ()


async def test_what_is_left_of_a_full_disk_is_for_what_is_under_way(tmp_path: Path):
    fault = Fault()
    async with opened(tmp_path, connect=fault.connect, ballast_bytes=4096, free_bytes_min=2**62) as ledger:
        await ledger.sync_tenants([ACME])
        assert not (tmp_path / "data" / ".ballast").exists(), "new work comes before a reserve"
        await settled(ledger)
        running = [ledger.hold(ACME, USD) for _ in range(3)]
        fault.set(sqlite3.SQLITE_FULL, times=1)
        await ledger.settle(record(USD), running[0]).durable
        async with asyncio.timeout(5):
            while ledger.health().ok:  # noqa: ASYNC110 - the writer is a thread.
                await asyncio.sleep(0.001)
        with pytest.raises(StorageUnavailable, match="nearly full"):
            ledger.hold(ACME, USD)
        for hold in running[1:]:
            await ledger.settle(record(USD), hold).durable
        assert ledger.funds("acme").balance_nano == 7 * USD


async def test_a_full_disk_takes_what_fits_into_the_files_as_they_are(tmp_path: Path):
    """A WAL whose content is in the database is written from its beginning again."""
    fault = Fault()
    said: list[str] = []
    async with opened(tmp_path, connect=fault.connect) as ledger:
        await ledger.sync_tenants([ACME])
        await settled(ledger)
        strike = fault.strike

        def recorded(connection: sqlite3.Connection, sql: str) -> None:
            if sql.startswith(("COMMIT", "PRAGMA wal")):
                said.append(sql)
            strike(connection, sql)

        fault.strike = recorded
        fault.set(sqlite3.SQLITE_FULL, times=1)
        await pay(ledger, ACME, USD)
        assert said == ["COMMIT", "PRAGMA wal_checkpoint(RESTART)", "COMMIT"]


async def test_a_wal_that_a_reader_has_made_long_is_cut_as_soon_as_no_reader_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Not at the next look at the disk, which may find the next reader: the clock stands still here."""
    monkeypatch.setattr(writer, "CHECKPOINT_CHANGES", 20)
    monkeypatch.setattr(storage, "WAL_BYTES_MAX", 100_000)
    wal = ledger_file(tmp_path).with_name("ledger.db-wal")
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME])
        reader = sqlite3.connect(f"file:{ledger_file(tmp_path)}?mode=ro", uri=True, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM accounts").fetchone()
        while wal.stat().st_size < 400_000:
            await pay(ledger, ACME, 1)
        reader.close()
        for _ in range(10):
            await pay(ledger, ACME, 1)
        assert wal.stat().st_size < 100_000


async def test_a_disk_that_stays_full_refuses_new_work_and_takes_the_charge_back(tmp_path: Path):
    fault, clock = Fault(), ManualClock()
    async with opened(tmp_path, clock, fault.connect) as ledger:
        await ledger.sync_tenants([ACME])
        hold = ledger.hold(ACME, USD)
        fault.set(sqlite3.SQLITE_FULL, times=10**9)
        receipt = ledger.settle(record(USD), hold)
        with pytest.raises(StorageUnavailable):
            await receipt.durable
        assert ledger.funds("acme").balance_nano == 10 * USD
        assert ledger.funds("acme").requests_today == 0
        with pytest.raises(StorageUnavailable, match="full"):
            ledger.hold(ACME, USD)
        with pytest.raises(StorageUnavailable):
            ledger.hold(ACME, 0)
        with pytest.raises(StorageUnavailable):
            await ledger.top_up("acme", USD, actor="op", reference=None, note=None)
        assert not ledger.health().ok
        assert (await ledger.transfers("acme", 5))[0].kind == "opening"  # Reads keep working.
        fault.times = 0
        await recovered(ledger, clock)
        await pay(ledger, ACME, USD)
        assert ledger.funds("acme").balance_nano == 9 * USD
        assert (await ledger.verify()).violations == ()


@pytest.mark.parametrize("at", ["BEGIN", "INSERT INTO requests", "INSERT INTO transfers", "COMMIT"])
async def test_one_io_error_reopens_the_file_and_loses_nothing(tmp_path: Path, at: str):
    fault = Fault()
    async with opened(tmp_path, connect=fault.connect) as ledger:
        await ledger.sync_tenants([ACME])
        fault.set(sqlite3.SQLITE_IOERR, times=1, at=at)
        await pay(ledger, ACME, USD)
        assert fault.times == 0
        assert (await ledger.verify()).violations == ()
        assert ledger.funds("acme").balance_nano == 9 * USD


async def test_a_commit_whose_flush_failed_is_not_charged_twice(tmp_path: Path):
    fault = Fault()
    async with opened(tmp_path, connect=fault.connect) as ledger:
        await ledger.sync_tenants([ACME])
        fault.set(sqlite3.SQLITE_IOERR_FSYNC, times=1, after=True)
        await pay(ledger, ACME, USD)
        assert query(ledger_file(tmp_path), "SELECT count(*) FROM transfers WHERE kind = 'charge'") == [(1,)]
        assert ledger.funds("acme").balance_nano == 9 * USD
        assert (await ledger.verify()).violations == ()


async def test_memory_follows_the_file_after_a_doubtful_commit(tmp_path: Path):
    """The batch reached the file, but nothing can prove it in time: the caller is told that it failed, the balance
    must still be the file's."""
    fault, clock = Fault(), ManualClock()
    async with opened(tmp_path, clock, fault.connect) as ledger:
        await ledger.sync_tenants([ACME])
        fault.set(sqlite3.SQLITE_IOERR_FSYNC, times=1, after=True)
        strike = fault.strike

        def and_no_reopening(connection: sqlite3.Connection, sql: str) -> None:
            if fault.times == 0 and sql.startswith("PRAGMA wal_checkpoint"):
                fault.set(sqlite3.SQLITE_IOERR, times=1, at="PRAGMA wal_checkpoint")
            strike(connection, sql)

        fault.strike = and_no_reopening
        receipt = ledger.settle(record(USD), ledger.hold(ACME, USD))
        with pytest.raises(StorageUnavailable):
            await receipt.durable
        fault.strike = strike
        await recovered(ledger, clock)
        await settled(ledger)
        (balance,) = query(ledger_file(tmp_path), "SELECT balance FROM accounts WHERE name = 'acme'")[0]
        assert ledger.funds("acme").balance_nano == balance == 9 * USD
        assert (await ledger.verify()).violations == ()


async def test_a_poisoned_record_hurts_only_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME])
        good = [record(USD) for _ in range(3)]
        poison = replaced(record(USD), duration_ms=2**70)
        receipts = [ledger.settle(each, None) for each in (good[0], poison, *good[1:])]
        results = await asyncio.gather(*(receipt.durable for receipt in receipts), return_exceptions=True)
        assert [isinstance(result, StorageUnavailable) for result in results] == [False, True, False, False]
        assert poison.id in caplog.text
        assert ledger.funds("acme").balance_nano == 7 * USD
        assert ledger.health().ok
        assert (await ledger.verify()).violations == ()


async def test_a_batch_that_was_written_in_part_lets_work_go_on_though_poison_and_a_lock_came_together(tmp_path: Path):
    fault = Fault()
    async with opened(tmp_path, connect=fault.connect) as ledger:
        await ledger.sync_tenants([ACME])
        await ledger._watch.verify()  # The one at start has passed, and nothing else writes from here on.
        await settled(ledger)
        gate, begins = threading.Event(), iter((False, False, True, True))

        def at_the_poison_alone(connection: sqlite3.Connection, sql: str) -> None:
            if sql.startswith("BEGIN") and next(begins, False):
                error = sqlite3.OperationalError("planted")
                error.sqlite_errorcode = sqlite3.SQLITE_BUSY
                raise error

        fault.strike = at_the_poison_alone
        ledger._writer.chore(gate.wait)  # What is queued meanwhile becomes one batch.
        good, poison = (ledger.settle(each, None) for each in (record(USD), replaced(record(USD), duration_ms=2**70)))
        gate.set()
        await good.durable
        with pytest.raises(StorageUnavailable):
            await poison.durable
        assert next(begins, None) is None, "both faults struck"
        async with asyncio.timeout(5):  # No clock runs, so no probe mends it.
            while not ledger.health().ok:  # noqa: ASYNC110 - the writer is a thread.
                await asyncio.sleep(0.001)
        ledger.release(ledger.hold(ACME, USD))


async def test_a_poisoned_order_of_an_operator_is_an_internal_error(tmp_path: Path):
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME])
        with pytest.raises(InternalError):
            await ledger.top_up("acme", 5, actor="op", reference="bad", note="\ud800")
        await ledger.top_up("acme", 5, actor="op", reference="good", note="fine")
        assert ledger.funds("acme").balance_nano == 10 * USD + 5


async def test_a_file_that_another_program_locks_is_busy_and_recovers(tmp_path: Path):
    clock = ManualClock()
    async with opened(tmp_path, clock, busy_timeout_s=0.01) as ledger:
        await ledger.sync_tenants([ACME])
        await settled(ledger)
        other = sqlite3.connect(ledger_file(tmp_path), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        receipt = ledger.settle(record(USD), ledger.hold(ACME, USD))
        with pytest.raises(StorageUnavailable, match="another program"):
            await receipt.durable
        with pytest.raises(StorageBusy):
            ledger.hold(ACME, USD)
        with pytest.raises(GatewayError):
            await ledger.suspend("acme", actor="op", reason=None)
        assert ledger.suspended("acme")  # What takes a right away does not wait for the disk.
        other.execute("ROLLBACK")
        other.close()
        await recovered(ledger, clock)
        await pay(ledger, ACME, USD)
        assert ledger.funds("acme").balance_nano == 9 * USD


async def test_a_short_lock_only_delays(tmp_path: Path):
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME])
        await settled(ledger)
        other = sqlite3.connect(ledger_file(tmp_path), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        receipt = ledger.settle(record(USD), ledger.hold(ACME, USD))
        other.execute("ROLLBACK")
        other.close()
        await receipt.durable


async def test_new_work_is_refused_above_the_queue_bound_and_settles_are_not(tmp_path: Path):
    async with opened(tmp_path, queue_max=20) as ledger:
        await ledger.sync_tenants([ACME])
        holds = [ledger.hold(ACME, 1_000) for _ in range(40)]
        receipts = [ledger.settle(record(1_000), hold) for hold in holds]
        with pytest.raises(StorageBusy, match="20"):
            ledger.hold(ACME, USD)
        await asyncio.gather(*(receipt.durable for receipt in receipts))
        ledger.release(ledger.hold(ACME, USD))


async def test_a_failed_debit_by_hand_is_taken_back(tmp_path: Path):
    fault, clock = Fault(), ManualClock()
    async with opened(tmp_path, clock, fault.connect) as ledger:
        await ledger.sync_tenants([ACME])
        fault.set(sqlite3.SQLITE_FULL, times=2)
        with pytest.raises(StorageUnavailable):
            await ledger.adjust("acme", -USD, actor="op", note=None)
        assert ledger.funds("acme").balance_nano == 10 * USD
        await recovered(ledger, clock)


async def test_an_opening_balance_that_could_not_be_written_is_granted_later(tmp_path: Path):
    fault, clock = Fault(), ManualClock()
    async with opened(tmp_path, clock, fault.connect) as ledger:
        fault.set(sqlite3.SQLITE_FULL, times=3)
        with pytest.raises(StorageUnavailable):
            await ledger.sync_tenants([ACME])
        fault.times = 0
        await recovered(ledger, clock)
        await ledger.sync_tenants([ACME])
        assert ledger.funds("acme").balance_nano == 10 * USD


async def test_a_floor_that_could_not_be_written_is_written_by_the_next_hold(tmp_path: Path):
    fault, clock = Fault(), ManualClock()
    big = tenant("big", billing=Billing.POSTPAID)
    async with opened(tmp_path, clock, fault.connect) as ledger:
        fault.set(sqlite3.SQLITE_FULL, times=2)
        await ledger.sync_tenants([big])
        await settled(ledger)
        await recovered(ledger, clock)
        await pay(ledger, big, USD)
        assert ledger.funds("big").balance_nano == -USD


async def test_a_replaced_file_stops_money(tmp_path: Path):
    clock = ManualClock()
    async with opened(tmp_path, clock) as ledger:
        await ledger.sync_tenants([ACME])
        await settled(ledger)
        os.rename(ledger_file(tmp_path), tmp_path / "elsewhere.db")
        for _ in range(100):
            await clock.run(5)
            if not ledger.health().ok:
                break
            await asyncio.sleep(0.002)
        with pytest.raises(StorageUnavailable, match="Restart"):
            ledger.hold(ACME, USD)
        with pytest.raises(StorageUnavailable):
            await ledger.settle(record(USD), None).durable


async def test_a_nearly_full_disk_stops_new_work_but_not_what_runs(tmp_path: Path):
    clock = ManualClock()
    async with opened(tmp_path, clock, free_bytes_min=2**62) as ledger:
        await ledger.sync_tenants([ACME])
        running = ledger.hold(ACME, USD)
        for _ in range(100):
            await clock.run(5)
            if not ledger.health().ok:
                break
            await asyncio.sleep(0.002)
        with pytest.raises(StorageUnavailable, match="nearly full"):
            ledger.hold(ACME, USD)
        await ledger.settle(record(USD), running).durable


async def test_after_closing_nothing_hangs(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.CRITICAL)
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME])
        hold = ledger.hold(ACME, USD)
    with pytest.raises(StorageUnavailable):
        await ledger.settle(record(USD), hold).durable
    for late in (ledger.suspend("acme", actor="op", reason=None), ledger.verify()):
        with pytest.raises(StorageUnavailable):
            await late
    with pytest.raises(StorageUnavailable):
        ledger.hold(ACME, 1)
    assert ledger.funds("acme").balance_nano == 10 * USD


async def test_a_clock_that_jumps_back_does_not_turn_the_books(tmp_path: Path):
    clock = ManualClock()
    async with opened(tmp_path, clock) as ledger:
        await ledger.sync_tenants([ACME])
        for jump in (366 * 86_400, -400 * 86_400, 3_600):
            clock.jump(jump)
            await pay(ledger, ACME, USD)
        stamps = [ts for (ts,) in query(ledger_file(tmp_path), "SELECT ts_ns FROM transfers ORDER BY id")]
        assert stamps == sorted(stamps)
        assert ledger.funds("acme").spent_today_nano == 2 * USD
        clock.jump(500 * 86_400)
        await ledger.suspend("acme", actor="op", reason=None)
    clock.jump(-500 * 86_400)
    async with opened(tmp_path, clock) as ledger:
        await ledger.unsuspend("acme", actor="op")
        await pay(ledger, ACME, USD)
        assert ledger.funds("acme").spent_today_nano == 3 * USD
        assert (await ledger.verify()).violations == ()
