"""kill -9 at random moments under load, again and again on one ledger."""

import asyncio
import random
from collections import Counter
from pathlib import Path

from tests.torture.arena import Arena, Report, arena, load, spread_ms
from tests.torture.checker import Books, charged_numbers, read_books
from tests.torture.driver import Load
from tests.torture.planted import PLANTED, undetected

ABORTS = 0.12
LOADED_S_MAX = 0.6
"""A kill comes at a random moment of so long a time of load."""

STARTING_SHARE = 0.1
"""Of the kills: these come at a random moment of a start instead."""


async def prove_kills(folder: Path, seed: int, kills: int) -> Report:
    """Kill, restart, go on; then hold all that callers saw against the ledger."""
    rng = random.Random(seed)
    report = Report(f"kill -9 ({kills} kills, seed {seed})")
    async with arena(folder, seed) as made, load(made, aborts=ABORTS) as lanes:
        recoveries, caught = await _cycles(made, lanes, rng, kills, report)
        lanes.open(made.gateway.port)
        await asyncio.sleep(0.2)
        lanes.close_gate()
        await lanes.quiet()
        report.violations += await made.stop()
        report.violations += made.verdict()
        missed = undetected(made.ledger, made.evidence(), folder)
        report.violations += missed
        report.figures["planted faults"] = f"{len(PLANTED) - len(missed)} of {len(PLANTED)} found"
        report.figures["under way at a kill"] = f"{sum(caught) / max(len(caught), 1):.1f} requests on average"
        report.figures["recovery"] = spread_ms(recoveries) + " (process start to ready)"
        _count(made, read_books(made.ledger), report)
    return report


async def _cycles(
    made: Arena, lanes: Load, rng: random.Random, kills: int, report: Report
) -> tuple[list[float], list[int]]:
    """The kills. Returns the times of all starts that came to their end, and how many requests each kill caught."""
    recoveries = [await made.gateway.start()]
    caught: list[int] = []
    checked = during_start = 0
    for _ in range(kills):
        if rng.random() < STARTING_SHARE:
            made.gateway.kill()
            made.gateway.spawn()
            await asyncio.sleep(rng.uniform(0, max(recoveries)))
            made.gateway.kill()
            during_start += 1
        else:
            lanes.open(made.gateway.port)
            await asyncio.sleep(rng.uniform(0, LOADED_S_MAX))
            caught.append(lanes.busy)
            lanes.close_gate()
            made.gateway.kill()
            await lanes.quiet()
        recoveries.append(await made.gateway.start())
        report.violations += await made.unclean_start()
        report.violations += _unkept(made, checked)
        checked = len(made.journal.saw)
    report.figures["kills"] = f"{kills - during_start} under load, {during_start} during a start"
    return recoveries, caught


def _unkept(made: Arena, checked: int) -> list[str]:
    """Cheap, after each kill: what callers saw complete since the last one has its charge."""
    present = _charged_ids(read_books(made.ledger))
    recent = list(made.journal.saw.values())[checked:]
    return [
        f"lost: request {saw.number} after start {made.gateway.starts}"
        for saw in recent
        if saw.end == "complete" and saw.request_id not in present
    ]


def _charged_ids(books: Books) -> set[str]:
    charged = {transfer.request for transfer in books.transfers if transfer.kind == "charge"}
    return {row.id for row in books.rows if row.n in charged}


def _count(made: Arena, books: Books, report: Report) -> None:
    saw = made.journal.saw
    ends = Counter(one.end for one in saw.values())
    charged = charged_numbers(made.evidence(), books)
    cut = sum(saw[number].end == "cut" for number in charged)
    report.figures["requests"] = f"{len(saw)}: " + ", ".join(f"{n} {end}" for end, n in ends.most_common())
    report.figures["charges"] = f"{len(charged)}, {cut} of them committed when a kill cut the answer off"
    report.figures["top-ups"] = str(sum(transfer.kind == "topup" for transfer in books.transfers))
    report.figures["lost, doubled, wrong"] = str(len(report.violations))
