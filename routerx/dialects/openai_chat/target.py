"""Requests of chat: the canonical request as an OpenAI-like provider gets it."""

from collections.abc import Iterable, Iterator
from types import MappingProxyType
from typing import Any

from routerx.dialects.base import OPTIONAL, Aim, Encoded
from routerx.dialects.effort import effort_of
from routerx.dialects.media import AUDIO_TYPES, data_url
from routerx.dialects.openai_chat.ids import call_id
from routerx.dialects.openai_chat.reasoning import details
from routerx.dialects.openai_chat.request import ORIGIN
from routerx.domain.chat import (
    ChatRequest,
    CustomTool,
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
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from routerx.domain.model import Capability
from routerx.jsonx import Raw

_NO_PARAMETERS = Raw(b'{"type":"object","properties":{}}')
_AUDIO_NAMES = MappingProxyType({mime: name for name, mime in AUDIO_TYPES.items()} | {"audio/mp4": "m4a"})

_HINTS = frozenset({"prompt_cache_key"})
"""What changes nothing but the bill if it is left out."""
_NEUTRAL = MappingProxyType({"min_p": 0, "repetition_penalty": 1, "service_tier": "auto", "verbosity": "medium"})
_NATIVE = frozenset(
    {
        "audio",
        "logit_bias",
        "modalities",
        "moderation",
        "prediction",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "web_search_options",
        "chat_template_kwargs",
        "top_a",
    }
)
"""Top-level parameters of this wire that the canonical request does not have."""


def encode_request(request: ChatRequest, aim: Aim) -> Encoded:
    """See dialects.base.ChatTarget."""
    dropped: set[str] = set()
    fields: dict[str, Any] = {"model": aim.model, "messages": list(_messages(request, aim, dropped))}
    if request.stream:
        fields["stream"] = True
        if aim.ask_usage:
            fields["stream_options"] = {"include_usage": True}
    if request.output_tokens_max is not None:
        fields["max_tokens"] = request.output_tokens_max
    _put_tools(fields, request, dropped)
    _put_wishes(fields, request, aim, dropped)
    _put_effort(fields, request, aim, dropped)
    if request.logprobs:
        dropped.add("logprobs")  # The canonical answer has no place for them.
    for key, raw in request.extras.items():
        if key in _NATIVE:
            fields[key] = raw
        else:
            dropped.add(key)
    last = request.messages[-1] if request.messages else None
    if last is not None and last.role is Role.ASSISTANT and Capability.PREFILL not in aim.capabilities:
        dropped.add("prefill")
    if aim.continues:
        # Mistral's and DeepSeek's mark of a beginning (their API references, "prefix").
        fields["messages"][-1]["prefix"] = True
    return Encoded(fields, tuple(sorted(dropped)))


def _put_wishes(fields: dict[str, Any], request: ChatRequest, aim: Aim, dropped: set[str]) -> None:
    sampling = request.sampling
    wishes: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "seed": sampling.seed,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repetition_penalty": sampling.repetition_penalty,
        "stop": list(sampling.stop) or None,
        "n": request.choices if request.choices != 1 else None,
        "verbosity": request.verbosity,
        "user": request.user,
        "service_tier": request.service_tier,
        "prompt_cache_key": request.prompt_cache_key,
        "response_format": _response_format(request),
    }
    for key, value in wishes.items():
        if value is None:
            continue
        if key not in OPTIONAL or key in aim.takes:
            fields[key] = value
        elif key not in _HINTS and value != _NEUTRAL.get(key):
            dropped.add(key)


def _put_effort(fields: dict[str, Any], request: ChatRequest, aim: Aim, dropped: set[str]) -> None:
    wish = request.reasoning
    if wish is None or (wish.effort is None and wish.budget_tokens is None):
        return  # This wire always says what it wants to say of thoughts.
    effort = wish.effort if wish.budget_tokens is None else effort_of(wish.budget_tokens)
    if Capability.REASONING in aim.capabilities:
        fields["reasoning_effort"] = effort
    elif effort != "none":
        dropped.add("reasoning_effort")


def _response_format(request: ChatRequest) -> dict[str, Any] | None:
    match request.response_format:
        case JsonObject():
            return {"type": "json_object"}
        case JsonSchema() as wish:
            schema: dict[str, Any] = {"name": wish.name or "answer", "schema": wish.schema}
            if wish.description is not None:
                schema["description"] = wish.description
            if wish.strict is not None:
                schema["strict"] = wish.strict
            return {"type": "json_schema", "json_schema": schema}
    return None


# --- tools -------------------------------------------------------------------------------------------------------


def _put_tools(fields: dict[str, Any], request: ChatRequest, dropped: set[str]) -> None:
    tools = [encoded for tool in request.tools if (encoded := _tool(tool, dropped)) is not None]
    if not tools:
        return
    fields["tools"] = tools
    if request.tool_choice is not None:
        fields["tool_choice"] = _tool_choice(request.tool_choice, request.tools)
    if request.parallel_tool_calls is not None:
        fields["parallel_tool_calls"] = request.parallel_tool_calls


def _tool(tool: Tool, dropped: set[str]) -> dict[str, Any] | Raw | None:
    match tool:
        case FunctionTool():
            function: dict[str, Any] = {"name": tool.name, "parameters": tool.parameters or _NO_PARAMETERS}
            if tool.description is not None:
                function["description"] = tool.description
            if tool.strict is not None:
                function["strict"] = tool.strict
            return {"type": "function", "function": function}
        case CustomTool():
            custom: dict[str, Any] = {"name": tool.name}
            if tool.description is not None:
                custom["description"] = tool.description
            if tool.format is not None:
                custom["format"] = tool.format
            return {"type": "custom", "custom": custom}
        case Opaque(origin=origin):
            if origin == ORIGIN:
                return tool.value
            dropped.add(f"tools.{tool.type}")
            return None


def _tool_choice(choice: ToolChoice, tools: Iterable[Tool]) -> Any:
    if choice.mode != "tool":
        return choice.mode
    custom = any(isinstance(tool, CustomTool) and tool.name == choice.name for tool in tools)
    kind = "custom" if custom else "function"
    return {"type": kind, kind: {"name": choice.name}}


# --- messages ----------------------------------------------------------------------------------------------------


def _messages(request: ChatRequest, aim: Aim, dropped: set[str]) -> Iterator[dict[str, Any]]:
    """Pictures of a tool's result, or of the model's own making, can only be shown by a user: they follow in a message
    of their own, behind all results of the round."""
    shown: list[Media] = []
    for message in request.messages:
        if message.role is not Role.TOOL:
            yield from _shown(shown, dropped)
            shown = []
        if message.role is Role.TOOL:
            for part in message.parts:
                if isinstance(part, ToolResult):
                    yield _result(part)
                    shown += [item for item in part.parts if isinstance(item, Media)]
        elif message.role is Role.ASSISTANT:
            yield _assistant(message, aim, dropped)
            shown += [part for part in message.parts if isinstance(part, Media)]
        else:
            role = "system" if message.role is Role.DEVELOPER else message.role.value
            yield _named(message, {"role": role, "content": _content(message.parts, dropped)})
    yield from _shown(shown, dropped)


def _shown(media: list[Media], dropped: set[str]) -> Iterator[dict[str, Any]]:
    content = _content(media, dropped)
    if content:
        yield {"role": "user", "content": content}


def _named(message: Message, encoded: dict[str, Any]) -> dict[str, Any]:
    if message.name is not None:
        encoded["name"] = message.name
    return encoded


def _result(result: ToolResult) -> dict[str, Any]:
    texts = [item.text for item in result.parts if isinstance(item, Text)]
    text = "\n".join(texts) if texts or not result.parts else "(see the next message)"
    return {
        "role": "tool",
        "tool_call_id": call_id(result.call_id),
        "content": f"Error: {text}" if result.is_error else text,
    }


def _assistant(message: Message, aim: Aim, dropped: set[str]) -> dict[str, Any]:
    encoded: dict[str, Any] = {"role": "assistant"}
    said = [part for part in message.parts if isinstance(part, Text | Opaque)]
    calls = [_call(part) for part in message.parts if isinstance(part, ToolCall)]
    refusals = [part.text for part in message.parts if isinstance(part, Refusal)]
    content = _content(said, dropped)
    encoded["content"] = None if not content and (calls or refusals) else content
    if refusals:
        encoded["refusal"] = "".join(refusals)
    if calls:
        encoded["tool_calls"] = calls
    if aim.reasoning_field is not None:
        thoughts = [part for part in message.parts if isinstance(part, Reasoning)]
        text = "".join(thought.text for thought in thoughts)
        if text:
            encoded[aim.reasoning_field] = text
        if aim.reasoning_field == "reasoning":
            signed = details(thoughts)
            if signed:
                encoded["reasoning_details"] = signed
    return _named(message, encoded)


def _call(call: ToolCall) -> dict[str, Any]:
    if call.custom:
        return {"id": call_id(call.id), "type": "custom", "custom": {"name": call.name, "input": call.arguments}}
    encoded: dict[str, Any] = {"id": call_id(call.id), "type": "function"}
    encoded["function"] = {"name": call.name, "arguments": call.arguments}
    if call.signature is not None and call.origin == "gemini":
        encoded["extra_content"] = {"google": {"thought_signature": call.signature}}
    return encoded


def _content(parts: Iterable[Part], dropped: set[str]) -> str | list[Any]:
    """Plain text where that says it all: not every server takes lists of parts."""
    parts = tuple(parts)
    if all(isinstance(part, Text) for part in parts):
        return "\n".join(part.text for part in parts if isinstance(part, Text))
    encoded = [one for part in parts if (one := _part(part, dropped)) is not None]
    return encoded if encoded else ""


def _part(part: Part, dropped: set[str]) -> Any:
    match part:
        case Text():
            return {"type": "text", "text": part.text}
        case Media():
            return _media(part, dropped)
        case Opaque(origin=origin):
            if origin == ORIGIN:
                return part.value
            dropped.add(f"messages.{part.type}")
    return None


def _media(media: Media, dropped: set[str]) -> dict[str, Any] | None:
    if media.file_id is not None:
        if media.kind is MediaKind.FILE:
            return {"type": "file", "file": {"file_id": media.file_id}}
        dropped.add(f"messages.{media.kind.value}")
        return None
    url = media.url if media.url is not None else data_url(media)
    match media.kind:
        case MediaKind.IMAGE:
            image = {"url": url} if media.detail is None else {"url": url, "detail": media.detail}
            return {"type": "image_url", "image_url": image}
        case MediaKind.VIDEO:
            return {"type": "video_url", "video_url": {"url": url}}
        case MediaKind.AUDIO if media.data is not None:
            mime = media.mime or "audio/wav"
            shape = _AUDIO_NAMES.get(mime, mime.partition("/")[2])
            return {"type": "input_audio", "input_audio": {"data": media.data, "format": shape}}
        case MediaKind.FILE if media.data is not None:
            name = media.name if media.name is not None else "file"
            return {"type": "file", "file": {"filename": name, "file_data": url}}
    dropped.add(f"messages.{media.kind.value}")
    return None
