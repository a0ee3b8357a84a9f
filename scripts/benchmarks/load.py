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

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        self.received = bytearray()
        self.asked_s = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        received = self.received
        received += data
        if not self.complete():
            return
        now_s = time.perf_counter()
        if received.startswith(b"HTTP/1.1 200"):
            self.result.latencies_s.append(now_s - self.asked_s)
        else:
            self.result.failed += 1
        if now_s < self.until_s:
            self.ask()
        else:
            self.transport.close()

    def complete(self) -> bool:
        received = self.received
        if received.endswith(b"\r\n0\r\n\r\n"):
            return True
        end = received.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(received[:end]).lower()
        at = head.find(b"\r\ncontent-length:")
        if at < 0:
            return False
        line = head[at + 17 :].partition(b"\r\n")[0]
        return len(received) >= end + 4 + int(line)

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
