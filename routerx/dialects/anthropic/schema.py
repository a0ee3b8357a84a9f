"""JSON schemas for this wire's structured outputs and strict tools, which take less than JSON Schema has.

Anthropic's documentation of structured outputs: every object is closed; lengths, ranges and counts are not enforced and
refused. What cannot be enforced is told to the model in the description, so that it still knows.
"""

from typing import Any

from routerx import jsonx

_REFUSED = (
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "maxItems",
    "uniqueItems",
    "minProperties",
    "maxProperties",
)
_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid", "text"}
)
_MAPS = ("properties", "$defs", "definitions")
"""Keywords that hold schemas by name."""
_NESTED = ("items", "anyOf", "allOf", "oneOf", "prefixItems", "not")
"""Keywords that hold a schema or several."""


def enforceable(schema: Any) -> Any:
    """The schema as this wire takes it."""
    if isinstance(schema, list):
        return [enforceable(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    taken: dict[str, Any] = {}
    told: dict[str, Any] = {}
    for key, value in schema.items():
        if _is_refused(key, value):
            told[key] = value
        elif key in _MAPS and isinstance(value, dict):
            taken[key] = {name: enforceable(item) for name, item in value.items()}
        elif key in _NESTED:
            taken["anyOf" if key == "oneOf" else key] = enforceable(value)
        else:
            taken[key] = value
    kind = taken.get("type")
    if kind == "object" or (isinstance(kind, list) and "object" in kind) or "properties" in taken:
        if taken.get("additionalProperties"):
            told["additionalProperties"] = taken["additionalProperties"]
        taken["additionalProperties"] = False
    if told:
        before = taken.get("description")
        note = jsonx.encode(told).decode()
        taken["description"] = f"{before} {note}" if isinstance(before, str) and before else note
    return taken


def _is_refused(key: str, value: Any) -> bool:
    if key == "minItems":
        return value not in (0, 1)
    return key in _REFUSED or (key == "format" and value not in _FORMATS)
