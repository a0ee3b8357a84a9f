"""Requests of generateContent: the canonical request as a provider gets it."""

from collections.abc import Iterator
from typing import Any

import msgspec

from routerx import jsonx
from routerx.dialects.base import Aim, Encoded
from routerx.dialects.effort import budget_of, effort_of
from routerx.dialects.gemini.signing import ORIGIN
from routerx.dialects.gemini.version import is_third_generation
from routerx.dialects.reading import arguments_object, nothing_to_say
from routerx.dialects.sampling import takeable
from routerx.domain.chat import (
    ChatRequest,
    FunctionTool,
    JsonObject,
    JsonSchema,
    Media,
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

STOPS_MAX = 5
"""More stop sequences are refused."""
UNSIGNED = "skip_thought_signature_validator"
"""Google documents this in place of a signature, for calls that another model made."""

_LEVELS = {"none": "low", "minimal": "low", "low": "low", "medium": "medium", "high": "high"}
_LEVELS |= {"xhigh": "high", "max": "high"}
_OWN_URLS = (
    "gs://",
    "https://generativelanguage.googleapis.com/",
    "https://www.youtube.com/",
    "https://youtube.com/",
    "https://youtu.be/",
)
"""What the provider reads by itself: uploads, and videos of its own house (Google's documentation of file input)."""
_NATIVE = frozenset({"safetySettings", "cachedContent", "labels", "generationConfig", "toolConfig", "serviceTier"})
"""Top-level parameters of this wire that the canonical request does not have."""


def encode_request(request: ChatRequest, aim: Aim) -> Encoded:
    """See dialects.base.ChatTarget."""
    dropped: set[str] = set()
    system, contents = _conversation(request, aim, dropped)
    fields: dict[str, Any] = {"contents": contents}
    if system:
        fields["systemInstruction"] = {"parts": system}
    _put_tools(fields, request, dropped)
    generation = _generation(request, aim, dropped)
    _put_thinking(generation, request, aim, dropped)
    for key, raw in request.extras.items():
        if key == "generationConfig":
            generation = {**jsonx.decode(bytes(raw)), **generation}
        elif key == "toolConfig":
            fields[key] = {**jsonx.decode(bytes(raw)), **fields.get(key, {})}
        elif key in _NATIVE:
            fields[key] = raw
        else:
            dropped.add(key)
    if generation:
        fields["generationConfig"] = generation
    last = request.messages[-1] if request.messages else None
    if last is not None and last.role is Role.ASSISTANT and Capability.PREFILL not in aim.capabilities:
        dropped.add("prefill")
    return Encoded(fields, tuple(sorted(dropped)))


def _generation(request: ChatRequest, aim: Aim, dropped: set[str]) -> dict[str, Any]:
    sampling = takeable(request.sampling, aim, dropped)
    stops = [text for text in sampling.stop if text]
    if len(stops) > STOPS_MAX:
        dropped.add("stop")
    wishes: dict[str, Any] = {
        "temperature": sampling.temperature,
        "topP": sampling.top_p,
        "topK": sampling.top_k,
        "seed": sampling.seed,
        "maxOutputTokens": request.output_tokens_max,
        "stopSequences": stops[:STOPS_MAX] or None,
        "candidateCount": request.choices if request.choices != 1 else None,
        "presencePenalty": sampling.presence_penalty,
        "frequencyPenalty": sampling.frequency_penalty,
    }
    match request.response_format:
        case JsonObject():
            wishes["responseMimeType"] = "application/json"
        case JsonSchema(schema=schema):
            wishes |= {"responseMimeType": "application/json", "responseJsonSchema": schema}
    missing = {
        "logprobs": request.logprobs,  # Not asked for: an answer's would not be told either.
        "min_p": bool(sampling.min_p),
        "repetition_penalty": sampling.repetition_penalty not in (None, 1),
        "verbosity": request.verbosity is not None and request.verbosity != "medium",
        "service_tier": request.service_tier not in (None, "auto", "default"),
        "parallel_tool_calls": request.parallel_tool_calls is False and bool(request.tools),
    }
    dropped.update(name for name, is_lost in missing.items() if is_lost)
    return {key: value for key, value in wishes.items() if value is not None}


def _put_thinking(generation: dict[str, Any], request: ChatRequest, aim: Aim, dropped: set[str]) -> None:
    wish = request.reasoning
    if wish is None:
        return
    off = wish.effort == "none" or wish.budget_tokens == 0
    if Capability.REASONING not in aim.capabilities:
        if not off:
            dropped.add("reasoning_effort")
        return
    config: dict[str, Any] = {}
    if is_third_generation(aim.model):
        effort = wish.effort if wish.budget_tokens is None else effort_of(wish.budget_tokens)
        if effort is not None:
            config["thinkingLevel"] = _LEVELS[effort]
        if off:
            dropped.add("reasoning_effort")  # These models always think.
    elif wish.budget_tokens is not None:
        config["thinkingBudget"] = wish.budget_tokens
    elif wish.effort is not None:
        config["thinkingBudget"] = budget_of(wish.effort, aim.output_tokens_max)
    if not off:
        config["includeThoughts"] = wish.visible is not False
    generation["thinkingConfig"] = config


# --- tools -------------------------------------------------------------------------------------------------------


def _put_tools(fields: dict[str, Any], request: ChatRequest, dropped: set[str]) -> None:
    declared: list[dict[str, Any]] = []
    tools: list[Any] = []
    for tool in request.tools:
        if isinstance(tool, FunctionTool):
            function: dict[str, Any] = {"name": tool.name}
            if tool.description is not None:
                function["description"] = tool.description
            if tool.parameters is not None:
                function["parametersJsonSchema"] = tool.parameters
            if tool.strict:
                dropped.add("tools.strict")
            declared.append(function)
        elif isinstance(tool, Opaque) and tool.origin == ORIGIN:
            tools.append(tool.value)
        else:
            dropped.add(f"tools.{tool.type if isinstance(tool, Opaque) else 'custom'}")
    if declared:
        tools.insert(0, {"functionDeclarations": declared})
    if not tools:
        return
    fields["tools"] = tools
    choice = request.tool_choice
    if choice is not None and declared:
        mode = {"auto": "AUTO", "none": "NONE"}.get(choice.mode, "ANY")
        config: dict[str, Any] = {"mode": mode}
        if choice.mode == "tool":
            config["allowedFunctionNames"] = [choice.name]
        fields["toolConfig"] = {"functionCallingConfig": config}


# --- messages ----------------------------------------------------------------------------------------------------


def _conversation(
    request: ChatRequest, aim: Aim, dropped: set[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Parts of the system's instruction, and contents whose roles alternate."""
    system: list[dict[str, Any]] = []
    contents: list[dict[str, Any]] = []
    names = {part.id: part.name for message in request.messages for part in message.parts if isinstance(part, ToolCall)}
    leading = True
    for message in request.messages:
        is_system = message.role in (Role.SYSTEM, Role.DEVELOPER)
        writer = _Writer(names, dropped)
        parts = [part for one in message.parts for part in writer.write(one)]
        if is_system and leading:
            system += parts
            continue
        leading = False
        if is_system:
            parts = [part | {"text": f"<system>{part['text']}</system>"} for part in parts if "text" in part]
        if message.role is Role.TOOL:
            parts.sort(key=lambda part: "functionResponse" not in part)  # The results, then what they show.
        if message.role is Role.ASSISTANT:
            _sign_unsigned(message, parts, aim)
        if not parts:
            continue
        role = "model" if message.role is Role.ASSISTANT else "user"
        if contents and contents[-1]["role"] == role:
            contents[-1]["parts"] += parts
        else:
            contents.append({"role": role, "parts": parts})
    if not contents and system:
        contents.append({"role": "user", "parts": [system.pop()]})  # Somebody has to be answered.
    if not contents:
        raise nothing_to_say()
    if contents[0]["role"] == "model":
        contents.insert(0, {"role": "user", "parts": [{"text": "…"}]})
    return system, contents


def _sign_unsigned(message: Message, parts: list[dict[str, Any]], aim: Aim) -> None:
    """A step's first call has to be signed; one that another model made has no signature of this one's."""
    if not is_third_generation(aim.model):
        return
    calls = [part for part in parts if "functionCall" in part]
    if calls and not any("thoughtSignature" in part for part in calls):
        calls[0]["thoughtSignature"] = UNSIGNED


class _Writer:
    """Writes the parts of one message."""

    def __init__(self, names: dict[str, str], dropped: set[str]) -> None:
        self._names = names
        self._dropped = dropped

    def write(self, part: Part) -> Iterator[dict[str, Any]]:
        match part:
            case Text() | Refusal():
                if part.text:
                    yield {"text": part.text}
            case Media():
                yield from self._media(part)
            case Reasoning(origin=origin, signature=signature) if origin == ORIGIN and signature is not None:
                thought = {"thought": True} if part.text else {}
                yield {"text": part.text, **thought, "thoughtSignature": signature}
            case ToolCall():
                call: dict[str, Any] = {"name": part.name, "args": arguments_object(part.arguments)}
                signed = part.signature is not None and part.origin == ORIGIN
                yield {"functionCall": call} | ({"thoughtSignature": part.signature} if signed else {})
            case ToolResult():
                yield from self._result(part)
            case Opaque(origin=origin):
                if origin == ORIGIN:
                    yield msgspec.json.decode(part.value)
                else:
                    self._dropped.add(f"messages.{part.type}")

    def _result(self, result: ToolResult) -> Iterator[dict[str, Any]]:
        texts = [part.text for part in result.parts if isinstance(part, Text)]
        name = self._names.get(result.call_id) or result.name or result.call_id
        yield {"functionResponse": {"name": name, "response": _response("\n".join(texts), is_error=result.is_error)}}
        for part in result.parts:
            if isinstance(part, Media):
                yield from self._media(part)

    def _media(self, media: Media) -> Iterator[dict[str, Any]]:
        if media.data is not None:
            mime = media.mime if media.mime is not None else "application/octet-stream"
            yield {"inlineData": {"mimeType": mime, "data": media.data}}
        elif media.url is not None and media.url.startswith(_OWN_URLS):
            yield {"fileData": {"fileUri": media.url} | ({"mimeType": media.mime} if media.mime else {})}
        else:
            self._dropped.add(f"messages.{media.kind.value}")


def _response(text: str, *, is_error: bool) -> dict[str, Any]:
    """A result as the object that this wire wants: the tool's own where it answered with one."""
    if is_error:
        return {"error": text}
    try:
        value = jsonx.decode(text)
    except ValueError:
        return {"result": text}
    return value if isinstance(value, dict) else {"result": text}
