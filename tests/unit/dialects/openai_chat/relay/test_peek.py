"""What is read of requests beside chat, and what they are going to use."""

import json
import struct
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerx.dialects.multipart import read_form
from routerx.dialects.openai_chat import OPENAI
from routerx.dialects.openai_chat.relay import RELAYED
from routerx.domain.call import Metered, Operation, Peek
from routerx.domain.usage import Usage
from routerx.errors import InvalidParameter
from routerx.jsonx import Raw, request_object

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def peek(operation: Operation, /, **fields: Any) -> Peek:
    body = json.dumps({"model": "m", **fields}).encode()
    return OPENAI.peek(operation, body, request_object(body))


def metered(operation: Operation, /, **fields: Any) -> Metered:
    found = peek(operation, **fields).metered
    assert found is not None
    return found


def listen(sound: bytes, **fields: str) -> Peek:
    parts = b"".join(
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in {"model": "m", **fields}.items()
    )
    file = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + sound + b"\r\n--x--"
    form = read_form("multipart/form-data; boundary=x", parts + file)
    return OPENAI.peek(Operation.TRANSCRIPTIONS, form.body, form.fields)


def not_above(likely: Usage, most: Usage) -> bool:
    pairs = zip(msgspec.structs.astuple(likely), msgspec.structs.astuple(most), strict=True)
    return all(one <= other for one, other in pairs)


# --- text completions


@pytest.mark.parametrize(
    ("fields", "choices"),
    [
        ({}, 1),
        ({"prompt": "x"}, 1),
        ({"prompt": ["x", "y"]}, 2),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": [[1, 2], [3]], "n": 3}, 6),
        ({"prompt": "x", "n": 2, "best_of": 5}, 5),
    ],
)
def test_every_completion_that_is_made_counts(fields: dict[str, Any], choices: int) -> None:
    assert peek(Operation.COMPLETIONS, **fields).choices == choices


def test_completion_says_how_it_streams_and_how_long_it_may_get() -> None:
    found = peek(
        Operation.COMPLETIONS,
        prompt="x",
        stream=True,
        stream_options={"include_usage": True},
        max_tokens=7,
        user="u",
    )
    assert (found.stream, found.wants_usage, found.output_tokens_max, found.user) == (True, True, 7, "u")
    assert found.metered is None


def test_a_longer_prompt_is_estimated_larger() -> None:
    short = peek(Operation.COMPLETIONS, prompt="x" * 10).input_tokens_estimate
    assert peek(Operation.COMPLETIONS, prompt="x" * 1_000).input_tokens_estimate > short + 400
    assert peek(Operation.COMPLETIONS, prompt="x" * 10, suffix="x" * 1_000).input_tokens_estimate > short + 400
    assert peek(Operation.COMPLETIONS, prompt=[[7] * 500, [7] * 500]).input_tokens_estimate > 1_000


# --- images


def test_images_are_held_for_by_number_and_quality() -> None:
    low, high = (metered(Operation.IMAGES, prompt="x", n=2, quality=quality) for quality in ("low", "high"))
    assert low.most.requests == low.likely.requests == 2
    assert low.most.out_image < high.most.out_image
    assert metered(Operation.IMAGES, prompt="x", n=2).most == high.most
    assert metered(Operation.IMAGES, prompt="x", n=2, quality="hd").most == high.most


def test_images_that_were_not_made_are_not_charged() -> None:
    three = metered(Operation.IMAGES, prompt="x", n=3, quality="low")
    assert three.made(3) == three.made(None) == three.likely
    assert (three.made(1).requests, three.made(1).out_image) == (1, 272)
    assert three.made(9) == three.likely


# --- speech


def test_speech_is_metered_by_characters_not_bytes() -> None:
    assert metered(Operation.SPEECH, input="Grüße").likely.in_fresh == 5
    assert metered(Operation.SPEECH, input="Grüße", instructions="calm").likely.in_fresh == 9


@pytest.mark.parametrize(("stream_format", "stream"), [(None, False), ("audio", False), ("sse", True)])
def test_speech_streams_as_events_only(stream_format: str | None, stream: bool) -> None:
    assert peek(Operation.SPEECH, input="x", stream_format=stream_format).stream is stream


# --- transcriptions


def wav(rate: int, size: int) -> bytes:
    return struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 0, b"WAVE", b"fmt ", 16, 1, 1, 8_000, rate, 2, 16).ljust(size, b"\0")


def test_the_length_of_a_recording_is_in_its_header() -> None:
    found = listen(wav(16_000, 160_000)).metered
    assert found is not None
    assert (found.likely.in_audio, found.most.in_audio) == (10, 10)


@pytest.mark.parametrize("sound", [wav(0, 80_000), wav(4_000_000_000, 80_000), b"ID3" + bytes(79_997)])
def test_other_recordings_are_as_long_as_speech_usually_is(sound: bytes) -> None:
    found = listen(sound).metered
    assert found is not None
    assert (found.likely.in_audio, found.most.in_audio) == (10, 40)


@pytest.mark.parametrize(("word", "stream"), [("true", True), ("True", True), ("false", False), ("", False)])
def test_a_form_says_in_words_whether_to_stream(word: str, stream: bool) -> None:
    assert listen(b"x", stream=word).stream is stream


def test_an_empty_file_is_the_providers_to_refuse() -> None:
    assert listen(b"").metered is not None


# --- moderations, rerank


def test_moderation_costs_nothing_by_itself() -> None:
    assert metered(Operation.MODERATIONS, input=["a", "b"]).likely == Usage()


def test_rerank_is_metered_by_search_units() -> None:
    found = metered(Operation.RERANK, query="x", documents=["y"] * 101)
    assert found.likely.requests == 2
    assert metered(Operation.RERANK, query="x", documents=["y " * 3_000] * 100).most.requests > 2


# --- laws


@pytest.mark.parametrize("operation", sorted(RELAYED - {Operation.TRANSCRIPTIONS}))
def test_no_body_raises_anything_but_a_refusal(operation: Operation) -> None:
    keys = ("prompt", "suffix", "n", "best_of", "max_tokens", "stream", "stream_options", "user", "quality", "input")
    more = ("instructions", "stream_format", "query", "documents", "model")

    @given(st.dictionaries(st.sampled_from((*keys, *more)), JSON, max_size=6))
    def law(fields: Mapping[str, Any]) -> None:
        try:
            found = peek(operation, **fields)
        except InvalidParameter:
            return
        assert found.operation is operation
        assert found.metered is None or not_above(found.metered.likely, found.metered.most)

    law()


@given(st.binary(max_size=100))
def test_no_recording_is_too_odd(sound: bytes) -> None:
    found = listen(sound.replace(b"--x", b"")).metered
    assert found is not None
    assert not_above(found.likely, found.most)


@pytest.mark.parametrize("raw", [b'"1"', b"1", b"{}", b"[]", b"null", b'"yes"'])
def test_odd_wishes_to_stream_are_refused(raw: bytes) -> None:
    fields = {"model": Raw(b'"m"'), "file": Raw(b'{"start":0,"end":0}'), "stream": Raw(raw)}
    with pytest.raises(InvalidParameter, match="stream"):
        OPENAI.peek(Operation.TRANSCRIPTIONS, b"", fields)
