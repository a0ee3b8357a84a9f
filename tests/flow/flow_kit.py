"""What providers say in these tests, and a gateway with deadlines of a test's own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.gateway import TENANT, USD, Config, Gateway, config, running
from tests.support.upstream import DONE, Behaviour, ScriptedUpstream, Stream, sse

OPENING = 10 * USD
UP_COST = 7 * 1_000 + 3 * 2_000
"""Of Ok() and Stream() at `up`, in nano-USD; `spare` takes ten times that."""


def chunk(content: str | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": {} if content is None else {"content": content}, "finish_reason": finish}
    return {"id": "chatcmpl-x", "object": "chat.completion.chunk", "model": "m", "choices": [choice], **more}


def completion(usage: Any = None, model: str = "m") -> dict[str, Any]:
    message = {"role": "assistant", "content": "Hello"}
    body = {"id": "x", "object": "chat.completion", "model": model, "created": 1}
    body["choices"] = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return body if usage is None else body | {"usage": usage}


def priced(up: str, **price: Any) -> Config:
    """The plain configuration with another price for `solo`."""
    value = config(up)
    value["models"]["solo"]["endpoints"][0]["price"] = price
    return value


def planned(up: str, opening: str = "$10", **plan: Any) -> Config:
    """The plain configuration with another plan."""
    value = config(up)
    value["plans"]["prepaid"] = {"billing": "prepaid"} | plan
    value["tenants"][TENANT]["opening_balance"] = opening
    return value


def stream_with(usage: dict[str, Any]) -> Behaviour:
    return Stream(
        frames=[
            sse(chunk("Hello")),
            sse(chunk(None, "stop")),
            sse({"id": "x", "object": "chat.completion.chunk", "choices": [], "usage": usage}),
            DONE,
        ]
    )


@asynccontextmanager
async def within(tmp_path: Path, **timeouts: str) -> AsyncIterator[tuple[Gateway, ScriptedUpstream]]:
    """A gateway whose provider has these deadlines."""
    async with ScriptedUpstream() as up:
        value = config(up.url)
        value["providers"]["up"]["timeouts"] = timeouts
        async with running(tmp_path, value) as gateway:
            yield gateway, up


async def metrics(gw: Gateway) -> str:
    reply = await gw.ask("GET", "/metrics", key=None)
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/plain")
    return reply.body.decode()
