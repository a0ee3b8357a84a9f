"""Prices that change on a date, while requests run and whatever state the file is in."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.flow.flow_kit import config, metrics
from tests.support.clock import WallClock
from tests.support.gateway import ADMIN_KEY, USD, Config, Gateway, running, wait_for
from tests.support.upstream import Ok, ScriptedUpstream

SECOND_NS = 10**9
MIDNIGHT_NS = 1_796_083_200 * SECOND_NS  # 2026-12-01T00:00:00Z
YEAR_NS = 365 * 86_400 * SECOND_NS
CARDS: tuple[dict[str, Any], ...] = (
    {"input": 1, "output": 2},
    {"from": "2026-12-01", "input": 3, "output": 4},
    {"from": "2027-03-01T08:00:00Z", "input": 5, "output": 6},
)
OLD, NEW, LAST = (7 * card["input"] * 1_000 + 3 * card["output"] * 1_000 for card in CARDS)
"""Of 7 tokens in and 3 out, in nano-USD."""


def changing(up: str, *cards: dict[str, Any]) -> Config:
    value = config(up)
    value["models"]["solo"]["endpoints"][0]["price"] = list(cards or CARDS)
    return value


@asynccontextmanager
async def settled_in(folder: Path, value: Config, clock: WallClock) -> AsyncIterator[Gateway]:
    """A gateway that has had its first look at its files: what changes from now on changes by the clock alone."""
    async with running(folder, value, clock=clock) as gw:
        watcher = gw.runtime.watcher
        await wait_for(lambda: watcher._seen is not None and not watcher._lock.locked())
        yield gw


async def generation(gw: Gateway, number: int) -> None:
    """Wait for a configuration to be live."""
    await wait_for(lambda: gw.runtime.holder.current.generation == number)


async def cost_of_one(gw: Gateway) -> int:
    assert (await gw.chat()).status == 200
    return (await gw.settled()).cost_nano


@pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])
async def test_who_came_before_midnight_pays_the_old_price_and_who_came_after_the_new(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    caplog.set_level("INFO", "routerx.config")
    clock = WallClock(MIDNIGHT_NS - 10 * SECOND_NS)
    async with ScriptedUpstream() as up, settled_in(tmp_path, changing(up.url), clock) as gw:
        answer = asyncio.Event()
        up.queue(Ok(gate=answer))
        early = await gw.begin(stream=stream)
        await up.arrived()

        clock.set(MIDNIGHT_NS)
        await generation(gw, 2)
        assert await cost_of_one(gw) == NEW

        answer.set()
        assert (await early.reply()).status == 200
        assert (await gw.settled()).cost_nano == OLD
        assert await gw.spent() == OLD + NEW
        assert "configuration 2 is live: prices have changed, of up/solo" in caplog.text
        await gw.assert_books_are_clean()


async def test_the_price_changes_at_its_moment_and_not_before(tmp_path: Path) -> None:
    clock = WallClock(MIDNIGHT_NS - 10 * SECOND_NS)
    async with ScriptedUpstream() as up, settled_in(tmp_path, changing(up.url), clock) as gw:
        assert await cost_of_one(gw) == OLD
        clock.set(MIDNIGHT_NS - SECOND_NS // 5)
        await generation(gw, 2)
        assert clock.now_ns() >= MIDNIGHT_NS
        assert await cost_of_one(gw) == NEW


async def test_a_machine_that_slept_over_two_changes_wakes_to_the_last(tmp_path: Path) -> None:
    clock = WallClock(MIDNIGHT_NS - YEAR_NS)
    async with ScriptedUpstream() as up, settled_in(tmp_path, changing(up.url), clock) as gw:
        assert await cost_of_one(gw) == OLD
        clock.set(MIDNIGHT_NS + YEAR_NS)
        await generation(gw, 2)
        assert await cost_of_one(gw) == LAST
        assert gw.runtime.holder.current.prices_until_ns is None


async def test_a_broken_file_does_not_keep_a_price_from_changing_and_stays_told(tmp_path: Path) -> None:
    clock = WallClock(MIDNIGHT_NS - 10 * SECOND_NS)
    async with ScriptedUpstream() as up, settled_in(tmp_path, changing(up.url), clock) as gw:
        status = await gw.reload("providers: [")
        assert not status.ok

        clock.set(MIDNIGHT_NS)
        await generation(gw, 2)
        assert await cost_of_one(gw) == NEW
        now = gw.runtime.watcher.status
        assert (now.ok, now.error, now.generation, now.price_changes) == (False, status.error, 2, 1)

        mended = await gw.reload(changing(up.url))
        assert (mended.ok, mended.generation) == (True, 2)
        assert await cost_of_one(gw) == NEW
        assert (await gw.reload(changing(up.url) | {"policies": {}})).price_changes == 1


async def test_all_of_the_process_follows_a_change_of_prices(tmp_path: Path) -> None:
    clock = WallClock(MIDNIGHT_NS - 10 * SECOND_NS)
    async with ScriptedUpstream() as up, settled_in(tmp_path, changing(up.url), clock) as gw:
        clock.set(MIDNIGHT_NS)
        await generation(gw, 2)
        await wait_for(lambda: gw.runtime.watcher._followed.generation == 2)
        assert "routerx_config_generation 2" in await metrics(gw)
        status = (await gw.ask("GET", "/admin/v1/status", key=ADMIN_KEY)).json
        assert (status["generation"], status["problems"]) == (2, [])


async def test_what_a_price_will_be_is_told_before(tmp_path: Path) -> None:
    clock = WallClock(MIDNIGHT_NS - 10 * SECOND_NS)
    async with ScriptedUpstream() as up, settled_in(tmp_path, changing(up.url), clock) as gw:
        model = (await gw.ask("GET", "/v1/models/solo")).json
        assert model["pricing"] == {"input_usd_per_million": "1.00", "output_usd_per_million": "2.00"}
        assert model["next_pricing"] == {
            "from": "2026-12-01T00:00:00.000Z",
            "input_usd_per_million": "3.00",
            "output_usd_per_million": "4.00",
        }
        shown = (await gw.ask("GET", "/admin/v1/models/solo", key=ADMIN_KEY)).json["endpoints"][0]
        assert shown["price"]["input"]["usd"] == "1.00"
        assert shown["next_price"]["at"] == "2026-12-01T00:00:00.000Z"
        assert shown["next_price"]["price"]["input"]["usd"] == "3.00"

        clock.set(MIDNIGHT_NS + YEAR_NS)
        await generation(gw, 2)
        assert (await gw.ask("GET", "/v1/models/solo")).json["next_pricing"] is None


async def test_requests_are_rated_anew_by_the_price_that_was_in_force_when_they_started(tmp_path: Path) -> None:
    clock = WallClock(MIDNIGHT_NS - 10 * SECOND_NS)
    async with ScriptedUpstream() as up, settled_in(tmp_path, changing(up.url), clock) as gw:
        assert await cost_of_one(gw) == OLD
        clock.set(MIDNIGHT_NS)
        await generation(gw, 2)
        assert await cost_of_one(gw) == NEW

        dearer = [card | {"output": card["output"] + 1} for card in CARDS]
        assert (await gw.reload(changing(up.url, *dearer))).ok
        body = {"model": "solo", "since": "2026-11-01"}
        done = (await gw.ask("POST", "/admin/v1/ledger/rerate", body, key=ADMIN_KEY)).json
        assert (done["requests"], done["corrected"], done["taken_nano"]) == (2, 2, 2 * 3 * 1_000)
        assert gw.funds().balance_nano == 10 * USD - OLD - NEW - 2 * 3 * 1_000
        await gw.assert_books_are_clean()


@pytest.mark.parametrize("step", ["_load", "_prepare"])
async def test_a_reload_that_began_before_the_moment_is_applied_with_the_prices_of_after(
    tmp_path: Path, step: str
) -> None:
    clock = WallClock(MIDNIGHT_NS - 10 * SECOND_NS)
    async with ScriptedUpstream() as up, settled_in(tmp_path, changing(up.url), clock) as gw:
        done = getattr(gw.runtime.watcher, step)

        def overtaken(*given: Any) -> Any:
            result = done(*given)
            clock.set(MIDNIGHT_NS)
            return result

        setattr(gw.runtime.watcher, step, overtaken)
        gw.runtime.watcher._change_prices = lambda: None  # type: ignore[method-assign]  # The reload has it alone.
        value = changing(up.url)
        value["plans"]["prepaid"]["markup"] = "100%"
        assert (await gw.reload(value)).ok
        assert await cost_of_one(gw) == 2 * NEW
