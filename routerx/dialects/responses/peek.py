"""Requests of Responses: the few keys the gateway reads, checked; everything else passes unread."""

from collections.abc import Mapping
from typing import Any

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
    USER_CHARS_MAX,
    read_field,
    read_model,
    read_number,
    read_tier,
    read_user,
    wrong_value,
)
from routerx.domain.call import Operation, Peek
from routerx.domain.model import Capability
from routerx.errors import InvalidParameter
from routerx.jsonx import Raw

OUTPUT_TOKENS_MAX = 10_000_000

_boolean = msgspec.json.Decoder(bool | None).decode
_integer = msgspec.json.Decoder(int | None).decode
_number = msgspec.json.Decoder(float | None).decode
_array = msgspec.json.Decoder(list[Raw] | None).decode
_object = msgspec.json.Decoder(dict[str, Any] | None).decode
_string = msgspec.json.Decoder(str | None).decode

_MEDIA = (b'"input_image"', b'"input_file"', b'"input_audio"', b'"image_generation_call"')
_NULL = Raw(b"null")


def peek(fields: Mapping[str, Raw]) -> Peek:
    """Raises InvalidParameter."""
    model = read_model(fields)
    for key, bounds in (("temperature", (0, 2)), ("top_p", (0, 1))):
        if key in fields:
            read_number(key, fields[key], _number, "a number", bounds)
    ceiling = None
    if "max_output_tokens" in fields:
        bounds = (1, OUTPUT_TOKENS_MAX)
        ceiling = read_number("max_output_tokens", fields["max_output_tokens"], _integer, "a whole number", bounds)
    if read_field("background", fields, _boolean, "true or false") is True:
        # What is answered later is fetched, and charged, by no request that a gateway sees.
        raise InvalidParameter("'background' is not offered here: leave it out or set it to false.", param="background")
    needs: set[Capability] = set()
    estimate = TOKENS_PER_REQUEST + _input(fields, needs)
    read_field("instructions", fields, _string, "a string")
    if "instructions" in fields:
        estimate += raw_tokens(fields["instructions"])
    if read_field("tools", fields, _array, "an array"):
        needs.add(Capability.TOOLS)
        estimate += TOKENS_PER_TOOLS + raw_tokens(fields["tools"])
    text = read_field("text", fields, _object, "an object")
    shape = text.get("format") if text is not None else None
    if isinstance(shape, dict) and shape.get("type") == "json_schema":
        needs.add(Capability.JSON_SCHEMA)
        estimate += raw_tokens(fields["text"])
    return Peek(
        operation=Operation.CHAT,
        model=model,
        stream=read_field("stream", fields, _boolean, "true or false") is True,
        wants_usage=True,  # This wire always has it.
        output_tokens_max=ceiling,
        needs=frozenset(needs),
        input_tokens_estimate=estimate,
        user=_user(fields),
        service_tier=read_tier(fields),
    )


def _user(fields: Mapping[str, Raw]) -> str | None:
    """The newer name of the field counts where the older one is not there."""
    if fields.get("user", _NULL) == _NULL and "safety_identifier" in fields:
        name: str | None = read_field("safety_identifier", fields, _string, "a string")
        return None if name is None else name[:USER_CHARS_MAX]
    return read_user(fields)


def _input(fields: Mapping[str, Raw], needs: set[Capability]) -> int:
    raw = fields.get("input")
    if raw is None or raw == _NULL:
        if any(key in fields for key in ("prompt", "previous_response_id", "conversation")):
            return 0
        raise InvalidParameter("'input' is missing: send a text or an array of items.", param="input")
    first = chr(memoryview(raw)[0])
    if first == '"':
        return TOKENS_PER_MESSAGE + raw_tokens(raw)
    try:
        items = _array(raw)
    except msgspec.DecodeError:
        items = None
    if not items:
        raise wrong_value("input", raw, "a text or an array of items, not empty")
    data = bytes(raw)
    tokens = TOKENS_PER_MESSAGE * len(items)
    if not any(mark in data for mark in _MEDIA):
        return tokens + raw_tokens(raw)
    media_bytes = 0
    try:
        values = jsonx.decode(data)
    except msgspec.DecodeError as error:  # A number beyond what a float holds: everything else is checked before.
        raise InvalidParameter(f"'input' cannot be read: {error}.", param="input") from None
    for item in values:
        if not isinstance(item, dict):
            continue
        content = item.get("content") or item.get("output")
        parts = content if isinstance(content, list) else ()
        for part in (item, *parts):
            part_tokens, part_bytes = _part(part, needs)
            tokens += part_tokens
            media_bytes += part_bytes
    return tokens + (text_tokens(len(data) - media_bytes, 0) if media_bytes else raw_tokens(raw))


def _part(part: Any, needs: set[Capability]) -> tuple[int, int]:
    """Tokens of a part that is no text, and its bytes."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "input_image":
        needs.add(Capability.VISION)
        return TOKENS_PER_IMAGE, _size(part.get("image_url"))
    if kind == "image_generation_call":
        needs.add(Capability.VISION)
        return TOKENS_PER_IMAGE, _size(part.get("result"))
    if kind == "input_audio":
        needs.add(Capability.AUDIO)
        sound = part.get("input_audio")
        size = _size(sound.get("data")) if isinstance(sound, dict) else 0
        return TOKENS_PER_AUDIO + size // AUDIO_BYTES_PER_TOKEN, size
    if kind == "input_file":
        size = _size(part.get("file_data"))
        return TOKENS_PER_FILE + size // FILE_BYTES_PER_TOKEN, size
    return 0, 0


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str) else 0
