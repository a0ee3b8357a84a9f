"""The token bucket and its durations."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerx.limits.bucket import DEBT_WINDOWS_MAX, WINDOW_S, Bucket, format_duration

START_S = 1e6
calls = st.lists(st.tuples(st.floats(0, 20), st.integers(1, 50)), min_size=1, max_size=60)


@given(st.integers(1, 40), calls)
@settings(max_examples=150, deadline=None)
def test_never_more_than_burst_plus_rate_times_time_passes(limit: int, history: list[tuple[float, int]]) -> None:
    bucket = Bucket()
    now_s = START_S
    passed: list[tuple[float, int]] = []
    for gap_s, units in history:
        now_s += gap_s
        if bucket.wait_s(limit, units, now_s) == 0.0:
            passed.append((now_s, bucket.take(limit, units, now_s)))
        for first in range(len(passed)):
            span_s = now_s - passed[first][0]
            taken = sum(units for _, units in passed[first:])
            assert taken <= limit * (1 + span_s / WINDOW_S) + 1e-3


@given(st.integers(1, 10_000), calls)
@settings(max_examples=150, deadline=None)
def test_who_waits_as_told_is_served(limit: int, history: list[tuple[float, int]]) -> None:
    bucket = Bucket()
    now_s = START_S
    for gap_s, units in history:
        now_s += gap_s
        wait_s = bucket.wait_s(limit, units, now_s)
        assert 0.0 <= wait_s <= WINDOW_S + 1e-3
        now_s += wait_s
        assert bucket.wait_s(limit, units, now_s) == 0.0
        bucket.take(limit, units, now_s)


@given(st.integers(1, 1_000), calls)
@settings(max_examples=100, deadline=None)
def test_what_is_given_back_leaves_no_trace(limit: int, history: list[tuple[float, int]]) -> None:
    bucket = Bucket()
    now_s = START_S
    for gap_s, units in history:
        now_s += gap_s
        taken = bucket.take(limit, units, now_s)
        bucket.correct(limit, taken, 0)
    assert bucket.remaining(limit, now_s) == limit


@given(st.integers(1, 10_000), calls)
@settings(max_examples=150, deadline=None)
def test_what_is_said_to_remain_can_be_taken_and_not_one_more(limit: int, history: list[tuple[float, int]]) -> None:
    bucket = Bucket()
    now_s = START_S
    for gap_s, units in history:
        now_s += gap_s
        left = bucket.remaining(limit, now_s)
        assert left == 0 or bucket.wait_s(limit, left, now_s) == 0.0
        assert left == limit or bucket.wait_s(limit, left + 1, now_s) > 0.0
        if bucket.wait_s(limit, units, now_s) == 0.0:
            bucket.take(limit, units, now_s)


def test_a_burst_of_the_whole_limit_passes_and_then_one_per_interval() -> None:
    bucket = Bucket()
    for _ in range(60):
        assert bucket.wait_s(60, 1, START_S) == 0.0
        bucket.take(60, 1, START_S)
    assert bucket.wait_s(60, 1, START_S) == pytest.approx(1.0)
    assert bucket.remaining(60, START_S) == 0
    assert bucket.remaining(60, START_S + 2.0) == 2
    assert bucket.reset_s(START_S) == pytest.approx(60.0)


def test_more_than_the_whole_bucket_waits_for_a_full_one() -> None:
    bucket = Bucket()
    assert bucket.wait_s(100, 5_000, START_S) == 0.0
    assert bucket.take(100, 5_000, START_S) == 100
    assert bucket.wait_s(100, 5_000, START_S) == pytest.approx(60.0)


def test_use_beyond_the_reservation_is_a_debt_with_an_end() -> None:
    bucket = Bucket()
    bucket.take(100, 10, START_S)
    bucket.correct(100, 10, 160)
    assert bucket.wait_s(100, 1, START_S) == pytest.approx(36.6)
    bucket.correct(100, 0, 10**12)
    assert bucket.reset_s(START_S) <= WINDOW_S * (DEBT_WINDOWS_MAX + 2)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (0.0001, "1ms"),
        (0.017, "17ms"),
        (1.0, "1s"),
        (8.64, "8.64s"),
        (59.9999, "1m0s"),
        (72.5, "1m12.5s"),
        (360.0, "6m0s"),
        (3602.5, "1h0m2.5s"),
        (86_400.0, "24h0m0s"),
    ],
)
def test_durations_are_written_like_openai_writes_them(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
