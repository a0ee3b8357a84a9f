"""Re-rating: what finished requests should have cost by other prices, and the adjustments that make it so.

Runs beside a serving gateway: requests are read in pages, and what is taken from a tenant is taken from what no hold
and no floor keeps. A request is corrected by the difference to what it has paid so far, so a second run finds nothing.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from routerx.domain.model import DatedPrice, in_force
from routerx.domain.pricing import PriceSnapshot, cost_nano, rerated
from routerx.domain.usage import Usage, UsageSource
from routerx.ledger.base import RerateReport, Rerating
from routerx.ledger.corrections import CORRECTED, Paid, correction_nano
from routerx.ledger.reports import Reader, first_settled

PAGE_ROWS = 500

_PAGE = f"""
SELECT r.n, r.id, a.name, r.endpoint, r.started_ns, r.usage, r.usage_source, r.price, r.held,
       r.cost, r.charged, {CORRECTED},
       (SELECT count(*) FROM transfers AS x WHERE x.request = r.n AND x.kind = 'adjustment')
FROM requests AS r
JOIN accounts AS a ON a.id = r.tenant
LEFT JOIN transfers AS c ON c.request = r.n AND c.kind IN ('charge', 'byok_fee')
WHERE r.n >= ? AND r.n < ? AND r.billing IN ('paid', 'byok') AND r.usage IS NOT NULL AND r.price IS NOT NULL
ORDER BY r.n"""  # noqa: S608 Constants from above only.


class Correction(msgspec.Struct, frozen=True):
    """One request that paid another amount than it should have."""

    request: tuple[str, int]
    """Id and number."""
    tenant: str
    amount_nano: int
    """Towards the tenant."""
    reference: str
    note: str


class Tally:
    """Adds up what a re-rating did."""

    def __init__(self) -> None:
        self.requests = 0
        self.corrected = 0
        self.given_back_nano = 0
        self.taken_nano = 0
        self.short_nano = 0

    def add(self, amount_nano: int, short_nano: int) -> None:
        if amount_nano:
            self.corrected += 1
        self.given_back_nano += max(amount_nano, 0)
        self.taken_nano += max(-amount_nano, 0)
        self.short_nano += short_nano

    def report(self, *, dry_run: bool) -> RerateReport:
        return RerateReport(
            requests=self.requests,
            corrected=self.corrected,
            given_back_nano=self.given_back_nano,
            taken_nano=self.taken_nano,
            short_nano=self.short_nano,
            dry_run=dry_run,
        )


async def corrections(books: Reader, asked: Rerating, tally: Tally) -> AsyncIterator[list[Correction]]:
    """Page by page, oldest first; `tally` counts the requests looked at. Raises StorageBusy."""
    first = await first_settled(books, asked.since_ns)
    end = await first_settled(books, asked.until_ns)
    for start in range(first, end, PAGE_ROWS):
        rows = await books.fetch(_PAGE, (start, min(start + PAGE_ROWS, end)))
        found = []
        for row in rows:
            prices = asked.prices.get(row[3])
            if prices is not None:
                tally.requests += 1
                correction = _correction(row, prices)
                if correction is not None:
                    found.append(correction)
        yield found


def _correction(row: Any, prices: Sequence[DatedPrice]) -> Correction | None:
    number, request_id, tenant, endpoint, started_ns, usage, source, price, held, *paid, times = row
    stored = msgspec.json.decode(price, type=PriceSnapshot)
    terms = rerated(stored, in_force(prices, started_ns).card)
    should = cost_nano(msgspec.json.decode(usage, type=Usage), terms)
    if source == UsageSource.ESTIMATED:
        should = min(should, held)  # As when it was charged: no estimate costs more than its hold.
    amount = correction_nano(Paid(*paid), should)
    if amount == 0:
        return None
    by_tier = "" if terms.tier is None else f" in the tier {terms.tier}"
    note = f"re-rated at the present price of {endpoint}{by_tier}"
    return Correction((request_id, number), tenant, amount, f"rerate:{request_id}:{times + 1}", note)
