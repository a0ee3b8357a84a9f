"""Routing policies as values: how candidates are ordered, retried and guarded."""

from enum import StrEnum

import msgspec


class Sort(StrEnum):
    """Order of candidates."""

    LATENCY = "latency"
    PRICE = "price"


class Translation(StrEnum):
    """What becomes of a wish that a provider's wire format cannot express."""

    REPORT = "report"
    """It is left out and named in X-RouterX-Dropped."""
    STRICT = "strict"
    """The request is refused."""


class RetryPolicy(msgspec.Struct, frozen=True):
    """Retries of the same endpoint; the whole chain is capped by attempts_max."""

    retries_max: int = 2
    backoff_min_s: float = 0.3
    backoff_max_s: float = 5.0
    attempts_max: int = 3


class BreakerPolicy(msgspec.Struct, frozen=True):
    """When a circuit opens and for how long: cooldown_s × n, n the consecutive openings, up to cooldown_max_s."""

    window_s: float = 60.0
    error_rate: float = 0.5
    requests_min: int = 10
    consecutive_max: int = 5
    cooldown_s: float = 30.0
    cooldown_max_s: float = 300.0


class Timeouts(msgspec.Struct, frozen=True):
    """Deadlines of one call, each its own number. first_token_s None: the defaults of the two fields below it."""

    connect_s: float = 5.0
    first_token_s: float | None = None
    idle_s: float = 300.0
    total_s: float = 600.0


FIRST_TOKEN_WITH_FALLBACK_S = 12.0
FIRST_TOKEN_STREAM_S = 60.0
FIRST_TOKEN_BUFFERED_S = 120.0


class Fence(msgspec.Struct, frozen=True):
    """Price fence for fallbacks: None is no fence."""

    max_cost_ratio: float | None = None
    never_paid: bool = False


class Policy(msgspec.Struct, frozen=True):
    """One named routing policy."""

    name: str
    sort: Sort = Sort.LATENCY
    on_failure: tuple[str, ...] = ()
    """Models tried, in order, after the endpoints of the asked model."""
    retry: RetryPolicy = RetryPolicy()
    breaker: BreakerPolicy = BreakerPolicy()
    fence: Fence = Fence()
    translation: Translation = Translation.REPORT
