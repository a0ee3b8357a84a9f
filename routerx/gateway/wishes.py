"""What callers want of routing, read from RouterX's own headers and from the body's `provider` and `models`.

Pure. A request without any of them costs a handful of look-ups. What is read here is consumed: no provider is sent it.
docs/routing.md lists the names and what each does.
"""

import difflib
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Literal

import msgspec
from multidict import MultiMapping, istr

from routerx.config.scalars import parse_deadline
from routerx.dialects.anthropic import ANTHROPIC
from routerx.dialects.base import OPTIONAL, CallerDialect
from routerx.domain.call import Operation
from routerx.domain.policy import Sort
from routerx.domain.wishes import NO_STEERING, NO_WISHES, MaxPrice, Steering, Wishes
from routerx.errors import InvalidParameter
from routerx.jsonx import Raw
from routerx.secrets import API_KEY_CHARS_MAX, Secret

NAMES_MAX = 64
"""Providers in one list."""
NAME_CHARS_MAX = 256
MODELS_MAX = 16
FALLBACKS_MAX = 3
"""Entries of `fallbacks`, which Anthropic's callers have in place of `models`."""
SESSION_CHARS_MAX = 256
SHOWN_CHARS_MAX = 64
"""Of a wrong value, in the error."""
USD_MAX = Decimal(10**9)
"""A higher ceiling is no ceiling but a mistake."""

SORT = istr("X-RouterX-Sort")
ONLY = istr("X-RouterX-Provider-Only")
IGNORE = istr("X-RouterX-Provider-Ignore")
ORDER = istr("X-RouterX-Provider-Order")
ALLOW_FALLBACKS = istr("X-RouterX-Allow-Fallbacks")
OWN_KEY = istr("X-RouterX-API-Key")
METADATA = istr("X-RouterX-Metadata")
CACHE = istr("X-RouterX-Cache")
TIMEOUT = istr("X-RouterX-Timeout")
SESSION = istr("X-RouterX-Session")
SESSION_ID = istr("X-Session-Id")
"""The same, as callers of other gateways send it."""
_HEADERS = (SORT, ONLY, IGNORE, ORDER, ALLOW_FALLBACKS, OWN_KEY, METADATA, CACHE, TIMEOUT, SESSION, SESSION_ID)

_TRUE, _FALSE = frozenset({"true", "1", "on"}), frozenset({"false", "0", "off"})
_PLAIN_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")

_KEYS = frozenset({"provider", "models", "route"})
"""Of the body. `route` says what `models` says already, and is only taken out."""
_ANTHROPIC_KEYS = _KEYS | {"fallbacks"}

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_CHARS_MAX)]
_Names = Annotated[list[_Name], msgspec.Meta(max_length=NAMES_MAX)]
_Quantity = Annotated[float, msgspec.Meta(ge=0)]


# --- headers


def steering_of(headers: MultiMapping[str]) -> Steering:
    """What the request's headers say; NO_STEERING where none of them is there. Raises InvalidParameter that names the
    header, its value and the remedy."""
    for name in _HEADERS:
        if name in headers:
            return _steering(headers)
    return NO_STEERING


def _steering(headers: MultiMapping[str]) -> Steering:
    fallbacks, metadata = _flag(headers, ALLOW_FALLBACKS), _flag(headers, METADATA)
    wishes = Wishes(
        order=_listed(headers, ORDER),
        only=_listed(headers, ONLY),
        ignore=_listed(headers, IGNORE),
        allow_fallbacks=fallbacks is not False,
        sort=_sort(headers),
    )
    session = _single(headers, SESSION)
    if session is None:
        session = _single(headers, SESSION_ID)
    if session is not None and len(session) > SESSION_CHARS_MAX:
        raise InvalidParameter(
            f"{SESSION} is longer than {SESSION_CHARS_MAX} characters; send a shorter name", param=SESSION
        )
    return Steering(
        wishes=_shared(wishes),
        own_key=_own_key(headers),
        metadata=metadata is True,
        deadline_s=_deadline_s(headers),
        session=session,
        cache=_flag(headers, CACHE) is True,
    )


def _single(headers: MultiMapping[str], name: str) -> str | None:
    """The value of a header that may stand once."""
    values = headers.getall(name, ())
    if not values:
        return None
    if len(values) > 1:
        raise InvalidParameter(f"{name} was sent {len(values)} times; send it once", param=name)
    value = str(values[0]).strip()
    if not value:
        raise InvalidParameter(f"{name} is empty; give it a value, or leave it out", param=name)
    return value


def _listed(headers: MultiMapping[str], name: str) -> tuple[str, ...]:
    """Names of providers, separated by commas, in one header or several."""
    values = headers.getall(name, ())
    if not values:
        return ()
    parts = [part.strip() for value in values for part in value.split(",")]
    names = _slugs([part for part in parts if part])
    if not names:  # Taken for "no limits", it would say the opposite of what was meant.
        raise InvalidParameter(f"{name} is empty; name providers, separated by commas, or leave it out", param=name)
    if len(names) > NAMES_MAX or max(map(len, names)) > NAME_CHARS_MAX:
        raise InvalidParameter(
            f"{name} takes at most {NAMES_MAX} providers of at most {NAME_CHARS_MAX} characters each", param=name
        )
    return names


def _flag(headers: MultiMapping[str], name: str) -> bool | None:
    value = _single(headers, name)
    if value is None:
        return None
    word = value.lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise InvalidParameter(f"{name} is {_shown(value)}; write true or false", param=name)


def _sort(headers: MultiMapping[str]) -> Sort | None:
    value = _single(headers, SORT)
    return None if value is None else _sort_named(value, SORT)


def _sort_named(value: str, where: str) -> Sort:
    try:
        return Sort(value.lower())
    except ValueError:
        valid = ", ".join(Sort)
        raise InvalidParameter(f"{where} is {_shown(value)}; write one of {valid}", param=where) from None


def _deadline_s(headers: MultiMapping[str]) -> float | None:
    value = _single(headers, TIMEOUT)
    if value is None:
        return None
    try:
        return parse_deadline(f"{value}s" if _PLAIN_SECONDS.fullmatch(value) else value)
    except ValueError:
        raise InvalidParameter(
            f"{TIMEOUT} is {_shown(value)}; write a time above zero, in seconds or with its unit, like 20 or 20s",
            param=TIMEOUT,
        ) from None


def _own_key(headers: MultiMapping[str]) -> Secret | None:
    value = _single(headers, OWN_KEY)
    if value is None:
        return None
    key = value.removeprefix("Bearer ").strip()
    if not key or len(key) > API_KEY_CHARS_MAX or not key.isascii() or not key.isprintable() or " " in key:
        raise InvalidParameter(
            f"{OWN_KEY} is not a key: a key is at most {API_KEY_CHARS_MAX} characters of ASCII without spaces",
            param=OWN_KEY,
        )
    return Secret(key)


def _shown(value: str) -> str:
    return repr(value if len(value) <= SHOWN_CHARS_MAX else f"{value[:SHOWN_CHARS_MAX]}…")


# --- the body


class _SortBy(msgspec.Struct, forbid_unknown_fields=True):
    by: str | None = None
    partition: Literal["model", "none"] | None = None


class _MaxPrice(msgspec.Struct, forbid_unknown_fields=True):
    prompt: Decimal | None = None
    completion: Decimal | None = None
    request: Decimal | None = None
    image: Decimal | None = None


class _Percentiles(msgspec.Struct, forbid_unknown_fields=True):
    p50: _Quantity | None = None
    p75: _Quantity | None = None
    p90: _Quantity | None = None
    p99: _Quantity | None = None


class _Provider(msgspec.Struct, forbid_unknown_fields=True):
    """The body's `provider`, as it is on the wire."""

    order: _Names | None = None
    only: _Names | None = None
    ignore: _Names | None = None
    allow_fallbacks: bool | None = None
    require_parameters: bool | None = None
    data_collection: Literal["allow", "deny"] | None = None
    zdr: bool | None = None
    enforce_distillable_text: bool | None = None
    quantizations: _Names | None = None
    sort: str | _SortBy | None = None
    preferred_min_throughput: _Quantity | _Percentiles | None = None
    preferred_max_latency: _Quantity | _Percentiles | None = None
    max_price: _MaxPrice | None = None


class _Fallback(msgspec.Struct, forbid_unknown_fields=True):
    model: _Name


_objects = msgspec.json.Decoder(dict[str, Raw])
_providers = msgspec.json.Decoder(_Provider | None)
_models = msgspec.json.Decoder(Annotated[list[_Name], msgspec.Meta(max_length=MODELS_MAX)] | None)
_fallbacks = msgspec.json.Decoder(Annotated[list[_Fallback], msgspec.Meta(max_length=FALLBACKS_MAX)] | None)


def take_wishes(
    fields: Mapping[str, Raw], steering: Steering, operation: Operation, dialect: CallerDialect
) -> tuple[Mapping[str, Raw], Wishes]:
    """A body's top-level fields without those that are for RouterX alone, and what they and the headers want.

    Of what both say the body's word counts; what either ignores is ignored, and what both allow is allowed. Raises
    InvalidParameter.
    """
    keys = _ANTHROPIC_KEYS if dialect is ANTHROPIC else _KEYS
    if fields.keys().isdisjoint(keys):
        return fields, steering.wishes
    if operation is Operation.TRANSCRIPTIONS:
        name = min(keys & fields.keys())
        raise InvalidParameter(f"{name!r} cannot be said in a form; use the headers X-RouterX-…", param=name)
    rest = {name: value for name, value in fields.items() if name not in keys}
    wishes = steering.wishes
    if "provider" in fields:
        wishes = _merged(wishes, _read_provider(fields["provider"]), rest)
    models = _read_models(fields, keys)
    if models:
        wishes = msgspec.structs.replace(wishes, models=models)
    return rest, _shared(wishes)


def _merged(base: Wishes, said: _Provider, fields: Mapping[str, Raw]) -> Wishes:
    """What the headers want, with what the body says beside and instead."""
    sort, across_models = base.sort, False
    if isinstance(said.sort, str):
        sort = _sort_named(said.sort, "provider.sort")
    elif said.sort is not None:
        across_models = said.sort.partition == "none"
        if said.sort.by is not None:
            sort = _sort_named(said.sort.by, "provider.sort.by")
    return Wishes(
        order=_slugs(said.order) if said.order else base.order,
        only=_both(base.only, _slugs(said.only)) if said.only else base.only,
        ignore=_slugs([*base.ignore, *said.ignore]) if said.ignore else base.ignore,
        allow_fallbacks=base.allow_fallbacks if said.allow_fallbacks is None else said.allow_fallbacks,
        sort=sort,
        across_models=across_models,
        max_price=None if said.max_price is None else _max_price(said.max_price),
        parameters=OPTIONAL & fields.keys() if said.require_parameters else frozenset(),
        max_latency=_percentiles(said.preferred_max_latency),
        min_throughput=_percentiles(said.preferred_min_throughput),
        keeps_no_data=said.data_collection == "deny",
        zdr=said.zdr is True,
        distillable=said.enforce_distillable_text is True,
        quantizations=_slugs(said.quantizations) if said.quantizations else (),
    )


def _both(ceiling: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    """What both lists allow: a provider is wider than its models."""
    if not ceiling:
        return names
    within = [name for name in names if any(name == wide or name.startswith(f"{wide}/") for wide in ceiling)]
    within += [wide for wide in ceiling if any(wide.startswith(f"{name}/") for name in names)]
    if not within:
        raise InvalidParameter(
            f"provider.only and {ONLY} name no provider in common; leave one of them out", param="provider.only"
        )
    return _slugs(within)


def _percentiles(said: float | _Percentiles | None) -> tuple[tuple[int, float], ...]:
    """A number alone is about the median."""
    if said is None:
        return ()
    if not isinstance(said, _Percentiles):
        return ((50, said),)
    rows = ((50, said.p50), (75, said.p75), (90, said.p90), (99, said.p99))
    return tuple((percentile, value) for percentile, value in rows if value is not None)


def _max_price(said: _MaxPrice) -> MaxPrice | None:
    """Prices are whole numbers of the units they are compared in, so rounding a ceiling down changes nothing."""
    price = MaxPrice(
        input_pico=_units(said.prompt, "prompt", 6),
        output_pico=_units(said.completion, "completion", 6),
        request_nano=_units(said.request, "request", 9),
        image_pico=_units(said.image, "image", 6),
    )
    return None if price == MaxPrice() else price


def _units(usd: Decimal | None, name: str, decimals: int) -> int | None:
    if usd is None:
        return None
    where = f"provider.max_price.{name}"
    if not usd.is_finite() or not 0 <= usd <= USD_MAX:
        raise InvalidParameter(f"{where} must be an amount of USD from 0 to {USD_MAX}", param=where)
    return int(usd.scaleb(decimals))


def _read_provider(raw: Raw) -> _Provider:
    try:
        said = _providers.decode(raw)
    except msgspec.DecodeError as error:
        raise _unreadable(raw, error) from None
    return said if said is not None else _Provider()


def _unreadable(raw: Raw, error: msgspec.DecodeError) -> InvalidParameter:
    """An unknown key with the nearest known one, else what the decoder found, and where."""
    try:
        unknown = [name for name in _objects.decode(raw) if name not in _Provider.__struct_fields__]
    except msgspec.DecodeError:
        return InvalidParameter('\'provider\' must be an object of wishes, like {"sort": "price"}', param="provider")
    if not unknown:
        return _misread("provider", error)
    name = unknown[0][:SHOWN_CHARS_MAX]
    near = difflib.get_close_matches(name, _Provider.__struct_fields__, n=1)
    remedy = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(_Provider.__struct_fields__)}"
    return InvalidParameter(f"'provider' has no key {_shown(unknown[0])}; {remedy}", param=f"provider.{name}")


def _misread(name: str, error: msgspec.DecodeError) -> InvalidParameter:
    reason, _, where = str(error).partition(" - at `$")
    place = name + where.rstrip("`")
    return InvalidParameter(f"{place}: {reason}", param=place)


def _read_models(fields: Mapping[str, Raw], keys: frozenset[str]) -> tuple[str, ...]:
    """Further models, each once."""
    name = "models"
    names: list[str] = []
    try:
        if "models" in fields:
            names += _models.decode(fields["models"]) or ()
        if "fallbacks" in keys and "fallbacks" in fields:
            name = "fallbacks"
            names += [one.model for one in _fallbacks.decode(fields["fallbacks"]) or ()]
    except msgspec.DecodeError as error:
        raise _misread(name, error) from None
    return tuple(dict.fromkeys(names))


def _slugs(names: list[str]) -> tuple[str, ...]:
    """Names as they are compared: case is not told apart, and each stands once."""
    return tuple(dict.fromkeys(name.strip().lower() for name in names))


def _shared(wishes: Wishes) -> Wishes:
    """The one object of those who want nothing: plans are looked up by it faster."""
    return NO_WISHES if wishes == NO_WISHES else wishes
