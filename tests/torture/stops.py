"""SIGTERM under load: what runs is ended properly, no row is lost, and the process is gone within its drain limit."""

import asyncio
import random
from collections import Counter
from pathlib import Path

from tests.torture import world
from tests.torture.arena import Arena, Report, arena, load, spread_ms
from tests.torture.client import Caller, Saw
from tests.torture.driver import Load
from tests.torture.oracle import ENDLESS

LOADED_S_MAX = 0.6
ANSWERED_S_MAX = 10.0
POLL_S = 0.005
ENDLESS_CALLS = 6
"""Calls that outlast the drain, in every other round."""

CUT_OFF_S_MAX = 1.5
"""What ending them may take after the drain limit."""


async def prove_stops(folder: Path, seed: int, stops: int) -> Report:
    """SIGTERM at random moments of load, each followed by a start on the same ledger."""
    rng = random.Random(seed)
    report = Report(f"SIGTERM under load ({stops} rounds, seed {seed})")
    drained_s: list[float] = []
    cut_off: list[Saw] = []
    async with arena(folder, seed) as made, load(made, aborts=0.0) as lanes:
        for round_no in range(stops):
            await made.gateway.start()
            report.violations += await made.unclean_start()
            endless = ENDLESS_CALLS if round_no % 2 == 0 else 0
            took_s, saws = await _round(made, lanes, rng.uniform(0.1, LOADED_S_MAX), endless, report)
            cut_off += saws
            if not endless:
                drained_s.append(took_s)
        report.violations += _judge(lanes, made)
        report.violations += made.verdict(unkilled=True)
        report.figures["requests"] = str(len(made.journal.sent))
    if drained_s:
        report.figures["drained in"] = spread_ms(drained_s)
    report.figures["cut off at the drain limit"] = f"{len(cut_off)} endless streams, each with its error event"
    turned_away = Counter(saw.code or saw.end for saw in lanes.unexpected if saw not in cut_off)
    report.figures["came too late"] = ", ".join(f"{count} {how}" for how, count in turned_away.items())
    return report


async def _round(made: Arena, lanes: Load, loaded_s: float, endless: int, report: Report) -> tuple[float, list[Saw]]:
    """One stop: how long it took, and how the endless calls ended."""
    lanes.open(made.gateway.port)
    callers = [Caller() for _ in range(endless)]
    key, tenant = world.lane_key(0), world.tenant_of(0)
    calls = [asyncio.ensure_future(lanes.one(caller, key, tenant, ENDLESS)) for caller in callers]
    await asyncio.sleep(loaded_s)
    async with asyncio.timeout(ANSWERED_S_MAX):  # Else the door may be closed before they knock.
        while any(caller.phase != "answered" for caller in callers):  # noqa: ASYNC110 A phase has no event.
            await asyncio.sleep(POLL_S)
    limit_s = world.DRAIN_S + CUT_OFF_S_MAX
    code, took_s = await made.gateway.terminate(limit_s)
    lanes.close_gate()
    if code != 0:
        report.violations.append(f"SIGTERM: exit code {code} after {took_s:.2f} s (limit {limit_s} s)")
    saws = await asyncio.gather(*calls)
    for caller in callers:
        caller.close()
    await lanes.quiet()
    report.violations += [
        f"SIGTERM: an endless stream ended as {saw}"
        for saw in saws
        if (saw.end, saw.code) != ("broke_off", "shutting_down")
    ]
    return took_s, list(saws)


def _judge(lanes: Load, made: Arena) -> list[str]:
    """A request of the load that reached the provider is answered whole; one that did not may find the door closed."""
    evidence = made.evidence()
    return [
        f"SIGTERM: request {saw.number} was dispatched and ended as {saw}"
        for saw in lanes.unexpected
        if evidence.dispatched[saw.number] and evidence.sent[saw.number].model is None
    ]
