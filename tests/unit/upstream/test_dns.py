"""Names outlive their resolver, and a failing resolver is left alone for a while."""

import asyncio
import socket
from collections.abc import Callable

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from routerx.upstream.dns import DNS_TTL_S, NAMES_MAX, NEGATIVE_S, AddressBook, StaleResolver


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


# --- the address book --------------------------------------------------------------------------------------------


class SlowResolver(FakeResolver):
    """Answers after a turn of the loop, with an address of each family."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await super().resolve(host, port, family)
        await asyncio.sleep(0)
        six = ResolveResult(hostname=host, host="2001:db8::1", port=port, family=socket.AF_INET6, proto=0, flags=0)
        return [*found, six]


async def test_many_calls_at_once_ask_once_and_the_answer_is_kept_for_its_time(now: list[float]) -> None:
    inner = SlowResolver()
    book = AddressBook(inner, lambda: now[0])
    answers = await asyncio.gather(*(book.addresses("api.example", 443) for _ in range(10)))
    assert answers[0] == [
        (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("192.0.2.1", 443)),
        (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("2001:db8::1", 443, 0, 0)),
    ]
    assert all(answer == answers[0] for answer in answers)
    assert inner.asked == 1
    now[0] += DNS_TTL_S
    await book.addresses("api.example", 443)
    assert inner.asked == 2
    await book.close()
    assert inner.is_closed


async def test_a_failure_is_not_kept_and_a_caller_that_leaves_takes_nobody_along(now: list[float]) -> None:
    inner = SlowResolver()
    book = AddressBook(inner, lambda: now[0])
    inner.mode = "fails"
    with pytest.raises(socket.gaierror):
        await book.addresses("api.example", 443)
    inner.mode = "hangs"
    leaving = asyncio.ensure_future(book.addresses("api.example", 443))
    staying = asyncio.ensure_future(book.addresses("api.example", 443))
    await asyncio.sleep(0)
    inner.mode = "good"
    leaving.cancel()
    assert len(await staying) == 2


@pytest.mark.parametrize(
    ("host", "family", "where"),
    [("127.0.0.1", socket.AF_INET, ("127.0.0.1", 80)), ("::1", socket.AF_INET6, ("::1", 80, 0, 0))],
)
async def test_an_address_needs_no_resolver(
    inner: FakeResolver, host: str, family: int, where: tuple[object, ...]
) -> None:
    (found,) = await AddressBook(inner, lambda: 0.0).addresses(host, 80)
    assert (found[0], found[4]) == (family, where)
    assert inner.asked == 0
