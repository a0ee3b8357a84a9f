"""One policy through one world: the real plans, circuits, budgets and verdicts, on a clock that jumps between events.

What takes time here are the answers of providers; the loop is the one of gateway/attempt.py without I/O.
"""

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from routerx.domain.call import Advance, Operation, Peek, Plan, Retry
from routerx.domain.failure import Failure, FailureKind
from routerx.domain.policy import Sort
from routerx.domain.tenant import Plan as TenantPlan
from routerx.domain.tenant import Principal, Tenant
from routerx.errors import NoHealthyUpstream
from routerx.providers.spec import Credential
from routerx.routing.decide import AttemptState, decide, following
from routerx.routing.plan import make_plan
from routerx.routing.shortlist import Ask
from routerx.routing.state import Measured, RoutingState
from tests.simulation.world import MODEL, OUTPUT_TOKENS, Site, World

FAIL_S = 0.05
"""How fast a dead endpoint says so."""
DEADLINE_S = 600.0
LOOK_S = 10.0
"""Between two looks at providers whose circuit is open."""
ASK = Ask(Peek(Operation.CHAT, MODEL, stream=True), Principal(Tenant("t", TenantPlan("p")), "k"))


@dataclass
class Request:
    began_s: float
    plan: Plan | None = None
    index: int = 0
    tries: int = 0
    attempts: int = 0


@dataclass
class Outcome:
    """What came of it all."""

    served: int = 0
    refused: int = 0
    """Told at once that nobody is there."""
    failed: int = 0
    """Told after attempts that failed."""
    waits: float = 0.0
    """Sum of the seconds to the first token, failed attempts included."""
    prices: float = 0.0
    rates: float = 0.0
    by: Counter[str] = field(default_factory=Counter)
    dispatches: int = 0
    blackout_requests: int = 0
    blackout_dispatches: int = 0
    back_s: float | None = None
    """From the end of the blackout to the first answer after it."""
    answered: dict[str, list[float]] = field(default_factory=dict)
    """When each endpoint was asked."""
    leaders: list[str | None] = field(default_factory=list)
    """Who answered nearly all in each span of LEADER_S; None: nobody did. Equals, who share by lot, lead nothing."""


LEADER_S = 5.0
LEADER_SHARE = 0.7


class Run:
    def __init__(self, world: World, sort: Sort, seed: int) -> None:
        self.world = world
        self.snapshot = world.snapshot(sort)
        self.rng = random.Random(seed)
        self.state = RoutingState(random.Random(seed + 1))
        self.sites: dict[str, Site] = {site.key: site for site in world.sites}
        self.out = Outcome(answered={site.key: [] for site in world.sites})
        self.now_s = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._span: Counter[str] = Counter()
        self._span_end_s = LEADER_S

    def go(self, requests: int) -> Outcome:
        for n in range(1, int(self.world.length_s / LOOK_S)):
            self._at(n * LOOK_S, self._look)
        for n in range(requests):
            self._at((n + self.rng.random()) / self.world.rate, self._arrive)
        while self._events:
            self.now_s, _, event = heapq.heappop(self._events)
            while self.now_s >= self._span_end_s:
                self.out.leaders.append(self._leader())
                self._span.clear()
                self._span_end_s += LEADER_S
            event()
        return self.out

    def _leader(self) -> str | None:
        first, answers = self._span.most_common(1)[0] if self._span else (None, 0)
        return first if answers > LEADER_SHARE * self._span.total() else None

    def _at(self, at_s: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (at_s, next(self._order), event))

    def _arrive(self) -> None:
        request = Request(self.now_s)
        if self._in_blackout(request):
            self.out.blackout_requests += 1
        try:
            request.plan = make_plan(ASK, self.snapshot, self.state, self.now_s)
        except NoHealthyUpstream:
            self.out.refused += 1
            return
        self._attempt(request)

    def _look(self) -> None:
        """Off the request path: who is open and can be reached again is due for its probe."""
        policy = self.snapshot.policies["default"]
        for site in self.world.sites:
            if not site.is_down(self.now_s):
                self.state.brought_forward(site.key, f"{site.name}-1", self.now_s, policy)

    def _in_blackout(self, request: Request) -> bool:
        return self.world.blackout.holds(request.began_s)

    def _attempt(self, request: Request) -> None:
        plan = request.plan
        assert plan is not None
        while True:
            endpoint = plan.candidates[request.index].endpoint
            provider = self.snapshot.providers[endpoint.provider]
            credential = self.state.pick_credential(provider, endpoint, plan.policy, self.now_s)
            if credential is not None:
                break
            if request.index + 1 == len(plan.candidates):
                self.out.refused += 1
                return
            request.index, request.tries = request.index + 1, 0
        site = self.sites[endpoint.key]
        request.attempts += 1
        self.out.dispatches += 1
        self.out.answered[site.key].append(self.now_s)
        self.out.blackout_dispatches += self._in_blackout(request)
        if site.is_down(self.now_s):
            self._at(self.now_s + FAIL_S, lambda: self._fail(request, credential))
            return
        ttft_s = site.ttft_s(self.now_s, self.rng)
        took_s = ttft_s + OUTPUT_TOKENS / site.rate
        self._at(self.now_s + took_s, lambda: self._answer(request, site, credential, ttft_s, took_s))

    def _answer(self, request: Request, site: Site, credential: Credential, ttft_s: float, took_s: float) -> None:
        out = self.out
        if out.back_s is None and self.now_s - took_s >= self.world.blackout.end_s:
            out.back_s = self.now_s - took_s + ttft_s - self.world.blackout.end_s
        out.served += 1
        out.waits += self.now_s - took_s + ttft_s - request.began_s
        out.prices += site.price_pico
        out.rates += site.rate
        out.by[site.key] += 1
        self._span[site.key] += 1
        self.state.succeeded(site.key, credential.id, Measured(ttft_s, took_s, OUTPUT_TOKENS), self.now_s)

    def _fail(self, request: Request, credential: Credential) -> None:
        plan = request.plan
        assert plan is not None
        failure = Failure(FailureKind.SERVER_ERROR, "down")
        endpoint = plan.candidates[request.index].endpoint
        provider = self.snapshot.providers[endpoint.provider]
        self.state.failed(endpoint.key, credential.id, failure, plan.policy, self.now_s)
        request.tries += 1
        state = AttemptState(
            attempts=request.attempts,
            tries=request.tries,
            has_next=following(plan, request.index, failure) is not None,
            ready_in_s=self.state.ready_in_s(provider, endpoint.key, self.now_s),
            remaining_s=request.began_s + DEADLINE_S - self.now_s,
            now_s=self.now_s,
        )
        budget = self.state.budget(endpoint.key)
        match decide(failure, attempt=state, policy=plan.policy, budget=budget, rng=self.rng):
            case Retry(delay_s=delay_s):
                self._at(self.now_s + delay_s, lambda: self._attempt(request))
            case Advance():
                request.index, request.tries = request.index + 1, 0
                self._attempt(request)
            case _:
                self.out.failed += 1
