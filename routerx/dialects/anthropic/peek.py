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
from routerx.dialects.fields import read_field, read_model, read_number, wrong_value
from routerx.domain.call import Operation, Peek
from routerx.domain.model import Capability
from routerx.errors import InvalidParameter
from routerx.jsonx import Raw

OUTPUT_TOKENS_MAX = 10_000_000
USER_CHARS_MAX = 256

_boolean = msgspec.json.Decoder(bool | None).decode
_integer = msgspec.json.Decoder(int | None).decode
_number = msgspec.json.Decoder(float | None).decode
_array = msgspec.json.Decoder(list[Raw] | None).decode
_object = msgspec.json.Decoder(dict[str, Raw] | None).decode
_messages = msgspec.json.Decoder(list[dict[str, Raw]]).decode

_MEDIA = (b'"image"', b'"document"')


def peek(operation: Operation, fields: Mapping[str, Raw]) -> Peek:
    """Raises InvalidParameter."""
    model = read_model(fields)
    ceiling = _ceiling(operation, fields)
    stream = read_field("stream", fields, _boolean, "true or false")
    for key, bounds in (("temperature", (0, 2)), ("top_p", (0, 1))):
        if key in fields:
            read_number(key, fields[key], _number, "a number", bounds)
    raw = fields.get("messages")
    if raw is None:
        raise InvalidParameter("'messages' is missing: send an array of message objects.", param="messages")
    try:
        messages = _messages(raw)
    except msgspec.DecodeError:
        raise wrong_value("messages", raw, "an array of message objects") from None
    if not messages:
        raise InvalidParameter("'messages' is empty: send at least one message.", param="messages")
    needs: set[Capability] = set()
    estimate = TOKENS_PER_REQUEST + TOKENS_PER_MESSAGE * len(messages) + _estimate(raw, needs)
    if "system" in fields:
        estimate += raw_tokens(fields["system"])
    if read_field("tools", fields, _array, "an array"):
        needs.add(Capability.TOOLS)
        estimate += TOKENS_PER_TOOLS + raw_tokens(fields["tools"])
    if _has_schema(fields):
        needs.add(Capability.JSON_SCHEMA)
    return Peek(
        operation=operation,
        model=model,
        stream=stream is True and operation is Operation.CHAT,
        wants_usage=True,  # This wire always has it.
        output_tokens_max=ceiling,
        needs=frozenset(needs),
        input_tokens_estimate=estimate,
        user=_user(fields),
    )


def _ceiling(operation: Operation, fields: Mapping[str, Raw]) -> int | None:
    if "max_tokens" in fields:
        ceiling = read_number("max_tokens", fields["max_tokens"], _integer, "a whole number", (1, OUTPUT_TOKENS_MAX))
        if ceiling is not None:
            return int(ceiling)
    if operation is Operation.COUNT_TOKENS:
        return None
    raise InvalidParameter("'max_tokens' is missing: say how long the answer may become.", param="max_tokens")


def _user(fields: Mapping[str, Raw]) -> str | None:
    metadata = read_field("metadata", fields, _object, "an object")
    raw = (metadata or {}).get("user_id")
    if raw is None:
        return None
    value = jsonx.decode(bytes(raw))
    return value[:USER_CHARS_MAX] if isinstance(value, str) else None


def _has_schema(fields: Mapping[str, Raw]) -> bool:
    if "output_format" in fields and bytes(fields["output_format"]) != b"null":
        return True
    config = read_field("output_config", fields, _object, "an object")
    return config is not None and bytes(config.get("format", b"null")) != b"null"


def _estimate(raw: Raw, needs: set[Capability]) -> int:
    """Tokens of `messages`; adds what their media need of a model."""
    data = bytes(raw)
    if not any(mark in data for mark in _MEDIA):
        return raw_tokens(raw)
    found = _Media()
    for message in jsonx.decode(data):
        found.look(message.get("content"))
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
