"""A crowd of callers at once on too little money: exactly what the balance pays for is served."""

import asyncio
from collections import Counter
from pathlib import Path

from tests.torture import world
from tests.torture.arena import Arena, Report, arena, load
from tests.torture.client import FAILURES, Caller, Saw
from tests.torture.driver import Load
from tests.torture.oracle import PRICED_PER_REQUEST

CROWD = 200
CROWDS = 3
SAMPLE_S = 0.01
REFUSED = ("refused", 402, "insufficient_balance")


async def prove_no_overspend(folder: Path, seed: int) -> Report:
    """Priced per request: exactly 10 of 200 are served, and the balance is 0. By token: never below the floor."""
    report = Report(f"overspending ({CROWD} calls at once, seed {seed})")
    async with arena(folder, seed) as made, load(made, aborts=0.0) as lanes:
        await made.gateway.start()
        lanes.port = made.gateway.port
        await _by_request(made, lanes, report)
        await _by_token(made, lanes, report)
        report.violations += await made.stop()
        report.violations += made.verdict(unkilled=True)
    return report


async def _by_request(made: Arena, lanes: Load, report: Report) -> None:
    saws = await _crowd(lanes, world.TEN, PRICED_PER_REQUEST)
    served = sum(saw.end == "complete" for saw in saws)
    refused = sum((saw.end, saw.status, saw.code) == REFUSED for saw in saws)
    left = await made.balance_nano(world.TEN)
    report.figures["for exactly 10"] = f"{served} served, {refused} refused with 402, {left} nano-USD left"
    if (served, refused, left) != (10, CROWD - 10, 0):
        report.violations.append(f"overspend: {report.figures['for exactly 10']}: {_ends(saws)}")


async def _by_token(made: Arena, lanes: Load, report: Report) -> None:
    """Crowd after crowd, until there is next to nothing left; the balance is looked at all the time."""
    balances = [world.TOKENS_NANO]
    crowds = asyncio.ensure_future(_crowds(lanes))
    while not crowds.done():
        try:
            balances.append(await made.balance_nano(world.TOKENS))
        except FAILURES as error:
            report.violations.append(f"overspend: the admin API does not answer: {error}")
        await asyncio.sleep(SAMPLE_S)
    saws = await crowds
    balances.append(await made.balance_nano(world.TOKENS))
    served = sum(saw.end == "complete" for saw in saws)
    refused = sum((saw.end, saw.status, saw.code) == REFUSED for saw in saws)
    report.figures["by token"] = f"{served} served, {refused} refused with 402, {balances[-1]} nano-USD left"
    report.figures["lowest balance"] = f"{min(balances)} nano-USD in {len(balances)} samples"
    if served + refused != len(saws) or not served or not refused or min(balances) < 0:
        report.violations.append(f"overspend: {report.figures['by token']}: {_ends(saws)}")


async def _crowds(lanes: Load) -> list[Saw]:
    return [saw for _ in range(CROWDS) for saw in await _crowd(lanes, world.TOKENS, None)]


async def _crowd(lanes: Load, tenant: str, model: str | None) -> list[Saw]:
    """All at once, each on a connection of its own."""
    callers = [Caller() for _ in range(CROWD)]
    try:
        key = world.tenant_key(tenant)
        return await asyncio.gather(*(lanes.one(caller, key, tenant, model) for caller in callers))
    finally:
        for caller in callers:
            caller.close()


def _ends(saws: list[Saw]) -> str:
    return str(Counter((saw.end, saw.status, saw.code) for saw in saws))
