"""What is written of a finished request: the billing row, its attempts, and the log detail beside it."""

from enum import StrEnum

import msgspec

from routerx.domain.pricing import PriceSnapshot
from routerx.domain.usage import Usage, UsageSource


class BillingMode(StrEnum):
    """How a request is billed. `byok`: with the caller's own key, so at most a fee is owed; `cached`: answered from the
    response cache; `off`: the plan meters without charging; `void`: it failed, nothing is owed."""

    PAID = "paid"
    BYOK = "byok"
    FREE = "free"
    CACHED = "cached"
    OFF = "off"
    VOID = "void"

    @property
    def owes(self) -> bool:
        """Whether the cost of such a request is held and charged."""
        return self is BillingMode.PAID or self is BillingMode.BYOK


class Outcome:
    """Outcomes that are neither an upstream failure (a FailureKind) nor a refusal (RouterXError.outcome)."""

    OK = "ok"
    CLIENT_GONE_PREDISPATCH = "client_gone_predispatch"
    CLIENT_GONE_NO_OUTPUT = "client_gone_no_output"
    CLIENT_GONE_MIDSTREAM = "client_gone_midstream"
    CLIENT_GONE_NONSTREAM = "client_gone_nonstream"
    CLIENT_SLOW = "client_slow"
    SHUTTING_DOWN = "shutting_down"
    INTERNAL = "internal_error"


class AttemptRecord(msgspec.Struct, frozen=True):
    """One attempt at one endpoint."""

    n: int
    """1-based."""
    endpoint: str
    provider: str
    credential_id: str
    outcome: str
    upstream_status: int | None
    dispatched: bool
    """Bytes of the call may have reached the provider."""
    started_ms: int
    """Since the request's start."""
    first_byte_ms: int | None
    duration_ms: int
    """Until it failed or its first content was here."""
    won: bool
    cost_est_nano: int = 0
    """What the provider may bill the house for it, at list price."""


class RequestRecord(msgspec.Struct, frozen=True):
    """A finished request, complete enough to prove its charge and to explain it. Never holds prompt or answer."""

    id: str
    tenant: str
    key_id: str
    operation: str
    model: str
    """As the caller asked."""
    endpoint: str | None
    """Key of the endpoint that answered."""
    provider: str | None
    stream: bool
    outcome: str
    http_status: int
    billing: BillingMode
    usage: Usage | None
    usage_source: UsageSource
    price: PriceSnapshot | None
    cost_nano: int
    """usage × price, markup included; what the tenant owes."""
    held_nano: int
    provider_cost_nano: int
    """List price without markup: what the house pays, an estimate."""
    started_ns: int
    """Wall clock."""
    duration_ms: int
    ttft_ms: int | None
    overhead_us: int
    """Time spent in this gateway, not waiting for upstream, before the first byte left."""
    attempts: tuple[AttemptRecord, ...] = ()
    served_model: str | None = None
    user: str | None = None
    app: str | None = None
    flags: tuple[str, ...] = ()
    """`overrun`, `missing_done`, `coerced`, `anomaly`, `cancelled`, `unpriced`, `rescued`, `byok` …"""
