"""What callers get when a provider fails: the faults of content in the design's table, as a table here.

Each fault is met by a buffered call and by a stream, at a model with one endpoint (`solo`) and at one with another
provider behind it (`duo`). Numbers in the names are those of the design's table of faults.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.flow.flow_kit import UP_COST, chunk
from tests.support.gateway import UPSTREAM_KEY, Config, Gateway, Reply, config, running
from tests.support.upstream import (
    DONE,
    Behaviour,
    End,
    Html,
    Json,
    ScriptedUpstream,
    Status,
    Stream,
    sse,
)

RETRIED = (3, 2)
"""Calls made to the failing provider: with nobody behind it, and with a fallback, which gets the last attempt."""
ELSEWHERE = (3, 1)
"""Asked again only where there is nobody else."""
ONCE = (1, 1)

Play = Callable[[asyncio.Event], Behaviour]
"""A behaviour; one that fails in the middle of a stream waits for the event before it does."""


@dataclass(frozen=True)
class Fault:
    """One row: what the provider does, and what comes of it."""

    name: str
    play: Play
    status: int
    code: str
    outcome: str
    calls: tuple[int, int] = RETRIED
    retry_after: str | None = None
    falls_back: bool = True
    buffered: bool = True
    streamed: bool = True


def always(behaviour: Behaviour) -> Play:
    return lambda _: behaviour


ENDLESS_EVENT = b'data: {"filler":"' + b"x" * (1024 * 1024)
ERROR_EVENT = {"error": {"message": "scripted trouble", "type": "server_error", "code": None}}

FAULTS = (
    *(
        Fault(f"24_status_{status}", always(Status(status)), 502, "upstream_error", "upstream_5xx")
        for status in (500, 502, 503, 504)
    ),
    Fault("35_status_408", always(Status(408)), 502, "upstream_error", "upstream_5xx"),
    Fault(
        "25_overloaded_529",
        always(Status(529, headers={"retry-after": "60"})),
        503,
        "upstream_overloaded",
        "upstream_overloaded",
        ONCE,
        retry_after="60",
    ),
    Fault(
        "25_overloaded_by_code",
        always(Status(503, {"error": {"type": "overloaded_error", "message": "busy"}})),
        503,
        "upstream_overloaded",
        "upstream_overloaded",
        ELSEWHERE,
    ),
    Fault(
        "27_rate_limited",
        always(Status(429, headers={"retry-after": "60"}, code="rate_limit_exceeded")),
        429,
        "upstream_rate_limited",
        "upstream_429",
        ONCE,
        retry_after="60",
    ),
    Fault(
        "29_account_exhausted",
        always(Status(429, code="insufficient_quota")),
        503,
        "provider_account_exhausted",
        "provider_exhausted",
        ONCE,
    ),
    Fault("31_key_refused_401", always(Status(401)), 502, "upstream_auth_failed", "upstream_auth_failed", ONCE),
    Fault("31_key_refused_403", always(Status(403)), 502, "upstream_auth_failed", "upstream_auth_failed", ONCE),
    *(
        Fault(
            f"33_rejected_{status}",
            always(Status(status)),
            status,
            "upstream_rejected",
            "upstream_4xx",
            ONCE,
            falls_back=False,
        )
        for status in (400, 404, 413, 422)
    ),
    Fault(
        "34_credit_too_low_as_400",
        always(Status(400, code="insufficient_credits")),
        503,
        "provider_account_exhausted",
        "provider_exhausted",
        ONCE,
    ),
    Fault(
        "34_context_exceeded",
        always(Status(400, code="context_length_exceeded")),
        400,
        "context_length_exceeded",
        "upstream_context_exceeded",
        ONCE,
        falls_back=False,  # The other one's window is not known to be larger.
    ),
    Fault("36_error_in_200", always(Json(ERROR_EVENT)), 502, "upstream_error", "upstream_200_error"),
    Fault(
        "36_error_as_first_event",
        always(Stream(frames=[sse(ERROR_EVENT)])),
        502,
        "upstream_error",
        "upstream_error_midstream",
        buffered=False,
    ),
    Fault("37_page", always(Html()), 502, "upstream_bad_content_type", "upstream_bad_content_type", ONCE),
    Fault("40_empty_body", always(Json(b"")), 502, "upstream_empty_response", "upstream_empty"),
    Fault(
        "40_no_choices", always(Json({"object": "x", "choices": []})), 502, "upstream_empty_response", "upstream_empty"
    ),
    Fault(
        "40_stream_of_nothing",
        always(Stream(frames=[DONE])),
        502,
        "upstream_empty_response",
        "upstream_empty",
        buffered=False,
    ),
    Fault(
        "41_first_event_is_no_json",
        always(Stream(frames=[b"data: {]\n\n", sse(chunk("Hel")), DONE])),
        502,
        "upstream_invalid_chunk",
        "upstream_invalid_chunk",
        buffered=False,
    ),
    Fault(
        "43_first_event_never_ends",
        always(Stream(frames=[ENDLESS_EVENT])),
        502,
        "upstream_event_too_large",
        "upstream_event_too_large",
        ONCE,
        buffered=False,
    ),
)


def broken(last: list[bytes], end: End = End.FIN, **more: Any) -> Play:
    """A stream that has told "Hel" when the event comes, and then goes on with `last`."""
    head = [sse(chunk("Hel"))]
    return lambda gate: Stream(
        frames=[*head, *last, b": never sent\n\n"], gates={1: gate}, stop_after=1 + len(last), end=end, **more
    )


MIDSTREAM = (
    Fault(
        "41_invalid_event",
        broken([b"data: {]\n\n"], End.STALL),
        502,
        "upstream_invalid_chunk",
        "upstream_invalid_chunk",
    ),
    Fault(
        "43_event_never_ends",
        broken([ENDLESS_EVENT], End.STALL),
        502,
        "upstream_event_too_large",
        "upstream_event_too_large",
    ),
    Fault("44_error_event", broken([sse(ERROR_EVENT)], End.STALL), 502, "upstream_error", "upstream_error_midstream"),
    Fault(
        "44_error_event_by_name",
        broken([b'event: error\ndata: {"message":"scripted trouble"}\n\n'], End.STALL),
        502,
        "upstream_error",
        "upstream_error_midstream",
    ),
    Fault(
        "44_overloaded_event",
        broken([sse({"error": {"type": "overloaded_error", "message": "busy"}})], End.STALL),
        503,
        "upstream_overloaded",
        "upstream_overloaded",
    ),
)


def quick(up: str, spare: str) -> Config:
    """Deadlines that a test can wait for."""
    value = config(up, spare)
    value["providers"]["up"]["timeouts"] = {"first_token": "150ms", "idle": "80ms"}
    return value


@asynccontextmanager
async def both(tmp_path: Path) -> AsyncIterator[tuple[Gateway, ScriptedUpstream, ScriptedUpstream]]:
    """A gateway with both providers."""
    async with (
        ScriptedUpstream() as up,
        ScriptedUpstream() as spare,
        running(tmp_path, quick(up.url, spare.url)) as gateway,
    ):
        yield gateway, up, spare


MODES = [
    pytest.param(fault, stream, id=f"{fault.name}-{'streamed' if stream else 'buffered'}")
    for fault in FAULTS
    for stream in (False, True)
    if (fault.streamed if stream else fault.buffered)
]
every_fault = pytest.mark.parametrize(("fault", "stream"), MODES)


@every_fault
async def test_fault_without_fallback_is_told_and_free(tmp_path: Path, fault: Fault, stream: bool) -> None:
    async with both(tmp_path) as (gw, up, _):
        up.default = fault.play(asyncio.Event())

        reply = await gw.chat(stream=stream)

        assert_told(reply, fault)
        assert len(up.requests) == fault.calls[0]
        row = await gw.settled()
        assert (row.outcome, row.http_status, row.billing, row.cost_nano) == (fault.outcome, fault.status, "void", 0)
        assert [attempt.outcome for attempt in row.attempts] == [fault.outcome] * fault.calls[0]
        assert not any(attempt.won for attempt in row.attempts)
        assert await gw.spent() == 0
        await gw.assert_books_are_clean()


@every_fault
async def test_fault_with_fallback(tmp_path: Path, fault: Fault, stream: bool) -> None:
    async with both(tmp_path) as (gw, up, spare):
        up.default = fault.play(asyncio.Event())

        reply = await gw.chat("duo", stream=stream)

        row = await gw.settled()
        outcomes = [attempt.outcome for attempt in row.attempts]
        if fault.falls_back:
            assert (reply.status, reply.text) == (200, "Hello from upstream")
            assert (reply.headers["x-routerx-provider"], reply.headers["x-routerx-fallback"]) == ("spare", "true")
            assert reply.headers["x-routerx-attempts"] == str(fault.calls[1] + 1)
            assert outcomes == [fault.outcome] * fault.calls[1] + ["ok"]
            assert (row.outcome, row.provider, row.cost_nano) == ("ok", "spare", 10 * UP_COST)
            assert await gw.spent() == 10 * UP_COST
        else:
            assert_told(reply, fault)
            assert (row.outcome, outcomes, spare.requests) == (fault.outcome, [fault.outcome] * fault.calls[1], [])
            assert await gw.spent() == 0
        assert len(up.requests) == fault.calls[1]
        await gw.assert_books_are_clean()


@pytest.mark.parametrize("fault", [pytest.param(fault, id=fault.name) for fault in MIDSTREAM])
@pytest.mark.parametrize("model", ["solo", "duo"])
async def test_fault_after_output_ends_the_stream_in_band_and_is_free(tmp_path: Path, fault: Fault, model: str) -> None:
    async with both(tmp_path) as (gw, up, spare):
        gate = asyncio.Event()
        up.default = fault.play(gate)
        spare.default = Stream(["Bonjour"])  # Nobody goes on with what the caller has.
        rescues = ["rescue_diverged"] if model == "duo" else []

        caller = await gw.begin(model, stream=True)
        head = await caller.head()
        seen = await caller.until(b'"Hel"')
        gate.set()
        reply = await caller.reply(head, seen)

        error = reply.stream_error
        assert error is not None
        assert (error["code"], error["request_id"]) == (fault.code, reply.headers["x-request-id"])
        assert UPSTREAM_KEY not in json.dumps(error)
        assert b"{]" not in reply.body
        assert b"xxxx" not in reply.body
        row = await gw.settled()
        assert (row.outcome, row.http_status, row.billing, row.cost_nano) == (fault.outcome, 200, "void", 0)
        assert [attempt.outcome for attempt in row.attempts] == [fault.outcome, *rescues]
        assert not any(attempt.won for attempt in row.attempts)
        assert row.usage is not None  # What the house may have to pay for.
        assert (len(up.requests), len(spare.requests)) == (1, len(rescues))
        await up.requests[0].gone()  # No broken connection is used again, and none is left to run on.
        assert await gw.spent() == 0
        await gw.assert_books_are_clean()


def assert_told(reply: Reply, fault: Fault) -> None:
    """The status, the one error shape, the headers that go with it, and no secret."""
    assert (reply.status, reply.error["code"]) == (fault.status, fault.code)
    assert reply.error["request_id"] == reply.headers["x-request-id"]
    assert reply.headers.get("retry-after") == fault.retry_after
    assert ("x-should-retry" in reply.headers) is not reply.error["retryable"]
    assert UPSTREAM_KEY.encode() not in reply.body
    assert b"hush" not in reply.body


async def test_storm_of_errors_opens_the_circuit_and_is_answered_at_once(tmp_path: Path) -> None:  # 26
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        up.default = Status(500)
        for _ in range(2):
            assert (await gw.chat()).error["code"] == "upstream_error"
        asked = len(up.requests)

        told = await gw.chat()

        assert (told.status, told.error["code"], told.error["retryable"]) == (503, "no_healthy_upstream", True)
        assert 1 <= int(told.headers["retry-after"]) <= 30
        assert asked == len(up.requests) == 5
        rows = [await gw.settled() for _ in range(3)]
        assert (rows[2].outcome, rows[2].attempts, rows[2].held_nano) == ("breaker_open", (), 0)
        health = (await gw.ask("GET", "/health", key=None)).json
        assert [(one["endpoint"], one["circuit"]) for one in health["endpoints"]] == [("up/solo", "open")]
        await gw.assert_books_are_clean()


async def test_rate_limited_key_rests_and_the_other_one_answers(tmp_path: Path) -> None:  # 27
    async with ScriptedUpstream() as up:
        value = config(up.url)
        value["providers"]["up"]["keys"] = ["${env:UP_KEY}", "${env:OTHER}"]
        async with running(tmp_path, value, {"UP_KEY": UPSTREAM_KEY, "OTHER": "other-key-fake-123456"}) as gw:
            up.queue(Status(429, headers={"retry-after": "60"}))
            assert (await gw.chat()).headers["x-routerx-attempts"] == "2"
            assert (await gw.chat()).headers["x-routerx-attempts"] == "1"
            keys = [request.headers["authorization"] for request in up.requests]
            assert keys[0] != keys[1] == keys[2]


async def test_prompt_too_long_goes_only_to_a_larger_window(tmp_path: Path) -> None:  # 34
    async with ScriptedUpstream() as up, ScriptedUpstream() as spare:
        value = config(up.url, spare.url)
        first, second = value["models"]["duo"]["endpoints"]
        value["models"]["duo"]["endpoints"] = [first | {"context": 8000}, second | {"context": 128_000}]
        async with running(tmp_path, value) as gw:
            up.default = Status(400, code="context_length_exceeded")
            reply = await gw.chat("duo")
            assert (reply.status, reply.headers["x-routerx-provider"]) == (200, "spare")
            assert (len(up.requests), len(spare.requests)) == (1, 1)
