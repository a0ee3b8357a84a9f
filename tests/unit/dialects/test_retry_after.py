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


# One refusal of each provider that tells its limits, as PROVIDERS.md 6e has their names and units.
REFUSALS = {
    "openai, tokens of the minute": (
        {
            "x-ratelimit-limit-requests": "500",
            "x-ratelimit-remaining-requests": "499",
            "x-ratelimit-reset-requests": "120ms",
            "x-ratelimit-limit-tokens": "30000",
            "x-ratelimit-remaining-tokens": "0",
            "x-ratelimit-reset-tokens": "1m0.5s",
        },
        60.5,
    ),
    "openai, which says it in milliseconds": ({"retry-after-ms": "1250", "retry-after": "2"}, 1.25),
    "azure, in plain seconds": (
        {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "42", "x-ratelimit-reset-requests": "0"},
        42,
    ),
    "groq, tokens of the minute beside requests of the day": (
        {
            "x-ratelimit-limit-requests": "14400",
            "x-ratelimit-remaining-requests": "11000",
            "x-ratelimit-reset-requests": "5h40m0s",
            "x-ratelimit-limit-tokens": "6000",
            "x-ratelimit-remaining-tokens": "0",
            "x-ratelimit-reset-tokens": "7.66s",
        },
        7.66,
    ),
    "groq, too few tokens for this request": (
        {
            "x-ratelimit-limit-requests": "14400",
            "x-ratelimit-remaining-requests": "11000",
            "x-ratelimit-reset-requests": "5h40m0s",
            "x-ratelimit-limit-tokens": "6000",
            "x-ratelimit-remaining-tokens": "120",
            "x-ratelimit-reset-tokens": "7.66s",
        },
        7.66,
    ),
    "groq, requests of the day": (
        {
            "x-ratelimit-limit-requests": "14400",
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": "5h40m0s",
            "x-ratelimit-limit-tokens": "6000",
            "x-ratelimit-remaining-tokens": "6000",
            "x-ratelimit-reset-tokens": "0s",
        },
        RETRY_AFTER_MAX_S,
    ),
    "cerebras, whose names carry the window": (
        {
            "x-ratelimit-limit-requests-day": "14400",
            "x-ratelimit-remaining-requests-day": "14399",
            "x-ratelimit-reset-requests-day": "33011.382867",
            "x-ratelimit-limit-tokens-minute": "60000",
            "x-ratelimit-remaining-tokens-minute": "0",
            "x-ratelimit-reset-tokens-minute": "11.382867",
        },
        11.382867,
    ),
    "anthropic, whose resets are instants": (
        {
            "anthropic-ratelimit-requests-limit": "50",
            "anthropic-ratelimit-requests-remaining": "49",
            "anthropic-ratelimit-requests-reset": "2026-01-02T10:00:01Z",
            "anthropic-ratelimit-input-tokens-limit": "30000",
            "anthropic-ratelimit-input-tokens-remaining": "0",
            "anthropic-ratelimit-input-tokens-reset": "2026-01-02T10:00:37Z",
            "anthropic-ratelimit-output-tokens-limit": "8000",
            "anthropic-ratelimit-output-tokens-remaining": "8000",
            "anthropic-ratelimit-output-tokens-reset": "2026-01-02T10:00:00Z",
            "anthropic-ratelimit-tokens-limit": "38000",
            "anthropic-ratelimit-tokens-remaining": "8000",
            "anthropic-ratelimit-tokens-reset": "2026-01-02T10:00:37Z",
        },
        37,
    ),
    "anthropic, whose rounding leaves a thousand": (
        {
            "anthropic-ratelimit-input-tokens-limit": "30000",
            "anthropic-ratelimit-input-tokens-remaining": "1000",
            "anthropic-ratelimit-input-tokens-reset": "2026-01-02T10:00:37Z",
            "anthropic-ratelimit-output-tokens-limit": "8000",
            "anthropic-ratelimit-output-tokens-remaining": "8000",
            "anthropic-ratelimit-output-tokens-reset": "2026-01-02T10:00:00Z",
        },
        37,
    ),
    "anthropic, which mostly says it plainly": (
        {"retry-after": "12", "anthropic-ratelimit-tokens-reset": "2026-01-02T10:00:37Z"},
        12,
    ),
    "mistral, which counts and says no time": (
        {
            "x-ratelimit-limit-req-minute": "100",
            "x-ratelimit-remaining-req-minute": "0",
            "x-ratelimit-limit-tokens-minute": "100000",
            "x-ratelimit-remaining-tokens-minute": "64000",
            "x-ratelimit-tokens-query-cost": "36000",
        },
        None,
    ),
    "mistral of old": ({"ratelimitbysize-remaining": "0", "ratelimitbysize-reset": "32"}, 32),
    "openrouter, in milliseconds since the epoch": (
        {"x-ratelimit-limit": "20", "x-ratelimit-remaining": "0", "x-ratelimit-reset": str((DATE_S + 25) * 1000)},
        25,
    ),
    "hugging face, as the draft standard has it": (
        {"ratelimit": '"api";r=0;t=55, "pages";r=90;t=12', "ratelimit-policy": '"fixed window";"api";q=500;w=300'},
        55,
    ),
    "deepseek, deepinfra and ollama, which say nothing": ({}, None),
}


@pytest.mark.parametrize(("headers", "wait_s"), REFUSALS.values(), ids=REFUSALS.keys())
def test_each_provider_is_waited_for_as_its_headers_say(headers: dict[str, str], wait_s: float | None) -> None:
    assert retry_after_s({**headers, **DATE}) == wait_s


@pytest.mark.parametrize(
    ("hint", "wait_s"), [("17s", 17), ("0.250s", 1), ("34.074824224s", 34.074824224), ("17", 17), ("soon", None)]
)
def test_a_delay_in_the_body_is_read_like_one_in_a_header(hint: str, wait_s: float | None) -> None:
    """Gemini's RetryInfo is such: a duration in text."""
    assert retry_after_s({}, hint=hint) == wait_s


@pytest.mark.parametrize(
    "text",
    ['"api"', '"api";r=0', '"api";r=0;t=-5', '"api";r=0;t=soon', "t=5", '"a;t=5x";r=1', ";" * 10_000, "," * 10_000],
)
def test_a_list_of_limits_that_gives_no_time_gives_none(text: str) -> None:
    assert retry_after_s({"ratelimit": text}) is None


def test_windows_that_are_full_do_not_say_how_long_to_wait() -> None:
    full = {"x-ratelimit-limit-tokens": "10", "x-ratelimit-remaining-tokens": "10", "x-ratelimit-reset-tokens": "9s"}

    assert retry_after_s(full) is None
    assert retry_after_s(full, hint="17s") == 17


def test_the_bodys_hint_comes_last() -> None:
    assert retry_after_s({}, hint="17s") == 17
    assert retry_after_s({"retry-after": "5"}, hint="17s") == 5


@given(
    st.dictionaries(
        st.sampled_from(["retry-after", "retry-after-ms", "x-ratelimit-reset", "ratelimit", "date"]), st.text()
    )
)
def test_whatever_is_sent_the_wait_is_bounded(headers: dict[str, str]) -> None:
    wait_s = retry_after_s(headers)
    assert wait_s is None or (math.isfinite(wait_s) and RETRY_AFTER_MIN_S <= wait_s <= RETRY_AFTER_MAX_S)
