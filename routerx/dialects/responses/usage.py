"""Usage on the Responses wire, both ways: as in chat, totals include their parts, under other names."""

from typing import Any

import msgspec

from routerx import jsonx
from routerx.dialects.openai_chat.usage import UsageReader
from routerx.domain.usage import Usage

_NAMES = (
    ("input_tokens", "prompt_tokens"),
    ("output_tokens", "completion_tokens"),
    ("total_tokens", "total_tokens"),
    ("input_tokens_details", "prompt_tokens_details"),
    ("output_tokens_details", "completion_tokens_details"),
)


def read_usage(report: Any) -> tuple[Usage | None, bool]:
    """Disjoint buckets of a usage object, and whether something in it could not be used. Null is no report."""
    if report is None:
        return None, False
    if not isinstance(report, dict):
        return None, True
    renamed = {new: report[old] for old, new in _NAMES if report.get(old) is not None}
    reader = UsageReader(generates=True)
    reader.read(msgspec.Raw(jsonx.encode(renamed)))
    return reader.usage, reader.anomaly


def usage_object(usage: Usage) -> dict[str, Any]:
    """The `usage` of a response; the official client wants every field of it."""
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.in_cache_read,
            "cache_write_tokens": usage.in_cache_write_5m + usage.in_cache_write_1h,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.out_reasoning},
        "total_tokens": usage.total_tokens,
    }
