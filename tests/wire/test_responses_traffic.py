"""Recorded traffic of everybody who speaks Responses, read as events and passed as bytes.

The oracle that comes with the recordings says what was said and used (tests/support/oracle.py); the official client's
types say whether it can be read.
"""

import json
import random
from collections.abc import Iterable
from typing import Any

import msgspec

from routerx.dialects.base import Asked, Reply
from routerx.dialects.responses import RESPONSES
from routerx.dialects.sse import FrameSplitter
from routerx.dialects.tap import EventTap
from routerx.domain.call import Operation, Peek
from routerx.domain.chat import Answer, ChatRequest, Finish, Opaque, Reasoning, Refusal, Text, ToolCall
from routerx.domain.events import Ended, Event, Failed, ToolCallDelta, ToolCallStarted, events_of, fold
from routerx.domain.failure import Failure, FailureKind
from tests.support.oracle import CLASSES, Reading, at_once, expected, recorded, recorded_events, tool
from tests.support.told import misshapen
from tests.support.traffic import Fixture, awkward_cuts, body_of, is_stream, needs_traffic, pieces, random_cuts

pytestmark = needs_traffic

SEED = "seed"
PEEK = Peek(Operation.CHAT, "m")
ASKED = Asked(request=ChatRequest(messages=()), model="m", request_id="r", created_s=1)


def of(*, stream: bool) -> list[Fixture]:
    """Answers that are whole, or streams of one answer each."""
    return [
        fixture
        for fixture in recorded("openai.responses")
        if fixture["status"] == 200 and is_stream(fixture) is stream and not left_out(fixture)
    ]


def left_out(fixture: Fixture) -> bool:
    """Whether it is none that RouterX can be sent: no answer of this wire, or one in the making, or several as one."""
    if not is_stream(fixture):
        value = body_value(fixture)
        return "choices" in value or value.get("status") in ("queued", "in_progress", "complete")
    kinds = [event.get("type") for event in recorded_events(fixture)]
    return kinds.count("response.created") > 1


def body_value(fixture: Fixture) -> dict[str, Any]:
    value = json.loads(body_of(fixture))
    return value if isinstance(value, dict) else {}


def shortened(fixture: Fixture) -> bool:
    """Its makers have cut deltas out: what was streamed is not what the last event says."""
    deltas = [event["delta"] for event in recorded_events(fixture) if event.get("type") == "response.output_text.delta"]
    return "".join(deltas) != str(expected(fixture)["text"])


def fails(fixture: Fixture) -> bool:
    return any(tag.startswith("error:") for tag in fixture["tags"])


def events(chunks: Iterable[bytes]) -> list[Event]:
    """As the tap of a translated stream drives the decoder."""
    decoder, splitter = RESPONSES.target.decoder(SEED), FrameSplitter()
    found: list[Event] = []
    for chunk in chunks:
        for frame in splitter.feed(chunk)[1]:
            found += decoder.feed(frame)
    last = splitter.finish()[1]
    return [*found, *(decoder.feed(last) if last is not None else ()), *decoder.finish()]


def misread(answer: Answer, wanted: Reading) -> list[str]:
    """Where an answer is not what was said and used, field by field."""
    parts = answer.choices[0].parts
    # The oracle does not read calls of custom tools.
    calls = [part for part in parts if isinstance(part, ToolCall) and not part.custom]
    thoughts = "".join(part.text for part in parts if isinstance(part, Reasoning))
    custom = any(isinstance(part, ToolCall) and part.custom for part in parts)
    found: dict[str, tuple[object, object]] = {
        "text": ("".join(part.text for part in parts if isinstance(part, Text)), wanted["text"]),
        "calls": (
            [(call.id, call.name, tool("oracle")._args(call.arguments)) for call in calls],
            [(call["id"], call["name"], {} if call["args"] is None else call["args"]) for call in wanted["tool_calls"]],
        ),
        "refusal": ("".join(part.text for part in parts if isinstance(part, Refusal)), wanted["refusal"] or ""),
        "thoughts": ("".join(thoughts.split()), "".join(wanted["reasoning_text"].split())),
        "finish": (answer.choices[0].finish, Finish.TOOL_CALLS if custom else finish_of(wanted)),
        "model": (answer.model, wanted["model"]),
    }
    usage = answer.usage
    if wanted["has_usage"]:
        assert usage is not None
        found["input"] = (usage.input_tokens, wanted["prompt_tokens"])
        found["output"] = (usage.output_tokens, wanted["completion_tokens"])
        found["read"] = (usage.in_cache_read, wanted["cached_tokens"] or 0)
        found["written"] = (usage.in_cache_write_5m, wanted["cache_write_tokens"] or 0)
        found["reasoning"] = (usage.out_reasoning, wanted["reasoning_tokens"] or 0)
    elif usage is not None:
        found["usage"] = (usage, None)
    return [f"{name}: {got!r} for {want!r}" for name, (got, want) in found.items() if got != want]


def told_by(answer: Answer) -> object:
    """What two tellings of one answer have in common: this vendor encrypts a thought anew each time, tells what its
    own tools did early or late, and one relay of it gives new ids in every event."""
    parts, opaque = [], []
    for part in answer.choices[0].parts:
        if isinstance(part, Opaque):
            opaque.append(part.type)
        else:
            parts.append(msgspec.structs.replace(part, signature=None) if isinstance(part, Reasoning) else part)
    return [parts, sorted(opaque), answer.choices[0].finish, answer.usage, answer.model]


def is_of_today(fixture: Fixture) -> bool:
    """Whether the official client's types take the provider's own answer: some of its items have changed since."""
    whole = at_once(fixture)
    return whole is not None and misshapen("responses", whole, stream=False) is None


def finish_of(wanted: Reading) -> Finish | None:
    return Finish(wanted["finish"]) if wanted["finish"] in CLASSES else None


# --- whole answers


def test_every_whole_answer_says_what_was_recorded() -> None:
    problems, count = [], 0
    for fixture in of(stream=False):
        body = body_of(fixture)
        reply = RESPONSES.read_reply(Operation.CHAT, "application/json", body)
        if fails(fixture):
            assert isinstance(reply, Failure), fixture["id"]
            continue
        count += 1
        if isinstance(reply, Failure):
            problems.append(f"{fixture['id']}: {reply}")
            continue
        answer = RESPONSES.target.decode_answer(body, SEED)
        wrong = misread(answer, expected(fixture))
        if answer.usage != reply.usage or answer.model != reply.served_model:
            wrong.append(f"judged as {reply}, for {answer.usage}")
        problems += [f"{fixture['id']}: {one}" for one in wrong]
    assert count > 300
    assert not problems, "\n".join(problems)


def test_a_whole_answer_comes_through_either_way_of_telling_it() -> None:
    problems = []
    for fixture in of(stream=False):
        body = body_of(fixture)
        if not isinstance(RESPONSES.read_reply(Operation.CHAT, "application/json", body), Reply):
            continue
        answer = RESPONSES.target.decode_answer(body, SEED)
        told, dropped = RESPONSES.source.encode_answer(answer, ASKED)
        encoder = RESPONSES.source.encoder(ASKED)
        stream = b"".join(encoder.encode(event) for event in events_of(answer)) + encoder.end()
        last = json.loads(stream.rstrip().rpartition(b"data: ")[2])
        streamed = events([stream])
        wrong = [*misread(fold(streamed), expected(fixture)), *dropped]
        if is_of_today(fixture):
            shapes = misshapen("responses", told, stream=False), misshapen("responses", stream, stream=True)
            wrong += [shape for shape in shapes if shape is not None]
        if last["response"] != json.loads(told):
            wrong.append("the last event is not the whole answer")
        again = RESPONSES.target.decode_answer(told, SEED)
        if fold(streamed) != again:
            wrong.append("streamed and whole differ")
        if again != answer and again.choices[0].parts != answer.choices[0].parts:
            wrong.append(f"{again} for {answer}")
        problems += [f"{fixture['id']}: {one}" for one in wrong]
    assert not problems, "\n".join(problems)


def test_a_whole_answer_can_be_passed_as_a_stream() -> None:
    for fixture in of(stream=False):
        body = body_of(fixture)
        if not isinstance(RESPONSES.read_reply(Operation.CHAT, "application/json", body), Reply):
            continue
        stream = RESPONSES.to_stream(body)
        last = json.loads(stream.rstrip().rpartition(b"data: ")[2])
        assert last["response"] == json.loads(body), fixture["id"]
        assert fold(events([stream])) == RESPONSES.target.decode_answer(body, SEED), fixture["id"]


# --- streams


def test_every_stream_says_what_was_recorded() -> None:
    problems, count = [], 0
    for fixture in of(stream=True):
        found = events([body_of(fixture)])
        if fails(fixture):
            if not any(isinstance(event, Failed) for event in found):
                problems.append(f"{fixture['id']}: the error went unseen")
            continue
        if not expected(fixture)["terminal"] or shortened(fixture):
            continue
        count += 1
        whole = at_once(fixture)
        assert whole is not None
        wrong = misread(fold(found), expected(fixture))
        again = RESPONSES.target.decode_answer(whole, SEED)
        if told_by(fold(found)) != told_by(again):
            wrong.append(f"not as the whole answer: {fold(found)} for {again}")
        if not isinstance(found[-1], Ended):
            wrong.append("no end")
        problems += [f"{fixture['id']}: {one}" for one in wrong]
    assert count > 50
    assert not problems, "\n".join(problems)


def test_tool_calls_are_told_in_order_and_whole() -> None:
    for fixture in of(stream=True):
        started, filled = 0, set()
        for event in events([body_of(fixture)]):
            match event:
                case ToolCallStarted():
                    assert event.index == started, fixture["id"]
                    assert event.id, fixture["id"]
                    started += 1
                case ToolCallDelta():
                    assert event.index < started, fixture["id"]
                    assert event.arguments, fixture["id"]
                    filled.add(event.index)
        if not fails(fixture) and expected(fixture)["terminal"]:
            assert len(filled) == started, fixture["id"]


def passed(chunks: list[bytes], encoder: Any = None) -> tuple[bytes, Failure | None, object]:
    """What a caller gets of a stream, and what it is charged by."""
    tap = EventTap(RESPONSES.target.decoder(SEED), FrameSplitter(), encoder)
    out = b"".join(tap.feed(chunk) for chunk in chunks)
    failure = tap.close()
    return out + tap.terminal, failure, (tap.usage, tap.anomaly, tap.output_chars, tap.served_model, tap.response_id)


def test_a_stream_passes_untouched_whatever_the_cuts() -> None:
    rng = random.Random(20260101)
    for fixture in of(stream=True):
        body = body_of(fixture)
        whole = passed([body])
        if whole[1] is None:
            assert whole[0] == body.removesuffix(b"data: [DONE]\n\n"), fixture["id"]  # Another wire's end mark.
        for cuts in (awkward_cuts(body)[:400], random_cuts(rng, body, 20)):
            assert passed(pieces(body, cuts)) == whole, fixture["id"]


def test_a_stream_told_again_says_the_same_whatever_the_cuts() -> None:
    rng = random.Random(20260101)
    for fixture in of(stream=True):
        body = body_of(fixture)
        told = passed([body], RESPONSES.source.encoder(ASKED))
        for cuts in (awkward_cuts(body)[:400], random_cuts(rng, body, 20)):
            assert passed(pieces(body, cuts), RESPONSES.source.encoder(ASKED)) == told, fixture["id"]
        if told[1] is not None or shortened(fixture):
            continue
        if is_of_today(fixture):
            assert misshapen("responses", told[0], stream=True) is None, fixture["id"]
        assert not misread(fold(events([told[0]])), expected(fixture)), fixture["id"]


# --- errors


def test_recorded_errors_have_their_kind() -> None:
    statuses = {400: FailureKind.REJECTED, 401: FailureKind.AUTH_FAILED}
    codes = {
        "context_length_exceeded": FailureKind.CONTEXT_EXCEEDED,
        "insufficient_quota": FailureKind.EXHAUSTED,
    }
    count = 0
    for fixture in recorded("openai.responses"):
        if fixture["status"] == 200:
            continue
        failure = RESPONSES.classify(fixture["status"], fixture["response_headers"], body_of(fixture))
        wanted = expected(fixture)["error"]
        assert failure.kind is codes.get(wanted["code"], statuses[fixture["status"]]), fixture["id"]
        if wanted["code"] is not None:
            assert failure.upstream_code == wanted["code"], fixture["id"]
        count += 1
    assert count >= 15
