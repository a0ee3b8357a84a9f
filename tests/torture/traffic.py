"""The load of `everything`: at a rate that can be set, with keyed and cached requests among it, and timed.

Beside the lanes there are callers of tenants that operators are busy with. Whatever is not as it has to be is kept with
the span of time it took, so that it can be told whether the disk was full meanwhile.
"""

import asyncio
import random
import time
from collections import Counter, deque

import msgspec

from tests.torture import oracle, world
from tests.torture.client import Caller, Saw, request_of
from tests.torture.driver import Journal, Load, Sent
from tests.torture.oracle import Kind, Leaving, Script

ABORTS = 0.05
KEYED, CACHED = 0.06, 0.06
"""Shares of requests with an Idempotency-Key, and of those that an answer of the last minutes will do for."""

LAG_S = 0.05
"""A load that fell behind its rate makes up for no more than this."""

BUSY, BUDGET_S = 100, 9.0
"""After so many calls within so many seconds a retry budget is more than the provider's faults can use up."""

STAYS = (Leaving.NEVER, 0.0)


class Who(msgspec.Struct, frozen=True):
    """A caller's tenant and key."""

    tenant: str
    key: str
    key_id: str

    @staticmethod
    def of_lane(lane: int) -> "Who":
        key = world.lane_key(lane)
        return Who(world.tenant_of(lane), key, world.key_id(key))

    @staticmethod
    def of_tenant(tenant: str) -> "Who":
        key = world.tenant_key(tenant)
        return Who(tenant, key, world.key_id(key))


class Odd(msgspec.Struct, frozen=True):
    """Something that must not be, unless the disk is full."""

    began_s: float
    ended_s: float
    what: str
    is_storage: bool
    """A refusal, or the end of a stream, for want of room."""


class Play(msgspec.Struct, frozen=True):
    """How a request is to be sent."""

    headers: str = ""
    about: str | None = None
    kept: Script | None = None
    """What an answer from the cache answers."""
    stays: bool = True


class Traffic(Load):
    """As Load, which see; `rate_per_s` None: as much as 40 lanes can."""

    def __init__(self, seed: int, journal: Journal) -> None:
        super().__init__(seed, journal, aborts=ABORTS)
        self.rate_per_s: float | None = None
        self.odd: list[Odd] = []
        self.ends: Counter[str] = Counter()
        self.added_s: list[float] = []
        """What plain requests took longer than the provider did."""
        self.told_again = 0
        self.not_retried = 0
        self._embedded: dict[bool, deque[float]] = {is_own: deque(maxlen=BUSY) for is_own in (False, True)}
        """When the last embeddings were sent, with own keys and with the house's: each has a retry budget."""
        self._due_s = 0.0
        self._kept: dict[tuple[int, Kind, bool], Script] = {}

    async def ask(self, caller: Caller, who: Who, play: Play | None = None) -> Saw:
        """One request with the next free number, journalled. Not judged by its end."""
        play = Play() if play is None else play
        number = len(self.journal.sent) + 1
        asked = oracle.script(self._seed, number)
        leave = STAYS if play.stays else oracle.leaving(self._seed, number, ABORTS)
        self.journal.sending(Sent(number, who.tenant, who.key_id, leave[0], time.time_ns()))
        if asked.kind is Kind.EMBEDDED:
            self._embedded[who.tenant == oracle.OWN].append(time.monotonic())
        caller.kept = play.kept
        about = {} if play.about is None else {"about": play.about}
        request = request_of(asked, who.key, headers=play.headers, **about)
        began_s = time.monotonic()
        saw = await self.send(caller, request, asked, leave)
        self.journal.seen(saw)
        if saw.end == "complete" and not (asked.fails_first or asked.falls_back):
            waited_s = asked.head_s + (asked.frames * asked.gap_s if asked.kind is Kind.STREAMED else 0.0)
            self.added_s.append(time.monotonic() - began_s - waited_s)
        self.ends[f"{saw.end} {saw.code}".rstrip()] += 1
        return saw

    async def send(self, caller: Caller, request: bytes, asked: Script, leave: tuple[Leaving, float] = STAYS) -> Saw:
        """Bytes that may have been sent before: not journalled."""
        self._busy += 1
        try:
            return await caller.call(self.port, request, asked, leave)
        finally:
            caller.phase = ""
            self._busy -= 1

    def judge(self, saw: Saw, began_s: float, *due: str) -> bool:
        """Whether it ended as it has to; what did not is kept."""
        if saw.end in due:
            return True
        if saw.code == "upstream_error" and self._may_lack_budget(saw.number):
            self.not_retried += 1
            return True
        is_storage = saw.code == "storage_unavailable" and (saw.end, saw.status) in (
            ("refused", 503),
            ("broke_off", 200),
        )
        self.odd.append(Odd(began_s, time.monotonic(), str(saw), is_storage))
        return False

    def _may_lack_budget(self, number: int) -> bool:
        """Embeddings have no second endpoint, and of a quiet one few calls are tried again."""
        sent = self._embedded[self.journal.sent[number].tenant == oracle.OWN]
        is_quiet = len(sent) < BUSY or time.monotonic() - sent[0] > BUDGET_S
        return is_quiet and oracle.script(self._seed, number).fails_first

    async def opened(self) -> None:
        """Returns while requests may be sent."""
        await self._gate.wait()

    def hang_up(self) -> None:
        """No lane is connected. Nothing may be under way."""
        for caller in self._callers:
            caller.close()

    async def turn(self) -> None:
        """Returns when the next request may be sent."""
        await self._gate.wait()
        if self.rate_per_s is not None:
            now_s = time.monotonic()
            self._due_s = max(self._due_s + 1 / self.rate_per_s, now_s - LAG_S)
            await asyncio.sleep(self._due_s - now_s)
            await self._gate.wait()

    async def _lane(self, lane: int) -> None:
        caller, who = self._callers[lane], Who.of_lane(lane)
        rng = random.Random(self._seed * world.LANES + lane)
        try:
            while True:
                await self.turn()
                began_s, kind = time.monotonic(), rng.random()
                if kind < KEYED:
                    well = await self._keyed(caller, who)
                elif kind < KEYED + CACHED:
                    well = await self._cached(caller, who, lane)
                else:
                    saw = await self.ask(caller, who, Play(stays=False))
                    well = self.judge(saw, began_s, "complete", "left")
                if not well:
                    await asyncio.sleep(self._retry_s)
        finally:
            caller.close()

    async def _keyed(self, caller: Caller, who: Who) -> bool:
        """Sent twice, if its caller stays, and served once."""
        number, began_s = len(self.journal.sent) + 1, time.monotonic()
        headers = f"Idempotency-Key: request-{number}\r\n"
        saw = await self.ask(caller, who, Play(headers, stays=False))
        if saw.end == "complete":
            asked = oracle.script(self._seed, number)
            began_s = time.monotonic()
            saw = await self.send(caller, request_of(asked, who.key, headers=headers), asked)
            self.told_again += saw.end == "told"
            return self.judge(saw, began_s, "told")
        return self.judge(saw, began_s, "left")

    async def _cached(self, caller: Caller, who: Who, lane: int) -> bool:
        """Every second one of its kind asks for what the one before it asked for; a reload forgets all answers."""
        number, began_s = len(self.journal.sent) + 1, time.monotonic()
        asked = oracle.script(self._seed, number)
        shape = (lane, asked.kind, asked.caps_output)
        before = self._kept.pop(shape, None)
        first = asked if before is None else before
        kept = first._replace(wants_usage=asked.wants_usage)
        saw = await self.ask(caller, who, Play("X-RouterX-Cache: true\r\n", f"Words of {first.number}.", kept))
        if before is None and saw.end == "complete":
            self._kept[shape] = asked
        return self.judge(saw, began_s, "complete", *(() if before is None else ("told",)))
