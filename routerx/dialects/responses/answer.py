"""Answers of Responses as callers get them: the whole object, and its items, which streams tell one by one."""

from collections.abc import Iterator
from typing import Any

from routerx import jsonx
from routerx.dialects.base import Asked
from routerx.dialects.responses.request import ORIGIN, REDACTED
from routerx.dialects.responses.target import tool_choice, tool_object
from routerx.dialects.responses.usage import usage_object
from routerx.dialects.signatures import UNSIGNED, pack, pack_call_id
from routerx.domain.chat import (
    Answer,
    ChatRequest,
    Citation,
    CustomTool,
    Finish,
    FunctionTool,
    JsonObject,
    JsonSchema,
    Media,
    MediaKind,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Role,
    Text,
    ToolCall,
)
from routerx.domain.pricing import PLAIN_TIERS

Item = Any
"""A dict, or the Raw of an item that only this wire knows."""


def encode_answer(answer: Answer, asked: Asked) -> tuple[bytes, tuple[str, ...]]:
    """See dialects.base.ChatSource. This wire has one choice."""
    dropped: set[str] = set()
    if len(answer.choices) > 1:
        dropped.add("n")
    return jsonx.encode(response(answer, asked, dropped)), tuple(sorted(dropped))


def response(answer: Answer, asked: Asked, dropped: set[str]) -> dict[str, Any]:
    """The whole object of a finished answer."""
    choice = answer.choices[0]
    body = heading(answer.id, answer.model, asked)
    body["output"] = list(items(choice.parts, asked.request_id, dropped))
    incomplete = {Finish.LENGTH: "max_output_tokens", Finish.CONTENT_FILTER: "content_filter"}
    reason = incomplete.get(choice.finish) if choice.finish is not None else None
    body["status"] = "completed" if reason is None else "incomplete"
    body["incomplete_details"] = None if reason is None else {"reason": reason}
    body["completed_at"] = asked.created_s if reason is None else None
    body["usage"] = usage_object(answer.usage) if answer.usage is not None else None
    if answer.service_tier is not None:
        body["service_tier"] = "default" if answer.service_tier in PLAIN_TIERS else answer.service_tier
    return body


def heading(id_: str | None, model: str | None, asked: Asked) -> dict[str, Any]:
    """A response that says nothing yet; it repeats what was asked, as this wire does."""
    request = asked.request
    wish = request.reasoning
    return {
        "id": id_ if id_ is not None else f"resp_{asked.request_id}",
        "object": "response",
        "created_at": asked.created_s,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": _instructions(request),
        "max_output_tokens": request.output_tokens_max,
        "model": model if model is not None else asked.model,
        "output": [],
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": None,
        "prompt_cache_key": request.prompt_cache_key,
        "reasoning": {
            "effort": wish.effort if wish is not None else None,
            "summary": "auto" if wish is not None and wish.visible else None,
        },
        "service_tier": request.service_tier,
        "store": False,
        "temperature": request.sampling.temperature,
        "text": {"format": _format(request), "verbosity": request.verbosity},
        "tool_choice": "auto" if request.tool_choice is None else tool_choice(request.tool_choice, request.tools),
        "tools": [
            tool_object(tool) if isinstance(tool, FunctionTool | CustomTool) else tool.value for tool in request.tools
        ],
        "top_p": request.sampling.top_p,
        "top_logprobs": request.top_logprobs,
        "truncation": "disabled",
        "usage": None,
        "user": request.user,
        "metadata": {} if request.metadata is None else request.metadata,
    }


def _instructions(request: ChatRequest) -> str | None:
    first = request.messages[0] if request.messages else None
    if first is None or first.role is not Role.SYSTEM:
        return None
    return "\n\n".join(part.text for part in first.parts if isinstance(part, Text))


def _format(request: ChatRequest) -> dict[str, Any]:
    match request.response_format:
        case JsonObject():
            return {"type": "json_object"}
        case JsonSchema() as wish:
            return {
                "type": "json_schema",
                "name": wish.name or "answer",
                "schema": wish.schema,
                "strict": wish.strict is True,
                "description": wish.description,
            }
    return {"type": "text"}


# --- items -------------------------------------------------------------------------------------------------------


def items(parts: tuple[Part, ...], request_id: str, dropped: set[str]) -> Iterator[Item]:
    """The output items of an answer: what is said in a row is one message."""
    said: list[dict[str, Any]] = []
    count = 0
    for part in parts:
        if isinstance(part, Text | Refusal):
            said.append(spoken(part))
            continue
        if said:
            yield message(item_id("msg", request_id, count), said)
            said = []
            count += 1
        encoded = item(part, request_id, count, dropped)
        if encoded is not None:
            yield encoded
            count += 1
    if said:
        yield message(item_id("msg", request_id, count), said)


def item_id(prefix: str, request_id: str, place: int) -> str:
    """Unique in the response, and the same whether it is streamed or not."""
    return f"{prefix}_{request_id}_{place}"


def message(id_: str, content: list[dict[str, Any]], status: str = "completed") -> dict[str, Any]:
    return {"id": id_, "type": "message", "role": "assistant", "status": status, "content": content}


def spoken(part: Text | Refusal) -> dict[str, Any]:
    """A content part of a message."""
    if isinstance(part, Refusal):
        return {"type": "refusal", "refusal": part.text}
    cited = [annotation(one) for one in part.citations]
    return {"type": "output_text", "text": part.text, "annotations": cited, "logprobs": []}


def annotation(citation: Citation) -> dict[str, Any]:
    """A source; where in the text it applies is not known."""
    title = citation.title if citation.title is not None else ""
    return {"type": "url_citation", "url": citation.url, "title": title, "start_index": 0, "end_index": 0}


def item(part: Part, request_id: str, place: int, dropped: set[str]) -> Item | None:
    """One item that is no message; None where this wire has no place for it."""
    match part:
        case Reasoning():
            return thought(part, part_id(part, request_id, place))
        case ToolCall():
            return call(part, item_id("ctc" if part.custom else "fc", request_id, place), "completed")
        case Media(kind=MediaKind.IMAGE) if part.data is not None:
            return picture(part, item_id("ig", request_id, place))
        case Opaque(origin=origin) if origin == ORIGIN:
            return part.value
        case Opaque():
            dropped.add(part.type)
        case Media():
            dropped.add(part.kind.value)
    return None


def picture(part: Media, id_: str) -> dict[str, Any]:
    """A picture that the model made, as the wire's own tool for pictures tells it."""
    encoded = {"id": id_, "type": "image_generation_call", "status": "completed", "result": part.data}
    if part.mime is not None:
        encoded["output_format"] = part.mime.removeprefix("image/")
    return encoded


def part_id(part: Reasoning, request_id: str, place: int) -> str:
    """The vendor's own id of a thought that it signed; it checks the two together."""
    own = part.origin == ORIGIN and part.id is not None
    return str(part.id) if own else item_id("rs", request_id, place)


def thought(part: Reasoning, id_: str) -> dict[str, Any]:
    """A thought that clients return as they got it: another vendor's signature is packed into the encrypted content,
    and one that nobody signed is marked, for this wire's vendor refuses both."""
    encoded: dict[str, Any] = {"id": id_, "type": "reasoning", "summary": []}
    if part.text:
        encoded["summary"] = [{"type": "summary_text", "text": part.text}]
    if part.signature is None or part.origin is None:
        encoded["encrypted_content"] = UNSIGNED
    elif part.origin == ORIGIN:
        encoded["encrypted_content"] = part.signature
    else:
        encoded["encrypted_content"] = pack(part.origin, part.signature, REDACTED if part.redacted else part.id)
    return encoded


def call(part: ToolCall, id_: str, status: str) -> dict[str, Any]:
    """A tool call as an item."""
    call_id = pack_call_id(part.id, part.origin, part.signature)
    head: dict[str, Any] = {"id": id_, "call_id": call_id, "name": part.name, "status": status}
    if part.custom:
        return {**head, "type": "custom_tool_call", "input": part.arguments}
    return {**head, "type": "function_call", "arguments": part.arguments}
