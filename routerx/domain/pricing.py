"""Price cards and the one function that turns usage into money."""

import msgspec

from routerx.domain.usage import Usage
from routerx.money import PICO_PER_NANO, ceil_div

BP = 10_000  # Basis points in a whole.


class PriceCard(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What one endpoint charges: pico-USD per token, nano-USD per request and per web search.

    A bucket whose price is None is priced as its nearest kind: cache reads, cache writes, audio and image input as
    input; 1 h cache writes as 5 min ones; reasoning, audio and image output as output.

    Some vendors charge a whole request more once its input passes a threshold: where `long_above_tokens` is set and
    passed, the `long_` prices replace their plain namesakes (None: the plain one stays).
    """

    input_pico: int
    output_pico: int
    cache_read_pico: int | None = None
    cache_write_5m_pico: int | None = None
    cache_write_1h_pico: int | None = None
    audio_in_pico: int | None = None
    image_in_pico: int | None = None
    reasoning_pico: int | None = None
    audio_out_pico: int | None = None
    image_out_pico: int | None = None
    request_nano: int = 0
    search_nano: int = 0
    long_above_tokens: int | None = None
    long_input_pico: int | None = None
    long_output_pico: int | None = None
    long_cache_read_pico: int | None = None
    long_cache_write_5m_pico: int | None = None
    long_cache_write_1h_pico: int | None = None

    @property
    def is_free(self) -> bool:
        """True when no unit of this card costs anything."""
        if self.input_pico or self.output_pico or self.request_nano:
            return False  # Nearly always, and on the hot path.
        return not any(msgspec.structs.astuple(msgspec.structs.replace(self, long_above_tokens=None)))

    def at(self, input_tokens: int) -> "PriceCard":
        """The card that a request with so many input tokens is charged by."""
        if self.long_above_tokens is None or input_tokens <= self.long_above_tokens:
            return self
        changes = {
            field: price
            for field in self.__struct_fields__
            if field not in _LONG and (price := getattr(self, f"long_{field}", None)) is not None
        }
        return msgspec.structs.replace(self, **changes, **dict.fromkeys(_LONG))


_LONG = tuple(field for field in PriceCard.__struct_fields__ if field.startswith("long_"))


class PriceSnapshot(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The terms of one request, stored with it: enough, with the usage, to recompute its cost (MONEY.md I9)."""

    card: PriceCard
    markup_bp: int = 0
    """Basis points on the list price. Below 0 with the caller's own key: -9900 leaves a fee of 1% of it."""


def fee_terms(card: PriceCard, fee_bp: int) -> PriceSnapshot:
    """The terms of a request made with the caller's own key: all it owes is `fee_bp` basis points of the list price."""
    return PriceSnapshot(card, fee_bp - BP)


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def usage_pico(usage: Usage, card: PriceCard) -> int:
    """Exact list price of `usage` in pico-USD, before markup and rounding."""
    if card.long_above_tokens is not None:
        card = card.at(usage.input_tokens)
    into, out = card.input_pico, card.output_pico
    pico = usage.in_fresh * into + usage.out_text * out + usage.requests * card.request_nano * PICO_PER_NANO
    # On the hot path: most requests have none of these.
    if usage.in_cache_read:
        pico += usage.in_cache_read * _or(card.cache_read_pico, into)
    if usage.in_cache_write_5m or usage.in_cache_write_1h:
        write_5m = _or(card.cache_write_5m_pico, into)
        pico += usage.in_cache_write_5m * write_5m + usage.in_cache_write_1h * _or(card.cache_write_1h_pico, write_5m)
    if usage.in_audio or usage.in_image:
        pico += usage.in_audio * _or(card.audio_in_pico, into) + usage.in_image * _or(card.image_in_pico, into)
    if usage.out_reasoning:
        pico += usage.out_reasoning * _or(card.reasoning_pico, out)
    if usage.out_audio or usage.out_image:
        pico += usage.out_audio * _or(card.audio_out_pico, out) + usage.out_image * _or(card.image_out_pico, out)
    if usage.searches:
        pico += usage.searches * card.search_nano * PICO_PER_NANO
    return pico


def with_markup(pico: int, markup_bp: int) -> int:
    """pico-USD at list price → nano-USD, rounded up once."""
    return ceil_div(pico * (BP + markup_bp), PICO_PER_NANO * BP)


def cost_nano(usage: Usage, terms: PriceSnapshot) -> int:
    """Cost in nano-USD: one rounding, upwards, on the total, so cost > 0 exactly when a priced unit was used."""
    return with_markup(usage_pico(usage, terms.card), terms.markup_bp)


def ceiling_nano(terms: PriceSnapshot, input_tokens: int, output_tokens: int) -> int:
    """The most that so many tokens can cost, in nano-USD: input at its dearest text price, because whether a prompt is
    written to a cache is not known before. Web searches are not in it: nobody knows how many a provider will make."""
    card = terms.card.at(input_tokens)
    dearest = card.input_pico
    if card.cache_write_5m_pico is not None and card.cache_write_5m_pico > dearest:
        dearest = card.cache_write_5m_pico
    if card.cache_write_1h_pico is not None and card.cache_write_1h_pico > dearest:
        dearest = card.cache_write_1h_pico
    pico = input_tokens * dearest + output_tokens * card.output_pico + card.request_nano * PICO_PER_NANO
    return with_markup(pico, terms.markup_bp)
