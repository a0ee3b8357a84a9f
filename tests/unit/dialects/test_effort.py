"""How much to think, in words and in tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerx.dialects.effort import EFFORTS, budget_of, effort_of


def test_no_effort_is_no_budget_and_the_other_way_round() -> None:
    assert budget_of("none", 64_000) == 0
    assert effort_of(0) == "none"


@given(st.none() | st.integers(1, 1_000_000))
def test_more_effort_is_never_fewer_tokens(limit: int | None) -> None:
    budgets = [budget_of(effort, limit) for effort in EFFORTS]
    assert budgets == sorted(budgets)
    assert all(1_024 <= budget <= 32_000 for budget in budgets[1:])


@pytest.mark.parametrize(
    ("effort", "budget"), [("minimal", 1_600), ("low", 3_200), ("medium", 8_000), ("high", 12_800), ("max", 15_200)]
)
def test_an_effort_is_a_share_of_what_may_be_written(effort: str, budget: int) -> None:
    assert budget_of(effort, 16_000) == budget


def test_a_budget_is_never_below_the_least_that_is_taken_anywhere() -> None:
    assert budget_of("minimal", 2_000) == 1_024


@given(st.integers(0, 200_000), st.integers(0, 200_000))
def test_more_tokens_are_never_less_effort(one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert EFFORTS.index(effort_of(low)) <= EFFORTS.index(effort_of(high))


@pytest.mark.parametrize("effort", ["low", "medium", "high"])
def test_the_common_words_survive_the_way_to_tokens_and_back(effort: str) -> None:
    assert effort_of(budget_of(effort, 20_000)) == effort
