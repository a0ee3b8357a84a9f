"""What follows a failed attempt."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerx.domain.call import Advance, Candidate, Plan, Retry, Stop, Verdict
from routerx.domain.failure import Failure, FailureKind
from routerx.domain.policy import Policy, RetryPolicy
from routerx.routing.decide import RETRY_AFTER_SPREAD_S, WAIT_MAX_S, AttemptState, decide, following
from routerx.routing.window import RetryBudget
from tests.unit.routing.routing_world import endpoint, failure

POLICY = Policy("default")


def after(cause: Failure, policy: Policy = POLICY, *, budget: RetryBudget | None = None, **changes: object) -> Verdict:
    fields = {
        "attempts": 1,
        "tries": 1,
        "has_next": False,
        "ready_in_s": 0.0,
        "remaining_s": 600.0,
        "now_s": 100.0,
        **changes,
    }
    return decide(
        cause,
        attempt=AttemptState(**fields),
        policy=policy,
        budget=budget if budget is not None else RetryBudget(),
        rng=random.Random(3),
    )


def limited(retry_after_s: float | None = None) -> Failure:
    return failure(FailureKind.RATE_LIMITED, retry_after_s)


def test_one_500_retries_the_same_endpoint_even_with_a_fallback() -> None:
    verdict = after(failure(FailureKind.SERVER_ERROR), has_next=True)
    assert isinstance(verdict, Retry)
    assert 0.3 <= verdict.delay_s <= 0.6


def test_the_last_attempt_belongs_to_the_fallback() -> None:
    assert after(failure(FailureKind.SERVER_ERROR), has_next=True, attempts=2, tries=2) == Advance()
    assert isinstance(after(failure(FailureKind.SERVER_ERROR), attempts=2, tries=2), Retry)


def test_three_attempts_are_all() -> None:
    cause = failure(FailureKind.SERVER_ERROR)
    assert after(cause, attempts=3, has_next=True) == Stop(cause)
    dead = failure(FailureKind.AUTH_FAILED)
    assert after(dead, attempts=3, has_next=True) == Stop(dead)


def test_an_endpoint_is_retried_at_most_twice_whatever_the_attempts() -> None:
    policy = Policy("p", retry=RetryPolicy(retries_max=2, attempts_max=10))
    cause = failure(FailureKind.SERVER_ERROR)
    assert isinstance(after(cause, policy, attempts=2, tries=2), Retry)
    assert after(cause, policy, attempts=3, tries=3) == Stop(cause)


def test_no_retries_means_no_retries() -> None:
    policy = Policy("p", retry=RetryPolicy(retries_max=0))
    assert after(failure(FailureKind.SERVER_ERROR), policy, has_next=True) == Advance()


@pytest.mark.parametrize("kind", [FailureKind.OVERLOADED, FailureKind.CONNECT_ERROR])
def test_overload_and_refused_connections_go_elsewhere_first(kind: FailureKind) -> None:
    assert after(failure(kind), has_next=True) == Advance()
    assert isinstance(after(failure(kind)), Retry)


def test_a_429_goes_to_the_next_candidate_or_waits_as_told() -> None:
    assert after(limited(2.0), has_next=True, ready_in_s=2.0) == Advance()
    verdict = after(limited(2.0), ready_in_s=2.0)
    assert isinstance(verdict, Retry)
    assert 2.0 <= verdict.delay_s <= 2.0 + RETRY_AFTER_SPREAD_S


def test_a_429_is_not_waited_for_beyond_half_a_minute_or_the_deadline() -> None:
    cause = limited(31.0)
    assert after(cause, ready_in_s=WAIT_MAX_S + 1) == Stop(cause)
    assert after(cause, ready_in_s=20.0, remaining_s=20.0) == Stop(cause)


@pytest.mark.parametrize("kind", [FailureKind.RATE_LIMITED, FailureKind.AUTH_FAILED, FailureKind.EXHAUSTED])
def test_another_credential_of_the_endpoint_is_used_at_once_and_costs_no_retry(kind: FailureKind) -> None:
    budget = RetryBudget()
    for _ in range(10):
        assert after(failure(kind), has_next=True, tries=2, attempts=2, budget=budget) == Retry(0.0)


@pytest.mark.parametrize("kind", [FailureKind.AUTH_FAILED, FailureKind.EXHAUSTED])
def test_a_dead_credential_is_never_waited_for(kind: FailureKind) -> None:
    assert after(failure(kind), ready_in_s=5.0) == Stop(failure(kind))
    assert after(failure(kind), ready_in_s=5.0, has_next=True) == Advance()


@pytest.mark.parametrize("kind", [FailureKind.FIRST_BYTE_TIMEOUT, FailureKind.TLS_ERROR, FailureKind.DNS_ERROR])
def test_what_the_same_endpoint_will_repeat_is_only_tried_elsewhere(kind: FailureKind) -> None:
    assert after(failure(kind), has_next=True) == Advance()
    assert after(failure(kind)) == Stop(failure(kind))


@pytest.mark.parametrize("kind", [FailureKind.REJECTED, FailureKind.CONTENT_REJECTED])
def test_a_rejected_request_is_never_sent_again(kind: FailureKind) -> None:
    assert after(failure(kind), has_next=True) == Stop(failure(kind))


def test_a_long_context_goes_on_only_to_a_larger_window() -> None:
    cause = failure(FailureKind.CONTEXT_EXCEEDED)
    windows = (8, 8, 4, None, 16)
    candidates = tuple(Candidate(endpoint(f"p{n}/x", context_tokens=size)) for n, size in enumerate(windows))
    plan = Plan("m", POLICY, candidates)
    assert following(plan, 0, cause) == 4
    assert following(plan, 4, cause) is None
    assert following(plan, 3, cause) is None
    assert following(plan, 0, failure(FailureKind.SERVER_ERROR)) == 1
    assert following(plan, 4, failure(FailureKind.SERVER_ERROR)) is None
    assert after(cause, has_next=True) == Advance()
    assert after(cause) == Stop(cause)


def test_a_short_retry_after_of_a_500_is_kept_and_a_long_one_sends_elsewhere() -> None:
    verdict = after(failure(FailureKind.SERVER_ERROR, 3.0), has_next=True)
    assert isinstance(verdict, Retry)
    assert 3.0 <= verdict.delay_s <= 3.0 + RETRY_AFTER_SPREAD_S
    assert after(failure(FailureKind.SERVER_ERROR, 6.0), has_next=True) == Advance()
    assert isinstance(after(failure(FailureKind.SERVER_ERROR, 6.0)), Retry)
    cause = failure(FailureKind.SERVER_ERROR, 40.0)
    assert after(cause) == Stop(cause)


def test_a_circuit_that_just_opened_is_not_waited_for() -> None:
    cause = failure(FailureKind.SERVER_ERROR)
    assert after(cause, ready_in_s=30.0) == Stop(cause)
    assert after(cause, ready_in_s=30.0, has_next=True) == Advance()


def test_an_empty_retry_budget_goes_on_or_stops() -> None:
    budget, cause = RetryBudget(), failure(FailureKind.SERVER_ERROR)
    assert [type(after(cause, budget=budget)) for _ in range(4)] == [Retry, Retry, Retry, Stop]
    assert after(cause, budget=budget, has_next=True) == Advance()


@given(
    st.sampled_from(FailureKind),
    st.integers(1, 5),
    st.integers(1, 5),
    st.booleans(),
    st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True)),
    st.floats(0, 1_000),
    st.floats(-1, 1_000),
)
@settings(max_examples=200, deadline=None)
def test_every_verdict_keeps_within_what_is_left(
    kind: FailureKind,
    attempts: int,
    tries: int,
    has_next: bool,
    retry_after_s: float | None,
    ready_in_s: float,
    remaining_s: float,
) -> None:
    cause = failure(kind, retry_after_s)
    verdict = after(
        cause,
        attempts=attempts,
        tries=tries,
        has_next=has_next,
        ready_in_s=ready_in_s,
        remaining_s=remaining_s,
    )
    if attempts >= POLICY.retry.attempts_max or remaining_s <= 0:
        assert verdict == Stop(cause)
    if isinstance(verdict, Advance):
        assert has_next
    if isinstance(verdict, Retry):
        assert 0 <= verdict.delay_s < remaining_s
        assert verdict.delay_s <= WAIT_MAX_S + RETRY_AFTER_SPREAD_S
