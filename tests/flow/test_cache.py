"""The response cache: what an equal request got is told again, free, to the same tenant and nobody else."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from routerx.domain.record import BillingMode
from tests.flow.flow_kit import UP_COST
from tests.support.gateway import HELLO, KEY, Config, Gateway, Reply, config, digest, running, wait_for
from tests.support.upstream import End, Gate, Ok, Raw, ScriptedUpstream, Status, Stream

CHAT = "/v1/chat/completions"
OTHER_KEY = "other_tenant_key_123456"
CACHE = {"X-RouterX-Cache": "true"}
SAID: Any = HELLO


def two_tenants(up: str, **cache: str) -> Config:
    value = config(up)
    value["server"]["cache"] = cache
    value["tenants"]["rival"] = {"plan": "prepaid", "opening_balance": "$10", "keys": [digest(OTHER_KEY)]}
    return value


@pytest.fixture
async def gw(tmp_path: Path, up: ScriptedUpstream) -> AsyncIterator[Gateway]:
    async with running(tmp_path, two_tenants(up.url)) as gateway:
        yield gateway
        await gateway.assert_books_are_clean()


async def ask(gw: Gateway, tenant: str = KEY, **fields: Any) -> Reply:
    return await gw.ask("POST", CHAT, {"model": "solo", "messages": HELLO, **fields}, key=tenant, headers=CACHE)


def hit(reply: Reply) -> bool:
    assert reply.status == 200
    return reply.headers["x-routerx-cache-hit"] == "true"


@pytest.mark.parametrize("stream", [False, True])
async def test_the_official_client_gets_an_equal_answer_free(gw: Gateway, up: ScriptedUpstream, stream: bool) -> None:
    said = []
    for place in range(2):
        raw = await gw.client().chat.completions.with_raw_response.create(
            model="solo", messages=SAID, stream=stream, extra_headers=CACHE
        )
        answer: Any = raw.parse()
        said.append([one.model_dump() async for one in answer] if stream else answer.model_dump())
        assert raw.headers["x-routerx-cache-hit"] == ("true" if place else "false")
    assert said[0] == said[1]
    assert len(up.requests) == 1
    first, second = await gw.settled(), await gw.settled()
    assert (first.billing, first.cost_nano) == (BillingMode.PAID, UP_COST)
    assert (second.billing, second.cost_nano, second.held_nano) == (BillingMode.CACHED, 0, 0)
    assert (second.outcome, second.attempts) == ("ok", ())
    assert await gw.spent() == UP_COST


async def test_without_the_header_nothing_is_kept_or_told(gw: Gateway, up: ScriptedUpstream) -> None:
    await gw.chat()
    assert not hit(await ask(gw))
    assert "x-routerx-cache-hit" not in (await gw.chat()).headers
    assert len(up.requests) == 3


@pytest.mark.parametrize("usage", [False, True])
async def test_a_whole_answer_is_told_as_a_stream(gw: Gateway, up: ScriptedUpstream, usage: bool) -> None:
    await ask(gw)
    reply = await ask(gw, stream=True, stream_options={"include_usage": usage})
    assert hit(reply)
    assert reply.stream_error is None
    assert reply.text == "Hello from upstream"
    assert any(event != "[DONE]" and event.get("usage") for event in reply.events) is usage


@pytest.mark.parametrize("usage", [False, True])
async def test_a_stream_is_told_as_a_whole_answer(gw: Gateway, up: ScriptedUpstream, usage: bool) -> None:
    up.default = Stream(["Hel", "lo"])
    await ask(gw, stream=True, stream_options={"include_usage": usage})
    reply = await ask(gw)
    assert hit(reply)
    assert reply.json["choices"][0]["message"]["content"] == "Hello"
    assert reply.json["choices"][0]["finish_reason"] == "stop"
    assert (reply.json["usage"]["prompt_tokens"], reply.json["usage"]["completion_tokens"]) == (7, 3)


@pytest.mark.parametrize("first", [False, True])
async def test_usage_is_in_the_stream_for_who_asks(gw: Gateway, up: ScriptedUpstream, first: bool) -> None:
    up.default = Stream(["Hel", "lo"])
    for usage in (first, not first):
        reply = await ask(gw, stream=True, stream_options={"include_usage": usage})
        assert reply.text == "Hello"
        assert any(event != "[DONE]" and event.get("usage") for event in reply.events) is usage
    assert len(up.requests) == 1


async def test_no_tenant_is_told_anothers(gw: Gateway, up: ScriptedUpstream) -> None:
    up.queue(Ok("mine"), Ok("yours"))
    assert (await ask(gw)).text == "mine"
    other = await ask(gw, OTHER_KEY)
    assert not hit(other)
    assert other.text == "yours"


@pytest.mark.parametrize("other", [{"model": "flat"}, {"temperature": 0.5}, {"messages": [*HELLO, *HELLO]}, {"n": 2}])
async def test_another_request_has_another_answer(gw: Gateway, up: ScriptedUpstream, other: dict[str, Any]) -> None:
    await ask(gw)
    assert not hit(await ask(gw, **other))


async def test_errors_and_cut_answers_are_not_kept(gw: Gateway, up: ScriptedUpstream) -> None:
    up.queue(Status(400), Stream(["Hel"], finish="length"), Stream(["Hel"], finish="content_filter"), Stream(["a"]))
    assert (await ask(gw)).status == 400
    for _ in range(3):
        assert not hit(await ask(gw, stream=True))
    assert hit(await ask(gw, stream=True))


async def test_two_at_once_are_asked_once(gw: Gateway, up: ScriptedUpstream) -> None:
    gate = asyncio.Event()
    up.default = Stream(["Hel", "lo"], gates={1: gate})
    first = asyncio.create_task(ask(gw, stream=True))
    await up.arrived(1)
    second = asyncio.create_task(ask(gw, stream=True))
    await wait_for(lambda: gw.runtime.gateway.in_flight == 2)
    gate.set()
    assert [hit(reply) for reply in await asyncio.gather(first, second)] == [False, True]
    assert (await second).body == (await first).body
    assert await gw.spent() == UP_COST


async def test_the_first_hanging_up_takes_nothing_from_the_second(gw: Gateway, up: ScriptedUpstream) -> None:
    up.queue(Stream(["Hel", "lo"], gates={1: asyncio.Event()}), Stream(["own"]))
    caller = await gw.connect()
    await caller.send("POST", CHAT, {"model": "solo", "messages": HELLO, "stream": True}, headers=CACHE)
    await up.arrived(1)
    second = asyncio.create_task(ask(gw, stream=True))
    await wait_for(lambda: gw.runtime.gateway.in_flight == 2)
    caller.leave()
    reply = await second
    assert not hit(reply)
    assert reply.text == "own"


async def test_a_failing_first_lets_the_others_try(gw: Gateway, up: ScriptedUpstream) -> None:
    gate = asyncio.Event()
    refusal = b"HTTP/1.1 400 Bad\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
    up.queue(Raw([Gate(gate), refusal], End.KEEP))
    up.default = Stream(["own"])
    tasks = [asyncio.create_task(ask(gw, stream=True))]
    await up.arrived(1)
    tasks += [asyncio.create_task(ask(gw, stream=True)) for _ in range(2)]
    await wait_for(lambda: gw.runtime.gateway.in_flight == 3)
    assert len(up.requests) == 1  # They wait for the first.
    gate.set()
    assert (await tasks[0]).status == 400
    assert [(await task).text for task in tasks[1:]] == ["own", "own"]
    assert len(up.requests) == 3


async def test_a_hit_counts_in_the_limits(tmp_path: Path, up: ScriptedUpstream) -> None:
    value = two_tenants(up.url)
    value["plans"]["prepaid"]["limits"] = {"rpm": 2}
    async with running(tmp_path, value) as gw:
        assert [(await ask(gw)).status for _ in range(3)] == [200, 200, 429]
        await gw.assert_books_are_clean()


async def test_the_operator_may_keep_nothing(tmp_path: Path, up: ScriptedUpstream) -> None:
    async with running(tmp_path, two_tenants(up.url, ttl="0s")) as gw:
        assert [hit(await ask(gw)) for _ in range(2)] == [False, False]


async def test_memory_is_bounded_and_the_oldest_goes(tmp_path: Path, up: ScriptedUpstream) -> None:
    async with running(tmp_path, two_tenants(up.url, size_max="16KiB")) as gw:
        for seed in range(40):
            await ask(gw, seed=seed)
        assert 0 < gw.runtime.cache.bytes <= 16 * 1024
        assert hit(await ask(gw, seed=39))
        assert not hit(await ask(gw, seed=0))


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
async def test_other_wires_are_told_again_in_both_shapes(gw: Gateway, up: ScriptedUpstream, path: str) -> None:
    said: dict[str, Any] = {"model": "solo", "max_tokens": 9, "messages": HELLO}
    if path == "/v1/responses":
        said = {"model": "solo", "input": "Hello"}
    seen = []
    for stream in (True, False, True):
        reply = await gw.ask("POST", path, {**said, "stream": stream}, headers=CACHE)
        seen.append(hit(reply))
        assert b"Hello from upstream" in reply.body.replace(b'"}', b"") or stream
    assert seen == [False, True, True]
