"""The watch over an open ledger: probes failing commits, looks at disk and files, verifies, keeps the log in bounds."""

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Iterable

from routerx import jsonx
from routerx.clock import Clock
from routerx.ledger.beside.requestlog import RequestLog
from routerx.ledger.books import Books
from routerx.ledger.budget import day_of
from routerx.ledger.database import connect_read_only
from routerx.ledger.opening import DAYS_LOADED, LedgerOptions
from routerx.ledger.ops import Note
from routerx.ledger.proof.checks import Progress
from routerx.ledger.proof.verify import Checker, Violation, resume, watermark_of
from routerx.ledger.writer import Writer
from routerx.tasks import TaskSet

log = logging.getLogger("routerx.ledger")

TICK_S = 1.0
INSPECT_S = 5.0
PRUNE_S = 3_600.0
PAUSE_S = 0.001


class Stopped(Exception):
    """The ledger is being closed: a check in a thread ends early."""


class Watch:
    """One task that wakes every second; what takes long runs beside it, once at a time."""

    def __init__(
        self, options: LedgerOptions, clock: Clock, books: Books, writer: Writer, requests: RequestLog
    ) -> None:
        self.log_retention_days = options.log_retention_days
        self._verify_interval_s = options.verify_interval_s
        self._clock = clock
        self._books = books
        self._writer = writer
        self._requests = requests
        self._tasks = TaskSet()
        self._path = ""
        self._stored: str | None = None
        self._progress: Progress | None = None
        self._proven: tuple[int, int] | None = None
        self._verifying = asyncio.Lock()
        self._stop = threading.Event()

    def begin_at(self, path: str, stored: str | None) -> None:
        """Which file; `stored` is the watermark of its last verification. To be called before anything else."""
        self._path, self._stored = path, stored

    async def run(self) -> None:
        """Until cancelled."""
        inspected_s = verified_s = pruned_s = self._clock.monotonic_s()
        try:
            self._tasks.spawn("ledger verify", self.verify())
            self._tasks.spawn("ledger log", self._write_log())
            self._tasks.spawn("ledger log prune", self._requests.prune(self.log_retention_days))
            while True:
                await self._clock.sleep(TICK_S)
                now_s = self._clock.monotonic_s()
                if self._books.degraded:
                    self._writer.request_probe()
                if now_s - inspected_s >= INSPECT_S:
                    inspected_s = now_s
                    self._writer.chore(self._writer.inspect)
                if now_s - verified_s >= self._verify_interval_s:
                    verified_s = now_s
                    if not self._verifying.locked():
                        self._tasks.spawn("ledger verify", self.verify())
                if now_s - pruned_s >= PRUNE_S:
                    pruned_s = now_s
                    self._tasks.spawn("ledger log prune", self._requests.prune(self.log_retention_days))
        finally:
            self._stop.set()
            await self._tasks.close()

    @property
    def proven(self) -> tuple[int, int] | None:
        """The latest request and transfer up to which nothing wrong was found; None where something was."""
        return self._proven

    async def _write_log(self) -> None:
        while True:
            await self._clock.sleep(TICK_S)
            await self._requests.flush()

    def pause(self) -> None:
        """For a thread that checks rows: let the event loop work. Raises Stopped once the ledger is being closed."""
        if self._stop.wait(PAUSE_S):
            raise Stopped

    def stop_money(self, violations: Iterable[Violation]) -> None:
        """What was found wrong takes no more money until somebody has looked."""
        for violation in violations:
            log.critical("ledger verification: %s", violation)
            self._books.suspect(violation.tenant, str(violation))

    async def verify(self) -> None:
        """Check what has been written since the last time, and stop money where something is wrong."""
        async with self._verifying:
            violations = await asyncio.to_thread(self._verify)
            self.stop_money(violations)
            self._proven = None
            if not violations:
                await self.compare_memory()
                if self._progress is not None:
                    self._proven = self._progress.request, self._progress.transfer
                    mark = watermark_of(self._progress)
                    self._books.submit(Note("verified", jsonx.encode(mark).decode()))

    async def compare_memory(self) -> tuple[str, ...]:
        """What differs between the balances in memory and in the file; memory is corrected."""
        answer = self._books.check_balances()
        self._writer.chore(self._writer.report_balances)
        return await answer

    def _verify(self) -> tuple[Violation, ...]:
        """In a thread of its own, on a connection of its own."""
        connection = connect_read_only(self._path)
        try:
            if self._progress is None:
                first_day = day_of(self._clock.now_ns()) - DAYS_LOADED
                self._progress = resume(connection, self._stored, first_day)
            checker = Checker(connection, self._progress, self.pause)
            checker.run()
            return tuple(checker.violations)
        except Stopped:
            self._progress = None
            return ()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                log.warning("the ledger could not be verified this time: %s", error)
                return ()
            return (Violation("I18", f"the file cannot be read: {error}", None),)
        finally:
            connection.close()
