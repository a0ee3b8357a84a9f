"""What the gateway reads of a request: types, ranges, needs and the estimate of the prompt."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerx.dialects.openai_chat import OPENAI
from routerx.domain.call import Operation, Peek
from routerx.domain.model import Capability
from routerx.errors import InvalidParameter
from routerx.jsonx import decode, encode, request_object

HELLO = [{"role": "user", "content": "Hello"}]


def peek(operation: Operation = Operation.CHAT, **fields: Any) -> Peek:
    base = {"messages": HELLO} if operation is Operation.CHAT else {"input": "Hello"}
    body = {"model": "gpt-4o", **base, **fields}
    encoded = json.dumps(body).encode()
    return OPENAI.peek(operation, encoded, request_object(encoded))


def peek_raw(body: bytes, operation: Operation = Operation.CHAT) -> Peek:
    return OPENAI.peek(operation, body, request_object(body))


def image(data: str = "https://a.example/b.png") -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data}}


# --- fields


def test_a_full_request_is_read() -> None:
    got = peek(stream=True, stream_options={"include_usage": True}, n=3, max_tokens=100, user="u", unknown={"a": 1})
    assert (got.model, got.stream, got.wants_usage, got.choices, got.output_tokens_max, got.user) == (
        "gpt-4o",
        True,
        True,
        3,
        100,
        "u",
    )


def test_the_least_request_has_defaults() -> None:
    got = peek()
    assert (got.stream, got.wants_usage, got.choices, got.output_tokens_max, got.user) == (False, False, 1, None, None)
    assert got.needs == frozenset()


def test_null_is_absent() -> None:
    keys = ("stream", "stream_options", "n", "max_tokens", "temperature", "tools", "response_format", "user", "top_p")
    assert peek(**dict.fromkeys(keys)) == peek()


def test_the_larger_of_two_ceilings_counts() -> None:
    assert peek(max_tokens=10, max_completion_tokens=20).output_tokens_max == 20


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("model", 7, "it must be a string"),
        ("model", "", "1 to 256"),
        ("model", "m" * 257, "1 to 256"),
        ("model", None, "it must be a string"),
        ("stream", "true", "true or false"),
        ("stream", 1, "true or false"),
        ("stream_options", [], "include_usage"),
        ("stream_options", {"include_usage": 1}, "include_usage"),
        ("n", 0, "from 1 to 128"),
        ("n", 1_000_000, "from 1 to 128"),
        ("n", 1.5, "from 1 to 128"),
        ("max_tokens", -1, "from 1 to 10000000"),
        ("max_tokens", 0, "from 1 to 10000000"),
        ("max_tokens", 10**9, "from 1 to 10000000"),
        ("max_tokens", "12", "from 1 to 10000000"),
        ("max_tokens", True, "from 1 to 10000000"),
        ("max_completion_tokens", 10**60, "from 1 to 10000000"),
        ("temperature", "hot", "from 0 to 2"),
        ("temperature", 2.1, "from 0 to 2"),
        ("temperature", False, "from 0 to 2"),
        ("top_p", -0.1, "from 0 to 1"),
        ("presence_penalty", 3, "from -2 to 2"),
        ("user", 5, "a string"),
        ("messages", "hi", "an array of message objects"),
        ("messages", None, "an array of message objects"),
        ("messages", [], "at least one"),
        ("tools", {}, "an array"),
        ("response_format", "json", "an object"),
    ],
)
def test_a_wrong_value_is_refused_by_name_and_limit(key: str, value: Any, said: str) -> None:
    with pytest.raises(InvalidParameter, match=said) as caught:
        peek(**{key: value})
    assert caught.value.param == key
    assert repr(key) in caught.value.message


@pytest.mark.parametrize("number", ["1e400", "-1e400", "9" * 5000])
def test_a_number_out_of_all_range_is_refused_with_its_name(number: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        peek_raw(b'{"model":"m","messages":[{}],"temperature":%s}' % number.encode())
    assert caught.value.param == "temperature"
    assert len(caught.value.message) < 200


def test_a_message_that_is_no_object_is_named_by_its_place() -> None:
    with pytest.raises(InvalidParameter) as caught:
        peek(messages=[HELLO[0], "hi"])
    assert caught.value.param == "messages[1]"


@pytest.mark.parametrize("kind", [5, [], {"a": 1}])
def test_a_part_whose_type_is_no_text_is_named_by_its_place(kind: Any) -> None:
    with pytest.raises(InvalidParameter) as caught:
        peek(messages=[{"role": "user", "content": [{"type": kind}]}])
    assert caught.value.param == "messages[0].content[0]"


def test_a_part_that_is_no_object_is_named_by_its_place() -> None:
    with pytest.raises(InvalidParameter) as caught:
        peek(messages=[{"role": "user", "content": [{"type": "text", "text": "a"}, 5]}])
    assert caught.value.param == "messages[0].content[1]"


@pytest.mark.parametrize("key", ["model", "messages"])
def test_a_missing_key_is_named(key: str) -> None:
    body = {"model": "m", "messages": HELLO}
    del body[key]
    with pytest.raises(InvalidParameter, match="missing") as caught:
        peek_raw(json.dumps(body).encode())
    assert (caught.value.param, caught.value.code) == (key, "invalid_parameter")


def test_a_long_user_is_recorded_cut() -> None:
    assert peek(user="é" * 1000).user == "é" * 256


# --- needs


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, image()]}]}, {Capability.VISION}),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}, {Capability.VISION}),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, {Capability.AUDIO}),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, {Capability.TOOLS}),
        ({"functions": [{"name": "f"}]}, {Capability.TOOLS}),
        ({"tools": []}, set()),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, {Capability.JSON_SCHEMA}),
        ({"response_format": {"type": "json_object"}}, set()),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "an image_url"}]}]}, set()),
    ],
)
def test_needs_follow_from_the_request(fields: dict[str, Any], needs: set[Capability]) -> None:
    assert peek(**fields).needs == needs


# --- the estimate


def test_image_data_is_not_counted_as_text() -> None:
    data = "data:image/png;base64," + base64.b64encode(bytes(300_000)).decode()
    small = peek(messages=[{"role": "user", "content": [image()]}])
    large = peek(messages=[{"role": "user", "content": [image(data)]}])
    assert small.input_tokens_estimate == large.input_tokens_estimate < 2_000
    two = peek(messages=[{"role": "user", "content": [image(), image()]}])
    assert 1_000 < two.input_tokens_estimate - small.input_tokens_estimate < 3_000


def test_audio_and_files_grow_with_their_data_but_slowly() -> None:
    for kind in ("input_audio", "file"):
        sizes = [
            peek(messages=[{"role": "user", "content": [{"type": kind, kind: {"data": "a" * size}}]}])
            for size in (1_000, 1_000_000)
        ]
        assert sizes[0].input_tokens_estimate < sizes[1].input_tokens_estimate < 100_000


@given(st.text(max_size=2_000))
def test_the_estimate_lies_between_a_third_and_all_of_the_text_bytes(text: str) -> None:
    base = peek(messages=[{"role": "user", "content": ""}]).input_tokens_estimate
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}, ensure_ascii=False)
    try:
        raw = body.encode()
    except UnicodeEncodeError:
        return  # Half a surrogate pair is refused before peek.
    size = len(json.dumps(text, ensure_ascii=False).encode()) - 2
    assert size // 3 <= peek_raw(raw).input_tokens_estimate - base <= size + 1


def test_tools_and_schemas_count() -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "d" * 4_000}}
    schema = {"type": "json_schema", "json_schema": {"schema": {"description": "d" * 4_000}}}
    base = peek().input_tokens_estimate
    assert peek(tools=[tool]).input_tokens_estimate > base + 2_000
    assert peek(response_format=schema).input_tokens_estimate > base + 2_000


# --- embeddings


@pytest.mark.parametrize(
    ("value", "tokens"),
    [("a" * 100, 52), (["a" * 98], 52), ([1, 2, 3], 3), ([[1, 2, 3], [4, 5]], 5)],
)
def test_an_embeddings_input_is_estimated_in_each_of_its_forms(value: Any, tokens: int) -> None:
    assert peek(Operation.EMBEDDINGS, input=value).input_tokens_estimate == 64 + tokens


@pytest.mark.parametrize("value", [None, 5, [], ["a", 5], [None], [True], True])
def test_another_embeddings_input_is_refused(value: Any) -> None:
    with pytest.raises(InvalidParameter) as caught:
        peek(Operation.EMBEDDINGS, input=value)
    assert caught.value.param == "input"


def test_embeddings_do_not_stream() -> None:
    assert peek(Operation.EMBEDDINGS, stream=True).stream is False


# --- what is sent on


def test_only_the_model_is_replaced_and_every_other_value_keeps_its_bytes() -> None:
    body = b'{"model": "a", "seed": 1.50, "x": {"k":  [1, 2]}, "messages": [{"role":"user","content":"\\u00e9"}]}'
    out = encode(OPENAI.request_fields(request_object(body), model="b/c", ask_usage=False))
    assert out == b'{"model":"b/c","seed":1.50,"x":{"k":  [1, 2]},"messages":[{"role":"user","content":"\\u00e9"}]}'


def test_asking_for_usage_keeps_the_callers_other_stream_options() -> None:
    fields = request_object(b'{"model":"a","stream_options":{"include_obfuscation":false,"include_usage":false}}')
    out = OPENAI.request_fields(fields, model="a", ask_usage=True)
    assert decode(encode(out["stream_options"])) == {"include_obfuscation": False, "include_usage": True}
    assert decode(encode(OPENAI.request_fields(request_object(b"{}"), model="a", ask_usage=True))) == {
        "model": "a",
        "stream_options": {"include_usage": True},
    }


def test_a_null_encoding_format_is_left_out() -> None:
    fields = request_object(b'{"model":"a","input":"x","encoding_format":null}')
    assert set(OPENAI.request_fields(fields, model="a", ask_usage=False)) == {"model", "input"}


def test_the_paths_are_those_below_a_base_url() -> None:
    assert OPENAI.path(Operation.CHAT, "m", stream=False) == "/chat/completions"
    assert OPENAI.path(Operation.EMBEDDINGS, "m", stream=False) == "/embeddings"
