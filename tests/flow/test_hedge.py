"""A hedged first token: whoever answers first, one answer, one charge."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.flow.flow_kit import UP_COST
from tests.support.behaviours import Behaviour
from tests.support.gateway import Config, Gateway, config, running, wait_for
from tests.support.upstream import Ok, ScriptedUpstream, Silence, Status, Stream

HEDGE_MS = 20
DEAR = 10 * UP_COST


@dataclass
class Race:
    gateway: Gateway
    up: ScriptedUpstream
    spare: ScriptedUpstream

    def circuits(self) -> dict[str, tuple[str, float]]:
        return {view.endpoint: (view.circuit, view.failures) for view in self.gateway.runtime.routing.view(0.0)}


@asynccontextmanager
async def racing(tmp_path: Path, change: Callable[[Config], None] = lambda _: None) -> AsyncIterator[Race]:
    async with ScriptedUpstream() as up, ScriptedUpstream() as spare:
        value = config(up.url, spare.url)
        value["policies"]["default"]["hedge"] = f"{HEDGE_MS}ms"
        value["models"]["duo"]["endpoints"][1]["model"] = "twin"
        change(value)
        async with running(tmp_path, value) as gateway:
            yield Race(gateway, up, spare)
            await gateway.assert_books_are_clean()


@pytest.fixture
async def race(tmp_path: Path) -> AsyncIterator[Race]:
    async with racing(tmp_path) as found:
        yield found


def told(row: Any) -> list[tuple[str, str, bool]]:
    """The attempts, in their order."""
    assert [one.n for one in row.attempts] == list(range(1, len(row.attempts) + 1))
    return [(one.provider, one.outcome, one.won) for one in row.attempts]


@pytest.fixture
async def patient(tmp_path: Path) -> AsyncIterator[Race]:
    """Nobody is as late as that here."""

    def change(value: Config) -> None:
        value["policies"]["default"]["hedge"] = "9s"

    async with racing(tmp_path, change) as found:
        yield found


async def test_who_answers_in_time_is_alone(patient: Race) -> None:
    race = patient
    assert (await race.gateway.chat("duo", stream=True)).text == "Hello from upstream"
    assert race.spare.requests == []
    row = await race.gateway.settled()
    assert (told(row), row.cost_nano) == ([("up", "ok", True)], UP_COST)


async def test_the_second_answers_and_the_first_is_hung_up_on(race: Race) -> None:
    race.up.default, race.spare.default = Silence(), Ok("twin")
    assert (await race.gateway.chat("duo", stream=True)).text == "twin"
    await race.up.requests[0].gone()
    row = await race.gateway.settled()
    assert told(row) == [("up", "cancelled", False), ("spare", "ok", True)]
    assert (row.cost_nano, await race.gateway.spent()) == (DEAR, DEAR)
    assert row.attempts[0].cost_est_nano > 0
    assert len(race.spare.requests) == 1


async def test_the_first_answers_after_the_hedge_has_started(race: Race) -> None:
    gate = asyncio.Event()
    race.up.default, race.spare.default = Ok("first", gate=gate), Silence()
    caller = await race.gateway.begin("duo", stream=True)
    await race.spare.arrived()
    gate.set()
    reply = await caller.reply()
    assert reply.text == "first"
    await race.spare.requests[0].gone()
    assert not race.up.requests[0].is_gone  # Its connection is kept.
    row = await race.gateway.settled()
    assert told(row) == [("spare", "cancelled", False), ("up", "ok", True)]
    assert (row.cost_nano, await race.gateway.spent()) == (UP_COST, UP_COST)
    assert all(failures == 0 for _, failures in race.circuits().values())


async def test_a_whole_answer_is_not_hedged(race: Race) -> None:
    """It shows no first token: it may rightly be silent for minutes."""
    gate = asyncio.Event()
    race.up.default = Ok("first", gate=gate)
    caller = await race.gateway.begin("duo")
    await race.up.arrived()
    await asyncio.sleep(3 * HEDGE_MS / 1000)
    gate.set()
    assert (await caller.reply()).text == "first"
    assert race.spare.requests == []


async def test_who_fails_before_the_delay_is_followed_as_ever(patient: Race) -> None:
    race = patient
    race.up.default, race.spare.default = Status(401), Ok("twin")
    assert (await race.gateway.chat("duo", stream=True)).text == "twin"
    row = await race.gateway.settled()
    assert told(row) == [("up", "upstream_auth_failed", False), ("spare", "ok", True)]


@dataclass(frozen=True)
class Late:
    """Waits, and then does that."""

    gate: asyncio.Event
    then: Behaviour

    async def play(self, peer: Any) -> None:
        await self.gate.wait()
        await self.then.play(peer)


async def test_the_first_fails_beside_a_hedge_that_answers(race: Race) -> None:
    """What failed is known of the one that failed: its circuit learns it, its key cools."""
    broke, answers = asyncio.Event(), asyncio.Event()
    race.up.default, race.spare.default = Late(broke, Status(503)), Late(answers, Ok("twin"))
    caller = await race.gateway.begin("duo", stream=True)
    await race.spare.arrived()
    (ctx,) = race.gateway.runtime.gateway.active
    broke.set()
    await wait_for(lambda: ctx.attempts)
    answers.set()
    assert (await caller.reply()).text == "twin"
    row = await race.gateway.settled()
    assert [(one.provider, one.won) for one in row.attempts] == [("up", False), ("spare", True)]
    assert row.cost_nano == DEAR
    assert {name: failures for name, (_, failures) in race.circuits().items()} == {"up/duo": 1.0, "spare/twin": 0.0}


async def test_a_hedge_that_fails_leaves_the_first_to_answer(race: Race) -> None:
    gate = asyncio.Event()
    race.up.default, race.spare.default = Ok("first", gate=gate), Status(503)
    caller = await race.gateway.begin("duo", stream=True)
    await race.spare.arrived()
    (ctx,) = race.gateway.runtime.gateway.active
    await wait_for(lambda: ctx.attempts)
    gate.set()
    assert (await caller.reply()).text == "first"
    row = await race.gateway.settled()
    assert [(one.provider, one.won) for one in row.attempts] == [("spare", False), ("up", True)]
    assert (row.cost_nano, await race.gateway.spent()) == (UP_COST, UP_COST)
    assert {name: failures for name, (_, failures) in race.circuits().items()}["spare/twin"] == 1.0


async def test_both_fail_and_the_last_is_asked_again_in_its_own_words(race: Race) -> None:
    gate = asyncio.Event()
    race.up.default = Late(gate, Status(503))
    race.spare.queue(Late(gate, Status(503)))
    race.spare.default = Ok("twin")
    caller = await race.gateway.begin("duo", stream=True)
    await race.spare.arrived()
    gate.set()
    assert (await caller.reply()).text == "twin"
    assert {one.model for one in race.spare.requests} == {"twin"}
    row = await race.gateway.settled()
    assert [(one.provider, one.won) for one in row.attempts][-1] == ("spare", True)
    assert (len(row.attempts), row.cost_nano) == (3, DEAR)


async def test_both_fail_for_good(race: Race) -> None:
    gate = asyncio.Event()
    race.up.default, race.spare.default = Late(gate, Status(503)), Late(gate, Status(503))
    caller = await race.gateway.begin("duo", stream=True)
    await race.spare.arrived()
    gate.set()
    reply = await caller.reply()
    assert (reply.status, reply.error["code"]) == (502, "upstream_error")
    row = await race.gateway.settled()
    assert (len(row.attempts), row.cost_nano, any(one.won for one in row.attempts)) == (3, 0, False)
    assert await race.gateway.spent() == 0


async def test_hedges_are_bounded_by_the_retry_budget(race: Race) -> None:
    gate = asyncio.Event()
    race.up.default, race.spare.default = Ok("first", gate=gate), Silence()
    callers = [await race.gateway.begin("duo", stream=True) for _ in range(8)]
    await race.up.arrived(8)
    await asyncio.sleep(3 * HEDGE_MS / 1000)
    gate.set()
    assert {(await caller.reply()).text for caller in callers} == {"first"}
    assert 1 <= len(race.spare.requests) <= 4  # A floor of three, and a share of what was asked.


async def test_attempts_leave_place_for_a_hedge(tmp_path: Path) -> None:
    def once(value: Config) -> None:
        value["policies"]["default"]["retry"] |= {"attempts": 1}

    async with racing(tmp_path, once) as race:
        gate = asyncio.Event()
        race.up.default = Ok("first", gate=gate)
        caller = await race.gateway.begin("duo", stream=True)
        await race.up.arrived()
        await asyncio.sleep(3 * HEDGE_MS / 1000)
        gate.set()
        assert (await caller.reply()).text == "first"
        assert race.spare.requests == []


async def test_a_caller_who_leaves_ends_both(race: Race) -> None:
    race.up.default, race.spare.default = Silence(), Silence()
    caller = await race.gateway.begin("duo", stream=True)
    await race.spare.arrived()
    caller.leave()
    await race.up.requests[0].gone()
    await race.spare.requests[0].gone()
    row = await race.gateway.settled()
    assert {(one.provider, one.outcome) for one in row.attempts} == {("up", "cancelled"), ("spare", "cancelled")}
    assert (row.outcome, row.cost_nano) == ("client_gone_no_output", 0)


async def test_who_won_may_break_and_who_lost_may_rescue(race: Race) -> None:
    """The loser was only slower: it is asked again."""
    gate = asyncio.Event()
    race.up.default = Late(gate, Stream(["Hel"], stop_after=2))
    race.spare.queue(Silence(), Stream(["Hello", " you"]))
    caller = await race.gateway.begin("duo", stream=True)
    await race.spare.arrived()
    gate.set()
    reply = await caller.reply()
    assert (reply.text, reply.stream_error) == ("Hello you", None)
    row = await race.gateway.settled()
    assert told(row) == [
        ("spare", "cancelled", False),
        ("up", "upstream_truncated", False),
        ("spare", "ok", True),
    ]
    assert row.cost_nano == DEAR


async def test_both_answer_in_one_moment(race: Race) -> None:
    gate = asyncio.Event()
    race.up.default, race.spare.default = Ok("one", gate=gate), Ok("two", gate=gate)
    for _ in range(5):
        gate.clear()
        seen = len(race.spare.requests)
        caller = await race.gateway.begin("duo", stream=True)
        try:
            async with asyncio.timeout(0.2):
                await race.spare.arrived(seen + 1)
        except TimeoutError:  # The budget is used up.
            break
        finally:
            gate.set()
        reply = await caller.reply()
        row = await race.gateway.settled()
        assert [one.won for one in row.attempts] == [False, True]
        assert reply.text == ("one" if row.attempts[1].provider == "up" else "two")
        assert row.cost_nano == (UP_COST if row.attempts[1].provider == "up" else DEAR)
