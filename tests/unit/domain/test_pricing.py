"""Laws of what usage costs: exact to the last pico-USD, whatever the card and whatever was used."""

from decimal import ROUND_CEILING, Decimal

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from routerx.domain.pricing import (
    PLAIN_TIERS,
    PriceCard,
    PriceSnapshot,
    Tier,
    ceiling_nano,
    cost_nano,
    fee_terms,
    is_unpriced,
    output_nano,
    output_tokens_within,
    possible,
    rerated,
    served,
    tier_name,
    usage_pico,
)
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
        if field not in {"input_pico", "output_pico", "request_nano", "search_nano", "long_above_tokens", "tiers"}
    },
    input_pico=prices,
    output_pico=prices,
    request_nano=prices,
    search_nano=prices,
    long_above_tokens=st.none() | counts,
)
TIERS = ("flex", "priority", "scale")
tier_names = st.none() | st.sampled_from((*TIERS, *sorted(PLAIN_TIERS), "unheard_of"))


def with_tiers(card: PriceCard, tiers: dict[str, PriceCard]) -> PriceCard:
    return msgspec.structs.replace(card, tiers=tuple(Tier(name, own) for name, own in tiers.items()))


tiered = st.builds(with_tiers, cards, st.dictionaries(st.sampled_from(TIERS), cards, min_size=1))


@st.composite
def rising(draw: st.DrawFn) -> PriceCard:
    """A card whose long prices are not below those that they replace."""
    card = draw(cards)
    long: dict[str, int] = {}
    for kinds in TOKENS.values():
        if f"long_{kinds[0]}" in PriceCard.__struct_fields__:
            plain = next(pico for field in kinds if (pico := getattr(card, field)) is not None)
            long[f"long_{kinds[0]}"] = plain + draw(prices)
    return msgspec.structs.replace(card, **long)


@st.composite
def readings(draw: st.DrawFn, into: int, out: int) -> Usage:
    """Some use of at most so many tokens of text, however much of it was cached or thought."""
    parts = sorted(draw(st.lists(st.integers(0, into), min_size=4, max_size=4)))
    said, thought = sorted(draw(st.lists(st.integers(0, out), min_size=2, max_size=2)))
    return Usage(
        in_fresh=parts[0],
        in_cache_read=parts[1] - parts[0],
        in_cache_write_5m=parts[2] - parts[1],
        in_cache_write_1h=parts[3] - parts[2],
        out_text=said,
        out_reasoning=thought - said,
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
    step = card.at(usage.input_tokens)
    nothing = Usage(requests=0)
    parts = [msgspec.structs.replace(nothing, **{bucket: getattr(usage, bucket)}) for bucket in BUCKETS]

    assert sum(usage_pico(part, step) for part in parts) == usage_pico(usage, card)


@given(usages, cards)
def test_nothing_has_a_negative_cost(usage: Usage, card: PriceCard) -> None:
    assert usage_pico(usage, card) >= 0
    assert usage_pico(Usage(requests=0), card) == 0


@given(usages, cards, st.sampled_from(BUCKETS), counts)
def test_more_of_anything_never_costs_less_at_one_price(usage: Usage, card: PriceCard, bucket: str, more: int) -> None:
    step = msgspec.structs.replace(card.at(usage.input_tokens), long_above_tokens=None)  # More may be long.
    larger = msgspec.structs.replace(usage, **{bucket: getattr(usage, bucket) + more})

    assert usage_pico(larger, step) >= usage_pico(usage, step)


@given(usages, rising(), st.sampled_from(BUCKETS), counts)
def test_more_of_anything_never_costs_less_where_long_prices_are_not_lower(
    usage: Usage, card: PriceCard, bucket: str, more: int
) -> None:
    larger = msgspec.structs.replace(usage, **{bucket: getattr(usage, bucket) + more})

    assert usage_pico(larger, card) >= usage_pico(usage, card)


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


# --- service tiers -----------------------------------------------------------------------------------------------


@given(usages, tiered, tier_names, tier_names, st.integers(0, 20_000))
def test_the_cost_in_a_tier_is_exactly_that_of_its_own_card(
    usage: Usage, card: PriceCard, reported: str | None, asked: str | None, markup_bp: int
) -> None:
    terms = served(PriceSnapshot(card, markup_bp), reported, asked)
    by_name = {tier.name: tier.card for tier in card.tiers or ()}
    own = by_name.get(reported or asked or "", card)

    exact_nano = exact_usd(usage, own) * (1 + Decimal(markup_bp) / 10_000) / NANO
    assert cost_nano(usage, terms) == exact_nano.to_integral_value(ROUND_CEILING)


@given(tiered, tier_names, tier_names)
def test_the_stored_terms_have_one_card_and_name_the_tier_that_it_is_of(
    card: PriceCard, reported: str | None, asked: str | None
) -> None:
    terms = served(PriceSnapshot(card), reported, asked)

    assert terms.card.tiers is None
    own = card.of_tier(terms.tier)
    assert terms.card == (own if own is not None else msgspec.structs.replace(card, tiers=None))
    assert is_unpriced(card, terms) == (reported in set(TIERS) | {"unheard_of"} and card.of_tier(reported) is None)


@given(tiered, tier_names, counts, counts, st.data())
def test_a_hold_is_enough_whichever_tier_serves(
    card: PriceCard, asked: str | None, into: int, out: int, data: st.DataObject
) -> None:
    terms = PriceSnapshot(card, 500)
    usage = data.draw(readings(into, out))
    names: tuple[str | None, ...] = (None, "default", *TIERS)
    if asked in PLAIN_TIERS:
        names = (None, "default")
    elif card.of_tier(asked) is not None:  # It may be served as the plain one in its place, and as no other.
        names = (asked, "default", None)

    most = ceiling_nano(terms, into, out, asked)
    assert all(cost_nano(usage, served(terms, name, asked)) <= most for name in names)


@given(tiered, counts, counts)
def test_who_asks_for_the_plain_tier_has_no_more_held_than_it_can_cost(card: PriceCard, into: int, out: int) -> None:
    plain = PriceSnapshot(msgspec.structs.replace(card, tiers=None))

    assert ceiling_nano(PriceSnapshot(card), into, out, "default") == ceiling_nano(plain, into, out)


def test_output_without_a_fee_fits_into_any_amount() -> None:
    terms = fee_terms(PriceCard(input_pico=1_000, output_pico=2_000), 0)
    assert not terms.bills_output
    assert output_tokens_within(terms, 0, 7) is None


@given(tiered, tier_names, counts, st.integers(0, 10**15))
def test_output_that_fits_into_an_amount_fits_by_every_card(
    card: PriceCard, asked: str | None, into: int, nano: int
) -> None:
    terms = PriceSnapshot(card, 500)
    tokens = output_tokens_within(terms, nano, into, asked)
    costs = [
        cost_nano(Usage(in_fresh=into, out_text=max(tokens, 0)), PriceSnapshot(one, 500))
        for one in possible(card, asked)
        if tokens is not None and one.at(into).output_pico
    ]

    assert not costs or (tokens is not None and tokens < 0) or max(costs) <= nano
    assert tokens is not None or not any(one.at(into).output_pico for one in possible(card, asked))


def test_a_slice_of_output_costs_what_it_costs_in_the_dearest_tier() -> None:
    card = with_tiers(PriceCard(1, 2_000_000), {"priority": PriceCard(1, 4_000_000)})

    assert output_nano(PriceSnapshot(card), 0, 1_000) == 4_000_000
    assert output_nano(PriceSnapshot(card), 0, 1_000, "default") == 2_000_000


def test_a_tier_without_a_price_is_charged_by_the_plain_card_and_named() -> None:
    card = PriceCard(1, 2)
    terms = PriceSnapshot(card)

    assert served(terms, "priority", None) == PriceSnapshot(card, tier="priority")
    assert is_unpriced(card, served(terms, "priority", None))
    assert served(terms, "default", "priority") is terms
    assert served(terms, None, "priority") is terms


def test_a_finished_request_is_rated_anew_in_the_tier_that_served_it() -> None:
    stored = PriceSnapshot(PriceCard(9, 9), 700, tier="flex")
    card = with_tiers(PriceCard(1, 2), {"flex": PriceCard(3, 4)})

    assert rerated(stored, card) == PriceSnapshot(PriceCard(3, 4), 700, tier="flex")
    assert rerated(stored, PriceCard(1, 2)) == PriceSnapshot(PriceCard(1, 2), 700, tier="flex")
    assert rerated(PriceSnapshot(PriceCard(9, 9), 700), card) == PriceSnapshot(PriceCard(1, 2), 700)


def test_free_tiers_make_no_card_dear_and_dear_ones_no_card_free() -> None:
    free = PriceCard(0, 0)

    assert with_tiers(free, {"flex": free}).is_free
    assert not with_tiers(free, {"flex": PriceCard(0, 1)}).is_free


@given(st.none() | st.integers() | st.text() | st.lists(st.text()))
def test_whatever_stands_where_a_tier_should_is_a_short_name_or_none(value: object) -> None:
    name = tier_name(value)

    assert name is None or (isinstance(value, str) and name == value.lower() and len(name) <= 32 and name != "auto")


def test_a_tier_is_one_however_its_name_is_written() -> None:
    assert tier_name("Priority") == "priority"
    assert tier_name("auto") is tier_name("") is tier_name("a b") is tier_name("x" * 33) is None


@given(usages, cards | tiered, st.integers(0, 20_000), tier_names)
def test_usage_and_terms_come_back_from_storage_as_they_were(
    usage: Usage, card: PriceCard, markup_bp: int, reported: str | None
) -> None:
    terms = served(PriceSnapshot(card, markup_bp), reported, None)

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
