"""Does a JSON value have the shape of a request type that a vendor publishes with its official client?

The clients describe requests as TypedDicts. pydantic checks them lazily (their lists are Iterables) and lets unknown
keys pass; this walks the hints itself, at once, and an unknown key is a complaint, as it is to the vendor.
"""

import types
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typing_extensions

_REQUIRED = (typing_extensions.Required, typing_extensions.NotRequired)


def complaints(value: Any, hint: Any, at: str = "body") -> list[str]:
    """What keeps `value` from being a `hint`, a sentence each; empty when nothing does."""
    origin = get_origin(hint)
    if origin in _REQUIRED or origin is Annotated:
        return complaints(value, get_args(hint)[0], at)
    if origin in (Union, types.UnionType):
        return _of_union(value, get_args(hint), at)
    if origin is Literal:
        right = any(type(value) is type(one) and value == one for one in get_args(hint))
        return [] if right else [f"{at} is {value!r}, none of {get_args(hint)}"]
    if typing_extensions.is_typeddict(hint):
        return _of_dict(value, hint, at)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _of_mapping(value, get_args(hint)[1], at)
    if _is_list(origin):
        if not isinstance(value, list):
            return [f"{at} is {value!r}, not a list"]
        inner = get_args(hint)[0]
        return [one for place, item in enumerate(value) for one in complaints(item, inner, f"{at}[{place}]")]
    return _of_plain(value, hint, at)


def _is_list(origin: Any) -> bool:
    if not isinstance(origin, type):
        return False
    return issubclass(origin, Sequence) or origin is Iterable or origin.__name__ == "SequenceNotStr"


def _of_plain(value: Any, hint: Any, at: str) -> list[str]:
    if hint in (Any, object):
        return []
    if hint is None or hint is type(None):
        right = value is None
    elif hint is float:
        right = isinstance(value, int | float) and not isinstance(value, bool)
    elif hint is int:
        right = isinstance(value, int) and not isinstance(value, bool)
    elif hint in (str, bool):
        right = isinstance(value, hint)
    elif hint is dict:
        right = isinstance(value, dict)
    else:
        right = False  # What only Python can hold: files, paths, the client's own answer objects.
    return [] if right else [f"{at} is {value!r}, not of type {getattr(hint, '__name__', hint)}"]


def _of_union(value: Any, members: tuple[Any, ...], at: str) -> list[str]:
    """The complaints of the member that comes nearest."""
    found: list[list[str]] = []
    for member in members:
        these = complaints(value, member, at)
        if not these:
            return []
        found.append(these)
    # A member of another form, or that differs in its `type`, is not the one that was meant.
    far = (f"{at} is ", f"{at}.type is ", f"{at}.role is ")
    return min(
        found, key=lambda these: (any(one.startswith(far) and "unknown" not in one for one in these), len(these))
    )


def _of_mapping(value: Any, inner: Any, at: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{at} is {value!r}, not an object"]
    return [one for name, item in value.items() for one in complaints(item, inner, f"{at}.{name}")]


def _of_dict(value: Any, hint: Any, at: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{at} is {value!r}, not an object"]
    fields = _fields(hint)
    found = [f"{at}.{name} is unknown" for name in value if name not in fields]
    for name, (inner, required) in fields.items():
        if name in value:
            found += complaints(value[name], inner, f"{at}.{name}")
        elif required:
            found.append(f"{at}.{name} is missing")
    return found


@cache
def _fields(hint: Any) -> dict[str, tuple[Any, bool]]:
    """Name on the wire to type, and whether it has to be there."""
    found = {}
    for name, inner in get_type_hints(hint, include_extras=True).items():
        required = get_origin(inner) is typing_extensions.Required
        bare = get_args(inner)[0] if get_origin(inner) in _REQUIRED else inner
        notes = getattr(bare, "__metadata__", ())
        alias = next((note.alias for note in notes if getattr(note, "alias", None)), name)
        found[alias] = (bare, required)
    return found
