"""Errors of generateContent, both ways: what the vendor's codes mean, and what callers of this wire get."""

from types import MappingProxyType
from typing import Any

from routerx import jsonx
from routerx.dialects.classify import ErrorTable
from routerx.domain.failure import FailureKind
from routerx.errors import RouterXError

TABLE = ErrorTable(
    codes=MappingProxyType(
        {
            "api_key_invalid": FailureKind.AUTH_FAILED,
            "api_key_service_blocked": FailureKind.AUTH_FAILED,
            "service_disabled": FailureKind.AUTH_FAILED,
            "billing_disabled": FailureKind.EXHAUSTED,
            "unavailable": FailureKind.OVERLOADED,
        }
    ),
    statuses=MappingProxyType({409: FailureKind.SERVER_ERROR, 499: FailureKind.SERVER_ERROR}),
)
"""Google's reference of API errors: `reason` of an ErrorInfo, and canonical statuses."""

_STATUSES = MappingProxyType(
    {
        400: "INVALID_ARGUMENT",
        401: "UNAUTHENTICATED",
        402: "FAILED_PRECONDITION",
        403: "PERMISSION_DENIED",
        404: "NOT_FOUND",
        408: "DEADLINE_EXCEEDED",
        409: "ABORTED",
        429: "RESOURCE_EXHAUSTED",
        500: "INTERNAL",
        501: "UNIMPLEMENTED",
        503: "UNAVAILABLE",
        504: "DEADLINE_EXCEEDED",
    }
)


def error_body(error: RouterXError, request_id: str) -> bytes:
    """`{"error": {"code", "message", "status"}}`, our own code as an ErrorInfo's reason among the details."""
    return jsonx.encode({"error": _fields(error, request_id)})


def error_frames(error: RouterXError, request_id: str) -> bytes:
    """The end of a stream that has failed. Nothing follows it on this wire."""
    return b"data: " + error_body(error, request_id) + b"\r\n\r\n"


def _fields(error: RouterXError, request_id: str) -> dict[str, Any]:
    status = _STATUSES.get(error.status)
    if status is None:
        status = "INTERNAL" if error.status >= 500 else "INVALID_ARGUMENT"
    said = {key: str(value) for key, value in error.details.items() if value is not None}
    if error.param is not None:
        said["param"] = error.param
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": error.code,
        "domain": "routerx",
        "metadata": said,
    }
    details: list[dict[str, Any]] = [info]
    if error.retry_after_s is not None:
        retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{error.retry_after_s:g}s"}
        details.append(retry)
    return {
        "code": error.status,
        "message": error.message,
        "status": status,
        "details": details,
        "request_id": request_id,
        "retryable": error.retryable,
    }
