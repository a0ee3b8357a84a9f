"""Recorded traffic of everybody who speaks OpenAI's chat, read as events: what a caller of another format is told.

The oracle that comes with the recordings says what was said (tests/support/oracle.py). What was used is compared with
what the passing bytes are charged by, which test_openai_traffic.py holds against the same oracle.
"""

import random
from collections.abc import Iterable

import pytest

from routerx.dialects.base import Asked, Reply
from routerx.dialects.openai_chat import OPENAI
from routerx.dialects.openai_chat.tap import OpenAITap
from routerx.dialects.sse import FrameSplitter
from routerx.dialects.tap import EventTap
from routerx.domain.call import Operation, Peek
from routerx.domain.chat import Answer, ChatRequest, Finish, Reasoning, Refusal, Text, ToolCall
from routerx.domain.events import Ended, Event, Failed, Reported, ToolCallDelta, ToolCallStarted, events_of, fold
from routerx.domain.failure import Failure
from tests.support.oracle import CLASSES, Reading, expected, recorded, tool
from tests.support.traffic import Fixture, awkward_cuts, body_of, is_stream, needs_traffic, pieces, random_cuts

pytestmark = needs_traffic

SEED = "seed"
PROVIDERS = sorted({fixture["provider"] for fixture in recorded("openai.chat")}) or ["none"]
every_provider = pytest.mark.parametrize("provider", PROVIDERS)


def of(provider: str, *, stream: bool) -> list[Fixture]:
    """Answers: whole, or streams with or without an end of their own."""
    return [
        fixture
        for fixture in recorded("openai.chat")
        if fixture["provider"] == provider and fixture["status"] == 200 and is_stream(fixture) is stream
    ]


def fails(fixture: Fixture) -> bool:
    return any(tag.startswith("error:") for tag in fixture["tags"])


def asked(fixture: Fixture) -> Asked:
    choices = (fixture.get("request_body") or {}).get("n") or 1
    request = ChatRequest(messages=(), wants_usage=True, choices=choices)
    return Asked(request=request, model="m", request_id="r", created_s=1)


def events(chunks: Iterable[bytes]) -> list[Event]:
    """As the tap of a translated stream drives the decoder."""
    decoder, splitter = OPENAI.target.decoder(SEED), FrameSplitter()
    found: list[Event] = []
    for chunk in chunks:
        for frame in splitter.feed(chunk)[1]:
            found += decoder.feed(frame)
    last = splitter.finish()[1]
    return [*found, *(decoder.feed(last) if last is not None else ()), *decoder.finish()]


def misread(answer: Answer, wanted: Reading) -> list[str]:
    """Where an answer is not what was said, field by field."""
    parts = answer.choices[0].parts
    calls = [
        (part.name, part.arguments if part.custom else tool("oracle")._args(part.arguments))
        for part in parts
        if isinstance(part, ToolCall)
    ]
    thoughts = "".join(part.text for part in parts if isinstance(part, Reasoning))
    if not wanted["reasoning_text"]:
        thoughts = ""  # The oracle leaves out those that stand in `reasoning_details` only.
    found = {
        "text": ("".join(part.text for part in parts if isinstance(part, Text)), wanted["text"]),
        "calls": (
            calls,
            [(call["name"], {} if call["args"] is None else call["args"]) for call in wanted["tool_calls"]],
        ),
        "refusal": ("".join(part.text for part in parts if isinstance(part, Refusal)), wanted["refusal"] or ""),
        "thoughts": ("".join(thoughts.split()), "".join(wanted["reasoning_text"].split())),
        "finish": (answer.choices[0].finish, finish_of(wanted)),
        "model": (answer.model, wanted["model"] or None),
    }
    return [f"{name}: {got!r} for {want!r}" for name, (got, want) in found.items() if got != want]


def finish_of(wanted: Reading) -> Finish | None:
    if wanted["finish"] == "stop" and wanted["tool_calls"]:
        return Finish.TOOL_CALLS
    if wanted["finish"] is None:
        return None
    return Finish(wanted["finish"]) if wanted["finish"] in CLASSES else Finish.OTHER


# --- whole answers


@every_provider
def test_every_whole_answer_says_what_was_recorded(provider: str) -> None:
    problems = []
    for fixture in of(provider, stream=False):
        body = body_of(fixture)
        reply = OPENAI.read_reply(Operation.CHAT, "application/json", body)
        if isinstance(reply, Failure):
            continue
        answer = OPENAI.target.decode_answer(body, SEED)
        wrong = misread(answer, expected(fixture))
        if answer.usage != reply.usage:
            wrong.append(f"usage: {answer.usage} for {reply.usage}")
        problems += [f"{fixture['id']}: {one}" for one in wrong]
    assert not problems


@every_provider
def test_a_whole_answer_comes_through_either_way_of_telling_it(provider: str) -> None:
    for fixture in of(provider, stream=False):
        body, to = body_of(fixture), asked(fixture)
        if not isinstance(OPENAI.read_reply(Operation.CHAT, "application/json", body), Reply):
            continue
        answer = OPENAI.target.decode_answer(body, SEED)
        told, _ = OPENAI.source.encode_answer(answer, to)
        again = OPENAI.target.decode_answer(told, SEED)
        encoder = OPENAI.source.encoder(to)
        stream = b"".join(encoder.encode(event) for event in events_of(answer)) + encoder.end()
        streamed = events([stream])
        assert fold(streamed) == again, fixture["id"]
        assert isinstance(streamed[-1], Ended), fixture["id"]
        assert not misread(again, expected(fixture)), fixture["id"]


# --- streams


@every_provider
def test_every_stream_says_what_was_recorded(provider: str) -> None:
    problems = []
    for fixture in of(provider, stream=True):
        body = body_of(fixture)
        found = events([body])
        if fails(fixture):
            problems += (
                [] if any(isinstance(event, Failed) for event in found) else [f"{fixture['id']}: the error went unseen"]
            )
            continue
        wrong = misread(fold(found), expected(fixture))
        lean = OPENAI.tap(Peek(Operation.CHAT, "m", choices=asked(fixture).request.choices), strip_usage=False)
        assert isinstance(lean, OpenAITap)
        lean.feed(body)
        lean.close()
        reports = [event for event in found if isinstance(event, Reported)]
        usage = reports[-1].usage if reports else None
        if usage != lean.usage or any(report.anomaly for report in reports) != lean.anomaly:
            wrong.append(f"usage: {usage} for {lean.usage}")
        problems += [f"{fixture['id']}: {one}" for one in wrong]
    assert not problems


@every_provider
def test_tool_calls_are_told_in_order_and_whole(provider: str) -> None:
    for fixture in of(provider, stream=True):
        started: dict[int, int] = {}
        filled: set[tuple[int, int]] = set()
        for event in events([body_of(fixture)]):
            match event:
                case ToolCallStarted():
                    assert event.index == started.get(event.choice, 0), fixture["id"]
                    assert event.id, fixture["id"]
                    started[event.choice] = event.index + 1
                case ToolCallDelta():
                    assert event.index < started[event.choice], fixture["id"]
                    assert event.arguments, fixture["id"]
                    filled.add((event.choice, event.index))
        if not fails(fixture) and expected(fixture)["terminal"]:
            assert len(filled) == sum(started.values()), fixture["id"]


def told(fixture: Fixture, chunks: list[bytes]) -> tuple[bytes, Failure | None, object]:
    """What a caller gets of a stream, and what it is charged by."""
    to = asked(fixture)
    tap = EventTap(OPENAI.target.decoder(SEED), FrameSplitter(), OPENAI.source.encoder(to), choices=to.request.choices)
    out = b"".join(tap.feed(chunk) for chunk in chunks)
    failure = tap.close()
    return out + tap.terminal, failure, (tap.usage, tap.anomaly, tap.output_chars, tap.missing_done)


@every_provider
def test_a_stream_told_again_says_the_same_whatever_the_cuts(provider: str) -> None:
    rng = random.Random(20260101)
    for fixture in of(provider, stream=True):
        body = body_of(fixture)
        whole = told(fixture, [body])
        for cuts in (awkward_cuts(body)[:400], random_cuts(rng, body, 20)):
            assert told(fixture, pieces(body, cuts)) == whole, fixture["id"]
        if whole[1] is not None:
            continue
        again, first = fold(events([whole[0]])), fold(events([body]))
        assert not misread(again, expected(fixture)), fixture["id"]
        assert again.usage == first.usage, fixture["id"]
