"""Addresses and shapes of the admin API, as the command line's client needs them."""

from typing import Generic, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from routerx.errors import NotFound

T = TypeVar("T")


class Page(msgspec.Struct, Generic[T]):
    """The shape of every list."""

    data: tuple[T, ...]


def segment(name: str) -> str:
    """A name as one segment of a path. Raises NotFound for what cannot be one."""
    if "/" in name:
        raise NotFound(f"There is nothing named {name!r}.")
    return quote(name, safe="")


def query_of(**values: str | None) -> str:
    given = {name: value for name, value in values.items() if value is not None}
    return "?" + urlencode(given) if given else ""
