"""Time that jumps over waiting and stands still for work."""

import asyncio
import threading

import pytest

from routerx.cli.quicktime import QuickClock, QuickLoop

HOUR_S = 3_600.0


def never() -> bool:
    return False


def test_an_hour_of_waiting_takes_no_time_and_an_hour_has_passed():
    async def wait() -> tuple[float, int]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, QuickLoop)
        clock, loop.busy = QuickClock(loop), never
        started_s, started_ns = clock.monotonic_s(), clock.now_ns()
        await clock.sleep(HOUR_S)
        return clock.monotonic_s() - started_s, clock.now_ns() - started_ns

    with asyncio.Runner(loop_factory=QuickLoop) as runner:
        passed_s, passed_ns = runner.run(asyncio.wait_for(wait(), 2 * HOUR_S))
    assert passed_s == pytest.approx(HOUR_S)
    assert passed_ns == pytest.approx(HOUR_S * 1e9)


def test_timers_fire_in_their_order():
    async def race() -> list[str]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, QuickLoop)
        loop.busy = never
        seen: list[str] = []
        loop.call_later(20.0, seen.append, "late")
        loop.call_later(10.0, seen.append, "early")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(15.0):
                await asyncio.Event().wait()
        assert seen == ["early"]
        await asyncio.sleep(5.0)
        return seen

    with asyncio.Runner(loop_factory=QuickLoop) as runner:
        assert runner.run(race()) == ["early", "late"]


def test_a_thread_that_works_is_waited_for():
    async def work() -> float:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, QuickLoop)
        answer: asyncio.Future[None] = loop.create_future()
        loop.busy = lambda: not answer.done()
        started_s = loop.time()
        gate = threading.Event()
        thread = threading.Thread(target=lambda: (gate.wait(10), loop.call_soon_threadsafe(answer.set_result, None)))
        thread.start()
        deadline = loop.call_later(1.0, answer.set_exception, TimeoutError)
        loop.call_soon(gate.set)
        await answer
        deadline.cancel()
        thread.join()
        return loop.time() - started_s

    with asyncio.Runner(loop_factory=QuickLoop) as runner:
        assert runner.run(work()) == 0.0
