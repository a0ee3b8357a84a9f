"""Providers' errors by their tables, what of them may be shown, and our own errors as bytes."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerx.dialects.classify import clean
from routerx.dialects.openai_chat import OPENAI
from routerx.dialects.registry import NAMES, dialect
from routerx.domain.failure import Failure, FailureKind, as_client_error
from routerx.errors import InsufficientBalance, InvalidParameter, RateLimited, RouterXError


def classify(status: int, body: Any = b"", headers: dict[str, str] | None = None) -> Failure:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return OPENAI.classify(status, {} if headers is None else headers, raw)


def error(**fields: Any) -> dict[str, Any]:
    return {"error": fields}


# --- tables


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, FailureKind.REJECTED),
        (401, FailureKind.AUTH_FAILED),
        (402, FailureKind.EXHAUSTED),
        (403, FailureKind.AUTH_FAILED),
        (404, FailureKind.REJECTED),
        (405, FailureKind.REJECTED),
        (408, FailureKind.SERVER_ERROR),
        (413, FailureKind.REJECTED),
        (422, FailureKind.REJECTED),
        (425, FailureKind.SERVER_ERROR),
        (429, FailureKind.RATE_LIMITED),
        (498, FailureKind.OVERLOADED),
        (500, FailureKind.SERVER_ERROR),
        (503, FailureKind.SERVER_ERROR),
        (529, FailureKind.OVERLOADED),
        (599, FailureKind.SERVER_ERROR),
        (301, FailureKind.REDIRECT),
        (308, FailureKind.REDIRECT),
        (204, FailureKind.PROTOCOL_ERROR),
        (101, FailureKind.PROTOCOL_ERROR),
        (999, FailureKind.PROTOCOL_ERROR),
    ],
)
def test_without_a_code_the_status_decides(status: int, kind: FailureKind) -> None:
    for body in (b"", b"<html>Bad gateway</html>", b'{"x":1}', b"null", error(message="m", code=None)):
        got = classify(status, body)
        assert (got.kind, got.upstream_status) == (kind, status)
        assert got.message


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (429, error(code="insufficient_quota", type="insufficient_quota"), FailureKind.EXHAUSTED),
        (429, error(type="billing_not_active"), FailureKind.EXHAUSTED),
        (400, error(code="billing_hard_limit_reached"), FailureKind.EXHAUSTED),
        (402, error(code="invalid_request_error", message="Insufficient Balance"), FailureKind.EXHAUSTED),
        (400, error(code="context_length_exceeded"), FailureKind.CONTEXT_EXCEEDED),
        (400, error(code=400, type="exceed_context_size_error"), FailureKind.CONTEXT_EXCEEDED),
        (400, error(code="content_filter", innererror={"code": "Any"}), FailureKind.CONTENT_REJECTED),
        (400, error(code=None, innererror={"code": "ResponsibleAIPolicyViolation"}), FailureKind.CONTENT_REJECTED),
        (400, error(code="content_policy_violation"), FailureKind.CONTENT_REJECTED),
        (403, error(code=403, metadata={"reasons": ["x"], "flagged_input": "y"}), FailureKind.CONTENT_REJECTED),
        (403, error(code="model_not_found"), FailureKind.REJECTED),
        (429, error(type="engine_overloaded_error"), FailureKind.OVERLOADED),
        (500, error(type="overloaded_error"), FailureKind.OVERLOADED),
        (400, error(status="INVALID_ARGUMENT", details=[{"reason": "API_KEY_INVALID"}]), FailureKind.AUTH_FAILED),
        (429, error(code="RateLimitReached"), FailureKind.RATE_LIMITED),
        (429, {"message": "m", "code": "request_quota_exceeded"}, FailureKind.RATE_LIMITED),
        (413, error(type="tokens", code="rate_limit_exceeded"), FailureKind.REJECTED),
        (503, {"object": "error", "message": "capacity", "type": "invalid_request_error"}, FailureKind.SERVER_ERROR),
        # A code never talks a status into something it contradicts.
        (404, error(code="invalid_api_key"), FailureKind.REJECTED),
        (401, error(code="rate_limit_exceeded"), FailureKind.AUTH_FAILED),
        (500, error(type="invalid_request_error"), FailureKind.SERVER_ERROR),
    ],
)  # fmt: skip
def test_codes_decide_where_the_table_says_so(status: int, body: Any, kind: FailureKind) -> None:
    assert classify(status, body).kind is kind


def test_message_text_never_decides() -> None:
    text = "This model's maximum context length is 8 tokens; insufficient_quota; content_filter"
    assert classify(400, error(message=text)).kind is FailureKind.REJECTED


@pytest.mark.parametrize(
    ("body", "message", "code", "param"),
    [
        (error(message="no", type="t", code="c", param="p"), "no", "c", "p"),
        (error(message="no", type="t", code=None, param=None), "no", "t", None),
        (error(message="no", code=400, status="INVALID_ARGUMENT"), "no", "INVALID_ARGUMENT", None),
        ({"object": "error", "message": "no", "type": "t", "code": "1300"}, "no", "t", None),
        ({"message": "no", "type": "t", "param": "p", "code": "c"}, "no", "c", "p"),
        ({"error": "no"}, "no", None, None),
        ([error(message="no", code=400)], "no", None, None),
        ({"detail": "no"}, "no", None, None),
        ({"detail": [{"loc": ["body", "n"], "msg": "no", "type": "t"}, {"msg": "nor"}]}, "body.n: no; nor", None, None),
        ({"detail": {"message": "no", "code": "c"}}, "no", "c", None),
        ({"detail": {"error": {"message": "no", "code": "c"}}}, "no", "c", None),
        ({"message": {"a": 1}}, "The provider answered with status 400.", None, None),
        (b"<html>", "The provider answered with status 400.", None, None),
    ],
)
def test_every_shape_of_error_body_is_read(body: Any, message: str, code: str | None, param: str | None) -> None:
    got = classify(400, body)
    assert (got.message, got.upstream_code, got.param) == (message, code, param)


def test_a_404_stays_a_404_for_the_caller() -> None:
    refused = as_client_error(classify(404, error(message="The model `x` does not exist.", code="model_not_found")))
    assert (refused.status, refused.code, refused.retryable) == (404, "upstream_rejected", False)


def test_a_wait_is_taken_from_headers_and_body() -> None:
    assert classify(429, b"", {"Retry-After": "7"}).retry_after_s == 7
    body = error(code=429, details=[{"@type": "x"}, {"retryDelay": "34.4s"}])
    assert classify(429, body).retry_after_s == 34.4
    assert classify(429).retry_after_s is None


def test_a_redirect_names_the_host_only() -> None:
    got = classify(302, b"", {"Location": "https://user:pw@evil.example:8443/path?key=sk-123#x"})
    assert "'evil.example'" in got.message
    for secret in ("pw", "path", "key", "sk-123", "8443"):
        assert secret not in got.message
    assert "another address" in classify(307, b"", {"location": "http://[bad"}).message
    assert "another address" in classify(307).message


# --- what may be shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Incorrect API key provided: sk-proj-abc*****xyz.", "Incorrect API key provided: [redacted]"),
        ("Your api key: ****-key is invalid", "Your api key: [redacted] is invalid"),
        ("Header was Bearer abc.def-123, refused", "Header was Bearer [redacted], refused"),
        ("key hf_AbCdEfGhIjKlMnOpQrStUv0123 is bad", "key hf_[redacted] is bad"),
        ("see https://a.example/docs?token=abc&x=1#frag now", "see https://a.example/docs now"),
        ("at https://user:pw@a.example/x", "at https://a.example/x"),
        ("password=hunter2", "password=[redacted]"),
        ("a\x00b\x1b[31mc\nd\u202ee\u2028f", "a b [31mc d e f"),
        ("The model `claude-sonnet-4-5-20250929` has a limit of 1048565 tokens", None),
        ("meta-llama/Llama-3.3-70B-Instruct-Turbo does not support max_tokens: 12", None),
        ("Invalid 'messages[3]'. See https://a.example/docs/api-errors.", None),
        ("token_limit_exceeded for gpt-4o-mini-2024-07-18 in org-xxxx (ref: 96164522-08b2-4cbf)", None),
    ],
)
def test_messages_are_cleaned_of_secrets_and_nothing_else(text: str, shown: str | None) -> None:
    assert clean(text, 500) == (text if shown is None else shown)


@pytest.mark.parametrize("status", [401, 403, 402])
def test_the_house_account_is_not_the_callers_business(status: int) -> None:
    got = classify(status, error(message="Organization org_123 of Jane Doe owes $5", code="some_code"))
    assert "Jane" not in got.message
    assert got.upstream_code == "some_code"


@given(st.text(), st.text(), st.text())
def test_shown_text_is_short_and_printable(message: str, code: str, param: str) -> None:
    got = classify(400, error(message=message * 50, code=code * 50, param=param * 50))
    for text, chars_max in ((got.message, 500), (got.upstream_code or "", 64), (got.param or "", 128)):
        assert len(text) <= chars_max
        assert text.isprintable()


keys = st.sampled_from(["error", "detail", "message", "code", "details", "metadata", "status", "innererror", "param"])
scalars = st.none() | st.booleans() | st.integers(-(1 << 63), 1 << 63) | st.text(max_size=5)
bodies = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(keys, inner))


@given(bodies, st.integers(400, 599))
def test_no_body_breaks_the_reader(body: Any, status: int) -> None:
    got = classify(status, body)
    assert got.upstream_status == status
    assert as_client_error(got).status >= 400


# --- ours


def test_an_error_body_has_every_field() -> None:
    body = OPENAI.encode_error(InvalidParameter("'n' is 0.", param="n"), "req_1")
    assert json.loads(body) == {
        "error": {
            "message": "'n' is 0.",
            "type": "invalid_request_error",
            "code": "invalid_parameter",
            "param": "n",
            "request_id": "req_1",
            "retryable": False,
        }
    }


def test_details_stand_beside_the_fixed_fields_and_never_replace_them() -> None:
    caused = InsufficientBalance("Too little.", details={"needed": "0.5", "max_affordable_tokens": 3, "code": "x"})
    got = json.loads(OPENAI.encode_error(caused, "req_1"))["error"]
    assert (got["needed"], got["max_affordable_tokens"], got["code"]) == ("0.5", 3, "insufficient_balance")


@pytest.mark.parametrize(("response_id", "shown"), [("chatcmpl-1", "chatcmpl-1"), (None, "req_1")])
def test_a_stream_ends_with_an_error_chunk_and_the_end_mark(response_id: str | None, shown: str) -> None:
    caused: RouterXError = RateLimited("Slow down.")
    frames = OPENAI.encode_stream_error(caused, "req_1", response_id)
    first, second, rest = frames.split(b"\n\n")
    assert (second, rest) == (b"data: [DONE]", b"")
    assert json.loads(first.removeprefix(b"data: ")) == {
        "id": shown,
        "choices": [{"index": 0, "delta": {}, "finish_reason": "error"}],
        "error": json.loads(OPENAI.encode_error(caused, "req_1"))["error"],
    }


def test_the_registry_knows_every_dialect_by_its_name() -> None:
    assert NAMES == ("openai", "responses", "anthropic", "gemini", "ollama")
    assert [dialect(name).name for name in NAMES] == list(NAMES)
    assert dialect("openai") is OPENAI
