"""Requests of /api/chat: the canonical request as an Ollama server gets it (its documentation of the API).

What this wire has and others do not: images stand beside a message's text, arguments of tool calls are objects, results
name their tool, sampling stands in `options`, and an answer is streamed unless that is declined.

The context window, `num_ctx`, is the caller's or the server's to set. The server cuts a longer prompt and tells nobody;
deriving a window from our estimate of the prompt would be no cure, because every new size makes the server load the
model again.
"""

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from routerx import jsonx
from routerx.dialects.base import Aim, Encoded
from routerx.dialects.effort import effort_of
from routerx.dialects.media import text_of
from routerx.dialects.reading import Node, arguments_object
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
    ToolCall,
    ToolResult,
)
from routerx.domain.model import Capability
from routerx.jsonx import Raw

_NATIVE = frozenset({"keep_alive", "truncate", "shift", "think", "format"})
"""Top-level parameters of this wire that the canonical request does not have, or that say what it leaves open."""
_LEVELS = MappingProxyType(
    {
        "none": False,
        "minimal": "low",
        "low": "low",
        "medium": "medium",
        "high": "high",
        "xhigh": "high",
        "max": "high",
    }
)
"""Effort → `think`. Models without levels take any of the words for yes."""


def encode_request(request: ChatRequest, aim: Aim) -> Encoded:
    """See dialects.base.ChatTarget. Raises InvalidParameter for `options` that are no object."""
    dropped: set[str] = set()
    fields: dict[str, Any] = {
        "model": aim.model,
        "messages": list(_messages(request.messages, dropped)),
        "stream": request.stream,
    }
    _put_tools(fields, request, dropped)
    _put_format(fields, request, dropped)
    _put_thinking(fields, request, aim, dropped)
    options = _options(request, dropped)
    put_extras(fields, request.extras, _NATIVE, dropped)
    # The limits of the request hold whatever `options` say: the hold on the account goes by them.
    if options:
        fields["options"] = {**fields.get("options", {}), **options}
    last = request.messages[-1] if request.messages else None
    if last is not None and last.role is Role.ASSISTANT and Capability.PREFILL not in aim.capabilities:
        dropped.add("prefill")
    return Encoded(fields, tuple(sorted(dropped)))


def put_extras(fields: dict[str, Any], extras: Mapping[str, Raw], native: frozenset[str], dropped: set[str]) -> None:
    """Native keys that are not set yet, and `options` with `num_ctx`, which may also stand beside them."""
    options: dict[str, Any] = {}
    for key, raw in extras.items():
        if key == "options":
            options |= Node(jsonx.decode(bytes(raw)), key).object().value
        elif key in native:
            fields.setdefault(key, raw)
        elif key != "num_ctx":
            dropped.add(key)
    if "num_ctx" in extras:
        options["num_ctx"] = Node(jsonx.decode(bytes(extras["num_ctx"])), "num_ctx").integer()
    if options:
        fields["options"] = options


def _options(request: ChatRequest, dropped: set[str]) -> dict[str, Any]:
    sampling = request.sampling
    wishes: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "seed": sampling.seed,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repeat_penalty": sampling.repetition_penalty,
        "stop": list(sampling.stop) or None,
        "num_predict": request.output_tokens_max,
    }
    missing = {
        "n": request.choices != 1,
        # The server can report them; the canonical answer has no place for them.
        "logprobs": request.logprobs,
        "verbosity": request.verbosity not in (None, "medium"),
        "service_tier": request.service_tier not in (None, "auto", "default"),
        "parallel_tool_calls": request.parallel_tool_calls is False and bool(request.tools),
    }
    dropped.update(name for name, is_lost in missing.items() if is_lost)
    return {key: value for key, value in wishes.items() if value is not None}


def _put_format(fields: dict[str, Any], request: ChatRequest, dropped: set[str]) -> None:
    match request.response_format:
        case JsonObject():
            fields["format"] = "json"
        case JsonSchema(schema=schema, description=description):
            # The grammar always binds, so `strict` is met; a name means nothing to the model.
            fields["format"] = schema
            if description is not None:
                dropped.add("response_format.json_schema.description")


def _put_thinking(fields: dict[str, Any], request: ChatRequest, aim: Aim, dropped: set[str]) -> None:
    """A model that cannot think refuses to be told to."""
    wish = request.reasoning
    if wish is None:
        return
    effort = wish.effort if wish.budget_tokens is None else effort_of(wish.budget_tokens)
    if Capability.REASONING in aim.capabilities:
        fields["think"] = True if effort is None else _LEVELS[effort]
    elif effort != "none":
        dropped.add("reasoning_effort")


# --- tools -------------------------------------------------------------------------------------------------------


def _put_tools(fields: dict[str, Any], request: ChatRequest, dropped: set[str]) -> None:
    """Whether to call is the model's to decide here; only that it must not can be said, by naming no tools."""
    choice = request.tool_choice
    if choice is not None and choice.mode == "none":
        return
    tools = []
    for tool in request.tools:
        match tool:
            case FunctionTool():
                function: dict[str, Any] = {"name": tool.name, "parameters": _schema(tool.parameters)}
                if tool.description is not None:
                    function["description"] = tool.description
                if tool.strict:
                    dropped.add("tools.strict")
                tools.append({"type": "function", "function": function})
            case CustomTool():
                dropped.add("tools.custom")
            case Opaque():
                dropped.add(f"tools.{tool.type}")
    if tools:
        fields["tools"] = tools
    if choice is not None and choice.mode != "auto":
        dropped.add("tool_choice")


def _schema(parameters: Raw | None) -> Any:
    """An object's schema: this wire wants it to say so."""
    value = {} if parameters is None else jsonx.decode(bytes(parameters))
    if value.get("type") == "object" and "properties" in value:
        return parameters
    return {"properties": {}, **value, "type": "object"}


# --- messages ----------------------------------------------------------------------------------------------------


def _messages(messages: Iterable[Message], dropped: set[str]) -> Iterator[dict[str, Any]]:
    names: dict[str, str] = {}
    shown: list[Part] = []
    for message in messages:
        if message.role is not Role.TOOL and shown:
            yield _said(Role.USER, shown, dropped)
            shown = []
        match message.role:
            case Role.TOOL:
                results = [part for part in message.parts if isinstance(part, ToolResult)]
                yield from (_result(result, names, dropped) for result in results)
                shown += [item for result in results for item in result.parts if _is_image(item)]
            case Role.ASSISTANT:
                names |= {part.id: part.name for part in message.parts if isinstance(part, ToolCall)}
                yield _assistant(message, dropped)
            case Role.DEVELOPER:
                yield _said(Role.SYSTEM, message.parts, dropped)
            case _:
                yield _said(message.role, message.parts, dropped)
    if shown:
        yield _said(Role.USER, shown, dropped)


def _said(role: Role, parts: Iterable[Part], dropped: set[str]) -> dict[str, Any]:
    parts = tuple(parts)
    texts = [text for part in parts if (text := _text(part, dropped)) is not None]
    encoded: dict[str, Any] = {"role": role.value, "content": "\n".join(texts)}
    images = [part.data for part in parts if isinstance(part, Media) and _is_image(part)]
    if images:
        encoded["images"] = images
    return encoded


def _assistant(message: Message, dropped: set[str]) -> dict[str, Any]:
    """Thoughts go back as text, whoever signed them: templates leave out those of finished turns by themselves."""
    encoded = _said(Role.ASSISTANT, message.parts, dropped)
    thought = "".join(part.text for part in message.parts if isinstance(part, Reasoning))
    if thought:
        encoded["thinking"] = thought
    calls = [
        {"id": part.id, "function": {"name": part.name, "arguments": arguments_object(part.arguments)}}
        for part in message.parts
        if isinstance(part, ToolCall)
    ]
    if calls:
        encoded["tool_calls"] = calls
    return encoded


def _result(result: ToolResult, names: Mapping[str, str], dropped: set[str]) -> dict[str, Any]:
    """Images are shown by the user's message that follows."""
    pictured = any(_is_image(item) for item in result.parts)
    texts = [text for item in result.parts if (text := _text(item, dropped, "messages.tool")) is not None]
    text = "\n".join(texts) if texts or not pictured else "(see the next message)"
    encoded = {"role": "tool", "content": f"Error: {text}" if result.is_error else text}
    name = result.name if result.name is not None else names.get(result.call_id)
    if name is not None:
        encoded["tool_name"] = name
    encoded["tool_call_id"] = result.call_id
    return encoded


def _is_image(part: Part) -> bool:
    return isinstance(part, Media) and part.kind is MediaKind.IMAGE and part.data is not None


def _text(part: Part, dropped: set[str], where: str = "messages") -> str | None:
    """What a part says in words; None for one that stands elsewhere or nowhere."""
    match part:
        case Text() | Refusal():
            return part.text
        case Media() if not _is_image(part):
            text = text_of(part)
            if text is None:
                dropped.add(f"{where}.{part.kind.value}")
            return text
        case Opaque():
            dropped.add(f"{where}.{part.type}")
    return None
