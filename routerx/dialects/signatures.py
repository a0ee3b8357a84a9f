"""Opaque signatures of one vendor, carried through a wire that has no place for them.

A caller returns an assistant's message as it got it; what another vendor signed must come back with it. So it travels
in the wire's own signature, marked with whose it is, or, for a tool call, in the call's id, which every client keeps.
"""

import base64
import binascii
import re

MARK = "rx1."
"""How every packed text begins."""
UNSIGNED = f"{MARK}none.."
"""In place of the signature of a thought that nobody signed, where the wire has to have one: whoever is given it back
can tell it from a signature of its own."""
_IN_ID = "--rx1-"
PACKED = _IN_ID.encode()
"""Stands in every body with a packed call id."""
_ID = "id"
"""Stands where an origin does, before the id itself as it was."""
_ODD = re.compile(r"[^a-zA-Z0-9_-]")


def pack(origin: str, signature: str, id: str | None = None) -> str:  # noqa: A002 (the wire's own word)
    """One text that unpack() takes apart again."""
    return f"{MARK}{origin}.{_encode(id or '')}.{signature}"


def unpack(text: str) -> tuple[str, str, str | None] | None:
    """(origin, signature, id) of a packed text; None for any other. UNSIGNED is not for this function."""
    if not text.startswith(MARK):
        return None
    pieces = text[len(MARK) :].split(".", 2)
    if len(pieces) != 3:
        return None
    origin, packed_id, signature = pieces
    found = _decode(packed_id)
    return None if found is None else (origin, signature, found or None)


def pack_call_id(id: str, origin: str | None, signature: str | None) -> str:  # noqa: A002
    """A tool call's id that also holds a signature: letters, digits, `_` and `-` where the id has no others."""
    if signature is None or origin is None:
        return id
    return f"{id}{_IN_ID}{origin}-{_encode(signature)}"


def plain_call_id(id: str) -> str:  # noqa: A002
    """The id in letters, digits, `_` and `-`, for wires that allow no others; unpack_call_id() restores it."""
    plain = _ODD.sub("_", id)
    return id if plain == id else f"{plain}{_IN_ID}{_ID}-{_encode(id)}"


def unpack_call_id(id: str) -> tuple[str, str | None, str | None]:  # noqa: A002
    """(id, origin, signature); the latter two are None for an id that holds none."""
    plain, origin, signature = _split(id)
    if origin == _ID and signature is not None:
        return signature, None, None
    _, mark, restored = _split(plain)
    return restored if mark == _ID and restored is not None else plain, origin, signature


def _split(id: str) -> tuple[str, str | None, str | None]:  # noqa: A002
    plain, mark, packed = id.rpartition(_IN_ID)
    if not mark:
        return id, None, None
    origin, dash, encoded = packed.partition("-")
    text = _decode(encoded)
    return (plain, origin, text) if dash and text else (id, None, None)


def _encode(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode("utf-8", "surrogatepass")).decode().rstrip("=")


def _decode(text: str) -> str | None:
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return data.decode("utf-8", "surrogatepass")
    except (binascii.Error, ValueError):
        return None
