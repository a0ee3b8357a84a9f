"""Sums by provider and step, from the books."""

from pathlib import Path

import pytest

from routerx.domain.usage import Usage
from routerx.ledger import usage
from routerx.ledger.base import UsageQuery
from tests.support.clock import ManualClock
from tests.unit.ledger.ledger_kit import USD, opened, record, tenant

HOUR_NS = 3_600 * 10**9


async def test_usage_is_summed_by_provider_and_step_of_one_tenant_or_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "ROWS_PER_PIECE", 3)
    clock = ManualClock()
    async with opened(tmp_path, clock) as ledger:
        tenants = {name: tenant(name, opening=USD) for name in ("acme", "rival")}
        await ledger.sync_tenants(tenants.values())
        start_ns = clock.now_ns()
        rich = Usage(in_fresh=5, in_cache_read=20, in_audio=1, out_text=3, out_reasoning=4)
        for step in range(4):
            for name, provider in (("acme", "a"), ("acme", "b"), ("rival", "a")):
                outcome = "ok" if step else "upstream_5xx"
                done = record(100, name, provider=provider, usage=rich, outcome=outcome)
                receipt = ledger.settle(done, ledger.hold(tenants[name], 100))
                assert receipt.durable is not None
                await receipt.durable
            clock.advance(3_600.0)
        rows = await ledger.usage(UsageQuery(start_ns, HOUR_NS))
        assert [(row.step, row.provider, row.requests) for row in rows] == [
            (step, provider, 2 if provider == "a" else 1) for step in range(4) for provider in "ab"
        ]
        first = rows[0]
        assert (first.input_tokens, first.output_tokens, first.cached_tokens) == (52, 14, 40)
        assert (first.cost_nano, first.succeeded, rows[2].succeeded) == (200, 0, 2)
        late = await ledger.usage(UsageQuery(start_ns + 2 * HOUR_NS, HOUR_NS, tenant="rival"))
        assert [(row.step, row.provider, row.requests) for row in late] == [(0, "a", 1), (1, "a", 1)]
        assert await ledger.usage(UsageQuery(start_ns, HOUR_NS, tenant="nobody")) == ()
        assert await ledger.usage(UsageQuery(clock.now_ns() + HOUR_NS, HOUR_NS)) == ()
