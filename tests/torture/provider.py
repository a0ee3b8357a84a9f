"""The scripted provider, a process of its own: `python -m tests.torture.provider SEED JOURNAL`. Prints its port.

It is two: what is asked under /spare is answered by the spare one, and each fails what is the other's to answer.

It reads the number of a request from the body's `user` and plays that request's script. The journal gets a line with
the number before anything of the answer is sent: what is not in it was never asked for.
"""

import asyncio
import json
import os
import sys
from typing import Any

from tests.torture.oracle import CHAT, EMBEDDING, ENDLESS, Kind, Script, script
from tests.torture.processes import die_with_parent

ENDLESS_S = 60.0
PAUSE_S = 0.05
SLOW_HEAD_S = 0.25
"""For calls on other models than the load's: all of a crowd are here before the first is answered."""


class Provider:
    """One seed and one journal; counts the calls of each request."""

    def __init__(self, seed: int, journal: str) -> None:
        self._seed = seed
        self._journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._calls: dict[int, int] = {}

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False when the connection is over."""
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        is_spare = head.startswith(b"post /spare/")
        length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        body = json.loads(await reader.readexactly(length))
        number = int(body["user"])
        os.write(self._journal, f"{number}\n".encode())
        self._calls[number] = calls = self._calls.get(number, 0) + 1
        load = body["model"] in (CHAT, EMBEDDING)
        asked = script(self._seed, number, None if load else body["model"])
        if body["model"] == ENDLESS:
            await self._endless(writer, asked)
            return False
        await asyncio.sleep(asked.head_s if load else SLOW_HEAD_S)
        if load and (asked.falls_back is not is_spare or (asked.fails_first and calls == 1)):
            if number % 2:
                return False  # Without a word.
            writer.write(whole(b'{"error":{"message":"try again","type":"server_error"}}', "503 Service Unavailable"))
        elif body.get("stream"):
            await self._stream(writer, asked)
        else:
            writer.write(whole(json.dumps(_embedding(asked) if "input" in body else _completion(asked)).encode()))
        await writer.drain()
        return True

    async def _stream(self, writer: asyncio.StreamWriter, asked: Script) -> None:
        writer.write(STREAM_HEAD + _frame(asked, {"role": "assistant", "content": ""}))
        for n in range(asked.frames):
            writer.write(_frame(asked, {"content": f" word{n}"}))
            await writer.drain()
            await asyncio.sleep(asked.gap_s)
        finish = {"index": 0, "delta": {}, "finish_reason": "stop"}
        writer.write(_event({**_chunk(asked), "choices": [finish]}))
        writer.write(_event({**_chunk(asked), "choices": [], "usage": usage(asked)}))
        writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    async def _endless(self, writer: asyncio.StreamWriter, asked: Script) -> None:
        writer.write(STREAM_HEAD)
        for _ in range(round(ENDLESS_S / PAUSE_S)):
            writer.write(_frame(asked, {"content": " and so on"}))
            await writer.drain()
            await asyncio.sleep(PAUSE_S)


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def whole(body: bytes, status: str = "200 OK") -> bytes:
    """A buffered response."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def usage(asked: Script) -> dict[str, Any]:
    """As OpenAI reports it: parts inside their totals."""
    if asked.kind is Kind.EMBEDDED:
        return {"prompt_tokens": asked.number, "total_tokens": asked.number}
    return {
        "prompt_tokens": asked.number,
        "completion_tokens": asked.completion_tokens,
        "total_tokens": asked.number + asked.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": asked.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": asked.reasoning_tokens},
    }


def _completion(asked: Script) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Word."}, "finish_reason": "stop"}
    return {
        "id": asked.echo, "object": "chat.completion", "created": 1, "model": CHAT, "choices": [choice],
        "usage": usage(asked),
    }  # fmt: skip


def _embedding(asked: Script) -> dict[str, Any]:
    data = [{"object": "embedding", "index": 0, "embedding": [0.5, -0.5]}]
    return {"id": asked.echo, "object": "list", "model": EMBEDDING, "data": data, "usage": usage(asked)}


def _chunk(asked: Script) -> dict[str, Any]:
    return {"id": asked.echo, "object": "chat.completion.chunk", "created": 1, "model": CHAT}


def _frame(asked: Script, delta: dict[str, str]) -> bytes:
    return _event({**_chunk(asked), "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})


def _event(value: dict[str, Any]) -> bytes:
    data = b"data: " + json.dumps(value).encode() + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


async def main(seed: int, journal: str) -> None:
    server = await asyncio.start_server(Provider(seed, journal).connected, "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    die_with_parent()
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
