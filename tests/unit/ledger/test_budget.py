"""The arithmetic of funds, without a file."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerx.domain.tenant import Period, SpendLimit
from routerx.errors import InsufficientBalance, SpendLimitReached
from routerx.ledger.budget import POSTPAID_FLOOR_NANO, Funds, Spending, day_of, first_day, next_start

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
amounts = st.integers(1, 10_000)
days = st.integers(20_000, 20_200)


@given(days)
def test_periods_are_those_of_the_calendar(day: int):
    today = EPOCH + timedelta(days=day)
    assert first_day(Period.DAY, day) == day
    assert first_day(Period.WEEK, day) == day - today.weekday()
    assert first_day(Period.MONTH, day) == day - (today.day - 1)
    assert day_of(int(today.timestamp()) * 10**9) == day


@given(days, st.sampled_from([Period.DAY, Period.WEEK, Period.MONTH]))
def test_the_next_period_starts_with_the_first_day_that_is_of_no_part_of_this_one(day: int, period: Period):
    start = next_start(period, day)
    assert start is not None
    next_day = day_of(int(datetime.fromisoformat(start).timestamp()) * 10**9)
    assert day < next_day == first_day(period, next_day)
    assert first_day(period, next_day - 1) == first_day(period, day)


def test_a_limit_says_when_it_begins_anew():
    for period, resets in (
        (Period.DAY, "2026-03-01T00:00:00Z"),
        (Period.WEEK, "2026-03-02T00:00:00Z"),
        (Period.MONTH, "2026-03-01T00:00:00Z"),
        (Period.TOTAL, None),
    ):
        day = (datetime(2026, 2, 28, tzinfo=UTC) - EPOCH).days
        with pytest.raises(SpendLimitReached) as caught:
            Funds("acme", 100, 0).admit(2, 0, SpendLimit(1, period), day)
        assert caught.value.details["resets"] == resets


@given(st.lists(st.tuples(days, amounts), max_size=60), days)
def test_spend_by_period_is_the_sum_of_its_days_whatever_the_clock_does(spent: list[tuple[int, int]], today: int):
    spending = Spending()
    for day, amount in spent:
        spending.add(day, 1, amount)
        spending.spent(Period.MONTH, day)
    for period, ends in ((Period.DAY, 1), (Period.WEEK, 7), (Period.MONTH, None)):
        start = first_day(period, today)
        end = first_day(period, start + 31) if ends is None else start + ends
        assert spending.spent(period, today) == sum(amount for day, amount in spent if start <= day < end)
    assert spending.total_nano == sum(amount for _, amount in spent)
    assert spending.requests(today) == sum(day == today for day, _ in spent)


def test_old_days_leave_memory_but_not_the_total():
    spending = Spending()
    for day in range(20_000, 21_000):
        spending.add(day, 1, 1)
    assert spending.total_nano == 1_000
    assert spending.spent(Period.MONTH, 20_999) == 20_999 - first_day(Period.MONTH, 20_999) + 1
    assert len(spending._charged) < 200


@given(
    st.integers(0, 50_000),
    st.lists(st.tuples(amounts, st.floats(0, 3), st.booleans()), max_size=40),
    st.sampled_from([0, POSTPAID_FLOOR_NANO]),
)
def test_no_order_of_holds_and_charges_passes_the_floor(
    balance: int, requests: list[tuple[int, float, bool]], floor: int
):
    funds = Funds("acme", balance, floor)
    running: list[tuple[int, int]] = []
    taken = 0
    for amount, ratio, finish in requests:
        free = funds.balance_nano - funds.held_nano - floor
        try:
            funds.admit(amount, floor, None, 0)
        except InsufficientBalance:
            assert amount > free
        else:
            assert amount <= free
            running.append((amount, int(amount * ratio)))
        if finish and running:
            held, cost = running.pop(0)
            funds.release(held)
            if cost:
                charged, lost = funds.charge(cost, held, floor)
                assert charged + lost == cost
                assert charged >= min(cost, held)
                taken += charged
        assert funds.balance_nano - funds.held_nano >= floor
        assert funds.held_nano == sum(held for held, _ in running)
    assert funds.balance_nano == balance - taken


def test_a_hold_may_take_the_last_nano_and_not_one_more():
    funds = Funds("acme", 100, 0)
    funds.admit(60, 0, None, 0)
    with pytest.raises(InsufficientBalance):
        funds.admit(41, 0, None, 0)
    funds.admit(40, 0, None, 0)
    assert funds.room_nano() == 0


def test_a_spend_limit_may_be_reached_and_not_passed():
    funds, limit = Funds("acme", 1_000, 0), SpendLimit(100, Period.DAY)
    funds.spending.add(7, 1, 50)
    funds.admit(30, 0, limit, 7)
    with pytest.raises(SpendLimitReached):
        funds.admit(21, 0, limit, 7)
    funds.admit(20, 0, limit, 7)
    assert funds.held_nano == 50


def test_a_promised_hold_is_charged_even_below_a_floor_that_has_risen():
    funds = Funds("acme", -5, 0)
    funds.file_floor_nano = POSTPAID_FLOOR_NANO
    assert funds.charge(10, 3, 0) == (3, 7)


def test_no_charge_passes_the_floor_in_the_file():
    funds = Funds("acme", 5, 0)
    assert funds.charge(10, 8, POSTPAID_FLOOR_NANO) == (5, 5)
