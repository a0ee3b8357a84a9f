"""Requests of Responses: the canonical request as a provider gets it. Nothing is to be stored there, so thoughts are
asked for in their encrypted form, to be sent back with the next request."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from routerx.dialects.base import Aim, Encoded
from routerx.dialects.effort import effort_of
from routerx.dialects.media import AUDIO_TYPES, data_url
from routerx.dialects.openai_chat.ids import call_id
from routerx.dialects.responses.request import ORIGIN
from routerx.dialects.rounds import open_round
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

_AUDIO_NAMES = {mime: name for name, mime in AUDIO_TYPES.items()}
_NO_PARAMETERS = Raw(b'{"type":"object","properties":{}}')
_NATIVE = frozenset(
    {
        "max_tool_calls",
        "moderation",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
    }
)
"""Top-level parameters of this wire that the canonical request does not have."""


def encode_request(request: ChatRequest, aim: Aim) -> Encoded:
    """See dialects.base.ChatTarget."""
    dropped: set[str] = set()
    messages = list(request.messages)
    fields: dict[str, Any] = {"model": aim.model, "store": False}
    # A conversation of instructions only has them as its input, which may not be empty.
    if len(messages) > 1 and messages[0].role is Role.SYSTEM and messages[0].name is None:
        texts = [part.text for part in messages[0].parts if isinstance(part, Text)]
        if texts and len(texts) == len(messages[0].parts):
            fields["instructions"] = "\n\n".join(texts)
            messages.pop(0)
    fields["input"] = list(_Input(messages, dropped, takes_plain=aim.reasoning_field is not None).items())
    if request.stream:
        fields["stream"] = True
    _put_wishes(fields, request, dropped)
    _put_reasoning(fields, request, aim, dropped)
    _put_tools(fields, request, dropped)
    for key, raw in request.extras.items():
        if key in _NATIVE:
            fields[key] = raw
        else:
            dropped.add(key)
    if messages and messages[-1].role is Role.ASSISTANT and Capability.PREFILL not in aim.capabilities:
        dropped.add("prefill")
    return Encoded(fields, tuple(sorted(dropped)))


def _put_wishes(fields: dict[str, Any], request: ChatRequest, dropped: set[str]) -> None:
    sampling = request.sampling
    wishes: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_output_tokens": request.output_tokens_max,
        "user": request.user,
        "service_tier": request.service_tier,
        "prompt_cache_key": request.prompt_cache_key,
        "text": _text(request) or None,
    }
    fields.update({key: value for key, value in wishes.items() if value is not None})
    missing = {
        "top_k": sampling.top_k is not None,
        "min_p": bool(sampling.min_p),
        "seed": sampling.seed is not None,
        "presence_penalty": bool(sampling.presence_penalty),
        "frequency_penalty": bool(sampling.frequency_penalty),
        "repetition_penalty": sampling.repetition_penalty not in (None, 1),
        "stop": bool(sampling.stop),
        "n": request.choices != 1,
        "logprobs": request.logprobs,  # Not asked for: the canonical answer has no place for them.
    }
    dropped.update(name for name, is_lost in missing.items() if is_lost)


def _text(request: ChatRequest) -> dict[str, Any]:
    text: dict[str, Any] = {}
    match request.response_format:
        case JsonObject():
            text["format"] = {"type": "json_object"}
        case JsonSchema() as wish:
            text["format"] = {"type": "json_schema", "name": wish.name or "answer", "schema": wish.schema}
            if wish.description is not None:
                text["format"]["description"] = wish.description
            if wish.strict is not None:
                text["format"]["strict"] = wish.strict
    if request.verbosity is not None:
        text["verbosity"] = request.verbosity
    return text


def _put_reasoning(fields: dict[str, Any], request: ChatRequest, aim: Aim, dropped: set[str]) -> None:
    if Capability.REASONING in aim.capabilities:
        fields["include"] = ["reasoning.encrypted_content"]
    wish = request.reasoning
    if wish is None:
        return
    effort = wish.effort if wish.budget_tokens is None else effort_of(wish.budget_tokens)
    if Capability.REASONING not in aim.capabilities:
        if effort != "none":
            dropped.add("reasoning_effort")
        return
    reasoning: dict[str, Any] = {} if effort is None else {"effort": effort}
    if wish.visible is not False and effort != "none":
        reasoning["summary"] = "auto"
    if reasoning:
        fields["reasoning"] = reasoning


# --- tools -------------------------------------------------------------------------------------------------------


def tool_object(tool: FunctionTool | CustomTool) -> dict[str, Any]:
    """A tool as this wire has it, in requests and in the echo of them."""
    if isinstance(tool, FunctionTool):
        encoded: dict[str, Any] = {"type": "function", "name": tool.name, "strict": tool.strict is True}
        encoded["parameters"] = tool.parameters if tool.parameters is not None else _NO_PARAMETERS
    else:
        encoded = {"type": "custom", "name": tool.name}
        if tool.format is not None:
            encoded["format"] = tool.format
    if tool.description is not None:
        encoded["description"] = tool.description
    return encoded


def _put_tools(fields: dict[str, Any], request: ChatRequest, dropped: set[str]) -> None:
    tools = [encoded for tool in request.tools if (encoded := _tool(tool, dropped)) is not None]
    choice = request.tool_choice
    if not tools:
        if choice is not None and choice.mode in ("required", "tool"):
            dropped.add("tool_choice")
        return
    fields["tools"] = tools
    if choice is not None:
        fields["tool_choice"] = tool_choice(choice, request.tools)
    if request.parallel_tool_calls is not None:
        fields["parallel_tool_calls"] = request.parallel_tool_calls


def _tool(tool: Tool, dropped: set[str]) -> Any:
    if not isinstance(tool, Opaque):
        return tool_object(tool)
    if tool.origin == ORIGIN:
        return tool.value
    dropped.add(f"tools.{tool.type}")
    return None


def tool_choice(choice: ToolChoice, tools: Sequence[Tool]) -> Any:
    """A choice as this wire has it, in requests and in the echo of them."""
    if choice.mode != "tool":
        return choice.mode
    custom = any(isinstance(tool, CustomTool) and tool.name == choice.name for tool in tools)
    return {"type": "custom" if custom else "function", "name": choice.name}


# --- items -------------------------------------------------------------------------------------------------------


class _Input:
    """The items of a conversation: runs of what is said, and each call, result and thought by itself.

    Pictures of the model's own making can only be shown by a user: they follow in a message of their own, behind the
    results of the round.
    """

    def __init__(self, messages: Sequence[Message], dropped: set[str], *, takes_plain: bool) -> None:
        """`takes_plain`: some servers of this wire take thoughts back as they told them, unsigned."""
        self._messages = messages
        self._dropped = dropped
        self._takes_plain = takes_plain
        calls = (part for message in messages for part in message.parts if isinstance(part, ToolCall))
        self._custom = {call.id for call in calls if call.custom}
        """Calls of custom tools, by id: not every wire says of a result that it is of one."""

    def items(self) -> Iterator[Any]:
        shown: list[Part] = []
        for message in self._messages:
            if message.name is not None:
                self._dropped.add("messages.name")
            if message.role is not Role.TOOL:
                yield from self._message("user", shown)
                shown = []
            if message.role is Role.ASSISTANT:
                shown = [part for part in message.parts if isinstance(part, Media)]
                yield from self._message("assistant", [part for part in message.parts if not isinstance(part, Media)])
            else:
                yield from self._message("user" if message.role is Role.TOOL else message.role.value, message.parts)
        yield from self._message("user", shown)
        for message in open_round(self._messages):
            for part in message.parts:
                if isinstance(part, Reasoning) and part.text and not (_is_own(part) or self._takes_plain):
                    self._dropped.add("messages.reasoning")

    def _message(self, role: str, parts: Iterable[Part]) -> Iterator[Any]:
        said: list[Any] = []
        for part in parts:
            if isinstance(part, Text | Refusal | Media):
                encoded = self._part(part, role)
                said += [encoded] if encoded is not None else []
                continue
            if said:
                yield {"type": "message", "role": role, "content": said}
                said = []
            yield from self._item(part)
        if said:
            yield {"type": "message", "role": role, "content": said}

    def _item(self, part: Part) -> Iterator[Any]:
        match part:
            case ToolCall():
                head = {"call_id": call_id(part.id), "name": part.name}
                if part.custom:
                    yield {"type": "custom_tool_call", **head, "input": part.arguments}
                else:
                    yield {"type": "function_call", **head, "arguments": part.arguments}
            case ToolResult():
                custom = part.custom or part.call_id in self._custom
                kind = "custom_tool_call_output" if custom else "function_call_output"
                yield {"type": kind, "call_id": call_id(part.call_id), "output": self._output(part)}
            case Reasoning() if _is_own(part):
                summary = [{"type": "summary_text", "text": part.text}] if part.text else []
                item: dict[str, Any] = {"type": "reasoning", "summary": summary, "encrypted_content": part.signature}
                yield item if part.id is None else {**item, "id": part.id}
            case Reasoning(text=text) if text and self._takes_plain:
                yield {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": text}]}
            case Opaque(origin=origin):
                if origin == ORIGIN:
                    yield part.value
                else:
                    self._dropped.add(f"messages.{part.type}")

    def _output(self, result: ToolResult) -> Any:
        texts = [part.text for part in result.parts if isinstance(part, Text)]
        if len(texts) == len(result.parts):
            text = "\n".join(texts)
            return f"Error: {text}" if result.is_error else text
        parts: list[Any] = [{"type": "input_text", "text": "Error:"}] if result.is_error else []
        for part in result.parts:
            if isinstance(part, Media) and part.kind not in (MediaKind.IMAGE, MediaKind.FILE):
                self._dropped.add(f"messages.tool.{part.kind.value}")
            elif (encoded := self._part(part, "user")) is not None:
                parts.append(encoded)
        return parts

    def _part(self, part: Text | Refusal | Media, role: str) -> dict[str, Any] | None:
        match part:
            case Text():
                if role == "assistant":
                    return {"type": "output_text", "text": part.text, "annotations": []}
                return {"type": "input_text", "text": part.text}
            case Refusal():
                return {"type": "refusal", "refusal": part.text}
        encoded = _media(part)
        if encoded is None:
            self._dropped.add(f"messages.{part.kind.value}")
        return encoded


def _is_own(thought: Reasoning) -> bool:
    return thought.origin == ORIGIN and thought.signature is not None


def _media(media: Media) -> dict[str, Any] | None:
    url = media.url if media.url is not None else data_url(media) if media.data is not None else None
    match media.kind:
        case MediaKind.IMAGE if media.file_id is not None:
            return {"type": "input_image", "file_id": media.file_id, "detail": media.detail or "auto"}
        case MediaKind.IMAGE:
            return {"type": "input_image", "image_url": url, "detail": media.detail or "auto"}
        case MediaKind.FILE if media.file_id is not None:
            return {"type": "input_file", "file_id": media.file_id}
        case MediaKind.FILE if media.url is not None:
            return {"type": "input_file", "file_url": media.url}
        case MediaKind.FILE:
            return {"type": "input_file", "filename": media.name or "file", "file_data": url}
        case MediaKind.AUDIO if media.data is not None:
            shape = _AUDIO_NAMES.get(media.mime or "", "wav")
            return {"type": "input_audio", "input_audio": {"data": media.data, "format": shape}}
    return None
