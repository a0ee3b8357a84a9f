"""Answers of /api/chat. The bodies are written after the public documentation of Ollama's API; nobody recorded any."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerx.dialects.base import Frame, Reply
from routerx.dialects.lines import LineSplitter
from routerx.dialects.ollama import OLLAMA
from routerx.dialects.tap import EventTap
from routerx.domain.call import Operation
from routerx.domain.chat import Answer, Choice, Finish, Reasoning, Text, ToolCall
from routerx.domain.events import Began, Ended, Event, Failed, Reported, fold
from routerx.domain.failure import Failure, FailureKind
from routerx.domain.usage import Usage

END: dict[str, Any] = {
    "done": True,
    "done_reason": "stop",
    "total_duration": 4883583458,
    "load_duration": 1334875,
    "prompt_eval_count": 26,
    "prompt_eval_duration": 342546000,
    "eval_count": 282,
    "eval_duration": 4535599000,
}
USED = Usage(in_fresh=26, out_text=282)


def line(message: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    told = {"role": "assistant", "content": "", **(message or {})}
    return {"model": "qwen3", "created_at": "2026-01-01T00:00:00Z", "message": told, "done": False, **more}


def bytes_of(*lines: Any) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in lines)


def events(stream: bytes) -> list[Event]:
    decoder = OLLAMA.target.decoder("seed")
    return [event for frame in LineSplitter().feed(stream)[1] for event in decoder.feed(frame)]


def whole(*parts: Any, finish: Finish = Finish.STOP, native: str | None = "stop") -> Answer:
    return Answer((Choice(parts, finish, native),), model="qwen3", usage=USED)


STREAM = bytes_of(
    line({"thinking": "Let me "}),
    line({"thinking": "see."}),
    line({"content": "It "}),
    line({"content": "snows."}),
    line({"tool_calls": [{"function": {"index": 0, "name": "weather", "arguments": {"city": "Tromsø"}}}]}),
    line({"tool_calls": [{"id": "call_x", "function": {"index": 1, "name": "now", "arguments": {}}}]}),
    line(**END),
)
BODY = bytes_of(
    line(
        {
            "thinking": "Let me see.",
            "content": "It snows.",
            "tool_calls": [
                {"function": {"index": 0, "name": "weather", "arguments": {"city": "Tromsø"}}},
                {"id": "call_x", "function": {"index": 1, "name": "now", "arguments": {}}},
            ],
        },
        **END,
    )
)
PARTS = (
    Reasoning("Let me see."),
    Text("It snows."),
    ToolCall("call_seed_0", "weather", '{"city":"Tromsø"}'),
    ToolCall("call_x", "now", "{}"),
)


# --- streams and whole answers


def test_a_stream_and_the_same_answer_whole_say_the_same() -> None:
    assert fold(events(STREAM)) == whole(*PARTS, finish=Finish.TOOL_CALLS)
    assert OLLAMA.target.decode_answer(BODY, "seed") == fold(events(STREAM))


def test_a_stream_begins_with_the_model_and_ends_with_its_end() -> None:
    found = events(STREAM)
    assert found[0] == Began(None, "qwen3")
    assert found[-2:] == [Reported(USED), Ended()]


@pytest.mark.parametrize(
    ("native", "finish"),
    [("stop", Finish.STOP), ("length", Finish.LENGTH), (None, Finish.STOP), ("cosmic_rays", Finish.OTHER)],
)
def test_ends_are_read(native: str | None, finish: Finish) -> None:
    body = bytes_of(line({"content": "x"}, **{**END, "done_reason": native}))
    assert OLLAMA.target.decode_answer(body, "seed") == whole(Text("x"), finish=finish, native=native)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [({"a": 1}, '{"a":1}'), ('{"a":1}', '{"a":1}'), (None, "{}"), ("", "{}"), ("null", "{}"), ([1], "[1]")],
)
def test_arguments_are_told_as_text_and_never_empty(arguments: object, told: str) -> None:
    body = bytes_of(line({"tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}, **END))
    assert OLLAMA.target.decode_answer(body, "s").choices[0].parts == (ToolCall("call_s_0", "f", told),)


def test_an_error_in_the_stream_ends_it() -> None:
    found = events(bytes_of(line({"content": "It"}), {"error": "an error was encountered while running the model"}))
    assert isinstance(found[-1], Failed)
    assert found[-1].failure.kind is FailureKind.ERROR_MIDSTREAM
    assert found[-1].failure.message == "an error was encountered while running the model"


@pytest.mark.parametrize("data", [b"<html>", b"[1]", b'"x"', b"{"])
def test_a_line_that_is_no_answer_is_a_failure(data: bytes) -> None:
    (found,) = OLLAMA.target.decoder("s").feed(Frame(0, data))
    assert isinstance(found, Failed)
    assert found.failure.kind is FailureKind.INVALID_CHUNK


def test_an_empty_line_says_nothing() -> None:
    assert events(b"\n\r\n" + bytes_of(line({"content": "x"})))[1:] == events(bytes_of(line({"content": "x"})))[1:]


def tapped(*chunks: bytes) -> tuple[EventTap, Failure | None]:
    tap = EventTap(OLLAMA.target.decoder("s"), OLLAMA.target.splitter(), None)
    for chunk in chunks:
        tap.feed(chunk)
    return tap, tap.close()


def test_the_last_line_may_lack_its_line_feed() -> None:
    tap, failure = tapped(STREAM[:-1])
    assert (failure, tap.finished, tap.usage, tap.missing_done) == (None, True, USED, False)


def test_a_stream_cut_short_is_truncated() -> None:
    _, failure = tapped(bytes_of(line({"content": "It"})))
    assert failure is not None
    assert failure.kind is FailureKind.TRUNCATED


def test_a_stream_that_only_loads_the_model_is_empty() -> None:
    _, failure = tapped(bytes_of(line(done=True, done_reason="load")))
    assert failure is not None
    assert failure.kind is FailureKind.EMPTY


@settings(max_examples=40)
@given(st.sets(st.integers(1, len(STREAM) - 1), max_size=20))
def test_cuts_at_any_byte_change_nothing(cuts: set[int]) -> None:
    bounds = [0, *sorted(cuts), len(STREAM)]
    splitter, decoder = LineSplitter(), OLLAMA.target.decoder("seed")
    found: list[Event] = []
    for a, b in pairwise(bounds):
        for frame in splitter.feed(STREAM[a:b])[1]:
            found += decoder.feed(frame)
    assert found == events(STREAM)


_SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
_WORDS = st.sampled_from(
    (
        *("message", "content", "thinking", "tool_calls", "function", "name", "arguments", "id", "done", "model"),
        *("done_reason", "error", "prompt_eval_count", "eval_count", "embeddings"),
    )
)
_ANY = st.recursive(_SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=4))


@settings(max_examples=80)
@given(_ANY | st.fixed_dictionaries({"message": st.dictionaries(_WORDS, _ANY)}, optional={"done": st.just(True)}))
def test_no_answer_of_a_provider_raises(value: Any) -> None:
    body = json.dumps(value).encode()
    OLLAMA.target.decoder("s").feed(Frame(0, body))
    OLLAMA.target.decode_answer(body, "s")
    for operation in (Operation.CHAT, Operation.EMBEDDINGS):
        OLLAMA.read_reply(operation, "application/json", body)


# --- usage


@pytest.mark.parametrize(
    ("counts", "usage", "anomaly"),
    [
        ({"prompt_eval_count": 26, "eval_count": 282}, USED, False),
        ({"prompt_eval_count": 26}, Usage(in_fresh=26), True),
        ({"eval_count": 282}, None, False),
        ({}, None, False),
        ({"prompt_eval_count": -1, "eval_count": 2}, None, True),
        ({"prompt_eval_count": 1, "eval_count": "2"}, None, True),
        ({"prompt_eval_count": True, "eval_count": 2}, None, True),
        ({"prompt_eval_count": 1 << 41, "eval_count": 2}, None, True),
    ],
)
def test_usage_is_read_or_left_to_an_estimate(counts: dict[str, Any], usage: Usage | None, anomaly: bool) -> None:
    body = bytes_of(line({"content": "Hi!"}, done=True, done_reason="stop", **counts))
    reply = OLLAMA.read_reply(Operation.CHAT, "application/json", body)
    assert isinstance(reply, Reply)
    tap, failure = tapped(body)
    assert (reply.usage, reply.anomaly, failure) == (usage, anomaly, None)
    assert (tap.usage, tap.anomaly) == (usage, anomaly)
    if usage is None:
        assert reply.output_chars == tap.output_chars == 3


# --- replies


def test_a_whole_answer_is_accepted_with_what_it_used() -> None:
    assert OLLAMA.read_reply(Operation.CHAT, "application/json", BODY) == Reply(USED, False, "qwen3", 0)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", FailureKind.EMPTY),
        (b"<html>", FailureKind.BAD_CONTENT_TYPE),
        (b"[]", FailureKind.BAD_CONTENT_TYPE),
        (b'{"status":"ok"}', FailureKind.BAD_CONTENT_TYPE),
        (b'{"error":"something broke"}', FailureKind.ERROR_IN_200),
        (bytes_of(line(done=True, done_reason="load")), FailureKind.EMPTY),
    ],
)
def test_a_reply_that_is_no_answer_is_a_failure(body: bytes, kind: FailureKind) -> None:
    failure = OLLAMA.read_reply(Operation.CHAT, "application/json", body)
    assert isinstance(failure, Failure)
    assert failure.kind is kind


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, FailureKind.REJECTED),
        (401, FailureKind.AUTH_FAILED),
        (404, FailureKind.REJECTED),
        (429, FailureKind.RATE_LIMITED),
        (500, FailureKind.SERVER_ERROR),
        (503, FailureKind.OVERLOADED),
    ],
)
def test_errors_are_known_by_their_status(status: int, kind: FailureKind) -> None:
    failure = OLLAMA.classify(status, {}, b'{"error":"model \\"llama9\\" not found, try pulling it first"}')
    assert failure.kind is kind
    if kind is not FailureKind.AUTH_FAILED:
        assert failure.message == 'model "llama9" not found, try pulling it first'
