"""What a caller has of a broken stream, and what goes on with it."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerx.dialects import anthropic, gemini, openai_chat, responses
from routerx.dialects.base import Asked, CallerDialect, StreamEncoder
from routerx.domain.chat import ChatRequest, Finish, Message, Role, Text
from routerx.domain.events import Began, Ended, Event, Failed, Finished, ReasoningDelta, TextDelta
from routerx.gateway.rescue import TEXT_CHARS_MAX, Delivered, Rejoining, Run, Transcript, continued, restarted

WIRES: tuple[CallerDialect, ...] = (openai_chat.OPENAI, responses.RESPONSES, anthropic.ANTHROPIC, gemini.GEMINI)
TEXTS = st.lists(st.text("aé🙂 \n\u2028", min_size=1, max_size=5), min_size=1, max_size=6)
ASKED = Asked(
    request=ChatRequest(messages=(Message(Role.USER, (Text("Hello"),)),), stream=True),
    model="duo",
    request_id="req_1",
    created_s=1,
)
wires = pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.name)


def encoder(wire: CallerDialect) -> StreamEncoder:
    return wire.source.encoder(ASKED)


def flowed(wire: CallerDialect, events: Sequence[Event]) -> tuple[StreamEncoder, bytes]:
    """The encoder after these events, and what it wrote of them."""
    made = encoder(wire)
    return made, b"".join(made.encode(event) for event in events)


def deltas(texts: Sequence[str]) -> list[Event]:
    return [Began("id-1", "m"), *(TextDelta(text) for text in texts)]


def heard(wire: CallerDialect, data: bytes, cuts: Sequence[int] = ()) -> Delivered | None:
    transcript = Transcript(wire, "req_1")
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    for start, stop in pairwise(places):
        transcript.add(data[start:stop])
    return transcript.delivered()


@wires
@settings(max_examples=25, deadline=None)
@given(texts=TEXTS, cuts=st.lists(st.integers(0, 3_000), max_size=8))
def test_a_transcript_is_the_same_however_it_came(wire: CallerDialect, texts: list[str], cuts: list[int]) -> None:
    _, data = flowed(wire, deltas(texts))
    found = heard(wire, data, cuts)
    assert found == heard(wire, data)
    assert found is not None
    assert (found.text, found.deltas) == ("".join(texts), len(texts))


@wires
@settings(max_examples=25, deadline=None)
@given(texts=TEXTS, more=TEXTS)
def test_an_encoder_that_is_told_again_goes_on_as_the_first_would_have(
    wire: CallerDialect, texts: list[str], more: list[str]
) -> None:
    first, data = flowed(wire, deltas(texts))
    found = heard(wire, data)
    assert found is not None
    second, _ = flowed(wire, tuple(found.retold()))
    rest: list[Event] = [*(TextDelta(text) for text in more), Finished(Finish.STOP), Ended()]
    assert [second.encode(event) for event in rest] == [first.encode(event) for event in rest]
    assert second.end() == first.end()


@given(texts=TEXTS, thoughts=st.lists(st.text("ab", min_size=1, max_size=3), max_size=3))
def test_what_is_told_again_is_what_was_delivered_in_as_many_pieces(texts: list[str], thoughts: list[str]) -> None:
    runs = tuple((kind, "".join(of)) for kind, of in ((Run.THOUGHT, thoughts), (Run.TEXT, texts)) if of)
    found = Delivered(Began("id-1"), runs, len(texts) + len(thoughts))
    events = list(found.retold())[1:]
    assert len(events) == found.deltas
    assert "".join(one.text for one in events if isinstance(one, TextDelta)) == "".join(texts)
    assert "".join(one.text for one in events if isinstance(one, ReasoningDelta)) == "".join(thoughts)
    assert all(not isinstance(one, Began) and one.text for one in events if isinstance(one, TextDelta | ReasoningDelta))


def test_a_text_that_is_too_long_is_not_kept() -> None:
    wire = openai_chat.OPENAI
    piece = "x" * (TEXT_CHARS_MAX // 4)
    made = encoder(wire)
    transcript = Transcript(wire, "req_1")
    for event in deltas([piece] * 4):
        transcript.add(made.encode(event))
    found = transcript.delivered()
    assert found is not None
    assert found.text == piece * 4
    transcript.add(made.encode(TextDelta("x")))
    assert transcript.delivered() is None


def test_what_has_finished_is_not_gone_on_with() -> None:
    wire = openai_chat.OPENAI
    made, data = flowed(wire, deltas(["Hello"]))
    assert heard(wire, data + made.encode(Finished(Finish.STOP)) + made.end()) is None


# --- going on


class Nobody:
    """A decoder that is not asked here."""

    end_mark = ""


def kept(delivered: Delivered, texts: Sequence[str], *, given_text: str | None = None) -> tuple[str, bool]:
    """What of these deltas flows, and whether they failed."""
    rejoin = restarted(delivered) if given_text is None else continued(delivered, given_text)
    rejoining = Rejoining(Nobody(), rejoin)  # type: ignore[arg-type]  # Only keep() is called.
    flows = ""
    for text in texts:
        for event in rejoining.keep([TextDelta(text)]):
            if isinstance(event, Failed):
                return flows, True
            assert isinstance(event, TextDelta)
            flows += event.text
    return flows, any(isinstance(event, Failed) for event in rejoining.keep([Finished(Finish.STOP)]))


def of_text(text: str) -> Delivered:
    return Delivered(Began("id-1"), ((Run.TEXT, text),), 1)


@given(delivered=st.text("ab", min_size=1, max_size=5), texts=st.lists(st.text("ab", min_size=1, max_size=3)))
def test_a_restart_adds_what_is_new_or_fails(delivered: str, texts: list[str]) -> None:
    whole = "".join(texts)
    flows, failed = kept(of_text(delivered), texts)
    assert failed is not whole.startswith(delivered)
    assert flows == ("" if failed else whole[len(delivered) :])


@given(delivered=st.text("a \n", min_size=1, max_size=5).filter(str.strip), texts=st.lists(st.text("a \n", min_size=1)))
def test_white_space_at_the_end_is_expected_of_a_continuation(delivered: str, texts: list[str]) -> None:
    blank = delivered[len(delivered.rstrip()) :]
    whole = "".join(texts)
    flows, failed = kept(of_text(delivered), texts, given_text=delivered)
    assert failed is not whole.startswith(blank)
    assert flows == ("" if failed else whole[len(blank) :])


@pytest.mark.parametrize(
    ("events", "fails"),
    [
        ([ReasoningDelta("hm"), TextDelta("Hello")], False),
        ([TextDelta("He"), ReasoningDelta("hm")], True),
        ([TextDelta("Hello", choice=1)], True),
        ([Finished(Finish.STOP)], True),
    ],
    ids=["thought_before", "thought_within", "choice", "finish"],
)
def test_what_comes_within_the_delivered_text(events: list[Event], fails: bool) -> None:
    rejoining = Rejoining(Nobody(), restarted(of_text("Hello")))  # type: ignore[arg-type]
    found = rejoining.keep(events)
    assert any(isinstance(event, Failed) for event in found) is fails
    assert all(isinstance(event, Failed) for event in found)


@pytest.mark.parametrize(
    ("texts", "flows", "fails"),
    [
        ([" the lazy dog"], " the lazy dog", False),
        (["The quick", " brown fox jumps over", " the lazy dog"], " the lazy dog", False),
        (["The quick brown fox jumps over the lazy dog"], " the lazy dog", False),
        (["The quick brown fox jumps under"], "", True),
        (["The end"], "The end", False),
    ],
)
def test_a_beginning_that_is_said_again_is_not_told_twice(texts: list[str], flows: str, fails: bool) -> None:
    beginning = "The quick brown fox jumps over"
    assert kept(of_text(beginning), texts, given_text=beginning) == (flows, fails)
