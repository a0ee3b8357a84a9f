"""A clock that only moves when a test moves it."""

import asyncio
import heapq
import time

START_NS = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z
_TURNS = 20
"""Turns of the event loop given to woken code: enough for a handful of awaits, no wall-clock time."""


class ManualClock:
    """`routerx.clock.Clock` for tests.

    `advance(s)` is synchronous: it moves both clocks and marks the sleepers that are due. `await run(s)` moves from one
    sleeper's deadline to the next and lets the woken code run in between, so that a loop of short sleeps passes as it
    would in real time. `jump(s)` moves only the wall clock, as an NTP step does.
    """

    def __init__(self, now_ns: int = START_NS, monotonic_s: float = 1_000.0) -> None:
        self._now_ns = now_ns
        self._monotonic_s = monotonic_s
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0

    def now_ns(self) -> int:
        return self._now_ns

    def monotonic_s(self) -> float:
        return self._monotonic_s

    async def sleep(self, delay_s: float) -> None:
        if delay_s <= 0:
            await asyncio.sleep(0)
            return
        future = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (self._monotonic_s + delay_s, self._count, future))
        await future

    @property
    def sleepers(self) -> int:
        """How many coroutines sleep on this clock now."""
        return sum(not future.done() for _, _, future in self._sleepers)

    def advance(self, delta_s: float) -> None:
        """Move both clocks and wake, in order, who is due; woken code runs once the caller awaits."""
        self._move(self._monotonic_s + delta_s)

    def jump(self, delta_s: float) -> None:
        """Move the wall clock alone, forwards or back."""
        self._now_ns += round(delta_s * 1e9)

    async def run(self, delta_s: float) -> None:
        """Let `delta_s` seconds pass, with everything that happens in them."""
        target_s = self._monotonic_s + delta_s
        await _turns()
        while self._sleepers and self._sleepers[0][0] <= target_s:
            self._move(self._sleepers[0][0])
            await _turns()
        self._move(target_s)
        await _turns()

    async def wait_for_sleepers(self, count: int = 1) -> None:
        """Let other code run until `count` of it sleep here."""
        for _ in range(10_000):
            if self.sleepers >= count:
                return
            await asyncio.sleep(0)
        raise AssertionError(f"{self.sleepers} sleepers, {count} awaited")

    def _move(self, to_s: float) -> None:
        assert to_s >= self._monotonic_s, "a monotonic clock does not go back"
        self._now_ns += round((to_s - self._monotonic_s) * 1e9)
        self._monotonic_s = to_s
        while self._sleepers and self._sleepers[0][0] <= to_s:
            future = heapq.heappop(self._sleepers)[2]
            if not future.done():
                future.set_result(None)


class WallClock:
    """Real time whose wall clock a test sets, as if its machine had been asleep. Sleeps take a twentieth of theirs."""

    def __init__(self, now_ns: int) -> None:
        self._ahead_ns = now_ns - time.time_ns()

    def now_ns(self) -> int:
        return time.time_ns() + self._ahead_ns

    def monotonic_s(self) -> float:
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s / 20)

    def set(self, now_ns: int) -> None:
        self._ahead_ns = now_ns - time.time_ns()


async def _turns() -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(0)
