"""Everybody is down and fifty callers keep asking: how fast they are told, and how often the dead are asked."""

import asyncio
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.behaviours import Status
from tests.support.gateway import ENVIRON, HELLO, KEY, config, serving
from tests.support.upstream import ScriptedUpstream, refused_url

CALLERS = 50
ENDPOINTS = 3
PAUSE_S = 0.03
P99_MS_MAX = 5.0
DISPATCHES_MAX = 1.2


@dataclass
class Storm:
    """What the callers saw."""

    told_ms: list[float] = field(default_factory=list)
    """Of 503s that were answered without asking anybody."""
    all_ms: list[float] = field(default_factory=list)
    codes: dict[str, int] = field(default_factory=dict)
    dispatches: int | None = None
    """None where nobody counts: refused connections."""

    @property
    def ratio(self) -> float | None:
        return None if self.dispatches is None else self.dispatches / len(self.all_ms)

    def broken(self) -> bool:
        late = percentile(self.told_ms, 99) > P99_MS_MAX
        return late or (self.ratio is not None and self.ratio > DISPATCHES_MAX)

    def __str__(self) -> str:
        ratio = "not counted" if self.ratio is None else f"{self.ratio:.3f}"
        return (
            f"{len(self.all_ms)} requests by {CALLERS} callers: 503 without asking anybody p50 "
            f"{percentile(self.told_ms, 50):.2f} ms, p99 {percentile(self.told_ms, 99):.2f} ms "
            f"(of {len(self.told_ms)}); all p50 {percentile(self.all_ms, 50):.2f} ms, "
            f"p99 {percentile(self.all_ms, 99):.2f} ms; "
            f"dispatches for each request {ratio}; {self.codes}"
        )


def percentile(values: list[float], share: int) -> float:
    if len(values) < 2:
        return values[0] if values else 0.0
    return statistics.quantiles(values, n=100)[share - 1]


@contextmanager
def pinned(cores: set[int]) -> Iterator[None]:
    """This process, and those it starts, on some cores; where there is but one, on that."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores & before or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


async def storm(requests: int, *, refuses: bool) -> Storm:
    """Many requests for a model whose three endpoints all answer 500, or refuse connections."""
    out = Storm()
    ups = [ScriptedUpstream() for _ in range(ENDPOINTS)]
    for up in ups:
        await up.__aenter__()
        up.default = Status(500)
    try:
        urls = [refused_url() if refuses else up.url for up in ups]
        value = config(urls[0])
        value["policies"] = {}
        endpoints = []
        for n, url in enumerate(urls):
            value["providers"][f"p{n}"] = value["providers"]["up"] | {"base_url": f"{url}/v1"}
            endpoints.append({"provider": f"p{n}", "price": {"input": 1, "output": 1}})
        value["models"]["doomed"] = {"endpoints": endpoints}
        with tempfile.TemporaryDirectory() as folder, pinned({0}):
            async with serving(Path(folder), value, dict(ENVIRON)) as served:
                os.sched_setaffinity(0, {1} & os.sched_getaffinity(0) or os.sched_getaffinity(0))
                with pinned({1}):
                    each = requests // CALLERS
                    await asyncio.gather(*(_caller(served.port, each, out, random.Random(n)) for n in range(CALLERS)))
        out.dispatches = None if refuses else sum(len(up.requests) for up in ups)
    finally:
        for up in ups:
            await up.__aexit__(None, None, None)
    return out


async def _caller(port: int, requests: int, out: Storm, rng: random.Random) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps({"model": "doomed", "messages": HELLO}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    message = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    for _ in range(requests):
        began_s = time.perf_counter()
        writer.write(message)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        code = json.loads(await reader.readexactly(length))["error"]["code"]
        took_ms = (time.perf_counter() - began_s) * 1000
        out.all_ms.append(took_ms)
        out.codes[code] = out.codes.get(code, 0) + 1
        if code == "no_healthy_upstream":
            out.told_ms.append(took_ms)
        await asyncio.sleep(rng.uniform(0.5, 1.5) * PAUSE_S)  # Callers who know nothing of each other keep no time.
    writer.close()
