"""What callers want of routing, through the served gateway by the official clients: who was asked, and what with."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from google import genai
from google.genai import types
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routerx.gateway.wishes import _Provider
from tests.support.gateway import GUARD_S, HELLO, KEY, Config, Gateway, config, digest, running
from tests.support.upstream import ScriptedUpstream, Status, Stream

CONSUMED = {"provider", "models", "fallbacks", "route"}
HEADERS_SENT = ("x-routerx-", "x-session-id")


class Stage:
    """A gateway before three providers, priced as they are called. Each has `duo`, and `dear` alone `big`."""

    def __init__(self, gateway: Gateway, upstreams: dict[str, ScriptedUpstream]) -> None:
        self.gateway = gateway
        self.upstreams = upstreams

    @property
    def asked(self) -> list[str]:
        """Who got how many requests, by name."""
        return [name for name, upstream in self.upstreams.items() for _ in upstream.requests]

    def client(self) -> openai.AsyncOpenAI:
        return self.gateway.client()

    async def answered(self, **body: Any) -> str:
        """Who answers a chat with this `provider` object and whatever else."""
        reply = await self.gateway.chat(**({"model": "duo"} | body))
        assert reply.status == 200, reply.body
        return reply.headers["x-routerx-provider"]

    def assert_nothing_travelled(self) -> None:
        requests = [request for upstream in self.upstreams.values() for request in upstream.requests]
        assert requests
        for request in requests:
            assert not CONSUMED & set(request.json)
            assert not [name for name in request.headers if name.startswith(HEADERS_SENT)]


def staged(urls: dict[str, str]) -> Config:
    value = config(urls["cheap"])
    price = {"cheap": 1, "mid": 2, "dear": 10}
    value["providers"] = {
        name: {"dialect": "openai", "base_url": f"{url}/v1", "keys": ["${env:UP_KEY}"]} for name, url in urls.items()
    }
    value["providers"]["dear"] |= {"zdr": True, "keeps_data": False}
    endpoints = [
        {"provider": name, "model": "duo-up", "price": {"input": price[name], "output": 2 * price[name]}}
        for name in ("cheap", "mid", "dear")
    ]
    endpoints[1] |= {"quantization": "fp8", "distillable": True, "supports": ["tools"]}
    endpoints[2] |= {"supports": ["vision"]}
    value["models"] = {
        "duo": {"endpoints": endpoints},
        "big": {"endpoints": [endpoints[2] | {"model": "big-up"}]},
        "small": {"endpoints": [endpoints[0] | {"model": "small-up", "supports": ["tools"]}]},
    }
    value["policies"]["default"]["sort"] = "priority"
    value["policies"]["smart"] = {"by_capability": {"text": ["small", "big"], "vision": ["big"]}}
    value["tenants"]["narrow"] = {
        "plan": "prepaid",
        "opening_balance": "$10",
        "keys": [digest("narrow_key_fake_123456")],
        "allow": ["small"],
    }
    return value


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        upstreams = {name: await stack.enter_async_context(ScriptedUpstream()) for name in ("cheap", "mid", "dear")}
        value = staged({name: upstream.url for name, upstream in upstreams.items()})
        yield Stage(await stack.enter_async_context(running(tmp_path, value)), upstreams)


async def refused(stage: Stage, kind: type[openai.APIStatusError], **options: Any) -> openai.APIStatusError:
    with pytest.raises(kind) as caught:
        await stage.client().chat.completions.create(**({"model": "duo", "messages": HELLO} | options))
    return caught.value


# --- the body


@pytest.mark.parametrize(
    ("provider", "who"),
    [
        ({}, "cheap"),
        ({"order": ["dear", "mid"]}, "dear"),
        ({"only": ["mid"]}, "mid"),
        ({"ignore": ["cheap"]}, "mid"),
        ({"sort": "price"}, "cheap"),
        ({"sort": {"by": "price", "partition": "model"}, "ignore": ["cheap"]}, "mid"),
        ({"zdr": True}, "dear"),
        ({"data_collection": "deny"}, "dear"),
        ({"quantizations": ["fp8"]}, "mid"),
        ({"enforce_distillable_text": True}, "mid"),
        ({"max_price": {"prompt": "2", "completion": 4}, "ignore": ["cheap"]}, "mid"),
        ({"order": ["dear/duo-up"], "allow_fallbacks": False}, "dear"),
    ],
)
async def test_the_openai_client_says_who_answers(stage: Stage, provider: dict[str, Any], who: str) -> None:
    raw = await stage.client().chat.completions.with_raw_response.create(
        model="duo", messages=HELLO, extra_body={"provider": provider}
    )
    assert raw.headers["x-routerx-provider"] == who
    assert stage.asked == [who]
    stage.assert_nothing_travelled()


async def test_streams_are_steered_likewise(stage: Stage) -> None:
    stage.upstreams["dear"].queue(Stream(["Hel", "lo"]))
    chunks = await stage.client().chat.completions.create(
        model="duo", messages=HELLO, stream=True, extra_body={"provider": {"order": ["dear"]}, "models": ["small"]}
    )
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in chunks if chunk.choices])
    assert (text, stage.asked) == ("Hello", ["dear"])
    stage.assert_nothing_travelled()


async def test_an_order_is_gone_along_when_the_first_one_fails(stage: Stage) -> None:
    stage.upstreams["dear"].default = Status(529)
    assert await stage.answered(provider={"order": ["dear", "mid"]}) == "mid"
    assert stage.asked == ["mid", "dear"]


async def test_without_fallbacks_a_failure_is_told(stage: Stage) -> None:
    stage.upstreams["mid"].default = Status(529)
    error = await refused(stage, openai.InternalServerError, extra_body={"provider": {"only": ["mid"]}})
    assert error.code == "upstream_overloaded"
    alone = {"provider": {"sort": "price", "ignore": ["cheap"], "allow_fallbacks": False}}
    await refused(stage, openai.InternalServerError, extra_body=alone)
    assert set(stage.asked) == {"mid"}


async def test_a_callers_own_models_are_gone_on_to_after_any_failure(stage: Stage) -> None:
    stage.upstreams["dear"].default = Status(400, {"error": {"message": "flagged", "code": "content_policy_violation"}})
    body = {"models": ["small", "duo"]}
    answer = await stage.client().chat.completions.with_raw_response.create(
        model="big", messages=HELLO, extra_body=body
    )
    assert answer.headers["x-routerx-provider"] == "cheap"
    assert [request.json["model"] for request in stage.upstreams["cheap"].requests] == ["small-up"]
    record = await stage.gateway.settled()
    assert (record.endpoint, record.outcome) == ("cheap/small-up", "ok")
    await refused(stage, openai.BadRequestError, model="big")
    stage.assert_nothing_travelled()


@pytest.mark.parametrize(
    ("provider", "words"),
    [
        ({"only": ["nobody"]}, "'only' names other providers (cheap/duo-up, mid/duo-up, dear/duo-up)"),
        ({"max_price": {"prompt": 0.5}}, "'max_price'"),
        ({"zdr": True, "ignore": ["dear"]}, "'zdr'"),
    ],
)
async def test_a_wish_that_leaves_nothing_is_a_404_that_names_it(
    stage: Stage, provider: dict[str, Any], words: str
) -> None:
    error = await refused(stage, openai.NotFoundError, extra_body={"provider": provider})
    assert error.code == "no_endpoint"
    assert words in error.message
    assert stage.asked == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"provider": {"ordr": ["mid"]}}, "provider.ordr"),
        ({"provider": "mid"}, "provider"),
        ({"provider": {"sort": "best"}}, "provider.sort"),
        ({"models": "small"}, "models"),
    ],
)
async def test_a_wrong_wish_is_a_400_that_names_it(stage: Stage, body: dict[str, Any], param: str) -> None:
    error = await refused(stage, openai.BadRequestError, extra_body=body)
    assert (error.code, error.param) == ("invalid_parameter", param)
    assert stage.asked == []


async def test_models_of_others_are_passed_over_like_those_that_do_not_exist(stage: Stage) -> None:
    told = []
    for name in ("big", "gone"):
        body = {"model": "small", "messages": HELLO, "models": [name]}
        sent = {"X-RouterX-Metadata": "true"}
        reply = await stage.gateway.ask(
            "POST", "/v1/chat/completions", body, key="narrow_key_fake_123456", headers=sent
        )
        told.append([{**one, "endpoint": None} for one in reply.json["routing_metadata"]["excluded"]])
    assert told == [[{"endpoint": None, "rule": "unknown_model"}]] * 2
    assert stage.asked == ["cheap", "cheap"]


# --- headers


async def test_headers_say_the_same(stage: Stage) -> None:
    for sent, who in (
        ({"X-RouterX-Provider-Order": "mid, dear"}, "mid"),
        ({"X-RouterX-Provider-Only": "dear"}, "dear"),
        ({"X-RouterX-Provider-Ignore": "cheap", "X-RouterX-Sort": "price"}, "mid"),
        ({"X-RouterX-Allow-Fallbacks": "false", "X-Session-Id": "s"}, "cheap"),
    ):
        raw = await stage.client().chat.completions.with_raw_response.create(
            model="duo", messages=HELLO, extra_headers=sent
        )
        assert raw.headers["x-routerx-provider"] == who
    stage.assert_nothing_travelled()


async def test_a_wrong_header_is_a_400_that_names_it(stage: Stage) -> None:
    error = await refused(stage, openai.BadRequestError, extra_headers={"X-RouterX-Sort": "best"})
    assert (error.code, error.param) == ("invalid_parameter", "X-RouterX-Sort")
    assert "'best'" in error.message
    assert "throughput" in error.message


async def test_the_body_goes_before_the_headers(stage: Stage) -> None:
    raw = await stage.client().chat.completions.with_raw_response.create(
        model="duo",
        messages=HELLO,
        extra_headers={"X-RouterX-Provider-Order": "dear", "X-RouterX-Provider-Ignore": "cheap"},
        extra_body={"provider": {"order": ["cheap", "mid"]}},
    )
    assert raw.headers["x-routerx-provider"] == "mid"


async def test_an_own_key_goes_to_the_named_provider_alone(stage: Stage) -> None:
    stage.upstreams["mid"].queue(Status(500), Status(500), Status(500))
    error = await refused(
        stage,
        openai.InternalServerError,
        extra_headers={"X-RouterX-API-Key": "sk-own-123", "X-RouterX-Provider-Only": "mid"},
    )
    assert error.code == "upstream_error"
    assert set(stage.asked) == {"mid"}
    assert {request.headers["authorization"] for request in stage.upstreams["mid"].requests} == {"Bearer sk-own-123"}


# --- names


async def test_a_policy_is_asked_for_and_listed_by_its_name(stage: Stage) -> None:
    client = stage.client()
    await client.chat.completions.create(model="smart", messages=HELLO)
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    look: Any = [{"role": "user", "content": [picture]}]
    await client.chat.completions.create(model="smart", messages=look)
    assert stage.asked == ["cheap", "dear"]
    listed = {model.id: model for model in (await client.models.list()).data}
    assert listed["smart"].owned_by == "routerx"
    assert (await client.models.retrieve("smart")).id == "smart"
    assert "default" not in listed


async def test_suffixes_sort(stage: Stage) -> None:
    assert await stage.answered(model="duo:floor") == "cheap"
    assert await stage.answered(model="duo:nitro", provider={"ignore": ["cheap"]}) in ("mid", "dear")


# --- other dialects


async def test_the_responses_client(stage: Stage) -> None:
    answer = await stage.client().responses.create(
        model="duo", input="Hello", extra_body={"provider": {"only": ["mid"]}, "models": ["small"]}
    )
    assert answer.output_text == "Hello from upstream"
    assert stage.asked == ["mid"]
    stage.assert_nothing_travelled()


async def test_the_anthropic_client(stage: Stage) -> None:
    stage.upstreams["dear"].default = Status(400, {"error": {"message": "no", "code": "content_policy_violation"}})
    client = anthropic.AsyncAnthropic(base_url=stage.gateway.url, api_key=KEY, max_retries=0, timeout=GUARD_S)
    asked: Any = {"max_tokens": 16, "messages": HELLO}
    wishes = {"provider": {"ignore": ["mid"]}, "fallbacks": [{"model": "duo"}]}
    async with client:
        answer = await client.messages.create(model="big", extra_body=wishes, **asked)
        assert answer.content[0].text == "Hello from upstream"
        assert stage.asked == ["cheap", "dear"]
        stage.assert_nothing_travelled()
        with pytest.raises(anthropic.NotFoundError) as caught:
            await client.messages.create(model="duo", extra_body={"provider": {"only": ["nobody"]}}, **asked)
    error: Any = caught.value.body
    assert error["error"]["code"] == "no_endpoint"


async def test_tokens_are_counted_for_who_is_wanted(stage: Stage) -> None:
    body = {"model": "duo", "messages": HELLO, "provider": {"only": ["nobody"]}}
    assert (await stage.gateway.ask("POST", "/v1/messages/count_tokens", body)).status == 404
    counted = await stage.gateway.ask("POST", "/v1/messages/count_tokens", body | {"provider": {"only": ["mid"]}})
    assert counted.status == 200


async def test_googles_client_by_headers(stage: Stage) -> None:
    wishes = {"X-RouterX-Provider-Order": "dear", "X-RouterX-Allow-Fallbacks": "false"}
    async with httpx2.AsyncClient(timeout=GUARD_S) as http:
        options = types.HttpOptions(base_url=stage.gateway.url, headers=wishes, httpx_async_client=http)
        client = genai.Client(api_key=KEY, http_options=options)
        answer = await client.aio.models.generate_content(model="duo", contents="Hello")
        await client.aio.aclose()
        client.close()
    assert answer.text == "Hello from upstream"
    assert stage.asked == ["dear"]
    stage.assert_nothing_travelled()


async def test_embeddings_are_steered(stage: Stage) -> None:
    value = staged({name: upstream.url for name, upstream in stage.upstreams.items()})
    for entry in value["models"]["duo"]["endpoints"]:
        entry.pop("supports", None)
    value["models"]["duo"]["kind"] = "embedding"
    await stage.gateway.reload(value)
    body = {"model": "duo", "input": "Hello", "provider": {"only": ["mid"]}}
    await stage.gateway.ask("POST", "/v1/embeddings", body)
    assert set(stage.asked) == {"mid"}
    stage.assert_nothing_travelled()


async def test_a_form_is_steered_by_headers_alone(stage: Stage) -> None:
    parts = {"model": b"duo", "provider": b"{}"}
    body = b"".join(
        b'--cut\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (name.encode(), value)
        for name, value in parts.items()
    )
    body += b'--cut\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n--cut--\r\n'
    sent = {"Content-Type": "multipart/form-data; boundary=cut"}
    reply = await stage.gateway.ask("POST", "/v1/audio/transcriptions", body, headers=sent)
    assert (reply.status, reply.error["param"]) == (400, "provider")


# --- whatever comes

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = [*_Provider.__struct_fields__, "by", "p90", "prompt"]
LIKELY = st.sampled_from([["mid"], ["dear/duo-up"], True, False, "price", "deny", 3, "2.5", {"p90": 1}, {"prompt": 1}])


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(provider=VALUES | st.dictionaries(st.sampled_from(KEYS), LIKELY | VALUES, max_size=4))
async def test_no_provider_object_is_a_fault_of_ours(stage: Stage, provider: Any) -> None:
    body = json.dumps({"model": "duo", "messages": HELLO, "provider": provider}).encode()
    reply = await stage.gateway.ask("POST", "/v1/chat/completions", body)
    assert reply.status in (200, 400, 404), reply.body
    if reply.status != 200:
        assert reply.error["code"] in ("invalid_parameter", "no_endpoint", "invalid_json")
