"""Recorded Messages traffic through the dialect: answers, streams, errors and requests, whole and in pieces."""

import json
import random
from collections.abc import Iterator
from typing import Any

from anthropic.types.message_create_params import MessageCreateParamsNonStreaming

from routerx import jsonx
from routerx.dialects.anthropic import ANTHROPIC
from routerx.dialects.base import Aim, Asked, Reply
from routerx.dialects.sse import FrameSplitter
from routerx.domain.call import Operation, Peek
from routerx.domain.chat import Answer, ChatRequest, Choice, Finish, Reasoning, Text, ToolCall
from routerx.domain.events import Event, events_of, fold
from routerx.domain.failure import FailureKind
from routerx.domain.model import EVERYTHING, Capability
from routerx.domain.usage import Usage
from routerx.jsonx import request_object
from tests.support.natives.shapes import complaints
from tests.support.oracle import expected, recorded, told
from tests.support.traffic import (
    Fixture,
    awkward_cuts,
    body_of,
    event_cuts,
    is_stream,
    needs_traffic,
    pieces,
    random_cuts,
)

pytestmark = needs_traffic

CLASSES = {
    Finish.STOP: "stop",
    Finish.LENGTH: "length",
    Finish.TOOL_CALLS: "tool_calls",
    Finish.CONTENT_FILTER: "content_filter",
}
ASKED = Asked(request=ChatRequest(messages=()), model="m", request_id="r1", created_s=1)


def answered(*, stream: bool) -> Iterator[tuple[str, Fixture, bytes]]:
    for fixture in recorded("anthropic.messages"):
        if fixture["status"] == 200 and is_stream(fixture) is stream:
            yield fixture["id"], fixture, body_of(fixture)


def is_error(fixture: Fixture) -> bool:
    """An error under a status of success."""
    return "error:in_200" in fixture["tags"]


def is_whole(fixture: Fixture) -> bool:
    return not is_error(fixture) and "a:unterminated_stream" not in fixture["tags"]


def heard(chunks: list[bytes]) -> list[Event]:
    decoder, splitter = ANTHROPIC.target.decoder("s"), FrameSplitter()
    events: list[Event] = []
    for chunk in chunks:
        for frame in splitter.feed(chunk)[1]:
            events += decoder.feed(frame)
    _, last = splitter.finish()
    return [*events, *(decoder.feed(last) if last is not None else ()), *decoder.finish()]


# --- against the oracle


def wrong_content(choice: Choice, want: dict[str, Any]) -> str | None:
    """What differs from what the oracle read; None when nothing does."""
    text = "".join(part.text for part in choice.parts if isinstance(part, Text))
    thought = "".join(part.text for part in choice.parts if isinstance(part, Reasoning))
    calls = [
        {"name": part.name, "args": json.loads(part.arguments), "id": part.id}
        for part in choice.parts
        if isinstance(part, ToolCall)
    ]
    finish = CLASSES.get(choice.finish) if choice.finish is not None else None
    got = (text, thought, calls, finish)
    wanted = (want["text"], want["reasoning_text"], want["tool_calls"], want["finish"])
    return None if got == wanted else f"{got} for {wanted}"


def wrong_usage(usage: Usage | None, want: dict[str, Any]) -> str | None:
    if usage is None:
        return "no usage" if want["has_usage"] else None
    got = (
        usage.in_fresh,
        usage.in_cache_read,
        usage.in_cache_write_5m + usage.in_cache_write_1h,
        usage.output_tokens,
        usage.out_reasoning,
    )
    wanted = (
        want["prompt_tokens_excl"],
        want["cached_tokens"],
        want["cache_write_tokens"],
        want["completion_tokens"],
        want["reasoning_tokens"] or 0,
    )
    return None if got == wanted else f"usage {got} for {wanted}"


def wrong(answer: Answer, fixture: Fixture) -> list[str]:
    want = expected(fixture)
    found = [wrong_content(answer.choices[0], want), wrong_usage(answer.usage, want)]
    return [f"{fixture['id']}: {one}" for one in found if one is not None]


def test_every_recorded_answer_is_read() -> None:
    problems: list[str] = []
    count = 0
    for name, fixture, body in answered(stream=False):
        reply = ANTHROPIC.read_reply(Operation.CHAT, "application/json", body)
        if is_error(fixture):
            assert not isinstance(reply, Reply), name
            continue
        assert isinstance(reply, Reply), name
        answer = ANTHROPIC.target.decode_answer(body, "s")
        assert (reply.usage, reply.anomaly, reply.served_model) == (answer.usage, False, answer.model), name
        problems += wrong(answer, fixture)
        count += 1
    assert not problems
    assert count > 300


def test_every_recorded_stream_is_read() -> None:
    problems: list[str] = []
    for _, fixture, stream in answered(stream=True):
        if is_whole(fixture):
            problems += wrong(fold(heard([stream])), fixture)
    assert not problems


def test_cache_writes_are_split_as_the_vendor_splits_them() -> None:
    """Where it says how many tokens were written for how long, which the oracle does not read."""
    seen = 0
    for name, _, body in answered(stream=False):
        usage = json.loads(body).get("usage") or {}
        split = usage.get("cache_creation") or {}
        if sum(split.values()) and sum(split.values()) == usage["cache_creation_input_tokens"]:
            got = ANTHROPIC.target.decode_answer(body, "s").usage
            assert got is not None, name
            seen += 1
            assert got.in_cache_write_5m == split["ephemeral_5m_input_tokens"], name
            assert got.in_cache_write_1h == split["ephemeral_1h_input_tokens"], name
    assert seen


def test_searches_are_counted() -> None:
    counts = [
        (usage.searches, json.loads(body)["usage"].get("server_tool_use"))
        for _, fixture, body in answered(stream=False)
        if not is_error(fixture) and (usage := ANTHROPIC.target.decode_answer(body, "s").usage) is not None
    ]
    assert all(got == (tools or {}).get("web_search_requests", 0) for got, tools in counts)
    assert any(got for got, _ in counts)


# --- cuts, and the two forms


def test_cuts_anywhere_give_what_the_whole_gives() -> None:
    rng = random.Random(20260101)
    for name, _, stream in answered(stream=True):
        whole = heard([stream])
        assert heard(pieces(stream, event_cuts(stream))) == whole, name
        assert heard(pieces(stream, awkward_cuts(stream)[:2_000])) == whole, name
        for count in (1, 3, 40):
            assert heard(pieces(stream, random_cuts(rng, stream, count))) == whole, name


def outcome(chunks: list[bytes]) -> dict[str, Any]:
    tap = ANTHROPIC.tap(Peek(Operation.CHAT, "m"), strip_usage=False)
    out = b"".join(tap.feed(chunk) for chunk in chunks)
    failure = tap.close()
    names = ("terminal", "usage", "anomaly", "done", "finished", "missing_done", "served_model", "response_id")
    return {"out": out, "failure": failure, **{name: getattr(tap, name) for name in names}}


def test_every_recorded_stream_passes_byte_for_byte() -> None:
    for name, fixture, stream in answered(stream=True):
        whole = outcome([stream])
        if is_error(fixture):
            assert whole["failure"] is not None, name
            continue
        if not is_whole(fixture):
            assert whole["failure"].kind is FailureKind.TRUNCATED, name
            continue
        ending = b"" if stream.endswith(b"\n\n") else b"\n\n"[: 2 - (len(stream) - len(stream.rstrip(b"\n")))]
        assert (whole["failure"], whole["done"], whole["missing_done"]) == (None, True, False), name
        assert whole["out"] + whole["terminal"] == stream + ending, name
        assert b"message_delta" not in whole["out"], name
        assert b"message_delta" in whole["terminal"], name
        assert whole["usage"] == fold(heard([stream])).usage, name


def test_a_stream_cut_short_is_never_taken_for_a_whole_one() -> None:
    for name, fixture, stream in answered(stream=True):
        if not is_whole(fixture) or len(stream) > 20_000:
            continue
        whole = outcome([stream])
        for cut in event_cuts(stream):
            if cut <= len(whole["out"]):
                seen = outcome([stream[:cut]])
                assert seen["failure"].kind in (FailureKind.TRUNCATED, FailureKind.EMPTY), (name, cut)


def test_an_answer_told_as_a_stream_says_and_costs_the_same() -> None:
    for name, fixture, body in answered(stream=False):
        if is_error(fixture):
            continue
        whole = ANTHROPIC.target.decode_answer(body, "s")
        stream = ANTHROPIC.to_stream(body)
        assert fold(heard([stream])) == whole, name
        seen = outcome([stream])
        assert (seen["failure"], seen["usage"], seen["served_model"]) == (None, whole.usage, whole.model), name


def test_what_is_written_says_what_was_read() -> None:
    """Whole and streamed, by the oracle's own parser of this wire."""
    keys = ("text", "tool_calls", "finish", "reasoning_text", "prompt_tokens", "completion_tokens", "cached_tokens")
    for name, fixture, body in answered(stream=False):
        if is_error(fixture):
            continue
        answer = ANTHROPIC.target.decode_answer(body, "s")
        encoder = ANTHROPIC.source.encoder(ASKED)
        stream = b"".join(encoder.encode(event) for event in events_of(answer)) + encoder.end()
        whole, dropped = ANTHROPIC.source.encode_answer(answer, ASKED)
        assert set(dropped) == encoder.dropped <= {"citations"}, name
        want = expected(fixture)
        for reading in (told("anthropic", whole, stream=False), told("anthropic", stream, stream=True)):
            assert {key: reading[key] for key in keys} == {key: want[key] for key in keys}, name


# --- errors

KINDS = {
    400: FailureKind.REJECTED,
    401: FailureKind.AUTH_FAILED,
    404: FailureKind.REJECTED,
    429: FailureKind.RATE_LIMITED,
    529: FailureKind.OVERLOADED,
}


def test_every_recorded_error_is_classified() -> None:
    seen = set()
    for fixture in recorded("anthropic.messages"):
        status = fixture["status"]
        if status == 200:
            continue
        seen.add(status)
        failure = ANTHROPIC.classify(status, fixture["response_headers"], body_of(fixture))
        assert (failure.kind, failure.upstream_status) == (KINDS[status], status), fixture["id"]
        if "retry-after" in fixture["response_headers"]:
            assert failure.retry_after_s is not None, fixture["id"]
    assert seen == set(KINDS)


# --- requests


def asked_for() -> Iterator[tuple[str, Fixture, dict[str, Any]]]:
    for fixture in recorded("anthropic.messages"):
        request = fixture.get("request_body")
        if isinstance(request, dict) and fixture["status"] == 200:
            yield fixture["id"], fixture, request


def test_every_recorded_request_that_was_answered_is_accepted_and_its_prompt_covered() -> None:
    covered = counted = 0
    for name, fixture, request in asked_for():
        body = json.dumps(request, ensure_ascii=False).encode()
        fields = request_object(body)
        peek = ANTHROPIC.peek(Operation.CHAT, body, fields)
        assert (peek.model, peek.stream) == (request["model"], bool(request.get("stream"))), name
        assert peek.output_tokens_max == request["max_tokens"], name
        assert (Capability.TOOLS in peek.needs) == bool(request.get("tools")), name
        sent = json.loads(jsonx.encode(ANTHROPIC.request_fields(fields, model="other", ask_usage=False)))
        assert sent == {**request, "model": "other"}, name
        want = expected(fixture)
        if want["prompt_tokens"] and not want["server_tools"]:  # What the vendor's own tools find grows the prompt.
            counted += 1
            covered += peek.input_tokens_estimate >= want["prompt_tokens"]
    assert counted > 200
    assert covered / counted > 0.97


def without(request: dict[str, Any]) -> dict[str, Any]:
    """What the type of an unstreamed request of the API's latest version has no place for is left out."""
    return {key: value for key, value in request.items() if key not in ("stream", "temperature", "top_p", "top_k")}


def test_every_recorded_request_goes_out_again_in_a_form_the_vendor_takes() -> None:
    """By the official client's types, as far as these know what was recorded."""
    problems = []
    count = 0
    for name, _, request in asked_for():
        if complaints(without(request), MessageCreateParamsNonStreaming):
            continue
        count += 1
        asked = ANTHROPIC.source.decode_request(request_object(json.dumps(request).encode()))
        aim = Aim(model="m", output_tokens_max=64_000, capabilities=EVERYTHING - {Capability.PREFILL})
        encoded = ANTHROPIC.target.encode_request(asked, aim)
        sent = without(json.loads(jsonx.encode(encoded.fields)))
        problems += [f"{name}: {one}" for one in complaints(sent, MessageCreateParamsNonStreaming)]
    assert not problems
    assert count > 250
