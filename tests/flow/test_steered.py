"""Deadlines and keys that callers bring, conversations that stay, and answers that no reader of ours survives."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from routerx.dialects import openai_chat
from routerx.dialects.openai_chat import tap
from tests.support.gateway import HELLO, UPSTREAM_KEY, Config, Gateway, Reply, config, running
from tests.support.upstream import Ok, ScriptedUpstream, Silence, Status, Stream

OWN_KEY = "own-key-fake-987654"


@asynccontextmanager
async def two(tmp_path: Path, **policy: Any) -> AsyncIterator[tuple[Gateway, ScriptedUpstream, ScriptedUpstream]]:
    async with ScriptedUpstream() as up, ScriptedUpstream() as spare:
        value = config(up.url, spare.url)
        value["policies"]["default"] |= policy
        async with running(tmp_path, value) as gateway:
            yield gateway, up, spare


async def chat(gw: Gateway, model: str, headers: dict[str, str], **fields: Any) -> Reply:
    body = {"model": model, "messages": HELLO, **fields}
    return await gw.ask("POST", "/v1/chat/completions", body, headers=headers)


# --- deadlines


@pytest.mark.parametrize("stream", [False, True])
async def test_the_callers_deadline_is_kept_and_not_the_providers_fault(tmp_path: Path, stream: bool) -> None:
    async with two(tmp_path) as (gw, up, spare):
        up.default = Silence()
        reply = await chat(gw, "duo", {"X-RouterX-Timeout": "60ms"}, stream=stream)
        assert (reply.status, reply.error["code"]) == (504, "client_deadline_exceeded")
        row = await gw.settled()
        assert (row.outcome, row.cost_nano, len(row.attempts)) == ("client_deadline", 0, 1)
        assert spare.requests == []
        (view,) = gw.runtime.routing.view(0.0)
        assert (view.circuit, view.failures) == ("closed", 0.0)
        await gw.assert_books_are_clean()


async def test_what_was_delivered_before_the_callers_deadline_is_charged(tmp_path: Path) -> None:
    """Nobody else is to blame, as when the caller hangs up."""
    async with two(tmp_path) as (gw, up, _):
        up.default = Stream(["Hel"], stop_after=2, end=Stream().end.STALL)
        reply = await chat(gw, "solo", {"X-RouterX-Timeout": "80ms"}, stream=True)
        error = reply.stream_error
        assert error is not None
        assert error["code"] == "client_deadline_exceeded"
        row = await gw.settled()
        assert (row.outcome, row.usage_source.value) == ("client_deadline", "estimated")
        assert row.cost_nano > 0
        await gw.assert_books_are_clean()


async def test_a_deadline_that_is_none_is_refused(tmp_path: Path) -> None:
    async with two(tmp_path) as (gw, up, _):
        reply = await chat(gw, "solo", {"X-RouterX-Timeout": "soon"})
        assert (reply.status, reply.error["code"]) == (400, "invalid_parameter")
        assert "X-RouterX-Timeout" in reply.error["message"]
        assert up.requests == []


# --- keys of callers


async def test_a_callers_own_key_is_sent_and_costs_nothing_here(tmp_path: Path) -> None:
    async with two(tmp_path) as (gw, up, _):
        up.default = Ok()
        reply = await chat(gw, "duo", {"X-RouterX-API-Key": OWN_KEY})
        assert reply.status == 200
        assert up.requests[0].headers["authorization"] == f"Bearer {OWN_KEY}"
        row = await gw.settled()
        assert row.billing.value == "byok"
        assert (row.cost_nano, row.held_nano) == (0, 0)
        assert "byok" in row.flags
        assert OWN_KEY not in repr(row)
        assert (await gw.chat("duo")).status == 200  # And the next request goes by the house's key again.
        assert up.requests[1].headers["authorization"] == f"Bearer {UPSTREAM_KEY}"
        await gw.assert_books_are_clean()


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_refused_own_key_is_the_callers_affair_alone(tmp_path: Path, status: int, stream: bool) -> None:
    async with two(tmp_path) as (gw, up, spare):
        up.queue(Status(status))
        up.default = Ok()
        reply = await chat(gw, "duo", {"X-RouterX-API-Key": OWN_KEY}, stream=stream)
        assert (reply.status, reply.error["code"]) == (403, "byok_key_rejected")
        assert OWN_KEY not in reply.body.decode()
        assert (len(up.requests), spare.requests) == (1, [])
        assert (await gw.settled()).outcome == "byok_rejected"
        assert (await gw.chat("duo")).status == 200  # Nothing was learnt about the house's key.
        assert up.requests[1].headers["authorization"] == f"Bearer {UPSTREAM_KEY}"


async def test_an_own_key_never_goes_to_another_provider(tmp_path: Path) -> None:
    async with two(tmp_path) as (gw, up, spare):
        up.default = Status(503)
        reply = await chat(gw, "duo", {"X-RouterX-API-Key": OWN_KEY})
        assert reply.error["code"] == "upstream_error"
        assert {one.headers["authorization"] for one in up.requests} == {f"Bearer {OWN_KEY}"}
        assert spare.requests == []


async def test_a_stream_by_an_own_key_that_breaks_is_not_gone_on_with_by_another_provider(tmp_path: Path) -> None:
    async with two(tmp_path) as (gw, up, spare):
        up.default = Stream(["Hel", "lo"], stop_after=2)
        reply = await chat(gw, "duo", {"X-RouterX-API-Key": OWN_KEY}, stream=True)
        error = reply.stream_error
        assert error is not None
        assert error["code"] == "upstream_truncated"
        assert spare.requests == []


# --- conversations


def cached(up: str, spare: str) -> Config:
    """Two equal endpoints that read what they know cheaper, in turns."""
    value = config(up, spare)
    price = {"input": 2, "output": 2, "cached_input": 1}
    value["models"]["pair"] = {"endpoints": [{"provider": name, "price": price} for name in ("up", "spare")]}
    value["policies"]["default"] |= {"sort": "round-robin", "affinity": "5m"}
    return value


async def test_a_conversation_stays_with_the_endpoint_that_answered_it(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream() as up,
        ScriptedUpstream() as spare,
        running(tmp_path, cached(up.url, spare.url)) as gw,
    ):
        up.default, spare.default = Ok("up"), Ok("spare")
        system = {"role": "system", "content": "You are terse."}

        async def say(*said: str, **headers: str) -> str:
            turns = [{"role": "user" if n % 2 == 0 else "assistant", "content": text} for n, text in enumerate(said)]
            body = {"model": "pair", "messages": [system, *turns]}
            return (await gw.ask("POST", "/v1/chat/completions", body, headers=headers)).text

        first = [await say("a"), await say("b")]
        assert sorted(first) == ["spare", "up"]  # Two conversations, in turns.
        for _ in range(3):
            assert [await say("a", "x", "more"), await say("b", "y", "more")] == first
        assert await say("c", **{"X-Session-Id": "s1"}) == await say("d", **{"X-Session-Id": "s1"})


async def test_a_conversation_leaves_an_endpoint_that_fails(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream() as up,
        ScriptedUpstream() as spare,
        running(tmp_path, cached(up.url, spare.url)) as gw,
    ):
        up.default, spare.default = Ok("up"), Ok("spare")
        assert (await gw.chat("pair")).text == "up"
        up.default = Status(503)
        assert [(await gw.chat("pair")).text for _ in range(3)] == ["spare"] * 3


# --- answers that cannot be read


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_on_which_a_reader_fails_goes_to_the_next_candidate(
    tmp_path: Path, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two(tmp_path) as (gw, up, spare):
        up.default, spare.default = Ok("poison"), Ok("good")
        poison(monkeypatch)
        assert (await gw.chat("duo", stream=stream)).text == "good"
        row = await gw.settled()
        assert [attempt.outcome for attempt in row.attempts] == ["upstream_unreadable", "ok"]


async def test_a_stream_on_which_a_reader_fails_midway_ends_in_band(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two(tmp_path) as (gw, up, _):
        gate = asyncio.Event()
        up.default = Stream(["Hel", "poison"], gates={2: gate})
        poison(monkeypatch)
        caller = await gw.begin("solo", stream=True)
        head = await caller.head()
        seen = await caller.until(b"Hel")
        gate.set()
        reply = await caller.reply(head, seen)
        error = reply.stream_error
        assert error is not None
        assert (error["code"], (await gw.settled()).outcome) == ("upstream_protocol_error", "upstream_unreadable")
        await gw.assert_books_are_clean()


def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our readers of the chat wire raise at the word."""

    def raising(read: Any) -> Any:
        def wrapped(*args: Any) -> Any:
            if b"poison" in repr(args).encode():
                raise ValueError("a bug")
            return read(*args)

        return wrapped

    monkeypatch.setattr(tap.OpenAITap, "feed", raising(tap.OpenAITap.feed))
    monkeypatch.setattr(openai_chat, "_read_answer", raising(openai_chat._read_answer))
