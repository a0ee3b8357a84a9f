"""Answers of Messages, whole, as callers get them; the block of each part, which streams use, too."""

from types import MappingProxyType
from typing import Any

from routerx import jsonx
from routerx.dialects.anthropic.request import CITATIONS, ORIGIN
from routerx.dialects.anthropic.usage import usage_object
from routerx.dialects.base import Asked
from routerx.dialects.reading import arguments_object
from routerx.dialects.signatures import UNSIGNED, pack, pack_call_id, plain_call_id
from routerx.domain.chat import (
    Answer,
    Choice,
    Citation,
    Finish,
    Media,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
)
from routerx.domain.usage import Usage

FINISHES = MappingProxyType(
    {
        "end_turn": Finish.STOP,
        "stop_sequence": Finish.STOP,
        "pause_turn": Finish.STOP,
        "compaction": Finish.STOP,
        "max_tokens": Finish.LENGTH,
        "model_context_window_exceeded": Finish.LENGTH,
        "tool_use": Finish.TOOL_CALLS,
        "refusal": Finish.CONTENT_FILTER,
    }
)
STOPS = MappingProxyType(
    {
        Finish.STOP: "end_turn",
        Finish.LENGTH: "max_tokens",
        Finish.TOOL_CALLS: "tool_use",
        Finish.CONTENT_FILTER: "refusal",
        Finish.OTHER: "end_turn",
    }
)


def encode_answer(answer: Answer, asked: Asked) -> tuple[bytes, tuple[str, ...]]:
    """See dialects.base.ChatSource. This wire has one choice."""
    dropped: set[str] = set()
    if len(answer.choices) > 1:
        dropped.add("n")
    choice = answer.choices[0]
    content = [found for part in choice.parts for found in _blocks(part, dropped)]
    message = opening(answer.id, answer.model, asked)
    message["content"] = content
    message |= stopping(choice)
    message["usage"] = usage_object(answer.usage if answer.usage is not None else Usage())
    return jsonx.encode(message), tuple(sorted(dropped))


def output_bytes(answer: Answer) -> int:
    """UTF-8 bytes of what was generated: texts, thoughts, and tool calls with their names."""
    size = 0
    for part in answer.choices[0].parts:
        match part:
            case Text() | Refusal() | Reasoning():
                size += len(part.text.encode("utf-8", "replace"))
            case ToolCall():
                size += len((part.name + part.arguments).encode("utf-8", "replace"))
    return size


def opening(id_: str | None, model: str | None, asked: Asked) -> dict[str, Any]:
    """A message that says nothing yet."""
    return {
        "id": id_ if id_ is not None else f"msg_{asked.request_id}",
        "type": "message",
        "role": "assistant",
        "model": model if model is not None else asked.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def stopping(choice: Choice) -> dict[str, Any]:
    """Why it ended, in this wire's words."""
    if choice.stop_sequence is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": choice.stop_sequence}
    finish = choice.finish if choice.finish is not None else Finish.STOP
    native = choice.native_finish
    known = native is not None and FINISHES.get(native) is finish
    return {"stop_reason": native if known else STOPS[finish], "stop_sequence": None}


def _blocks(part: Part, dropped: set[str]) -> list[Any]:
    match part:
        case Text():
            block: dict[str, Any] = {"type": "text", "text": part.text}
            if part.citations:
                block["citations"] = [citation(one) for one in part.citations]
            return [block] if part.text or part.citations else []
        case Refusal():
            return [{"type": "text", "text": part.text}] if part.text else []
        case Reasoning():
            return [thought(part)] if part.text or part.signature else []
        case ToolCall():
            return [call_block(part) | {"input": arguments_object(part.arguments)}]
        case Opaque(origin=origin) if origin == ORIGIN and part.type != CITATIONS:
            return [part.value]
        case Opaque():
            dropped.add(part.type)
        case Media():
            dropped.add(part.kind.value)
    return []


def thought(part: Reasoning) -> dict[str, Any]:
    """A thought that clients return as they got it: another vendor's signature is packed into this wire's own."""
    signature = part.signature if part.signature else UNSIGNED
    if part.signature and part.origin is not None and part.origin != ORIGIN:
        signature = pack(part.origin, signature, part.id)
    if part.redacted:
        return {"type": "redacted_thinking", "data": signature}
    return {"type": "thinking", "thinking": part.text, "signature": signature}


def call_block(call: ToolCall) -> dict[str, Any]:
    """A tool call, its input left to the caller of this function."""
    id_ = pack_call_id(plain_call_id(call.id), call.origin, call.signature)
    return {"type": "tool_use", "id": id_, "name": call.name}


def citation(source: Citation) -> dict[str, Any]:
    """As the vendor's own web search cites."""
    return {
        "type": "web_search_result_location",
        "url": source.url,
        "title": source.title,
        "cited_text": source.quote if source.quote is not None else "",
        "encrypted_index": "",
    }
