"""What the gateway reads of a caller's request of Responses."""

from typing import Any

import pytest

from routerx.dialects.responses import RESPONSES
from routerx.domain.call import Operation, Peek
from routerx.domain.model import Capability
from routerx.errors import InvalidParameter
from routerx.jsonx import encode, request_object


def peeked(**fields: Any) -> Peek:
    body = encode({"model": "m", "input": "hi", **fields})
    return RESPONSES.peek(Operation.CHAT, body, request_object(body))


def said(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def test_what_routing_needs_is_read() -> None:
    peek = peeked(stream=True, max_output_tokens=70, user="u-1")
    assert (peek.model, peek.stream, peek.output_tokens_max, peek.user) == ("m", True, 70, "u-1")
    assert peek.wants_usage


def test_the_newer_name_of_a_user_is_read_too() -> None:
    assert peeked(safety_identifier="s-1").user == "s-1"
    assert peeked(safety_identifier="s-1", user="u-1").user == "u-1"
    assert peeked(safety_identifier=None).user is None


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        ({"tools": [{"type": "function", "name": "f"}]}, {Capability.TOOLS}),
        ({"tools": []}, set()),
        ({"text": {"format": {"type": "json_schema", "name": "n", "schema": {}}}}, {Capability.JSON_SCHEMA}),
        ({"text": {"format": {"type": "json_object"}}}, set()),
        ({"input": said({"type": "input_image", "image_url": "https://example.com/a.png"})}, {Capability.VISION}),
        ({"input": said({"type": "input_audio", "input_audio": {"data": "AAAA"}})}, {Capability.AUDIO}),
        ({"input": [{"type": "function_call_output", "output": [{"type": "input_image"}]}]}, {Capability.VISION}),
    ],
)
def test_what_a_model_must_be_able_to_is_known(fields: dict[str, Any], needs: set[Capability]) -> None:
    assert peeked(**fields).needs == needs


def test_a_picture_is_not_counted_as_text() -> None:
    large = peeked(input=said({"type": "input_image", "image_url": "data:image/png;base64," + "A" * 100_000}))
    made = peeked(input=[{"type": "image_generation_call", "result": "A" * 100_000}])
    assert large.input_tokens_estimate < 5_000
    assert made.input_tokens_estimate < 5_000


def test_all_texts_are_counted() -> None:
    short = peeked().input_tokens_estimate
    for fields in ({"instructions": "a" * 4_000}, {"input": "a" * 4_000}, {"tools": [{"name": "a" * 4_000}]}):
        assert peeked(**fields).input_tokens_estimate >= short + 1_990


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 7}, "input"),
        ({"temperature": 3}, "temperature"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"tools": {}}, "tools"),
        ({"text": []}, "text"),
        ({"instructions": 1}, "instructions"),
        ({"model": 1}, "model"),
        ({"safety_identifier": 1}, "safety_identifier"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        peeked(**fields)
    assert caught.value.param == param


def test_an_answer_that_nobody_could_charge_is_refused() -> None:
    with pytest.raises(InvalidParameter) as caught:
        peeked(background=True)
    assert caught.value.param == "background"
    assert not peeked(background=False).stream


def test_a_stored_conversation_needs_no_input() -> None:
    assert peeked(input=None, previous_response_id="resp_1").model == "m"
