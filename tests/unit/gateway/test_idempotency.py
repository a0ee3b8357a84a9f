"""Uses of idempotency keys by a clock that is moved by hand: how long they stand, and what has to make room."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from routerx.domain.record import BillingMode, RequestRecord
from routerx.domain.usage import UsageSource
from routerx.errors import IdempotencyInProgress, IdempotencyMismatch, ReplayUnavailable
from routerx.gateway import idempotency
from routerx.gateway.context import Answer
from routerx.gateway.idempotency import KEPT_NS, SWEEP_S, Idempotency, Kept, Use, keep_whole
from routerx.ledger.answers import AnswerStore
from routerx.ledger.uses import UseIndex
from routerx.vault import Vault
from tests.support.clock import ManualClock
from tests.support.gateway import wait_for

DAY_S = KEPT_NS / 10**9
VAULT = Vault([b"k" * 32])


def record(request_id: str, outcome: str = "ok", cost_nano: int = 1) -> RequestRecord:
    return RequestRecord(
        id=request_id,
        tenant="acme",
        key_id="key",
        operation="chat",
        model="solo",
        endpoint=None,
        provider=None,
        stream=False,
        outcome=outcome,
        http_status=200,
        billing=BillingMode.PAID,
        usage=None,
        usage_source=UsageSource.NONE,
        price=None,
        cost_nano=cost_nano,
        held_nano=0,
        provider_cost_nano=0,
        started_ns=0,
        duration_ms=0,
        ttft_ms=None,
        overhead_us=0,
    )


class Desk:
    """Idempotency over files of its own, and a ledger that knows what it is told."""

    def __init__(self, folder: Path, clock: ManualClock) -> None:
        self.clock = clock
        self.books: dict[str, RequestRecord] = {}
        store = AnswerStore(str(folder / "answers.db"), lambda: VAULT, 10**7)
        self.uses = Idempotency(UseIndex(str(folder / "uses.db")), store, self.look_up, clock)

    async def look_up(self, request_id: str) -> RequestRecord | None:
        return self.books.get(request_id)

    async def begin(self, scope: bytes, request_id: str, fingerprint: bytes = b"f") -> Use:
        use = await self.uses.begin(scope, fingerprint, request_id)
        assert isinstance(use, Use)
        return use

    async def serve(self, scope: bytes, request_id: str, size: int = 1) -> Use:
        use = await self.begin(scope, request_id)
        self.books[request_id] = record(request_id)
        self.uses.settled(self.books[request_id])
        keep_whole(use, Answer(b"x" * size, "text/plain", (("X-Own", "1"), ("X-RouterX-Cost-USD", "1"))))
        self.uses.leave(use, settles=True)
        return use

    async def told(self, scope: bytes, fingerprint: bytes = b"f") -> Kept:
        kept = await self.uses.begin(scope, fingerprint, "req_again")
        assert isinstance(kept, Kept)
        return kept


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
