"""Values inside a caller's request, read one by one: each knows its path, so that every refusal names the place."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from routerx import jsonx
from routerx.domain.chat import ChatRequest, CustomTool, FunctionTool, Opaque
from routerx.errors import InvalidParameter
from routerx.jsonx import Raw

_SHOWN_CHARS_MAX = 40


class Node:
    """One decoded JSON value and where it stands."""

    __slots__ = ("path", "value")

    def __init__(self, value: Any, path: str) -> None:
        self.value = value
        self.path = path

    # --- what it must be

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self.wrong("a string")
        return self.value

    def number(self) -> float:
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise self.wrong("a number")
        try:
            return float(self.value)
        except OverflowError:  # Whole numbers may have any number of digits.
            raise self.wrong("a smaller number") from None

    def integer(self) -> int:
        if isinstance(self.value, float) and self.value.is_integer():
            return int(self.value)
        if isinstance(self.value, bool) or not isinstance(self.value, int):
            raise self.wrong("a whole number")
        return self.value

    def flag(self) -> bool:
        if not isinstance(self.value, bool):
            raise self.wrong("true or false")
        return self.value

    def one_of(self, *words: str) -> str:
        if self.value not in words:
            raise self.wrong("one of " + ", ".join(map(repr, words)))
        return str(self.value)

    def items(self) -> "Iterator[Node]":
        """The elements of an array."""
        if not isinstance(self.value, list):
            raise self.wrong("an array")
        return (Node(item, f"{self.path}[{index}]") for index, item in enumerate(self.value))

    def object(self) -> "Node":
        if not isinstance(self.value, dict):
            raise self.wrong("an object")
        return self

    # --- what is in it

    def get(self, key: str) -> "Node | None":
        """A member that is there and not null; of an object only."""
        value = self.value.get(key)
        return None if value is None else Node(value, f"{self.path}.{key}" if self.path else key)

    def need(self, key: str) -> "Node":
        node = self.get(key)
        if node is None:
            place = f"{self.path}.{key}" if self.path else key
            raise InvalidParameter(f"{place!r} is missing.", param=place)
        return node

    def text_of(self, key: str) -> str | None:
        node = self.get(key)
        return None if node is None else node.text()

    def raw(self) -> Raw:
        return Raw(jsonx.encode(self.value))

    def wrong(self, expected: str) -> InvalidParameter:
        if isinstance(self.value, dict | list):
            shown = "an object" if isinstance(self.value, dict) else "an array"
        else:
            shown = jsonx.encode(self.value).decode()
            shown = shown if len(shown) <= _SHOWN_CHARS_MAX else "a long value"
        return InvalidParameter(f"{self.path!r} is {shown}; it must be {expected}.", param=self.path)


class Body:
    """Top-level fields that are taken one by one; what is left over at the end are the extras."""

    def __init__(self, fields: Mapping[str, Raw]) -> None:
        self._left = dict(fields)

    def take(self, key: str) -> Node | None:
        """The field, if it is there and not null."""
        raw = self._left.pop(key, None)
        if raw is None or raw == _NULL:
            return None
        try:
            return Node(jsonx.decode(bytes(raw)), key)
        except msgspec.DecodeError as error:  # A number beyond what a float holds: everything else is checked before.
            raise InvalidParameter(f"{key!r} cannot be read: {error}.", param=key) from None

    def put_back(self, key: str, rest: Mapping[str, Any]) -> None:
        """What of a field that was taken nobody has read, if anything: it is an extra."""
        if rest:
            self._left[key] = Raw(jsonx.encode(rest))

    def drop(self, *keys: str) -> None:
        """Fields that say nothing to anybody else."""
        for key in keys:
            self._left.pop(key, None)

    def number(self, key: str) -> float | None:
        node = self.take(key)
        return None if node is None else node.number()

    def integer(self, key: str) -> int | None:
        node = self.take(key)
        return None if node is None else node.integer()

    def text(self, key: str) -> str | None:
        node = self.take(key)
        return None if node is None else node.text()

    def flag(self, key: str) -> bool | None:
        node = self.take(key)
        return None if node is None else node.flag()

    def strings(self, key: str) -> tuple[str, ...]:
        """A string or an array of them."""
        node = self.take(key)
        if node is None:
            return ()
        return (node.text(),) if isinstance(node.value, str) else tuple(item.text() for item in node.items())

    def extras(self) -> dict[str, Raw]:
        return {key: raw for key, raw in self._left.items() if raw != _NULL}


_NULL = Raw(b"null")


def check_tool_choice(request: ChatRequest, param: str = "tool_choice") -> ChatRequest:
    """The request, whose named tool is one of its tools. Raises InvalidParameter."""
    choice = request.tool_choice
    if choice is not None and choice.mode == "tool":
        names = {tool.name for tool in request.tools if isinstance(tool, FunctionTool | CustomTool)}
        opaque = any(isinstance(tool, Opaque) for tool in request.tools)
        if choice.name not in names and not opaque:
            raise InvalidParameter(f"{param!r} names the tool {choice.name!r}, which is not in 'tools'.", param=param)
    return request


def nothing_to_say() -> InvalidParameter:
    """For a conversation of which nothing is left that a provider's wire can hold, and which it would refuse."""
    return InvalidParameter(
        "'messages' holds nothing that the provider of this model can be told: no text, and no media that it takes.",
        param="messages",
    )


def arguments_object(text: str) -> dict[str, Any]:
    """A tool call's arguments for a wire that wants an object: what is none is wrapped, so that nothing is lost."""
    try:
        value = jsonx.decode(text)
    except ValueError:
        return {"input": text} if text.strip() else {}
    if isinstance(value, dict):
        return value
    return {} if value is None else {"input": value}
