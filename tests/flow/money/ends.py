"""Rows D to H, J, K and S: answers that did not become whole, and whose affair that is."""

import asyncio
import shutil
from collections.abc import Mapping
from dataclasses import replace

from tests.flow.flow_kit import chunk
from tests.flow.money.kit import (
    UP,
    VOID,
    ByCell,
    Cell,
    Change,
    Expect,
    Held,
    Play,
    Row,
    Scene,
    Tried,
    answers,
    both,
    only_buffered,
    only_streams,
    planned,
    priced,
)
from tests.flow.money.oracle import Price, Terms, Used
from tests.support.behaviours import Behaviour
from tests.support.gateway import Caller, Config, Head, running, wait_for
from tests.support.upstream import (
    End,
    Hangup,
    Ok,
    Reset,
    ScriptedUpstream,
    Silence,
    Status,
    Stream,
    Truncated,
    refused_url,
    sse,
    usage_of,
)

TEXT = "x" * 400
"""100 tokens, where nobody has counted them."""
NO_MIDDLE = "a whole answer has no middle: its caller has all of it or nothing"
CANCELLED = Tried("up", "cancelled", UP)

# --- the caller leaves before the first token: D


def _gone(cell: Cell) -> str:
    return "client_gone_no_output" if cell.stream else "client_gone_nonstream"


def _free_abort(cell: Cell) -> Expect:
    return replace(VOID, outcome=_gone(cell), status=499, attempts=(CANCELLED,))


def _charged_abort(cell: Cell) -> Expect:
    return Expect(
        cell.prompt, source="estimated", outcome=_gone(cell), status=499, attempts=(CANCELLED,), rows=FREE_ABORTS + 1
    )


def _dear_abort(cell: Cell) -> Expect:
    tried = CANCELLED._replace(bills=DEAR_PROMPT)
    return replace(_charged_abort(cell), terms=Terms(DEAR_PROMPT), rows=_dear_aborts(cell) + 1, attempts=(tried,))


FREE_ABORTS = 30
DEAR_PROMPT = {"input": 4_000, "output": 1}
"""A few likely prompts cost more than $0.50."""


def _dear_aborts(cell: Cell) -> int:
    """How many are free."""
    return int(500_000 // (cell.prompt.in_fresh * DEAR_PROMPT["input"]))


async def _leave(scene: Scene, cell: Cell, times: int) -> None:
    """Once the provider has the request, and before it has said anything."""
    scene.up.default = Silence()
    for _ in range(times):
        before = len(scene.up.requests)
        caller = await scene.send(cell)
        request = await scene.up.arrived(before + 1)
        caller.leave()
        await scene.gateway.settled()
        await request.gone()


async def _leaves(scene: Scene, cell: Cell) -> None:
    await _leave(scene, cell, 1)


async def _leaves_too_often(scene: Scene, cell: Cell) -> None:
    await _leave(scene, cell, FREE_ABORTS + 1)


async def _leaves_dear_prompts(scene: Scene, cell: Cell) -> None:
    await _leave(scene, cell, _dear_aborts(cell) + 1)


EARLY = (
    Row("D", "before_the_first_token", _leaves, _free_abort),
    Row("D", "beyond_the_allowance", _leaves_too_often, _charged_abort),
    Row("D", "beyond_the_allowance_by_dear_prompts", _leaves_dear_prompts, _dear_abort, priced(**DEAR_PROMPT)),
)

# --- the caller leaves in the middle: E, F


CUT = frozenset({"cancelled"})


def delivered(outcome: str, status: int, bills: Price | None = None) -> ByCell:
    """The prompt, and what had flowed."""

    def expect(cell: Cell) -> Expect:
        return Expect(
            cell.answered(len(TEXT)),
            source="estimated",
            outcome=outcome,
            status=status,
            flags=CUT,
            attempts=(Tried("up", outcome, bills),),
            held=Held.UNSAID,
        )

    return only_streams(expect, NO_MIDDLE)


def reported(used: Used, **more: object) -> ByCell:
    """As `delivered`, of somebody who has said before the end what was used."""
    left = replace(LEFT, used=used, **more)
    return only_streams(left, NO_MIDDLE)


LEFT = Expect(
    outcome="client_gone_midstream",
    status=499,
    flags=CUT,
    attempts=(Tried("up", "client_gone_midstream"),),
    held=Held.UNSAID,
)


async def flowing(scene: Scene, cell: Cell, behaviour: Behaviour) -> tuple[Caller, Head, bytes]:
    """A caller that has read as far as TEXT."""
    scene.up.default = behaviour
    caller = await scene.send(cell)
    head = await caller.head()
    return caller, head, await caller.until(TEXT.encode())


def leaves_amid(behaviour: Behaviour) -> Play:
    async def play(scene: Scene, cell: Cell) -> None:
        caller, _, _ = await flowing(scene, cell, behaviour)
        caller.leave()
        await scene.gateway.settled()
        await scene.up.requests[-1].gone()

    return play


def stops(*frames: bytes) -> Behaviour:
    """Says no more after these."""
    return Stream(frames=frames, stop_after=len(frames), end=End.STALL)


STOPS = stops(sse(chunk(TEXT)))
SAYS_USAGE = stops(sse(chunk(TEXT, usage=usage_of(7, 101))))
SAYS_PROMPT = stops(sse(chunk("", usage=usage_of(7, 1))), sse(chunk(TEXT)))


def begins(behaviour: Behaviour, headers: Mapping[str, str] | None = None) -> Play:
    """All cells wait for their deadlines at the same time; see `_all_have_ended`."""

    async def play(scene: Scene, cell: Cell) -> None:
        scene.up.default = behaviour
        scene.callers[cell] = await scene.send(cell, headers=headers)

    return play


async def _all_have_ended(scene: Scene) -> None:
    for cell, caller in scene.callers.items():
        scene.replies[cell] = await caller.reply()
    await scene.gateway.assert_books_are_clean()


async def _leaves_and_is_read_on(scene: Scene, cell: Cell) -> None:
    gate = asyncio.Event()
    scene.up.default = Stream([TEXT, " and more"], gates={2: gate})
    caller = await scene.send(cell)
    await caller.head()
    await caller.until(TEXT.encode())
    caller.leave()
    await wait_for(lambda: any(one.draining for one in scene.gateway.runtime.gateway.active))
    assert scene.gateway.runtime.ledger.held_nano() > 0
    gate.set()
    await scene.gateway.settled()


async def _leaves_and_it_breaks(scene: Scene, cell: Cell) -> None:
    gate = asyncio.Event()
    frames = [sse(chunk(TEXT)), sse(chunk(""))]
    scene.up.default = Stream(frames=frames, gates={1: gate}, stop_after=2)
    caller = await scene.send(cell)
    await caller.head()
    await caller.until(TEXT.encode())
    caller.leave()
    await wait_for(lambda: any(one.draining for one in scene.gateway.runtime.gateway.active))
    gate.set()
    await scene.gateway.settled()


async def _leaves_and_the_cap_is_passed(scene: Scene, cell: Cell) -> None:
    scene.patch.setattr("routerx.gateway.relay.DRAIN_S", 0.02)
    await leaves_amid(STOPS)(scene, cell)


async def _leaves_where_too_many_are_read_on(scene: Scene, cell: Cell) -> None:
    scene.patch.setattr("routerx.gateway.pipeline.DRAINS_MAX", 0)
    await leaves_amid(STOPS)(scene, cell)


def _bills_to_the_end(value: Config) -> None:
    value["providers"]["up"]["abort_stops_billing"] = False


def _stops_billing(value: Config) -> None:
    value["providers"]["up"]["abort_stops_billing"] = True


def _as_the_preset_knows(value: Config) -> None:
    value["providers"]["up"]["preset"] = "groq"


DRAINED = only_streams(replace(LEFT, flags=frozenset({"drained"})), NO_MIDDLE)

AMID = (
    Row("E", "nothing_reported", leaves_amid(STOPS), delivered("client_gone_midstream", 499)),
    Row("E", "usage_reported", leaves_amid(SAYS_USAGE), reported(Used(in_fresh=7, out_text=101))),
    Row(
        "E",
        "less_reported_than_delivered",
        leaves_amid(SAYS_PROMPT),
        reported(Used(in_fresh=7, out_text=100), source="estimated"),
    ),
    Row(
        "E",
        "own_deadline",
        begins(STOPS, {"X-RouterX-Timeout": "200ms"}),
        delivered("client_deadline", 200, UP),
        end=_all_have_ended,
    ),
    Row("F", "asked_for_by_the_plan", _leaves_and_is_read_on, DRAINED, planned(on_disconnect="drain")),
    Row("F", "billed_to_the_end", _leaves_and_is_read_on, DRAINED, _bills_to_the_end),
    Row("F", "billed_to_the_end_as_its_preset_knows", _leaves_and_is_read_on, DRAINED, _as_the_preset_knows),
    Row(
        "F",
        "preset_that_is_set_right",
        leaves_amid(STOPS),
        delivered("client_gone_midstream", 499),
        both(_as_the_preset_knows, _stops_billing),
    ),
    Row(
        "F",
        "billed_to_the_end_but_the_plan_cancels",
        leaves_amid(STOPS),
        delivered("client_gone_midstream", 499),
        both(_bills_to_the_end, planned(on_disconnect="cancel")),
    ),
    Row(
        "F",
        "read_on_until_it_breaks",
        _leaves_and_it_breaks,
        delivered("client_gone_midstream", 499),
        planned(on_disconnect="drain"),
    ),
    Row(
        "F",
        "over_the_cap_of_time",
        _leaves_and_the_cap_is_passed,
        delivered("client_gone_midstream", 499),
        planned(on_disconnect="drain"),
    ),
    Row(
        "F",
        "over_the_cap_of_number",
        _leaves_where_too_many_are_read_on,
        delivered("client_gone_midstream", 499),
        planned(on_disconnect="drain"),
    ),
)

# --- the provider fails: G, H


def failed(outcome: str, status: int, tries: int = 1, bills: Price | None = None) -> Expect:
    return replace(VOID, outcome=outcome, status=status, attempts=(Tried("up", outcome, bills),) * tries)


def broken(outcome: str) -> ByCell:
    """Delivered, and for nothing; the house may have to pay for it."""

    def expect(cell: Cell) -> Expect:
        return Expect(
            cell.answered(len(TEXT)),
            source="estimated",
            billing="void",
            outcome=outcome,
            attempts=(Tried("up", outcome, UP),),
            held=Held.UNSAID,
        )

    return only_streams(expect, NO_MIDDLE)


def breaks(rest: bytes = b"", end: End = End.FIN) -> Play:
    """After TEXT."""

    async def play(scene: Scene, cell: Cell) -> None:
        gate = asyncio.Event()
        frames = [sse(chunk(TEXT)), rest] if rest else [sse(chunk(TEXT)), sse(chunk(""))]
        behaviour = Stream(frames=[*frames, b""], gates={1: gate}, stop_after=2, end=end)
        caller, head, seen = await flowing(scene, cell, behaviour)
        gate.set()
        await caller.reply(head, seen)
        await scene.gateway.settled()

    return play


def _nobody_there(value: Config) -> None:
    value["providers"]["up"]["base_url"] = f"{refused_url()}/v1"


def waiting_for(deadline: str, wait: str) -> Change:
    def change(value: Config) -> None:
        value["providers"]["up"]["timeouts"] = {deadline: wait}

    return change


ERROR = {"error": {"message": "scripted", "type": "server_error", "code": None}}

FAILING = (
    Row("G", "unreachable", answers(Ok()), failed("upstream_connect_error", 502, 3), _nobody_there),
    Row("G", "error", answers(Status(500)), failed("upstream_5xx", 502, 3)),
    Row("G", "rejected", answers(Status(400)), failed("upstream_4xx", 400)),
    Row("G", "reset", answers(Reset()), failed("upstream_reset_before_output", 502, 3, UP)),
    Row("G", "hung_up", answers(Hangup()), failed("upstream_reset_before_output", 502, 3, UP)),
    Row(
        "G",
        "silent",
        begins(Silence()),
        failed("upstream_first_byte_timeout", 504, 1, UP),
        waiting_for("first_token", "150ms"),
        _all_have_ended,
    ),
    Row("H", "truncated", breaks(), broken("upstream_truncated")),
    Row("H", "reset", breaks(end=End.RESET), broken("upstream_reset_midstream")),
    Row("H", "stalled", breaks(end=End.STALL), broken("upstream_stalled"), waiting_for("idle", "70ms")),
    Row("H", "error", breaks(sse(ERROR)), broken("upstream_error_midstream")),
    Row(
        "H",
        "half_of_a_whole_answer",
        answers(Truncated()),
        only_buffered(failed("upstream_truncated", 502, 3, UP), "a stream has events, and no length"),
    ),
)

# --- the gateway ends it: J, K, S


async def _runs(scene: Scene, cell: Cell) -> None:
    """Streams have told TEXT, whole answers are waited for."""
    scene.up.default = STOPS if cell.stream else Silence()
    before = len(scene.up.requests)
    if cell.stream:
        scene.callers[cell], _, _ = await flowing(scene, cell, STOPS)
    else:
        scene.callers[cell] = await scene.send(cell)
    await scene.up.arrived(before + 1)


async def _killed(scene: Scene) -> None:
    """What a kill would leave: the files as they are now. Another gateway begins with them."""
    assert scene.gateway.runtime.ledger.held_nano() > 0
    left = scene.folder / "left"
    left.mkdir()
    shutil.copytree(scene.gateway.data, left / "data", ignore=shutil.ignore_patterns("admin.sock", ".ballast"))
    async with ScriptedUpstream(), running(left, scene.value) as second:
        await second.assert_books_are_clean()
    scene.folder = left


async def _shut_down(scene: Scene) -> None:
    await scene.gateway.runtime.stop(0.02)


def _cut_off(cell: Cell) -> Expect:
    if not cell.stream:
        return replace(VOID, outcome="shutting_down", status=503, attempts=(CANCELLED,))
    return Expect(
        cell.answered(len(TEXT)),
        source="estimated",
        billing="void",
        outcome="shutting_down",
        status=503,
        attempts=(Tried("up", "shutting_down"),),
        held=Held.UNSAID,
    )


async def _suspended_amid(scene: Scene, cell: Cell) -> None:
    """What runs ends as it would, and is charged; what comes after is refused."""
    gate = asyncio.Event()
    before = len(scene.up.requests)
    scene.up.default = Ok(gate=gate)
    caller = await scene.send(cell)
    await scene.up.arrived(before + 1)
    assert (await scene.admin("POST", f"/tenants/{cell}/suspend", {"reason": "unpaid"})).status == 200
    assert (await (await scene.send(cell)).reply()).status == 403
    gate.set()
    scene.replies[cell] = await caller.reply()
    await scene.gateway.settled()


async def _cut_off_amid(scene: Scene, cell: Cell) -> None:
    await _runs(scene, cell)
    assert (await scene.admin("POST", f"/tenants/{cell}/suspend", {"reason": "stolen", "hard": True})).status == 200
    await scene.gateway.settled()


def _hard(cell: Cell) -> Expect:
    if not cell.stream:
        return replace(VOID, outcome="tenant_suspended", status=403, attempts=(CANCELLED,))
    found = delivered("tenant_suspended", 403)(cell)
    assert isinstance(found, Expect)
    return found


ENDED = (
    Row("J", "killed", _runs, replace(VOID, rows=0), end=_killed),
    Row("K", "shut_down", _runs, _cut_off, end=_shut_down),
    Row("S", "suspended", _suspended_amid, Expect()),
    Row("S", "suspended_and_cut_off", _cut_off_amid, _hard),
)

ROWS = (*EARLY, *AMID, *FAILING, *ENDED)
