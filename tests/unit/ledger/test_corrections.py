"""Refunds and re-ratings: further transfers that put a charge right, and never give back more than it took."""

import asyncio
import sqlite3
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerx.domain.model import DatedPrice
from routerx.domain.pricing import PriceCard, PriceSnapshot, cost_nano, fee_terms
from routerx.domain.record import BillingMode, RequestRecord
from routerx.domain.tenant import Billing
from routerx.domain.usage import Usage, UsageSource
from routerx.errors import Conflict, InvalidParameter, NotFound
from routerx.ledger.base import Rerating
from routerx.ledger.corrections import Paid, correction_nano
from routerx.ledger.sqlite import SqliteLedger
from tests.support.clock import START_NS, ManualClock
from tests.unit.ledger.ledger_kit import USD, ledger_file, opened, pay, record, refused, tenant

ACME = tenant(opening=10 * USD)
DAY_NS = 86_400 * USD
CARD = PriceCard(2_000_000, 8_000_000)
USAGE = Usage(in_fresh=1_000, out_text=250)


async def refund(ledger: SqliteLedger, request_id: str, amount: int | None = None, reference: str | None = None):
    return await ledger.bookkeeper.refund(("acme", request_id), amount, actor="op", reference=reference, note="sorry")


async def test_a_refund_gives_a_charge_back_and_leaves_it_standing(tmp_path: Path):
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME])
        done = await pay(ledger, ACME, USD)
        row = await refund(ledger, done.id)
        assert (row.kind, row.amount_nano, row.balance_nano) == ("refund", USD, 10 * USD)
        assert (row.request_id, row.actor, row.note) == (done.id, "op", "sorry")
        assert ledger.funds("acme").balance_nano == 10 * USD
        rows = await ledger.transfers("acme", 10)
        assert [(one.kind, one.request_id) for one in rows[1:]] == [("charge", done.id), ("refund", done.id)]
        assert (await ledger.verify()).violations == ()
    async with opened(tmp_path) as ledger:
        assert ledger.funds("acme").balance_nano == 10 * USD


async def test_refunds_of_a_charge_are_never_more_than_the_charge(tmp_path: Path):
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME])
        done = await pay(ledger, ACME, USD)
        await refund(ledger, done.id, USD // 4)
        with pytest.raises(Conflict, match=r"\$0.25 is given back already: at most \$0.75"):
            await refund(ledger, done.id, USD)
        results = await asyncio.gather(
            *(refund(ledger, done.id, USD // 2, f"case-{n}") for n in range(5)), return_exceptions=True
        )
        assert sum(not isinstance(result, Exception) for result in results) == 1
        assert (await refund(ledger, done.id)).amount_nano == USD // 4
        with pytest.raises(Conflict):
            await refund(ledger, done.id, 1)
        assert ledger.funds("acme").balance_nano == 10 * USD
        assert (await ledger.verify()).violations == ()


async def test_a_refund_is_made_once_per_reference(tmp_path: Path):
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME])
        done, other = await pay(ledger, ACME, USD), await pay(ledger, ACME, USD)
        first = await refund(ledger, done.id, 5, "case-1")
        assert await refund(ledger, done.id, 5, "case-1") == msgspec.structs.replace(first, repeated=True)
        with pytest.raises(Conflict, match="'case-1' is taken"):
            await refund(ledger, done.id, 6, "case-1")
        with pytest.raises(Conflict, match="'case-1' is taken"):
            await refund(ledger, other.id, 5, "case-1")
        whole = await refund(ledger, other.id)
        assert (await refund(ledger, other.id)).id == whole.id, "all that is left is given back once"
        with pytest.raises(Conflict):
            await ledger.top_up("acme", 5, actor="op", reference="case-1", note=None)
        assert ledger.funds("acme").balance_nano == 9 * USD + 5


async def test_only_what_was_charged_can_be_refunded(tmp_path: Path):
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME, tenant("other", opening=USD)])
        free, foreign = record(), await pay(ledger, tenant("other"), USD)
        ledger.settle(free, None)
        with pytest.raises(Conflict, match="was not charged"):
            await refund(ledger, free.id)
        for request_id in (foreign.id, refused().id):
            with pytest.raises(NotFound, match=request_id):
                await refund(ledger, request_id)
        with pytest.raises(InvalidParameter):
            await refund(ledger, foreign.id, 0)
        with pytest.raises(InvalidParameter, match="'refund:'"):
            await refund(ledger, foreign.id, 1, "refund:mine")
        assert ledger.funds("acme").balance_nano == 10 * USD


@pytest.mark.parametrize(
    "values",
    [
        "2, 4, 1 << 40, 4, 0, NULL, NULL, 'r', 2, 'op'",  # More than the charge.
        "2, 4, 5, 4, 0, NULL, NULL, 'r', 1, 'op'",  # Of an opening balance.
        "1, 4, 5, 4, 0, NULL, NULL, 'r', 2, 'op'",  # Not from where the charge went.
    ],
)
async def test_the_file_itself_refuses_a_refund_that_is_none(tmp_path: Path, values: str):
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME])
        await pay(ledger, ACME, USD)
    connection = sqlite3.connect(ledger_file(tmp_path))
    with pytest.raises(sqlite3.IntegrityError, match="no more than it"):
        connection.execute(
            "INSERT INTO transfers(id, ts_ns, kind, debit, credit, amount, tenant, balance, previous, request, ext_ref,"
            f" reverses, actor, prev_hash, hash) VALUES (3, 0, 'refund', {values}, x'', x'')"
        )
    connection.close()


# --- re-rating


def rated(card: PriceCard = CARD, markup_bp: int = 1_000, **changes: object) -> RequestRecord:
    terms = PriceSnapshot(card, markup_bp)
    return record(cost_nano(USAGE, terms), usage=USAGE, price=terms, **changes)


async def settle(ledger: SqliteLedger, done: RequestRecord, who=ACME) -> RequestRecord:
    receipt = ledger.settle(done, ledger.hold(who, done.cost_nano))
    assert receipt.durable is not None
    await receipt.durable
    return done


def at(card: PriceCard, *, dry_run: bool = False, since: int = 0, until: int = 1 << 62) -> Rerating:
    return Rerating({"acme-ai/model": (DatedPrice(card),)}, since, until, "op", dry_run)


async def test_requests_are_corrected_to_another_price_once(tmp_path: Path):
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME])
        paid = [await settle(ledger, rated()) for _ in range(3)]
        await settle(ledger, rated(endpoint="acme-ai/other"))
        ledger.settle(record(), None)
        before = ledger.funds("acme").balance_nano
        cheaper = PriceCard(1_000_000, 8_000_000)
        less = paid[0].cost_nano - cost_nano(USAGE, PriceSnapshot(cheaper, 1_000))
        told = await ledger.bookkeeper.rerate(at(cheaper, dry_run=True))
        assert (told.requests, told.corrected, told.given_back_nano, told.dry_run) == (3, 3, 3 * less, True)
        assert ledger.funds("acme").balance_nano == before
        done = await ledger.bookkeeper.rerate(at(cheaper))
        assert (done.corrected, done.given_back_nano, done.taken_nano, done.short_nano) == (3, 3 * less, 0, 0)
        assert ledger.funds("acme").balance_nano == before + 3 * less
        assert (await ledger.bookkeeper.rerate(at(cheaper))).corrected == 0
        rows = (await ledger.transfers("acme", 3))[-3:]
        assert [(row.kind, row.request_id) for row in rows] == [("adjustment", one.id) for one in paid]
        assert (await ledger.bookkeeper.rerate(at(CARD))).taken_nano == 3 * less
        assert ledger.funds("acme").balance_nano == before
        assert (await ledger.verify()).violations == ()


async def test_what_is_owed_on_top_never_passes_a_floor_or_a_hold(tmp_path: Path):
    async with opened(tmp_path) as ledger:
        cost = rated().cost_nano
        poor = tenant(opening=cost + 1_000)
        await ledger.sync_tenants([poor])
        await settle(ledger, rated(), poor)
        hold = ledger.hold(poor, 400)
        dear = PriceCard(4_000_000, 16_000_000)
        for dry_run in (True, False):
            done = await ledger.bookkeeper.rerate(at(dear, dry_run=dry_run))
            assert (done.taken_nano, done.short_nano) == (600, cost - 600)
        ledger.release(hold)
        await ledger.top_up("acme", USD, actor="op", reference=None, note=None)
        assert (await ledger.bookkeeper.rerate(at(dear))).taken_nano == cost - 600
        assert (await ledger.bookkeeper.rerate(at(dear))).corrected == 0
        assert (await ledger.verify()).violations == ()


async def test_only_requests_of_the_days_asked_for_are_corrected(tmp_path: Path):
    clock = ManualClock()
    async with opened(tmp_path, clock) as ledger:
        await ledger.sync_tenants([ACME])
        for _ in range(4):
            await settle(ledger, rated())
            clock.advance(86_400)
        day = START_NS + DAY_NS
        done = await ledger.bookkeeper.rerate(at(PriceCard(0, 0), since=day, until=day + 2 * DAY_NS))
        assert done.requests == 2


async def test_refunds_and_re_ratings_together_give_back_no_more_than_was_paid(tmp_path: Path):
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME])
        done = await settle(ledger, rated())
        await refund(ledger, done.id, done.cost_nano - 10)
        assert (await ledger.bookkeeper.rerate(at(PriceCard(0, 0)))).given_back_nano == 10
        with pytest.raises(Conflict, match=r"at most \$0.00"):
            await refund(ledger, done.id)
        assert ledger.funds("acme").balance_nano == 10 * USD
        assert (await ledger.verify()).violations == ()


async def test_fees_and_estimates_are_corrected_by_their_own_rules(tmp_path: Path):
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME])
        terms = fee_terms(CARD, 100)
        fee = cost_nano(USAGE, terms)
        await settle(ledger, record(fee, billing=BillingMode.BYOK, usage=USAGE, price=terms))
        done = await ledger.bookkeeper.rerate(at(PriceCard(4_000_000, 16_000_000)))
        assert done.taken_nano == fee
        await settle(ledger, rated(usage_source=UsageSource.ESTIMATED, held_nano=rated().cost_nano))
        assert (await ledger.bookkeeper.rerate(at(PriceCard(4_000_000, 16_000_000)))).corrected == 0, "at its hold"
        assert (await ledger.verify()).violations == ()


async def test_a_write_off_stays_the_houses_loss(tmp_path: Path):
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([tenant(billing=Billing.PREPAID)])
        done = rated()
        await ledger.settle(done, None).durable
        assert (await ledger.bookkeeper.rerate(at(PriceCard(1_000_000, 4_000_000)))).corrected == 0
        await ledger.top_up("acme", USD, actor="op", reference=None, note=None)
        dear = PriceCard(4_000_000, 16_000_000)
        assert (await ledger.bookkeeper.rerate(at(dear))).taken_nano == done.cost_nano
        assert (await ledger.bookkeeper.rerate(at(CARD))).given_back_nano == done.cost_nano
        assert (await ledger.verify()).violations == ()


nano = st.integers(0, 1_000)


@given(st.integers(1, 1_000), nano, nano, st.lists(nano, max_size=4))
def test_correcting_twice_is_correcting_once(cost: int, unpaid: int, refunded: int, prices: list[int]):
    charged = max(0, cost - unpaid)
    paid = Paid(cost, charged, min(refunded, charged), 0)
    for price in prices:
        given = correction_nano(paid, price)
        paid = Paid(cost, charged, paid.refunded, paid.rerated + given)
        assert correction_nano(paid, price) == 0
        assert paid.rerated + paid.refunded <= charged
        if paid.refunded == 0 and charged == cost:
            assert charged - paid.rerated == price
