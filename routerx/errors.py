"""The error tree: what a caller of RouterX can be told.

RouterXError
├── CallerError        the request cannot be served as it was sent (4xx)
├── UpstreamRefused    every target failed; carries the status and code of the failure that decided
├── GatewayError       this gateway cannot serve right now (5xx)
└── OperatorError      start-up, configuration and command-line trouble; never reaches a tenant

A class fixes status, code, type and whether resending can help. The messages name the thing, the limit and the
remedy; they never hold a secret, a path of this host or a traceback. Dialects turn an error into bytes.
"""

from collections.abc import Mapping
from typing import ClassVar


class RouterXError(Exception):
    """Base of all errors raised on purpose. `details` are extra public fields of the error body."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    type: ClassVar[str] = "server_error"
    retryable: ClassVar[bool] = False
    outcome: ClassVar[str] = "internal_error"
    """What the request's row says (FAULTS.md, column Row)."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        details: Mapping[str, str | int | bool | None] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = None if param is None else str(param)  # Names of headers are a kind of text of their own.
        self.retry_after_s = retry_after_s
        self.details: Mapping[str, str | int | bool | None] = details if details is not None else {}
        self.headers: tuple[tuple[str, str], ...] = ()
        """More response headers, such as the limits that a 429 is about."""
        self.excluded: tuple[tuple[str, str], ...] = ()
        """(endpoint, rule) of all that a plan left out, where it left out everything."""
        self.routing_metadata: bytes | None = None
        """How the request was routed, as JSON, for the body: where its caller wants to know."""


# --- the caller's side -------------------------------------------------------------------------------------------


class CallerError(RouterXError):
    """The request cannot be served as it was sent."""

    status = 400
    code = "invalid_request"
    type = "invalid_request_error"
    outcome = "rejected"


class InvalidJson(CallerError):
    """The body is not one JSON object of at most 64 levels in UTF-8."""

    code = "invalid_json"
    outcome = "rejected_invalid"


class InvalidParameter(CallerError):
    """A field has the wrong type or lies outside its range; `param` names it."""

    code = "invalid_parameter"
    outcome = "rejected_invalid"


class TranslationLossy(InvalidParameter):
    """A provider's wire format cannot express `param`, and the policy is strict about it."""

    code = "translation_lossy"


class MediaRefused(InvalidParameter):
    """A URL of media is one that this gateway must not fetch, or holds what may not be passed on."""

    code = "media_url_refused"


class MediaUnavailable(InvalidParameter):
    """A URL of media could not be fetched within its limits."""

    code = "media_url_unavailable"


class UnsupportedOperation(InvalidParameter):
    """The provider of the model has no such operation."""

    code = "unsupported_operation"


class AmbiguousCredentials(CallerError):
    """Two different keys in one request (SECURITY.md 9)."""

    code = "ambiguous_credentials"
    type = "authentication_error"


class InvalidApiKey(CallerError):
    """No key, an unknown key or a revoked one."""

    status = 401
    code = "invalid_api_key"
    type = "authentication_error"


class InsufficientBalance(CallerError):
    """The hold does not fit; details: needed, available (USD strings), max_affordable_tokens."""

    status = 402
    code = "insufficient_balance"
    type = "insufficient_quota"
    outcome = "rejected_balance"


class SpendLimitReached(CallerError):
    """The plan's spend limit for the period would be passed."""

    status = 402
    code = "spend_limit_reached"
    type = "insufficient_quota"
    outcome = "rejected_balance"


class PermissionDenied(CallerError):
    """The credential is good but may not do this."""

    status = 403
    code = "permission_denied"
    type = "permission_error"


class TenantSuspended(PermissionDenied):
    """The operator has suspended the tenant."""

    code = "tenant_suspended"
    outcome = "tenant_suspended"


class FreeNotAllowed(PermissionDenied):
    """`:free` asked for where the plan does not allow it."""

    code = "free_not_allowed"


class NotFound(CallerError):
    """No such route or object (for this caller)."""

    status = 404
    code = "not_found"


class ModelNotFound(NotFound):
    """Unknown model, or one this key may not use: the two are not told apart."""

    code = "model_not_found"
    outcome = "rejected_model"


class NoEndpoint(NotFound):
    """The model is there, and what the caller itself wants of routing leaves no endpoint of it; details: excluded_by,
    the rules."""

    code = "no_endpoint"
    outcome = "rejected_model"


class MethodNotAllowed(CallerError):
    """The route exists under another method."""

    status = 405
    code = "method_not_allowed"


class RequestTimeout(CallerError):
    """The request's body did not arrive in time."""

    status = 408
    code = "request_timeout"


class Conflict(CallerError):
    """The object already exists or is in a state that forbids this."""

    status = 409
    code = "conflict"


class IdempotencyInProgress(Conflict):
    """A request with this Idempotency-Key is being served."""

    code = "idempotency_in_progress"
    retryable = True


class ReplayUnavailable(Conflict):
    """A request with this Idempotency-Key was charged, and its answer is not kept."""

    code = "replay_unavailable"


class IdempotencyMismatch(CallerError):
    """The Idempotency-Key was used for another request."""

    status = 422
    code = "idempotency_mismatch"
    outcome = "rejected_invalid"


class RequestTooLarge(CallerError):
    """The body is over the limit named in the message."""

    status = 413
    code = "request_too_large"
    outcome = "rejected_too_large"


class UnsupportedMediaType(CallerError):
    """Content-Encoding or charset that is not accepted."""

    status = 415
    code = "unsupported_media_type"


class HeadersTooLarge(CallerError):
    """The request line or the header is over the limit named in the message."""

    status = 431
    code = "headers_too_large"


class RateLimited(CallerError):
    """A limit of the tenant's plan; retry_after_s says when the next request fits."""

    status = 429
    code = "rate_limit_exceeded"
    type = "rate_limit_error"
    retryable = True
    outcome = "rate_limited"


# --- upstream ----------------------------------------------------------------------------------------------------


class UpstreamRefused(RouterXError):
    """No target answered. Status and code come from the failure that decided (domain/failure.py)."""

    type = "upstream_error"

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str,
        retryable: bool,
        param: str | None = None,
        retry_after_s: float | None = None,
        details: Mapping[str, str | int | bool | None] | None = None,
    ) -> None:
        super().__init__(message, param=param, retry_after_s=retry_after_s, details=details)
        # Instance values shadow the class attributes: one class for a table of outcomes, not forty classes.
        self.status = status  # type: ignore[misc]
        self.code = code  # type: ignore[misc]
        self.retryable = retryable  # type: ignore[misc]
        if status == 429:
            self.type = "rate_limit_error"  # type: ignore[misc]
        elif status < 500:
            self.type = "invalid_request_error"  # type: ignore[misc]


class NoHealthyUpstream(RouterXError):
    """Every candidate's circuit is open or cooling; retry_after_s is the earliest probe."""

    status = 503
    code = "no_healthy_upstream"
    type = "upstream_error"
    retryable = True
    outcome = "breaker_open"


class UpstreamsLimited(RouterXError):
    """Every candidate is out, and only for rate limits; retry_after_s is when the first one takes calls again."""

    status = 429
    code = "upstream_rate_limited"
    type = "rate_limit_error"
    retryable = True
    outcome = "upstream_429"


# --- this gateway ------------------------------------------------------------------------------------------------


class GatewayError(RouterXError):
    """This gateway cannot serve the request right now."""

    status = 503
    retryable = True
    outcome = "rejected_unavailable"


class StorageBusy(GatewayError):
    """The ledger's queue is full or the database stays locked."""

    code = "storage_busy"


class StorageUnavailable(GatewayError):
    """The ledger cannot commit (disk full, I/O error, failed verification): money operations are off."""

    code = "storage_unavailable"


class Overloaded(GatewayError):
    """A global cap of connections, bodies or requests is reached."""

    code = "overloaded"


class ShuttingDown(GatewayError):
    """The process is draining."""

    code = "shutting_down"
    outcome = "shutting_down"


class InternalError(RouterXError):
    """A fault of ours; the log holds it under the request id."""


# --- operators ---------------------------------------------------------------------------------------------------


class OperatorError(RouterXError):
    """Trouble that only an operator sees. `exit_code` follows sysexits where one fits."""

    exit_code: ClassVar[int] = 1


class ConfigError(OperatorError):
    """The configuration is refused as a whole; `problems` lists every reason, each with file and line."""

    exit_code = 78

    def __init__(self, problems: "tuple[str, ...]") -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class LedgerLocked(OperatorError):
    """Another process owns the data directory; the message names its pid."""

    exit_code = 75


class LedgerUnusable(OperatorError):
    """The ledger file is corrupt, of a newer schema or of another money scale. It is left untouched."""

    exit_code = 78
