"""Masking: every key shape we know, wherever it stands, and no ordinary word."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerx.secrets import Secret, new_api_key
from routerx.telemetry import masking
from routerx.telemetry.masking import Masker

TOKEN = "Ab3dEf6hIj9kLm2nOp5q"


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(new_api_key(), id="made here"),  # Another one in each run, and the same test.
        f"sk-{TOKEN}",
        f"sk-proj-{TOKEN}",
        f"sk-ant-api03-{TOKEN}",
        f"gsk_{TOKEN}",
        f"csk-{TOKEN}",
        f"hf_{TOKEN}",
        f"xai-{TOKEN}",
        f"tgp_v1_{TOKEN}",
        f"fw_{TOKEN}",
        f"AIza{TOKEN}",
    ],
)
@pytest.mark.parametrize("frame", ["{}", "wrong key {} sent", '{{"user":"{}"}}', "({})", "x={};", "path/{}/end"])
def test_a_key_is_masked_wherever_it_stands(key: str, frame: str) -> None:
    masked = Masker().mask(frame.format(key).encode())

    assert masked == frame.format("***").encode()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Authorization: Bearer demo_key_fake_123456", "Authorization: Bearer ***"),
        ("authorization=bearer abc.def", "authorization=bearer ***"),
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: Basic ***"),
        ('{"x-api-key": "abcdef"}', '{"x-api-key": "***"}'),
        ("{'api-key': 'abcdef', 'n': 1}", "{'api-key': '***', 'n': 1}"),
        ("x-goog-api-key: abcdef", "x-goog-api-key: ***"),
        ('{"message":"{\\"api_key\\":\\"abcdef\\"}"}', '{"message":"{\\"api_key\\":\\"***\\"}"}'),
        ("GET https://host/v1?key=abcdef&alt=sse", "GET https://host/v1?key=***&alt=sse"),
        ("proxy http://user:hunter22@proxy:3128/", "proxy http://user:***@proxy:3128/"),
        ("password=hunter2", "password=***"),
    ],
)
def test_credentials_in_headers_urls_and_fields_are_masked(line: str, expected: str) -> None:
    assert Masker().mask(line.encode()).decode() == expected


@pytest.mark.parametrize(
    "line",
    [
        "routerx_requests_total routerx.http listens on http://127.0.0.1:8080/v1",
        '{"key_id":"key_0123456789ab","input_tokens":5,"request_id":"req_0192f3a4b5c6d7e8f9a0b1c2d3e4"}',
        "task-12345678 on disk-0 asks the risk-averse",
        "credential openai-1a2b3c4d is cooling",
        "model 'sk' has no price; max_tokens: 5",
    ],
)
def test_ordinary_lines_are_left_alone(line: str) -> None:
    assert Masker().mask(line.encode()).decode() == line


def test_a_configured_secret_of_any_shape_is_masked() -> None:
    masker = Masker()
    masker.protect([Secret("correct horse battery"), Secret('quo"te\\d-secret')])

    assert masker.mask(b"he said correct horse battery!") == b"he said ***!"
    assert masker.mask(b'{"message":"quo\\"te\\\\d-secret"}') == b'{"message":"***"}'


def test_a_secret_that_begins_another_does_not_leave_its_rest() -> None:
    masker = Masker()
    masker.protect([Secret("hunter22"), Secret("hunter22-and-more")])

    assert masker.mask(b"hunter22-and-more") == b"***"


def test_old_secrets_stay_masked_after_a_reload() -> None:
    masker = Masker()
    masker.protect([Secret("first-secret")])
    masker.protect([Secret("second-secret")])

    assert masker.mask(b"first-secret second-secret") == b"*** ***"


def test_a_text_seen_before_is_masked_once_it_is_known_to_be_a_secret() -> None:
    masker = Masker()
    before = masker.mask_text("my-horse-battery")
    masker.protect([Secret("my-horse-battery")])

    assert (before, masker.mask_text("my-horse-battery")) == ("my-horse-battery", "***")
    assert masker.mask_text("key sk-0123456789") == masker.mask_text("key sk-0123456789") == "key ***"


def test_remembered_texts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking, "SEEN_MAX", 5)
    masker = Masker()
    for number in range(50):
        masker.mask_text(f"user-{number}")
    masker.mask_text("x" * 1_000)

    assert len(masker._seen) <= 5
    assert "x" * 1_000 not in masker._seen


def test_remembered_secrets_are_bounded_and_the_newest_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking, "KNOWN_MAX", 3)
    masker = Masker()
    masker.protect(Secret(f"hunter-{number}") for number in range(10))

    assert masker.mask(b"hunter-9 hunter-0") == b"*** hunter-0"


def test_a_secret_too_short_to_be_one_does_not_mask_words() -> None:
    masker = Masker()
    masker.protect([Secret("a"), Secret("")])

    assert masker.mask(b"a cat") == b"a cat"


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_text_around_a_configured_secret_lets_it_through(before: str, after: str) -> None:
    masker = Masker()
    masker.protect([Secret("Zq7-canary-Zq7")])

    assert b"Zq7-canary-Zq7" not in masker.mask(f"{before}Zq7-canary-Zq7{after}".encode())
