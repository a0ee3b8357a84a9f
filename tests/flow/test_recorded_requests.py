"""Recorded conversations on their way to Anthropic and Gemini: they arrive as they were recorded natively.

Real native requests that the real vendors took, the same told in OpenAI's format by the recordings' own tools, and real
requests of OpenAI clients; the recordings' own comparison (reqoracle) judges what the fake provider got.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.flow.test_native_requests import TARGETS, stage
from tests.flow.test_translated_traffic import ALL
from tests.support.oracle import pairs, recorded, recording, tool
from tests.support.traffic import needs_traffic

pytestmark = needs_traffic

Json = dict[str, Any]

PASSED_ON = (
    *("messages", "tools", "tool_choice", "parallel_tool_calls", "max_tokens", "max_completion_tokens"),
    *("temperature", "top_p", "stop", "response_format"),
)


def canonical(target: str, body: Json) -> Json:
    """By the recordings' own reading."""
    oracle = tool("reqoracle")
    found: Json = oracle.canon_anthropic(body) if target == "anthropic" else oracle.canon_gemini(body)
    return found


JSON_WORDS = "Answer with one JSON object and nothing else."


def allowing(request: Json, wanted: Json, got: Json) -> tuple[Json, Json]:
    """Both sides without what RouterX adds by documented default where a target asks for what the caller left out."""
    names = {call["function"]["name"] for one in request["messages"] for call in one.get("tool_calls") or ()}
    if not request.get("tools") and got["tools"] and set(got["tools"]) <= names:
        got = got | {"tools": wanted["tools"], "tool_choice": wanted["tool_choice"]}  # Of a history of tools.
    roles = [one["role"] for one in request["messages"] if one["role"] not in ("system", "developer")]
    if not roles:  # Nobody else speaks: what the system says becomes the first turn.
        wanted = wanted | {"system": "", "turns": [("user", [("text", wanted["system"])])]}
    elif roles[0] == "assistant" and got["turns"][0] == ("user", [("text", "…")]):
        got = got | {"turns": got["turns"][1:]}  # The first turn has to be the user's.
    if (request.get("response_format") or {}).get("type") == "json_object" and not got["json_mode"]:
        got = got | {"system": got["system"].removesuffix(JSON_WORDS)}  # Where the wire has no such wish.
    if not {"max_tokens", "max_completion_tokens"} & request.keys():
        wanted = wanted | {"max_tokens": got["max_tokens"]}
    return wanted, got


def complaints(target: str, request: Json, wanted: Json, body: Json) -> list[str]:
    """Differences that its comparison counts as failures, and what its validator says."""
    oracle = tool("reqoracle")
    validate = oracle.validate_anthropic if target == "anthropic" else oracle.validate_gemini
    wanted, got = allowing(request, wanted, canonical(target, body))
    found = [
        f"{field}: {after} for {before}"
        for grade, field, before, after in oracle.diff_canon(wanted, got)
        if grade == "FAIL"
    ]
    return found + [one for one in validate(body) if not one.startswith("soft:")]


def by_native(target: str) -> list[tuple[str, Json, Json]]:
    """Recorded native requests that chat can express: id, the same in OpenAI's format, and what is to arrive."""
    oracle, found = tool("reqoracle"), []
    api = {"anthropic": "anthropic.messages", "gemini": "gemini.generate"}[target]
    for fixture in recorded(api):
        if fixture["status"] != 200 or fixture["provider"] != target or not isinstance(fixture["request_body"], dict):
            continue
        request, losses = oracle.to_openai(fixture, "m")
        if oracle.hard(losses) or {"thinking", "thinking_block", "empty_assistant"} & set(losses):
            continue
        if has_parted_texts(fixture["request_body"]):
            continue
        request.pop("stream", None)
        wanted = canonical(target, fixture["request_body"])
        found.append((fixture["id"], request, wanted | {"stream": False}))
    return found


def has_parted_texts(body: Json) -> bool:
    """An answer in several texts, which the way back to OpenAI's format has made into one."""
    turns = [
        one.get("content", one.get("parts"))
        for one in body.get("messages", body.get("contents", ()))
        if one.get("role") in ("assistant", "model")
    ]
    return any(isinstance(turn, list) and sum("text" in part for part in turn) > 1 for turn in turns)


def by_openai(target: str) -> list[tuple[str, Json, Json]]:
    """Recorded requests of real clients in OpenAI's format."""
    found = []
    for fixture in recorded("openai.chat"):
        body = fixture.get("request_body")
        if fixture["status"] != 200 or not isinstance(body, dict) or not is_portable(body, target):
            continue
        request = {name: value for name, value in body.items() if name in PASSED_ON}
        found.append((fixture["id"], request, tool("reqoracle").canon_openai(request)))
    return found


def is_portable(body: Json, target: str) -> bool:
    """No parts that another vendor has no word for, only today's roles, and a temperature that the target knows."""
    roles = {"system", "developer", "user", "assistant", "tool"}
    messages = body.get("messages") or [{}]
    systems = [message.get("role") in ("system", "developer") for message in messages]
    if systems != sorted(systems, reverse=True):
        return False  # Their comparison moves them to the top, where RouterX leaves them in their place.
    for message in messages:
        if message.get("role") not in roles or message.get("function_call") or message.get("reasoning_details"):
            return False  # A thought that another provider signed is one that the fake does not know.
        if message["role"] == "tool" and "image_url" in str(message.get("content")):
            return False  # Their reading leaves out pictures in results.
        parts = message.get("content")
        kinds = {part.get("type") for part in parts if isinstance(part, dict)} if isinstance(parts, list) else set()
        if kinds & {"input_audio", "file", "custom", "thinking", "refusal"} or has_url(parts):
            return False
    if any(tool.get("type") != "function" for tool in body.get("tools") or ()):
        return False
    return target != "anthropic" or (body.get("temperature") or 0) <= 1


def has_url(parts: Any) -> bool:
    """Fetching is another test's matter."""
    return isinstance(parts, list) and any('"http' in json.dumps(part.get("image_url", "")) for part in parts)


async def gathered(tmp_path: Path, target: str, cases: Sequence[tuple[str, Json, Json]]) -> list[str]:
    problems, seen = [], set()
    async with stage(tmp_path, target) as on:
        for id_, request, wanted in cases:
            key = json.dumps(request, sort_keys=True)
            if key in seen:
                continue
            seen.add(key)
            refusals = len(on.native.refusals)
            reply, body = await on.send(request)
            found = on.native.refusals[refusals:]
            if body is None:
                found.append(f"{reply.status} {reply.body[:300]!r}")
            elif not found:
                found = complaints(target, request, wanted, body)
            problems += [f"{id_}: {problem}" for problem in found]
    return problems


def some(cases: list[Any], count: int) -> list[Any]:
    return cases if ALL or len(cases) <= count else random.Random(7).sample(cases, count)


@pytest.mark.parametrize("target", TARGETS)
async def test_recorded_native_requests_arrive_as_they_were(tmp_path: Path, target: str) -> None:
    cases = by_native(target)
    assert len(cases) > 50
    problems = await gathered(tmp_path, target, some(cases, 150))
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("target", TARGETS)
async def test_recorded_requests_of_real_clients_arrive_whole(tmp_path: Path, target: str) -> None:
    problems = await gathered(tmp_path, target, some(by_openai(target), 150))
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("target", TARGETS)
async def test_conversation_recorded_in_both_forms_arrives_in_the_native_one(tmp_path: Path, target: str) -> None:
    """Where their makers found the two recordings to ask the same."""
    cases = []
    for pair in pairs():
        native, openai = recording(pair["native"]), recording(pair["openai"])
        if not pair["same"] or native["provider"] != target or not is_portable(openai["request_body"], target):
            continue
        request = {name: value for name, value in openai["request_body"].items() if name in PASSED_ON}
        cases.append((native["id"], request, canonical(target, native["request_body"]) | {"stream": False}))
    assert cases
    problems = await gathered(tmp_path, target, cases)
    assert not problems, "\n".join(problems)
