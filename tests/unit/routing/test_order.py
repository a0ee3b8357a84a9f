"""Orders of endpoints that are equal by priority."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerx.domain.call import Candidate
from routerx.domain.failure import Failure, FailureKind
from routerx.domain.model import EVERYTHING, Endpoint
from routerx.domain.policy import Policy, Sort
from routerx.domain.pricing import PriceCard
from routerx.providers.spec import Auth, Credential, Provider
from routerx.routing.order import OrderView, arrange
from routerx.routing.shortlist import Option
from routerx.routing.state import Measured, RoutingState

LAB = Provider("lab", "openai", "http://lab/v1", Auth.BEARER, (Credential("lab-1", None),))
NOW_S = 1_000.0


def option(name: str, price: int | None = 1, weight: int = 1) -> Option:
    card = None if price is None else PriceCard(input_pico=price, output_pico=price)
    endpoint = Endpoint(f"lab/{name}", "lab", "m", name, card, EVERYTHING, weight=weight)
    return Option(Candidate(endpoint), LAB)


def names(options: list[Option]) -> list[str]:
    return [one.endpoint.upstream_model for one in options]


def learnt(**measured: Measured) -> RoutingState:
    state = RoutingState(random.Random(1))
    for name, one in measured.items():
        state.succeeded(f"lab/{name}", "lab-1", one, NOW_S)
    return state


def order(options: list[Option], state: RoutingState, sort: Sort, **view: object) -> list[str]:
    defaults: dict[str, object] = {"model": "m", "stream": True, "explores": False}
    return names(arrange(options, OrderView(sort=sort, **(defaults | view)), state, NOW_S))  # type: ignore[arg-type]


FAST, SLOW = Measured(0.1, 1.0, 10), Measured(1.0, 2.0, 100)


def test_latency_puts_the_fastest_first() -> None:
    assert order([option("slow"), option("fast")], learnt(slow=SLOW, fast=FAST), Sort.LATENCY) == ["fast", "slow"]


def test_throughput_puts_the_one_that_flows_fastest_first() -> None:
    """100 tokens in 1 s after the first, beside 10 in 0.9 s."""
    assert order([option("fast"), option("slow")], learnt(slow=SLOW, fast=FAST), Sort.THROUGHPUT) == ["slow", "fast"]


def test_price_puts_the_cheapest_first_and_the_unpriced_last() -> None:
    options = [option("none", None), option("dear", 9), option("cheap", 1)]
    assert order(options, learnt(), Sort.PRICE) == ["cheap", "dear", "none"]


def test_priority_leaves_the_order_as_declared() -> None:
    options = [option("b"), option("a")]
    assert order(options, learnt(a=FAST, b=SLOW), Sort.PRIORITY) == ["b", "a"]


def test_round_robin_gives_everybody_a_turn() -> None:
    state = learnt()
    options = [option("a"), option("b"), option("c")]
    turns = [order(options, state, Sort.ROUND_ROBIN, explores=True)[0] for _ in range(6)]
    assert turns == ["a", "b", "c", "a", "b", "c"]


def test_a_plan_that_is_only_looked_at_takes_no_turn() -> None:
    state = learnt()
    options = [option("a"), option("b")]
    assert {order(options, state, Sort.ROUND_ROBIN)[0] for _ in range(3)} == {"a"}


def test_weighted_draws_by_weight() -> None:
    state = learnt()
    firsts = Counter(order([option("a", weight=3), option("b")], state, Sort.WEIGHTED)[0] for _ in range(2_000))
    assert firsts["a"] / 2_000 == pytest.approx(0.75, abs=0.04)


def test_scores_weigh_price_against_latency() -> None:
    """Ten times the price for a tenth of the latency."""
    options = [option("cheap", 1), option("quick", 10)]
    state = learnt(cheap=Measured(1.0, 2.0), quick=Measured(0.1, 2.0))
    assert order(options, state, Sort.COST_OPTIMIZED)[0] == "cheap"
    assert order(options, state, Sort.PERFORMANCE_FIRST)[0] == "quick"
    assert order(options, state, Sort.BALANCED)[0] == "quick"


@pytest.mark.parametrize("sort", [Sort.LATENCY, Sort.THROUGHPUT, Sort.BALANCED])
def test_an_endpoint_that_fails_now_and_then_comes_after_its_equals(sort: Sort) -> None:
    state = learnt(shaky=FAST, sound=FAST)
    for _ in range(3):
        state.failed("lab/shaky", "lab-1", Failure(FailureKind.SERVER_ERROR, "x"), Policy("p"), NOW_S)
    assert order([option("shaky"), option("sound")], state, sort) == ["sound", "shaky"]


@pytest.mark.parametrize("sort", [Sort.LATENCY, Sort.THROUGHPUT])
def test_only_what_is_within_a_tenth_is_equal(sort: Sort) -> None:
    """On both sides of a second, and of a token a second."""
    for better, worse in [(0.92, 1.08), (0.3, 0.36), (3.0, 3.5)]:
        if sort is Sort.THROUGHPUT:
            better, worse = 1 / better, 1 / worse
            state = learnt(a=Measured(None, 100.0, round(100 * better)), b=Measured(None, 100.0, round(100 * worse)))
        else:
            state = learnt(a=Measured(better, 9.0), b=Measured(worse, 9.0))
        assert {order([option("a"), option("b")], state, sort)[0] for _ in range(12)} == {"a"}


def test_an_outage_is_forgotten_with_time() -> None:
    state = learnt(shaky=FAST)
    state.failed("lab/shaky", "lab-1", Failure(FailureKind.SERVER_ERROR, "x"), Policy("p"), NOW_S)
    assert state.uptime("lab/shaky", NOW_S) < 1.0
    assert state.uptime("lab/shaky", NOW_S + 10_000) == 1.0


@pytest.mark.parametrize("sort", [Sort.LATENCY, Sort.THROUGHPUT, Sort.BALANCED, Sort.PERFORMANCE_FIRST])
def test_an_unknown_endpoint_is_first_once_in_an_interval(sort: Sort) -> None:
    state = learnt(known=FAST)
    options = [option("known"), option("new")]
    assert order(options, state, sort, explores=True)[0] == "new"
    assert order(options, state, sort, explores=True)[0] == "known"


def test_preferences_only_move_behind_who_misses_them() -> None:
    options = [option("quick"), option("steady")]
    state = learnt(steady=Measured(0.2, 1.0, 100))
    for ttft_s in [0.1] * 8 + [5.0] * 2:
        state.succeeded("lab/quick", "lab-1", Measured(ttft_s, ttft_s + 1.0, 10), NOW_S)
    assert order(options, state, Sort.PRIORITY, max_latency=((50, 1.0),)) == ["quick", "steady"]
    assert order(options, state, Sort.PRIORITY, max_latency=((90, 1.0),)) == ["steady", "quick"]
    assert order(options, state, Sort.PRIORITY, min_throughput=((50, 50.0),)) == ["steady", "quick"]


@given(
    st.sampled_from(Sort),
    st.lists(st.tuples(st.one_of(st.none(), st.integers(0, 10**6)), st.integers(1, 5)), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 5), st.floats(0.0, 50.0), st.integers(0, 500)), max_size=10),
    st.booleans(),
)
@settings(max_examples=80)
def test_an_order_is_a_permutation(
    sort: Sort, ends: list[tuple[int | None, int]], calls: list[tuple[int, float, int]], explores: bool
) -> None:
    options = [option(str(n), price, weight) for n, (price, weight) in enumerate(ends)]
    state = RoutingState(random.Random(3))
    for n, took_s, tokens in calls:
        state.succeeded(f"lab/{n}", "lab-1", Measured(took_s / 2, took_s, tokens), NOW_S)
    assert sorted(order(options, state, sort, explores=explores)) == sorted(names(options))
