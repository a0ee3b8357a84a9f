"""scripts/simulate in small: the real plans, circuits and verdicts in a world of ten endpoints."""

import pytest

from routerx.domain.policy import Sort
from tests.simulation.report import Line, simulate
from tests.simulation.world import build

REQUESTS = 8_000
RATE = 8.0
"""Requests a second: slow enough for a world of some minutes, in which circuits open, close and are explored."""
SEED = 11


@pytest.fixture(scope="module")
def lines() -> dict[Sort, Line]:
    sorts = (Sort.LATENCY, Sort.PRICE, Sort.BALANCED, Sort.ROUND_ROBIN)
    return {sort: simulate(build(SEED, REQUESTS, RATE), sort, SEED, REQUESTS) for sort in sorts}


def test_every_policy_keeps_its_promises(lines: dict[Sort, Line]) -> None:
    assert {sort: line.broken() for sort, line in lines.items()} == {sort: [] for sort in lines}


def test_latency_waits_about_as_long_as_at_the_best_endpoint_and_less_than_taking_turns(
    lines: dict[Sort, Line],
) -> None:
    """The best one of this world is never down but when all are, which nobody knows beforehand."""
    assert lines[Sort.LATENCY].regret < 0.25 * lines[Sort.LATENCY].best
    assert lines[Sort.LATENCY].mean < lines[Sort.ROUND_ROBIN].mean


def test_price_pays_about_what_the_cheapest_costs(lines: dict[Sort, Line]) -> None:
    assert lines[Sort.PRICE].mean < 1.2 * lines[Sort.PRICE].best
    assert lines[Sort.PRICE].mean < lines[Sort.ROUND_ROBIN].price


def test_taking_turns_gives_everybody_about_as_much(lines: dict[Sort, Line]) -> None:
    assert lines[Sort.ROUND_ROBIN].share_min > 0.05


def test_a_world_comes_from_its_seed_alone() -> None:
    assert simulate(build(5, 500), Sort.LATENCY, 5, 500) == simulate(build(5, 500), Sort.LATENCY, 5, 500)
