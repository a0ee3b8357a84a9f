"""The circuit breaker as a state machine, with its laws."""

from hypothesis import given, settings
from hypothesis import strategies as st

from routerx.domain.policy import BreakerPolicy
from routerx.routing.breaker import (
    BUCKET_S,
    BUCKETS_MAX,
    CLOSED,
    Cell,
    Closed,
    Event,
    HalfOpen,
    Open,
    allows,
    in_window,
    is_old,
    ready_s,
    step,
)

POLICY = BreakerPolicy()


def run(cell: Cell, events: list[Event], now_s: float, policy: BreakerPolicy = POLICY) -> Cell:
    for event in events:
        cell = step(cell, event, now_s, policy)
    return cell


def test_five_failures_in_a_row_open_the_circuit_for_the_cooldown() -> None:
    cell = run(CLOSED, [Event.FAILED] * 4, 100.0)
    assert allows(cell, 100.0)
    cell = step(cell, Event.FAILED, 100.0, POLICY)
    assert cell == Open(130.0, 1, opened_s=100.0)
    assert not allows(cell, 129.9)
    assert allows(cell, 130.0)


def test_a_success_in_between_starts_the_row_anew() -> None:
    cell = run(CLOSED, [Event.FAILED] * 4 + [Event.SUCCEEDED] + [Event.FAILED] * 4, 100.0)
    assert isinstance(cell, Closed)


def test_overload_needs_twice_as_many() -> None:
    assert isinstance(run(CLOSED, [Event.FAILED_HALF] * 9, 100.0), Closed)
    assert isinstance(run(CLOSED, [Event.FAILED_HALF] * 10, 100.0), Open)


def test_half_of_ten_requests_failing_opens_and_less_does_not() -> None:
    mixed = [Event.FAILED, Event.SUCCEEDED] * 4 + [Event.SUCCEEDED]
    assert isinstance(run(CLOSED, [*mixed, Event.FAILED], 100.0), Open)
    assert isinstance(run(CLOSED, [*mixed, Event.SUCCEEDED, Event.FAILED], 100.0), Closed)


def test_failures_older_than_the_window_do_not_count() -> None:
    old = run(CLOSED, [Event.FAILED, Event.SUCCEEDED] * 4, 100.0)
    later = 100.0 + POLICY.window_s + BUCKET_S
    assert isinstance(run(old, [Event.SUCCEEDED, Event.FAILED, Event.FAILED], later), Closed)
    assert isinstance(run(old, [Event.SUCCEEDED, Event.FAILED, Event.FAILED], 150.0), Open)


def test_one_probe_goes_and_its_success_forgets_everything() -> None:
    probing = step(Open(130.0, 3), Event.PROBED, 131.0, POLICY)
    assert isinstance(probing, HalfOpen)
    assert not allows(probing, 131.0)
    assert step(probing, Event.SUCCEEDED, 132.0, POLICY) == CLOSED


def test_a_failed_probe_opens_for_longer_up_to_the_cap() -> None:
    cell: Cell = run(CLOSED, [Event.FAILED] * 5, 0.0)
    durations = []
    for _ in range(12):
        opened_s = ready_s(cell)
        cell = run(cell, [Event.PROBED, Event.FAILED], opened_s)
        durations.append(ready_s(cell) - opened_s)
    assert durations[:3] == [60.0, 90.0, 120.0]
    assert durations[-1] == POLICY.cooldown_max_s


def test_an_abandoned_probe_is_given_back_at_once() -> None:
    cell = run(Open(130.0, 2), [Event.PROBED, Event.ABANDONED], 131.0)
    assert cell == Open(131.0, 2, opened_s=131.0)
    assert allows(cell, 131.0)


def test_a_probe_that_is_never_heard_of_again_does_not_block_for_ever() -> None:
    probing = step(Open(130.0, 1), Event.PROBED, 131.0, POLICY)
    assert not allows(probing, 131.0 + POLICY.cooldown_s - 0.1)
    assert allows(probing, 131.0 + POLICY.cooldown_s)


def test_a_probe_that_takes_longer_than_a_cooldown_still_counts() -> None:
    probing = run(run(Open(130.0, 1), [Event.PROBED], 131.0), [Event.PROBED], 131.0 + POLICY.cooldown_s)
    assert isinstance(probing, HalfOpen)
    assert not is_old(probing, 131.0)
    assert is_old(probing, 130.9)


def test_results_of_calls_from_before_do_not_move_an_open_circuit() -> None:
    cell = Open(130.0, 1)
    for event in (Event.SUCCEEDED, Event.FAILED, Event.FAILED_HALF, Event.ABANDONED):
        assert step(cell, event, 120.0, POLICY) == cell


def test_a_probe_is_not_taken_before_its_time() -> None:
    assert step(Open(130.0, 1), Event.PROBED, 120.0, POLICY) == Open(130.0, 1)


policies = st.builds(
    BreakerPolicy,
    window_s=st.floats(1, 300),
    error_rate=st.floats(0.1, 1.0),
    requests_min=st.integers(1, 20),
    consecutive_max=st.integers(1, 10),
    cooldown_s=st.floats(1, 60),
    cooldown_max_s=st.floats(60, 600),
)
steps = st.lists(st.tuples(st.sampled_from(Event), st.floats(0, 40)), max_size=60)


@given(policies, steps)
@settings(max_examples=100, deadline=None)
def test_laws_hold_for_every_history(policy: BreakerPolicy, history: list[tuple[Event, float]]) -> None:
    cell: Cell = CLOSED
    now_s = 0.0
    for event, passed_s in history:
        now_s += passed_s
        before = cell
        cell = step(before, event, now_s, policy)
        # Only a failure opens what was closed, and only a success closes what was not.
        if isinstance(before, Closed) and not isinstance(cell, Closed):
            assert event in (Event.FAILED, Event.FAILED_HALF)
        if isinstance(cell, Closed) and not isinstance(before, Closed):
            assert isinstance(before, HalfOpen)
            assert event is Event.SUCCEEDED
        # Half-open is entered by a probe that was due, and then nothing else may go.
        if isinstance(cell, HalfOpen) and cell != before:
            assert event is Event.PROBED
            assert allows(before, now_s)
            assert not allows(cell, now_s)
        # A circuit never stays shut for longer than the longest cooldown.
        assert ready_s(cell) <= now_s + max(policy.cooldown_max_s, policy.cooldown_s)
        if isinstance(cell, Closed):
            assert len(cell.past) < BUCKETS_MAX
            assert cell.streak_halves < 2 * policy.consecutive_max
        else:
            assert cell.openings >= 1


@given(steps, st.floats(10, 290))
@settings(max_examples=100, deadline=None)
def test_the_window_counts_what_is_younger_and_nothing_much_older(
    history: list[tuple[Event, float]], window_s: float
) -> None:
    never = BreakerPolicy(requests_min=10**6, consecutive_max=10**6)
    cell: Cell = CLOSED
    now_s = 0.0
    seen: list[float] = []
    for event, passed_s in history:
        now_s += passed_s
        cell = step(cell, event, now_s, never)
        if event in (Event.SUCCEEDED, Event.FAILED, Event.FAILED_HALF):
            seen.append(now_s)
    assert isinstance(cell, Closed)
    requests, failed = in_window(cell, now_s, window_s)
    assert sum(at > now_s - window_s for at in seen) <= requests
    assert requests <= sum(at >= now_s - window_s - BUCKET_S for at in seen)
    assert 0 <= failed <= requests
