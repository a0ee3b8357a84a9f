"""Errors as callers of the OpenAI wire get them: a body, or the frames that end a stream."""

from typing import Any

from routerx import jsonx
from routerx.errors import RouterXError


def error_body(error: RouterXError, request_id: str) -> bytes:
    """`{"error": {…}}`, with the error's public details beside the fixed fields."""
    return jsonx.encode({"error": error_fields(error, request_id)})


def error_frames(error: RouterXError, request_id: str, response_id: str | None) -> bytes:
    """The end of a stream that has failed: a chunk that clients can read and reject, then the end mark."""
    chunk = {
        "id": request_id if response_id is None else response_id,
        "choices": [{"index": 0, "delta": {}, "finish_reason": "error"}],
        "error": error_fields(error, request_id),
    }
    return b"data: " + jsonx.encode(chunk) + b"\n\ndata: [DONE]\n\n"


def error_fields(error: RouterXError, request_id: str) -> dict[str, Any]:
    return {
        **error.details,
        "message": error.message,
        "type": error.type,
        "code": error.code,
        "param": error.param,
        "request_id": request_id,
        "retryable": error.retryable,
    }
