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
from tests.torture.kills import prove_kills
from tests.torture.overspend import prove_no_overspend
from tests.torture.processes import Zygote, zygote
from tests.torture.reloads import prove_reloads
from tests.torture.selftest import prove_checker
from tests.torture.stops import prove_stops

QUICK = {"kills": 5, "reloads": 10, "stops": 2}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/torture", description="Prove by force what the ledger promises.")
    parser.add_argument("--kills", type=int, default=50, help="kill -9 under load, so many times (default 50)")
    parser.add_argument("--reloads", type=int, default=100, help="edits of the configuration under load (default 100)")
    parser.add_argument("--stops", type=int, default=8, help="SIGTERM under load, so many times (default 8)")
    parser.add_argument("--seed", type=int, help="repeat a run; printed by each")
    parser.add_argument("--quick", action="store_true", help="5 kills, 10 reloads, 2 stops")
    parser.add_argument("--only", choices=["checker", "kills", "reloads", "stops", "overspend"], help="one proof alone")
    parser.add_argument("--keep", type=Path, help="a new folder for ledgers, logs and journals, which then stay")
    chosen = parser.parse_args()
    if chosen.quick:
        vars(chosen).update(QUICK)
    if chosen.seed is None:
        chosen.seed = random.SystemRandom().randrange(10**6)
    return chosen


async def prove(chosen: argparse.Namespace, folder: Path, forker: Zygote) -> bool:
    """Run what was chosen; True when all passed."""
    seed = chosen.seed
    proofs: dict[str, Callable[[Path], Awaitable[Report]]] = {
        "checker": lambda place: prove_checker(place, seed, forker),
        "kills": lambda place: prove_kills(place, seed, chosen.kills, forker),
        "reloads": lambda place: prove_reloads(place, seed, chosen.reloads),
        "stops": lambda place: prove_stops(place, seed, chosen.stops),
        "overspend": lambda place: prove_no_overspend(place, seed),
    }
    passed = True
    for name, proof in proofs.items():
        if chosen.only in (None, name):
            began_s = time.monotonic()
            report = await proof(folder / name)
            sys.stdout.write(f"{report}\n  ({time.monotonic() - began_s:.1f} s)\n")
            sys.stdout.flush()
            passed = passed and not report.violations
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
