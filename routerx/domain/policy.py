"""Routing policies as values: how candidates are ordered, retried and guarded."""

from enum import StrEnum

import msgspec


class Sort(StrEnum):
    """Order of candidates of equal priority. docs/routing.md says how each is computed."""

    LATENCY = "latency"
    PRICE = "price"
    THROUGHPUT = "throughput"
    BALANCED = "balanced"
    """30 % price, 40 % latency, 30 % uptime."""
    COST_OPTIMIZED = "cost-optimized"
    PERFORMANCE_FIRST = "performance-first"
    PRIORITY = "priority"
    """As declared."""
    WEIGHTED = "weighted"
    ROUND_ROBIN = "round-robin"

    __hash__ = str.__hash__


class CommitMode(StrEnum):
    """How much of a stream is seen before the caller gets any of it. What fails before falls over unnoticed."""

    FIRST_TOKEN = "first_token"  # noqa: S105
    PROBE = "probe"
    """The first stretch of it (StreamPolicy)."""
    FULL = "full"
    """All of it: the caller waits as for a buffered answer."""


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


class TimeoutOverrides(msgspec.Struct, frozen=True):
    """Deadlines that an endpoint or a policy sets in place of its provider's; None leaves the provider's."""

    connect_s: float | None = None
    first_token_s: float | None = None
    idle_s: float | None = None
    total_s: float | None = None

    def over(self, base: Timeouts) -> Timeouts:
        """`base` with what is set here."""
        return Timeouts(
            connect_s=base.connect_s if self.connect_s is None else self.connect_s,
            first_token_s=base.first_token_s if self.first_token_s is None else self.first_token_s,
            idle_s=base.idle_s if self.idle_s is None else self.idle_s,
            total_s=base.total_s if self.total_s is None else self.total_s,
        )


class StreamPolicy(msgspec.Struct, frozen=True):
    """When a stream is committed, and whether one that breaks is gone on with by another endpoint."""

    commit: CommitMode = CommitMode.FIRST_TOKEN
    probe_s: float = 1.0
    """PROBE: what comes within this time after the first content is waited for …"""
    probe_bytes: int = 2_048
    """… up to so many bytes."""
    rescue: bool = True


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
    timeouts: TimeoutOverrides = TimeoutOverrides()
    """In place of those of endpoints and providers."""
    stream: StreamPolicy = StreamPolicy()
    by_capability: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """`text` or a Capability's value, and the models for requests that need it, the primary first. Asked for by the
    policy's own name, and used in place of a model that lacks the capability."""
    resend_rejected: bool = False
    """Whether what one provider rejected for its content may be sent to another."""
    hedge_after_s: float | None = None
    """A stream without a first token for so long is asked of the next candidate as well; None: never."""
    affinity_s: float | None = None
    """How long a conversation stays with the endpoint that answered it last, for its cache; None: not at all."""
