"""What a run says: its regret beside the best fixed choice, and the promises it has to keep."""

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from routerx.domain.policy import BreakerPolicy, Sort
from routerx.routing.state import EXPLORE_S, LATENCY_STALE_S
from tests.simulation.run import LEADER_S, LOOK_S, Outcome, Run
from tests.simulation.world import ENDPOINTS, RATE, Site, World

DISPATCHES_MAX = 1.2
"""For each request while everybody is down."""
LEARNING = (Sort.LATENCY, Sort.THROUGHPUT, Sort.BALANCED, Sort.COST_OPTIMIZED, Sort.PERFORMANCE_FIRST)
STARVED_S = LATENCY_STALE_S + ENDPOINTS * EXPLORE_S + BreakerPolicy().cooldown_max_s
"""Nobody who is well stays unasked longer under a sort that learns."""
STORM_S = 120.0
CHANGES_MAX = int(STORM_S / LEADER_S / 2)
"""Changes of who answers nearly all after a recovery: in a storm everybody goes from one to the next all the time."""
BACK_MAX_S = BreakerPolicy().cooldown_s + LOOK_S
"""From the end of an outage of everybody to the first answer: one cooldown, and a look that tells of it."""
LOST_S = 12.0
"""What a request that nobody serves costs, in seconds of waiting; both in a policy's run and of a fixed choice."""


@dataclass(frozen=True)
class Line:
    sort: Sort
    unit: str
    mean: float
    best: float
    best_site: str
    price: float
    """Mean of what those took who answered, in USD per million input tokens."""
    served: float
    """Share of the requests."""
    dispatches: float
    """For each request while everybody is down."""
    back_s: float
    """From the end of that to the first answer."""
    longest_unasked_s: float
    storms: int
    """Most changes of the leader after one recovery."""
    share_min: float
    share_max: float

    @property
    def regret(self) -> float:
        return self.mean - self.best

    def broken(self) -> list[str]:
        """Promises it does not keep."""
        found = []
        if self.dispatches > DISPATCHES_MAX:
            found.append(f"{self.dispatches:.2f} dispatches for each request while everybody is down")
        if self.back_s > BACK_MAX_S:
            found.append(f"nobody answered for {self.back_s:.0f} s after everybody was back")
        if self.sort in LEARNING and self.longest_unasked_s > STARVED_S:
            found.append(f"an endpoint that was well stayed unasked for {self.longest_unasked_s:.0f} s")
        if self.sort in LEARNING and self.storms > CHANGES_MAX:
            found.append(f"{self.storms} changes of the leader after one recovery")
        return found


def simulate(world: World, sort: Sort, seed: int, requests: int) -> Line:
    out = Run(world, sort, seed).go(requests)
    unit, mean, of_site = _currency(world, sort, out, (seed, requests))
    fixed = {site.key: of_site(site) for site in world.sites}
    best_site = min(fixed, key=lambda key: fixed[key])
    shares = [out.by[site.key] / max(out.served, 1) for site in world.sites]
    return Line(
        sort=sort,
        unit=unit,
        mean=mean,
        best=fixed[best_site],
        best_site=best_site,
        price=out.prices / max(out.served, 1) / 1e6,
        served=out.served / requests,
        dispatches=out.blackout_dispatches / max(out.blackout_requests, 1),
        back_s=math.inf if out.back_s is None else out.back_s,
        longest_unasked_s=max(_longest_unasked_s(world, site, out) for site in world.sites),
        storms=_storms(world, out),
        share_min=min(shares),
        share_max=max(shares),
    )


def _currency(
    world: World, sort: Sort, out: Outcome, run: tuple[int, int]
) -> tuple[str, float, Callable[[Site], float]]:
    """The unit of a sort, its mean, and what one endpoint for everything would have cost. `run`: seed and requests."""
    seed, requests = run
    lost = requests - out.served
    if sort in (Sort.PRICE, Sort.COST_OPTIMIZED):
        # Whoever is down costs nothing and serves nobody: what it loses is bought from the dearest.
        dearest = max(site.price_pico for site in world.sites)
        return (
            "$/M in",
            (out.prices + lost * dearest) / requests / 1e6,
            lambda site: _mixed(site, world, float(site.price_pico), float(dearest)) / 1e6,
        )
    if sort is Sort.THROUGHPUT:
        return "-tok/s", -out.rates / requests, lambda site: -_mixed(site, world, site.rate, 0.0)

    def wait_s(site: Site) -> float:
        rng = random.Random(seed)
        steps = [float(n) for n in range(max(int(world.length_s), 1))]
        waits = [LOST_S if site.is_down(at_s) else site.ttft_s(at_s, rng) for at_s in steps]
        return sum(waits) / len(waits)

    return "s", (out.waits + lost * LOST_S) / requests, wait_s


def _mixed(site: Site, world: World, up: float, down: float) -> float:
    steps = max(int(world.length_s), 1)
    lost = sum(site.is_down(float(at_s)) for at_s in range(steps)) / steps
    return up * (1 - lost) + down * lost


def _longest_unasked_s(world: World, site: Site, out: Outcome) -> float:
    """The longest time in which it was well all along and nobody asked it."""
    marks = sorted([0.0, world.length_s, *out.answered[site.key], *(o.begin_s for o in site.outages)])
    ends = sorted(outage.end_s for outage in site.outages)
    longest = 0.0
    for before, after in itertools.pairwise(marks):
        well_s = max([before, *(end_s for end_s in ends if before <= end_s <= after)])
        if not site.is_down(well_s):
            longest = max(longest, after - well_s)
    return longest


def _storms(world: World, out: Outcome) -> int:
    worst = 0
    for site in world.sites:
        for outage in site.outages:
            first = int(outage.end_s // LEADER_S)
            leaders = [one for one in out.leaders[first : first + int(STORM_S // LEADER_S)] if one is not None]
            worst = max(worst, sum(a != b for a, b in itertools.pairwise(leaders)))
    return worst


def table(lines: list[Line], requests: int) -> str:
    head = f"{'sort':18}{'mean':>10}{'best fixed':>18}{'regret':>10}  {'unit':7}{'served':>8}{'d/r down':>10}"
    head += f"{'back':>7}{'unasked':>9}{'changes':>9}{'shares':>14}"
    rows = [f"{requests} requests at {RATE:.0f}/s, {ENDPOINTS} endpoints", head]
    for line in lines:
        best = f"{line.best:.3f} ({line.best_site.partition('/')[0]})"
        shares = f"{line.share_min:.0%}..{line.share_max:.0%}"
        rows.append(
            f"{line.sort.value:18}{line.mean:10.3f}{best:>18}{line.regret:10.3f}  {line.unit:7}{line.served:8.1%}"
            f"{line.dispatches:10.3f}{line.back_s:6.1f}s{line.longest_unasked_s:8.0f}s{line.storms:9}{shares:>14}"
        )
        rows += [f"  BROKEN: {promise}" for promise in line.broken()]
    return "\n".join(rows)
