"""Answers of chat, whole: a canonical answer as callers get it, a provider's as the canonical one."""

from collections.abc import Iterable
from types import MappingProxyType
from typing import Any

from routerx import jsonx
from routerx.dialects.base import Asked
from routerx.dialects.media import data_url
from routerx.dialects.openai_chat.reasoning import details
from routerx.dialects.openai_chat.usage_out import usage_object
from routerx.dialects.signatures import pack_call_id
from routerx.domain.chat import (
    Answer,
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

FINISHES = MappingProxyType(
    {
        Finish.STOP: "stop",
        Finish.LENGTH: "length",
        Finish.TOOL_CALLS: "tool_calls",
        Finish.CONTENT_FILTER: "content_filter",
        # The provider's own word stands beside it; clients know only these four.
        Finish.OTHER: "stop",
    }
)


def encode_answer(answer: Answer, asked: Asked) -> tuple[bytes, tuple[str, ...]]:
    """See dialects.base.ChatSource."""
    dropped: set[str] = set()
    body: dict[str, Any] = {
        "id": answer.id if answer.id is not None else f"chatcmpl-{asked.request_id}",
        "object": "chat.completion",
        "created": asked.created_s,
        "model": answer.model if answer.model is not None else asked.model,
        "choices": [_choice(index, choice, dropped) for index, choice in enumerate(answer.choices)],
    }
    if answer.usage is not None:
        body["usage"] = usage_object(answer.usage)
    if asked.request.logprobs:
        dropped.add("logprobs")
    return jsonx.encode(body), tuple(sorted(dropped))


def _choice(index: int, choice: Choice, dropped: set[str]) -> dict[str, Any]:
    encoded: dict[str, Any] = {
        "index": index,
        "message": _message(choice.parts, dropped),
        "logprobs": None,
        "finish_reason": FINISHES[choice.finish] if choice.finish is not None else "stop",
    }
    if choice.native_finish is not None:
        encoded["native_finish_reason"] = choice.native_finish
    return encoded


def _message(parts: Iterable[Part], dropped: set[str]) -> dict[str, Any]:
    parts = tuple(parts)
    texts = [part.text for part in parts if isinstance(part, Text)]
    refusals = [part.text for part in parts if isinstance(part, Refusal)]
    calls = [part for part in parts if isinstance(part, ToolCall)]
    content = "".join(texts)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": content if content or not (calls or refusals) else None,
        "refusal": "".join(refusals) if refusals else None,
    }
    thoughts = [part for part in parts if isinstance(part, Reasoning)]
    text = "".join(thought.text for thought in thoughts)
    if text:
        message["reasoning_content"] = text
    signed = details(thoughts)
    if signed:
        message["reasoning_details"] = signed
    if calls:
        message["tool_calls"] = [tool_call(call) for call in calls]
    cited = [citation for part in parts if isinstance(part, Text) for citation in part.citations]
    if cited:
        message["annotations"] = [annotation(citation) for citation in cited]
    images = [image(part, dropped) for part in parts if isinstance(part, Media)]
    if any(images):
        message["images"] = [one for one in images if one is not None]
    dropped.update(part.type for part in parts if isinstance(part, Opaque))
    return message


def tool_call(call: ToolCall) -> dict[str, Any]:
    """A whole call. What Gemini signed goes where its own compatible route has it, and into the id, which every client
    keeps."""
    id_ = pack_call_id(call.id, call.origin, call.signature)
    if call.custom:
        return {"id": id_, "type": "custom", "custom": {"name": call.name, "input": call.arguments}}
    encoded: dict[str, Any] = {"id": id_, "type": "function"}
    encoded["function"] = {"name": call.name, "arguments": call.arguments}
    if call.origin == "gemini" and call.signature is not None:
        encoded["extra_content"] = {"google": {"thought_signature": call.signature}}
    return encoded


def annotation(citation: Citation) -> dict[str, Any]:
    """A source of the text, in OpenAI's shape; where in the text it applies is not known, so it applies to all."""
    source: dict[str, Any] = {"url": citation.url, "title": citation.title or "", "start_index": 0, "end_index": 0}
    if citation.quote is not None:
        source["content"] = citation.quote
    return {"type": "url_citation", "url_citation": source}


def image(media: Media, dropped: set[str]) -> dict[str, Any] | None:
    """A picture that the model made, by the field's convention."""
    if media.kind is not MediaKind.IMAGE or (media.data is None and media.url is None):
        dropped.add(media.kind.value)
        return None
    return {"type": "image_url", "image_url": {"url": media.url if media.url is not None else data_url(media)}}
