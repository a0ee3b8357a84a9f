"""Closed-loop load over keep-alive connections, and what it saw: requests per second, latency percentiles, failures."""

import asyncio
import time
from dataclasses import dataclass, field

import uvloop


@dataclass
class Result:
    """One run. Latencies in seconds; `failed` counts answers that were not a complete 200."""

    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    failed: int = 0

    @property
    def per_second(self) -> float:
        return len(self.latencies_s) / self.seconds

    def percentile_ms(self, share: float) -> float:
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000


class Caller(asyncio.Protocol):
    """One connection that asks, waits for the whole answer and asks again until the time is up."""

    def __init__(self, request: bytes, until_s: float, result: Result, done: asyncio.Future[None]) -> None:
        self.request, self.until_s, self.result, self.done = request, until_s, result, done
        self.in_chunks = self.succeeded = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        self.received = b""
        self.missing: int | None = None
        """Bytes of the body that are still to come; None: a chunked body, or a head that is not complete yet."""
        self.asked_s = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        if self.missing is not None:
            self.missing -= len(data)
        elif self.received and self.in_chunks:
            self.received = self.received[-8:] + data  # Only its end is looked at.
        else:
            self.received += data
            self.read_head()
        if self.missing == 0 or (self.missing is None and self.received.endswith(b"\r\n0\r\n\r\n")):
            self.answered()

    def read_head(self) -> None:
        head, found, body = self.received.partition(b"\r\n\r\n")
        if found:
            self.succeeded = head.startswith(b"HTTP/1.1 200")
            at = head.lower().find(b"\r\ncontent-length:")
            self.in_chunks = at < 0
            if at >= 0:
                self.missing = int(head[at + 17 :].partition(b"\r\n")[0]) - len(body)

    def answered(self) -> None:
        now_s = time.perf_counter()
        if self.succeeded:
            self.result.latencies_s.append(now_s - self.asked_s)
        else:
            self.result.failed += 1
        if now_s < self.until_s:
            self.ask()
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None or self.until_s > time.perf_counter():
            self.result.failed += 1
        if not self.done.done():
            self.done.set_result(None)


def run(port: int, request: bytes, *, connections: int, seconds: float) -> Result:
    """Load 127.0.0.1:`port` for `seconds` and report."""

    async def main() -> Result:
        loop = asyncio.get_running_loop()
        result = Result()
        started_s = time.perf_counter()
        waiting = []
        for _ in range(connections):
            done = loop.create_future()
            waiting.append(done)
            await loop.create_connection(
                lambda d=done: Caller(request, started_s + seconds, result, d), "127.0.0.1", port
            )
        await asyncio.gather(*waiting)
        result.seconds = time.perf_counter() - started_s
        return result

    return uvloop.run(main())
