"""A value that satisfies a JSON schema: the smallest that says something. Pure and deterministic.

Covers what tool and output schemas use: types, enum, const, default, local $ref, anyOf/oneOf/allOf, bounds, formats.
`pattern` is not solved. A schema that needs itself without end gives null at DEPTH_MAX or VALUES_MAX.
"""

import math
from collections.abc import Mapping
from typing import Any

DEPTH_MAX = 32
VALUES_MAX = 2_000
"""Values in one sample; what comes after is null."""
ITEMS_MAX = 64
"""Of an array that demands more items, or a string that demands more words."""

_FORMATS: Mapping[str, str] = {
    "date": "2026-01-01",
    "time": "12:00:00Z",
    "date-time": "2026-01-01T12:00:00Z",
    "duration": "PT1M",
    "email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def sample(schema: Any, hint: str = "text") -> Any:
    """A value for `schema`; `hint` is what a free string says (a property's own name, below the top)."""
    return _Sampler(schema).value(schema, hint, 0)


class _Sampler:
    """One walk through one schema, with a budget: two properties that are both the schema itself would never end."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._values_left = VALUES_MAX

    def value(self, schema: Any, hint: str, depth: int) -> Any:
        self._values_left -= 1
        if depth > DEPTH_MAX or self._values_left < 0 or not isinstance(schema, Mapping):
            return None
        schema = _resolved(schema, self._root)
        for key in ("const", "default"):
            if key in schema:
                return schema[key]
        for key in ("enum", "examples"):
            if isinstance(schema.get(key), list) and schema[key]:
                return schema[key][0]
        for key in ("anyOf", "oneOf"):
            if isinstance(schema.get(key), list) and schema[key]:
                return self.value(_merged(schema, schema[key][0], without=key), hint, depth + 1)
        match _type(schema):
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, hint, depth)
            case "string":
                return _string(schema, hint)
            case "integer" | "number" as kind:
                return _number(schema, whole=kind == "integer")
            case "boolean":
                return True
            case _:
                return None

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        """The required properties; all of them where none is marked, so that a tool gets arguments to work with."""
        properties = schema.get("properties")
        if not isinstance(properties, Mapping):
            properties = {}
        required = schema.get("required")
        names = required if isinstance(required, list) else list(properties)
        return {str(name): self.value(properties.get(name, {}), str(name), depth + 1) for name in names}

    def _array(self, schema: Mapping[str, Any], hint: str, depth: int) -> list[Any]:
        first = schema.get("prefixItems")
        items = [self.value(one, hint, depth + 1) for one in first] if isinstance(first, list) else []
        wanted = min(_integer(schema.get("minItems"), 0), ITEMS_MAX)
        of = schema.get("items", {})
        if schema.get("uniqueItems") is True and isinstance(of, Mapping):
            choices = _resolved(of, self._root).get("enum")
            if isinstance(choices, list):
                return choices[:wanted]
        items.extend(self.value(of, hint, depth + 1) for _ in range(wanted - len(items)))
        return items


def _resolved(schema: Mapping[str, Any], root: Any) -> Mapping[str, Any]:
    """`schema` with its $ref followed and its allOf folded in."""
    for _ in range(DEPTH_MAX):
        if isinstance(reference := schema.get("$ref"), str):
            schema = _merged(schema, _find(reference, root), without="$ref")
        elif isinstance(parts := schema.get("allOf"), list):
            for part in parts:
                schema = _merged(schema, part, without="allOf")
            schema = {key: value for key, value in schema.items() if key != "allOf"}
        else:
            break
    return schema


def _find(reference: str, root: Any) -> Any:
    found = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        if step and isinstance(found, Mapping):
            found = found.get(step.replace("~1", "/").replace("~0", "~"))
    return found


def _merged(schema: Mapping[str, Any], other: Any, *, without: str) -> dict[str, Any]:
    base = {key: value for key, value in schema.items() if key != without}
    if not isinstance(other, Mapping):
        return base
    merged = base | dict(other)
    if isinstance(base.get("properties"), Mapping) and isinstance(other.get("properties"), Mapping):
        merged["properties"] = {**base["properties"], **other["properties"]}
    if isinstance(base.get("required"), list) and isinstance(other.get("required"), list):
        merged["required"] = [*base["required"], *other["required"]]
    return merged


def _type(schema: Mapping[str, Any]) -> str | None:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if isinstance(kind, str):
        return kind
    if "properties" in schema:
        return "object"
    return "array" if "items" in schema else "string"


def _string(schema: Mapping[str, Any], hint: str) -> str:
    text = _FORMATS.get(str(schema.get("format")), hint)
    shortest = min(_integer(schema.get("minLength"), 0), ITEMS_MAX * 16)
    while text and len(text) < shortest:
        text = f"{text} {hint}"
    return text[: _integer(schema.get("maxLength"), len(text))].ljust(shortest, "x")


def _number(schema: Mapping[str, Any], *, whole: bool) -> int | float:
    low, high = _bound(schema, "minimum"), _bound(schema, "maximum")
    above, below = _bound(schema, "exclusiveMinimum"), _bound(schema, "exclusiveMaximum")
    step = _bound(schema, "multipleOf")
    unit = step if step is not None and step > 0 else 1
    value: int | float = unit
    if low is not None and value < low:
        value = low
    if above is not None and value <= above:
        value = above + unit
    if high is not None and value > high:
        value = high
    if below is not None and value >= below:
        value = below - unit
    if step is not None and step > 0:
        value = math.floor(value / step) * step if high is not None or below is not None else -(-value // step) * step
    return math.ceil(value) if whole else value


def _bound(schema: Mapping[str, Any], key: str) -> int | float | None:
    value = schema.get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _integer(value: Any, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default
