"""Usage on the Messages wire, both ways: here the prompt's total leaves out what was read from or written to a cache.

Reports of one answer are cumulative and come in pieces, with fields that vanish or are null: per field the last value
that is one stands (PROVIDERS.md 6b). `iterations` are not in the totals and are billed at other rates by the vendor;
they are left alone.
"""

from typing import Any

from routerx.domain.pricing import tier_name
from routerx.domain.usage import Usage

TOKENS_MAX = 1 << 40

_TOTALS = frozenset({"input_tokens", "output_tokens"})
_NESTED = (
    ("cache_creation", ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")),
    ("output_tokens_details", ("thinking_tokens",)),
    ("server_tool_use", ("web_search_requests",)),
)
_COUNTS = (*_TOTALS, "cache_read_input_tokens", "cache_creation_input_tokens")


class UsageReader:
    """Reads the usage objects of one answer, one or many. The last report decides on validity."""

    def __init__(self) -> None:
        self.usage: Usage | None = None
        """None: nothing usable was reported."""
        self.anomaly = False
        """A report was present and unusable, in whole or in part."""
        self.tier: str | None = None
        """The service tier that was named last."""
        self._counts: dict[str, int] = {}

    def read(self, report: Any) -> None:
        """Take one usage object, decoded. Null is no report, and neither is an object without any count."""
        if report is None:
            return
        if isinstance(report, dict):
            self.tier = tier_name(report.get("service_tier")) or self.tier
        found = _counts_in(report) if isinstance(report, dict) else None
        if found is None:
            self.usage, self.anomaly = None, True
            return
        self._counts |= found
        if found and self._counts.keys() & _TOTALS:
            self.usage = self._buckets()

    def _buckets(self) -> Usage:
        count = self._counts.get
        written = count("cache_creation_input_tokens", 0)
        hour = count("ephemeral_1h_input_tokens", 0)
        five = count("ephemeral_5m_input_tokens", 0)
        if "cache_creation_input_tokens" not in self._counts:
            written = hour + five
        self.anomaly = self.anomaly or hour + five > written
        # With the vendor's own tools the split covers the first round only: the rest is priced as the shorter kind.
        hour = min(hour, written)
        output = count("output_tokens", 0)
        thought = min(count("thinking_tokens", 0), output)
        return Usage(
            in_fresh=count("input_tokens", 0),
            in_cache_read=count("cache_read_input_tokens", 0),
            in_cache_write_5m=written - hour,
            in_cache_write_1h=hour,
            out_text=output - thought,
            out_reasoning=thought,
            searches=count("web_search_requests", 0),
        )


def _counts_in(report: dict[str, Any]) -> dict[str, int] | None:
    """The counts that are there and not null; None where one cannot be a number of tokens."""
    found = {key: report[key] for key in _COUNTS if report.get(key) is not None}
    for outer, keys in _NESTED:
        inner = report.get(outer)
        if isinstance(inner, dict):
            found |= {key: inner[key] for key in keys if inner.get(key) is not None}
        elif inner is not None:
            return None
    sound = all(type(value) is int and 0 <= value <= TOKENS_MAX for value in found.values())
    return found if sound else None


def usage_object(usage: Usage) -> dict[str, Any]:
    """The `usage` of a message, every field there: some clients add them up unasked."""
    encoded: dict[str, Any] = {
        "input_tokens": usage.in_fresh + usage.in_audio + usage.in_image,
        "cache_creation_input_tokens": usage.in_cache_write_5m + usage.in_cache_write_1h,
        "cache_read_input_tokens": usage.in_cache_read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.in_cache_write_5m,
            "ephemeral_1h_input_tokens": usage.in_cache_write_1h,
        },
        "output_tokens": usage.output_tokens,
    }
    if usage.out_reasoning:
        encoded["output_tokens_details"] = {"thinking_tokens": usage.out_reasoning}
    if usage.searches:
        encoded["server_tool_use"] = {"web_search_requests": usage.searches, "web_fetch_requests": 0}
    return encoded
