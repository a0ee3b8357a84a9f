"""The fake providers prove themselves: each official client passes every scenario of its own vendor's fake."""

import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest

from tests.support.natives import KEY, Anthropic, Gemini, Native, Ollama, OpenAIChat, OpenAIResponses, Sent
from tests.support.natives.anthropic import SIGNATURE
from tests.support.natives.callers import (
    ChatCaller,
    GeminiCaller,
    MessagesCaller,
    OfficialCaller,
    ResponsesCaller,
    Seen,
    Trip,
)
from tests.support.natives.script import (
    AFTERTHOUGHT,
    CALLS,
    HEIGHT,
    PICTURE,
    RESULTS,
    SCENARIOS,
    TEXT,
    THOUGHT,
    TRIP,
    WIDTH,
    Refused,
    seen_text,
    told_text,
)
from tests.support.oracle import recorded, tool
from tests.support.traffic import needs_traffic

PAIRS: list[tuple[type[OfficialCaller], type[Native]]] = [
    (ChatCaller, OpenAIChat),
    (ResponsesCaller, OpenAIResponses),
    (MessagesCaller, Anthropic),
    (GeminiCaller, Gemini),
]


def pairs(*, ids: Callable[[Any], str] = lambda pair: pair[1].name) -> Any:
    return pytest.mark.parametrize("pair", PAIRS, ids=ids)


def expected(scenario: str, *, shows_thoughts: bool) -> list[tuple[str, str, tuple[Any, ...], str]]:
    """Text, thought, calls and finish of every turn."""
    thought, afterthought = (THOUGHT, AFTERTHOUGHT) if shows_thoughts else ("", "")
    match scenario:
        case "text":
            return [(TEXT, "", (), "stop")]
        case "image":
            return [(seen_text(WIDTH, HEIGHT), "", (), "stop")]
        case "schema":
            return [(json.dumps(TRIP, ensure_ascii=False), "", (), "stop")]
        case "tools":
            return [("", "", CALLS, "tools"), (told_text(RESULTS), "", (), "stop")]
        case _:
            return [("", thought, CALLS[:1], "tools"), (told_text(RESULTS[:1]), afterthought, (), "stop")]


def seen(turn: Seen) -> tuple[str, str, tuple[Any, ...], str]:
    return turn.text, turn.thought, turn.calls, turn.finish


@pairs()
@pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])
async def test_official_client_passes_every_scenario_of_its_vendors_fake(pair: Any, stream: bool) -> None:
    kind, fake = pair
    async with fake() as native, kind(native.url, KEY) as caller:
        for scenario in SCENARIOS:
            turns = await caller.play(scenario, f"model-{scenario}", stream=stream)
            assert [seen(turn) for turn in turns] == expected(scenario, shows_thoughts=native.name != "openai")
            assert [turn.usage for turn in turns] == [
                caller.told(native.tokens(scenario, n)) for n in range(1, len(turns) + 1)
            ]
            if turns[0].parsed is not None:
                assert turns[0].parsed == Trip(**TRIP)
        assert native.refusals == []
        if native.name != "openai":
            assert any(sent.signatures for sent in native.requests)


# --- they refuse what their vendors refuse


HELLO = [{"role": "user", "content": "Hello"}]
SIGNED = {"type": "thinking", "thinking": "x", "signature": SIGNATURE}
USE = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}
DONE = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "Snow"}
TOOL = {"name": "weather", "input_schema": {"type": "object"}}
ROUND = [*HELLO, {"role": "assistant", "content": [USE]}, {"role": "user", "content": [DONE]}]
PNG = {"type": "base64", "media_type": "image/png", "data": PICTURE}

CALLED = {
    "role": "assistant",
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
}
FUNCTION = {"name": "weather", "args": {}}

REFUSED: list[tuple[type[Native], dict[str, Any], str]] = [
    # The fake, what is changed in a good request (None: left out), and what the refusal says.
    (Anthropic, {"max_tokens": None}, "max_tokens"),
    (Anthropic, {"seed": 7}, "seed is unknown"),
    (Anthropic, {"messages": [*HELLO, *HELLO]}, "alternate"),
    (Anthropic, {"messages": [{"role": "user", "content": [{"type": "text", "text": " "}]}]}, "non-whitespace"),
    (
        Anthropic,
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "odd": 1}]}]},
        "odd is unknown",
    ),
    (Anthropic, {"messages": ROUND, "tools": None}, "define tools"),
    (Anthropic, {"messages": ROUND[:2], "tools": [TOOL]}, "without tool_result"),
    (Anthropic, {"messages": [*HELLO, {"role": "assistant", "content": [USE, USE]}], "tools": [TOOL]}, "unique"),
    (
        Anthropic,
        {"messages": ROUND, "tools": [TOOL], "thinking": {"type": "enabled", "budget_tokens": 1024}},
        "expected thinking",
    ),
    (
        Anthropic,
        {"messages": [*HELLO, {"role": "assistant", "content": [SIGNED | {"signature": "forged"}]}]},
        "invalid signature",
    ),
    (Anthropic, {"thinking": {"type": "enabled", "budget_tokens": 5000}}, "greater than budget_tokens"),
    (Anthropic, {"thinking": {"type": "enabled", "budget_tokens": 1024}, "temperature": 0.5}, "temperature"),
    (
        Anthropic,
        {"messages": [{"role": "user", "content": [{"type": "image", "source": PNG | {"data": "!"}}]}]},
        "base64",
    ),
    (Gemini, {"model": "x"}, "Unknown name"),
    (Gemini, {"contents": []}, "not specified"),
    (Gemini, {"contents": [{"role": "assistant", "parts": [{"text": "x"}]}]}, "first content"),
    (Gemini, {"contents": [{"role": "user", "parts": [{"text": "x", "odd": 1}]}]}, "odd"),
    (Gemini, {"generationConfig": {"maxTokens": 3}}, "maxTokens"),
    (
        Gemini,
        {
            "contents": [
                {"role": "user", "parts": [{"text": "x"}]},
                {"role": "model", "parts": [{"functionCall": FUNCTION}]},
            ]
        },
        "thought_signature",
    ),
    (
        Gemini,
        {"contents": [{"role": "user", "parts": [{"functionResponse": {"name": "weather", "response": {}}}]}]},
        "number of function response parts",
    ),
    (
        Gemini,
        {"generationConfig": {"responseJsonSchema": {}, "responseSchema": {"type": "OBJECT"}}},
        "responseMimeType",
    ),
    (OpenAIChat, {"max_tokens": "3"}, "max_tokens"),
    (OpenAIChat, {"odd": 1}, "odd is unknown"),
    (OpenAIChat, {"messages": [*HELLO, {"role": "tool", "tool_call_id": "x", "content": "y"}]}, "not called"),
    (OpenAIChat, {"messages": [*HELLO, CALLED]}, "without results"),
    (OpenAIResponses, {"messages": HELLO}, "messages is unknown"),
    (OpenAIResponses, {"input": [{"type": "function_call_output", "call_id": "x", "output": "y"}]}, "not called"),
    (OpenAIResponses, {"input": [{"type": "reasoning", "id": "rs", "summary": []}]}, "without the item"),
    (Ollama, {"max_tokens": 3}, "max_tokens is unknown"),
    (Ollama, {"options": {"stop": "x"}}, "options.stop"),
    (Ollama, {"messages": [{"role": "user", "content": "x", "images": ["data:image/png;base64,AA=="]}]}, "no base64"),
    (Ollama, {"messages": [{"role": "tool", "tool_name": "weather", "content": "x"}]}, "without a call"),
]

ASKS: dict[type[Native], tuple[str, dict[str, Any]]] = {
    Anthropic: ("/v1/messages", {"model": "m-tools", "max_tokens": 2048, "messages": HELLO, "tools": [TOOL]}),
    Gemini: ("/v1beta/models/m-tools:generateContent", {"contents": [{"role": "user", "parts": [{"text": "x"}]}]}),
    OpenAIChat: ("/v1/chat/completions", {"model": "m-tools", "messages": HELLO}),
    OpenAIResponses: ("/v1/responses", {"model": "m-tools", "input": "Hello"}),
    Ollama: ("/api/chat", {"model": "m-tools", "messages": HELLO, "stream": False}),
}
HEADERS = {"authorization": f"Bearer {KEY}", "x-goog-api-key": KEY, "anthropic-version": "2023-06-01"}


async def ask(native: Native, body: dict[str, Any], headers: dict[str, str] = HEADERS) -> tuple[int, str]:
    path = ASKS[type(native)][0]
    async with aiohttp.ClientSession() as session, session.post(native.url + path, json=body, headers=headers) as reply:
        return reply.status, await reply.text()


@pytest.mark.parametrize(("fake", "change", "reason"), REFUSED)
async def test_fake_refuses_what_its_vendor_refuses(fake: Any, change: dict[str, Any], reason: str) -> None:
    body = ASKS[fake][1] | change
    async with fake() as native:
        status, _ = await ask(native, {name: value for name, value in body.items() if value is not None})
        assert status == 400
        (refusal,) = native.refusals
        assert re.search(re.escape(reason), refusal), refusal


@pytest.mark.parametrize("fake", [Anthropic, Gemini, OpenAIChat, OpenAIResponses])
async def test_fake_refuses_a_caller_without_a_key(fake: Any) -> None:
    async with fake() as native:
        status, _ = await ask(native, ASKS[fake][1], {"anthropic-version": "2023-06-01"})
        assert (status, native.refusals) == (400, ["no API key"])


STRICTER = {
    # Where the fakes ask for more than the vendor does, and why.
    "signature": "the fake knows its own only",
    "roles do not alternate": "the vendor merges turns now; it did not, and who else speaks its wire may not",
    "the first message is not the user's": "the same",
    "task_budget is unknown": "a beta, which the client's types have apart",
    "tools is {": "a vendor's leniency: an object where its type is a list",
}


@needs_traffic
@pytest.mark.parametrize(("fake", "api"), [(Anthropic, "anthropic.messages"), (Gemini, "gemini.generate")])
def test_fake_takes_what_its_vendor_took(fake: Any, api: str) -> None:
    """Recorded requests, of those that an OpenAI client could have meant."""
    problems, count = [], 0
    for fixture in recorded(api):
        body = fixture["request_body"]
        if fixture["status"] != 200 or fixture["provider"] != fake.name or not isinstance(body, dict):
            continue
        _, losses = tool("reqoracle").to_openai(fixture)
        if tool("reqoracle").hard(losses) or {"thinking_block", "empty_assistant"} & set(losses):
            continue
        body = {name: value for name, value in body.items() if name != "model"}
        body |= {"model": "m-any"} if fake is Anthropic else {}
        path = "/v1/messages" if fake is Anthropic else f"/v1beta/models/m-any:{fixture['path'].partition(':')[2]}"
        count += 1
        try:
            fake().answer(Sent(path, {"alt": "sse"}, HEADERS, body))
        except Refused as refusal:
            if not any(known in str(refusal) for known in STRICTER):
                problems.append(f"{fixture['id']}: {refusal}")
    assert count > 50
    assert not problems, "\n".join(problems)


# --- Ollama, which has no official client here


@pytest.fixture
async def ollama() -> AsyncIterator[Native]:
    async with Ollama() as native:
        yield native


@pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])
async def test_ollamas_fake_goes_through_a_tool_round(ollama: Native, stream: bool) -> None:
    tools = [
        {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
        for name in ("weather", "clock")
    ]
    fields = {"model": "m-tools", "tools": tools, "stream": stream}
    status, told = await ask(ollama, fields | {"messages": HELLO})
    lines = [json.loads(line) for line in told.splitlines()]
    calls = [call for line in lines for call in line["message"].get("tool_calls", ())]
    assert (status, [call["function"]["name"] for call in calls]) == (200, ["weather", "clock"])
    history = [*HELLO, {"role": "assistant", "tool_calls": calls}]
    history += [
        {"role": "tool", "tool_name": call["function"]["name"], "content": result}
        for call, result in zip(calls, RESULTS, strict=True)
    ]
    status, told = await ask(ollama, fields | {"messages": history})
    lines = [json.loads(line) for line in told.splitlines()]
    assert "".join(line["message"]["content"] for line in lines) == told_text(RESULTS)
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    tokens = ollama.tokens("tools", 2)
    assert (lines[-1]["prompt_eval_count"], lines[-1]["eval_count"]) == (tokens.fresh, tokens.text)
