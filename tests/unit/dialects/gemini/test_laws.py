"""Laws of translation on the generateContent wire, both ways; and no body makes it raise anything but a refusal."""

from contextlib import suppress
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerx.dialects.base import Aim, Asked
from routerx.dialects.gemini import GEMINI
from routerx.dialects.sse import FrameSplitter
from routerx.dialects.tap import EventTap
from routerx.domain.call import Operation
from routerx.domain.chat import Answer, ChatRequest, Finish, MediaKind, Message, ToolCall, ToolResult
from routerx.domain.events import Event, events_of, fold
from routerx.domain.model import EVERYTHING
from routerx.errors import InvalidJson, InvalidParameter
from routerx.jsonx import encode, request_object
from tests.support.canonical import Wire, answers, requests, streams

AIM = Aim(model="gemini-2.5-pro", capabilities=EVERYTHING)
TENTHS = st.integers(-20, 20).map(lambda tenths: tenths / 10)
WIRE = Wire(
    origin="gemini",
    media=frozenset({MediaKind.IMAGE, MediaKind.AUDIO}),
    media_urls=False,
    result_names=True,
    signed_thoughts=True,
    signed_calls=True,
    sampling={
        "temperature": st.integers(0, 20).map(lambda tenths: tenths / 10),
        "top_p": st.integers(0, 10).map(lambda tenths: tenths / 10),
        "top_k": st.integers(1, 100),
        "seed": st.integers(0, 2**31 - 1),
        "presence_penalty": TENTHS,
        "frequency_penalty": TENTHS,
    },
    efforts=(),
    budgets=True,
    choices_max=2,
    json_object=True,
    json_schema=True,
    parallel=False,
    finishes={
        Finish.STOP: "STOP",
        Finish.TOOL_CALLS: "STOP",
        Finish.LENGTH: "MAX_TOKENS",
        Finish.CONTENT_FILTER: "SAFETY",
    },
    buckets=("in_fresh", "in_cache_read", "in_audio", "in_image", "out_text", "out_reasoning"),
)


def renumbered(request: ChatRequest) -> ChatRequest:
    """The request with the ids that calls get on a wire without any: by their order."""
    ids: dict[str, str] = {}

    def part_of(part: Any) -> Any:
        if isinstance(part, ToolCall):
            ids[part.id] = f"call_{len(ids)}"
            return msgspec.structs.replace(part, id=ids[part.id])
        if isinstance(part, ToolResult):
            return msgspec.structs.replace(part, call_id=ids[part.call_id])
        return part

    messages = tuple(
        Message(message.role, tuple(part_of(part) for part in message.parts), message.name)
        for message in request.messages
    )
    return msgspec.structs.replace(request, messages=messages)


def asked(choices: int = 2) -> Asked:
    request = ChatRequest(messages=(), wants_usage=True, choices=choices)
    return Asked(request=request, model="asked-for", request_id="r", created_s=1_700_000_000)


def told(events: list[Event], choices: int = 1) -> bytes:
    encoder = GEMINI.source.encoder(asked(choices))
    return b"".join(encoder.encode(event) for event in events) + encoder.end()


def heard(stream: bytes) -> list[Event]:
    decoder, found = GEMINI.target.decoder("seed"), []
    for frame in FrameSplitter().feed(stream)[1]:
        found += decoder.feed(frame)
    return found


@settings(max_examples=80)
@given(requests(WIRE))
def test_a_request_that_is_written_and_read_is_the_same(request: ChatRequest) -> None:
    encoded = GEMINI.target.encode_request(request, AIM)
    assert encoded.dropped == ()
    again = GEMINI.source.decode_request(request_object(encode(encoded.fields)))
    wish = request.reasoning
    if wish is not None:  # Who says how much to think is shown the thoughts, unless they said no.
        wish = msgspec.structs.replace(wish, visible=None if wish.budget_tokens == 0 else wish.visible is not False)
    assert again == renumbered(msgspec.structs.replace(request, stream=False, wants_usage=False, reasoning=wish))


@settings(max_examples=80)
@given(answers(WIRE))
def test_an_answer_that_is_told_and_heard_is_the_same(answer: Answer) -> None:
    body, dropped = GEMINI.source.encode_answer(answer, asked())
    assert dropped == ()
    assert GEMINI.target.decode_answer(body, "seed") == fold(events_of(answer))


@settings(max_examples=80)
@given(streams(WIRE))
def test_a_stream_that_is_told_and_heard_adds_up_to_the_same(events: list[Event]) -> None:
    choices = 1 + max(getattr(event, "choice", 0) for event in events)
    assert fold(heard(told(events, choices))) == fold(events)


@settings(max_examples=40)
@given(answers(WIRE))
def test_usage_is_the_same_streamed_and_whole(answer: Answer) -> None:
    body, _ = GEMINI.source.encode_answer(answer, asked())
    streamed = fold(heard(told(events_of(answer), len(answer.choices)))).usage
    assert streamed == GEMINI.target.decode_answer(body, "s").usage == answer.usage


@settings(max_examples=40)
@given(streams(WIRE), st.data())
def test_cuts_at_any_byte_change_nothing(events: list[Event], data: st.DataObject) -> None:
    stream = told(events)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream) - 1), max_size=20)))

    def passed(chunks: list[bytes]) -> tuple[Any, ...]:
        tap = EventTap(GEMINI.target.decoder("seed"), FrameSplitter(), GEMINI.source.encoder(asked()))
        out = b"".join(tap.feed(chunk) for chunk in chunks)
        return tap.close(), out + tap.terminal, tap.usage, tap.output_chars

    bounds = [0, *cuts, len(stream)]
    assert passed([stream[a:b] for a, b in pairwise(bounds)]) == passed([stream])


_SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
_WORDS = st.sampled_from(
    (
        *("role", "parts", "text", "thought", "thoughtSignature", "functionCall", "functionResponse", "name", "args"),
        *("id", "response", "inlineData", "mimeType", "data", "fileData", "fileUri", "functionDeclarations", "mode"),
        *("functionCallingConfig", "allowedFunctionNames", "thinkingConfig", "thinkingBudget", "stopSequences", "type"),
    )
)
_JSON = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=4), max_leaves=12
)


@settings(max_examples=200)
@given(
    st.dictionaries(
        st.sampled_from(("contents", "systemInstruction", "tools", "toolConfig", "generationConfig", "stream", "x")),
        _JSON,
        max_size=5,
    )
)
def test_no_body_raises_anything_but_a_refusal(body: dict[str, Any]) -> None:
    with suppress(InvalidParameter, InvalidJson):
        fields = request_object(encode({"model": "m", **body}))
        GEMINI.peek(Operation.CHAT, b"", fields)


@settings(max_examples=200)
@given(_JSON)
def test_no_answer_raises_anything(value: Any) -> None:
    body = encode(value)
    GEMINI.read_reply(Operation.CHAT, "application/json", body)
    GEMINI.read_reply(Operation.EMBEDDINGS, "application/json", body)
    GEMINI.classify(400, {}, body)
    tap = EventTap(GEMINI.target.decoder("seed"), FrameSplitter(), GEMINI.source.encoder(asked()))
    tap.feed(b"data: " + body + b"\r\n\r\n")
    tap.close()


@pytest.mark.parametrize("candidate", [{"content": {"parts": [1, {"text": 5}, {"functionCall": 3}]}}, 7, None])
def test_odd_candidates_are_passed_over(candidate: Any) -> None:
    body = encode({"candidates": [candidate]})
    assert GEMINI.target.decode_answer(body, "s").choices[0].parts == ()
