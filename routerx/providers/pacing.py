"""What a provider says in an answer's headers of how much is left of its limits, so that nobody runs into them. Pure.

Three spellings are read: `x-ratelimit-remaining-requests` and `-tokens` with `x-ratelimit-reset-…` as a length of time
(OpenAI's guide on rate limits, and those who follow it); `anthropic-ratelimit-requests-remaining` and `-tokens-…` with
`-reset` as a moment (Anthropic's API reference); `ratelimit-remaining` with `ratelimit-reset` in seconds (the IETF's
draft on RateLimit header fields, before its seventh version).

OpenAI's and Anthropic's resets are the time until all of a limit is there again ("its initial state", "fully
replenished"), and it comes back bit by bit: where the limit of requests is said too, the next one fits after that share
of the time. How much of a limit of tokens the next call needs, nobody knows.
"""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime

from multidict import istr

_SPELLINGS = tuple(
    (istr(remaining), istr(reset), whole)  # Every answer is looked at, and these need no folding of their case.
    for remaining, reset, whole in (
        ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests", "x-ratelimit-limit-requests"),
        ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens", None),
        (
            "anthropic-ratelimit-requests-remaining",
            "anthropic-ratelimit-requests-reset",
            "anthropic-ratelimit-requests-limit",
        ),
        ("anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset", None),
        ("ratelimit-remaining", "ratelimit-reset", None),
    )
)
"""What is left, when all is there again, and how many requests all is, where they come back one by one."""
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LENGTH = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{1,9})?(?:ms|s|m|h|d))+")
_PART = re.compile(r"([0-9.]+)(ms|s|m|h|d)")
_NUMBER = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_COUNT = re.compile(r"[1-9][0-9]{0,8}")


def used_up_s(headers: Mapping[str, str], now_ns: int) -> float | None:
    """Seconds until there is something left of every limit; None where nothing is used up, or nothing is said.
    `headers` are case-insensitive, `now_ns` is the wall clock."""
    longest: float | None = None
    for remaining, reset, whole in _SPELLINGS:
        left = headers.get(remaining)
        if left is None or left.strip() != "0":
            continue
        wait_s = _wait_s(headers.get(reset, ""), now_ns)
        if wait_s is None:
            continue
        if whole is not None and _COUNT.fullmatch(requests := headers.get(whole, "").strip()):
            wait_s /= int(requests)
        if longest is None or wait_s > longest:
            longest = wait_s
    return longest


def _wait_s(text: str, now_ns: int) -> float | None:
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    if _LENGTH.fullmatch(text):
        return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    wait_s = moment.timestamp() - now_ns / 1e9
    return max(0.0, wait_s) if math.isfinite(wait_s) else None
