"""An event loop for rehearsals: time stands still while anything works, and jumps to the next timer when nothing does.

What would take minutes of waiting takes milliseconds, and every deadline and every measured duration keeps its real
length, whatever machine it runs on. Only for work that needs nothing from outside but threads which `busy` knows of.
"""

import asyncio
import selectors
from collections.abc import Callable

from routerx.clock import SystemClock

LOOK_S = 0.001
"""How long a thread is waited for before it is asked again whether it works."""
START_S = 1_000.0


class QuickLoop(asyncio.SelectorEventLoop):
    """`busy` says whether a thread is at work for the loop; time does not jump then, nor while `busy` is None."""

    def __init__(self) -> None:
        self._passed_s = 0.0
        self.busy: Callable[[], bool] | None = None
        super().__init__(_Selector(self))

    def time(self) -> float:
        return START_S + self._passed_s

    def skip(self, seconds: float) -> None:
        """Let time pass."""
        self._passed_s += seconds


class QuickClock:
    """A Clock on the time of a QuickLoop."""

    def __init__(self, loop: QuickLoop) -> None:
        self._loop = loop
        self._began_ns = SystemClock.now_ns()

    def now_ns(self) -> int:
        return self._began_ns + round((self._loop.time() - START_S) * 1e9)

    def monotonic_s(self) -> float:
        return self._loop.time()

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)


class _Selector(selectors.DefaultSelector):
    """What the loop waits in when it has nothing to do."""

    def __init__(self, loop: QuickLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Ready files; none, and time has passed, where only a timer was waited for."""
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        busy = self._loop.busy
        if timeout is None or busy is None or busy():
            return super().select(LOOK_S)
        self._loop.skip(timeout)
        return []
