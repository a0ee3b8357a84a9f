"""Which transport a provider gets, and for how long."""

import msgspec
import pytest

from routerx.domain.failure import FailureKind
from routerx.domain.policy import Timeouts
from routerx.providers.spec import Auth, MockSettings, Provider
from routerx.upstream.aiohttp_client import AiohttpTransport
from routerx.upstream.direct import DirectTransport
from routerx.upstream.mock import MockTransport
from routerx.upstream.pool import TransportPool
from tests.support.clock import ManualClock
from tests.support.upstream import ScriptedUpstream
from tests.unit.upstream.kit import call, failing, fetch

ACME = Provider("acme", "openai_chat", "http://acme.invalid", Auth.NONE, ())
CHANGED = msgspec.structs.replace(ACME, timeouts=Timeouts(connect_s=1.0))


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({}, DirectTransport),
        ({"proxy": "http://proxy.invalid:3128"}, AiohttpTransport),
        ({"mock": MockSettings(), "proxy": "http://proxy.invalid:3128"}, MockTransport),
    ],
)
async def test_a_provider_gets_the_transport_that_can_reach_it(settings: dict[str, object], kind: type) -> None:
    pool = TransportPool(ManualClock())
    assert isinstance(pool.get(msgspec.structs.replace(ACME, **settings)), kind)
    await pool.close()


async def test_a_transport_outlives_a_reload_that_does_not_change_its_connection() -> None:
    pool = TransportPool(ManualClock())
    first = pool.get(ACME)
    renewed = msgspec.structs.replace(ACME, headers=(("x-team", "blue"),))
    pool.retain([renewed])
    assert pool.get(renewed) is first
    assert pool.get(CHANGED) is not first
    await pool.close()


async def test_a_provider_that_becomes_public_gets_a_transport_that_watches_where_it_calls() -> None:
    pool = TransportPool(ManualClock())
    first = pool.get(ACME)
    assert pool.get(msgspec.structs.replace(ACME, public=True)) is not first
    await pool.close()


@pytest.mark.parametrize("now", [[], [CHANGED]])
async def test_a_replaced_transport_serves_until_its_last_call_must_be_over(now: list[Provider]) -> None:
    clock = ManualClock()
    pool = TransportPool(clock)
    async with ScriptedUpstream() as upstream:
        old = pool.get(ACME)
        pool.retain(now)
        await clock.run(ACME.timeouts.total_s - 1.0)
        await fetch(old, call(upstream.url))
        await clock.run(2.0)
        assert (await failing(old, call(upstream.url))).kind is FailureKind.CONNECT_ERROR
        await upstream.idle()
    await pool.close()


async def test_calls_of_an_old_and_a_new_snapshot_in_turn_keep_two_transports_and_no_more() -> None:
    pool = TransportPool(ManualClock())
    pairs = {(id(pool.get(ACME)), id(pool.get(CHANGED))) for _ in range(20)}
    assert len(pairs) == 1
    await pool.close()
