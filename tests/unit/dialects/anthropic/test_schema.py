"""JSON schemas as structured outputs take them."""

from typing import Any

import pytest

from routerx.dialects.anthropic.schema import enforceable


def test_every_object_is_closed_however_deep() -> None:
    leaf = {"type": "object", "properties": {"x": {"type": "string"}}}
    schema = {
        "type": "object",
        "properties": {"a": leaf, "b": {"type": "array", "items": leaf}, "c": {"anyOf": [leaf, {"type": "null"}]}},
        "$defs": {"leaf": leaf, "maybe": {"type": ["object", "null"]}},
    }
    closed = leaf | {"additionalProperties": False}
    assert enforceable(schema) == {
        "type": "object",
        "properties": {
            "a": closed,
            "b": {"type": "array", "items": closed},
            "c": {"anyOf": [closed, {"type": "null"}]},
        },
        "$defs": {"leaf": closed, "maybe": {"type": ["object", "null"], "additionalProperties": False}},
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    ("schema", "taken"),
    [
        ({"type": "integer", "minimum": 1}, {"type": "integer", "description": '{"minimum":1}'}),
        (
            {"type": "string", "maxLength": 5, "description": "Short."},
            {"type": "string", "description": 'Short. {"maxLength":5}'},
        ),
        ({"type": "string", "format": "credit-card"}, {"type": "string", "description": '{"format":"credit-card"}'}),
        ({"type": "array", "minItems": 3}, {"type": "array", "description": '{"minItems":3}'}),
        (
            {"type": "object", "additionalProperties": {"type": "string"}},
            {
                "type": "object",
                "additionalProperties": False,
                "description": '{"additionalProperties":{"type":"string"}}',
            },
        ),
    ],
)
def test_what_cannot_be_enforced_is_told_to_the_model(schema: Any, taken: Any) -> None:
    assert enforceable(schema) == taken


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "enum": ["minimum", "object"]},
        {"type": "string", "format": "date-time"},
        {"type": "array", "minItems": 1, "items": {"type": "string"}},
        {"const": {"type": "object"}},
        {"type": "object", "properties": {"minimum": {"type": "string"}}, "additionalProperties": False},
        True,
    ],
)
def test_what_can_be_is_left_as_it_is(schema: Any) -> None:
    assert enforceable(schema) == schema


def test_one_of_several_is_any_of_several() -> None:
    assert enforceable({"oneOf": [{"type": "string"}]}) == {"anyOf": [{"type": "string"}]}
