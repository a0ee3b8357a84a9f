"""A caller's request as the canonical one."""

from typing import Any

import pytest

from routerx import jsonx
from routerx.dialects.anthropic import ANTHROPIC
from routerx.dialects.signatures import UNSIGNED, pack, pack_call_id
from routerx.domain.chat import (
    CacheMark,
    ChatRequest,
    Citation,
    FunctionTool,
    JsonSchema,
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
from routerx.errors import InvalidParameter
from routerx.jsonx import Raw

ADD = {"name": "add", "description": "Adds.", "input_schema": {"type": "object"}, "strict": True}


def decode(**fields: Any) -> ChatRequest:
    body = jsonx.encode({"model": "m", "max_tokens": 50, "messages": [], **fields})
    return ANTHROPIC.source.decode_request(jsonx.request_object(body))


def parts(*blocks: dict[str, Any], role: str = "user") -> tuple[Part, ...]:
    """Of the one message that the blocks make."""
    (message,) = decode(messages=[{"role": role, "content": list(blocks)}]).messages
    return message.parts


def refused(**fields: Any) -> str | None:
    with pytest.raises(InvalidParameter) as error:
        decode(**fields)
    return error.value.param


# --- wishes


def test_every_wish_has_its_place() -> None:
    request = decode(
        stream=True,
        temperature=0.5,
        top_p=0.25,
        top_k=7,
        stop_sequences=["END"],
        metadata={"user_id": "u1"},
        service_tier="auto",
        tools=[ADD],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
    )
    assert (request.stream, request.wants_usage, request.output_tokens_max) == (True, True, 50)
    assert request.sampling == Sampling(temperature=0.5, top_p=0.25, top_k=7, stop=("END",))
    assert (request.user, request.service_tier) == ("u1", "auto")
    assert request.tools == (FunctionTool("add", "Adds.", Raw(b'{"type":"object"}'), strict=True),)
    assert (request.tool_choice, request.parallel_tool_calls) == (ToolChoice("required"), False)
    assert request.extras == {}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, ToolChoice("auto")),
        ({"type": "any"}, ToolChoice("required")),
        ({"type": "none"}, ToolChoice("none")),
        ({"type": "tool", "name": "add"}, ToolChoice("tool", "add")),
    ],
)
def test_choices_of_tools(choice: dict[str, Any], expected: ToolChoice) -> None:
    request = decode(tools=[ADD], tool_choice=choice)
    assert (request.tool_choice, request.parallel_tool_calls) == (expected, None)


def test_a_choice_of_a_tool_that_is_not_there_is_refused() -> None:
    assert refused(tools=[ADD], tool_choice={"type": "tool", "name": "subtract"}) == "tool_choice"


def test_tools_of_the_vendors_own_keep_their_words() -> None:
    search = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
    (tool,) = decode(tools=[search]).tools
    assert isinstance(tool, Opaque)
    assert (tool.origin, tool.type) == ("anthropic", "web_search_20250305")
    assert jsonx.decode(bytes(tool.value)) == search


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"thinking": {"type": "disabled"}}, ReasoningWish(effort="none")),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, ReasoningWish(budget_tokens=2000, visible=True)),
        ({"thinking": {"type": "adaptive"}}, ReasoningWish(visible=True)),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, ReasoningWish(visible=False)),
        (
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}},
            ReasoningWish(effort="max", visible=True),
        ),
        ({"output_config": {"effort": "low"}}, ReasoningWish(effort="low")),
    ],
)
def test_wishes_to_think(fields: dict[str, Any], expected: ReasoningWish | None) -> None:
    assert decode(**fields).reasoning == expected


@pytest.mark.parametrize("place", ["output_format", "output_config"])
def test_a_schema_for_the_answer_may_stand_in_either_place(place: str) -> None:
    shape = {"type": "json_schema", "schema": {"type": "object"}}
    request = decode(**{place: shape if place == "output_format" else {"format": shape}})
    assert request.response_format == JsonSchema(Raw(b'{"type":"object"}'))
    assert request.extras == {}


def test_a_tier_of_another_name_gets_the_common_one() -> None:
    assert decode(service_tier="standard_only").service_tier == "default"


def test_what_nobody_else_has_is_carried_as_it_is() -> None:
    request = decode(container="c1", output_config={"effort": "low", "task_budget": {"total": 5}})
    assert request.extras == {"container": Raw(b'"c1"'), "output_config": Raw(b'{"task_budget":{"total":5}}')}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "hard"}}, "thinking.type"),
        ({"thinking": "hard"}, "thinking"),
        ({"output_config": {"effort": "huge"}}, "output_config.effort"),
        ({"output_format": {"type": "xml"}}, "output_format.type"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"tools": [{"description": "?"}]}, "tools[0].name"),
        ({"tools": ["add"]}, "tools[0]"),
        ({"stop_sequences": [1]}, "stop_sequences[0]"),
        ({"top_k": 0.5}, "top_k"),
        ({"system": 1}, "system"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_use"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "assistant", "content": [{"type": "tool_result"}]}]}, "messages[0].content[0].type"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_place(fields: dict[str, Any], param: str) -> None:
    assert refused(**fields) == param


def test_a_number_beyond_reading_is_refused() -> None:
    fields = jsonx.request_object(b'{"tools":[{"name":"add","input_schema":{"maximum":1e999}}]}')
    with pytest.raises(InvalidParameter) as error:
        ANTHROPIC.source.decode_request(fields)
    assert error.value.param == "tools"


# --- messages


def test_instructions_come_first_and_may_come_again() -> None:
    later = {"role": "system", "content": [{"type": "text", "text": "Louder."}]}
    request = decode(system="Sing.", messages=[{"role": "user", "content": "La"}, later])
    assert request.messages == (
        Message(Role.SYSTEM, (Text("Sing."),)),
        Message(Role.USER, (Text("La"),)),
        Message(Role.SYSTEM, (Text("Louder."),)),
    )


def test_instructions_in_blocks_keep_their_cache_marks() -> None:
    blocks = [
        {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "b", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
    ]
    (message,) = decode(system=blocks).messages
    assert message.parts == (Text("a", CacheMark.FIVE_MINUTES), Text("b", CacheMark.ONE_HOUR))


def test_results_of_tools_are_a_message_of_their_own_before_what_else_was_said() -> None:
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "4", "is_error": True}
    text = {"type": "text", "text": "Go on"}
    messages = decode(messages=[{"role": "user", "content": [text, result]}]).messages
    assert messages == (
        Message(Role.TOOL, (ToolResult("t1", (Text("4"),), is_error=True),)),
        Message(Role.USER, (Text("Go on"),)),
    )


def test_a_result_may_hold_pictures_and_what_only_this_vendor_shows() -> None:
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    found = {"type": "search_result", "source": "s", "title": "t", "content": [{"type": "text", "text": "x"}]}
    other = {"type": "tool_reference", "tool_name": "add"}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [picture, found, other]}
    (tool,) = parts(result)
    assert isinstance(tool, ToolResult)
    assert tool.parts == (
        Media(MediaKind.IMAGE, mime="image/png", data="AAAA"),
        Text("t\n\ns\n\nx"),
        Text('{"type":"tool_reference","tool_name":"add"}'),
    )


def test_a_call_has_its_input_as_text() -> None:
    block = {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": [1, "é"]}}
    assert parts(block, role="assistant") == (ToolCall("t1", "add", '{"a":[1,"é"]}'),)


def test_a_call_without_input_takes_nothing() -> None:
    assert parts({"type": "tool_use", "id": "t1", "name": "now"}, role="assistant") == (ToolCall("t1", "now"),)


def test_a_signature_packed_into_a_calls_id_is_found_and_its_result_finds_the_call() -> None:
    packed = pack_call_id("call_1", "gemini", "sig==")
    call = {"type": "tool_use", "id": packed, "name": "add", "input": {}}
    assert parts(call, role="assistant") == (ToolCall("call_1", "add", "{}", "sig==", "gemini"),)
    (result,) = parts({"type": "tool_result", "tool_use_id": packed})
    assert result == ToolResult("call_1")


def test_thoughts_belong_to_whoever_signed_them() -> None:
    blocks = [
        {"type": "thinking", "thinking": "own", "signature": "s1"},
        {"type": "thinking", "thinking": "theirs", "signature": pack("gemini", "s2", "id2")},
        {"type": "thinking", "thinking": "nobody's", "signature": UNSIGNED},
        {"type": "thinking", "thinking": "nobody's either", "signature": ""},
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "redacted_thinking", "data": "d1"},
        {"type": "redacted_thinking", "data": pack("responses", "d2")},
    ]
    assert parts(*blocks, role="assistant") == (
        Reasoning("own", "s1", "anthropic"),
        Reasoning("theirs", "s2", "gemini", id="id2"),
        Reasoning("nobody's"),
        Reasoning("nobody's either"),
        Reasoning("", "d1", "anthropic", redacted=True),
        Reasoning("", "d2", "responses", redacted=True),
    )


def test_a_text_keeps_the_sources_that_have_an_address() -> None:
    web = {"type": "web_search_result_location", "url": "https://e.org", "title": "E", "cited_text": "so"}
    place = {"type": "char_location", "document_index": 0, "cited_text": "so"}
    block = {"type": "text", "text": "So.", "citations": [web, place]}
    assert parts(block, role="assistant") == (Text("So.", citations=(Citation("https://e.org", "E", "so"),)),)


def test_blocks_of_the_vendors_own_keep_their_words() -> None:
    block = {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "q"}}
    (part,) = parts(block, role="assistant")
    assert isinstance(part, Opaque)
    assert (part.type, jsonx.decode(bytes(part.value))) == ("server_tool_use", block)


# --- media


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            {"type": "base64", "media_type": "image/jpg", "data": "AA-_"},
            Media(MediaKind.IMAGE, mime="image/jpeg", data="AA+/"),
        ),
        ({"type": "url", "url": "https://e.org/x"}, Media(MediaKind.IMAGE, url="https://e.org/x")),
        ({"type": "url", "url": "data:image/png;base64,AAAA"}, Media(MediaKind.IMAGE, mime="image/png", data="AAAA")),
        ({"type": "file", "file_id": "f1"}, Media(MediaKind.IMAGE, file_id="f1")),
    ],
)
def test_pictures_come_in_every_form(source: dict[str, Any], expected: Media) -> None:
    assert parts({"type": "image", "source": source}) == (expected,)


def test_a_picture_that_is_none_is_refused() -> None:
    for source, place in (
        ({"type": "base64", "media_type": "image/png", "data": "not base64!"}, "data"),
        ({"type": "url", "url": "ftp://e.org/x"}, "url"),
        ({"type": "telepathy"}, "type"),
    ):
        block = {"type": "image", "source": source}
        assert refused(messages=[{"role": "user", "content": [block]}]) == f"messages[0].content[0].source.{place}"


def test_a_document_is_a_file_with_its_title() -> None:
    source = {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}
    block = {"type": "document", "source": source, "title": "T", "context": "C"}
    pdf = Media(MediaKind.FILE, mime="application/pdf", data="AAAA", name="T")
    assert parts(block) == (pdf, Text("C"))


def test_a_document_of_text_is_text_that_any_wire_can_tell() -> None:
    source = {"type": "text", "media_type": "text/plain", "data": "Body"}
    assert parts({"type": "document", "source": source, "title": "T", "context": "C"}) == (Text("T\n\nC\n\nBody"),)


def test_a_document_of_blocks_is_its_blocks() -> None:
    source = {"type": "content", "content": [{"type": "text", "text": "Body"}]}
    assert parts({"type": "document", "source": source, "title": "T"}) == (Text("T"), Text("Body"))
    assert parts({"type": "document", "source": {"type": "content", "content": "Body"}}) == (Text("Body"),)


def test_a_wish_to_cite_a_document_is_kept_beside_it() -> None:
    source = {"type": "url", "url": "https://e.org/x.pdf"}
    media, wish = parts({"type": "document", "source": source, "citations": {"enabled": True}})
    assert media == Media(MediaKind.FILE, url="https://e.org/x.pdf")
    assert wish == Opaque("anthropic", "citations", Raw(b'{"enabled":true}'))
