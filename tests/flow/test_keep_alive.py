"""What a caller reads while it waits for a stream: something that its own client skips."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import anthropic
import pytest

from tests.support.gateway import GUARD_S, HELLO, KEY, Gateway, config, running
from tests.support.natives.callers import GeminiCaller
from tests.support.upstream import Ok, ScriptedUpstream


@pytest.fixture
async def slow(tmp_path: Path) -> AsyncIterator[tuple[Gateway, asyncio.Event]]:
    """A gateway that breaks the silence every 10 ms, and the gate that its provider's answer waits for."""
    gate = asyncio.Event()
    async with ScriptedUpstream() as up:
        up.default = Ok("Hello", gate=gate)
        value = config(up.url)
        value["server"]["keep_alive"] = "10ms"
        async with running(tmp_path, value) as gateway:
            yield gateway, gate


async def opened(gate: asyncio.Event) -> None:
    """Let some silence pass before the answer."""
    await asyncio.sleep(0.05)
    gate.set()


async def test_googles_client_waits_for_a_stream(slow: tuple[Gateway, asyncio.Event]) -> None:
    gateway, gate = slow
    caller = GeminiCaller(gateway.url, KEY)
    seen, _ = await asyncio.gather(caller.text("solo", True), opened(gate))
    assert seen.text == "Hello"
    await caller.close()


async def test_the_openai_client_waits_for_a_stream(slow: tuple[Gateway, asyncio.Event]) -> None:
    gateway, gate = slow
    opening = asyncio.ensure_future(opened(gate))
    chunks = [
        chunk
        async for chunk in await gateway.client().chat.completions.create(model="solo", messages=HELLO, stream=True)
    ]
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == "Hello"
    await opening


async def test_the_anthropic_client_waits_for_a_stream(slow: tuple[Gateway, asyncio.Event]) -> None:
    gateway, gate = slow
    opening = asyncio.ensure_future(opened(gate))
    client = anthropic.AsyncAnthropic(base_url=gateway.url, api_key=KEY, max_retries=0, timeout=GUARD_S)
    async with client, client.messages.stream(model="solo", max_tokens=9, messages=HELLO) as stream:
        assert await stream.get_final_text() == "Hello"
    await opening


async def test_the_silence_is_broken_as_each_wire_bears_it(slow: tuple[Gateway, asyncio.Event]) -> None:
    gateway, gate = slow
    caller = await gateway.connect()
    body = {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}
    await caller.send("POST", "/v1beta/models/solo:streamGenerateContent?alt=sse", body)
    other = await gateway.begin(stream=True)
    assert (await caller.head()).status == 200
    assert (await other.head()).status == 200
    assert await caller.chunk() == b"\r\n\r\n"
    assert await other.chunk() == b": keep-alive\n\n"
    gate.set()
    assert (await caller.until(b"Hello")).count(b"data: ") == 1
