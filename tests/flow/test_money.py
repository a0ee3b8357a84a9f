"""What is charged, beside the rows of the charge policy that tests/flow/test_money_table.py plays."""

from pathlib import Path

import pytest

from routerx.domain.tenant import Period
from tests.flow.flow_kit import UP_COST, planned
from tests.support.gateway import ADMIN_KEY, TENANT, USD, config, running
from tests.support.upstream import ScriptedUpstream


@pytest.mark.parametrize("stream", [False, True])
async def test_client_that_leaves_while_the_charge_is_written_has_had_its_answer(tmp_path: Path, stream: bool) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        async with gw.commits_blocked():
            caller = await gw.begin(stream=stream)
            await gw.settling()
            caller.leave()
        row = await gw.settled()
        assert (row.outcome, row.cost_nano) == ("ok", UP_COST)
        assert await gw.spent() == UP_COST
        await gw.assert_books_are_clean()


@pytest.mark.parametrize("period", Period)
async def test_spend_limit_stops_before_it_is_passed(tmp_path: Path, period: Period) -> None:
    limit = f"$2.000000001/{period.value}"
    async with ScriptedUpstream() as up, running(tmp_path, planned(up.url, spend_limit=limit)) as gw:
        assert [(await gw.chat("flat")).status for _ in range(3)] == [200, 200, 402]
        refused = await gw.chat("flat")
        assert refused.error["code"] == "spend_limit_reached"
        assert (refused.error["spent"], refused.error["needed"], refused.error["limit_of"]) == (
            "2.00",
            "1.00",
            "tenant",
        )
        assert (refused.error["resets"] is None) is (period is Period.TOTAL)
        assert (gw.funds().balance_nano, len(up.requests)) == (8 * USD, 2)
        shown = await gw.ask("GET", f"/admin/v1/tenants/{TENANT}", key=ADMIN_KEY)
        assert (shown.json["funds"]["left_usd"], shown.json["funds"]["left_nano"]) == ("0.000000001", 1)
        await gw.assert_books_are_clean()
