"""Fifty tenants with little money, who call, are topped up and get charges back, all at once.

The books are read from the file every 10 ms while that goes on: in each of these moments all balances together are 0
and no tenant is below its floor.
"""

import asyncio
import json
import random
import sqlite3
import time
from collections import Counter
from pathlib import Path

from tests.torture import oracle, world
from tests.torture.arena import Arena, Report, arena, load
from tests.torture.client import Caller, Saw, fetch
from tests.torture.driver import Credit, Load
from tests.torture.processes import Zygote

TENANTS = 50
CALLERS = 4
"""Of each tenant, at once."""

LOADED_S = 6.0
OPENING_NANO = 20_000_000
"""Pays for one call that sets no maximum, or for dozens that do."""

TOPUP_NANO_MAX = 6_000_000
CASHIERS = 4
PAUSE_S = 0.005
QUIET_S = 1.0
"""How long the provider has had few calls."""
SAMPLE_S = 0.01
ACCOUNTS = "SELECT kind, name, balance, floor FROM accounts"


async def prove_mixed(folder: Path, seed: int, zygote: Zygote, loaded_s: float = LOADED_S) -> Report:
    """See the module's docstring."""
    report = Report(f"{TENANTS} tenants, top-ups and refunds at once (seed {seed})")
    async with arena(folder, seed, zygote) as made, load(made, aborts=0.0) as lanes:
        names = _make_tenants(made)
        await made.gateway.start()
        lanes.port = made.gateway.port
        crowd = Crowd(made, lanes, names, report)
        until_s = time.monotonic() + loaded_s
        callers = [crowd.call(name, until_s) for name in names for _ in range(CALLERS)]
        cashiers = [crowd.pay(random.Random(seed + n), until_s) for n in range(CASHIERS)]
        await asyncio.gather(*callers, *cashiers, crowd.watch(until_s))
        report.violations += await made.restless()
        report.violations += await made.stop()
        report.violations += made.verdict(unkilled=True)
        crowd.tell()
    return report


def _make_tenants(made: Arena) -> list[str]:
    names = [f"crowd-{n:02d}" for n in range(TENANTS)]
    lines = [
        f'  {name}: {{plan: ten, policy: steady, opening_balance: "{world.money(OPENING_NANO)}", '
        f'keys: ["{world.digest(world.tenant_key(name))}"]}}\n'
        for name in names
    ]
    world.write(made.folder / "tenants.d" / "crowd.yaml", "tenants:\n" + "".join(lines))
    made.opening = dict.fromkeys(names, OPENING_NANO)
    return names


class Crowd:
    """Everybody who wants something of one gateway at once."""

    def __init__(self, made: Arena, lanes: Load, names: list[str], report: Report) -> None:
        self._made = made
        self._lanes = lanes
        self._names = names
        self._report = report
        self._credits = 0
        self._refunded: list[int] = []
        """Requests of which something was asked back: they are asked for again."""
        self._answers: Counter[str] = Counter()
        self._lowest_nano = OPENING_NANO
        self._samples = 0
        self._quiet_until_s = time.monotonic() + QUIET_S

    async def call(self, name: str, until_s: float) -> None:
        """One request after the other, paid for or refused."""
        caller = Caller()
        try:
            while time.monotonic() < until_s:
                saw = await self._lanes.one(caller, world.tenant_key(name), name)
                self._answers[f"{saw.end} {saw.code}".rstrip()] += 1
                if (saw.end, saw.code) == ("refused", "insufficient_balance"):
                    await asyncio.sleep(PAUSE_S)
                elif saw.end != "complete" and not self._lacked_budget(saw):
                    self._report.violations.append(f"answer: {saw}")
        finally:
            caller.close()

    def _lacked_budget(self, saw: Saw) -> bool:
        """All begin at once, and of an endpoint that has had few calls so far only a few are tried again."""
        asked = oracle.script(self._made.seed, saw.number)
        return asked.fails_first and saw.code in oracle.FAILED_ONCE and time.monotonic() < self._quiet_until_s

    async def pay(self, rng: random.Random, until_s: float) -> None:
        """Top-ups, and refunds of whole and of parts; each asked for twice at once, by one reference."""
        while time.monotonic() < until_s:
            credit, body = self._refund(rng) if rng.random() < 0.5 else self._top_up(rng)
            if body:
                self._made.journal.crediting(credit)
                answers = await asyncio.gather(*(self._ask(credit, body) for _ in range(2)))
                if 200 in answers:
                    self._made.journal.credited(credit)
                self._answers.update(f"{credit.kind} {status}" for status in answers)
                if not set(answers) <= ({200} if credit.kind == "topup" else {200, 409}):
                    self._report.violations.append(f"credit: {credit} was answered with {answers}")
            await asyncio.sleep(PAUSE_S)

    def _top_up(self, rng: random.Random) -> tuple[Credit, dict[str, str]]:
        credit = Credit(self._reference(), rng.choice(self._names), rng.randint(1, TOPUP_NANO_MAX))
        return credit, {"amount": world.money(credit.nano), "reference": credit.reference}

    def _refund(self, rng: random.Random) -> tuple[Credit, dict[str, str]]:
        """Of a request that was answered; it may have been given back already, in part or whole."""
        journal = self._made.journal
        again = self._refunded and rng.random() < 0.5
        number = rng.choice(self._refunded) if again else rng.randint(1, max(1, len(journal.sent)))
        saw = journal.saw.get(number)
        if saw is None or saw.end != "complete":
            return Credit("", "", 0), {}
        self._refunded.append(number)
        tenant = journal.sent[number].tenant
        cost_nano = oracle.cost_nano(self._made.seed, number, tenant)
        nano = cost_nano if rng.random() < 0.3 else rng.randint(1, cost_nano)
        credit = Credit(self._reference(), tenant, nano, "refund")
        amount = world.money(nano)
        return credit, {"request_id": saw.request_id, "amount": amount, "reference": credit.reference}

    def _reference(self) -> str:
        self._credits += 1
        return f"mixed-{self._credits}"

    async def _ask(self, credit: Credit, body: dict[str, str]) -> int:
        path = f"/admin/v1/tenants/{credit.tenant}/{credit.kind}"
        port = self._made.gateway.port
        status, _ = await fetch(port, "POST", path, world.ADMIN_KEY, json.dumps(body).encode())
        return status

    async def watch(self, until_s: float) -> None:
        """The 10 ms reader."""
        connection = sqlite3.connect(f"file:{self._made.ledger}?mode=ro", uri=True)
        try:
            while time.monotonic() < until_s:
                rows = connection.execute(ACCOUNTS).fetchall()
                self._samples += 1
                if total := sum(balance for _, _, balance, _ in rows):
                    self._report.violations.append(f"books: sample {self._samples}: all balances together are {total}")
                for kind, name, balance, floor in rows:
                    if kind == "tenant" and balance < floor:
                        self._report.violations.append(f"floor: sample {self._samples}: {name} has {balance}")
                    if name in self._made.opening:
                        self._lowest_nano = min(self._lowest_nano, balance)
                await asyncio.sleep(SAMPLE_S)
        finally:
            connection.close()

    def tell(self) -> None:
        """The figures."""
        answers = ", ".join(f"{count} {what}" for what, count in self._answers.most_common())
        self._report.figures["answers"] = answers
        self._report.figures["lowest balance"] = f"{self._lowest_nano} nano-USD in {self._samples} samples of the file"
