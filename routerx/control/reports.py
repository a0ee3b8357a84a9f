"""Figures from the books by provider: for operators over everything, for a tenant over its own requests."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from routerx.clock import Clock
from routerx.control.lookup import require
from routerx.control.provider_values import TokenReport, UsageView
from routerx.control.views import iso_time
from routerx.ledger.base import Ledger, UsageQuery, UsageRow
from routerx.money import format_usd

_HOUR_S = 3_600
_DAY_S = 24 * _HOUR_S
PERIODS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "hour": (_HOUR_S, 300),
        "day": (_DAY_S, _HOUR_S),
        "week": (7 * _DAY_S, _DAY_S),
        "month": (30 * _DAY_S, _DAY_S),
    }
)
"""Seconds of the period, which ends now, and of its steps."""


class Reports:
    """Reads the ledger."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock

    async def tokens(self, period: str, tenant: str | None = None) -> TokenReport:
        """Tokens and money by provider. Raises NotFound for a period or a tenant that is none, and StorageBusy."""
        require(period, PERIODS, "period")
        if tenant is not None:
            self._ledger.funds(tenant)  # Raises NotFound.
        length_s, step_s = PERIODS[period]
        since_ns = self._clock.now_ns() - length_s * 10**9
        rows = await self._ledger.usage(UsageQuery(since_ns=since_ns, step_ns=step_s * 10**9, tenant=tenant))
        return TokenReport(
            period=period,
            since=iso_time(since_ns),
            step_seconds=step_s,
            totals=tuple(_view(row, since_ns) for row in _totals(rows)),
            series=tuple(_view(row, since_ns + row.step * step_s * 10**9) for row in rows),
        )


def _totals(rows: Iterable[UsageRow]) -> list[UsageRow]:
    """One row for each provider, by name."""
    found: dict[str, list[UsageRow]] = {}
    for row in rows:
        found.setdefault(row.provider, []).append(row)
    return [
        UsageRow(
            provider=provider,
            step=0,
            requests=sum(row.requests for row in own),
            succeeded=sum(row.succeeded for row in own),
            input_tokens=sum(row.input_tokens for row in own),
            output_tokens=sum(row.output_tokens for row in own),
            cached_tokens=sum(row.cached_tokens for row in own),
            cost_nano=sum(row.cost_nano for row in own),
            provider_cost_nano=sum(row.provider_cost_nano for row in own),
        )
        for provider, own in sorted(found.items())
    ]


def _view(row: UsageRow, at_ns: int) -> UsageView:
    return UsageView(
        at=iso_time(at_ns),
        provider=row.provider,
        requests=row.requests,
        succeeded=row.succeeded,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        cached_tokens=row.cached_tokens,
        cost_usd=format_usd(row.cost_nano),
        cost_nano=row.cost_nano,
        provider_cost_usd=format_usd(row.provider_cost_nano),
        provider_cost_nano=row.provider_cost_nano,
    )
