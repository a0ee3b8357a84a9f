"""Streams of Messages as events, both ways, and what servers and models do against the reference."""

from typing import Any

import pytest

from routerx import jsonx
from routerx.dialects.anthropic import ANTHROPIC
from routerx.dialects.base import Asked, Frame
from routerx.dialects.signatures import UNSIGNED, pack, pack_call_id
from routerx.dialects.sse import FrameSplitter
from routerx.domain.chat import ChatRequest, Citation, Finish, Media, MediaKind, Opaque
from routerx.domain.events import (
    Began,
    Cited,
    Ended,
    Event,
    Failed,
    Finished,
    MediaMade,
    OpaqueMade,
    ReasoningDelta,
    ReasoningSigned,
    RefusalDelta,
    Reported,
    TextDelta,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
)
from routerx.domain.failure import FailureKind
from routerx.domain.usage import Usage
from routerx.jsonx import Raw

ASKED = Asked(request=ChatRequest(messages=()), model="asked", request_id="r1", created_s=1)
START = {"type": "message_start", "message": {"id": "msg_1", "model": "m1", "content": []}}
STOP = {"type": "message_stop"}
BEGAN = Began("msg_1", "m1")


def end(reason: str | None = "end_turn", **delta: Any) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason, **delta}}


def begin(block: dict[str, Any], index: int = 0) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def more(kind: str, index: int = 0, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **fields}}


def over(index: int = 0) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def heard(*values: Any) -> list[Event]:
    decoder = ANTHROPIC.target.decoder("seed")
    events = [event for value in values for event in decoder.feed(Frame(0, jsonx.encode(value)))]
    return [*events, *decoder.finish()]


def content(*values: Any) -> list[Event]:
    """Of a whole stream: what comes between its beginning and its finish."""
    events = heard(START, *values, end(), STOP)
    assert (events[0], events[-1]) == (BEGAN, Ended())
    assert isinstance(events[-2], Finished)
    return events[1:-2]


# --- from providers


def test_a_text() -> None:
    text = (begin({"type": "text", "text": ""}), more("text_delta", text="Hel"), more("text_delta", text="lo"), over())
    assert heard(START, {"type": "ping"}, *text, end(), STOP) == [
        BEGAN,
        TextDelta("Hel"),
        TextDelta("lo"),
        Finished(Finish.STOP, "end_turn"),
        Ended(),
    ]


def test_a_thought_ends_with_its_signature() -> None:
    thought = begin({"type": "thinking", "thinking": "", "signature": ""})
    signed = (more("thinking_delta", thinking="hm"), more("signature_delta", signature="s=="), over())
    assert content(thought, *signed) == [ReasoningDelta("hm"), ReasoningSigned("s==", "anthropic")]


def test_a_thought_may_be_nothing_but_a_signature() -> None:
    assert content(begin({"type": "redacted_thinking", "data": "d"}), over()) == [
        ReasoningSigned("d", "anthropic", redacted=True)
    ]
    omitted = (begin({"type": "thinking", "thinking": ""}), more("signature_delta", signature="s"), over())
    assert content(*omitted) == [ReasoningSigned("s", "anthropic")]


def test_a_thought_may_be_signed_by_nobody() -> None:
    for signature in ("", UNSIGNED):
        thought = (begin({"type": "thinking", "thinking": "hm"}), more("signature_delta", signature=signature), over())
        assert content(*thought) == [ReasoningDelta("hm")]


def tool(*deltas: str | None, index: int = 0, **given: Any) -> list[dict[str, Any]]:
    block = {"type": "tool_use", "id": f"t{index}", "name": "add", "input": {}} | given
    return [begin(block, index), *(more("input_json_delta", index, partial_json=one) for one in deltas), over(index)]


def test_tools_are_numbered_as_they_come() -> None:
    assert content(*tool("", '{"a"', ":1}"), *tool("{}", index=1)) == [
        ToolCallStarted(0, "t0", "add"),
        ToolCallDelta(0, '{"a"'),
        ToolCallDelta(0, ":1}"),
        ToolCallEnded(0),
        ToolCallStarted(1, "t1", "add"),
        ToolCallDelta(1, "{}"),
        ToolCallEnded(1),
    ]


@pytest.mark.parametrize(
    ("deltas", "given", "expected"),
    [
        ((), {}, "{}"),
        (("",), {}, "{}"),
        ((None,), {}, "{}"),
        (("nu", "ll"), {}, "{}"),
        ((), {"input": {"a": 1}}, '{"a":1}'),
        ((), {"input": '{"a":1}'}, '{"a":1}'),
        ((), {"input": None}, "{}"),
        (('{"a":2}',), {"input": {"a": 1}}, '{"a":2}'),
    ],
)
def test_inputs_are_never_empty_and_never_told_twice(deltas: Any, given: Any, expected: str) -> None:
    assert content(*tool(*deltas, **given))[1:-1] == [ToolCallDelta(0, expected)]


def test_a_call_without_an_id_gets_one_that_nobody_else_has() -> None:
    started = content(*tool(id=None))[0]
    assert started == ToolCallStarted(0, "toolu_seed_0", "add")


def test_calls_end_a_turn_even_where_the_server_says_it_simply_ended() -> None:
    assert heard(START, *tool(), end("end_turn"))[-1] == Finished(Finish.TOOL_CALLS, "end_turn")
    assert heard(START, *tool(), end("max_tokens"))[-1] == Finished(Finish.LENGTH, "max_tokens")


def test_what_the_models_own_code_calls_is_not_for_the_caller_to_answer() -> None:
    by_code = tool(caller={"type": "code_execution_20260120", "tool_id": "s1"})
    assert heard(START, *by_code, end("end_turn"))[-1] == Finished(Finish.STOP, "end_turn")
    direct = tool(caller={"type": "direct"})
    assert heard(START, *direct, end("end_turn"))[-1] == Finished(Finish.TOOL_CALLS, "end_turn")


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("stop_sequence", Finish.STOP),
        ("pause_turn", Finish.STOP),
        ("compaction", Finish.STOP),
        ("max_tokens", Finish.LENGTH),
        ("model_context_window_exceeded", Finish.LENGTH),
        ("tool_use", Finish.TOOL_CALLS),
        ("refusal", Finish.CONTENT_FILTER),
        ("something_new", Finish.OTHER),
    ],
)
def test_reasons_to_stop(reason: str, finish: Finish) -> None:
    assert heard(START, end(reason))[-1] == Finished(finish, reason)


def test_the_sequence_that_stopped_it_is_told() -> None:
    assert heard(START, end("stop_sequence", stop_sequence="END"))[-1] == Finished(Finish.STOP, "stop_sequence", "END")


def test_usage_is_cumulative_and_keeps_what_later_reports_leave_out() -> None:
    early = {"input_tokens": 7, "cache_read_input_tokens": 3, "output_tokens": 1}
    start = {"type": "message_start", "message": {**START["message"], "usage": early}}  # type: ignore[dict-item]
    late = end() | {"usage": {"output_tokens": 5, "input_tokens": None}}
    reports = [event for event in heard(start, late) if isinstance(event, Reported)]
    assert reports == [
        Reported(Usage(in_fresh=7, in_cache_read=3, out_text=1)),
        Reported(Usage(in_fresh=7, in_cache_read=3, out_text=5)),
    ]


def test_a_report_that_says_nothing_new_is_not_told() -> None:
    usage = {"usage": {"input_tokens": 7, "output_tokens": 1}}
    assert len([event for event in heard(START, end() | usage, end() | usage) if isinstance(event, Reported)]) == 1


def test_sources_with_an_address_are_cited_and_other_places_are_kept() -> None:
    web = {"type": "web_search_result_location", "url": "https://e.org", "title": "E", "cited_text": "so"}
    place = {"type": "char_location", "cited_text": "so", "document_index": 0}
    events = content(
        begin({"type": "text", "text": "a", "citations": []}),
        more("citations_delta", citation=web),
        more("citations_delta", citation=place),
        over(),
        begin({"type": "text", "text": "b"}, 1),
        over(1),
    )
    assert events[:3] == [TextDelta("a"), Cited(Citation("https://e.org", "E", "so")), TextDelta("b")]
    (kept,) = events[3:]
    assert isinstance(kept, OpaqueMade)
    assert (kept.part.type, jsonx.decode(bytes(kept.part.value))) == ("citations", [place])


def test_blocks_of_the_vendors_own_come_whole() -> None:
    use = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    made = content(begin(use), more("input_json_delta", partial_json='{"query":"q"}'), over())
    assert made == [
        OpaqueMade(Opaque("anthropic", "server_tool_use", Raw(jsonx.encode(use | {"input": {"query": "q"}}))))
    ]
    summary = (begin({"type": "compaction", "content": ""}), more("compaction_delta", content="a"))
    made = content(*summary, more("compaction_delta", content="b"), over())
    assert made == [OpaqueMade(Opaque("anthropic", "compaction", Raw(b'{"type":"compaction","content":"ab"}')))]


# --- servers that leave things out


def test_a_stream_without_its_beginning() -> None:
    assert heard(begin({"type": "text", "text": "x"}))[:2] == [Began(), TextDelta("x")]


def test_a_second_beginning_is_none() -> None:
    assert [type(event) for event in heard(START, START)] == [Began]


def test_blocks_without_a_beginning() -> None:
    assert heard(START, more("text_delta", text="x"), more("thinking_delta", 1, thinking="y"), over(1))[1:] == [
        TextDelta("x"),
        ReasoningDelta("y"),
    ]
    assert heard(START, more("input_json_delta", partial_json="{}")) == [BEGAN]


def test_blocks_without_an_end() -> None:
    unended = tool('{"a":1}')[:-1]
    thought = (begin({"type": "thinking", "thinking": "h"}, 1), more("signature_delta", 1, signature="s"))
    events = heard(START, *unended, *thought, begin({"type": "text", "text": "x"}, 2), end("tool_use"))
    assert events[3:] == [
        ReasoningDelta("h"),
        ReasoningSigned("s", "anthropic"),
        TextDelta("x"),
        ToolCallEnded(0),
        Finished(Finish.TOOL_CALLS, "tool_use"),
    ]


def test_an_answer_that_ends_without_a_reason_simply_stopped() -> None:
    assert heard(START, begin({"type": "text", "text": "x"}), STOP)[2:] == [Finished(Finish.STOP), Ended()]
    assert heard(START, *tool(), STOP)[-2:] == [Finished(Finish.TOOL_CALLS), Ended()]
    assert heard(START, STOP) == [BEGAN, Ended()]


def test_nothing_is_made_up_where_a_stream_breaks_off() -> None:
    assert heard(START, begin({"type": "text", "text": "x"})) == [BEGAN, TextDelta("x")]


def test_after_the_finish_there_is_no_more_content() -> None:
    late = (begin({"type": "text", "text": "x"}, 1), more("text_delta", 1, text="y"), more("text_delta", 2, text="z"))
    assert heard(START, end(), *late, STOP) == [BEGAN, Finished(Finish.STOP, "end_turn"), Ended()]


@pytest.mark.parametrize(
    "value", [{"type": "vertex_event"}, {"type": "content_block_start"}, {"type": "content_block_stop"}, {}]
)
def test_events_of_no_meaning_are_passed_over(value: Any) -> None:
    assert heard(START, value) == [BEGAN]


def test_another_wires_end_mark_is_passed_over() -> None:
    assert ANTHROPIC.target.decoder("s").feed(Frame(0, b"[DONE]")) == ()


# --- errors


@pytest.mark.parametrize(
    ("kind", "failure"),
    [
        ("overloaded_error", FailureKind.OVERLOADED),
        ("api_error", FailureKind.ERROR_MIDSTREAM),
        ("rate_limit_error", FailureKind.RATE_LIMITED),
        ("new_error", FailureKind.ERROR_MIDSTREAM),
    ],
)
def test_errors_inside_a_stream(kind: str, failure: FailureKind) -> None:
    (event,) = heard({"type": "error", "error": {"type": kind, "message": "Broken."}})
    assert isinstance(event, Failed)
    assert (event.failure.kind, event.failure.upstream_code) == (failure, kind)


def test_errors_are_known_by_the_events_name_or_its_content_too() -> None:
    decoder = ANTHROPIC.target.decoder("s")
    for frame in (Frame(0, b'{"message":"x"}', b"error"), Frame(0, b'{"error":{"message":"x"}}')):
        (event,) = decoder.feed(frame)
        assert isinstance(event, Failed)


@pytest.mark.parametrize("data", [b"<html>", b"[]", b'{"type":'])
def test_what_is_no_event_fails(data: bytes) -> None:
    (event,) = ANTHROPIC.target.decoder("s").feed(Frame(0, data))
    assert isinstance(event, Failed)
    assert event.failure.kind is FailureKind.INVALID_CHUNK


# --- to callers


def told(*events: Event) -> tuple[list[dict[str, Any]], set[str]]:
    """The events of the stream, and what was dropped."""
    encoder = ANTHROPIC.source.encoder(ASKED)
    stream = b"".join(encoder.encode(event) for event in events) + encoder.end()
    frames = FrameSplitter().feed(stream)[1]
    return [jsonx.decode(frame.data or b"") for frame in frames], encoder.dropped


def blocks(*events: Event) -> list[dict[str, Any]]:
    """The events between the message's beginning and its end."""
    values, dropped = told(*events)
    assert dropped == set()
    return values[1:-2]


def test_a_message_begins_with_all_of_its_usage_but_the_output() -> None:
    usage = Usage(in_fresh=7, in_cache_read=2, in_cache_write_5m=3, in_cache_write_1h=4, out_text=5)
    values, _ = told(Began("id", "m"), Reported(usage), TextDelta("x"), Finished(Finish.STOP), Ended())
    message = values[0]["message"]
    assert (message["id"], message["model"], message["role"], message["content"]) == ("id", "m", "assistant", [])
    assert (message["stop_reason"], message["stop_sequence"]) == (None, None)
    assert message["usage"] == {
        "input_tokens": 7,
        "cache_creation_input_tokens": 7,
        "cache_read_input_tokens": 2,
        "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4},
        "output_tokens": 0,
    }
    assert values[-2]["usage"] == message["usage"] | {"output_tokens": 5}
    assert values[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert values[-1] == STOP


def test_what_the_provider_does_not_say_is_made_up() -> None:
    values, _ = told(Began(), TextDelta("x"))
    assert (values[0]["message"]["id"], values[0]["message"]["model"]) == ("msg_r1", "asked")
    assert values[0]["message"]["usage"]["input_tokens"] == 0
    assert values[-2]["delta"]["stop_reason"] == "end_turn"


def test_an_answer_of_nothing_is_a_message_all_the_same() -> None:
    values, _ = told(Began(), Finished(Finish.LENGTH), Ended())
    assert [value["type"] for value in values] == ["message_start", "message_delta", "message_stop"]
    assert values[1]["delta"]["stop_reason"] == "max_tokens"


def test_every_kind_of_content_has_its_block() -> None:
    assert blocks(
        ReasoningDelta("hm"),
        ReasoningSigned("s", "anthropic"),
        TextDelta("a"),
        RefusalDelta("b"),
        Finished(Finish.STOP),
    ) == [
        begin({"type": "thinking", "thinking": "", "signature": ""}),
        more("thinking_delta", thinking="hm"),
        more("signature_delta", signature="s"),
        over(),
        begin({"type": "text", "text": ""}, 1),
        more("text_delta", 1, text="a"),
        more("text_delta", 1, text="b"),
        over(1),
    ]


def test_a_thought_that_nobody_signed_is_marked_as_one() -> None:
    assert blocks(ReasoningDelta("hm"), TextDelta("a"))[2:4] == [more("signature_delta", signature=UNSIGNED), over()]
    assert blocks(ReasoningDelta("hm"))[2:] == [more("signature_delta", signature=UNSIGNED), over()]


def test_another_vendors_signature_is_packed_into_this_wires_own() -> None:
    packed = pack("gemini", "s", "id")
    assert blocks(ReasoningSigned("s", "gemini", id="id"))[1] == more("signature_delta", signature=packed)
    assert blocks(ReasoningSigned("d", "responses", redacted=True)) == [
        begin({"type": "redacted_thinking", "data": pack("responses", "d")}),
        over(),
    ]


def test_a_calls_signature_travels_in_its_id() -> None:
    (started, *_) = blocks(ToolCallStarted(0, "call:1", "add", "s==", "gemini"), ToolCallDelta(0, "{}"))
    id_ = started["content_block"]["id"]
    assert id_.endswith(pack_call_id("", "gemini", "s=="))
    assert ":" not in id_
    assert started["content_block"] == {"type": "tool_use", "id": id_, "name": "add", "input": {}}


def test_calls_told_side_by_side_are_told_one_after_the_other() -> None:
    values = blocks(
        ToolCallStarted(0, "a", "add"),
        ToolCallDelta(0, '{"a"'),
        ToolCallStarted(1, "b", "add"),
        ToolCallDelta(1, "{"),
        ToolCallDelta(0, ":1}"),
        TextDelta("then"),
        ToolCallDelta(1, "}"),
        ToolCallEnded(0),
        ToolCallEnded(1),
        Finished(Finish.TOOL_CALLS),
    )
    assert [value["type"].removeprefix("content_block_") + str(value["index"]) for value in values] == [
        "start0",
        "delta0",
        "delta0",
        "stop0",
        "start1",
        "delta1",
        "delta1",
        "stop1",
        "start2",
        "delta2",
        "stop2",
    ]


def test_the_first_of_several_calls_flows_at_once() -> None:
    encoder = ANTHROPIC.source.encoder(ASKED)
    encoder.encode(Began())
    encoder.encode(ToolCallStarted(0, "a", "add"))
    assert b'"partial_json":"{"' in encoder.encode(ToolCallDelta(0, "{"))


def test_calls_that_never_end_are_told_all_the_same() -> None:
    values = blocks(ToolCallStarted(0, "a", "add"), ToolCallStarted(1, "b", "add"), ToolCallDelta(1, "{}"))
    assert [value["type"] for value in values] == [
        "content_block_start",
        "content_block_stop",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
    ]


def test_what_this_wire_has_not_is_told() -> None:
    picture = MediaMade(Media(MediaKind.IMAGE, url="https://e.org/x"))
    values, dropped = told(picture, OpaqueMade(Opaque("openai", "audio", Raw(b"{}"))), TextDelta("x", choice=1))
    assert dropped == {"image", "audio", "n"}
    assert not any(value["type"].startswith("content_block") for value in values)


def test_blocks_of_this_vendors_own_go_as_they_came() -> None:
    part = Opaque("anthropic", "server_tool_use", Raw(b'{"type":"server_tool_use","id":"s"}'))
    assert blocks(OpaqueMade(part)) == [begin({"type": "server_tool_use", "id": "s"}), over()]


@pytest.mark.parametrize(
    ("finish", "reason", "sequence"),
    [
        (Finished(Finish.STOP, "stop"), "end_turn", None),
        (Finished(Finish.STOP, "pause_turn"), "pause_turn", None),
        (Finished(Finish.LENGTH, "length"), "max_tokens", None),
        (Finished(Finish.TOOL_CALLS), "tool_use", None),
        (Finished(Finish.CONTENT_FILTER, "SAFETY"), "refusal", None),
        (Finished(Finish.OTHER, "MALFORMED_FUNCTION_CALL"), "end_turn", None),
        (Finished(Finish.STOP, "stop", "END"), "stop_sequence", "END"),
        (Finished(Finish.TOOL_CALLS, "end_turn"), "tool_use", None),
    ],
)
def test_reasons_in_this_wires_words(finish: Finished, reason: str, sequence: str | None) -> None:
    values, _ = told(TextDelta("x"), finish)
    assert values[-2]["delta"] == {"stop_reason": reason, "stop_sequence": sequence}
