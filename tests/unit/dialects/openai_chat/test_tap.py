"""The tap: what flows, what is withheld, what is learnt, and how streams end."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerx.dialects.base import TERMINAL_BYTES_MAX
from routerx.dialects.openai_chat import OPENAI
from routerx.dialects.openai_chat.tap import DONE_FRAME, OpenAITap, to_stream
from routerx.domain.call import Operation, Peek
from routerx.domain.failure import FailureKind
from routerx.domain.usage import Usage

USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


def frame(value: Any, newline: str = "\n") -> bytes:
    return f"data: {json.dumps(value)}{newline}{newline}".encode()


def chunk(delta: Any = None, finish: str | None = None, index: int = 0, **more: Any) -> bytes:
    choice = {"index": index, "delta": {} if delta is None else delta, "finish_reason": finish}
    return frame({"id": "c1", "model": "m1", "choices": [choice], **more})


ROLE = chunk({"role": "assistant", "content": ""})
TEXT = chunk({"content": "héllo"})
FINISH = chunk(finish="stop")
USAGE_FRAME = frame({"id": "c1", "choices": [], "usage": USAGE})
WHOLE = ROLE + TEXT + FINISH + USAGE_FRAME + DONE_FRAME


def tap(choices: int = 1, *, strip_usage: bool = False) -> OpenAITap:
    return OpenAITap(choices, strip_usage=strip_usage)


def run(*chunks: bytes, choices: int = 1, strip_usage: bool = False) -> tuple[bytes, OpenAITap, Any]:
    watcher = tap(choices, strip_usage=strip_usage)
    out = b"".join(watcher.feed(data) for data in chunks)
    failure = watcher.close()
    assert watcher.close() is failure
    return out, watcher, failure


# --- what flows and what waits


def test_everything_from_the_last_finish_on_is_withheld() -> None:
    out, watcher, failure = run(WHOLE)
    assert (out, watcher.terminal, failure) == (ROLE + TEXT, FINISH + USAGE_FRAME + DONE_FRAME, None)
    assert watcher.finished
    assert watcher.done
    assert not watcher.missing_done
    assert (watcher.usage, watcher.anomaly) == (Usage(in_fresh=10, out_text=5), False)
    assert (watcher.served_model, watcher.response_id, watcher.output_chars) == ("m1", "c1", 6)


def test_a_chunk_of_ordinary_frames_is_forwarded_as_it_is() -> None:
    watcher = tap()
    watcher.feed(ROLE)
    data = TEXT + b": keep-alive\n\n" + b'data:   {"choices": [ {"delta":{"content":"x"}} ]}  \n\n\n\n'
    assert watcher.feed(data) is data


def test_finish_frames_of_earlier_choices_flow() -> None:
    first, second = chunk(finish="stop", index=1), chunk(finish="length", index=0)
    out, watcher, failure = run(TEXT + first + TEXT + second + DONE_FRAME, choices=2)
    assert (out, watcher.terminal, failure) == (TEXT + first + TEXT, second + DONE_FRAME, None)


def test_a_finish_repeated_for_the_same_choice_does_not_end_the_others() -> None:
    out, watcher, _ = run(FINISH, FINISH, TEXT, choices=2)
    assert out == FINISH + FINISH + TEXT
    assert not watcher.finished


def test_finish_and_usage_frames_after_the_finish_are_withheld() -> None:
    again = chunk({"content": ""}, finish="stop", usage=USAGE)
    out, watcher, _ = run(TEXT + FINISH + b": ping\n\n" + again + chunk({"content": ""}, usage=USAGE) + DONE_FRAME)
    assert out == TEXT
    assert watcher.terminal.startswith(FINISH + b": ping\n\n")
    assert watcher.usage == Usage(in_fresh=10, out_text=5)


def test_an_empty_finish_reason_is_none() -> None:
    assert run(chunk({"content": "a"}, finish=""))[1].finished is False


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_a_usage_frame_we_asked_for_is_removed_wherever_it_stands(at: int) -> None:
    frames = [ROLE, TEXT, FINISH, DONE_FRAME]
    stream = b"".join([*frames[:at], USAGE_FRAME, *frames[at:]])
    for chunks in ([stream], [stream[n : n + 1] for n in range(len(stream))]):
        out, watcher, failure = run(*chunks, strip_usage=True)
        assert (out + watcher.terminal, failure) == (b"".join(frames), None)
        assert watcher.usage == Usage(in_fresh=10, out_text=5)


def test_other_frames_without_choices_are_not_removed() -> None:
    filters = frame({"choices": [], "prompt_filter_results": [{}], "usage": None})
    with_choices = chunk({}, usage=USAGE)
    assert run(filters + with_choices + TEXT, strip_usage=True)[0] == filters + with_choices + TEXT


def test_what_follows_the_end_mark_is_dropped() -> None:
    out, watcher, failure = run(TEXT + FINISH + DONE_FRAME + DONE_FRAME + TEXT, TEXT)
    assert (out, watcher.terminal, failure) == (TEXT, FINISH + DONE_FRAME, None)


# --- content


@pytest.mark.parametrize(
    ("delta", "size"),
    [
        ({"content": "a"}, 1),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "ab"}]}]}, 2),
        ({"content": "", "reasoning_content": "abc"}, 3),
        ({"reasoning": "abc"}, 3),
        ({"refusal": "no"}, 2),
        ({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}, 2),
        ({"tool_calls": [{"index": 0, "function": {"arguments": ""}}]}, 1),
        ({"content": "", "function_call": {"name": "f", "arguments": ""}}, 1),
        ({"audio": {"data": "AAAA"}}, 1),
        ({"content": "", "audio": {"transcript": "abc"}}, 3),
    ],
)
def test_content_commits(delta: dict[str, Any], size: int) -> None:
    watcher = tap()
    watcher.feed(chunk(delta))
    assert watcher.has_content
    assert watcher.output_chars == size


@pytest.mark.parametrize(
    "data",
    [ROLE, b": ping\n\n", chunk({"content": None}), frame({"choices": []}), b"data:\n\n", chunk({"tool_calls": []})],
)
def test_what_holds_no_content_does_not_commit(data: bytes) -> None:
    watcher = tap()
    assert watcher.feed(data) == data
    assert not watcher.has_content


def test_a_bare_finish_commits() -> None:
    watcher = tap()
    assert watcher.feed(FINISH) == b""
    assert watcher.has_content
    assert watcher.finished


def test_empty_names_wait_for_real_ones() -> None:
    watcher = tap()
    watcher.feed(frame({"id": "", "model": "", "choices": []}) + chunk({"content": "a"}))
    watcher.feed(frame({"id": "c2", "model": "m2", "choices": []}))
    assert (watcher.response_id, watcher.served_model) == ("c1", "m1")


def test_an_id_stays_while_the_model_is_waited_for() -> None:
    watcher = tap()
    watcher.feed(frame({"id": "c1", "choices": []}) + frame({"id": "c2", "model": "m1", "choices": []}))
    assert (watcher.response_id, watcher.served_model) == ("c1", "m1")


# --- usage


def test_usage_on_many_frames_is_never_summed() -> None:
    frames = [
        chunk({"content": "a"}, usage={**USAGE, "completion_tokens": n, "total_tokens": 10 + n}) for n in (1, 3, 5)
    ]
    _, watcher, _ = run(b"".join(frames) + FINISH + DONE_FRAME)
    assert watcher.usage == Usage(in_fresh=10, out_text=5)


def test_usage_in_the_vendors_envelope_and_beside_it_counts_once() -> None:
    ending = chunk(finish="stop", x_groq={"usage": USAGE})
    assert run(TEXT + ending)[1].usage == Usage(in_fresh=10, out_text=5)
    assert run(TEXT + ending + USAGE_FRAME)[1].usage == Usage(in_fresh=10, out_text=5)


@pytest.mark.parametrize(
    ("raw", "usage", "anomaly"),
    [
        (b"null", None, False),
        (b'{"prompt_tokens":0,"completion_tokens":0}', Usage(), True),
        (b'{"prompt_tokens":-1,"completion_tokens":5}', None, True),
        (b'{"prompt_tokens":1e400,"completion_tokens":5}', None, True),
    ],
)
def test_odd_usage_does_not_break_the_stream(raw: bytes, usage: Usage | None, anomaly: bool) -> None:
    ending = b'data: {"choices":[],"usage":%s}\n\n' % raw
    _, watcher, failure = run(TEXT + FINISH + ending + DONE_FRAME)
    assert (watcher.usage, watcher.anomaly, failure) == (usage, anomaly, None)


def test_zero_usage_without_content_is_no_anomaly() -> None:
    ending = frame({"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 0}})
    _, watcher, failure = run(FINISH + ending + DONE_FRAME)
    assert (watcher.usage, watcher.anomaly, failure) == (Usage(), False, None)


# --- failures


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (frame({"error": {"message": "boom"}}), FailureKind.ERROR_MIDSTREAM),
        (frame({"error": {"message": "boom", "code": 502}}), FailureKind.ERROR_MIDSTREAM),
        (frame({"error": {"message": "boom", "type": "server_error"}, "choices": []}), FailureKind.ERROR_MIDSTREAM),
        (frame({"error": "boom"}), FailureKind.ERROR_MIDSTREAM),
        (frame({"choices": [], "x_groq": {"error": "over_capacity"}}), FailureKind.ERROR_MIDSTREAM),
        (frame({"error": {"code": 429, "message": "slow"}}), FailureKind.RATE_LIMITED),
        (frame({"error": {"type": "overloaded_error"}}), FailureKind.OVERLOADED),
        (frame({"error": {"code": "context_length_exceeded"}}), FailureKind.CONTEXT_EXCEEDED),
        (frame({"error": {"code": "invalid_request_error", "type": "rate_limit_error"}}), FailureKind.RATE_LIMITED),
        (frame({"error": {"type": "invalid_request_error", "status_code": 400}}), FailureKind.REJECTED),
        (b'event: error\ndata: {"message":"boom"}\n\n', FailureKind.ERROR_MIDSTREAM),
        (b"event: error\ndata: boom\n\n", FailureKind.ERROR_MIDSTREAM),
        (b"data: {garbage\n\n", FailureKind.INVALID_CHUNK),
        (b"data: 5\n\n", FailureKind.INVALID_CHUNK),
        (b'data: {"choices":[5]}\n\n', FailureKind.INVALID_CHUNK),
        (b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n', FailureKind.INVALID_CHUNK),
        (b"data: " + b"[" * 5_000 + b"]" * 5_000 + b"\n\n", FailureKind.INVALID_CHUNK),
        (b"data: " + b"a" * (1 << 20) + b"\n\n", FailureKind.EVENT_TOO_LARGE),
        (b"data: " + b"a" * (1 << 20), FailureKind.EVENT_TOO_LARGE),
    ],
)
def test_a_bad_event_fails_the_stream_and_nothing_behind_it_is_forwarded(data: bytes, kind: FailureKind) -> None:
    out, watcher, failure = run(TEXT + data + TEXT, TEXT)
    assert out == TEXT
    assert failure is watcher.failure
    assert failure.kind is kind


def test_a_null_error_is_no_error() -> None:
    assert run(chunk({"content": "a"}, error=None) + FINISH + DONE_FRAME)[2] is None


def test_an_error_after_the_finish_is_an_error_still() -> None:
    _, _, failure = run(TEXT + FINISH + frame({"error": {"code": 400, "message": "Token limit reached"}}))
    assert failure.kind is FailureKind.REJECTED
    assert failure.message == "Token limit reached"


def test_usage_in_the_error_frame_is_kept() -> None:
    assert run(frame({"error": {"message": "x"}, "usage": USAGE, "choices": []}))[1].usage is not None


def test_half_a_surrogate_pair_is_forwarded_unchanged() -> None:
    half = b'data: {"choices":[{"delta":{"content":"\\ud83d"}}]}\n\n'
    data = half + half.replace(b"ud83d", b"ude00")
    out, watcher, failure = run(data + FINISH + DONE_FRAME)
    assert (out, failure, watcher.output_chars) == (data, None, 6)


def test_a_stream_that_goes_on_after_its_finish_is_stopped() -> None:
    watcher = tap()
    watcher.feed(FINISH)
    for _ in range(1 + TERMINAL_BYTES_MAX // 1_000):
        watcher.feed(chunk({"content": "a" * 1_000}))
    assert watcher.failure is not None
    assert watcher.failure.kind is FailureKind.EVENT_TOO_LARGE


# --- ends


def test_a_missing_end_mark_after_the_finish_is_added() -> None:
    out, watcher, failure = run(TEXT + FINISH)
    assert (out, watcher.terminal, failure, watcher.missing_done) == (TEXT, FINISH + DONE_FRAME, None, True)


@pytest.mark.parametrize("stream", [ROLE, TEXT, TEXT + FINISH[:-3], TEXT + b": ping\n\n"])
def test_a_stream_without_finish_or_end_mark_is_truncated(stream: bytes) -> None:
    assert run(stream)[2].kind is FailureKind.TRUNCATED


def test_one_finish_of_two_is_truncated() -> None:
    assert run(TEXT + FINISH, choices=2)[2].kind is FailureKind.TRUNCATED


@pytest.mark.parametrize("stream", [b"", b": ping\n\n", DONE_FRAME, ROLE + DONE_FRAME, b"\n\n"])
def test_a_stream_without_anything_is_empty(stream: bytes) -> None:
    assert run(stream)[2].kind is FailureKind.EMPTY


def test_an_end_mark_after_content_is_an_end_without_a_finish() -> None:
    out, watcher, failure = run(TEXT + DONE_FRAME)
    assert (out, watcher.terminal, failure, watcher.finished) == (TEXT, DONE_FRAME, None, False)


@pytest.mark.parametrize("mark", [b"data: [DONE]", b"data: [DONE]\n", b"data:[DONE] \r\n"])
def test_an_end_mark_without_its_blank_line_counts(mark: bytes) -> None:
    _, watcher, failure = run(TEXT + FINISH + mark)
    assert failure is None
    assert not watcher.missing_done
    assert watcher.terminal.startswith(FINISH + mark)
    assert watcher.terminal.endswith(b"\n\n") or watcher.terminal.endswith(b"\r\n\n")


def test_a_finish_without_its_blank_line_counts() -> None:
    _, watcher, failure = run(TEXT + FINISH[:-2])
    assert (watcher.terminal, failure) == (FINISH + DONE_FRAME, None)


def test_garbage_cut_short_after_the_finish_is_dropped() -> None:
    _, watcher, failure = run(TEXT + FINISH + b'data: {"choi')
    assert (watcher.terminal, failure) == (FINISH + DONE_FRAME, None)


# --- the law


pieces = st.sampled_from(
    [
        *(ROLE, TEXT, FINISH, USAGE_FRAME, DONE_FRAME, chunk({"content": "日本"}), chunk(finish="stop", index=1)),
        *(b": ping\n\n", b"\n", b"\r\n", b'data: {"choices":\ndata: []}\n\n', TEXT.replace(b"\n", b"\r\n")),
        *(FINISH.replace(b"\n", b"\r"), b"\xef\xbb\xbf", b"data: {bad\n\n", frame({"error": {"message": "x"}})),
    ]
)


def outcome(chunks: list[bytes], choices: int, strip_usage: bool) -> tuple[Any, ...]:
    out, watcher, failure = run(*chunks, choices=choices, strip_usage=strip_usage)
    names = ("terminal", "usage", "anomaly", "done", "finished", "has_content", "output_chars", "missing_done")
    return out, failure, *(getattr(watcher, name) for name in names)


@given(st.lists(pieces, max_size=8), st.lists(st.integers(0, 900), max_size=12), st.integers(1, 2), st.booleans())
def test_cuts_change_nothing(parts: list[bytes], places: list[int], choices: int, strip_usage: bool) -> None:
    stream = b"".join(parts)
    cuts = sorted({0, len(stream), *(place for place in places if place < len(stream))})
    cut = [stream[a:b] for a, b in pairwise(cuts)]
    whole = outcome([stream], choices, strip_usage)
    assert outcome(cut, choices, strip_usage) == whole
    assert outcome([stream[n : n + 1] for n in range(len(stream))], choices, strip_usage) == whole


# --- a whole answer as a stream


def test_a_whole_answer_becomes_a_stream_the_tap_accepts() -> None:
    call = {"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": "hi", "tool_calls": [call, call]}
    choices = [{"index": n, "message": message, "finish_reason": "tool_calls", "logprobs": None} for n in range(2)]
    body = {"id": "c1", "object": "chat.completion", "created": 5, "model": "m1", "choices": choices, "usage": USAGE}
    stream = to_stream(json.dumps(body, indent=2).encode())

    out, watcher, failure = run(stream, choices=2)

    assert failure is None
    first = json.loads(out.removeprefix(b"data: "))
    assert first["object"] == "chat.completion.chunk"
    assert (first["id"], first["created"], first["model"]) == ("c1", 5, "m1")
    assert [choice["index"] for choice in first["choices"]] == [0, 1]
    assert [call["index"] for call in first["choices"][1]["delta"]["tool_calls"]] == [0, 1]
    assert first["choices"][0]["delta"]["content"] == "hi"
    assert b'"finish_reason":"tool_calls"' in watcher.terminal
    assert watcher.terminal.endswith(DONE_FRAME)
    assert watcher.usage == Usage(in_fresh=10, out_text=5)


def test_a_whole_answer_keeps_the_bytes_of_its_values() -> None:
    body = b'{"created": 1.50, "x":\r\n {"k": 1e400}, "choices":[{"message":{"content":"\\u00e9\\ud83d"}}]}'
    stream = to_stream(body)
    assert b'"created":1.50' in stream
    assert b'"k":1e400' in stream
    assert b"\\u00e9" in stream
    assert OpenAITap(1, strip_usage=False).feed(stream)


def test_the_dialects_tap_takes_its_choices_from_the_request() -> None:
    watcher = OPENAI.tap(Peek(Operation.CHAT, "m", choices=2), strip_usage=False)
    assert watcher.feed(FINISH) == FINISH
