"""The one JSON door. msgspec everywhere: strict (no NaN, no Infinity, UTF-8 only) and fast."""

from typing import Any, TypeVar

import msgspec

from routerx.errors import InvalidJson

T = TypeVar("T")
Raw = msgspec.Raw

DEPTH_MAX = 64

_any_decoder = msgspec.json.Decoder()
_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encoder = msgspec.json.Encoder()

encode = _encoder.encode


def decode(data: bytes | str) -> Any:
    """Any JSON value. Raises msgspec.DecodeError."""
    return _any_decoder.decode(data)


def pretty(value: object) -> str:
    """Indented text for people and for `--json` output."""
    return msgspec.json.format(_encoder.encode(value), indent=2).decode()


def request_object(body: bytes) -> dict[str, msgspec.Raw]:
    """A request body as top-level keys with their exact bytes; a repeated key keeps the last value, once.

    Raises InvalidJson when the body is not a JSON object, is nested deeper than DEPTH_MAX or holds a lone surrogate
    (FAULTS.md 63, 64, 66-68).
    """
    try:
        # Depth can only pass the limit where there are as many opening brackets: two fast counts spare the scan.
        if body.count(b"[") + body.count(b"{") > DEPTH_MAX and _depth(body) > DEPTH_MAX:
            raise InvalidJson(f"The body is nested deeper than {DEPTH_MAX} levels.")
        if b"\\u" in body:
            _any_decoder.decode(body)  # Raw values are skipped, not decoded: only this finds lone surrogates.
        body.decode()  # For the same reason, so are their bytes: UTF-8 is checked here.
        return _object_decoder.decode(body)
    except UnicodeDecodeError:
        raise InvalidJson("The body is not valid UTF-8.") from None
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise InvalidJson(f"The body is not a JSON object: {error}.") from None


def _depth(body: bytes) -> int:
    """Deepest nesting of brackets outside strings."""
    depth = deepest = 0
    in_string = escaped = False
    for byte in body:
        if in_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in (0x5B, 0x7B):
            depth += 1
            if depth > deepest:
                deepest = depth
        elif byte in (0x5D, 0x7D):
            depth -= 1
    return deepest
