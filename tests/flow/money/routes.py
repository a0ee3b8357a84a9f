"""Rows L to R and X: who answered, by whose key, and what was asked of others beside."""

import asyncio
import json
from dataclasses import replace

from tests.flow.money.kit import (
    REPORTED,
    SPARE,
    UP,
    VOID,
    Cell,
    Expect,
    Held,
    Play,
    Row,
    Scene,
    Tried,
    answers,
    at_spare,
    both,
    only_streams,
    opened_with,
    planned,
    priced,
)
from tests.flow.money.oracle import Terms, Used, owed_nano
from tests.flow.rescue_kit import Broken, tells, told
from tests.support.behaviours import Peer
from tests.support.gateway import Config, wait_for
from tests.support.upstream import Ok, Silence, Status, Truncated

OWN_KEY = {"X-RouterX-API-Key": "own-key-of-a-caller-123456"}
CACHE = {"X-RouterX-Cache": "true"}
ONCE = {"Idempotency-Key": "order-1"}

DEAR = Terms(SPARE)
COST = owed_nano(REPORTED, Terms(UP))

# --- several attempts: L, M, X


FAILED = Tried("up", "upstream_5xx")
TRUNCATED = Tried("up", "upstream_truncated", UP)


async def _answers_the_second_time(scene: Scene, cell: Cell) -> None:
    scene.up.queue(Status(500))
    scene.up.default = Ok()
    await scene.ask(cell)
    await scene.gateway.settled()


LATE = Tried("up", "cancelled", UP)
HEDGED = Tried("spare", "cancelled", SPARE)


def _hedging(value: Config) -> None:
    value["policies"]["default"]["hedge"] = "15ms"
    value["models"]["duo"]["endpoints"][1]["model"] = "twin"


async def _the_first_is_late_but_first(scene: Scene, cell: Cell) -> None:
    gate = asyncio.Event()
    scene.up.default, scene.spare.default = Ok(gate=gate), Silence()
    before = len(scene.spare.requests)
    caller = await scene.send(cell, "duo")
    await scene.spare.arrived(before + 1)
    gate.set()
    await caller.reply()
    await scene.gateway.settled()


BEGUN = "Hello "


def _breaks(scene: Scene) -> None:
    """`up` has told its beginning, and leaves once the caller has it."""

    async def flowing() -> None:
        await wait_for(lambda: any(one.delivered for one in scene.gateway.runtime.gateway.active))

    scene.up.default = Broken(told("openai", [BEGUN], whole=False), flowing)


async def _restarted(scene: Scene, cell: Cell) -> None:
    _breaks(scene)
    scene.spare.default = tells(BEGUN, "you")
    assert b"you" in (await scene.ask(cell, "duo")).body
    await scene.gateway.settled()


async def _gone_on_with(scene: Scene, cell: Cell) -> None:
    _breaks(scene)
    scene.spare.queue(tells("Good day"), tells(" the", "re"))
    assert b"re" in (await scene.ask(cell, "duo")).body
    await scene.gateway.settled()


def _prefills(value: Config) -> None:
    value["models"]["duo"]["endpoints"][1]["supports"] = ["prefill"]


RESCUED = replace(at_spare(Expect(), TRUNCATED), flags=frozenset({"rescued"}), held_by=DEAR)
GIVEN = -(-len(BEGUN.strip()) // 4)
"""Tokens of the beginning that the second was given: counted in its prompt, and charged as output, once."""
CONTINUED = replace(
    RESCUED,
    used=Used(in_fresh=7 - GIVEN, out_text=3 + GIVEN),
    source="estimated",
    attempts=(TRUNCATED, Tried("spare", "rescue_diverged"), Tried("spare")),
)
WHOLE = "a whole answer cannot break after it was delivered"

TRIED = (
    Row("L", "retried", _answers_the_second_time, Expect(attempts=(FAILED, Tried()))),
    Row(
        "L",
        "fallback",
        answers(Status(500), Ok()),
        replace(at_spare(Expect(), FAILED, FAILED), held_by=DEAR),
    ),
    Row(
        "L",
        "fallback_after_work_that_may_be_billed",
        answers(Truncated(), Ok()),
        replace(at_spare(Expect(), TRUNCATED, TRUNCATED), held_by=DEAR),
    ),
    Row(
        "L",
        "answered_by_the_cheaper_one",
        answers(Ok(), Ok()),
        Expect(held_by=DEAR),
    ),
    Row(
        "M",
        "the_second_wins",
        answers(Silence(), Ok()),
        only_streams(replace(at_spare(Expect(), LATE), held_by=DEAR), "a whole answer shows no first token"),
        _hedging,
    ),
    Row(
        "M",
        "the_first_wins",
        _the_first_is_late_but_first,
        only_streams(Expect(attempts=(HEDGED, Tried()), held_by=DEAR), "a whole answer shows no first token"),
        _hedging,
    ),
    Row("X", "restarted", _restarted, only_streams(RESCUED, WHOLE)),
    Row("X", "gone_on_with", _gone_on_with, only_streams(CONTINUED, WHOLE), _prefills),
)

# --- told again: N, O


HIT = Expect(None, billing="cached", source="none", held=Held.NOTHING, attempts=(), rows=2, earlier=COST)


async def _kept(scene: Scene, cell: Cell) -> None:
    scene.up.default = Ok()
    for hit in ("false", "true"):
        reply = await scene.ask(cell, headers=CACHE)
        assert reply.headers["x-routerx-cache-hit"] == hit
        await scene.gateway.settled()


async def _kept_in_the_other_shape(scene: Scene, cell: Cell) -> None:
    scene.up.default = Ok()
    other = cell._replace(stream=not cell.stream)
    await (await scene.send(cell, stream=other.stream, headers=CACHE)).reply()
    await scene.gateway.settled()
    assert (await scene.ask(cell, headers=CACHE)).headers["x-routerx-cache-hit"] == "true"
    await scene.gateway.settled()


async def _told_again(scene: Scene, cell: Cell) -> None:
    scene.up.default = Ok()
    first = await scene.ask(cell, headers=ONCE)
    await scene.gateway.settled()
    again = await (await scene.send(cell, headers=ONCE)).reply()
    assert again.headers["idempotent-replayed"] == "true"
    assert again.body == first.body
    if not cell.stream:
        assert float(again.headers["x-routerx-cost-usd"]) == 0


async def _failed_and_sent_again(scene: Scene, cell: Cell) -> None:
    """What was not charged is not told again either: the second attempt is a request like any."""
    scene.up.default = Status(400)
    assert (await (await scene.send(cell, headers=ONCE)).reply()).status == 400
    await scene.gateway.settled()
    scene.up.default = Ok()
    await scene.ask(cell, headers=ONCE)
    await scene.gateway.settled()


TOLD_AGAIN = (
    Row("N", "kept", _kept, HIT),
    Row("N", "kept_in_the_other_shape", _kept_in_the_other_shape, HIT),
    Row("O", "told_again", _told_again, Expect()),
    Row("O", "failed_and_sent_again", _failed_and_sent_again, Expect(rows=2)),
)

# --- terms: P, Q, R


FREE = Expect(billing="free", held=Held.NOTHING)
NO_ROW = replace(VOID, rows=0)
"""Refused before anything was held or sent: it is in the request log, and not in the books."""
NOTHING = {"input": 0, "output": 0}
OWN = frozenset({"byok"})
FEE = Terms(UP, fee="12.5%")
REJECTED = Tried("up", "byok_rejected")


async def _free_by_name(scene: Scene, cell: Cell) -> None:
    await answers(Ok(), model="solo:free")(scene, cell)
    assert scene.up.requests[-1].model == "solo"


async def _refused_by_name(scene: Scene, cell: Cell) -> None:
    assert (await scene.ask(cell, "solo:free")).status == 403
    assert scene.up.requests == []


def storing(play: Play) -> Play:
    """Once the tenant's own key for `up` is stored."""

    async def stored(scene: Scene, cell: Cell) -> None:
        body = {"key": OWN_KEY["X-RouterX-API-Key"]}
        assert (await scene.admin("PUT", f"/tenants/{cell}/byok/up", body)).status == 200
        before = len(scene.up.requests)
        await play(scene, cell)
        assert scene.up.requests[before].headers["authorization"].endswith(OWN_KEY["X-RouterX-API-Key"])

    return stored


class RefusesOwnKey:
    """And answers to the house's."""

    async def play(self, peer: Peer) -> None:
        is_own = peer.request.headers["authorization"].endswith(OWN_KEY["X-RouterX-API-Key"])
        await (Status(401) if is_own else Ok()).play(peer)


def _goes_on(value: Config) -> None:
    for tenant in value["tenants"].values():
        tenant["byok_fallback"] = True


def _dearer(scene: Scene) -> Config:
    value = json.loads(json.dumps(scene.value))
    value["models"]["solo"]["endpoints"][0]["price"] = SPARE
    value["plans"]["prepaid"]["markup"] = "50%"
    return value


async def _waits(scene: Scene, cell: Cell) -> None:
    if not scene.callers:
        scene.up.default = Ok(gate=scene.gate)
    scene.callers[cell] = await scene.send(cell)
    await scene.up.arrived(len(scene.callers))


async def _dearer_meanwhile(scene: Scene) -> None:
    assert (await scene.gateway.reload(_dearer(scene))).ok
    scene.gate.set()
    for cell, caller in scene.callers.items():
        scene.replies[cell] = await caller.reply()
    await scene.gateway.assert_books_are_clean()


async def _dearer_before(scene: Scene, cell: Cell) -> None:
    if not scene.replies:
        assert (await scene.gateway.reload(_dearer(scene))).ok
    await answers(Ok())(scene, cell)


TERMS = (
    Row("P", "free_by_name", _free_by_name, FREE, planned(free_suffix="any", markup="10%")),
    Row(
        "P",
        "free_by_name_with_nothing_left",
        answers(Ok(), model="solo:free"),
        FREE,
        both(planned(free_suffix="any"), opened_with("$0")),
    ),
    Row(
        "P",
        "free_by_price",
        answers(Ok()),
        replace(FREE, terms=Terms(NOTHING)),
        both(priced(**NOTHING), opened_with("$0")),
    ),
    Row(
        "P",
        "free_by_name_where_it_costs_nothing",
        _free_by_name,
        replace(FREE, terms=Terms(NOTHING)),
        priced(**NOTHING),
    ),
    Row("P", "not_free_where_it_costs_something", _refused_by_name, NO_ROW, planned(free_suffix="zero_priced")),
    Row(
        "P",
        "not_free_where_the_plan_has_none",
        _refused_by_name,
        NO_ROW,
        planned(free_suffix="off"),
    ),
    Row(
        "Q",
        "own_key",
        answers(Ok(), headers=OWN_KEY),
        Expect(billing="byok", terms=Terms(UP, fee="0%"), flags=OWN, held=Held.NOTHING),
        both(planned(markup="50%"), opened_with("$0")),
    ),
    Row(
        "Q",
        "own_key_for_a_fee",
        answers(Ok(), headers=OWN_KEY),
        Expect(billing="byok", terms=FEE, flags=OWN),
        planned(byok_fee="12.5%", markup="50%"),
    ),
    Row(
        "Q",
        "own_key_is_refused",
        answers(Status(401), Ok(), headers=OWN_KEY),
        replace(VOID, status=403, outcome="byok_rejected", attempts=(REJECTED,), held_by=FEE),
        planned(byok_fee="12.5%"),
    ),
    Row(
        "Q",
        "own_key_falls_back_to_nobody_elses",
        answers(Status(500), Ok(), headers=OWN_KEY),
        replace(VOID, status=502, outcome="upstream_5xx", attempts=(FAILED,) * 3, held=Held.NOTHING),
    ),
    Row(
        "Q",
        "stored_key_for_a_fee",
        storing(answers(Ok())),
        Expect(billing="byok", terms=FEE, flags=OWN),
        planned(byok_fee="12.5%", markup="50%"),
    ),
    Row(
        "Q",
        "stored_key_falls_back_to_nobody_elses",
        storing(answers(RefusesOwnKey(), Ok())),
        replace(VOID, status=403, outcome="byok_rejected", attempts=(REJECTED,), held=Held.NOTHING),
    ),
    Row(
        "Q",
        "stored_key_falls_back_where_its_tenant_lets_it",
        storing(answers(RefusesOwnKey())),
        Expect(attempts=(REJECTED, Tried())),
        both(_goes_on, planned(byok_fee="12.5%")),
    ),
    Row("R", "dearer_meanwhile", _waits, Expect(), end=_dearer_meanwhile),
    Row("R", "dearer_before", _dearer_before, Expect(terms=Terms(SPARE, markup="50%"))),
)

ROWS = (*TRIED, *TOLD_AGAIN, *TERMS)
