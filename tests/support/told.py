"""Whether an answer has the shape that a caller's wire has: by the client's types and its streams' rules."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from anthropic.types import Message, RawMessageStreamEvent
from google.genai.types import GenerateContentResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter, ValidationError

_CHUNKS: TypeAdapter[Any] = TypeAdapter(ChatCompletionChunk)
_RESPONSE_EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
_MESSAGE_EVENTS: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
_GENERATED: TypeAdapter[Any] = TypeAdapter(GenerateContentResponse)
_EVENTS = {
    "openai": _CHUNKS,
    "responses": _RESPONSE_EVENTS,
    "anthropic": _MESSAGE_EVENTS,
    "gemini": _GENERATED,
}
_WHOLES: Mapping[str, TypeAdapter[Any]] = {
    "openai": TypeAdapter(ChatCompletion),
    "responses": TypeAdapter(Response),
    "anthropic": TypeAdapter(Message),
    "gemini": _GENERATED,
}


def misshapen(caller: str, body: bytes, *, stream: bool) -> str | None:
    """What the official client's types, and the rules of its stream, say against an answer."""
    try:
        if not stream:
            _WHOLES[caller].validate_json(body)
            return None
        events = events_of(body)
        marks = [event for event in events if event == "[DONE]"]
        if len(marks) != (caller == "openai") or (marks and events[-1] != "[DONE]"):
            return f"end marks: {len(marks)}"
        values = [event for event in events if event != "[DONE]"]
        for value in values:
            _EVENTS[caller].validate_python(value)
    except ValidationError as error:
        return str(error)[:300]
    return STREAM_RULES[caller](values)


def events_of(body: bytes) -> list[Any]:
    frames = [frame for frame in body.split(b"\n\n") if frame]
    data = [line.removeprefix(b"data: ") for frame in frames for line in frame.split(b"\n") if line[:5] == b"data:"]
    return ["[DONE]" if one == b"[DONE]" else json.loads(one) for one in data]


def misordered_chat(chunks: list[Any]) -> str | None:
    finished, started = False, 0
    if len({chunk["id"] for chunk in chunks}) != 1:
        return "the id changes"
    for chunk in chunks:
        for choice in chunk["choices"]:
            delta = choice["delta"]
            if finished:
                return "more of a choice that has finished"
            for call in delta.get("tool_calls") or ():
                if "id" in call and call["index"] != started:
                    return f"call {call['index']} started as number {started}"
                started += "id" in call
                if call["index"] >= started:
                    return "arguments of a call that was not started"
            finished = choice["finish_reason"] is not None
    return None if finished else "no finish"


def misordered_responses(events: list[Any]) -> str | None:
    if [event["sequence_number"] for event in events] != list(range(len(events))):
        return "sequence numbers"
    opened = [event["output_index"] for event in events if event["type"] == "response.output_item.added"]
    closed = [event["output_index"] for event in events if event["type"] == "response.output_item.done"]
    if opened != list(range(len(opened))) or sorted(closed) != opened:
        return f"items {opened} opened, {closed} closed"
    items = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    whole = events[-1].get("response", {}).get("output")
    return None if whole == items else "the whole response is not what was streamed"


def misordered_messages(events: list[Any]) -> str | None:
    kinds = [event["type"] for event in events if event["type"] != "ping"]
    if kinds[0] != "message_start" or kinds[-2:] != ["message_delta", "message_stop"]:
        return f"from {kinds[0]} to {kinds[-2:]}"
    open_block, count = None, 0
    for event in events:
        match event["type"]:
            case "content_block_start":
                if open_block is not None or event["index"] != count:
                    return f"block {event['index']} started as number {count}"
                open_block, count = event["index"], count + 1
            case "content_block_delta" | "content_block_stop":
                if event["index"] != open_block:
                    return f"{event['type']} of block {event['index']}, {open_block} is open"
                open_block = None if event["type"] == "content_block_stop" else open_block
    return None


def misordered_candidates(chunks: list[Any]) -> str | None:
    finishes = [one.get("finishReason") for chunk in chunks for one in chunk.get("candidates", ())]
    if [finish is not None for finish in finishes] != [False] * (len(finishes) - 1) + [True]:
        return f"finishes {finishes}"
    return None


STREAM_RULES: Mapping[str, Callable[[list[Any]], str | None]] = {
    "openai": misordered_chat,
    "responses": misordered_responses,
    "anthropic": misordered_messages,
    "gemini": misordered_candidates,
}
