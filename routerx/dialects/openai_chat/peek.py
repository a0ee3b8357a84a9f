"""Requests on the OpenAI wire: the few keys the gateway reads, checked, and the few it replaces.

Everything else passes unread. Values are looked at one by one as raw JSON, so that a message names the field it is
about and a body of megabytes costs no more than its few numbers.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from routerx import jsonx
from routerx.dialects.estimate import (
    AUDIO_BYTES_PER_TOKEN,
    FILE_BYTES_PER_TOKEN,
    TOKENS_PER_AUDIO,
    TOKENS_PER_FILE,
    TOKENS_PER_IMAGE,
    TOKENS_PER_MESSAGE,
    TOKENS_PER_REQUEST,
    TOKENS_PER_TOOLS,
    raw_tokens,
    text_tokens,
)
from routerx.dialects.fields import (
    MODEL_CHARS_MAX,
    USER_CHARS_MAX,
    read_field,
    read_model,
    read_number,
    read_user,
    wrong_value,
)
from routerx.dialects.openai_chat.ids import unpacked
from routerx.domain.call import Operation, Peek
from routerx.domain.model import Capability
from routerx.domain.pricing import tier_name
from routerx.errors import InvalidParameter
from routerx.jsonx import Raw

CHOICES_MAX = 128
OUTPUT_TOKENS_MAX = 10_000_000

_NULL = Raw(b"null")
_TEXT_PARTS = frozenset(("text", "refusal", "thinking", "input_text", "output_text"))
_IMAGE_PARTS = frozenset(("image_url", "image", "input_image"))
_AUDIO_PARTS = frozenset(("input_audio", "audio", "audio_url"))


class _Message(msgspec.Struct, gc=False):
    content: Raw = _NULL


_OutputTokens = Annotated[int, msgspec.Meta(ge=1, le=OUTPUT_TOKENS_MAX)]
_Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
_NOTHING_SPECIAL: frozenset[Capability] = frozenset()


class _Part(msgspec.Struct, gc=False):
    type: str | None = None


class _StreamOptions(msgspec.Struct, gc=False):
    include_usage: bool | None = None


class _ResponseFormat(msgspec.Struct, gc=False):
    type: Any = None


_string = msgspec.json.Decoder(str).decode
_boolean = msgspec.json.Decoder(bool | None).decode
_integer = msgspec.json.Decoder(int | None).decode
_number = msgspec.json.Decoder(float | None).decode
_array = msgspec.json.Decoder(list[Raw] | None).decode
_parts = msgspec.json.Decoder(list[Raw]).decode
_part = msgspec.json.Decoder(_Part).decode
_messages = msgspec.json.Decoder(list[_Message]).decode
_stream_options = msgspec.json.Decoder(_StreamOptions | None).decode
_response_format = msgspec.json.Decoder(_ResponseFormat | None).decode
_object = msgspec.json.Decoder(dict[str, Raw] | None).decode

_NUMBERS: dict[str, tuple[float, float]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
}
_INTEGERS: dict[str, tuple[int, int]] = {
    "n": (1, CHOICES_MAX),
    "max_tokens": (1, OUTPUT_TOKENS_MAX),
    "max_completion_tokens": (1, OUTPUT_TOKENS_MAX),
}


class _Chat(msgspec.Struct, gc=False):
    """The keys that a chat request is read by, with their bounds. What does not fit is told field by field below."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=MODEL_CHARS_MAX)]
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=CHOICES_MAX)] | None = None
    max_tokens: _OutputTokens | None = None
    max_completion_tokens: _OutputTokens | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    user: str | None = None
    service_tier: Any = None
    tools: list[Raw] | None = None
    functions: list[Raw] | None = None
    response_format: _ResponseFormat | None = None


_chat = msgspec.json.Decoder(_Chat).decode


def peek_chat(body: bytes, fields: Mapping[str, Raw]) -> Peek:
    """Raises InvalidParameter."""
    try:
        chat = _chat(body)
    except msgspec.DecodeError as error:
        raise _firstwrong_value(fields, error) from None
    needs: set[Capability] = set()
    estimate = TOKENS_PER_REQUEST + _estimate_messages(chat.messages, fields["messages"], needs)
    if chat.tools or chat.functions:
        needs.add(Capability.TOOLS)
        for key in ("tools", "functions"):
            if key in fields:
                estimate += TOKENS_PER_TOOLS + raw_tokens(fields[key])
    if chat.response_format is not None and chat.response_format.type == "json_schema":
        needs.add(Capability.JSON_SCHEMA)
        estimate += raw_tokens(fields["response_format"])
    ceiling = chat.max_tokens
    if ceiling is None or (chat.max_completion_tokens is not None and chat.max_completion_tokens > ceiling):
        ceiling = chat.max_completion_tokens
    options = chat.stream_options
    return Peek(
        operation=Operation.CHAT,
        model=chat.model,
        stream=chat.stream is True,
        wants_usage=options is not None and options.include_usage is True,
        choices=1 if chat.n is None else chat.n,
        output_tokens_max=ceiling,
        needs=frozenset(needs) if needs else _NOTHING_SPECIAL,
        input_tokens_estimate=estimate,
        user=None if chat.user is None else chat.user[:USER_CHARS_MAX],
        service_tier=None if chat.service_tier is None else tier_name(chat.service_tier),
    )


def _firstwrong_value(fields: Mapping[str, Raw], error: msgspec.DecodeError) -> InvalidParameter:
    """Which field of a chat request does not fit, in words of ours that name its limits."""
    read_model(fields)
    for key, bounds in _NUMBERS.items():
        if key in fields:
            read_number(key, fields[key], _number, "a number", bounds)
    for key, whole_bounds in _INTEGERS.items():
        if key in fields:
            read_number(key, fields[key], _integer, "a whole number", whole_bounds)
    read_field("stream_options", fields, _stream_options, "an object whose 'include_usage' is true or false")
    read_field("stream", fields, _boolean, "true or false")
    read_user(fields)
    for key in ("tools", "functions"):
        read_field(key, fields, _array, "an array")
    read_field("response_format", fields, _response_format, "an object with a 'type'")
    _check_messages(fields)
    return InvalidParameter(f"The request is not a chat request: {error}.")  # Not reached by any known input.


def peek_embeddings(fields: Mapping[str, Raw]) -> Peek:
    """Raises InvalidParameter."""
    model = read_model(fields)
    if "dimensions" in fields:
        read_number("dimensions", fields["dimensions"], _integer, "a whole number", (1, 1 << 20))
    return Peek(
        operation=Operation.EMBEDDINGS,
        model=model,
        input_tokens_estimate=TOKENS_PER_REQUEST + _estimate_input(fields),
        user=read_user(fields),
    )


def request_fields(fields: Mapping[str, Raw], *, model: str, ask_usage: bool) -> dict[str, Raw]:
    """See dialects.base.Dialect.request_fields. A null `encoding_format` is left out: some servers refuse it."""
    out = dict(fields)
    out["model"] = Raw(jsonx.encode(model))
    if "messages" in out:
        out["messages"] = unpacked(out["messages"])
    if ask_usage:
        options = _object(fields.get("stream_options", _NULL)) or {}
        out["stream_options"] = Raw(jsonx.encode({**options, "include_usage": True}))
    if out.get("encoding_format") == _NULL:
        del out["encoding_format"]
    return out


# --- the prompt --------------------------------------------------------------------------------------------------


def _check_messages(fields: Mapping[str, Raw]) -> None:
    """Raises InvalidParameter where `messages` is not an array of at least one object."""
    raw = fields.get("messages")
    if raw is None:
        raise InvalidParameter("'messages' is missing: send an array of message objects.", param="messages")
    try:
        messages = _messages(raw)
    except msgspec.DecodeError as error:
        # The path is the library's and stable: `… - at `$[3]``.
        place = re.search(r"\$(\[\d+\])", str(error))
        name = "messages" if place is None else f"messages{place[1]}"
        expected = "an array of message objects" if place is None else "an object"
        raise InvalidParameter(f"{name!r} must be {expected}.", param=name) from None
    if not messages:
        raise InvalidParameter("'messages' is empty: send at least one message.", param="messages")


def _estimate_messages(messages: list[_Message], raw: Raw, needs: set[Capability]) -> int:
    """Tokens of `messages`; adds what the parts need of a model."""
    tokens = TOKENS_PER_MESSAGE * len(messages)
    media_bytes = 0
    for index, message in enumerate(messages):
        if memoryview(message.content)[0] == 0x5B:
            part_tokens, part_bytes = _estimate_parts(message.content, index, needs)
            tokens += part_tokens
            media_bytes += part_bytes
    if media_bytes:
        # Media is base64, all ASCII: what is left is measured by its length, and its other characters not singled out
        # over megabytes.
        return tokens + text_tokens(memoryview(raw).nbytes - media_bytes, 0)
    return tokens + raw_tokens(raw)


def _estimate_parts(content: Raw, index: int, needs: set[Capability]) -> tuple[int, int]:
    """Tokens of the parts that are no text, and the bytes these parts take."""
    tokens = media_bytes = 0
    for place, raw in enumerate(_parts(content)):
        size = memoryview(raw).nbytes
        try:
            kind = _part(raw).type
        except msgspec.DecodeError:
            name = f"messages[{index}].content[{place}]"
            raise InvalidParameter(f"{name!r} must be an object with a 'type'.", param=name) from None
        if kind in _TEXT_PARTS:
            continue
        media_bytes += size
        if kind in _IMAGE_PARTS:
            needs.add(Capability.VISION)
            tokens += TOKENS_PER_IMAGE
        elif kind in _AUDIO_PARTS:
            needs.add(Capability.AUDIO)
            tokens += TOKENS_PER_AUDIO + size // AUDIO_BYTES_PER_TOKEN
        else:
            tokens += TOKENS_PER_FILE + size // FILE_BYTES_PER_TOKEN
    return tokens, media_bytes


def _estimate_input(fields: Mapping[str, Raw]) -> int:
    """Tokens of an embeddings input: text, texts, tokens or arrays of tokens."""
    expected = "a string, an array of strings, an array of tokens or an array of such arrays, none of them empty"
    raw = fields.get("input")
    if raw is None:
        raise InvalidParameter(f"'input' is missing: send {expected}.", param="input")
    first = memoryview(raw)[0]
    if first == 0x22:
        return raw_tokens(raw)
    items = _array(raw) if first == 0x5B else None
    if not items:
        raise wrong_value("input", raw, expected)
    kinds = {_kind(item) for item in items}
    if kinds == {"text"} or kinds == {"object"}:
        return raw_tokens(raw)
    if kinds == {"number"}:
        return len(items)
    if kinds == {"array"}:
        return sum(bytes(item).count(b",") + 1 for item in items)
    raise wrong_value("input", raw, expected)


def _kind(raw: Raw) -> str:
    first = chr(memoryview(raw)[0])
    if first.isdigit():
        return "number"
    return {'"': "text", "[": "array", "{": "object"}.get(first, "other")
