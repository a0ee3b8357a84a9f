"""The typed scalars of the configuration: what `30s`, `$25`, `5%`, `2M` and `32MiB` mean.

A document's scalars are text as they stand in the file (document.py), so no number passes through a float on its way to
an integer of money and no `off` is taken for a boolean. Each type here turns text into its value and says, without
repeating the text (it may come from a reference), why it cannot; each carries the pattern that editors check.
"""

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainValidator, WithJsonSchema

from routerx.domain.tenant import Period, SpendLimit
from routerx.money import format_usd, parse_usd
from routerx.secrets import Secret

UNIT_KEY = "x-routerx-unit"
_REFERENCE = r"^.*\$\{(env|file):.+\}.*$"

_DURATION = re.compile(r"^([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)$")
_SECONDS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600), "d": Decimal(86_400)}
_DURATION_S_MAX = 10 * 365 * 86_400

_COUNT = re.compile(r"^([0-9][0-9_]*(?:\.[0-9]+)?)([kMG]?)$")
_MULTIPLES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
_COUNT_MAX = 10**12

_SIZE = re.compile(r"^([0-9]+(?:\.[0-9]+)?)(B|kB|KB|MB|GB|KiB|MiB|GiB)$")
_BYTES = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SIZE_MAX = 2**40

_PERCENT = re.compile(r"^([0-9]+(?:\.[0-9]+)?)\s?%$")
_RATIO = re.compile(r"^[0-9]+(?:\.[0-9]+)?$")
_PRICE = re.compile(r"^\$?[0-9][0-9_]*(?:\.[0-9]+)?$")
_INTEGER = re.compile(r"^-?[0-9][0-9_]*$")

_DATE = re.compile(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9:.]+(Z|[+-][0-9:]+)?)?$")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_DATE = datetime(2200, 1, 1, tzinfo=UTC)

_TRUE = frozenset({"true", "on", "yes"})
_FALSE = frozenset({"false", "off", "no"})


def _as_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a single value, not a list or a mapping")
    return value.strip()


def parse_duration(value: object) -> float:
    """`300ms`, `30s`, `5m`, `12h`, `30d` → seconds. Raises ValueError."""
    match = _DURATION.match(_as_text(value))
    if match is None:
        raise ValueError("is not a duration; write a number with its unit, like 300ms, 30s, 5m, 12h or 30d")
    seconds = Decimal(match[1]) * _SECONDS[match[2]]
    if seconds > _DURATION_S_MAX:
        raise ValueError("is longer than the limit of 3650d")
    return float(seconds)


def parse_deadline(value: object) -> float:
    """A duration above zero. Raises ValueError."""
    seconds = parse_duration(value)
    if seconds <= 0:
        raise ValueError("must be longer than 0")
    return seconds


def parse_days(value: object) -> int:
    """A duration of whole days. Raises ValueError."""
    days, rest = divmod(parse_deadline(value), 86_400)
    if rest:
        raise ValueError("must be whole days, like 30d")
    return int(days)


def parse_backoff(value: object) -> tuple[float, float]:
    """`300ms..5s` → seconds, shortest and longest. Raises ValueError."""
    low, dots, high = _as_text(value).partition("..")
    if not dots:
        raise ValueError("is not a range of durations; write it like 300ms..5s")
    shortest, longest = parse_duration(low), parse_duration(high)
    if shortest > longest:
        raise ValueError("begins with the longer duration; write the shorter one first, like 300ms..5s")
    return shortest, longest


def parse_count(value: object) -> int:
    """`300`, `10k`, `2M`, `1.5M` → a whole number ≥ 1. Raises ValueError."""
    match = _COUNT.match(_as_text(value))
    if match is None:
        raise ValueError("is not a count; write a whole number like 300, 10k or 2M")
    number = Decimal(match[1].replace("_", "")) * _MULTIPLES[match[2]]
    if number != int(number) or not 1 <= number <= _COUNT_MAX:
        raise ValueError("must be a whole number from 1 to 1000G")
    return int(number)


def parse_size(value: object) -> int:
    """`512KiB`, `32MiB`, `10MB` → bytes. Raises ValueError."""
    match = _SIZE.match(_as_text(value))
    if match is None:
        raise ValueError("is not a size; write a number with its unit, like 512KiB or 32MiB")
    number = int(Decimal(match[1]) * _BYTES[match[2]])
    if not 1 <= number <= _SIZE_MAX:
        raise ValueError("must be from 1B to 1024GiB")
    return number


def parse_percent_bp(value: object) -> int:
    """`10%`, `2.5%` → basis points (hundredths of a percent). Raises ValueError."""
    match = _PERCENT.match(_as_text(value))
    if match is None:
        raise ValueError("is not a percentage; write it like 10% or 2.5%")
    points = Decimal(match[1]) * 100
    if points != int(points):
        raise ValueError("has more than 2 decimals; the smallest step is 0.01%")
    if points > 100_000:
        raise ValueError("is over the limit of 1000%")
    return int(points)


def parse_ratio(value: object) -> float:
    """`2.0` → a factor above zero. Raises ValueError."""
    text = _as_text(value)
    if _RATIO.match(text) is None or float(text) <= 0:
        raise ValueError("is not a factor above 0; write it like 2.0")
    return float(text)


def parse_integer(value: object) -> int:
    """A whole number. Raises ValueError."""
    text = _as_text(value)
    if _INTEGER.match(text) is None or len(text) > 15:
        raise ValueError("is not a whole number")
    return int(text.replace("_", ""))


def parse_flag(value: object) -> bool:
    """`on`, `true`, `yes`; `off`, `false`, `no`. Raises ValueError."""
    text = _as_text(value).lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError("must be on or off")


def parse_money_nano(value: object) -> int:
    """`$25`, `0.50` → nano-USD ≥ 0. Raises ValueError."""
    text = _as_text(value)
    try:
        nano = parse_usd(text)
    except ValueError as error:
        raise ValueError(str(error).removeprefix(f"{text!r} ")) from None
    if nano < 0:
        raise ValueError("must not be negative")
    return nano


def parse_spend_limit(value: object) -> SpendLimit:
    """`$500/month` → nano-USD per calendar period. Raises ValueError."""
    amount, slash, period = _as_text(value).partition("/")
    if not slash or period.strip() not in tuple(Period):
        raise ValueError("is not a spend limit; write an amount per day, week, month or total, like $500/month")
    return SpendLimit(amount_nano=parse_money_nano(amount), period=Period(period.strip()))


def parse_expiry(value: object) -> int:
    """`2027-01-01`, `2027-01-01T12:00:00Z` → nanoseconds since the epoch; UTC where no offset is named. Raises
    ValueError."""
    text = _as_text(value)
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        instant = None
    if instant is None or not _DATE.match(text):
        raise ValueError("is not a date; write it like 2027-01-01 or 2027-01-01T12:00:00Z")
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=UTC)
    since = instant - _EPOCH
    if not _EPOCH < instant.astimezone(UTC) < _LAST_DATE:
        raise ValueError("must be between 1970 and 2200")
    return (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000


def parse_price(value: object) -> str:
    """A price as decimal text, still without its unit (`per` decides). Raises ValueError."""
    text = _as_text(value)
    if text.startswith("-"):
        raise ValueError("must not be negative")
    if _PRICE.match(text) is None:
        raise ValueError("is not a price; write USD as a decimal number like 2.50 or 0.075")
    return text


def parse_text(value: object) -> str:
    """Any text but the empty one. Raises ValueError."""
    text = _as_text(value)
    if not text:
        raise ValueError("must not be empty")
    return text


def parse_secret(value: object) -> Secret:
    """Text that is from here on only revealed on purpose; may be empty. Raises ValueError."""
    return value if isinstance(value, Secret) else Secret(_as_text(value))


def default_text(value: Any, unit: str) -> Any:
    """A default as one would write it in the file; `unit` is the schema's UNIT_KEY."""
    match unit:
        case "duration":
            return f"{value:g}s" if value == 0 or value >= 1 else f"{value * 1000:g}ms"
        case "backoff":
            return "..".join(default_text(end, "duration") for end in value)
        case "days":
            return f"{value}d"
        case "size":
            return f"{value // 2**20}MiB"
        case "percent":
            return f"{value / 100:g}%"
        case "money":
            return f"${format_usd(value)}"
        case _:
            return value


def _json(unit: str, pattern: str, *, example: str = "", plain: str = "") -> WithJsonSchema:
    """What an editor accepts: the plain JSON type, text of the pattern, or a reference."""
    text: dict[str, Any] = {"type": "string", "pattern": f"{pattern}|{_REFERENCE}"}
    schema: dict[str, Any] = {"anyOf": [{"type": plain}, text]} if plain else text
    if example:
        schema["examples"] = [example]
    return WithJsonSchema({**schema, UNIT_KEY: unit})


_DURATION_JSON = _json("duration", _DURATION.pattern, example="30s")

Duration = Annotated[float, BeforeValidator(parse_duration), _DURATION_JSON]
Deadline = Annotated[float, BeforeValidator(parse_deadline), _DURATION_JSON]
Days = Annotated[int, BeforeValidator(parse_days), _json("days", r"^[0-9]+d$", example="30d")]
Backoff = Annotated[
    tuple[float, float],
    PlainValidator(parse_backoff),
    _json("backoff", r"^[0-9.]+(ms|s|m|h|d)\.\.[0-9.]+(ms|s|m|h|d)$", example="300ms..5s"),
]
Count = Annotated[int, BeforeValidator(parse_count), _json("count", _COUNT.pattern, example="10k", plain="integer")]
Size = Annotated[int, BeforeValidator(parse_size), _json("size", _SIZE.pattern, example="32MiB")]
PercentBp = Annotated[int, BeforeValidator(parse_percent_bp), _json("percent", _PERCENT.pattern, example="10%")]
Ratio = Annotated[float, BeforeValidator(parse_ratio), _json("ratio", _RATIO.pattern, plain="number")]
Integer = Annotated[int, BeforeValidator(parse_integer), _json("integer", _INTEGER.pattern, plain="integer")]
Flag = Annotated[bool, BeforeValidator(parse_flag), _json("flag", "^(on|off|true|false|yes|no)$", plain="boolean")]
MoneyNano = Annotated[
    int,
    BeforeValidator(parse_money_nano),
    _json("money", r"^\$?[0-9]+(\.[0-9]{1,9})?$", example="$25", plain="number"),
]
SpendLimitText = Annotated[
    SpendLimit,
    PlainValidator(parse_spend_limit),
    _json("spend", r"^\$?[0-9]+(\.[0-9]{1,9})?/(day|week|month|total)$", example="$500/month"),
]
Expiry = Annotated[int, BeforeValidator(parse_expiry), _json("expiry", _DATE.pattern, example="2027-01-01")]
Price = Annotated[str, BeforeValidator(parse_price), _json("price", _PRICE.pattern, example="2.50", plain="number")]
Text = Annotated[str, BeforeValidator(parse_text), WithJsonSchema({"type": "string", "minLength": 1})]
SecretText = Annotated[Secret, PlainValidator(parse_secret), WithJsonSchema({"type": "string"})]
