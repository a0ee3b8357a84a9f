"""`scripts/torture`: all proofs one after the other; prints their figures. Exit code 1 when one of them failed."""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.torture.arena import Report
from tests.torture.commits import prove_commits
from tests.torture.everything import prove_everything
from tests.torture.failing import prove_failpoints
from tests.torture.fulldisk import prove_full_disk
from tests.torture.kills import prove_kills
from tests.torture.mixed import prove_mixed
from tests.torture.overspend import prove_no_overspend
from tests.torture.power import prove_power_loss
from tests.torture.processes import Zygote, zygote
from tests.torture.racing import prove_racing_operations
from tests.torture.reloads import prove_reloads
from tests.torture.report import Reporter
from tests.torture.selftest import prove_checker
from tests.torture.stops import prove_stops

QUICK = {"kills": 5, "commits": 50, "cuts": 50, "reloads": 10, "stops": 2, "failpoints": 1, "seconds": 3}
FULL = {"kills": 1_000, "commits": 10_000, "cuts": 500, "reloads": 100, "stops": 8, "failpoints": 20, "seconds": 75}
PROOFS = (
    "checker",
    "kills",
    "commits",
    "failpoints",
    "power",
    "reloads",
    "stops",
    "overspend",
    "racing",
    "mixed",
    "disk",
    "everything",
)
BESIDE = {"kills": "commits"}
"""Proofs that run beside one another: the first is on both cores, the second on one."""


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/torture", description="Prove by force what the ledger promises.")
    parser.add_argument("--kills", type=int, default=50, help="kill -9 under load, so many times (default 50)")
    parser.add_argument("--commits", type=int, default=500, help="kill -9 of the ledger alone (default 500 times)")
    parser.add_argument("--failpoints", type=int, default=3, help="kill -9 at each named place (default 3 times)")
    parser.add_argument("--cuts", type=int, default=100, help="simulated power failures (default 100)")
    parser.add_argument("--reloads", type=int, default=100, help="edits of the configuration under load (default 100)")
    parser.add_argument("--stops", type=int, default=8, help="SIGTERM under load, so many times (default 8)")
    parser.add_argument("--seconds", type=float, default=10, help="of everything at once (default 10)")
    parser.add_argument("--seed", type=int, help="repeat a run; printed by each")
    parser.add_argument("--quick", action="store_true", help="each of them a little: one to two minutes")
    parser.add_argument(
        "--full",
        action="store_true",
        help="1,000 kills, 10,000 of the ledger alone, 20 at each place, 500 power failures, 75 s of everything",
    )
    parser.add_argument("--only", choices=PROOFS, help="one proof alone")
    parser.add_argument("--keep", type=Path, help="a new folder for ledgers, logs and journals, which then stay")
    parser.add_argument(
        "--report", type=Path, help="a folder for report.json and report.html, after a last verification"
    )
    chosen = parser.parse_args()
    if chosen.quick:
        vars(chosen).update(QUICK)
    elif chosen.full:
        vars(chosen).update(FULL)
    if chosen.seed is None:
        chosen.seed = random.SystemRandom().randrange(10**6)
    return chosen


async def prove(chosen: argparse.Namespace, folder: Path, forker: Zygote) -> bool:
    """Run what was chosen; True when all passed."""
    seed = chosen.seed
    proofs: dict[str, Callable[[Path], Awaitable[Report]]] = {
        "checker": lambda place: prove_checker(place, seed, forker),
        "kills": lambda place: prove_kills(place, seed, chosen.kills, forker),
        "commits": lambda place: prove_commits(place, seed, chosen.commits),
        "failpoints": lambda place: prove_failpoints(place, seed, forker, kills=chosen.failpoints),
        "power": lambda place: prove_power_loss(place, seed, chosen.cuts),
        "reloads": lambda place: prove_reloads(place, seed, chosen.reloads),
        "stops": lambda place: prove_stops(place, seed, chosen.stops),
        "overspend": lambda place: prove_no_overspend(place, seed),
        "racing": lambda place: prove_racing_operations(place, seed),
        "mixed": lambda place: prove_mixed(place, seed, forker),
        "disk": lambda place: prove_full_disk(place, seed, forker),
        "everything": lambda place: prove_everything(place, seed, forker, chosen.seconds),
    }

    asked = {name: value for name, value in vars(chosen).items() if name not in ("keep", "report")}
    reporter = Reporter(folder, seed, asked)

    async def told(name: str) -> bool:
        began_s = time.monotonic()
        report = await proofs[name](folder / name)
        seconds = time.monotonic() - began_s
        reporter.add(name, report, seconds)
        sys.stdout.write(f"{report}\n  ({seconds:.1f} s)\n")
        sys.stdout.flush()
        return not report.violations

    wanted = [chosen.only] if chosen.only is not None else [name for name in PROOFS if name not in BESIDE.values()]
    passed = True
    for name in wanted:
        beside = [BESIDE[name]] if name in BESIDE and chosen.only is None else []
        passed = all(await asyncio.gather(*map(told, [name, *beside]))) and passed
    if chosen.report is not None:
        passed = reporter.write(chosen.report) and passed
    sys.stdout.write(f"seed {seed}: {'all passed' if passed else 'FAILED'}\n")
    return passed


def main() -> int:
    chosen = options()
    with zygote() as forker:
        if chosen.keep is not None:
            return 0 if asyncio.run(prove(chosen, chosen.keep, forker)) else 1
        with tempfile.TemporaryDirectory(prefix="routerx-torture-") as folder:
            return 0 if asyncio.run(prove(chosen, Path(folder), forker)) else 1


if __name__ == "__main__":
    sys.exit(main())
