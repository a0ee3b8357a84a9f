"""The oracle that comes with the recorded traffic, and what it makes of a recording and of what a caller was told.

It is loaded from the traffic's folder when a test runs, never copied: its makers wrote it apart from this repository.
The same parser reads both ends (the provider's recorded bytes, and RouterX's bytes in the caller's format), so that the
two readings can be compared field by field.
"""

import importlib.util
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

from tests.support.traffic import INDEX, TRAFFIC, Fixture, body_of, is_stream

Reading = dict[str, Any]
"""What the oracle says: text, tool_calls, finish, usage and so on; its own docstring has the list."""

NATIVE = ("anthropic.messages", "gemini.generate", "openai.responses")
"""The recorded interfaces that are not OpenAI's chat."""

CLASSES = ("stop", "length", "tool_calls", "content_filter")
"""Finishes that mean the same to everyone. The oracle's others (`malformed`, `other`, `unknown`) are a vendor's own."""


@cache
def tool(name: str) -> ModuleType:
    """A module of the traffic's tools: `oracle`, `reqoracle`."""
    spec = importlib.util.spec_from_file_location(f"traffic_{name}", TRAFFIC / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def recorded(api: str) -> tuple[Fixture, ...]:
    """Every usable recording of an interface, in the order of the index; none where there is no traffic."""
    if not INDEX.is_file():
        return ()
    entries = (json.loads(line) for line in INDEX.read_text().splitlines())
    chosen = [entry for entry in entries if entry["api"] == api and not entry["unusable"]]
    return tuple(json.loads((TRAFFIC / "fixtures" / entry["file"]).read_text()) for entry in chosen)


@cache
def pairs() -> tuple[dict[str, Any], ...]:
    """Scenarios that were recorded in OpenAI's form and in a native one."""
    path = TRAFFIC / "fixtures" / "pairs.jsonl"
    return tuple(json.loads(line) for line in path.read_text().splitlines()) if path.is_file() else ()


def recording(file: str) -> Fixture:
    """By its path below the fixtures, as pairs() and the index name it."""
    found: Fixture = json.loads((TRAFFIC / "fixtures" / file).read_text())
    return found


def expected(fixture: Fixture) -> Reading:
    """What a caller is to be told of a recording, whatever format it speaks."""
    found: Reading = tool("oracle").expected(fixture)
    if fixture["api"] == "gemini.generate" and found["has_usage"] and found["prompt_tokens_excl"] is None:
        found["has_usage"] = False  # A report without numbers.
    if fixture["api"] == "openai.responses" and found["cache_write_tokens"] is None:
        # The oracle is older than this number.
        usage = (_last_response(fixture) or {}).get("usage") or {}
        found["cache_write_tokens"] = (usage.get("input_tokens_details") or {}).get("cache_write_tokens")
    return found


def told(caller: str, body: bytes, *, stream: bool) -> Reading:
    """What RouterX's answer says to a caller of this dialect."""
    oracle, text = tool("oracle"), body.decode()
    if caller == "gemini":
        chunks = [json.loads(data) for _, data in oracle.sse_events(text)] if stream else [json.loads(text)]
        return dict(oracle.gemini_chunks(chunks, stream))
    readers = {
        "openai": (oracle.openai_chat, oracle.openai_chat_stream),
        "responses": (oracle.openai_response_obj, oracle.openai_responses_stream),
        "anthropic": (oracle.anthropic_message, oracle.anthropic_stream),
    }
    whole, streamed = readers[caller]
    return dict(streamed(text) if stream else whole(json.loads(text)))


# --- one usage, two forms


def at_once(fixture: Fixture) -> bytes | None:
    """A recorded stream as the whole answer that its vendor would have given; None where that cannot be told."""
    match fixture["api"]:
        case "openai.responses":
            response = _last_response(fixture)
            return None if response is None else json.dumps(response).encode()
        case "anthropic.messages":
            return _whole_message(fixture)
        case "gemini.generate":
            return _whole_candidates(fixture)
    return None


def recorded_events(fixture: Fixture) -> list[Any]:
    found = []
    for _, data in tool("oracle").sse_events(body_of(fixture).decode()):
        try:
            found.append(json.loads(data))
        except ValueError:
            continue
    return found


def _last_response(fixture: Fixture) -> dict[str, Any] | None:
    if not is_stream(fixture):
        body = fixture.get("response_body")
        return body if isinstance(body, dict) else None
    ends = ("response.completed", "response.incomplete", "response.failed")
    return next((one["response"] for one in recorded_events(fixture) if one.get("type") in ends), None)


def _whole_message(fixture: Fixture) -> bytes | None:
    message: dict[str, Any] | None = None
    blocks: dict[int, dict[str, Any]] = {}
    for event in recorded_events(fixture):
        match event.get("type"):
            case "message_start":
                message = message or dict(event["message"])
            case "content_block_start":
                blocks[event["index"]] = dict(event["content_block"])
            case "content_block_delta":
                _grow(blocks[event["index"]], event["delta"])
            case "message_delta":
                assert message is not None
                message |= {name: value for name, value in event["delta"].items() if value is not None}
                usage = {name: value for name, value in (event.get("usage") or {}).items() if value is not None}
                message["usage"] = (message.get("usage") or {}) | usage
            case "error":
                return None
    if message is None or message.get("stop_reason") is None:
        return None
    for block in blocks.values():
        if "partial" in block:
            try:
                block["input"] = json.loads(block.pop("partial") or "{}")
            except ValueError:
                return None  # Cut off by the ceiling: whole answers hold objects only.
    return json.dumps(message | {"content": [blocks[place] for place in sorted(blocks)]}).encode()


def _grow(block: dict[str, Any], delta: Mapping[str, Any]) -> None:
    match delta.get("type"):
        case "text_delta":
            block["text"] = block.get("text", "") + delta["text"]
        case "thinking_delta":
            block["thinking"] = block.get("thinking", "") + delta["thinking"]
        case "signature_delta":
            block["signature"] = delta["signature"]
        case "input_json_delta":
            block["partial"] = block.get("partial", "") + delta["partial_json"]
        case "citations_delta":
            block["citations"] = [*(block.get("citations") or ()), delta["citation"]]


def _whole_candidates(fixture: Fixture) -> bytes | None:
    parts: list[Any] = []
    whole: dict[str, Any] = {}
    candidate: dict[str, Any] = {"index": 0}
    for chunk in recorded_events(fixture):
        if not isinstance(chunk, dict) or "error" in chunk:
            return None
        whole |= {name: value for name, value in chunk.items() if name != "candidates"}
        for one in chunk.get("candidates") or ():
            if one.get("index"):
                return None
            parts += (one.get("content") or {}).get("parts") or ()
            candidate |= {name: value for name, value in one.items() if name != "content"}
    return json.dumps(whole | {"candidates": [candidate | {"content": {"role": "model", "parts": parts}}]}).encode()


# --- money


@dataclass(frozen=True)
class Rates:
    """nano-USD per token."""

    fresh: int
    cached: int
    written: int
    text: int
    reasoning: int


def owed_nano(reading: Reading, rates: Rates) -> int | None:
    """What the usage in a reading costs; None where only an estimate can tell."""
    if not reading["has_usage"] or reading["prompt_tokens"] is None:
        return None
    cached, written = reading["cached_tokens"] or 0, reading["cache_write_tokens"] or 0
    reasoning = reading["reasoning_tokens"] or 0
    fresh, text = reading["prompt_tokens"] - cached - written, (reading["completion_tokens"] or 0) - reasoning
    return (
        fresh * rates.fresh
        + cached * rates.cached
        + written * rates.written
        + text * rates.text
        + reasoning * rates.reasoning
    )


# --- comparing


def differences(wanted: Reading, got: Reading, ignoring: Iterable[str] = ()) -> list[str]:
    """Where what was told is not what was recorded, field by field."""
    found = []
    for name, (before, after) in _compared(wanted, got).items():
        if name not in ignoring and before != after:
            found.append(f"{name}: {after!r} told, {before!r} recorded")
    ids = [call["id"] for call in got["tool_calls"]]
    if len(set(ids)) != len(ids) or not all(ids):
        found.append(f"ids of tool calls: {ids}")
    return found


def _compared(wanted: Reading, got: Reading) -> dict[str, tuple[Any, Any]]:
    def calls(reading: Reading) -> list[tuple[str, Any]]:
        return [(call["name"], {} if call["args"] is None else call["args"]) for call in reading["tool_calls"]]

    finish = wanted["finish"] if wanted["finish"] in CLASSES else got["finish"]
    compared: dict[str, tuple[Any, Any]] = {
        "text": (wanted["text"], got["text"]),
        "tool calls": (calls(wanted), calls(got)),
        "finish": (finish, got["finish"]),
        "refusal": (wanted["refusal"] or None, got["refusal"] or None),
        # Several thoughts may be told as one; where one ended is not part of them.
        "reasoning": ("".join(wanted["reasoning_text"].split()), "".join(got["reasoning_text"].split())),
    }
    if wanted["has_usage"]:
        for name in ("prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens"):
            compared[name] = (wanted[name] or 0, got[name] or 0)
    return compared
