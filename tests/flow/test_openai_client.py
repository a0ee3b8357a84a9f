"""The official client, unmodified but for address and key, on the built-in mock and on a scripted provider."""

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.flow.flow_kit import chunk, planned
from tests.support.gateway import HELLO, KEY, TENANT, Config, Gateway, config, digest, running
from tests.support.upstream import DONE, End, Json, Ok, Replay, ScriptedUpstream, Silence, Status, Stream, sse, usage_of

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
PIXEL = "data:image/png;base64," + base64.b64encode(b"\x89PNG not really").decode()
LOOK: Any = [
    {
        "role": "user",
        "content": [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": PIXEL}}],
    }
]


def mocked() -> Config:
    """No provider but the built-in mock."""
    return {
        "server": {"data_dir": "data"},
        "providers": {"mock": {}},
        "tenants": {TENANT: {"opening_balance": "$1", "keys": [digest(KEY)]}},
    }


@pytest.fixture
async def mock(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with running(tmp_path, mocked()) as gateway:
        yield gateway


# --- on the built-in mock


async def test_chat(mock: Gateway) -> None:
    answer = await mock.client().chat.completions.create(model="mock", messages=HELLO)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0
    assert (answer.object, answer.model) == ("chat.completion", "mock")


@pytest.mark.parametrize("include_usage", [False, True])
async def test_streamed_chat_says_the_same_as_the_buffered_one(mock: Gateway, include_usage: bool) -> None:
    client = mock.client()
    whole = await client.chat.completions.create(model="mock", messages=HELLO)
    options: Any = {"stream_options": {"include_usage": True}} if include_usage else {}
    chunks = [
        one async for one in await client.chat.completions.create(model="mock", messages=HELLO, stream=True, **options)
    ]
    text = "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)
    assert text == whole.choices[0].message.content
    finishes = [one.choices[0].finish_reason for one in chunks if one.choices]
    assert finishes == [None] * (len(finishes) - 1) + ["stop"]
    if include_usage:
        assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)
    else:
        assert all(one.usage is None and one.choices for one in chunks)


@pytest.mark.parametrize("stream", [False, True])
async def test_tool_is_called_and_its_result_answered(mock: Gateway, stream: bool) -> None:
    client = mock.client()
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Bergen?"}]
    if stream:
        async with client.chat.completions.stream(model="mock", messages=messages, tools=[WEATHER]) as events:
            asked = await events.get_final_completion()
    else:
        asked = await client.chat.completions.create(model="mock", messages=messages, tools=[WEATHER])
    message = asked.choices[0].message
    assert asked.choices[0].finish_reason == "tool_calls"
    assert message.tool_calls is not None
    (call,) = message.tool_calls
    assert call.type == "function"
    assert call.function.name == "weather"
    assert isinstance(json.loads(call.function.arguments)["city"], str)

    result = {"role": "tool", "tool_call_id": call.id, "content": "Rain, 7 degrees"}
    history = [*messages, message.model_dump(exclude_none=True, exclude={"parsed"}), result]
    told = await client.chat.completions.create(model="mock", messages=history, tools=[WEATHER])  # type: ignore[arg-type]
    assert told.choices[0].finish_reason == "stop"
    assert "Rain" in (told.choices[0].message.content or "")


async def test_picture_is_acknowledged(mock: Gateway) -> None:
    answer = await mock.client().chat.completions.create(model="mock", messages=LOOK)
    assert "image" in (answer.choices[0].message.content or "").lower()
    assert (await mock.settled()).outcome == "ok"


class Trip(BaseModel):
    city: str
    days: int
    museums: list[str]


async def test_structured_answer_parses(mock: Gateway) -> None:
    client = mock.client()
    parsed = await client.chat.completions.parse(model="mock", messages=HELLO, response_format=Trip)
    assert isinstance(parsed.choices[0].message.parsed, Trip)
    plain = await client.chat.completions.create(model="mock", messages=HELLO, response_format={"type": "json_object"})
    assert isinstance(json.loads(plain.choices[0].message.content or ""), dict)


@pytest.mark.parametrize("stream", [False, True])
async def test_two_choices(mock: Gateway, stream: bool) -> None:
    client = mock.client()
    if stream:
        async with client.chat.completions.stream(model="mock", messages=HELLO, n=2) as events:
            answer: Any = await events.get_final_completion()
    else:
        answer = await client.chat.completions.create(model="mock", messages=HELLO, n=2)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert [choice.finish_reason for choice in answer.choices] == ["stop", "stop"]
    assert answer.choices[0].message.content != answer.choices[1].message.content
    assert (await mock.settled()).outcome == "ok"


async def test_embeddings_as_floats_and_as_base64_are_the_same(mock: Gateway) -> None:
    client = mock.client()
    texts = ["one", "two"]
    default = await client.embeddings.create(model="mock-embedding", input=texts)  # The client asks for base64 itself.
    floats = await client.embeddings.create(model="mock-embedding", input=texts, encoding_format="float")
    packed: Any = await client.embeddings.create(model="mock-embedding", input=texts, encoding_format="base64")
    for index in range(2):
        vector = floats.data[index].embedding
        assert default.data[index].embedding == pytest.approx(vector)
        assert struct.unpack(f"<{len(vector)}f", base64.b64decode(packed.data[index].embedding)) == pytest.approx(
            vector
        )
    assert default.usage.prompt_tokens == default.usage.total_tokens > 0
    short = await client.embeddings.create(model="mock-embedding", input="one", dimensions=8)
    assert len(short.data[0].embedding) == 8


async def test_models_are_listed_and_retrieved(mock: Gateway) -> None:
    client = mock.client()
    names = {model.id async for model in client.models.list()}
    assert {"mock", "mock-embedding"} <= names
    model = await client.models.retrieve("mock")
    assert (model.id, model.object) == ("mock", "model")
    assert (await client.models.retrieve("mock/mock")).id
    with pytest.raises(openai.NotFoundError) as caught:
        await client.models.retrieve("no-such-model")
    assert caught.value.code == "model_not_found"


# --- what passes through to a provider and back


async def test_answer_reaches_the_client_byte_for_byte(gw: Gateway, up: ScriptedUpstream) -> None:
    body = (
        b'{ "id":"x","object":"chat.completion","created":1,"model":"m-1","odd" : {"a":1.50, "b":"\\u00e9\xc3\xa9"},\n'
        b'"choices":[{"index":0,"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop","odd":[]}],'
        b'"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2,"odd":null}}\n'
    )
    up.default = Json(body)
    raw = await gw.client().chat.completions.with_raw_response.create(model="solo", messages=HELLO)
    assert raw.content == body
    assert raw.headers["content-type"] == "application/json"
    headers = dict(raw.headers)
    assert {"x-request-id", "x-routerx-provider", "x-routerx-attempts", "x-routerx-fallback"} <= headers.keys()
    assert (headers["x-routerx-provider"], headers["x-routerx-attempts"]) == ("up", "1")
    assert headers["x-routerx-cost-usd"] == "0.000003"
    assert float(headers["x-routerx-overhead-ms"]) <= float(headers["x-routerx-latency-ms"]) + 0.5
    assert "server" not in headers


async def test_stream_reaches_the_client_byte_for_byte_but_for_usage_that_it_did_not_ask_for(
    gw: Gateway, up: ScriptedUpstream
) -> None:
    said = [
        b": keep-alive\n\n",
        sse(chunk("Hel")),
        b"event: odd\ndata:  " + sse(chunk("lo"))[6:],
        sse(chunk(None, "stop")),
    ]
    usage = sse({"id": "x", "choices": [], "usage": usage_of(7, 3)})
    up.default = Replay(b"".join([*said, usage, DONE]), cuts=(3, 40, 150, 222))

    plain = await gw.chat(stream=True)
    asked = await gw.chat(stream=True, stream_options={"include_usage": True, "odd": 1})

    assert plain.body == b"".join([*said, DONE])
    assert asked.body == b"".join([*said, usage, DONE])
    assert [request.json["stream_options"] for request in up.requests] == [
        {"include_usage": True},
        {"include_usage": True, "odd": 1},
    ]
    assert plain.headers["content-type"].startswith("text/event-stream")
    assert plain.headers["cache-control"] == "no-cache"
    assert "x-routerx-cost-usd" not in plain.headers  # Not known when they are sent.
    assert [(await gw.settled()).cost_nano for _ in range(2)] == [13_000, 13_000]


async def test_provider_gets_every_field_its_own_name_and_nothing_of_the_caller(
    gw: Gateway, up: ScriptedUpstream
) -> None:
    client = gw.client()
    await client.chat.completions.create(
        model="solo",
        messages=HELLO,
        temperature=0.25,
        user="alice",
        extra_body={"odd": {"deep": [1, 2.0]}, "seed": 12345678901234567890},
        extra_headers={"X-RouterX-User": "bob", "Cookie": "a=b", "X-Odd": "1"},
    )
    request = up.requests[0]
    assert request.json == {
        "model": "solo",
        "messages": HELLO,
        "temperature": 0.25,
        "user": "alice",
        "odd": {"deep": [1, 2.0]},
        "seed": 12345678901234567890,
    }
    assert request.path == "/v1/chat/completions"
    assert set(request.headers) <= {
        *("host", "authorization", "content-type", "content-length", "accept", "accept-encoding", "user-agent"),
        "connection",
    }
    assert KEY not in str(request.headers)
    row = await gw.settled()
    assert row.user == "bob"


# --- errors, as the client's exceptions


async def refused(
    gateway: Gateway, kind: type[openai.APIStatusError], *, key: str = KEY, **fields: Any
) -> openai.APIStatusError:
    """The exception of a chat, buffered and streamed alike; checks what all errors have in common."""
    seen: list[openai.APIStatusError] = []
    for stream in (False, True):
        with pytest.raises(kind) as caught:
            await gateway.client(key).chat.completions.create(
                **({"model": "solo", "messages": HELLO, "stream": stream} | fields)
            )
        error = caught.value
        body: Any = error.body
        assert error.request_id == body["request_id"]
        assert error.request_id is not None
        assert error.request_id.startswith("req_")
        assert body["retryable"] is ("x-should-retry" not in error.response.headers)
        seen.append(error)
    assert seen[0].code == seen[1].code
    return seen[0]


async def test_unknown_key_is_an_authentication_error(gw: Gateway, up: ScriptedUpstream) -> None:
    error = await refused(gw, openai.AuthenticationError, key="wrong_key_fake_123456")
    assert (error.status_code, error.code, error.type) == (401, "invalid_api_key", "authentication_error")
    assert "wrong_key" not in str(error)
    assert up.requests == []
    with pytest.raises(openai.AuthenticationError):
        await gw.client("wrong_key_fake_123456").models.list()
    assert (await gw.chat(key=None)).status == 401


async def test_unknown_model_is_a_not_found_error(gw: Gateway) -> None:
    error = await refused(gw, openai.NotFoundError, model="solx")
    assert (error.status_code, error.code, error.param) == (404, "model_not_found", "model")
    assert (await gw.settled()).outcome == "rejected_model"


async def test_model_that_the_key_may_not_use_is_not_told_from_one_that_does_not_exist(
    tmp_path: Path, up: ScriptedUpstream
) -> None:
    value = config(up.url)
    value["tenants"][TENANT]["allow"] = ["flat"]
    async with running(tmp_path, value) as gateway:
        hidden = await gateway.chat("solo")
        unknown = await gateway.chat("nope")
        assert hidden.status == unknown.status == 404
        assert hidden.error["message"].replace("solo", "nope") == unknown.error["message"]
        assert [model.id async for model in gateway.client().models.list()] == ["flat"]


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"temperature": 9}, "invalid_parameter", "temperature"),
        ({"max_tokens": 0}, "invalid_parameter", "max_tokens"),
        ({"max_tokens": True}, "invalid_parameter", "max_tokens"),
        ({"n": 1_000_000}, "invalid_parameter", "n"),
        ({"messages": []}, "invalid_parameter", "messages"),
        ({"messages": "Hello"}, "invalid_parameter", "messages"),
        ({"model": ""}, "invalid_parameter", "model"),
    ],
)
async def test_bad_parameter_is_a_bad_request_error(gw: Gateway, fields: Any, code: str, param: str) -> None:
    error = await refused(gw, openai.BadRequestError, **fields)
    assert (error.code, error.param, error.type) == (code, param, "invalid_request_error")
    assert (await gw.settled()).outcome == "rejected_invalid"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"model":',
        b'{"model":"solo","messages":[{"role":"user","content":"a"}],"x":NaN}',
        b'{"model":"solo","messages":[{"role":"user","content":"\\ud800"}]}',
        b'{"model":"solo","x":' + b"[" * 100 + b"]" * 100 + b"}",
        b'\xff\xfe{"model":"solo"}',
    ],
)
async def test_body_that_is_no_json_object_is_a_bad_request(gw: Gateway, up: ScriptedUpstream, body: bytes) -> None:
    reply = await gw.ask("POST", "/v1/chat/completions", body)
    assert (reply.status, reply.error["code"]) == (400, "invalid_json")
    assert up.requests == []


async def test_tenant_over_its_rate_is_a_rate_limit_error(tmp_path: Path, up: ScriptedUpstream) -> None:
    async with running(tmp_path, planned(up.url, limits={"rpm": 2, "tpm": 1_000_000})) as gateway:
        raw = await gateway.client().chat.completions.with_raw_response.create(model="solo", messages=HELLO)
        assert (raw.headers["x-ratelimit-limit-requests"], raw.headers["x-ratelimit-remaining-requests"]) == ("2", "1")
        assert raw.headers["x-ratelimit-limit-tokens"] == "1000000"
        assert {"x-ratelimit-reset-requests", "x-ratelimit-remaining-tokens"} <= dict(raw.headers).keys()
        await gateway.chat()
        error = await refused(gateway, openai.RateLimitError)
        assert (error.code, error.type) == ("rate_limit_exceeded", "rate_limit_error")
        assert 1 <= int(error.response.headers["retry-after"]) <= 30
        assert len(up.requests) == 2


async def test_provider_that_only_ever_says_429_is_a_rate_limit_error(gw: Gateway, up: ScriptedUpstream) -> None:
    up.default = Status(429, headers={"retry-after": "100"})
    with pytest.raises(openai.RateLimitError) as caught:
        await gw.client().chat.completions.create(model="solo", messages=HELLO)
    assert (caught.value.code, caught.value.response.headers["retry-after"]) == ("upstream_rate_limited", "100")
    # From now on nobody is asked until the key has rested.
    with pytest.raises(openai.RateLimitError) as resting:
        await gw.client().chat.completions.create(model="solo", messages=HELLO)
    assert resting.value.code == "upstream_rate_limited"
    assert 90 <= int(resting.value.response.headers["retry-after"]) <= 100
    assert len(up.requests) == 1


async def test_empty_account_is_a_status_error_402(tmp_path: Path, up: ScriptedUpstream) -> None:
    async with running(tmp_path, planned(up.url, opening="$0")) as gateway:
        error = await refused(gateway, openai.APIStatusError)
        body: Any = error.body
        assert (error.status_code, error.code, error.type) == (402, "insufficient_balance", "insufficient_quota")
        assert (body["available"], body["max_affordable_tokens"]) == ("0.00", 0)
        assert up.requests == []


async def test_suspended_tenant_is_a_permission_error(gw: Gateway) -> None:
    await gw.runtime.operations.suspend(TENANT, reason="unpaid", actor="test")
    error = await refused(gw, openai.PermissionDeniedError)
    assert (error.code, error.type) == ("tenant_suspended", "permission_error")
    assert "unpaid" not in str(error)


@pytest.mark.parametrize(("status", "told", "code"), [(500, 502, "upstream_error"), (401, 502, "upstream_auth_failed")])
async def test_failing_provider_is_an_internal_server_error(
    gw: Gateway, up: ScriptedUpstream, status: int, told: int, code: str
) -> None:
    up.default = Status(status)
    with pytest.raises(openai.InternalServerError) as caught:
        await gw.client().chat.completions.create(model="solo", messages=HELLO)
    body: Any = caught.value.body
    assert (caught.value.status_code, caught.value.code, body["upstream_status"]) == (told, code, status)


async def test_rejection_by_the_provider_is_told_in_its_own_words(gw: Gateway, up: ScriptedUpstream) -> None:
    up.default = Status(400, {"error": {"message": "top_k is unknown", "param": "top_k", "code": "unknown_parameter"}})
    error = await refused(gw, openai.BadRequestError)
    body: Any = error.body
    assert (error.code, error.param, body["upstream_code"]) == ("upstream_rejected", "top_k", "unknown_parameter")
    assert "top_k is unknown" in str(error)


async def test_stream_that_breaks_raises_in_the_client(gw: Gateway, up: ScriptedUpstream) -> None:
    gate = asyncio.Event()
    up.default = Stream(["Hel", "lo"], gates={2: gate}, stop_after=3, end=End.RESET)
    seen = []
    with pytest.raises(openai.APIError) as caught:  # noqa: PT012  # It is raised by iterating.
        async for one in await gw.client().chat.completions.create(model="solo", messages=HELLO, stream=True):
            seen.append(one.choices[0].delta.content)
            gate.set()
    assert caught.value.code == "upstream_disconnected"
    assert "Hel" in seen


async def test_client_that_gives_up_waiting_is_gone_for_the_provider_too(gw: Gateway, up: ScriptedUpstream) -> None:
    up.default = Silence()
    with pytest.raises(openai.APITimeoutError):
        await gw.client().with_options(timeout=0.1).chat.completions.create(model="solo", messages=HELLO)
    await up.requests[0].gone()
    assert (await gw.settled()).outcome == "client_gone_nonstream"


async def test_client_that_stops_reading_a_stream_is_gone_for_the_provider_too(
    gw: Gateway, up: ScriptedUpstream
) -> None:
    up.default = Stream(["Hel", "lo"], gates={2: asyncio.Event()})
    stream = await gw.client().chat.completions.create(model="solo", messages=HELLO, stream=True)
    async for _ in stream:
        break
    await stream.close()
    await up.requests[0].gone()
    assert (await gw.settled()).outcome == "client_gone_midstream"


async def test_one_client_keeps_its_connection(gw: Gateway, up: ScriptedUpstream) -> None:
    up.default = Ok()
    client = gw.client()
    for stream in (False, True, False):
        answer: Any = await client.chat.completions.create(model="solo", messages=HELLO, stream=stream)
        if stream:
            assert [one async for one in answer]
    assert len(gw.runtime.edge._open) == 1
    assert up.connections == 1
