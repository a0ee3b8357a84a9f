"""Caller and provider both speak Messages: bytes pass, but for what the vendor would refuse."""

from typing import Any

import pytest

from routerx import jsonx
from routerx.dialects.anthropic import ANTHROPIC
from routerx.dialects.signatures import UNSIGNED, pack
from routerx.dialects.sse import FrameSplitter
from routerx.domain.call import Operation, Peek
from routerx.domain.failure import FailureKind


def sent(body: bytes) -> bytes:
    return jsonx.encode(ANTHROPIC.request_fields(jsonx.request_object(body), model="up", ask_usage=False))


def history(*blocks: Any) -> list[Any]:
    """What goes out of one assistant's message."""
    body = jsonx.encode({"model": "m", "messages": [{"role": "assistant", "content": list(blocks)}]})
    found: list[Any] = jsonx.decode(sent(body))["messages"]
    return found


# --- requests


def test_only_the_models_name_is_replaced() -> None:
    body = b'{"model":"m","messages":[{"role":"user",  "content":"rx1. is a word"}],"odd":{"x":[1.50]}}'
    assert sent(body) == body.replace(b'"m"', b'"up"')


def test_a_request_without_messages_passes() -> None:
    assert sent(b'{"model":"m"}') == b'{"model":"up"}'


def test_thoughts_of_other_vendors_stay_behind() -> None:
    own = {"type": "thinking", "thinking": "a", "signature": "EqQB"}
    text = {"type": "text", "text": "b"}
    foreign = [
        {"type": "thinking", "thinking": "c", "signature": pack("gemini", "s")},
        {"type": "thinking", "thinking": "d", "signature": UNSIGNED},
        {"type": "redacted_thinking", "data": pack("responses", "s")},
    ]
    assert history(own, *foreign, text) == [{"role": "assistant", "content": [own, text]}]
    assert history(*foreign) == []


def test_sources_of_other_vendors_stay_behind() -> None:
    own = {"type": "web_search_result_location", "url": "u", "encrypted_index": "E"}
    foreign = own | {"encrypted_index": ""}
    text = {"type": "text", "text": "a"}
    assert history(text | {"citations": [own, foreign]})[0]["content"] == [text | {"citations": [own]}]
    assert history(text | {"citations": [foreign]})[0]["content"] == [text]


def test_what_a_user_says_is_never_touched() -> None:
    said = {"role": "user", "content": [{"type": "text", "text": '"rx1.'}, {"type": "thinking", "signature": UNSIGNED}]}
    body = jsonx.encode({"model": "m", "messages": [said]})
    assert jsonx.decode(sent(body))["messages"] == [said]


@pytest.mark.parametrize(
    "messages", [b'["rx1."]', b'"rx1."', b'[{"role":"assistant","content":"\\"rx1."}]', b'{"rx1.":1}']
)
def test_messages_of_any_shape_pass(messages: bytes) -> None:
    body = b'{"model":"m","messages":' + messages + b"}"
    assert jsonx.decode(sent(body))["messages"] == jsonx.decode(messages)


# --- streams


def event(kind: str, data: str) -> bytes:
    return f'event: {kind}\ndata: {{"type":"{kind}"{data}}}  \n\n'.encode()


FRAMES = (
    event("message_start", ',"message":{"id":"i","model":"m1","usage":{"input_tokens":7}}'),
    event("ping", ""),
    event("content_block_start", ',"index":0,"content_block":{"type":"text"}'),
    event("content_block_delta", ',"index":0,"delta":{"type":"text_delta","text":"x"}'),
    event("content_block_stop", ',"index":0'),
    event("message_delta", ',"delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":3}'),
    event("message_stop", ""),
)
"""The vendor pads its JSON."""
END = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


def test_the_reason_it_stopped_waits_with_all_that_follows() -> None:
    tap = ANTHROPIC.tap(Peek(Operation.CHAT, "m"), strip_usage=False)
    assert tap.feed(b"".join(FRAMES)) == b"".join(FRAMES[:5])
    assert tap.close() is None
    assert tap.terminal == b"".join(FRAMES[5:])
    assert tap.usage is not None
    assert (tap.usage.in_fresh, tap.usage.out_text, tap.served_model) == (7, 3, "m1")


def test_a_missing_end_is_added_and_a_missing_reason_is_not() -> None:
    tap = ANTHROPIC.tap(Peek(Operation.CHAT, "m"), strip_usage=False)
    tap.feed(b"".join(FRAMES[:6]))
    assert tap.close() is None
    assert (tap.terminal, tap.missing_done) == (FRAMES[5] + END, True)
    tap = ANTHROPIC.tap(Peek(Operation.CHAT, "m"), strip_usage=False)
    tap.feed(b"".join(FRAMES[:5]))
    failure = tap.close()
    assert failure is not None
    assert failure.kind is FailureKind.TRUNCATED


def test_a_whole_answer_becomes_a_stream_without_losing_a_field() -> None:
    body = b"""{"id": "i", "type": "message", "model": "m1", "role": "assistant", "container": {"id": "c"},
      "content": [
        {"type": "text", "text": "a\\nb", "citations": [{"type": "char_location"}]},
        {"type": "tool_use", "id": "t", "name": "add", "input": {"a": 1}, "caller": {"type": "direct"}},
        {"type": "fallback", "x": [1]}, null],
      "stop_reason": "tool_use", "stop_details": null, "usage": {"input_tokens": 7, "output_tokens": 3, "odd": 1}}"""
    values = [jsonx.decode(frame.data or b"") for frame in FrameSplitter().feed(ANTHROPIC.to_stream(body))[1]]
    whole = jsonx.decode(body)
    assert values[0]["message"] == whole | {"content": [], "stop_reason": None, "stop_sequence": None}
    assert values[1]["content_block"] == {"type": "text", "text": "", "citations": []}
    assert values[2]["delta"] == {"type": "text_delta", "text": "a\nb"}
    assert values[3]["delta"] == {"type": "citations_delta", "citation": {"type": "char_location"}}
    assert values[5]["content_block"] == whole["content"][1] | {"input": {}}
    assert values[6]["delta"] == {"type": "input_json_delta", "partial_json": '{"a":1}'}
    assert values[8]["content_block"] == {"type": "fallback", "x": [1]}
    assert values[-2] == {
        "type": "message_delta",
        "delta": {"stop_reason": "tool_use", "stop_details": None, "container": {"id": "c"}},
        "usage": whole["usage"],
    }
    assert values[-1] == {"type": "message_stop"}
