"""Streams of chat as events, and events as a stream."""

import json
from typing import Any

import pytest
from openai.lib.streaming._deltas import accumulate_delta

from routerx.dialects.base import Asked, Frame
from routerx.dialects.openai_chat import OPENAI
from routerx.dialects.sse import FrameSplitter
from routerx.dialects.tap import EventTap
from routerx.domain.chat import (
    Answer,
    ChatRequest,
    Choice,
    Citation,
    Finish,
    Media,
    MediaKind,
    Opaque,
    Reasoning,
    Text,
    ToolCall,
)
from routerx.domain.events import (
    Began,
    Cited,
    Ended,
    Event,
    Failed,
    Finished,
    OpaqueMade,
    ReasoningDelta,
    ReasoningSigned,
    RefusalDelta,
    Reported,
    TextDelta,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
    events_of,
    fold,
)
from routerx.domain.failure import FailureKind
from routerx.domain.usage import Usage
from routerx.jsonx import Raw

DONE = b"data: [DONE]\n\n"


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, index: int = 0, **more: Any) -> bytes:
    choice = {"index": index, "delta": delta or {}, "finish_reason": finish}
    return frame({"id": "c", "model": "m", "choices": [choice], **more})


def frame(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def heard(*frames: bytes) -> list[Event]:
    decoder = OPENAI.target.decoder("seed")
    found = [event for one in FrameSplitter().feed(b"".join(frames))[1] for event in decoder.feed(one)]
    return [*found, *decoder.finish()]


def choice_of(*frames: bytes) -> Choice:
    return fold(heard(*frames)).choices[0]


def call(index: int | None = None, id_: str | None = None, name: str | None = None, arguments: Any = "") -> bytes:
    item: dict[str, Any] = {"function": {"arguments": arguments}}
    item |= {} if index is None else {"index": index}
    item |= {} if id_ is None else {"id": id_}
    if name is not None:
        item["function"]["name"] = name
    return chunk({"tool_calls": [item]})


# --- from providers


def test_a_stream_begins_and_ends() -> None:
    assert heard(chunk({"role": "assistant", "content": ""}), chunk({"content": "Hi"}), chunk(finish="stop"), DONE) == [
        Began("c", "m"),
        TextDelta("Hi"),
        Finished(Finish.STOP, "stop"),
        Ended(),
    ]


def test_a_first_chunk_without_anything_does_not_name_the_stream() -> None:
    empty = frame({"id": "", "model": "", "choices": [], "prompt_filter_results": []})
    assert heard(empty, chunk({"content": "Hi"}))[0] == Began("c", "m")


def test_an_end_is_told_once() -> None:
    assert heard(chunk({"content": "x"}), chunk(finish="stop"), chunk(finish="stop"))[2:] == [
        Finished(Finish.STOP, "stop")
    ]


@pytest.mark.parametrize(
    ("frames", "wanted"),
    [
        ([call(0, "a", "f", '{"x"'), call(0, arguments=":1}")], [ToolCall("a", "f", '{"x":1}')]),
        ([call(None, "a", "f", "{}"), call(None, "b", "g", "{}")], [ToolCall("a", "f"), ToolCall("b", "g")]),
        ([call(None, "a", "f", '{"x"'), call(arguments=":1}")], [ToolCall("a", "f", '{"x":1}')]),
        ([call(0, "a", "f", "{}"), call(0, "b", "g", "{}")], [ToolCall("a", "f"), ToolCall("b", "g")]),
        (
            [call(0, "a", "f"), call(1, "b", "g"), call(0, arguments='{"x":1}'), call(1, arguments="{}")],
            [ToolCall("a", "f", '{"x":1}'), ToolCall("b", "g")],
        ),
        ([call(1, "a", "f", "{}")], [ToolCall("a", "f")]),
        ([call(0, "a", "f"), call(0, "b", None, "{}")], [ToolCall("a", "f")]),
        ([call(0, "a", "f", "null")], [ToolCall("a", "f")]),
        ([call(0, "a", "f"), call(0, arguments="nu"), call(0, arguments="ll")], [ToolCall("a", "f")]),
        ([call(0, "a", "f")], [ToolCall("a", "f")]),
        (
            [call(0, None, "f", "{}"), call(1, None, "g", "{}")],
            [ToolCall("call_seed_0", "f"), ToolCall("call_seed_1", "g")],
        ),
        ([call(0, "a", "f", {"x": 1})], [ToolCall("a", "f", '{"x":1}')]),
        (
            [chunk({"function_call": {"name": "f", "arguments": ""}}), chunk({"function_call": {"arguments": "{}"}})],
            [ToolCall("call_f", "f")],
        ),
    ],
)
def test_calls_are_pieced_together_as_servers_tell_them(frames: list[bytes], wanted: list[ToolCall]) -> None:
    choice = choice_of(*frames, chunk(finish="stop"))
    assert (list(choice.parts), choice.finish) == (wanted, Finish.TOOL_CALLS)


def test_every_call_is_ended_before_the_choice() -> None:
    events = heard(call(0, "a", "f"), call(1, "b", "g", "{}"), chunk(finish="tool_calls"))
    assert events[1:] == [
        ToolCallStarted(0, "a", "f"),
        ToolCallStarted(1, "b", "g"),
        ToolCallDelta(1, "{}"),
        ToolCallDelta(0, "{}"),
        ToolCallEnded(0),
        ToolCallEnded(1),
        Finished(Finish.TOOL_CALLS, "tool_calls"),
    ]


def test_a_thought_told_in_pieces_is_signed_by_the_last() -> None:
    def item(**more: str) -> bytes:
        detail = {"type": "reasoning.text", "format": "anthropic-claude-v1", "index": 0, **more}
        return chunk({"reasoning": more.get("text"), "reasoning_details": [detail]})

    choice = choice_of(item(text="H"), item(text="m."), item(signature="s"), chunk({"content": "Yes"}))
    assert choice.parts == (Reasoning("Hm.", "s", "anthropic"), Text("Yes"))


def test_a_whole_thought_that_is_repeated_with_its_signature_is_told_once() -> None:
    detail = {"type": "reasoning.text", "text": "Hm.", "signature": "s", "format": "anthropic-claude-v1", "index": 0}
    choice = choice_of(
        chunk({"reasoning_content": "H"}), chunk({"reasoning_content": "m."}), chunk({"reasoning_details": [detail]})
    )
    assert choice.parts == (Reasoning("Hm.", "s", "anthropic"),)


def test_blank_pieces_of_a_thought_are_told() -> None:
    pieces = [chunk({"reasoning_content": piece}) for piece in ("I", " ", "\n", "see.")]
    assert choice_of(*pieces).parts == (Reasoning("I \nsee."),)


def test_only_the_open_thought_is_repeated_with_a_signature() -> None:
    detail = {"type": "reasoning.text", "text": "Hm.", "signature": "s", "format": "anthropic-claude-v1", "index": 0}
    choice = choice_of(
        chunk({"reasoning_content": "Aside."}),
        chunk({"content": "x"}),
        chunk({"reasoning_content": "Hm."}),
        chunk({"reasoning_details": [detail]}),
    )
    assert choice.parts == (Reasoning("Aside."), Text("x"), Reasoning("Hm.", "s", "anthropic"))


@pytest.mark.parametrize("ends_by_mark", [True, False])
def test_a_call_that_the_stream_left_open_is_ended(ends_by_mark: bool) -> None:
    events = heard(call(0, "a", "f"), *([DONE] if ends_by_mark else []))
    wanted: list[Event] = [ToolCallDelta(0, "{}"), ToolCallEnded(0)]
    assert events[2:] == [*wanted, *([Ended()] if ends_by_mark else [])]


def test_usage_is_reported_where_it_stands_and_only_when_it_changes() -> None:
    used = {"prompt_tokens": 3, "completion_tokens": 1}
    events = heard(chunk({"content": "x"}, usage=used), chunk(finish="stop", usage=used), frame({"choices": []}))
    assert [event for event in events if isinstance(event, Reported)] == [Reported(Usage(in_fresh=3, out_text=1))]


def test_usage_that_is_none_is_an_anomaly() -> None:
    assert heard(chunk({"content": "x"}, usage={"prompt_tokens": -1}))[-1] == Reported(None, anomaly=True)


@pytest.mark.parametrize(
    "last",
    [
        frame({"error": {"message": "boom", "code": 500}}),
        frame({"x_groq": {"error": "boom"}}),
        b'event: error\ndata: {"message": "boom"}\n\n',
    ],
)
def test_an_error_in_the_stream_ends_it(last: bytes) -> None:
    event = heard(chunk({"content": "x"}), last)[-1]
    assert isinstance(event, Failed)
    assert (event.failure.kind, event.failure.message) == (FailureKind.ERROR_MIDSTREAM, "boom")


def test_an_error_keeps_the_usage_of_its_chunk() -> None:
    used = {"prompt_tokens": 3, "completion_tokens": 1}
    events = heard(chunk({"content": "x"}), chunk({"content": "y"}, error={"message": "boom"}, usage=used))
    assert events[2] == Reported(Usage(in_fresh=3, out_text=1))
    assert isinstance(events[3], Failed)


@pytest.mark.parametrize("data", [b"{", b"[1]", b"3", b"<html>"])
def test_a_frame_that_is_no_chunk_is_a_failure(data: bytes) -> None:
    (event,) = OPENAI.target.decoder("s").feed(Frame(0, data))
    assert isinstance(event, Failed)
    assert event.failure.kind is FailureKind.INVALID_CHUNK


def test_choices_are_told_apart() -> None:
    answer = fold(heard(chunk({"content": "a"}), chunk({"content": "b"}, index=1), chunk(finish="length", index=1)))
    assert answer.choices == (Choice((Text("a"),), None), Choice((Text("b"),), Finish.LENGTH, "length"))


def test_a_missing_end_mark_is_made_up_and_noted() -> None:
    tap = EventTap(OPENAI.target.decoder("s"), FrameSplitter(), None)
    tap.feed(chunk({"content": "x"}) + chunk(finish="stop"))
    assert (tap.close(), tap.missing_done, tap.terminal[-len(DONE) :]) == (None, True, DONE)


# --- to callers


def told(*events: Event, wants_usage: bool = False, choices: int = 1, logprobs: bool = False) -> list[Any]:
    """What the frames hold; `[DONE]` is the last."""
    request = ChatRequest(messages=(), wants_usage=wants_usage, choices=choices, logprobs=logprobs)
    encoder = OPENAI.source.encoder(Asked(request=request, model="asked-for", request_id="r", created_s=17))
    stream = b"".join(encoder.encode(event) for event in events) + encoder.end()
    *frames, last = stream.split(b"\n\n")
    assert last == b""
    assert frames[-1] == b"data: [DONE]"
    return [json.loads(one.removeprefix(b"data: ")) for one in frames[:-1]]


def deltas(*events: Event) -> list[Any]:
    return [one["choices"][0]["delta"] for one in told(*events)]


def test_a_stream_opens_with_the_role_and_closes_with_the_end() -> None:
    first, second, last = told(Began(), TextDelta("Hi"), TextDelta("!"), Finished(Finish.LENGTH, "max_tokens"), Ended())
    assert first == {
        "id": "chatcmpl-r",
        "object": "chat.completion.chunk",
        "created": 17,
        "model": "asked-for",
        "choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hi"}, "finish_reason": None}],
    }
    assert second["choices"][0]["delta"] == {"content": "!"}
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "length")


def test_every_chunk_has_the_providers_names() -> None:
    assert {(one["id"], one["model"]) for one in told(Began("msg_1", "claude"), TextDelta("a"), TextDelta("b"))} == {
        ("msg_1", "claude")
    }


def test_usage_is_told_last_and_only_to_who_asked() -> None:
    events = (Began(), Reported(Usage(in_fresh=3)), TextDelta("x"), Reported(Usage(in_fresh=3, out_text=1)))
    last = told(*events, Finished(Finish.STOP), wants_usage=True)[-1]
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 4)
    assert all("usage" not in one for one in told(*events, Finished(Finish.STOP)))


def test_calls_are_told_with_a_head_and_pieces() -> None:
    assert deltas(ToolCallStarted(0, "a", "f"), ToolCallDelta(0, '{"x"'), ToolCallDelta(0, ":1}"), ToolCallEnded(0))[
        :3
    ] == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}],
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"x"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]},
    ]


def test_a_custom_call_is_told_in_its_own_words() -> None:
    head, piece = deltas(ToolCallStarted(0, "a", "shell", custom=True), ToolCallDelta(0, "ls"), ToolCallEnded(0))[:2]
    assert head["tool_calls"][0]["custom"] == {"name": "shell", "input": ""}
    assert piece["tool_calls"][0] == {"index": 0, "custom": {"input": "ls"}}


def test_a_signature_comes_with_the_whole_thought_and_nothing_of_another() -> None:
    found = deltas(
        ReasoningDelta("Aside."),
        TextDelta("x"),
        ReasoningDelta("H"),
        ReasoningDelta("m."),
        ReasoningSigned("s", "anthropic"),
        ReasoningSigned("d", "anthropic", redacted=True),
    )
    assert [one.get("reasoning_content") for one in found[:4]] == ["Aside.", None, "H", "m."]
    assert [one["reasoning_details"] for one in found[4:6]] == [
        [{"type": "reasoning.text", "text": "Hm.", "signature": "s", "format": "anthropic-claude-v1", "index": 0}],
        [{"type": "reasoning.encrypted", "data": "d", "format": "anthropic-claude-v1", "index": 1}],
    ]


def test_what_is_encrypted_has_its_summary_before_it_and_an_index_of_its_own() -> None:
    found = deltas(ReasoningDelta("Hm."), ReasoningSigned("s", "responses", id="rs_1"), ReasoningSigned("t", "gemini"))
    assert [one["reasoning_details"] for one in found[1:3]] == [
        [
            {"type": "reasoning.summary", "summary": "Hm.", "format": "openai-responses-v1", "index": 0},
            {"type": "reasoning.encrypted", "data": "s", "format": "openai-responses-v1", "id": "rs_1", "index": 1},
        ],
        [{"type": "reasoning.text", "text": "", "signature": "t", "format": "google-gemini-v1", "index": 2}],
    ]


def test_refusals_and_sources_have_their_places() -> None:
    found = deltas(RefusalDelta("No."), Cited(Citation("https://x.example")))
    assert found[0]["refusal"] == "No."
    assert found[1]["annotations"][0]["url_citation"]["url"] == "https://x.example"


def test_the_official_client_puts_a_stream_together_to_the_whole_message() -> None:
    picture = Media(MediaKind.IMAGE, mime="image/png", data="AAAA")
    parts = (
        Reasoning("Hm.", "s", "responses", id="rs_1"),
        Reasoning("So.", "t", "anthropic"),
        Text("Yes", citations=(Citation("https://x.example"), Citation("https://y.example"))),
        picture,
        picture,
        ToolCall("a", "f", '{"x":1}', "u", "gemini"),
        ToolCall("b", "g"),
    )
    answer = Answer((Choice(parts, Finish.TOOL_CALLS),))
    gathered: dict[Any, Any] = {}
    for delta in deltas(*events_of(answer)):
        accumulate_delta(gathered, delta)
    asked = Asked(request=ChatRequest(messages=()), model="m", request_id="r", created_s=17)
    whole = json.loads(OPENAI.source.encode_answer(answer, asked)[0])["choices"][0]["message"]
    for key in ("annotations", "images", "tool_calls"):
        gathered[key] = [{name: one for name, one in item.items() if name != "index"} for item in gathered[key]]
    assert gathered == {key: value for key, value in whole.items() if key != "refusal"}


def test_a_choice_that_only_ended_is_told_to_have_stopped() -> None:
    assert told(Began(), TextDelta("x"), Ended())[-1]["choices"][0]["finish_reason"] == "stop"


def test_calls_without_an_end_are_told_to_be_the_callers_turn() -> None:
    frames = told(Began(), ToolCallStarted(0, "a", "f"), ToolCallDelta(0, "{}"), ToolCallEnded(0), Ended())
    assert frames[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_no_choice_is_made_up_where_the_provider_made_fewer() -> None:
    frames = told(Began(), TextDelta("x"), Finished(Finish.STOP), choices=2)
    assert {one["choices"][0]["index"] for one in frames} == {0}


def test_a_stream_of_nothing_still_has_its_choice() -> None:
    assert told(Ended())[0]["choices"][0]["finish_reason"] == "stop"


def test_what_cannot_be_said_is_noted() -> None:
    request = ChatRequest(messages=(), logprobs=True)
    encoder = OPENAI.source.encoder(Asked(request=request, model="m", request_id="r", created_s=17))
    assert encoder.encode(OpaqueMade(Opaque("anthropic", "server_tool_use", Raw(b"{}")))) == b""
    assert encoder.dropped == {"logprobs", "server_tool_use"}
