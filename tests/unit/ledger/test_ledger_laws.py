"""Laws that hold under any order of operations, on a real file: nothing is lost, nothing made, no floor passed."""

import asyncio
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routerx.domain.pricing import PriceCard, PriceSnapshot, cost_nano
from routerx.domain.tenant import Billing
from routerx.domain.usage import Usage
from routerx.errors import InsufficientBalance, SpendLimitReached
from routerx.ledger.base import Hold
from routerx.ledger.sqlite import SqliteLedger, open_ledger
from tests.support.clock import ManualClock
from tests.unit.ledger.ledger_kit import ledger_file, options, query, record, tenant

TENANTS = (tenant("a", opening=500), tenant("b"), tenant("c", billing=Billing.POSTPAID))

steps = st.one_of(
    st.tuples(st.just("hold"), st.integers(0, 2), st.integers(1, 300)),
    st.tuples(st.just("settle"), st.integers(0, 9), st.integers(0, 60)),
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
        self.holds: list[tuple[Hold, int]] = []
        self.settled: list[object] = []
        self.waiting: list[asyncio.Future[None]] = []
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
                    self.holds.append((self.ledger.hold(who, value), value))
                except (InsufficientBalance, SpendLimitReached):
                    assert value > self._free(who.name) or who.plan.billing is Billing.POSTPAID
            case "settle" if self.holds:
                self._settle(*self.holds.pop(n % len(self.holds)), used=value)
            case "again" if self.settled:
                receipt = self.ledger.settle(self.settled[n % len(self.settled)], None)
                if receipt.durable is not None:
                    await receipt.durable  # After a restart only the file knows that it has this request.
                await asyncio.gather(*self.waiting)
            case "release" if self.holds:
                hold, _ = self.holds.pop(n % len(self.holds))
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
                await asyncio.gather(*self.waiting)
                self.waiting.clear()
            case "reopen":
                await self.ledger.close()
                self.holds.clear()
                await self.open()
        self._check()

    def _settle(self, hold: Hold, amount: int, used: int) -> None:
        terms = PriceSnapshot(PriceCard(2_500_000, 0), 1_000)
        usage = Usage(in_fresh=used)
        done = record(cost_nano(usage, terms), hold.tenant, usage=usage, price=terms, held_nano=amount)
        receipt = self.ledger.settle(done, hold)
        assert receipt.charged_nano + receipt.written_off_nano == done.cost_nano
        self.settled.append(done)
        self.expected[hold.tenant] -= receipt.charged_nano
        if receipt.durable is not None:
            self.waiting.append(receipt.durable)

    def _free(self, name: str) -> int:
        funds = self.ledger.funds(name)
        return funds.balance_nano - funds.held_nano

    def _check(self) -> None:
        for who in TENANTS:
            funds = self.ledger.funds(who.name)
            assert funds.balance_nano == self.expected[who.name]
            assert funds.held_nano == sum(amount for hold, amount in self.holds if hold.tenant == who.name)
            assert funds.balance_nano - funds.held_nano >= funds.floor_nano
        assert self.ledger.held_nano() == sum(amount for _, amount in self.holds)


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
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
