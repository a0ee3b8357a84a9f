"""The test doubles do what their docstrings promise: other suites lean on them."""

import asyncio

import aiohttp
import pytest

from tests.support.clock import START_NS, ManualClock
from tests.support.upstream import DONE, Ok, Replay, ScriptedUpstream, Status, Stream, sse
from tests.unit.upstream.kit import call, failing, fetch, transport


async def test_sleepers_wake_in_order_as_time_passes() -> None:
    clock = ManualClock()
    woken: list[tuple[str, float]] = []

    async def nap(name: str, *naps_s: float) -> None:
        for delay_s in naps_s:
            await clock.sleep(delay_s)
            woken.append((name, clock.monotonic_s() - 1_000.0))

    tasks = [asyncio.ensure_future(nap("a", 1.0, 1.0)), asyncio.ensure_future(nap("b", 1.5, 9.0))]
    await clock.wait_for_sleepers(2)
    await clock.run(2.5)
    assert woken == [("a", 1.0), ("b", 1.5), ("a", 2.0)]
    assert clock.sleepers == 1
    assert clock.now_ns() - START_NS == 2_500_000_000
    clock.advance(8.0)
    await asyncio.gather(*tasks)
    assert woken[-1] == ("b", 10.5)


async def test_a_jump_moves_only_the_wall_clock() -> None:
    clock = ManualClock()
    clock.jump(-3600.0)
    assert clock.now_ns() < START_NS
    assert clock.monotonic_s() == 1_000.0


async def test_scripts_of_a_model_go_before_the_queue_and_the_queue_before_standing_orders() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        upstream.default = Ok("default")
        upstream.on("m", Ok("standing"))
        upstream.queue(Ok("queued"))
        upstream.queue_for("m", Ok("own"))
        bodies = [await fetch(out, call(upstream.url)) for _ in range(3)]
        bodies.append(await fetch(out, call(upstream.url, b'{"model":"other"}')))
        for body, text in zip(bodies, (b"own", b"queued", b"standing", b"default"), strict=True):
            assert text in body


async def test_it_refuses_connections_and_listens_again_on_the_same_port() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        url = upstream.url
        await upstream.refuse()
        await failing(out, call(url))
        await upstream.listen()
        assert upstream.url == url
        assert b"Hello" in await fetch(out, call(url))


@pytest.mark.parametrize("cut", [None, 1, 7])
async def test_a_stream_is_the_same_however_it_is_cut(cut: int | None) -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        asked = b'{"model":"m","stream":true,"stream_options":{"include_usage":true}}'
        upstream.queue(Stream(["a", "b"], cut=cut))
        frames = (await fetch(out, call(upstream.url, asked))).split(b"\n\n")
        assert len(frames) == 7  # Role, two tokens, finish, usage, end, and nothing after it.
        assert b'"usage"' in frames[4]


async def test_a_recording_is_replayed_byte_for_byte() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        recorded = sse({"a": "é"}) + DONE
        upstream.queue(Replay(recorded, cuts=[1, 12, 13]))
        assert await fetch(out, call(upstream.url)) == recorded


async def test_any_client_can_speak_to_it() -> None:
    async with ScriptedUpstream() as upstream, aiohttp.ClientSession() as client:
        upstream.queue(Status(404, code="nope"))
        async with client.post(f"{upstream.url}/v1/x", json={"model": "m"}) as reply:
            assert (await reply.json())["error"]["code"] == "nope"
        async with client.post(f"{upstream.url}/v1/embeddings", json={"model": "e", "input": ["a", "b"]}) as reply:
            assert len((await reply.json())["data"]) == 2
        assert [request.model for request in upstream.requests] == ["m", "e"]
