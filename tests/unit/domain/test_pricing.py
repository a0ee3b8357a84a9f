"""Laws of what usage costs: exact to the last pico-USD, whatever the card and whatever was used."""

from decimal import ROUND_CEILING, Decimal

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from routerx.domain.pricing import PriceCard, PriceSnapshot, ceiling_nano, cost_nano, usage_pico
from routerx.domain.usage import Usage

# Each bucket with the prices that count for it, in USD: the first of them that the card states.
TOKENS = {
    "in_fresh": ("input_pico",),
    "in_cache_read": ("cache_read_pico", "input_pico"),
    "in_cache_write_5m": ("cache_write_5m_pico", "input_pico"),
    "in_cache_write_1h": ("cache_write_1h_pico", "cache_write_5m_pico", "input_pico"),
    "in_audio": ("audio_in_pico", "input_pico"),
    "in_image": ("image_in_pico", "input_pico"),
    "out_text": ("output_pico",),
    "out_reasoning": ("reasoning_pico", "output_pico"),
    "out_audio": ("audio_out_pico", "output_pico"),
    "out_image": ("image_out_pico", "output_pico"),
}
PIECES = {"requests": "request_nano", "searches": "search_nano"}
BUCKETS = (*TOKENS, *PIECES)
PICO = Decimal(10) ** -12
NANO = Decimal(10) ** -9

counts = st.integers(0, 10**7)
prices = st.integers(0, 10**9)
maybe = st.none() | prices

usages = st.builds(Usage, **dict.fromkeys(BUCKETS, counts))
cards = st.builds(
    PriceCard,
    **{
        field: maybe
        for field in PriceCard.__struct_fields__
        if field not in {"input_pico", "output_pico", "request_nano", "search_nano", "long_above_tokens"}
    },
    input_pico=prices,
    output_pico=prices,
    request_nano=prices,
    search_nano=prices,
    long_above_tokens=st.none() | counts,
)


def price_usd(card: PriceCard, bucket: str, *, long: bool) -> Decimal:
    """What one unit of a bucket costs: the long price of the first kind that has one at all, in USD."""
    if bucket in PIECES:
        each: int = getattr(card, PIECES[bucket])
        return each * NANO
    for field in TOKENS[bucket]:
        stated: int | None = getattr(card, f"long_{field}", None) if long else None
        pico: int | None = stated if stated is not None else getattr(card, field)
        if pico is not None:
            return pico * PICO
    raise AssertionError(bucket)


def exact_usd(usage: Usage, card: PriceCard) -> Decimal:
    long = card.long_above_tokens is not None and usage.input_tokens > card.long_above_tokens
    return sum((getattr(usage, bucket) * price_usd(card, bucket, long=long) for bucket in BUCKETS), Decimal(0))


@given(usages, cards)
def test_the_cost_is_exactly_that_of_decimal_arithmetic(usage: Usage, card: PriceCard) -> None:
    assert usage_pico(usage, card) * PICO == exact_usd(usage, card)


@given(usages, cards, st.integers(0, 20_000))
def test_a_charge_is_the_exact_cost_and_its_markup_rounded_up_once(
    usage: Usage, card: PriceCard, markup_bp: int
) -> None:
    exact_nano = exact_usd(usage, card) * (1 + Decimal(markup_bp) / 10_000) / NANO

    assert cost_nano(usage, PriceSnapshot(card, markup_bp)) == exact_nano.to_integral_value(ROUND_CEILING)


@given(usages, cards)
def test_the_parts_sum_to_the_whole(usage: Usage, card: PriceCard) -> None:
    tier = card.at(usage.input_tokens)
    nothing = Usage(requests=0)
    parts = [msgspec.structs.replace(nothing, **{bucket: getattr(usage, bucket)}) for bucket in BUCKETS]

    assert sum(usage_pico(part, tier) for part in parts) == usage_pico(usage, card)


@given(usages, cards)
def test_nothing_has_a_negative_cost(usage: Usage, card: PriceCard) -> None:
    assert usage_pico(usage, card) >= 0
    assert usage_pico(Usage(requests=0), card) == 0


@given(usages, cards, st.sampled_from(BUCKETS), counts)
def test_more_of_anything_never_costs_less_in_one_tier(usage: Usage, card: PriceCard, bucket: str, more: int) -> None:
    tier = msgspec.structs.replace(card.at(usage.input_tokens), long_above_tokens=None)  # More may be of the next tier.
    larger = msgspec.structs.replace(usage, **{bucket: getattr(usage, bucket) + more})

    assert usage_pico(larger, tier) >= usage_pico(usage, tier)


@given(usages, cards)
def test_a_free_card_is_one_that_charges_for_nothing(usage: Usage, card: PriceCard) -> None:
    if card.is_free:
        assert usage_pico(usage, card) == 0
    free = PriceCard(input_pico=0, output_pico=0, long_above_tokens=card.long_above_tokens)
    assert free.is_free


@given(cards, counts, counts)
def test_text_tokens_never_cost_more_than_their_ceiling(card: PriceCard, into: int, out: int) -> None:
    terms = PriceSnapshot(card)

    assert cost_nano(Usage(in_fresh=into, out_text=out), terms) <= ceiling_nano(terms, into, out)


@given(usages, cards, st.integers(0, 20_000))
def test_usage_and_terms_come_back_from_storage_as_they_were(usage: Usage, card: PriceCard, markup_bp: int) -> None:
    terms = PriceSnapshot(card, markup_bp)

    assert msgspec.json.decode(msgspec.json.encode(usage), type=Usage) == usage
    assert msgspec.json.decode(msgspec.json.encode(terms), type=PriceSnapshot) == terms


def test_each_search_is_charged_beside_the_tokens() -> None:
    card = PriceCard(input_pico=2_000_000, output_pico=0, search_nano=10_000_000)

    assert cost_nano(Usage(in_fresh=1_000, searches=3), PriceSnapshot(card)) == 2_000_000 + 30_000_000


def test_a_card_that_only_charges_for_searches_is_not_free() -> None:
    assert not PriceCard(input_pico=0, output_pico=0, search_nano=1).is_free


def test_a_receipt_written_before_searches_were_counted_still_reads() -> None:
    assert msgspec.json.decode(b'{"in_fresh":5}', type=Usage) == Usage(in_fresh=5)
    assert msgspec.json.decode(b'{"card":{"input_pico":1,"output_pico":2}}', type=PriceSnapshot) == PriceSnapshot(
        PriceCard(input_pico=1, output_pico=2)
    )
