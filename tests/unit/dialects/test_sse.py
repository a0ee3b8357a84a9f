"""The event-stream format, rule by rule, and the one law: where the network cuts does not matter."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerx.dialects.base import Frame
from routerx.dialects.sse import FrameSplitter


def split(*chunks: bytes, limit: int = 1000) -> tuple[bytes, list[tuple[bytes, bytes | None, bytes]]]:
    """Everything that came out: bytes, and (raw, data, event) per frame."""
    splitter = FrameSplitter(limit)
    out, seen = b"", []
    for chunk in chunks:
        raw, frames = splitter.feed(chunk)
        begin = 0
        for frame in frames:
            seen.append((raw[begin : frame.end], frame.data, frame.event))
            begin = frame.end
        assert begin == len(raw)
        out += raw
    return out, seen


def payloads(*chunks: bytes) -> list[bytes | None]:
    return [data for _, data, _ in split(*chunks)[1]]


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_every_line_end_ends_a_line(newline: bytes) -> None:
    stream = newline.join([b"event: error", b"data: a", b"data:b", b"", b"data: c", b"", b""]) + b": end"
    assert split(stream)[1] == [
        (newline.join([b"event: error", b"data: a", b"data:b", b"", b""]), b"a\nb", b"error"),
        (newline.join([b"data: c", b"", b""]), b"c", b""),
    ]


def test_line_ends_may_be_mixed() -> None:
    assert payloads(b"data: a\r\n\ndata: b\n\r\ndata: c\r\r\ndata: d\r\n\r\nx") == [b"a", b"b", b"c", b"d"]


def test_a_carriage_return_at_the_end_waits_for_its_line_feed() -> None:
    assert split(b"data: a\r\n\r", b"\ndata: b\r\n\r\n")[1][0] == (b"data: a\r\n\r\n", b"a", b"")


def test_one_space_after_the_colon_is_not_data() -> None:
    assert payloads(b"data:a\n\ndata: a\n\ndata:  a\n\ndata\n\n") == [b"a", b"a", b" a", b""]


def test_comments_ids_and_retries_are_frames_without_data() -> None:
    assert payloads(b": hi\n\nid: 1\nretry: 5\n\n\n\ndata: a\n\n") == [None, None, None, b"a"]


def test_a_byte_order_mark_counts_only_at_the_start() -> None:
    bom = b"\xef\xbb\xbf"
    assert payloads(bom + b"data: a\n\n" + bom + b"data: b\n\n") == [b"a", None]
    assert payloads(b"\xef", b"\xbb", b"\xbfdata: a\n\n") == [b"a"]


def test_a_chunk_of_whole_frames_is_passed_on_as_it_is() -> None:
    splitter = FrameSplitter()
    splitter.feed(b"data: 0\n\n")
    for chunk in (b"data: 1\n\n", b"data: 1\n\n: x\n\ndata: 2\n\n"):
        assert splitter.feed(chunk)[0] is chunk


def test_an_event_of_just_the_limit_passes() -> None:
    event = b"data: " + b"a" * 92 + b"\n\n"
    assert split(event, limit=100)[0] == event
    assert split(*(event[n : n + 1] for n in range(len(event))), limit=100)[0] == event


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_an_event_over_the_limit_stops_the_splitter_but_not_the_frames_before_it(step: int) -> None:
    stream = b"data: ok\n\ndata: " + b"a" * 93 + b"\n\ndata: never\n\n"
    splitter = FrameSplitter(100)
    out = b"".join(splitter.feed(stream[n : n + step])[0] for n in range(0, len(stream), step))
    assert out == b"data: ok\n\n"
    assert splitter.oversized


def test_a_line_that_never_ends_stops_at_the_limit() -> None:
    splitter = FrameSplitter(1 << 20)
    for _ in range(65):
        splitter.feed(b"a" * (1 << 14))
    assert splitter.oversized


@pytest.mark.parametrize(
    ("tail", "whole"),
    [
        (b"data: a", b"data: a\n\n"),
        (b"data: a\n", b"data: a\n\n"),
        (b"data: a\r", b"data: a\r\n\n"),
        (b"data: a\r\n\r", b"data: a\r\n\r\n"),
    ],
)
def test_an_event_without_its_blank_line_is_handed_over_at_the_end(tail: bytes, whole: bytes) -> None:
    splitter = FrameSplitter()
    assert splitter.feed(tail) == (b"", [])
    assert splitter.finish() == (whole, Frame(len(whole), b"a"))


@pytest.mark.parametrize("tail", [b"", b"\n", b": comment"])
def test_nothing_is_handed_over_where_no_event_was_begun(tail: bytes) -> None:
    splitter = FrameSplitter()
    splitter.feed(b"data: a\n\n" + tail)
    assert splitter.finish() == (b"", None)


lines = st.sampled_from(
    [
        b"data: x",
        b"data:",
        b"data",
        b": c",
        b"event: error",
        b"",
        b"",
        b"",
        b"data: \xc3\xa9",
        b"\xef\xbb\xbf",
        b"a:b:c",
    ]
)
streams = st.lists(st.tuples(lines, st.sampled_from([b"\n", b"\r\n", b"\r", b""]))).map(
    lambda pairs: b"".join(line + end for line, end in pairs)
)


@given(streams, st.lists(st.integers(0, 400)))
def test_cuts_change_nothing(stream: bytes, places: list[int]) -> None:
    cuts = sorted({0, len(stream), *(place for place in places if place < len(stream))})
    pieces = [stream[a:b] for a, b in pairwise(cuts)]
    assert split(*pieces, limit=30) == split(stream, limit=30)
    assert split(*(stream[n : n + 1] for n in range(len(stream))), limit=30) == split(stream, limit=30)
