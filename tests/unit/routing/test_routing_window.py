"""Sliding counts and the retry budget."""

from hypothesis import given, settings
from hypothesis import strategies as st

from routerx.routing.window import RETRY_FLOOR, RETRY_SHARE, RETRY_WINDOW_S, RetryBudget, SlidingCount


@given(st.lists(st.floats(0, 30), max_size=80))
@settings(max_examples=100, deadline=None)
def test_a_count_is_never_too_low_and_at_most_a_bucket_too_old(gaps: list[float]) -> None:
    count = SlidingCount(60.0, 12)
    now_s, seen = 0.0, []
    for gap in gaps:
        now_s += gap
        count.add(now_s)
        seen.append(now_s)
        total = count.count(now_s)
        assert sum(at > now_s - 60.0 for at in seen) <= total <= sum(at >= now_s - 65.0 for at in seen)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=60), st.integers(1, 20))
@settings(max_examples=100, deadline=None)
def test_below_names_the_moment_at_which_there_is_room(gaps: list[float], limit: int) -> None:
    count = SlidingCount(60.0, 12)
    now_s = 0.0
    for gap in gaps:
        now_s += gap
        count.add(now_s)
    free_s = count.below_s(limit, now_s)
    if free_s > now_s:
        assert count.count(now_s) >= limit
        assert count.count(free_s - 0.01) >= limit
    assert count.count(free_s) < limit


def test_a_quiet_endpoint_may_be_retried_three_times_in_ten_seconds() -> None:
    budget = RetryBudget()
    budget.called(0.0)
    assert [budget.spend(1.0) for _ in range(4)] == [True, True, True, False]
    assert budget.spend(1.0 + RETRY_WINDOW_S + 1.0)


def test_in_an_outage_retries_stay_a_fifth_of_the_requests() -> None:
    budget = RetryBudget()
    retries = 0
    for number in range(200):
        now_s = number * 0.01
        budget.called(now_s)
        if budget.spend(now_s):
            retries += 1
            budget.called(now_s)
    assert retries == RETRY_SHARE * 200
    assert retries > RETRY_FLOOR
