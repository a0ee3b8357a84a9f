"""Models and the endpoints that serve them."""

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from routerx.domain.policy import TimeoutOverrides
from routerx.domain.pricing import PriceCard


class Kind(StrEnum):
    """What a model does; decides which route may ask for it."""

    CHAT = "chat"
    EMBEDDING = "embedding"
    COMPLETION = "completion"
    IMAGE = "image"
    SPEECH = "speech"
    TRANSCRIPTION = "transcription"
    MODERATION = "moderation"
    RERANK = "rerank"


class Capability(StrEnum):
    """What a request may need of an endpoint. A filter at planning, never a clamp."""

    TOOLS = "tools"
    VISION = "vision"
    AUDIO = "audio"
    JSON_SCHEMA = "json_schema"
    REASONING = "reasoning"
    ADAPTIVE_REASONING = "adaptive_reasoning"
    """Decides by itself how much to think: takes an effort, and no budget of tokens. Not a filter."""
    FIXED_SAMPLING = "fixed_sampling"
    """Takes no temperature, top_p or top_k. A restriction, not a filter."""
    ALWAYS_REASONS = "always_reasons"
    """Thinking cannot be switched off. A restriction, not a filter."""
    PREFILL = "prefill"
    """Goes on from an assistant message that stands last. Not a filter: see dialects.base.Aim."""


class Origin(msgspec.Struct, frozen=True):
    """Who says what an endpoint costs."""

    source: str
    """A page's address, or `configuration`."""
    as_of: str | None = None
    """ISO date on which it was read."""


class DatedPrice(msgspec.Struct, frozen=True):
    """A price card and from when on it counts."""

    card: PriceCard
    from_ns: int | None = None
    """Nanoseconds since the epoch; None: always has."""
    origin: Origin | None = None


def in_force(prices: Sequence[DatedPrice], at_ns: int) -> DatedPrice:
    """The one of `prices`, which are sorted by date and not none, that counts at `at_ns`: the last that has begun. The
    first counts before its own date, too, so that no moment is without a price."""
    return next((one for one in reversed(prices) if one.from_ns is None or one.from_ns <= at_ns), prices[0])


def following_price(prices: Sequence[DatedPrice], at_ns: int) -> DatedPrice | None:
    """The one that takes its place; None: no change is known of."""
    return next((one for one in prices[1:] if one.from_ns is not None and one.from_ns > at_ns), None)


EVERYTHING: frozenset[Capability] = frozenset(Capability) - {Capability.FIXED_SAMPLING, Capability.ALWAYS_REASONS}
"""What an endpoint is taken to be able to do of which nobody said anything: all, and without restrictions."""


class Endpoint(msgspec.Struct, frozen=True):
    """One provider serving one model. `key` is stable over reloads: breaker cells and stats hang on it."""

    key: str
    """`provider/upstream_model`."""
    provider: str
    model: str
    """The catalogue name it serves."""
    upstream_model: str
    """The name the provider knows."""
    price: PriceCard | None
    capabilities: frozenset[Capability]
    context_tokens: int | None = None
    output_tokens_max: int | None = None
    weight: int = 1
    priority: int = 0
    """Lower is tried first, before any other order."""
    price_origin: Origin | None = None
    """None: there is no price, or nobody had to say that it is free."""
    prices: tuple[DatedPrice, ...] = ()
    """Where the price changes with time: all of them, sorted; `price` is the one in force since the snapshot was made
    or a price of it last changed. Empty: `price` is all there is."""
    next_price: DatedPrice | None = None
    """Of `prices`, the one that takes the place of `price`."""
    timeouts: TimeoutOverrides = TimeoutOverrides()
    """In place of its provider's."""
    quantization: str | None = None
    """`fp8`, `int4` …; None: nobody said."""
    distillable: bool = False
    """Whether its owner allows training on its text."""

    @property
    def continues(self) -> bool:
        """Whether somebody says that it goes on with a given beginning. Where nothing is known, nobody does."""
        return Capability.PREFILL in self.capabilities and not self.capabilities >= EVERYTHING


class Model(msgspec.Struct, frozen=True):
    """A name that callers may ask for."""

    name: str
    kind: Kind
    endpoints: tuple[Endpoint, ...]
    created: int = 0
    """Release date, seconds since the epoch (the OpenAI field)."""
    owner: str = ""
    any_kind: bool = False
    """Nobody said what it does, so every route may ask for it; `kind` is what lists show."""

    def does(self, kind: Kind) -> bool:
        """Whether a route of `kind` may ask for it. Many chat models complete plain text, too (local servers all do):
        the provider says whether this one does."""
        return self.any_kind or self.kind is kind or (kind is Kind.COMPLETION and self.kind is Kind.CHAT)
