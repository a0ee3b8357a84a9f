"""A process that settles in a loop until it is killed. Arguments: data folder, run number.

Before a settle it appends the request's id to `submitted`, after the durable acknowledgement to `acknowledged`, each
line in one unbuffered write: what is in these files was done, whenever the end comes.
"""

import asyncio
import os
import sys
from pathlib import Path

from routerx.clock import SystemClock
from routerx.domain.pricing import PriceCard, PriceSnapshot, cost_nano
from routerx.domain.record import RequestRecord
from routerx.domain.tenant import Plan, Tenant
from routerx.domain.usage import Usage
from routerx.ledger.opening import LedgerOptions
from routerx.ledger.sqlite import SqliteLedger, open_ledger
from tests.unit.ledger.ledger_kit import record

TERMS = PriceSnapshot(PriceCard(2_500_000, 10_000_000), 1_000)
TENANTS = [Tenant(f"t{n}", Plan("plan"), opening_balance_nano=10**12) for n in range(3)]


class Journal:
    """Lines that are in the kernel's hands as soon as `add` returns."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def add(self, line: str) -> None:
        os.write(self._fd, f"{line}\n".encode())


def served(name: str, owner: Tenant, step: int) -> RequestRecord:
    usage = Usage(in_fresh=step % 97, out_text=step % 13)
    cost = cost_nano(usage, TERMS)
    return record(cost, owner.name, id=name, usage=usage, price=TERMS)


async def worker(ledger: SqliteLedger, journals: tuple[Journal, Journal], run: str, lane: int) -> None:
    submitted, acknowledged = journals
    owner = TENANTS[lane % len(TENANTS)]
    for step in range(1, 1_000_000):
        name = f"req_{run}_{lane}_{step:08d}"
        hold = ledger.hold(owner, 10**6)
        done = served(name, owner, step)
        submitted.add(name)
        receipt = ledger.settle(done, hold)
        if receipt.durable is not None:
            await receipt.durable
            acknowledged.add(f"{name} {receipt.charged_nano}")
        if step % 50 == 0:
            await ledger.top_up(owner.name, step, actor="op", reference=f"pay-{name}", note=None)


async def main(folder: Path, run: str) -> None:
    options = LedgerOptions(path=str(folder / "ledger.db"), ballast_bytes=0, free_bytes_min=0)
    os.write(1, b"opening\n")
    ledger = await open_ledger(options, SystemClock())
    await ledger.sync_tenants(TENANTS)
    journals = Journal(folder / "submitted"), Journal(folder / "acknowledged")
    os.write(1, b"ready\n")
    await asyncio.gather(*(worker(ledger, journals, run, lane) for lane in range(8)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
