"""A provider stub for benchmarks: answers at once, with as little work as Python allows.

POST anything: a buffered completion, or with `"stream":true` in the body an event stream of FRAMES frames, one write
each FRAME_INTERVAL_S. Prints its port, then serves until it is ended.
"""

import asyncio
import json
import sys

import uvloop

FRAMES = 50
FRAME_INTERVAL_S = 0.005
"""A fast model: 200 tokens a second. Without a pause the frames of a whole stream would arrive in a few reads, which is
not what a proxy of token streams is for."""
TEXT = "The quick brown fox jumps over the lazy dog. " * 8
CREATED = 1_767_225_600


def _frame(delta: dict[str, str], finish: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    chunk = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": CREATED, "model": "bench-model"}
    return b"data: " + json.dumps({**chunk, "choices": [choice], "usage": None}).encode() + b"\n\n"


USAGE = {"prompt_tokens": 20, "completion_tokens": FRAMES, "total_tokens": 20 + FRAMES}
BODY = json.dumps(
    {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": CREATED,
        "model": "bench-model",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}],
        "usage": USAGE,
    }
).encode()
BUFFERED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
USAGE_FRAME = b"data: " + json.dumps(
    {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": CREATED, "model": "bench-model",
     "choices": [], "usage": USAGE}
).encode() + b"\n\n"  # fmt: skip


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


STREAM = [
    STREAM_HEAD + _chunk(_frame({"role": "assistant", "content": ""}, None)),
    *(_chunk(_frame({"content": f" word{n}"}, None)) for n in range(FRAMES)),
    _chunk(_frame({}, "stop")),
    _chunk(USAGE_FRAME) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n",
]


class Provider(asyncio.Protocol):
    """One connection; requests come one after the other."""

    def __init__(self, streaming: dict["Provider", int]) -> None:
        self.streaming = streaming

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            at = head.index(b"content-length:") + 15
            length = int(head[at : (stop if (stop := head.find(b"\r\n", at)) >= 0 else end)])
            if len(self.buffer) < end + 4 + length:
                return
            body = self.buffer[end + 4 : end + 4 + length]
            self.buffer = self.buffer[end + 4 + length :]
            if b'"stream":true' in body:
                self.transport.write(STREAM[0])
                self.streaming[self] = 1
            else:
                self.transport.write(BUFFERED)


async def tick(streaming: dict[Provider, int]) -> None:
    """The next frame of every stream, each FRAME_INTERVAL_S: one timer for all is what a stub can afford."""
    loop = asyncio.get_running_loop()
    due_s = loop.time()
    while True:
        due_s += FRAME_INTERVAL_S
        await asyncio.sleep(max(0.0, due_s - loop.time()))
        for provider, n in list(streaming.items()):
            if n + 1 < len(STREAM) and not provider.transport.is_closing():
                streaming[provider] = n + 1
            else:
                del streaming[provider]
            provider.transport.write(STREAM[n])


async def main() -> None:
    streaming: dict[Provider, int] = {}
    server = await asyncio.get_running_loop().create_server(lambda: Provider(streaming), "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await tick(streaming)


if __name__ == "__main__":
    uvloop.run(main())
