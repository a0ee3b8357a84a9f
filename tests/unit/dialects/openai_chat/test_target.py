"""The canonical request as an OpenAI-like provider gets it."""

import json
from typing import Any

import pytest

from routerx.dialects.base import Aim
from routerx.dialects.openai_chat import OPENAI
from routerx.dialects.openai_chat.ids import CALL_ID_CHARS_MAX
from routerx.domain.call import Operation
from routerx.domain.chat import (
    CacheMark,
    ChatRequest,
    CustomTool,
    FunctionTool,
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
from routerx.domain.model import Capability
from routerx.jsonx import Raw, encode

HELLO = Message(Role.USER, (Text("Hello"),))
PICTURE = Media(MediaKind.IMAGE, mime="image/png", data="AAAA")
SHOWN = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
SIGNED = Reasoning("Hm.", "sig", "anthropic")


def written(*messages: Message, aim: Aim | None = None, **wishes: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    request = ChatRequest(messages=messages or (HELLO,), **wishes)
    encoded = OPENAI.target.encode_request(request, aim if aim is not None else Aim(model="m"))
    return json.loads(encode(encoded.fields)), encoded.dropped


def message(role: Role, *parts: Part, aim: Aim | None = None) -> dict[str, Any]:
    found: dict[str, Any] = written(Message(role, parts), aim=aim)[0]["messages"][0]
    return found


def test_the_least_request_says_the_least() -> None:
    assert written() == ({"model": "m", "messages": [{"role": "user", "content": "Hello"}]}, ())


def test_usage_of_a_stream_is_asked_for_where_it_has_to_be() -> None:
    assert "stream_options" not in written(stream=True)[0]
    asked = written(stream=True, aim=Aim(model="m", ask_usage=True))[0]
    assert asked["stream_options"] == {"include_usage": True}
    assert "stream_options" not in written(aim=Aim(model="m", ask_usage=True))[0]


@pytest.mark.parametrize(
    ("operation", "path"),
    [
        (Operation.CHAT, "/chat/completions"),
        (Operation.EMBEDDINGS, "/embeddings"),
        (Operation.COMPLETIONS, "/completions"),
        (Operation.IMAGES, "/images/generations"),
        (Operation.SPEECH, "/audio/speech"),
        (Operation.TRANSCRIPTIONS, "/audio/transcriptions"),
        (Operation.MODERATIONS, "/moderations"),
        (Operation.RERANK, "/rerank"),
    ],
)
def test_every_operation_has_its_path(operation: Operation, path: str) -> None:
    assert OPENAI.path(operation, "m", stream=False) == path


# --- messages


def test_a_developer_speaks_as_the_system_which_every_server_knows() -> None:
    assert message(Role.DEVELOPER, Text("Be brief.")) == {"role": "system", "content": "Be brief."}


def test_several_texts_are_one_string() -> None:
    assert message(Role.USER, Text("a", CacheMark.ONE_HOUR), Text("b")) == {"role": "user", "content": "a\nb"}


@pytest.mark.parametrize(
    ("media", "part"),
    [
        (PICTURE, SHOWN),
        (
            Media(MediaKind.IMAGE, url="https://x.example/a.png", detail="low"),
            {"type": "image_url", "image_url": {"url": "https://x.example/a.png", "detail": "low"}},
        ),
        (
            Media(MediaKind.AUDIO, mime="audio/mpeg", data="AAAA"),
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}},
        ),
        (
            Media(MediaKind.FILE, mime="application/pdf", data="AAAA", name="a.pdf"),
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}},
        ),
        (Media(MediaKind.FILE, file_id="file-1"), {"type": "file", "file": {"file_id": "file-1"}}),
        (
            Media(MediaKind.VIDEO, url="https://x.example/a.mp4"),
            {"type": "video_url", "video_url": {"url": "https://x.example/a.mp4"}},
        ),
        (Opaque("openai", "new", Raw(b'{"type":"new"}')), {"type": "new"}),
    ],
)
def test_parts_are_written(media: Part, part: Any) -> None:
    assert message(Role.USER, Text("See"), media)["content"] == [{"type": "text", "text": "See"}, part]


@pytest.mark.parametrize(
    ("part", "name"),
    [
        (Media(MediaKind.IMAGE, file_id="file-1"), "messages.image"),
        (Media(MediaKind.AUDIO, url="https://x.example/a.wav"), "messages.audio"),
        (Media(MediaKind.FILE, url="https://x.example/a.pdf"), "messages.file"),
        (Opaque("anthropic", "container_upload", Raw(b"{}")), "messages.container_upload"),
    ],
)
def test_parts_that_cannot_be_said_are_reported(part: Part, name: str) -> None:
    assert written(Message(Role.USER, (Text("x"), part)))[1] == (name,)


def test_what_would_have_to_be_reported_is_fetched_first() -> None:
    assert OPENAI.target.inline_media == {MediaKind.AUDIO, MediaKind.FILE}


def test_a_turn_of_the_model_is_written_whole() -> None:
    assert message(Role.ASSISTANT, Reasoning("Hm."), Text("Wait."), ToolCall("a", "f", '{"x":1}')) == {
        "role": "assistant",
        "content": "Wait.",
        "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}],
    }


def test_calls_alone_have_no_content() -> None:
    assert message(Role.ASSISTANT, ToolCall("a", "f"))["content"] is None


def test_a_refusal_is_one() -> None:
    assert message(Role.ASSISTANT, Refusal("No."))["refusal"] == "No."


def test_a_custom_call_is_one() -> None:
    call = message(Role.ASSISTANT, ToolCall("a", "shell", "ls", custom=True))["tool_calls"][0]
    assert call == {"id": "a", "type": "custom", "custom": {"name": "shell", "input": "ls"}}


def test_what_gemini_signed_goes_where_its_compatible_route_has_it() -> None:
    call = message(Role.ASSISTANT, ToolCall("a", "f", "{}", "sig", "gemini"))["tool_calls"][0]
    assert call["id"] == "a"
    assert call["extra_content"] == {"google": {"thought_signature": "sig"}}
    assert "extra_content" not in message(Role.ASSISTANT, ToolCall("a", "f", "{}", "sig", "anthropic"))["tool_calls"][0]


def test_thoughts_go_back_where_the_provider_takes_them() -> None:
    assert "reasoning_content" not in message(Role.ASSISTANT, SIGNED, Text("Yes"))
    aim = Aim(model="m", reasoning_field="reasoning_content")
    assert message(Role.ASSISTANT, SIGNED, Text("Yes"), aim=aim) == {
        "role": "assistant",
        "content": "Yes",
        "reasoning_content": "Hm.",
    }


def test_signatures_go_back_to_who_passes_them_on() -> None:
    told = message(Role.ASSISTANT, SIGNED, aim=Aim(model="m", reasoning_field="reasoning"))
    assert told["reasoning_details"] == [
        {"type": "reasoning.text", "text": "Hm.", "signature": "sig", "format": "anthropic-claude-v1", "index": 0}
    ]


def test_pictures_follow_all_results_of_a_round() -> None:
    fields, dropped = written(
        Message(Role.ASSISTANT, (ToolCall("a", "look"), ToolCall("b", "look"))),
        Message(Role.TOOL, (ToolResult("a", (PICTURE,)),)),
        Message(Role.TOOL, (ToolResult("b", (Text("Nothing."),), is_error=True),)),
        Message(Role.USER, (Text("Well?"),)),
    )
    assert fields["messages"][1:] == [
        {"role": "tool", "tool_call_id": "a", "content": "(see the next message)"},
        {"role": "tool", "tool_call_id": "b", "content": "Error: Nothing."},
        {"role": "user", "content": [SHOWN]},
        {"role": "user", "content": "Well?"},
    ]
    assert dropped == ()


def test_pictures_of_the_model_are_shown_by_the_user() -> None:
    fields, _ = written(Message(Role.ASSISTANT, (Text("Here."), PICTURE)), Message(Role.USER, (Text("Bluer."),)))
    assert [one["content"] for one in fields["messages"]] == ["Here.", [SHOWN], "Bluer."]


def test_ids_that_are_too_long_are_shortened_alike_for_calls_and_results() -> None:
    long, other = "x" * (CALL_ID_CHARS_MAX + 1), "x" * (CALL_ID_CHARS_MAX + 2)
    fields, _ = written(
        Message(Role.ASSISTANT, (ToolCall(long, "f"), ToolCall(other, "f"))),
        Message(Role.TOOL, (ToolResult(other), ToolResult(long))),
    )
    calls = [call["id"] for call in fields["messages"][0]["tool_calls"]]
    assert [one["tool_call_id"] for one in fields["messages"][1:]] == [calls[1], calls[0]]
    assert max(map(len, calls)) <= CALL_ID_CHARS_MAX
    assert len(set(calls)) == 2


def test_a_last_word_of_the_model_is_reported_where_it_will_not_be_continued() -> None:
    spoken = Message(Role.ASSISTANT, (Text("Sure, "),))
    assert written(HELLO, spoken)[1] == ("prefill",)
    assert written(HELLO, spoken, aim=Aim(model="m", capabilities=frozenset({Capability.PREFILL})))[1] == ()


# --- wishes


@pytest.mark.parametrize(
    ("wish", "effort"),
    [
        (ReasoningWish(effort="low"), "low"),
        (ReasoningWish(budget_tokens=0), "none"),
        (ReasoningWish(budget_tokens=8_000), "medium"),
    ],
)
def test_a_wish_to_think_is_an_effort(wish: ReasoningWish, effort: str) -> None:
    aim = Aim(model="m", capabilities=frozenset({Capability.REASONING}))
    assert written(reasoning=wish, aim=aim)[0]["reasoning_effort"] == effort


def test_a_model_that_cannot_think_is_not_told_to() -> None:
    assert written(reasoning=ReasoningWish(effort="high"))[1] == ("reasoning_effort",)
    assert written(reasoning=ReasoningWish(effort="none")) == written()


def test_likelihoods_are_not_asked_for_because_nobody_could_tell_them() -> None:
    fields, dropped = written(logprobs=True, top_logprobs=3)
    assert (fields, dropped) == (written()[0], ("logprobs",))


def test_native_extras_pass_and_others_are_reported() -> None:
    fields, dropped = written(extras={"logit_bias": Raw(b'{"1":2}'), "safetySettings": Raw(b"[]")})
    assert (fields["logit_bias"], dropped) == ({"1": 2}, ("safetySettings",))


def test_tools_and_the_choice_of_one_are_written() -> None:
    tools = (FunctionTool("f", "D", strict=True), CustomTool("c"), Opaque("gemini", "googleSearch", Raw(b"{}")))
    fields, dropped = written(tools=tools, tool_choice=ToolChoice("tool", "c"), parallel_tool_calls=False)
    assert fields["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "f",
                "parameters": {"type": "object", "properties": {}},
                "description": "D",
                "strict": True,
            },
        },
        {"type": "custom", "custom": {"name": "c"}},
    ]
    assert fields["tool_choice"] == {"type": "custom", "custom": {"name": "c"}}
    assert fields["parallel_tool_calls"] is False
    assert dropped == ("tools.googleSearch",)


def test_nothing_is_said_of_tools_where_there_are_none() -> None:
    assert written(tool_choice=ToolChoice("auto"), parallel_tool_calls=False)[0] == written()[0]


def test_a_schema_without_a_name_gets_one_because_it_must_have_it() -> None:
    told = written(response_format=JsonSchema(Raw(b'{"type":"object"}')))[0]["response_format"]
    assert told == {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}


# --- what passes


def passed(messages: list[Any]) -> Any:
    fields = {"model": Raw(b'"alias"'), "messages": Raw(encode(messages))}
    return json.loads(encode(OPENAI.request_fields(fields, model="m", ask_usage=False)))["messages"]


def test_what_another_vendor_signed_in_an_id_is_taken_out_of_what_passes() -> None:
    packed = "a--rx1-gemini-YzJsbg"
    call = {"id": packed, "type": "function", "function": {"name": "f", "arguments": "{}"}}
    history = [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": packed, "content": "x"}]
    assert passed(history) == [
        {"role": "assistant", "tool_calls": [{**call, "id": "a"}]},
        {"role": "tool", "tool_call_id": "a", "content": "x"},
    ]


@pytest.mark.parametrize("messages", [["--rx1-"], {"a": "--rx1-"}, [{"tool_calls": ["--rx1-"], "tool_call_id": 3}]])
def test_odd_messages_pass_as_they_are(messages: Any) -> None:
    assert passed(messages) == messages


@pytest.mark.parametrize("takes", [frozenset(), frozenset({"user", "top_k"})])
def test_what_a_provider_does_not_know_is_not_sent_to_it(takes: frozenset[str]) -> None:
    sampling = Sampling(top_k=5, min_p=0.1, repetition_penalty=1.0)
    request = ChatRequest(messages=(), sampling=sampling, user="ann", prompt_cache_key="k", verbosity="low")

    got = OPENAI.target.encode_request(request, Aim(model="m", takes=takes))

    assert {"user", "top_k", "min_p", "verbosity", "prompt_cache_key", "repetition_penalty"} & set(got.fields) == takes
    assert set(got.dropped) == {"user", "top_k", "min_p", "verbosity"} - takes
