"""Laws of translation on the Responses wire, both ways, and no body that makes it raise anything but a refusal."""

import json
from collections.abc import Iterable
from contextlib import suppress
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerx.dialects.base import Aim, Asked, Frame, Reply
from routerx.dialects.effort import EFFORTS
from routerx.dialects.responses import RESPONSES
from routerx.dialects.sse import FrameSplitter
from routerx.dialects.tap import EventTap
from routerx.domain.call import Operation
from routerx.domain.chat import (
    Answer,
    ChatRequest,
    Finish,
    FunctionTool,
    JsonSchema,
    MediaKind,
    Message,
    Part,
    Reasoning,
    Role,
    Text,
    ToolCall,
)
from routerx.domain.events import Ended, Event, Failed, events_of, fold
from routerx.domain.model import EVERYTHING
from routerx.errors import InvalidJson, InvalidParameter
from routerx.jsonx import encode, request_object
from tests.support.canonical import Wire, answers, interleaved, requests, streams
from tests.support.told import misshapen

AIM = Aim(model="m", capabilities=EVERYTHING)
FINISHES = {
    Finish.STOP: "completed",
    Finish.LENGTH: "max_output_tokens",
    Finish.TOOL_CALLS: "completed",
    Finish.CONTENT_FILTER: "content_filter",
}
WIRE = Wire(
    origin="responses",
    system_anywhere=True,
    media=frozenset({MediaKind.IMAGE, MediaKind.AUDIO}),
    result_media=True,
    signed_thoughts=True,
    thought_ids=True,
    custom_tools=True,
    strict_tools=True,
    sampling={
        "temperature": st.integers(0, 20).map(lambda tenths: tenths / 10),
        "top_p": st.integers(0, 10).map(lambda tenths: tenths / 10),
    },
    stops=False,
    efforts=EFFORTS,
    wishes=("verbosity", "user", "service_tier", "prompt_cache_key"),
    json_object=True,
    json_schema=True,
    schema_names=True,
    finishes=FINISHES,
    buckets=("in_fresh", "in_cache_read", "in_cache_write_5m", "out_text", "out_reasoning"),
)
OTHER = Wire(
    origin="anthropic",
    signed_thoughts=True,
    redacted_thoughts=True,
    signed_calls=True,
    citations=True,
    finishes=FINISHES,
    buckets=WIRE.buckets,
)


def asked() -> Asked:
    return Asked(request=ChatRequest(messages=()), model="asked-for", request_id="r", created_s=1_700_000_000)


def normal(request: ChatRequest) -> ChatRequest:
    """As this wire tells it: strictness of a tool always said, texts of the first instructions in one, a name for
    every schema, and thoughts in summary where there are any."""
    tools = tuple(
        msgspec.structs.replace(tool, strict=tool.strict is True) if isinstance(tool, FunctionTool) else tool
        for tool in request.tools
    )
    shape = request.response_format
    if isinstance(shape, JsonSchema) and shape.name is None:
        shape = msgspec.structs.replace(shape, name="answer")
    messages = list(request.messages)
    if len(messages) > 1 and messages[0].role is Role.SYSTEM:
        said = "\n\n".join(part.text for part in messages[0].parts if isinstance(part, Text))
        messages[0] = Message(Role.SYSTEM, (Text(said),))
    wish = request.reasoning
    if wish is not None and wish.effort != "none":
        wish = msgspec.structs.replace(wish, visible=True)
    return msgspec.structs.replace(
        request, messages=tuple(messages), tools=tools, response_format=shape, reasoning=wish
    )


def signed(parts: Iterable[Part]) -> list[object]:
    """What vendors may have signed."""
    found: list[object] = []
    for part in parts:
        if isinstance(part, Reasoning):
            found.append(part)
        elif isinstance(part, ToolCall):
            found.append((part.id, part.signature, part.origin))
    return found


def told(events: list[Event]) -> bytes:
    encoder = RESPONSES.source.encoder(asked())
    return b"".join(encoder.encode(event) for event in events) + encoder.end()


def heard(stream: bytes) -> list[Event]:
    decoder = RESPONSES.target.decoder("seed")
    found: list[Event] = []
    for frame in FrameSplitter().feed(stream)[1]:
        found += decoder.feed(frame)
    return found


# --- round trips


@settings(max_examples=80)
@given(requests(WIRE))
def test_a_request_that_is_written_and_read_is_the_same(request: ChatRequest) -> None:
    encoded = RESPONSES.target.encode_request(request, AIM)
    if not encoded.dropped:
        assert RESPONSES.source.decode_request(request_object(encode(encoded.fields))) == normal(request)


@settings(max_examples=80)
@given(requests(WIRE))
def test_nothing_that_this_wire_can_say_is_dropped(request: ChatRequest) -> None:
    dropped = RESPONSES.target.encode_request(request, AIM).dropped
    assert set(dropped) <= {"messages.audio"}


@settings(max_examples=80)
@given(answers(WIRE))
def test_an_answer_that_is_told_and_heard_is_the_same(answer: Answer) -> None:
    body, dropped = RESPONSES.source.encode_answer(answer, asked())
    assert dropped == ()
    assert RESPONSES.target.decode_answer(body, "seed") == fold(events_of(answer))


@settings(max_examples=80)
@given(streams(WIRE))
def test_a_stream_that_is_told_and_heard_adds_up_to_the_same(events: list[Event]) -> None:
    again = heard(told(events))
    assert fold(again) == fold(events)
    assert isinstance(again[-1], Ended)


@settings(max_examples=40)
@given(streams(OTHER))
def test_the_last_event_of_a_stream_holds_the_whole_answer(events: list[Event]) -> None:
    stream = told(events)
    body, _ = RESPONSES.source.encode_answer(fold(events), asked())
    last = json.loads(stream.rstrip().rpartition(b"data: ")[2])
    assert last["response"] == json.loads(body)


@settings(max_examples=40)
@given(streams(OTHER))
def test_the_official_client_can_read_every_stream_and_every_answer(events: list[Event]) -> None:
    assert misshapen("responses", told(events), stream=True) is None
    assert misshapen("responses", RESPONSES.source.encode_answer(fold(events), asked())[0], stream=False) is None


@settings(max_examples=40)
@given(streams(OTHER))
def test_calls_told_side_by_side_are_told_whole(events: list[Event]) -> None:
    mixed = interleaved(events)
    assert misshapen("responses", told(mixed), stream=True) is None
    assert fold(heard(told(mixed))) == fold(heard(told(events)))


@settings(max_examples=60)
@given(answers(OTHER))
def test_what_another_vendor_signed_comes_back_as_it_was(answer: Answer) -> None:
    body, _ = RESPONSES.source.encode_answer(answer, asked())
    output = json.loads(body)["output"]
    again = RESPONSES.source.decode_request(request_object(json.dumps({"model": "m", "input": output}).encode()))
    assert signed(part for message in again.messages for part in message.parts) == signed(answer.choices[0].parts)


@settings(max_examples=40)
@given(answers(WIRE))
def test_usage_is_the_same_streamed_and_whole(answer: Answer) -> None:
    body, _ = RESPONSES.source.encode_answer(answer, asked())
    reply = RESPONSES.read_reply(Operation.CHAT, "application/json", body)
    assert isinstance(reply, Reply)
    assert reply.usage == answer.usage
    assert fold(heard(told(events_of(answer)))).usage == answer.usage


@settings(max_examples=40)
@given(answers(WIRE))
def test_an_answer_passed_as_a_stream_says_the_same(answer: Answer) -> None:
    body, _ = RESPONSES.source.encode_answer(answer, asked())
    stream = RESPONSES.to_stream(body)
    assert misshapen("responses", stream, stream=True) is None
    assert fold(heard(stream)) == RESPONSES.target.decode_answer(body, "seed")


@settings(max_examples=40)
@given(streams(WIRE), st.data())
def test_cuts_at_any_byte_change_nothing(events: list[Event], data: st.DataObject) -> None:
    stream = told(events)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream) - 1), max_size=20)))

    def passed(chunks: list[bytes]) -> tuple[Any, ...]:
        tap = EventTap(RESPONSES.target.decoder("seed"), FrameSplitter(), RESPONSES.source.encoder(asked()))
        out = b"".join(tap.feed(chunk) for chunk in chunks)
        return tap.close(), out + tap.terminal, tap.usage, tap.output_chars

    bounds = [0, *cuts, len(stream)]
    assert passed([stream[a:b] for a, b in pairwise(bounds)]) == passed([stream])


# --- any body

_SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
)
_WORDS = st.sampled_from(
    (
        *("type", "text", "role", "content", "name", "id", "arguments", "image_url", "input_audio", "format", "data"),
        *("file_data", "file_id", "file_url", "filename", "detail", "call_id", "output", "input", "summary"),
        *("encrypted_content", "mode", "tools", "schema", "strict", "effort", "delta", "item", "response", "refusal"),
        *("output_index", "annotations", "annotation", "url", "status", "error", "usage", "input_tokens", "result"),
        *("incomplete_details", "reason", "model", "action", "verbosity", "parameters", "code", "message"),
    )
)
_TYPES = st.sampled_from(
    (
        *("user", "assistant", "system", "developer", "message", "reasoning", "function_call", "custom_tool_call"),
        *("function_call_output", "item_reference", "compaction", "web_search_call", "image_generation_call"),
        *("input_text", "output_text", "input_image", "input_file", "input_audio", "refusal", "json_schema"),
        *("allowed_tools", "function", "custom", "high", "auto", "required", "failed", "incomplete", "completed"),
        *("data:image/png;base64,AAAA", "data:,x", "https://example.com/a.png", "call_1--rx1-gemini-AAAA", "null"),
        *("rx1.none..", "rx1.anthropic..sig", "response.output_item.added", "response.output_item.done", "error"),
        *("response.completed", "response.created", "response.failed", "response.output_text.delta"),
        *("response.function_call_arguments.delta", "response.reasoning_summary_part.added"),
        *("response.reasoning_text.delta", "response.output_text.annotation.added", "response.refusal.delta"),
    )
)
_ANY = st.recursive(
    _SCALARS | _TYPES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=5)
)
_OBJECTS = st.dictionaries(_WORDS, _ANY, max_size=6)
_FIELDS = (
    *("input", "instructions", "tools", "tool_choice", "text", "reasoning", "include", "metadata", "truncation"),
    *("stream", "max_output_tokens", "temperature", "top_p", "top_logprobs", "user", "safety_identifier"),
    *("parallel_tool_calls", "background", "previous_response_id", "service_tier", "prompt_cache_key", "extra"),
)


@settings(max_examples=150)
@given(st.dictionaries(st.sampled_from(_FIELDS), _ANY | st.lists(_OBJECTS, max_size=3), max_size=5))
def test_no_body_of_a_caller_raises_anything_but_a_refusal(body: dict[str, Any]) -> None:
    data = json.dumps({"model": "m", **body}).encode()
    fields = request_object(data)
    with suppress(InvalidParameter):
        RESPONSES.peek(Operation.CHAT, data, fields)
    RESPONSES.request_fields(fields, model="m", ask_usage=True)
    try:
        request = RESPONSES.source.decode_request(fields)
    except InvalidParameter:
        return
    encode(RESPONSES.target.encode_request(request, AIM).fields)


@pytest.mark.parametrize("number", ["1" + "0" * 400, "-1" + "0" * 400, "1e400"])
@pytest.mark.parametrize("field", ["input", "tools", "text", "max_output_tokens", "top_logprobs", "metadata"])
def test_no_number_is_too_large_to_be_refused(field: str, number: str) -> None:
    value = f'[{{"type": "input_image", "content": [{number}]}}]' if field == "input" else number
    body = f'{{"model": "m", "input": "hi", "{field}": {value}}}'.encode()
    with suppress(InvalidParameter, InvalidJson):
        RESPONSES.peek(Operation.CHAT, body, request_object(body))
    with suppress(InvalidParameter, InvalidJson):
        request = RESPONSES.source.decode_request(request_object(body))
        encode(RESPONSES.target.encode_request(request, AIM).fields)


@settings(max_examples=150)
@given(st.lists(_ANY | _OBJECTS | st.fixed_dictionaries({"type": _TYPES}, optional={"item": _OBJECTS}), max_size=4))
def test_no_frame_of_a_provider_raises(values: list[Any]) -> None:
    decoder = RESPONSES.target.decoder("seed")
    encoder = RESPONSES.source.encoder(asked())
    for value in values:
        for event in decoder.feed(Frame(0, json.dumps(value).encode())):
            if not isinstance(event, Failed):
                encoder.encode(event)
    encoder.end()


@settings(max_examples=100)
@given(st.fixed_dictionaries({"output": st.lists(_OBJECTS, max_size=3)}, optional={"usage": _ANY, "error": _ANY}))
def test_no_whole_answer_of_a_provider_raises(value: Any) -> None:
    body = json.dumps(value).encode()
    RESPONSES.read_reply(Operation.CHAT, "application/json", body)
    RESPONSES.to_stream(body)
    RESPONSES.source.encode_answer(RESPONSES.target.decode_answer(body, "seed"), asked())
