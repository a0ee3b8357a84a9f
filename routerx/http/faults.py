"""Errors as HTTP responses: one shape per dialect, a request id on every one, Retry-After where it helps."""

import math

from aiohttp import web

from routerx import jsonx
from routerx.dialects.base import CallerDialect
from routerx.errors import AmbiguousCredentials, RequestTimeout, RequestTooLarge, RouterXError, ShuttingDown
from routerx.gateway import metadata

CLOSING = (AmbiguousCredentials, RequestTimeout, RequestTooLarge, ShuttingDown)
"""Errors after which the connection is not used again: the rest of the request may be unread or in doubt."""

CLIENT_WAIT_MAX_S = 60.0
"""OpenAI's and Anthropic's clients wait no longer than this: told of more, they come back after half a second."""


def error_response(error: RouterXError, dialect: CallerDialect, request_id: str) -> web.Response:
    """The response of a request that failed before anything was sent."""
    headers = {"X-Request-Id": request_id}
    if error.retry_after_s is not None:
        # Rounded up, so that nobody comes too early. The second is what those clients read first.
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
        headers["retry-after-ms"] = str(max(1, math.ceil(error.retry_after_s * 1000)))
    headers.update(error.headers)
    if not error.retryable or (error.retry_after_s is not None and error.retry_after_s > CLIENT_WAIT_MAX_S):
        headers["X-Should-Retry"] = "false"
    body = dialect.encode_error(error, request_id)
    if error.routing_metadata is not None:
        body = jsonx.with_key(body, metadata.KEY, error.routing_metadata)
    response = web.Response(
        status=error.status,
        body=body,
        headers=headers,
        content_type="application/json",
    )
    if isinstance(error, CLOSING):
        response.force_close()
    return response
