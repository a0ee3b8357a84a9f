"""What counts as an empty answer: whole, at its end, and with nothing in it (Reply.empty, StreamTap.empty)."""

import json

import pytest

from routerx.dialects.base import Reply
from routerx.dialects.registry import dialect
from routerx.domain.call import Operation, Peek

OPENAI_USAGE = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def openai(message: dict[str, object], finish: str | None = "stop") -> dict[str, object]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return {"id": "x", "object": "chat.completion", "choices": [choice], "usage": OPENAI_USAGE}


def anthropic(blocks: list[object], reason: str = "end_turn") -> dict[str, object]:
    usage = {"input_tokens": 9, "output_tokens": 1}
    return {"id": "x", "type": "message", "role": "assistant", "content": blocks, "stop_reason": reason, "usage": usage}


def gemini(parts: list[object], reason: str = "STOP") -> dict[str, object]:
    usage = {"promptTokenCount": 9, "candidatesTokenCount": 1, "totalTokenCount": 10}
    return {"candidates": [{"content": {"parts": parts}, "finishReason": reason}], "usageMetadata": usage}


def ollama(message: dict[str, object], reason: str = "stop") -> dict[str, object]:
    told = {"role": "assistant", **message}
    return {"message": told, "done": True, "done_reason": reason, "prompt_eval_count": 9, "eval_count": 1}


WHOLE = [
    ("openai", openai({"content": ""}), True),
    ("openai", openai({"content": None, "tool_calls": None, "refusal": None, "audio": None}), True),
    ("openai", openai({"content": ""}, None), True),
    ("openai", openai({"content": "x"}), False),
    ("openai", openai({"content": "x" * 2_000}), False),
    ("openai", openai({"content": None, "tool_calls": [CALL]}), False),
    ("openai", openai({"content": None, "refusal": "No."}), False),
    ("openai", openai({"content": "", "reasoning_content": "Hm."}), False),
    ("openai", openai({"content": ""}, "length"), False),
    ("openai", openai({"content": ""}, "content_filter"), False),
    ("anthropic", anthropic([]), True),
    ("anthropic", anthropic([{"type": "text", "text": ""}]), True),
    ("anthropic", anthropic([{"type": "text", "text": "x"}]), False),
    ("anthropic", anthropic([{"type": "tool_use", "id": "t", "name": "f", "input": {}}], "tool_use"), False),
    ("anthropic", anthropic([], "refusal"), False),
    ("anthropic", anthropic([], "max_tokens"), False),
    ("gemini", gemini([]), True),
    ("gemini", gemini([{"text": ""}]), True),
    ("gemini", gemini([{"text": "x"}]), False),
    ("gemini", gemini([], "SAFETY"), False),
    ("gemini", gemini([], "MAX_TOKENS"), False),
    ("ollama", ollama({"content": ""}), True),
    ("ollama", ollama({"content": "x"}), False),
    ("ollama", ollama({"content": ""}, "length"), False),
]


@pytest.mark.parametrize(("name", "body", "empty"), WHOLE)
def test_a_whole_answer(name: str, body: dict[str, object], empty: bool) -> None:
    verdict = dialect(name).read_reply(Operation.CHAT, "application/json", json.dumps(body).encode())
    assert isinstance(verdict, Reply)
    assert verdict.empty is empty


@pytest.mark.parametrize(("text", "finish", "empty"), [("", "stop", True), ("x", "stop", False), ("", "length", False)])
def test_a_whole_text_completion(text: str, finish: str, empty: bool) -> None:
    body = {"object": "text_completion", "choices": [{"text": text, "finish_reason": finish}], "usage": OPENAI_USAGE}
    verdict = dialect("openai").read_reply(Operation.COMPLETIONS, "application/json", json.dumps(body).encode())
    assert isinstance(verdict, Reply)
    assert verdict.empty is empty


def frames(*chunks: dict[str, object]) -> bytes:
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)


def chunk(delta: dict[str, object], finish: str | None = None) -> dict[str, object]:
    return {"id": "x", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


STREAMS = [
    ("openai", frames(chunk({"role": "assistant", "content": ""}), chunk({}, "stop")), True),
    ("openai", frames(chunk({"content": "x"}), chunk({}, "stop")), False),
    ("openai", frames(chunk({"tool_calls": [{"index": 0, **CALL}]}), chunk({}, "tool_calls")), False),
    ("openai", frames(chunk({}, "content_filter")), False),
    ("gemini", frames(gemini([{"text": ""}])), True),
    ("gemini", frames(gemini([{"text": "x"}])), False),
    ("gemini", frames(gemini([{"functionCall": {"name": "f", "args": {}}}])), False),
    ("gemini", frames(gemini([], "SAFETY")), False),
]


@pytest.mark.parametrize(("name", "sent", "empty"), STREAMS)
def test_a_stream(name: str, sent: bytes, empty: bool) -> None:
    tap = dialect(name).tap(Peek(Operation.CHAT, "m", stream=True), strip_usage=False)
    tap.feed(sent + (b"data: [DONE]\n\n" if name == "openai" else b""))
    assert tap.close() is None
    assert tap.empty is empty
