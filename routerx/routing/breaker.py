"""The circuit breaker as a pure state machine: one frozen cell per endpoint and credential, no clock of its own.

closed     calls flow; successes and upstream-blamed failures are counted in buckets of time
open       nothing flows until a moment; results of calls from before do not prolong it
half-open  one probe is out; its success closes and forgets, its failure opens for longer; results of calls from before
           it do neither (is_old)

What counts as a failure is the caller's business (domain/failure.py); this file only counts.
"""

from enum import Enum, auto

import msgspec

from routerx.domain.policy import BreakerPolicy

BUCKET_S = 5.0
"""Width of a counting bucket. Fixed, so that policies with different windows can share a cell."""
BUCKETS_MAX = 60
"""Closed buckets kept: windows of up to five minutes are exact to one bucket, longer ones see five minutes."""


class Event(Enum):
    """What happened to a call."""

    SUCCEEDED = auto()
    FAILED = auto()
    FAILED_HALF = auto()
    """Half a failure (overload): twice as many are needed to open."""
    PROBED = auto()
    """A call was let through; takes the probe of a circuit that is due."""
    ABANDONED = auto()
    """The call ended without saying anything of the endpoint; a probe is given back."""


class Closed(msgspec.Struct, frozen=True, gc=False):
    """Calls flow. Failures are counted in halves so that half weights stay integers."""

    slot: int = 0
    """Number of the current bucket: time // BUCKET_S."""
    requests: int = 0
    failed_halves: int = 0
    streak_halves: int = 0
    """Failures since the last success."""
    past: tuple[tuple[int, int, int], ...] = ()
    """(slot, requests, failed_halves) of earlier buckets that are not empty, oldest first."""


class Open(msgspec.Struct, frozen=True, gc=False):
    """Nothing flows before `until_s`; then one probe may."""

    until_s: float
    openings: int
    """Consecutive openings, this one included."""
    opened_s: float = 0.0


class HalfOpen(msgspec.Struct, frozen=True, gc=False):
    """One probe is out. If nothing is heard of it until `probe_until_s`, another may go."""

    probe_until_s: float
    openings: int
    since_s: float
    """When the first probe went out: one that takes longer than a cooldown still counts."""


Cell = Closed | Open | HalfOpen

CLOSED = Closed()
"""A circuit of which nothing bad is known."""


def step(cell: Cell, event: Event, now_s: float, policy: BreakerPolicy) -> Cell:
    """The cell after `event`. Total and pure; `policy` matters for failures and probes only."""
    if isinstance(cell, Closed):
        if event is Event.SUCCEEDED:
            return _counted(cell, 0, now_s)
        if event is Event.FAILED or event is Event.FAILED_HALF:
            counted = _counted(cell, 2 if event is Event.FAILED else 1, now_s)
            return _opened(0, now_s, policy) if _is_bad(counted, now_s, policy) else counted
        return cell
    if event is Event.PROBED:
        if not allows(cell, now_s):
            return cell
        since_s = cell.since_s if isinstance(cell, HalfOpen) else now_s
        return HalfOpen(now_s + policy.cooldown_s, cell.openings, since_s)
    if isinstance(cell, HalfOpen):
        if event is Event.SUCCEEDED:
            return CLOSED
        if event is Event.ABANDONED:
            return Open(now_s, cell.openings, now_s)
        return _opened(cell.openings, now_s, policy)
    # Open: the result of a call that left before the circuit opened says nothing new.
    return cell


def allows(cell: Cell, now_s: float) -> bool:
    """Whether a call may go now, as an ordinary one (closed) or as the probe."""
    return isinstance(cell, Closed) or ready_s(cell) <= now_s


def is_old(cell: Cell, began_s: float) -> bool:
    """Whether a call that began then says nothing of the probe that is out: it left before."""
    return isinstance(cell, HalfOpen) and began_s < cell.since_s


def ready_s(cell: Cell) -> float:
    """The time from which a call may go; 0 for a closed circuit."""
    match cell:
        case Open():
            return cell.until_s
        case HalfOpen():
            return cell.probe_until_s
        case Closed():
            return 0.0


def in_window(cell: Closed, now_s: float, window_s: float) -> tuple[int, float]:
    """(requests, weighted failures) of the last `window_s` seconds, to one bucket more."""
    # A bucket is in while any of it is younger than the window.
    oldest = now_s - window_s
    requests = failed = 0
    if (cell.slot + 1) * BUCKET_S > oldest:
        requests, failed = cell.requests, cell.failed_halves
    for slot, bucket_requests, bucket_failed in cell.past:
        if (slot + 1) * BUCKET_S > oldest:
            requests += bucket_requests
            failed += bucket_failed
    return requests, failed / 2


def _counted(cell: Closed, halves: int, now_s: float) -> Closed:
    slot = int(now_s // BUCKET_S)
    streak = cell.streak_halves + halves if halves else 0
    if slot == cell.slot:
        return Closed(slot, cell.requests + 1, cell.failed_halves + halves, streak, cell.past)
    past = cell.past
    if cell.requests:
        past = (*past[-(BUCKETS_MAX - 1) :], (cell.slot, cell.requests, cell.failed_halves))
    return Closed(slot, 1, halves, streak, past)


def _is_bad(cell: Closed, now_s: float, policy: BreakerPolicy) -> bool:
    if cell.streak_halves >= 2 * policy.consecutive_max:
        return True
    requests, failed = in_window(cell, now_s, policy.window_s)
    return requests >= policy.requests_min and failed >= policy.error_rate * requests


def _opened(openings_before: int, now_s: float, policy: BreakerPolicy) -> Open:
    openings = openings_before + 1
    return Open(now_s + min(policy.cooldown_s * openings, policy.cooldown_max_s), openings, now_s)
