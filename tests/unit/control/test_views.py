"""From cards and models to what people are shown: nothing left out, and each price in its own unit."""

import pytest

from routerx.control.views import log_detail, own_name, price_view
from routerx.domain.model import Endpoint, Kind, Model
from routerx.domain.pricing import PriceCard, PriceSnapshot
from tests.cli.support import record

EVERYTHING = PriceCard(**dict.fromkeys(PriceCard.__struct_fields__, 7000) | {"tiers": None})


@pytest.mark.parametrize("kind", Kind)
def test_every_price_of_a_card_is_shown(kind: Kind) -> None:
    shown = price_view(EVERYTHING, kind)

    assert len(shown) == len(PriceCard.__struct_fields__) - 2  # All but threshold and tiers, which stand beside them.
    assert {rate.per for rate in shown.values()} == {"1M tokens", "request", "search"}
    assert shown["search"].usd == "0.000007"
    assert shown["long_cache_write_1h"].usd == "0.007"


@pytest.mark.parametrize(
    ("card", "kind", "unit", "per"),
    [
        (PriceCard(15_000_000, 0), Kind.SPEECH, "characters", "1M characters"),
        (PriceCard(0, 0, audio_in_pico=100_000_000), Kind.TRANSCRIPTION, "seconds", "1M seconds"),
        (PriceCard(0, 0, request_nano=20_000_000), Kind.IMAGE, "image", "image"),
    ],
)
def test_what_is_not_billed_by_the_token_says_so(card: PriceCard, kind: Kind, unit: str, per: str) -> None:
    assert {name: rate.per for name, rate in price_view(card, kind).items()} == {unit: per}
    assert unit not in price_view(card, Kind.CHAT)


def test_the_account_of_a_transcript_is_in_seconds() -> None:
    card = PriceCard(0, 0, audio_in_pico=100_000_000)
    detail = log_detail(record(1, operation="transcriptions", price=PriceSnapshot(card)))

    assert detail.price is not None
    assert detail.price["seconds"].usd == "100.00"


def test_a_free_model_is_shown_with_prices_of_nothing() -> None:
    shown = price_view(PriceCard(0, 0), Kind.SPEECH)

    assert {unit: rate.usd for unit, rate in shown.items()} == {"input": "0.00", "output": "0.00"}


def test_a_copy_under_another_name_knows_its_own_one() -> None:
    endpoint = Endpoint("groq/x-1", "groq", "x", "x-1", None, frozenset())

    assert own_name(Model("fast", Kind.CHAT, (endpoint,))) == "x"
    assert own_name(Model("x", Kind.CHAT, (endpoint,))) == "x"
    assert own_name(Model("groq/x-1", Kind.CHAT, (endpoint,))) == "groq/x-1"
    assert own_name(Model("nobody", Kind.CHAT, ())) == "nobody"
