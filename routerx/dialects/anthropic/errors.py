"""Errors of Messages, both ways: what the vendor's codes mean, and what callers of this wire get."""

from types import MappingProxyType
from typing import Any

from routerx import jsonx
from routerx.dialects.classify import ErrorTable
from routerx.domain.failure import FailureKind
from routerx.errors import RouterXError

TABLE = ErrorTable(
    codes=MappingProxyType(
        {
            "overloaded_error": FailureKind.OVERLOADED,
            "billing_error": FailureKind.EXHAUSTED,
            "timeout_error": FailureKind.SERVER_ERROR,
            "api_error": FailureKind.SERVER_ERROR,
            "request_too_large": FailureKind.REJECTED,
            "enforced_spend_limit_reached": FailureKind.EXHAUSTED,
            "contract_spend_limit_reached": FailureKind.EXHAUSTED,
        }
    ),
    statuses=MappingProxyType({409: FailureKind.SERVER_ERROR, 504: FailureKind.SERVER_ERROR}),
)
"""Anthropic's reference of errors; 409 and 504 are worth another try."""

_TYPES = MappingProxyType(
    {
        400: "invalid_request_error",
        401: "authentication_error",
        402: "billing_error",
        403: "permission_error",
        404: "not_found_error",
        409: "conflict_error",
        408: "timeout_error",
        413: "request_too_large",
        429: "rate_limit_error",
        503: "overloaded_error",
        504: "timeout_error",
        529: "overloaded_error",
    }
)


def error_body(error: RouterXError, request_id: str) -> bytes:
    """`{"type": "error", "error": {…}}`, with our code and the error's public details beside the vendor's fields."""
    return jsonx.encode(_fields(error, request_id))


def error_frames(error: RouterXError, request_id: str) -> bytes:
    """The end of a stream that has failed. Nothing follows it on this wire."""
    return b"event: error\ndata: " + jsonx.encode(_fields(error, request_id)) + b"\n\n"


def _fields(error: RouterXError, request_id: str) -> dict[str, Any]:
    kind = _TYPES.get(error.status)
    if kind is None:
        kind = "api_error" if error.status >= 500 else "invalid_request_error"
    return {
        "type": "error",
        "error": {
            **error.details,
            "type": kind,
            "message": error.message,
            "code": error.code,
            "param": error.param,
            "retryable": error.retryable,
        },
        "request_id": request_id,
    }
