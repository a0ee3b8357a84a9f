"""What every backend of the ledger must do. Written against routerx.ledger.base.Ledger alone."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from routerx.domain.pricing import PriceCard, PriceSnapshot, cost_nano, fee_terms
from routerx.domain.record import BillingMode
from routerx.domain.tenant import Billing, Period, Principal
from routerx.domain.usage import Usage, UsageSource
from routerx.errors import CallerError, Conflict, InsufficientBalance, NotFound, SpendLimitReached
from routerx.ledger.base import Ledger, LogQuery
from routerx.ledger.sqlite import open_ledger
from routerx.secrets import key_digest, key_id
from tests.support.clock import ManualClock
from tests.unit.ledger.ledger_kit import USD, attempt, options, pay, record, refused, tenant

Reopen = Callable[[], Awaitable[Ledger]]


class Backend:
    """Opens, closes and reopens one ledger."""

    def __init__(self, folder: Path, clock: ManualClock) -> None:
        self._folder = folder
        self._clock = clock
        self._ledger: Ledger | None = None

    async def open(self) -> Ledger:
        await self.close()
        self._ledger = await open_ledger(options(self._folder), self._clock)
        return self._ledger

    async def close(self) -> None:
        if self._ledger is not None:
            ledger, self._ledger = self._ledger, None
            await ledger.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["sqlite"])
async def backend(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Backend]:
    backend = Backend(tmp_path, clock)
    yield backend
    await backend.close()


@pytest.fixture
async def ledger(backend: Backend) -> AsyncIterator[Ledger]:
    ledger = await backend.open()
    yield ledger
    report = await (await backend.open()).verify()
    assert report.violations == ()


# --- holds ---------------------------------------------------------------------------------------------------------


async def test_holds_never_promise_more_than_the_balance(ledger: Ledger):
    acme = tenant(opening=10 * USD)
    await ledger.sync_tenants([acme])
    granted = []
    for _ in range(200):
        try:
            granted.append(ledger.hold(acme, USD))
        except InsufficientBalance:
            continue
    assert len(granted) == 10
    assert ledger.funds("acme").held_nano == ledger.held_nano() == 10 * USD
    receipts = [ledger.settle(record(USD), hold) for hold in granted]
    await asyncio.gather(*(receipt.durable for receipt in receipts))
    assert ledger.funds("acme").balance_nano == 0
    assert ledger.held_nano() == 0


async def test_a_refusal_says_what_is_needed_and_what_is_there(ledger: Ledger):
    acme = tenant(opening=3 * USD)
    await ledger.sync_tenants([acme])
    ledger.hold(acme, USD)
    with pytest.raises(InsufficientBalance) as refusal:
        ledger.hold(acme, 5 * USD // 2)
    assert dict(refusal.value.details) == {"needed": "2.50", "available": "2.00"}


async def test_an_unknown_tenant_has_no_money(ledger: Ledger):
    with pytest.raises(InsufficientBalance):
        ledger.hold(tenant("stranger"), 1)
    with pytest.raises(NotFound):
        ledger.funds("nobody")


async def test_a_released_hold_is_free_again_and_only_once(ledger: Ledger):
    acme = tenant(opening=USD)
    await ledger.sync_tenants([acme])
    hold = ledger.hold(acme, USD)
    ledger.release(hold)
    ledger.release(hold)
    assert ledger.funds("acme").held_nano == 0
    ledger.hold(acme, USD)
    assert ledger.funds("acme").held_nano == USD


async def test_free_requests_and_unbilled_plans_need_no_balance(ledger: Ledger):
    assert ledger.hold(tenant("poor"), 0).amount_nano == 0
    assert ledger.hold(tenant("house", billing=Billing.OFF), 5 * USD).amount_nano == 0
    assert ledger.held_nano() == 0


async def test_postpaid_runs_into_debt(ledger: Ledger):
    big = tenant("big", billing=Billing.POSTPAID)
    await ledger.sync_tenants([big])
    await pay(ledger, big, 7 * USD)
    assert ledger.funds("big").balance_nano == -7 * USD


async def test_debt_stays_when_a_plan_becomes_prepaid(ledger: Ledger, backend: Backend):
    await ledger.sync_tenants([tenant(billing=Billing.POSTPAID)])
    running = ledger.hold(tenant(billing=Billing.POSTPAID), USD)
    await pay(ledger, tenant(billing=Billing.POSTPAID), 2 * USD)
    await ledger.sync_tenants([tenant()])
    with pytest.raises(InsufficientBalance):
        ledger.hold(tenant(), 1)
    receipt = ledger.settle(record(USD), running)
    await receipt.durable
    assert receipt.charged_nano == USD
    await ledger.top_up("acme", 4 * USD, actor="op", reference=None, note=None)
    ledger = await backend.open()
    await ledger.sync_tenants([tenant()])
    assert ledger.funds("acme").balance_nano == USD
    assert ledger.funds("acme").floor_nano == 0
    hold = ledger.hold(tenant(), USD)
    assert ledger.settle(record(3 * USD), hold).written_off_nano == 2 * USD


@pytest.mark.parametrize(
    ("period", "wait_days", "fits"),
    [
        (Period.DAY, 1, True),
        (Period.WEEK, 1, False),
        (Period.WEEK, 4, True),  # The clock starts on Thursday 1 January 2026.
        (Period.MONTH, 4, False),
        (Period.MONTH, 31, True),
        (Period.TOTAL, 400, False),
    ],
)
async def test_a_spend_limit_counts_its_calendar_period(
    ledger: Ledger, backend: Backend, clock: ManualClock, period: Period, wait_days: int, fits: bool
):
    acme = tenant(opening=100 * USD, limit=(3 * USD, period))
    await ledger.sync_tenants([acme])
    await pay(ledger, acme, 2 * USD)
    with pytest.raises(SpendLimitReached):
        ledger.hold(acme, 2 * USD)
    clock.advance(wait_days * 86_400)
    for _ in ("in memory", "from the file"):
        if fits:
            ledger.release(ledger.hold(acme, 2 * USD))
        else:
            with pytest.raises(SpendLimitReached):
                ledger.hold(acme, 2 * USD)
        ledger = await backend.open()


async def test_open_holds_count_towards_the_spend_limit(ledger: Ledger):
    acme = tenant(opening=100 * USD, limit=(3 * USD, Period.DAY))
    await ledger.sync_tenants([acme])
    ledger.hold(acme, 2 * USD)
    with pytest.raises(SpendLimitReached):
        ledger.hold(acme, 2 * USD)


# --- settles -------------------------------------------------------------------------------------------------------


async def test_a_settled_request_is_charged_once_whoever_calls_how_often(ledger: Ledger, backend: Backend):
    acme = tenant(opening=10 * USD)
    await ledger.sync_tenants([acme])
    done = await pay(ledger, acme, USD)
    again = ledger.settle(done, ledger.hold(acme, USD))
    assert again.charged_nano == USD
    assert ledger.funds("acme").balance_nano == 9 * USD
    assert ledger.held_nano() == 0
    ledger = await backend.open()  # Its memory of recent requests is gone: the file knows.
    late = ledger.settle(done, None)
    await late.durable
    assert ledger.funds("acme").balance_nano == 9 * USD
    assert ledger.funds("acme").requests_today == 1


async def test_a_charge_may_pass_its_hold_but_not_the_floor(ledger: Ledger):
    acme = tenant(opening=5 * USD)
    await ledger.sync_tenants([acme])
    other = ledger.hold(acme, 2 * USD)
    receipt = ledger.settle(record(4 * USD), ledger.hold(acme, USD))
    await receipt.durable
    assert (receipt.charged_nano, receipt.written_off_nano) == (3 * USD, USD)
    assert "overrun" in (await ledger.log(LogQuery()))[-1].flags
    receipt = ledger.settle(record(2 * USD), other)
    await receipt.durable
    assert receipt.charged_nano == 2 * USD
    assert ledger.funds("acme").balance_nano == 0
    kinds = [row.kind for row in await ledger.transfers("acme", 10)]
    assert kinds == ["opening", "charge", "writeoff", "charge"]


async def test_what_nothing_can_pay_is_written_off_whole(ledger: Ledger):
    receipt = ledger.settle(record(USD, "stranger"), None)
    await receipt.durable
    assert (receipt.charged_nano, receipt.written_off_nano) == (0, USD)


@pytest.mark.parametrize("billing", [BillingMode.FREE, BillingMode.CACHED, BillingMode.OFF, BillingMode.VOID])
async def test_only_paid_requests_are_charged(ledger: Ledger, billing: BillingMode):
    acme = tenant(opening=USD)
    await ledger.sync_tenants([acme])
    terms = PriceSnapshot(PriceCard(2_500_000, 10_000_000))
    usage = Usage(in_fresh=10, out_text=5)
    cost = cost_nano(usage, terms) if billing is BillingMode.OFF else 0
    hold = ledger.hold(acme, USD // 2)
    receipt = ledger.settle(record(0, billing=billing, usage=usage, price=terms, cost_nano=cost), hold)
    assert (receipt.charged_nano, receipt.written_off_nano, receipt.durable) == (0, 0, None)
    assert ledger.funds("acme").balance_nano == USD
    assert ledger.held_nano() == 0


async def test_an_own_key_owes_a_fee_that_is_no_charge(ledger: Ledger, backend: Backend):
    acme = tenant(opening=USD)
    await ledger.sync_tenants([acme])
    terms = fee_terms(PriceCard(2_500_000, 10_000_000), 100)
    usage = Usage(in_fresh=1_001, out_text=5)
    fee = -(-(1_001 * 2_500_000 + 5 * 10_000_000) // 100_000)
    hold = ledger.hold(acme, fee)
    receipt = ledger.settle(record(fee, billing=BillingMode.BYOK, usage=usage, price=terms), hold)
    await receipt.durable
    assert receipt.charged_nano == fee
    ledger = await backend.open()
    assert ledger.funds("acme").balance_nano == USD - fee
    rows = await ledger.transfers("acme", 10)
    assert [(row.kind, row.amount_nano) for row in rows] == [("opening", USD), ("byok_fee", -fee)]


async def test_an_own_key_without_a_fee_owes_nothing(ledger: Ledger):
    terms = fee_terms(PriceCard(2_500_000, 10_000_000), 0)
    free = record(0, "poor", billing=BillingMode.BYOK, price=terms)
    assert ledger.settle(free, ledger.hold(tenant("poor"), 0)).durable is None


async def test_an_estimate_may_be_capped_at_its_hold(ledger: Ledger):
    acme = tenant(opening=USD)
    await ledger.sync_tenants([acme])
    terms = PriceSnapshot(PriceCard(2_500_000, 10_000_000))
    hold = ledger.hold(acme, 1_000)
    estimate = record(1_000, price=terms, usage_source=UsageSource.ESTIMATED, usage=Usage(out_text=500))
    await ledger.settle(estimate, hold).durable


async def test_a_request_that_failed_after_it_was_sent_has_a_row(ledger: Ledger, backend: Backend):
    await ledger.sync_tenants([tenant()])
    failed = record(0, outcome="upstream_5xx", billing=BillingMode.VOID, attempts=(attempt(won=False),), usage=None)
    ledger.settle(failed, None)
    turned_away = refused()
    ledger.settle(turned_away, None)
    ledger = await backend.open()
    assert ledger.funds("acme").requests_today == 1
    assert await ledger.request(failed.id) == failed
    assert await ledger.request(turned_away.id) == turned_away
    assert (await ledger.verify()).checked_requests == 1


# --- money by hand -------------------------------------------------------------------------------------------------


async def test_an_opening_balance_is_granted_once(ledger: Ledger, backend: Backend):
    await ledger.sync_tenants([tenant(opening=25 * USD)])
    await ledger.sync_tenants([tenant(opening=99 * USD)])
    ledger = await backend.open()
    await ledger.sync_tenants([tenant(opening=99 * USD)])
    assert ledger.funds("acme").balance_nano == 25 * USD
    assert [row.reference for row in await ledger.transfers("acme", 10)] == ["opening:acme"]
    assert ledger.account_names() == ("acme",)


async def test_a_payment_counts_once_by_its_reference(ledger: Ledger):
    await ledger.sync_tenants([tenant(), tenant("other")])
    first = await ledger.top_up("acme", 5 * USD, actor="op", reference="pay-1", note="invoice 7")
    again = await ledger.top_up("acme", 5 * USD, actor="else", reference="pay-1", note=None)
    assert again == msgspec.structs.replace(first, repeated=True)
    assert (first.kind, first.balance_nano, first.actor, first.note) == ("topup", 5 * USD, "op", "invoice 7")
    for name, amount in (("acme", 6 * USD), ("other", 5 * USD)):
        with pytest.raises(Conflict, match="pay-1"):
            await ledger.top_up(name, amount, actor="op", reference="pay-1", note=None)
    await ledger.top_up("acme", 5 * USD, actor="op", reference=None, note=None)
    await ledger.top_up("acme", 5 * USD, actor="op", reference=None, note=None)
    assert ledger.funds("acme").balance_nano == 15 * USD


async def test_an_adjustment_goes_both_ways_but_not_below_the_floor(ledger: Ledger):
    acme = tenant(opening=5 * USD)
    await ledger.sync_tenants([acme])
    ledger.hold(acme, 2 * USD)
    with pytest.raises(CallerError, match=r"3\.00"):
        await ledger.adjust("acme", -4 * USD, actor="op", note=None)
    down = await ledger.adjust("acme", -3 * USD, actor="op", note="mistake")
    up = await ledger.adjust("acme", USD, actor="op", note=None)
    assert (down.amount_nano, down.balance_nano, up.balance_nano) == (-3 * USD, 2 * USD, 3 * USD)
    assert ledger.funds("acme").balance_nano == 3 * USD


@pytest.mark.parametrize("amount", [0, -5, 2**62 + 1])
async def test_a_top_up_has_a_sensible_amount(ledger: Ledger, amount: int):
    await ledger.sync_tenants([tenant()])
    with pytest.raises(CallerError):
        await ledger.top_up("acme", amount, actor="op", reference=None, note=None)


async def test_money_cannot_go_to_nobody_nor_over_the_limit(ledger: Ledger):
    await ledger.sync_tenants([tenant()])
    with pytest.raises(NotFound):
        await ledger.top_up("nobody", USD, actor="op", reference=None, note=None)
    with pytest.raises(NotFound):
        await ledger.adjust("nobody", USD, actor="op", note=None)
    with pytest.raises(NotFound):
        await ledger.transfers("nobody", 5)
    await ledger.top_up("acme", 2**62, actor="op", reference=None, note=None)
    with pytest.raises(CallerError, match="limit"):
        await ledger.top_up("acme", 1, actor="op", reference=None, note=None)


async def test_all_credits_together_have_a_limit_that_is_told(ledger: Ledger):
    names = ("acme", "other", "third")
    await ledger.sync_tenants([tenant(name) for name in names])
    await ledger.top_up(names[0], 2**62, actor="op", reference=None, note=None)
    with pytest.raises(CallerError, match="ever credited"):
        await ledger.top_up(names[1], 2**62, actor="op", reference=None, note=None)
    await ledger.top_up(names[1], 2**62 - 1, actor="op", reference=None, note=None)
    with pytest.raises(CallerError, match="ever credited"):
        await ledger.top_up(names[2], 1, actor="op", reference=None, note=None)
    assert ledger.funds("third").balance_nano == 0


async def test_a_statement_shows_the_latest_transfers_oldest_first(ledger: Ledger):
    acme, other = tenant(opening=5 * USD), tenant("other", opening=5 * USD)
    await ledger.sync_tenants([acme, other])
    for _ in range(3):
        await pay(ledger, other, USD)
        done = await pay(ledger, acme, USD)
    rows = await ledger.transfers("acme", 2)
    assert [(row.kind, row.amount_nano, row.balance_nano) for row in rows] == [
        ("charge", -USD, 3 * USD),
        ("charge", -USD, 2 * USD),
    ]
    assert rows[-1].request_id == done.id
    assert {row.tenant for row in rows} == {"acme"}


# --- access --------------------------------------------------------------------------------------------------------


async def test_an_issued_key_works_until_it_is_revoked(ledger: Ledger, backend: Backend):
    await ledger.sync_tenants([tenant()])
    key, row = await ledger.issue_key("acme", actor="op", label="laptop")
    digest = key_digest(key)
    assert ledger.issued_key(digest) == row
    ledger = await backend.open()
    assert ledger.issued_key(digest) == row
    assert await ledger.keys("acme") == (row,)
    revoked = await ledger.revoke_key(row.id, (), actor="op")
    for _ in ("in memory", "from the file"):
        assert ledger.issued_key(digest) is None
        assert ledger.revoked(digest)
        assert await ledger.revoke_key(row.id, (), actor="op") == revoked
        ledger = await backend.open()
    with pytest.raises(NotFound):
        await ledger.revoke_key("key_none", (), actor="op")


async def test_a_key_declared_in_yaml_gets_a_tombstone(ledger: Ledger, backend: Backend):
    await ledger.sync_tenants([tenant()])
    digest = key_digest("declared")
    declared = [(digest, Principal(tenant(), key_id(digest)))]
    assert not ledger.revoked(digest)
    row = await ledger.revoke_key(key_id(digest), declared, actor="op")
    assert (row.source, row.tenant) == ("yaml", "acme")
    for _ in ("in memory", "from the file"):
        assert ledger.revoked(digest)
        assert ledger.issued_key(digest) is None
        assert await ledger.keys(None) == (row,)
        assert await ledger.keys("other") == ()
        ledger = await backend.open()


async def test_a_suspension_is_in_force_at_once_and_outlives_a_restart(ledger: Ledger, backend: Backend):
    await ledger.sync_tenants([tenant()])
    waiting = asyncio.ensure_future(ledger.suspend("acme", actor="op", reason="unpaid"))
    await asyncio.sleep(0)
    assert ledger.suspended("acme")
    await waiting
    ledger = await backend.open()
    assert ledger.suspended("acme")
    assert ledger.funds("acme").suspend_reason == "unpaid"
    await ledger.unsuspend("acme", actor="op")
    assert not ledger.suspended("acme")
    assert not (await backend.open()).suspended("acme")


# --- the request log -----------------------------------------------------------------------------------------------


async def test_the_log_filters_and_pages(ledger: Ledger):
    records = [record(0, name, model=model) for name in ("a", "b") for model in ("m", "n") for _ in range(2)]
    for each in records:
        ledger.settle(each, None)
    assert await ledger.log(LogQuery()) == tuple(records)
    assert await ledger.log(LogQuery(limit=3)) == tuple(records[-3:])
    assert await ledger.log(LogQuery(tenant="a", model="n")) == tuple(records[2:4])
    assert await ledger.log(LogQuery(outcome="rate_limited")) == ()
    assert await ledger.log(LogQuery(after_id=records[1].id, limit=2)) == tuple(records[2:4])
    assert await ledger.request(records[0].id) == records[0]
    assert await ledger.request("req_none") is None


async def test_followers_see_requests_as_they_settle(ledger: Ledger):
    queue = ledger.follow()
    done = record()
    ledger.settle(done, None)
    assert queue.get_nowait() == done
    ledger.unfollow(queue)
    ledger.unfollow(queue)
    ledger.settle(record(), None)
    assert queue.empty()


# --- life ----------------------------------------------------------------------------------------------------------


async def test_funds_survive_a_restart(ledger: Ledger, backend: Backend, clock: ManualClock):
    acme = tenant(opening=10 * USD)
    await ledger.sync_tenants([acme])
    await pay(ledger, acme, USD)
    clock.advance(86_400)
    await pay(ledger, acme, 2 * USD)
    ledger.settle(record(), None)
    before = ledger.funds("acme")
    assert (before.spent_today_nano, before.spent_month_nano, before.spent_total_nano) == (2 * USD, 3 * USD, 3 * USD)
    assert before.requests_today == 2
    ledger = await backend.open()
    assert ledger.funds("acme") == before
    health = ledger.health()
    assert (health.ok, health.synchronous, health.survives_power_loss, health.queue) == (True, "full", True, 0)


async def test_closing_writes_what_is_queued(ledger: Ledger, backend: Backend):
    acme = tenant(opening=10 * USD)
    await ledger.sync_tenants([acme])
    receipts = [ledger.settle(record(1_000), None) for _ in range(1_500)]
    await ledger.close()
    await ledger.close()
    assert all(receipt.durable.done() and receipt.durable.exception() is None for receipt in receipts)
    assert (await backend.open()).funds("acme").balance_nano == 10 * USD - 1_500_000
