"""A fake of Anthropic's Messages, after its reference and the official client's types.

Input tokens leave out what the cache gave and took; output tokens hold the thoughts. With manual thinking, a turn that
called tools has to come back with its thought, signed as it was.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from anthropic.types.message_count_tokens_params import MessageCountTokensParams
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming, MessageCreateParamsStreaming

from tests.support.natives.script import (
    HEIGHT,
    WIDTH,
    Heard,
    Said,
    Tokens,
    pieces,
    refuse_unless,
    said,
    scenario_of,
    size_of,
    tokens_of,
    turn_of,
)
from tests.support.natives.server import KEY, Native, Reply, Sent, dumped
from tests.support.natives.shapes import complaints

Json = dict[str, Any]

SIGNATURE = "EqQBCkYIBxgCKkDsigned+/by=="
ID = re.compile(r"[a-zA-Z0-9_-]+")
VERSIONS = ("2023-06-01", "2026-10-21")
OLD: Mapping[str, Any] = {"temperature": float, "top_p": float, "top_k": int}
"""What only the first version takes; the client's types are of the second."""
COUNTED = 4321
"""What count_tokens says of every request."""


class Anthropic(Native):
    """POST /v1/messages and /v1/messages/count_tokens."""

    name = "anthropic"

    def tokens(self, scenario: str, turn: int) -> Tokens:
        return tokens_of(scenario, turn)

    def refused(self, reason: str) -> Mapping[str, Any]:
        error = {"type": "invalid_request_error", "message": reason}
        return {"type": "error", "error": error, "request_id": "req_native"}

    def answer(self, sent: Sent) -> Reply:
        keys = (sent.headers.get("x-api-key"), sent.headers.get("authorization", "").removeprefix("Bearer "))
        refuse_unless(KEY in keys, "no API key")  # The official client has moved from the one to the other.
        version = sent.headers.get("anthropic-version")
        refuse_unless(version in VERSIONS, f"anthropic-version {version!r}")
        body = sent.body
        if sent.path == "/v1/messages/count_tokens":
            _check(body, MessageCountTokensParams, OLD)
            return Reply({"input_tokens": COUNTED})
        refuse_unless(sent.path == "/v1/messages", f"no such path: {sent.path}")
        stream = body.get("stream") is True
        hint = MessageCreateParamsStreaming if stream else MessageCreateParamsNonStreaming
        _check(body, hint, OLD if version == VERSIONS[0] else {})
        heard = _heard(sent)
        _check_thinking(body, heard)
        answer, tokens = said(heard), self.tokens(heard.scenario, turn_of(heard))
        if not stream:
            return Reply(_whole(body["model"], answer, tokens))
        frames = tuple(_frame(event) for event in _events(_whole(body["model"], answer, tokens), tokens))
        return Reply(frames=frames, content_type="text/event-stream")


def _check(body: Json, hint: Any, more: Mapping[str, Any]) -> None:
    """`more` are fields that the type does not have."""
    wrong = complaints({name: value for name, value in body.items() if name not in more}, hint)
    wrong += [one for name in body.keys() & more.keys() for one in complaints(body[name], more[name], name)]
    refuse_unless(not wrong, "; ".join(wrong))


def _check_thinking(body: Json, heard: Heard) -> None:
    thinking = body.get("thinking") or {"type": "disabled"}
    refuse_unless(body["max_tokens"] >= 1, "max_tokens: at least 1")
    if thinking["type"] == "enabled":
        refuse_unless(thinking["budget_tokens"] >= 1024, "budget_tokens: at least 1024")
        refuse_unless(thinking["budget_tokens"] < body["max_tokens"], "max_tokens must be greater than budget_tokens")
        forced = (body.get("tool_choice") or {}).get("type") in ("any", "tool")
        refuse_unless(not forced, "thinking may not be enabled when tool_choice forces tool use")
        refuse_unless(body.get("temperature") in (None, 1), "temperature may only be 1 when thinking is enabled")
        refuse_unless(body.get("top_k") is None, "top_k must be unset when thinking is enabled")
    if heard.scenario == "reasoning":
        refuse_unless(thinking["type"] in ("enabled", "adaptive"), "nobody asked to think")


# --- hearing


def _heard(sent: Sent) -> Heard:
    body = sent.body
    refuse_unless(body["messages"], "no messages")
    refuse_unless(body["messages"][0]["role"] == "user", "the first message is not the user's")
    turns = [_blocks(message["content"]) for message in body["messages"]]
    for place, message in enumerate(body["messages"]):
        before = body["messages"][place - 1]["role"] if place else None
        refuse_unless(message["role"] != before, f"messages[{place}]: roles do not alternate")
        _check_blocks(turns[place], f"messages[{place}]")
    wish = (body.get("output_config") or {}).get("format") or {}
    marks = str(body).count("'cache_control': {")
    refuse_unless(marks <= 4, f"{marks} blocks with cache_control, the maximum is 4")
    names = [str(one["name"]) for one in body.get("tools", ())]
    refuse_unless(len(names) == len(set(names)), "tool names must be unique")
    return Heard(
        scenario_of(body["model"]),
        "\n".join(block["text"] for block in _blocks(body.get("system", ""))),
        frozenset(names),
        _results(sent, turns, bool(names)),
        tuple(_picture(one["source"]) for turn in turns for one in turn if one["type"] == "image"),
        wish.get("schema"),
    )


def _blocks(content: str | list[Json]) -> list[Json]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return content


def _check_blocks(blocks: list[Json], at: str) -> None:
    refuse_unless(blocks, f"{at}: content is empty")
    for block in blocks:
        if block["type"] == "text":
            refuse_unless(block["text"].strip(), f"{at}: text content blocks must contain non-whitespace text")
    kinds = [block["type"] == "tool_result" for block in blocks]
    refuse_unless(kinds == sorted(kinds, reverse=True), f"{at}: tool_result blocks come first")


def _picture(source: Json) -> tuple[int, int]:
    if source["type"] == "url":
        return WIDTH, HEIGHT  # This vendor fetches pictures by itself.
    refuse_unless(source["type"] == "base64", f"an image by {source['type']}")
    return size_of(source["data"], source["media_type"])


def _results(sent: Sent, turns: list[list[Json]], has_tools: bool) -> tuple[str, ...] | None:
    wanted: list[str] = []
    found: list[str] = []
    thinking = (sent.body.get("thinking") or {}).get("type")
    for place, turn in enumerate(turns):
        calls = [block["id"] for block in turn if block["type"] == "tool_use"]
        results = {block["tool_use_id"]: block for block in turn if block["type"] == "tool_result"}
        refuse_unless(set(results) == set(wanted), f"messages[{place}]: tool_use {wanted} answered by {list(results)}")
        found += [_result_text(results[id_]) for id_ in wanted]
        refuse_unless(all(ID.fullmatch(id_) for id_ in calls), f"messages[{place}]: tool_use ids {calls}")
        refuse_unless(len(calls) == len(set(calls)), f"messages[{place}]: tool_use ids must be unique")
        refuse_unless(has_tools or not calls, "requests which include tool_use or tool_result blocks must define tools")
        thoughts = [block for block in turn if block["type"] == "thinking"]
        sent.signatures += [block["signature"] for block in thoughts]
        for block in thoughts:
            refuse_unless(block["signature"] == SIGNATURE, f"messages[{place}]: invalid signature in thinking block")
        if calls and thinking == "enabled":
            refuse_unless(turn[0]["type"] == "thinking", f"messages[{place}]: expected thinking, but found tool_use")
        wanted = calls
    refuse_unless(not wanted, f"tool_use {wanted} without tool_result")
    return tuple(found) if found else None


def _result_text(block: Json) -> str:
    return "".join(one.get("text", "") for one in _blocks(block.get("content", "")))


# --- saying


def _usage(tokens: Tokens) -> Json:
    return {
        "input_tokens": tokens.fresh,
        "cache_creation_input_tokens": tokens.written,
        "cache_read_input_tokens": tokens.read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": tokens.write_5m,
            "ephemeral_1h_input_tokens": tokens.write_1h,
        },
        "output_tokens": tokens.output,
        "output_tokens_details": {"thinking_tokens": tokens.thought},
        "service_tier": "standard",
        "inference_geo": "not_available",
    }


def _whole(model: str, answer: Said, tokens: Tokens) -> Json:
    content: list[Json] = []
    if answer.thought:
        content.append({"type": "thinking", "thinking": answer.thought, "signature": SIGNATURE})
    if answer.text:
        content.append({"type": "text", "text": answer.text})
    content += [
        {"type": "tool_use", "id": f"toolu_0{place}Native", "name": call.name, "input": dict(call.arguments)}
        for place, call in enumerate(answer.calls)
    ]
    return {
        "id": "msg_01Native",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": "tool_use" if answer.calls else "end_turn",
        "stop_sequence": None,
        "usage": _usage(tokens),
    }


def _events(whole: Json, tokens: Tokens) -> Iterator[Json]:
    """Usage as the vendor streams it: the input at once with the split by TTL; later all of it without."""
    early = _usage(tokens) | {"output_tokens": 1}
    del early["output_tokens_details"]
    begun = whole | {"content": [], "stop_reason": None, "usage": early}
    yield {"type": "message_start", "message": begun}
    for place, block in enumerate(whole["content"]):
        where = {"index": place}
        empty = {"text": {"text": ""}, "thinking": {"thinking": "", "signature": ""}, "tool_use": {"input": {}}}
        yield {"type": "content_block_start", **where, "content_block": block | empty[block["type"]]}
        if place == 0:
            yield {"type": "ping"}
        for delta in _deltas(block):
            yield {"type": "content_block_delta", **where, "delta": delta}
        yield {"type": "content_block_stop", **where}
    late = {
        name: whole["usage"][name]
        for name in (
            "input_tokens",
            "cache_creation_input_tokens",
            "cache_read_input_tokens",
            "output_tokens",
            "output_tokens_details",
        )
    }
    yield {
        "type": "message_delta",
        "delta": {"stop_reason": whole["stop_reason"], "stop_sequence": None},
        "usage": late,
    }
    yield {"type": "message_stop"}


def _deltas(block: Json) -> Iterator[Json]:
    match block["type"]:
        case "text":
            for piece in pieces(block["text"]):
                yield {"type": "text_delta", "text": piece}
        case "thinking":
            for piece in pieces(block["thinking"]):
                yield {"type": "thinking_delta", "thinking": piece}
            yield {"type": "signature_delta", "signature": block["signature"]}
        case _:
            yield {"type": "input_json_delta", "partial_json": ""}
            for piece in pieces(json.dumps(block["input"], ensure_ascii=False)):
                yield {"type": "input_json_delta", "partial_json": piece}


def _frame(event: Json) -> bytes:
    """The vendor pads its JSON with blanks."""
    return b"event: " + event["type"].encode() + b"\ndata: " + dumped(event) + b"   \n\n"
