"""Old request rows go, and the file proves as before what they charged."""

import asyncio
import threading
from pathlib import Path

import pytest

from routerx.errors import Conflict, NotFound
from routerx.ledger.base import PruneReport, UsageQuery
from routerx.ledger.proof import verify
from routerx.ledger.proof.pruning import ROWS_PER_STEP, DeletePruned
from routerx.ledger.proof.verify import check_file, verify_file
from routerx.ledger.sqlite import SqliteLedger
from tests.support.clock import START_NS, ManualClock
from tests.unit.ledger.ledger_kit import USD, ledger_file, opened, pay, query, record, tenant
from tests.unit.ledger.test_corrections import CARD, at, rated, settle
from tests.unit.ledger.test_ledger_verify import rechain, tamper

ACME, OTHER = tenant(opening=100 * USD), tenant("other", opening=100 * USD)
DAY_S = 86_400
DAY_NS = DAY_S * USD


async def four_days(ledger: SqliteLedger, clock: ManualClock) -> None:
    """Three requests a day, one of them free, of two tenants."""
    await ledger.sync_tenants([ACME, OTHER])
    for _ in range(4):
        ledger.settle(record(), None)
        await pay(ledger, ACME, USD)
        await pay(ledger, OTHER, 2 * USD)
        clock.advance(DAY_S)


async def prune(ledger: SqliteLedger, day: int, *, dry_run: bool = False) -> PruneReport:
    return await ledger.bookkeeper.prune(START_NS + day * DAY_NS, actor="op", dry_run=dry_run)


async def pruned_ledger(folder: Path, *days: int) -> Path:
    clock = ManualClock()
    async with opened(folder, clock) as ledger:
        await four_days(ledger, clock)
        for day in days:
            await prune(ledger, day)
        await pay(ledger, ACME, USD)
    return ledger_file(folder)


async def test_rows_of_old_days_go_and_every_proof_holds(tmp_path: Path):
    clock = ManualClock()
    async with opened(tmp_path, clock) as ledger:
        await four_days(ledger, clock)
        before = await ledger.transfers("acme", 100)
        days = query(ledger_file(tmp_path), "SELECT * FROM days")
        assert await prune(ledger, 2, dry_run=True) == PruneReport(6, 6, dry_run=True)
        assert query(ledger_file(tmp_path), "SELECT count(*) FROM requests") == [(12,)]
        assert await prune(ledger, 2) == PruneReport(6, 6, dry_run=False)
        assert query(ledger_file(tmp_path), "SELECT min(n), count(*) FROM requests") == [(7, 6)]
        assert query(ledger_file(tmp_path), "SELECT min(request), count(*) FROM attempts") == [(7, 6)]
        assert query(ledger_file(tmp_path), "SELECT * FROM days") == days
        after = await ledger.transfers("acme", 100)
        assert [(row.id, row.amount_nano) for row in after] == [(row.id, row.amount_nano) for row in before]
        assert after[1].request_id is None
        assert after[-1].request_id is not None
        assert (await ledger.verify()).violations == ()
        await ledger._watch.verify()
        assert ledger.health().ok
        assert await prune(ledger, 2) == PruneReport(0, 6, dry_run=False)
        assert (await prune(ledger, 3)).requests == 3
        await pay(ledger, ACME, USD)
        assert (await ledger.verify()).violations == ()
    async with opened(tmp_path, clock) as ledger:
        await pay(ledger, ACME, USD)
        await ledger._watch.verify()
        assert (await ledger.verify()).violations == ()
        assert ledger.health().ok
        assert ledger.funds("acme").spent_total_nano == 6 * USD


async def test_a_ledger_that_lost_all_its_rows_goes_on_counting(tmp_path: Path):
    clock = ManualClock()
    async with opened(tmp_path, clock) as ledger:
        await four_days(ledger, clock)
        assert await prune(ledger, 9) == PruneReport(12, 0, dry_run=False)
        assert await prune(ledger, 9) == PruneReport(0, 0, dry_run=False)
    async with opened(tmp_path, clock) as ledger:
        done = await pay(ledger, ACME, USD)
        assert query(ledger_file(tmp_path), "SELECT n, id FROM requests") == [(13, done.id)]
        rows = await ledger.usage(UsageQuery(0, 1 << 62))
        assert [row.requests for row in rows] == [1]
        assert (await ledger.verify()).violations == ()


async def test_pruning_that_was_cut_off_is_finished_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clock = ManualClock()

    def nothing(self: DeletePruned, batch: object) -> int:
        return 0

    async with opened(tmp_path, clock) as ledger:
        await four_days(ledger, clock)
        with monkeypatch.context() as patched:
            patched.setattr(DeletePruned, "apply", nothing)
            await prune(ledger, 2)
        assert query(ledger_file(tmp_path), "SELECT count(*) FROM requests") == [(12,)]
        assert (await ledger.verify()).violations == ()
    async with opened(tmp_path, clock) as ledger:
        await ledger._watch.verify()
        assert ledger.health().ok
        assert (await prune(ledger, 2)).requests == 0
        assert query(ledger_file(tmp_path), "SELECT count(*) FROM requests") == [(6,)]
        assert (await ledger.verify()).violations == ()


async def test_commits_go_on_between_the_steps_of_pruning(tmp_path: Path):
    clock = ManualClock()
    async with opened(tmp_path, clock) as ledger:
        await ledger.sync_tenants([ACME])
        for _ in range(3 * ROWS_PER_STEP):
            ledger.settle(record(), None)
        await pay(ledger, ACME, 1_000)
        clock.advance(DAY_S)
        pruning = asyncio.create_task(prune(ledger, 1))
        paid = 0
        while not pruning.done():
            await pay(ledger, ACME, 1_000)
            paid += 1
        assert (await pruning).requests == 3 * ROWS_PER_STEP + 1
        assert paid > 3
        assert (await ledger.verify()).violations == ()


async def test_pruning_under_a_check_is_not_taken_for_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clock = ManualClock()
    monkeypatch.setattr(verify, "PAUSE_ROWS", 2)
    believed: list[bool] = []
    check = verify._checked

    def watched(*arguments: object) -> object:
        result = check(*arguments)
        believed.append(result[1])
        return result

    monkeypatch.setattr(verify, "_checked", watched)
    async with opened(tmp_path, clock) as ledger:
        await four_days(ledger, clock)
        loop, pruned = asyncio.get_running_loop(), threading.Event()

        def meanwhile() -> None:
            """In the thread of the check, between two rows."""
            if not pruned.is_set():
                pruned.set()
                asyncio.run_coroutine_threadsafe(prune(ledger, 2), loop).result(10)

        report, violations = await asyncio.to_thread(check_file, str(ledger_file(tmp_path)), meanwhile)
        assert believed == [False, True]
        assert violations == ()
        assert report.checked_requests == 6


async def test_what_was_pruned_is_neither_refunded_nor_re_rated(tmp_path: Path):
    clock = ManualClock()
    async with opened(tmp_path, clock) as ledger:
        await ledger.sync_tenants([ACME])
        old = await settle(ledger, rated())
        await ledger.bookkeeper.refund(("acme", old.id), 10, actor="op", reference=None, note=None)
        assert (await ledger.bookkeeper.rerate(at(type(CARD)(3_000_000, 8_000_000)))).corrected == 1
        clock.advance(DAY_S)
        await prune(ledger, 1)
        with pytest.raises(NotFound):
            await ledger.bookkeeper.refund(("acme", old.id), 10, actor="op", reference=None, note=None)
        assert (await ledger.bookkeeper.rerate(at(CARD))).requests == 0
        assert (await ledger.verify()).violations == ()


async def test_books_that_are_wrong_are_not_pruned(tmp_path: Path):
    clock = ManualClock()
    async with opened(tmp_path, clock) as ledger:
        await four_days(ledger, clock)
        tamper(ledger_file(tmp_path), "UPDATE requests SET cost = cost + 1, charged = charged + 1 WHERE n = 2")
        with pytest.raises(Conflict, match="I5: request"):
            await prune(ledger, 2)
        assert query(ledger_file(tmp_path), "SELECT count(*) FROM watermarks") == [(0,)]


OLD_CHARGE = "(SELECT min(id) FROM transfers WHERE kind = 'charge')"
FAULTS = {
    "edited note of an old charge": ("I11", "UPDATE transfers SET note = 'x' WHERE id = " + OLD_CHARGE),
    "request of an old charge": ("I11", f"UPDATE transfers SET request = request + 1 WHERE id = {OLD_CHARGE}"),
    "other sums": ("I11", "UPDATE pruned_days SET charged = charged + 1"),
    "lost sums": ("I16", "DELETE FROM pruned_days WHERE day = (SELECT min(day) FROM pruned_days)"),
    "other seal": ("I11", "UPDATE watermarks SET seal = zeroblob(32)"),
    "later watermark": ("I11", "UPDATE watermarks SET request = request + 1"),
    "no watermark": ("I6", "DELETE FROM watermarks"),
    "rows that were not to go": ("I11", "DELETE FROM requests WHERE n = 7"),
    "daily figures": ("I16", "UPDATE days SET requests = requests + 1 WHERE day = (SELECT min(day) FROM days)"),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_a_planted_fault_is_caught_behind_a_watermark(tmp_path: Path, name: str):
    invariant, statement = FAULTS[name]
    path = await pruned_ledger(tmp_path, 1, 2)
    tamper(path, statement)
    found = verify_file(str(path)).violations
    assert any(line.startswith(f"{invariant}:") for line in found), found


async def test_a_forger_of_old_amounts_who_mends_the_chain_is_caught_by_the_seal(tmp_path: Path):
    path = await pruned_ledger(tmp_path, 2)
    tamper(
        path,
        f"UPDATE transfers SET amount = amount - 5 WHERE id = {OLD_CHARGE}",
        "UPDATE accounts SET balance = balance + 5 WHERE name = 'acme'",
        "UPDATE accounts SET balance = balance - 5 WHERE kind = 'house_revenue'",
    )
    rechain(path)
    assert any("were sealed" in line for line in verify_file(str(path)).violations)


async def test_the_retention_prunes_by_itself_and_can_be_changed(tmp_path: Path):
    clock = ManualClock()
    async with opened(tmp_path, clock, retention_days=3) as ledger:
        await four_days(ledger, clock)

        async def left() -> int:
            await clock.run(3_601)
            for _ in range(300):
                ((count,),) = query(ledger_file(tmp_path), "SELECT count(*) FROM requests")
                if count not in (12, 9):
                    break
                await asyncio.sleep(0.002)
            return int(str(count))

        ledger.set_retention(30, None)
        await clock.run(7_200)
        assert query(ledger_file(tmp_path), "SELECT count(*) FROM requests") == [(12,)]
        ledger.set_retention(30, 1)
        assert await left() == 3
        assert query(ledger_file(tmp_path), "SELECT actor FROM audit WHERE action = 'ledger.prune'") == [("retention",)]
        assert (await ledger.verify()).violations == ()
