"""The load: lanes of callers who each send one request after the other, and a journal of what they did and saw.

A line of the journal is in the kernel's hands before the driver acts on what it says: sent before the first byte goes
out, seen before the lane goes on. So the journal never knows less than the driver did.
"""

import asyncio
import contextlib
import json
import os
import time
from collections import Counter
from pathlib import Path

import msgspec

from tests.torture import oracle, world
from tests.torture.client import FAILURES, Caller, Saw, fetch, request_of
from tests.torture.oracle import Leaving

QUIET_S_MAX = 60.0
RETRY_S = 0.1
TOPUP_PAUSE_S = 0.05


class Sent(msgspec.Struct, frozen=True):
    """A request is about to go out."""

    number: int
    tenant: str
    key_id: str
    leaving: Leaving
    at_ns: int
    """Wall clock."""
    model: str | None = None
    """None: the load's."""


class Credit(msgspec.Struct, frozen=True):
    """A top-up or refund: journalled when it is first sent, and again when the gateway has acknowledged it."""

    reference: str
    tenant: str
    nano: int
    kind: str = "topup"


class Journal:
    """Append-only; kept in memory as well, for the figures while it runs."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.sent: dict[int, Sent] = {}
        self.saw: dict[int, Saw] = {}

    def sending(self, sent: Sent) -> None:
        self._add("sent", sent)
        self.sent[sent.number] = sent

    def seen(self, saw: Saw) -> None:
        self._add("saw", saw)
        self.saw[saw.number] = saw

    def crediting(self, credit: Credit) -> None:
        self._add("crediting", credit)

    def credited(self, credit: Credit) -> None:
        self._add("credited", credit)

    def close(self) -> None:
        os.close(self._fd)

    def _add(self, kind: str, value: msgspec.Struct) -> None:
        os.write(self._fd, msgspec.json.encode([kind, value]) + b"\n")


class Load:
    """Lanes that send while the gate is open. `aborts`: share of callers who leave before the end."""

    def __init__(self, seed: int, journal: Journal, *, aborts: float, retry_s: float = RETRY_S) -> None:
        self.journal = journal
        self._retry_s = retry_s
        self._callers = [Caller() for _ in range(world.LANES)]
        self.port = 0
        self.unexpected: list[Saw] = []
        """Ends other than `complete` and `left`, in order."""
        self._seed = seed
        self._aborts = aborts
        self._gate = asyncio.Event()
        self._busy = 0
        self._credits = 0
        self._tasks = [asyncio.ensure_future(self._lane(lane)) for lane in range(world.LANES)]
        self._tasks.append(asyncio.ensure_future(self._cashier()))

    @property
    def busy(self) -> int:
        """Requests under way."""
        return self._busy

    def phases(self) -> Counter[str]:
        """How many of the lanes' requests are in which phase."""
        return Counter(caller.phase for caller in self._callers if caller.phase)

    def open(self, port: int) -> None:
        """Let the lanes send, to this port."""
        self.port = port
        self._gate.set()

    def close_gate(self) -> None:
        """No new request; those under way go on."""
        self._gate.clear()

    async def quiet(self) -> None:
        """Returns when nothing is under way any more. The gate must be closed."""
        async with asyncio.timeout(QUIET_S_MAX):
            while self._busy:
                self._raise_faults()
                await asyncio.sleep(0.002)
        self._raise_faults()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _raise_faults(self) -> None:
        """A lane never ends by itself: one that did has found a fault of the driver."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def one(self, caller: Caller, key: str, tenant: str, model: str | None = None) -> Saw:
        """One request, journalled, with the next free number."""
        number = len(self.journal.sent) + 1
        asked = oracle.script(self._seed, number, model)
        leave = oracle.leaving(self._seed, number, self._aborts) if model is None else (Leaving.NEVER, 0.0)
        self.journal.sending(Sent(number, tenant, world.key_id(key), leave[0], time.time_ns(), model))
        self._busy += 1
        try:
            saw = await caller.call(self.port, request_of(asked, key, model), asked, leave)
            self.journal.seen(saw)
        finally:
            caller.phase = ""
            self._busy -= 1
        if saw.end not in ("complete", "left"):
            self.unexpected.append(saw)
        return saw

    async def _lane(self, lane: int) -> None:
        caller = self._callers[lane]
        try:
            while True:
                await self._gate.wait()
                saw = await self.one(caller, world.lane_key(lane), world.tenant_of(lane))
                if saw.end in ("cut", "refused"):
                    await asyncio.sleep(self._retry_s)  # It is ending; the gate is about to close.
        finally:
            caller.close()

    async def _cashier(self) -> None:
        """Tops up without end, each credit sent with one reference until it is acknowledged, however often that is."""
        while True:
            self._credits += 1
            tenant = world.tenant_of(self._credits)
            credit = Credit(f"credit-{self._credits}", tenant, 1_000_000_000 + self._credits)
            self.journal.crediting(credit)
            while True:
                if await self._top_up(credit):
                    break
                await asyncio.sleep(self._retry_s)
            self.journal.credited(credit)
            await asyncio.sleep(TOPUP_PAUSE_S)

    async def _top_up(self, credit: Credit) -> bool:
        await self._gate.wait()
        body = json.dumps({"amount": world.money(credit.nano), "reference": credit.reference}).encode()
        path = f"/admin/v1/tenants/{credit.tenant}/topup"
        self._busy += 1
        try:
            with contextlib.suppress(*FAILURES):
                status, _ = await fetch(self.port, "POST", path, world.ADMIN_KEY, body)
                return status == 200
            return False
        finally:
            self._busy -= 1
