"""How much a model is to think, and what does not go together with it."""

from typing import Any

import pytest

from routerx import jsonx
from routerx.dialects.anthropic import ANTHROPIC
from routerx.dialects.base import Aim
from routerx.domain.chat import (
    ChatRequest,
    FunctionTool,
    JsonSchema,
    Message,
    Reasoning,
    ReasoningWish,
    Role,
    Sampling,
    Text,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from routerx.domain.model import Capability
from routerx.jsonx import Raw

BUDGETED = frozenset({Capability.REASONING})
ADAPTIVE = frozenset({Capability.REASONING, Capability.ADAPTIVE_REASONING})
ASK = Message(Role.USER, (Text("x"),))
CALL = ToolCall("t1", "add")
RESULT = Message(Role.TOOL, (ToolResult("t1", (Text("4"),)),))


def encode(
    wish: ReasoningWish, *messages: Message, able: frozenset[Capability] = BUDGETED, **wishes: Any
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What is said of thinking and sampling, and what is dropped."""
    request = ChatRequest(messages=messages or (ASK,), reasoning=wish, **wishes)
    encoded = ANTHROPIC.target.encode_request(request, Aim(model="m", output_tokens_max=20_000, capabilities=able))
    said = jsonx.decode(jsonx.encode(encoded.fields))
    keys = ("thinking", "output_config", "temperature", "top_p", "top_k")
    return {key: said[key] for key in keys if key in said}, encoded.dropped


def enabled(budget: int) -> dict[str, Any]:
    return {"thinking": {"type": "enabled", "budget_tokens": budget}}


# --- budgets


def test_an_effort_is_a_share_of_what_the_model_can_write() -> None:
    assert encode(ReasoningWish(effort="medium")) == (enabled(10_000), ())
    assert encode(ReasoningWish()) == (enabled(10_000), ())


@pytest.mark.parametrize(
    ("asked", "ceiling", "sent"), [(5_000, 6_000, 5_000), (9_000, 6_000, 5_999), (10, 6_000, 1_024)]
)
def test_a_budget_stays_below_the_ceiling_and_above_the_least(asked: int, ceiling: int, sent: int) -> None:
    assert encode(ReasoningWish(budget_tokens=asked), output_tokens_max=ceiling) == (enabled(sent), ())


def test_an_effort_leaves_room_for_an_answer() -> None:
    assert encode(ReasoningWish(effort="max"), output_tokens_max=5_000) == (enabled(4_000), ())


def test_without_room_to_think_nobody_thinks_and_it_is_told() -> None:
    assert encode(ReasoningWish(effort="high"), output_tokens_max=1_024) == ({}, ("reasoning_effort",))
    assert encode(ReasoningWish(effort="high"), output_tokens_max=1_025) == (enabled(1_024), ())


def test_no_thinking_is_said_where_a_model_can_think_at_all() -> None:
    for wish in (ReasoningWish(effort="none"), ReasoningWish(budget_tokens=0)):
        assert encode(wish) == ({"thinking": {"type": "disabled"}}, ())
        assert encode(wish, able=frozenset()) == ({}, ())


def test_a_model_that_cannot_think_is_not_asked_to_and_it_is_told() -> None:
    assert encode(ReasoningWish(effort="low"), able=frozenset()) == ({}, ("reasoning_effort",))


def test_thoughts_that_nobody_wants_to_see_are_omitted() -> None:
    said, _ = encode(ReasoningWish(budget_tokens=2_000, visible=False))
    assert said["thinking"] == {"type": "enabled", "budget_tokens": 2_000, "display": "omitted"}


# --- efforts


@pytest.mark.parametrize(
    ("wish", "effort"),
    [
        (ReasoningWish(effort="minimal"), "low"),
        (ReasoningWish(effort="high"), "high"),
        (ReasoningWish(effort="max"), "max"),
        (ReasoningWish(budget_tokens=2_000), "low"),
    ],
)
def test_a_model_that_decides_by_itself_gets_an_effort(wish: ReasoningWish, effort: str) -> None:
    assert encode(wish, able=ADAPTIVE) == (
        {"thinking": {"type": "adaptive", "display": "summarized"}, "output_config": {"effort": effort}},
        (),
    )


def test_without_a_word_it_thinks_as_it_likes() -> None:
    said, _ = encode(ReasoningWish(visible=False), able=ADAPTIVE)
    assert said == {"thinking": {"type": "adaptive", "display": "omitted"}}


def test_an_effort_and_a_schema_share_their_place() -> None:
    shape = JsonSchema(Raw(b'{"type":"string"}'))
    said, _ = encode(ReasoningWish(effort="low"), able=ADAPTIVE, response_format=shape)
    assert said["output_config"]["effort"] == "low"
    assert said["output_config"]["format"]["type"] == "json_schema"


# --- what does not go together


def test_forced_tools_keep_a_budget_away_and_an_effort_not() -> None:
    forced: dict[str, Any] = {"tools": (FunctionTool("add"),), "tool_choice": ToolChoice("required")}
    assert encode(ReasoningWish(effort="low"), **forced) == ({}, ("reasoning_effort",))
    said, dropped = encode(ReasoningWish(effort="low"), able=ADAPTIVE, **forced)
    assert (said["thinking"]["type"], dropped) == ("adaptive", ())


def test_an_open_round_of_tools_has_to_begin_with_a_thought_that_was_signed_here() -> None:
    wish, own, foreign = ReasoningWish(budget_tokens=2_000), Reasoning("h", "s", "anthropic"), Reasoning("h", "s", "x")
    for thoughts, thinks in (((own,), True), ((foreign,), False), ((), False)):
        said, dropped = encode(wish, ASK, Message(Role.ASSISTANT, (*thoughts, CALL)), RESULT)
        assert ("thinking" in said, "reasoning_effort" in dropped) == (thinks, not thinks)


def test_later_calls_of_an_open_round_need_no_thought_of_their_own() -> None:
    first = Message(Role.ASSISTANT, (Reasoning("h", "s", "anthropic"), CALL))
    again = (Message(Role.ASSISTANT, (ToolCall("t2", "add"),)), Message(Role.TOOL, (ToolResult("t2"),)))
    assert encode(ReasoningWish(budget_tokens=2_000), ASK, first, RESULT, *again) == (enabled(2_000), ())


def test_a_round_that_is_over_needs_no_thought() -> None:
    unsigned = Message(Role.ASSISTANT, (CALL,))
    assert encode(ReasoningWish(budget_tokens=2_000), ASK, unsigned, RESULT, ASK) == (enabled(2_000), ())


@pytest.mark.parametrize(
    ("sampling", "kept", "dropped"),
    [
        (Sampling(temperature=0.5), {}, ("temperature",)),
        (Sampling(temperature=1), {}, ()),
        (Sampling(top_k=5), {}, ("top_k",)),
        (Sampling(top_p=0.5), {}, ("top_p",)),
        (Sampling(top_p=0.97), {"top_p": 0.97}, ()),
    ],
)
def test_sampling_gives_way_to_thinking(sampling: Sampling, kept: dict[str, Any], dropped: tuple[str, ...]) -> None:
    assert encode(ReasoningWish(budget_tokens=2_000), sampling=sampling) == (enabled(2_000) | kept, dropped)


def test_what_the_caller_says_in_this_wires_own_words_counts() -> None:
    own = {"thinking": Raw(b'{"type":"adaptive"}')}
    assert encode(ReasoningWish(effort="high"), extras=own) == ({"thinking": {"type": "adaptive"}}, ())
