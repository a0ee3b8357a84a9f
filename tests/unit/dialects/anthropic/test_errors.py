"""Errors of Messages: what providers' mean, and what callers get, as the official client reads them."""

from typing import Any

import anthropic
import pytest

from routerx import errors, jsonx
from routerx.dialects.anthropic import ANTHROPIC
from routerx.domain.failure import FailureKind


def body(kind: str, **more: Any) -> bytes:
    return jsonx.encode({"type": "error", "error": {"type": kind, "message": "Why.", **more}, "request_id": "req_1"})


@pytest.mark.parametrize(
    ("status", "kind", "expected"),
    [
        (400, "invalid_request_error", FailureKind.REJECTED),
        (401, "authentication_error", FailureKind.AUTH_FAILED),
        (402, "billing_error", FailureKind.EXHAUSTED),
        (403, "permission_error", FailureKind.AUTH_FAILED),
        (404, "not_found_error", FailureKind.REJECTED),
        (409, "conflict_error", FailureKind.SERVER_ERROR),
        (413, "request_too_large", FailureKind.REJECTED),
        (429, "rate_limit_error", FailureKind.RATE_LIMITED),
        (500, "api_error", FailureKind.SERVER_ERROR),
        (503, "overloaded_error", FailureKind.OVERLOADED),
        (504, "timeout_error", FailureKind.SERVER_ERROR),
        (529, "overloaded_error", FailureKind.OVERLOADED),
        (529, "what", FailureKind.OVERLOADED),
    ],
)
def test_providers_errors(status: int, kind: str, expected: FailureKind) -> None:
    failure = ANTHROPIC.classify(status, {}, body(kind))
    assert (failure.kind, failure.upstream_status, failure.upstream_code) == (expected, status, kind)


def test_a_spend_limit_of_the_account_is_no_limit_of_rate() -> None:
    failure = ANTHROPIC.classify(
        429, {}, body("rate_limit_error", details={"error_code": "enforced_spend_limit_reached"})
    )
    assert (failure.kind, failure.upstream_code) == (FailureKind.EXHAUSTED, "enforced_spend_limit_reached")


CASES = [
    (errors.InvalidParameter("Why.", param="top_k"), "invalid_request_error"),
    (errors.InvalidApiKey("Why."), "authentication_error"),
    (errors.InsufficientBalance("Why.", details={"needed": "1"}), "billing_error"),
    (errors.PermissionDenied("Why."), "permission_error"),
    (errors.ModelNotFound("Why."), "not_found_error"),
    (errors.RequestTimeout("Why."), "timeout_error"),
    (errors.Conflict("Why."), "conflict_error"),
    (errors.RequestTooLarge("Why."), "request_too_large"),
    (errors.UnsupportedMediaType("Why."), "invalid_request_error"),
    (errors.RateLimited("Why."), "rate_limit_error"),
    (errors.InternalError("Why."), "api_error"),
    (errors.UpstreamRefused("Why.", status=502, code="upstream_error", retryable=True), "api_error"),
    (errors.Overloaded("Why."), "overloaded_error"),
    (errors.UpstreamRefused("Why.", status=504, code="upstream_timeout", retryable=True), "timeout_error"),
    (errors.UpstreamRefused("Why.", status=529, code="upstream_overloaded", retryable=True), "overloaded_error"),
]


@pytest.mark.parametrize(("error", "kind"), CASES, ids=[f"{error.status}" for error, _ in CASES])
def test_callers_errors(error: errors.RouterXError, kind: str) -> None:
    told = jsonx.decode(ANTHROPIC.encode_error(error, "req_1"))
    assert (told["type"], told["request_id"]) == ("error", "req_1")
    assert told["error"] == {
        **error.details,
        "type": kind,
        "message": "Why.",
        "code": error.code,
        "param": error.param,
        "retryable": error.retryable,
    }


def test_an_error_ends_a_stream_as_an_event() -> None:
    frames = ANTHROPIC.encode_stream_error(errors.InternalError("Why."), "req_1", "msg_1")
    assert frames == b"event: error\ndata: " + ANTHROPIC.encode_error(errors.InternalError("Why."), "req_1") + b"\n\n"


# --- the official client

CLIENT = anthropic.Anthropic(api_key="k", base_url="http://unused", max_retries=0)
EXCEPTIONS = {
    400: anthropic.BadRequestError,
    401: anthropic.AuthenticationError,
    403: anthropic.PermissionDeniedError,
    404: anthropic.NotFoundError,
    409: anthropic.ConflictError,
    429: anthropic.RateLimitError,
}


@pytest.mark.parametrize(("error", "kind"), CASES, ids=[f"{error.status}" for error, _ in CASES])
def test_the_official_client_raises_by_the_status_and_knows_the_type(error: errors.RouterXError, kind: str) -> None:
    raised = raise_in_client(error)
    expected = EXCEPTIONS.get(error.status)
    if expected is None:
        expected = anthropic.InternalServerError if error.status >= 500 else anthropic.APIStatusError
    assert isinstance(raised, expected)
    assert (raised.status_code, raised.type) == (error.status, kind)


def raise_in_client(error: errors.RouterXError) -> anthropic.APIStatusError:
    """What the client makes of the body and the status, without a network."""
    transport = pytest.importorskip("httpx2")
    told = jsonx.decode(ANTHROPIC.encode_error(error, "req_1"))
    request = transport.Request("POST", "http://unused/v1/messages")
    response = transport.Response(error.status, request=request, json=told)
    return CLIENT._make_status_error("Why.", body=told, response=response)
