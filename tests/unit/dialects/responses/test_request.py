"""Requests of Responses as canonical requests, beyond what the laws say."""

from typing import Any

import pytest

from routerx.dialects.responses import RESPONSES
from routerx.dialects.signatures import UNSIGNED, pack, pack_call_id
from routerx.domain.chat import (
    ChatRequest,
    CustomTool,
    FunctionTool,
    JsonSchema,
    Media,
    MediaKind,
    Message,
    Opaque,
    Reasoning,
    ReasoningWish,
    Refusal,
    Role,
    Text,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from routerx.errors import InvalidParameter
from routerx.jsonx import Raw, encode, request_object

PIXEL = "data:image/png;base64,AAAA"
F = {"type": "function", "name": "f"}
G = {"type": "function", "name": "g"}


def read(**fields: Any) -> ChatRequest:
    return RESPONSES.source.decode_request(request_object(encode({"model": "m", **fields})))


def items(*items_: Any) -> tuple[Message, ...]:
    return read(input=list(items_)).messages


def refused(**fields: Any) -> str | None:
    with pytest.raises(InvalidParameter) as caught:
        read(**fields)
    return caught.value.param


# --- messages


def test_a_text_is_a_users_message() -> None:
    assert read(input="hi").messages == (Message(Role.USER, (Text("hi"),)),)


def test_instructions_come_first_as_the_system() -> None:
    assert read(input="hi", instructions="Be brief.").messages[0] == Message(Role.SYSTEM, (Text("Be brief."),))


def test_messages_come_in_their_easy_form_and_in_their_typed_one() -> None:
    typed = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}
    assert items({"role": "user", "content": "hi"}) == items(typed)


def test_what_the_model_did_in_a_row_is_one_turn() -> None:
    turn = items(
        {"role": "user", "content": "weather?"},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a":1}'},
        {"type": "custom_tool_call", "call_id": "c2", "name": "g", "input": "free"},
        {"type": "function_call_output", "call_id": "c1", "output": "sun"},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "rain"}]},
    )
    assert turn[1:] == (
        Message(
            Role.ASSISTANT,
            (
                Reasoning("hm"),
                Text("I look."),
                ToolCall("c1", "f", '{"a":1}'),
                ToolCall("c2", "g", "free", custom=True),
            ),
        ),
        Message(Role.TOOL, (ToolResult("c1", (Text("sun"),)), ToolResult("c2", (Text("rain"),), custom=True))),
    )


def test_every_kind_of_content_is_read() -> None:
    content = [
        {"type": "input_image", "image_url": PIXEL, "detail": "high"},
        {"type": "input_image", "file_id": "file_1", "detail": "auto"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"},
        {"type": "input_file", "file_url": "https://example.com/a.pdf"},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}},
        {"type": "refusal", "refusal": "No."},
    ]
    assert items({"role": "user", "content": content})[0].parts == (
        Media(MediaKind.IMAGE, mime="image/png", data="AAAA", detail="high"),
        Media(MediaKind.IMAGE, file_id="file_1"),
        Media(MediaKind.FILE, mime="application/pdf", data="AAAA", name="a.pdf"),
        Media(MediaKind.FILE, url="https://example.com/a.pdf"),
        Media(MediaKind.AUDIO, mime="audio/mpeg", data="AAAA"),
        Refusal("No."),
    )


def test_thoughts_keep_the_signature_of_whoever_signed() -> None:
    def thought(encrypted: str | None) -> Any:
        summary = [{"type": "summary_text", "text": "hm"}]
        return items({"type": "reasoning", "id": "rs_1", "summary": summary, "encrypted_content": encrypted})[0].parts[
            0
        ]

    assert thought("gAAAA") == Reasoning("hm", "gAAAA", "responses", id="rs_1")
    assert thought(pack("anthropic", "sig")) == Reasoning("hm", "sig", "anthropic")
    assert thought(UNSIGNED) == thought(None) == Reasoning("hm")


def test_a_signature_in_a_calls_id_is_taken_out_of_it_and_of_its_results() -> None:
    packed = pack_call_id("c1", "gemini", "sig")
    call, result = items(
        {"type": "function_call", "call_id": packed, "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": packed, "output": "x"},
    )
    assert call.parts == (ToolCall("c1", "f", "{}", "sig", "gemini"),)
    assert result.parts == (ToolResult("c1", (Text("x"),)),)


def test_a_picture_that_the_model_made_comes_back_as_one() -> None:
    made = items({"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "AAAA"})
    assert made[0].parts == (Media(MediaKind.IMAGE, mime="image/png", data="AAAA"),)


def test_a_picture_that_is_no_base64_is_refused() -> None:
    assert refused(input=[{"type": "image_generation_call", "result": "?"}]) == "input[0].result"


def test_what_only_this_wire_knows_is_kept_as_it_stands() -> None:
    item = {"type": "web_search_call", "id": "ws_1", "status": "completed"}
    (part,) = items(item)[0].parts
    assert part == Opaque("responses", "web_search_call", Raw(encode(item)))


@pytest.mark.parametrize(
    "item",
    [{"type": "item_reference", "id": "msg_1"}, {"id": "msg_1"}, {"type": "compaction", "encrypted_content": "x"}],
)
def test_what_a_provider_keeps_or_has_sealed_is_refused(item: Any) -> None:
    assert refused(input=["hi", item]) == "input[1]"


@pytest.mark.parametrize("field", ["previous_response_id", "conversation", "prompt"])
def test_what_rests_on_something_stored_is_refused(field: str) -> None:
    assert refused(input="hi", **{field: "x"}) == field
    assert read(input="hi", **{field: None}).messages


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"role": "robot", "content": "x"}, "input[0].role"),
        ({"content": "x"}, "input[0].role"),
        ({"role": "user", "content": [{"text": "x"}]}, "input[0].content[0].type"),
        ({"role": "user", "content": [{"type": "input_image"}]}, "input[0].content[0].image_url"),
        ({"type": "function_call", "call_id": "c"}, "input[0].name"),
        ({"type": "function_call_output", "output": "x"}, "input[0].call_id"),
        (
            {"type": "function_call_output", "call_id": "c", "output": [{"type": "sound"}]},
            "input[0].output[0].type",
        ),
    ],
)
def test_what_is_malformed_is_named(item: Any, param: str) -> None:
    assert refused(input=[item]) == param


# --- tools


def test_tools_stand_flat() -> None:
    tools = read(
        input="hi",
        tools=[
            {**F, "description": "d", "parameters": {"type": "object"}, "strict": True},
            {"type": "custom", "name": "c", "format": {"type": "text"}},
            {"type": "web_search"},
        ],
    ).tools
    assert tools == (
        FunctionTool("f", "d", Raw(b'{"type":"object"}'), True),
        CustomTool("c", format=Raw(b'{"type":"text"}')),
        Opaque("responses", "web_search", Raw(b'{"type":"web_search"}')),
    )


@pytest.mark.parametrize(
    ("choice", "wish"),
    [
        ("auto", ToolChoice("auto")),
        ("required", ToolChoice("required")),
        ({"type": "function", "name": "g"}, ToolChoice("tool", "g")),
    ],
)
def test_a_choice_of_tools_is_read(choice: Any, wish: ToolChoice) -> None:
    assert read(input="hi", tools=[F, G], tool_choice=choice).tool_choice == wish


def test_allowed_tools_are_the_tools() -> None:
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "g"}]}
    request = read(input="hi", tools=[F, G, {"type": "web_search"}], tool_choice=choice)
    assert request.tool_choice == ToolChoice("required")
    assert [tool.name for tool in request.tools if isinstance(tool, FunctionTool)] == ["g"]
    assert len(request.tools) == 2


def test_the_choice_of_a_built_in_tool_forces_no_other() -> None:
    request = read(input="hi", tools=[F, {"type": "web_search"}], tool_choice={"type": "web_search"})
    assert request.tool_choice is None
    assert "tool_choice" in request.extras


def test_a_choice_of_a_tool_that_is_not_there_is_refused() -> None:
    assert refused(input="hi", tools=[F], tool_choice={"type": "function", "name": "g"}) == "tool_choice"


# --- wishes


def test_wishes_are_read() -> None:
    shape = {"type": "json_schema", "name": "n", "schema": {}, "strict": True, "description": "d"}
    request = read(
        input="hi",
        text={"format": shape, "verbosity": "low"},
        reasoning={"effort": "low", "summary": "auto"},
        max_output_tokens=9,
        metadata={"a": "b"},
        safety_identifier="u",
    )
    assert request.response_format == JsonSchema(Raw(b"{}"), "n", "d", True)
    assert request.verbosity == "low"
    assert request.reasoning == ReasoningWish(effort="low", visible=True)
    assert request.output_tokens_max == 9
    assert request.metadata == Raw(b'{"a":"b"}')
    assert request.user == "u"


def test_probabilities_are_asked_for_in_either_way() -> None:
    assert read(input="hi", top_logprobs=2).logprobs
    assert read(input="hi", include=["message.output_text.logprobs"]).logprobs
    assert not read(input="hi", include=["reasoning.encrypted_content"]).logprobs


def test_defaults_and_what_nobody_can_miss_are_no_extras() -> None:
    request = read(
        input="hi",
        store=True,
        truncation="disabled",
        include=["reasoning.encrypted_content"],
        stream_options={"include_obfuscation": False},
        background=False,
        previous_response_id=None,
    )
    assert request.extras == {}


def test_ways_to_think_that_only_this_wire_has_are_extras() -> None:
    assert read(input="hi", reasoning={"effort": "low", "mode": "standard", "context": "auto"}).extras == {}
    assert read(input="hi", reasoning={"mode": "pro"}).extras == {"reasoning": Raw(b'{"mode":"pro"}')}


def test_what_could_be_missed_is_an_extra() -> None:
    assert set(read(input="hi", truncation="auto", max_tool_calls=3).extras) == {"truncation", "max_tool_calls"}
