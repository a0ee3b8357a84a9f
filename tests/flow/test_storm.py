"""All endpoints are down and fifty callers keep asking: scripts/badday's storm in small, without its clock."""

import asyncio
from pathlib import Path

from tests.support.gateway import config, running
from tests.support.upstream import ScriptedUpstream, Status


async def test_dead_endpoints_are_asked_no_more_than_a_storm_needs(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream() as up,
        ScriptedUpstream() as spare,
        running(tmp_path, config(up.url, spare.url)) as gw,
    ):
        up.default = spare.default = Status(500)

        async def caller() -> list[tuple[int, str]]:
            replies = [await gw.chat("duo") for _ in range(8)]
            return [(reply.status, reply.error["code"]) for reply in replies]

        told = [one for each in await asyncio.gather(*(caller() for _ in range(50))) for one in each]
        assert set(told) <= {(502, "upstream_error"), (503, "no_healthy_upstream")}
        assert told.count((503, "no_healthy_upstream")) > 300
        assert (len(up.requests) + len(spare.requests)) / len(told) <= 1.2
        assert gw.runtime.ledger.held_nano() == 0
