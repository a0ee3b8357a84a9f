"""A price card with a long-context threshold: the whole request is charged by one tier or the other."""

import pytest

from routerx.domain.pricing import PriceCard, PriceSnapshot, cost_nano, usage_pico
from routerx.domain.usage import Usage

CARD = PriceCard(
    input_pico=1_250_000,
    output_pico=10_000_000,
    cache_read_pico=125_000,
    long_above_tokens=200_000,
    long_input_pico=2_500_000,
    long_output_pico=15_000_000,
    long_cache_read_pico=250_000,
)


def test_a_prompt_at_the_threshold_is_charged_at_the_plain_price() -> None:
    usage = Usage(in_fresh=200_000, out_text=1)

    assert usage_pico(usage, CARD) == 200_000 * 1_250_000 + 10_000_000


def test_one_token_above_it_the_whole_request_is_charged_at_the_long_price() -> None:
    usage = Usage(in_fresh=200_001, out_text=1)

    assert usage_pico(usage, CARD) == 200_001 * 2_500_000 + 15_000_000


def test_cached_tokens_count_towards_the_threshold_and_have_their_own_long_price() -> None:
    usage = Usage(in_fresh=1, in_cache_read=200_000)

    assert usage_pico(usage, CARD) == 2_500_000 + 200_000 * 250_000


@pytest.mark.parametrize(("long_write", "expected"), [(None, 7), (9, 9)])
def test_a_long_price_that_is_not_stated_leaves_the_plain_one(long_write: int | None, expected: int) -> None:
    card = PriceCard(
        input_pico=1, output_pico=1, cache_write_5m_pico=7, long_above_tokens=10, long_cache_write_5m_pico=long_write
    )

    assert usage_pico(Usage(in_cache_write_5m=11), card) == 11 * expected


def test_every_long_price_replaces_its_namesake() -> None:
    card = PriceCard(
        input_pico=1,
        output_pico=2,
        cache_write_1h_pico=3,
        audio_in_pico=4,
        long_above_tokens=0,
        long_input_pico=10,
        long_output_pico=20,
        long_cache_write_1h_pico=30,
    )

    assert card.at(1) == PriceCard(input_pico=10, output_pico=20, cache_write_1h_pico=30, audio_in_pico=4)


def test_the_tier_of_a_stored_card_is_part_of_its_receipt() -> None:
    terms = PriceSnapshot(CARD, markup_bp=1_000)

    assert cost_nano(Usage(in_fresh=400_000), terms) == 400_000 * 2_500 * 11 // 10
    assert CARD.at(1) is CARD
    assert CARD.at(200_001).long_above_tokens is None
