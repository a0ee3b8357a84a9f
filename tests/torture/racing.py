"""T2: thousands of random operations on the ledger alone, of many tasks on 50 tenants with little money.

Beside them a second, trivial set of books is kept from what each operation said it did; in the end both have to agree,
in memory, in the file, and in a ledger that is opened anew. The file is read every 10 ms while that goes on.
"""

import asyncio
import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from routerx.clock import SystemClock
from routerx.domain.pricing import PriceCard, PriceSnapshot
from routerx.domain.record import BillingMode
from routerx.domain.tenant import KeyTerms, Plan, Tenant
from routerx.errors import Conflict, InsufficientBalance
from routerx.ledger.base import Hold
from routerx.ledger.opening import LedgerOptions
from routerx.ledger.proof.verify import verify_file
from routerx.ledger.sqlite import SqliteLedger, open_ledger
from routerx.secrets import key_digest
from tests.torture.arena import Report
from tests.torture.commits import record

OPERATIONS = 20_000
TENANTS = 50
TASKS = 64
OPENING_NANO = 20_000
HOLD_NANO_MAX = 4_000
TOPUP_NANO_MAX = 3_000
REFERENCES = 400
"""Of top-ups: each comes many times, and counts once."""

HELD_MAX = 400
"""Open holds; beyond it one is resolved first."""

SAMPLE_S = 0.01
ACCOUNTS = "SELECT kind, name, balance, floor FROM accounts"


class Told(msgspec.Struct):
    """What the ledger said of one tenant."""

    balance_nano: int = OPENING_NANO
    suspended: bool = False
    keys: dict[str, bool] = {}
    """Id of an issued key → whether it is in force."""


async def prove_racing_operations(folder: Path, seed: int, operations: int = OPERATIONS) -> Report:
    """See the module's docstring."""
    report = Report(f"{operations} operations on the ledger alone, {TENANTS} tenants, {TASKS} tasks (seed {seed})")
    options = LedgerOptions(path=str(folder / "ledger.db"), ballast_bytes=0, free_bytes_min=0, verify_interval_s=0.2)
    ledger = await open_ledger(options, SystemClock())
    race = Race(ledger, random.Random(seed), report)
    began_s = time.monotonic()
    try:
        await ledger.sync_tenants(race.tenants)
        reader = asyncio.ensure_future(asyncio.to_thread(race.watch, options.path))
        try:
            await asyncio.gather(*(race.run(operations // TASKS) for _ in range(TASKS)))
            await race.finish()
        finally:
            race.over.set()
            await reader
        took_s = time.monotonic() - began_s
        report.violations += (await ledger.verify()).violations
        await race.compare(ledger, "in memory")
    finally:
        await ledger.close()
    report.violations += verify_file(options.path).violations
    again = await open_ledger(options, SystemClock())
    try:
        await race.compare(again, "opened anew")
    finally:
        await again.close()
    race.tell(took_s)
    return report


class Race:
    """One ledger, and what it has said."""

    def __init__(self, ledger: SqliteLedger, rng: random.Random, report: Report) -> None:
        plan = Plan("prepaid")
        self.tenants = [Tenant(f"racer-{n:02d}", plan, opening_balance_nano=OPENING_NANO) for n in range(TENANTS)]
        self.over = threading.Event()
        self._ledger = ledger
        self._rng = rng
        self._report = report
        self._told = {tenant.name: Told() for tenant in self.tenants}
        self._by_name = {tenant.name: tenant for tenant in self.tenants}
        self._holds: list[Hold] = []
        self._charges: list[tuple[str, str, int]] = []
        """(tenant, request, nano-USD)."""
        self._refunded: Counter[str] = Counter()
        self._topped_up: dict[str, tuple[str, int]] = {}
        self._ordered: set[str] = set()
        """Tenants that are being suspended, or let in again."""
        self._numbers = 0
        self._counts: Counter[str] = Counter()
        self._lowest_nano = OPENING_NANO
        self._samples = 0
        self._steps: dict[str, Callable[[Tenant], Awaitable[None]]] = {
            "hold": self._hold, "extend": self._extend, "settle": self._settle, "void": self._void,
            "top up": self._top_up, "refund": self._refund, "adjust": self._adjust, "suspend or let in": self._suspend,
            "issue a key": self._issue_key, "limit a key": self._limit_key, "revoke a key": self._revoke_key,
        }  # fmt: skip
        self._weights = (30, 8, 26, 6, 8, 8, 5, 2, 3, 2, 2)

    async def run(self, operations: int) -> None:
        """One task's share."""
        names = list(self._steps)
        for _ in range(operations):
            name = self._rng.choices(names, self._weights)[0]
            self._counts[name] += 1
            await self._steps[name](self._rng.choice(self.tenants))
            if self._rng.random() < 0.2:
                await asyncio.sleep(0)

    async def finish(self) -> None:
        """Every hold is resolved."""
        while self._holds:
            await self._settle(self._by_name[self._holds[-1].tenant])

    # --- operations

    async def _hold(self, tenant: Tenant) -> None:
        if len(self._holds) >= HELD_MAX:
            await self._settle(tenant)
        amount_nano, room_nano = self._rng.randint(1, HOLD_NANO_MAX), self._ledger.room_nano(tenant.name)
        try:
            self._holds.append(self._ledger.hold(tenant, amount_nano))
            granted = True
        except InsufficientBalance:
            self._counts["refused holds"] += 1
            granted = False
        if granted is not (amount_nano <= room_nano):
            self._wrong(f"a hold of {amount_nano} out of {room_nano} was {'granted' if granted else 'refused'}")

    async def _extend(self, _: Tenant) -> None:
        if not self._holds:
            return
        hold = self._rng.choice(self._holds)
        before, more = hold.amount_nano, self._rng.randint(1, HOLD_NANO_MAX)
        try:
            self._ledger.extend(self._by_name[hold.tenant], hold, more)
        except InsufficientBalance:
            more = 0
        if hold.amount_nano != before + more:
            self._wrong(f"a hold of {before}, extended by {more}, is {hold.amount_nano}")

    async def _settle(self, _: Tenant) -> None:
        """At most what is held, or more; by one who waits for it, or not; now and then twice."""
        if not self._holds:
            return
        hold = self._holds.pop(self._rng.randrange(len(self._holds)))
        cost_nano = self._rng.randint(1, hold.amount_nano * (3 if self._rng.random() < 0.1 else 1))
        self._numbers += 1
        done = msgspec.structs.replace(
            record(self._numbers), tenant=hold.tenant, cost_nano=cost_nano, held_nano=hold.amount_nano,
            provider_cost_nano=cost_nano, price=PriceSnapshot(PriceCard(0, 0, request_nano=cost_nano)),
        )  # fmt: skip
        receipt = self._ledger.settle(done, hold)
        self._told[hold.tenant].balance_nano -= receipt.charged_nano
        self._charges.append((hold.tenant, done.id, receipt.charged_nano))
        if receipt.charged_nano + receipt.written_off_nano != cost_nano:
            self._wrong(
                f"{cost_nano} became a charge of {receipt.charged_nano}, {receipt.written_off_nano} written off"
            )
        if self._rng.random() < 0.1 and self._ledger.settle(done, hold) != receipt:
            self._wrong(f"{done.id} was settled twice")
        if receipt.durable is not None and self._rng.random() < 0.3:
            await receipt.durable

    async def _void(self, _: Tenant) -> None:
        if self._holds:
            hold = self._holds.pop(self._rng.randrange(len(self._holds)))
            self._numbers += 1
            failed = msgspec.structs.replace(
                record(self._numbers), tenant=hold.tenant, cost_nano=0, held_nano=hold.amount_nano,
                billing=BillingMode.VOID, outcome="upstream_5xx", usage=None, attempts=(),
            )  # fmt: skip
            self._ledger.settle(failed, hold)

    async def _top_up(self, tenant: Tenant) -> None:
        reference = f"payment-{self._rng.randrange(REFERENCES)}"
        name, nano = self._topped_up.get(reference, (tenant.name, self._rng.randint(1, TOPUP_NANO_MAX)))
        is_new = reference not in self._topped_up
        self._topped_up[reference] = name, nano
        if is_new:
            self._told[name].balance_nano += nano
        row = await self._ledger.top_up(name, nano, actor="race", reference=reference, note=None)
        if (row.tenant, row.amount_nano) != (name, nano):
            self._wrong(f"{reference} over {nano} to {name} became {row}")

    async def _refund(self, _: Tenant) -> None:
        if not self._charges:
            return
        tenant, request, charged_nano = self._rng.choice(self._charges)
        if charged_nano == 0:
            return
        nano = self._rng.randint(1, charged_nano)
        try:
            row = await self._ledger.bookkeeper.refund((tenant, request), nano, actor="race", reference=None, note=None)
        except Conflict:
            self._counts["refused refunds"] += 1
            return
        self._refunded[request] += row.amount_nano
        self._told[tenant].balance_nano += row.amount_nano
        if self._refunded[request] > charged_nano:
            self._wrong(f"{self._refunded[request]} given back of {charged_nano}")

    async def _adjust(self, tenant: Tenant) -> None:
        nano = self._rng.choice((-1, 1)) * self._rng.randint(1, HOLD_NANO_MAX)
        try:
            await self._ledger.adjust(tenant.name, nano, actor="race", note=None)
        except InsufficientBalance:
            return
        self._told[tenant.name].balance_nano += nano

    async def _suspend(self, tenant: Tenant) -> None:
        """Or the other way round; one order at a time for each tenant, so that it is known which is the last."""
        name, told = tenant.name, self._told[tenant.name]
        if name in self._ordered:
            return
        self._ordered.add(name)
        if told.suspended:
            await self._ledger.unsuspend(name, actor="race")
        else:
            await self._ledger.suspend(name, actor="race", reason="racing")
        told.suspended = not told.suspended
        self._ordered.remove(name)
        if self._ledger.suspended(name) is not told.suspended:
            self._wrong(f"{name} is suspended, or is not: it should be the other way round")

    async def _issue_key(self, tenant: Tenant) -> None:
        key, row = await self._ledger.issue_key(tenant.name, actor="race", label=None)
        self._told[tenant.name].keys[row.id] = True
        if self._ledger.issued_key(key_digest(key)) is None:
            self._wrong(f"the key {row.id} is issued and unknown")

    async def _limit_key(self, tenant: Tenant) -> None:
        keys = [key for key, in_force in self._told[tenant.name].keys.items() if in_force]
        if keys:
            try:
                await self._ledger.limit_key(self._rng.choice(keys), KeyTerms(allow=("chat-*",)), actor="race")
            except Conflict:
                self._counts["keys revoked meanwhile"] += 1

    async def _revoke_key(self, tenant: Tenant) -> None:
        keys = self._told[tenant.name].keys
        if keys:
            key = self._rng.choice(list(keys))
            keys[key] = False
            await self._ledger.revoke_key(key, (), actor="race")

    # --- the judgement

    def watch(self, path: str) -> None:
        """The 10 ms reader, in a thread of its own."""
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            while not self.over.wait(SAMPLE_S):
                rows = connection.execute(ACCOUNTS).fetchall()
                self._samples += 1
                if total := sum(balance for _, _, balance, _ in rows):
                    self._wrong(f"sample {self._samples}: all balances together are {total}")
                for kind, name, balance, floor in rows:
                    if kind == "tenant":
                        self._lowest_nano = min(self._lowest_nano, balance)
                        if balance < floor:
                            self._wrong(f"sample {self._samples}: {name} has {balance}")
        finally:
            connection.close()

    async def compare(self, ledger: SqliteLedger, where: str) -> None:
        """What a ledger knows, with what was said."""
        if ledger.held_nano():
            self._wrong(f"{where}: {ledger.held_nano()} are held")
        for name, told in self._told.items():
            funds = ledger.funds(name)
            if (funds.balance_nano, funds.suspended, funds.held_nano) != (told.balance_nano, told.suspended, 0):
                self._wrong(f"{where}: {funds}, and {told}")
        in_force = {key.id: key.revoked_ns is None for key in await ledger.keys(None)}
        said = {key: force for told in self._told.values() for key, force in told.keys.items()}
        if in_force != said:
            self._wrong(f"{where}: keys differ: {in_force.items() ^ said.items()}")

    def _wrong(self, what: str) -> None:
        self._report.violations.append(f"racing: {what}")

    def tell(self, took_s: float) -> None:
        """The figures."""
        figures, counts = self._report.figures, self._counts
        figures["operations"] = ", ".join(f"{count} {what}" for what, count in counts.most_common())
        figures["took"] = f"{took_s:.1f} s"
        figures["lowest balance"] = f"{self._lowest_nano} nano-USD in {self._samples} samples of the file"
