"""Canonical requests as providers of Responses get them, beyond what the laws say."""

from typing import Any

import msgspec

from routerx import jsonx
from routerx.dialects.base import Aim, Encoded
from routerx.dialects.responses import RESPONSES
from routerx.domain.chat import (
    ChatRequest,
    CustomTool,
    FunctionTool,
    Media,
    MediaKind,
    Message,
    Opaque,
    Part,
    Reasoning,
    ReasoningWish,
    Role,
    Sampling,
    Text,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from routerx.domain.model import EVERYTHING
from routerx.jsonx import Raw

AIM = Aim(model="m", capabilities=EVERYTHING)
HELLO = Message(Role.USER, (Text("hi"),))
PIXEL = Media(MediaKind.IMAGE, mime="image/png", data="AAAA")
ROUND = (
    HELLO,
    Message(Role.ASSISTANT, (Reasoning("hm", "sig", "anthropic"), ToolCall("c1", "f"))),
    Message(Role.TOOL, (ToolResult("c1", (Text("sun"),)),)),
)


def written(*messages: Message, aim: Aim = AIM, **wishes: Any) -> Encoded:
    return RESPONSES.target.encode_request(ChatRequest(messages=messages, **wishes), aim)


def sent(*messages: Message, **wishes: Any) -> Any:
    return jsonx.decode(jsonx.encode(written(*messages, **wishes).fields))


def said(role: Role, *parts: Part) -> Message:
    return Message(role, parts)


def test_nothing_is_to_be_stored() -> None:
    assert sent(HELLO)["store"] is False


def test_encrypted_thoughts_are_asked_for_where_there_are_thoughts() -> None:
    assert sent(HELLO)["include"] == ["reasoning.encrypted_content"]
    assert "include" not in sent(HELLO, aim=Aim(model="m"))


def test_an_effort_is_dropped_where_there_are_no_thoughts() -> None:
    plain = Aim(model="m")
    assert written(HELLO, aim=plain, reasoning=ReasoningWish(effort="high")).dropped == ("reasoning_effort",)
    assert written(HELLO, aim=plain, reasoning=ReasoningWish(effort="none")).dropped == ()


def test_a_budget_is_told_as_an_effort() -> None:
    assert sent(HELLO, reasoning=ReasoningWish(budget_tokens=30_000))["reasoning"]["effort"] == "high"


def test_thoughts_that_nobody_wants_to_see_are_not_summed_up() -> None:
    assert sent(HELLO, reasoning=ReasoningWish(effort="low", visible=False))["reasoning"] == {"effort": "low"}


def test_the_first_system_message_is_the_instructions_and_later_ones_stay_in_place() -> None:
    fields = sent(said(Role.SYSTEM, Text("a"), Text("b")), HELLO, said(Role.SYSTEM, Text("c")))
    assert fields["instructions"] == "a\n\nb"
    assert [item["role"] for item in fields["input"]] == ["user", "system"]


def test_instructions_alone_are_the_input() -> None:
    fields = sent(said(Role.SYSTEM, Text("a")))
    assert "instructions" not in fields
    assert fields["input"][0]["role"] == "system"


def test_what_the_model_said_is_output() -> None:
    (item,) = sent(said(Role.ASSISTANT, Text("x")))["input"]
    assert item["content"] == [{"type": "output_text", "text": "x", "annotations": []}]


def test_a_picture_of_the_models_own_is_shown_by_the_user_behind_the_results() -> None:
    fields = sent(
        HELLO, said(Role.ASSISTANT, PIXEL, ToolCall("c1", "f")), said(Role.TOOL, ToolResult("c1", (Text("x"),))), HELLO
    )
    kinds = [item.get("role", item["type"]) for item in fields["input"]]
    assert kinds == ["user", "function_call", "function_call_output", "user", "user"]
    assert fields["input"][3]["content"][0]["type"] == "input_image"


def test_a_result_may_hold_pictures_and_says_that_it_is_an_error() -> None:
    (item,) = sent(said(Role.TOOL, ToolResult("c1", (Text("x"), PIXEL), is_error=True)))["input"]
    assert [part["type"] for part in item["output"]] == ["input_text", "input_text", "input_image"]
    assert item["output"][0]["text"] == "Error:"
    (plain,) = sent(said(Role.TOOL, ToolResult("c1", (Text("x"),), is_error=True)))["input"]
    assert plain["output"] == "Error: x"


def test_a_result_of_a_custom_tool_is_known_by_its_call() -> None:
    fields = sent(
        said(Role.ASSISTANT, ToolCall("c1", "f", "free", custom=True)), said(Role.TOOL, ToolResult("c1", (Text("x"),)))
    )
    assert [item["type"] for item in fields["input"]] == ["custom_tool_call", "custom_tool_call_output"]


def test_sounds_in_results_are_dropped_and_said() -> None:
    sound = Media(MediaKind.AUDIO, mime="audio/wav", data="AAAA")
    assert written(said(Role.TOOL, ToolResult("c1", (sound,)))).dropped == ("messages.tool.audio",)


def test_own_thoughts_go_back_and_foreign_ones_are_missed_in_an_open_round_only() -> None:
    own = sent(HELLO, said(Role.ASSISTANT, Reasoning("hm", "gAAA", "responses", id="rs_1"), Text("x")), HELLO)
    assert own["input"][1] == {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": "hm"}],
        "encrypted_content": "gAAA",
    }
    assert written(*ROUND).dropped == ("messages.reasoning",)
    assert written(*ROUND, HELLO).dropped == ()
    assert all(item["type"] != "reasoning" for item in sent(*ROUND)["input"])


def test_thoughts_go_back_unsigned_to_servers_that_take_them_so() -> None:
    """As recorded with a compatible server: `content` of reasoning_text, nothing encrypted."""
    plain = Aim(model="m", capabilities=EVERYTHING, reasoning_field="reasoning_content")
    assert written(*ROUND, aim=plain).dropped == ()
    assert sent(*ROUND, aim=plain)["input"][1] == {
        "type": "reasoning",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "hm"}],
    }


def test_what_this_wire_has_no_word_for_is_named() -> None:
    dropped = written(
        msgspec.structs.replace(HELLO, name="Ann"),
        said(Role.USER, Media(MediaKind.VIDEO, url="https://example.com/v.mp4"), Opaque("gemini", "odd", Raw(b"{}"))),
        HELLO,
        sampling=Sampling(seed=1, stop=("x",), top_k=4, presence_penalty=0.5, frequency_penalty=0),
        choices=2,
        logprobs=True,
        top_logprobs=3,
        tools=(Opaque("anthropic", "bash", Raw(b"{}")),),
        tool_choice=ToolChoice("required"),
        extras={"logit_bias": Raw(b"{}"), "max_tool_calls": Raw(b"3")},
    ).dropped
    assert dropped == (
        "logit_bias",
        "logprobs",
        "messages.name",
        "messages.odd",
        "messages.video",
        "n",
        "presence_penalty",
        "seed",
        "stop",
        "tool_choice",
        "tools.bash",
        "top_k",
    )


def test_a_tool_is_not_strict_unless_it_says_so() -> None:
    """This wire's default is strict, which changes what schemas are taken."""
    (tool,) = sent(HELLO, tools=(FunctionTool("f"),))["tools"]
    assert tool["strict"] is False


def test_a_custom_tool_is_chosen_as_one() -> None:
    fields = sent(HELLO, tools=(CustomTool("c"),), tool_choice=ToolChoice("tool", "c"))
    assert fields["tool_choice"] == {"type": "custom", "name": "c"}


def test_an_id_that_is_too_long_is_shortened_alike_for_the_call_and_its_result() -> None:
    fields = sent(said(Role.ASSISTANT, ToolCall("c" * 100, "f")), said(Role.TOOL, ToolResult("c" * 100, (Text("x"),))))
    call, result = fields["input"]
    assert call["call_id"] == result["call_id"]
    assert len(call["call_id"]) <= 64
