"""Answers of Responses as callers get them, whole and streamed."""

import json
from typing import Any

import pytest
from openai.types.responses import Response

from routerx.dialects.base import Asked
from routerx.dialects.responses import RESPONSES
from routerx.dialects.signatures import MARK, UNSIGNED
from routerx.domain.chat import (
    Answer,
    ChatRequest,
    Choice,
    Citation,
    CustomTool,
    Finish,
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
)
from routerx.domain.events import events_of
from routerx.domain.usage import Usage
from routerx.jsonx import Raw
from tests.support.told import misshapen


def asked(**wishes: Any) -> Asked:
    messages = (Message(Role.SYSTEM, (Text("Be brief."),)), Message(Role.USER, (Text("hi"),)))
    return Asked(
        request=ChatRequest(messages=messages, **wishes), model="asked-for", request_id="r", created_s=1_700_000_000
    )


def answer(*parts: Part, finish: Finish = Finish.STOP, **more: Any) -> Answer:
    return Answer(
        (Choice(parts, finish),), usage=Usage(in_fresh=5, in_cache_read=2, out_text=3, out_reasoning=1), **more
    )


def told(value: Answer, **wishes: Any) -> dict[str, Any]:
    """Whole, and checked to be what the official client reads and what a stream ends with."""
    body, _ = RESPONSES.source.encode_answer(value, asked(**wishes))
    Response.model_validate_json(body, strict=True)
    encoder = RESPONSES.source.encoder(asked(**wishes))
    stream = b"".join(encoder.encode(event) for event in events_of(value)) + encoder.end()
    assert misshapen("responses", stream, stream=True) is None
    found: dict[str, Any] = json.loads(body)
    if value.service_tier is None:
        assert json.loads(stream.rstrip().rpartition(b"data: ")[2])["response"] == found
    return found


def kinds(stream: bytes) -> list[str]:
    return [line.removeprefix(b"event: ").decode() for line in stream.splitlines() if line.startswith(b"event: ")]


def test_ids_and_the_model_stand_in_where_the_provider_names_none() -> None:
    body = told(answer(Text("x")))
    assert (body["id"], body["model"], body["created_at"]) == ("resp_r", "asked-for", 1_700_000_000)
    assert told(answer(Text("x"), id="msg_1", model="served"))["model"] == "served"


def test_totals_include_their_parts() -> None:
    assert told(answer(Text("x")))["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        "output_tokens": 4,
        "output_tokens_details": {"reasoning_tokens": 1},
        "total_tokens": 11,
    }


def test_what_was_asked_is_repeated() -> None:
    body = told(
        answer(Text("x")),
        tools=(FunctionTool("f"), CustomTool("c"), Opaque("responses", "web_search", Raw(b'{"type":"web_search"}'))),
        tool_choice=ToolChoice("tool", "c"),
        parallel_tool_calls=False,
        sampling=Sampling(temperature=0.5, top_p=0.9),
        output_tokens_max=70,
        response_format=JsonSchema(Raw(b"{}"), "n"),
        reasoning=ReasoningWish(effort="low", visible=True),
        verbosity="low",
        metadata=Raw(b'{"a":"b"}'),
        user="u",
    )
    assert body["instructions"] == "Be brief."
    assert [tool["type"] for tool in body["tools"]] == ["function", "custom", "web_search"]
    assert body["tool_choice"] == {"type": "custom", "name": "c"}
    assert body["parallel_tool_calls"] is False
    assert (body["temperature"], body["top_p"], body["max_output_tokens"]) == (0.5, 0.9, 70)
    assert body["text"]["format"]["name"] == "n"
    assert body["text"]["verbosity"] == "low"
    assert body["reasoning"] == {"effort": "low", "summary": "auto"}
    assert (body["metadata"], body["user"], body["store"]) == ({"a": "b"}, "u", False)


@pytest.mark.parametrize(
    ("finish", "status", "reason"),
    [
        (Finish.STOP, "completed", None),
        (Finish.TOOL_CALLS, "completed", None),
        (Finish.LENGTH, "incomplete", "max_output_tokens"),
        (Finish.CONTENT_FILTER, "incomplete", "content_filter"),
        (Finish.OTHER, "completed", None),
    ],
)
def test_why_it_ended_is_told(finish: Finish, status: str, reason: str | None) -> None:
    body = told(answer(Text("x"), finish=finish))
    assert body["status"] == status
    assert body["incomplete_details"] == (None if reason is None else {"reason": reason})


def test_items_come_in_order_and_what_is_said_in_a_row_is_one_message() -> None:
    body = told(
        answer(
            Reasoning("hm"),
            Text("a", citations=(Citation("https://example.com", "t"),)),
            Refusal("No."),
            ToolCall("c1", "f", "{}"),
            ToolCall("c2", "c", "free", custom=True),
            Text("b"),
        )
    )
    assert [item["type"] for item in body["output"]] == [
        *("reasoning", "message", "function_call", "custom_tool_call", "message"),
    ]
    assert [part["type"] for part in body["output"][1]["content"]] == ["output_text", "refusal"]
    assert body["output"][1]["content"][0]["annotations"][0]["url"] == "https://example.com"
    assert len({item["id"] for item in body["output"]}) == 5


def test_thoughts_that_this_wires_vendor_would_refuse_are_marked() -> None:
    sealed = Reasoning("", "xx", "anthropic", redacted=True)
    output = told(answer(Reasoning("b", "sig", "anthropic"), sealed, Reasoning("a"), Text("x")))["output"]
    assert all(item["encrypted_content"].startswith(MARK) for item in output[:3])
    assert output[0]["summary"] == [{"type": "summary_text", "text": "b"}]
    assert output[1]["summary"] == []
    assert output[2]["encrypted_content"] == UNSIGNED


def test_a_picture_is_told_as_the_wires_own_tool_would() -> None:
    output = told(answer(Text("Look:"), Media(MediaKind.IMAGE, mime="image/png", data="AAAA")))["output"]
    assert (output[1]["type"], output[1]["result"]) == ("image_generation_call", "AAAA")


def test_what_has_no_place_on_this_wire_is_said() -> None:
    value = Answer(
        (
            Choice((Text("a"), Opaque("anthropic", "odd", Raw(b"{}")), Media(MediaKind.AUDIO, data="AA")), Finish.STOP),
            Choice((Text("b"),), Finish.STOP),
        )
    )
    body, dropped = RESPONSES.source.encode_answer(value, asked(choices=2))
    encoder = RESPONSES.source.encoder(asked(choices=2))
    stream = b"".join(encoder.encode(event) for event in events_of(value)) + encoder.end()
    assert dropped == ("audio", "n", "odd")
    assert encoder.dropped == set(dropped)
    assert [item["type"] for item in json.loads(body)["output"]] == ["message"]
    assert misshapen("responses", stream, stream=True) is None


def test_the_tier_that_served_is_told() -> None:
    assert told(answer(Text("x"), service_tier="priority"), service_tier="auto")["service_tier"] == "priority"


def test_a_stream_has_the_wires_events_and_no_end_mark_of_another() -> None:
    value = answer(Reasoning("hm"), Text("x"), ToolCall("c1", "f", "{}"))
    encoder = RESPONSES.source.encoder(asked())
    stream = b"".join(encoder.encode(event) for event in events_of(value)) + encoder.end()
    assert kinds(stream) == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert b"[DONE]" not in stream


def test_a_stream_without_a_finish_is_told_as_one_that_stopped() -> None:
    encoder = RESPONSES.source.encoder(asked())
    stream = b"".join(encoder.encode(event) for event in events_of(answer(Text("x")))[:2]) + encoder.end()
    assert kinds(stream)[-1] == "response.completed"
    assert misshapen("responses", stream, stream=True) is None
