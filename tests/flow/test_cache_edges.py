"""The response cache under hostile eyes: what must not be told, who waits how long, and what it may take."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from routerx.domain.record import BillingMode
from tests.support.gateway import HELLO, KEY, Gateway, Reply, config, digest, running, wait_for
from tests.support.upstream import Json, Ok, ScriptedUpstream, Status, Stream

CHAT = "/v1/chat/completions"
CACHE = {"X-RouterX-Cache": "true"}
NARROW_KEY = "narrow_tenant_key_123456"


@pytest.fixture
async def gw(tmp_path: Path, up: ScriptedUpstream) -> AsyncIterator[Gateway]:
    async with running(tmp_path, config(up.url)) as gateway:
        yield gateway
        await gateway.assert_books_are_clean()


async def ask(
    gw: Gateway, path: str = CHAT, *, key: str = KEY, more: dict[str, str] | None = None, **said: Any
) -> Reply:
    body = {"model": "solo", **({"messages": HELLO} if path == CHAT else {}), **said}
    return await gw.ask("POST", path, body, key=key, headers={**CACHE, **(more or {})})


def hit(reply: Reply) -> bool:
    assert reply.status == 200, reply.body
    return reply.headers["x-routerx-cache-hit"] == "true"


async def waiting(gw: Gateway, **said: Any) -> "asyncio.Task[Reply]":
    """One more request, once it is being served or waits for another."""
    before = gw.runtime.gateway.in_flight
    task = asyncio.create_task(ask(gw, **said))
    await wait_for(lambda: gw.runtime.gateway.in_flight == before + 1)
    return task


# --- what must not be told


async def test_a_restricted_key_is_not_told_what_another_key_got_elsewhere(
    tmp_path: Path, up: ScriptedUpstream
) -> None:
    value = config(up.url)
    value["tenants"]["acme"]["keys"].append({"key": digest(NARROW_KEY), "allow": ["solo"]})
    value["policies"]["default"] |= {"on_failure": ["flat"], "retry": {"max": 0, "backoff": "1ms..1ms"}}
    up.on("solo", Status(500))
    async with running(tmp_path, value) as gw:
        assert not hit(await ask(gw))
        assert hit(await ask(gw))
        assert (await ask(gw, key=NARROW_KEY)).status >= 500
        await gw.assert_books_are_clean()


@pytest.mark.parametrize("name", ["temperature", "top_p"])
async def test_what_one_says_of_drawing_is_not_what_a_model_does_by_itself(gw: Gateway, name: str) -> None:
    await ask(gw)
    drawn: Any = {name: 1}
    assert not hit(await ask(gw, **drawn))
    assert hit(await ask(gw, n=1))


@pytest.mark.parametrize(
    "more",
    [
        {"X-RouterX-Provider-Only": "up"},
        {"X-RouterX-Provider-Order": "up"},
        {"X-RouterX-Sort": "price"},
        {"X-RouterX-Allow-Fallbacks": "false"},
        {"X-RouterX-API-Key": "own-key-fake-1"},
    ],
)
async def test_who_says_where_to_go_is_told_what_came_from_there(gw: Gateway, more: dict[str, str]) -> None:
    await ask(gw)
    assert not hit(await ask(gw, more=more))


async def test_the_betas_of_a_caller_count(gw: Gateway) -> None:
    said: Any = {"path": "/v1/messages", "messages": HELLO, "max_tokens": 9}
    await ask(gw, **said)
    assert not hit(await ask(gw, **said, more={"anthropic-beta": "context-1m-2025-08-07"}))
    assert hit(await ask(gw, **said))


async def test_what_was_made_with_an_own_key_is_not_kept(gw: Gateway) -> None:
    own = {"X-RouterX-API-Key": "own-key-fake-1"}
    assert not hit(await ask(gw, more=own))
    assert not hit(await ask(gw, more=own))
    assert not hit(await ask(gw))


async def test_an_answer_within_a_conversation_that_the_provider_keeps_is_asked_anew(
    tmp_path: Path, up: ScriptedUpstream
) -> None:
    value = config(up.url)
    value["providers"]["up"]["dialect"] = "responses"
    up.default = Json(_response("Hi"))
    async with running(tmp_path, value) as gw:
        for _ in range(2):
            assert not hit(await ask(gw, "/v1/responses", input="Hello", conversation="conv_1"))
        assert not hit(await ask(gw, "/v1/responses", input="Hello", conversation=None))
        assert hit(await ask(gw, "/v1/responses", input="Hello", conversation=None))


async def test_another_configuration_gives_another_answer(gw: Gateway, up: ScriptedUpstream) -> None:
    await ask(gw)
    value = config(up.url)
    value["models"]["solo"]["endpoints"][0]["model"] = "another"
    await gw.reload(value)
    assert not hit(await ask(gw))
    assert up.requests[-1].json["model"] == "another"


async def test_a_refusal_nothing_at_all_and_a_broken_stream_are_not_kept(gw: Gateway, up: ScriptedUpstream) -> None:
    up.queue(Ok("", message={"content": None, "refusal": "No."}), Ok(""), Stream(["Hel"], stop_after=2), Ok("fine"))
    assert not hit(await ask(gw))
    assert not hit(await ask(gw))
    assert (await ask(gw, stream=True)).stream_error is not None
    assert not hit(await ask(gw))
    assert hit(await ask(gw))


async def test_nothing_too_long_for_one_event_is_told_as_a_stream(gw: Gateway, up: ScriptedUpstream) -> None:
    long = "x" * (1024 * 1024)
    up.queue(Ok(long), Stream([long[: 2**19]] * 2))
    await ask(gw)
    reply = await ask(gw, stream=True)
    assert not hit(reply)
    assert (reply.text, reply.stream_error) == (long, None)


async def test_what_only_the_provider_understands_is_asked_again_in_the_other_shape(
    tmp_path: Path, up: ScriptedUpstream
) -> None:
    value = config(up.url)
    value["providers"]["up"]["dialect"] = "responses"
    whole = _response("Hi")
    end = {"type": "response.completed", "response": whole}
    frames = [
        _event({"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "Hi"}),
        _event(end),
    ]
    up.queue(Stream(frames=frames), Json(whole))
    async with running(tmp_path, value) as gw:
        asked: Any = {"input": "Hello", "previous_response_id": "resp_1"}
        assert not hit(await ask(gw, "/v1/responses", **asked, stream=True))
        assert not hit(await ask(gw, "/v1/responses", **asked))
        assert hit(await ask(gw, "/v1/responses", **asked))


def _response(text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    said = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [part]}
    return {"id": "r", "object": "response", "model": "solo", "status": "completed", "output": [said]}


def _event(event: dict[str, Any]) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


async def test_an_answer_that_cannot_be_read_is_passed_on_and_not_kept(
    gw: Gateway, up: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **more: object) -> bool:
        raise KeyError

    monkeypatch.setattr("routerx.gateway.cache._reads_well", broken)
    for _ in range(2):
        reply = await ask(gw, stream=True)
        assert (hit(reply), reply.stream_error) == (False, None)


# --- what is told of a hit


async def test_a_refused_hit_is_no_hit_in_the_books(tmp_path: Path, up: ScriptedUpstream) -> None:
    value = config(up.url)
    value["plans"]["prepaid"]["limits"] = {"rpm": 1}
    async with running(tmp_path, value) as gw:
        await ask(gw)
        assert (await ask(gw)).status == 429
        rows = [await gw.settled(), await gw.settled()]
        assert [row.billing for row in rows] == [BillingMode.PAID, BillingMode.VOID]


async def test_a_hit_says_what_was_left_out_of_the_request(tmp_path: Path, up: ScriptedUpstream) -> None:
    async with running(tmp_path, config(up.url)) as gw:
        said: Any = {"path": "/v1/messages", "messages": HELLO, "max_tokens": 9, "container": "c"}
        first, second = await ask(gw, **said), await ask(gw, **said)
        assert first.headers["x-routerx-dropped"]
        assert hit(second)
        assert second.headers["x-routerx-dropped"] == first.headers["x-routerx-dropped"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_hit_tells_of_its_own_way(gw: Gateway, stream: bool) -> None:
    await ask(gw)
    reply = await ask(gw, stream=stream, more={"X-RouterX-Metadata": "true"})
    assert hit(reply)
    found = reply.json if not stream else reply.events[-2]
    told = found["routing_metadata"]
    assert (told["request_id"], told["attempts"], told["cost_nano"]) == (reply.headers["x-request-id"], [], 0)


async def test_one_hit_can_be_asked_for_again_under_an_idempotency_key(gw: Gateway, up: ScriptedUpstream) -> None:
    await ask(gw)
    keyed = {"Idempotency-Key": "one"}
    first, second = await ask(gw, more=keyed), await ask(gw, more=keyed)
    assert hit(first)
    assert second.headers["idempotent-replayed"] == "true"
    assert second.body == first.body
    assert len(up.requests) == 1


# --- who waits


async def test_who_waits_for_another_has_its_own_deadline(gw: Gateway, up: ScriptedUpstream) -> None:
    gate = asyncio.Event()
    up.queue(Ok("late", gate=gate))
    first = await waiting(gw)
    await up.arrived(1)
    for stream in (False, True):
        second = await ask(gw, stream=stream, more={"X-RouterX-Timeout": "50ms"})
        assert (second.status, second.error["code"]) == (504, "client_deadline_exceeded")
    assert len(up.requests) == 1
    gate.set()
    assert not hit(await first)


async def test_a_whole_answer_is_waited_for_longer_than_a_stream_may_be_silent(
    tmp_path: Path, up: ScriptedUpstream
) -> None:
    value = config(up.url)
    value["server"]["keep_alive"] = "10ms"
    gate = asyncio.Event()
    up.queue(Ok("whole", gate=gate), Stream(["own"]))
    async with running(tmp_path, value) as gw:
        first = await waiting(gw)
        await up.arrived(1)
        second = await waiting(gw)
        assert (await ask(gw, stream=True)).text == "own"  # Its caller would have been told nothing for too long.
        gate.set()
        assert [hit(one) for one in (await first, await second)] == [False, True]
        await gw.assert_books_are_clean()


@pytest.mark.parametrize("of", ["tenant", "key"])
async def test_the_ceiling_on_requests_at_once_holds_for_those_that_wait(
    tmp_path: Path, up: ScriptedUpstream, of: str
) -> None:
    value = config(up.url)
    if of == "tenant":
        value["plans"]["prepaid"]["limits"] = {"concurrency": 1}
    else:
        value["tenants"]["acme"]["keys"] = [{"key": digest(KEY), "concurrency": 1}]
    gate = asyncio.Event()
    up.queue(Ok("one", gate=gate))
    async with running(tmp_path, value) as gw:
        first = await waiting(gw)
        await up.arrived(1)
        second = await waiting(gw)
        assert (await ask(gw)).status == 429
        gate.set()
        assert [hit(one) for one in (await first, await second)] == [False, True]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/v1/completions", {"prompt": "Hello"}),
        (CHAT, {"logprobs": True}),
        (CHAT, {"functions": [{"name": "f", "parameters": {}}]}),
    ],
)
async def test_nobody_waits_for_an_answer_that_is_of_no_use_to_it(
    gw: Gateway, up: ScriptedUpstream, path: str, said: dict[str, Any]
) -> None:
    gate = asyncio.Event()
    text = {"object": "text_completion", "choices": [{"index": 0, "text": "own", "finish_reason": "stop"}]}
    up.queue(Stream(["late"], gates={1: gate}))
    if path != CHAT:
        up.default = Json(text)
    first = await waiting(gw, path=path, stream=True, **said)
    await up.arrived(1)
    assert not hit(await ask(gw, path, **said))
    gate.set()
    assert (await first).status == 200


async def test_who_hangs_up_while_waiting_takes_nothing_along(gw: Gateway, up: ScriptedUpstream) -> None:
    gate = asyncio.Event()
    up.queue(Ok("one", gate=gate))
    first = await waiting(gw)
    await up.arrived(1)
    caller = await gw.connect()
    await caller.send("POST", CHAT, {"model": "solo", "messages": HELLO}, headers=CACHE)
    await wait_for(lambda: gw.runtime.gateway.in_flight == 2)
    caller.leave()
    assert (await gw.settled()).outcome == "client_gone_predispatch"
    gate.set()
    assert not hit(await first)
    assert hit(await ask(gw))


# --- what it may take


async def test_streams_on_their_way_are_within_the_bound_of_memory(tmp_path: Path, up: ScriptedUpstream) -> None:
    value = config(up.url)
    value["server"]["cache"] = {"size_max": "64KiB"}
    gates = [asyncio.Event() for _ in range(12)]
    async with running(tmp_path, value) as gw:
        cache = gw.runtime.cache
        await ask(gw, seed=99)
        for gate in gates:
            up.queue(Stream(["x" * 3_000, "y" * 3_000, "z"], gates={3: gate}))
        tasks = [await waiting(gw, stream=True, seed=seed) for seed in range(12)]
        await up.arrived(13)
        await wait_for(lambda: cache.bytes > 30_000)
        assert cache.bytes <= 64 * 1024
        for gate in gates:
            gate.set()
        assert [reply.stream_error for reply in await asyncio.gather(*tasks)] == [None] * 12
        assert cache.bytes <= 64 * 1024
        kept = [hit(await ask(gw, stream=True, seed=seed)) for seed in range(12)]
        assert 0 < sum(kept) < 12


async def test_a_stream_too_long_to_keep_takes_no_memory(tmp_path: Path, up: ScriptedUpstream) -> None:
    value = config(up.url)
    value["server"]["cache"] = {"size_max": "64KiB"}
    gate = asyncio.Event()
    up.queue(Stream(["x" * 20_000, "y"], gates={2: gate}))
    async with running(tmp_path, value) as gw:
        task = await waiting(gw, stream=True)
        await up.arrived(1)
        await wait_for(lambda: gw.runtime.gateway.active[0].delivered)
        assert gw.runtime.cache.bytes == 0
        gate.set()
        assert not hit(await task)
        assert gw.runtime.cache.bytes == 0


async def test_metrics_count_what_the_cache_did(gw: Gateway, up: ScriptedUpstream) -> None:
    gate = asyncio.Event()
    up.queue(Ok("one", gate=gate))
    first = await waiting(gw)
    await up.arrived(1)
    second = await waiting(gw)
    gate.set()
    await asyncio.gather(first, second)
    await ask(gw)
    await ask(gw, more={"X-RouterX-API-Key": "own-key-fake-1"})  # Counts nowhere.
    for _ in range(3):
        await ask(gw, seed=1, more={"Idempotency-Key": "one"})
    page = (await gw.ask("GET", "/metrics")).body.decode()
    told = dict(line.split(" ") for line in page.splitlines() if line.startswith("routerx_"))
    names = ("hits_total", "coalesced_total", "misses_total")
    assert [float(told[f"routerx_cache_{name}"]) for name in names] == [2, 1, 2]
    assert float(told["routerx_idempotent_replays_total"]) == 2
    assert float(told["routerx_cache_bytes"]) == gw.runtime.cache.bytes > 0
