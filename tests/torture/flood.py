"""T4b: ten times as many requests as a gateway can serve come in, whether or not it answers; then none do.

What it cannot serve it has to refuse, quickly and by the book. How much it still serves and how soon it is itself again
depends on the machine, and is told and not judged.
"""

import asyncio
import time
from collections import Counter

from tests.torture import world
from tests.torture.arena import Arena, Report, spread_ms
from tests.torture.client import Caller, Saw
from tests.torture.traffic import Traffic, Who

FACTOR = 10
IN_FLIGHT_MAX = 4
"""Of the gateway, by `server.concurrency_max`: so few that this machine can send ten times what they are."""

CAPACITY_S_MAX = 1.0
CALLERS_MAX = 1_000
"""An arrival that finds so many under way does not come."""

CALLER_BYTES = 64 * 2**10
GROWTH_BYTES_MAX = CALLERS_MAX * CALLER_BYTES
TICK_S = 0.005
SAMPLE_S = 0.1
CALM_REQUESTS = 5
"""So many in a row as quick as before: it is itself again."""

CALM_S_MAX = 20.0
CALM_FACTOR = 2.0


class Flood:
    """Open-loop arrivals, each on the first connection that is free."""

    def __init__(self, lanes: Traffic) -> None:
        self._lanes = lanes
        self._free: list[Caller] = []
        self._made = 0
        self._calls: set[asyncio.Task[None]] = set()
        self.ends: Counter[str] = Counter()
        self.rejected_s: list[float] = []
        self.turned_away = 0
        """Arrivals beyond CALLERS_MAX."""
        self.improper: list[str] = []

    async def rise(self, per_s: float, seconds: float) -> None:
        """Arrivals as they are due, whatever becomes of them; returns when all have ended."""
        began_s, arrived = time.monotonic(), 0
        while (now_s := time.monotonic()) < began_s + seconds:
            due = int((now_s - began_s) * per_s)
            for number in range(arrived, due):
                self._arrive(number)
            arrived = due
            await asyncio.sleep(TICK_S)
        await asyncio.gather(*self._calls)
        for caller in self._free:
            caller.close()

    def _arrive(self, number: int) -> None:
        if not self._free:
            if self._made >= CALLERS_MAX:
                self.turned_away += 1
                return
            self._made += 1
            self._free.append(Caller())
        call = asyncio.ensure_future(self._call(self._free.pop(), Who.of_lane(number % world.LANES)))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def _call(self, caller: Caller, who: Who) -> None:
        began_s = time.monotonic()
        saw = await self._lanes.ask(caller, who)
        self.ends[f"{saw.end} {saw.code}".rstrip()] += 1
        if saw.end == "refused":
            self.rejected_s.append(time.monotonic() - began_s)
        if saw.end != "complete" and not _is_proper(saw, caller):
            self.improper.append(f"flood: {saw}, Retry-After: {caller.headers.get('retry-after')}")
        self._free.append(caller)


def _is_proper(saw: Saw, caller: Caller) -> bool:
    """A refusal that says when to come again."""
    wait = caller.headers.get("retry-after", "")
    return saw.end == "refused" and saw.status in (429, 503) and wait.isdecimal() and int(wait) > 0


async def flood(made: Arena, lanes: Traffic, report: Report, seconds: float) -> None:
    """The gateway must be one that serves IN_FLIGHT_MAX requests at once."""
    capacity_per_s = await _capacity(lanes, min(CAPACITY_S_MAX, 2 * seconds))
    calm_s = await _calm(lanes, 0.0)
    before_bytes = made.gateway.rss_bytes()
    rising = Flood(lanes)
    sampling = asyncio.ensure_future(_highest(made))
    began_s = time.monotonic()
    await rising.rise(FACTOR * capacity_per_s, seconds)
    took_s = time.monotonic() - began_s
    back_s = time.monotonic()
    await _calm(lanes, CALM_FACTOR * calm_s)
    back_s = time.monotonic() - back_s
    sampling.cancel()
    (highest_bytes,) = await asyncio.gather(sampling)
    grown_bytes = highest_bytes - before_bytes
    asked, served = sum(rising.ends.values()), rising.ends["complete"]
    report.figures["flood"] = (
        f"{asked / took_s:.0f} requests per second came, {asked / took_s / capacity_per_s:.1f} times what "
        f"{IN_FLIGHT_MAX} at once are; {rising.turned_away} more could not be sent"
    )
    report.figures["flood: ends"] = ", ".join(f"{count} {end}" for end, count in rising.ends.most_common())
    report.figures["flood: served"] = (
        f"{served / took_s:.0f} per second, {served / took_s / capacity_per_s:.0%} of its capacity"
    )
    if rising.rejected_s:
        report.figures["flood: refused after"] = spread_ms(rising.rejected_s)
    report.figures["flood: as quick as before"] = f"{back_s:.2f} s later"
    report.figures["flood: memory"] = f"{grown_bytes / 2**20:+.1f} MiB"
    report.violations += rising.improper
    if not rising.rejected_s or not served:
        report.violations.append(f"flood: {report.figures['flood: ends']}")
    if grown_bytes > GROWTH_BYTES_MAX:
        report.violations.append(f"flood: memory grew by {grown_bytes} bytes")


async def _capacity(lanes: Traffic, seconds: float) -> float:
    """Requests per second of as many callers as are served at once."""

    async def one(lane: int, until_s: float) -> int:
        caller, served = Caller(), 0
        while time.monotonic() < until_s:
            served += (await lanes.ask(caller, Who.of_lane(lane))).end == "complete"
        caller.close()
        return served

    began_s = time.monotonic()
    served = await asyncio.gather(*(one(lane, began_s + seconds) for lane in range(IN_FLIGHT_MAX)))
    return sum(served) / (time.monotonic() - began_s)


async def _calm(lanes: Traffic, limit_s: float) -> float:
    """Ask until CALM_REQUESTS in a row were within the limit; 0: once. The median of these."""
    caller, until_s = Caller(), time.monotonic() + CALM_S_MAX
    lanes.added_s.clear()
    while True:
        await lanes.ask(caller, Who.of_lane(0))
        last = lanes.added_s[-CALM_REQUESTS:]
        if len(last) == CALM_REQUESTS and (not limit_s or max(last) <= limit_s or time.monotonic() > until_s):
            caller.close()
            return max(last)


async def _highest(made: Arena) -> int:
    """Of its memory, until it is cancelled."""
    highest = 0
    try:
        while True:
            highest = max(highest, made.gateway.rss_bytes())
            await asyncio.sleep(SAMPLE_S)
    except asyncio.CancelledError:
        return highest
