"""The mock provider: what it says, and that it says it in OpenAI's format."""

import asyncio
import base64
import json
import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from routerx.domain.call import UpstreamCall
from routerx.domain.failure import FailureKind, UpstreamFault
from routerx.domain.policy import Timeouts
from routerx.providers.spec import Auth, MockSettings, Provider
from routerx.upstream.base import RESPONSE_BYTES_MAX
from routerx.upstream.mock import MockTransport
from routerx.upstream.mock_values import VALUES_MAX, sample
from tests.support.clock import ManualClock

HELLO = [{"role": "user", "content": "Hello there"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 2}, "note": {}},
            "required": ["city", "days"],
        },
    },
}


def transport(clock: ManualClock | None = None, **settings: Any) -> MockTransport:
    provider = Provider("mock", "openai_chat", "mock:", Auth.NONE, (), mock=MockSettings(**settings))
    return MockTransport(provider, clock if clock is not None else ManualClock())


def call(body: object, path: str = "/v1/chat/completions", *, idle_s: float = 300.0) -> UpstreamCall:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return UpstreamCall(
        "mock/m",
        "mock",
        "POST",
        "https://mock.invalid" + path,
        CIMultiDict(),
        data,
        False,
        Timeouts(idle_s=idle_s),
        10.0,
    )


async def ask(body: object, path: str = "/v1/chat/completions", status: int = 200, **settings: Any) -> Any:
    reply = await transport(**settings).open(call(body, path))
    assert reply.status == status
    assert reply.headers["Content-Type"] == "application/json"
    return json.loads(await reply.read(RESPONSE_BYTES_MAX))


async def chat(messages: list[Any] = HELLO, **more: Any) -> dict[str, Any]:
    answer: dict[str, Any] = await ask({"model": "m", "messages": messages, **more})
    return answer


async def stream(**more: Any) -> list[Any]:
    reply = await transport().open(call({"model": "m", "messages": HELLO, "stream": True, **more}))
    assert reply.headers["content-type"].startswith("text/event-stream")
    text = (await reply.read(RESPONSE_BYTES_MAX)).decode()
    *frames, end, rest = text.split("\n\n")
    assert (end, rest) == ("data: [DONE]", "")
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


async def test_the_same_request_gives_the_same_bytes_and_another_one_another_id() -> None:
    first, again, other = await chat(), await chat(), await chat(seed=1)
    assert first == again
    assert first["id"] != other["id"]
    assert first["choices"] == other["choices"]


async def test_the_answer_quotes_the_prompt_and_counts_its_tokens() -> None:
    answer = await chat()
    assert "Hello there" in answer["choices"][0]["message"]["content"]
    assert answer["choices"][0]["finish_reason"] == "stop"
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens"] == 4 + 3  # One message of eleven bytes.


async def test_a_stream_says_what_the_buffered_answer_says() -> None:
    buffered, frames = await chat(), await stream(stream_options={"include_usage": True})
    assert frames[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(frame["choices"][0]["delta"].get("content", "") for frame in frames[:-1])
    assert text == buffered["choices"][0]["message"]["content"]
    assert [frame["choices"][0]["finish_reason"] for frame in frames[:-1]][-1] == "stop"
    assert frames[-1]["choices"] == []
    assert frames[-1]["usage"] == buffered["usage"]


async def test_a_stream_has_no_usage_unless_asked() -> None:
    assert not any("usage" in frame for frame in await stream())


async def test_several_choices_are_told_apart_and_all_counted() -> None:
    answer, frames = await chat(n=3), await stream(n=3)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert len({choice["message"]["content"] for choice in answer["choices"]}) == 3
    assert answer["usage"]["completion_tokens"] > 2 * (await chat())["usage"]["completion_tokens"]
    finished = [f["choices"][0]["index"] for f in frames if f["choices"][0]["finish_reason"] == "stop"]
    assert finished == [0, 1, 2]


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_the_token_limit_cuts_the_answer_and_is_named_as_the_reason(field: str) -> None:
    answer = await chat(**{field: 3})
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 3


async def test_a_stop_sequence_ends_the_text_before_it() -> None:
    whole = (await chat())["choices"][0]["message"]["content"]
    cut = (await chat(stop=["mock pro", "never"]))["choices"][0]
    assert cut["message"]["content"] == whole.split("mock pro")[0]
    assert cut["finish_reason"] == "stop"


async def test_a_set_length_is_kept_exactly() -> None:
    for tokens in (2, 200):
        answer = await ask({"model": "m", "messages": HELLO}, output_tokens=tokens)
        assert answer["usage"]["completion_tokens"] == tokens


async def test_a_tool_is_called_with_arguments_of_its_schema() -> None:
    choice = (await chat(tools=[WEATHER]))["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (made,) = choice["message"]["tool_calls"]
    assert made["function"]["name"] == "get_weather"
    assert json.loads(made["function"]["arguments"]) == {"city": "city", "days": 2}


async def test_a_streamed_tool_call_assembles_to_the_buffered_one() -> None:
    buffered = (await chat(tools=[WEATHER]))["choices"][0]["message"]["tool_calls"][0]
    frames = await stream(tools=[WEATHER])
    deltas = [c["delta"]["tool_calls"][0] for f in frames for c in f["choices"] if "tool_calls" in c["delta"]]
    assert deltas[0]["function"]["name"] == "get_weather"
    assert "".join(d["function"]["arguments"] for d in deltas) == buffered["function"]["arguments"]
    assert frames[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_the_chosen_tool_is_the_one_called() -> None:
    other = {"type": "function", "function": {"name": "other"}}
    named = {"type": "function", "function": {"name": "other"}}
    choice = (await chat(tools=[WEATHER, other], tool_choice=named))["choices"][0]
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "other", "arguments": "{}"}


async def test_no_tool_is_called_when_the_caller_forbids_it_or_has_just_run_one() -> None:
    assert "tool_calls" not in (await chat(tools=[WEATHER], tool_choice="none"))["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": "call_1", "content": "22 degrees"}
    message = (await chat([*HELLO, result], tools=[WEATHER]))["choices"][0]["message"]
    assert "22 degrees" in message["content"]


async def test_images_are_counted_and_acknowledged() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    parts = [{"type": "text", "text": "What is this?"}, image, image]
    answer = await chat([{"role": "user", "content": parts}])
    assert "I see 2 images." in answer["choices"][0]["message"]["content"]
    assert answer["usage"]["prompt_tokens"] > 2 * 85


async def test_json_answers_are_json_of_the_asked_schema() -> None:
    plain = await chat(response_format={"type": "json_object"})
    assert "answer" in json.loads(plain["choices"][0]["message"]["content"])
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    shaped = await chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    assert json.loads(shaped["choices"][0]["message"]["content"]) == {"ok": True}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{not json", None),
        ({"model": "m"}, None),
        ({"model": "m", "messages": []}, "messages"),
        ({"model": "m", "messages": HELLO, "n": 0}, "n"),
        ({"model": "m", "messages": HELLO, "max_tokens": 0}, "max_tokens"),
        (
            {"model": "m", "messages": HELLO, "tools": [WEATHER], "tool_choice": {"function": {"name": "x"}}},
            "tool_choice",
        ),
    ],
)
async def test_a_bad_request_is_refused_in_the_error_shape(body: object, param: str | None) -> None:
    error = (await ask(body, status=400))["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert error["message"]


async def test_an_unknown_path_is_not_found_and_models_are_listed() -> None:
    assert (await ask(b"{}", "/v1/audio/speech", status=404))["error"]["code"] == "not_found"
    assert (await ask(b"", "/v1/models"))["data"][0]["object"] == "model"


async def test_embeddings_are_unit_vectors_that_depend_on_the_input_alone() -> None:
    one = await ask({"model": "e", "input": "a", "dimensions": 8}, "/v1/embeddings")
    two = await ask({"model": "e", "input": ["b", "a"], "dimensions": 8}, "/v1/embeddings")
    vector = one["data"][0]["embedding"]
    assert len(vector) == 8
    assert math.isclose(math.hypot(*vector), 1.0, rel_tol=1e-6)
    assert [entry["index"] for entry in two["data"]] == [0, 1]
    assert two["data"][1]["embedding"] == vector != two["data"][0]["embedding"]


async def test_base64_embeddings_hold_the_same_floats() -> None:
    asked = {"model": "e", "input": [[1, 2, 3], [4]]}
    plain = await ask(asked, "/v1/embeddings")
    coded = await ask({**asked, "encoding_format": "base64"}, "/v1/embeddings")
    assert plain["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    for a, b in zip(plain["data"], coded["data"], strict=True):
        assert struct.unpack("<1536f", base64.b64decode(b["embedding"])) == tuple(a["embedding"])


@pytest.mark.parametrize("value", ["", [], [""], ["a", 1], [[]]])
async def test_embeddings_of_nothing_are_refused(value: object) -> None:
    assert (await ask({"model": "e", "input": value}, "/v1/embeddings", status=400))["error"]["param"] == "input"


async def test_latency_and_token_delay_pass_on_the_clock() -> None:
    clock = ManualClock()
    mock = transport(clock, latency_s=2.0, token_delay_s=0.5)
    opening = asyncio.ensure_future(mock.open(call({"model": "m", "messages": HELLO, "stream": True})))
    await clock.run(1.9)
    assert not opening.done()
    await clock.run(0.1)
    reply = opening.result()
    assert b'"role"' in await reply.chunk()
    second = asyncio.ensure_future(reply.chunk())
    await clock.run(0.4)
    assert not second.done()
    await clock.run(0.1)
    assert b'"content"' in second.result()
    reply.abort()
    assert await reply.chunk() == b""


async def test_more_latency_than_the_deadline_is_a_first_byte_timeout() -> None:
    clock = ManualClock()
    opening = asyncio.ensure_future(transport(clock, latency_s=60.0).open(call({"model": "m", "messages": HELLO})))
    await clock.run(10.0)
    with pytest.raises(UpstreamFault) as caught:
        opening.result()
    assert caught.value.failure.kind is FailureKind.FIRST_BYTE_TIMEOUT


async def test_more_token_delay_than_the_idle_limit_is_a_stall() -> None:
    clock = ManualClock()
    body = {"model": "m", "messages": HELLO, "stream": True}
    reply = await transport(clock, token_delay_s=2.0).open(call(body, idle_s=1.0))
    await reply.chunk()
    stalled = asyncio.ensure_future(reply.chunk())
    await clock.run(1.0)
    with pytest.raises(UpstreamFault) as caught:
        stalled.result()
    assert caught.value.failure.kind is FailureKind.STALLED


async def test_a_body_over_the_cap_is_too_large() -> None:
    reply = await transport().open(call({"model": "m", "messages": HELLO}))
    with pytest.raises(UpstreamFault) as caught:
        await reply.read(10)
    assert caught.value.failure.kind is FailureKind.TOO_LARGE


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"enum": ["b", "a"]}, "b"),
        ({"const": 7}, 7),
        ({"type": ["null", "integer"]}, 1),
        ({"type": "integer", "minimum": 5, "multipleOf": 4}, 8),
        ({"type": "number", "exclusiveMaximum": 0}, -1),
        ({"type": "string", "format": "date"}, "2026-01-01"),
        ({"type": "string", "maxLength": 2}, "te"),
        ({"type": "array", "items": {"type": "null"}, "minItems": 2}, [None, None]),
        ({"type": "array", "prefixItems": [{"const": 1}], "items": False}, [1]),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"type": "boolean"}}}, True),
        ({"anyOf": [{"type": "null"}, {"type": "string"}]}, None),
        (
            {"allOf": [{"properties": {"a": {"const": 1}}, "required": ["a"]}, {"properties": {"b": {"const": 2}}}]},
            {"a": 1},
        ),
    ],
)
def test_a_sample_satisfies_its_schema(schema: dict[str, Any], value: object) -> None:
    assert sample(schema) == value


def test_a_schema_that_contains_itself_twice_ends() -> None:
    twice = {"type": "object", "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}, "required": ["a", "b"]}
    assert json.dumps(sample(twice)).count(":") <= VALUES_MAX + 64


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["object", "array", "string", "number", "#"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "properties", "items", "required", "$ref", "allOf", "anyOf", "enum", "minItems"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(_json)
def test_no_schema_breaks_the_sampler(schema: object) -> None:
    json.dumps(sample(schema))
