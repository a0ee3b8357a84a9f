"""Prices as the file writes them → price cards, exactly: text to integers, no float on the way."""

from decimal import Decimal

import msgspec

from routerx.config.problems import Path, Problems
from routerx.config.schema import LongPriceBlock, PriceBlock, TierPriceBlock
from routerx.domain.model import DatedPrice, Kind, Origin
from routerx.domain.pricing import ANY_TIER, PLAIN_TIERS, PriceCard, Tier, tier_name
from routerx.money import parse_price_per_million, parse_usd

CONFIGURED = Origin("configuration")

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
_LONG = tuple(f"long_{_TOKEN_PRICES[key]}" for key in LongPriceBlock.model_fields if key in _TOKEN_PRICES)


def price_cards(
    written: PriceBlock | list[PriceBlock], kind: Kind | None, path: Path, problems: Problems
) -> tuple[DatedPrice, ...]:
    """The cards of a price, sorted by the moments from which on they count; only the first may name none."""
    if isinstance(written, PriceBlock):
        return (_dated(written, kind, path, problems),)
    if not written:
        problems.add(path, "has no price card", value=False)
    cards: list[DatedPrice] = []
    for index, block in enumerate(written):
        where: Path = (*path, index)
        cards.append(_dated(block, kind, where, problems))
        if index == 0:
            continue
        before_ns, from_ns = cards[-2].from_ns, cards[-1].from_ns
        if from_ns is None:
            problems.add(where, "needs from: only the first of several cards may be without", value=False)
        elif before_ns is not None and from_ns <= before_ns:
            problems.add((*where, "from"), "must be later than that of the card before it")
    return tuple(cards)


def _dated(block: PriceBlock, kind: Kind | None, path: Path, problems: Problems) -> DatedPrice:
    return DatedPrice(_card(block, kind, path, problems), block.from_, CONFIGURED)


def _card(block: PriceBlock, kind: Kind | None, path: Path, problems: Problems) -> PriceCard:
    """The card of `block`, which must say what every token costs or be priced by the request alone.

    Prices are USD per million tokens (or per thousand, by `per`); more decimals than pico-USD per token can hold, and
    a card that would give away output for want of a line, are problems.
    """
    picos = _picos(block, block.per, path, problems)
    by_request_only = not picos and block.request is not None
    if not by_request_only:
        if block.input is None:
            problems.add(path, "has no price for input; write input: 0 if it is free", value=False)
        if block.output is None and kind not in _WITHOUT_OUTPUT:
            problems.add(path, "has no price for output; write output: 0 if it is free", value=False)
    nothing = PriceCard(input_pico=0, output_pico=0)
    plain = _changed(nothing, block, block.per, path, problems)
    tiers = [
        Tier(name, _changed(plain, tier, block.per, where, problems))
        for name, tier in block.tiers.items()
        if _is_tier(name, where := (*path, "tiers", name), problems)
    ]
    return msgspec.structs.replace(plain, tiers=tuple(tiers)) if tiers else plain


def _is_tier(name: str, path: Path, problems: Problems) -> bool:
    if name in PLAIN_TIERS or name == ANY_TIER:
        what = "is no tier of its own" if name == ANY_TIER else "is the tier whose prices stand outside of `tiers`"
        problems.add(path, f"{what}; name others, like flex or priority", value=False)
        return False
    if tier_name(name) != name:
        problems.add(path, "is not a tier; use small letters, digits, '_' and '-', at most 32", value=False)
        return False
    return True


def _changed(card: PriceCard, block: TierPriceBlock, per: str, path: Path, problems: Problems) -> PriceCard:
    """`card` with what `block` states."""
    changes: dict[str, int | None] = dict(_picos(block, per, path, problems))
    for key, field in (("request", "request_nano"), ("search", "search_nano")):
        text: str | None = getattr(block, key)
        if text is not None:
            changes[field] = _nano(text, (*path, key), problems)
    if block.long is not None:
        long = _picos(block.long, per, (*path, "long"), problems)
        if not long:
            problems.add((*path, "long"), "has no price", value=False)
        changes |= dict.fromkeys(_LONG) | {f"long_{field}": pico for field, pico in long.items()}
        changes["long_above_tokens"] = block.long.above
    return msgspec.structs.replace(card, **changes)


def _picos(block: TierPriceBlock | LongPriceBlock, per: str, path: Path, problems: Problems) -> dict[str, int]:
    """The prices that `block` states, by the card's field names."""
    picos: dict[str, int] = {}
    for key, field in _TOKEN_PRICES.items():
        text: str | None = getattr(block, key, None)
        if text is not None:
            picos[field] = pico_per_token(text, per, (*path, key), problems)
    return picos


def pico_per_token(text: str, per: str, path: Path, problems: Problems) -> int:
    factor = 1_000 if per == "1k" else 1
    plain = Decimal(text.removeprefix("$").replace("_", "")) * factor
    try:
        return parse_price_per_million(f"{plain:f}")
    except ValueError:
        decimals = 9 if per == "1k" else 6
        problems.add(path, f"has more than {decimals} decimals per {per} tokens; prices are exact to that")
        return 0


def _nano(text: str, path: Path, problems: Problems) -> int:
    """The price of one request or one search."""
    try:
        return parse_usd(text)
    except ValueError:
        problems.add(path, "has more than 9 decimals, or is out of range; the smallest step is 0.000000001 USD")
        return 0
