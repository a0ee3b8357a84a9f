"""Usage on the Messages wire, both ways: here the prompt's total leaves out what was read from or written to a cache.

Reports of one answer are cumulative and come in pieces, with fields that vanish or are null: per field the last value
that is one stands (PROVIDERS.md 6b). `iterations` are not in the totals and are billed at other rates by the vendor;
they are left alone.
"""

from typing import Any

from routerx.domain.usage import Usage

TOKENS_MAX = 1 << 40

_COUNTS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


class UsageReader:
    """Reads the usage objects of one answer, one or many."""

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.anomaly = False
        """A report was present and unusable, in whole or in part."""
        self._counts: dict[str, int] = {}

    def read(self, report: Any) -> None:
        """Take one usage object, decoded. Null is no report."""
        if report is None:
            return
        if not isinstance(report, dict):
            self.anomaly = True
            return
        for key in _COUNTS:
            self._take(key, report.get(key))
        for outer, inner in (
            ("cache_creation", "ephemeral_5m_input_tokens"),
            ("cache_creation", "ephemeral_1h_input_tokens"),
            ("output_tokens_details", "thinking_tokens"),
            ("server_tool_use", "web_search_requests"),
        ):
            found = report.get(outer)
            if isinstance(found, dict):
                self._take(inner, found.get(inner))
        if "output_tokens" in self._counts or "input_tokens" in self._counts:
            self.usage = self._buckets()

    def _take(self, key: str, value: Any) -> None:
        if value is None:
            return
        if type(value) is int and 0 <= value <= TOKENS_MAX:
            self._counts[key] = value
        else:
            self.anomaly = True

    def _buckets(self) -> Usage:
        count = self._counts.get
        written = count("cache_creation_input_tokens", 0)
        hour = count("ephemeral_1h_input_tokens", 0)
        five = count("ephemeral_5m_input_tokens", 0)
        if "cache_creation_input_tokens" not in self._counts:
            written = hour + five
        if hour > written:
            hour = written
            self.anomaly = True
        elif hour + five > written:
            self.anomaly = True
        # Where the breakdown covers only a part, the rest is priced as the shorter kind.
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
        encoded["server_tool_use"] = {"web_search_requests": usage.searches}
    return encoded
