"""Responses whose bytes pass: replies judged, histories cleaned, whole answers told as streams."""

import json
from typing import Any

import pytest

from routerx.dialects.base import Reply
from routerx.dialects.responses import RESPONSES
from routerx.dialects.signatures import UNSIGNED, pack, pack_call_id
from routerx.domain.call import Operation
from routerx.domain.failure import Failure, FailureKind
from routerx.domain.usage import Usage
from routerx.errors import RateLimited
from routerx.jsonx import Raw, encode, request_object

MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "Hello", "annotations": []}],
}
USAGE = {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13}
ANSWER = {"id": "resp_1", "model": "m", "status": "completed", "output": [MESSAGE], "usage": USAGE}


def judged(body: dict[str, Any]) -> Reply | Failure:
    return RESPONSES.read_reply(Operation.CHAT, "application/json", json.dumps(body).encode())


def passed(input_: Any) -> Any:
    fields = request_object(encode({"model": "m", "input": input_}))
    return json.loads(bytes(RESPONSES.request_fields(fields, model="theirs", ask_usage=True)["input"]))


# --- requests


def test_only_the_model_is_another() -> None:
    fields = request_object(b'{"model": "m", "input": [ {"role":"user"} ], "odd": 1.50}')
    sent = RESPONSES.request_fields(fields, model="theirs", ask_usage=True)
    assert sent == {**fields, "model": Raw(b'"theirs"')}


def test_what_other_vendors_signed_does_not_go_to_this_one() -> None:
    own = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
    foreign = [{**own, "encrypted_content": one} for one in (UNSIGNED, pack("anthropic", "sig"))]
    call = {"type": "function_call", "call_id": pack_call_id("c1", "gemini", "s" * 400), "name": "f"}
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "x"}
    plain = [{**call, "call_id": "c1"}, {**result, "call_id": "c1"}]
    assert passed([{"role": "user", "content": "hi"}, own, *foreign, call, result]) == [
        {"role": "user", "content": "hi"},
        own,
        *plain,
    ]


def test_a_text_that_looks_like_a_mark_passes() -> None:
    assert passed("rx1.none..") == "rx1.none.."
    assert passed([{"role": "user", "content": "rx1.none.."}]) == [{"role": "user", "content": "rx1.none.."}]


# --- replies


def test_an_answer_is_read() -> None:
    assert judged(ANSWER) == Reply(Usage(in_fresh=9, out_text=4), served_model="m")


def test_an_answer_without_usage_is_measured() -> None:
    reply = judged({**ANSWER, "usage": None})
    assert isinstance(reply, Reply)
    assert (reply.usage, reply.output_chars) == (None, 5)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({**ANSWER, "status": "failed", "error": {"code": "server_error", "message": "x"}}, FailureKind.ERROR_IN_200),
        ({**ANSWER, "status": "failed", "error": None}, FailureKind.ERROR_IN_200),
        ({**ANSWER, "status": "cancelled"}, FailureKind.ERROR_IN_200),
        ({**ANSWER, "error": {"code": "insufficient_quota"}}, FailureKind.EXHAUSTED),
        ({"error": {"code": "rate_limit_exceeded", "message": "x"}}, FailureKind.RATE_LIMITED),
        ({**ANSWER, "output": [], "usage": None}, FailureKind.EMPTY),
        ({"choices": []}, FailureKind.BAD_CONTENT_TYPE),
    ],
)
def test_what_is_no_answer_is_none(body: dict[str, Any], kind: FailureKind) -> None:
    failure = judged(body)
    assert isinstance(failure, Failure)
    assert failure.kind is kind


def test_a_page_is_no_answer() -> None:
    failure = RESPONSES.read_reply(Operation.CHAT, "text/html", b"<html>")
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.BAD_CONTENT_TYPE


# --- whole answers as streams


def test_the_last_event_holds_the_exact_answer() -> None:
    body = b'{"status": "completed",\n "output": [], "usage": {"input_tokens": 1.0}, "odd": 12345678901234567890.10}'
    stream = RESPONSES.to_stream(body)
    assert b'"odd":12345678901234567890.10' in stream.rpartition(b"data: ")[2]
    assert all(line.startswith((b"event: response.", b"data: {")) for line in stream.splitlines() if line)


def test_an_answer_that_was_cut_off_is_told_as_incomplete() -> None:
    stream = RESPONSES.to_stream(json.dumps({**ANSWER, "status": "incomplete"}).encode())
    assert stream.rpartition(b"event: ")[2].startswith(b"response.incomplete\n")


def test_items_that_nobody_knows_are_told_whole() -> None:
    odd = {"type": "odd", "id": "o_1", "value": [1]}
    stream = RESPONSES.to_stream(json.dumps({**ANSWER, "output": [odd]}).encode())
    events = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith(b"data: ")]
    assert [event["item"] for event in events if event["type"].startswith("response.output_item")] == [odd, odd]


# --- errors


def test_a_stream_ends_with_an_error_that_the_official_clients_raise_by() -> None:
    frames = RESPONSES.encode_stream_error(RateLimited("Slow down.", retry_after_s=3.0), "req_1", "x")
    event, data = frames.strip().split(b"\n")
    value = json.loads(data.removeprefix(b"data: "))
    assert event == b"event: error"
    assert (value["type"], value["message"], value["error"]["message"]) == ("error", "Slow down.", "Slow down.")
    assert value["error"]["request_id"] == "req_1"


def test_half_a_character_in_an_answer_does_not_keep_it_from_being_told() -> None:
    body = json.dumps(ANSWER | {"id": "\ud800"}).encode()

    frames = RESPONSES.to_stream(body).split(b"\n\n")

    assert json.loads(frames[-2].partition(b"data: ")[2])["response"]["output"] == [MESSAGE]
