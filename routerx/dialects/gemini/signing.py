"""Thought signatures on this wire are bytes in base64; what another vendor signed is packed into one of that kind."""

import base64
import binascii

from routerx.dialects.signatures import pack, unpack

ORIGIN = "gemini"
_REDACTED = "redacted"
"""In place of an id, of a thought that another vendor redacted."""


def written(origin: str | None, signature: str | None, id_: str | None = None, *, redacted: bool = False) -> str | None:
    """A signature as callers of this wire get it; None where there is none."""
    if signature is None or origin is None or origin == ORIGIN:
        return signature
    packed = pack(origin, signature, _REDACTED if redacted else id_)
    return base64.b64encode(packed.encode("utf-8", "surrogatepass")).decode()


def read(text: str) -> tuple[str, str, str | None, bool]:
    """(origin, signature, id, redacted) of a signature that a caller returns, in either alphabet of base64."""
    standard = text.replace("-", "+").replace("_", "/")
    try:
        packed = unpack(base64.b64decode(standard + "=" * (-len(standard) % 4)).decode("utf-8", "surrogatepass"))
    except (binascii.Error, ValueError):
        packed = None
    if packed is None:
        return ORIGIN, standard, None, False
    origin, signature, id_ = packed
    redacted = id_ == _REDACTED
    return origin, signature, None if redacted else id_, redacted
