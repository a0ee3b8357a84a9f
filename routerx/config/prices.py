"""Prices as the file writes them → price cards, exactly: text to integers, no float on the way."""

from decimal import Decimal

import msgspec

from routerx.config.problems import Path, Problems
from routerx.config.schema import LongPriceBlock, PriceBlock
from routerx.domain.model import Kind
from routerx.domain.pricing import PriceCard
from routerx.money import parse_price_per_million, parse_usd

_WITHOUT_OUTPUT = frozenset({Kind.EMBEDDING, Kind.RERANK, Kind.MODERATION})
"""Kinds that write no tokens."""
_TOKEN_PRICES = {
    "input": "input_pico",
    "output": "output_pico",
    "cached_input": "cache_read_pico",
    "cache_write_5m": "cache_write_5m_pico",
    "cache_write_1h": "cache_write_1h_pico",
    "audio_input": "audio_in_pico",
    "image_input": "image_in_pico",
    "reasoning": "reasoning_pico",
    "audio_output": "audio_out_pico",
    "image_output": "image_out_pico",
}


def price_card(block: PriceBlock, kind: Kind | None, path: Path, problems: Problems) -> PriceCard:
    """The card of `block`, which must say what every token costs or be priced by the request alone.

    Prices are USD per million tokens (or per thousand, by `per`); more decimals than pico-USD per token can hold, and
    a card that would give away output for want of a line, are problems.
    """
    picos = _picos(block, block.per, path, problems)
    request_nano = _nano(block.request, (*path, "request"), problems)
    search_nano = _nano(block.search, (*path, "search"), problems)
    by_request_only = not picos and block.request is not None
    if not by_request_only:
        if block.input is None:
            problems.add(path, "has no price for input; write input: 0 if it is free", value=False)
        if block.output is None and kind not in _WITHOUT_OUTPUT:
            problems.add(path, "has no price for output; write output: 0 if it is free", value=False)
    card = PriceCard(**{"input_pico": 0, "output_pico": 0, **picos}, request_nano=request_nano, search_nano=search_nano)
    if block.long is None:
        return card
    long = {f"long_{field}": pico for field, pico in _picos(block.long, block.per, (*path, "long"), problems).items()}
    if not long:
        problems.add((*path, "long"), "has no price", value=False)
    return msgspec.structs.replace(card, long_above_tokens=block.long.above, **long)


def _picos(block: PriceBlock | LongPriceBlock, per: str, path: Path, problems: Problems) -> dict[str, int]:
    """The prices that `block` states, by the card's field names."""
    picos: dict[str, int] = {}
    for key, field in _TOKEN_PRICES.items():
        text: str | None = getattr(block, key, None)
        if text is not None:
            picos[field] = _pico(text, per, (*path, key), problems)
    return picos


def _pico(text: str, per: str, path: Path, problems: Problems) -> int:
    factor = 1_000 if per == "1k" else 1
    plain = Decimal(text.removeprefix("$").replace("_", "")) * factor
    try:
        return parse_price_per_million(f"{plain:f}")
    except ValueError:
        decimals = 9 if per == "1k" else 6
        problems.add(path, f"has more than {decimals} decimals per {per} tokens; prices are exact to that")
        return 0


def _nano(text: str | None, path: Path, problems: Problems) -> int:
    """The price of one request or one search."""
    if text is None:
        return 0
    try:
        return parse_usd(text)
    except ValueError:
        problems.add(path, "has more than 9 decimals, or is out of range; the smallest step is 0.000000001 USD")
        return 0
