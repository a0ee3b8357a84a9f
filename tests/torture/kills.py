"""kill -9 at random moments under load, again and again on one ledger."""

import asyncio
import random
import sqlite3
import time
from collections import Counter
from pathlib import Path

import msgspec

from tests.torture.arena import Arena, Report, arena, load, spread_ms
from tests.torture.checker import Books, charged_numbers, read_books
from tests.torture.driver import Load
from tests.torture.processes import Zygote

ABORTS = 0.12
LOADED_S_MAX = 0.09
"""A kill comes at a random moment of so long a time of load."""

RETRY_S = 0.002

STARTING_SHARE = 0.1
"""Of the kills: these come at a random moment of a start instead."""

COLD_EVERY = 50
"""Every so many starts one is of the installed program, not forked."""

BIN_S = 0.01

CHARGED = """
SELECT r.n, r.id FROM requests AS r JOIN transfers AS t ON t.request = r.n AND t.kind = 'charge'
WHERE r.n > ? ORDER BY r.n"""


class Tally(msgspec.Struct):
    """What the kills came to."""

    warm_s: list[float] = []
    cold_s: list[float] = []
    caught: list[int] = []
    """Requests under way at each kill under load."""
    instants: Counter[int] = msgspec.field(default_factory=Counter)
    """Kills by the time since the load began, in bins of BIN_S."""
    phases: Counter[str] = msgspec.field(default_factory=Counter)
    during_start: int = 0


class Kept:
    """The charges of a ledger that grows, read on from where the last look ended."""

    def __init__(self, made: Arena) -> None:
        self._made = made
        self._row = 0
        self._checked = 0
        self._ids: set[str] = set()

    def missing(self) -> list[str]:
        """Cheap, after each kill: what callers saw complete since the last one has its charge."""
        connection = sqlite3.connect(f"file:{self._made.ledger}?mode=ro", uri=True)
        try:
            for row, request_id in connection.execute(CHARGED, (self._row,)):
                self._row = row
                self._ids.add(request_id)
        finally:
            connection.close()
        recent = list(self._made.journal.saw.values())[self._checked :]
        self._checked += len(recent)
        return [
            f"lost: request {saw.number} after start {self._made.gateway.starts}"
            for saw in recent
            if saw.end == "complete" and saw.request_id not in self._ids
        ]


async def prove_kills(folder: Path, seed: int, kills: int, zygote: Zygote) -> Report:
    """Kill, restart, go on; then hold all that callers saw against the ledger."""
    report = Report(f"kill -9 ({kills} kills, seed {seed})")
    tally = Tally()
    async with arena(folder, seed, zygote) as made, load(made, aborts=ABORTS, retry_s=RETRY_S) as lanes:
        await _cycles(made, lanes, kills, tally, report)
        lanes.open(made.gateway.port)
        await asyncio.sleep(0.2)
        lanes.close_gate()
        await lanes.quiet()
        report.violations += await made.restless()
        report.violations += await made.stop()
        report.violations += made.verdict()
        _tell(tally, report)
        _count(made, read_books(made.ledger), report)
    return report


async def _cycles(made: Arena, lanes: Load, kills: int, tally: Tally, report: Report) -> None:
    """The kills, each followed by a start that has to be clean."""
    rng = random.Random(made.seed)
    forker, kept = made.gateway.zygote, Kept(made)
    tally.warm_s.append(await made.gateway.start())
    for cycle in range(1, kills + 1):
        if rng.random() < STARTING_SHARE:
            made.gateway.kill()
            made.gateway.spawn()
            await asyncio.sleep(rng.uniform(0, max(tally.warm_s[-100:])))
            made.gateway.kill()
            tally.during_start += 1
        else:
            await _kill_under_load(made, lanes, rng.uniform(0, LOADED_S_MAX), tally)
        made.gateway.zygote = None if cycle % COLD_EVERY == 0 else forker
        took_s = await made.gateway.start()
        (tally.cold_s if made.gateway.zygote is None else tally.warm_s).append(took_s)
        made.gateway.zygote = forker
        report.violations += await made.unclean_start()
        report.violations += kept.missing()


async def _kill_under_load(made: Arena, lanes: Load, after_s: float, tally: Tally) -> None:
    began_s = time.monotonic()
    lanes.open(made.gateway.port)
    await asyncio.sleep(after_s)
    tally.caught.append(lanes.busy)
    tally.phases.update(lanes.phases())
    tally.instants[int((time.monotonic() - began_s) / BIN_S)] += 1
    lanes.close_gate()
    made.gateway.kill()
    await lanes.quiet()


def _tell(tally: Tally, report: Report) -> None:
    figures = report.figures
    figures["kills"] = f"{len(tally.caught)} under load, {tally.during_start} during a start"
    spans = (f"{n * 10}-{n * 10 + 10} ms {count}" for n, count in sorted(tally.instants.items()))
    figures["instants"] = ", ".join(spans)
    phases = ", ".join(f"{count} {phase}" for phase, count in tally.phases.most_common())
    figures["under way at a kill"] = f"{sum(tally.caught) / max(len(tally.caught), 1):.1f} on average: {phases}"
    figures["recovery"] = f"{spread_ms(tally.warm_s)} (fork to ready, {len(tally.warm_s)} starts)"
    if tally.cold_s:
        figures["recovery, cold"] = f"{spread_ms(tally.cold_s)} (exec to ready, {len(tally.cold_s)} starts)"


def _count(made: Arena, books: Books, report: Report) -> None:
    saw, evidence = made.journal.saw, made.evidence()
    ends = Counter(f"{one.end} {one.code}".rstrip() for one in saw.values())
    charged = charged_numbers(evidence, books)
    cut = sum(saw[number].end == "cut" for number in charged)
    spare = sum(1 for row in books.rows if row.attempts > 1 and row.outcome == "ok")
    report.figures["requests"] = f"{len(saw)}: " + ", ".join(f"{n} {end}" for end, n in ends.most_common())
    report.figures["charges"] = (
        f"{len(charged)}, {cut} of them committed when a kill cut the answer off, "
        f"{spare} answered at a second or third attempt"
    )
    report.figures["top-ups"] = str(sum(transfer.kind == "topup" for transfer in books.transfers))
    report.figures["lost, doubled, wrong"] = str(len(report.violations))
