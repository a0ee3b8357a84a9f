"""What a provider says in an answer's headers of how much is left of its limits, so that nobody runs into them. Pure.

Three spellings are read: `x-ratelimit-remaining-requests` and `-tokens` with `x-ratelimit-reset-…` as a length of time
(OpenAI's guide on rate limits, and those who follow it); `anthropic-ratelimit-requests-remaining` and `-tokens-…` with
`-reset` as a moment (Anthropic's API reference); `ratelimit-remaining` with `ratelimit-reset` in seconds (the IETF's
draft on RateLimit header fields, before its seventh version).

OpenAI's and Anthropic's resets are the time until all of a limit is there again ("its initial state", "fully
replenished"), and it comes back bit by bit: where the limit of requests is said too, the next one fits after that share
of the time. How much of a limit of tokens the next call needs, nobody knows.
"""

import re
from collections.abc import Mapping

from multidict import istr

from routerx.dialects.retry_after import delay_s

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
_COUNT = re.compile(r"[1-9][0-9]{0,8}")


def used_up_s(headers: Mapping[str, str], now_ns: int) -> float | None:
    """Seconds until there is something left of every limit; None where nothing is used up, or nothing is said.
    `headers` are case-insensitive, `now_ns` is the wall clock."""
    longest: float | None = None
    for remaining, reset, whole in _SPELLINGS:
        left = headers.get(remaining)
        if left is None or left.strip() != "0":
            continue
        wait_s = delay_s(headers.get(reset, "").strip(), now_ns / 1e9, epoch=True)
        if wait_s is None:
            continue
        wait_s = max(0.0, wait_s)
        if whole is not None and _COUNT.fullmatch(requests := headers.get(whole, "").strip()):
            wait_s /= int(requests)
        if longest is None or wait_s > longest:
            longest = wait_s
    return longest
