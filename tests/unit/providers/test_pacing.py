"""Rate limit headers of providers, in the spellings that are in use."""

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from routerx.providers.pacing import used_up_s

NOW_NS = 1_767_225_600 * 10**9  # 2026-01-01T00:00:00Z


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, None),
        ({"x-ratelimit-remaining-requests": "7", "x-ratelimit-reset-requests": "1s"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 360.0),
        ({"X-RateLimit-Remaining-Tokens": "0", "X-RateLimit-Reset-Tokens": "20ms"}, 0.02),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1.5s"}, 1.5),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "7"}, 7.0),
        (
            {
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": "2026-01-01T00:00:30Z",
            },
            30.0,
        ),
        (
            {"anthropic-ratelimit-tokens-remaining": "0", "anthropic-ratelimit-tokens-reset": "2025-12-31T23:00:00Z"},
            0.0,
        ),
        ({"ratelimit-remaining": "0", "ratelimit-reset": "12"}, 12.0),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "9s",
            },
            9.0,
        ),
        (
            {
                "x-ratelimit-limit-requests": "60",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "1m0s",
            },
            1.0,
        ),
        (
            {
                "anthropic-ratelimit-requests-limit": "50",
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": "2026-01-01T00:01:00+00:00",
            },
            1.2,
        ),
        (
            {
                "x-ratelimit-limit-requests": "0",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "8s",
            },
            8.0,
        ),
        (
            {
                "x-ratelimit-limit-tokens": "1000",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "8s",
            },
            8.0,
        ),
        ({"ratelimit-remaining": "0", "ratelimit-reset": "1767225630"}, 30.0),
        ({"x-ratelimit-remaining-requests": "0"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "soon"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "-5"}, 0.0),
    ],
)
def test_what_is_used_up_and_until_when(headers: dict[str, str], wait_s: float | None) -> None:
    assert used_up_s(CIMultiDict(headers), NOW_NS) == (None if wait_s is None else pytest.approx(wait_s))


@given(st.text(max_size=40))
def test_whatever_stands_in_a_header_never_raises(text: str) -> None:
    headers = CIMultiDict({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": text})
    wait_s = used_up_s(headers, NOW_NS)
    assert wait_s is None or wait_s >= 0


@given(st.datetimes(timezones=st.timezones()))
def test_a_moment_is_waited_for_and_one_that_has_passed_is_not(moment: datetime) -> None:
    headers = {"anthropic-ratelimit-tokens-remaining": "0", "anthropic-ratelimit-tokens-reset": moment.isoformat()}
    wait_s = used_up_s(CIMultiDict(headers), NOW_NS)
    assert wait_s == pytest.approx(max(0.0, moment.timestamp() - NOW_NS / 1e9), abs=1e-3)


@given(
    st.integers(0, 99),
    st.integers(0, 59),
    st.integers(0, 59),
    st.integers(0, 999),
)
def test_lengths_of_time_add_up(hours: int, minutes: int, seconds: int, ms: int) -> None:
    headers = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": f"{hours}h{minutes}m{seconds}s{ms}ms"}
    wait_s = used_up_s(CIMultiDict(headers), NOW_NS)
    assert wait_s == pytest.approx(3600 * hours + 60 * minutes + seconds + ms / 1000)
