"""Errors that providers send, as a Failure: by tables of (status, code), never by message text.

One table has the codes that any wire may carry; a dialect adds its own (ErrorTable). The shapes read: `{"error": {…}}`,
the same in an array, `{"error": "text"}`, flat `{"message", "type", "code"}`, and `{"detail": …}` of text, list or
object.
"""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from routerx.dialects.leniently import decode_or_none
from routerx.dialects.retry_after import retry_after_s
from routerx.domain.failure import Failure, FailureKind

_MESSAGE_CHARS_MAX = 500
_CODE_CHARS_MAX = 64
_PARAM_CHARS_MAX = 128
_DETAILS_MAX = 5

# --- providers' errors -------------------------------------------------------------------------------------------

_any_decoder = msgspec.json.Decoder()

_CODES: dict[str, FailureKind] = {
    **dict.fromkeys(
        (
            "insufficient_quota",
            "insufficient_balance",
            "insufficient_credits",
            "insufficient_funds",
            "billing_error",
            "billing_not_active",
            "billing_hard_limit_reached",
            "spend_limit_exceeded",
            "spend_limit_reached",
            "credits_exhausted",
            "payment_required",
        ),
        FailureKind.EXHAUSTED,
    ),
    **dict.fromkeys(
        (
            "context_length_exceeded",
            "context_window_exceeded",
            "context_window_exceeded_error",
            "model_context_window_exceeded",
            "max_context_length_exceeded",
            "exceed_context_size_error",
            "prompt_too_long",
        ),
        FailureKind.CONTEXT_EXCEEDED,
    ),
    **dict.fromkeys(
        (
            "content_filter",
            "content_filtered",
            "content_policy_violation",
            "moderation_blocked",
            "data_inspection_failed",
            "responsible_aipolicy_violation",
        ),
        FailureKind.CONTENT_REJECTED,
    ),
    **dict.fromkeys(
        (
            "overloaded",
            "overloaded_error",
            "engine_overloaded",
            "engine_overloaded_error",
            "server_overloaded",
            "over_capacity",
        ),
        FailureKind.OVERLOADED,
    ),
    **dict.fromkeys(
        (
            "rate_limit_exceeded",
            "rate_limit_error",
            "rate_limit_reached",
            "rate_limited",
            "too_many_requests",
            "resource_exhausted",
        ),
        FailureKind.RATE_LIMITED,
    ),
    **dict.fromkeys(
        (
            "invalid_api_key",
            "api_key_invalid",
            "authentication_error",
            "account_deactivated",
            "permission_error",
            "unauthenticated",
        ),
        FailureKind.AUTH_FAILED,
    ),
    **dict.fromkeys(
        (
            "invalid_request_error",
            "invalid_argument",
            "not_found_error",
            "not_found",
            "model_not_found",
            "tool_use_failed",
        ),
        FailureKind.REJECTED,
    ),
}
"""Codes and types, in snake case. Where one counts depends on the status: see _STATUSES."""

_STATUSES: dict[FailureKind, frozenset[int]] = {
    FailureKind.EXHAUSTED: frozenset((400, 402, 403, 429, 500, 503)),
    FailureKind.CONTEXT_EXCEEDED: frozenset((400, 413, 422, 500)),
    FailureKind.CONTENT_REJECTED: frozenset((400, 403, 422, 451)),
    FailureKind.OVERLOADED: frozenset((429, 498, 500, 502, 503)),
    FailureKind.RATE_LIMITED: frozenset((400, 403)),
    # A refused credential is out for everybody, so a code alone proves it only where the status does not contradict.
    FailureKind.AUTH_FAILED: frozenset((400,)),
    FailureKind.REJECTED: frozenset(),
}
"""The statuses at which a code decides against what the status itself says."""

_BY_STATUS: dict[int, FailureKind] = {
    401: FailureKind.AUTH_FAILED,
    402: FailureKind.EXHAUSTED,
    403: FailureKind.AUTH_FAILED,
    408: FailureKind.SERVER_ERROR,
    425: FailureKind.SERVER_ERROR,
    429: FailureKind.RATE_LIMITED,
    498: FailureKind.OVERLOADED,
    529: FailureKind.OVERLOADED,
}

_OURS: dict[FailureKind, str] = {
    FailureKind.AUTH_FAILED: "The provider refused the gateway's credential.",
    FailureKind.EXHAUSTED: "The gateway's account with the provider is exhausted.",
}
"""Said in place of the provider's words where those are about the operator's account, not the caller's request."""


class ErrorTable(msgspec.Struct, frozen=True):
    """What one dialect's codes and statuses mean where that differs from what is common to all."""

    codes: Mapping[str, FailureKind] = {}
    """Vendor code in snake case → kind, whatever the status; looked at first."""
    statuses: Mapping[int, FailureKind] = {}


COMMON = ErrorTable()


class _Report(msgspec.Struct, frozen=True):
    """An error body, whatever its shape."""

    message: str = ""
    codes: tuple[str, ...] = ()
    """As sent, most specific first."""
    param: str | None = None
    status: int | None = None
    """A status inside the body."""
    retry_hint: str | None = None
    flagged: bool = False
    """A moderation verdict on the prompt comes with it."""


def classify(status: int, headers: Mapping[str, str], body: bytes, table: ErrorTable = COMMON) -> Failure:
    """An error reply. A body that is no error object counts for nothing: the status decides, the text is ours."""
    if 300 <= status < 400:
        return Failure(FailureKind.REDIRECT, _redirect_message(headers), upstream_status=status)
    report = read_error(decode_or_none(_any_decoder, body))
    kind = _kind(status, report, table) if 400 <= status <= 599 else FailureKind.PROTOCOL_ERROR
    return _failure(kind, report, status=status, wait_s=retry_after_s(headers, report.retry_hint))


def failure_in_band(value: Any, *, otherwise: FailureKind, table: ErrorTable = COMMON) -> Failure:
    """An error inside a 200, by the status or the code it carries; `otherwise` for server faults and the unknown."""
    report = read_error(value)
    status = report.status
    if status is not None:
        kind = _kind(status, report, table)
    else:
        known = {**_CODES, **table.codes}
        kinds = [known[code] for code in map(_snake, report.codes) if code in known]
        kind = min(kinds, key=lambda kind: kind is FailureKind.REJECTED, default=otherwise)  # The vaguest comes last.
    if kind is FailureKind.SERVER_ERROR:
        kind = otherwise
    return _failure(kind, report, status=status, wait_s=retry_after_s({}, report.retry_hint))


def foreign(content_type: str, body: bytes = b"?") -> Failure:
    """A 200 whose body is no answer of the wire at all; an empty one is called that."""
    if not body.strip():
        return Failure(FailureKind.EMPTY, "The provider sent an empty body.")
    label = clean(content_type, 64) or "none"
    return Failure(
        FailureKind.BAD_CONTENT_TYPE, f"The provider sent something that is no answer (content type: {label})."
    )


def _kind(status: int, report: _Report, table: ErrorTable) -> FailureKind:
    for code in map(_snake, report.codes):
        if code in table.codes:
            return table.codes[code]
    for code in map(_snake, report.codes):
        kind = _CODES.get(code)
        if kind is not None and status in _STATUSES[kind]:
            return kind
    if status == 403 and (report.flagged or "model_not_found" in report.codes):
        # The prompt or the model is refused, not the key: nobody else's requests may suffer for it.
        return FailureKind.CONTENT_REJECTED if report.flagged else FailureKind.REJECTED
    known = table.statuses.get(status, _BY_STATUS.get(status))
    if known is not None:
        return known
    return FailureKind.SERVER_ERROR if status >= 500 else FailureKind.REJECTED


def _failure(kind: FailureKind, report: _Report, *, status: int | None, wait_s: float | None) -> Failure:
    message = _OURS.get(kind, "") or report.message
    if not message:
        message = "The provider sent an error." if status is None else f"The provider answered with status {status}."
    return Failure(
        kind,
        message,
        upstream_status=status,
        upstream_code=next((code for code in report.codes if not code.isdigit()), None),
        param=report.param,
        retry_after_s=wait_s,
    )


def _redirect_message(headers: Mapping[str, str]) -> str:
    location = next((value for name, value in headers.items() if name.lower() == "location"), "")
    try:
        host = urlsplit(location).hostname
    except ValueError:
        host = None
    target = "another address" if host is None else repr(clean(host, _PARAM_CHARS_MAX))
    return f"The provider redirects to {target}, which is not followed. Correct the provider's base URL."


def read_error(value: Any) -> _Report:
    """The report in a decoded error body or in the value of its `error` key."""
    if isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, dict):
        inner = next((value[key] for key in ("error", "detail") if value.get(key)), None)
        outer_code = _code(value.get("code"))
        if isinstance(inner, list):
            return _Report(clean("; ".join(map(_detail, inner[:_DETAILS_MAX])), _MESSAGE_CHARS_MAX))
        if isinstance(inner, str):
            return _Report(clean(inner, _MESSAGE_CHARS_MAX), codes=(outer_code,) if outer_code else ())
        return _object(inner if isinstance(inner, dict) else value)
    return _Report(clean(value, _MESSAGE_CHARS_MAX)) if isinstance(value, str) else _Report()


def _object(error: dict[str, Any]) -> _Report:
    inner = error.get("error")
    if isinstance(inner, dict):  # `{"detail": {"error": {…}}}`
        error = inner
    details = error.get("details")
    facts = [fact for fact in details if isinstance(fact, dict)] if isinstance(details, list) else []
    nested = error.get("innererror")
    names = [error.get("code"), nested.get("code") if isinstance(nested, dict) else None]
    names += [fact.get("reason") for fact in facts]
    names += [details.get("error_code") if isinstance(details, dict) else None, error.get("type"), error.get("status")]
    metadata = error.get("metadata")
    hints = [fact.get("retryDelay") for fact in facts] + [error.get("retry_after")]
    param = error.get("param")
    message = error.get("message")
    return _Report(
        message=clean(message, _MESSAGE_CHARS_MAX) if isinstance(message, str) else "",
        codes=tuple(code for code in map(_code, names) if code),
        param=clean(param, _PARAM_CHARS_MAX) if isinstance(param, str) and param else None,
        status=_inner_status(error),
        retry_hint=next((str(hint) for hint in hints if isinstance(hint, str | int | float)), None),
        flagged=isinstance(metadata, dict) and ("flagged_input" in metadata or "reasons" in metadata),
    )


def _inner_status(error: dict[str, Any]) -> int | None:
    for key in ("status_code", "code", "status"):
        value = error.get(key)
        if isinstance(value, str) and value.isdigit() and len(value) == 3:
            value = int(value)
        if isinstance(value, int) and 400 <= value <= 599:
            return value
    return None


def _code(value: Any) -> str:
    return clean(str(value), _CODE_CHARS_MAX) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _detail(item: Any) -> str:
    """One entry of a validator's list: where, and what."""
    if not isinstance(item, dict):
        return str(item)
    where = item.get("loc")
    path = ".".join(map(str, where)) if isinstance(where, list) else ""
    return f"{path}: {item.get('msg')}" if path else str(item.get("msg"))


def _snake(code: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", code).lower()


# --- what may be shown -------------------------------------------------------------------------------------------

_URL_SECRET = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)(?:[^\s/@\"'<>]*@)?([^\s?#\"'<>]*)(?:[?#][^\s\"'<>]*)?")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[^\s,;\"']+")
_KEY = re.compile(r"\b(?:(?:sk|pk|rk)[-_]|AIza|eyJ)[A-Za-z0-9*._-]{4,}")
_NAMED = re.compile(r"(?i)\b((?:api[-_ ]?key|token|secret|password)(?: provided)?[\"']?\s*[:=]\s*)[^\s,;]+")
# Twenty letters and digits in a row, both kinds present, or a token somebody else has starred out: nobody's prose.
_TOKEN = re.compile(r"(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{20,}[A-Za-z0-9_-]*|[A-Za-z0-9_-]*\*{3,}[A-Za-z0-9*_-]*")
_MASK = "[redacted]"


def clean(text: str, chars_max: int) -> str:
    """Text from outside made fit to show: one line, no control characters, nothing that looks like a credential."""
    text = text[: 8 * chars_max]
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    text = _URL_SECRET.sub(r"\1\2", text)
    text = _BEARER.sub(rf"\1 {_MASK}", text)
    text = _KEY.sub(_MASK, text)
    text = _NAMED.sub(rf"\1{_MASK}", text)
    text = _TOKEN.sub(_MASK, text)
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"
