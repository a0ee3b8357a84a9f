"""A small database beside the ledger's, with one thread: what is asked of it at once is one transaction and one flush.

As in writer.py there is no timer: a train forms because the one before it is still being flushed. It knows nothing of
money. What it keeps is whole or not there; after any error of the file the connection is given up and a new one opened.
"""

import asyncio
import contextlib
import logging
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from routerx.ledger.database import create_private

log = logging.getLogger("routerx.ledger")

T = TypeVar("T")

TRAIN_MAX = 256
"""Jobs in one transaction."""

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class SideFileOptions(msgspec.Struct, frozen=True):
    """Which file, and how it is kept."""

    path: str
    schema: Sequence[str]
    """Statements that make what is not there yet."""
    synchronous: str
    """`FULL`: what a job has written is on disk when it is done. `NORMAL`: a crash of the machine may undo the last."""
    expendable: bool = False
    """A damaged file is removed, and another one begun."""


class _Job(Generic[T]):
    """Work, and who waits for it."""

    __slots__ = ("future", "work")

    def __init__(self, work: Callable[[sqlite3.Connection], T], future: "asyncio.Future[T]") -> None:
        self.work = work
        self.future = future


class SideFile:
    """The file. All but the thread's own methods are for the event loop."""

    def __init__(self, options: SideFileOptions) -> None:
        self._options = options
        self._queue: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._connection: sqlite3.Connection | None = None
        self._closed = False

    @property
    def exists(self) -> bool:
        """There is something in it, of this process or of an earlier one."""
        return self._thread is not None or os.path.exists(self._options.path)

    def submit(self, work: Callable[[sqlite3.Connection], T]) -> "asyncio.Future[T]":
        """Have `work` done, within a transaction that others may share, in the order of the calls: it fails with
        sqlite3.Error where any of them does. Nobody needs to wait for it."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_retrieved)
        if self._closed:
            future.set_exception(sqlite3.ProgrammingError("the file is closed"))
            return future
        if self._thread is None:  # With the first job: what is never used has neither thread nor file.
            self._thread = threading.Thread(
                target=self._run, args=(asyncio.get_running_loop(),), name="routerx-side-file", daemon=True
            )
            self._thread.start()
        self._queue.put(_Job(work, future))
        return future

    async def close(self) -> None:
        """Once what was submitted is done."""
        self._closed = True
        if self._thread is not None:
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)

    # --- the thread

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        ending = False
        while not ending:
            jobs, ending = self._take()
            if not jobs:
                continue
            try:
                outcome: list[Any] | Exception = self._transact(jobs)
            except Exception as error:  # The root of the work: whoever waits is told, and the thread goes on.
                self._give_up(error)
                outcome = error
            _tell(loop, jobs, outcome)
        self._drop()

    def _take(self) -> tuple[list[_Job[Any]], bool]:
        """All that is queued, and whether nothing more comes."""
        items = [self._queue.get()]
        items += [self._queue.get_nowait() for _ in range(min(self._queue.qsize(), TRAIN_MAX - 1))]
        return [item for item in items if item is not None], items[-1] is None

    def _transact(self, jobs: list[_Job[Any]]) -> list[Any]:
        connection = self._connected()
        connection.execute("BEGIN IMMEDIATE")
        results = [job.work(connection) for job in jobs]
        connection.execute("COMMIT")
        return results

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            options = self._options
            create_private(options.path)
            connection = sqlite3.connect(options.path, isolation_level=None, check_same_thread=False)
            self._connection = connection
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {options.synchronous}")
            for statement in options.schema:
                connection.execute(statement)
        return self._connection

    def _give_up(self, error: Exception) -> None:
        """Closing rolls back what was not committed, and what a failed flush has left is read anew."""
        log.error("%s: %s", self._options.path, error)
        self._drop()
        code = getattr(error, "sqlite_errorcode", None)
        if self._options.expendable and isinstance(code, int) and code & 0xFF in _DAMAGED:
            with contextlib.suppress(OSError):  # Whoever opens it next meets the same again.
                remove_side_file(self._options.path)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()


def remove_side_file(path: str) -> None:
    """The file and what SQLite keeps beside it, where they are there. Nobody may have it open."""
    for name in (path, f"{path}-wal", f"{path}-shm"):
        if os.path.exists(name):
            os.unlink(name)


def _tell(loop: asyncio.AbstractEventLoop, jobs: list[_Job[Any]], outcome: list[Any] | Exception) -> None:
    try:
        loop.call_soon_threadsafe(_resolve, jobs, outcome)
    except RuntimeError:
        log.warning("the event loop is gone; what was queued is done")


def _resolve(jobs: list[_Job[Any]], outcome: list[Any] | Exception) -> None:
    for place, job in enumerate(jobs):
        if job.future.done():
            continue  # Whoever waited has gone; the work is done all the same.
        if isinstance(outcome, Exception):
            job.future.set_exception(outcome)
        else:
            job.future.set_result(outcome[place])


def _retrieved(future: "asyncio.Future[Any]") -> None:
    """Its failure is logged by the thread: nobody has to look."""
    if not future.cancelled():
        future.exception()
