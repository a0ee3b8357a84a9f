"""What goes through Messages and back is what it was, however it is cut."""

from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from routerx import jsonx
from routerx.dialects.anthropic import ANTHROPIC
from routerx.dialects.base import Aim, Asked
from routerx.dialects.sse import FrameSplitter
from routerx.dialects.tap import EventTap
from routerx.domain.call import Operation, Peek
from routerx.domain.chat import Answer, ChatRequest, Finish, MediaKind, Reasoning, ToolCall, ToolChoice
from routerx.domain.events import Event, Failed, fold
from routerx.domain.model import Capability
from routerx.errors import InvalidParameter
from routerx.jsonx import request_object
from tests.support.canonical import Wire, answers, interleaved, requests, streams

HISTORY = Wire(
    "anthropic",
    media=frozenset({MediaKind.IMAGE, MediaKind.FILE}),
    result_media=True,
    result_errors=True,
    signed_thoughts=True,
    redacted_thoughts=True,
    strict_tools=True,
    efforts=(),
    wishes=("user",),
    json_schema=True,
    sampling={"temperature": st.floats(0, 1), "top_k": st.integers(1, 100)},
)
MARKED = Wire("anthropic", cache=True, efforts=())
EFFORTS = Wire("anthropic", efforts=("none", "low", "medium", "high", "max"), json_schema=True)
BUDGETS = Wire("anthropic", efforts=("none",), budgets=True, signed_thoughts=True)
TOLD = Wire(
    "anthropic",
    signed_thoughts=True,
    redacted_thoughts=True,
    plain_thoughts=True,
    citations=True,
    finishes={
        Finish.STOP: "end_turn",
        Finish.LENGTH: "max_tokens",
        Finish.TOOL_CALLS: "tool_use",
        Finish.CONTENT_FILTER: "refusal",
    },
    stop_sequence="stop_sequence",
    buckets=(
        "in_fresh",
        "in_cache_read",
        "in_cache_write_5m",
        "in_cache_write_1h",
        "out_text",
        "out_reasoning",
        "searches",
    ),
)
FOREIGN = replace(TOLD, origin="gemini", signed_calls=True, thought_ids=True)
"""What another vendor's model says to a caller of this wire."""

ASKED = Asked(request=ChatRequest(messages=()), model="m", request_id="r1", created_s=1)


def there_and_back(request: ChatRequest, *capabilities: Capability) -> tuple[ChatRequest, tuple[str, ...]]:
    aim = Aim(model="m", output_tokens_max=64_000, capabilities=frozenset(capabilities))
    encoded = ANTHROPIC.target.encode_request(request, aim)
    body = jsonx.encode(encoded.fields)
    fields = request_object(body)
    assert ANTHROPIC.peek(Operation.CHAT, body, fields).model == "m"
    return ANTHROPIC.source.decode_request(fields), encoded.dropped


def normal(request: ChatRequest) -> ChatRequest:
    """What this wire always says: a choice beside the number of calls, and that thoughts are to be seen."""
    choice, parallel = request.tool_choice, request.parallel_tool_calls
    if choice is None and parallel is False:
        choice = ToolChoice("auto")
    if choice is not None and choice.mode == "none":
        parallel = None
    wish = request.reasoning
    if wish is not None and wish.effort != "none":
        wish = msgspec.structs.replace(wish, visible=True)
    return msgspec.structs.replace(request, tool_choice=choice, parallel_tool_calls=parallel, reasoning=wish)


# --- requests


@settings(max_examples=40)
@given(requests(HISTORY))
def test_a_request_survives(request: ChatRequest) -> None:
    assert there_and_back(request) == (normal(request), ())


@settings(max_examples=40)
@given(requests(MARKED))
def test_cache_marks_survive_or_their_loss_is_told(request: ChatRequest) -> None:
    back, dropped = there_and_back(request)
    assert dropped in ((), ("messages.cache_control",))
    if not dropped:
        assert back == normal(request)


@settings(max_examples=40)
@given(requests(EFFORTS))
def test_an_effort_survives_where_the_model_takes_one(request: ChatRequest) -> None:
    back, dropped = there_and_back(request, Capability.REASONING, Capability.ADAPTIVE_REASONING)
    assert (back, dropped) == (normal(request), ())


@settings(max_examples=40)
@given(requests(BUDGETS))
def test_a_budget_survives_where_the_model_takes_one(request: ChatRequest) -> None:
    back, dropped = there_and_back(request, Capability.REASONING)
    if not dropped:
        assert back == normal(request)
    else:
        assert dropped == ("reasoning_effort",)


# --- answers


@settings(max_examples=50)
@given(answers(TOLD))
def test_an_answer_survives(answer: Answer) -> None:
    body, dropped = ANTHROPIC.source.encode_answer(answer, ASKED)
    assert (ANTHROPIC.target.decode_answer(body, "s"), dropped) == (answer, ())
    reply = ANTHROPIC.read_reply(Operation.CHAT, "application/json", body)
    assert getattr(reply, "usage", None) == answer.usage


def told(events: list[Event]) -> bytes:
    encoder = ANTHROPIC.source.encoder(ASKED)
    frames = b"".join(encoder.encode(event) for event in events) + encoder.end()
    assert not encoder.dropped
    return frames


def heard(stream: bytes, cuts: list[int]) -> list[Event]:
    decoder, splitter = ANTHROPIC.target.decoder("s"), FrameSplitter()
    events: list[Event] = []
    for a, b in pairwise([0, *cuts, len(stream)]):
        for frame in splitter.feed(stream[a:b])[1]:
            events += decoder.feed(frame)
    return [*events, *decoder.finish()]


@settings(max_examples=50)
@given(streams(TOLD), st.booleans(), st.data())
def test_a_stream_survives_at_any_cut(events: list[Event], side_by_side: bool, data: st.DataObject) -> None:
    stream = told(interleaved(events) if side_by_side else events)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream) - 1), max_size=6)))
    assert fold(heard(stream, cuts)) == fold(events)


@settings(max_examples=40)
@given(answers(TOLD))
def test_a_whole_answer_in_place_of_a_stream_says_the_same(answer: Answer) -> None:
    body, _ = ANTHROPIC.source.encode_answer(answer, ASKED)
    assert fold(heard(ANTHROPIC.to_stream(body), [])) == answer


@settings(max_examples=40)
@given(streams(TOLD))
def test_the_blocks_of_a_stream_follow_each_other(events: list[Event]) -> None:
    open_block, expected = None, 0
    names = []
    for frame in FrameSplitter().feed(told(interleaved(events)))[1]:
        event = jsonx.decode(frame.data or b"")
        names.append(event["type"])
        assert frame.event.decode() == event["type"]
        match event["type"]:
            case "content_block_start":
                assert (open_block, event["index"]) == (None, expected)
                open_block, expected = expected, expected + 1
            case "content_block_delta":
                assert event["index"] == open_block
            case "content_block_stop":
                assert event["index"] == open_block
                open_block = None
    assert open_block is None
    assert (names[0], names[-2:]) == ("message_start", ["message_delta", "message_stop"])


@settings(max_examples=40)
@given(answers(FOREIGN))
def test_what_another_vendor_signed_comes_back_through_a_caller_unchanged(answer: Answer) -> None:
    body, _ = ANTHROPIC.source.encode_answer(answer, ASKED)
    content = jsonx.decode(body)["content"]
    fields = request_object(jsonx.encode({"messages": [{"role": "assistant", "content": content}]}))
    (message,) = ANTHROPIC.source.decode_request(fields).messages
    signed = (Reasoning, ToolCall)
    assert [part for part in message.parts if isinstance(part, signed)] == [
        part for part in answer.choices[0].parts if isinstance(part, signed)
    ]


@settings(max_examples=40)
@given(answers(TOLD), st.data())
def test_streamed_usage_is_buffered_usage_when_bytes_pass(answer: Answer, data: st.DataObject) -> None:
    body, _ = ANTHROPIC.source.encode_answer(answer, ASKED)
    stream = ANTHROPIC.to_stream(body)
    tap = ANTHROPIC.tap(Peek(Operation.CHAT, "m"), strip_usage=False)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream) - 1), max_size=6)))
    out = b"".join(tap.feed(stream[a:b]) for a, b in pairwise([0, *cuts, len(stream)]))
    assert tap.close() is None
    assert (out + tap.terminal, tap.usage) == (stream, answer.usage)


# --- anything at all

_JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
_KEYS = ("type", "text", "content", "source", "id", "name", "input", "tool_use_id", "data", "media_type", "citations")
_KINDS = [
    "text",
    "image",
    "document",
    "search_result",
    "thinking",
    "redacted_thinking",
    "tool_use",
    "tool_result",
    "base64",
    "url",
    "file",
    "content",
    "json_schema",
    "enabled",
    "adaptive",
    "tool",
    "custom",
    "web_search_20250305",
]
_BLOCK: Any = st.deferred(
    lambda: st.dictionaries(st.sampled_from(_KEYS), _JSON | st.sampled_from(_KINDS) | st.lists(_BLOCK, max_size=2))
)
_FIELD = st.sampled_from(
    [
        "system",
        "tools",
        "tool_choice",
        "thinking",
        "output_config",
        "output_format",
        "stop_sequences",
        "metadata",
        "service_tier",
        "top_k",
        "temperature",
        "max_tokens",
        "stream",
        "cache_control",
        "mcp_servers",
    ]
)
_ROLES = st.sampled_from(("user", "assistant", "system"))
_MESSAGE = st.fixed_dictionaries({"role": _ROLES, "content": st.lists(_BLOCK, max_size=3) | _JSON}) | _JSON


@settings(max_examples=60)
@given(st.lists(_MESSAGE, max_size=3) | _JSON, st.dictionaries(_FIELD, _BLOCK | st.lists(_BLOCK, max_size=2) | _JSON))
def test_no_body_is_a_fault_of_ours(messages: Any, more: dict[str, Any]) -> None:
    body = jsonx.encode({"model": "m", "max_tokens": 1, "messages": messages, **more})
    fields = request_object(body)
    for operation in (Operation.CHAT, Operation.COUNT_TOKENS):
        with suppress(InvalidParameter):
            ANTHROPIC.peek(operation, body, fields)
            request = ANTHROPIC.source.decode_request(fields)
            jsonx.encode(ANTHROPIC.target.encode_request(request, Aim(model="m")).fields)
            jsonx.encode(ANTHROPIC.request_fields(fields, model="m", ask_usage=False))


_EVENTS = st.sampled_from(
    [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "x",
    ]
)
_DELTAS = st.sampled_from(
    ["text_delta", "thinking_delta", "signature_delta", "input_json_delta", "citations_delta", "other"]
)
_ODD = st.fixed_dictionaries(
    {"type": _EVENTS},
    optional={
        "index": st.integers(-1, 2) | _JSON,
        "message": _JSON | st.fixed_dictionaries({"usage": _JSON}),
        "usage": _JSON | st.dictionaries(st.sampled_from(("input_tokens", "output_tokens")), st.integers()),
        "content_block": _JSON
        | st.fixed_dictionaries({"type": st.sampled_from(_KINDS)}, optional={"input": _JSON, "text": _JSON}),
        "delta": _JSON
        | st.fixed_dictionaries(
            {"type": _DELTAS}, optional={"text": _JSON, "partial_json": _JSON, "stop_reason": _JSON}
        ),
    },
)


@settings(max_examples=60)
@given(st.lists(_ODD | _JSON, max_size=8))
def test_no_stream_makes_the_decoder_raise(values: list[Any]) -> None:
    stream = b"".join(b"data: " + jsonx.encode(value) + b"\n\n" for value in values)
    tap = EventTap(ANTHROPIC.target.decoder("s"), FrameSplitter(), ANTHROPIC.source.encoder(ASKED))
    tap.feed(stream)
    tap.close()
    events = heard(stream, [])
    fold(events)
    assert all(not isinstance(event, Failed) for event in events[:-1]) or any(
        not isinstance(value, dict) or value.get("error") for value in values
    )


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from(("content", "stop_reason", "usage", "type", "model")), _JSON | st.lists(_BLOCK)))
def test_no_answer_makes_reading_raise(value: dict[str, Any]) -> None:
    body = jsonx.encode(value)
    ANTHROPIC.read_reply(Operation.CHAT, "application/json", body)
    ANTHROPIC.read_reply(Operation.COUNT_TOKENS, "application/json", body)
    ANTHROPIC.target.decode_answer(body, "s")
    ANTHROPIC.to_stream(body)
