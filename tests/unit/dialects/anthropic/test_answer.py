"""Whole answers: told to callers, read from providers, judged before either."""

from typing import Any

import pytest

from routerx import jsonx
from routerx.dialects.anthropic import ANTHROPIC
from routerx.dialects.base import Asked, Reply
from routerx.dialects.signatures import UNSIGNED
from routerx.domain.call import Operation
from routerx.domain.chat import (
    Answer,
    ChatRequest,
    Choice,
    Citation,
    Finish,
    Media,
    MediaKind,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
)
from routerx.domain.failure import Failure, FailureKind
from routerx.domain.usage import Usage
from routerx.jsonx import Raw

ASKED = Asked(request=ChatRequest(messages=()), model="asked", request_id="r1", created_s=1)


def told(*parts: Part, finish: Finish | None = Finish.STOP) -> tuple[dict[str, Any], tuple[str, ...]]:
    body, dropped = ANTHROPIC.source.encode_answer(Answer((Choice(parts, finish),)), ASKED)
    return jsonx.decode(body), dropped


def read(value: Any, operation: Operation = Operation.CHAT) -> Reply | Failure:
    body = value if isinstance(value, bytes) else jsonx.encode(value)
    return ANTHROPIC.read_reply(operation, "text/html", body)


def message(*blocks: Any, **more: Any) -> dict[str, Any]:
    return {"type": "message", "model": "m1", "content": list(blocks), "stop_reason": "end_turn"} | more


HELLO = {"type": "text", "text": "Hello"}
USED = {"usage": {"input_tokens": 7, "output_tokens": 3}}


# --- to callers


def test_a_whole_message() -> None:
    answer = Answer((Choice((Text("Hi"),), Finish.STOP),), "id1", "m1", Usage(in_fresh=7, out_text=3))
    body, dropped = ANTHROPIC.source.encode_answer(answer, ASKED)
    assert dropped == ()
    assert jsonx.decode(body) == {
        "id": "id1",
        "type": "message",
        "role": "assistant",
        "model": "m1",
        "content": [{"type": "text", "text": "Hi"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 7,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "output_tokens": 3,
        },
    }


def test_what_the_provider_does_not_say_is_made_up() -> None:
    body, _ = told(finish=None)
    assert (body["id"], body["model"], body["stop_reason"]) == ("msg_r1", "asked", "end_turn")
    assert (body["content"], body["usage"]["output_tokens"]) == ([], 0)


def test_every_kind_of_content_has_its_block() -> None:
    own = Opaque("anthropic", "server_tool_use", Raw(b'{"type":"server_tool_use"}'))
    body, dropped = told(
        Reasoning("hm", "s", "anthropic"),
        Reasoning("plain"),
        Reasoning("", "d", "anthropic", redacted=True),
        Text("a", citations=(Citation("https://e.org", "E"),)),
        Refusal("no"),
        ToolCall("t1", "add", '{"a":1}'),
        ToolCall("t2", "add", '{"a":'),
        own,
    )
    assert dropped == ()
    source = {"type": "web_search_result_location", "url": "https://e.org", "title": "E"}
    assert body["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "thinking", "thinking": "plain", "signature": UNSIGNED},
        {"type": "redacted_thinking", "data": "d"},
        {"type": "text", "text": "a", "citations": [source | {"cited_text": "", "encrypted_index": ""}]},
        {"type": "text", "text": "no"},
        {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 1}},
        {"type": "tool_use", "id": "t2", "name": "add", "input": {"input": '{"a":'}},
        {"type": "server_tool_use"},
    ]


def test_what_this_wire_has_not_is_told() -> None:
    picture = Media(MediaKind.IMAGE, url="https://e.org/x")
    places = Opaque("anthropic", "citations", Raw(b"[{}]"))
    body, dropped = told(picture, Opaque("openai", "audio", Raw(b"{}")), places)
    assert (body["content"], dropped) == ([], ("audio", "citations", "image"))


def test_empty_parts_make_no_blocks() -> None:
    assert told(Text(""), Reasoning(""), Text("a"))[0]["content"] == [{"type": "text", "text": "a"}]


# --- from providers


def test_an_answer_without_a_reason_simply_stopped() -> None:
    body = jsonx.encode(message(HELLO, stop_reason=None))
    assert ANTHROPIC.target.decode_answer(body, "s").choices[0].finish is Finish.STOP
    call = {"type": "tool_use", "name": "add", "input": {}}
    (choice,) = ANTHROPIC.target.decode_answer(jsonx.encode(message(call, stop_reason=None)), "seed").choices
    assert choice == Choice((ToolCall("toolu_seed_0", "add"),), Finish.TOOL_CALLS)


@pytest.mark.parametrize("content", [None, "Hello", [1, None, "x", {}], [{"type": 7}]])
def test_content_of_no_meaning_is_passed_over(content: Any) -> None:
    (choice,) = ANTHROPIC.target.decode_answer(
        jsonx.encode({"content": content, "stop_reason": "end_turn"}), "s"
    ).choices
    assert choice == Choice((), Finish.STOP, "end_turn")


def test_half_a_pair_of_surrogates_is_mended() -> None:
    body = rb'{"type":"message","content":[{"type":"text","text":"a\ud83d"}],"stop_reason":"end_turn"}'
    assert isinstance(read(body), Reply)
    assert ANTHROPIC.target.decode_answer(body, "s").choices[0].parts == (Text("a\ufffd"),)


# --- judged


def test_an_answer_is_read_for_its_usage() -> None:
    assert read(message(HELLO, **USED)) == Reply(Usage(in_fresh=7, out_text=3), served_model="m1")


def test_without_usage_what_was_written_is_measured() -> None:
    blocks = (HELLO, {"type": "thinking", "thinking": "é"}, {"type": "tool_use", "name": "add", "input": {"a": 1}})
    reply = read(message(*blocks))
    assert reply == Reply(None, served_model="m1", output_chars=len("Hello") + 2 + len("add") + len('{"a":1}'))


def test_no_output_reported_beside_text_is_flagged() -> None:
    usage = {"input_tokens": 7, "output_tokens": 0}
    assert read(message(HELLO, usage=usage)) == Reply(Usage(in_fresh=7), True, "m1", 5)
    assert read(message(usage=usage)) == Reply(Usage(in_fresh=7), served_model="m1", empty=True)


def test_an_unusable_report_is_flagged() -> None:
    assert read(message(HELLO, usage={"input_tokens": 7, "output_tokens": -1})) == Reply(None, True, "m1", 5)


def test_nothing_at_all_is_no_answer_and_nothing_for_a_reason_is() -> None:
    empty = read(message(stop_reason=None))
    assert isinstance(empty, Failure)
    assert empty.kind is FailureKind.EMPTY
    assert isinstance(read(message(stop_reason="refusal")), Reply)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", FailureKind.EMPTY),
        (b"<html>", FailureKind.BAD_CONTENT_TYPE),
        (b"[]", FailureKind.BAD_CONTENT_TYPE),
        (b'{"choices":[]}', FailureKind.BAD_CONTENT_TYPE),
        (b'{"content":"Hello"}', FailureKind.BAD_CONTENT_TYPE),
        (b'{"type":"error","error":{"type":"overloaded_error","message":"x"}}', FailureKind.OVERLOADED),
        (b'{"type":"error","error":{"type":"api_error","message":"x"}}', FailureKind.ERROR_IN_200),
        (b'{"error":"broken"}', FailureKind.ERROR_IN_200),
    ],
)
def test_what_is_no_answer(body: bytes, kind: FailureKind) -> None:
    for operation in (Operation.CHAT, Operation.COUNT_TOKENS):
        failure = read(body, operation)
        assert isinstance(failure, Failure)
        assert failure.kind is kind


def test_a_count_of_tokens_is_an_answer_that_costs_nothing() -> None:
    assert read({"input_tokens": 9}, Operation.COUNT_TOKENS) == Reply(Usage(requests=0))
    assert isinstance(read({"input_tokens": "9"}, Operation.COUNT_TOKENS), Failure)


def test_paths() -> None:
    assert ANTHROPIC.path(Operation.CHAT, "m", stream=True) == "/messages"
    assert ANTHROPIC.path(Operation.COUNT_TOKENS, "m", stream=False) == "/messages/count_tokens"
