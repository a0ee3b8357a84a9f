"""Comments to a caller who waits for its stream, so that nothing on the way takes the silence for a dead connection.

They commit the status 200 and no provider: fallback stays possible, and a later failure is told within the stream. What
is not needed costs one timer.
"""

import asyncio
from collections.abc import Callable

from routerx.dialects.base import CallerDialect
from routerx.dialects.gemini import GEMINI
from routerx.gateway.context import ClientStream
from routerx.tasks import TaskSet

COMMENT = b": keep-alive\n\n"
"""A line that readers of event streams skip (WHATWG HTML, section 9.2.6)."""
BLANK_LINES = b"\r\n\r\n"
"""The same for callers of Google's wire: their client takes a comment for an answer."""

Headers = Callable[[], tuple[tuple[str, str], ...]]


class KeepAlive:
    """begin() when the waiting begins, end() before anything else is written to the caller; then again, as needed."""

    __slots__ = (
        "_client",
        "_comment_bytes",
        "_ended",
        "_headers",
        "_interval_s",
        "_task",
        "_tasks",
        "_timer",
        "started",
    )

    def __init__(
        self, client: ClientStream, interval_s: float, headers: Headers, tasks: TaskSet, wire: CallerDialect
    ) -> None:
        """`headers`: of the response, should a comment be the first of it. `wire`: the caller's."""
        self.started = False
        self._client = client
        self._comment_bytes = BLANK_LINES if wire is GEMINI else COMMENT
        self._interval_s = interval_s
        self._headers = headers
        self._tasks = tasks
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._ended: asyncio.Event | None = None

    def begin(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._wake)

    async def end(self) -> None:
        """Returns when the last comment is written."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None and self._ended is not None:
            self._ended.set()
            await self._task
            self._task = None

    def _wake(self) -> None:
        self._ended = asyncio.Event()
        self._task = self._tasks.spawn("keep-alive", self._comment(self._ended))

    async def _comment(self, ended: asyncio.Event) -> None:
        try:
            if not self.started:
                self.started = True
                await self._client.start(self._headers())
            while not ended.is_set():
                await self._client.write(self._comment_bytes)
                try:
                    async with asyncio.timeout(self._interval_s):
                        await ended.wait()
                except TimeoutError:
                    continue
        except ConnectionError:
            return  # Who waits for the provider learns of it by itself.
