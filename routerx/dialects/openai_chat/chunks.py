"""The shapes of OpenAI chat answers, whole and in chunks, read no further than the gateway needs.

Fields are loosely typed where servers disagree: content is text or a list of typed parts, tool calls come with and
without an index. Everything unnamed here is skipped unread.
"""

import re
from typing import Any

import msgspec

from routerx.dialects.leniently import ABSENT, decode_or_none

STOP = "stop"
"""The finish reason of an answer that was at its end."""
EMPTY_BYTES_MAX = 512
"""Of a message's JSON with all its keys and nothing in them."""
_SAYS = re.compile(rb'"content":[ ]?"[^"]')
"""In most messages; spares reading them."""


class Output(msgspec.Struct, gc=False):
    """What a model made: `delta` of a chunk, `message` of a whole answer."""

    content: Any = None
    tool_calls: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: Any = None
    function_call: Any = None
    audio: Any = None
    images: msgspec.Raw = ABSENT
    """Megabytes, sometimes: only whether there are any is asked."""
    reasoning_details: msgspec.Raw = ABSENT
    """Their text stands in the fields above as well, unless they are sealed."""


class ChunkChoice(msgspec.Struct, gc=False):
    """One choice of one chunk."""

    index: Any = 0
    delta: Output | None = None
    text: Any = None
    """In place of a delta, in text completions."""
    finish_reason: Any = None


class Envelope(msgspec.Struct, gc=False):
    """A vendor's own wrapper, which may hold usage or an error that stand nowhere else."""

    usage: msgspec.Raw = ABSENT
    error: Any = None


class Chunk(msgspec.Struct, gc=False):
    """One frame of a stream."""

    choices: list[ChunkChoice] | None = None
    usage: msgspec.Raw = ABSENT
    error: Any = None
    envelope: Envelope | None = msgspec.field(default=None, name="x_groq")  # The name is on the wire.


class NamedChunk(Chunk, gc=False):
    """A frame with its names; read until both are known."""

    id: Any = None
    model: Any = None
    service_tier: Any = None


class TierChunk(msgspec.Struct, gc=False):
    """What the frame with the usage says of how it was served; read apart, because most frames need not be."""

    service_tier: Any = None


class AnswerChoice(msgspec.Struct, gc=False):
    """One choice of a whole answer; the message stays unread, unless its size has to stand in for usage."""

    message: msgspec.Raw = ABSENT
    finish_reason: Any = None

    @property
    def empty(self) -> bool:
        """As Reply.empty. A message without anything in it is short: a longer one need not be read."""
        message = memoryview(self.message)
        if message.nbytes > EMPTY_BYTES_MAX or self.finish_reason not in (None, "", STOP):
            return False
        return _SAYS.search(message) is None and message_bytes(self.message) == 0


class Answer(msgspec.Struct, gc=False):
    """A whole chat answer."""

    choices: list[AnswerChoice] | None = None
    usage: msgspec.Raw = ABSENT
    error: Any = None
    model: Any = None
    service_tier: Any = None
    envelope: Envelope | None = msgspec.field(default=None, name="x_groq")


class Embeddings(msgspec.Struct, gc=False):
    """A whole embeddings answer; the vectors stay unread."""

    data: msgspec.Raw = ABSENT
    usage: msgspec.Raw = ABSENT
    error: Any = None
    model: Any = None


_output_decoder = msgspec.json.Decoder(Output)


def message_bytes(raw: msgspec.Raw) -> int:
    """output_bytes of a message that is still JSON; 0 when it is no message."""
    output = decode_or_none(_output_decoder, raw)
    return 0 if output is None else output_bytes(output)


_GENERATED = (
    "text",
    "thinking",
    "content",
    "refusal",
    "transcript",
    "name",
    "arguments",
    "input",
    "function",
    "custom",
)
_NESTING_MAX = 8
_NO_LIST = (ABSENT, msgspec.Raw(b"[]"))


def output_bytes(output: Output) -> int:
    """UTF-8 bytes of generated text, tool calls and reasoning; above zero for any content at all (a picture, say)."""
    size = text_bytes(output.content)
    if output.tool_calls:
        size += text_bytes(output.tool_calls) or 1
    # Some servers send the same reasoning under both names.
    size += max(text_bytes(output.reasoning_content), text_bytes(output.reasoning))
    size += text_bytes(output.refusal)
    if output.function_call:
        size += text_bytes(output.function_call) or 1
    if output.audio:
        size += text_bytes(output.audio) or 1
    if size == 0 and (output.images not in _NO_LIST or output.reasoning_details not in _NO_LIST):
        return 1
    return size


def text_bytes(value: Any, nesting: int = 0) -> int:
    """UTF-8 bytes of the generated strings in a string, a list of typed parts or a tool call."""
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode())
    if nesting > _NESTING_MAX:
        return 0
    if isinstance(value, list):
        return sum(text_bytes(part, nesting + 1) for part in value)
    if isinstance(value, dict):
        return sum(text_bytes(value.get(key), nesting + 1) for key in _GENERATED)
    return 0
