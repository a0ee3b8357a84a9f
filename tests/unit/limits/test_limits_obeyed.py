"""The promise to callers: who does what the headers and refusals say is never refused twice, and nobody gets more than
the limits allow."""

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerx.domain.tenant import KeyTerms, Limits, Plan, Principal, Tenant
from routerx.errors import RateLimited
from routerx.limits.base import DAY_NS
from routerx.limits.memory import MemoryLimiter

START_S = 5_000.0
START_NS = 20_000 * DAY_NS
UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


class World:
    """One limiter and one clock for both times, in whole nanoseconds like the machine's."""

    def __init__(self, at_s: float = 0.0) -> None:
        self.limiter = MemoryLimiter(10_000)
        self._passed_ns = 0
        self.wait(at_s)

    def wait(self, delay_s: float) -> None:
        self._passed_ns += math.ceil(delay_s * 1e9)

    @property
    def now_ns(self) -> int:
        return START_NS + self._passed_ns

    @property
    def now_s(self) -> float:
        return START_S + self._passed_ns / 1e9

    def ask(self, caller: Principal, tokens: int) -> RateLimited | None:
        """None when it was admitted; it ends at once, having used what it reserved."""
        try:
            self.limiter.admit(caller, tokens, self.now_s, self.now_ns).release(None)
        except RateLimited as refused:
            return refused
        return None

    def headers(self, caller: Principal) -> dict[str, str]:
        return dict(self.limiter.headers(caller, self.now_s, self.now_ns))


def caller(tenant: Limits, key: Limits | None = None, key_id: str = "key_1") -> Principal:
    return Principal(Tenant("acme", Plan("p", limits=tenant)), key_id, None if key is None else KeyTerms(limits=key))


def in_requests(limits: Limits) -> Limits:
    return Limits(rpm=limits.rpm, daily_requests=limits.daily_requests)


def seconds(duration: str) -> float:
    return sum(float(number) * UNITS_S[unit] for number, unit in re.findall(r"([\d.]+)(ms|h|m|s)", duration))


some = st.one_of(st.none(), st.integers(1, 50))
limits = st.builds(
    Limits, rpm=some, tpm=st.one_of(st.none(), st.integers(1, 5_000)), daily_requests=st.one_of(st.none(), some)
)
asks = st.lists(st.tuples(st.floats(0, 40), st.integers(0, 6_000)), min_size=1, max_size=40)
day_times_s = st.floats(0, 86_400)


@given(limits, st.one_of(st.none(), limits), asks, day_times_s, st.sampled_from(["exact", "ms", "s"]))
@settings(max_examples=150, deadline=None)
def test_who_waits_as_told_is_admitted(
    whole: Limits, own: Limits | None, history: list[tuple[float, int]], at_s: float, reads: str
) -> None:
    who = caller(whole, own)
    world = World(at_s)
    for gap_s, tokens in history:
        world.wait(gap_s)
        refused = world.ask(who, tokens)
        if refused is not None:
            wait_s = refused.retry_after_s
            assert wait_s is not None
            told_s = {"exact": wait_s, "ms": math.ceil(wait_s * 1000) / 1000, "s": float(math.ceil(wait_s))}[reads]
            world.wait(told_s)
            assert world.ask(who, tokens) is None


@given(limits, st.one_of(st.none(), limits), asks, day_times_s)
@settings(max_examples=150, deadline=None)
def test_what_the_headers_say_is_left_can_be_sent_and_after_their_reset_there_is_room(
    whole: Limits, own: Limits | None, history: list[tuple[float, int]], at_s: float
) -> None:
    who = caller(in_requests(whole), None if own is None else in_requests(own))
    world = World(at_s)
    for gap_s, _ in history:
        world.wait(gap_s)
        told = world.headers(who)
        if not told:
            assert world.ask(who, 1) is None
        elif int(told["x-ratelimit-remaining-requests"]) > 0:
            for _ in range(int(told["x-ratelimit-remaining-requests"])):
                assert world.ask(who, 1) is None
            assert world.ask(who, 1) is not None
        else:
            assert world.ask(who, 1) is not None
            world.wait(seconds(told["x-ratelimit-reset-requests"]))
            assert world.ask(who, 1) is None


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 30), asks)
@settings(max_examples=150, deadline=None)
def test_no_more_than_burst_and_rate_pass_by_tenant_and_by_key(
    whole: int, first: int, second: int, history: list[tuple[float, int]]
) -> None:
    callers = [caller(Limits(rpm=whole), Limits(rpm=own), f"key_{own}_{n}") for n, own in enumerate((first, second))]
    world, admitted = World(), list[tuple[float, str]]()
    for gap_s, which in history:
        world.wait(gap_s)
        who = callers[which % 2]
        if world.ask(who, 1) is None:
            admitted.append((world.now_s, who.key_id))
    for key_id, rpm in ((None, whole), (callers[0].key_id, first), (callers[1].key_id, second)):
        times = [at_s for at_s, key in admitted if key_id in (None, key)]
        for n, begun_s in enumerate(times):
            assert len(times) - n <= rpm * (1 + (times[-1] - begun_s) / 60.0) + 1e-3


def test_the_longest_wait_is_told_of_all_limits_that_are_in_the_way() -> None:
    who = caller(Limits(rpm=1, daily_requests=1))
    world = World(86_400 - 10.0)
    assert world.ask(who, 1) is None
    refused = world.ask(who, 1)
    assert refused is not None
    assert refused.details["limit"] == "rpm"  # The day ends in 10 s, the minute in 60 s.
    assert refused.retry_after_s == pytest.approx(60.0)


def test_a_key_is_limited_for_itself_and_its_sisters_go_on() -> None:
    slow, fast = caller(Limits(rpm=10), Limits(rpm=1), "slow"), caller(Limits(rpm=10), None, "fast")
    world = World()
    assert world.ask(slow, 1) is None
    refused = world.ask(slow, 1)
    assert refused is not None
    assert refused.message == "this key allows 1 requests per minute; retry in 1m0s"
    assert refused.details == {"limit": "rpm", "limit_value": 1, "limit_of": "key"}
    assert world.headers(slow)["x-ratelimit-limit-requests"] == "1"
    assert world.headers(fast)["x-ratelimit-remaining-requests"] == "9"
    assert world.ask(fast, 1) is None


def test_what_a_key_did_today_is_asked_for_when_it_is_first_limited() -> None:
    who = caller(Limits(), Limits(daily_requests=5))
    world = World()
    world.limiter.requests_before = lambda tenant, key_id: 4 if (tenant, key_id) == ("acme", "key_1") else 0
    assert world.ask(who, 1) is None
    assert world.headers(who) == {
        "x-ratelimit-limit-requests": "5",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "24h0m0s",
    }
    assert world.ask(who, 1) is not None


def test_tokens_come_back_to_tenant_and_key() -> None:
    who = caller(Limits(tpm=1_000), Limits(tpm=500))
    limiter = MemoryLimiter(10)
    lease = limiter.admit(who, 500, START_S, START_NS)
    assert {one.of: one.left for one in limiter.standings(who, START_S, START_NS)} == {"tenant": 500, "key": 0}
    lease.release(100)
    lease.release(0)
    assert {one.of: one.left for one in limiter.standings(who, START_S, START_NS)} == {"tenant": 900, "key": 400}
