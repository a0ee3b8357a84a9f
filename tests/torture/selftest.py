"""T0: the checker's own test. Without it the rest proves nothing.

Faults are planted into copies of good books, and mistakes into gateways that then serve real requests. The judge of all
other proofs has to name each; and it has to find nothing in the same gateway with a slow disk and no mistake.
"""

import asyncio
from pathlib import Path

import msgspec

from tests.torture import faulty, world
from tests.torture.arena import Report, arena, judge, load
from tests.torture.client import Caller
from tests.torture.driver import Load
from tests.torture.oracle import PRICED_PER_REQUEST
from tests.torture.planted import IN_BOOKS, SEEN_FROM_OUTSIDE, undetected
from tests.torture.processes import Zygote

ABORTS = 0.3
REQUESTS = 400
"""That each gateway has answered before it is judged, unless said otherwise."""

LOADED_S_MAX = 30.0
POLL_S = 0.005

CROWD = 40
AT_ONCE = 2


class Mistake(msgspec.Struct, frozen=True):
    """Something wrong with a gateway, and how it comes to light."""

    faults: tuple[str, ...]
    rule: str | None
    """That has to name it; None: nothing may be found."""
    killed: bool = False
    """By kill -9 under load, else by SIGTERM at rest."""
    crowd: bool = False
    """On the little money of one tenant."""


SLOW = faulty.slow_disk.__name__
"""With it the time in which a charge is not yet durable is as long as on a busy disk."""

MISTAKES = (
    Mistake((faulty.settle_skipped_on_disconnect.__name__,), "rowless"),
    Mistake((faulty.charge_before_hold.__name__,), "unearned"),
    Mistake((faulty.write_behind.__name__,), "lost", killed=True),
    Mistake((faulty.no_hold_at_all.__name__,), "overspent", crowd=True),
    Mistake((faulty.hold_leaked_on_an_error_path.__name__,), "held"),
    Mistake((faulty.done_before_commit.__name__, SLOW), "lost", killed=True),
    Mistake((faulty.retry_charges.__name__,), "twice"),
)
CONTROLS = (Mistake((SLOW,), None), Mistake((SLOW,), None, killed=True))


async def prove_checker(folder: Path, seed: int, zygote: Zygote, requests: int = REQUESTS) -> Report:
    """All that is planted is found, and nothing else."""
    report = Report(f"the checker's self-test (seed {seed})")
    missed = await _books(folder / "books", seed, zygote, report, requests)
    gate = asyncio.Semaphore(AT_ONCE)

    async def tried(number: int, mistake: Mistake) -> list[str]:
        async with gate:
            return await _found(folder / f"gateway-{number}", seed, zygote, mistake, requests)

    both = MISTAKES + CONTROLS
    for mistake, found in zip(both, await asyncio.gather(*map(tried, range(len(both)), both)), strict=True):
        name = " on a ".join(mistake.faults)
        named = [violation for violation in found if violation.startswith(f"{mistake.rule}:")]
        if mistake.rule is None:
            report.violations += [f"without a fault ({name}): {violation}" for violation in found]
        elif not named:
            missed.append(f"planted {name}, expected {mistake.rule!r}, found {found[:5]}")
        else:
            report.figures[name] = f"{len(found)} violations, {len(named)} of them {mistake.rule!r}: {named[0][:120]}"
    planted = len(IN_BOOKS) + len(MISTAKES)
    by_journal = {fault.__name__ for fault, _ in SEEN_FROM_OUTSIDE}
    beside = sum(violation.split()[1].rstrip(",") in by_journal for violation in missed)
    report.violations += missed
    report.figures["planted faults"] = (
        f"{planted - len(missed) + beside} of {planted} caught, {len(IN_BOOKS)} in books, {len(MISTAKES)} in gateways, "
        f"and {len(SEEN_FROM_OUTSIDE) - beside} of {len(SEEN_FROM_OUTSIDE)} more, most of them in journals"
    )
    return report


async def _books(folder: Path, seed: int, zygote: Zygote, report: Report, requests: int) -> list[str]:
    """Good books of a good gateway, which have to pass; then the faults in copies. Returns those not found."""
    async with arena(folder, seed, zygote) as made, load(made, aborts=ABORTS) as lanes:
        await made.gateway.start()
        lanes.open(made.gateway.port)
        await _answered(lanes, requests)
        lanes.close_gate()
        await lanes.quiet()
        report.violations += await made.restless()
        report.violations += await made.stop()
        report.violations += made.verdict(unkilled=True)
        return await asyncio.to_thread(undetected, made.ledger, made.evidence(), folder)


async def _answered(lanes: Load, requests: int) -> None:
    """Returns at once when so many requests have ended: a kill comes while the next are under way."""
    async with asyncio.timeout(LOADED_S_MAX):
        while len(lanes.journal.saw) < requests:  # noqa: ASYNC110 A journal has no event to wait for.
            await asyncio.sleep(POLL_S)


async def _found(folder: Path, seed: int, zygote: Zygote, mistake: Mistake, requests: int) -> list[str]:
    """What the judge finds in the ledger of a gateway with that mistake."""
    found: list[str] = []
    async with arena(folder, seed, zygote) as made, load(made, aborts=ABORTS) as lanes:
        made.gateway.faults = mistake.faults
        await made.gateway.start()
        lanes.port = made.gateway.port
        if mistake.crowd:
            callers = [Caller() for _ in range(CROWD)]
            key = world.tenant_key(world.TEN)
            await asyncio.gather(*(lanes.one(caller, key, world.TEN, PRICED_PER_REQUEST) for caller in callers))
            for caller in callers:
                caller.close()
        else:
            lanes.open(made.gateway.port)
            await _answered(lanes, requests)
        lanes.close_gate()
        if mistake.killed:
            made.gateway.kill()
            await lanes.quiet()
        else:
            await lanes.quiet()
            found += await made.restless()
            found += await made.stop()
        return found + await asyncio.to_thread(judge, made.ledger, made.evidence(), unkilled=not mistake.killed)
