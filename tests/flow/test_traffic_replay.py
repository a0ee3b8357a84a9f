"""Recorded provider traffic through the whole gateway: bytes in, bytes out, and what is charged for them.

A local upstream plays every recording to a gateway that knows each vendor by its preset; callers send the recorded
requests over real sockets. What is owed is worked out here from the numbers that come with a recording, apart from
RouterX's own reading of usage. Problems are gathered, so that a failure names every recording that it concerns.
"""

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from routerx.domain.model import EVERYTHING
from routerx.domain.pricing import ANY_TIER, PLAIN_TIERS
from routerx.domain.record import RequestRecord
from routerx.providers.presets import find_preset
from tests.support.gateway import HELLO, TENANT, Caller, Config, Gateway, Reply, config, running
from tests.support.traffic import (
    Fixture,
    awkward_cuts,
    body_of,
    curated,
    event_cuts,
    frames,
    is_stream,
    is_usage_frame,
    needs_traffic,
    random_cuts,
    recordings,
    says_nothing,
)
from tests.support.upstream import DONE, Replay, Request, ScriptedUpstream, Stream, sse

pytestmark = needs_traffic

PRICE = {"input": 3, "cached_input": "0.5", "cache_write_5m": 5, "output": 7, "reasoning": 11}
"""USD per million tokens, of every model: a token in the wrong bucket shows."""
FRESH, CACHED, WRITTEN, TEXT, REASONING = 3_000, 500, 5_000, 7_000, 11_000
"""The same in nano-USD per token."""

HOST_ONLY = ("azure",)
"""Configured without a path, which is then the preset's business."""
COMPATIBLE = {"gemini": "/v1beta/openai", "ollama": "/v1"}
"""Recorded on the OpenAI-compatible routes of vendors that are spoken to natively otherwise."""
BASES = {"alibaba": "/compatible-mode/v1", "zai": "/api/paas/v4", "moonshot": "/v1", "compat-misc": "/v1"}
"""Vendors without a preset, spoken to as plain OpenAI-compatible servers."""
ELSEWHERE = ("azure", "huggingface", "compat-misc")
"""Recorded at addresses that differ from recording to recording, or behind a proxy of the recording's own."""
USAGE_UNASKED = ("mistral",)
"""Streams usage of its own accord and refuses to be asked."""
RENAMED = {
    "openai": {"max_tokens": "max_completion_tokens"},
    "mistral": {"seed": "random_seed"},
}
"""Fields that a vendor knows under another name."""
CUTS_MAX = 300


# --- what a recording comes to


def request_of(fixture: Fixture) -> dict[str, Any]:
    """What the recording's caller sent, without what it wanted of another router; where that was not kept, something
    plain that vendors have other names for."""
    kept = fixture.get("request_body")
    if kept is not None:
        return {name: value for name, value in kept.items() if name not in ("provider", "models")}
    if fixture["api"] == "openai.embeddings":
        return {"model": fixture["model"] or "vectors", "input": "Hello"}
    plain = {"model": fixture["model"] or "unknown", "messages": HELLO, "max_tokens": 64, "seed": 7}
    return plain | ({"stream": True} if is_stream(fixture) else {})


def sent_on(fixture: Fixture, request: dict[str, Any]) -> dict[str, Any]:
    """What the vendor is to receive for a caller's request."""
    renamed = RENAMED.get(fixture["provider"], {})
    body = {renamed.get(name, name): value for name, value in request.items()}
    if asks(fixture, request):
        body["stream_options"] = {**(request.get("stream_options") or {}), "include_usage": True}
    return body


def asks(fixture: Fixture, request: dict[str, Any]) -> bool:
    """Whether RouterX has to ask for the stream's usage, because the caller does not."""
    asked = (request.get("stream_options") or {}).get("include_usage")
    return bool(request.get("stream")) and not asked and fixture["provider"] not in USAGE_UNASKED


def relayed(fixture: Fixture, request: dict[str, Any]) -> bytes:
    """What the caller is to receive: the recorded bytes, but for a usage frame that only RouterX wanted."""
    body = body_of(fixture)
    if is_stream(fixture) and not body.endswith(b"\n\n"):
        body += b"\n"  # An event is over only after an empty line.
    if not asks(fixture, request):
        return body
    return b"".join(frame for frame in frames(body) if not is_usage_frame(frame))


def fails(fixture: Fixture) -> bool:
    return fixture["status"] != 200 or any(tag.startswith("error:") for tag in fixture["tags"])


def reported(fixture: Fixture) -> dict[str, Any] | None:
    """The recording's usage as its makers' own parser has it; None where it has none."""
    if "expected" not in fixture:  # An embedding.
        return dict(fixture["response_body"]["usage"])
    expected = fixture["expected"]
    return expected if expected["has_usage"] else None


def has_impossible_cache(fixture: Fixture) -> bool:
    """Cache hits of a hidden prefix, which one vendor does not count as prompt."""
    usage = reported(fixture)
    return usage is not None and (usage.get("cached_tokens") or 0) > usage["prompt_tokens"]


def expected_flags(fixture: Fixture) -> set[str]:
    flags = {"anomaly"} if has_impossible_cache(fixture) else set()
    tiers = re.findall(rb'"service_tier": ?"([a-z_]+)"', body_of(fixture))
    flags |= {"tier_unpriced"} if tiers and tiers[-1].decode() not in (*PLAIN_TIERS, ANY_TIER) else set()
    return flags | ({"empty"} if says_nothing(fixture) else set())


def owed_nano(fixture: Fixture) -> int | None:
    """Rows A and Y of MONEY.md for the recording, by PRICE; None where only an estimate can tell."""
    if says_nothing(fixture):
        return 0
    usage = reported(fixture)
    if usage is None:
        return None
    prompt, completion = usage["prompt_tokens"], usage.get("completion_tokens") or 0
    cached = 0 if has_impossible_cache(fixture) else usage.get("cached_tokens") or 0
    written, reasoning = usage.get("cache_write_tokens") or 0, usage.get("reasoning_tokens") or 0
    if cached + written > prompt:
        cached -= written  # One prefix, read and written at once.
    # A total may count what neither part does: reasoning, told elsewhere or nowhere, or what was heard.
    apart = max((usage["total_tokens"] or 0) - prompt - completion, 0)
    heard = apart if "q:audio" in fixture["tags"] else 0
    text = completion if apart else completion - reasoning
    reasoning = max(reasoning, apart - heard)
    fresh = prompt - cached - written + heard
    return fresh * FRESH + cached * CACHED + written * WRITTEN + text * TEXT + reasoning * REASONING


# --- the stage


def staged(up: str, fixtures: Iterable[Fixture], providers: Sequence[str]) -> Config:
    """Every recording's model at the provider of the same place in `providers`, which goes by its vendor's preset."""
    value = config(up)
    value["providers"], value["models"] = {}, {}
    for fixture, name in zip(fixtures, providers, strict=True):
        vendor = fixture["provider"]
        preset = find_preset(vendor) if vendor not in COMPATIBLE else None
        path = urlsplit(preset.base_url or "").path if preset is not None else (BASES | COMPATIBLE)[vendor]
        value["providers"][name] = {
            "preset": vendor if preset is not None else "generic-openai",
            "base_url": up + ("" if vendor in HOST_ONLY else path),
            "keys": ["${env:UP_KEY}"],
        }
        model = request_of(fixture)["model"]
        offer = {"provider": name, "model": model, "price": PRICE, "supports": [str(one) for one in EVERYTHING]}
        kind = "embedding" if fixture["api"] == "openai.embeddings" else "chat"
        value["models"][f"{name}/{model}"] = {"kind": kind, "endpoints": [offer]}
    value["policies"]["default"] = {"retry": {"max": 0, "attempts": 1}}
    value["tenants"][TENANT]["opening_balance"] = "$1000000"
    return value


@dataclass(frozen=True)
class Played:
    """One recording's way through the gateway."""

    reply: Reply
    record: RequestRecord
    request: Request
    """As the vendor received it."""


@dataclass(frozen=True)
class Stage:
    """A gateway and the upstream that plays to it."""

    gateway: Gateway
    upstream: ScriptedUpstream
    caller: Caller

    async def play(
        self,
        fixture: Fixture,
        request: dict[str, Any],
        *,
        body: bytes | None = None,
        cuts: Sequence[int] = (),
        content_type: str | None = None,
        provider: str | None = None,
    ) -> Played:
        """Send the request and answer it with the recording, or with `body` in its place."""
        kind = fixture["response_headers"]["content-type"] if content_type is None else content_type
        body = body_of(fixture) if body is None else body
        self.upstream.queue(Replay(body, cuts, kind, fixture["status"]))
        path = "/v1/embeddings" if fixture["api"] == "openai.embeddings" else "/v1/chat/completions"
        model = f"{provider or fixture['provider']}/{request['model']}"
        calls = len(self.upstream.requests)
        await self.caller.send("POST", path, {**request, "model": model})
        reply, record = await self.caller.reply(), await self.gateway.settled()
        assert len(self.upstream.requests) == calls + 1, f"{fixture['id']}: {reply.body!r}"
        return Played(reply, record, self.upstream.requests[-1])

    async def assert_ledger_says(self, charged_nano: int) -> None:
        assert await self.gateway.spent() == charged_nano
        await self.gateway.assert_books_are_clean()


@asynccontextmanager
async def stage(
    tmp_path: Path, fixtures: Sequence[Fixture], providers: Sequence[str] | None = None
) -> AsyncIterator[Stage]:
    names = providers if providers is not None else [fixture["provider"] for fixture in fixtures]
    async with ScriptedUpstream() as upstream, running(tmp_path, staged(upstream.url, fixtures, names)) as gateway:
        yield Stage(gateway, upstream, await gateway.connect())


def misserved(played: Played, fixture: Fixture, body: bytes, flags: set[str] | None = None) -> str | None:
    """What is wrong with an answer and its row in the books; None when nothing is."""
    reply, record, owed = played.reply, played.record, owed_nano(fixture)
    if (reply.status, reply.cut, record.outcome) != (200, False, "ok"):
        return f"{reply.status} {record.outcome}: {reply.body[:300]!r}"
    if reply.body != body:
        return f"{reply.body!r} in place of {body!r}"
    if set(record.flags) != (flags or set()) | expected_flags(fixture):
        return f"flagged {record.flags}"
    if owed is None:
        return None if record.usage_source == "estimated" and record.cost_nano > 0 else f"no estimate: {record}"
    if record.usage_source != "provider" or record.cost_nano != owed:
        return f"{record.cost_nano} charged, {owed} owed for {reported(fixture)}: {record.usage}"
    return None


def misasked(played: Played, fixture: Fixture, request: dict[str, Any]) -> str | None:
    """What is wrong with what the vendor received; None when nothing is."""
    if played.request.json != sent_on(fixture, request):
        return f"{played.request.body!r} sent on for {request}"
    if fixture["provider"] not in ELSEWHERE and played.request.path != fixture["path"]:
        return f"sent to {played.request.path}"
    return None


# --- answers

GOOD = tuple(fixture for fixture in recordings() if not fails(fixture))
STREAMS = tuple(fixture for fixture in GOOD if is_stream(fixture))


async def test_every_recorded_answer_is_relayed_as_it_was_and_charged_by_its_usage(tmp_path: Path) -> None:
    problems, charged = [], 0
    async with stage(tmp_path, GOOD) as on:
        for fixture in GOOD:
            request = request_of(fixture)
            played = await on.play(fixture, request)
            problem = misasked(played, fixture, request) or misserved(played, fixture, relayed(fixture, request))
            problems += [f"{fixture['id']}: {problem}"] if problem else []
            charged += played.record.cost_nano
        assert not problems
        await on.assert_ledger_says(charged)


async def test_cuts_of_a_recorded_answer_change_neither_bytes_nor_charge(tmp_path: Path) -> None:
    rng = random.Random(20260101)
    chosen = [fixture for fixture in curated() if not fails(fixture)]
    problems = []
    async with stage(tmp_path, chosen) as on:
        for fixture in chosen:
            request, body = request_of(fixture), body_of(fixture)
            awkward = awkward_cuts(body)
            awkward = sorted(rng.sample(awkward, min(len(awkward), CUTS_MAX)))
            ways = [event_cuts(body), awkward] if is_stream(fixture) else [random_cuts(rng, body, 8)]
            for cuts in ways:
                played = await on.play(fixture, request, cuts=cuts)
                problem = misserved(played, fixture, relayed(fixture, request))
                problems += [f"{fixture['id']} cut at {cuts}: {problem}"] if problem else []
    assert not problems


async def test_usage_frame_reaches_those_who_asked_for_it_and_nobody_else(tmp_path: Path) -> None:
    problems, removed = [], 0
    async with stage(tmp_path, STREAMS) as on:
        for fixture in STREAMS:
            # The recorded caller's wish turned round.
            request = request_of(fixture)
            if request.pop("stream_options", None) is None:
                request["stream_options"] = {"include_usage": True}
                if fixture["provider"] in USAGE_UNASKED:
                    continue  # The wish is the vendor's to fulfil, and it always does.
            body = relayed(fixture, request)
            removed += body != body_of(fixture)
            played = await on.play(fixture, request)
            problem = misasked(played, fixture, request) or misserved(played, fixture, body)
            problems += [f"{fixture['id']}: {problem}"] if problem else []
    assert not problems
    assert removed > 50


async def test_stream_that_lacks_its_end_mark_gets_one(tmp_path: Path) -> None:
    problems = []
    async with stage(tmp_path, STREAMS) as on:
        for fixture in STREAMS:
            request, body = request_of(fixture), body_of(fixture)
            unmarked, mark, after = body.rpartition(DONE.strip())
            assert (mark, after.strip()) == (DONE.strip(), b""), fixture["id"]
            played = await on.play(fixture, request, body=unmarked)
            problem = misserved(played, fixture, relayed(fixture, request), {"missing_done"})
            problems += [f"{fixture['id']}: {problem}"] if problem else []
    assert not problems


# --- one usage, two forms


def told_as_stream(answer: dict[str, Any]) -> bytes:
    """A whole answer as a vendor would stream it: deltas, finishes, a usage frame, the end mark."""
    base = {"id": answer.get("id"), "object": "chat.completion.chunk", "model": answer.get("model")}
    events = []
    for choice in answer["choices"]:
        place = {"index": choice.get("index", 0)}
        events.append(base | {"choices": [place | {"delta": choice["message"], "finish_reason": None}]})
    for choice in answer["choices"]:
        finish = {"delta": {}, "finish_reason": choice.get("finish_reason")}
        events.append(base | {"choices": [{"index": choice.get("index", 0)} | finish]})
    if "usage" in answer:
        events.append(base | {"choices": [], "usage": answer["usage"]})
    return b"".join(map(sse, events)) + DONE


def told_at_once(fixture: Fixture) -> bytes:
    """A stream's text, calls and last usage as one answer."""
    expected = fixture["expected"]
    calls = [
        {"id": "x", "function": {"name": one["name"], "arguments": json.dumps(one["args"])}}
        for one in expected["tool_calls"]
    ]
    message = {"role": "assistant", "content": expected["text"], "tool_calls": calls}
    answer: dict[str, Any] = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    for frame in frames(body_of(fixture)):
        data = frame.removeprefix(b"data: ").strip()
        event = json.loads(data) if data.startswith(b"{") else {}
        usage = event.get("usage") or (event.get("x_groq") or {}).get("usage")
        answer |= {"usage": usage} if usage else {}
    return json.dumps(answer).encode()


async def test_recorded_answer_costs_the_same_streamed_and_buffered(tmp_path: Path) -> None:
    chosen = [fixture for fixture in curated() if not fails(fixture) and fixture["api"] == "openai.chat"]
    problems = []
    async with stage(tmp_path, chosen) as on:
        for fixture in chosen:
            plain = {name: value for name, value in request_of(fixture).items() if name != "stream_options"}
            streamed, buffered = plain | {"stream": True}, plain | {"stream": False}
            whole = told_at_once(fixture) if is_stream(fixture) else body_of(fixture)
            told = body_of(fixture) if is_stream(fixture) else told_as_stream(fixture["response_body"])
            ways = [
                await on.play(fixture, buffered, body=whole, content_type="application/json"),
                await on.play(fixture, streamed, body=told, content_type="text/event-stream"),
                # A stream was asked for and a whole answer came.
                await on.play(fixture, streamed, body=whole, content_type="application/json"),
            ]
            costs = [(played.reply.status, played.record.outcome, played.record.cost_nano) for played in ways]
            owed = owed_nano(fixture)
            if len(set(costs)) != 1 or costs[0][1] != "ok" or owed not in (costs[0][2], None):
                problems.append(f"{fixture['id']}: {costs}, {owed} owed")
            said = fixture["expected"]["text"]
            if "content_list" not in fixture["expected"]["notes"] and ways[2].reply.text != said:
                problems.append(f"{fixture['id']}: {ways[2].reply.text!r} for {said!r}")
    assert not problems


# --- errors

TOLD = {400: 400, 401: 502, 402: 503, 404: 404, 405: 405, 413: 413, 429: 429, 500: 502, 503: 502}
"""A vendor's status and the caller's: what is the operator's affair is no fault of the caller."""
OPERATORS = (401, 402)


def mistold(played: Played, fixture: Fixture) -> str | None:
    """What is wrong with a refusal; None when nothing is."""
    reply, record, error = played.reply, played.record, fixture["expected"]["error"]
    exhausted = error["code"] == "insufficient_quota"
    status = 503 if exhausted else TOLD[fixture["status"]]
    if reply.status != status:
        return f"{reply.status} in place of {status}"
    told = reply.error
    if not {"message", "type", "code", "param", "request_id", "retryable"} <= told.keys():
        return f"not the shape of an error: {told}"
    if (told["upstream_status"], record.http_status) != (fixture["status"], status):
        return f"{told} {record}"
    if fixture["status"] not in OPERATORS and not exhausted and told["message"][:40] != error["message"][:40]:
        return f"{told['message']!r} in place of {error['message']!r}"
    return None


async def test_recorded_refusals_are_told_in_one_shape_and_not_charged(tmp_path: Path) -> None:
    refusals = [fixture for fixture in recordings() if fixture["status"] != 200]
    # Each has a provider of its own: a refusal makes a credential rest.
    names = [f"{fixture['provider']}-{place}" for place, fixture in enumerate(refusals)]
    problems = []
    async with stage(tmp_path, refusals, names) as on:
        for fixture, name in zip(refusals, names, strict=True):
            request = request_of(fixture)
            played = await on.play(fixture, request, provider=name)
            problem = misasked(played, fixture, request) or mistold(played, fixture)
            if played.record.cost_nano or played.record.billing != "void":
                problem = f"charged: {played.record}"
            problems += [f"{fixture['id']}: {problem}"] if problem else []
        assert not problems
        await on.assert_ledger_says(0)


async def test_recorded_errors_inside_a_200_are_told_and_not_charged(tmp_path: Path) -> None:
    broken = [fixture for fixture in recordings() if fails(fixture) and fixture["status"] == 200]
    names = [f"{fixture['provider']}-{place}" for place, fixture in enumerate(broken)]
    async with stage(tmp_path, broken, names) as on:
        for fixture, name in zip(broken, names, strict=True):
            played = await on.play(fixture, request_of(fixture), provider=name)
            # Nothing had been relayed when the error was read, so it has a status: the one it names, if any.
            status = 502 if fixture["expected"]["midstream_error"] is None else 400
            assert (played.reply.status, played.record.http_status) == (status, status), fixture["id"]
            assert played.reply.error["request_id"] == played.record.id
            assert (played.record.billing, played.record.cost_nano) == ("void", 0), fixture["id"]
        await on.assert_ledger_says(0)


async def test_recorded_errors_behind_relayed_content_end_the_stream_and_are_not_charged(tmp_path: Path) -> None:
    broken = [fixture for fixture in recordings() if "error:midstream" in fixture["tags"]]
    assert broken
    async with stage(tmp_path, broken) as on:
        for fixture in broken:
            events, relayed_some = frames(body_of(fixture)), asyncio.Event()
            error = next(place for place, event in enumerate(events) if b'"error":' in event)
            on.upstream.queue(Stream(frames=events, gates={error: relayed_some}))
            request = request_of(fixture)
            await on.caller.send(
                "POST", "/v1/chat/completions", request | {"model": f"{fixture['provider']}/{request['model']}"}
            )
            head, seen = await on.caller.head(), await on.caller.chunk()
            relayed_some.set()
            reply, record = await on.caller.reply(head, seen), await on.gateway.settled()
            assert reply.stream_error is not None
            assert reply.stream_error["message"] == fixture["expected"]["midstream_error"]["message"]
            *before, _, _ = frames(reply.body)
            assert before == events[: len(before)], fixture["id"]
            assert len(before) > 1
            assert (record.outcome != "ok", record.billing, record.cost_nano) == (True, "void", 0), fixture["id"]
        await on.assert_ledger_says(0)
