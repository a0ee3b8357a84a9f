"""Whole answers beside chat: metered, or known for what they are not."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerx.dialects.base import Reply
from routerx.dialects.openai_chat import OPENAI
from routerx.dialects.openai_chat.relay import RELAYED
from routerx.domain.call import Operation
from routerx.domain.failure import Failure, FailureKind
from routerx.domain.usage import Usage

JSON_TYPE = "application/json"


def judged(operation: Operation, body: Any, content_type: str = JSON_TYPE) -> Reply | Failure:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return OPENAI.read_reply(operation, content_type, raw)


def good(operation: Operation, body: Any, content_type: str = JSON_TYPE) -> Reply:
    reply = judged(operation, body, content_type)
    assert isinstance(reply, Reply)
    return reply


def bad(operation: Operation, body: Any, content_type: str = JSON_TYPE) -> FailureKind:
    failure = judged(operation, body, content_type)
    assert isinstance(failure, Failure)
    return failure.kind


TOKENS = {"input_tokens": 50, "output_tokens": 60, "total_tokens": 110}
IMAGE_DETAILS = {"input_tokens_details": {"text_tokens": 10, "image_tokens": 40}}
SPLIT = {"output_tokens_details": {"image_tokens": 55, "text_tokens": 5}}
HEARD = {"input_token_details": {"text_tokens": 10, "audio_tokens": 40}}


@pytest.mark.parametrize(
    ("operation", "body", "usage"),
    [
        (
            Operation.COMPLETIONS,
            {"choices": [{"text": "x"}], "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}},
            Usage(in_fresh=3, out_text=1),
        ),
        (
            Operation.IMAGES,
            {"data": [{}, {}], "usage": TOKENS | IMAGE_DETAILS},
            Usage(in_fresh=10, in_image=40, out_image=60, requests=2),
        ),
        (
            Operation.IMAGES,
            {"data": [{}], "usage": TOKENS | IMAGE_DETAILS | SPLIT},
            Usage(in_fresh=10, in_image=40, out_text=5, out_image=55),
        ),
        (Operation.IMAGES, {"data": [{}]}, None),
        (Operation.TRANSCRIPTIONS, {"text": "x", "usage": {"type": "duration", "seconds": 9.1}}, Usage(in_audio=10)),
        (
            Operation.TRANSCRIPTIONS,
            {"text": "x", "usage": TOKENS | {"type": "tokens"} | HEARD},
            Usage(in_fresh=10, in_audio=40, out_text=60),
        ),
        (Operation.TRANSCRIPTIONS, {"text": "x", "usage": TOKENS}, Usage(in_audio=50, out_text=60)),
        (Operation.TRANSCRIPTIONS, {"text": "x", "duration": 8.47}, Usage(in_audio=9)),
        (Operation.TRANSCRIPTIONS, {"text": "x", "duration": "8.47"}, Usage(in_audio=9)),
        (Operation.TRANSCRIPTIONS, {"text": "x", "duration": "long"}, None),
        (Operation.TRANSCRIPTIONS, {"text": "x", "duration": True}, None),
        (
            Operation.TRANSCRIPTIONS,
            {"text": "x", "usage": {"prompt_audio_seconds": 3, "prompt_tokens": 4, "completion_tokens": 7}},
            Usage(in_fresh=4, in_audio=3, out_text=7),
        ),
        (Operation.TRANSCRIPTIONS, {"text": ""}, None),
        (Operation.MODERATIONS, {"results": [{}]}, None),
        (
            Operation.MODERATIONS,
            {"results": [{}], "usage": {"prompt_tokens": 9, "completion_tokens": 0, "total_tokens": 9}},
            Usage(in_fresh=9),
        ),
        (Operation.RERANK, {"results": [], "usage": {"total_tokens": 9, "prompt_tokens": 9}}, Usage(in_fresh=9)),
        (Operation.RERANK, {"data": [{}], "usage": {"total_tokens": 9}}, None),
        (Operation.RERANK, {"results": [{}], "meta": {"billed_units": {"search_units": 3}}}, Usage(requests=3)),
        (
            Operation.RERANK,
            {"results": [{}], "meta": {"billed_units": {"search_units": 1.0}, "tokens": {"input_tokens": 30}}},
            Usage(in_fresh=30),
        ),
        (Operation.RERANK, {"results": [{}], "meta": {"billed_units": {"search_units": True}}}, None),
        (Operation.RERANK, [{"index": 0, "score": 0.5}], None),
    ],
)
def test_usage_goes_into_its_buckets(operation: Operation, body: Any, usage: Usage | None) -> None:
    assert good(operation, body).usage == usage


@pytest.mark.parametrize("operation", sorted(RELAYED - {Operation.SPEECH, Operation.COMPLETIONS}))
@pytest.mark.parametrize("report", [{"input_tokens": -1}, {"input_tokens": "many"}, [], "x", {"seconds": 1e300}])
def test_unusable_usage_is_an_anomaly(operation: Operation, report: Any) -> None:
    reply = good(operation, {"data": [{}], "results": [{}], "text": "x", "usage": report})
    assert (reply.usage, reply.anomaly) == (None, True)


def test_images_without_usage_are_counted() -> None:
    assert good(Operation.IMAGES, {"data": [{"url": "u"}, {"url": "v"}]}).made == 2


def test_completion_without_usage_is_measured() -> None:
    assert good(Operation.COMPLETIONS, {"choices": [{"text": "æ"}, {"text": "b"}]}).output_chars == 3


def test_model_that_served_is_named() -> None:
    assert good(Operation.MODERATIONS, {"results": [{}], "model": "judge-7"}).served_model == "judge-7"


# --- bodies that are no JSON


@pytest.mark.parametrize(
    ("content_type", "label"),
    [
        ("audio/mpeg", "audio/mpeg"),
        ("audio/pcm;rate=24000;channels=1", "audio/pcm;rate=24000;channels=1"),
        ("Audio/Ogg; codecs=opus", "audio/ogg; codecs=opus"),
        ('audio/mp4; codecs="mp4a.40.2"', 'audio/mp4; codecs="mp4a.40.2"'),
        ("audio/mpeg; a=\x7f", "audio/mpeg"),
        ("application/octet-stream", "application/octet-stream"),
        ("", "application/octet-stream"),
    ],
)
def test_sound_keeps_its_name(content_type: str, label: str) -> None:
    assert good(Operation.SPEECH, b"\xff\xfb\x90", content_type).content_type == label


@pytest.mark.parametrize("sound", [b"{not json", b"[0\x00", b"<\x00\x01"])
def test_sound_may_begin_with_any_byte(sound: bytes) -> None:
    assert isinstance(judged(Operation.SPEECH, sound, "application/octet-stream"), Reply)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/html", b"\xff\xfb"),
        ("application/json", b"\xff\xfb"),
        ("audio/mpeg\x7f", b"\xff\xfb"),
        ("audio/", b"\xff\xfb"),
        ("audio/" + "x" * 200, b"\xff\xfb"),
        ("audio/mpeg", b"[1]"),
        ("application/octet-stream", b" <!DOCTYPE html><html>"),
    ],
)
def test_what_is_no_sound_is_refused(content_type: str, body: bytes) -> None:
    assert bad(Operation.SPEECH, body, content_type) is FailureKind.BAD_CONTENT_TYPE


@pytest.mark.parametrize(
    ("content_type", "body", "label"),
    [
        ("text/plain; charset=utf-8", b"Hello.\n", "text/plain; charset=utf-8"),
        ("text/plain;charset=latin-1", b"\n", "text/plain;charset=latin-1"),
        ("text/plain", b"{laughs} Hello.", "text/plain"),
        ("text/vtt", b"WEBVTT\n", "text/vtt"),
        ("application/x-subrip", b"1\n00:00:00,000", "application/x-subrip"),
        ("application/json", b'"Hello."', None),
    ],
)
def test_transcripts_come_in_many_forms(content_type: str, body: bytes, label: str | None) -> None:
    assert good(Operation.TRANSCRIPTIONS, body, content_type).content_type == label


@pytest.mark.parametrize(
    ("content_type", "body"),
    [("text/html", b"Hello"), ("text/plain", b"<html>"), ("image/png", b"\x89PNG"), ("", b"Hello")],
)
def test_what_is_no_transcript_is_refused(content_type: str, body: bytes) -> None:
    assert bad(Operation.TRANSCRIPTIONS, body, content_type) is FailureKind.BAD_CONTENT_TYPE


# --- errors in disguise


@pytest.mark.parametrize("operation", sorted(RELAYED))
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"error": {"message": "no", "code": "rate_limit_exceeded"}}, FailureKind.RATE_LIMITED),
        ({"error": {"message": "no"}}, FailureKind.ERROR_IN_200),
        ({"detail": "no"}, FailureKind.ERROR_IN_200),
        ({"object": "error", "message": "no", "code": 40303}, FailureKind.ERROR_IN_200),
        ([{"error": {"message": "no"}}], FailureKind.ERROR_IN_200),
        ({}, FailureKind.EMPTY),
        ({"data": [], "choices": [], "text": None}, FailureKind.EMPTY),
        (b"", FailureKind.EMPTY),
    ],
)
def test_errors_in_a_200_are_errors(operation: Operation, body: Any, kind: FailureKind) -> None:
    if operation is Operation.TRANSCRIPTIONS and isinstance(body, list):
        kind = FailureKind.BAD_CONTENT_TYPE
    assert bad(operation, body) is kind


@given(
    operation=st.sampled_from(sorted(RELAYED)),
    content_type=st.sampled_from([JSON_TYPE, "text/plain", "audio/mpeg", "text/html", "", "ø"]),
    body=st.binary(max_size=40)
    | st.dictionaries(
        st.sampled_from(["choices", "data", "results", "text", "usage", "meta", "model", "error", "duration"]),
        st.sampled_from([None, 1, -1, 1.5, "x", [], [{}], {}, {"tokens": 1}, {"billed_units": [], "tokens": []}]),
    ).map(lambda value: json.dumps(value).encode()),
)
def test_no_body_raises(operation: Operation, content_type: str, body: bytes) -> None:
    assert isinstance(OPENAI.read_reply(operation, content_type, body), Reply | Failure)
