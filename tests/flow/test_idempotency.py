"""Idempotency keys: one key, one answer, one charge, whoever hangs up or is killed when."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.flow.flow_kit import UP_COST
from tests.support.gateway import HELLO, KEY, TENANT, Config, Gateway, Reply, config, digest, running, serving, wait_for
from tests.support.upstream import End, Ok, ScriptedUpstream, Status, Stream

CHAT = "/v1/chat/completions"
OTHER_KEY = "other_tenant_key_123456"
HEADERS = {"Idempotency-Key": "order-1"}
SAID: Any = HELLO


def two_tenants(up: str) -> Config:
    value = config(up)
    value["tenants"]["rival"] = {"plan": "prepaid", "opening_balance": "$10", "keys": [digest(OTHER_KEY)]}
    return value


@pytest.fixture
async def gw(tmp_path: Path, up: ScriptedUpstream) -> AsyncIterator[Gateway]:
    async with running(tmp_path, two_tenants(up.url)) as gateway:
        yield gateway
        await gateway.assert_books_are_clean()


async def ask(gw: Gateway, key: str = "order-1", tenant: str = KEY, path: str = CHAT, **fields: Any) -> Reply:
    body = {"model": "solo", "messages": HELLO, **fields}
    return await gw.ask("POST", path, body, key=tenant, headers={"Idempotency-Key": key})


@pytest.mark.parametrize("stream", [False, True])
async def test_the_official_client_gets_the_same_answer_and_pays_once(
    gw: Gateway, up: ScriptedUpstream, stream: bool
) -> None:
    said = []
    for _ in range(3):
        raw = await gw.client().chat.completions.with_raw_response.create(
            model="solo", messages=SAID, stream=stream, extra_headers=HEADERS
        )
        answer: Any = raw.parse()
        said.append([one.model_dump() async for one in answer] if stream else answer.model_dump())
        replayed = raw.headers.get("Idempotent-Replayed")
        assert replayed == ("true" if len(said) > 1 else None)
    assert said[0] == said[1] == said[2]
    assert len(up.requests) == 1
    assert await gw.spent() == UP_COST


async def test_a_stream_is_told_again_byte_for_byte(gw: Gateway, up: ScriptedUpstream) -> None:
    up.default = Stream(["x" * 50_000] * 5)
    first, second = await ask(gw, stream=True), await ask(gw, stream=True)
    assert first.body == second.body
    assert second.headers["content-type"] == first.headers["content-type"]
    assert second.stream_error is None


async def test_a_replay_says_that_it_cost_nothing(gw: Gateway, up: ScriptedUpstream) -> None:
    first, second = await ask(gw), await ask(gw)
    assert float(first.headers["x-routerx-cost-usd"]) > 0
    assert float(second.headers["x-routerx-cost-usd"]) == 0
    assert second.body == first.body
    assert second.headers["x-request-id"] != first.headers["x-request-id"]


async def test_another_body_or_path_is_refused(gw: Gateway, up: ScriptedUpstream) -> None:
    await ask(gw)
    for other in (await ask(gw, temperature=0.5), await ask(gw, path="/v1/completions", prompt="x")):
        assert (other.status, other.error["code"]) == (422, "idempotency_mismatch")
        assert other.headers["x-should-retry"] == "false"
    assert len(up.requests) == 1


async def test_a_form_is_the_same_whatever_its_boundary(gw: Gateway, up: ScriptedUpstream) -> None:
    def form(mark: str) -> bytes:
        part = f'--{mark}\r\nContent-Disposition: form-data; name="model"\r\n\r\nsolo\r\n--{mark}--\r\n'
        return part.encode()

    codes = []
    for mark in ("aaaa", "bbbb"):
        headers = {**HEADERS, "Content-Type": f"multipart/form-data; boundary={mark}"}
        reply = await gw.ask("POST", "/v1/audio/transcriptions", form(mark), headers=headers)
        codes.append(reply.error["code"])
    assert codes[0] == codes[1] == "invalid_parameter"


async def test_one_tenants_key_says_nothing_to_another(gw: Gateway, up: ScriptedUpstream) -> None:
    up.queue(Ok("mine"), Ok("yours"))
    mine, yours = await ask(gw), await ask(gw, tenant=OTHER_KEY)
    assert (mine.text, yours.text) == ("mine", "yours")
    assert await gw.spent("rival") == UP_COST


async def test_two_at_once_are_served_once(gw: Gateway, up: ScriptedUpstream) -> None:
    gate = asyncio.Event()
    up.default = Stream(["Hel", "lo"], gates={1: gate})
    first = asyncio.create_task(ask(gw, stream=True))
    await up.arrived(1)
    second = await ask(gw, stream=True)
    assert (second.status, second.error["code"]) == (409, "idempotency_in_progress")
    assert "retry-after" in second.headers
    gate.set()
    assert (await first).text == "Hello"
    assert (await ask(gw, stream=True)).body == (await first).body
    assert await gw.spent() == UP_COST


async def test_an_error_uses_no_key_up(gw: Gateway, up: ScriptedUpstream) -> None:
    up.queue(Status(400), Ok())
    assert (await ask(gw)).status == 400
    assert (await ask(gw, model="nobody")).status == 404
    assert (await ask(gw)).status == 200
    assert await gw.spent() == UP_COST


@pytest.mark.parametrize("key", ["", "x" * 256, "caf\xe9"])
async def test_a_malformed_key_is_refused(gw: Gateway, up: ScriptedUpstream, key: str) -> None:
    reply = await ask(gw, key)
    assert (reply.status, reply.error["param"]) == (400, "Idempotency-Key")
    assert not up.requests


async def test_who_leaves_before_anything_was_charged_is_served_anew(gw: Gateway, up: ScriptedUpstream) -> None:
    gate = asyncio.Event()
    up.queue(Stream(["Hel", "lo"], gates={0: gate}))
    caller = await gw.connect()
    await caller.send("POST", CHAT, {"model": "solo", "messages": HELLO, "stream": True}, headers=HEADERS)
    await up.arrived(1)
    caller.leave()
    assert (await gw.settled()).outcome == "client_gone_no_output"
    assert (await ask(gw, stream=True)).text == "Hello from upstream"
    assert await gw.spent() == UP_COST


async def test_who_leaves_a_stream_that_was_charged_is_not_charged_again(gw: Gateway, up: ScriptedUpstream) -> None:
    up.default = Stream(["Hel", "lo"], gates={2: asyncio.Event()})
    caller = await gw.connect()
    await caller.send("POST", CHAT, {"model": "solo", "messages": HELLO, "stream": True}, headers=HEADERS)
    await caller.until(b"Hel") if await caller.head() else None
    caller.leave()
    cost = (await gw.settled()).cost_nano
    again = await ask(gw, stream=True)
    assert (again.status, again.error["code"]) == (409, "replay_unavailable")
    assert await gw.spent() == cost > 0


async def test_who_leaves_while_the_charge_is_written_finds_the_answer(gw: Gateway, up: ScriptedUpstream) -> None:
    async with gw.commits_blocked():
        caller = await gw.connect()
        await caller.send("POST", CHAT, {"model": "solo", "messages": HELLO}, headers=HEADERS)
        await gw.settling()
        caller.leave()
        await wait_for(lambda: gw.runtime.edge.in_flight == 0)
    await wait_for(lambda: gw.runtime.gateway.in_flight == 0)
    again = await ask(gw)
    assert again.headers["idempotent-replayed"] == "true"
    assert await gw.spent() == UP_COST


async def test_a_long_answer_is_not_kept_and_not_charged_again(gw: Gateway, up: ScriptedUpstream) -> None:
    up.default = Ok("x" * (1024 * 1024 + 1))
    assert (await ask(gw)).status == 200
    spent = await gw.spent()
    again = await ask(gw)
    assert (again.status, again.error["code"]) == (409, "replay_unavailable")
    assert await gw.spent() == spent


async def test_after_a_restart_a_charged_key_is_not_charged_again(tmp_path: Path, up: ScriptedUpstream) -> None:
    value = two_tenants(up.url)
    value["server"]["idempotency"] = {"on_disk": "off"}
    async with running(tmp_path, value) as gw:
        assert (await ask(gw)).status == 200
    async with running(tmp_path, value) as gw:
        assert (await ask(gw)).error["code"] == "replay_unavailable"
        assert (await ask(gw, temperature=0.5)).error["code"] == "idempotency_mismatch"
        assert (await ask(gw, "order-2")).status == 200
        assert await gw.spent() == 2 * UP_COST


async def test_a_kill_charges_no_key_twice(tmp_path: Path, up: ScriptedUpstream) -> None:
    gate = asyncio.Event()
    body = {"model": "solo", "messages": HELLO}
    up.queue(Ok("charged"), Stream(["lost"], gates={0: gate}))
    async with serving(tmp_path, config(up.url)) as first:
        assert (await first.ask("POST", CHAT, body, headers={"Idempotency-Key": "a"})).status == 200
        caller = await first.connect()
        await caller.send("POST", CHAT, body, headers={"Idempotency-Key": "b"})
        await up.arrived(2)
        first.process.kill()
        await first.process.wait()
    async with running(tmp_path, config(up.url)) as gw:
        again = await ask(gw, "a")  # The answer may have been written before the end, or not.
        assert again.headers.get("idempotent-replayed") == "true" or again.error["code"] == "replay_unavailable"
        assert (await ask(gw, "b")).status == 200
        assert await gw.spent(TENANT) == 2 * UP_COST
        await gw.assert_books_are_clean()


async def test_a_request_that_only_the_log_knows_of_was_not_served(tmp_path: Path, up: ScriptedUpstream) -> None:
    """As after a kill between the writing of the log and the commit of the charge."""
    async with running(tmp_path, two_tenants(up.url)) as gw:
        books = (gw.data / "ledger.db", tmp_path / "before.db")
    shutil.copy(*books)
    async with running(tmp_path, two_tenants(up.url)) as gw:
        assert (await ask(gw)).status == 200
    shutil.copy(*reversed(books))
    async with running(tmp_path, two_tenants(up.url)) as gw:
        assert (await ask(gw)).status == 200
        assert await gw.spent() == UP_COST


async def test_who_tries_a_broken_stream_again_pays_once(gw: Gateway, up: ScriptedUpstream) -> None:
    up.queue(Stream(["Hel"], stop_after=2, end=End.RESET), Stream())
    completions = gw.client().chat.completions

    async def text() -> str:
        chunks = await completions.create(model="solo", messages=SAID, stream=True, extra_headers=HEADERS)
        return "".join([c.choices[0].delta.content or "" async for c in chunks if c.choices])

    with pytest.raises(openai.APIError):
        await text()
    assert await text() == "Hello"
    assert await gw.spent() == UP_COST
