"""What a request costs, worked out from the price list as the configuration has it and from docs/money.md, in exact
decimal numbers. It knows nothing of the product's own arithmetic: no pico-USD, no basis points, no price card."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import ROUND_CEILING, Decimal, localcontext
from typing import Any

DIGITS = 80
"""More than any sum here can have: nothing is rounded before the end."""
NANO = Decimal(10) ** 9
PER = {"1M": Decimal(10) ** 6, "1k": Decimal(10) ** 3}

NEAREST = {
    "in_fresh": ("input",),
    "in_cache_read": ("cached_input", "input"),
    "in_cache_write_5m": ("cache_write_5m", "input"),
    "in_cache_write_1h": ("cache_write_1h", "cache_write_5m", "input"),
    "in_audio": ("audio_input", "input"),
    "in_image": ("image_input", "input"),
    "out_text": ("output",),
    "out_reasoning": ("reasoning", "output"),
    "out_audio": ("audio_output", "output"),
    "out_image": ("image_output", "output"),
}
"""Each kind of token, and the prices that are its own, the first that is set."""

Price = Mapping[str, Any]
"""A `price` of the configuration: USD as text."""


@dataclass(frozen=True)
class Used:
    """Units by kind, under the names that the books keep them by."""

    in_fresh: int = 0
    in_cache_read: int = 0
    in_cache_write_5m: int = 0
    in_cache_write_1h: int = 0
    in_audio: int = 0
    in_image: int = 0
    out_text: int = 0
    out_reasoning: int = 0
    out_audio: int = 0
    out_image: int = 0
    requests: int = 1
    searches: int = 0

    @property
    def input_tokens(self) -> int:
        return sum(count for name, count in asdict(self).items() if name.startswith("in_"))

    def stored(self) -> dict[str, int]:
        """As the books write it: what is not 0, and `requests` where it is not 1."""
        counts = asdict(self)
        return {name: count for name, count in counts.items() if count != (1 if name == "requests" else 0)}


@dataclass(frozen=True)
class Terms:
    """By which price list a request is charged, and what of that: all, with a markup, or a share of it as a fee."""

    price: Price
    markup: str = "0%"
    fee: str | None = None


def owed_nano(used: Used, terms: Terms) -> int:
    """nano-USD, rounded up once, on the total."""
    with localcontext() as context:
        context.prec = DIGITS
        share = _percent(terms.fee) if terms.fee is not None else 1 + _percent(terms.markup)
        nano = list_usd(used, terms.price) * share * NANO
        return int(nano.to_integral_value(ROUND_CEILING))


def list_usd(used: Used, price: Price) -> Decimal:
    """What the units cost by the list, unrounded."""
    per = PER[price.get("per", "1M")]
    prices = {name: Decimal(str(value)) for name, value in price.items() if name not in ("per", "long")}
    long = price.get("long")
    if long is not None and used.input_tokens > long["above"]:
        prices |= {name: Decimal(str(value)) for name, value in long.items() if name != "above"}
    total = Decimal(0)
    for kind, names in NEAREST.items():
        count = getattr(used, kind)
        if count:
            total += count * next(prices[name] for name in names if name in prices) / per
    total += used.requests * prices.get("request", Decimal(0))
    return total + used.searches * prices.get("search", Decimal(0))


def usd(nano: int) -> Decimal:
    return Decimal(nano) / NANO


def _percent(text: str) -> Decimal:
    return Decimal(text.removesuffix("%")) / 100
