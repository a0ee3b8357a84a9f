"""What each request is, what the provider does with it and what it must cost: functions of a seed and a number.

Driver, provider and checker each work it out for themselves. Nothing here is taken from the gateway, prices and
rounding included. The prompt tokens that the provider reports for a request are its number, so that a row which no
caller saw can still be told apart.
"""

import hashlib
import math
import random
from enum import StrEnum
from fractions import Fraction
from typing import NamedTuple

CHAT, EMBEDDING, PRICED_PER_REQUEST, ENDLESS = "chat-model", "embedding-model", "request-model", "endless-model"

MARKUP_BP = {"north": 0, "south": 1000, "west": 1234}
"""The tenants of the load, with the markup of their plans in basis points; others have none."""

OWN, OWN_FEE_BP = "own", 537
"""A tenant with provider keys of its own, and what its plan asks for them, in basis points of the list price."""

# Pico-USD per token, nano-USD per request. Odd digits, so that nothing comes out round.
CHAT_INPUT, CHAT_CACHED, CHAT_OUTPUT, CHAT_REASONING = 200_007, 50_003, 4_000_009, 4_100_001
EMBEDDING_INPUT = 20_001
CHAT_REQUEST_NANO = 7_000
REQUEST_NANO = 1_000_000_000

OUTPUT_MAX = 60

SPARE_FACTOR = 3
"""The spare provider of the chat model costs so many times as much by token, and the same by request."""

FAULTS = 0.08
"""Share of embeddings whose first call the provider fails: the gateway tries again."""

FALLBACKS = 0.04
"""Share of chats that only the spare provider answers: the gateway falls back to it, and charges its price."""


FAILED_ONCE = ("upstream_error", "upstream_disconnected")
"""How a request ends that the provider fails and that is not asked again: of a quiet endpoint only a few calls are."""


class Kind(StrEnum):
    BUFFERED = "buffered"
    STREAMED = "streamed"
    EMBEDDED = "embedded"


class Leaving(StrEnum):
    """When the caller hangs up."""

    NEVER = "never"
    EARLY = "early"
    """Some milliseconds after it has sent the request, whatever has come by then."""
    MIDWAY = "midway"
    """After the first content of a stream."""


class Script(NamedTuple):
    """One request, decided beforehand."""

    number: int
    kind: Kind
    wants_usage: bool
    caps_output: bool
    """Sets `max_tokens`, so that little more is held than it costs."""
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    head_s: float
    """Until the provider answers."""
    frames: int
    """Content frames of a stream."""
    gap_s: float
    """Between them."""
    fails_first: bool
    falls_back: bool

    @property
    def echo(self) -> str:
        """The id that every answer to this request carries, and no other."""
        return f"answer-{self.number}"


def script(seed: int, number: int, model: str | None = None) -> Script:
    """The script of request `number`, from 1. `model`: one beside the load's, which has no embeddings."""
    rng = random.Random(hashlib.blake2b(f"{seed}:{number}".encode()).digest())
    completion = rng.randint(1, OUTPUT_MAX)
    kind = rng.choices([Kind.BUFFERED, Kind.STREAMED, Kind.EMBEDDED], [45, 45, 10])[0]
    if model == ENDLESS:
        kind = Kind.STREAMED
    elif model is not None and kind is Kind.EMBEDDED:
        kind = Kind.BUFFERED
    return Script(
        number=number,
        kind=kind,
        wants_usage=rng.random() < 0.5,
        caps_output=rng.random() < 0.5,
        cached_tokens=rng.randint(0, number) if rng.random() < 0.3 else 0,
        completion_tokens=completion,
        reasoning_tokens=rng.randint(0, completion) if rng.random() < 0.3 else 0,
        head_s=rng.uniform(0, 0.015),
        frames=rng.randint(3, 10),
        gap_s=rng.uniform(0, 0.006),
        fails_first=rng.random() < FAULTS and kind is Kind.EMBEDDED,
        falls_back=rng.random() < FALLBACKS and kind is not Kind.EMBEDDED and model is None,
    )


def leaving(seed: int, number: int, share: float) -> tuple[Leaving, float]:
    """When the caller of request `number` leaves, and after how many seconds; `share` of all do."""
    rng = random.Random(hashlib.blake2b(f"{seed}:{number}:leaving".encode()).digest())
    if rng.random() >= share:
        return Leaving.NEVER, 0.0
    midway = script(seed, number).kind is Kind.STREAMED and rng.random() < 0.6
    return (Leaving.MIDWAY if midway else Leaving.EARLY), rng.uniform(0, 0.03)


def cost_nano(seed: int, number: int, tenant: str) -> int:
    """What request `number` costs this tenant: exact, and rounded up once."""
    asked = script(seed, number)
    if asked.kind is Kind.EMBEDDED:
        pico = number * EMBEDDING_INPUT
    else:
        text = asked.completion_tokens - asked.reasoning_tokens
        pico = (number - asked.cached_tokens) * CHAT_INPUT + asked.cached_tokens * CHAT_CACHED
        pico += text * CHAT_OUTPUT + asked.reasoning_tokens * CHAT_REASONING
        pico = pico * (SPARE_FACTOR if asked.falls_back else 1) + CHAT_REQUEST_NANO * 1000
    share_bp = OWN_FEE_BP if tenant == OWN else 10_000 + MARKUP_BP.get(tenant, 0)
    return math.ceil(Fraction(pico, 1000) * Fraction(share_bp, 10_000))
