"""Integer money. The ledger's unit is the nano-USD (1e-9 USD); prices are integer pico-USD per token.

A price in USD per million tokens with at most six decimals is a whole number of pico-USD per token, so a list price
is never rounded. Floats never enter; text is parsed as Decimal.
"""

import re
from decimal import Decimal

NANO_PER_USD = 10**9
PICO_PER_NANO = 1_000
SCALE = 9  # Decimal places of the ledger unit; stored in the ledger's meta and never changed.
MAX_NANO = 2**62

_AMOUNT = re.compile(r"^(-?)\$?([0-9]+(?:\.[0-9]+)?)$")


def parse_usd(text: str) -> int:
    """`"$25"`, `"25"`, `"0.000000001"`, `"-3.5"` → nano-USD.

    Raises ValueError when the text is no amount, has more than nine decimals or is out of the ledger's range.
    """
    match = _AMOUNT.match(text.strip().replace("_", ""))
    if match is None:
        raise ValueError(f"{text!r} is not an amount of money; write it like $25 or 0.50")
    value = Decimal(match[2]).scaleb(SCALE)
    nano = int(value)
    if nano != value:
        raise ValueError(f"{text!r} has more than {SCALE} decimals; the ledger's unit is 0.000000001 USD")
    if nano > MAX_NANO:
        raise ValueError(f"{text!r} is over the ledger's limit of {format_usd(MAX_NANO)} USD")
    return -nano if match[1] else nano


def parse_price_per_million(text: str) -> int:
    """USD per million tokens, as text (`"2.50"`, `"$0.075"`) → pico-USD per token.

    Raises ValueError when negative, not a number or with more than six decimals.
    """
    match = _AMOUNT.match(text.strip().replace("_", ""))
    if match is None or match[1]:
        raise ValueError(f"{text!r} is not a price; write USD per million tokens like 2.50")
    value = Decimal(match[2]).scaleb(6)
    pico = int(value)
    if pico != value:
        raise ValueError(f"price {text!r} has more than 6 decimals per million tokens")
    return pico


def format_usd(nano: int) -> str:
    """Exact decimal string, at least two decimals: 25 → `"0.000000025"`, 25e9 → `"25.00"`."""
    sign = "-" if nano < 0 else ""
    whole, part = divmod(abs(nano), NANO_PER_USD)
    decimals = f"{part:09d}".rstrip("0").ljust(2, "0")
    return f"{sign}{whole}.{decimals}"


def format_price_per_million(pico: int) -> str:
    """pico-USD per token → USD per million tokens, exact, at least two decimals."""
    whole, part = divmod(pico, 10**6)
    return f"{whole}." + f"{part:06d}".rstrip("0").ljust(2, "0")


def ceil_div(value: int, divisor: int) -> int:
    """Round towards plus infinity."""
    return -(-value // divisor)
