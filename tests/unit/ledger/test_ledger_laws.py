"""Laws that hold under any order of operations, on a real file: nothing is lost, nothing made, no floor passed."""

import asyncio
import queue
import tempfile
from contextlib import suppress
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routerx.domain.model import DatedPrice
from routerx.domain.pricing import PriceCard, PriceSnapshot, cost_nano
from routerx.domain.record import BillingMode, RequestRecord
from routerx.domain.tenant import Billing
from routerx.domain.usage import Usage
from routerx.errors import Conflict, InsufficientBalance, SpendLimitReached
from routerx.ledger.base import Hold, Rerating
from routerx.ledger.sqlite import SqliteLedger, open_ledger
from tests.support.clock import ManualClock
from tests.unit.ledger.ledger_kit import ledger_file, options, query, record, tenant

TENANTS = (tenant("a", opening=500), tenant("b"), tenant("c", billing=Billing.POSTPAID))

steps = st.one_of(
    st.tuples(st.just("hold"), st.integers(0, 2), st.integers(1, 300)),
    st.tuples(st.just("extend"), st.integers(0, 9), st.integers(1, 300)),
    st.tuples(st.just("settle"), st.integers(0, 9), st.integers(0, 60)),
    st.tuples(st.just("void"), st.integers(0, 9), st.just(0)),
    st.tuples(st.just("refund"), st.integers(0, 9), st.integers(1, 200)),
    st.tuples(st.just("rerate"), st.just(0), st.integers(0, 5_000_000)),
    st.tuples(st.just("crash"), st.just(0), st.just(0)),
    st.tuples(st.just("again"), st.integers(0, 9), st.just(0)),
    st.tuples(st.just("release"), st.integers(0, 9), st.just(0)),
    st.tuples(st.just("top_up"), st.integers(0, 2), st.integers(1, 400)),
    st.tuples(st.just("adjust"), st.integers(0, 2), st.integers(-200, 200).filter(bool)),
    st.tuples(st.just("clock"), st.integers(-90_000, 90_000), st.just(0)),
    st.tuples(st.just("await"), st.just(0), st.just(0)),
    st.tuples(st.just("reopen"), st.just(0), st.just(0)),
)


class World:
    """A ledger and a second, trivial set of books to compare it with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = ManualClock()
        self.holds: list[Hold] = []
        self.settled: list[RequestRecord] = []
        self.charged: dict[str, int] = {}
        """Request id → nano-USD."""
        self.refunded: dict[str, int] = {}
        self.has_rerated = False
        self.waiting: dict[str, asyncio.Future[None]] = {}
        """Request id → when its charge is on the disk."""
        self.expected = {"a": 500, "b": 0, "c": 0}
        self.ledger: SqliteLedger

    async def open(self) -> None:
        self.ledger = await open_ledger(options(self.folder), self.clock)
        await self.ledger.sync_tenants(TENANTS)

    async def step(self, what: str, n: int, value: int) -> None:
        match what:
            case "hold":
                who = TENANTS[n]
                try:
                    self.holds.append(self.ledger.hold(who, value))
                except (InsufficientBalance, SpendLimitReached):
                    assert value > self._free(who.name) or who.plan.billing is Billing.POSTPAID
            case "extend" if self.holds:
                hold = self.holds[n % len(self.holds)]
                who = next(tenant for tenant in TENANTS if tenant.name == hold.tenant)
                try:
                    self.ledger.extend(who, hold, value)
                except InsufficientBalance:
                    assert value > self._free(who.name)
            case "settle" if self.holds:
                self._settle(self.holds.pop(n % len(self.holds)), used=value)
            case "void" if self.holds:
                hold = self.holds.pop(n % len(self.holds))
                failed = record(0, hold.tenant, billing=BillingMode.VOID, outcome="upstream_5xx", attempts=())
                assert self.ledger.settle(failed, hold).charged_nano == 0
            case "refund" if self.settled:
                await self._refund(self.settled[n % len(self.settled)], value)
            case "rerate":
                await self._rerate(PriceCard(value, 0))
            case "crash":
                await self._crash()
            case "again" if self.settled:
                receipt = self.ledger.settle(self.settled[n % len(self.settled)], None)
                if receipt.durable is not None:
                    await receipt.durable  # After a restart only the file knows that it has this request.
                await asyncio.gather(*self.waiting.values())
            case "release" if self.holds:
                hold = self.holds.pop(n % len(self.holds))
                self.ledger.release(hold)
                self.ledger.release(hold)
            case "top_up":
                name = TENANTS[n].name
                await self.ledger.top_up(name, value, actor="op", reference=None, note=None)
                self.expected[name] += value
            case "adjust":
                name = TENANTS[n].name
                try:
                    await self.ledger.adjust(name, value, actor="op", note=None)
                except InsufficientBalance:
                    assert -value > self._free(name)
                else:
                    self.expected[name] += value
            case "clock":
                self.clock.jump(n)
            case "await":
                await asyncio.gather(*self.waiting.values())
                self.waiting.clear()
            case "reopen":
                await self.ledger.close()
                self.holds.clear()
                self.waiting.clear()
                await self.open()
        self._check()

    async def _refund(self, done: RequestRecord, amount: int) -> None:
        left = self.charged[done.id] - self.refunded.get(done.id, 0)
        charge = (done.tenant, done.id)
        try:
            await self.ledger.bookkeeper.refund(charge, amount, actor="op", reference=None, note=None)
        except Conflict:
            assert amount > left or self.has_rerated
        else:
            assert amount <= left
            self.refunded[done.id] = self.refunded.get(done.id, 0) + amount
            self.expected[done.tenant] += amount

    async def _rerate(self, card: PriceCard) -> None:
        await asyncio.gather(*self.waiting.values())
        rerating = Rerating({"acme-ai/model": (DatedPrice(card),)}, 0, 1 << 62, "op", dry_run=False)
        done = await self.ledger.bookkeeper.rerate(rerating)
        before = sum(self.expected.values())
        self.expected = {name: self.ledger.funds(name).balance_nano for name in self.expected}
        assert sum(self.expected.values()) == before + done.given_back_nano - done.taken_nano
        assert (await self.ledger.bookkeeper.rerate(rerating)).corrected == 0
        self.has_rerated = True

    async def _crash(self) -> None:
        """Killed between two commits: what was queued is lost, and what was acknowledged is not."""
        acknowledged = {done.id for done in self.settled if done.id not in self.waiting}
        acknowledged |= {request for request, durable in self.waiting.items() if durable.done()}
        await kill(self.ledger)
        found = {row[0] for row in query(ledger_file(self.folder), "SELECT id FROM requests")}
        for done in self.settled:
            if done.id not in found:
                assert done.id not in acknowledged or self.charged[done.id] == 0
                self.expected[done.tenant] += self.charged[done.id] - self.refunded.get(done.id, 0)
        self.settled = [done for done in self.settled if done.id in found]
        self.holds.clear()
        self.waiting.clear()
        await self.open()

    def _settle(self, hold: Hold, used: int) -> None:
        terms = PriceSnapshot(PriceCard(2_500_000, 0), 1_000)
        usage = Usage(in_fresh=used)
        done = record(cost_nano(usage, terms), hold.tenant, usage=usage, price=terms, held_nano=hold.amount_nano)
        receipt = self.ledger.settle(done, hold)
        assert receipt.charged_nano + receipt.written_off_nano == done.cost_nano
        self.settled.append(done)
        self.charged[done.id] = receipt.charged_nano
        self.expected[hold.tenant] -= receipt.charged_nano
        if receipt.durable is not None:
            self.waiting[done.id] = receipt.durable

    def _free(self, name: str) -> int:
        funds = self.ledger.funds(name)
        return funds.balance_nano - funds.held_nano

    def _check(self) -> None:
        for who in TENANTS:
            funds = self.ledger.funds(who.name)
            assert funds.balance_nano == self.expected[who.name]
            assert funds.held_nano == sum(hold.amount_nano for hold in self.holds if hold.tenant == who.name)
            assert funds.balance_nano - funds.held_nano >= funds.floor_nano
        assert self.ledger.held_nano() == sum(hold.amount_nano for hold in self.holds)


async def kill(ledger: SqliteLedger) -> None:
    """End a ledger with the commit that is under way, lose what is queued, and free its files for the next."""
    await ledger._tasks.close()
    with suppress(queue.Empty):
        while True:
            ledger._writer._queue.get_nowait()
    await asyncio.to_thread(ledger._writer.stop)
    await ledger._requests.close()
    await ledger._log_reader.close()
    await ledger._books_reader.close()
    ledger._lock.release()


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, max_size=40))
def test_money_is_conserved_under_any_interleaving(plan: list[tuple[str, int, int]]):
    async def run(folder: Path) -> None:
        world = World(folder)
        await world.open()
        try:
            for what, n, value in plan:
                await world.step(what, n, value)
            report = await world.ledger.verify()
            assert report.violations == ()
        finally:
            await world.ledger.close()
        rows = query(ledger_file(folder), "SELECT kind, name, balance FROM accounts")
        assert sum(balance for _, _, balance in rows) == 0
        assert {name: balance for kind, name, balance in rows if kind == "tenant"} == world.expected
        charged = query(ledger_file(folder), "SELECT count(*), count(DISTINCT id) FROM requests")
        assert charged == [(len(world.settled), len(world.settled))]

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))
