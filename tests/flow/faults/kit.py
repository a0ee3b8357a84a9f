"""What a row of the table of faults says, and the one runner that proves it.

    Row(
        13,
        "reset",
        play=always(Reset()),
        cells=failing("upstream_reset_before_output", 502, "upstream_disconnected", up=RETRIED),
    )

A row has four cells: a buffered call and a stream, each at a model with one endpoint (`solo`) and at one with another
provider behind it (`duo`). Each cell is an Expect, or the reason why there is no such cell. `run()` plays one cell
through a whole gateway and over real sockets, and checks the answer, what the provider saw and when, the circuit and
the credential, the row and the charge.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import NamedTuple

import pytest

from routerx.domain.record import RequestRecord
from routerx.routing.state import CircuitView
from tests.flow.flow_kit import UP_COST
from tests.support.gateway import HELLO, UPSTREAM_KEY, Config, Gateway, Reply, config, running
from tests.support.upstream import Behaviour, Ok, Request, ScriptedUpstream

BACKOFF_S = 0.004
"""The least wait before the same endpoint is asked again, where that is right."""
TIMER_SHARE = 0.5
"""Of a wait that a clock must show: event loops fire early by what their own clock is late."""
NEVER = "30s..30s"
"""The backoff elsewhere: who waits where nothing is to be waited for fails by the caller's guard, which is shorter."""
SLOW_S = 0.03
CLIENTS_WAIT_S = 60
TELLING = b'"Hel"'
"""What a caller has of a stream that fails in the middle."""
HEARD = "Hello from upstream"


class Cell(NamedTuple):
    """One way to ask."""

    stream: bool
    duo: bool

    def __str__(self) -> str:
        return f"{'streamed' if self.stream else 'buffered'}-{'duo' if self.duo else 'solo'}"


class Effect(Enum):
    """What the failures of `up` do to its circuit or credential."""

    NONE = "none"
    COUNTED = "counted"
    HALF = "half"
    COOLED = "cooled"
    QUARANTINED = "quarantined"


@dataclass(frozen=True)
class Expect:
    """What comes of one cell. Without `code` and `in_band` the answer is whole."""

    outcome: str = "ok"
    """Of the row."""
    status: int = 200
    code: str | None = None
    """Of an error body."""
    in_band: str | None = None
    """Code of the error that ends a stream."""
    up: int = 1
    """Attempts at `up` by the row."""
    spare: int = 0
    """Attempts at `spare`."""
    seen: int | None = None
    """Requests that reached `up`; None: one for each attempt."""
    fault: str = "ok"
    """Outcome of the attempts at `up`."""
    after: str = "ok"
    """Outcome of the attempts at `spare`."""
    effect: Effect = Effect.NONE
    wait_s: float = 0.0
    """Between attempts at `up`, at least; 0: nothing is waited for, neither there nor before `spare`."""
    charged: bool = False
    cost_nano: int | None = None
    """Of what is charged; None: not said."""
    text: str | None = HEARD
    """Of a whole answer; None: not said."""
    retry_after: str | None = None
    flags: frozenset[str] = frozenset()
    """Of the row, at least."""

    @property
    def is_whole(self) -> bool:
        return self.code is None and self.in_band is None


OK = Expect(charged=True, cost_nano=UP_COST)
"""Answered by `up` as if nothing had been."""


class Cells(NamedTuple):
    """A text is the reason why there is no such cell."""

    buffered_solo: Expect | str
    buffered_duo: Expect | str
    streamed_solo: Expect | str
    streamed_duo: Expect | str

    def at(self, cell: Cell) -> Expect | str:
        return self[2 * cell.stream + cell.duo]


CELLS = tuple(Cell(stream, duo) for stream in (False, True) for duo in (False, True))

Play = Callable[[asyncio.Event], Behaviour]
"""A behaviour; one that fails in the middle of an answer waits for the event before it does."""


def always(behaviour: Behaviour) -> Play:
    return lambda _: behaviour


WELL = always(Ok())


@dataclass
class Scene:
    """What a row's gear may change before the gateway starts."""

    cell: Cell
    up: ScriptedUpstream
    spare: ScriptedUpstream
    value: Config
    patch: pytest.MonkeyPatch
    gate: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True)
class Ran:
    """What came of a cell, for a row's own checks."""

    scene: Scene
    gateway: Gateway
    reply: Reply
    row: RequestRecord
    log: str


Before = Callable[[Scene, Gateway], Awaitable[None]]
Gear = Callable[[Scene], AbstractAsyncContextManager[None]]
Check = Callable[[Ran], Awaitable[None]]


@dataclass(frozen=True)
class Row:
    """One fault, in one of its forms."""

    number: int
    """In the design's table."""
    name: str
    cells: Cells
    play: Play = WELL
    streamed: Play | None = None
    """In place of `play` where a stream is asked for."""
    spare: Play = WELL
    until: bytes | None = None
    """What a caller of a stream reads before the gate of `play` opens. It opens for a buffered call after SLOW_S."""
    timeouts: Mapping[str, str] = field(default_factory=dict)
    """Of `up`."""
    gear: Gear | None = None
    """Entered before the gateway starts."""
    before: Before | None = None
    """What the gateway lives through first; not counted among what is expected."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Of the request."""
    check: Check | None = None

    @property
    def id(self) -> str:
        return f"{self.number:02}_{self.name}"


# --- expectations that many rows share ---------------------------------------------------------------------------

RETRIED = (3, 2)
"""Attempts at `up`: with nobody behind it, and with a fallback, which gets the last attempt."""
ELSEWHERE = (3, 1)
"""Asked again only where there is nobody else."""
ONCE = (1, 1)


def failing(
    outcome: str,
    status: int,
    code: str,
    *,
    up: tuple[int, int] = ONCE,
    falls_back: bool = True,
    effect: Effect = Effect.COUNTED,
    seen: int | None = None,
    retry_after: str | None = None,
) -> Cells:
    """A fault before any output: told, and free, without a fallback; unseen by the caller with one."""
    told = Expect(
        outcome,
        status,
        code,
        up=up[0],
        fault=outcome,
        effect=effect,
        seen=seen,
        retry_after=retry_after,
        wait_s=BACKOFF_S if up[0] > 1 else 0.0,
    )
    if falls_back:
        helped = Expect(
            up=up[1],
            spare=1,
            fault=outcome,
            effect=effect,
            seen=seen,
            charged=True,
            cost_nano=10 * UP_COST,
            wait_s=BACKOFF_S if up[1] > 1 else 0.0,
        )
    else:
        helped = replace(told, up=up[1], wait_s=BACKOFF_S if up[1] > 1 else 0.0)
    return Cells(told, helped, told, helped)


def sampled(cells: Cells, reason: str) -> Cells:
    """Two cells instead of four, which differ in both ways."""
    return Cells(cells.buffered_solo, reason, reason, cells.streamed_duo)


def only_streams(cells: Cells, reason: str) -> Cells:
    return Cells(reason, reason, cells.streamed_solo, cells.streamed_duo)


def only_buffered(cells: Cells, reason: str) -> Cells:
    return Cells(cells.buffered_solo, cells.buffered_duo, reason, reason)


def broken(outcome: str, code: str, *, rescued: bool, effect: Effect = Effect.COUNTED) -> tuple[Expect, Expect]:
    """A stream that fails after it has told "Hel", alone and with a fallback: `spare` either repeats that byte for byte
    and goes on to "Hello", or says something else."""
    told = Expect(outcome, in_band=code, fault=outcome, effect=effect)
    if rescued:
        return told, Expect(
            spare=1, fault=outcome, effect=effect, charged=True, text="Hello", flags=frozenset({"rescued"})
        )
    return told, replace(told, spare=1, after="rescue_diverged")


# --- the runner --------------------------------------------------------------------------------------------------


async def run(row: Row, cell: Cell, folder: Path, patch: pytest.MonkeyPatch, logs: pytest.LogCaptureFixture) -> None:
    """Play one cell that exists, and check all that it says."""
    expect = row.cells.at(cell)
    assert isinstance(expect, Expect)
    async with _stage(row, cell, expect, patch) as scene, running(folder, scene.value) as gateway:
        if row.before is not None:
            await row.before(scene, gateway)
            await gateway.settled()
        before = (len(scene.up.requests), await gateway.spent())
        reply = await _ask(row, scene, gateway)
        record = await gateway.settled()
        _check_reply(reply, expect)
        _check_attempts(scene, scene.up.requests[before[0] :], record, expect)
        _check_circuit(gateway, expect)
        spent = await gateway.spent() - before[1]
        assert (record.outcome, record.http_status) == (expect.outcome, expect.status)
        assert expect.flags <= set(record.flags)
        assert (spent > 0, spent) == (expect.charged, record.cost_nano)
        assert (record.billing == "void") is not expect.charged
        if expect.cost_nano is not None:
            assert spent == expect.cost_nano
        if row.check is not None:
            await row.check(Ran(scene, gateway, reply, record, logs.text))
        assert UPSTREAM_KEY not in logs.text
        await gateway.assert_books_are_clean()


@asynccontextmanager
async def _stage(row: Row, cell: Cell, expect: Expect, patch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        up, spare = [await stack.enter_async_context(ScriptedUpstream()) for _ in range(2)]
        scene = Scene(cell, up, spare, config(up.url, spare.url), patch)
        scene.value["providers"]["up"]["timeouts"] = dict(row.timeouts)
        backoff_ms = expect.wait_s * 1_000
        backoff = f"{backoff_ms:g}ms..{2 * backoff_ms:g}ms" if expect.wait_s else NEVER
        scene.value["policies"]["default"]["retry"]["backoff"] = backoff
        play = row.streamed if cell.stream and row.streamed is not None else row.play
        up.default, spare.default = play(scene.gate), row.spare(scene.gate)
        if row.gear is not None:
            await stack.enter_async_context(row.gear(scene))
        yield scene


async def _ask(row: Row, scene: Scene, gateway: Gateway) -> Reply:
    caller = await gateway.connect()
    model = "duo" if scene.cell.duo else "solo"
    body = {"model": model, "messages": HELLO, "stream": scene.cell.stream}
    await caller.send("POST", "/v1/chat/completions", body, headers=row.headers)
    if row.until is None:
        return await caller.reply()
    if not scene.cell.stream:
        await scene.up.arrived()
        await asyncio.sleep(SLOW_S)
        scene.gate.set()
        return await caller.reply()
    head = await caller.head()
    seen = await caller.until(row.until)
    scene.gate.set()
    return await caller.reply(head, seen)


def _check_reply(reply: Reply, expect: Expect) -> None:
    """The status, the one error shape, the headers that go with it, and no secret."""
    assert reply.status == expect.status, reply.body
    assert UPSTREAM_KEY.encode() not in reply.body
    assert not reply.cut
    if expect.code is not None:
        error = reply.error
        assert (error["code"], error["request_id"]) == (expect.code, reply.headers["x-request-id"])
        assert reply.headers.get("retry-after") == expect.retry_after
        # Official clients ask again at once where they would have to wait for more than a minute.
        is_soon = int(reply.headers.get("retry-after", "0")) <= CLIENTS_WAIT_S
        assert ("x-should-retry" in reply.headers) is not (error["retryable"] and is_soon)
        return
    is_stream = reply.headers["content-type"].startswith("text/event-stream")
    if b"\r\n\r\n" in reply.body:  # A provider's own line ends pass.
        reply = replace(reply, body=reply.body.replace(b"\r\n", b"\n"))
    found = reply.stream_error if is_stream else None
    if expect.in_band is not None:
        assert found is not None
        assert (found["code"], found["request_id"]) == (expect.in_band, reply.headers["x-request-id"])
    else:
        assert found is None
        assert expect.text is None or reply.text == expect.text


def _check_attempts(scene: Scene, requests: list[Request], record: RequestRecord, expect: Expect) -> None:
    """What the providers saw, when, and what was written down of it."""
    attempts = [(attempt.provider, attempt.outcome) for attempt in record.attempts]
    assert attempts == [("up", expect.fault)] * expect.up + [("spare", expect.after)] * expect.spare
    assert [attempt.won for attempt in record.attempts] == [False] * (len(attempts) - expect.is_whole) + [
        True
    ] * expect.is_whole
    assert len(requests) == (expect.up if expect.seen is None else expect.seen)
    assert len(scene.spare.requests) == expect.spare
    moments = [request.at_s for request in requests]
    if len(moments) < expect.up:  # They did not come so far: by the row, then, which knows milliseconds.
        moments = [attempt.started_ms / 1_000 for attempt in record.attempts[: expect.up]]
    for before, after in itertools.pairwise(moments):
        assert after - before >= expect.wait_s * TIMER_SHARE
    assert all(request.headers["authorization"] == f"Bearer {UPSTREAM_KEY}" for request in requests)


def _check_circuit(gateway: Gateway, expect: Expect) -> None:
    view = next((one for one in _view(gateway) if one.endpoint.startswith("up/")), None)
    assert view is not None
    failures = {Effect.COUNTED: expect.up, Effect.HALF: expect.up / 2}.get(expect.effect, 0)
    assert (view.circuit, view.failures) == ("closed", failures)
    credentials = {Effect.COOLED: "cooling", Effect.QUARANTINED: "quarantined"}
    assert view.credential == credentials.get(expect.effect, "active")
    others = [one for one in _view(gateway) if one.endpoint.startswith("spare/")]
    assert all((one.circuit, one.failures) == ("closed", 0) for one in others)


def _view(gateway: Gateway) -> tuple[CircuitView, ...]:
    runtime = gateway.runtime
    return runtime.routing.view(runtime.clock.monotonic_s())
