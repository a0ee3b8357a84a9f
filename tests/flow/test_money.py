"""What is charged, beside the rows of the charge policy that tests/flow/test_money_table.py plays."""

from pathlib import Path

import pytest

from tests.flow.flow_kit import UP_COST, planned
from tests.support.gateway import USD, config, running
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


async def test_spend_limit_stops_before_it_is_passed(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, planned(up.url, spend_limit="$2/month")) as gw:
        assert [(await gw.chat("flat")).status for _ in range(3)] == [200, 200, 402]
        refused = await gw.chat("flat")
        assert refused.error["code"] == "spend_limit_reached"
        assert (gw.funds().balance_nano, len(up.requests)) == (8 * USD, 2)
        await gw.assert_books_are_clean()
