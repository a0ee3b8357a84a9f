"""What routing has learnt: circuits, resting credentials, latencies, budgets. The one mutable owner in this package.

Everything is keyed by stable public names (endpoint key, credential id), so it survives a reload of the configuration.
Everything is bounded. No clock and no randomness of its own; no await, so every method is atomic.
"""

import math
import random
from collections import deque

import msgspec

from routerx.config.snapshot import Snapshot
from routerx.domain.failure import Effect, Failure
from routerx.domain.model import Endpoint
from routerx.domain.policy import BreakerPolicy, Policy
from routerx.providers.spec import Credential, Provider, RequestLimit
from routerx.routing import breaker
from routerx.routing.breaker import CLOSED, Cell, Closed, Event, HalfOpen, Open
from routerx.routing.credentials import CredentialBook, KeyStats, SeriesPoint
from routerx.routing.plan_cache import PlanCache
from routerx.routing.window import RetryBudget, SlidingCount

LATENCY_STALE_S = 300.0
"""A latency older than this is forgotten, so that an endpoint that was slow once is tried again."""
EXPLORE_S = 30.0
"""An endpoint of unknown latency is put first at most once per interval."""
EWMA_ALPHA = 0.2
UPTIME_ALPHA = 0.1
SAMPLES_MAX = 64
"""Measurements kept of an endpoint, for percentiles."""
ROUNDED_S = 1e-6
"""More than a time loses when a length is taken from it."""
LANES_MAX = 4_096

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
    throughput: float | None
    """Output tokens a second."""
    uptime: float
    """Share of recent calls that did not fail by its fault."""


class Measured(msgspec.Struct, frozen=True, gc=False):
    """What an answered call took."""

    ttft_s: float | None
    """Seconds to the first content of a stream; None for buffered calls."""
    total_s: float
    output_tokens: int = 0
    tokens: int = 0
    """In and out together; 0: nobody reports it."""
    reserved: int = 0
    """Tokens that were reserved for it (pick_credential)."""


class _Lane:
    """One endpoint."""

    __slots__ = (
        "budget",
        "cells",
        "explored_s",
        "judged_s",
        "measured_s",
        "provider",
        "rate",
        "rates",
        "total_s",
        "touched_s",
        "ttft_s",
        "ttfts",
        "uptime",
    )

    def __init__(self, provider: str, now_s: float) -> None:
        self.provider = provider
        self.cells: dict[str, Cell] = {}
        self.budget = RetryBudget()
        self.ttft_s: float | None = None
        self.total_s: float | None = None
        self.rate: float | None = None
        """Output tokens a second."""
        self.ttfts: deque[float] = deque(maxlen=SAMPLES_MAX)
        self.rates: deque[float] = deque(maxlen=SAMPLES_MAX)
        self.uptime = 1.0
        self.judged_s = -math.inf
        """When `uptime` last changed."""
        self.measured_s = -math.inf
        self.explored_s = -math.inf
        self.touched_s = now_s

    def judge(self, up: float, now_s: float) -> None:
        """A call ended well (1.0), badly (0.0) or in between."""
        before = 1.0 if now_s - self.judged_s > LATENCY_STALE_S else self.uptime
        self.uptime = before + UPTIME_ALPHA * (up - before)
        self.judged_s = now_s


class RoutingState:
    """See the module."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.plans = PlanCache()
        self._lanes: dict[str, _Lane] = {}
        self.credentials = CredentialBook()
        self._windows: dict[str, tuple[float, SlidingCount]] = {}
        """Length of the window, and calls in it, of providers that have a limit, by name."""
        self._turns: dict[str, int] = {}
        """Whose turn it is among the credentials of a provider."""
        self._rounds: dict[str, int] = {}
        """Whose turn it is among the endpoints of a model."""
        self._own_budgets: dict[str, RetryBudget] = {}
        self._declared: frozenset[str] | None = None
        self._credential_ids: frozenset[str] | None = None

    # --- asking

    def ready_s(self, provider: Provider, endpoint_key: str, now_s: float, tokens: int = 1) -> float:
        """The earliest time at which a call of so many tokens may go by any credential; ≤ now_s: at once; inf: there is
        none."""
        lane = self._lanes.get(endpoint_key)
        earliest = math.inf
        free_s = (
            0.0
            if provider.limit is None
            else self._window(provider.name, provider.limit).below_s(provider.limit.requests, now_s)
        )
        for credential in provider.credentials:
            ready = max(self._ready_s(lane, credential, now_s, tokens), free_s)
            if ready <= now_s:
                return ready
            earliest = min(earliest, ready)
        return earliest

    def ready_in_s(self, provider: Provider, endpoint_key: str, now_s: float) -> float:
        """Seconds until a call may go to this endpoint; 0.0: at once."""
        return max(0.0, self.ready_s(provider, endpoint_key, now_s) - now_s)

    def why_blocked(self, provider: Provider, endpoint_key: str, now_s: float, tokens: int = 1) -> str:
        """The rule that keeps the endpoint's first credential from being used; for explanations."""
        if not provider.credentials:
            return "no_credential"
        lane = self._lanes.get(endpoint_key)
        credential = min(provider.credentials, key=lambda each: self._ready_s(lane, each, now_s, tokens))
        cell = lane.cells.get(credential.id, CLOSED) if lane is not None else CLOSED
        if not breaker.allows(cell, now_s):
            return "circuit_open"
        limit = provider.limit
        if limit is not None and self._window(provider.name, limit).below_s(limit.requests, now_s) > now_s:
            return "provider_limited"
        return self.credentials.why(credential, now_s)

    def latency_s(self, endpoint_key: str, now_s: float, *, stream: bool) -> float | None:
        """What orders endpoints: time to first token for streams, total time otherwise. None: unknown or stale."""
        lane = self._lanes.get(endpoint_key)
        if lane is None or now_s - lane.measured_s > LATENCY_STALE_S:
            return None
        return lane.ttft_s if stream and lane.ttft_s is not None else lane.total_s

    def latency_at(self, endpoint_key: str, percentile: int, now_s: float) -> float | None:
        """Seconds to the first token that `percentile` of 100 recent streams did not pass; None: unknown or stale."""
        lane = self._lanes.get(endpoint_key)
        if lane is None or now_s - lane.measured_s > LATENCY_STALE_S:
            return None
        return _percentile(lane.ttfts, percentile)

    def throughput(self, endpoint_key: str, now_s: float) -> float | None:
        """Output tokens a second; None: unknown or stale."""
        lane = self._lanes.get(endpoint_key)
        return None if lane is None or now_s - lane.measured_s > LATENCY_STALE_S else lane.rate

    def throughput_at(self, endpoint_key: str, percentile: int, now_s: float) -> float | None:
        """Output tokens a second that `percentile` of 100 recent answers reached; None: unknown or stale."""
        lane = self._lanes.get(endpoint_key)
        if lane is None or now_s - lane.measured_s > LATENCY_STALE_S:
            return None
        return _percentile(lane.rates, 100 - percentile)

    def uptime(self, endpoint_key: str, now_s: float) -> float:
        """The share of recent calls that did not fail by the endpoint's fault; 1.0 where nothing recent is known."""
        lane = self._lanes.get(endpoint_key)
        return 1.0 if lane is None or now_s - lane.judged_s > LATENCY_STALE_S else lane.uptime

    def turn(self, model: str, *, takes: bool) -> int:
        """Whose turn it is among the endpoints of a model: counts up with each that is taken."""
        turn = self._rounds.get(model, 0)
        if takes:
            if len(self._rounds) >= LANES_MAX and model not in self._rounds:
                self._rounds.clear()
            self._rounds[model] = turn + 1
        return turn

    def explore(self, endpoint: Endpoint, now_s: float) -> bool:
        """Whether an endpoint of unknown latency may go first now; True takes the turn of this interval."""
        lane = self._lane(endpoint.key, endpoint.provider, now_s)
        if now_s - lane.explored_s < EXPLORE_S:
            return False
        lane.explored_s = now_s
        return True

    def budget(self, endpoint_key: str, *, own_keys: bool = False) -> RetryBudget:
        """The retry budget of an endpoint that has been called; what is called with tenants' own keys has another."""
        if own_keys:
            budget = self._own_budgets.get(endpoint_key)
            if budget is None:
                if len(self._own_budgets) >= LANES_MAX:
                    self._own_budgets.clear()
                budget = self._own_budgets[endpoint_key] = RetryBudget()
            return budget
        lane = self._lanes.get(endpoint_key)
        return lane.budget if lane is not None else RetryBudget()

    # --- calls

    def pick_credential(
        self, provider: Provider, endpoint: Endpoint, policy: Policy, now_s: float, *, tokens: int = 0
    ) -> Credential | None:
        """The next usable credential in turn, or None. Takes the probe of a circuit or credential that is due, counts
        against the limits of credential and provider and the endpoint's retry budget: call it once per attempt.
        `tokens`: what the call will take, to be reserved where the credential's tokens are limited."""
        limit = provider.limit
        if limit is not None and self._window(provider.name, limit).below_s(limit.requests, now_s) > now_s:
            return None
        lane = self._lane(endpoint.key, provider.name, now_s)
        lane.touched_s = now_s
        credentials = provider.credentials
        many = len(credentials)
        start = self._turns.get(provider.name, 0) if many > 1 else 0
        for turn in range(start, start + many):
            credential = credentials[turn % many]
            if self._ready_s(lane, credential, now_s, tokens) <= now_s:
                if many > 1:
                    self._turns[provider.name] = (turn + 1) % many
                self._take(lane, credential, policy, now_s)
                self.credentials.take(credential, now_s, tokens)
                if limit is not None:
                    self._window(provider.name, limit).add(now_s)
                return credential
        return None

    def succeeded(self, endpoint_key: str, credential_id: str, measured: Measured, now_s: float) -> None:
        """A call was answered in full."""
        lane = self._lane_of_result(endpoint_key, credential_id, now_s)
        if lane is None:
            return
        total_s, ttft_s = measured.total_s, measured.ttft_s
        cell = lane.cells.get(credential_id, CLOSED)
        if not breaker.is_old(cell, now_s - total_s + ROUNDED_S):
            lane.cells[credential_id] = breaker.step(cell, Event.SUCCEEDED, now_s, _ANY_BREAKER)
        if now_s - lane.measured_s > LATENCY_STALE_S:
            lane.ttfts.clear()
            lane.rates.clear()
            lane.total_s = lane.ttft_s = lane.rate = None
        lane.measured_s = now_s
        lane.total_s = _ewma(lane.total_s, total_s)
        if ttft_s is not None:
            lane.ttft_s = _ewma(lane.ttft_s, ttft_s)
            lane.ttfts.append(ttft_s)
        if measured.output_tokens > 0:
            # A stream is as fast as it flows; of a whole answer nobody knows when its first token was there.
            took_s = total_s - ttft_s if ttft_s is not None else total_s
            rate = measured.output_tokens / (took_s if took_s > 1e-3 else 1e-3)
            lane.rate = _ewma(lane.rate, rate)
            lane.rates.append(rate)
        if lane.uptime != 1.0:
            lane.judge(1.0, now_s)
        self.credentials.proved(credential_id, measured.tokens, now_s)
        if measured.reserved > 0 and measured.tokens > 0:
            self.credentials.used(credential_id, now_s - total_s, measured.reserved, measured.tokens)

    def failed(
        self,
        endpoint_key: str,
        credential_id: str,
        failure: Failure,
        policy: Policy,
        now_s: float,
        *,
        began_s: float = math.inf,
    ) -> None:
        """A call failed; what that does to the circuit and the credential is the failure's rule. `began_s`: when it was
        picked; a circuit learns nothing of its probe from calls that left before."""
        lane = self._lane_of_result(endpoint_key, credential_id, now_s)
        if lane is None:
            return
        effect = failure.rule.effect
        self.credentials.failed(credential_id, failure, now_s)
        event = Event.ABANDONED  # Nobody is to blame: nothing is counted, and a probe that met this is given back.
        if effect is Effect.COUNT or effect is Effect.COUNT_HALF:
            event = Event.FAILED if effect is Effect.COUNT else Event.FAILED_HALF
            lane.judge(0.0 if effect is Effect.COUNT else 0.5, now_s)
        if not breaker.is_old(lane.cells.get(credential_id, CLOSED), began_s):
            _step(lane, credential_id, event, policy.breaker, now_s)

    def abandoned(self, endpoint_key: str, credential_id: str, now_s: float, *, began_s: float = math.inf) -> None:
        """The client went away before the call said anything: nothing is counted, a probe is given back."""
        lane = self._lane_of_result(endpoint_key, credential_id, now_s)
        if lane is None:
            return
        if not breaker.is_old(lane.cells.get(credential_id, CLOSED), began_s):
            _step(lane, credential_id, Event.ABANDONED, _ANY_BREAKER, now_s)
        self.credentials.return_probe(credential_id, now_s)

    def paced(self, credential_id: str, wait_s: float, now_s: float) -> None:
        """A provider says that nothing is left of a credential's limits for `wait_s`."""
        if self._credential_ids is None or credential_id in self._credential_ids:
            self.credentials.paced(credential_id, wait_s, now_s)

    def brought_forward(self, endpoint_key: str, credential_id: str, now_s: float, policy: Policy) -> bool:
        """A look off the request path says that the endpoint's provider is well: an open circuit is due at once, and
        its next call the probe. Not before one cooldown has passed, so that a provider that looks well and answers no
        chat is not asked again and again. Whether that changed anything."""
        lane = self._lanes.get(endpoint_key)
        cell = lane.cells.get(credential_id) if lane is not None else None
        if lane is None or not isinstance(cell, Open):
            return False
        due_s = max(now_s, cell.opened_s + policy.breaker.cooldown_s)
        if due_s >= cell.until_s:
            return False
        lane.cells[credential_id] = Open(due_s, cell.openings, cell.opened_s)
        return True

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
        self.credentials.retain(ids)
        for lane in self._lanes.values():
            lane.cells = {key: cell for key, cell in lane.cells.items() if key in ids}
        self._turns = {name: turn for name, turn in self._turns.items() if name in snapshot.providers}
        self._windows = {name: window for name, window in self._windows.items() if name in snapshot.providers}

    def credential_state(self, credential_id: str, now_s: float) -> str:
        """active | cooling | quarantined"""
        return self.credentials.state(credential_id, now_s)

    def clear(self, credential_id: str, now_s: float) -> None:
        """An operator says that a credential is good again."""
        self.credentials.cleared(credential_id, now_s)

    def key_stats(self, now_s: float) -> tuple[KeyStats, ...]:
        """Every credential that has been used."""
        return tuple(self.credentials.stats(now_s))

    def key_series(self, credential_id: str, window_s: float, step_s: float, now_s: float) -> tuple[SeriesPoint, ...]:
        """The recent history of a credential in steps, oldest first; at most a day is kept."""
        return self.credentials.series(credential_id, window_s, step_s, now_s)

    def tripped(self) -> tuple[tuple[str, str, bool], ...]:
        """Every circuit that is not closed: endpoint, credential id, and whether it is open (else a probe is out)."""
        return tuple(
            (key, credential_id, isinstance(cell, Open))
            for key, lane in self._lanes.items()
            for credential_id, cell in lane.cells.items()
            if not isinstance(cell, Closed)
        )

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

    def _window(self, provider: str, limit: RequestLimit) -> SlidingCount:
        kept = self._windows.get(provider)
        if kept is None or kept[0] != limit.window_s:
            kept = self._windows[provider] = (limit.window_s, SlidingCount(limit.window_s, 12))
        return kept[1]

    def _ready_s(self, lane: _Lane | None, credential: Credential, now_s: float, tokens: int = 1) -> float:
        ready = self.credentials.ready_s(credential, now_s, tokens)
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

    def _view(self, key: str, lane: _Lane, credential_id: str, now_s: float) -> CircuitView:
        cell = lane.cells[credential_id]
        ready = max(breaker.ready_s(cell), self.credentials.until_s(credential_id))
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
            credential=self.credentials.state(credential_id, now_s),
            ready_in_s=max(0.0, ready - now_s),
            requests=requests,
            failures=failures,
            ttft_s=lane.ttft_s,
            total_s=lane.total_s,
            throughput=lane.rate,
            uptime=self.uptime(key, now_s),
        )


def _step(lane: _Lane, credential_id: str, event: Event, policy: BreakerPolicy, now_s: float) -> None:
    lane.cells[credential_id] = breaker.step(lane.cells.get(credential_id, CLOSED), event, now_s, policy)


def _ewma(old: float | None, sample: float) -> float:
    return sample if old is None else old + EWMA_ALPHA * (sample - old)


def _percentile(samples: deque[float], percentile: int) -> float | None:
    """The smallest sample that so many of a hundred do not pass."""
    if not samples:
        return None
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(len(ordered) * percentile / 100) - 1))]
