"""The bundled catalogue: which vendors serve which models, and for how much.

Facts live in the dated JSON files beside this module, one per owner, made to be read and reviewed by people: prices
are decimal strings, in USD per million of what they are counted in and in USD for each request, image or search; every
file names its sources and its date. This module only reads them.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType

import msgspec

from routerx.domain.model import Capability, Kind
from routerx.domain.pricing import PriceCard
from routerx.money import parse_price_per_million, parse_usd
from routerx.providers.spec import CatalogueEndpoint, CatalogueModel


class _Rates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Prices as the files write them. None: priced as its nearest kind (PriceCard).

    Where a vendor bills by something else than tokens, the price stands on the bucket in which that is metered:
    characters of a text to be spoken as fresh input, seconds of a recording as audio input, images as requests.
    """

    input: str | None = None
    output: str = "0"
    characters: str | None = None
    seconds: str | None = None
    image: str | None = None
    cache_read: str | None = None
    cache_write_5m: str | None = None
    cache_write_1h: str | None = None
    audio_in: str | None = None
    image_in: str | None = None
    reasoning: str | None = None
    audio_out: str | None = None
    image_out: str | None = None
    search: str | None = None
    long: "_LongRates | None" = None


class _LongRates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a whole request costs once its input is above so many tokens."""

    above: int
    input: str
    output: str
    cache_read: str | None = None
    cache_write_5m: str | None = None
    cache_write_1h: str | None = None


class _Offer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    provider: str
    model: str
    price: _Rates | None
    """None: the vendor has no one price for it, as when it routes on to others."""
    context: int | None = None
    output: int | None = None
    also: frozenset[Capability] = frozenset()
    """Capabilities beyond the model's, where vendors differ."""


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kind: Kind
    capabilities: frozenset[Capability]
    endpoints: tuple[_Offer, ...]
    context: int | None = None
    output: int | None = None
    released: str | None = None
    aliases: tuple[str, ...] = ()


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    owner: str
    as_of: str
    via: str | None
    """The published table the numbers were read from, where it was not the vendors' pages themselves."""
    sources: dict[str, str]
    """Provider → the vendor's page that states the facts."""
    models: dict[str, _Entry]
    unlisted: frozenset[str] = frozenset()
    """Providers that the table of `via` does not have: what is said of them is from their own pages."""

    def source(self, provider: str) -> str:
        """Where the facts of a provider's offers are from."""
        page = self.sources[provider]
        return page if self.via is None or provider in self.unlisted else f"{page} (via {self.via})"


@cache
def load_catalogue() -> Mapping[str, CatalogueModel]:
    """Every bundled model by name; aliases are fields of their model. Read once per process.

    Raises ValueError when the data contradict themselves: a broken package, not a broken configuration.
    """
    models: dict[str, CatalogueModel] = {}
    decoder = msgspec.json.Decoder(_File)
    for text in _texts():
        file = decoder.decode(text)
        for name, entry in file.models.items():
            if name in models:
                raise ValueError(f"model {name!r} stands in two catalogue files")
            models[name] = _model(name, entry, file)
    return MappingProxyType(models)


def _texts() -> Iterator[bytes]:
    for path in sorted(resources.files(__name__).iterdir(), key=lambda path: path.name):
        if path.name.endswith(".json"):
            yield path.read_bytes()


def _model(name: str, entry: _Entry, file: _File) -> CatalogueModel:
    return CatalogueModel(
        name=name,
        kind=entry.kind,
        owner=file.owner,
        endpoints=tuple(
            CatalogueEndpoint(
                provider=offer.provider,
                model=offer.model,
                price=None if offer.price is None else _card(offer.price),
                context_tokens=offer.context if offer.context is not None else entry.context,
                output_tokens_max=offer.output if offer.output is not None else entry.output,
                also_can=offer.also,
                source=file.source(offer.provider),
            )
            for offer in entry.endpoints
        ),
        capabilities=entry.capabilities,
        context_tokens=entry.context,
        output_tokens_max=entry.output,
        released=entry.released,
        aliases=entry.aliases,
        as_of=file.as_of,
    )


def _card(rates: _Rates) -> PriceCard:
    """Raises ValueError where nothing says what input costs."""
    long = rates.long
    stated = [rates.input, rates.characters, rates.seconds, rates.image]
    if sum(price is not None for price in stated) != 1:
        raise ValueError("a price is by the token, the character, the second or the image")
    into = rates.input if rates.input is not None else rates.characters
    return PriceCard(
        input_pico=0 if into is None else parse_price_per_million(into),
        output_pico=parse_price_per_million(rates.output),
        cache_read_pico=_pico(rates.cache_read),
        cache_write_5m_pico=_pico(rates.cache_write_5m),
        cache_write_1h_pico=_pico(rates.cache_write_1h),
        audio_in_pico=_pico(rates.audio_in) if rates.seconds is None else _pico(rates.seconds),
        image_in_pico=_pico(rates.image_in),
        reasoning_pico=_pico(rates.reasoning),
        audio_out_pico=_pico(rates.audio_out),
        image_out_pico=_pico(rates.image_out),
        request_nano=0 if rates.image is None else parse_usd(rates.image),
        search_nano=0 if rates.search is None else parse_usd(rates.search),
        long_above_tokens=None if long is None else long.above,
        long_input_pico=None if long is None else _pico(long.input),
        long_output_pico=None if long is None else _pico(long.output),
        long_cache_read_pico=None if long is None else _pico(long.cache_read),
        long_cache_write_5m_pico=None if long is None else _pico(long.cache_write_5m),
        long_cache_write_1h_pico=None if long is None else _pico(long.cache_write_1h),
    )


def _pico(text: str | None) -> int | None:
    return None if text is None else parse_price_per_million(text)
