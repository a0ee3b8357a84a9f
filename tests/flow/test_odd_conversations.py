"""Conversations that are not everyday ones, from every caller to every upstream: taken there, and nothing lost unsaid.

The fake providers judge what arrives; X-RouterX-Dropped has to name what an upstream's wire cannot express, and no
more.
"""

import base64
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.flow.test_matrix import NATIVES, PRICE, SUPPORTS, staged
from tests.support.gateway import Gateway, running
from tests.support.natives import Native
from tests.support.natives.script import PICTURE

Json = dict[str, Any]

PDF = base64.b64encode(b"%PDF-1.4 of a test").decode()
SOUND = base64.b64encode(b"RIFF of a test").decode()

ALL = tuple(kind.name for kind in NATIVES)
CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"

ASK = {"role": "user", "content": "Weather?"}
FUNCTION = {"type": "function", "function": {"name": "weather"}}
TOOL = {"name": "weather", "input_schema": {"type": "object", "properties": {}}}
USE = {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "weather", "input": {}}]}


def called(id_: str = "c1", arguments: str = "{}") -> Json:
    call = {"id": id_, "type": "function", "function": {"name": "weather", "arguments": arguments}}
    return {"role": "assistant", "tool_calls": [call]}


def answered(**result: Any) -> Json:
    """A round of tools, as Messages has it."""
    told = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", **result}]}
    return {"max_tokens": 50, "tools": [TOOL], "messages": [ASK, USE, told]}


@dataclass(frozen=True)
class Odd:
    """A request, and what each upstream (all others: nothing) has to be said to lose."""

    path: str
    body: Json
    lost: dict[str, str]
    upstreams: tuple[str, ...] = ALL


def asks(*parts: Json) -> Json:
    return {"messages": [{"role": "user", "content": list(parts)}]}


TEXT = {"type": "text", "text": "What is this?"}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PICTURE}}
DOCUMENT = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF}}
FILE = {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}}
AUDIO = {"type": "input_audio", "input_audio": {"data": SOUND, "format": "wav"}}
PLAIN = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Hello"}}
CACHED = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
NOT_ANTHROPIC = tuple(name for name in ALL if name != "anthropic")
NOT_RESPONSES = tuple(name for name in ALL if name != "responses")

ODD = {
    "a picture as a tool's result": Odd(MESSAGES, answered(content=[{"type": "text", "text": "See"}, IMAGE]), {}),
    "a tool that failed": Odd(MESSAGES, answered(is_error=True, content="boom"), {}),
    "a tool that said nothing": Odd(MESSAGES, answered(), {}),
    "a PDF in Messages": Odd(MESSAGES, {"max_tokens": 50, **asks(DOCUMENT, TEXT)}, {"ollama": "messages.file"}),
    "a PDF in chat": Odd(CHAT, asks(TEXT, FILE), {"ollama": "messages.file"}),
    "a document of plain text": Odd(MESSAGES, {"max_tokens": 50, **asks(PLAIN, TEXT)}, {}),
    "a sound": Odd(
        CHAT,
        asks(TEXT, AUDIO),
        dict.fromkeys(("anthropic", "ollama"), "messages.audio"),
        NOT_RESPONSES,  # Its client has a type for sounds, and no message that holds one.
    ),
    "a cached system prompt": Odd(MESSAGES, {"max_tokens": 50, "system": CACHED, "messages": [ASK]}, {}),
    "an answer to go on with": Odd(
        MESSAGES, {"max_tokens": 50, "messages": [ASK, {"role": "assistant", "content": "Sure:"}]}, {}
    ),
    "a search by Anthropic itself": Odd(
        MESSAGES,
        {"max_tokens": 50, "messages": [ASK], "tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        dict.fromkeys(NOT_ANTHROPIC, "tools.web_search_20250305"),
    ),
    "a search by OpenAI itself": Odd(
        RESPONSES,
        {"input": "News?", "tools": [{"type": "web_search"}]},
        dict.fromkeys(NOT_RESPONSES, "tools.web_search"),
    ),
    "a tool that takes free text": Odd(
        CHAT,
        {"messages": [ASK], "tools": [{"type": "custom", "custom": {"name": "sql"}}]},
        dict.fromkeys(("anthropic", "gemini", "ollama"), "tools.custom"),
        ("responses", "anthropic", "gemini", "ollama"),
    ),
    "arguments that are no JSON": Odd(
        CHAT,
        {
            "messages": [ASK, called(arguments='{"a":'), {"role": "tool", "tool_call_id": "c1", "content": "Snow"}],
            "tools": [FUNCTION],
        },
        {},
        ("anthropic", "gemini", "ollama"),  # The others take the text as it is.
    ),
    "an id that not every wire takes": Odd(
        CHAT,
        {
            "messages": [
                ASK,
                called("functions.weather:0"),
                {"role": "tool", "tool_call_id": "functions.weather:0", "content": "Snow"},
            ],
            "tools": [FUNCTION],
        },
        {},
    ),
    "a round of tools whose thought was not kept": Odd(
        CHAT,
        {
            "messages": [ASK, called(), {"role": "tool", "tool_call_id": "c1", "content": "Snow"}],
            "tools": [FUNCTION],
            "reasoning_effort": "medium",
        },
        {"anthropic": "reasoning_effort"},  # Its rules want the signed thought back, or none.
    ),
    "nobody but the system": Odd(CHAT, {"messages": [{"role": "system", "content": "Be a potato."}]}, {}),
    "the assistant first": Odd(CHAT, {"messages": [{"role": "assistant", "content": "Hi!"}, ASK]}, {}),
    "a developer's word": Odd(
        RESPONSES, {"input": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}]}, {}
    ),
}


@pytest.fixture
async def between(tmp_path: Path) -> AsyncIterator[tuple[Gateway, dict[str, Native]]]:
    async with AsyncExitStack() as stack:
        natives = {kind.name: await stack.enter_async_context(kind()) for kind in NATIVES}
        value = staged(natives)
        for name in natives:
            offer = {"provider": f"wire-{name}", "model": "x-any", "price": PRICE, "supports": SUPPORTS}
            value["models"][f"{name}-any"] = {"endpoints": [offer]}
        yield await stack.enter_async_context(running(tmp_path, value)), natives


async def test_odd_conversation_is_taken_and_what_is_lost_is_said(
    between: tuple[Gateway, dict[str, Native]],
) -> None:
    gateway, natives = between
    problems = []
    for name, odd in ODD.items():
        for upstream in odd.upstreams:
            native = natives[upstream]
            refused = len(native.refusals)
            reply = await gateway.ask("POST", odd.path, {**odd.body, "model": f"{upstream}-any"})
            lost = reply.headers.get("x-routerx-dropped")
            if reply.status != 200:
                problems.append(f"{name} to {upstream}: {native.refusals[refused:]} {reply.body!r}")
            elif lost != odd.lost.get(upstream):
                problems.append(f"{name} to {upstream}: {lost} dropped")
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("upstream", NOT_RESPONSES)
async def test_conversation_that_a_provider_keeps_is_refused_by_others(
    between: tuple[Gateway, dict[str, Native]], upstream: str
) -> None:
    gateway, natives = between
    body = {"model": f"{upstream}-any", "input": "And?", "previous_response_id": "resp_1"}
    reply = await gateway.ask("POST", RESPONSES, body)
    assert (reply.status, reply.error["param"]) == (400, "previous_response_id")
    assert natives[upstream].requests == []
