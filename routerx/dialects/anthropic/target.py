"""Requests of Messages: the canonical request as a provider gets it. The conversation itself is turns.py's."""

from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

from routerx import jsonx
from routerx.dialects.anthropic.request import ORIGIN
from routerx.dialects.anthropic.schema import enforceable
from routerx.dialects.anthropic.thinking import put_thinking
from routerx.dialects.anthropic.turns import Block, Conversation
from routerx.dialects.base import Aim, Encoded
from routerx.dialects.sampling import takeable
from routerx.domain.chat import (
    CacheMark,
    ChatRequest,
    FunctionTool,
    JsonObject,
    JsonSchema,
    Opaque,
    ToolCall,
)
from routerx.domain.model import Capability
from routerx.jsonx import Raw

OUTPUT_TOKENS_DEFAULT = 4_096
"""For an endpoint of which nobody knows how much it can write."""
CACHE_MARKS_MAX = 4
"""More are refused; the last ones cover the most."""

_ANY_OBJECT = Raw(b'{"type":"object"}')
_JSON_PLEASE = "Answer with one JSON object and nothing else."
_SERVICE_TIERS = MappingProxyType({"auto": "auto", "default": "standard_only"})
_NATIVE = frozenset(
    {
        "cache_control",
        "container",
        "context_management",
        "diagnostics",
        "inference_geo",
        "mcp_servers",
        "speed",
        "thinking",
        "user_profile_id",
    }
)
"""Top-level parameters of this wire that the canonical request does not have."""


def encode_request(request: ChatRequest, aim: Aim) -> Encoded:
    """See dialects.base.ChatTarget."""
    dropped: set[str] = set()
    marks = _Marks(request)
    ceiling = request.output_tokens_max
    if ceiling is None:
        ceiling = aim.output_tokens_max if aim.output_tokens_max is not None else OUTPUT_TOKENS_DEFAULT
    tools = list(_tools(request, marks, dropped))
    system, turns = Conversation(marks, dropped).of(request.messages)
    fields: dict[str, Any] = {"model": aim.model, "max_tokens": ceiling, "messages": turns}
    if request.stream:
        fields["stream"] = True
    _put_format(fields, request, system, dropped)
    if system:
        plain = len(system) == 1 and "cache_control" not in system[0]
        fields["system"] = system[0]["text"] if plain else system
    _put_tools(fields, request, tools, dropped)
    _put_sampling(fields, request, aim, dropped)
    if "thinking" not in request.extras:
        put_thinking(fields, request, aim, dropped)
    _put_extras(fields, request, dropped)
    if turns[-1:] and turns[-1]["role"] == "assistant" and Capability.PREFILL not in aim.capabilities:
        dropped.add("prefill")
    if marks.left_out:
        dropped.add("messages.cache_control")
    return Encoded(fields, tuple(sorted(dropped)))


def _put_extras(fields: dict[str, Any], request: ChatRequest, dropped: set[str]) -> None:
    for key, raw in request.extras.items():
        if key in _NATIVE:
            fields[key] = raw
        elif key == "output_config" and isinstance(config := jsonx.decode(bytes(raw)), dict):
            fields[key] = {**config, **fields.get(key, {})}
        else:
            dropped.add(key)


def _put_sampling(fields: dict[str, Any], request: ChatRequest, aim: Aim, dropped: set[str]) -> None:
    sampling = takeable(request.sampling, aim, dropped)
    temperature, top_p = sampling.temperature, sampling.top_p
    if temperature is not None and top_p is not None:
        # Newer models take one of the two only (Anthropic's notes on migrating to its 4.5 models).
        if temperature == 1:
            temperature = None
        else:
            dropped.update({"top_p"} if top_p != 1 else ())
            top_p = None
    if temperature is not None:
        fields["temperature"] = min(temperature, 1.0)
        if temperature > 1:
            dropped.add("temperature")
    if top_p is not None:
        fields["top_p"] = top_p
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
        "prompt_cache_key": request.prompt_cache_key is not None,
        "verbosity": request.verbosity not in (None, "medium"),
    }
    dropped.update(name for name, is_lost in missing.items() if is_lost)


def _put_format(fields: dict[str, Any], request: ChatRequest, system: list[Block], dropped: set[str]) -> None:
    match request.response_format:
        case JsonSchema(schema=schema, description=description):
            taken = enforceable(jsonx.decode(bytes(schema)))
            if description is not None:
                taken = {"description": description} | taken
            fields["output_config"] = {"format": {"type": "json_schema", "schema": taken}}
        case JsonObject():
            # There is no such switch here; the model can only be asked.
            system.append({"type": "text", "text": _JSON_PLEASE})
            dropped.add("response_format")


class _Marks:
    """Which cache marks are kept: the last few, in the order of the prompt, so it has to be asked in that order."""

    def __init__(self, request: ChatRequest) -> None:
        marked = sum(1 for tool in request.tools if isinstance(tool, FunctionTool) and tool.cache)
        for message in request.messages:
            marked += sum(1 for part in message.parts if getattr(part, "cache", None))
        self._skip = max(0, marked - CACHE_MARKS_MAX)
        self.left_out = self._skip > 0

    def put(self, block: Block, mark: CacheMark | None) -> Block:
        if mark is None:
            return block
        if self._skip:
            self._skip -= 1
            return block
        block["cache_control"] = {"type": "ephemeral"} | ({"ttl": "1h"} if mark is CacheMark.ONE_HOUR else {})
        return block


# --- tools -------------------------------------------------------------------------------------------------------


def _tools(request: ChatRequest, marks: _Marks, dropped: set[str]) -> Iterator[Block]:
    for tool in request.tools:
        if isinstance(tool, FunctionTool):
            encoded: Block = {"name": tool.name, "input_schema": _schema(tool)}
            if tool.description is not None:
                encoded["description"] = tool.description
            if tool.strict is not None:
                encoded["strict"] = tool.strict
            yield marks.put(encoded, tool.cache)
        elif isinstance(tool, Opaque) and tool.origin == ORIGIN:
            yield jsonx.decode(bytes(tool.value))
        else:
            dropped.add(f"tools.{tool.type if isinstance(tool, Opaque) else 'custom'}")


def _schema(tool: FunctionTool) -> Any:
    """An object's schema: this wire wants it to say so."""
    if tool.parameters is None:
        return {"type": "object", "properties": {}}
    value = jsonx.decode(bytes(tool.parameters))
    if tool.strict:
        value = enforceable(value)
    elif value.get("type") == "object":
        return tool.parameters
    return {**value, "type": "object"}


def _put_tools(fields: dict[str, Any], request: ChatRequest, tools: list[Block], dropped: set[str]) -> None:
    if tools:
        fields["tools"] = tools
        choice = _choice(request)
        if choice is not None and choice["type"] == "tool" and choice["name"] not in {one.get("name") for one in tools}:
            dropped.add("tool_choice")  # It names a tool that could not be declared.
        elif choice is not None:
            fields["tool_choice"] = choice
        return
    # A history with tool calls is refused without any tool declared.
    names = [part.name for message in request.messages for part in message.parts if isinstance(part, ToolCall)]
    if names:
        fields["tools"] = [{"name": name, "input_schema": _ANY_OBJECT} for name in dict.fromkeys(names)]
        fields["tool_choice"] = {"type": "none"}


def _choice(request: ChatRequest) -> Block | None:
    wish, single = request.tool_choice, request.parallel_tool_calls is False
    if wish is None:
        return {"type": "auto", "disable_parallel_tool_use": True} if single else None
    choice: Block = {"type": {"required": "any"}.get(wish.mode, wish.mode)}
    if wish.mode == "tool":
        choice["name"] = wish.name
    if request.parallel_tool_calls is not None and wish.mode != "none":
        choice["disable_parallel_tool_use"] = single
    return choice
