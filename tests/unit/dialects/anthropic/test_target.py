"""The canonical request as a provider of Messages gets it."""

from typing import Any

import pytest

from routerx import jsonx
from routerx.dialects.anthropic import ANTHROPIC
from routerx.dialects.base import Aim, Encoded
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
    Refusal,
    Role,
    Sampling,
    Text,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from routerx.domain.model import Capability
from routerx.jsonx import Raw

PICTURE = Media(MediaKind.IMAGE, mime="image/png", data="AAAA")
PICTURE_BLOCK = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
ADD = FunctionTool("add", "Adds.", Raw(b'{"type":"object"}'))
ADD_BLOCK = {"name": "add", "description": "Adds.", "input_schema": {"type": "object"}}


def encode(*messages: Message, aim: Aim | None = None, **wishes: Any) -> Encoded:
    """As JSON reads it."""
    asked = ChatRequest(messages=messages, **wishes)
    encoded = ANTHROPIC.target.encode_request(asked, aim if aim is not None else Aim(model="m"))
    return Encoded(jsonx.decode(jsonx.encode(encoded.fields)), encoded.dropped)


def turns(*messages: Message) -> list[Any]:
    """The messages, where nothing is dropped."""
    encoded = encode(*messages)
    assert encoded.dropped == ()
    found: list[Any] = encoded.fields["messages"]
    return found


def user(*parts: Part | str) -> Message:
    return Message(Role.USER, tuple(Text(part) if isinstance(part, str) else part for part in parts))


def model(*parts: Part | str) -> Message:
    return Message(Role.ASSISTANT, tuple(Text(part) if isinstance(part, str) else part for part in parts))


def system(*texts: str) -> Message:
    return Message(Role.SYSTEM, tuple(map(Text, texts)))


def answered(*call_ids: str, text: str = "4") -> Message:
    return Message(Role.TOOL, tuple(ToolResult(call_id, (Text(text),)) for call_id in call_ids))


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def use(id_: str, **input_: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id_, "name": "add", "input": input_}


def result(id_: str, content: Any = "4") -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id_, "content": content}


# --- the ceiling


@pytest.mark.parametrize(("asked", "able", "sent"), [(7, 100, 7), (None, 100, 100), (None, None, 4096), (7, None, 7)])
def test_the_length_of_an_answer_is_always_said(asked: int | None, able: int | None, sent: int) -> None:
    aim = Aim(model="m", output_tokens_max=able)
    assert encode(user("x"), aim=aim, output_tokens_max=asked).fields["max_tokens"] == sent


# --- turns


def test_a_plain_conversation() -> None:
    encoded = encode(system("Be brief."), user("Hello"), model("Hi"), user("Bye"), stream=True)
    assert encoded.dropped == ()
    assert encoded.fields == {
        "model": "m",
        "max_tokens": 4096,
        "stream": True,
        "system": "Be brief.",
        "messages": [
            {"role": "user", "content": [text("Hello")]},
            {"role": "assistant", "content": [text("Hi")]},
            {"role": "user", "content": [text("Bye")]},
        ],
    }


def test_messages_of_one_role_are_one_turn() -> None:
    assert turns(user("a"), user("b"), model("c"), model("d"), user("e")) == [
        {"role": "user", "content": [text("a"), text("b")]},
        {"role": "assistant", "content": [text("c"), text("d")]},
        {"role": "user", "content": [text("e")]},
    ]


def test_blank_texts_are_left_out_and_what_is_around_them_joins() -> None:
    assert turns(user("a", " "), model("\n"), user("", "b")) == [{"role": "user", "content": [text("a"), text("b")]}]


def test_an_assistant_that_speaks_first_is_given_a_turn_before() -> None:
    assert [turn["role"] for turn in turns(model("Welcome"), user("Hi"))] == ["user", "assistant", "user"]


def test_leading_instructions_are_the_system_prompt_and_later_ones_keep_their_place() -> None:
    developer = Message(Role.DEVELOPER, (Text("b"),))
    encoded = encode(system("a"), developer, user("x"), system("c"), model("y"), user("z"))
    assert encoded.fields["system"] == [text("a"), text("b")]
    assert encoded.fields["messages"][0]["content"] == [text("x"), text("<system>c</system>")]


def test_instructions_alone_are_what_the_user_says() -> None:
    encoded = encode(system("You are a potato."))
    assert "system" not in encoded.fields
    assert encoded.fields["messages"] == [{"role": "user", "content": [text("You are a potato.")]}]


def test_a_picture_among_the_instructions_is_shown_by_the_user() -> None:
    encoded = encode(Message(Role.SYSTEM, (Text("a"), PICTURE)), user("b"))
    assert encoded.fields["system"] == "a"
    assert encoded.fields["messages"] == [{"role": "user", "content": [PICTURE_BLOCK, text("b")]}]


def test_a_picture_that_the_model_made_is_shown_by_the_user() -> None:
    assert turns(user("draw"), model("here", PICTURE), user("nice")) == [
        {"role": "user", "content": [text("draw")]},
        {"role": "assistant", "content": [text("here")]},
        {"role": "user", "content": [PICTURE_BLOCK, text("nice")]},
    ]


def test_a_refusal_is_what_the_model_said() -> None:
    assert turns(user("x"), model(Refusal("No.")), user("y"))[1] == {"role": "assistant", "content": [text("No.")]}


def test_who_speaks_cannot_be_said() -> None:
    assert encode(Message(Role.USER, (Text("x"),), name="ann")).dropped == ("messages.name",)


def test_a_prefill_loses_the_white_space_at_its_end_and_is_told_where_nobody_goes_on_from_it() -> None:
    able = Aim(model="m", capabilities=frozenset({Capability.PREFILL}))
    for aim, dropped in ((Aim(model="m"), ("prefill",)), (able, ())):
        encoded = encode(user("x"), model("The answer is \n"), aim=aim)
        assert encoded.fields["messages"][-1] == {"role": "assistant", "content": [text("The answer is")]}
        assert encoded.dropped == dropped


# --- tools and their results


def test_a_round_of_tools() -> None:
    calls = (ToolCall("t1", "add", '{"a":1}'), ToolCall("t2", "add"))
    assert turns(user("x"), model("Let me see", *calls), answered("t1", "t2"), user("go on")) == [
        {"role": "user", "content": [text("x")]},
        {"role": "assistant", "content": [text("Let me see"), use("t1", a=1), use("t2")]},
        {"role": "user", "content": [result("t1"), result("t2"), text("go on")]},
    ]


def test_results_come_first_whatever_stands_before_them() -> None:
    said = turns(user("x"), model(ToolCall("t1", "add")), user("wait"), system("now"), answered("t1"))
    assert said[-1]["content"] == [result("t1"), text("wait"), text("<system>now</system>")]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [('{"a":1}', {"a": 1}), ("null", {}), (" ", {}), ('{"a":', {"input": '{"a":'}), ("[1]", {"input": [1]})],
)
def test_arguments_are_an_object_whatever_the_model_wrote(arguments: str, expected: dict[str, Any]) -> None:
    (_, said, _) = turns(user("x"), model(ToolCall("t1", "add", arguments)), answered("t1"))
    assert said["content"][0]["input"] == expected


def test_ids_keep_to_what_the_wire_allows() -> None:
    said = turns(user("x"), model(ToolCall("functions.add:0", "add")), answered("functions.add:0"))
    assert (said[1]["content"], said[2]["content"]) == ([use("functions_add_0")], [result("functions_add_0")])


def test_an_id_that_is_used_in_every_round_is_told_apart() -> None:
    rounds = [model(ToolCall("call_add", "add")), answered("call_add")]
    said = turns(user("x"), *rounds, *rounds, user("y"))
    assert [said[place]["content"][0]["id"] for place in (1, 3)] == ["call_add", "call_add_2"]
    assert [said[place]["content"][0]["tool_use_id"] for place in (2, 4)] == ["call_add", "call_add_2"]


def test_calls_of_one_turn_that_share_an_id_get_their_results_in_order() -> None:
    said = turns(user("x"), model(ToolCall("", "add"), ToolCall("", "add")), answered("", ""))
    assert [block["id"] for block in said[1]["content"]] == ["call", "call_2"]
    assert [block["tool_use_id"] for block in said[2]["content"]] == ["call", "call_2"]


def test_a_result_may_hold_pictures_and_failures() -> None:
    failed = ToolResult("t1", (Text("a"), Text(""), PICTURE), is_error=True)
    said = turns(user("x"), model(ToolCall("t1", "add")), Message(Role.TOOL, (failed, ToolResult("t2"))))
    assert said[-1]["content"] == [
        result("t1", [text("a"), PICTURE_BLOCK]) | {"is_error": True},
        {"type": "tool_result", "tool_use_id": "t2"},
    ]


def test_a_history_of_tools_declares_them_where_the_request_does_not() -> None:
    fields = encode(user("x"), model(ToolCall("t1", "add"), ToolCall("t2", "add")), answered("t1", "t2")).fields
    assert fields["tools"] == [{"name": "add", "input_schema": {"type": "object"}}]
    assert fields["tool_choice"] == {"type": "none"}


def test_tools_are_described_by_an_objects_schema() -> None:
    bare = FunctionTool("now")
    loose = FunctionTool("loose", parameters=Raw(b'{"properties":{"a":{}}}'))
    fields = encode(user("x"), tools=(ADD, bare, loose)).fields
    assert fields["tools"] == [
        ADD_BLOCK,
        {"name": "now", "input_schema": {"type": "object", "properties": {}}},
        {"name": "loose", "input_schema": {"type": "object", "properties": {"a": {}}}},
    ]


def test_a_strict_tool_has_a_closed_schema() -> None:
    strict = FunctionTool("add", parameters=Raw(b'{"type":"object","properties":{}}'), strict=True)
    (tool,) = encode(user("x"), tools=(strict,)).fields["tools"]
    assert tool["strict"] is True
    assert tool["input_schema"] == {"type": "object", "properties": {}, "additionalProperties": False}


def test_tools_of_this_vendors_own_go_back_and_others_are_told() -> None:
    own = Opaque("anthropic", "bash_20250124", Raw(b'{"type":"bash_20250124","name":"bash"}'))
    other = Opaque("openai", "web_search", Raw(b'{"type":"web_search"}'))
    encoded = encode(user("x"), tools=(own, other, CustomTool("free")))
    assert encoded.fields["tools"] == [{"type": "bash_20250124", "name": "bash"}]
    assert encoded.dropped == ("tools.custom", "tools.web_search")


@pytest.mark.parametrize(
    ("choice", "parallel", "sent"),
    [
        (None, None, None),
        (None, True, None),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        (ToolChoice("auto"), None, {"type": "auto"}),
        (ToolChoice("required"), False, {"type": "any", "disable_parallel_tool_use": True}),
        (ToolChoice("none"), False, {"type": "none"}),
        (ToolChoice("tool", "add"), True, {"type": "tool", "name": "add", "disable_parallel_tool_use": False}),
    ],
)
def test_choices_of_tools(choice: ToolChoice | None, parallel: bool | None, sent: Any) -> None:
    encoded = encode(user("x"), tools=(ADD,), tool_choice=choice, parallel_tool_calls=parallel)
    assert (encoded.fields.get("tool_choice"), encoded.dropped) == (sent, ())


def test_the_choice_of_a_tool_that_could_not_be_declared_is_told() -> None:
    encoded = encode(user("x"), tools=(ADD, CustomTool("free")), tool_choice=ToolChoice("tool", "free"))
    assert "tool_choice" not in encoded.fields
    assert encoded.dropped == ("tool_choice", "tools.custom")


# --- thoughts


def test_own_thoughts_go_back_unchanged_and_others_stay_away() -> None:
    thoughts = (Reasoning("hm", "s==", "anthropic"), Reasoning("", "d==", "anthropic", redacted=True))
    foreign = (Reasoning("x", "g", "gemini"), Reasoning("y"))
    assert turns(user("a"), model(*thoughts, *foreign, "b"), user("c"))[1]["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "s=="},
        {"type": "redacted_thinking", "data": "d=="},
        text("b"),
    ]


def test_a_lost_thought_is_told_while_its_round_of_tools_is_open() -> None:
    call = ToolCall("t1", "add")
    for thought in (Reasoning("x", "g", "gemini"), Reasoning("y")):
        assert encode(user("a"), model(thought, call), answered("t1")).dropped == ("messages.reasoning",)
        assert encode(user("a"), model(thought, call), answered("t1"), user("b")).dropped == ()
    assert encode(user("a"), model(Reasoning("", "g", "gemini"), call), answered("t1")).dropped == ()


def test_a_turn_never_ends_with_a_thought() -> None:
    thought = Reasoning("hm", "s==", "anthropic")
    assert turns(user("a"), model(thought), user("b")) == [{"role": "user", "content": [text("a"), text("b")]}]
    assert turns(user("a"), model("x", thought), user("b"))[1]["content"] == [text("x")]


# --- media


@pytest.mark.parametrize(
    ("media", "block"),
    [
        (PICTURE, PICTURE_BLOCK),
        (
            Media(MediaKind.IMAGE, url="https://e.org/x"),
            {"type": "image", "source": {"type": "url", "url": "https://e.org/x"}},
        ),
        (
            Media(MediaKind.FILE, url="https://e.org/x", name="T"),
            {"type": "document", "source": {"type": "url", "url": "https://e.org/x"}, "title": "T"},
        ),
        (
            Media(MediaKind.FILE, data="JVBERi0x"),
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0x"},
            },
        ),
        (
            Media(MediaKind.FILE, mime="text/csv", data="YSxi"),
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "a,b"}},
        ),
    ],
)
def test_media_that_the_wire_takes(media: Media, block: dict[str, Any]) -> None:
    assert turns(user(media)) == [{"role": "user", "content": [block]}]


@pytest.mark.parametrize(
    ("media", "name"),
    [
        (Media(MediaKind.AUDIO, mime="audio/wav", data="AAAA"), "audio"),
        (Media(MediaKind.VIDEO, url="https://e.org/x"), "video"),
        (Media(MediaKind.IMAGE, file_id="f"), "image"),
        (Media(MediaKind.FILE, mime="application/zip", data="AAAA"), "file"),
        (Media(MediaKind.FILE, mime="text/plain", data="/w=="), "file"),
    ],
)
def test_media_that_it_does_not_take_are_told(media: Media, name: str) -> None:
    encoded = encode(user("x", media))
    assert encoded.fields["messages"] == [{"role": "user", "content": [text("x")]}]
    assert encoded.dropped == (f"messages.{name}",)
    call = ToolCall("t1", "add")
    held = Message(Role.TOOL, (ToolResult("t1", (Text("4"), media)),))
    assert encode(user("x"), model(call), held).dropped == (f"messages.tool.{name}",)


def test_parts_of_this_vendors_own_go_back_and_others_are_told() -> None:
    own = Opaque("anthropic", "container_upload", Raw(b'{"type":"container_upload","file_id":"f"}'))
    other = Opaque("openai", "audio", Raw(b'{"type":"audio"}'))
    encoded = encode(user("x", own, other))
    assert encoded.fields["messages"][0]["content"] == [text("x"), {"type": "container_upload", "file_id": "f"}]
    assert encoded.dropped == ("messages.audio",)


def test_a_wish_to_cite_goes_with_its_document() -> None:
    wish = Opaque("anthropic", "citations", Raw(b'{"enabled":true}'))
    ((turn),) = turns(user(Media(MediaKind.FILE, url="https://e.org/x"), wish))
    assert turn["content"][0]["citations"] == {"enabled": True}


# --- cache marks


def test_marks_are_kept_where_they_stand() -> None:
    marked = Message(Role.SYSTEM, (Text("a", CacheMark.ONE_HOUR),))
    tool = FunctionTool("add", cache=CacheMark.FIVE_MINUTES)
    encoded = encode(marked, user(Text("b", CacheMark.FIVE_MINUTES)), tools=(tool,))
    assert encoded.fields["system"] == [text("a") | {"cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    assert encoded.fields["messages"][0]["content"][0]["cache_control"] == {"type": "ephemeral"}
    assert encoded.fields["tools"][0]["cache_control"] == {"type": "ephemeral"}
    assert encoded.dropped == ()


def test_of_too_many_marks_the_last_are_kept_in_the_order_of_the_prompt() -> None:
    tool = FunctionTool("add", cache=CacheMark.FIVE_MINUTES)
    texts = [Text(str(number), CacheMark.FIVE_MINUTES) for number in range(5)]
    encoded = encode(user(*texts), tools=(tool,))
    assert "cache_control" not in encoded.fields["tools"][0]
    kept = [block["text"] for block in encoded.fields["messages"][0]["content"] if "cache_control" in block]
    assert kept == ["1", "2", "3", "4"]
    assert encoded.dropped == ("messages.cache_control",)


# --- wishes


def test_sampling_in_the_wires_words() -> None:
    sampling = Sampling(temperature=0.5, top_k=7, stop=("END",))
    encoded = encode(user("x"), sampling=sampling, user="u1", service_tier="default")
    assert encoded.dropped == ()
    assert encoded.fields["temperature"] == 0.5
    assert encoded.fields["top_k"] == 7
    assert encoded.fields["stop_sequences"] == ["END"]
    assert encoded.fields["metadata"] == {"user_id": "u1"}
    assert encoded.fields["service_tier"] == "standard_only"


@pytest.mark.parametrize(
    ("sampling", "sent", "dropped"),
    [
        (Sampling(temperature=1.5), {"temperature": 1}, ("temperature",)),
        (Sampling(temperature=0.5, top_p=0.5), {"temperature": 0.5}, ("top_p",)),
        (Sampling(temperature=0.5, top_p=1), {"temperature": 0.5}, ()),
        (Sampling(temperature=1, top_p=0.5), {"top_p": 0.5}, ()),
        (Sampling(stop=("\n", "END")), {"stop_sequences": ["END"]}, ("stop",)),
        (Sampling(seed=0), {}, ("seed",)),
        (Sampling(presence_penalty=0, frequency_penalty=0, repetition_penalty=1, min_p=0), {}, ()),
        (
            Sampling(presence_penalty=1, frequency_penalty=-1, repetition_penalty=2, min_p=0.1),
            {},
            ("frequency_penalty", "min_p", "presence_penalty", "repetition_penalty"),
        ),
    ],
)
def test_sampling_that_the_wire_has_not(sampling: Sampling, sent: dict[str, Any], dropped: tuple[str, ...]) -> None:
    encoded = encode(user("x"), sampling=sampling)
    rest = {key: value for key, value in encoded.fields.items() if key not in ("model", "max_tokens", "messages")}
    assert (rest, encoded.dropped) == (sent, dropped)


@pytest.mark.parametrize(
    ("wish", "name"),
    [
        ({"choices": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"verbosity": "low"}, "verbosity"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"prompt_cache_key": "k"}, "prompt_cache_key"),
        ({"extras": {"made_up": Raw(b"1")}}, "made_up"),
    ],
)
def test_wishes_that_the_wire_has_not_are_told(wish: dict[str, Any], name: str) -> None:
    assert encode(user("x"), **wish).dropped == (name,)


def test_a_schema_for_the_answer_has_a_field_of_its_own() -> None:
    encoded = encode(user("x"), response_format=JsonSchema(Raw(b'{"type":"object","properties":{}}')))
    shape = {"type": "object", "properties": {}, "additionalProperties": False}
    assert encoded.fields["output_config"] == {"format": {"type": "json_schema", "schema": shape}}
    assert encoded.dropped == ()


def test_what_a_schema_is_for_stands_in_the_schema() -> None:
    for own, told in ((b'{"type":"string"}', "For you."), (b'{"type":"string","description":"Own."}', "Own.")):
        shape = JsonSchema(Raw(own), name="answer", description="For you.", strict=True)
        encoded = encode(user("x"), response_format=shape)
        assert encoded.fields["output_config"]["format"]["schema"] == {"type": "string", "description": told}
        assert encoded.dropped == ()


def test_any_json_object_can_only_be_asked_for_in_words() -> None:
    encoded = encode(system("Be brief."), user("x"), response_format=JsonObject())
    assert encoded.fields["system"][0] == text("Be brief.")
    assert "JSON" in encoded.fields["system"][1]["text"]
    assert encoded.dropped == ("response_format",)


def test_what_only_this_wire_has_is_passed_on() -> None:
    extras = {"container": Raw(b'"c1"'), "output_config": Raw(b'{"task_budget":{"total":5}}')}
    encoded = encode(user("x"), extras=extras, response_format=JsonSchema(Raw(b'{"type":"string"}')))
    assert encoded.fields["container"] == "c1"
    assert encoded.fields["output_config"]["task_budget"] == {"total": 5}
    assert encoded.fields["output_config"]["format"]["schema"] == {"type": "string"}
    assert encoded.dropped == ()
