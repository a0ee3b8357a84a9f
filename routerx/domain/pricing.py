"""Price cards and the one function that turns usage into money."""

import re
from collections.abc import Sequence

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
    tiers: "tuple[Tier, ...] | None" = None
    """Other service tiers. None nearly always: then nobody asks by which tier a request was served."""

    @property
    def is_free(self) -> bool:
        """True when no unit of this card, and of its tiers, costs anything."""
        if self.input_pico or self.output_pico or self.request_nano:
            return False  # Nearly always, and on the hot path.
        own = msgspec.structs.replace(self, long_above_tokens=None, tiers=None)
        return not any(msgspec.structs.astuple(own)) and all(tier.card.is_free for tier in self.tiers or ())

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

    def of_tier(self, name: str | None) -> "PriceCard | None":
        """The card of a tier that has one of its own."""
        for tier in self.tiers or ():
            if tier.name == name:
                return tier.card
        return None


class Tier(msgspec.Struct, frozen=True, gc=False):
    """A service tier that has prices of its own."""

    name: str
    """As providers report it, in lower case."""
    card: PriceCard
    """Whole: what the tier does not state is as in the plain card. Without tiers."""


_LONG = tuple(field for field in PriceCard.__struct_fields__ if field.startswith("long_"))


class PriceSnapshot(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The terms of one request, stored with it: enough, with the usage, to recompute its cost (MONEY.md I9)."""

    card: PriceCard
    """As it is stored, the card of the tier that served, without tiers."""
    markup_bp: int = 0
    """Basis points on the list price. Below 0 with the caller's own key: -9900 leaves a fee of 1% of it."""
    tier: str | None = None
    """The service tier that served, where it was another than the plain one."""

    @property
    def bills_output(self) -> bool:
        """Whether output tokens cost anything by the plain card."""
        return self.card.output_pico > 0 and self.markup_bp > -BP


def fee_terms(card: PriceCard, fee_bp: int) -> PriceSnapshot:
    """The terms of a request made with the caller's own key: all it owes is `fee_bp` basis points of the list price."""
    return PriceSnapshot(card, fee_bp - BP)


# --- service tiers -----------------------------------------------------------------------------------------------

PLAIN_TIERS = frozenset({"default", "standard", "standard_only", "on_demand"})
"""What the plain card is called on the wires of several vendors."""
ANY_TIER = "auto"
"""Asked for or reported, it says nothing: the vendor's own settings decide."""
_TIER_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")


def tier_name(value: object) -> str | None:
    """A service tier as a wire names it, in lower case; None where nothing, `auto` or no name stands there."""
    if type(value) is not str or len(value) > 32:  # Of a provider or of a caller, and to be stored.
        return None
    name = value.lower()
    return name if name != ANY_TIER and _TIER_NAME.fullmatch(name) else None


def served(terms: PriceSnapshot, reported: str | None, asked: str | None) -> PriceSnapshot:
    """The terms that a request is charged by: of the tier that the answer reports; where it reports none, of the one
    that was asked for, if that has a price. A tier without a price is charged by the plain card, and named.

    Both tiers are as tier_name() gives them.
    """
    card = terms.card
    if card.tiers is None:
        return terms if reported is None or reported in PLAIN_TIERS else msgspec.structs.replace(terms, tier=reported)
    name = asked if reported is None else reported
    own = card.of_tier(name)
    if own is not None:
        return msgspec.structs.replace(terms, card=own, tier=name)
    plain = msgspec.structs.replace(card, tiers=None)
    unpriced = None if reported in PLAIN_TIERS else reported
    return msgspec.structs.replace(terms, card=plain, tier=unpriced)


def rerated(stored: PriceSnapshot, card: PriceCard) -> PriceSnapshot:
    """The terms of a finished request, had `card` been the endpoint's price: in the tier that served it."""
    return served(msgspec.structs.replace(stored, card=card, tier=None), stored.tier, None)


def is_unpriced(offered: PriceCard, terms: PriceSnapshot) -> bool:
    """Whether the terms that served() made of `offered` name a tier for which that has no price."""
    return terms.tier is not None and offered.of_tier(terms.tier) is None


def possible(card: PriceCard, asked: str | None) -> Sequence[PriceCard]:
    """The cards that a request which asks for this tier may end up with.

    A named tier may be served as the plain one: vendors fall back to it. One who names none, or one that has no price,
    may get any: `auto` is what a project's settings at the vendor say, of which nothing is known here.
    """
    if card.tiers is None or asked in PLAIN_TIERS:
        return (card,)
    own = card.of_tier(asked)
    return (card, own) if own is not None else (card, *[tier.card for tier in card.tiers])


def _possible_at(card: PriceCard, asked: str | None, input_tokens: int) -> Sequence[PriceCard]:
    """The same for a prompt of at most so many tokens: it may stay below the threshold of the long prices, too."""
    if card.tiers is None and card.long_above_tokens is None:
        return (card,)
    cards: list[PriceCard] = []
    for one in possible(card, asked):
        cards.append(one)
        if (long := one.at(input_tokens)) is not one:
            cards.append(long)
    return cards


# --- usage to money ----------------------------------------------------------------------------------------------


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


# --- before anything was used --------------------------------------------------------------------------------------


def ceiling_nano(terms: PriceSnapshot, input_tokens: int, output_tokens: int, asked: str | None = None) -> int:
    """The most that so many tokens can cost, in nano-USD, by any card that a request for the tier `asked` may end up
    with. Text is taken at its dearest, because whether a prompt is written to a cache, or an answer thought about, is
    not known before. Web searches are not in it: nobody knows how many a provider will make."""
    card = terms.card
    if card.tiers is None and card.long_above_tokens is None:
        pico = _ceiling_pico(card, input_tokens, output_tokens)
    else:
        cards = _possible_at(card, asked, input_tokens)
        pico = max(_ceiling_pico(one, input_tokens, output_tokens) for one in cards)
    return with_markup(pico, terms.markup_bp)


def _ceiling_pico(card: PriceCard, input_tokens: int, output_tokens: int) -> int:
    into, out = card.input_pico, card.output_pico
    if card.cache_write_5m_pico is not None and card.cache_write_5m_pico > into:
        into = card.cache_write_5m_pico
    if card.cache_write_1h_pico is not None and card.cache_write_1h_pico > into:
        into = card.cache_write_1h_pico
    if card.cache_read_pico is not None and card.cache_read_pico > into:
        into = card.cache_read_pico
    if card.reasoning_pico is not None and card.reasoning_pico > out:
        out = card.reasoning_pico
    return input_tokens * into + output_tokens * out + card.request_nano * PICO_PER_NANO


def output_nano(terms: PriceSnapshot, input_tokens: int, output_tokens: int, asked: str | None = None) -> int:
    """The most that so many tokens of output cost after a prompt of `input_tokens`, in nano-USD, rounded down."""
    dearest = max(card.output_pico for card in _possible_at(terms.card, asked, input_tokens))
    return output_tokens * dearest * (BP + terms.markup_bp) // (PICO_PER_NANO * BP)


def output_tokens_within(terms: PriceSnapshot, nano: int, input_tokens: int, asked: str | None = None) -> int | None:
    """Output tokens that `nano` pays for after the prompt, by whichever card allows the fewest; below 0 where it does
    not pay for the prompt. None: output costs nothing."""
    fewest: int | None = None
    for card in _possible_at(terms.card, asked, input_tokens):
        if card.output_pico == 0 or terms.markup_bp <= -BP:
            continue
        prompt = msgspec.structs.replace(terms, card=card)
        left = nano - cost_nano(Usage(in_fresh=input_tokens), prompt)
        tokens = left * PICO_PER_NANO * BP // (card.output_pico * (BP + terms.markup_bp))
        if fewest is None or tokens < fewest:
            fewest = tokens
    return fewest
