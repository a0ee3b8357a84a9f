"""Errors of Responses: what the vendor's own codes mean, and how a stream for a caller ends with one. Bodies are
those of OpenAI's chat."""

from types import MappingProxyType

from routerx import jsonx
from routerx.dialects.classify import ErrorTable
from routerx.dialects.openai_chat.errors import error_fields
from routerx.domain.failure import FailureKind
from routerx.errors import RouterXError

TABLE = ErrorTable(
    codes=MappingProxyType(
        {
            **dict.fromkeys(
                (
                    "bio_policy",
                    "image_content_policy_violation",
                    "invalid_prompt",
                    "misalignment_policy_violation",
                ),
                FailureKind.CONTENT_REJECTED,
            ),
            **dict.fromkeys(
                (
                    "empty_image_file",
                    "failed_to_download_image",
                    "image_file_not_found",
                    "image_file_too_large",
                    "image_parse_error",
                    "image_too_large",
                    "image_too_small",
                    "invalid_base64_image",
                    "invalid_image",
                    "invalid_image_format",
                    "invalid_image_mode",
                    "invalid_image_url",
                    "unsupported_image_media_type",
                ),
                FailureKind.REJECTED,
            ),
        }
    )
)
"""OpenAI's reference of Responses, `error.code` of a response that has failed: after the stream began, no status tells
the caller's faults from the server's. `invalid_prompt` is said of a prompt that is flagged."""


def error_frames(error: RouterXError, request_id: str) -> bytes:
    """The event `error`; by the object inside it the official clients raise."""
    fields = error_fields(error, request_id)
    said = {key: fields[key] for key in ("code", "message", "param")}
    body = {**said, "type": "error", "sequence_number": 0, "error": fields}
    return b"event: error\ndata: " + jsonx.encode(body) + b"\n\n"
