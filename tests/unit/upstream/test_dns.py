"""Names outlive their resolver, and a failing resolver is left alone for a while."""

import asyncio
import socket
from collections.abc import Callable

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from routerx.upstream.dns import NAMES_MAX, NEGATIVE_S, StaleResolver


def addresses(host: str) -> list[ResolveResult]:
    return [ResolveResult(hostname=host, host="192.0.2.1", port=443, family=socket.AF_INET, proto=0, flags=0)]


class FakeResolver(AbstractResolver):
    """Answers as `mode` says: "good", "fails" or "hangs"."""

    def __init__(self) -> None:
        self.mode = "good"
        self.asked = 0
        self.is_closed = False

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked += 1
        if self.mode == "hangs":
            await asyncio.Event().wait()
        if self.mode == "fails":
            raise socket.gaierror(socket.EAI_NONAME, "no")
        return addresses(host)

    async def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def inner() -> FakeResolver:
    return FakeResolver()


@pytest.fixture
def now() -> list[float]:
    return [1_000.0]


@pytest.fixture
def resolver(inner: FakeResolver, now: list[float]) -> StaleResolver:
    monotonic_s: Callable[[], float] = lambda: now[0]  # noqa: E731
    return StaleResolver(inner, timeout_s=0.01, monotonic_s=monotonic_s)


@pytest.mark.parametrize("trouble", ["fails", "hangs"])
async def test_the_last_good_answer_serves_while_the_resolver_is_in_trouble(
    resolver: StaleResolver, inner: FakeResolver, trouble: str
) -> None:
    good = await resolver.resolve("api.example", 443)
    inner.mode = trouble
    assert await resolver.resolve("api.example", 443) == good
    with pytest.raises(socket.gaierror):
        await resolver.resolve("never-seen.example", 443)


async def test_a_failing_resolver_is_asked_again_only_after_the_negative_time(
    resolver: StaleResolver, inner: FakeResolver, now: list[float]
) -> None:
    inner.mode = "fails"
    for _ in range(3):
        with pytest.raises(socket.gaierror):
            await resolver.resolve("api.example", 443)
    assert inner.asked == 1
    inner.mode = "good"
    now[0] += NEGATIVE_S
    assert await resolver.resolve("api.example", 443) == addresses("api.example")
    assert inner.asked == 2


async def test_the_number_of_names_kept_is_bounded(resolver: StaleResolver, inner: FakeResolver) -> None:
    for i in range(NAMES_MAX + 1):
        await resolver.resolve(f"h{i}.example", 443)
    inner.mode = "fails"
    with pytest.raises(socket.gaierror):
        await resolver.resolve("h0.example", 443)
    assert await resolver.resolve(f"h{NAMES_MAX}.example", 443)


async def test_closing_closes_the_inner_resolver(resolver: StaleResolver, inner: FakeResolver) -> None:
    await resolver.close()
    assert inner.is_closed
