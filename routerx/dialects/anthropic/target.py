"""Requests of Messages: the canonical request as a provider gets it.

What the wire demands and others do not (Anthropic's reference of Messages): a ceiling of output tokens, turns that
alternate, results of tools first in the user's turn, no blank texts, no white space at the end of a prefill.
"""

import base64
import re
from collections.abc import Iterable, Sequence
from typing import Any

from routerx import jsonx
from routerx.dialects.anthropic.request import ORIGIN
from routerx.dialects.anthropic.thinking import put_thinking
from routerx.dialects.base import Aim, Encoded
from routerx.dialects.reading import arguments_object
from routerx.domain.chat import (
    CacheMark,
    ChatRequest,
    FunctionTool,
    JsonObject,
    JsonSchema,
    Media,
    MediaKind,
    Message,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Role,
    Text,
    ToolCall,
    ToolResult,
)
from routerx.domain.model import Capability
from routerx.jsonx import Raw

OUTPUT_TOKENS_DEFAULT = 4_096
"""For an endpoint of which nobody knows how much it can write."""
CACHE_MARKS_MAX = 4
"""More are refused; the last ones cover the most."""

_ANY_OBJECT = Raw(b'{"type":"object"}')
_JSON_PLEASE = "Answer with one JSON object and nothing else."
_NOT_IN_ID = re.compile(r"[^a-zA-Z0-9_-]")
_SERVICE_TIERS = {"auto": "auto", "default": "standard_only", "standard_only": "standard_only"}
_NATIVE = frozenset(
    {
        "thinking",
        "container",
        "context_management",
        "diagnostics",
        "inference_geo",
        "mcp_servers",
        "output_config",
        "speed",
        "betas",
    }
)
"""Top-level parameters of this wire that the canonical request does not have."""

Block = dict[str, Any]


def encode_request(request: ChatRequest, aim: Aim) -> Encoded:
    """See dialects.base.ChatTarget."""
    dropped: set[str] = set()
    marks = _Marks(request)
    system, messages = _conversation(request, marks, dropped)
    ceiling = request.output_tokens_max
    if ceiling is None:
        ceiling = aim.output_tokens_max if aim.output_tokens_max is not None else OUTPUT_TOKENS_DEFAULT
    fields: dict[str, Any] = {"model": aim.model, "max_tokens": ceiling, "messages": messages}
    if request.stream:
        fields["stream"] = True
    _put_format(fields, request, system, dropped)
    if system:
        plain = len(system) == 1 and "cache_control" not in system[0]
        fields["system"] = system[0]["text"] if plain else system
    _put_tools(fields, request, marks, dropped)
    _put_sampling(fields, request, dropped)
    put_thinking(fields, request, aim, dropped)
    for key, raw in request.extras.items():
        if key in _NATIVE:
            fields[key] = raw
        else:
            dropped.add(key)
    if messages and messages[-1]["role"] == "assistant" and Capability.PREFILL not in aim.capabilities:
        dropped.add("prefill")
    return Encoded(fields, tuple(sorted(dropped)))


class _Marks:
    """Which cache marks are kept: the last few."""

    def __init__(self, request: ChatRequest) -> None:
        marked = sum(1 for tool in request.tools if isinstance(tool, FunctionTool) and tool.cache)
        for message in request.messages:
            marked += sum(1 for part in message.parts if getattr(part, "cache", None))
        self._skip = max(0, marked - CACHE_MARKS_MAX)

    def put(self, block: Block, mark: CacheMark | None) -> Block:
        if mark is None:
            return block
        if self._skip:
            self._skip -= 1
            return block
        block["cache_control"] = {"type": "ephemeral"} | ({"ttl": "1h"} if mark is CacheMark.ONE_HOUR else {})
        return block


def _put_sampling(fields: dict[str, Any], request: ChatRequest, dropped: set[str]) -> None:
    sampling = request.sampling
    if sampling.temperature is not None:
        fields["temperature"] = min(sampling.temperature, 1.0)
        if sampling.temperature > 1:
            dropped.add("temperature")
    if sampling.top_p is not None:
        fields["top_p"] = sampling.top_p
    if sampling.top_k is not None:
        fields["top_k"] = sampling.top_k
    stops = [text for text in sampling.stop if text.strip()]
    if len(stops) < len(sampling.stop):
        dropped.add("stop")
    if stops:
        fields["stop_sequences"] = stops
    if request.user is not None:
        fields["metadata"] = {"user_id": request.user}
    if request.service_tier is not None:
        tier = _SERVICE_TIERS.get(request.service_tier)
        if tier is not None:
            fields["service_tier"] = tier
        else:
            dropped.add("service_tier")
    missing = {
        "seed": sampling.seed is not None,
        "min_p": bool(sampling.min_p),
        "presence_penalty": bool(sampling.presence_penalty),
        "frequency_penalty": bool(sampling.frequency_penalty),
        "repetition_penalty": sampling.repetition_penalty not in (None, 1),
        "n": request.choices != 1,
        "logprobs": request.logprobs,
        "verbosity": request.verbosity is not None and request.verbosity != "medium",
    }
    dropped.update(name for name, is_lost in missing.items() if is_lost)


def _put_format(fields: dict[str, Any], request: ChatRequest, system: list[Block], dropped: set[str]) -> None:
    match request.response_format:
        case JsonSchema(schema=schema):
            closed = _closed(jsonx.decode(bytes(schema)))
            fields["output_config"] = {"format": {"type": "json_schema", "schema": closed}}
        case JsonObject():
            # There is no such switch here; the model can only be asked.
            system.append({"type": "text", "text": _JSON_PLEASE})
            dropped.add("response_format")


def _closed(schema: Any) -> Any:
    """The schema with every object closed, which this wire demands and others take for granted when strict."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if closed.get("type") == "object" and "additionalProperties" not in closed:
        closed["additionalProperties"] = False
    return closed


# --- tools -------------------------------------------------------------------------------------------------------


def _put_tools(fields: dict[str, Any], request: ChatRequest, marks: _Marks, dropped: set[str]) -> None:
    tools: list[Any] = []
    for tool in request.tools:
        if isinstance(tool, FunctionTool):
            encoded: Block = {"name": tool.name, "input_schema": _schema(tool.parameters)}
            if tool.description is not None:
                encoded["description"] = tool.description
            if tool.strict is not None:
                encoded["strict"] = tool.strict
            tools.append(marks.put(encoded, tool.cache))
        elif isinstance(tool, Opaque) and tool.origin == ORIGIN:
            tools.append(tool.value)
        else:
            dropped.add(f"tools.{tool.type if isinstance(tool, Opaque) else 'custom'}")
    if not tools:
        # A history with tool calls is refused without any declared.
        names = [part.name for message in request.messages for part in message.parts if isinstance(part, ToolCall)]
        tools = [{"name": name, "input_schema": _ANY_OBJECT} for name in dict.fromkeys(names)]
    if not tools:
        return
    fields["tools"] = tools
    choice = _choice(request)
    if choice is not None:
        fields["tool_choice"] = choice


def _schema(parameters: Raw | None) -> Any:
    """An object's schema: this wire wants it to say so."""
    if parameters is None:
        return {"type": "object", "properties": {}}
    value = jsonx.decode(bytes(parameters))
    return parameters if value.get("type") == "object" else {**value, "type": "object"}


def _choice(request: ChatRequest) -> Block | None:
    wish, single = request.tool_choice, request.parallel_tool_calls is False
    if not request.tools:
        return {"type": "none"}
    if wish is None:
        return {"type": "auto", "disable_parallel_tool_use": True} if single else None
    choice: Block = {"type": {"required": "any"}.get(wish.mode, wish.mode)}
    if wish.mode == "tool":
        choice["name"] = wish.name
    if request.parallel_tool_calls is not None and wish.mode != "none":
        choice["disable_parallel_tool_use"] = single
    return choice


# --- messages ----------------------------------------------------------------------------------------------------


def _conversation(request: ChatRequest, marks: _Marks, dropped: set[str]) -> tuple[list[Block], list[dict[str, Any]]]:
    """The system prompt's blocks, and turns that alternate, beginning with the user's."""
    system: list[Block] = []
    turns: list[dict[str, Any]] = []
    leading = True
    for message in request.messages:
        is_system = message.role in (Role.SYSTEM, Role.DEVELOPER)
        blocks = _blocks(message, marks, dropped)
        if is_system and leading:
            system += blocks
            continue
        leading = False
        role = "assistant" if message.role is Role.ASSISTANT else "user"
        if is_system:
            blocks = [block | {"text": f"<system>{block['text']}</system>"} for block in blocks if "text" in block]
        if not blocks:
            continue
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    if turns and turns[0]["role"] == "assistant":
        turns.insert(0, {"role": "user", "content": [{"type": "text", "text": "…"}]})
    _strip_prefill(turns)
    _warn_of_lost_thoughts(request.messages, dropped)
    return system, turns


def _strip_prefill(turns: list[dict[str, Any]]) -> None:
    if turns and turns[-1]["role"] == "assistant":
        last = turns[-1]["content"][-1]
        if last["type"] == "text":
            last["text"] = last["text"].rstrip()
            if not last["text"]:
                turns[-1]["content"].pop()
                if not turns[-1]["content"]:
                    turns.pop()


def _warn_of_lost_thoughts(messages: Sequence[Message], dropped: set[str]) -> None:
    """A thought without this vendor's signature cannot go back; it is missed only while its round of tools is open."""
    for message in open_round(messages):
        for part in message.parts:
            if isinstance(part, Reasoning) and part.text and part.origin != ORIGIN:
                dropped.add("messages.reasoning")


def open_round(messages: Sequence[Message]) -> Iterable[Message]:
    """The assistant's messages since the user last spoke, where the conversation ends with results of tools."""
    if not messages or messages[-1].role is not Role.TOOL:
        return
    for message in reversed(messages):
        if message.role is Role.ASSISTANT:
            yield message
        elif message.role is not Role.TOOL:
            return


def _blocks(message: Message, marks: _Marks, dropped: set[str]) -> list[Block]:
    return [block for part in message.parts if (block := _block(part, marks, dropped)) is not None]


def _block(part: Part, marks: _Marks, dropped: set[str]) -> Any:
    match part:
        case Text():
            return marks.put({"type": "text", "text": part.text}, part.cache) if part.text.strip() else None
        case Refusal():
            return {"type": "text", "text": part.text} if part.text.strip() else None
        case Media():
            block = _media(part, dropped)
            return None if block is None else marks.put(block, part.cache)
        case Reasoning(origin=origin, signature=signature) if origin == ORIGIN and signature is not None:
            if part.redacted:
                return {"type": "redacted_thinking", "data": signature}
            return {"type": "thinking", "thinking": part.text, "signature": signature}
        case ToolCall():
            block = {"type": "tool_use", "id": _id(part.id), "name": part.name}
            return marks.put(block | {"input": arguments_object(part.arguments)}, part.cache)
        case ToolResult():
            return marks.put(_result(part, dropped), part.cache)
        case Opaque(origin=origin):
            if origin == ORIGIN:
                return part.value
            dropped.add(f"messages.{part.type}")
    return None


def _id(text: str) -> str:
    return _NOT_IN_ID.sub("_", text)


def _result(result: ToolResult, dropped: set[str]) -> Block:
    block: Block = {"type": "tool_result", "tool_use_id": _id(result.call_id)}
    content: list[Block] = []
    for part in result.parts:
        if isinstance(part, Text):
            if part.text.strip():
                content.append({"type": "text", "text": part.text})
        else:
            encoded = _media(part, dropped, "messages.tool")
            if encoded is not None:
                content.append(encoded)
    if len(content) == 1 and content[0]["type"] == "text":
        block["content"] = content[0]["text"]
    elif content:
        block["content"] = content
    if result.is_error:
        block["is_error"] = True
    return block


def _media(media: Media, dropped: set[str], where: str = "messages") -> Block | None:
    if media.kind is MediaKind.IMAGE and media.file_id is None:
        return {"type": "image", "source": _source(media)}
    if media.kind is MediaKind.FILE and media.file_id is None:
        is_text = media.data is not None and media.mime != "application/pdf"
        source = _text_source(media) if is_text else _source(media)
        if source is not None:
            block: Block = {"type": "document", "source": source}
            return block | ({"title": media.name} if media.name is not None else {})
    dropped.add(f"{where}.{media.kind.value}")
    return None


def _source(media: Media) -> Block:
    if media.url is not None:
        return {"type": "url", "url": media.url}
    mime = media.mime
    if mime is None:
        mime = "image/png" if media.kind is MediaKind.IMAGE else "application/pdf"
    return {"type": "base64", "media_type": mime, "data": media.data}


def _text_source(media: Media) -> Block | None:
    """A file of text as this wire takes it; None where it is none."""
    assert media.data is not None
    if media.mime is not None and not media.mime.startswith(("text/", "application/json", "application/xml")):
        return None
    try:
        text = base64.b64decode(media.data).decode()
    except ValueError:
        return None
    return {"type": "text", "media_type": "text/plain", "data": text}
