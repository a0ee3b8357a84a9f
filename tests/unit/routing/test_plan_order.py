"""In which order candidates stand, and which stand aside now."""

import gc
from collections import Counter

import pytest

from routerx.domain.failure import FailureKind
from routerx.domain.policy import Fence, Policy, Sort
from routerx.domain.pricing import PriceCard
from routerx.domain.tenant import OnUnpriced
from routerx.errors import ModelNotFound, NoHealthyUpstream, UpstreamsLimited
from routerx.routing import plan_cache
from routerx.routing.plan import no_healthy
from routerx.routing.state import EXPLORE_S
from tests.unit.routing.routing_world import (
    CHEAP,
    DEAR,
    FREE,
    World,
    chat,
    endpoint,
    model,
    provider,
    snapshot,
    tenant,
)

BY_PRICE = Policy("default", sort=Sort.PRICE)
TWO = [model("m", endpoint("a/x"), endpoint("b/x"))]
THREE = [model("m", endpoint("a/x"), endpoint("b/x"), endpoint("c/x"))]


def measured(world: World, **seconds: float) -> World:
    for name, total_s in seconds.items():
        world.answer(f"{name}/x", ttft_s=total_s / 2, total_s=total_s)
    return world


def test_a_fresh_start_takes_endpoints_as_declared() -> None:
    assert World(snapshot(THREE)).order() == ["a/x", "b/x", "c/x"]


def test_the_fastest_goes_first() -> None:
    assert measured(World(snapshot(THREE)), a=3.0, b=1.0, c=2.0).order() == ["b/x", "c/x", "a/x"]


def test_streams_are_ordered_by_their_first_token() -> None:
    world = World(snapshot(TWO))
    world.answer("a/x", ttft_s=0.1, total_s=9.0)
    world.answer("b/x", ttft_s=0.9, total_s=1.0)
    assert world.order(chat(stream=True))[0] == "a/x"
    assert world.order(chat())[0] == "b/x"


def test_priority_goes_before_latency() -> None:
    config = snapshot([model("m", endpoint("a/x", priority=1), endpoint("b/x"), endpoint("c/x", priority=1))])
    assert measured(World(config), a=1.0, b=9.0, c=0.1).order() == ["b/x", "c/x", "a/x"]


def test_an_unknown_endpoint_is_tried_first_once_per_interval_and_else_stands_in_the_middle() -> None:
    world = measured(World(snapshot(THREE)), a=1.0, b=2.0)
    assert world.order() == ["c/x", "a/x", "b/x"]
    assert world.order() == ["a/x", "c/x", "b/x"]
    world.now_s += EXPLORE_S
    assert world.order()[0] == "c/x"


def test_an_endpoint_that_never_answers_does_not_stay_in_front_of_the_only_known_one() -> None:
    world = measured(World(snapshot(TWO)), b=1.0)
    assert world.order() == ["a/x", "b/x"]
    assert [world.order()[0] for _ in range(5)] == ["b/x"] * 5


def test_equals_are_drawn_by_weight() -> None:
    config = snapshot([model("m", endpoint("a/x", weight=3), endpoint("b/x", weight=1))])
    world = measured(World(config), a=1.0, b=1.0)
    first = Counter(world.order()[0] for _ in range(1_000))
    assert 690 <= first["a/x"] <= 810


def test_the_cheapest_goes_first_and_the_unpriced_last() -> None:
    per_request = PriceCard(input_pico=0, output_pico=0, request_nano=10**9)
    config = snapshot(
        [
            model(
                "m",
                endpoint("a/x", price=None),
                endpoint("b/x", price=per_request),
                endpoint("c/x", price=DEAR),
                endpoint("d/x", price=CHEAP),
                endpoint("e/x", price=FREE),
            )
        ],
        policy=BY_PRICE,
    )
    order = World(config, tenant(on_unpriced=OnUnpriced.ALLOW_FLAGGED)).order()
    assert order == ["e/x", "d/x", "c/x", "b/x", "a/x"]


def test_input_weighs_three_times_as_much_as_output() -> None:
    config = snapshot(
        [model("m", endpoint("a/x", price=PriceCard(1, 10)), endpoint("b/x", price=PriceCard(4, 2)))], policy=BY_PRICE
    )
    assert World(config).order() == ["a/x", "b/x"]


def test_equal_prices_are_ordered_by_latency() -> None:
    assert measured(World(snapshot(TWO, policy=BY_PRICE)), a=2.0, b=1.0).order() == ["b/x", "a/x"]


def test_fallback_models_come_after_the_asked_one_in_the_policys_order() -> None:
    config = snapshot(
        [model("m", endpoint("a/x")), model("n", endpoint("b/n", "n")), model("o", endpoint("c/o", "o"))],
        policy=Policy("default", on_failure=("o", "m", "n", "gone")),
    )
    world = World(config)
    world.answer("c/o", total_s=0.01)
    plan = world.plan()
    assert [(each.endpoint.key, each.is_fallback_model) for each in plan.candidates] == [
        ("a/x", False),
        ("c/o", True),
        ("b/n", True),
    ]


def test_a_tenants_patterns_hold_for_fallback_models_too() -> None:
    config = snapshot(
        [model("m", endpoint("a/x")), model("n", endpoint("b/n", "n"))],
        policy=Policy("default", on_failure=("n",)),
    )
    plan = World(config, tenant(allow=("m",))).plan()
    assert [each.endpoint.key for each in plan.candidates] == ["a/x"]
    assert [(each.endpoint, each.rule) for each in plan.excluded] == [("b/n", "not_allowed")]
    with pytest.raises(ModelNotFound):
        World(config, tenant(allow=("m",))).plan(chat("n"))


def fenced(fence: Fence, first: PriceCard | None = CHEAP) -> World:
    config = snapshot(
        [
            model("m", endpoint("a/x", price=first), endpoint("b/x", price=DEAR)),
            model("n", endpoint("c/n", "n", price=PriceCard(2_000, 4_000)), endpoint("d/n", "n", price=FREE)),
        ],
        policy=Policy("default", on_failure=("n",), fence=fence),
    )
    return World(config, tenant(on_unpriced=OnUnpriced.ALLOW_FLAGGED))


def test_the_fence_keeps_out_what_costs_more_than_its_ratio() -> None:
    assert fenced(Fence(max_cost_ratio=2.0)).order() == ["a/x", "c/n", "d/n"]
    assert fenced(Fence(max_cost_ratio=1.9)).order() == ["a/x", "d/n"]
    assert fenced(Fence(max_cost_ratio=2.0), first=None).order() == ["a/x", "d/n"]


def test_never_paid_falls_back_to_what_is_free_only() -> None:
    assert fenced(Fence(never_paid=True)).order() == ["a/x", "d/n"]
    assert fenced(Fence(never_paid=True), first=FREE).order() == ["a/x", "d/n"]


def test_the_fence_holds_when_the_first_endpoint_is_down() -> None:
    world = fenced(Fence(never_paid=True), first=FREE)
    world.fail("a/x", FailureKind.SERVER_ERROR, times=5)
    assert world.order() == ["d/n"]
    world.fail("d/n", FailureKind.SERVER_ERROR, times=5)
    with pytest.raises(NoHealthyUpstream):
        world.plan()


def test_an_open_circuit_and_a_resting_credential_stand_aside_and_say_why() -> None:
    world = World(snapshot(THREE, [provider("c", rpm=1)]))
    world.fail("a/x", FailureKind.SERVER_ERROR, times=5)
    world.fail("b/x", FailureKind.AUTH_FAILED)
    assert world.order() == ["c/x"]
    world.pick("c/x")
    with pytest.raises(NoHealthyUpstream) as caught:
        world.plan()
    assert caught.value.retry_after_s == 30.0
    world.now_s += 30.0
    plan = world.plan()
    assert [each.endpoint.key for each in plan.candidates] == ["a/x"]
    assert {each.endpoint: each.rule for each in plan.excluded} == {
        "b/x": "credential_quarantined",
        "c/x": "credential_rpm",
    }
    world.pick("a/x")
    assert no_healthy(plan, world.config, world.state, world.now_s).retry_after_s == 30.0


def test_a_cooling_credential_gives_the_time_of_its_return() -> None:
    world = World(snapshot([model("m", endpoint("a/x"))]))
    world.fail("a/x", FailureKind.RATE_LIMITED, retry_after_s=12.0)
    world.now_s += 2.0
    with pytest.raises(UpstreamsLimited) as caught:
        world.plan()
    assert caught.value.retry_after_s == pytest.approx(10.0)


def test_a_provider_without_credentials_has_no_time_of_return() -> None:
    world = World(snapshot([model("m", endpoint("a/x"))], [provider("a", keys=0)]))
    with pytest.raises(NoHealthyUpstream, match="no provider") as caught:
        world.plan()
    assert caught.value.retry_after_s is None


def test_a_window_is_too_small_only_when_half_the_estimate_passes_it() -> None:
    config = snapshot([model("m", endpoint("a/x", context_tokens=1_000), endpoint("b/x", context_tokens=9_000))])
    assert World(config).order(chat(input_tokens_estimate=2_000)) == ["a/x", "b/x"]
    plan = World(config).plan(chat(input_tokens_estimate=2_001))
    assert [each.endpoint.key for each in plan.candidates] == ["b/x"]
    assert [(each.endpoint, each.rule) for each in plan.excluded] == [("a/x", "context_too_small")]


def test_where_nothing_fits_the_upstream_may_say_so_itself() -> None:
    config = snapshot([model("m", endpoint("a/x", context_tokens=1_000, output_tokens_max=100))])
    assert World(config).order(chat(input_tokens_estimate=10**9, output_tokens_max=10**9)) == ["a/x"]


def test_an_output_maximum_excludes_only_where_another_candidate_fits() -> None:
    config = snapshot([model("m", endpoint("a/x", output_tokens_max=100), endpoint("b/x"))])
    assert World(config).order(chat(output_tokens_max=101)) == ["b/x"]
    assert World(config).order(chat(output_tokens_max=100)) == ["a/x", "b/x"]


def test_a_new_snapshot_is_planned_anew() -> None:
    world = World(snapshot(TWO))
    assert world.order() == ["a/x", "b/x"]
    world.config = snapshot([model("m", endpoint("b/x"))], generation=2)
    assert world.order() == ["b/x"]


def test_tenants_do_not_share_what_is_cached() -> None:
    world = World(snapshot(TWO))
    world.plan()
    world.who = type(world.who)("other", world.who.plan, allow=("b/*",))
    assert world.order() == ["b/x"]


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_cache, "PLANS_MAX", 8)
    world = World(snapshot([model("m", endpoint("a/x"))], [provider("mock", mock=True)]))
    for number in range(50):
        world.plan(chat(f"mock/typed-{number}"))
    assert len(world.state.plans) == 8
    assert world.order() == ["a/x"]


def test_a_refusal_leaves_nothing_to_the_garbage_collector() -> None:
    """In an outage there are thousands a second, and each collection would hold everybody up."""
    world = World(snapshot([model("m", endpoint("a/x"))]))
    world.fail("a/x", FailureKind.SERVER_ERROR, times=5)
    gc.collect()
    for _ in range(20):
        try:
            world.plan()
        except NoHealthyUpstream:
            continue
        raise AssertionError("the circuit is open")
    assert gc.collect() == 0
