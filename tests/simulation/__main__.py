"""`scripts/simulate`: every sort through one world; prints the regret of each. Exit code 1 when a promise is broken."""

import argparse
import sys

from routerx.domain.policy import Sort
from tests.simulation.report import simulate, table
from tests.simulation.world import build


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/simulate", description="Routing policies in a changing world.")
    parser.add_argument("--requests", type=int, default=100_000, help="how many (default 100000)")
    parser.add_argument("--seed", type=int, default=4, help="of the world and of chance (default 4)")
    parser.add_argument("--sort", choices=[sort.value for sort in Sort], help="one alone")
    chosen = parser.parse_args()
    sorts = [Sort(chosen.sort)] if chosen.sort else list(Sort)
    lines = [simulate(build(chosen.seed, chosen.requests), sort, chosen.seed, chosen.requests) for sort in sorts]
    sys.stdout.write(f"seed {chosen.seed}: {table(lines, chosen.requests)}\n")
    return 1 if any(line.broken() for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
