"""A chat in the canonical superset: what any dialect can ask and any model answer, and nothing of how it is written.

The pivot of every translation. Values are frozen; absent is None. What only one dialect understands travels as Opaque
(parts, tools) or in `extras` (top-level keys) with its exact bytes, for the encoder that knows it.
"""

from enum import StrEnum
from typing import Literal

import msgspec

from routerx.domain.usage import Usage
from routerx.jsonx import Raw

# --- parts -------------------------------------------------------------------------------------------------------


class CacheMark(StrEnum):
    """The prompt up to and with this part is to be cached for so long."""

    FIVE_MINUTES = "5m"
    ONE_HOUR = "1h"


class MediaKind(StrEnum):
    """What a Media part is."""

    IMAGE = "image"
    AUDIO = "audio"
    VIDEO = "video"
    FILE = "file"


class Citation(msgspec.Struct, frozen=True):
    """Where a text comes from."""

    url: str
    title: str | None = None
    quote: str | None = None


class Text(msgspec.Struct, frozen=True):
    """Prose. Adjacent texts of one answer are one part; of one question they stay apart."""

    text: str
    cache: CacheMark | None = None
    citations: tuple[Citation, ...] = ()


class Media(msgspec.Struct, frozen=True):
    """A picture, sound, video or document: exactly one of `data`, `url` and `file_id` is set."""

    kind: MediaKind
    mime: str | None = None
    """`image/png`; None where the caller did not say (a bare URL)."""
    data: str | None = None
    """Base64, standard alphabet."""
    url: str | None = None
    """http(s); a `data:` URL is decoded into `mime` and `data`."""
    file_id: str | None = None
    """An upload at the provider: means something to the dialect it came in by only."""
    name: str | None = None
    detail: str | None = None
    """How closely to look at an image: `low`, `high`, `auto`."""
    cache: CacheMark | None = None


class Reasoning(msgspec.Struct, frozen=True):
    """Thought before the answer. `signature` is opaque and goes back unchanged, to the dialect `origin` only."""

    text: str = ""
    signature: str | None = None
    origin: str | None = None
    """Name of the dialect that signed."""
    redacted: bool = False
    """There is no text; `signature` holds the encrypted thought itself."""
    id: str | None = None


class ToolCall(msgspec.Struct, frozen=True):
    """The model calls a tool."""

    id: str
    """Unique in the conversation. Dialects without ids get synthetic ones from a seed."""
    name: str
    arguments: str = "{}"
    """JSON text of an object, as the model wrote it, so it may be broken; never empty. Free text where `custom`."""
    signature: str | None = None
    """Opaque, of the thought that led here; goes back unchanged, to the dialect `origin` only."""
    origin: str | None = None
    custom: bool = False
    """A call of a CustomTool."""
    cache: CacheMark | None = None


class ToolResult(msgspec.Struct, frozen=True):
    """What a tool answered."""

    call_id: str
    parts: tuple[Text | Media, ...] = ()
    is_error: bool = False
    name: str | None = None
    """The tool's; None where the caller did not repeat it."""
    custom: bool = False
    cache: CacheMark | None = None


class Refusal(msgspec.Struct, frozen=True):
    """The model declines, in words."""

    text: str


class Opaque(msgspec.Struct, frozen=True):
    """A part (or tool) that only the dialect `origin` understands, exactly as it stood there."""

    origin: str
    type: str
    """Its own name for itself (`server_tool_use`), for reports of what was dropped."""
    value: Raw


Part = Text | Media | Reasoning | ToolCall | ToolResult | Refusal | Opaque


class Role(StrEnum):
    """Who speaks. Tool results stand in messages of TOOL, one or several in each, and nowhere else."""

    SYSTEM = "system"
    DEVELOPER = "developer"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class Message(msgspec.Struct, frozen=True):
    """One turn. System messages may stand at any place."""

    role: Role
    parts: tuple[Part, ...]
    name: str | None = None


# --- tools -------------------------------------------------------------------------------------------------------


class FunctionTool(msgspec.Struct, frozen=True):
    """A tool described by a JSON schema of its arguments."""

    name: str
    description: str | None = None
    parameters: Raw | None = None
    """A JSON schema; None: takes nothing."""
    strict: bool | None = None
    cache: CacheMark | None = None


class CustomTool(msgspec.Struct, frozen=True):
    """A tool that takes free text."""

    name: str
    description: str | None = None
    format: Raw | None = None
    """A grammar, as the wire has it."""


Tool = FunctionTool | CustomTool | Opaque


class ToolChoice(msgspec.Struct, frozen=True):
    """Whether tools are to be called: `tool` means the one called `name`, `required` any."""

    mode: Literal["auto", "none", "required", "tool"]
    name: str | None = None


# --- wishes ------------------------------------------------------------------------------------------------------


class Sampling(msgspec.Struct, frozen=True):
    """How to draw tokens; None: as the model does by itself."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    stop: tuple[str, ...] = ()


class JsonObject(msgspec.Struct, frozen=True):
    """Answer with any JSON object."""


class JsonSchema(msgspec.Struct, frozen=True):
    """Answer with JSON of this schema."""

    schema: Raw
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


ResponseFormat = JsonObject | JsonSchema


class ReasoningWish(msgspec.Struct, frozen=True):
    """How much to think. At most one of `effort` and `budget_tokens` is set; neither: think as the model likes."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    budget_tokens: int | None = None
    """0 switches thinking off."""
    visible: bool | None = None
    """The caller wants to see the thoughts, or a summary of them."""


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request. The model's name is not in it: whom to ask is routing's matter."""

    messages: tuple[Message, ...]
    stream: bool = False
    wants_usage: bool = False
    """The caller asked for usage in the stream."""
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    sampling: Sampling = Sampling()
    output_tokens_max: int | None = None
    choices: int = 1
    response_format: ResponseFormat | None = None
    """None: text."""
    reasoning: ReasoningWish | None = None
    logprobs: bool = False
    top_logprobs: int | None = None
    verbosity: str | None = None
    """`low`, `medium`, `high`."""
    user: str | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    metadata: Raw | None = None
    """Labels that the answer repeats to the caller, on wires that do; providers get none."""
    extras: dict[str, Raw] = {}
    """Top-level keys that are none of the above, as the caller sent them."""


# --- answers -----------------------------------------------------------------------------------------------------


class Finish(StrEnum):
    """Why a choice ended."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"
    OTHER = "other"
    """The provider's own reason, none of the above (a malformed tool call, say)."""


class Choice(msgspec.Struct, frozen=True):
    """One answer of a model."""

    parts: tuple[Part, ...]
    finish: Finish | None
    native_finish: str | None = None
    """The provider's own word for it."""
    stop_sequence: str | None = None
    """The one of the caller's stop sequences that ended it, where the provider says."""


class Answer(msgspec.Struct, frozen=True):
    """A whole answer: its choices in order of their index, at least one."""

    choices: tuple[Choice, ...]
    id: str | None = None
    model: str | None = None
    """As the provider names what answered."""
    usage: Usage | None = None
    service_tier: str | None = None
