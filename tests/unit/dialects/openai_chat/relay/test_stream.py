"""Streams beside chat: their end, their usage and their errors, at any cut."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerx.dialects.base import StreamTap
from routerx.dialects.openai_chat import OPENAI
from routerx.dialects.openai_chat.relay.stream import completion_as_stream
from routerx.domain.call import Operation, Peek
from routerx.domain.failure import FailureKind
from routerx.domain.usage import Usage
from tests.support.traffic import needs_traffic, stored


def sse(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def watched(operation: Operation, stream: bytes, *, choices: int = 1, cut: int = 1 << 30) -> tuple[StreamTap, bytes]:
    """The tap at the end of a stream, and what the caller has got by then."""
    tap = OPENAI.tap(Peek(operation, "m", stream=True, choices=choices), strip_usage=False)
    got = b"".join(tap.feed(stream[at : at + cut]) for at in range(0, len(stream), cut))
    tap.close()
    return tap, got + tap.terminal


TOKENS = {"input_tokens": 4, "output_tokens": 60, "total_tokens": 64}
SPEECH = sse({"type": "speech.audio.delta", "audio": "aGk="}) + sse({"type": "speech.audio.done", "usage": TOKENS})
HEARD = {**TOKENS, "input_token_details": {"audio_tokens": 3, "text_tokens": 1}}
TRANSCRIPT = (
    sse({"type": "transcript.text.delta", "delta": "Hi"})
    + sse({"type": "transcript.text.done", "text": "Hi", "usage": HEARD})
    + DONE
)
IMAGE = {"type": "image_generation.completed", "b64_json": "aGk=", "usage": TOKENS}
IMAGES = sse({"type": "image_generation.partial_image", "b64_json": "aGk="}) + sse(IMAGE) * 2


@pytest.mark.parametrize(
    ("operation", "stream", "choices", "usage"),
    [
        (Operation.SPEECH, SPEECH, 1, Usage(in_fresh=4, out_audio=60)),
        (Operation.TRANSCRIPTIONS, TRANSCRIPT, 1, Usage(in_fresh=1, in_audio=3, out_text=60)),
        (Operation.IMAGES, IMAGES, 2, Usage(in_fresh=4, out_image=60, requests=2)),
    ],
)
@pytest.mark.parametrize("cut", [1, 7, 1 << 30])
def test_typed_streams_pass_and_are_metered(
    operation: Operation, stream: bytes, choices: int, usage: Usage, cut: int
) -> None:
    tap, got = watched(operation, stream, choices=choices, cut=cut)
    assert got == stream
    assert (tap.failure, tap.finished, tap.usage, tap.anomaly) == (None, True, usage, False)


@pytest.mark.parametrize(
    ("operation", "stream"),
    [(Operation.SPEECH, SPEECH), (Operation.TRANSCRIPTIONS, TRANSCRIPT), (Operation.IMAGES, IMAGES)],
)
def test_the_end_waits_for_the_charge(operation: Operation, stream: bytes) -> None:
    tap = OPENAI.tap(Peek(operation, "m", stream=True), strip_usage=False)
    flowed = tap.feed(stream)
    assert flowed == stream.split(b"\n\n")[0] + b"\n\n"
    assert b"usage" in tap.terminal


@pytest.mark.parametrize(
    ("frame", "kind"),
    [
        (sse({"type": "error", "error": {"message": "no", "code": "rate_limit_exceeded"}}), FailureKind.RATE_LIMITED),
        (sse({"type": "error", "message": "no"}), FailureKind.ERROR_MIDSTREAM),
        (b'event: error\ndata: {"message": "no"}\n\n', FailureKind.ERROR_MIDSTREAM),
        (b"data: hello\n\n", FailureKind.INVALID_CHUNK),
        (b"", FailureKind.TRUNCATED),
    ],
)
def test_a_stream_that_breaks_is_a_failure(frame: bytes, kind: FailureKind) -> None:
    tap, _ = watched(Operation.SPEECH, SPEECH.split(b"\n\n")[0] + b"\n\n" + frame)
    assert tap.failure is not None
    assert tap.failure.kind is kind


def test_an_empty_stream_is_no_answer() -> None:
    tap, _ = watched(Operation.TRANSCRIPTIONS, b"")
    assert tap.failure is not None
    assert tap.failure.kind is FailureKind.EMPTY


def test_a_stream_of_another_shape_that_says_it_is_done_is_whole() -> None:
    chunk = {"object": "transcription.chunk", "choices": [{"delta": {"content": "Hi"}}]}
    tap, got = watched(Operation.TRANSCRIPTIONS, sse(chunk) + DONE)
    assert (tap.failure, tap.done) == (None, True)
    assert got == sse(chunk) + DONE


# --- text completions


def test_a_whole_completion_streams_as_itself() -> None:
    answer = {"id": "c", "model": "m", "choices": [{"text": "Hi", "index": 0, "finish_reason": "stop"}]}
    answer["usage"] = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}  # type: ignore[assignment]
    tap, got = watched(Operation.COMPLETIONS, completion_as_stream(json.dumps(answer, indent=1).encode()))
    frame, _, rest = got.partition(b"\n\n")
    assert json.loads(frame.removeprefix(b"data: ")) == answer
    assert rest == DONE
    assert (tap.usage, tap.output_chars, tap.response_id) == (Usage(in_fresh=1, out_text=2), 2, "c")


@needs_traffic
@given(cut=st.integers(1, 400))
def test_recorded_completion_stream(cut: int) -> None:
    recording = stored("openai.completions", stream=True)
    stream = recording["stream_bytes"].encode()
    tap, got = watched(Operation.COMPLETIONS, stream, cut=cut)
    assert tap.failure is None
    assert got == stream
    assert (tap.usage, tap.served_model) == (
        Usage(in_fresh=14, out_text=16),
        "gpt-3.5-turbo-instruct:20230824-v2",
    )


@needs_traffic
def test_recorded_completion() -> None:
    recording = stored("openai.completions", stream=False)
    reply = OPENAI.read_reply(Operation.COMPLETIONS, "application/json", recording["response_text"].encode())
    assert getattr(reply, "usage", None) == Usage(in_fresh=14, out_text=16)
