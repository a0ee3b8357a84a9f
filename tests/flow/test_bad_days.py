"""The sixteen bad days of scripts/badday, through the served gateway with the official client, fifty times as fast."""

from pathlib import Path

import pytest

from routerx.control import checks
from routerx.routing import health
from tests.badday.outage import outage
from tests.badday.play import call, complaints, scaled, script
from tests.badday.scenarios import BACK_WITHIN_S, SCENARIOS, Scenario
from tests.support.gateway import running
from tests.support.upstream import ScriptedUpstream

SCALE = 0.02
PRICES = {"up": (1_000, 2_000), "spare": (10_000, 20_000)}
"""nano-USD a token, in and out."""


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_a_bad_day_as_the_caller_sees_it(tmp_path: Path, scenario: Scenario) -> None:
    async with ScriptedUpstream() as up, ScriptedUpstream() as spare:  # noqa: SIM117 The inner one needs their ports.
        async with running(tmp_path, scaled(up.url, spare.url, scenario, SCALE)) as gw:
            script(scenario, up, spare, SCALE)
            got = await call(gw.client(), scenario, up, spare)
            assert complaints(scenario, got, SCALE) == []

            row = await gw.settled()
            assert tuple(attempt.outcome for attempt in row.attempts) == scenario.want.outcomes
            if scenario.want.text is None:
                assert (row.billing, row.cost_nano) == ("void", 0)
            else:
                by = "spare" if scenario.want.by_fallback else "up"
                assert row.provider == by
                assert got.usage is not None
                price = PRICES[by]
                assert row.cost_nano == got.usage[0] * price[0] + got.usage[1] * price[1]
                assert await gw.spent() == row.cost_nano  # One charge.
            await gw.assert_books_are_clean()


async def test_a_primary_that_was_down_for_a_minute_is_used_again_within_half_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for room, name in (
        (health, "RECHECK_S"),
        (health, "FIRST_CHECK_S"),
        (health, "INTERVAL_MIN_S"),
        (checks, "TICK_S"),
    ):
        monkeypatch.setattr(room, name, getattr(room, name) * SCALE)
    async with ScriptedUpstream() as up, ScriptedUpstream() as spare:
        value = scaled(up.url, spare.url, SCENARIOS[0], SCALE)
        value["server"]["health_interval"] = "6s"
        async with running(tmp_path, value) as gw:
            recovery = await outage(gw.client(), up, spare, SCALE, patience_s=120.0)
            assert recovery.failed == 0
            assert recovery.back_after_s is not None
            assert recovery.back_after_s <= BACK_WITHIN_S + 10.0  # A scaled clock weighs the machine's own time more.
            for _ in range(recovery.calls):
                assert (await gw.settled()).outcome == "ok"
            await gw.assert_books_are_clean()
