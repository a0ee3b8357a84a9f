"""Time as an argument: wall time for records, monotonic time for every timer, deadline and limit."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """What code that needs time asks for. Tests pass a clock they move by hand."""

    def now_ns(self) -> int:
        """Wall clock, nanoseconds since the epoch. May jump; only for records."""
        ...

    def monotonic_s(self) -> float:
        """Never goes back. The only source for durations, deadlines and limits."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Wait `delay_s` seconds of this clock's monotonic time."""
        ...


class SystemClock:
    """The machine's clocks, bound without a frame of our own: a request asks for the time some ten times."""

    now_ns = staticmethod(time.time_ns)
    monotonic_s = staticmethod(time.monotonic)

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
