"""The tap that goes by events: what flows, what waits for the charge, what is learnt, and how streams end.

The wire here is one word a line, so that a test shows the whole stream it is about.
"""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerx.dialects.base import EVENT_BYTES_MAX, TERMINAL_BYTES_MAX, Frame
from routerx.dialects.lines import LineSplitter
from routerx.dialects.tap import EventTap
from routerx.domain.chat import Finish, Media, MediaKind, Opaque
from routerx.domain.events import (
    Began,
    Ended,
    Event,
    Failed,
    Finished,
    MediaMade,
    OpaqueMade,
    ReasoningDelta,
    ReasoningSigned,
    RefusalDelta,
    Reported,
    TextDelta,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
)
from routerx.domain.failure import Failure, FailureKind
from routerx.domain.usage import Usage
from routerx.jsonx import Raw

EVENTS: dict[bytes, tuple[Event, ...]] = {
    b"begin": (Began("id-1", "model-1"),),
    b"ping": (),
    b"more": (TextDelta("more"),),
    b"thought": (ReasoningDelta("hm"),),
    b"refusal": (RefusalDelta("no"),),
    b"signed": (ReasoningSigned("s", "toy"),),
    b"picture": (MediaMade(Media(MediaKind.IMAGE, url="https://example.com/x")),),
    b"opaque": (OpaqueMade(Opaque("toy", "thing", Raw(b"1"))),),
    b"call": (ToolCallStarted(0, "c", "add"), ToolCallDelta(0, "{}"), ToolCallEnded(0)),
    b"finish": (Finished(Finish.STOP),),
    b"finish1": (Finished(Finish.STOP, choice=1),),
    b"last": (TextDelta("last"), Finished(Finish.STOP)),
    b"used": (Reported(Usage(in_fresh=3, out_text=2)),),
    b"used-more": (Reported(Usage(in_fresh=3, out_text=9)),),
    b"used-nothing": (Reported(Usage(in_fresh=3)),),
    b"unusable": (Reported(None, anomaly=True),),
    b"end": (Ended(),),
    b"error": (TextDelta("lost"), Failed(Failure(FailureKind.ERROR_MIDSTREAM, "It broke."))),
}
"""A line of the wire → what it means. Any other line is none."""


class Toy:
    """Decodes the wire above."""

    def __init__(self, end_mark: bytes = b"end\n", owed: Sequence[Event] = ()) -> None:
        self.end_mark = end_mark
        self.owed = owed

    def feed(self, frame: Frame) -> Sequence[Event]:
        known = EVENTS.get(frame.data or b"")
        return (Failed(Failure(FailureKind.INVALID_CHUNK, "Not a word.")),) if known is None else known

    def finish(self) -> Sequence[Event]:
        return self.owed


class Told:
    """Encodes texts as they are, finishes as full stops."""

    def __init__(self) -> None:
        self.dropped: set[str] = set()
        self.heard: list[Event] = []

    def encode(self, event: Event) -> bytes:
        self.heard.append(event)
        match event:
            case TextDelta():
                return event.text.encode() + b" "
            case ReasoningDelta():
                self.dropped.add("reasoning")
            case Finished():
                return b". "
        return b""

    def end(self) -> bytes:
        return b"END"


def passing(end_mark: bytes = b"end\n", choices: int = 1) -> EventTap:
    return EventTap(Toy(end_mark), LineSplitter(), None, choices=choices)


def telling(choices: int = 1, owed: Sequence[Event] = ()) -> EventTap:
    return EventTap(Toy(owed=owed), LineSplitter(), Told(), choices=choices)


def run(tap: EventTap, stream: bytes) -> tuple[bytes, bytes, FailureKind | None]:
    """What flowed, what waits, and what failed."""
    out = tap.feed(stream)
    failure = tap.close()
    assert tap.close() is failure
    return out, tap.terminal, None if failure is None else failure.kind


# --- what flows and what waits


def test_from_the_last_finish_on_everything_waits() -> None:
    assert run(passing(), b"begin\nmore\nfinish\nused\nend\n") == (b"begin\nmore\n", b"finish\nused\nend\n", None)


def test_a_finish_in_the_same_frame_as_text_holds_the_frame_back_whole() -> None:
    assert run(passing(), b"begin\nlast\nend\n") == (b"begin\n", b"last\nend\n", None)


def test_told_in_another_wire_the_text_of_such_a_frame_flows() -> None:
    assert run(telling(), b"begin\nlast\nend\n") == (b"last ", b". END", None)


def test_one_choice_that_has_finished_holds_nothing_back_while_others_have_not() -> None:
    out, terminal, failure = run(passing(choices=2), b"begin\nfinish\nmore\nfinish1\nend\n")
    assert (out, terminal, failure) == (b"begin\nfinish\nmore\n", b"finish1\nend\n", None)


def test_a_choice_that_finishes_twice_counts_once() -> None:
    tap = passing(choices=2)
    assert run(tap, b"more\nfinish\nfinish\nend\n")[:2] == (b"more\nfinish\nfinish\n", b"end\n")
    assert not tap.finished


def test_lines_without_meaning_pass_and_are_not_told() -> None:
    assert run(passing(), b"ping\n\nmore\nping\nlast\n\nend\n") == (b"ping\n\nmore\nping\n", b"last\n\nend\n", None)
    assert run(telling(), b"ping\n\nmore\nping\nlast\n\nend\n") == (b"more last ", b". END", None)


def test_what_follows_the_end_mark_is_dropped() -> None:
    tap = passing()
    assert run(tap, b"last\nend\nmore\n") == (b"", b"last\nend\n", None)
    assert tap.feed(b"more\n") == b""
    assert tap.done


def test_a_stream_may_end_by_its_mark_without_a_finish() -> None:
    """Whether that is an answer is the mark's word against nobody's."""
    tap = passing()
    assert run(tap, b"more\nend\n") == (b"more\n", b"end\n", None)
    assert not tap.finished


# --- what is learnt


def test_names_usage_and_size_are_learnt() -> None:
    tap = passing()
    run(tap, b"begin\nmore\nthought\nrefusal\ncall\nused\nfinish\nused-more\nend\n")
    assert (tap.response_id, tap.served_model) == ("id-1", "model-1")
    assert (tap.usage, tap.anomaly) == (Usage(in_fresh=3, out_text=9), False)
    assert tap.output_chars == len("more" + "hm" + "no" + "add" + "{}")


def test_size_is_measured_in_bytes_of_utf_8() -> None:
    tap = telling()
    tap.tell([TextDelta("é"), TextDelta("\U0001f600")])
    assert tap.output_chars == 6


@pytest.mark.parametrize("word", ["more", "thought", "refusal", "signed", "picture", "opaque", "call", "finish"])
def test_every_kind_of_content_commits(word: str) -> None:
    tap = passing()
    tap.feed(b"begin\nping\nused\n")
    assert not tap.has_content
    tap.feed(f"{word}\n".encode())
    assert tap.has_content


def test_an_unusable_report_is_flagged_and_leaves_no_usage() -> None:
    tap = passing()
    run(tap, b"more\nused\nunusable\nfinish\nend\n")
    assert (tap.usage, tap.anomaly) == (None, True)


def test_no_output_reported_beside_text_is_flagged() -> None:
    tap = passing()
    run(tap, b"more\nused-nothing\nfinish\nend\n")
    assert (tap.usage, tap.anomaly) == (Usage(in_fresh=3), True)


def test_what_the_callers_wire_cannot_say_is_reported() -> None:
    tap = telling()
    assert tap.dropped == frozenset()
    tap.feed(b"thought\n")
    assert tap.dropped == {"reasoning"}
    assert passing().dropped == frozenset()


# --- how streams end


def test_a_missing_end_mark_is_added() -> None:
    tap = passing()
    assert run(tap, b"last\n") == (b"", b"last\nend\n", None)
    assert tap.missing_done


def test_told_in_another_wire_a_missing_end_mark_is_only_noted() -> None:
    tap = telling()
    assert run(tap, b"last\n") == (b"last ", b". END", None)
    assert tap.missing_done


def test_a_wire_without_an_end_mark_misses_none() -> None:
    tap = passing(end_mark=b"")
    assert run(tap, b"last\n") == (b"", b"last\n", None)
    assert not tap.missing_done


def test_a_stream_without_a_finish_was_cut_short() -> None:
    assert run(passing(), b"begin\nmore\n") == (b"begin\nmore\n", b"", FailureKind.TRUNCATED)


def test_a_stream_that_began_and_brought_nothing_was_cut_short() -> None:
    assert run(passing(), b"begin\n") == (b"begin\n", b"", FailureKind.TRUNCATED)


def test_one_choice_of_two_is_not_an_answer() -> None:
    assert run(passing(choices=2), b"more\nfinish\n")[2] is FailureKind.TRUNCATED


@pytest.mark.parametrize("stream", [b"", b"ping\n\n", b"begin\nused\nend\n"])
def test_a_stream_without_content_is_empty(stream: bytes) -> None:
    assert run(passing(), stream)[2] is FailureKind.EMPTY


def test_a_last_line_without_its_end_counts_if_it_is_whole() -> None:
    assert run(passing(), b"more\nfinish\nend") == (b"more\n", b"finish\nend\n", None)
    assert run(telling(), b"more\nlast") == (b"more ", b"last . END", None)


def test_a_last_line_cut_short_is_not_an_invalid_one() -> None:
    assert run(passing(), b"more\nfini") == (b"more\n", b"", FailureKind.TRUNCATED)
    assert run(passing(), b"more\nfinish\nen") == (b"more\n", b"finish\nend\n", None)
    assert run(telling(), b"more\nfinish\nen") == (b"more ", b". END", None)


def test_what_the_decoder_still_owes_is_told_before_the_end() -> None:
    tap = telling(owed=[TextDelta("owed"), Finished(Finish.STOP)])
    assert run(tap, b"more\n") == (b"more ", b"owed . END", None)


# --- failures


def test_nothing_flows_from_an_error_on() -> None:
    tap = passing()
    assert run(tap, b"more\nerror\nmore\n") == (b"more\n", b"", FailureKind.ERROR_MIDSTREAM)
    assert tap.feed(b"more\n") == b""


def test_told_in_another_wire_what_came_before_the_error_flows() -> None:
    assert run(telling(), b"more\nerror\nmore\n") == (b"more lost ", b"", FailureKind.ERROR_MIDSTREAM)


def test_a_line_that_is_none_of_the_wire_fails() -> None:
    assert run(passing(), b"more\n<html>\nfinish\n") == (b"more\n", b"", FailureKind.INVALID_CHUNK)


def test_an_error_after_the_finish_fails_the_answer() -> None:
    assert run(passing(), b"last\nerror\n")[2] is FailureKind.ERROR_MIDSTREAM


def test_a_line_over_the_limit_fails_whether_or_not_it_ends() -> None:
    for long in (b"x" * (EVENT_BYTES_MAX + 1), b"x" * (EVENT_BYTES_MAX + 1) + b"\n"):
        assert run(passing(), b"more\n" + long) == (b"more\n", b"", FailureKind.EVENT_TOO_LARGE)


def test_a_stream_that_goes_on_and_on_after_its_finish_fails() -> None:
    tap = passing()
    tap.feed(b"last\n")
    for _ in range(TERMINAL_BYTES_MAX // len(b"ping\n" * 100_000) + 2):
        tap.feed(b"ping\n" * 100_000)
    failure = tap.close()
    assert failure is not None
    assert failure.kind is FailureKind.EVENT_TOO_LARGE
    assert len(tap.terminal) <= TERMINAL_BYTES_MAX + len(b"ping\n")


# --- a whole answer, told


def test_a_whole_answer_is_told_as_a_stream_that_waits_from_its_finish() -> None:
    tap = telling()
    out = tap.tell([Began(), TextDelta("whole"), Finished(Finish.STOP), Reported(Usage(out_text=1)), Ended()])
    assert (out, tap.close(), tap.terminal) == (b"whole ", None, b". END")
    assert tap.usage == Usage(out_text=1)
    assert not tap.missing_done


def test_the_encoder_hears_every_event_but_a_failure() -> None:
    told = Told()
    tap = EventTap(Toy(), LineSplitter(), told)
    run(tap, b"begin\nmore\nused\nerror\n")
    assert [type(event) for event in told.heard] == [Began, TextDelta, Reported, TextDelta]


# --- cuts


STREAMS = (
    b"begin\nmore\nthought\ncall\nused\nfinish\nused-more\nend\n",
    b"begin\r\nmore\r\nlast",
    b"more\nfini",
    b"more\nerror\nmore\n",
    b"more\nnonsense\nend\n",
    b"\n\nlast\n\n\nend\nmore\n",
)


@given(st.data())
def test_cuts_anywhere_change_nothing(data: st.DataObject) -> None:
    stream = data.draw(st.sampled_from(STREAMS))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=8)))
    for make in (passing, telling):
        whole, pieces = make(), make()
        expected = run(whole, stream)
        out = b"".join(pieces.feed(stream[a:b]) for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True))
        failure = pieces.close()
        assert (out, pieces.terminal, None if failure is None else failure.kind) == expected
        assert (pieces.usage, pieces.output_chars, pieces.missing_done) == (
            whole.usage,
            whole.output_chars,
            whole.missing_done,
        )


# --- lines


def lines(*chunks: bytes, size_max: int = 100) -> tuple[list[bytes], LineSplitter]:
    splitter = LineSplitter(size_max)
    found = []
    for chunk in chunks:
        raw, frames = splitter.feed(chunk)
        assert (frames[-1].end if frames else 0) == len(raw) or splitter.oversized
        found += [frame.data for frame in frames if frame.data is not None]
    return found, splitter


def test_lines_are_cut_at_line_feeds_and_blank_ones_are_no_payload() -> None:
    assert lines(b'{"a":1}\n\r\n {"b":2} \r\n{"c"')[0] == [b'{"a":1}', b'{"b":2}']


def test_the_bytes_of_lines_are_given_back_to_back() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"a\n\nb")[0] == b"a\n\n"
    raw, frames = splitter.feed(b"c\n")
    assert (raw, [frame.end for frame in frames]) == (b"bc\n", [3])


def test_a_last_line_without_its_line_feed_gets_one() -> None:
    splitter = LineSplitter()
    splitter.feed(b"a\nb ")
    raw, frame = splitter.finish()
    assert (raw, frame) == (b"b \n", Frame(3, b"b"))
    assert splitter.finish() == (b"", None)


def test_blanks_at_the_end_are_no_line() -> None:
    splitter = LineSplitter()
    splitter.feed(b"a\n  ")
    assert splitter.finish() == (b"", None)


def test_a_line_over_the_limit_stops_the_splitter() -> None:
    found, splitter = lines(b"ok\n", b"x" * 60, b"x" * 60, b"\nlater\n")
    assert (found, splitter.oversized) == ([b"ok"], True)
    assert splitter.feed(b"later\n") == (b"", [])
    assert splitter.finish() == (b"", None)


def test_lines_before_one_over_the_limit_are_kept() -> None:
    found, splitter = lines(b"ok\n" + b"x" * 101 + b"\nlater\n")
    assert (found, splitter.oversized) == ([b"ok"], True)


def test_a_line_at_the_limit_passes() -> None:
    found, splitter = lines(b"x" * 100, b"\n")
    assert (found, splitter.oversized) == ([b"x" * 100], False)
