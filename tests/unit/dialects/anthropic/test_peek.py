"""What the gateway reads of a request before it is decoded."""

from typing import Any

import pytest

from routerx import jsonx
from routerx.dialects.anthropic import ANTHROPIC
from routerx.dialects.estimate import TOKENS_PER_FILE, TOKENS_PER_IMAGE, TOKENS_PER_TOOLS
from routerx.domain.call import Operation, Peek
from routerx.domain.model import Capability
from routerx.errors import InvalidParameter

HELLO = [{"role": "user", "content": "Hello"}]


def peek(operation: Operation = Operation.CHAT, **fields: Any) -> Peek:
    body = jsonx.encode({"model": "m", "max_tokens": 50, "messages": HELLO} | fields)
    return ANTHROPIC.peek(operation, body, jsonx.request_object(body))


def picture(size: int = 4) -> dict[str, Any]:
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * size}}


def message(*blocks: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(blocks)}]


def test_a_plain_request() -> None:
    seen = peek(stream=True, metadata={"user_id": "u1"})
    assert (seen.model, seen.stream, seen.wants_usage, seen.choices) == ("m", True, True, 1)
    assert (seen.output_tokens_max, seen.user, seen.needs) == (50, "u1", frozenset())


def test_the_length_of_an_answer_has_to_be_said_and_of_a_count_not() -> None:
    with pytest.raises(InvalidParameter, match="'max_tokens' is missing") as error:
        peek(max_tokens=None)
    assert error.value.param == "max_tokens"
    assert peek(Operation.COUNT_TOKENS, max_tokens=None).output_tokens_max is None


def test_a_count_is_never_streamed() -> None:
    assert peek(Operation.COUNT_TOKENS, stream=True).stream is False


def test_no_token_at_all_may_be_asked_for() -> None:
    """To fill the vendor's cache."""
    assert peek(max_tokens=0).output_tokens_max == 0


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": ["Hello"]}, "messages"),
        ({"stream": "yes"}, "stream"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"tools": {}}, "tools"),
        ({"metadata": "me"}, "metadata"),
        ({"metadata": {"user_id": 7}}, "metadata.user_id"),
        ({"output_config": []}, "output_config"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidParameter) as error:
        peek(**fields)
    assert error.value.param == param


def test_a_number_beyond_reading_is_refused_beside_pictures() -> None:
    body = b'{"model":"m","max_tokens":1,"messages":[{"role":"user","content":[{"type":"image","x":1e999}]}]}'
    with pytest.raises(InvalidParameter) as error:
        ANTHROPIC.peek(Operation.CHAT, body, jsonx.request_object(body))
    assert error.value.param == "messages"


def test_what_a_model_must_be_able_to_do() -> None:
    shape = {"type": "json_schema", "schema": {"type": "object"}}
    assert peek(tools=[{"name": "add", "input_schema": {}}]).needs == {Capability.TOOLS}
    assert peek(tools=[]).needs == frozenset()
    assert peek(messages=message(picture())).needs == {Capability.VISION}
    assert peek(output_config={"format": shape}).needs == {Capability.JSON_SCHEMA}
    assert peek(output_format=shape).needs == {Capability.JSON_SCHEMA}
    assert peek(output_config={"effort": "low", "format": None}).needs == frozenset()


def test_pictures_in_results_of_tools_are_seen() -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "content": [picture()]}
    assert peek(messages=message(result)).needs == {Capability.VISION}


def test_the_word_image_in_a_text_is_no_picture() -> None:
    assert peek(messages=message({"type": "text", "text": '"image"'})).needs == frozenset()


def test_instructions_tools_and_the_answers_schema_count_as_prompt() -> None:
    plain = peek().input_tokens_estimate
    text = "words " * 100
    assert peek(system=text).input_tokens_estimate > plain + 100
    assert peek(tools=[{"name": "add", "description": text}]).input_tokens_estimate > plain + TOKENS_PER_TOOLS + 100
    shape = {"type": "json_schema", "schema": {"description": text}}
    assert peek(output_format=shape).input_tokens_estimate > plain + 100


def test_the_bytes_of_a_picture_do_not_count_as_text_and_those_of_a_document_do_a_little() -> None:
    small, large = (peek(messages=message(picture(size))).input_tokens_estimate for size in (4, 400_000))
    assert small == large
    assert small > TOKENS_PER_IMAGE
    pdf = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "A" * 160_000}}
    assert TOKENS_PER_FILE + 10_000 < peek(messages=message(pdf)).input_tokens_estimate < 40_000


def test_a_long_name_of_a_user_is_cut() -> None:
    assert peek(metadata={"user_id": "u" * 1_000}).user == "u" * 256
