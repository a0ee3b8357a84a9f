"""A caller on a raw socket: sends what a script says, leaves when it says so, and tells what it saw."""

import asyncio
import json
from typing import Any

import msgspec

from tests.torture.oracle import CHAT, EMBEDDING, OUTPUT_MAX, Kind, Leaving, Script

ANSWER_S_MAX = 40.0
LINE_MAX = 1 << 20
PROMPT = "Say some words. " * 8
FAILURES = (ConnectionError, asyncio.IncompleteReadError, OSError)


class Saw(msgspec.Struct, frozen=True):
    """The end of one request as its caller saw it."""

    number: int
    end: str
    """`complete`: a whole 200 that is the right answer; `refused`: a whole error; `broke_off`: a stream that ended with
    an error event; `left`: the caller did; `cut`: the connection ended first; `wrong`: an answer that cannot be;
    `told`: as `complete`, but from the cache or told again, and free."""
    status: int = 0
    request_id: str = ""
    code: str = ""
    """Of an error; what is wrong with a wrong answer."""


class Wrong(Exception):
    """An answer that a correct gateway cannot give."""


class _Seen:
    """What has come of an answer so far."""

    def __init__(self) -> None:
        self.status = 0
        self.request_id = ""


class Caller:
    """One keep-alive connection, opened anew where it was lost."""

    def __init__(self) -> None:
        self.phase = ""
        """Of the request under way: `asking` until its answer begins, then `answered`."""
        self.headers: dict[str, str] = {}
        """Of the last answer."""
        self.kept: Script | None = None
        """What an answer from the cache is the answer to."""
        self._port = 0
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def call(self, port: int, request: bytes, asked: Script, leave: tuple[Leaving, float]) -> Saw:
        """One request from its first byte to its end."""
        leaving, after_s = leave
        seen = _Seen()
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                await self._connect(port)
                assert self._writer is not None
                self.phase = "asking"
                self._writer.write(request)
                if leaving is Leaving.EARLY:
                    await asyncio.sleep(after_s)
                    return self._leave(asked, seen)
                status, headers = await self._head()
                self.headers = headers
                seen.status, seen.request_id = status, headers["x-request-id"]
                self.phase = "answered"
                if leaving is Leaving.MIDWAY and "transfer-encoding" in headers:
                    await self._chunk()
                    await asyncio.sleep(after_s)
                    return self._leave(asked, seen)
                return await self._whole(headers, seen, asked)
        except FAILURES:
            self.close()
            return Saw(asked.number, "cut", seen.status, seen.request_id)
        except (Wrong, KeyError, ValueError, TimeoutError) as error:
            self.close()
            return Saw(asked.number, "wrong", seen.status, seen.request_id, f"{type(error).__name__}: {error}")

    def close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None

    async def _connect(self, port: int) -> None:
        lost = self._reader is None or self._reader.at_eof() or self._reader.exception() is not None
        if lost or port != self._port:
            self.close()
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port, limit=LINE_MAX)
            self._port = port

    def _leave(self, asked: Script, seen: _Seen) -> Saw:
        self.close()
        return Saw(asked.number, "left", seen.status, seen.request_id)

    async def _head(self) -> tuple[int, dict[str, str]]:
        assert self._reader is not None
        status_line, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = (line.partition(":") for line in lines if line)
        return int(status_line.split(" ")[1]), {name.lower(): value.strip() for name, _, value in fields}

    async def _chunk(self) -> bytes:
        """One chunk of a chunked body; empty at its end."""
        assert self._reader is not None
        size = int(await self._reader.readuntil(b"\r\n"), 16)
        data = await self._reader.readexactly(size)
        if await self._reader.readexactly(2) != b"\r\n":
            raise Wrong("a chunk is longer than its size")
        return data

    async def _whole(self, headers: dict[str, str], seen: _Seen, asked: Script) -> Saw:
        if "transfer-encoding" in headers:
            body = bytearray()
            while data := await self._chunk():
                body += data
        else:
            assert self._reader is not None
            body = bytearray(await self._reader.readexactly(int(headers["content-length"])))
        if headers.get("connection", "").lower() == "close":
            self.close()
        if seen.status != 200:
            code = str(json.loads(body)["error"]["code"])
            return Saw(asked.number, "refused", seen.status, seen.request_id, code)
        is_kept = headers.get("x-routerx-cache-hit") == "true"
        due = self.kept if is_kept and self.kept is not None else asked
        if asked.kind is not Kind.STREAMED:
            _judge_answer(json.loads(body), due)
        elif (broke := _judge_stream(bytes(body), due, is_kept=is_kept)) is not None:
            return Saw(asked.number, "broke_off", seen.status, seen.request_id, broke)
        is_free = is_kept or headers.get("idempotent-replayed") == "true"
        return Saw(asked.number, "told" if is_free else "complete", seen.status, seen.request_id)


def _judge_answer(answer: dict[str, Any], asked: Script) -> None:
    if answer["id"] != asked.echo:
        raise Wrong(f"{answer['id']} is the answer to another request")
    if answer["usage"]["prompt_tokens"] != asked.number:
        raise Wrong("the usage is not the provider's")


def _judge_stream(body: bytes, asked: Script, *, is_kept: bool) -> str | None:
    """The code of the error event that ended a stream; None for a whole one. Raises Wrong. `is_kept`: it is from the
    cache, which may say in one event what there were many for."""
    *events, done, rest = body.split(b"\n\n")
    if done != b"data: [DONE]" or rest:
        raise Wrong(f"a stream that was ended properly has no [DONE] at its end: {body[-200:]!r}")
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events]
    if "error" in chunks[-1]:
        return str(chunks[-1]["error"]["code"])
    if any(chunk["id"] != asked.echo for chunk in chunks):
        raise Wrong("the stream has events of another one")
    texts = [choice["delta"].get("content") for chunk in chunks for choice in chunk["choices"]]
    if is_kept and "".join(text for text in texts if text) != "".join(f" word{n}" for n in range(asked.frames)):
        raise Wrong(f"the stream says {texts}")
    if not is_kept and sum(bool(text) for text in texts) != asked.frames:
        raise Wrong(f"the stream has {len(texts)} events instead of {asked.frames} with content and two without")
    if any(chunk.get("usage") for chunk in chunks) != asked.wants_usage:
        raise Wrong("the usage event is there unasked, or missing")
    return None


def request_of(asked: Script, key: str, model: str | None = None, *, about: str = PROMPT, headers: str = "") -> bytes:
    """The bytes of a request that plays this script. `headers`: further ones, each with its line end."""
    body: dict[str, Any] = {"user": str(asked.number)}
    if asked.kind is Kind.EMBEDDED:
        body |= {"model": EMBEDDING, "input": about}
    else:
        body |= {"model": CHAT, "messages": [{"role": "user", "content": about}]}
        if asked.caps_output:
            body["max_tokens"] = OUTPUT_MAX
    if asked.kind is Kind.STREAMED:
        body["stream"] = True
        if asked.wants_usage:
            body["stream_options"] = {"include_usage": True}
    if model is not None:
        body["model"] = model
    path = "/v1/embeddings" if asked.kind is Kind.EMBEDDED else "/v1/chat/completions"
    return message("POST", path, key, json.dumps(body).encode(), headers)


def message(method: str, path: str, key: str, body: bytes, headers: str = "") -> bytes:
    """An HTTP request."""
    return (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n{headers}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


async def fetch(port: int, method: str, path: str, key: str = "none", body: bytes = b"") -> tuple[int, bytes]:
    """One request on a connection of its own: (status, body). Raises one of FAILURES."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=LINE_MAX)
    try:
        writer.write(message(method, path, key, body))
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.partition("content-length:")[2].partition("\r\n")[0])
        return int(head.split(" ")[1]), await reader.readexactly(length)
    finally:
        writer.transport.abort()
