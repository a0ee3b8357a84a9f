"""A caller's chat request as the canonical one."""

from typing import Any

import pytest

from routerx.dialects.openai_chat import OPENAI
from routerx.domain.chat import (
    CacheMark,
    ChatRequest,
    CustomTool,
    FunctionTool,
    JsonObject,
    JsonSchema,
    Media,
    MediaKind,
    Message,
    Opaque,
    Part,
    Reasoning,
    ReasoningWish,
    Refusal,
    Role,
    Sampling,
    Text,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from routerx.errors import InvalidParameter
from routerx.jsonx import Raw, encode, request_object

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def decoded(*messages: dict[str, Any], **fields: Any) -> ChatRequest:
    body = {"model": "m", "messages": list(messages), **fields}
    return OPENAI.source.decode_request(request_object(encode(body)))


def parts(content: Any, role: str = "user", **more: Any) -> tuple[Part, ...]:
    return decoded({"role": role, "content": content, **more}).messages[0].parts


# --- messages


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant"])
def test_every_role_speaks(role: str) -> None:
    request = decoded({"role": role, "content": "Hi", "name": "ada"})
    assert request.messages == (Message(Role(role), (Text("Hi"),), "ada"),)


@pytest.mark.parametrize(
    ("part", "wanted"),
    [
        ({"type": "text", "text": "a"}, Text("a")),
        ({"type": "input_text", "text": "a"}, Text("a")),
        ("a", Text("a")),
        ({"type": "refusal", "refusal": "No."}, Refusal("No.")),
        (
            {"type": "image_url", "image_url": {"url": "https://x.example/a.png", "detail": "low"}},
            Media(MediaKind.IMAGE, url="https://x.example/a.png", detail="low"),
        ),
        (
            {"type": "image_url", "image_url": "https://x.example/a.png"},
            Media(MediaKind.IMAGE, url="https://x.example/a.png"),
        ),
        (
            {"type": "image_url", "image_url": {"url": "data:image/jpg;base64,AAAA"}},
            Media(MediaKind.IMAGE, mime="image/jpeg", data="AAAA"),
        ),
        (
            {"type": "input_image", "image_url": "data:image/png;base64,AAAA"},
            Media(MediaKind.IMAGE, mime="image/png", data="AAAA"),
        ),
        (
            {"type": "image", "image": "data:image/png;base64,AAAA"},
            Media(MediaKind.IMAGE, mime="image/png", data="AAAA"),
        ),
        (
            {"type": "video_url", "video_url": {"url": "https://x.example/a.mp4"}},
            Media(MediaKind.VIDEO, url="https://x.example/a.mp4"),
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}},
            Media(MediaKind.AUDIO, mime="audio/mpeg", data="AAAA"),
        ),
        (
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"}},
            Media(MediaKind.FILE, mime="application/pdf", data="AAAA", name="a.pdf"),
        ),
        ({"type": "file", "file": {"file_id": "file-1"}}, Media(MediaKind.FILE, file_id="file-1")),
        ({"type": "brand_new", "x": 1}, Opaque("openai", "brand_new", Raw(b'{"type":"brand_new","x":1}'))),
    ],
)
def test_every_part_is_read(part: Any, wanted: Part) -> None:
    assert parts([part]) == (wanted,)


@pytest.mark.parametrize(
    ("control", "mark"),
    [({"type": "ephemeral"}, CacheMark.FIVE_MINUTES), ({"type": "ephemeral", "ttl": "1h"}, CacheMark.ONE_HOUR)],
)
def test_cache_marks_are_read_as_clients_send_them_to_other_vendors(control: Any, mark: CacheMark) -> None:
    assert parts([{"type": "text", "text": "a", "cache_control": control}]) == (Text("a", mark),)
    tool = decoded(tools=[{**WEATHER, "cache_control": control}]).tools[0]
    assert isinstance(tool, FunctionTool)
    assert tool.cache is mark


@pytest.mark.parametrize("content", [None, "", []])
def test_a_message_may_say_nothing(content: Any) -> None:
    assert parts(content) == ()


# --- tools in history


def test_calls_and_results_belong_together() -> None:
    request = decoded(
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "weather", "arguments": '{"x": 1}'}},
                {"id": "b", "type": "custom", "custom": {"name": "shell", "input": "ls"}},
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "Snow"}]},
        {"role": "tool", "tool_call_id": "b", "content": "ok"},
    )
    assert request.messages == (
        Message(Role.ASSISTANT, (ToolCall("a", "weather", '{"x": 1}'), ToolCall("b", "shell", "ls", custom=True))),
        Message(Role.TOOL, (ToolResult("a", (Text("Snow"),)),)),
        Message(Role.TOOL, (ToolResult("b", (Text("ok"),)),)),
    )


def test_a_result_of_another_kind_is_told_as_what_it_is() -> None:
    content = [{"type": "json", "value": [1]}, {"type": "refusal", "refusal": "No."}]
    result = decoded({"role": "tool", "tool_call_id": "a", "content": content}).messages[0].parts[0]
    assert result == ToolResult("a", (Text('{"type":"json","value":[1]}'), Text("No.")))


def test_functions_of_old_are_calls_too() -> None:
    request = decoded(
        {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": "{}"}},
        {"role": "function", "name": "weather", "content": "Snow"},
        functions=[{"name": "weather"}],
        function_call={"name": "weather"},
    )
    call, result = request.messages[0].parts[0], request.messages[1].parts[0]
    assert isinstance(call, ToolCall)
    assert isinstance(result, ToolResult)
    assert call.id == result.call_id
    assert request.tools == (FunctionTool("weather"),)
    assert request.tool_choice == ToolChoice("tool", "weather")


@pytest.mark.parametrize(("arguments", "text"), [("", "{}"), ({"a": 1}, '{"a":1}'), (None, "{}"), ('{"a":', '{"a":')])
def test_arguments_are_text_and_never_empty(arguments: Any, text: str) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}
    assert parts(None, "assistant", tool_calls=[call]) == (ToolCall("a", "f", text),)


def test_a_signature_comes_back_beside_the_call_or_in_its_id() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    signed = ToolCall("a", "f", "{}", "c2ln", "gemini")
    beside = {**call, "extra_content": {"google": {"thought_signature": "c2ln"}}}
    assert parts(None, "assistant", tool_calls=[beside]) == (signed,)
    assert parts(None, "assistant", tool_calls=[{**call, "id": "a--rx1-gemini-YzJsbg"}]) == (signed,)
    result = decoded({"role": "tool", "tool_call_id": "a--rx1-gemini-YzJsbg", "content": "x"}).messages[0].parts[0]
    assert result == ToolResult("a", (Text("x"),))


# --- thoughts in history


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
def test_thoughts_stand_before_what_was_said(key: str) -> None:
    assert parts("Yes", "assistant", **{key: "Hm."}) == (Reasoning("Hm."), Text("Yes"))


@pytest.mark.parametrize(
    ("items", "wanted"),
    [
        (
            [{"type": "reasoning.text", "text": "Hm.", "signature": "s", "format": "anthropic-claude-v1", "index": 0}],
            (Reasoning("Hm.", "s", "anthropic"),),
        ),
        (
            [{"type": "reasoning.encrypted", "data": "s", "format": "anthropic-claude-v1", "index": 0}],
            (Reasoning("", "s", "anthropic", redacted=True),),
        ),
        (
            [
                {"type": "reasoning.summary", "summary": "Hm.", "format": "openai-responses-v1", "index": 0},
                {"type": "reasoning.encrypted", "data": "s", "format": "openai-responses-v1", "id": "rs_1", "index": 0},
            ],
            (Reasoning("Hm.", "s", "responses", id="rs_1"),),
        ),
        (
            [
                {"type": "reasoning.text", "text": "H", "format": "anthropic-claude-v1", "index": 0},
                {"type": "reasoning.text", "text": "m.", "format": "anthropic-claude-v1", "index": 0},
                {"type": "reasoning.text", "signature": "s", "format": "anthropic-claude-v1", "index": 0},
                {"type": "reasoning.text", "text": "So", "signature": "t", "format": "google-gemini-v1", "index": 1},
            ],
            (Reasoning("Hm.", "s", "anthropic"), Reasoning("So", "t", "gemini")),
        ),
        ([{"type": "reasoning.text", "text": "Hm.", "format": "unknown"}], (Reasoning("Hm."),)),
        ([{"type": "reasoning.text", "text": "Hm.", "signature": "of nobody"}], (Reasoning("Hm."),)),
        (["odd", {"type": "reasoning.text"}], ()),
    ],
)
def test_details_of_thoughts_keep_what_was_signed(items: list[Any], wanted: tuple[Reasoning, ...]) -> None:
    assert parts(None, "assistant", reasoning_details=items) == wanted


def test_blocks_of_thoughts_in_the_vendors_own_shape_are_read() -> None:
    blocks = [
        {"type": "thinking", "thinking": "Hm.", "signature": "s"},
        {"type": "redacted_thinking", "data": "d"},
    ]
    assert parts("Yes", "assistant", thinking_blocks=blocks, reasoning_content="Hm.") == (
        Reasoning("Hm.", "s", "anthropic"),
        Reasoning("", "d", "anthropic", redacted=True),
        Text("Yes"),
    )


def test_pictures_that_the_model_made_come_back() -> None:
    images = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    assert parts("Here", "assistant", images=images)[1] == Media(MediaKind.IMAGE, mime="image/png", data="AAAA")


def test_a_sound_that_only_its_maker_keeps_is_opaque() -> None:
    assert parts(None, "assistant", audio={"id": "audio_1"}) == (Opaque("openai", "audio", Raw(b'{"id":"audio_1"}')),)


# --- wishes


def test_sampling_is_read_with_its_zeros() -> None:
    request = decoded(
        temperature=0,
        top_p=0.5,
        top_k=3,
        min_p=0.1,
        seed=0,
        presence_penalty=-1,
        frequency_penalty=0,
        repetition_penalty=1.5,
        stop="END",
        n=2,
    )
    assert request.sampling == Sampling(0.0, 0.5, 3, 0.1, 0, -1.0, 0.0, 1.5, ("END",))
    assert request.choices == 2


def test_the_newer_ceiling_counts() -> None:
    assert decoded(max_tokens=5).output_tokens_max == 5
    assert decoded(max_tokens=5, max_completion_tokens=7).output_tokens_max == 7


@pytest.mark.parametrize(
    ("fields", "wish"),
    [
        ({}, None),
        ({"reasoning_effort": "high"}, ReasoningWish(effort="high")),
        ({"reasoning": {"effort": "low"}}, ReasoningWish(effort="low")),
        ({"reasoning": {"max_tokens": 2000, "exclude": True}}, ReasoningWish(budget_tokens=2000, visible=False)),
        ({"reasoning": {"enabled": False}}, ReasoningWish(effort="none")),
        ({"reasoning": {"enabled": True}}, ReasoningWish()),
    ],
)
def test_wishes_to_think_are_read(fields: dict[str, Any], wish: ReasoningWish | None) -> None:
    assert decoded(**fields).reasoning == wish


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, JsonObject()),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True}},
            JsonSchema(Raw(b'{"type":"object"}'), "n", strict=True),
        ),
    ],
)
def test_formats_of_the_answer_are_read(value: Any, wanted: object) -> None:
    assert decoded(response_format=value).response_format == wanted


def test_tools_of_all_kinds_are_read() -> None:
    request = decoded(
        tools=[
            {"type": "function", "function": {"name": "f", "description": "D", "strict": True}},
            {"type": "custom", "custom": {"name": "c", "format": {"type": "text"}}},
            {"type": "web_search"},
        ],
        parallel_tool_calls=False,
    )
    assert request.tools == (
        FunctionTool("f", "D", strict=True),
        CustomTool("c", None, Raw(b'{"type":"text"}')),
        Opaque("openai", "web_search", Raw(b'{"type":"web_search"}')),
    )
    assert request.parallel_tool_calls is False


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("auto", ToolChoice("auto")),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("required")),
        ("any", ToolChoice("required")),
        ({"type": "function", "function": {"name": "weather"}}, ToolChoice("tool", "weather")),
        ({"function": {"name": "weather"}}, ToolChoice("tool", "weather")),
        ({"name": "weather"}, ToolChoice("tool", "weather")),
    ],
)
def test_choices_of_tools_are_read(value: Any, wanted: ToolChoice) -> None:
    assert decoded(tools=[WEATHER], tool_choice=value).tool_choice == wanted


def test_only_the_allowed_tools_are_left() -> None:
    news = {"type": "function", "function": {"name": "news"}}
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "news"}}]}
    request = decoded(tools=[WEATHER, news], tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert (request.tools, request.tool_choice) == ((FunctionTool("news"),), ToolChoice("required"))


def test_the_rest_is_kept_as_it_is() -> None:
    request = decoded(
        stream=True,
        stream_options={"include_usage": True},
        user="u",
        service_tier="flex",
        prompt_cache_key="k",
        verbosity="low",
        logprobs=True,
        top_logprobs=2,
        safetySettings=[1],
        store=True,
        metadata={"a": "b"},
        logit_bias=None,
    )
    assert (request.stream, request.wants_usage, request.user) == (True, True, "u")
    assert (request.service_tier, request.prompt_cache_key, request.verbosity) == ("flex", "k", "low")
    assert (request.logprobs, request.top_logprobs) == (True, 2)
    assert request.extras == {"safetySettings": Raw(b"[1]")}


# --- refusals

USER = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "robot"}]}, "messages[0].role"),
        ({"messages": [USER, {"role": "user", "content": 3}]}, "messages[1].content"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "ftp://x"}}]}]},
            "messages[0].content[0].image_url.url",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "nothing"}]}]},
            "messages[0].content[0].image_url",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "input_audio", "input_audio": {"data": "?", "format": "wav"}}],
                    }
                ]
            },
            "messages[0].content[0].input_audio.data",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].name"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "a", "function": {}}]}]},
            "messages[0].tool_calls[0].function.name",
        ),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [WEATHER], "tool_choice": "weather"}, "tool_choice"),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "news"}}},
            "tool_choice",
        ),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"reasoning_effort": "enormous"}, "reasoning_effort"),
        ({"reasoning": {"max_tokens": "many"}}, "reasoning.max_tokens"),
        ({"stop": [1]}, "stop[0]"),
        ({"seed": "x"}, "seed"),
    ],
)
def test_a_refusal_names_the_place(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidParameter) as refusal:
        OPENAI.source.decode_request(request_object(encode({"model": "m", "messages": [USER], **fields})))
    assert refusal.value.param == param
