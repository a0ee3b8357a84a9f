"""Recorded traffic of every native wire through the whole gateway to callers of another: nothing is lost on the way.

A local upstream plays a recording; a caller asks in its own format; the oracle that comes with the recordings reads
both ends (tests/support/oracle.py), and the official clients' types judge the shape of what was told. What is owed is
worked out from the oracle's numbers. Problems are gathered, so that a failure names every recording that it concerns.

A sample by seed is played where many recordings are of one kind; ROUTERX_TRAFFIC_ALL=1 plays them all, and every cut.
"""

import os
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from routerx.domain.model import EVERYTHING
from routerx.domain.record import RequestRecord
from tests.support.gateway import TENANT, Caller, Config, Gateway, Reply, config, running
from tests.support.oracle import (
    NATIVE,
    Rates,
    Reading,
    at_once,
    differences,
    expected,
    owed_nano,
    recorded,
    recorded_events,
    told,
)
from tests.support.told import misshapen
from tests.support.traffic import Fixture, awkward_cuts, body_of, is_stream, needs_traffic, random_cuts, says_nothing
from tests.support.upstream import Replay, ScriptedUpstream

pytestmark = needs_traffic

ALL = bool(os.environ.get("ROUTERX_TRAFFIC_ALL"))
SEED = 20260101
CUTS_MAX = 200

PRICE = {"input": 3, "cached_input": "0.5", "cache_write_5m": 5, "output": 7, "reasoning": 11}
"""USD per million tokens, of every model: a token in the wrong bucket shows."""
RATES = Rates(fresh=3_000, cached=500, written=5_000, text=7_000, reasoning=11_000)

NEVER = {"consecutive": 10_000, "min_requests": 10_000}
"""When the breaker opens, so that one kind of defect does not hide the others."""

DIALECTS: Mapping[str, str] = {
    "anthropic.messages": "anthropic",
    "gemini.generate": "gemini",
    "openai.responses": "responses",
    "openai.chat": "openai",
}
CALLERS = ("openai", "responses", "anthropic", "gemini")


def path_of(caller: str, model: str, *, stream: bool) -> str:
    paths = {"openai": "/v1/chat/completions", "responses": "/v1/responses", "anthropic": "/v1/messages"}
    method = "streamGenerateContent?alt=sse" if stream else "generateContent"
    return paths.get(caller, f"/v1beta/models/{model}:{method}")


# --- what is played


def left_out(fixture: Fixture) -> str | None:
    """Why a recording proves nothing here; None where it does."""
    tags, reading = fixture["tags"], expected(fixture)
    if "n:partial_function_args" in tags:
        return "arguments in pieces, which RouterX never asks this vendor for"
    if isinstance(fixture.get("response_body"), list):
        return "a stream as one JSON array, which RouterX never asks for"
    if fixture["api"] == "openai.responses" and fixture["status"] == 200:
        return unlike_an_answer(fixture, reading)
    if fixture["api"] == "openai.chat" and contradicts_itself(reading):
        return "numbers that contradict each other; what is owed for them is test_traffic_replay's matter"
    return None


def unlike_an_answer(fixture: Fixture, reading: Reading) -> str | None:
    """Of recorded responses: what no provider sends, or the oracle does not read."""
    if "custom_tool_call" in reading["block_types"]:
        return "a custom tool's call, which the oracle does not read"
    if "image_generation_call" in reading["block_types"]:
        return "a picture, of which its makers have kept the beginning"
    if not is_stream(fixture):
        return None if reading["terminal"] else "an answer still being made, which RouterX never asks for"
    kinds = [event.get("type") for event in recorded_events(fixture)]
    if kinds.count("response.created") > 1:
        return "several answers recorded as one"
    pieces = "".join(
        event["delta"] for event in recorded_events(fixture) if event.get("type") == "response.output_text.delta"
    )
    return None if pieces == reading["text"] else "a stream that its makers have shortened"


def contradicts_itself(reading: Reading) -> bool:
    prompt, completion = reading["prompt_tokens"] or 0, reading["completion_tokens"] or 0
    total = prompt + completion if reading["total_tokens"] is None else reading["total_tokens"]
    cached = (reading["cached_tokens"] or 0) + (reading["cache_write_tokens"] or 0)
    return cached > prompt or total != prompt + completion


def fails(fixture: Fixture) -> bool:
    return fixture["status"] != 200 or any(tag.startswith("error:") for tag in fixture["tags"])


def good(api: str) -> tuple[Fixture, ...]:
    """Whole answers, and streams that ended as their wire wants."""
    return tuple(
        fixture
        for fixture in recorded(api)
        if not fails(fixture) and left_out(fixture) is None and expected(fixture)["terminal"]
    )


def some(fixtures: Sequence[Fixture], count: int, seed: str) -> Sequence[Fixture]:
    """A sample, the same every time; streams are few, and all of them are in it."""
    if ALL or len(fixtures) <= count:
        return fixtures
    chosen = {fixture["id"] for fixture in fixtures if is_stream(fixture)}
    rest = [fixture["id"] for fixture in fixtures if not is_stream(fixture)]
    chosen |= set(random.Random(f"{SEED} {seed}").sample(rest, max(0, min(count - len(chosen), len(rest)))))
    return [fixture for fixture in fixtures if fixture["id"] in chosen]


# --- the stage


@dataclass(frozen=True)
class Played:
    """One recording's way through the gateway."""

    reply: Reply
    record: RequestRecord
    stream: bool


@dataclass(frozen=True)
class Stage:
    """A gateway, and the upstream that plays to it."""

    gateway: Gateway
    upstream: ScriptedUpstream
    connection: Caller

    async def play(
        self, fixture: Fixture, caller: str, *, stream: bool, body: bytes, cuts: Sequence[int] = (), model: str = ""
    ) -> Played:
        """Ask as `caller`, and answer with `body`, which is the recorded one or made of it."""
        streams = is_stream(fixture) and body == body_of(fixture)
        kind = fixture["response_headers"].get("content-type")
        if kind is None or not streams:
            kind = "text/event-stream" if streams else "application/json"
        self.upstream.queue(Replay(body, cuts, kind, fixture["status"]))
        model = model or DIALECTS[fixture["api"]]
        request = request_of(fixture, caller, model, stream=stream)
        await self.connection.send("POST", path_of(caller, model, stream=stream), request)
        reply, record = await self.connection.reply(), await self.gateway.settled()
        return Played(reply, record, stream)


def request_of(fixture: Fixture, caller: str, model: str, *, stream: bool) -> dict[str, Any]:
    """Something plain, with the tools that the recorded answer calls."""
    names = sorted({call["name"] for call in expected(fixture)["tool_calls"] if call["name"]})
    schema = {"type": "object", "properties": {}}
    if caller == "gemini":
        declared = [{"name": name, "parametersJsonSchema": schema} for name in names]
        told_tools = {"tools": [{"functionDeclarations": declared}]} if names else {}
        return {"contents": [{"role": "user", "parts": [{"text": "Replay, please."}]}], **told_tools}
    asks = [{"role": "user", "content": "Replay, please."}]
    request: dict[str, Any] = {"model": model, "stream": stream}
    match caller:
        case "openai":
            tools: list[Any] = [
                {"type": "function", "function": {"name": name, "parameters": schema}} for name in names
            ]
            request |= {"messages": asks, "max_tokens": 1024}
            request |= {"stream_options": {"include_usage": True}} if stream else {}
        case "responses":
            tools = [{"type": "function", "name": name, "parameters": schema, "strict": False} for name in names]
            request |= {"input": asks, "max_output_tokens": 1024}
        case _:
            tools = [{"name": name, "input_schema": schema} for name in names]
            request |= {"messages": asks, "max_tokens": 1024}
    return request | ({"tools": tools} if tools else {})


def staged(up: str, models: Mapping[str, str]) -> Config:
    """Each model at a provider of its own name, which speaks the dialect named beside it."""
    value = config(up)
    value["providers"], value["models"] = {}, {}
    supports = [str(one) for one in EVERYTHING]
    for model, dialect in models.items():
        name = f"wire-{model}"  # No preset's name: it would bring another wire along.
        value["providers"][name] = {"dialect": dialect, "base_url": f"{up}/v1", "keys": ["${env:UP_KEY}"]}
        value["models"][model] = {"endpoints": [{"provider": name, "price": PRICE, "supports": supports}]}
    value["policies"]["default"] = {
        "retry": {"max": 0, "attempts": 1},
        "breaker": {"consecutive": 10_000, "min_requests": 10_000},
    }
    value["tenants"][TENANT]["opening_balance"] = "$1000000"
    return value


@asynccontextmanager
async def stage(tmp_path: Path, models: Iterable[tuple[str, str]] = ()) -> AsyncIterator[Stage]:
    named = dict(models) or {dialect: dialect for dialect in DIALECTS.values()}
    async with ScriptedUpstream() as upstream, running(tmp_path, staged(upstream.url, named)) as gateway:
        yield Stage(gateway, upstream, await gateway.connect())


# --- judging


def misserved(played: Played, fixture: Fixture, caller: str) -> str | None:
    """What is wrong with an answer and its row in the books; None when nothing is."""
    reply, record, wanted = played.reply, played.record, expected(fixture)
    if (reply.status, reply.cut, record.outcome) != (200, False, "ok"):
        return f"{reply.status} {record.outcome}: {reply.body[:300]!r}"
    wrong = misshapen(caller, reply.body, stream=played.stream)
    if wrong is None:
        got = told(caller, reply.body, stream=played.stream)
        wrong = "; ".join(differences(wanted, got, cannot_say(caller, fixture, wanted))) or None
    if wrong is not None:
        return wrong
    owed = 0 if says_nothing(fixture) else owed_nano(wanted, RATES)
    if owed is None:
        return None if record.usage_source == "estimated" else f"no estimate: {record}"
    if record.usage_source != "provider" or record.cost_nano != owed:
        return f"{record.cost_nano} charged, {owed} owed: {record.usage}"
    return None


def cannot_say(caller: str, fixture: Fixture, wanted: Reading) -> set[str]:
    """Fields of the oracle that a caller's wire has no place for, or the oracle does not read there."""
    found = {"cache_write_tokens"} if caller == "responses" else set()
    if b'"reasoning_details"' in body_of(fixture):
        found.add("reasoning")  # Another vendor's form of thoughts, which the oracle does not read.
    if caller in ("responses", "gemini") and wanted["tool_calls"] and wanted["finish"] == "stop":
        found.add("finish")  # Their wires have no word for it: calls mean that it is the caller's turn.
    if caller in ("anthropic", "gemini"):
        found.add("refusal")  # They have no refusal in words: it is told as text.
        if wanted["refusal"]:
            found.add("text")
    return found | ({"cache_write_tokens"} if caller == "gemini" else set())


# --- answers


async def gathered(tmp_path: Path, caller: str, fixtures: Sequence[Fixture]) -> list[str]:
    """Each recording as it was."""
    problems, charged = [], 0
    async with stage(tmp_path) as on:
        for fixture in fixtures:
            played = await on.play(fixture, caller, stream=is_stream(fixture), body=body_of(fixture))
            charged += played.record.cost_nano
            if problem := misserved(played, fixture, caller):
                problems.append(f"{fixture['id']}: {problem}")
        if not problems:
            assert await on.gateway.spent() == charged
            await on.gateway.assert_books_are_clean()
    return problems


@pytest.mark.parametrize("api", NATIVE)
async def test_every_recorded_answer_is_told_to_a_chat_caller_and_charged_by_its_usage(
    tmp_path: Path, api: str
) -> None:
    problems = await gathered(tmp_path, "openai", good(api))
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("caller", "api"),
    [(caller, api) for caller in CALLERS[1:] for api in DIALECTS if DIALECTS[api] != caller],
)
async def test_recorded_answers_are_told_to_other_callers_and_charged_by_their_usage(
    tmp_path: Path, caller: str, api: str
) -> None:
    problems = await gathered(tmp_path, caller, some(good(api), 90, f"{caller} {api}"))
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("api", NATIVE)
async def test_cuts_of_a_recorded_stream_change_neither_answer_nor_charge(tmp_path: Path, api: str) -> None:
    problems, rng = [], random.Random(SEED)
    streams = [fixture for fixture in good(api) if is_stream(fixture)]
    async with stage(tmp_path) as on:
        for fixture in streams if ALL else rng.sample(streams, min(len(streams), 40)):
            body = body_of(fixture)
            awkward = sorted({*awkward_cuts(body), *line_cuts(body)})
            ways = [sorted(rng.sample(awkward, min(len(awkward), CUTS_MAX))), random_cuts(rng, body, CUTS_MAX)]
            for cuts in ways:
                played = await on.play(fixture, "openai", stream=True, body=body, cuts=cuts)
                if problem := misserved(played, fixture, "openai"):
                    problems.append(f"{fixture['id']} cut at {cuts}: {problem}")
    assert not problems, "\n".join(problems)


def line_cuts(body: bytes) -> set[int]:
    """Between CR and LF."""
    return {place + 1 for place in range(len(body) - 1) if body[place : place + 2] == b"\r\n"}


@pytest.mark.parametrize("api", NATIVE)
async def test_recorded_answer_costs_the_same_streamed_and_buffered(tmp_path: Path, api: str) -> None:
    problems = []
    async with stage(tmp_path) as on:
        for fixture in some(good(api), 120, f"forms {api}"):
            whole = at_once(fixture) if is_stream(fixture) else body_of(fixture)
            if whole is None:
                continue
            ways = [
                await on.play(fixture, "openai", stream=False, body=whole),
                # A stream was asked for and a whole answer came.
                await on.play(fixture, "openai", stream=True, body=whole),
            ]
            if is_stream(fixture):
                ways.append(await on.play(fixture, "openai", stream=True, body=body_of(fixture)))
            found = [problem for played in ways if (problem := misserved(played, fixture, "openai"))]
            costs = {played.record.cost_nano for played in ways}
            if expected(fixture)["has_usage"] and len(costs) != 1:
                found.append(f"costs {costs}")
            problems += [f"{fixture['id']}: {problem}" for problem in found]
    assert not problems, "\n".join(problems)


# --- errors

TOLD = {400: 400, 401: 502, 403: 502, 404: 404, 429: 429, 500: 502, 503: 503, 529: 503}
"""A vendor's status and the caller's: what is the operator's affair is no fault of the caller."""


@pytest.mark.parametrize("caller", CALLERS)
async def test_recorded_refusals_are_told_in_the_callers_shape_and_not_charged(tmp_path: Path, caller: str) -> None:
    refusals = [fixture for api in NATIVE for fixture in recorded(api) if fixture["status"] != 200]
    # Each has a provider of its own: a refusal makes a credential rest.
    named = [(f"p{place}", DIALECTS[fixture["api"]]) for place, fixture in enumerate(refusals)]
    problems = []
    async with stage(tmp_path, named) as on:
        for fixture, (model, dialect) in zip(refusals, named, strict=True):
            if dialect == caller:
                continue
            played = await on.play(fixture, caller, stream=is_stream(fixture), body=body_of(fixture), model=model)
            if problem := mistold(played, fixture, caller):
                problems.append(f"{fixture['id']}: {problem}")
        await on.gateway.assert_books_are_clean()
        assert await on.gateway.spent() == 0
    assert not problems, "\n".join(problems)


def mistold(played: Played, fixture: Fixture, caller: str) -> str | None:
    """What is wrong with a refusal; None when nothing is."""
    reply, error = played.reply, expected(fixture)["error"]
    exhausted, bad_key = error["code"] == "insufficient_quota", b"API_KEY_INVALID" in body_of(fixture)
    status = 503 if exhausted else 502 if bad_key else TOLD[fixture["status"]]
    if reply.status != status:
        return f"{reply.status} in place of {status}: {reply.body[:300]!r}"
    body = reply.json
    if caller == "anthropic" and (body["type"], set(body["error"]) >= {"type", "message"}) != ("error", True):
        return f"not the shape of an error: {body}"
    told_error = body["error"]
    if caller == "gemini" and set(body["error"]) < {"message", "code", "status"}:
        return f"not the shape of an error: {body}"
    if caller not in ("anthropic", "gemini") and not {"message", "type", "code", "param"} <= set(told_error):
        return f"not the shape of an error: {body}"
    operators = fixture["status"] in (401, 403) or exhausted or bad_key
    if not operators and masked(error["message"])[:40] not in masked(told_error["message"]):
        return f"{told_error['message']!r} in place of {error['message']!r}"
    if (played.record.billing, played.record.cost_nano) != ("void", 0):
        return f"charged: {played.record}"
    return None


def masked(message: str | None) -> str:
    """Without what is quoted: ids in it are told without their secret part."""
    return re.sub(r"'[^']*'", "''", message or "")


async def test_recorded_errors_inside_a_200_are_told_and_not_charged(tmp_path: Path) -> None:
    broken = [fixture for api in NATIVE for fixture in recorded(api) if fails(fixture) and fixture["status"] == 200]
    named = [(f"p{place}", DIALECTS[fixture["api"]]) for place, fixture in enumerate(broken)]
    problems = []
    async with stage(tmp_path, named) as on:
        for fixture, (model, _) in zip(broken, named, strict=True):
            played = await on.play(fixture, "openai", stream=is_stream(fixture), body=body_of(fixture), model=model)
            if not says_error(played):
                problems.append(f"{fixture['id']}: {played.reply.status} {played.reply.body[:300]!r}")
            if (played.record.billing, played.record.cost_nano) != ("void", 0):
                problems.append(f"{fixture['id']}: charged: {played.record}")
    assert not problems, "\n".join(problems)


def says_error(played: Played) -> bool:
    if played.reply.status != 200:
        return played.reply.status >= 400 and "message" in played.reply.error
    return played.stream and played.reply.stream_error is not None


async def test_recorded_streams_that_stop_short_are_not_told_as_whole(tmp_path: Path) -> None:
    short = [
        fixture
        for api in NATIVE
        for fixture in recorded(api)
        if is_stream(fixture) and not fails(fixture) and not left_out(fixture) and not expected(fixture)["terminal"]
    ]
    problems = []
    async with stage(tmp_path) as on:
        for fixture in short:
            played = await on.play(fixture, "openai", stream=True, body=body_of(fixture))
            if not says_error(played):
                problems.append(f"{fixture['id']}: {played.reply.body[-300:]!r}")
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(("api", "share"), [*((api, 0.04) for api in NATIVE), ("openai.chat", 0.1)])
def test_little_is_left_out(api: str, share: float) -> None:
    everything = recorded(api)
    reasons = Counter(reason for fixture in everything if (reason := left_out(fixture)) is not None)
    assert reasons.total() <= len(everything) * share, reasons
