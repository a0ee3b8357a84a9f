"""Requests of /api/chat, after the public documentation of Ollama's API."""

import json
from typing import Any

import pytest

from routerx.dialects.base import Aim
from routerx.dialects.ollama import OLLAMA
from routerx.domain.call import Operation
from routerx.domain.chat import (
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
from routerx.domain.model import Capability
from routerx.errors import InvalidParameter
from routerx.jsonx import Raw, encode

HELLO = Message(Role.USER, (Text("Hello"),))
THINKS = Aim(model="m", capabilities=frozenset({Capability.REASONING}))
PICTURE = Media(MediaKind.IMAGE, mime="image/png", data="AAAA")
WEATHER = FunctionTool("weather", "Tells it.", Raw(b'{"type":"object","properties":{"city":{"type":"string"}}}'))


def written(*messages: Message, aim: Aim | None = None, **wishes: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The fields as JSON has them, and what was dropped."""
    request = ChatRequest(messages=messages or (HELLO,), **wishes)
    encoded = OLLAMA.target.encode_request(request, aim if aim is not None else Aim(model="m"))
    return json.loads(encode(encoded.fields)), encoded.dropped


def message(role: Role, *parts: Part) -> dict[str, Any]:
    fields, _ = written(Message(role, parts))
    found: dict[str, Any] = fields["messages"][0]
    return found


def test_what_is_not_to_be_streamed_says_so_because_streaming_is_the_default() -> None:
    assert written()[0] == {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "stream": False}
    assert written(stream=True)[0]["stream"] is True


def test_paths_are_the_native_ones() -> None:
    assert OLLAMA.path(Operation.CHAT, "m", stream=True) == "/api/chat"
    assert OLLAMA.path(Operation.EMBEDDINGS, "m", stream=False) == "/api/embed"


# --- messages


def test_a_developer_speaks_as_the_system() -> None:
    assert message(Role.DEVELOPER, Text("Be brief.")) == {"role": "system", "content": "Be brief."}


def test_pictures_stand_beside_the_text_as_bare_base64() -> None:
    assert message(Role.USER, Text("What"), PICTURE, Text("is it?")) == {
        "role": "user",
        "content": "What\nis it?",
        "images": ["AAAA"],
    }


def test_pictures_are_what_has_to_come_as_bytes() -> None:
    assert OLLAMA.target.inline_media == {MediaKind.IMAGE}


def test_a_file_of_text_is_told_in_words() -> None:
    assert message(Role.USER, Media(MediaKind.FILE, mime="text/plain", data="SGk="))["content"] == "Hi"


@pytest.mark.parametrize("kind", [MediaKind.AUDIO, MediaKind.VIDEO, MediaKind.FILE])
def test_other_media_are_reported(kind: MediaKind) -> None:
    fields, dropped = written(Message(Role.USER, (Text("Hear"), Media(kind, mime="x/y", data="AAAA"))))
    assert dropped == (f"messages.{kind.value}",)
    assert fields["messages"] == [{"role": "user", "content": "Hear"}]


def test_an_upload_elsewhere_is_reported() -> None:
    assert written(Message(Role.USER, (Media(MediaKind.IMAGE, file_id="file-1"),)))[1] == ("messages.image",)


def test_a_part_of_another_wire_is_reported_by_its_name() -> None:
    assert written(Message(Role.USER, (Opaque("anthropic", "container_upload", Raw(b"{}")),)))[1] == (
        "messages.container_upload",
    )


def test_thoughts_go_back_as_text_whoever_signed_them() -> None:
    thought = Reasoning("Hm.", "sig", "anthropic")
    assert message(Role.ASSISTANT, thought, Text("Yes")) == {"role": "assistant", "content": "Yes", "thinking": "Hm."}


def test_a_refusal_is_told_as_text() -> None:
    assert message(Role.ASSISTANT, Refusal("No."))["content"] == "No."


def test_arguments_of_calls_are_objects_even_when_they_were_broken() -> None:
    calls = (ToolCall("a", "weather", '{"city":"Bergen"}'), ToolCall("b", "weather", '{"city":'))
    assert message(Role.ASSISTANT, *calls)["tool_calls"] == [
        {"id": "a", "function": {"name": "weather", "arguments": {"city": "Bergen"}}},
        {"id": "b", "function": {"name": "weather", "arguments": {"input": '{"city":'}}},
    ]


def test_a_result_names_the_tool_that_its_call_named() -> None:
    fields, dropped = written(
        HELLO,
        Message(Role.ASSISTANT, (ToolCall("a", "weather"), ToolCall("b", "news"))),
        Message(Role.TOOL, (ToolResult("b", (Text("None."),)), ToolResult("a", (Text("Snow"),), is_error=True))),
    )
    assert fields["messages"][2:] == [
        {"role": "tool", "content": "None.", "tool_name": "news", "tool_call_id": "b"},
        {"role": "tool", "content": "Error: Snow", "tool_name": "weather", "tool_call_id": "a"},
    ]
    assert dropped == ()


def test_pictures_of_results_are_shown_by_the_user_behind_all_of_them() -> None:
    fields, _ = written(
        Message(Role.ASSISTANT, (ToolCall("a", "look"), ToolCall("b", "look"))),
        Message(Role.TOOL, (ToolResult("a", (PICTURE,)),)),
        Message(Role.TOOL, (ToolResult("b", (Text("Nothing"),)),)),
        Message(Role.USER, (Text("Well?"),)),
    )
    assert [one["role"] for one in fields["messages"]] == ["assistant", "tool", "tool", "user", "user"]
    assert fields["messages"][1]["content"] == "(see the next message)"
    assert fields["messages"][3] == {"role": "user", "content": "", "images": ["AAAA"]}


def test_a_picture_of_the_last_result_is_not_forgotten() -> None:
    fields, _ = written(Message(Role.TOOL, (ToolResult("a", (Text("Look"), PICTURE)),)))
    assert fields["messages"][-1]["images"] == ["AAAA"]


def test_a_last_word_of_the_model_is_reported_where_it_will_not_be_continued() -> None:
    spoken = Message(Role.ASSISTANT, (Text("Sure, "),))
    assert written(HELLO, spoken)[1] == ("prefill",)
    assert written(HELLO, spoken, aim=Aim(model="m", capabilities=frozenset({Capability.PREFILL})))[1] == ()


# --- wishes


def test_sampling_stands_in_options_by_its_names_there() -> None:
    sampling = Sampling(0.5, 0.9, 40, 0.1, 7, 0.2, 0.3, 1.1, ("END",))
    fields, dropped = written(sampling=sampling, output_tokens_max=99)
    assert fields["options"] == {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.1,
        "seed": 7,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.3,
        "repeat_penalty": 1.1,
        "stop": ["END"],
        "num_predict": 99,
    }
    assert dropped == ()


def test_zeros_are_values() -> None:
    assert written(sampling=Sampling(temperature=0.0, seed=0))[0]["options"] == {"temperature": 0.0, "seed": 0}


def test_options_of_the_caller_are_kept_and_the_limits_of_the_request_hold() -> None:
    extras = {"options": Raw(b'{"num_ctx":8192,"mirostat":1,"num_predict":-1}')}
    assert written(extras=extras, output_tokens_max=5)[0]["options"] == {
        "num_ctx": 8192,
        "mirostat": 1,
        "num_predict": 5,
    }


def test_a_context_window_may_stand_at_the_top() -> None:
    fields, dropped = written(extras={"num_ctx": Raw(b"16384")})
    assert (fields["options"], dropped) == ({"num_ctx": 16384}, ())
    assert "num_ctx" not in fields


def test_no_context_window_is_made_up() -> None:
    assert "options" not in written()[0]


@pytest.mark.parametrize(("key", "value"), [("options", b"3"), ("options", b'["x"]'), ("num_ctx", b'"big"')])
def test_options_that_are_none_are_refused(key: str, value: bytes) -> None:
    with pytest.raises(InvalidParameter) as refusal:
        written(extras={key: Raw(value)})
    assert refusal.value.param == key


def test_native_extras_pass_and_others_are_reported() -> None:
    fields, dropped = written(extras={"keep_alive": Raw(b'"5m"'), "truncate": Raw(b"false"), "logit_bias": Raw(b"{}")})
    assert (fields["keep_alive"], fields["truncate"]) == ("5m", False)
    assert dropped == ("logit_bias",)


@pytest.mark.parametrize(
    ("wishes", "name"),
    [
        ({"choices": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"verbosity": "low"}, "verbosity"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"tools": (WEATHER,), "parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"tools": (WEATHER,), "tool_choice": ToolChoice("required")}, "tool_choice"),
        ({"tools": (WEATHER,), "tool_choice": ToolChoice("tool", "weather")}, "tool_choice"),
        ({"tools": (FunctionTool("f", strict=True),)}, "tools.strict"),
        ({"tools": (CustomTool("f"),)}, "tools.custom"),
        ({"tools": (Opaque("anthropic", "web_search_20250305", Raw(b"{}")),)}, "tools.web_search_20250305"),
        ({"reasoning": ReasoningWish(effort="high")}, "reasoning_effort"),
        ({"response_format": JsonSchema(Raw(b"{}"), description="D")}, "response_format.json_schema.description"),
    ],
)
def test_what_cannot_be_said_is_reported(wishes: dict[str, Any], name: str) -> None:
    assert written(**wishes)[1] == (name,)


@pytest.mark.parametrize(
    "wishes",
    [
        {"choices": 1, "parallel_tool_calls": True, "verbosity": "medium", "service_tier": "auto"},
        {"parallel_tool_calls": False},
        {"tools": (FunctionTool("f", strict=False),), "tool_choice": ToolChoice("auto")},
        {"reasoning": ReasoningWish(effort="none")},
        {"user": "u", "prompt_cache_key": "k"},
    ],
)
def test_defaults_and_mere_labels_are_not_reported(wishes: dict[str, Any]) -> None:
    assert written(**wishes)[1] == ()


def test_tools_are_declared() -> None:
    assert written(tools=(WEATHER,))[0]["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "Tells it.",
                "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
            },
        }
    ]


@pytest.mark.parametrize("parameters", [None, Raw(b"{}"), Raw(b'{"type":"object"}')])
def test_a_tool_without_parameters_says_that_it_takes_an_object(parameters: Raw | None) -> None:
    tool = written(tools=(FunctionTool("f", parameters=parameters),))[0]["tools"][0]
    assert tool["function"]["parameters"] == {"type": "object", "properties": {}}


def test_a_model_that_must_not_call_hears_of_no_tools() -> None:
    fields, dropped = written(tools=(WEATHER,), tool_choice=ToolChoice("none"))
    assert ("tools" in fields, dropped) == (False, ())


def test_structured_output_goes_into_format() -> None:
    assert written(response_format=JsonObject())[0]["format"] == "json"
    assert written(response_format=JsonSchema(Raw(b'{"type":"object"}'), "n", strict=True)) == (
        {**written()[0], "format": {"type": "object"}},
        (),
    )


@pytest.mark.parametrize(
    ("wish", "think"),
    [
        (ReasoningWish(effort="none"), False),
        (ReasoningWish(budget_tokens=0), False),
        (ReasoningWish(effort="minimal"), "low"),
        (ReasoningWish(effort="medium"), "medium"),
        (ReasoningWish(effort="xhigh"), "high"),
        (ReasoningWish(budget_tokens=30_000), "high"),
        (ReasoningWish(visible=True), True),
    ],
)
def test_a_wish_to_think_is_a_level_or_a_switch(wish: ReasoningWish, think: object) -> None:
    assert written(reasoning=wish, aim=THINKS)[0]["think"] == think


def test_a_model_that_cannot_think_is_not_told_to() -> None:
    assert "think" not in written(reasoning=ReasoningWish(effort="low"))[0]


def test_a_native_switch_stands_where_the_request_leaves_it_open() -> None:
    extras = {"think": Raw(b"true")}
    assert written(extras=extras)[0]["think"] is True
    assert written(extras=extras, reasoning=ReasoningWish(effort="none"), aim=THINKS)[0]["think"] is False
