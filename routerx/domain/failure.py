"""What can go wrong upstream, as a table (FAULTS.md sections 1 and 2).

A Failure is a value: dialects and transports make it, the attempt loop decides by its rule, the breaker counts by its
effect, the ledger writes its outcome. Nobody compares message text.
"""

from enum import Enum, StrEnum

import msgspec

from routerx.errors import UpstreamRefused


class Effect(Enum):
    """What a failure does to the breaker cell or to the credential."""

    NONE = "none"
    COUNT = "count"
    COUNT_HALF = "count_half"
    COOL = "cool"
    """The credential rests until a time; the breaker is untouched."""
    QUARANTINE = "quarantine"
    """The credential is out; one call at an interval asks whether the vendor takes it again."""


class Next(Enum):
    """What the attempt loop may do, as long as nothing has reached the client."""

    RETRY = "retry"
    """The same endpoint again after a backoff, then others."""
    OTHER = "other"
    """Another credential of the provider or another endpoint, at once."""
    STOP = "stop"


class FailureKind(StrEnum):
    """The value is the row's outcome in the ledger."""

    CONNECT_ERROR = "upstream_connect_error"
    CONNECT_TIMEOUT = "upstream_connect_timeout"
    DNS_ERROR = "upstream_dns_error"
    TLS_ERROR = "upstream_tls_error"
    FIRST_BYTE_TIMEOUT = "upstream_first_byte_timeout"
    TOTAL_TIMEOUT = "upstream_too_slow"
    STALLED = "upstream_stalled"
    RESET_BEFORE_OUTPUT = "upstream_reset_before_output"
    RESET_MIDSTREAM = "upstream_reset_midstream"
    TRUNCATED = "upstream_truncated"
    PROTOCOL_ERROR = "upstream_protocol_error"
    TOO_LARGE = "upstream_response_too_large"
    REDIRECT = "upstream_redirect"
    BAD_CONTENT_TYPE = "upstream_bad_content_type"
    EMPTY = "upstream_empty"
    INVALID_CHUNK = "upstream_invalid_chunk"
    EVENT_TOO_LARGE = "upstream_event_too_large"
    ERROR_IN_200 = "upstream_200_error"
    ERROR_MIDSTREAM = "upstream_error_midstream"
    SERVER_ERROR = "upstream_5xx"
    OVERLOADED = "upstream_overloaded"
    RATE_LIMITED = "upstream_429"
    EXHAUSTED = "provider_exhausted"
    AUTH_FAILED = "upstream_auth_failed"
    REJECTED = "upstream_4xx"
    CONTENT_REJECTED = "upstream_content_rejected"
    CONTEXT_EXCEEDED = "upstream_context_exceeded"
    BLOCKED_ADDRESS = "blocked_address"
    BYOK_REJECTED = "byok_rejected"
    """The caller's own key is refused by its provider."""
    CLIENT_DEADLINE = "client_deadline"
    """The deadline that the caller itself set has passed."""
    UNREADABLE = "upstream_unreadable"
    """The answer made a reader of ours fail."""
    BALANCE_EXHAUSTED = "balance_exhausted"
    """The tenant's money has ended while a stream was growing."""
    DIVERGED = "rescue_diverged"
    """A stream that was to go on with another's text says something else."""


class FailureRule(msgspec.Struct, frozen=True):
    """One row: client status (None: the upstream's own), client code, breaker effect, what next."""

    status: int | None
    code: str
    effect: Effect
    next: Next


_F, _OTHER, _RETRY, _STOP = Effect.COUNT, Next.OTHER, Next.RETRY, Next.STOP

RULES: dict[FailureKind, FailureRule] = {
    FailureKind.CONNECT_ERROR: FailureRule(502, "upstream_unreachable", _F, _RETRY),
    FailureKind.CONNECT_TIMEOUT: FailureRule(504, "upstream_connect_timeout", _F, _OTHER),
    FailureKind.DNS_ERROR: FailureRule(502, "upstream_dns_error", _F, _OTHER),
    FailureKind.TLS_ERROR: FailureRule(502, "upstream_tls_error", _F, _OTHER),
    FailureKind.FIRST_BYTE_TIMEOUT: FailureRule(504, "upstream_timeout", _F, _OTHER),
    FailureKind.TOTAL_TIMEOUT: FailureRule(504, "upstream_too_slow", _F, _OTHER),
    FailureKind.STALLED: FailureRule(504, "upstream_stalled", _F, _OTHER),
    FailureKind.RESET_BEFORE_OUTPUT: FailureRule(502, "upstream_disconnected", _F, _RETRY),
    FailureKind.RESET_MIDSTREAM: FailureRule(502, "upstream_disconnected", _F, _RETRY),
    FailureKind.TRUNCATED: FailureRule(502, "upstream_truncated", _F, _RETRY),
    FailureKind.PROTOCOL_ERROR: FailureRule(502, "upstream_protocol_error", _F, _OTHER),
    FailureKind.TOO_LARGE: FailureRule(502, "upstream_response_too_large", _F, _OTHER),
    FailureKind.REDIRECT: FailureRule(502, "upstream_redirect", _F, _OTHER),
    FailureKind.BAD_CONTENT_TYPE: FailureRule(502, "upstream_bad_content_type", _F, _OTHER),
    FailureKind.EMPTY: FailureRule(502, "upstream_empty_response", _F, _RETRY),
    FailureKind.INVALID_CHUNK: FailureRule(502, "upstream_invalid_chunk", _F, _RETRY),
    FailureKind.EVENT_TOO_LARGE: FailureRule(502, "upstream_event_too_large", _F, _OTHER),
    FailureKind.ERROR_IN_200: FailureRule(502, "upstream_error", _F, _RETRY),
    FailureKind.ERROR_MIDSTREAM: FailureRule(502, "upstream_error", _F, _RETRY),
    FailureKind.SERVER_ERROR: FailureRule(502, "upstream_error", _F, _RETRY),
    FailureKind.OVERLOADED: FailureRule(503, "upstream_overloaded", Effect.COUNT_HALF, _RETRY),
    FailureKind.RATE_LIMITED: FailureRule(429, "upstream_rate_limited", Effect.COOL, _RETRY),
    FailureKind.EXHAUSTED: FailureRule(503, "provider_account_exhausted", Effect.QUARANTINE, _OTHER),
    FailureKind.AUTH_FAILED: FailureRule(502, "upstream_auth_failed", Effect.QUARANTINE, _OTHER),
    FailureKind.REJECTED: FailureRule(None, "upstream_rejected", Effect.NONE, _STOP),
    FailureKind.CONTENT_REJECTED: FailureRule(None, "content_rejected", Effect.NONE, _STOP),
    FailureKind.CONTEXT_EXCEEDED: FailureRule(400, "context_length_exceeded", Effect.NONE, _STOP),
    FailureKind.BLOCKED_ADDRESS: FailureRule(502, "upstream_blocked_address", Effect.NONE, _OTHER),
    FailureKind.BYOK_REJECTED: FailureRule(403, "byok_key_rejected", Effect.NONE, _STOP),
    FailureKind.CLIENT_DEADLINE: FailureRule(504, "client_deadline_exceeded", Effect.NONE, _STOP),
    FailureKind.UNREADABLE: FailureRule(502, "upstream_protocol_error", _F, _OTHER),
    FailureKind.BALANCE_EXHAUSTED: FailureRule(402, "balance_exhausted", Effect.NONE, _STOP),
    FailureKind.DIVERGED: FailureRule(502, "upstream_disconnected", Effect.NONE, _OTHER),
}


class Failure(msgspec.Struct, frozen=True):
    """One upstream failure. `message` is safe to show: no key, no URL with a query, no other tenant's data."""

    kind: FailureKind
    message: str
    upstream_status: int | None = None
    upstream_code: str | None = None
    param: str | None = None
    retry_after_s: float | None = None

    @property
    def rule(self) -> FailureRule:
        return RULES[self.kind]


class UpstreamFault(Exception):
    """A Failure on its way up from a transport."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def as_client_error(failure: Failure) -> UpstreamRefused:
    """The error a caller gets when this failure decided."""
    rule = failure.rule
    if rule.status is not None:
        status = rule.status
    else:
        status = failure.upstream_status if failure.upstream_status is not None else 400
    return UpstreamRefused(
        failure.message,
        status=status,
        code=rule.code,
        retryable=rule.next is not Next.STOP,
        param=failure.param,
        retry_after_s=failure.retry_after_s,
        details={"upstream_status": failure.upstream_status, "upstream_code": failure.upstream_code},
    )
