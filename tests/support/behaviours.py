"""What ScriptedUpstream can be told to do: frozen values, each with `play(peer)`. Import them from upstream.py."""

import asyncio
import json
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any, Protocol

GUARD_S = 10.0
"""A test that waits longer for a request or a hang-up has failed; nothing sleeps this long."""


class End(Enum):
    """How a connection is left after what was sent."""

    KEEP = "keep"
    """Keep-alive: the next request is served on it."""
    FIN = "fin"
    """Closed as by a server that is done."""
    RESET = "reset"
    """RST: the peer reads an error, not an end."""
    STALL = "stall"
    """Left open in silence until the peer hangs up."""


@dataclass(eq=False)
class Request:
    """A request as it arrived, and when (monotonic). Header names are in lower case."""

    n: int
    connection: int
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    _gone: asyncio.Event
    at_s: float = field(default_factory=time.monotonic)

    @cached_property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def model(self) -> str | None:
        try:
            found = self.json.get("model")
        except (ValueError, AttributeError):
            return None
        return found if isinstance(found, str) else None

    @property
    def is_gone(self) -> bool:
        """The peer has closed its side of the connection."""
        return self._gone.is_set()

    async def gone(self) -> None:
        """Wait until the peer hangs up."""
        async with asyncio.timeout(GUARD_S):
            await self._gone.wait()


class Peer:
    """The other end of one request, for behaviours."""

    def __init__(self, request: Request, writer: asyncio.StreamWriter) -> None:
        self.request = request
        self.writer = writer
        self.end = End.KEEP

    async def send(self, data: bytes, cut: int | None = None) -> None:
        """Write and flush; with `cut`, in pieces of so many bytes, each flushed by itself."""
        for piece in [data] if cut is None else [data[i : i + cut] for i in range(0, len(data), cut)]:
            self.writer.write(piece)
            await self.writer.drain()
            if cut is not None:
                await asyncio.sleep(0)

    async def head(self, status: int, headers: Mapping[str, str]) -> None:
        lines = [f"HTTP/1.1 {status} Scripted", *(f"{name}: {value}" for name, value in headers.items())]
        await self.send("\r\n".join([*lines, "", ""]).encode("latin-1"))

    async def chunk(self, data: bytes, cut: int | None = None) -> None:
        """One chunk of a chunked body; b"" ends the body."""
        await self.send(b"%x\r\n%b\r\n" % (len(data), data), cut)


class Behaviour(Protocol):
    async def play(self, peer: Peer) -> None: ...


@dataclass(frozen=True)
class Json:
    """Any JSON value (or bytes, sent as they are) with a content length."""

    body: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    end: End = End.KEEP

    async def play(self, peer: Peer) -> None:
        body = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body))} | dict(self.headers)
        await peer.head(self.status, headers)
        await peer.send(body)
        peer.end = self.end


def Status(  # noqa: N802
    status: int, body: Any = None, headers: Mapping[str, str] | None = None, *, code: str | None = None
) -> Json:
    """An error reply; without a body, one in OpenAI's shape."""
    if body is None:
        kind = "server_error" if status >= 500 else "invalid_request_error"
        body = {"error": {"message": f"scripted {status}", "type": kind, "param": None, "code": code}}
    return Json(body, status, dict(headers) if headers is not None else {})


@dataclass(frozen=True)
class Ok:
    """A good buffered answer for the path: a chat completion, embeddings, or the list of models.

    A request that asks for a stream gets one (the text as one token), so that `default` suits every request.
    """

    text: str = "Hello from upstream"
    usage: tuple[int, int] | None = (7, 3)
    """Prompt and completion tokens; None leaves the field out."""
    finish: str = "stop"
    message: Mapping[str, Any] = field(default_factory=dict)
    """More fields of the message, such as tool_calls."""
    headers: Mapping[str, str] = field(default_factory=dict)
    gate: asyncio.Event | None = None
    """Answer only once it is set."""

    async def play(self, peer: Peer) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if peer.request.method == "GET":
            await Json({"object": "list", "data": []}, headers=self.headers).play(peer)
        elif "/embeddings" in peer.request.path:
            await Json(self._embeddings(peer.request), headers=self.headers).play(peer)
        elif peer.request.json.get("stream"):
            await Stream([self.text], usage=self.usage, finish=self.finish, headers=self.headers).play(peer)
        else:
            await Json(self._completion(peer.request), headers=self.headers).play(peer)

    def _completion(self, request: Request) -> dict[str, Any]:
        message = {"role": "assistant", "content": self.text} | dict(self.message)
        body = {
            "id": f"chatcmpl-{request.n}",
            "object": "chat.completion",
            "created": 1_767_225_600,
            "model": request.model,
            "choices": [{"index": 0, "message": message, "finish_reason": self.finish}],
        }
        return body if self.usage is None else body | {"usage": usage_of(*self.usage)}

    def _embeddings(self, request: Request) -> dict[str, Any]:
        asked = request.json["input"]
        count = len(asked) if isinstance(asked, list) and asked and not isinstance(asked[0], int) else 1
        tokens = self.usage[0] if self.usage is not None else 0
        return {
            "object": "list",
            "data": [{"object": "embedding", "index": i, "embedding": [1.0, 0.0]} for i in range(count)],
            "model": request.model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }


@dataclass(frozen=True)
class Stream:
    """An SSE answer: a role frame, one frame per token, the finish, usage if the request asks for it, `[DONE]`.

    `frames` replaces all of that by frames of the test's own. `stop_after=k` sends only the first k frames and then
    leaves the connection as `end` says; `stop_after=0` with `End.RESET` is a reset right after the headers.
    """

    tokens: Sequence[str] = ("Hel", "lo")
    usage: tuple[int, int] | None = (7, 3)
    finish: str | None = "stop"
    done: bool = True
    frames: Sequence[bytes] | None = None
    gates: Mapping[int, asyncio.Event] = field(default_factory=dict)
    """Before frame i, wait for the event."""
    cut: int | None = None
    """Write in pieces of so many bytes, whatever the frames."""
    chunked: bool = True
    """False: the body ends with the connection."""
    stop_after: int | None = None
    end: End = End.KEEP
    headers: Mapping[str, str] = field(default_factory=dict)

    async def play(self, peer: Peer) -> None:
        framing = {"transfer-encoding": "chunked"} if self.chunked else {"connection": "close"}
        await peer.head(200, {"content-type": "text/event-stream"} | framing | dict(self.headers))
        frames = list(self.frames) if self.frames is not None else self.default_frames(peer.request)
        for i, frame in enumerate(frames if self.stop_after is None else frames[: self.stop_after]):
            if i in self.gates:
                await self.gates[i].wait()
            await (peer.chunk(frame, self.cut) if self.chunked else peer.send(frame, self.cut))
        if self.stop_after is not None:
            peer.end = self.end if self.end is not End.KEEP else End.FIN
        elif self.chunked:
            await peer.chunk(b"")
            peer.end = self.end
        else:
            peer.end = End.FIN

    def default_frames(self, request: Request) -> list[bytes]:
        base = {
            "id": f"chatcmpl-{request.n}",
            "object": "chat.completion.chunk",
            "created": 1_767_225_600,
            "model": request.model,
        }

        def choice(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
            return base | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

        events = [choice({"role": "assistant", "content": ""}), *(choice({"content": token}) for token in self.tokens)]
        if self.finish is not None:
            events.append(choice({}, self.finish))
        asked = request.json.get("stream_options") or {}
        if self.usage is not None and asked.get("include_usage"):
            events.append(base | {"choices": [], "usage": usage_of(*self.usage)})
        frames = [sse(event) for event in events]
        return [*frames, DONE] if self.done else frames


@dataclass(frozen=True)
class Gate:
    """A step of Raw: wait for the event."""

    event: asyncio.Event


@dataclass(frozen=True)
class Raw:
    """Exactly these bytes (with Gates between them), headers included; then the connection is left as `end` says."""

    steps: Sequence[bytes | Gate]
    end: End = End.FIN

    async def play(self, peer: Peer) -> None:
        for step in self.steps:
            if isinstance(step, Gate):
                await step.event.wait()
            else:
                await peer.send(step)
        peer.end = self.end


@dataclass(frozen=True)
class Replay:
    """A recorded body, cut at the given offsets (each piece a chunk and a write of its own)."""

    body: bytes
    cuts: Sequence[int] = ()
    content_type: str = "text/event-stream"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    async def play(self, peer: Peer) -> None:
        await peer.head(
            self.status,
            {"content-type": self.content_type, "transfer-encoding": "chunked"} | dict(self.headers),
        )
        for start, stop in zip([0, *self.cuts], [*self.cuts, len(self.body)], strict=True):
            if start < stop:
                await peer.chunk(self.body[start:stop])
                await asyncio.sleep(0)
        await peer.chunk(b"")


@dataclass(frozen=True)
class Endless:
    """A body that goes on until the peer hangs up. Chunked; `unit` is repeated (a frame, a blank, one byte …)."""

    unit: bytes = b" " * 65_536
    content_type: str = "application/json"
    sent: list[int] = field(default_factory=lambda: [0])
    """`sent[0]`: body bytes written so far."""

    async def play(self, peer: Peer) -> None:
        await peer.head(200, {"content-type": self.content_type, "transfer-encoding": "chunked"})
        while True:
            await peer.chunk(self.unit)
            self.sent[0] += len(self.unit)
            await asyncio.sleep(0)


@dataclass(frozen=True)
class Drip:
    """The answer's body byte by byte; each byte waits for one `release()` of the semaphore."""

    pace: asyncio.Semaphore
    body: bytes = b'{"object":"chat.completion","choices":[]}'

    async def play(self, peer: Peer) -> None:
        await peer.head(200, {"content-type": "application/json", "content-length": str(len(self.body))})
        for i in range(len(self.body)):
            await self.pace.acquire()
            await peer.send(self.body[i : i + 1])


def Silence() -> Raw:  # noqa: N802
    """Takes the request and never answers."""
    return Raw([], End.STALL)


def Reset() -> Raw:  # noqa: N802
    """RST before any byte of an answer."""
    return Raw([], End.RESET)


def Hangup() -> Raw:  # noqa: N802
    """FIN before any byte of an answer."""
    return Raw([], End.FIN)


def Truncated(body: bytes = b'{"choices":[', declared: int = 1_000, end: End = End.FIN) -> Raw:  # noqa: N802
    """A Content-Length that the body does not reach."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % declared
    return Raw([head + body], end)


def IllegalChunking(before: bytes = b"") -> Raw:  # noqa: N802
    """A chunked body whose next chunk size is not a number."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    first = b"%x\r\n%b\r\n" % (len(before), before) if before else b""
    return Raw([head + first, b"zz\r\nnot a chunk\r\n"], End.STALL)


def HugeHeader(size_bytes: int = 1024 * 1024) -> Raw:  # noqa: N802
    """One response header of this size."""
    return Raw([b"HTTP/1.1 200 OK\r\nx-filler: " + b"a" * size_bytes + b"\r\ncontent-length: 2\r\n\r\n{}"])


def GzipBomb(size_bytes: int = 256 * 1024 * 1024) -> Raw:  # noqa: N802
    """A small gzip body that unpacks to `size_bytes` of blanks."""
    packer = zlib.compressobj(9, wbits=31)
    block = b" " * 1024 * 1024
    packed = b"".join([*(packer.compress(block) for _ in range(size_bytes // len(block))), packer.flush()])
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n"
    return Raw([head % len(packed) + packed], End.KEEP)


def Redirect(location: str, status: int = 302) -> Json:  # noqa: N802
    return Json(b"", status, {"location": location, "content-type": "text/html"})


def Html(status: int = 200) -> Json:  # noqa: N802
    """A captive portal's or firewall's page where an answer should be."""
    return Json(b"<!DOCTYPE html><html><body>Please log in</body></html>", status, {"content-type": "text/html"})


DONE = b"data: [DONE]\n\n"


def sse(event: Any) -> bytes:
    """One SSE frame."""
    return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"


def usage_of(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
