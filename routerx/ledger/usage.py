"""Tokens and money by provider over a stretch of time, from the books. Read-only, in pieces that are each short."""

from collections.abc import Sequence
from typing import Any

from routerx.ledger.base import UsageQuery, UsageRow
from routerx.ledger.reports import Reader, first_settled, last_request

ROWS_PER_PIECE = 20_000
"""Requests read at once: while a reader reads, the WAL cannot shrink."""
PIECES_MAX = 500
"""Ten million requests; what is older is left out."""

_INPUT = ("in_fresh", "in_cache_read", "in_cache_write_5m", "in_cache_write_1h", "in_audio", "in_image")
_OUTPUT = ("out_text", "out_reasoning", "out_audio", "out_image")


def _tokens(*buckets: str) -> str:
    """The sum of token buckets; a bucket of 0 is not written."""
    return "sum(" + " + ".join(f"coalesce(json_extract(r.usage, '$.{bucket}'), 0)" for bucket in buckets) + ")"


_HOUSE_COST = "CASE WHEN instr(',' || r.flags || ',', ',byok,') THEN 0 ELSE r.provider_cost END"
"""What an answer with a tenant's own key cost at its provider is the tenant's affair (MONEY.md row Q)."""
_SUM = f"""
SELECT r.provider, (r.settled_ns - ?1) / ?2, count(*), sum(r.outcome = 'ok'),
       {_tokens(*_INPUT)}, {_tokens(*_OUTPUT)}, {_tokens("in_cache_read")}, sum(r.cost), sum({_HOUSE_COST})
FROM requests AS r
WHERE r.n > ?3 AND r.n <= ?4 AND r.settled_ns >= ?1 AND r.provider IS NOT NULL
  AND (?5 IS NULL OR r.tenant = (SELECT id FROM accounts WHERE kind = 'tenant' AND name = ?5))
GROUP BY 1, 2"""  # noqa: S608 Constants from above only.


async def provider_usage(books: Reader, query: UsageQuery) -> tuple[UsageRow, ...]:
    """By provider and step, oldest first. Raises StorageBusy."""
    last = await last_request(books)
    first = await first_settled(books, query.since_ns)
    first = max(first, last - ROWS_PER_PIECE * PIECES_MAX)
    sums: dict[tuple[int, str], list[int]] = {}
    for start in range(first - 1, last, ROWS_PER_PIECE):
        bounds = (query.since_ns, query.step_ns, start, min(start + ROWS_PER_PIECE, last), query.tenant)
        for row in await books.fetch(_SUM, bounds):
            _add(sums.setdefault((row[1], row[0]), [0] * 7), row[2:])
    return tuple(UsageRow(provider, step, *values) for (step, provider), values in sorted(sums.items()))


def _add(sums: list[int], row: Sequence[Any]) -> None:
    for index, value in enumerate(row):
        sums[index] += int(value)
