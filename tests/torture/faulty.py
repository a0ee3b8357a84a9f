"""Faults of a gateway, and a slow disk: planted into a process of the torture alone, which asks for them by name.

Each is a mistake that gateways do make. Nothing in the program knows of them: a method is put in another's place
before the program starts. The checker has to tell each of them from the gateway as it is.
"""

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import msgspec

from routerx.clock import SystemClock
from routerx.domain.record import BillingMode, Outcome, RequestRecord
from routerx.gateway import idempotency, pipeline
from routerx.gateway.context import RequestContext
from routerx.gateway.pipeline import Gateway
from routerx.gateway.settle import Settler
from routerx.ledger import writer
from routerx.ledger.batch import Batch
from routerx.ledger.books import Books
from routerx.ledger.ops import Op, Settle
from routerx.ledger.proof import pruning
from tests.torture import failpoints
from tests.torture.failpoints import Failpoint

BEHIND_S = 0.25
SLOW_FLUSH_S = 0.08
TASKS = "tasks.txt"
DAY_NS = 86_400 * 10**9


def _put(owner: type | ModuleType, name: str, value: object) -> None:
    """In the place of something that is there: a fault that was planted nowhere would be found nowhere."""
    assert name in vars(owner), f"{owner} has no {name}"
    setattr(owner, name, value)


def settle_skipped_on_disconnect() -> None:
    """Who hangs up leaves neither row nor charge."""
    proper = Settler.settle

    def settle(self: Settler, ctx: RequestContext) -> RequestRecord | None:
        if not ctx.outcome.startswith("client_gone"):
            return proper(self, ctx)
        ctx.settled = True
        if ctx.lease is not None:
            ctx.lease.release(0)
        if ctx.hold is not None:
            self._ledger.release(ctx.hold)
        return None

    _put(Settler, "settle", settle)


def charge_before_hold() -> None:
    """What a request may cost is charged when it comes in."""
    proper = Gateway._admit

    def admit(self: Gateway, ctx: RequestContext) -> None:
        proper(self, ctx)
        assert ctx.hold is not None
        record = self._parts.settler._record(ctx)
        cost_nano = ctx.hold.amount_nano
        self._parts.ledger.settle(msgspec.structs.replace(record, cost_nano=cost_nano, billing=BillingMode.PAID), None)

    _put(Gateway, "_admit", admit)


def write_behind() -> None:
    """Charges are acknowledged at once and written a little later."""
    proper = Books.submit

    def submit(self: Books, op: Op) -> None:
        if not isinstance(op, Settle):
            proper(self, op)
            return
        if op.future is not None:
            op.future.set_result(None)
        self._loop.call_later(BEHIND_S, proper, self, op)

    _put(Books, "submit", submit)


def no_hold_at_all() -> None:
    """Everybody is let in, and the balance is looked at when the answer is there."""

    def place_hold(ledger: object, caller: object, *rest: object) -> object:
        return ledger.hold(caller.tenant, 0, caller)  # type: ignore[attr-defined]

    _put(pipeline, "place_hold", place_hold)


def hold_leaked_on_an_error_path() -> None:
    """A request that did not end well keeps its hold."""
    proper = Settler.settle

    def settle(self: Settler, ctx: RequestContext) -> RequestRecord | None:
        if ctx.outcome != Outcome.OK:
            ctx.hold = None
        return proper(self, ctx)

    _put(Settler, "settle", settle)


def done_before_commit() -> None:
    """The end of an answer does not wait for its charge."""

    def settle_whole(self: Gateway, ctx: RequestContext) -> None:
        ctx.outcome = Outcome.OK
        ctx.http_status = 200
        self._settle(ctx)

    _put(Gateway, "_settle_whole", settle_whole)


def retry_charges() -> None:
    """An attempt that failed is charged like the one that answered."""
    proper = Settler.settle

    def settle(self: Settler, ctx: RequestContext) -> RequestRecord | None:
        record = proper(self, ctx)
        if record is not None and record.outcome == Outcome.OK and len(record.attempts) > 1:
            self._ledger.settle(msgspec.structs.replace(record, id=f"{record.id}-retry"), None)
        return record

    _put(Settler, "settle", settle)


def slow_disk() -> None:
    """No fault: every batch of charges takes its time, as on a busy disk."""
    proper = Batch.flush

    def flush(self: Batch) -> None:
        if self._requests:
            time.sleep(SLOW_FLUSH_S)
        proper(self)

    _put(Batch, "flush", flush)


def frequent_checkpoints() -> None:
    """No fault: what comes after thousands of charges comes after a few."""
    _put(writer, "CHECKPOINT_CHANGES", 40)


def small_steps() -> None:
    """No fault: pruning takes as many steps as with a hundred times as many rows."""
    _put(pruning, "ROWS_PER_STEP", 10)


def two_days_ago() -> None:
    """No fault: what is written will be old."""
    _put(SystemClock, "now_ns", staticmethod(lambda: time.time_ns() - 2 * DAY_NS))


def tell_tasks() -> None:
    """No fault: at each SIGUSR2 the names of its tasks are written to TASKS, beside its configuration."""
    folder = Path.cwd()

    def tell(*_: object) -> None:
        names = sorted(task.get_name() for task in asyncio.all_tasks())
        draft = folder / f"{TASKS}.draft"
        draft.write_text("\n".join(names))
        draft.replace(folder / TASKS)

    signal.signal(signal.SIGUSR2, tell)


def small_rooms() -> None:
    """No fault: what has room for a day is full after seconds."""
    idempotency.USES_MAX, idempotency.TOTAL_BYTES_MAX = 1_000, 2**20


PLANTS: dict[str, Callable[[], None]] = {
    plant.__name__: plant
    for plant in (
        settle_skipped_on_disconnect,
        charge_before_hold,
        write_behind,
        no_hold_at_all,
        hold_leaked_on_an_error_path,
        done_before_commit,
        retry_charges,
        slow_disk,
        frequent_checkpoints,
        small_steps,
        two_days_ago,
        tell_tasks,
        small_rooms,
    )
}


def plant(name: str) -> None:
    """Put one in its place: of PLANTS, or a failpoint by its text. Raises KeyError."""
    if ":" in name:
        failpoints.arm(Failpoint.read(name))
    else:
        PLANTS[name]()
