"""`routerx stats`: figures by provider with a server and without one, exact to the last digit."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from routerx.cli import main
from tests.support.gateway import ENVIRON, Gateway, config, running
from tests.support.upstream import Ok, ScriptedUpstream


@pytest.fixture
async def gw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    """Two requests at `up`, one at `spare` at ten times the price, and one that failed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    async with ScriptedUpstream() as up, ScriptedUpstream() as spare:
        value = config(up.url, spare.url)
        value["plans"]["prepaid"]["markup"] = "0.01%"
        value["models"]["far"] = {"endpoints": value["models"]["duo"]["endpoints"][1:]}
        async with running(tmp_path, value) as gateway:
            up.default = spare.default = Ok(usage=(7, 3))
            for model in ("solo", "solo", "far"):
                assert (await gateway.chat(model)).status == 200
            await gateway.spent()
            yield gateway


def routerx(*arguments: str) -> Result:
    return CliRunner(catch_exceptions=False, env=dict(ENVIRON)).invoke(main, arguments)


async def test_a_row_for_each_provider_and_one_for_all(gw: Gateway) -> None:
    shown = await asyncio.to_thread(routerx, "stats")
    assert shown.exit_code == 0, shown.output
    rows = [line.split() for line in shown.stdout.splitlines()[2:]]
    assert rows == [
        ["spare", "1", "1", "7", "0", "3", "$0.000130013", "$0.00013"],
        ["up", "2", "2", "14", "0", "6", "$0.000026004", "$0.000026"],
        ["all", "3", "3", "21", "0", "9", "$0.000156017", "$0.000156"],
    ]


async def test_programs_get_whole_numbers_and_steps_of_time(gw: Gateway) -> None:
    shown = json.loads((await asyncio.to_thread(routerx, "stats", "--period", "hour", "--json")).stdout)
    assert (shown["period"], shown["step_seconds"]) == ("hour", 300)
    costs = {one["provider"]: (one["cost_usd"], one["cost_nano"]) for one in shown["totals"]}
    assert costs == {"spare": ("0.000130013", 130_013), "up": ("0.000026004", 26_004)}
    assert sum(one["cost_nano"] for one in shown["series"]) == 156_017


async def test_a_tenant_is_shown_alone_and_one_that_is_none_refused(gw: Gateway) -> None:
    for name, code in (("acme", 0), ("nobody", 1)):
        shown = await asyncio.to_thread(routerx, "stats", "--tenant", name)
        assert shown.exit_code == code
    assert "nobody" in shown.stderr


async def test_the_same_figures_without_a_server(gw: Gateway) -> None:
    served = (await asyncio.to_thread(routerx, "stats")).stdout
    await gw.runtime.stop(0)
    assert (await asyncio.to_thread(routerx, "stats")).stdout == served
