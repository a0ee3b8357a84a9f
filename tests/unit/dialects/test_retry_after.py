"""How long a provider asks to be left alone, in every spelling."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerx.dialects.retry_after import RETRY_AFTER_MAX_S, RETRY_AFTER_MIN_S, retry_after_s

DATE = {"Date": "Fri, 02 Jan 2026 10:00:00 GMT"}
DATE_S = 1_767_348_000


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        ("7", 7),
        ("1.5", 1.5),
        ("0", 1),
        ("-5", 1),
        ("1000000000", 300),
        ("1h2m3.5s", 300),
        ("1m1.5s", 61.5),
        ("250ms", 1),
        ("2500ms", 2.5),
        ("NaN", None),
        ("inf", None),
        ("1e3", None),
        ("soon", None),
        ("", None),
        ("9" * 5000, None),
        ("Fri, 02 Jan 2026 10:00:42 GMT", 42),
        ("Fri, 02 Jan 2026 09:00:00 GMT", 1),
        ("Sat, 02 Jan 2099 10:00:00 GMT", 300),
        ("2026-01-02T10:00:42Z", 42),
        ("2026-01-02T11:00:42+01:00", 42),
        ("2026-99-99T00:00:00Z", None),
    ],
)
def test_a_delay_is_read_and_clamped(value: str, wait_s: float | None) -> None:
    assert retry_after_s({"Retry-After": value, **DATE}) == wait_s


def test_a_date_means_nothing_without_the_replys_own_date() -> None:
    assert retry_after_s({"retry-after": "Fri, 02 Jan 2026 10:00:42 GMT"}) is None


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"retry-after-ms": "3500", "retry-after": "9"}, 3.5),
        ({"retry-after-ms": "0", "retry-after": "9"}, 1),
        ({"retry-after-ms": "x", "retry-after": "9"}, 9),
        ({"retry-after": "9", "x-ratelimit-reset-tokens": "20s"}, 9),
        ({"X-RateLimit-Reset-Tokens": "6m0s"}, 300),
        ({"x-ratelimit-reset-requests": "2m59.56s", "x-ratelimit-reset-tokens": "7.66s"}, 7.66),
        (
            {
                "x-ratelimit-reset-requests": "2m59.56s",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-tokens": "7.66s",
                "x-ratelimit-remaining-tokens": "17000",
            },
            179.56,
        ),
        (
            {
                "x-ratelimit-reset-requests": "20s",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-tokens": "7s",
                "x-ratelimit-remaining-tokens": "0",
            },
            20,
        ),
        ({"x-ratelimit-reset-tokens-minute": "11.381"}, 11.381),
        ({"anthropic-ratelimit-tokens-reset": "2026-01-02T10:00:42Z"}, 42),
        ({"x-ratelimit-reset": str(DATE_S + 42)}, 42),
        ({"x-ratelimit-reset": str((DATE_S + 42) * 1000)}, 42),
        ({"x-ratelimit-limit-requests": "5"}, None),
        ({}, None),
    ],
)
def test_headers_are_asked_in_order(headers: dict[str, str], wait_s: float | None) -> None:
    assert retry_after_s({**headers, **DATE}, hint=None) == wait_s


def test_the_bodys_hint_comes_last() -> None:
    assert retry_after_s({}, hint="17s") == 17
    assert retry_after_s({"retry-after": "5"}, hint="17s") == 5


@given(st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms", "x-ratelimit-reset", "date"]), st.text()))
def test_whatever_is_sent_the_wait_is_bounded(headers: dict[str, str]) -> None:
    wait_s = retry_after_s(headers)
    assert wait_s is None or (math.isfinite(wait_s) and RETRY_AFTER_MIN_S <= wait_s <= RETRY_AFTER_MAX_S)
