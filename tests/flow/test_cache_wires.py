"""The response cache on every wire: an answer told again in the other shape is the same answer.

Read back by the dialects' own decoders: the parts, how each choice ended, and the usage.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from routerx.dialects.anthropic import ANTHROPIC
from routerx.dialects.base import CallerDialect
from routerx.dialects.gemini import GEMINI
from routerx.dialects.openai_chat import OPENAI
from routerx.dialects.responses import RESPONSES
from routerx.domain.chat import Answer, ToolCall
from routerx.domain.events import fold
from tests.support.gateway import HELLO, Gateway, Reply, config, running
from tests.support.upstream import DONE, Json, ScriptedUpstream, Stream, sse, usage_of

CACHE = {"X-RouterX-Cache": "true"}
CALLS = [("call_1", "weather", '{"place":"Bern"}'), ("call_2", "weather", '{"place":"Rome"}')]
SCHEMA = {"type": "object", "properties": {"place": {"type": "string"}}}
CHAT = {"model": "solo", "messages": HELLO}
FUNCTION = {"name": "weather", "parameters": SCHEMA}

WIRES: dict[str, tuple[CallerDialect, str, str, dict[str, Any]]] = {
    "chat": (
        OPENAI,
        "/v1/chat/completions",
        "/v1/chat/completions",
        {**CHAT, "tools": [{"type": "function", "function": FUNCTION}]},
    ),
    "responses": (
        RESPONSES,
        "/v1/responses",
        "/v1/responses",
        {"model": "solo", "input": "Hello", "tools": [{"type": "function", **FUNCTION}]},
    ),
    "messages": (
        ANTHROPIC,
        "/v1/messages",
        "/v1/messages",
        {**CHAT, "max_tokens": 99, "tools": [{"name": "weather", "input_schema": SCHEMA}]},
    ),
    "gemini": (
        GEMINI,
        "/v1beta/models/solo:generateContent",
        "/v1beta/models/solo:streamGenerateContent?alt=sse",
        {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}], "tools": [{"functionDeclarations": [FUNCTION]}]},
    ),
}
"""Whose wire it is, where a whole answer and a stream are asked for, and the body."""


@pytest.fixture
async def gw(tmp_path: Path, up: ScriptedUpstream) -> AsyncIterator[Gateway]:
    async with running(tmp_path, config(up.url)) as gateway:
        yield gateway
        await gateway.assert_books_are_clean()


def whole(*, calls: bool, choices: int = 1) -> Json:
    message: dict[str, Any] = {"role": "assistant", "content": "Let me see."}
    if calls:
        message["tool_calls"] = [_call(*one) for one in CALLS]
    finish = "tool_calls" if calls else "stop"
    said = [{"index": place, "message": message, "finish_reason": finish} for place in range(choices)]
    return Json({"id": "c1", "object": "chat.completion", "created": 1, "model": "m", "choices": said, "usage": USAGE})


def streamed(*, calls: bool) -> Stream:
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": "Let me "}, {"content": "see."}]
    for place, (call, name, arguments) in enumerate(CALLS if calls else ()):
        deltas.append({"tool_calls": [{"index": place, **_call(call, name, "")}]})
        deltas += [
            {"tool_calls": [{"index": place, "function": {"arguments": part}}]}
            for part in (arguments[:5], arguments[5:])
        ]
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    chunks = [{**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls" if calls else "stop"}]})
    chunks.append({**head, "choices": [], "usage": USAGE})
    return Stream(frames=[*map(sse, chunks), DONE])


USAGE = usage_of(7, 3)


def _call(call: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": call, "type": "function", "function": {"name": name, "arguments": arguments}}


async def ask(gw: Gateway, wire: str, *, stream: bool, **said: Any) -> Reply:
    _, path, stream_path, body = WIRES[wire]
    if wire != "gemini" and stream:
        said["stream"] = True
    return await gw.ask("POST", stream_path if stream else path, {**body, **said}, headers=CACHE)


def read(wire: str, reply: Reply) -> Answer:
    """What the caller is told, whatever its shape, without what is made anew for each answer."""
    assert reply.status == 200, reply.body
    assert not reply.cut
    target = WIRES[wire][0].target
    if not reply.headers["content-type"].startswith("text/event-stream"):
        answer = target.decode_answer(reply.body, "seed")
    else:
        decoder, splitter = target.decoder("seed"), target.splitter()
        events = [event for frame in splitter.feed(reply.body)[1] if frame.data for event in decoder.feed(frame)]
        answer = fold([*events, *decoder.finish()])
    return msgspec.structs.replace(answer, service_tier=None)


@pytest.mark.parametrize("calls", [False, True], ids=["text", "parallel calls"])
@pytest.mark.parametrize("first", [False, True], ids=["whole first", "stream first"])
@pytest.mark.parametrize("wire", list(WIRES))
async def test_the_other_shape_says_the_same(
    gw: Gateway, up: ScriptedUpstream, wire: str, first: bool, calls: bool
) -> None:
    up.queue(streamed(calls=calls) if first else whole(calls=calls))
    usage: dict[str, Any] = {"stream_options": {"include_usage": True}} if wire == "chat" else {}
    replies = [await ask(gw, wire, stream=stream, **(usage if stream else {})) for stream in (first, not first, first)]
    assert [reply.headers["x-routerx-cache-hit"] for reply in replies] == ["false", "true", "true"]
    assert len(up.requests) == 1
    told = [read(wire, reply) for reply in replies]
    assert told[0].choices == told[1].choices == told[2].choices
    assert told[0].usage == told[1].usage == told[2].usage
    assert told[0].usage is not None
    assert (told[0].id, told[0].model) == (told[1].id, told[1].model)
    made = [part for part in told[0].choices[0].parts if isinstance(part, ToolCall)]
    assert [(call.name, json.loads(call.arguments)) for call in made] == [
        (name, json.loads(arguments)) for _, name, arguments in (CALLS if calls else ())
    ]
    assert replies[2].body == replies[0].body


@pytest.mark.parametrize("usage", [False, True])
async def test_several_choices_are_all_told(gw: Gateway, up: ScriptedUpstream, usage: bool) -> None:
    up.queue(whole(calls=True, choices=2))
    first = await ask(gw, "chat", stream=False, n=2)
    second = await ask(gw, "chat", stream=True, n=2, stream_options={"include_usage": usage})
    assert second.headers["x-routerx-cache-hit"] == "true"
    assert read("chat", second).choices == read("chat", first).choices
    assert len(read("chat", second).choices) == 2
    assert (read("chat", second).usage is not None) is usage


async def test_models_in_the_path_are_told_apart(gw: Gateway, up: ScriptedUpstream) -> None:
    body = {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}
    replies = [
        await gw.ask("POST", f"/v1beta/models/{model}:generateContent", body, headers=CACHE)
        for model in ("solo", "flat", "solo")
    ]
    assert [reply.headers["x-routerx-cache-hit"] for reply in replies] == ["false", "false", "true"]


async def test_no_wire_is_told_what_was_said_on_another(gw: Gateway, up: ScriptedUpstream) -> None:
    body = {**CHAT, "max_tokens": 9}
    replies = [await gw.ask("POST", path, body, headers=CACHE) for path in ("/v1/chat/completions", "/v1/messages")]
    assert [reply.headers["x-routerx-cache-hit"] for reply in replies] == ["false", "false"]
    assert len(up.requests) == 2


@pytest.mark.parametrize(
    ("path", "said", "answer"),
    [
        ("/v1/embeddings", {"model": "vectors", "input": "Hello"}, None),
        (
            "/v1/completions",
            {"model": "solo", "prompt": "Hello"},
            {
                "id": "c",
                "object": "text_completion",
                "model": "m",
                "choices": [{"index": 0, "text": "Hi", "finish_reason": "stop"}],
                "usage": USAGE,
            },
        ),
    ],
    ids=["embeddings", "completions"],
)
async def test_other_operations_are_told_again(
    gw: Gateway, up: ScriptedUpstream, path: str, said: dict[str, Any], answer: Any
) -> None:
    if answer is not None:
        up.default = Json(answer)
    first, second = [await gw.ask("POST", path, said, headers=CACHE) for _ in range(2)]
    assert second.headers["x-routerx-cache-hit"] == "true"
    assert second.body == first.body
    assert len(up.requests) == 1


async def test_a_completion_is_told_as_a_stream(gw: Gateway, up: ScriptedUpstream) -> None:
    choice = {"index": 0, "text": "Hi", "finish_reason": "stop", "logprobs": {"tokens": ["Hi"]}}
    up.default = Json({"id": "c", "object": "text_completion", "model": "m", "choices": [choice], "usage": USAGE})
    said = {"model": "solo", "prompt": "Hello"}
    await gw.ask("POST", "/v1/completions", said, headers=CACHE)
    for usage in (False, True):
        asked = {**said, "stream": True, "stream_options": {"include_usage": usage}}
        reply = await gw.ask("POST", "/v1/completions", asked, headers=CACHE)
        assert reply.headers["x-routerx-cache-hit"] == "true"
        chunk, end = reply.events
        assert (chunk["choices"], end) == ([choice], "[DONE]")
        assert ("usage" in chunk) is usage
    assert len(up.requests) == 1


@pytest.mark.parametrize("first", [False, True], ids=["whole first", "stream first"])
async def test_probabilities_are_not_lost(gw: Gateway, up: ScriptedUpstream, first: bool) -> None:
    odds = {"content": [{"token": "Hi", "logprob": -0.1, "bytes": None, "top_logprobs": []}]}
    head = {"id": "c1", "created": 1, "model": "m"}
    message = {"role": "assistant", "content": "Hi"}
    chunk = {"index": 0, "delta": message, "logprobs": odds, "finish_reason": None}
    end = {"index": 0, "delta": {}, "finish_reason": "stop"}
    frames = [{**head, "object": "chat.completion.chunk", "choices": [one]} for one in (chunk, end)]
    choice = {"index": 0, "message": message, "logprobs": odds, "finish_reason": "stop"}
    behaviours: list[Any] = [
        Json({**head, "object": "chat.completion", "choices": [choice], "usage": USAGE}),
        Stream(frames=[*map(sse, frames), DONE]),
    ]
    up.queue(behaviours[first], behaviours[not first])
    for stream in (first, not first):
        reply = await gw.ask(
            "POST", "/v1/chat/completions", {**CHAT, "logprobs": True, "stream": stream}, headers=CACHE
        )
        assert b'"logprob":-0.1' in reply.body.replace(b" ", b"")


async def test_usage_is_taken_out_of_a_stream_and_nothing_else(gw: Gateway, up: ScriptedUpstream) -> None:
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "of_its_own": {"a": 1}}
    frames = [
        sse({**head, "choices": [{"index": 0, "delta": {"content": "Hi", "own": [1]}, "finish_reason": None}]}),
        sse({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
    ]
    up.queue(Stream(frames=[*frames, sse({**head, "choices": [], "usage": USAGE}), DONE]))
    first = await ask(gw, "chat", stream=True, stream_options={"include_usage": True})
    second = await ask(gw, "chat", stream=True)
    assert second.headers["x-routerx-cache-hit"] == "true"
    assert second.body == b"".join([*frames, DONE])
    assert first.body != second.body


@pytest.mark.parametrize(
    ("said", "delta"),
    [
        ({"functions": [FUNCTION]}, {"function_call": {"name": "weather", "arguments": "{}"}}),
        ({"modalities": ["text", "audio"]}, {"audio": {"id": "a", "data": "AAAA"}}),
    ],
    ids=["old calls", "audio"],
)
async def test_what_cannot_be_put_together_is_asked_again(
    gw: Gateway, up: ScriptedUpstream, said: dict[str, Any], delta: dict[str, Any]
) -> None:
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    finish = "function_call" if "functions" in said else "stop"
    deltas = [{"role": "assistant", "content": "Hi"}, delta, {}]
    chunks = [{**head, "choices": [{"index": 0, "delta": one, "finish_reason": None}]} for one in deltas]
    chunks[-1]["choices"][0]["finish_reason"] = finish  # type: ignore[index]
    up.queue(Stream(frames=[*map(sse, chunks), DONE]), whole(calls=False))
    replies = [
        await gw.ask("POST", "/v1/chat/completions", {**CHAT, **said, "stream": stream}, headers=CACHE)
        for stream in (True, True, False)
    ]
    assert [reply.headers["x-routerx-cache-hit"] for reply in replies] == ["false", "true", "false"]


async def test_sounds_are_told_again_as_they_were(tmp_path: Path, up: ScriptedUpstream) -> None:
    value = config(up.url)
    value["models"]["voice"] = {"kind": "speech", "endpoints": [{"provider": "up", "price": {"request": 1}}]}
    up.default = Json(b"ID3" + bytes(200), headers={"content-type": "audio/mpeg"})
    async with running(tmp_path, value) as gw:
        said = {"model": "voice", "input": "Hello", "voice": "alloy"}
        first, second = [await gw.ask("POST", "/v1/audio/speech", said, headers=CACHE) for _ in range(2)]
        assert (first.status, second.headers["x-routerx-cache-hit"]) == (200, "true")
        assert second.body == first.body
        assert second.headers["content-type"] == first.headers["content-type"] == "audio/mpeg"
        assert float(second.headers["x-routerx-cost-usd"]) == 0
