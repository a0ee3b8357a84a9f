"""The one thread that writes the books: whatever is queued becomes one transaction, one flush, one wake-up of the loop.

There is no timer. A batch forms because the previous commit is still flushing; an idle system commits at once. What can
go wrong is sorted by `Trouble`; each kind has one answer, and whatever it is, an op ends either durable or failed.
"""

import asyncio
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable

import msgspec

from routerx.clock import Clock
from routerx.errors import InternalError, RouterXError, StorageBusy, StorageUnavailable
from routerx.ledger.batch import Batch, BooksState, load_state
from routerx.ledger.database import touch
from routerx.ledger.ops import Op, Settle
from routerx.ledger.storage import Storage, Trouble, classify

log = logging.getLogger("routerx.ledger")

BATCH_OPS_MAX = 512
FLUSH_OPS = 64
"""Ops whose rows are written at a time: between them the interpreter lock is free for the event loop."""

BUSY_TRIES_MAX = 3
"""Busy timeouts that a batch waits out before it fails; from the first on, new work is refused."""

CHECKPOINT_CHANGES = 20_000
"""Row changes after which the WAL is checkpointed even under load: some 10 MiB of pages."""

CHECKPOINT_IDLE_CHANGES = 500
IDLE_S = 0.2


class Outcome(msgspec.Struct, frozen=True):
    """A processed batch on its way to the loop: a result or an error per op."""

    ops: list[Op]
    results: list[object]
    """`Failed` where the op is not in the books; an error object where a rule refused it."""


class Health(msgspec.Struct, frozen=True):
    """What the loop should refuse new work with; None: all is well."""

    refusal: RouterXError | None


class Balances(msgspec.Struct, frozen=True):
    """Authoritative balances by tenant as of all outcomes posted before this."""

    by_tenant: dict[str, int]


Report = Outcome | Health | Balances


class Writer:
    """Owns storage and state from `start()` on. `submit` and `chore` are for the event loop."""

    def __init__(self, storage: Storage, state: BooksState, clock: Clock) -> None:
        self.on_commit: Callable[[float], None] = lambda duration_s: None
        """Told the seconds each batch took, by the writer's thread."""
        self._clock = clock
        self._storage = storage
        self._state = state
        self._queue: queue.SimpleQueue[Op | Callable[[], None]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="routerx-ledger", daemon=True)
        self._post: Callable[[Report], None] = lambda report: None
        self._stopping = False
        self._refusal: RouterXError | None = None
        self._attempted: tuple[Batch, list[object]] | None = None
        self._committed = False
        self._resync = False
        self._probing = False
        self._changes = 0

    # --- the event loop's side

    def start(self, loop: asyncio.AbstractEventLoop, receive: Callable[[Report], None]) -> None:
        """`receive` is called in `loop`, in order."""
        self._post = lambda report: _call(loop, receive, report)
        self._thread.start()

    def submit(self, op: Op) -> None:
        self._queue.put(op)

    def chore(self, work: Callable[[], None]) -> None:
        """Run `work` in the writer thread, between transactions."""
        self._queue.put(work)

    def request_probe(self) -> None:
        """Have commits tried out, unless that is under way."""
        if not self._probing:
            self._probing = True
            self.chore(self._probe)

    def stop(self) -> None:
        """Process what is queued, checkpoint, close. Blocks: call it off the loop."""
        self.chore(self._stop)
        self._thread.join()

    # --- the thread

    def _run(self) -> None:
        try:
            self._storage.keep_ballast()
            while not self._stopping:
                self._turn()
            self._storage.checkpoint("TRUNCATE", wait=True)
        except Exception as error:  # The task root of this thread.
            log.critical("the ledger's writer has died; no money is taken any more", exc_info=error)
            self._refuse(StorageUnavailable("The ledger has stopped."))
        finally:
            self._storage.drop()

    def _turn(self) -> None:
        """One train: take everything queued, commit it, tell the loop."""
        items = self._take()
        ops = [item for item in items if isinstance(item, Op)]
        if ops:
            self._committed = False
            started_s = self._clock.monotonic_s()
            results = self._process(ops)
            self._post(Outcome(ops, results))
            self.on_commit(self._clock.monotonic_s() - started_s)
            if self._committed:
                self._take_work()
        for item in items:
            if not isinstance(item, Op):
                _do(item)
        if self._changes >= CHECKPOINT_CHANGES:
            self._checkpoint()

    def _take(self) -> list[Op | Callable[[], None]]:
        if self._changes >= CHECKPOINT_IDLE_CHANGES:
            try:
                first = self._queue.get(timeout=IDLE_S)
            except queue.Empty:
                self._checkpoint()
                return []
        else:
            first = self._queue.get()
        more = min(self._queue.qsize(), BATCH_OPS_MAX - 1)
        return [first, *(self._queue.get_nowait() for _ in range(more))]

    def _process(self, ops: list[Op]) -> list[object]:
        """A result per op. Never raises: what cannot be written fails, and new work is refused until it can."""
        tries = 0
        while True:
            tries += 1
            try:
                results = self._transact(ops, checked=False)
            except Exception as error:  # The transaction root: every kind of trouble has its answer below.
                trouble = classify(error)
                if trouble is Trouble.POISON:
                    return self._one_by_one(ops)
                if trouble is Trouble.DEVICE and self._landed():
                    results = self._keep_attempted()
                elif self._try_again(trouble, tries):
                    continue
                else:
                    return self._give_up(ops, trouble, error)
            return results

    def _one_by_one(self, ops: list[Op]) -> list[object]:
        """A batch that failed for no reason of the storage: the op that is at fault fails alone."""
        results: list[object] = []
        for op in ops:
            try:
                results += self._transact([op], checked=True)
            except Exception as error:
                trouble = classify(error)
                if trouble is Trouble.POISON:
                    log.error("the ledger refuses %s", _name(op), exc_info=error)
                    results.append(Failed(_failure(op, trouble)))
                else:
                    results += self._process([op])
        return results

    def _transact(self, ops: list[Op], *, checked: bool) -> list[object]:
        self._attempted = None
        connection = self._connected()
        connection.execute("BEGIN IMMEDIATE")
        try:
            batch = Batch(connection, self._state)
            results: list[object] = []
            for count, op in enumerate(ops, 1):
                results.append(op.apply_checked(batch) if checked else op.apply(batch))
                if count % FLUSH_OPS == 0:
                    batch.flush()
            batch.flush()
            self._attempted = (batch, results)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                _rollback(connection)
            raise
        return self._keep_attempted()

    def _keep_attempted(self) -> list[object]:
        assert self._attempted is not None
        batch, results = self._attempted
        self._attempted = None
        batch.merge()
        self._committed = True
        self._changes += len(results) * 4
        return results

    # --- trouble

    def _try_again(self, trouble: Trouble, tries: int) -> bool:
        match trouble:
            case Trouble.BUSY:
                self._refuse(self._why(trouble))
                return tries < BUSY_TRIES_MAX
            case Trouble.FULL:
                if tries == 1:
                    self._storage.make_room()
                return tries == 1
            case Trouble.DEVICE:
                return tries == 1 and self._storage.open
            case Trouble.POISON:
                return False

    def _give_up(self, ops: list[Op], trouble: Trouble, error: Exception) -> list[object]:
        self._committed = False  # Whatever was written before it: the refusal stands until a commit works again.
        log.error("the ledger cannot commit (%s): %s", trouble.value, error)
        if trouble is not Trouble.BUSY:
            self._refuse(self._why(trouble))
        return [Failed(_failure(op, trouble)) for op in ops]

    def _landed(self) -> bool:
        """After an I/O error: has the batch reached the file all the same?

        A failed flush is never repeated on the same connection as if nothing had happened (FAULTS.md 88). A new one
        reads what is there; if that is the whole batch, a checkpoint writes and flushes it a second time, elsewhere.
        """
        attempted = self._attempted
        self._storage.drop()
        try:
            connection = self._connected()
            if attempted is None or not attempted[0].appends() or self._state.marks() != attempted[0].marks():
                return False
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error as error:
            log.error("the ledger cannot be reopened: %s", error)
            self._storage.drop()
            return False
        self._attempted = (Batch(connection, self._state), attempted[1])
        return True

    def _connected(self) -> sqlite3.Connection:
        """The connection; after a device error a new one, with the state as the file has it. Raises sqlite3.Error."""
        connection, fresh = self._storage.connection()
        if fresh:
            try:
                self._state = load_state(connection)
            except sqlite3.Error:
                self._storage.drop()
                raise
            self._resync = True
        return connection

    def _take_work(self) -> None:
        """Commits work. After a new connection the loop hears the file's balances first: a batch that was given up may
        have reached the file after all."""
        if self._resync:
            self._resync = False
            self.report_balances()
        self._refuse(self._storage.standing_refusal())

    def _refuse(self, refusal: RouterXError | None) -> None:
        """Tell the loop what to answer new work with, when that changes."""
        if _message(refusal) != _message(self._refusal):
            self._refusal = refusal
            self._post(Health(refusal))

    def _why(self, trouble: Trouble) -> RouterXError:
        standing = self._storage.standing_refusal()
        if standing is not None:
            return standing
        message = f"The ledger cannot commit: {_REASONS[trouble]}."
        kind = StorageBusy if trouble is Trouble.BUSY else StorageUnavailable
        return kind(message, retry_after_s=5)

    # --- chores

    def _probe(self) -> None:
        """Does a commit work again?"""
        try:
            self._storage.look()
            touch(self._connected(), str(time.time_ns()))
        except Exception as error:  # As in _process: any failure means not yet.
            trouble = classify(error)
            if trouble is Trouble.DEVICE:
                self._storage.drop()
            self._refuse(self._why(trouble))
        else:
            self._storage.keep_ballast()
            self._take_work()
        finally:
            self._probing = False

    def inspect(self) -> None:
        """A chore for the times when commits work: are disk and files still what they should be?"""
        self._storage.look()
        standing = self._storage.standing_refusal()
        if standing is not None:
            self._refuse(standing)
        else:
            self._storage.keep_ballast()

    def _checkpoint(self) -> None:
        self._changes = 0
        self._storage.relieve()

    def report_balances(self) -> None:
        """A chore: post the balances of the file."""
        balances = self._state.balances
        self._post(Balances({name: balances[account] for name, account in self._state.accounts.items()}))

    def _stop(self) -> None:
        self._stopping = True


class Failed:
    """A result that is a failure of the storage or of the op, not a refusal by a rule."""

    __slots__ = ("error",)

    def __init__(self, error: RouterXError) -> None:
        self.error = error


_REASONS = {
    Trouble.BUSY: "another program keeps it locked",
    Trouble.FULL: "the disk is full",
    Trouble.DEVICE: "the storage reports an error",
    Trouble.POISON: "a record was refused",
}


def _failure(op: Op, trouble: Trouble) -> RouterXError:
    message = f"The ledger could not commit: {_REASONS[trouble]}."
    match trouble:
        case Trouble.POISON if not isinstance(op, Settle):
            return InternalError(message)
        case Trouble.BUSY if not isinstance(op, Settle):
            return StorageBusy(message, retry_after_s=5)
        case _:
            return StorageUnavailable(message, retry_after_s=5)


def _do(work: Callable[[], None]) -> None:
    try:
        work()
    except Exception as error:  # The root of a chore: the writer goes on.
        log.error("a chore of the ledger failed", exc_info=error)


def _message(error: RouterXError | None) -> str | None:
    return None if error is None else error.message


def _name(op: Op) -> str:
    return f"request {op.record.id!r}" if isinstance(op, Settle) else type(op).__name__


def _rollback(connection: sqlite3.Connection) -> None:
    try:
        connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        log.error("rollback failed: %s", error)


def _call(loop: asyncio.AbstractEventLoop, receive: Callable[[Report], None], report: Report) -> None:
    try:
        loop.call_soon_threadsafe(receive, report)
    except RuntimeError:
        log.warning("the event loop is gone; the ledger finishes what is queued")
