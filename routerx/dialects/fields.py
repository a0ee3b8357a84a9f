"""Top-level fields of a caller's request, read one by one: every refusal names the field and its limits."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from routerx.dialects.leniently import decode_or_none
from routerx.domain.pricing import tier_name
from routerx.errors import InvalidParameter
from routerx.jsonx import Raw

MODEL_CHARS_MAX = 256
USER_CHARS_MAX = 256
"""A longer `user` is passed on whole and recorded cut."""

_NULL = Raw(b"null")
_string = msgspec.json.Decoder(str).decode
_any_decoder = msgspec.json.Decoder()


def read_model(fields: Mapping[str, Raw]) -> str:
    if "model" not in fields:
        raise InvalidParameter("'model' is missing: name one of those that GET /v1/models lists.", param="model")
    try:
        model = _string(fields["model"])
    except msgspec.DecodeError:
        raise wrong_value("model", fields["model"], "a string") from None
    if not 1 <= len(model) <= MODEL_CHARS_MAX:
        raise InvalidParameter(
            f"'model' has {len(model)} characters; it must have 1 to {MODEL_CHARS_MAX}.", param="model"
        )
    return model


def read_user(fields: Mapping[str, Raw]) -> str | None:
    raw = fields.get("user", _NULL)
    if raw == _NULL:
        return None
    try:
        return _string(raw)[:USER_CHARS_MAX]
    except msgspec.DecodeError:
        raise wrong_value("user", raw, "a string") from None


def read_tier(fields: Mapping[str, Raw]) -> str | None:
    """The service tier that is asked for. What is none is the provider's to refuse."""
    raw = fields.get("service_tier")
    return None if raw is None else tier_name(decode_or_none(_any_decoder, raw))


def read_field(key: str, fields: Mapping[str, Raw], decode: Callable[[Raw], Any], what: str) -> Any:
    """The decoded value; None where the key is absent or null."""
    raw = fields.get(key)
    if raw is None:
        return None
    try:
        return decode(raw)
    except msgspec.DecodeError:
        raise wrong_value(key, raw, what) from None


def read_number(key: str, raw: Raw, decode: Callable[[Raw], Any], what: str, bounds: tuple[float, float]) -> Any:
    """A number within its bounds, or None for null."""
    low, high = bounds
    expected = f"{what} from {low} to {high}"
    try:
        value = decode(raw)
    except msgspec.DecodeError:
        raise wrong_value(key, raw, expected) from None
    if value is not None and not low <= value <= high:
        raise wrong_value(key, raw, expected)
    return value


def wrong_value(key: str, raw: Raw, expected: str) -> InvalidParameter:
    return InvalidParameter(f"{key!r} is {_shown(raw)}; it must be {expected}.", param=key)


def _shown(raw: Raw) -> str:
    """A value as the caller sent it, if it is short."""
    view = memoryview(raw)
    if view.nbytes <= 40:
        return bytes(view).decode(errors="replace")
    return {"{": "an object", "[": "an array", '"': "a long string"}.get(chr(view[0]), "a number of many digits")
