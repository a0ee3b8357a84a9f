"""The order of endpoints that are equal by priority and may all be called now (docs/routing.md, "Order").

Reads what routing has learnt; of the state it changes only whose turn it is, to be explored or in a round. Both stay as
they are where `explores` is False.
"""

import math

import msgspec

from routerx.domain.model import Endpoint
from routerx.domain.policy import Sort
from routerx.routing.rules import blended_price
from routerx.routing.shortlist import Option
from routerx.routing.state import RoutingState


class OrderView(msgspec.Struct, frozen=True):
    """By what to order."""

    sort: Sort
    model: str
    """Whose round it is, where endpoints take turns."""
    stream: bool
    explores: bool
    """An endpoint that nothing is known of may come first, and turns are taken."""
    max_latency: tuple[tuple[int, float], ...] = ()
    """(percentile, seconds to the first token): who is above any comes last."""
    min_throughput: tuple[tuple[int, float], ...] = ()
    """(percentile, output tokens a second) likewise."""


class Weights(msgspec.Struct, frozen=True):
    """What makes up a score: parts of 1."""

    price: float
    latency: float
    uptime: float


SCORES = {
    Sort.BALANCED: Weights(0.30, 0.40, 0.30),
    Sort.COST_OPTIMIZED: Weights(0.70, 0.15, 0.15),
    Sort.PERFORMANCE_FIRST: Weights(0.10, 0.60, 0.30),
}
SCORE_STEPS = 20
"""Scores within a twentieth are equal: the order of equals is drawn by weight."""


def arrange(options: list[Option], view: OrderView, state: RoutingState, now_s: float) -> list[Option]:
    """Best first; a permutation of `options`, which go all by own keys of the tenant, or all by those of the house."""
    match view.sort:
        case Sort.PRIORITY:
            order = options
        case Sort.WEIGHTED:
            order = sorted(options, key=lambda option: _draw(option.endpoint.weight, state))
        case Sort.ROUND_ROBIN:
            whose = f"{view.model}\0own" if options[0].candidate.own_key else view.model
            turn = state.turn(whose, takes=view.explores) % len(options)
            order = options[turn:] + options[:turn]
        case Sort.PRICE:
            order = _by_price(options, view, state, now_s)
        case _:
            order = _by_merit(options, view, state, now_s)
    if view.max_latency or view.min_throughput:
        order = sorted(order, key=lambda option: _misses(option.endpoint, view, state, now_s))
    return order


def _by_price(options: list[Option], view: OrderView, state: RoutingState, now_s: float) -> list[Option]:
    """Cheapest first, unpriced last, equal prices by latency."""
    groups: dict[float, list[Option]] = {}
    for option in options:
        groups.setdefault(_price(option.endpoint), []).append(option)
    order: list[Option] = []
    for price in sorted(groups):
        equal = groups[price]
        if len(equal) > 1:
            first = msgspec.structs.replace(view, sort=Sort.LATENCY, explores=view.explores and not order)
            equal = _by_merit(equal, first, state, now_s)
        order += equal
    return order


def _by_merit(options: list[Option], view: OrderView, state: RoutingState, now_s: float) -> list[Option]:
    """By what was measured, equals by weighted chance. Who was not measured goes to the middle, except that each of
    them is put first once per interval: it gets known, and one that never answers does not sit in front."""
    known: list[tuple[int, float, int, Option]] = []
    unknown: list[Option] = []
    merits = _merits(options, view, state, now_s)
    for index, option in enumerate(options):
        merit = merits[index]
        if merit is None:
            unknown.append(option)
        else:
            known.append((merit, _draw(option.endpoint.weight, state), index, option))
    known.sort()
    order = [option for _, _, _, option in known]
    if not unknown:
        return order
    if len({option.endpoint.weight for option in unknown}) > 1:
        unknown.sort(key=lambda option: _draw(option.endpoint.weight, state))
    first: list[Option] = []
    if view.explores and not options[0].candidate.own_key:  # Nothing is learnt from own keys.
        for option in unknown:
            if state.explore(option.endpoint, now_s):
                first.append(option)
                unknown.remove(option)
                break
    middle = (len(order) + 1) // 2
    return [*first, *order[:middle], *unknown, *order[middle:]]


def _merits(options: list[Option], view: OrderView, state: RoutingState, now_s: float) -> list[int | None]:
    """A step on the scale of the sort for each option, lower is better; None where nothing was measured."""
    if view.sort is Sort.THROUGHPUT:
        rates = [_rate(option.endpoint, state, now_s) for option in options]
        return [None if rate is None else -_step(rate) for rate in rates]
    waits = [_wait_s(option.endpoint, view, state, now_s) for option in options]
    weights = SCORES.get(view.sort)
    if weights is None:
        return [None if wait is None else _step(wait) for wait in waits]
    prices = [_price(option.endpoint) for option in options]
    dearest = max((price for price in prices if not math.isinf(price)), default=0.0)
    slowest = max((wait for wait in waits if wait is not None), default=0.0)
    merits: list[int | None] = []
    for option, price, wait in zip(options, prices, waits, strict=True):
        if wait is None:
            merits.append(None)
            continue
        price_part = 1.0 if math.isinf(price) else price / dearest if dearest > 0 else 0.0
        latency_part = wait / slowest if slowest > 0 else 0.0
        down_part = 1.0 - state.uptime(option.endpoint.key, now_s)
        score = weights.price * price_part + weights.latency * latency_part + weights.uptime * down_part
        merits.append(int(score * SCORE_STEPS))
    return merits


def _wait_s(endpoint: Endpoint, view: OrderView, state: RoutingState, now_s: float) -> float | None:
    """Its latency; of one that fails now and then as much longer as the way by another endpoint makes it."""
    latency_s = state.latency_s(endpoint.key, now_s, stream=view.stream)
    if latency_s is None:
        return None
    return latency_s / _reliance(endpoint, state, now_s)


def _rate(endpoint: Endpoint, state: RoutingState, now_s: float) -> float | None:
    """Its output tokens a second; of one that fails now and then as much fewer."""
    rate = state.throughput(endpoint.key, now_s)
    return None if rate is None else rate * _reliance(endpoint, state, now_s)


def _reliance(endpoint: Endpoint, state: RoutingState, now_s: float) -> float:
    up = max(state.uptime(endpoint.key, now_s), 0.1)
    return up * up


def _step(value: float) -> int:
    """Equal within a tenth."""
    return math.floor(10.0 * math.log(max(value, 1e-3)))


def _price(endpoint: Endpoint) -> float:
    return math.inf if endpoint.price is None else blended_price(endpoint.price)


def _misses(endpoint: Endpoint, view: OrderView, state: RoutingState, now_s: float) -> bool:
    """Whether it is known to miss what the caller prefers."""
    for percentile, latency_s in view.max_latency:
        seen = state.latency_at(endpoint.key, percentile, now_s)
        if seen is not None and seen > latency_s:
            return True
    for percentile, rate in view.min_throughput:
        seen = state.throughput_at(endpoint.key, percentile, now_s)
        if seen is not None and seen < rate:
            return True
    return False


def _draw(weight: int, state: RoutingState) -> float:
    """A random key; the smallest of several is each one's in proportion to its weight (Efraimidis and Spirakis)."""
    return -(state.rng.random() ** (1.0 / weight)) if weight > 0 else 0.0
