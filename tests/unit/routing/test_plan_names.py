"""What a model name means, and who may use it."""

import msgspec
import pytest

from routerx.domain.call import Operation, Peek
from routerx.domain.model import Capability, Kind
from routerx.domain.policy import Policy
from routerx.domain.tenant import FreeSuffix, OnUnpriced
from routerx.errors import FreeNotAllowed, InvalidParameter, ModelNotFound, PermissionDenied
from tests.unit.routing.routing_world import (
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

GPT = model("gpt-4o", endpoint("openai/gpt-4o", "gpt-4o"), endpoint("azure/gpt-4o", "gpt-4o", price=DEAR))
MINI = model("gpt-4o-mini", endpoint("openai/gpt-4o-mini", "gpt-4o-mini"))
SLASHED = model("meta-llama/Llama-3.3-70B", endpoint("lab/llama", "meta-llama/Llama-3.3-70B"))
COLON = model("qwen3:free", endpoint("lab/qwen3", "qwen3:free"))
EMBED = model("embed-1", endpoint("openai/embed-1", "embed-1"), kind=Kind.EMBEDDING)
CONFIG = snapshot([GPT, MINI, SLASHED, COLON, EMBED], [provider("mock", mock=True)], aliases={"house": "gpt-4o-mini"})


def world(**terms: object) -> World:
    return World(CONFIG, tenant(**terms))


def test_a_catalogue_name_gives_all_its_endpoints() -> None:
    plan = world().plan(chat("gpt-4o"))
    assert plan.model == "gpt-4o"
    assert {each.endpoint.provider for each in plan.candidates} == {"openai", "azure"}


def test_an_alias_is_the_model_it_stands_for() -> None:
    assert world().plan(chat("house")).model == "gpt-4o-mini"


def test_a_provider_path_gives_that_endpoint_only() -> None:
    plan = world().plan(chat("azure/gpt-4o"))
    assert [each.endpoint.key for each in plan.candidates] == ["azure/gpt-4o"]
    assert plan.model == "gpt-4o"


@pytest.mark.parametrize(("name", "key"), [("meta-llama/Llama-3.3-70B", "lab/llama"), ("qwen3:free", "lab/qwen3")])
def test_an_existing_name_wins_over_its_reading_as_path_or_suffix(name: str, key: str) -> None:
    plan = world().plan(chat(name))
    assert [each.endpoint.key for each in plan.candidates] == [key]
    assert not plan.free


def test_an_undeclared_model_of_a_configured_provider_is_tried_without_price_or_limits() -> None:
    plan = world(on_unpriced=OnUnpriced.ALLOW_FLAGGED).plan(
        chat("lab/org/new:8b", needs=frozenset({Capability.VISION}), input_tokens_estimate=10**7)
    )
    (candidate,) = plan.candidates
    assert candidate.endpoint.key == "lab/org/new:8b"
    assert candidate.endpoint.upstream_model == "org/new:8b"
    assert candidate.endpoint.price is None


def test_the_mock_provider_serves_any_name_for_nothing() -> None:
    (candidate,) = world().plan(chat("mock/anything")).candidates
    assert candidate.endpoint.price == FREE


@pytest.mark.parametrize("name", ["", "/", "openai/", "/gpt-4o", "nobody/gpt-4o", "lab/" + "x" * 300, ":free"])
def test_what_is_no_name_is_not_found(name: str) -> None:
    with pytest.raises(ModelNotFound):
        world(on_unpriced=OnUnpriced.ALLOW_FLAGGED).plan(chat(name))


def test_a_model_of_another_kind_is_not_found() -> None:
    with pytest.raises(ModelNotFound):
        world().plan(chat("embed-1"))
    with pytest.raises(ModelNotFound):
        world().plan(Peek(Operation.EMBEDDINGS, "gpt-4o"))
    assert world().plan(Peek(Operation.EMBEDDINGS, "embed-1")).model == "embed-1"


def test_a_path_of_which_nobody_said_the_kind_serves_chats_and_embeddings_at_its_price() -> None:
    custom = msgspec.structs.replace(
        model("lab/custom", endpoint("lab/custom", "lab/custom", price=DEAR)), any_kind=True
    )
    config = msgspec.structs.replace(CONFIG, endpoints={**CONFIG.endpoints, "lab/custom": custom})
    for operation in Operation:
        (candidate,) = World(config, tenant()).plan(Peek(operation, "lab/custom")).candidates
        assert candidate.endpoint.price == DEAR
        with pytest.raises(ModelNotFound, match="did you mean 'lab/custom'"):
            World(config, tenant()).plan(Peek(operation, "nobody/custom"))


def test_unknown_and_forbidden_are_told_in_the_same_words() -> None:
    told = []
    for name, allowed in (("gpt-4o", ("zz*",)), ("gpt-4o", ("yy*",)), ("gpt-5x", ("zz*",))):
        with pytest.raises(ModelNotFound) as caught:
            world(allow=allowed).plan(chat(name))
        told.append(caught.value.message.replace(name, "NAME"))
        assert (caught.value.status, caught.value.param) == (404, "model")
    assert len(set(told)) == 1


def test_only_a_name_that_the_tenant_may_use_is_suggested() -> None:
    with pytest.raises(ModelNotFound, match="did you mean 'gpt-4o'"):
        world().plan(chat("gpt-4p"))
    with pytest.raises(ModelNotFound, match="did you mean 'gpt-4o-mini'"):
        world(allow=("*mini",)).plan(chat("gpt-4o-mimi"))
    with pytest.raises(ModelNotFound) as caught:
        world(allow=("embed*",)).plan(chat("gpt-4o"))
    assert "did you mean" not in caught.value.message


def test_a_pattern_may_match_the_name_the_alias_or_the_path() -> None:
    assert world(allow=("gpt-*",)).plan(chat("openai/gpt-4o")).model == "gpt-4o"
    assert world(allow=("house",)).plan(chat("house")).model == "gpt-4o-mini"
    narrowed = world(allow=("openai/*",)).plan(chat("gpt-4o"))
    assert [each.endpoint.key for each in narrowed.candidates] == ["openai/gpt-4o"]
    with pytest.raises(ModelNotFound):
        world(allow=("GPT-*",)).plan(chat("gpt-4o"))
    with pytest.raises(ModelNotFound):
        world(allow=("gpt-*",), on_unpriced=OnUnpriced.ALLOW_FLAGGED).plan(chat("lab/gpt-9"))


def test_free_is_allowed_by_the_plans_terms() -> None:
    assert world(free_suffix=FreeSuffix.ANY).plan(chat("gpt-4o:free")).free
    with pytest.raises(FreeNotAllowed):
        world(free_suffix=FreeSuffix.OFF).plan(chat("mock/x:free"))
    with pytest.raises(FreeNotAllowed):
        world(free_suffix=FreeSuffix.ZERO_PRICED).plan(chat("gpt-4o:free"))
    assert world(free_suffix=FreeSuffix.ZERO_PRICED).plan(chat("mock/x:free")).free


def test_zero_priced_free_uses_only_endpoints_that_cost_nothing() -> None:
    config = snapshot([model("m", endpoint("a/x"), endpoint("b/x", price=FREE))])
    assert World(config).order(chat("m:free")) == ["b/x"]


def test_free_on_a_forbidden_model_reveals_nothing() -> None:
    with pytest.raises(ModelNotFound):
        world(allow=("embed*",), free_suffix=FreeSuffix.OFF).plan(chat("gpt-4o:free"))


def test_floor_sorts_by_price_and_combines_with_free() -> None:
    sut = world(free_suffix=FreeSuffix.ANY)
    for _ in range(5):
        sut.answer("openai/gpt-4o", total_s=9.0)
        sut.answer("azure/gpt-4o", total_s=0.1)
    assert sut.order(chat("gpt-4o"))[0] == "azure/gpt-4o"
    assert sut.order(chat("gpt-4o:floor")) == ["openai/gpt-4o", "azure/gpt-4o"]
    both = sut.plan(chat("gpt-4o:floor:free"))
    assert both.free
    assert both.candidates[0].endpoint.key == "openai/gpt-4o"


def test_an_unpriced_model_is_denied_where_the_plan_says_so() -> None:
    config = snapshot([model("m", endpoint("a/x", price=None)), model("n", endpoint("a/n", "n"))])
    with pytest.raises(PermissionDenied, match="no price") as caught:
        World(config).plan()
    assert caught.value.details == {"reason": "model_unpriced"}
    assert World(config, tenant(on_unpriced=OnUnpriced.ALLOW_FLAGGED)).order() == ["a/x"]


def test_an_unpriced_endpoint_is_skipped_while_a_priced_one_remains() -> None:
    plan = World(snapshot([model("m", endpoint("a/x", price=None), endpoint("b/x"))])).plan()
    assert [each.endpoint.key for each in plan.candidates] == ["b/x"]
    assert [(each.endpoint, each.rule) for each in plan.excluded] == [("a/x", "unpriced")]


@pytest.mark.parametrize(
    ("need", "param", "words"),
    [
        (Capability.VISION, "messages", "takes no images"),
        (Capability.AUDIO, "messages", "takes no audio"),
        (Capability.TOOLS, "tools", "takes no tools"),
        (Capability.JSON_SCHEMA, "response_format", "takes no JSON schema"),
        (Capability.REASONING, "reasoning_effort", "takes no reasoning"),
    ],
)
def test_what_no_candidate_can_do_is_the_callers_error(need: Capability, param: str, words: str) -> None:
    config = snapshot([model("m", endpoint("a/x", capabilities=frozenset()))])
    with pytest.raises(InvalidParameter, match=words) as caught:
        World(config).plan(chat(needs=frozenset({need})))
    assert caught.value.param == param


def test_images_go_to_the_fallback_model_that_sees() -> None:
    config = snapshot(
        [
            model("m", endpoint("a/x", capabilities=frozenset({Capability.TOOLS}))),
            model("seer", endpoint("b/s", "seer")),
        ],
        policy=Policy("default", on_failure=("seer",)),
    )
    sut = World(config)
    assert sut.order() == ["a/x", "b/s"]
    plan = sut.plan(chat(needs=frozenset({Capability.VISION})))
    assert [(each.endpoint.key, each.is_fallback_model) for each in plan.candidates] == [("b/s", True)]
    assert [(each.endpoint, each.rule) for each in plan.excluded] == [("a/x", "lacks_vision")]
