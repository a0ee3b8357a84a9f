"""Deadlines of a call, each by itself."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.flow.faults.gear import SlowDrip
from tests.flow.flow_kit import UP_COST, chunk, completion, within
from tests.support.upstream import End, Endless, Gate, Raw, Silence, Stream, sse, usage_of


@pytest.mark.parametrize("stream", [False, True])
async def test_total_deadline_bounds_a_call_that_is_never_answered(tmp_path: Path, stream: bool) -> None:
    async with within(tmp_path, total="150ms") as (gw, up):
        up.default = Silence()
        reply = await gw.chat(stream=stream)
        assert (reply.status, reply.error["code"]) == (504, "upstream_too_slow")
        row = await gw.settled()
        assert (row.outcome, len(row.attempts), row.cost_nano) == ("upstream_too_slow", 1, 0)


@pytest.mark.parametrize("drips", [True, False], ids=["drip", "stall"])
async def test_total_deadline_ends_a_stream_whatever_comes(tmp_path: Path, drips: bool) -> None:  # 10
    async with within(tmp_path, total="250ms") as (gw, up):
        gate = asyncio.Event()
        up.default = Stream(["Hel", "lo"], gates={2: gate})
        caller = await gw.begin(stream=True)
        head = await caller.head()
        seen = await caller.until(b'"Hel"')
        if drips:
            await asyncio.sleep(0.26)
            gate.set()
        reply = await caller.reply(head, seen)
        error = reply.stream_error
        assert error is not None
        assert error["code"] == "upstream_too_slow"
        assert (await gw.settled()).outcome == "upstream_too_slow"
        await up.requests[0].gone()
        assert await gw.spent() == 0


async def test_body_of_a_buffered_answer_may_take_longer_than_its_first_byte(tmp_path: Path) -> None:
    """Some providers send the headers at once, and then blanks while they think."""
    async with within(tmp_path, first_token="100ms") as (gw, up):
        gate = asyncio.Event()
        body = json.dumps(completion(usage_of(7, 3))).encode()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (len(body) + 1)
        up.default = Raw([head + b" ", Gate(gate), body])
        caller = await gw.begin()
        await asyncio.sleep(0.12)
        gate.set()
        reply = await caller.reply()
        assert (reply.status, reply.text) == (200, "Hello")
        assert await gw.spent() == UP_COST


async def test_caller_who_does_not_read_slows_the_provider_down(tmp_path: Path) -> None:  # 58
    async with within(tmp_path) as (gw, up):
        up.default = flood = Endless(sse(chunk("x" * 4_000)), "text/event-stream")
        caller = await gw.begin(stream=True)
        await caller.head()
        before = -1
        async with asyncio.timeout(10):
            while flood.sent[0] != before:
                before = flood.sent[0]
                await asyncio.sleep(0.1)
        assert 0 < before < 100_000_000  # What sockets hold, and no more.
        caller.leave()
        await up.requests[0].gone()
        row = await gw.settled()
        assert (row.outcome, row.cost_nano > 0) == ("client_gone_midstream", True)
        await gw.assert_books_are_clean()


async def test_the_total_deadline_is_the_requests_and_not_each_attempts(tmp_path: Path) -> None:
    async with within(tmp_path, total="400ms") as (gw, up):
        gate = asyncio.Event()
        asyncio.get_running_loop().call_later(0.25, gate.set)
        up.queue(Raw([Gate(gate), b"HTTP/1.1 500 x\r\ncontent-length: 0\r\n\r\n"], End.KEEP))
        up.default = SlowDrip()
        began_s = asyncio.get_running_loop().time()
        reply = await gw.chat("solo")
        assert reply.status == 504
        assert asyncio.get_running_loop().time() - began_s < 0.6
        assert (await gw.settled()).attempts[0].outcome == "upstream_5xx"
