"""What to do after a failed attempt, as long as nothing has reached the client. Pure but for the retry budget.

The table of failures (domain/failure.py) says what a failure allows; here that is weighed against what is left:
attempts, time, other candidates, other credentials, the endpoint's retry budget.
"""

import random

import msgspec

from routerx.domain.call import Advance, Plan, Retry, Stop, Verdict
from routerx.domain.failure import Effect, Failure, FailureKind, Next
from routerx.domain.policy import Policy, RetryPolicy
from routerx.routing.window import RetryBudget

WAIT_MAX_S = 30.0
"""A longer Retry-After is not waited for; the caller is told to come back."""
RETRY_AFTER_SPREAD_S = 0.25
"""Added at random to a Retry-After, so that all who were refused together do not return together."""

EARLY_S = 0.005
"""Timers may fire early by the grain of their clock; a rest that is not quite over would leave nobody to ask."""

_ELSEWHERE_FIRST = frozenset({FailureKind.CONNECT_ERROR, FailureKind.OVERLOADED, FailureKind.RATE_LIMITED})
"""Asking the same endpoint again helps least here: another candidate goes first (FAULTS.md 1, 25, 27)."""


class AttemptState(msgspec.Struct, frozen=True):
    """Where the request stands, after RoutingState.failed() has recorded the failure."""

    attempts: int
    """Made so far for the whole request, this one included."""
    tries: int
    """Of these at the current candidate."""
    has_next: bool
    """following() gives another candidate."""
    ready_in_s: float
    """RoutingState.ready_in_s() of the current candidate: 0.0 when it, by whatever credential, may be asked now."""
    remaining_s: float
    """Until the request's total deadline."""
    now_s: float
    any_error: bool = False
    """The caller named further models itself, to go on to after whatever failure."""


def following(plan: Plan, index: int, failure: Failure) -> int | None:
    """The index of the candidate an Advance goes to. After CONTEXT_EXCEEDED only a larger window will do, unless the
    caller has named the next one itself; after BYOK_REJECTED only another key."""
    if failure.kind is FailureKind.BYOK_REJECTED:
        refused = plan.candidates[index].endpoint.provider
        later = enumerate(plan.candidates[index + 1 :], index + 1)
        return next((at for at, one in later if not one.own_key or one.endpoint.provider != refused), None)
    if failure.kind is not FailureKind.CONTEXT_EXCEEDED or plan.any_error:
        return index + 1 if index + 1 < len(plan.candidates) else None
    window = plan.candidates[index].endpoint.context_tokens
    for further in range(index + 1, len(plan.candidates)):
        other = plan.candidates[further].endpoint.context_tokens
        if window is not None and other is not None and other > window:
            return further
    return None


def decide(
    failure: Failure, *, attempt: AttemptState, policy: Policy, budget: RetryBudget, rng: random.Random
) -> Verdict:
    """Retry the candidate, go on to the next, or stop. Spends from `budget` when it retries."""
    rule, retry = failure.rule, policy.retry
    onwards: Verdict = Advance() if attempt.has_next else Stop(failure)
    if attempt.attempts >= retry.attempts_max or attempt.remaining_s <= 0:
        return Stop(failure)
    if rule.next is Next.STOP:
        return onwards if _may_be_resent(failure, attempt, policy) else Stop(failure)
    if rule.effect in (Effect.COOL, Effect.QUARANTINE) and attempt.ready_in_s <= 0:
        # The credential is out, and the endpoint has another one: not a retry, the fault was the credential's.
        return Retry(delay_s=0.0)
    if rule.next is Next.OTHER:
        return onwards
    if attempt.has_next:
        # The last attempt belongs to the next candidate: retries must not use up the fallback.
        is_last = attempt.attempts + 1 >= retry.attempts_max
        if is_last or failure.kind in _ELSEWHERE_FIRST:
            return onwards
    delay_s = _delay_s(failure, attempt, retry, rng)
    if delay_s is None or attempt.tries > retry.retries_max or delay_s >= attempt.remaining_s:
        return onwards
    return Retry(delay_s) if budget.spend(attempt.now_s) else onwards


def _may_be_resent(failure: Failure, attempt: AttemptState, policy: Policy) -> bool:
    """Whether what one provider refused may be asked of another one."""
    match failure.kind:
        case FailureKind.CLIENT_DEADLINE:
            return False
        case FailureKind.CONTEXT_EXCEEDED | FailureKind.BYOK_REJECTED:
            return True
        case FailureKind.CONTENT_REJECTED:
            return attempt.any_error or policy.resend_rejected
    return attempt.any_error


def _delay_s(failure: Failure, attempt: AttemptState, retry: RetryPolicy, rng: random.Random) -> float | None:
    """How long to wait before the same candidate is asked again; None: too long to wait."""
    if failure.rule.effect is Effect.COOL:
        wait_s = attempt.ready_in_s  # How long the credential rests: Retry-After, or its own growing pause.
    elif attempt.ready_in_s > 0:
        return None  # The circuit has opened.
    elif failure.retry_after_s is not None and failure.retry_after_s > 0:
        wait_s = failure.retry_after_s
        if attempt.has_next and wait_s > retry.backoff_max_s:
            return None
    else:
        ceiling_s = min(retry.backoff_max_s, retry.backoff_min_s * 2.0**attempt.tries)
        return rng.uniform(min(retry.backoff_min_s, ceiling_s), ceiling_s)
    return wait_s + max(EARLY_S, rng.uniform(0.0, RETRY_AFTER_SPREAD_S)) if wait_s <= WAIT_MAX_S else None
