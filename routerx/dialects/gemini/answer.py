"""Answers of generateContent as callers get them: whole ones, and the parts that streams tell, too."""

from types import MappingProxyType
from typing import Any

import msgspec

from routerx import jsonx
from routerx.dialects.base import Asked
from routerx.dialects.gemini.signing import ORIGIN, written
from routerx.dialects.gemini.usage import usage_metadata
from routerx.dialects.reading import arguments_object
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

FINISHES = MappingProxyType(
    {
        Finish.STOP: "STOP",
        Finish.LENGTH: "MAX_TOKENS",
        Finish.TOOL_CALLS: "STOP",
        Finish.CONTENT_FILTER: "SAFETY",
        Finish.OTHER: "OTHER",
    }
)


def encode_answer(answer: Answer, asked: Asked) -> tuple[bytes, tuple[str, ...]]:
    """See dialects.base.ChatSource."""
    dropped: set[str] = set()
    body = heading(answer.id, answer.model, asked)
    body["candidates"] = [_candidate(index, choice, dropped) for index, choice in enumerate(answer.choices)]
    if answer.usage is not None:
        body["usageMetadata"] = usage_metadata(answer.usage)
    return jsonx.encode(body), tuple(sorted(dropped))


def heading(id_: str | None, model: str | None, asked: Asked) -> dict[str, Any]:
    """What every chunk says of itself."""
    return {
        "modelVersion": model if model is not None else asked.model,
        "responseId": id_ if id_ is not None else asked.request_id,
    }


def _candidate(index: int, choice: Choice, dropped: set[str]) -> dict[str, Any]:
    parts = [encoded for one in choice.parts if (encoded := part(one, dropped)) is not None]
    finish = choice.finish if choice.finish is not None else Finish.STOP
    candidate: dict[str, Any] = {
        "content": {"role": "model", "parts": parts},
        "finishReason": FINISHES[finish],
        "index": index,
    }
    cited = [citation for one in choice.parts if isinstance(one, Text) for citation in one.citations]
    if cited:
        candidate["groundingMetadata"] = grounding(cited)
    return candidate


def part(one: Part, dropped: set[str]) -> dict[str, Any] | None:
    """One part of an answer on this wire; None where it has no place."""
    match one:
        case Text() | Refusal():
            return {"text": one.text}
        case Reasoning():
            signature = written(one.origin, one.signature, one.id, redacted=one.redacted)
            thought: dict[str, Any] = {"text": one.text, "thought": True}
            return thought | ({"thoughtSignature": signature} if signature is not None else {})
        case ToolCall():
            call = {"id": one.id, "name": one.name, "args": arguments_object(one.arguments)}
            signature = written(one.origin, one.signature)
            return {"functionCall": call} | ({"thoughtSignature": signature} if signature is not None else {})
        case Media(data=data) if data is not None:
            return {"inlineData": {"mimeType": one.mime, "data": data}}
        case Media():
            dropped.add(one.kind.value)
        case Opaque(origin=origin) if origin == ORIGIN:
            value = msgspec.json.decode(one.value)
            return value if isinstance(value, dict) else None
        case Opaque():
            dropped.add(one.type)
    return None


def grounding(cited: list[Citation]) -> dict[str, Any]:
    """Sources, as the vendor's own search names them."""
    return {"groundingChunks": [{"web": {"uri": one.url, "title": one.title}} for one in cited]}
