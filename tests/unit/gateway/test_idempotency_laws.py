"""However requests come, fail, are left and are killed: one key is charged once in its day, and told what it paid."""

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from routerx.errors import IdempotencyInProgress, IdempotencyMismatch, ReplayUnavailable
from routerx.gateway.context import Answer
from routerx.gateway.idempotency import KEPT_NS, Kept, Use, keep_whole
from tests.support.clock import ManualClock
from tests.support.gateway import wait_for
from tests.unit.gateway.idempotency_kit import Desk, record

SCOPES = st.sampled_from([b"a", b"b"])
BODIES = st.sampled_from([b"one", b"other"])
PICK = st.integers(0, 3)


class Served:
    """A request on its way."""

    def __init__(self, use: Use) -> None:
        self.use = use
        self.charged: bool | None = None


class Machine(RuleBasedStateMachine):
    """One gateway after another over the same files, and what its ledger says."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.runner.get_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = ManualClock()
        self.desk = Desk(Path(self.folder.name), self.clock)
        self.serving: list[Served] = []
        self.left: list[Served] = []
        """Their callers have gone, and they are read to their end."""
        self.paid: dict[bytes, tuple[str, bytes, int]] = {}
        """By scope: the request that was charged, its body, and until when its key stands for it."""
        self.count = 0

    def teardown(self) -> None:
        self.runner.run(self.desk.uses.close())
        self.runner.close()
        self.folder.cleanup()

    def _paid(self, scope: bytes) -> tuple[str, bytes, int] | None:
        found = self.paid.get(scope)
        return found if found is not None and found[2] > self.clock.now_ns() else None

    def _running(self, scope: bytes) -> Served | None:
        return next((one for one in (*self.serving, *self.left) if one.use.scope == scope), None)

    @rule(scope=SCOPES, body=BODIES)
    def comes(self, scope: bytes, body: bytes) -> None:
        self.count += 1
        paid, running = self._paid(scope), self._running(scope)
        try:
            found = self.runner.run(self.desk.uses.begin(scope, body, f"req_{self.count}"))
        except IdempotencyMismatch:
            known = paid[1] if paid is not None else running.use.row.fingerprint if running is not None else body
            assert known != body
        except IdempotencyInProgress:
            assert running is not None
        except ReplayUnavailable:
            assert paid is not None
            assert paid[1] == body
        else:
            assert running is None
            if isinstance(found, Kept):
                assert paid is not None
                assert (found.body, body) == (paid[0].encode(), paid[1])
            else:
                assert paid is None, "a key would be charged twice"
                self.serving.append(Served(found))

    def _now(self, work: Callable[[], None]) -> None:
        """In the event loop."""

        async def run() -> None:
            work()

        self.runner.run(run())

    def _leave(self, use: Use, *, settles: bool) -> None:
        self._now(lambda: self.desk.uses.leave(use, settles=settles))

    def _settles(self, one: Served, *, charged: bool) -> None:
        use = one.use
        one.charged = charged
        row = record(use.row.request_id, "ok" if charged else "upstream_5xx", int(charged))
        self.desk.books[row.id] = row
        if charged:
            self.paid[use.scope] = (row.id, use.row.fingerprint, use.row.expires_ns)
        self._now(lambda: self.desk.uses.settled(row))

    @precondition(lambda self: self.serving)
    @rule(pick=PICK, charged=st.booleans())
    def is_served(self, pick: int, charged: bool) -> None:
        one = self.serving.pop(pick % len(self.serving))
        self._settles(one, charged=charged)
        if charged:
            keep_whole(one.use, Answer(one.use.row.request_id.encode(), "text/plain", ()))
        self._leave(one.use, settles=charged)

    @precondition(lambda self: self.serving)
    @rule(pick=PICK, settles=st.booleans())
    def ends_unsettled(self, pick: int, settles: bool) -> None:
        """Refused, or left by its caller and read to its end."""
        one = self.serving.pop(pick % len(self.serving))
        self._leave(one.use, settles=settles)
        if settles:
            self.left.append(one)

    @precondition(lambda self: self.left)
    @rule(pick=PICK, charged=st.booleans())
    def is_read_to_its_end(self, pick: int, charged: bool) -> None:
        self._settles(self.left.pop(pick % len(self.left)), charged=charged)

    @precondition(lambda self: self.serving)
    @rule(pick=PICK, left=st.booleans(), at_once=st.booleans())
    def cannot_be_charged(self, pick: int, left: bool, at_once: bool) -> None:
        """Its charge fails on its way to the disk, or at once, before anybody has heard that it settled."""
        use = self.serving.pop(pick % len(self.serving)).use
        row = record(use.row.request_id)
        if left:
            self._leave(use, settles=True)
        told = [lambda: self.desk.uses.settled(row), lambda: self.desk.uses.lost(row)]
        for tell in reversed(told) if at_once else told:
            self._now(tell)
        if not left:
            self._leave(use, settles=False)

    @precondition(lambda self: self.serving)
    @rule(pick=PICK, charged=st.booleans())
    def ends_as_nobody_foresaw(self, pick: int, charged: bool) -> None:
        one = self.serving.pop(pick % len(self.serving))
        if charged:
            self._settles(one, charged=True)
        self._now(lambda: self.desk.uses.abandon(one.use))

    @rule(settled=st.booleans())
    def is_killed(self, settled: bool) -> None:
        """Between a charge and the end of its answer, or anywhere else."""
        if settled and self.serving:
            self._settles(self.serving[0], charged=True)
        books = self.desk.books
        self.runner.run(self.desk.uses.close())
        self.serving.clear()
        self.left.clear()
        self.desk = Desk(Path(self.folder.name), self.clock)
        self.desk.books = books

    @rule(hours=st.sampled_from([1, 1, 1, 24]), swept=st.booleans())
    def time_passes(self, hours: int, swept: bool) -> None:
        self.clock.advance(hours * 3600.0)
        if swept:
            self.runner.run(self._sweep())

    async def _sweep(self) -> None:
        before = self.clock.sleepers
        sweeping = asyncio.create_task(self.desk.uses.run())
        await wait_for(lambda: self.clock.sleepers > before)
        sweeping.cancel()
        await asyncio.wait((sweeping,))


def test_one_key_is_charged_once() -> None:
    assert KEPT_NS == 24 * 3600 * 10**9
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=12, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
