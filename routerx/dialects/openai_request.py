"""Requests on the OpenAI wire: the few keys the gateway reads, checked, and the few it replaces.

Everything else passes unread. Values are looked at one by one as raw JSON, so that a message names the field it is
about and a body of megabytes costs no more than its few numbers.
"""

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec

from routerx import jsonx
from routerx.domain.call import Operation, Peek
from routerx.domain.model import Capability
from routerx.errors import InvalidParameter
from routerx.jsonx import Raw

MODEL_CHARS_MAX = 256
USER_CHARS_MAX = 256
"""A longer `user` is passed on whole and recorded cut."""
CHOICES_MAX = 128
OUTPUT_TOKENS_MAX = 10_000_000

# The estimate of a prompt: an upper one for the texts people send, so that a hold rarely falls short, yet not the worst
# case of one token per byte, which would lock up money. English runs at 4 bytes a token, code and JSON at 2.5 to 3.
# Outside ASCII a character has 2 to 4 bytes and rarely makes more than 2 tokens.
_ASCII_BYTES_PER_TOKEN = 2
_OTHER_BYTES_PER_TWO_TOKENS = 3
_TOKENS_PER_MESSAGE = 8
"""Role, separators and the priming of the answer; the keys around the text are counted as text, too."""
_TOKENS_PER_REQUEST = 64
"""Some models are prompted by their servers first."""
_TOKENS_PER_TOOLS = 640
"""Providers put a prompt of their own around tools: 300 to 600 tokens seen."""
_TOKENS_PER_IMAGE = 1_600
"""The most a large picture costs on most models; its data or address is not counted as text."""
_TOKENS_PER_FILE = 2_000
_FILE_BYTES_PER_TOKEN = 16
_TOKENS_PER_AUDIO = 256
_AUDIO_BYTES_PER_TOKEN = 256
"""Of base64: speech at 32 kbit/s and 20 tokens a second, near the densest in use."""

_NULL = Raw(b"null")
_ASCII = bytes(range(128))
_TEXT_PARTS = frozenset(("text", "refusal", "thinking", "input_text", "output_text"))
_IMAGE_PARTS = frozenset(("image_url", "image", "input_image"))
_AUDIO_PARTS = frozenset(("input_audio", "audio", "audio_url"))


class _Message(msgspec.Struct, gc=False):
    content: Raw = _NULL


_OutputTokens = Annotated[int, msgspec.Meta(ge=1, le=OUTPUT_TOKENS_MAX)]
_Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
_NOTHING_SPECIAL: frozenset[Capability] = frozenset()


class _Part(msgspec.Struct, gc=False):
    type: Any = None


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
    tools: list[Raw] | None = None
    functions: list[Raw] | None = None
    response_format: _ResponseFormat | None = None


_chat = msgspec.json.Decoder(_Chat).decode


def peek_chat(body: bytes, fields: Mapping[str, Raw]) -> Peek:
    """Raises InvalidParameter."""
    try:
        chat = _chat(body)
    except msgspec.DecodeError as error:
        raise _first_wrong(fields, error) from None
    needs: set[Capability] = set()
    estimate = _TOKENS_PER_REQUEST + _estimate_messages(chat.messages, fields["messages"], needs)
    if chat.tools or chat.functions:
        needs.add(Capability.TOOLS)
        for key in ("tools", "functions"):
            if key in fields:
                estimate += _TOKENS_PER_TOOLS + _raw_tokens(fields[key])
    if chat.response_format is not None and chat.response_format.type == "json_schema":
        needs.add(Capability.JSON_SCHEMA)
        estimate += _raw_tokens(fields["response_format"])
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
    )


def _first_wrong(fields: Mapping[str, Raw], error: msgspec.DecodeError) -> InvalidParameter:
    """Which field of a chat request does not fit, in words of ours that name its limits."""
    _model(fields)
    for key, bounds in _NUMBERS.items():
        if key in fields:
            _ranged(key, fields[key], _number, "a number", bounds)
    for key, whole_bounds in _INTEGERS.items():
        if key in fields:
            _ranged(key, fields[key], _integer, "a whole number", whole_bounds)
    _read("stream_options", fields, _stream_options, "an object whose 'include_usage' is true or false")
    _read("stream", fields, _boolean, "true or false")
    _user(fields)
    for key in ("tools", "functions"):
        _read(key, fields, _array, "an array")
    _read("response_format", fields, _response_format, "an object with a 'type'")
    _check_messages(fields)
    return InvalidParameter(f"The request is not a chat request: {error}.")  # Not reached by any known input.


def peek_embeddings(fields: Mapping[str, Raw]) -> Peek:
    """Raises InvalidParameter."""
    model = _model(fields)
    if "dimensions" in fields:
        _ranged("dimensions", fields["dimensions"], _integer, "a whole number", (1, 1 << 20))
    return Peek(
        operation=Operation.EMBEDDINGS,
        model=model,
        input_tokens_estimate=_TOKENS_PER_REQUEST + _estimate_input(fields),
        user=_user(fields),
    )


def request_fields(fields: Mapping[str, Raw], *, model: str, ask_usage: bool) -> dict[str, Raw]:
    """See dialects.base.Dialect.request_fields. A null `encoding_format` is left out: some servers refuse it."""
    out = dict(fields)
    out["model"] = Raw(jsonx.encode(model))
    if ask_usage:
        options = _object(fields.get("stream_options", _NULL)) or {}
        out["stream_options"] = Raw(jsonx.encode({**options, "include_usage": True}))
    if out.get("encoding_format") == _NULL:
        del out["encoding_format"]
    return out


# --- fields ------------------------------------------------------------------------------------------------------


def _model(fields: Mapping[str, Raw]) -> str:
    if "model" not in fields:
        raise InvalidParameter("'model' is missing: name one of those that GET /v1/models lists.", param="model")
    try:
        model = _string(fields["model"])
    except msgspec.DecodeError:
        raise _wrong("model", fields["model"], "a string") from None
    if not 1 <= len(model) <= MODEL_CHARS_MAX:
        raise InvalidParameter(
            f"'model' has {len(model)} characters; it must have 1 to {MODEL_CHARS_MAX}.", param="model"
        )
    return model


def _user(fields: Mapping[str, Raw]) -> str | None:
    raw = fields.get("user", _NULL)
    if raw == _NULL:
        return None
    try:
        return _string(raw)[:USER_CHARS_MAX]
    except msgspec.DecodeError:
        raise _wrong("user", raw, "a string") from None


def _read(key: str, fields: Mapping[str, Raw], decode: Callable[[Raw], Any], what: str) -> Any:
    """The decoded value; None where the key is absent or null."""
    raw = fields.get(key)
    if raw is None:
        return None
    try:
        return decode(raw)
    except msgspec.DecodeError:
        raise _wrong(key, raw, what) from None


def _ranged(key: str, raw: Raw, decode: Callable[[Raw], Any], what: str, bounds: tuple[float, float]) -> Any:
    """A number within its bounds, or None for null."""
    low, high = bounds
    expected = f"{what} from {low} to {high}"
    try:
        value = decode(raw)
    except msgspec.DecodeError:
        raise _wrong(key, raw, expected) from None
    if value is not None and not low <= value <= high:
        raise _wrong(key, raw, expected)
    return value


def _wrong(key: str, raw: Raw, expected: str) -> InvalidParameter:
    return InvalidParameter(f"{key!r} is {_shown(raw)}; it must be {expected}.", param=key)


def _shown(raw: Raw) -> str:
    """A value as the caller sent it, if it is short."""
    view = memoryview(raw)
    if view.nbytes <= 40:
        return bytes(view).decode(errors="replace")
    return {"{": "an object", "[": "an array", '"': "a long string"}.get(chr(view[0]), "a number of many digits")


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
    tokens = _TOKENS_PER_MESSAGE * len(messages)
    media_bytes = 0
    for index, message in enumerate(messages):
        if memoryview(message.content)[0] == 0x5B:
            part_tokens, part_bytes = _estimate_parts(message.content, index, needs)
            tokens += part_tokens
            media_bytes += part_bytes
    if media_bytes:
        # Media is base64, all ASCII: what is left is measured by its length, and its other characters not singled out
        # over megabytes.
        return tokens + _text_tokens(memoryview(raw).nbytes - media_bytes, 0)
    return tokens + _raw_tokens(raw)


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
            tokens += _TOKENS_PER_IMAGE
        elif kind in _AUDIO_PARTS:
            needs.add(Capability.AUDIO)
            tokens += _TOKENS_PER_AUDIO + size // _AUDIO_BYTES_PER_TOKEN
        else:
            tokens += _TOKENS_PER_FILE + size // _FILE_BYTES_PER_TOKEN
    return tokens, media_bytes


def _estimate_input(fields: Mapping[str, Raw]) -> int:
    """Tokens of an embeddings input: text, texts, tokens or arrays of tokens."""
    expected = "a string, an array of strings, an array of tokens or an array of such arrays, none of them empty"
    raw = fields.get("input")
    if raw is None:
        raise InvalidParameter(f"'input' is missing: send {expected}.", param="input")
    first = memoryview(raw)[0]
    if first == 0x22:
        return _raw_tokens(raw)
    items = _array(raw) if first == 0x5B else None
    if not items:
        raise _wrong("input", raw, expected)
    kinds = {_kind(item) for item in items}
    if kinds == {"text"} or kinds == {"object"}:
        return _raw_tokens(raw)
    if kinds == {"number"}:
        return len(items)
    if kinds == {"array"}:
        return sum(bytes(item).count(b",") + 1 for item in items)
    raise _wrong("input", raw, expected)


def _kind(raw: Raw) -> str:
    first = chr(memoryview(raw)[0])
    if first.isdigit():
        return "number"
    return {'"': "text", "[": "array", "{": "object"}.get(first, "other")


def _raw_tokens(raw: Raw) -> int:
    """Tokens of JSON text, its quotes and keys included."""
    data = bytes(raw)
    other = 0 if data.isascii() else len(data.translate(None, _ASCII))
    return _text_tokens(len(data) - other, other)


def _text_tokens(ascii_bytes: int, other_bytes: int) -> int:
    return ascii_bytes // _ASCII_BYTES_PER_TOKEN + 1 + other_bytes * 2 // _OTHER_BYTES_PER_TWO_TOKENS
