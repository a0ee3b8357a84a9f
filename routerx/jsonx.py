"""The one JSON door. msgspec everywhere: strict (no NaN, no Infinity, UTF-8 only) and fast."""

import re
from typing import Any, TypeVar

import msgspec

from routerx.errors import InvalidJson

T = TypeVar("T")
Raw = msgspec.Raw

DEPTH_MAX = 64

_any_decoder = msgspec.json.Decoder()
_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encoder = msgspec.json.Encoder()
_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")

encode = _encoder.encode


def decode(data: bytes | str) -> Any:
    """Any JSON value. Raises msgspec.DecodeError."""
    return _any_decoder.decode(data)


def pretty(value: object) -> str:
    """Indented text for people and for `--json` output."""
    return msgspec.json.format(_encoder.encode(value), indent=2).decode()


def with_key(body: bytes, name: str, value: bytes) -> bytes:
    """An object's bytes with one more key at its end, `value` as JSON; what is no object comes back as it is.

    `body` is known to be JSON. All of it keeps its bytes; what stands there already under `name` stays, before ours.
    """
    end = len(body.rstrip())
    if not body.lstrip().startswith(b"{") or body[end - 1 : end] != b"}":
        return body
    rest = body[: end - 1]
    comma = b"" if rest.strip() == b"{" else b","
    return b"%b%b%b:%b%b" % (rest, comma, encode(name), value, body[end - 1 :])


def request_object(body: bytes) -> dict[str, msgspec.Raw]:
    """A request body as top-level keys with their exact bytes; a repeated key keeps the last value, once.

    Raises InvalidJson when the body is not a JSON object, is nested deeper than DEPTH_MAX or holds a lone surrogate
    (FAULTS.md 63, 64, 66-68).
    """
    try:
        # Depth can only pass the limit where there are as many opening brackets: two fast counts spare the scan.
        if body.count(b"[") + body.count(b"{") > DEPTH_MAX and _is_too_deep(body):
            raise InvalidJson(f"The body is nested deeper than {DEPTH_MAX} levels.")
        if b"\\u" in body:
            _any_decoder.decode(body)  # Raw values are skipped, not decoded: only this finds lone surrogates.
        body.decode()  # For the same reason, so are their bytes: UTF-8 is checked here.
        return _object_decoder.decode(body)
    except UnicodeDecodeError:
        raise InvalidJson("The body is not valid UTF-8.") from None
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise InvalidJson(f"The body is not a JSON object: {error}.") from None


def _is_too_deep(body: bytes) -> bool:
    """Whether brackets outside strings nest deeper than DEPTH_MAX: what is left of them after DEPTH_MAX times taking
    out all innermost pairs. In passes over bytes, because a body may have millions of brackets."""
    brackets = _STRINGS.sub(b"", body).translate(_ONE_KIND, _NO_BRACKETS)
    for _ in range(DEPTH_MAX):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)
