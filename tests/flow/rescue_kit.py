"""Three providers of which the first breaks off, and what the callers of their answers may be told."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.flow.flow_kit import chunk
from tests.support.behaviours import Peer
from tests.support.gateway import Config, Gateway, Reply, config, running, wait_for
from tests.support.upstream import DONE, End, ScriptedUpstream, Stream, sse, usage_of

WIRES = ("openai", "anthropic")
Wait = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Broken:
    """Sends these frames, waits, and leaves without an end."""

    frames: Sequence[bytes]
    wait: Wait
    end: End = End.FIN
    rest: bytes = b""
    """Sent after the wait."""

    async def play(self, peer: Peer) -> None:
        await peer.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        for frame in self.frames:
            await peer.chunk(frame)
        await self.wait()
        if self.rest:
            await peer.chunk(self.rest)
        peer.end = self.end


@dataclass
class Stage:
    gateway: Gateway
    up: ScriptedUpstream
    spare: ScriptedUpstream
    third: ScriptedUpstream
    gates: list[asyncio.Event] = field(default_factory=list)

    async def flowing(self) -> None:
        """The caller has something."""
        await wait_for(lambda: any(one.delivered for one in self.gateway.runtime.gateway.active))

    def breaks(self, *tokens: str, wire: str = "openai") -> Broken:
        return Broken(told(wire, tokens, whole=False), self.flowing)

    async def ask(self, model: str = "duo", **fields: Any) -> Reply:
        return await self.gateway.chat(model, stream=True, **fields)


@asynccontextmanager
async def staged(tmp_path: Path, change: Callable[[Config], None] = lambda _: None) -> AsyncIterator[Stage]:
    """`duo` has two endpoints and `trio` three, at ten times the price each time."""
    async with ScriptedUpstream() as up, ScriptedUpstream() as spare, ScriptedUpstream() as third:
        value = config(up.url, spare.url)
        value["providers"]["third"] = {"dialect": "openai", "base_url": f"{third.url}/v1", "keys": ["${env:UP_KEY}"]}
        dearest = {"provider": "third", "price": {"input": 100, "output": 200}, "priority": 2}
        value["models"]["trio"] = {"endpoints": [*value["models"]["duo"]["endpoints"], dearest]}
        change(value)
        async with running(tmp_path, value) as gateway:
            yield Stage(gateway, up, spare, third)
            await gateway.assert_books_are_clean()


def policy(**stream: str) -> Callable[[Config], None]:
    def change(value: Config) -> None:
        value["policies"]["default"]["stream"] = stream

    return change


def delta(**fields: Any) -> bytes:
    return sse(
        {
            "id": "chatcmpl-x",
            "object": "chat.completion.chunk",
            "model": "m",
            "choices": [{"index": 0, "delta": fields, "finish_reason": None}],
        }
    )


def told(wire: str, tokens: Sequence[str], *, whole: bool = True) -> list[bytes]:
    """A stream of this wire, to its end or only as far as the tokens."""
    if wire == "openai":
        begun = [delta(role="assistant", content=""), *(sse(chunk(token)) for token in tokens)]
        usage = {"id": "x", "object": "chat.completion.chunk", "choices": [], "usage": usage_of(7, 3)}
        return [*begun, sse(chunk(None, "stop")), sse(usage), DONE] if whole else begun
    counted = {"input_tokens": 7, "output_tokens": 1}
    message: dict[str, Any] = {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "usage": counted,
    }
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": message | {"usage": counted, "stop_reason": None}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    ]
    for token in tokens:
        piece = {"type": "text_delta", "text": token}
        events.append({"type": "content_block_delta", "index": 0, "delta": piece})
    if whole:
        ended = {"stop_reason": "end_turn", "stop_sequence": None}
        events.append({"type": "content_block_stop", "index": 0})
        events.append({"type": "message_delta", "delta": ended, "usage": {"output_tokens": 3}})
        events.append({"type": "message_stop"})
    return [b"event: %b\n" % event["type"].encode() + sse(event) for event in events]


def tells(*tokens: str, wire: str = "openai") -> Stream:
    return Stream(frames=told(wire, tokens))


def outcomes(row: Any) -> list[tuple[str, str, bool]]:
    return [(one.provider, one.outcome, one.won) for one in row.attempts]


def cut_short(reply: Reply, code: str = "upstream_truncated") -> str:
    """What the caller has of an answer that ended by exactly one error."""
    error = reply.stream_error
    assert error is not None
    assert error["code"] == code
    finishes = [choice["finish_reason"] for event in reply.events[:-2] for choice in event["choices"]]
    assert set(finishes) <= {None}
    return reply.text
