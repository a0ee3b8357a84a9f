"""What callers want decides who is a candidate, and in which order; what the operator forbids stays forbidden."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerx.domain.call import Operation, Peek
from routerx.domain.failure import FailureKind
from routerx.domain.model import Capability, Endpoint, Kind
from routerx.domain.policy import Fence, Policy, Sort, TimeoutOverrides, Timeouts
from routerx.domain.pricing import PriceCard
from routerx.domain.tenant import FreeSuffix, OnUnpriced
from routerx.domain.wishes import NO_WISHES, MaxPrice, Wishes
from routerx.errors import (
    InvalidParameter,
    ModelNotFound,
    NoEndpoint,
    NoHealthyUpstream,
    UpstreamsLimited,
)
from routerx.providers.spec import Auth, Credential, Provider, RequestLimit
from routerx.routing.plan import no_healthy
from routerx.routing.state import Measured
from routerx.secrets import Secret
from tests.unit.routing.routing_world import (
    CHEAP,
    DEAR,
    FREE,
    World,
    chat,
    endpoint,
    failure,
    model,
    provider,
    snapshot,
    tenant,
)

SIGHT = frozenset({Capability.VISION})
BLIND = frozenset({Capability.TOOLS})
MIDDLE = PriceCard(input_pico=5_000, output_pico=10_000)


def known(name: str, **fields: object) -> Provider:
    """A provider with a key of the house."""
    return msgspec.structs.replace(provider(name), credentials=(Credential(f"{name}-1", Secret("house")),), **fields)


def two_models(policy: Policy | None = None, **terms: object) -> World:
    """`m` at a, b and c, `n` at b and d; cheapest last."""
    models = [
        model("m", endpoint("a/x", price=DEAR), endpoint("b/x", price=MIDDLE), endpoint("c/x", price=CHEAP)),
        model("n", endpoint("b/n", "n", price=CHEAP), endpoint("d/n", "n", price=MIDDLE)),
    ]
    providers = [known("a"), known("b", preset="gemini"), known("c"), known("d")]
    return World(snapshot(models, providers, policy), tenant(**terms))


def excluded(world: World, wishes: Wishes, peek: Peek | None = None) -> dict[str, str]:
    return {each.endpoint: each.rule for each in world.plan(peek, wishes).excluded}


def refusal(world: World, wishes: Wishes = NO_WISHES, peek: Peek | None = None, *, own_key: bool = False) -> NoEndpoint:
    with pytest.raises(NoEndpoint) as caught:
        world.plan(peek, wishes, own_key=own_key)
    return caught.value


# --- order


def test_who_is_named_goes_first_in_the_callers_order_and_the_rest_follows() -> None:
    world = two_models()
    assert world.order(wishes=Wishes(order=("c", "b"))) == ["c/x", "b/x", "a/x"]
    assert world.plan(wishes=Wishes(order=("c",))).ordered
    assert not world.plan().ordered


def test_the_callers_order_goes_before_priority_and_latency() -> None:
    config = snapshot([model("m", endpoint("a/x"), endpoint("b/x", priority=1), endpoint("c/x", priority=2))])
    world = World(config)
    world.answer("a/x", total_s=0.1)
    assert world.order(wishes=Wishes(order=("c",))) == ["c/x", "a/x", "b/x"]


@pytest.mark.parametrize("slug", ["b", "gemini", "google", "google-gemini", "b/x", "gemini/x", "B/X"])
def test_a_provider_is_named_by_its_name_its_vendor_or_a_path(slug: str) -> None:
    assert two_models().order(wishes=Wishes(order=(slug,)))[0] == "b/x"
    assert two_models().order(wishes=Wishes(only=(slug,))) == ["b/x"]
    assert "b/x" not in two_models().order(wishes=Wishes(ignore=(slug,)))


def test_a_path_covers_what_lies_behind_it_and_nothing_beside_it() -> None:
    config = snapshot([model("m", endpoint("a/org/x"), endpoint("a/org/y"), endpoint("a/organ"), endpoint("ab/x"))])
    assert World(config).order(wishes=Wishes(only=("a/org",))) == ["a/org/x", "a/org/y"]
    assert World(config).order(wishes=Wishes(ignore=("a",))) == ["ab/x"]


def test_a_sort_of_the_callers_own_goes_before_the_policys_and_before_priority() -> None:
    config = snapshot([model("m", endpoint("a/x", price=DEAR), endpoint("b/x", price=CHEAP, priority=1))])
    world = World(config)
    assert world.order() == ["a/x", "b/x"]
    plan = world.plan(wishes=Wishes(sort=Sort.PRICE))
    assert [each.endpoint.key for each in plan.candidates] == ["b/x", "a/x"]
    assert plan.ordered


@pytest.mark.parametrize(
    ("suffix", "order"),
    [
        (":floor", ["b/x", "a/x"]),
        (":nitro", ["a/x", "b/x"]),
        (":nitro:floor", ["b/x", "a/x"]),
        (":free:nitro", ["a/x", "b/x"]),
        (":floor:free", ["b/x", "a/x"]),
    ],
)
def test_suffixes_sort_and_can_be_combined(suffix: str, order: list[str]) -> None:
    slow = endpoint("b/x", price=CHEAP, priority=1)
    config = snapshot([model("m", slow, endpoint("a/x", price=DEAR))], policy=Policy("default", sort=Sort.PRIORITY))
    world = World(config, tenant(free_suffix=FreeSuffix.ANY))
    for path, tokens in (("a/x", 500), ("b/x", 10)):
        measured = Measured(ttft_s=0.5, total_s=1.5, output_tokens=tokens)
        world.state.succeeded(path, f"{path[0]}-1", measured, world.now_s)
    plan = world.plan(chat(f"m{suffix}"))
    assert [each.endpoint.key for each in plan.candidates] == order
    assert (plan.free, plan.ordered) == ("free" in suffix, True)


def test_the_callers_own_word_goes_before_the_suffix() -> None:
    world = two_models()
    assert world.plan(chat("m:nitro"), Wishes(sort=Sort.PRICE)).candidates[0].endpoint.key == "c/x"


# --- who may answer


def test_only_and_ignore_leave_out_and_say_so() -> None:
    world = two_models()
    assert world.order(wishes=Wishes(only=("a", "c"))) == ["a/x", "c/x"]
    assert excluded(world, Wishes(only=("a", "c"))) == {"b/x": "not_in_only"}
    assert excluded(world, Wishes(ignore=("b",))) == {"b/x": "ignored"}


def test_without_fallbacks_there_is_one_candidate_that_can_be_called_now() -> None:
    world = two_models(Policy("default", on_failure=("n",)))
    alone = Wishes(allow_fallbacks=False)
    assert world.order(wishes=alone) == ["a/x"]
    assert set(excluded(world, alone).values()) == {"no_fallbacks"}
    world.fail("a/x", FailureKind.SERVER_ERROR, times=5)
    assert len(world.order(wishes=alone)) == 1
    assert excluded(world, alone)["a/x"] == "circuit_open"
    world.fail("b/x", FailureKind.SERVER_ERROR, times=5)
    world.fail("c/x", FailureKind.SERVER_ERROR, times=5)
    with pytest.raises(NoHealthyUpstream):
        world.plan(wishes=alone)
    assert world.order() == ["b/n", "d/n"]


def test_without_fallbacks_an_order_names_all_candidates() -> None:
    world = two_models(Policy("default", on_failure=("a/n",)))
    wishes = Wishes(order=("c", "a"), allow_fallbacks=False)
    assert world.order(wishes=wishes) == ["c/x", "a/x"]
    assert set(excluded(world, wishes).values()) == {"no_fallbacks"}


@pytest.mark.parametrize(
    ("most", "left"),
    [
        (MaxPrice(input_pico=5_000), ["b/x", "c/x"]),
        (MaxPrice(input_pico=4_999), ["c/x"]),
        (MaxPrice(output_pico=2_000), ["c/x"]),
        (MaxPrice(request_nano=0), ["a/x", "b/x", "c/x"]),
        (MaxPrice(image_pico=5_000), ["b/x", "c/x"]),
    ],
)
def test_a_ceiling_leaves_out_what_costs_more(most: MaxPrice, left: list[str]) -> None:
    assert two_models().order(wishes=Wishes(max_price=most)) == left


def test_a_ceiling_is_about_what_the_tenant_pays_and_unknown_prices_are_above_it() -> None:
    wishes = Wishes(max_price=MaxPrice(input_pico=5_000))
    assert two_models(markup_bp=1).order(wishes=wishes) == ["c/x"]
    assert two_models(free_suffix=FreeSuffix.ANY).order(chat("m:free"), wishes) == ["a/x", "b/x", "c/x"]
    config = snapshot([model("m", endpoint("a/x", price=None), endpoint("b/x"))])
    world = World(config, tenant(on_unpriced=OnUnpriced.ALLOW_FLAGGED))
    assert world.order(wishes=wishes) == ["b/x"]


@pytest.mark.parametrize(
    ("wishes", "rule"),
    [
        (Wishes(parameters=frozenset({"top_k"})), "takes_not_all_parameters"),
        (Wishes(keeps_no_data=True), "keeps_data"),
        (Wishes(zdr=True), "not_zdr"),
        (Wishes(distillable=True), "not_distillable"),
        (Wishes(quantizations=("fp8", "bf16")), "other_quantization"),
    ],
)
def test_facts_that_a_caller_insists_on(wishes: Wishes, rule: str) -> None:
    config = snapshot(
        [model("m", endpoint("a/x"), endpoint("b/x", quantization="FP8", distillable=True))],
        [
            msgspec.structs.replace(provider("a"), takes=frozenset()),
            msgspec.structs.replace(provider("b"), keeps_data=False, zdr=True),
        ],
    )
    assert World(config).order(wishes=wishes) == ["b/x"]
    assert excluded(World(config), wishes) == {"a/x": rule}


def test_an_unstated_quantization_may_be_asked_for_as_unknown() -> None:
    config = snapshot([model("m", endpoint("a/x"), endpoint("b/x", quantization="int4"))])
    assert World(config).order(wishes=Wishes(quantizations=("unknown",))) == ["a/x"]


def test_who_is_known_to_be_slow_comes_last_and_is_not_left_out() -> None:
    world = two_models(Policy("default", sort=Sort.PRIORITY))
    for _ in range(5):
        world.answer("a/x", ttft_s=9.0, total_s=10.0)
    assert world.order(wishes=Wishes(max_latency=((50, 2.0),))) == ["b/x", "c/x", "a/x"]


# --- models


def test_models_of_the_callers_own_stand_in_place_of_the_policys_and_any_failure_goes_on_to_them() -> None:
    world = two_models(Policy("default", on_failure=("n",), sort=Sort.PRIORITY))
    plan = world.plan(chat("n"), Wishes(models=("m",)))
    assert [(each.endpoint.key, each.is_fallback_model) for each in plan.candidates] == [
        ("b/n", False),
        ("d/n", False),
        ("a/x", True),
        ("b/x", True),
        ("c/x", True),
    ]
    assert plan.any_error
    assert not world.plan().any_error
    assert world.order(wishes=Wishes(models=("c/x",))) == ["a/x", "b/x", "c/x"]


def test_across_models_all_endpoints_are_sorted_as_one() -> None:
    world = two_models()
    by_price = Wishes(models=("n",), sort=Sort.PRICE)
    assert world.order(wishes=by_price) == ["c/x", "b/x", "a/x", "b/n", "d/n"]
    across = msgspec.structs.replace(by_price, across_models=True)
    order = world.order(wishes=across)
    assert set(order[:2]) == {"c/x", "b/n"}
    assert order[-1] == "a/x"


@pytest.mark.parametrize("name", ["gone", "n"])
def test_a_further_model_that_is_not_there_or_not_allowed_is_passed_over(name: str) -> None:
    plan = two_models(allow=("m",)).plan(wishes=Wishes(models=(name,)))
    assert {each.endpoint.model for each in plan.candidates} == {"m"}
    assert [(each.endpoint, each.rule) for each in plan.excluded] == [(name, "unknown_model")]


def test_free_counts_for_the_whole_request_or_not_at_all() -> None:
    world = two_models(free_suffix=FreeSuffix.ANY)
    with pytest.raises(InvalidParameter, match="first model"):
        world.plan(wishes=Wishes(models=("n:free",)))
    assert world.plan(chat("m:free"), Wishes(models=("n:free",))).free


# --- what stays forbidden


def test_the_fence_holds_for_whatever_a_caller_names() -> None:
    fence = Policy("default", fence=Fence(max_cost_ratio=1.0))
    config = snapshot(
        [model("m", endpoint("a/x"), endpoint("b/x", price=DEAR)), model("n", endpoint("c/n", "n", price=DEAR))],
        policy=fence,
    )
    world = World(config)
    assert world.order(wishes=Wishes(order=("b",), models=("n",))) == ["a/x"]


def test_an_endpoint_of_two_models_is_allowed_by_the_name_of_either() -> None:
    shared = endpoint("a/x")
    models = [model("m", endpoint("b/x"), shared), msgspec.structs.replace(model("alias", shared), name="alias")]
    config = snapshot(models, policy=Policy("default", on_failure=("alias",)))
    world = World(config, tenant(allow=("b/*", "alias")))
    assert world.order() == ["b/x", "a/x"]
    assert world.plan().excluded == ()


def test_a_tenants_patterns_hold_for_whatever_a_caller_names() -> None:
    world = two_models(allow=("c/*",))
    assert world.order(wishes=Wishes(order=("a", "b", "c"))) == ["c/x"]
    assert "a/x" not in refusal(world, Wishes(ignore=("c",))).message


# --- nothing left


@pytest.mark.parametrize(
    ("wishes", "rules", "word"),
    [
        (Wishes(only=("d",)), "not_in_only", "'only'"),
        (Wishes(ignore=("a", "b", "c")), "ignored", "'ignore'"),
        (Wishes(order=("d",), allow_fallbacks=False), "no_fallbacks", "'allow_fallbacks'"),
        (Wishes(max_price=MaxPrice(input_pico=1)), "over_max_price", "'max_price'"),
        (Wishes(zdr=True), "not_zdr", "'zdr'"),
        (Wishes(keeps_no_data=True), "keeps_data", "'data_collection'"),
        (Wishes(quantizations=("fp4",)), "other_quantization", "'quantizations'"),
        (Wishes(distillable=True), "not_distillable", "'enforce_distillable_text'"),
        (Wishes(parameters=frozenset({"zz"})), "takes_not_all_parameters", "'require_parameters'"),
        (Wishes(ignore=("a",), only=("a", "d")), "ignored,not_in_only", "'ignore'"),
    ],
)
def test_the_wish_that_leaves_nothing_is_named(wishes: Wishes, rules: str, word: str) -> None:
    error = refusal(two_models(), wishes)
    assert (error.status, error.code, error.details) == (404, "no_endpoint", {"excluded_by": rules})
    assert word in error.message
    assert "a/x" in error.message


def test_what_the_model_cannot_do_is_told_before_what_fallbacks_are_not_wanted() -> None:
    config = snapshot(
        [model("m", endpoint("a/x", capabilities=BLIND)), model("n", endpoint("b/n", "n"))],
        policy=Policy("default", on_failure=("n",)),
    )
    with pytest.raises(InvalidParameter, match="takes no images"):
        World(config).plan(chat(needs=SIGHT), Wishes(ignore=("b",)))


# --- policies by name


def smart(**fields: object) -> World:
    policy = Policy(
        "smart",
        sort=Sort.PRICE,
        by_capability=(("text", ("t", "u")), ("tools", ("u",)), ("vision", ("v", "w"))),
        **fields,
    )
    house = Policy("default", by_capability=(("vision", ("v",)),))
    config = snapshot(
        [
            model("t", endpoint("a/t", "t", capabilities=frozenset())),
            model("u", endpoint("a/u", "u", capabilities=BLIND)),
            model("v", endpoint("b/v", "v", price=DEAR), endpoint("c/v", "v", price=CHEAP)),
            model("w", endpoint("c/w", "w")),
            model("z", endpoint("d/z", "z")),
        ]
    )
    return World(msgspec.structs.replace(config, policies={"smart": policy, "default": house}))


@pytest.mark.parametrize(
    ("needs", "order"),
    [
        (set(), ["a/t", "a/u"]),
        ({Capability.TOOLS}, ["a/u"]),
        ({Capability.VISION}, ["c/v", "b/v", "c/w"]),
        ({Capability.TOOLS, Capability.VISION}, ["c/v", "b/v", "c/w"]),
    ],
)
def test_a_policy_by_name_chooses_by_the_strongest_need(needs: set[Capability], order: list[str]) -> None:
    plan = smart().plan(chat("smart", needs=frozenset(needs)))
    assert [each.endpoint.key for each in plan.candidates] == order
    assert (plan.model, plan.policy.name) == ("smart", "smart")
    assert not plan.candidates[0].is_fallback_model
    assert all(each.is_fallback_model for each in plan.candidates if each.endpoint.model in ("w",))


def test_a_policy_goes_on_to_its_on_failure_and_takes_suffixes_and_wishes() -> None:
    world = smart(on_failure=("z",))
    assert world.order(chat("smart")) == ["a/t", "a/u", "d/z"]
    assert world.order(chat("smart:floor"), Wishes(ignore=("a",))) == ["d/z"]
    assert world.order(chat("z"), Wishes(models=("smart",))) == ["d/z", "a/t", "a/u"]


def test_a_need_that_a_policy_does_not_list_falls_to_its_text() -> None:
    world = smart()
    with pytest.raises(InvalidParameter, match="takes no audio"):
        world.plan(chat("smart", needs=frozenset({Capability.AUDIO})))
    only_sight = Policy("sight", by_capability=(("vision", ("v",)),))
    world.config = msgspec.structs.replace(world.config, policies={"sight": only_sight})
    assert set(world.order(chat("sight"))) == {"b/v", "c/v"}


def test_a_model_of_the_same_name_wins_over_a_policy() -> None:
    world = smart()
    named = msgspec.structs.replace(world.config.models["z"], name="smart")
    world.config = msgspec.structs.replace(world.config, models={**world.config.models, "smart": named})
    assert world.order(chat("smart")) == ["d/z"]


def test_a_policy_without_models_for_capabilities_is_no_name() -> None:
    world = two_models(Policy("plain"))
    with pytest.raises(ModelNotFound):
        world.plan(chat("plain"))


def test_a_policy_is_asked_for_within_what_a_tenant_may_use() -> None:
    (candidate,) = World(smart().config, tenant(allow=("u",))).plan(chat("smart")).candidates
    assert (candidate.endpoint.key, candidate.is_fallback_model) == ("a/u", False)
    assert World(smart().config, tenant(allow=("smart",))).order(chat("smart")) == ["a/t", "a/u"]
    with pytest.raises(ModelNotFound, match="'smart' does not exist or is not available"):
        World(smart().config, tenant(allow=("x*",))).plan(chat("smart"))


def test_asking_for_a_policy_does_not_lower_the_fence_of_ones_own() -> None:
    policy = Policy("smart", by_capability=(("text", ("w", "v")),), fence=Fence(max_cost_ratio=20.0))
    for house, order in ((Fence(), ["c/w", "b/v", "c/v"]), (Fence(max_cost_ratio=1.0), ["c/w", "c/v"])):
        policies = {"smart": policy, "default": Policy("default", fence=house)}
        assert World(msgspec.structs.replace(smart().config, policies=policies)).order(chat("smart")) == order


def test_a_model_that_lacks_what_is_needed_is_helped_out_by_the_tenants_policy() -> None:
    plan = smart().plan(chat("t", needs=SIGHT))
    assert {each.endpoint.key for each in plan.candidates} == {"b/v", "c/v"}
    assert all(each.is_fallback_model for each in plan.candidates)
    assert {each.endpoint: each.rule for each in plan.excluded}["a/t"] == "lacks_vision"
    assert smart().order(chat("t")) == ["a/t"]
    with pytest.raises(InvalidParameter, match="takes no tools"):
        smart().plan(chat("t", needs=BLIND))


# --- a key of the caller's own


def test_an_own_key_goes_to_one_provider_only() -> None:
    world = two_models(Policy("default", on_failure=("n",)))
    plan = world.plan(own_key=True)
    assert [each.endpoint.key for each in plan.candidates] == ["a/x"]
    assert all(each.own_key for each in plan.candidates)
    assert {each.rule for each in plan.excluded} == {"other_provider"}
    assert world.order(own_key=True, wishes=Wishes(only=("b",))) == ["b/x", "b/n"]
    assert world.order(chat("c/x"), own_key=True) == ["c/x"]
    assert world.order(own_key=True, wishes=Wishes(order=("c",))) == ["c/x"]


def test_who_sees_an_own_key_does_not_hang_on_the_moment() -> None:
    world = two_models()
    for path, total_s in (("a/x", 9.0), ("b/x", 0.1), ("c/x", 0.2)):
        world.answer(path, total_s=total_s)
    assert world.order()[0] == "b/x"
    assert world.order(own_key=True) == ["a/x"]
    world.fail("a/x", FailureKind.AUTH_FAILED)
    world.fail("b/x", FailureKind.SERVER_ERROR, times=5)
    assert world.order(own_key=True) == ["a/x"]
    assert world.order(chat("b/x"), own_key=True) == ["b/x"]


def test_a_name_of_ones_own_goes_before_the_vendors_of_others() -> None:
    config = snapshot(
        [model("m", endpoint("eu/x"), endpoint("openai/x"))],
        [known("eu", preset="openai"), known("openai", preset="openai")],
    )
    assert World(config).order(wishes=Wishes(only=("openai",))) == ["eu/x", "openai/x"]
    assert World(config).order(wishes=Wishes(only=("openai",)), own_key=True) == ["openai/x"]


def test_an_own_key_does_not_wander_to_the_provider_of_another_model() -> None:
    config = snapshot(
        [model("m", endpoint("a/x", capabilities=BLIND)), model("n", endpoint("b/n", "n"))],
        [known("a"), known("b")],
        Policy("default", on_failure=("n",)),
    )
    for name in ("m", "a/x"):
        with pytest.raises(InvalidParameter, match="takes no images"):
            World(config).plan(chat(name, needs=SIGHT), own_key=True)


def test_where_no_key_is_asked_for_an_own_one_buys_nothing() -> None:
    keyless = msgspec.structs.replace(provider("a"), auth=Auth.NONE)
    config = snapshot([model("m", endpoint("a/x"), endpoint("b/x"), endpoint("c/x"))], [keyless, known("c")])
    assert World(config).order(own_key=True) == ["c/x"]
    error = refusal(World(config), Wishes(only=("a",)), own_key=True)
    assert error.details == {"excluded_by": "takes_no_own_key,not_in_only"}


def test_with_an_own_key_the_price_is_between_the_caller_and_its_provider() -> None:
    config = snapshot([model("m", endpoint("a/x", price=None))], [known("a")])
    assert World(config).order(own_key=True) == ["a/x"]


# --- limits


def test_where_only_limits_are_in_the_way_callers_are_told_when_to_come_back() -> None:
    limited = msgspec.structs.replace(provider("c"), limit=RequestLimit(1, 40.0))
    config = snapshot([model("m", endpoint("a/x"), endpoint("b/x"), endpoint("c/x"))], [provider("b", rpm=1), limited])
    world = World(config)
    world.fail("a/x", FailureKind.RATE_LIMITED, retry_after_s=20.0)
    world.answer("b/x")
    plan = world.plan()
    world.answer("c/x")
    with pytest.raises(UpstreamsLimited) as caught:
        world.plan()
    error = caught.value
    assert (error.status, error.code, error.retryable) == (429, "upstream_rate_limited", True)
    assert error.retry_after_s == pytest.approx(20.0)
    assert isinstance(no_healthy(plan, config, world.state, world.now_s), UpstreamsLimited)
    world.state.failed("a/x", "a-1", failure(FailureKind.AUTH_FAILED), Policy("default"), world.now_s)
    with pytest.raises(NoHealthyUpstream):
        world.plan()


# --- deadlines


def test_deadlines_are_the_policys_else_the_endpoints_else_the_providers() -> None:
    config = snapshot(
        [model("m", endpoint("a/x", timeouts=TimeoutOverrides(first_token_s=2.0, idle_s=3.0)))],
        [msgspec.structs.replace(provider("a"), timeouts=Timeouts(connect_s=1.0, idle_s=9.0, total_s=99.0))],
        Policy("default", timeouts=TimeoutOverrides(idle_s=4.0)),
    )
    (candidate,) = World(config).plan().candidates
    assert candidate.timeouts == Timeouts(connect_s=1.0, first_token_s=2.0, idle_s=4.0, total_s=99.0)


# --- the cache of static parts


def test_plans_without_wishes_share_one_static_part_and_wishes_have_their_own() -> None:
    world = two_models()
    world.plan()
    world.plan(wishes=NO_WISHES)
    assert len(world.state.plans) == 1
    world.plan(wishes=Wishes(sort=Sort.PRICE))
    world.plan(wishes=Wishes(sort=Sort.PRICE))
    world.plan(own_key=True)
    assert len(world.state.plans) == 3


# --- laws

SLUGS = st.lists(st.sampled_from(["a", "b", "c", "d", "gemini", "b/x", "zz"]), max_size=3).map(tuple)
WISHES = st.builds(
    Wishes,
    order=SLUGS,
    only=SLUGS,
    ignore=SLUGS,
    allow_fallbacks=st.booleans(),
    sort=st.none() | st.sampled_from(Sort),
    across_models=st.booleans(),
    models=st.lists(st.sampled_from(["m", "n", "b/x", "d/new"]), max_size=3).map(tuple),
    max_price=st.none() | st.builds(MaxPrice, input_pico=st.sampled_from([0, 1_000, 5_000])),
    max_latency=st.just(()) | st.just(((90, 0.5),)),
)


@given(wishes=WISHES, own_key=st.booleans(), allow=st.sampled_from([(), ("m",), ("b/*", "d/*")]))
def test_whatever_is_wanted_nobody_gets_what_is_forbidden(
    wishes: Wishes, own_key: bool, allow: tuple[str, ...]
) -> None:
    world = two_models(Policy("default", on_failure=("n",), fence=Fence(max_cost_ratio=1.0)), allow=allow)
    try:
        plan = world.plan(wishes=wishes, own_key=own_key)
    except (ModelNotFound, NoEndpoint):
        return
    keys = [each.endpoint.key for each in plan.candidates]
    assert len(keys) == len(set(keys))
    assert not set(keys) & {each.endpoint for each in plan.excluded}
    assert all(may_be_used(each.endpoint, allow) for each in plan.candidates)
    assert not own_key or len({each.endpoint.provider for each in plan.candidates}) == 1
    assert wishes.allow_fallbacks or wishes.order or len(keys) == 1
    assert not {key.split("/")[0] for key in keys} & set(wishes.ignore)


def may_be_used(found: Endpoint, allow: tuple[str, ...]) -> bool:
    return not allow or found.model in allow or found.key[:2] in [pattern[:2] for pattern in allow if "/" in pattern]


def test_embeddings_have_wishes_too() -> None:
    config = snapshot([model("e", endpoint("a/e", "e"), endpoint("b/e", "e"), kind=Kind.EMBEDDING)])
    assert World(config).order(Peek(Operation.EMBEDDINGS, "e"), Wishes(order=("b",))) == ["b/e", "a/e"]


def test_zero_priced_free_goes_with_wishes() -> None:
    world = World(snapshot([model("m", endpoint("a/x"), endpoint("b/x", price=FREE))]))
    assert world.order(chat("m:free"), Wishes(order=("a",))) == ["b/x"]
    assert refusal(world, Wishes(only=("a",)), chat("m:free")).details == {"excluded_by": "not_in_only"}
