"""Plans for tenants that have provider keys of their own."""

import msgspec
import pytest

from routerx.domain.call import Plan
from routerx.domain.failure import Failure, FailureKind
from routerx.domain.record import BillingMode
from routerx.errors import NoHealthyUpstream
from routerx.routing.decide import following
from routerx.secrets import Secret
from tests.unit.routing.routing_world import CHEAP, DEAR, World, endpoint, model, provider, snapshot, tenant

CONFIG = snapshot(
    [model("m", endpoint("a/x", price=CHEAP, priority=0), endpoint("b/x", price=DEAR, priority=1))],
    [provider("a", mock=True)],
)
KEY = Secret("sk-own-1")


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


def test_a_key_that_cannot_be_read_is_not_replaced_by_the_houses() -> None:
    here = world()
    assert shown(here.plan(stored={"b": None})) == [("a/x", False, BillingMode.PAID)]
    with pytest.raises(NoHealthyUpstream, match="cannot be read"):
        here.plan(stored={"a": None, "b": None})


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
