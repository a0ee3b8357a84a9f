"""Usage on the wire into disjoint buckets, and the judgement of whole replies."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from routerx.dialects.base import Reply
from routerx.dialects.openai_chat import OPENAI
from routerx.dialects.openai_chat.usage import UsageReader
from routerx.domain.call import Operation
from routerx.domain.failure import Failure, FailureKind
from routerx.domain.usage import Usage


def read(*reports: Any, generates: bool = True) -> tuple[Usage | None, bool]:
    reader = UsageReader(generates=generates)
    for report in reports:
        reader.read(Raw(report if isinstance(report, bytes) else json.dumps(report).encode()))
    return reader.usage, reader.anomaly


def usage(prompt: int, completion: int, total: int | None = None, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total, **more}


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (usage(10, 5, 15), Usage(in_fresh=10, out_text=5)),
        (
            usage(100, 50, 150, prompt_tokens_details={"cached_tokens": 60}),
            Usage(in_fresh=40, in_cache_read=60, out_text=50),
        ),
        (
            usage(4020, 4, 4024, prompt_tokens_details={"cached_tokens": 8, "cache_write_tokens": 4012}),
            Usage(in_cache_read=8, in_cache_write_5m=4012, out_text=4),
        ),
        (usage(100, 50, prompt_cache_hit_tokens=60), Usage(in_fresh=40, in_cache_read=60, out_text=50)),
        (usage(100, 50, num_cached_tokens=60), Usage(in_fresh=40, in_cache_read=60, out_text=50)),
        (usage(100, 50, cached_tokens=60), Usage(in_fresh=40, in_cache_read=60, out_text=50)),
        (
            usage(100, 50, prompt_token_details={"cached_tokens": 60}),
            Usage(in_fresh=40, in_cache_read=60, out_text=50),
        ),
        (
            usage(64, 9, 73, prompt_tokens_details={"audio_tokens": 44}, completion_tokens_details={"audio_tokens": 5}),
            Usage(in_fresh=20, in_audio=44, out_text=4, out_audio=5),
        ),
        (
            usage(10, 50, 60, completion_tokens_details={"reasoning_tokens": 30}),
            Usage(in_fresh=10, out_text=20, out_reasoning=30),
        ),
        (usage(10, 5, prompt_tokens_details=None, completion_tokens_details=None), Usage(in_fresh=10, out_text=5)),
        ({"prompt_tokens": 10, "total_tokens": 15}, Usage(in_fresh=10, out_text=5)),
        ({"completion_tokens": 5, "total_tokens": 15}, Usage(in_fresh=10, out_text=5)),
        (usage(0, 0, 0), Usage()),
    ],
)
def test_parts_are_taken_out_of_their_wholes(report: dict[str, Any], expected: Usage) -> None:
    assert read(report) == (expected, False)


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        # Reasoning beside the completion, as the total shows; as much as the text or less does not matter.
        (
            usage(12, 300, 340, completion_tokens_details={"reasoning_tokens": 28}),
            Usage(in_fresh=12, out_text=300, out_reasoning=28),
        ),
        # The same without a total that says so: a part larger than its whole.
        (
            usage(12, 2, completion_tokens_details={"reasoning_tokens": 28}),
            Usage(in_fresh=12, out_text=2, out_reasoning=28),
        ),
        # Audio beside the prompt.
        (
            usage(9, 201, 585, prompt_tokens_details={"audio_tokens": 375}),
            Usage(in_fresh=9, in_audio=375, out_text=201),
        ),
        # Cache hits beside the prompt.
        (
            usage(9, 1, 110, prompt_tokens_details={"cached_tokens": 100}),
            Usage(in_fresh=9, in_cache_read=100, out_text=1),
        ),
        # Hidden reasoning shows in the total alone.
        (usage(35, 12, 109), Usage(in_fresh=35, out_text=12, out_reasoning=62)),
    ],
)
def test_parts_beside_their_wholes_are_told_by_the_total(report: dict[str, Any], expected: Usage) -> None:
    assert read(report) == (expected, False)


def test_more_cache_hits_than_prompt_are_not_believed_but_the_totals_are() -> None:
    report = usage(7, 1, 8, prompt_tokens_details={"cached_tokens": 161})
    assert read(report) == (Usage(in_fresh=7, out_text=1), True)


def test_overlapping_parts_share_the_prompt_out_once() -> None:
    report = usage(265, 52, 317, prompt_tokens_details={"cached_tokens": 162, "text_tokens": 9, "image_tokens": 256})
    assert read(report) == (Usage(in_cache_read=162, in_image=103, out_text=52), False)


@pytest.mark.parametrize(("cached", "written", "read_only"), [(2161, 2161, 0), (2161, 2000, 161), (2000, 2161, 0)])
def test_a_prefix_that_is_read_and_written_at_once_leaves_the_rest_fresh(
    cached: int, written: int, read_only: int
) -> None:
    details = {"cached_tokens": cached, "cache_write_tokens": written}
    expected = Usage(in_fresh=7, in_cache_read=read_only, in_cache_write_5m=written, out_text=100)
    assert read(usage(2168, 100, 2268, prompt_tokens_details=details)) == (expected, False)


@pytest.mark.parametrize(
    "report",
    [
        usage(-1, 5),
        usage(10, -5),
        usage(10, 5, prompt_tokens_details={"cached_tokens": -1}),
        b'{"prompt_tokens":10.5,"completion_tokens":5}',
        b'{"prompt_tokens":"10","completion_tokens":5}',
        b'{"prompt_tokens":1e308,"completion_tokens":5}',
        b'{"prompt_tokens":1e400,"completion_tokens":5}',
        b'{"prompt_tokens":10,"completion_tokens":true}',
        usage(10, (1 << 40) + 1),
        usage(10, 10**30),
        b"[]",
        b'"5"',
    ],
)
def test_a_number_that_cannot_be_one_makes_usage_invalid(report: Any) -> None:
    assert read(report) == (None, True)


@pytest.mark.parametrize("report", [{}, {"queue_time": 0.5}, usage(0, 0, 0) | dict.fromkeys(usage(0, 0))])
def test_an_object_without_counts_is_absent_not_invalid(report: Any) -> None:
    assert read(report) == (None, False)


def test_output_without_a_count_is_not_guessed() -> None:
    assert read({"prompt_tokens": 10})[0] is None
    assert read({"prompt_tokens": 10}, generates=False) == (Usage(in_fresh=10), False)


def test_repeated_reports_are_cumulative_and_never_summed() -> None:
    first = usage(10, 10, prompt_tokens_details={"cached_tokens": 4})
    last = usage(10, 20, completion_tokens_details={"reasoning_tokens": 15})
    assert read(first, last, last)[0] == Usage(in_fresh=6, in_cache_read=4, out_text=5, out_reasoning=15)


def test_an_invalid_last_report_takes_the_earlier_ones_with_it() -> None:
    assert read(usage(10, 5), usage(10, -1)) == (None, True)
    assert read(usage(10, -1), usage(10, 5)) == (Usage(in_fresh=10, out_text=5), True)


counts = st.none() | st.integers(0, 200)


@given(
    st.fixed_dictionaries({}, optional={"prompt_tokens": counts, "completion_tokens": counts, "total_tokens": counts}),
    st.dictionaries(st.sampled_from(["cached_tokens", "cache_write_tokens", "audio_tokens", "image_tokens"]), counts),
    st.dictionaries(st.sampled_from(["reasoning_tokens", "audio_tokens", "image_tokens"]), counts),
)
def test_buckets_are_never_negative_and_never_less_than_what_was_reported(
    ends: dict[str, int | None], into: dict[str, int | None], out: dict[str, int | None]
) -> None:
    got, _ = read({**ends, "prompt_tokens_details": into, "completion_tokens_details": out})
    if got is None:
        return
    assert min(got.in_fresh, got.in_cache_read, got.in_cache_write_5m, got.in_audio, got.in_image) >= 0
    assert min(got.out_text, got.out_reasoning, got.out_audio, got.out_image) >= 0
    assert got.input_tokens >= (ends.get("prompt_tokens") or 0)
    assert got.output_tokens >= (ends.get("completion_tokens") or 0)


# --- whole replies


def reply(body: Any, operation: Operation = Operation.CHAT, content_type: str = "application/json") -> Reply | Failure:
    return OPENAI.read_reply(operation, content_type, body if isinstance(body, bytes) else json.dumps(body).encode())


def answer(message: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": "c1", "model": "m1", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], **more}


def test_an_answer_is_read() -> None:
    got = reply(answer({"role": "assistant", "content": "héllo"}, usage=usage(10, 5, 15)))
    assert got == Reply(Usage(in_fresh=10, out_text=5), False, "m1")


@pytest.mark.parametrize(
    ("message", "size"),
    [
        ({"content": None}, 0),
        ({"content": [{"type": "thinking", "thinking": [{"text": "abc"}]}, {"type": "text", "text": "d"}]}, 4),
        ({"content": None, "tool_calls": [{"id": "x", "function": {"name": "fn", "arguments": '{"a":1}'}}]}, 9),
        ({"content": "a", "reasoning_content": "bcd", "reasoning": "bcd"}, 4),
        ({"content": None, "refusal": "no"}, 2),
        ({"content": None, "audio": {"id": "a", "data": "A" * 1000, "transcript": "hi"}}, 2),
    ],
)
def test_generated_text_is_measured_wherever_it_stands(message: dict[str, Any], size: int) -> None:
    got = reply(answer(message, usage=usage(-1, 1)))
    assert isinstance(got, Reply)
    assert got.output_chars == size


def test_what_usage_says_is_not_measured_again() -> None:
    got = reply(answer({"content": "hello"}, usage=usage(1, 1)))
    assert isinstance(got, Reply)
    assert got.output_chars == 0


def test_zero_usage_beside_content_is_a_value_and_an_anomaly() -> None:
    assert reply(answer({"content": "hi"}, usage=usage(0, 0, 0))) == Reply(Usage(), True, "m1", 2)
    assert reply(answer({"content": "hi"})) == Reply(None, False, "m1", 2)


def test_invalid_usage_does_not_spoil_the_answer() -> None:
    assert reply(answer({"content": "hi"}, usage=usage(-1, 5))) == Reply(None, True, "m1", 2)


def test_usage_in_the_vendors_envelope_is_read() -> None:
    got = reply(answer({"content": "hi"}, x_groq={"id": "r", "usage": usage(3, 4, 7)}))
    assert isinstance(got, Reply)
    assert got.usage == Usage(in_fresh=3, out_text=4)


def test_half_a_surrogate_pair_does_not_spoil_the_answer() -> None:
    got = reply(b'{"choices":[{"message":{"content":"a\\ud83d"}}],"usage":{"prompt_tokens":-1}}')
    assert isinstance(got, Reply)
    assert got.output_chars == 4


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", FailureKind.EMPTY),
        (b" \n ", FailureKind.EMPTY),
        ({"id": "x", "choices": []}, FailureKind.EMPTY),
        ({"id": "x", "choices": [], "usage": None}, FailureKind.EMPTY),
        ({"hello": 1}, FailureKind.EMPTY),
        (b"<!DOCTYPE html><html>", FailureKind.BAD_CONTENT_TYPE),
        (b'data: {"choices":[]}\n\n', FailureKind.BAD_CONTENT_TYPE),
        (b'{"choices":[{"message"', FailureKind.BAD_CONTENT_TYPE),
        (b"[]", FailureKind.BAD_CONTENT_TYPE),
        ({"choices": "x"}, FailureKind.BAD_CONTENT_TYPE),
        ({"error": {"message": "boom"}}, FailureKind.ERROR_IN_200),
        ({"error": {"message": "boom", "code": 502}}, FailureKind.ERROR_IN_200),
        ({"error": {"message": "slow", "code": 429}}, FailureKind.RATE_LIMITED),
        ({"error": {"message": "slow", "type": "overloaded_error"}}, FailureKind.OVERLOADED),
        ({"error": {"message": "long", "code": "context_length_exceeded"}}, FailureKind.CONTEXT_EXCEEDED),
        ({"error": {"message": "pay", "type": "insufficient_quota"}}, FailureKind.EXHAUSTED),
        ([{"error": {"code": 400, "message": "bad", "status": "INVALID_ARGUMENT"}}], FailureKind.REJECTED),
        ({"object": "error", "message": "boom", "type": "x", "code": 5}, FailureKind.ERROR_IN_200),
        ({"detail": "boom"}, FailureKind.ERROR_IN_200),
    ],
)
def test_what_only_looks_like_an_answer_is_a_failure(body: Any, kind: FailureKind) -> None:
    got = reply(body)
    assert isinstance(got, Failure)
    assert got.kind is kind


def test_an_empty_choice_list_with_usage_is_an_answer() -> None:
    assert reply({"choices": [], "usage": usage(5, 0, 5)}) == Reply(Usage(in_fresh=5), empty=True)


def test_an_answers_label_does_not_matter() -> None:
    body = answer({"content": "hi"}, usage=usage(1, 1))
    assert isinstance(reply(body, content_type="text/html"), Reply)
    assert isinstance(reply(body, content_type=""), Reply)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            {
                "data": [{"embedding": [0.5], "index": 0}],
                "model": "e",
                "usage": {"prompt_tokens": 7, "total_tokens": 7},
            },
            Reply(Usage(in_fresh=7), False, "e"),
        ),
        ({"data": [{"embedding": "AAAA"}], "usage": {"prompt_tokens": 7}}, Reply(Usage(in_fresh=7))),
        ({"data": [{"embedding": []}]}, Reply(None)),
        ({"data": [{"embedding": []}], "usage": usage(0, 0, 0)}, Reply(Usage(), True)),
    ],
)
def test_embeddings_are_read(body: Any, expected: Reply) -> None:
    assert reply(body, Operation.EMBEDDINGS) == expected


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"data": []}, FailureKind.EMPTY),
        ({}, FailureKind.EMPTY),
        ({"error": "boom"}, FailureKind.ERROR_IN_200),
        (b"{", FailureKind.BAD_CONTENT_TYPE),
    ],
)
def test_what_only_looks_like_embeddings_is_a_failure(body: Any, kind: FailureKind) -> None:
    got = reply(body, Operation.EMBEDDINGS)
    assert isinstance(got, Failure)
    assert got.kind is kind
