"""How long a provider asks to be left alone: every spelling seen in headers and error bodies, as seconds.

Pure: an absolute time is read against the reply's own Date header, so neither clock has to be right. Order and
spellings: design, PROVIDERS.md 6e and FAULTS.md 27-30.
"""

import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

RETRY_AFTER_MIN_S = 1.0
RETRY_AFTER_MAX_S = 300.0

_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?\Z")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|ns|h|m|s|d)")
_UNIT_S = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_LISTED = re.compile(r";\s*([rt])=(\d{1,12})(?=\s*(?:;|$))")
_EPOCH_S_MIN = 1e9
_EPOCH_MS_MIN = 1e12
_LENGTH_MAX = 64
_LIST_LENGTH_MAX = 512


def retry_after_s(headers: Mapping[str, str], hint: str | None = None) -> float | None:
    """Seconds to wait, RETRY_AFTER_MIN_S to RETRY_AFTER_MAX_S; None when the reply says nothing usable.

    `hint` is a delay stated in the error body; headers go before it.
    """
    lower = {name.lower(): value.strip() for name, value in headers.items()}
    now_s = _date_s(lower.get("date", ""))
    wait_s = _milliseconds(lower.get("retry-after-ms", ""))
    if wait_s is None:
        wait_s = delay_s(lower.get("retry-after", ""), now_s, epoch=False)
    if wait_s is None:
        wait_s = _reset_s(lower, now_s)
    if wait_s is None and hint is not None:
        wait_s = delay_s(hint.strip(), now_s, epoch=False)
    if wait_s is None:
        return None
    return min(max(wait_s, RETRY_AFTER_MIN_S), RETRY_AFTER_MAX_S)


class _Window(NamedTuple):
    """One of the limits that a reply tells of."""

    reset_s: float
    left: float | None
    size: float | None


def _reset_s(headers: Mapping[str, str], now_s: float | None) -> float | None:
    """When a limit refills. Of several: the last of those that are used up, else the first of those that are not full:
    a window that nothing was taken from, like a day's requests beside a minute's tokens, is not what refused."""
    windows = [*_named_windows(headers, now_s), *_listed_windows(headers.get("ratelimit", ""))]
    empty = [window.reset_s for window in windows if window.left is not None and window.left <= 0]
    if empty:
        return max(empty)
    return min(
        (window.reset_s for window in windows if window.left is None or window.left != window.size), default=None
    )


def _named_windows(headers: Mapping[str, str], now_s: float | None) -> Iterator[_Window]:
    """`x-ratelimit-reset-tokens`, `anthropic-ratelimit-tokens-reset`, `x-ratelimit-reset-tokens-minute` and the like,
    each with its sisters that say `remaining` and `limit` in the same place."""
    for name, value in headers.items():
        if "ratelimit" in name and "reset" in name:
            reset_s = delay_s(value, now_s, epoch=True)
            if reset_s is not None:
                left = _number(headers.get(name.replace("reset", "remaining"), ""))
                yield _Window(reset_s, left, _number(headers.get(name.replace("reset", "limit"), "")))


def _listed_windows(text: str) -> Iterator[_Window]:
    """`"api";r=0;t=55, …` of draft-ietf-httpapi-ratelimit-headers: what is left, and seconds until it is more."""
    for item in text[:_LIST_LENGTH_MAX].split(","):
        found = dict(_LISTED.findall(item))
        if "t" in found:
            yield _Window(float(found["t"]), float(found["r"]) if "r" in found else None, None)


def _milliseconds(text: str) -> float | None:
    number = _number(text)
    return None if number is None else number / 1_000


def delay_s(text: str, now_s: float | None, *, epoch: bool) -> float | None:
    """Seconds, a duration, a date, or (`epoch`) a large number that can only be a time; negative for one that is past.
    `now_s`: since the epoch; None where nobody knows, and no date can be read then."""
    if not text or len(text) > _LENGTH_MAX:
        return None
    number = _number(text)
    if number is None:
        duration_s = _duration_s(text)
        if duration_s is not None:
            return duration_s
        at_s = _date_s(text)
    elif epoch and number >= _EPOCH_MS_MIN:
        at_s = number / 1_000
    elif epoch and number >= _EPOCH_S_MIN:
        at_s = number
    else:
        return number
    return None if at_s is None or now_s is None else at_s - now_s


def _number(text: str) -> float | None:
    """A plain decimal number; no NaN, no infinity, no exponent."""
    if len(text) > _LENGTH_MAX or _NUMBER.match(text) is None:
        return None
    number = float(text)
    return number if math.isfinite(number) else None


def _duration_s(text: str) -> float | None:
    """`1h2m3.5s`, `250ms`."""
    total_s = 0.0
    end = 0
    for match in _DURATION.finditer(text):
        if match.start() != end:
            return None
        total_s += float(match[1]) * _UNIT_S[match[2]]
        end = match.end()
    return total_s if end and end == len(text) else None


def _date_s(text: str) -> float | None:
    """An HTTP date or RFC 3339, as seconds since the epoch."""
    if not text or len(text) > _LENGTH_MAX:
        return None
    try:
        at = datetime.fromisoformat(text) if text[0].isdigit() else parsedate_to_datetime(text)
        return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
