"""The request log: bounded, pruned by age, and never in the way of money."""

import asyncio
import signal
import sqlite3
from pathlib import Path

from routerx.domain.record import RequestRecord
from routerx.ledger.base import LogQuery
from routerx.ledger.beside.requestlog import FOLLOWED_MAX, REFUSED_PER_SECOND_MAX, RequestLog
from tests.support.clock import ManualClock
from tests.unit.ledger.ledger_kit import USD, attempt, opened, pay, query, record, refused, replaced, tenant

ACME = tenant(opening=10 * USD)


def log_file(folder: Path) -> Path:
    return folder / "data" / "requests.db"


async def test_a_flood_of_refused_requests_is_sampled_and_served_ones_are_kept(tmp_path: Path):
    clock = ManualClock()
    log = RequestLog(str(tmp_path / "requests.db"), clock)
    for _ in range(3 * REFUSED_PER_SECOND_MAX):
        log.add(refused(), refused=True)
    log.add(record(), refused=False)
    clock.advance(1)
    log.add(refused(), refused=True)
    await log.close()
    assert query(tmp_path / "requests.db", "SELECT count(*) FROM log") == [(REFUSED_PER_SECOND_MAX + 2,)]
    assert log.dropped == 2 * REFUSED_PER_SECOND_MAX


def hung(*_: object) -> None:
    raise TimeoutError("the event loop hangs")


async def test_who_comes_just_when_a_write_has_ended_does_not_stop_the_event_loop(tmp_path: Path):
    log = RequestLog(str(tmp_path / "requests.db"), ManualClock())
    log.add(record(), refused=False)
    first = asyncio.ensure_future(log.flush())
    await asyncio.sleep(0)
    log._executor.submit(int).result()  # The write has ended, and the loop is still to be told.
    signal.signal(signal.SIGALRM, hung)
    signal.setitimer(signal.ITIMER_REAL, 2.0)
    try:
        await asyncio.ensure_future(log.flush())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    await first
    await log.close()
    assert query(tmp_path / "requests.db", "SELECT count(*) FROM log") == [(1,)]


async def test_old_records_are_pruned_and_the_books_still_know_the_request(tmp_path: Path):
    clock = ManualClock()
    async with opened(tmp_path, clock, log_retention_days=7) as ledger:
        await ledger.sync_tenants([ACME])
        old = await pay(ledger, ACME, USD)
        assert await ledger.request(old.id) == old
        clock.jump(8 * 86_400)
        new = replaced(record(), started_ns=clock.now_ns())
        ledger.settle(new, None)
        for _ in range(500):
            await clock.run(3_600)
            if query(log_file(tmp_path), "SELECT count(*) FROM log WHERE id = ?", old.id) == [(0,)]:
                break
            await asyncio.sleep(0.002)
        assert await ledger.log(LogQuery()) == (new,)
        found = await ledger.request(old.id)
        assert found == replaced(old, ttft_ms=None, overhead_us=0)


async def test_the_books_rebuild_every_field_they_keep(tmp_path: Path):
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME])
        done = replaced(
            record(20 * USD, held_nano=USD),
            stream=True,
            flags=("missing_done",),
            attempts=(attempt(1, won=False, outcome="upstream_429"), attempt(2)),
        )
        await ledger.settle(done, ledger.hold(ACME, USD)).durable
        await ledger.log(LogQuery())
        connection = sqlite3.connect(log_file(tmp_path))
        connection.execute("DELETE FROM log")
        connection.commit()
        connection.close()
        kept: RequestRecord | None = await ledger.request(done.id)
        assert kept == replaced(done, ttft_ms=None, overhead_us=0, flags=("missing_done", "overrun"))


async def test_a_new_retention_takes_effect_without_a_restart(tmp_path: Path):
    clock = ManualClock()
    async with opened(tmp_path, clock, log_retention_days=30) as ledger:
        ledger.settle(record(), None)
        await ledger.log(LogQuery())
        clock.jump(3 * 86_400)
        ledger.set_retention(2, None)
        for _ in range(500):
            await clock.run(3_600)
            if await ledger.log(LogQuery()) == ():
                return
            await asyncio.sleep(0.002)
        raise AssertionError("nothing was pruned")


async def test_a_slow_follower_loses_the_newest_and_stops_nobody(tmp_path: Path):
    async with opened(tmp_path) as ledger:
        queue = ledger.follow()
        first = record()
        ledger.settle(first, None)
        for _ in range(FOLLOWED_MAX):
            ledger.settle(record(), None)
        assert queue.qsize() == FOLLOWED_MAX
        assert queue.get_nowait() == first


async def test_a_log_that_cannot_be_written_costs_records_and_no_money(tmp_path: Path):
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME])
        connection = sqlite3.connect(log_file(tmp_path))
        connection.execute("DROP TABLE log")
        connection.commit()
        connection.close()
        await pay(ledger, ACME, USD)
        await ledger._requests.flush()
        assert ledger._requests.dropped == 1
        assert ledger.funds("acme").balance_nano == 9 * USD
        assert ledger.health().ok


async def test_the_log_is_on_disk_a_second_later(tmp_path: Path):
    clock = ManualClock()
    async with opened(tmp_path, clock) as ledger:
        ledger.settle(record(), None)
        for _ in range(500):
            await clock.run(1)
            if query(log_file(tmp_path), "SELECT count(*) FROM log") == [(1,)]:
                return
            await asyncio.sleep(0.002)
        raise AssertionError("the record stayed in memory")
