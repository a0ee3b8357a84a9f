"""Reading JSON that providers sent: None instead of an exception, and text that is nearly UTF-16 mended.

For what comes from upstream only; what callers send is read strictly (jsonx).
"""

import re
from typing import Any

import msgspec

ABSENT = msgspec.Raw(b"null")
"""Stands for a raw value that was left out; equal to one that is null."""

_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


# Servers that cut text between the two halves of a surrogate pair send escapes that are no text on their own. The bytes
# are relayed as they are; to be read, each half counts as the replacement character.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


def mend(data: bytes) -> bytes | None:
    """`data` with surrogate escapes replaced; None when there are none, so that trying again is of no use."""
    mended, count = _SURROGATE.subn(rb"\\ufffd", data)
    return mended if count else None


def decode_or_none(decoder: "msgspec.json.Decoder[Any]", data: bytes | msgspec.Raw) -> Any:
    """One JSON value of the decoder's type, or None when `data` is no such thing."""
    try:
        return decoder.decode(data)
    except _DECODE_ERRORS:
        mended = mend(bytes(data))
    try:
        return None if mended is None else decoder.decode(mended)
    except _DECODE_ERRORS:
        return None


def one_line(body: bytes) -> bytes:
    """The same JSON without the line breaks between its values, which would cut a `data:` line."""
    try:
        return msgspec.json.format(body, indent=-1)
    except msgspec.DecodeError:
        return msgspec.json.format(mend(body) or body, indent=-1)
