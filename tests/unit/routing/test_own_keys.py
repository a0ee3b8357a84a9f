"""Plans for tenants that have provider keys of their own."""

import msgspec
import pytest

from routerx.domain.call import Plan
from routerx.domain.failure import Failure, FailureKind
from routerx.domain.policy import Policy, Sort
from routerx.domain.record import BillingMode
from routerx.domain.tenant import OnUnpriced
from routerx.domain.wishes import MaxPrice, Wishes
from routerx.errors import NoEndpoint, NoHealthyUpstream, PermissionDenied
from routerx.providers.spec import Auth
from routerx.routing.decide import following
from routerx.secrets import Secret
from tests.unit.routing.routing_world import CHEAP, DEAR, World, chat, endpoint, model, provider, snapshot, tenant

CONFIG = snapshot(
    [model("m", endpoint("a/x", price=CHEAP, priority=0), endpoint("b/x", price=DEAR, priority=1))],
    [provider("a", mock=True)],
)
KEY = Secret("sk-own-1")
Stored = dict[str, Secret | None]


def world(*, byok_fallback: bool = False) -> World:
    who = msgspec.structs.replace(tenant(byok_fee_bp=500), byok_fallback=byok_fallback)
    return World(CONFIG, who)


def shown(plan: Plan) -> list[tuple[str, bool, BillingMode]]:
    return [(each.endpoint.key, each.own_key, each.billing) for each in plan.candidates]


def test_a_stored_key_goes_before_the_houses_and_is_not_silently_replaced_by_them() -> None:
    plan = world().plan(stored={"b": KEY})
    assert shown(plan) == [("b/x", True, BillingMode.BYOK)]
    assert [(each.endpoint, each.rule) for each in plan.excluded] == [("a/x", "house_key")]


def test_who_opts_in_falls_back_to_the_houses_keys_last_of_all() -> None:
    plan = world(byok_fallback=True).plan(stored={"b": KEY})
    assert shown(plan) == [
        ("b/x", True, BillingMode.BYOK),
        ("a/x", False, BillingMode.PAID),
        ("b/x", False, BillingMode.PAID),
    ]


def test_a_model_of_other_providers_is_the_houses_affair() -> None:
    assert shown(world().plan(stored={"c": KEY})) == [
        ("a/x", False, BillingMode.PAID),
        ("b/x", False, BillingMode.PAID),
    ]


def test_a_key_sent_with_the_request_goes_before_the_stored_ones() -> None:
    plan = world().plan(stored={"b": KEY}, own_key=True)
    assert shown(plan) == [("a/x", True, BillingMode.BYOK)]


@pytest.mark.parametrize("lost", [{"b": None}, {"a": None, "b": None}, {"a": None}])
def test_a_key_that_cannot_be_read_is_not_replaced_by_the_houses_anywhere(lost: Stored) -> None:
    with pytest.raises(NoHealthyUpstream, match="cannot be read"):
        world().plan(stored=lost)


def test_another_own_key_may_stand_in_for_one_that_cannot_be_read() -> None:
    assert shown(world().plan(stored={"a": None, "b": KEY})) == [("b/x", True, BillingMode.BYOK)]


def test_who_asks_for_another_provider_by_name_does_not_need_the_lost_key() -> None:
    assert shown(world().plan(wishes=Wishes(only=("a",)), stored={"b": None})) == [("a/x", False, BillingMode.PAID)]


def test_who_opts_in_is_served_by_the_house_where_its_key_cannot_be_read() -> None:
    plan = world(byok_fallback=True).plan(stored={"a": None, "b": None})
    assert [each.own_key for each in plan.candidates] == [False, False]


def test_the_terms_are_those_of_whose_key_is_used() -> None:
    own, *others = world(byok_fallback=True).plan(stored={"b": KEY}).candidates
    assert own.terms is not None
    assert own.terms.markup_bp == -9_500
    assert all(each.terms is not None and each.terms.markup_bp == 0 for each in others)


def test_plans_of_one_tenant_follow_its_keys() -> None:
    here = world()
    assert here.plan(stored={"b": KEY}).candidates[0].own_key
    assert not here.plan().candidates[0].own_key
    assert here.plan(stored={"a": KEY}).candidates[0].endpoint.key == "a/x"


def test_a_refused_own_key_is_not_asked_with_again() -> None:
    plan = world(byok_fallback=True).plan(stored={"b": KEY})
    refused = Failure(FailureKind.BYOK_REJECTED, "")
    assert following(plan, 0, refused) == 1
    only = msgspec.structs.replace(plan, candidates=plan.candidates[:1] * 2)
    assert following(only, 0, refused) is None


# --- several models


CHAIN = snapshot(
    [
        model("m", endpoint("a/x", price=CHEAP)),
        model("other", endpoint("b/y", "other", price=CHEAP), endpoint("a/y", "other", price=CHEAP)),
    ],
    policy=Policy("default", on_failure=("other",)),
)


def test_an_own_key_for_a_fallback_model_does_not_push_the_asked_model_back() -> None:
    """The asked model is the house's affair; from the model on that the tenant has a key for, its own are."""
    plan = World(CHAIN).plan(stored={"b": KEY})
    assert shown(plan) == [("a/x", False, BillingMode.PAID), ("b/y", True, BillingMode.BYOK)]
    assert [(each.endpoint, each.rule) for each in plan.excluded] == [("a/y", "house_key")]


def test_a_fallback_model_of_the_house_does_not_serve_who_has_a_key_for_the_asked_one() -> None:
    asked = chat("other")
    here = World(msgspec.structs.replace(CHAIN, policies={"default": Policy("default", on_failure=("m",))}))
    assert shown(here.plan(asked, stored={"b": KEY})) == [("b/y", True, BillingMode.BYOK)]


def test_who_opts_in_stays_with_the_asked_model_before_another_one_is_asked() -> None:
    who = msgspec.structs.replace(tenant(), byok_fallback=True)
    plan = World(CHAIN, who).plan(stored={"b": KEY, "a": KEY})
    assert [(each.endpoint.key, each.own_key) for each in plan.candidates] == [
        ("a/x", True),
        ("a/x", False),
        ("b/y", True),
        ("a/y", True),
        ("b/y", False),
        ("a/y", False),
    ]


# --- what holds for the house's keys holds when they are fallen back to


def test_a_model_without_a_price_is_not_served_for_nothing_by_falling_back() -> None:
    who = msgspec.structs.replace(tenant(on_unpriced=OnUnpriced.DENY), byok_fallback=True)
    plan = World(snapshot([model("m", endpoint("a/x", price=None))]), who).plan(stored={"a": KEY})
    assert shown(plan) == [("a/x", True, BillingMode.BYOK)]


def test_a_callers_ceiling_counts_the_markup_of_falling_back() -> None:
    who = msgspec.structs.replace(tenant(markup_bp=5_000), byok_fallback=True)
    here = World(snapshot([model("m", endpoint("a/x", price=CHEAP))]), who)
    at_list_price = Wishes(max_price=MaxPrice(input_pico=CHEAP.input_pico))
    assert shown(here.plan(wishes=at_list_price, stored={"a": KEY})) == [("a/x", True, BillingMode.BYOK)]


def test_a_key_for_a_provider_that_takes_none_any_more_makes_nothing_cheaper() -> None:
    open_one = msgspec.structs.replace(provider("a"), auth=Auth.NONE)
    here = World(snapshot([model("m", endpoint("a/x"))], [open_one]), tenant(byok_fee_bp=500))
    for stored in (KEY, None):
        assert shown(here.plan(stored={"a": stored})) == [("a/x", False, BillingMode.PAID)]


# --- providers with own keys only


def test_a_provider_with_own_keys_only_is_for_who_brings_one() -> None:
    here = byok_only()
    assert shown(here.plan(stored={"a": KEY})) == [("a/x", True, BillingMode.BYOK)]
    assert shown(here.plan(own_key=True)) == [("a/x", True, BillingMode.BYOK)]
    plan = here.plan()
    assert shown(plan) == [("b/x", False, BillingMode.PAID)]
    assert [(each.endpoint, each.rule) for each in plan.excluded] == [("a/x", "no_house_key")]


@pytest.mark.parametrize("opted_in", [False, True])
def test_where_no_other_provider_serves_it_the_caller_is_told_to_bring_a_key(opted_in: bool) -> None:
    here = byok_only(byok_fallback=opted_in)
    with pytest.raises(PermissionDenied, match="X-RouterX-API-Key"):
        here.plan(chat("a/x"))
    with pytest.raises(PermissionDenied, match="X-RouterX-API-Key"):
        here.plan(chat("a/undeclared"))
    with pytest.raises(NoHealthyUpstream, match="cannot be read"):
        here.plan(chat("a/x"), stored={"a": None})


def test_a_missing_key_is_told_where_nothing_else_is_in_the_way() -> None:
    here, only_a = byok_only(), Wishes(only=("a",))
    with pytest.raises(PermissionDenied, match="X-RouterX-API-Key"):
        here.plan(wishes=only_a)
    with pytest.raises(NoHealthyUpstream, match="cannot be read"):
        here.plan(wishes=only_a, stored={"a": None})
    with pytest.raises(NoEndpoint, match="'only' names other providers"):
        here.plan(wishes=Wishes(only=("c",)))
    assert [each.rule for each in here.plan(wishes=Wishes(ignore=("a",))).excluded] == ["ignored"]


def test_who_opts_in_falls_back_to_a_provider_that_the_house_has_a_key_for() -> None:
    plan = byok_only(byok_fallback=True).plan(stored={"a": KEY})
    assert shown(plan) == [("a/x", True, BillingMode.BYOK), ("b/x", False, BillingMode.PAID)]


def byok_only(*, byok_fallback: bool = False) -> World:
    """Provider `a` is, `b` is not."""
    only = msgspec.structs.replace(provider("a"), byok_only=True, credentials=())
    who = msgspec.structs.replace(tenant(), byok_fallback=byok_fallback)
    return World(snapshot([model("m", endpoint("a/x"), endpoint("b/x"))], [only]), who)


# --- what the house learns


def test_own_keys_take_no_turn_of_the_houses() -> None:
    config = msgspec.structs.replace(EQUALS, policies={"default": Policy("default", sort=Sort.ROUND_ROBIN)})
    here = World(config)
    house = [first(here.plan()), first(here.plan(stored=BOTH)), first(here.plan()), first(here.plan(stored=BOTH))]
    assert house == ["a/x", "a/x", "b/x", "b/x"]


def test_own_keys_explore_nothing_because_nothing_is_learnt_from_them() -> None:
    here = World(msgspec.structs.replace(EQUALS, policies={"default": Policy("default", sort=Sort.LATENCY)}))
    here.answer("a/x")
    assert [first(here.plan(stored=BOTH)) for _ in range(3)] == ["a/x"] * 3
    assert first(here.plan()) == "b/x"


def test_retries_of_own_keys_use_up_another_budget() -> None:
    state = World(EQUALS).state
    while state.budget("a/x", own_keys=True).spend(1_000.0):
        pass
    assert state.budget("a/x").spend(1_000.0)


EQUALS = snapshot([model("m", endpoint("a/x"), endpoint("b/x"))])
BOTH = {"a": KEY, "b": KEY}


def first(plan: Plan) -> str:
    return plan.candidates[0].endpoint.key
