"""Requests of Messages: the few keys the gateway reads, checked; everything else passes unread."""

from collections.abc import Mapping
from typing import Any

import msgspec

from routerx import jsonx
from routerx.dialects.estimate import (
    FILE_BYTES_PER_TOKEN,
    TOKENS_PER_FILE,
    TOKENS_PER_IMAGE,
    TOKENS_PER_MESSAGE,
    TOKENS_PER_REQUEST,
    TOKENS_PER_TOOLS,
    raw_tokens,
    text_tokens,
)
from routerx.dialects.fields import USER_CHARS_MAX, read_field, read_model, read_number, read_tier, wrong_value
from routerx.domain.call import Operation, Peek
from routerx.domain.model import Capability
from routerx.errors import InvalidParameter
from routerx.jsonx import Raw

OUTPUT_TOKENS_MAX = 10_000_000

_boolean = msgspec.json.Decoder(bool | None).decode
_integer = msgspec.json.Decoder(int | None).decode
_number = msgspec.json.Decoder(float | None).decode
_array = msgspec.json.Decoder(list[Raw] | None).decode
_object = msgspec.json.Decoder(dict[str, Raw] | None).decode
_messages = msgspec.json.Decoder(list[dict[str, Raw]]).decode

_NULL = Raw(b"null")
_MEDIA = (b'"image"', b'"document"')


def peek(operation: Operation, fields: Mapping[str, Raw]) -> Peek:
    """Raises InvalidParameter."""
    model = read_model(fields)
    ceiling = _ceiling(operation, fields)
    stream = read_field("stream", fields, _boolean, "true or false")
    for key, bounds in (("temperature", (0, 2)), ("top_p", (0, 1))):
        if key in fields:
            read_number(key, fields[key], _number, "a number", bounds)
    raw, messages = _read_messages(fields)
    needs: set[Capability] = set()
    estimate = TOKENS_PER_REQUEST + TOKENS_PER_MESSAGE * len(messages) + _estimate(raw, needs)
    if "system" in fields:
        estimate += raw_tokens(fields["system"])
    if read_field("tools", fields, _array, "an array"):
        needs.add(Capability.TOOLS)
        estimate += TOKENS_PER_TOOLS + raw_tokens(fields["tools"])
    schema = _schema(fields)
    if schema is not None:
        needs.add(Capability.JSON_SCHEMA)
        estimate += raw_tokens(schema)
    return Peek(
        operation=operation,
        model=model,
        stream=stream is True and operation is Operation.CHAT,
        wants_usage=True,  # This wire always has it.
        output_tokens_max=ceiling,
        needs=frozenset(needs),
        input_tokens_estimate=estimate,
        user=_user(fields),
        service_tier=read_tier(fields),
    )


def _read_messages(fields: Mapping[str, Raw]) -> tuple[Raw, list[dict[str, Raw]]]:
    """The messages as they stand and one by one. Raises InvalidParameter."""
    raw = fields.get("messages")
    if raw is None:
        raise InvalidParameter("'messages' is missing: send an array of message objects.", param="messages")
    try:
        messages = _messages(raw)
    except msgspec.DecodeError:
        raise wrong_value("messages", raw, "an array of message objects") from None
    if not messages:
        raise InvalidParameter("'messages' is empty: send at least one message.", param="messages")
    return raw, messages


def _ceiling(operation: Operation, fields: Mapping[str, Raw]) -> int | None:
    if "max_tokens" in fields:
        # Zero fills the vendor's cache and asks for no answer.
        ceiling = read_number("max_tokens", fields["max_tokens"], _integer, "a whole number", (0, OUTPUT_TOKENS_MAX))
        if ceiling is not None:
            return int(ceiling)
    if operation is Operation.COUNT_TOKENS:
        return None
    raise InvalidParameter("'max_tokens' is missing: say how long the answer may become.", param="max_tokens")


def _user(fields: Mapping[str, Raw]) -> str | None:
    metadata = read_field("metadata", fields, _object, "an object")
    raw = (metadata or {}).get("user_id")
    if raw is None or raw == _NULL:
        return None
    if memoryview(raw)[0] != 0x22:
        raise wrong_value("metadata.user_id", raw, "a string")
    return str(jsonx.decode(bytes(raw)))[:USER_CHARS_MAX]


def _schema(fields: Mapping[str, Raw]) -> Raw | None:
    """What the answer has to look like: in `output_config`, or in the older `output_format`."""
    config = read_field("output_config", fields, _object, "an object")
    for raw in (fields.get("output_format"), None if config is None else config.get("format")):
        if raw is not None and raw != _NULL:
            return raw
    return None


def _estimate(raw: Raw, needs: set[Capability]) -> int:
    """Tokens of `messages`; adds what their media need of a model."""
    data = bytes(raw)
    if not any(mark in data for mark in _MEDIA):
        return raw_tokens(raw)
    found = _Media()
    try:
        for message in jsonx.decode(data):
            found.look(message.get("content"))
    except msgspec.DecodeError as error:
        raise InvalidParameter(f"'messages' cannot be read: {error}.", param="messages") from None
    if found.images:
        needs.add(Capability.VISION)
    tokens = found.images * TOKENS_PER_IMAGE + found.files * TOKENS_PER_FILE + found.file_bytes // FILE_BYTES_PER_TOKEN
    if found.media_bytes:
        return tokens + text_tokens(len(data) - found.media_bytes, 0)
    return tokens + raw_tokens(raw)


class _Media:
    """What of some content is no text."""

    def __init__(self) -> None:
        self.images = self.files = self.media_bytes = self.file_bytes = 0

    def look(self, content: Any) -> None:
        for part in content if isinstance(content, list) else ():
            if not isinstance(part, dict):
                continue
            kind, source = part.get("type"), part.get("source")
            data = source.get("data") if isinstance(source, dict) and source.get("type") == "base64" else None
            size = len(data) if isinstance(data, str) else 0
            if kind == "image":
                self.images += 1
                self.media_bytes += size
            elif kind == "document":
                self.files += 1
                self.media_bytes += size
                self.file_bytes += size
            elif kind == "tool_result":
                self.look(part.get("content"))
