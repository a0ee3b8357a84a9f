"""Laws of translation on OpenAI's chat wire, both ways, and no body that makes it raise anything but a refusal."""

import json
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerx.dialects.base import Aim, Asked, Frame
from routerx.dialects.effort import EFFORTS
from routerx.dialects.openai_chat import OPENAI
from routerx.dialects.sse import FrameSplitter
from routerx.dialects.tap import EventTap
from routerx.domain.call import Operation
from routerx.domain.chat import Answer, ChatRequest, Finish, MediaKind
from routerx.domain.events import Ended, Event, Failed, events_of, fold
from routerx.domain.model import EVERYTHING
from routerx.errors import InvalidJson, InvalidParameter
from routerx.jsonx import encode, request_object
from tests.support.canonical import Wire, answers, interleaved, requests, streams

AIM = Aim(model="m", capabilities=EVERYTHING, reasoning_field="reasoning")
PENALTIES = st.integers(-20, 20).map(lambda tenths: tenths / 10)
WIRE = Wire(
    origin="anthropic",
    system_anywhere=True,
    names=True,
    media=frozenset({MediaKind.IMAGE, MediaKind.VIDEO}),
    results_together=False,
    text_parts=False,
    signed_thoughts=True,
    redacted_thoughts=True,
    thought_ids=True,
    plain_thoughts=True,
    custom_tools=True,
    strict_tools=True,
    sampling={
        "temperature": st.integers(0, 20).map(lambda tenths: tenths / 10),
        "top_p": st.integers(0, 10).map(lambda tenths: tenths / 10),
        "top_k": st.integers(1, 100),
        "min_p": st.integers(0, 10).map(lambda tenths: tenths / 10),
        "seed": st.integers(0, 2**40),
        "presence_penalty": PENALTIES,
        "frequency_penalty": PENALTIES,
        "repetition_penalty": PENALTIES,
    },
    efforts=EFFORTS,
    wishes=("verbosity", "user", "service_tier", "prompt_cache_key"),
    choices_max=2,
    json_object=True,
    json_schema=True,
    schema_names=True,
    citations=True,
    finishes={
        Finish.STOP: "stop",
        Finish.LENGTH: "length",
        Finish.TOOL_CALLS: "tool_calls",
        Finish.CONTENT_FILTER: "content_filter",
    },
    buckets=("in_fresh", "in_cache_read", "out_text", "out_reasoning"),
)


def asked(choices: int = 2) -> Asked:
    request = ChatRequest(messages=(), wants_usage=True, choices=choices)
    return Asked(request=request, model="asked-for", request_id="r", created_s=1_700_000_000)


def told(events: list[Event]) -> bytes:
    encoder = OPENAI.source.encoder(asked())
    return b"".join(encoder.encode(event) for event in events) + encoder.end()


def heard(stream: bytes) -> list[Event]:
    decoder = OPENAI.target.decoder("seed")
    found: list[Event] = []
    for frame in FrameSplitter().feed(stream)[1]:
        found += decoder.feed(frame)
    return found


# --- round trips


@settings(max_examples=80)
@given(requests(WIRE))
def test_a_request_that_is_written_and_read_is_the_same(request: ChatRequest) -> None:
    encoded = OPENAI.target.encode_request(request, AIM)
    assert encoded.dropped == ()
    assert OPENAI.source.decode_request(request_object(encode(encoded.fields))) == request


@settings(max_examples=80)
@given(answers(WIRE))
def test_an_answer_that_is_told_and_heard_is_the_same(answer: Answer) -> None:
    body, dropped = OPENAI.source.encode_answer(answer, asked())
    assert dropped == ()
    assert OPENAI.target.decode_answer(body, "seed") == fold(events_of(answer))


@settings(max_examples=80)
@given(streams(WIRE))
def test_a_stream_that_is_told_and_heard_adds_up_to_the_same(events: list[Event]) -> None:
    again = heard(told(events))
    assert fold(again) == fold(events)
    assert isinstance(again[-1], Ended)


@settings(max_examples=40)
@given(streams(WIRE))
def test_calls_told_side_by_side_stay_apart(events: list[Event]) -> None:
    if len({getattr(event, "choice", 0) for event in events}) == 1:
        assert fold(heard(told(interleaved(events)))) == fold(events)


@settings(max_examples=40)
@given(answers(WIRE))
def test_usage_is_the_same_streamed_and_whole(answer: Answer) -> None:
    body, _ = OPENAI.source.encode_answer(answer, asked())
    reply = OPENAI.read_reply(Operation.CHAT, "application/json", body)
    assert not hasattr(reply, "kind")
    assert fold(heard(told(events_of(answer)))).usage == OPENAI.target.decode_answer(body, "s").usage == answer.usage


@settings(max_examples=40)
@given(streams(WIRE), st.data())
def test_cuts_at_any_byte_change_nothing(events: list[Event], data: st.DataObject) -> None:
    stream = told(events)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream) - 1), max_size=20)))

    def passed(chunks: list[bytes]) -> tuple[Any, ...]:
        tap = EventTap(OPENAI.target.decoder("seed"), FrameSplitter(), OPENAI.source.encoder(asked()), choices=2)
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
        *("type", "text", "role", "content", "name", "id", "function", "arguments", "image_url", "url", "input_audio"),
        *("data", "format", "file", "file_data", "file_id", "tool_calls", "tool_call_id", "custom", "input", "mode"),
        *("allowed_tools", "tools", "cache_control", "ttl", "effort", "max_tokens", "json_schema", "schema", "strict"),
        *("reasoning", "reasoning_content", "reasoning_details", "thinking_blocks", "signature", "extra_content"),
        *("google", "thought_signature", "images", "audio", "index", "summary", "annotations", "url_citation", "usage"),
        *("delta", "message", "finish_reason", "choices", "refusal", "prompt_tokens", "error", "x_groq"),
    )
)
_TYPES = st.sampled_from(
    (
        *("user", "assistant", "tool", "system", "function", "text", "image_url", "input_audio", "file", "custom"),
        *("thinking", "refusal", "json_schema", "reasoning.text", "reasoning.encrypted", "allowed_tools", "high"),
        *("data:image/png;base64,AAAA", "data:,x", "https://example.com/a.png", "call_1--rx1-gemini-AAAA", "null"),
    )
)
_ANY = st.recursive(
    _SCALARS | _TYPES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=5)
)
_OBJECTS = st.dictionaries(_WORDS, _ANY, max_size=6)
_FIELDS = (
    *("messages", "tools", "functions", "tool_choice", "function_call", "response_format", "reasoning"),
    *("reasoning_effort", "stop", "seed", "n", "max_tokens", "stream_options", "logprobs", "user", "min_p", "extra"),
)


@settings(max_examples=120)
@given(st.dictionaries(st.sampled_from(_FIELDS), _ANY | st.lists(_OBJECTS, max_size=3), max_size=5))
def test_no_body_of_a_caller_raises_anything_but_a_refusal(body: dict[str, Any]) -> None:
    fields = request_object(json.dumps({"model": "m", **body}).encode())
    try:
        request = OPENAI.source.decode_request(fields)
    except InvalidParameter:
        return
    encode(OPENAI.target.encode_request(request, AIM).fields)


@pytest.mark.parametrize("number", ["1" + "0" * 400, "-1" + "0" * 400, "1e400"])
@pytest.mark.parametrize("field", ["min_p", "repetition_penalty", "seed", "top_k", "n", "max_tokens", "top_logprobs"])
def test_no_number_is_too_large_to_be_refused(field: str, number: str) -> None:
    body = b'{"model": "m", "messages": [], "%s": %s}' % (field.encode(), number.encode())
    with suppress(InvalidParameter, InvalidJson):
        request = OPENAI.source.decode_request(request_object(body))
        encode(OPENAI.target.encode_request(request, AIM).fields)


@settings(max_examples=120)
@given(_ANY | _OBJECTS | st.fixed_dictionaries({"choices": st.lists(_OBJECTS, max_size=2)}))
def test_no_frame_of_a_provider_raises(value: Any) -> None:
    decoder = OPENAI.target.decoder("seed")
    encoder = OPENAI.source.encoder(asked())
    events = [*decoder.feed(Frame(0, json.dumps(value).encode())), *decoder.finish()]
    for event in events:
        if not isinstance(event, Failed):
            encoder.encode(event)
    encoder.end()


@settings(max_examples=80)
@given(st.fixed_dictionaries({"choices": st.lists(_OBJECTS, max_size=2)}, optional={"usage": _ANY, "model": _ANY}))
def test_no_whole_answer_of_a_provider_raises(value: Any) -> None:
    answer = OPENAI.target.decode_answer(json.dumps(value).encode(), "seed")
    OPENAI.source.encode_answer(answer, asked())
