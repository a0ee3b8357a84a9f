"""What is told of a request that is not made: where it would go, in which order, why, and at which price.

For tenants and operators alike; what only operators may know is None or left out for tenants. Money appears twice, as
an exact decimal string and as an integer in nano-USD.
"""

import msgspec


class PriceTold(msgspec.Struct, frozen=True):
    """List prices, before the tenant's markup."""

    input_usd_per_million: str
    output_usd_per_million: str
    request_usd: str


class CircuitTold(msgspec.Struct, frozen=True):
    """One credential's way to an endpoint."""

    credential_id: str | None
    """Operators only."""
    circuit: str
    """closed | open | half_open"""
    credential: str
    """active | cooling | quarantined"""
    ready_in_s: float
    failures: float | None
    requests: int | None
    """`failures` of so many in the circuit's window, of all tenants. Operators only."""


class DeadlinesTold(msgspec.Struct, frozen=True):
    """Of a call to one candidate, in seconds."""

    connect_s: float
    first_token_s: float
    idle_s: float
    total_s: float


class CandidateTold(msgspec.Struct, frozen=True):
    """One endpoint that would be asked, in its place."""

    n: int
    """1 is asked first."""
    endpoint: str
    provider: str
    model: str
    fallback_model: bool
    """It serves another model than the one asked for."""
    own_key: bool
    """It is asked with a provider key of the tenant's own."""
    why: str
    """Why it stands here."""
    priority: int
    weight: int
    latency_s: float | None
    """To the first token of a stream, of the whole of a buffered answer; None: not known."""
    throughput: float | None
    """Output tokens a second."""
    uptime: float
    """Share of recent calls that did not fail by its fault."""
    price: PriceTold | None
    cost_most_usd: str | None
    """What this request would cost here at most, markup included; None: it has no price."""
    cost_most_nano: int | None
    deadlines: DeadlinesTold
    circuits: tuple[CircuitTold, ...]
    """Of credentials of the house that have been used; none of them counts for an own key."""
    place: str | None = None
    """File and line of its declaration. Operators only."""


class ExclusionTold(msgspec.Struct, frozen=True):
    """One endpoint that would not be asked."""

    endpoint: str
    rule: str
    says: str
    place: str | None = None
    """File and line of what excludes it. Operators only."""


class HoldTold(msgspec.Struct, frozen=True):
    """The money that would be set aside."""

    amount_usd: str
    amount_nano: int
    input_tokens_most: int
    output_tokens_most: int
    available_usd: str | None
    """What the tenant has for it; None: its plan charges nothing, or nobody knows here."""
    available_nano: int | None
    fits: bool


class LimitTold(msgspec.Struct, frozen=True):
    """One limit of the tenant's plan, or of the key."""

    limit: str
    """Its key: rpm, tpm, concurrency, daily_requests."""
    value: int
    left: int
    of: str = "tenant"
    """tenant | key"""


class RefusalTold(msgspec.Struct, frozen=True):
    """Why the request would be refused now."""

    status: int
    code: str
    message: str
    retry_after_s: float | None


class SettingsTold(msgspec.Struct, frozen=True):
    """What of the policy decides after the plan is made."""

    attempts_max: int
    retries_max: int
    backoff_min_s: float
    backoff_max_s: float
    breaker_error_rate: float
    breaker_requests_min: int
    breaker_consecutive_max: int
    breaker_window_s: float
    breaker_cooldown_s: float
    breaker_cooldown_max_s: float
    stream_commit: str
    stream_rescue: bool
    hedge_after_s: float | None
    affinity_s: float | None
    place: str | None = None
    """File and line of the policy. Operators only."""


class Explanation(msgspec.Struct, frozen=True):
    """One request, explained."""

    tenant: str
    route: str
    asked: str
    """The name in the request."""
    model: str | None
    """What it means."""
    policy: str
    sort: str | None
    """The order among candidates of equal priority, by the policy, the name's suffix or the caller."""
    stream: bool
    needs: tuple[str, ...]
    """Capabilities."""
    refused: RefusalTold | None
    candidates: tuple[CandidateTold, ...]
    excluded: tuple[ExclusionTold, ...]
    hold: HoldTold | None
    limits: tuple[LimitTold, ...]
    settings: SettingsTold
