"""Errors as HTTP responses: one shape per dialect, a request id on every one, Retry-After where it helps."""

import math

from aiohttp import web

from routerx import jsonx
from routerx.dialects.base import CallerDialect
from routerx.errors import AmbiguousCredentials, RequestTimeout, RequestTooLarge, RouterXError, ShuttingDown
from routerx.gateway import metadata

CLOSING = (AmbiguousCredentials, RequestTimeout, RequestTooLarge, ShuttingDown)
"""Errors after which the connection is not used again: the rest of the request may be unread or in doubt."""


def error_response(error: RouterXError, dialect: CallerDialect, request_id: str) -> web.Response:
    """The response of a request that failed before anything was sent."""
    headers = {"X-Request-Id": request_id}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    headers.update(error.headers)
    if not error.retryable:
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
