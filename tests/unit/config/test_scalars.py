"""What single values mean."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerx.config.prices import price_cards
from routerx.config.problems import Problems
from routerx.config.scalars import (
    parse_backoff,
    parse_count,
    parse_days,
    parse_deadline,
    parse_duration,
    parse_expiry,
    parse_flag,
    parse_integer,
    parse_money_nano,
    parse_percent_bp,
    parse_ratio,
    parse_size,
    parse_spend_limit,
)
from routerx.config.schema import PriceBlock
from routerx.domain.model import Kind
from routerx.domain.pricing import PriceCard
from routerx.domain.tenant import Period, SpendLimit


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_duration, "300ms", 0.3),
        (parse_duration, "0s", 0.0),
        (parse_duration, "1.5h", 5_400.0),
        (parse_deadline, "5m", 300.0),
        (parse_days, "30d", 30),
        (parse_days, "48h", 2),
        (parse_backoff, "300ms..5s", (0.3, 5.0)),
        (parse_count, "300", 300),
        (parse_count, "10k", 10_000),
        (parse_count, "1.5M", 1_500_000),
        (parse_count, "1_000", 1_000),
        (parse_size, "32MiB", 32 * 2**20),
        (parse_size, "10MB", 10_000_000),
        (parse_percent_bp, "10%", 1_000),
        (parse_percent_bp, "2.25 %", 225),
        (parse_ratio, "2.0", 2.0),
        (parse_integer, "-1", -1),
        (parse_flag, "off", False),
        (parse_flag, "On", True),
        (parse_money_nano, "$25", 25_000_000_000),
        (parse_money_nano, "0.000000001", 1),
        (parse_spend_limit, "$500/month", SpendLimit(500_000_000_000, Period.MONTH)),
    ],
)
def test_a_value_is_read_with_its_unit(parse, text, value):
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_duration, "30"),
        (parse_duration, "-1s"),
        (parse_duration, "1 s"),
        (parse_duration, "1e3s"),
        (parse_duration, "4000d"),
        (parse_deadline, "0s"),
        (parse_days, "36h"),
        (parse_backoff, "5s"),
        (parse_backoff, "5s..1s"),
        (parse_count, "0"),
        (parse_count, "1.5"),
        (parse_count, "10K"),
        (parse_size, "32"),
        (parse_percent_bp, "10"),
        (parse_percent_bp, "0.001%"),
        (parse_percent_bp, "1001%"),
        (parse_ratio, "0"),
        (parse_ratio, "nan"),
        (parse_integer, "1.0"),
        (parse_flag, "maybe"),
        (parse_money_nano, "-1"),
        (parse_money_nano, "0.0000000001"),
        (parse_money_nano, "25 EUR"),
        (parse_spend_limit, "$500"),
        (parse_spend_limit, "$500/year"),
        (parse_count, ["1"]),
        (parse_money_nano, {"a": "b"}),
    ],
)
def test_a_value_without_a_clear_meaning_is_refused(parse, text):
    with pytest.raises(ValueError, match=r"is|must|has|begins"):
        parse(text)


@pytest.mark.parametrize("parse", [parse_money_nano, parse_spend_limit, parse_duration, parse_count])
def test_a_refusal_does_not_repeat_the_value(parse):
    """The value may have come by reference."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - what it must not say is the point.
        parse("sk-canary/month")
    assert "canary" not in str(caught.value)


prices = st.decimals(min_value=0, max_value=10_000, places=6, allow_nan=False, allow_infinity=False)


def card_of(**block: str) -> tuple[PriceCard, list[str]]:
    problems = Problems()
    (dated,) = price_cards(PriceBlock.model_validate(block), Kind.CHAT, ("pricing", "m"), problems)
    return dated.card, [text for _, _, text in problems._found]


@given(prices, prices)
def test_a_price_per_million_is_exact_to_six_decimals(into: Decimal, out: Decimal):
    card, problems = card_of(input=f"{into:f}", output=f"{out:f}")
    assert not problems
    assert (card.input_pico, card.output_pico) == (into * 10**6, out * 10**6)


@given(prices)
def test_a_price_per_thousand_is_a_thousandth_of_one_per_million(price: Decimal):
    per_million, _ = card_of(input=f"{price:f}", output="0")
    per_thousand, problems = card_of(input=f"{price / 1000:f}", output="0", per="1k")
    assert not problems
    assert per_thousand == per_million


def test_a_seventh_decimal_is_refused_and_not_rounded():
    _, problems = card_of(input="0.0000001", output="0")
    assert problems == [
        "configuration: pricing.m.input: has more than 6 decimals per 1M tokens; prices are exact to that"
    ]


def test_a_card_that_forgets_output_is_refused():
    _, problems = card_of(input="1")
    assert problems == ["configuration: pricing.m: has no price for output; write output: 0 if it is free"]


@pytest.mark.parametrize("kind", [Kind.EMBEDDING, Kind.RERANK, Kind.MODERATION])
def test_a_model_that_writes_no_tokens_needs_no_price_for_them(kind: Kind):
    problems = Problems()
    (dated,) = price_cards(PriceBlock.model_validate({"input": "1"}), kind, ("pricing", "m"), problems)
    assert not problems
    assert dated.card == PriceCard(1_000_000, 0)


def test_a_price_by_request_alone_needs_no_token_prices():
    card, problems = card_of(request="$1")
    assert not problems
    assert card == PriceCard(input_pico=0, output_pico=0, request_nano=10**9)


def test_a_search_is_priced_in_usd_whatever_the_tokens_are_counted_by():
    card, problems = card_of(input="1", output="2", search="$0.01", per="1k")
    assert not problems
    assert card == PriceCard(10**9, 2 * 10**9, search_nano=10_000_000)


def test_a_search_priced_finer_than_the_ledger_counts_is_refused():
    _, problems = card_of(input="1", output="2", search="0.0000000001")
    assert len(problems) == 1
    assert problems[0].startswith("configuration: pricing.m.search: has more than 9 decimals")


def test_a_price_of_searches_alone_does_not_make_a_card():
    _, problems = card_of(search="0.01")
    assert [text.split(": ")[2] for text in problems] == [
        "has no price for input; write input",
        "has no price for output; write output",
    ]


def test_long_prices_stand_beside_the_plain_ones():
    problems = Problems()
    block = PriceBlock.model_validate({"input": "1", "output": "2", "long": {"above": "200k", "input": "3"}})
    (dated,) = price_cards(block, Kind.CHAT, ("pricing", "m"), problems)
    assert dated.card == PriceCard(1_000_000, 2_000_000, long_above_tokens=200_000, long_input_pico=3_000_000)
    assert not problems


DAY_NS = 86_400 * 10**9


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-02", DAY_NS),
        ("2027-01-01", 20_819 * DAY_NS),
        ("2027-01-01T12:00:00Z", 20_819 * DAY_NS + DAY_NS // 2),
        ("2027-01-01 12:00:00", 20_819 * DAY_NS + DAY_NS // 2),
        ("2027-01-01T01:00:00+01:00", 20_819 * DAY_NS),
        ("2027-01-01T00:00:00.5Z", 20_819 * DAY_NS + 500_000_000),
    ],
)
def test_an_expiry_is_a_date_in_utc_unless_it_says_otherwise(text: str, ns: int) -> None:
    assert parse_expiry(text) == ns


@pytest.mark.parametrize("text", ["soon", "2027-02-30", "20270101", "2027-W01-1", "1969-01-01", "2200-01-02", "30d"])
def test_what_is_no_expiry_says_how_to_write_one(text: str) -> None:
    with pytest.raises(ValueError, match=r"2027-01-01|between 1970 and 2200"):
        parse_expiry(text)
