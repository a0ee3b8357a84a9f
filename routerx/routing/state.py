"""What routing has learnt: circuits, resting credentials, latencies, budgets. The one mutable owner in this package.

Everything is keyed by stable public names (endpoint key, credential id), so it survives a reload of the configuration.
Everything is bounded. No clock and no randomness of its own; no await, so every method is atomic.
"""

import math
import random

import msgspec

from routerx.config.snapshot import Snapshot
from routerx.domain.failure import Effect, Failure
from routerx.domain.model import Endpoint
from routerx.domain.policy import BreakerPolicy, Policy
from routerx.providers.spec import Credential, Provider
from routerx.routing import breaker
from routerx.routing.breaker import CLOSED, Cell, Closed, Event, HalfOpen, Open
from routerx.routing.shortlist import PlanKey, Shortlist
from routerx.routing.window import RetryBudget, SlidingCount

COOL_MIN_S = 1.0
COOL_MAX_S = 60.0
"""A rate-limited credential without Retry-After rests 1 s × 2^k, at most this long (FAULTS.md 28)."""
RETRY_AFTER_MAX_S = 300.0
"""A longer Retry-After is not believed (FAULTS.md 30)."""
QUARANTINE_PROBE_S = 300.0
"""A refused or exhausted credential is tried again with one call per interval: keys get fixed at the vendor's side."""
LATENCY_STALE_S = 300.0
"""A latency older than this is forgotten, so that an endpoint that was slow once is tried again."""
EXPLORE_S = 30.0
"""An endpoint of unknown latency is put first at most once per interval."""
EWMA_ALPHA = 0.2
LANES_MAX = 4_096
PLANS_MAX = 4_096

_ANY_BREAKER = BreakerPolicy()  # Successes and abandoned calls step a cell without looking at the policy.


class CircuitView(msgspec.Struct, frozen=True):
    """One endpoint by one credential, for /health, metrics and tables."""

    endpoint: str
    credential_id: str
    circuit: str
    """closed | open | half_open"""
    credential: str
    """active | cooling | quarantined"""
    ready_in_s: float
    """0: calls may go now."""
    requests: int
    """In the breaker's default window."""
    failures: float
    """Of these; half weights count half."""
    ttft_s: float | None
    total_s: float | None


class _Lane:
    """One endpoint."""

    __slots__ = ("budget", "cells", "explored_s", "measured_s", "provider", "total_s", "touched_s", "ttft_s")

    def __init__(self, provider: str, now_s: float) -> None:
        self.provider = provider
        self.cells: dict[str, Cell] = {}
        self.budget = RetryBudget()
        self.ttft_s: float | None = None
        self.total_s: float | None = None
        self.measured_s = -math.inf
        self.explored_s = -math.inf
        self.touched_s = now_s


class _Rest:
    """What keeps one credential from being used."""

    __slots__ = ("calls", "cooled", "probing", "quarantined", "until_s")

    def __init__(self) -> None:
        self.until_s = 0.0
        self.cooled = 0
        self.quarantined = False
        self.probing = False
        self.calls = SlidingCount(60.0, 12)


class PlanCache:
    """The static parts of plans, of one snapshot; the oldest entry goes when it is full."""

    __slots__ = ("_entries", "_snapshot")

    def __init__(self) -> None:
        self._entries: dict[PlanKey, Shortlist] = {}
        self._snapshot: Snapshot | None = None

    def get(self, snapshot: Snapshot, key: PlanKey) -> Shortlist | None:
        if snapshot is not self._snapshot:
            self._entries.clear()
            self._snapshot = snapshot
        return self._entries.get(key)

    def put(self, key: PlanKey, value: Shortlist) -> None:
        """Store for the snapshot last asked for."""
        if len(self._entries) >= PLANS_MAX:
            del self._entries[next(iter(self._entries))]
        self._entries[key] = value

    def __len__(self) -> int:
        return len(self._entries)


class RoutingState:
    """See the module."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.plans: PlanCache = PlanCache()
        self._lanes: dict[str, _Lane] = {}
        self._rests: dict[str, _Rest] = {}
        self._turns: dict[str, int] = {}
        self._declared: frozenset[str] | None = None
        self._credential_ids: frozenset[str] | None = None

    # --- asking

    def ready_s(self, provider: Provider, endpoint_key: str, now_s: float) -> float:
        """The earliest time at which a call may go by any credential; ≤ now_s: at once; inf: there is none."""
        lane = self._lanes.get(endpoint_key)
        earliest = math.inf
        for credential in provider.credentials:
            ready = self._ready_s(lane, credential, now_s)
            if ready <= now_s:
                return ready
            earliest = min(earliest, ready)
        return earliest

    def ready_in_s(self, provider: Provider, endpoint_key: str, now_s: float) -> float:
        """Seconds until a call may go to this endpoint; 0.0: at once."""
        return max(0.0, self.ready_s(provider, endpoint_key, now_s) - now_s)

    def why_blocked(self, provider: Provider, endpoint_key: str, now_s: float) -> str:
        """The rule that keeps the endpoint's first credential from being used; for explanations."""
        if not provider.credentials:
            return "no_credential"
        lane = self._lanes.get(endpoint_key)
        credential = min(provider.credentials, key=lambda each: self._ready_s(lane, each, now_s))
        cell = lane.cells.get(credential.id, CLOSED) if lane is not None else CLOSED
        if not breaker.allows(cell, now_s):
            return "circuit_open"
        rest = self._rests.get(credential.id)
        if rest is not None and rest.until_s > now_s:
            return "credential_quarantined" if rest.quarantined else "credential_cooling"
        return "credential_rpm"

    def latency_s(self, endpoint_key: str, now_s: float, *, stream: bool) -> float | None:
        """What orders endpoints: time to first token for streams, total time otherwise. None: unknown or stale."""
        lane = self._lanes.get(endpoint_key)
        if lane is None or now_s - lane.measured_s > LATENCY_STALE_S:
            return None
        return lane.ttft_s if stream and lane.ttft_s is not None else lane.total_s

    def explore(self, endpoint: Endpoint, now_s: float) -> bool:
        """Whether an endpoint of unknown latency may go first now; True takes the turn of this interval."""
        lane = self._lane(endpoint.key, endpoint.provider, now_s)
        if now_s - lane.explored_s < EXPLORE_S:
            return False
        lane.explored_s = now_s
        return True

    def budget(self, endpoint_key: str) -> RetryBudget:
        """The retry budget of an endpoint that has been called."""
        lane = self._lanes.get(endpoint_key)
        return lane.budget if lane is not None else RetryBudget()

    # --- calls

    def pick_credential(
        self, provider: Provider, endpoint: Endpoint, policy: Policy, now_s: float
    ) -> Credential | None:
        """The next usable credential in turn, or None. Takes the probe of a circuit or credential that is due, counts
        against the credential's requests per minute and the endpoint's retry budget: call it once per attempt."""
        lane = self._lane(endpoint.key, provider.name, now_s)
        lane.touched_s = now_s
        credentials = provider.credentials
        many = len(credentials)
        start = self._turns.get(provider.name, 0) if many > 1 else 0
        for turn in range(start, start + many):
            credential = credentials[turn % many]
            if self._ready_s(lane, credential, now_s) <= now_s:
                if many > 1:
                    self._turns[provider.name] = (turn + 1) % many
                self._take(lane, credential, policy, now_s)
                return credential
        return None

    def succeeded(
        self, endpoint_key: str, credential_id: str, ttft_s: float | None, total_s: float, now_s: float
    ) -> None:
        """A call was answered in full. `ttft_s`: seconds to the first content of a stream, None for buffered calls."""
        lane = self._lane_of_result(endpoint_key, credential_id, now_s)
        if lane is None:
            return
        _step(lane, credential_id, Event.SUCCEEDED, _ANY_BREAKER, now_s)
        fresh = now_s - lane.measured_s > LATENCY_STALE_S
        lane.total_s = _ewma(None if fresh else lane.total_s, total_s)
        if ttft_s is not None:
            lane.ttft_s = _ewma(None if fresh else lane.ttft_s, ttft_s)
        elif fresh:
            lane.ttft_s = None
        lane.measured_s = now_s
        rest = self._rests.get(credential_id)
        if rest is not None:
            self._proved(rest, now_s)

    def failed(self, endpoint_key: str, credential_id: str, failure: Failure, policy: Policy, now_s: float) -> None:
        """A call failed; what that does to the circuit and the credential is the failure's rule."""
        lane = self._lane_of_result(endpoint_key, credential_id, now_s)
        if lane is None:
            return
        effect = failure.rule.effect
        if effect is Effect.COOL:
            self._cool(self._rest(credential_id), failure.retry_after_s, now_s)
        elif effect is Effect.QUARANTINE:
            rest = self._rest(credential_id)
            rest.quarantined, rest.probing = True, False
            rest.until_s = max(rest.until_s, now_s + QUARANTINE_PROBE_S)
        if effect is Effect.COUNT or effect is Effect.COUNT_HALF:
            event = Event.FAILED if effect is Effect.COUNT else Event.FAILED_HALF
            _step(lane, credential_id, event, policy.breaker, now_s)
        else:
            # The endpoint is not to blame: nothing is counted, and a probe that met this is given back.
            _step(lane, credential_id, Event.ABANDONED, policy.breaker, now_s)
            if effect is Effect.NONE:
                self._return_probe(credential_id, now_s)

    def abandoned(self, endpoint_key: str, credential_id: str, now_s: float) -> None:
        """The client went away before the call said anything: nothing is counted, a probe is given back."""
        lane = self._lane_of_result(endpoint_key, credential_id, now_s)
        if lane is None:
            return
        _step(lane, credential_id, Event.ABANDONED, _ANY_BREAKER, now_s)
        self._return_probe(credential_id, now_s)

    # --- control

    def retain(self, snapshot: Snapshot) -> None:
        """After a reload: forget endpoints, credentials and providers that are gone, keep the rest as it is."""
        declared = frozenset(snapshot.endpoints).union(
            endpoint.key for model in snapshot.models.values() for endpoint in model.endpoints
        )
        before = self._declared
        self._declared = declared
        # A lane that was never declared is a path typed by a caller; it lives as long as its provider.
        self._lanes = {
            key: lane
            for key, lane in self._lanes.items()
            if key in declared or (before is not None and key not in before and lane.provider in snapshot.providers)
        }
        ids = frozenset(each.id for provider in snapshot.providers.values() for each in provider.credentials)
        self._credential_ids = ids
        self._rests = {key: rest for key, rest in self._rests.items() if key in ids}
        for lane in self._lanes.values():
            lane.cells = {key: cell for key, cell in lane.cells.items() if key in ids}
        self._turns = {name: turn for name, turn in self._turns.items() if name in snapshot.providers}

    def view(self, now_s: float) -> tuple[CircuitView, ...]:
        """Every endpoint and credential that has been used, by name."""
        return tuple(
            self._view(key, lane, credential_id, now_s)
            for key, lane in sorted(self._lanes.items())
            for credential_id in sorted(lane.cells)
        )

    # --- helpers

    def _lane(self, endpoint_key: str, provider: str, now_s: float) -> _Lane:
        lane = self._lanes.get(endpoint_key)
        if lane is None:
            if len(self._lanes) >= LANES_MAX:
                self._evict()
            lane = self._lanes[endpoint_key] = _Lane(provider, now_s)
        return lane

    def _lane_of_result(self, endpoint_key: str, credential_id: str, now_s: float) -> _Lane | None:
        """The lane a result belongs to. A call that outlived its endpoint or credential must not bring it back."""
        if self._credential_ids is not None and credential_id not in self._credential_ids:
            return None
        lane = self._lanes.get(endpoint_key)
        if lane is None and (self._declared is None or endpoint_key in self._declared):
            lane = self._lane(endpoint_key, endpoint_key.split("/", 1)[0], now_s)
        return lane

    def _evict(self) -> None:
        """Make room by an eighth, least recently used first: callers can name any path of a provider."""
        by_age = sorted(self._lanes, key=lambda key: self._lanes[key].touched_s)
        for key in by_age[: LANES_MAX // 8]:
            del self._lanes[key]

    def _rest(self, credential_id: str) -> _Rest:
        rest = self._rests.get(credential_id)
        if rest is None:
            rest = self._rests[credential_id] = _Rest()
        return rest

    def _ready_s(self, lane: _Lane | None, credential: Credential, now_s: float) -> float:
        ready = 0.0
        rest = self._rests.get(credential.id)
        if rest is not None:
            ready = rest.until_s
            if credential.rpm is not None:
                free = rest.calls.below_s(credential.rpm, now_s)
                if free > now_s:
                    ready = max(ready, free)
        if lane is not None:
            cell = lane.cells.get(credential.id)
            if cell is not None and not isinstance(cell, Closed):
                ready = max(ready, breaker.ready_s(cell))
        return ready

    def _take(self, lane: _Lane, credential: Credential, policy: Policy, now_s: float) -> None:
        lane.budget.called(now_s)
        cell = lane.cells.get(credential.id)
        if cell is None:
            lane.cells[credential.id] = CLOSED
        elif not isinstance(cell, Closed):
            lane.cells[credential.id] = breaker.step(cell, Event.PROBED, now_s, policy.breaker)
        rest = self._rest(credential.id) if credential.rpm is not None else self._rests.get(credential.id)
        if rest is None:
            return
        if credential.rpm is not None:
            rest.calls.add(now_s)
        if rest.quarantined:
            rest.probing = True
            rest.until_s = now_s + QUARANTINE_PROBE_S

    def _cool(self, rest: _Rest, retry_after_s: float | None, now_s: float) -> None:
        if retry_after_s is not None and retry_after_s > 0:  # NaN is neither.
            rest_s = min(max(retry_after_s, COOL_MIN_S), RETRY_AFTER_MAX_S)
        else:
            rest_s = min(COOL_MIN_S * 2.0 ** min(rest.cooled, 10), COOL_MAX_S)
        if now_s >= rest.until_s:
            rest.cooled += 1  # Once per rest: twenty calls refused at the same moment are one sign, not twenty.
        rest.until_s = max(rest.until_s, now_s + rest_s)

    def _proved(self, rest: _Rest, now_s: float) -> None:
        """A call by this credential was answered. Calls from before the rest began prove nothing about it."""
        if rest.quarantined:
            if rest.probing:
                rest.quarantined = rest.probing = False
                rest.until_s, rest.cooled = now_s, 0
        elif now_s >= rest.until_s:
            rest.cooled = 0

    def _return_probe(self, credential_id: str, now_s: float) -> None:
        rest = self._rests.get(credential_id)
        if rest is not None and rest.probing:
            rest.probing = False
            rest.until_s = now_s

    def _view(self, key: str, lane: _Lane, credential_id: str, now_s: float) -> CircuitView:
        cell = lane.cells[credential_id]
        rest = self._rests.get(credential_id)
        ready = breaker.ready_s(cell)
        credential = "active"
        if rest is not None:
            ready = max(ready, rest.until_s)
            if rest.quarantined:
                credential = "quarantined"
            elif rest.until_s > now_s:
                credential = "cooling"
        match cell:
            case Closed():
                circuit = "closed"
                requests, failures = breaker.in_window(cell, now_s, _ANY_BREAKER.window_s)
            case Open():
                circuit, requests, failures = "open", 0, 0.0
            case HalfOpen():
                circuit, requests, failures = "half_open", 0, 0.0
        return CircuitView(
            endpoint=key,
            credential_id=credential_id,
            circuit=circuit,
            credential=credential,
            ready_in_s=max(0.0, ready - now_s),
            requests=requests,
            failures=failures,
            ttft_s=lane.ttft_s,
            total_s=lane.total_s,
        )


def _step(lane: _Lane, credential_id: str, event: Event, policy: BreakerPolicy, now_s: float) -> None:
    lane.cells[credential_id] = breaker.step(lane.cells.get(credential_id, CLOSED), event, now_s, policy)


def _ewma(old: float | None, sample: float) -> float:
    return sample if old is None else old + EWMA_ALPHA * (sample - old)
