"""Streams of providers of Responses, as some of them differ from the vendor's."""

import json
from typing import Any

import pytest

from routerx.dialects.base import Frame
from routerx.dialects.responses import RESPONSES
from routerx.domain.chat import Citation, Finish, Media, MediaKind, Opaque, Reasoning, Text, ToolCall
from routerx.domain.events import (
    Began,
    Ended,
    Event,
    Failed,
    Finished,
    ReasoningDelta,
    Reported,
    TextDelta,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
    fold,
)
from routerx.domain.failure import FailureKind
from routerx.domain.usage import Usage

MESSAGE = {"type": "message", "content": [{"type": "output_text", "text": "Hello", "annotations": []}]}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": '{"a":1}'}
USAGE = {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13}


def heard(*values: dict[str, Any], event: bytes = b"") -> list[Event]:
    decoder = RESPONSES.target.decoder("s")
    found: list[Event] = []
    for value in values:
        found += decoder.feed(Frame(0, json.dumps(value).encode(), event))
    return [*found, *decoder.finish()]


def told(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", **fields}


def done(**fields: Any) -> dict[str, Any]:
    return told("completed", response={"id": "resp_1", "model": "m", "status": "completed", **fields})


def parts(*values: dict[str, Any]) -> tuple[Any, ...]:
    return fold(heard(*values)).choices[0].parts


def test_a_stream_is_told_in_order() -> None:
    assert heard(
        told("created", response={"id": "resp_1", "model": "m"}),
        told("output_item.added", output_index=0, item={**MESSAGE, "content": []}),
        told("output_text.delta", output_index=0, delta="Hel"),
        told("output_text.delta", output_index=0, delta="lo"),
        told("output_item.done", output_index=0, item=MESSAGE),
        done(usage=USAGE, output=[MESSAGE]),
    ) == [
        Began("resp_1", "m"),
        TextDelta("Hel"),
        TextDelta("lo"),
        Finished(Finish.STOP, "completed"),
        Reported(Usage(in_fresh=9, out_text=4)),
        Ended(),
    ]


def test_a_call_without_arguments_has_an_empty_object() -> None:
    call = {**CALL, "arguments": ""}
    assert heard(
        told("output_item.added", output_index=0, item=call), told("output_item.done", output_index=0, item=call)
    )[1:] == [ToolCallStarted(0, "c1", "f"), ToolCallDelta(0, "{}"), ToolCallEnded(0)]


def test_a_call_that_is_never_closed_is_ended_with_the_stream() -> None:
    added = told("output_item.added", output_index=0, item={**CALL, "arguments": ""})
    assert parts(added, done()) == (ToolCall("c1", "f", "{}"),)


def test_a_call_without_any_id_gets_one() -> None:
    call = {"type": "function_call", "name": "f", "arguments": "{}"}
    assert parts(told("output_item.done", output_index=0, item=call)) == (ToolCall("call_s_0", "f", "{}"),)


def test_arguments_that_come_too_late_are_not_told() -> None:
    late = told("function_call_arguments.delta", output_index=0, delta="{}")
    assert parts(told("output_item.done", output_index=0, item=CALL), late) == (ToolCall("c1", "f", '{"a":1}'),)


def test_text_of_an_item_that_never_began_is_told_once() -> None:
    assert parts(
        told("output_text.delta", output_index=0, delta="Hello"),
        told("output_item.done", output_index=0, item=MESSAGE),
        done(output=[MESSAGE]),
    ) == (Text("Hello"),)


def test_arguments_before_their_call_wait_for_it() -> None:
    assert parts(
        told("function_call_arguments.delta", output_index=0, delta='{"a"'),
        told("output_item.done", output_index=0, item=CALL),
    ) == (ToolCall("c1", "f", '{"a":1}'),)


def test_items_without_places_stay_apart() -> None:
    other = {**CALL, "call_id": "c2"}
    assert parts(
        told("output_item.added", item={**CALL, "arguments": ""}),
        told("function_call_arguments.delta", delta='{"a":1}'),
        told("output_item.done", item=CALL),
        told("output_item.added", item={**other, "arguments": ""}),
        told("output_item.done", item=other),
        done(output=[CALL, other]),
    ) == (ToolCall("c1", "f", '{"a":1}'), ToolCall("c2", "f", '{"a":1}'))


def test_what_only_the_last_event_holds_is_told_then() -> None:
    assert parts(told("output_text.delta", output_index=0, delta="Hello"), done(output=[MESSAGE, CALL])) == (
        Text("Hello"),
        ToolCall("c1", "f", '{"a":1}'),
    )
    assert parts(done(output=[MESSAGE])) == (Text("Hello"),)


def test_items_that_moved_in_the_last_event_are_not_told_again() -> None:
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
    assert parts(
        told("output_item.added", output_index=0, item=thought),
        told("output_item.done", output_index=0, item=thought),
        told("output_item.added", output_index=1, item={**MESSAGE, "content": []}),
        told("output_text.delta", output_index=1, delta="Hello"),
        done(output=[MESSAGE]),
    ) == (Reasoning("", "gAAA", "responses", id="rs_1"), Text("Hello"))


def test_sources_that_come_with_the_end_are_told_once() -> None:
    first, second = ({"type": "url_citation", "url": f"https://example.com/{n}", "title": "t"} for n in (1, 2))
    message = {"type": "message", "content": [{"type": "output_text", "text": "x", "annotations": [first, second]}]}
    assert parts(
        told("output_text.delta", output_index=0, delta="x"),
        told("output_text.annotation.added", output_index=0, annotation=first),
        told("output_item.done", output_index=0, item=message),
    ) == (Text("x", citations=(Citation("https://example.com/1", "t"), Citation("https://example.com/2", "t"))),)


def test_parts_of_a_thought_are_paragraphs() -> None:
    summary = [{"type": "summary_text", "text": text} for text in ("one", "two")]
    item = {"type": "reasoning", "summary": summary}
    streamed = parts(
        told("output_item.added", output_index=0, item={**item, "summary": []}),
        told("reasoning_summary_part.added", output_index=0),
        told("reasoning_summary_text.delta", output_index=0, delta="one"),
        told("reasoning_summary_part.added", output_index=0),
        told("reasoning_summary_text.delta", output_index=0, delta="two"),
        told("output_item.done", output_index=0, item=item),
    )
    assert streamed == parts(done(output=[item])) == (Reasoning("one\n\ntwo"),)


def test_an_empty_piece_of_a_thought_changes_nothing() -> None:
    assert parts(
        told("reasoning_summary_text.delta", output_index=0, delta="one"),
        told("reasoning_summary_part.added", output_index=0),
        told("reasoning_summary_text.delta", output_index=0, delta=""),
        told("reasoning_summary_text.delta", output_index=0, delta="two"),
    ) == (Reasoning("one\n\ntwo"),)


def test_a_summary_beside_the_thought_itself_is_not_told() -> None:
    found = heard(
        told("reasoning_text.delta", output_index=0, delta="thought"),
        told("reasoning_summary_text.delta", output_index=0, delta="sum"),
    )
    assert [event for event in found if isinstance(event, ReasoningDelta)] == [ReasoningDelta("thought")]


def test_a_picture_is_told_as_one() -> None:
    made = {"type": "image_generation_call", "id": "ig_1", "result": "AAAA", "output_format": "webp"}
    assert parts(done(output=[made])) == (Media(MediaKind.IMAGE, mime="image/webp", data="AAAA"),)
    (failed,) = parts(done(output=[{**made, "result": None}]))
    assert isinstance(failed, Opaque)


def test_searches_are_counted_and_pages_are_not() -> None:
    actions = ({"type": "search"}, {"type": "open_page"}, {"type": "find_in_page"}, {"type": "search"})
    output = [{"type": "web_search_call", "action": action} for action in actions]
    usage = fold(heard(done(output=output, usage=USAGE))).usage
    assert usage is not None
    assert usage.searches == 2


@pytest.mark.parametrize(
    ("response", "finish"),
    [
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, Finish.LENGTH),
        ({"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}, Finish.CONTENT_FILTER),
        ({"status": "incomplete", "incomplete_details": None}, Finish.OTHER),
        ({"status": "completed", "output": [CALL]}, Finish.TOOL_CALLS),
        ({"status": "completed", "output": [MESSAGE]}, Finish.STOP),
    ],
)
def test_why_it_ended_is_told(response: dict[str, Any], finish: Finish) -> None:
    assert fold(heard(told("completed", response=response))).choices[0].finish is finish


def test_an_end_without_a_response_ends_all_the_same() -> None:
    found = heard(told("output_text.delta", delta="x"), told("completed"))
    assert found[-2:] == [Finished(Finish.STOP, "completed"), Ended()]


def test_an_event_may_be_named_outside_its_data() -> None:
    assert heard({"delta": "x", "output_index": 0}, event=b"response.output_text.delta")[-1] == TextDelta("x")


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ({"type": "error", "code": "insufficient_quota", "message": "x"}, FailureKind.EXHAUSTED),
        ({"type": "error", "error": {"code": "rate_limit_exceeded"}}, FailureKind.RATE_LIMITED),
        ({"type": "error", "error": {"code": "server_error"}}, FailureKind.ERROR_MIDSTREAM),
        (told("failed", response={"error": {"code": "server_error", "message": "x"}}), FailureKind.ERROR_MIDSTREAM),
        (told("failed", response={"error": {"code": "invalid_image_url"}}), FailureKind.REJECTED),
        (told("failed", response={"error": {"code": "bio_policy"}}), FailureKind.CONTENT_REJECTED),
        (told("failed"), FailureKind.ERROR_MIDSTREAM),
        ({"error": {"code": "insufficient_quota"}}, FailureKind.EXHAUSTED),
    ],
)
def test_errors_have_their_kind(value: dict[str, Any], kind: FailureKind) -> None:
    last = heard(told("created", response={"id": "resp_1"}), value)[-1]
    assert isinstance(last, Failed)
    assert last.failure.kind is kind


def test_what_a_failed_response_has_used_is_reported() -> None:
    failed = told("failed", response={"error": {"code": "server_error"}, "usage": USAGE})
    assert heard(failed)[1] == Reported(Usage(in_fresh=9, out_text=4))


def test_a_frame_that_is_no_event_fails() -> None:
    (event,) = RESPONSES.target.decoder("s").feed(Frame(0, b"<html>"))
    assert isinstance(event, Failed)
    assert event.failure.kind is FailureKind.INVALID_CHUNK


def test_events_that_nobody_knows_and_another_wires_end_mark_are_passed_over() -> None:
    assert heard(told("brand_new", delta="x")) == []
    assert list(RESPONSES.target.decoder("s").feed(Frame(0, b"[DONE]"))) == []


@pytest.mark.parametrize("odd", [None, 5, [], {"a": 1}])
def test_an_item_of_no_type_in_the_last_event_does_no_harm(odd: Any) -> None:
    end = {"type": "response.completed", "response": {"status": "completed", "output": [{"type": odd}, MESSAGE]}}

    events = RESPONSES.target.decoder("seed").feed(Frame(1, json.dumps(end).encode()))

    assert TextDelta("Hello") in events
    assert isinstance(events[-1], Ended)
