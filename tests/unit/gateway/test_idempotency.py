"""Uses of idempotency keys by a clock that is moved by hand: how long they stand, and what has to make room."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from routerx.errors import IdempotencyInProgress, IdempotencyMismatch, ReplayUnavailable
from routerx.gateway import idempotency
from routerx.gateway.idempotency import KEPT_NS, SWEEP_S, Kept, Recorder, Room
from tests.support.clock import ManualClock
from tests.support.gateway import wait_for
from tests.unit.gateway.idempotency_kit import Desk, record

DAY_S = KEPT_NS / 10**9


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    desk = Desk(tmp_path, ManualClock())
    yield desk
    await desk.uses.close()


async def test_an_answer_stands_for_a_day_and_no_longer(desk: Desk) -> None:
    await desk.serve(b"a", "req_1")
    desk.clock.advance(DAY_S - 1)
    kept = await desk.told(b"a")
    assert (kept.body, kept.headers) == (b"x", (("X-Own", "1"),))
    desk.clock.advance(1)
    await desk.serve(b"a", "req_2")
    assert desk.uses.replays == 1


@pytest.mark.parametrize("restart", [False, True])
async def test_what_has_expired_is_gone_from_memory_and_disk(desk: Desk, tmp_path: Path, restart: bool) -> None:
    await desk.serve(b"a", "req_1")
    if restart:
        await desk.uses.close()
        desk.uses = Desk(tmp_path, desk.clock).uses
    sweeping = asyncio.create_task(desk.uses.run())
    await wait_for(lambda: desk.clock.sleepers == 1)
    desk.clock.advance(DAY_S)
    await asyncio.sleep(0)
    await wait_for(lambda: desk.clock.sleepers == 1)
    sweeping.cancel()
    assert not desk.uses._uses
    assert desk.uses._bytes == 0
    await desk.uses.close()
    for name, table in (("uses.db", "uses"), ("answers.db", "answers")):
        assert count(tmp_path / name, table) == 0
    assert SWEEP_S < DAY_S


def count(path: Path, table: str) -> int:
    connection = sqlite3.connect(path)
    try:
        found: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        return found
    finally:
        connection.close()


async def test_what_has_to_make_room_in_memory_is_told_from_disk(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "TOTAL_BYTES_MAX", 2_500)
    for name in (b"a", b"b", b"c"):
        await desk.serve(name, f"req_{name.decode()}", 1_000)
    assert list(desk.uses._uses) == [b"b", b"c"]
    assert (await desk.told(b"a")).body == b"x" * 1_000
    assert list(desk.uses._uses) == [b"c", b"a"]
    assert desk.uses._bytes <= 2_500
    with pytest.raises(IdempotencyMismatch):
        await desk.told(b"b", b"other")


async def test_who_is_still_read_to_its_end_does_not_make_room(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its caller has gone and it has not settled: nobody may be served in its place, nor its key be given away."""
    monkeypatch.setattr(idempotency, "USES_MAX", 1)
    drained = await desk.begin(b"a", "req_1")
    desk.uses.leave(drained, settles=True)
    await desk.serve(b"b", "req_2")
    with pytest.raises(IdempotencyInProgress):
        await desk.told(b"a")
    desk.uses.settled(record("req_1", "client_gone_midstream", 0))
    await desk.begin(b"a", "req_3")


async def test_a_key_that_came_to_nothing_is_free_at_once_for_anything(desk: Desk) -> None:
    failed = await desk.begin(b"a", "req_1")
    desk.uses.leave(failed, settles=False)
    again = await desk.begin(b"a", "req_2", b"other")
    assert again.row.fingerprint == b"other"


async def test_a_use_that_is_taken_over_is_on_disk(desk: Desk, tmp_path: Path) -> None:
    """Its process was killed; the one that takes over is killed, too, after its charge."""
    await desk.begin(b"a", "req_1")
    await desk.uses.close()
    second = Desk(tmp_path, desk.clock)
    await second.begin(b"a", "req_2", b"other")
    await second.uses.close()
    third = Desk(tmp_path, desk.clock)
    third.books["req_2"] = record("req_2")
    with pytest.raises(IdempotencyMismatch):
        await third.told(b"a")
    with pytest.raises(ReplayUnavailable):
        await third.told(b"a", b"other")
    await third.uses.close()


async def test_two_that_find_an_answer_on_disk_at_once_are_told_it_or_to_wait(desk: Desk, tmp_path: Path) -> None:
    await desk.serve(b"a", "req_1")
    await desk.uses.close()
    again = Desk(tmp_path, desk.clock)
    again.books = desk.books
    said = await asyncio.gather(again.told(b"a"), again.told(b"a"), return_exceptions=True)
    assert isinstance(said[0], Kept)
    assert isinstance(said[1], IdempotencyInProgress)
    assert (await again.told(b"a")) == said[0]
    await again.uses.close()


class Nowhere:
    """A caller of a stream."""

    async def start(self, headers: tuple[tuple[str, str], ...]) -> None: ...

    async def write(self, data: bytes) -> None: ...

    async def finish(self, data: bytes) -> None: ...


async def test_streams_on_their_way_take_no_more_than_there_is_room_for(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "RECORDED_BYTES_MAX", 1_000)
    room = Room()
    uses = [await desk.begin(name, f"req_{name.decode()}") for name in (b"a", b"b")]
    recorders = [Recorder(Nowhere(), use, room) for use in uses]
    for recorder in recorders:
        await recorder.start(())
        await recorder.write(bytes(600))
    assert room.bytes == 600
    for use, recorder in zip(uses, recorders, strict=True):
        desk.uses.settled(record(use.row.request_id))
        await recorder.finish(b"end")
        recorder.close()
    assert [use.answer is not None for use in uses] == [True, False]
    assert room.bytes == 0
