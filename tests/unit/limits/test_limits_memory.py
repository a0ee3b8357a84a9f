"""Limits of tenants and of the process, in memory."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerx.domain.tenant import KeyTerms, Limits, Plan, Principal, Tenant
from routerx.errors import Overloaded, RateLimited
from routerx.limits.base import DAY_NS, Lease, Limiter
from routerx.limits.memory import MemoryLimiter

NOW_S = 5_000.0
NOON_NS = 20_000 * DAY_NS + DAY_NS // 2


def tenant(name: str = "acme", **limits: int) -> Principal:
    return Principal(Tenant(name, Plan("standard", limits=Limits(**limits))), "key_1")


def with_key(who: Principal, key_id: str, **limits: int) -> Principal:
    return Principal(who.tenant, key_id, KeyTerms(limits=Limits(**limits)))


def admit(limiter: Limiter, who: Principal, tokens: int = 10, now_s: float = NOW_S, now_ns: int = NOON_NS) -> Lease:
    return limiter.admit(who, tokens, now_s, now_ns)


def refusal(limiter: Limiter, who: Principal, tokens: int = 10, now_s: float = NOW_S) -> RateLimited:
    with pytest.raises(RateLimited) as caught:
        admit(limiter, who, tokens, now_s)
    return caught.value


def test_requests_over_the_minute_limit_are_refused_with_the_time_of_the_next() -> None:
    limiter, who = MemoryLimiter(100), tenant(rpm=2)
    admit(limiter, who)
    admit(limiter, who)
    error = refusal(limiter, who)
    assert error.status == 429
    assert error.retry_after_s == pytest.approx(30.0)
    assert error.details == {"limit": "rpm", "limit_value": 2, "limit_of": "tenant"}
    assert "2 requests per minute" in error.message
    admit(limiter, who, now_s=NOW_S + 30.0)


def test_tenants_do_not_share_their_limits() -> None:
    limiter = MemoryLimiter(100)
    admit(limiter, tenant(rpm=1))
    admit(limiter, tenant("other", rpm=1))


def test_tokens_are_reserved_and_what_was_not_used_comes_back() -> None:
    limiter, who = MemoryLimiter(100), tenant(tpm=1_000)
    lease = admit(limiter, who, tokens=900)
    assert refusal(limiter, who, tokens=200).details["limit"] == "tpm"
    lease.release(100)
    admit(limiter, who, tokens=900)
    assert refusal(limiter, who, tokens=100).retry_after_s == pytest.approx(6.0)


def test_unknown_use_leaves_the_reservation_as_it_is() -> None:
    limiter, who = MemoryLimiter(100), tenant(tpm=1_000)
    admit(limiter, who, tokens=1_000).release(None)
    assert refusal(limiter, who).details["limit"] == "tpm"


def test_a_refusal_takes_nothing_from_any_limit() -> None:
    limiter, who = MemoryLimiter(100), tenant(rpm=2, tpm=100, daily_requests=2, concurrency=2)
    admit(limiter, who, tokens=100)
    for _ in range(5):
        assert refusal(limiter, who, tokens=1).details["limit"] == "tpm"
    admit(limiter, who, tokens=1, now_s=NOW_S + 60)


def test_the_limit_that_takes_longest_is_named() -> None:
    limiter, who = MemoryLimiter(100), tenant(rpm=1, tpm=100)
    admit(limiter, who, tokens=10)
    assert refusal(limiter, who, tokens=50).details["limit"] == "rpm"
    error = refusal(limiter, who, tokens=100, now_s=NOW_S + 59)
    assert error.details["limit"] == "rpm"
    slow, who = MemoryLimiter(100), tenant(rpm=60, tpm=100)
    admit(slow, who, tokens=100)
    assert refusal(slow, who, tokens=100).retry_after_s == pytest.approx(60.0)


def test_concurrency_counts_running_requests_only_and_a_lease_counts_once() -> None:
    limiter, who = MemoryLimiter(100), tenant(concurrency=1)
    lease = admit(limiter, who)
    error = refusal(limiter, who)
    assert error.details == {"limit": "concurrency", "limit_value": 1, "limit_of": "tenant"}
    assert error.retry_after_s is not None
    lease.release(None)
    lease.release(None)
    second = admit(limiter, who)
    assert limiter.in_flight == 1
    lease.release(None)
    refusal(limiter, who)
    second.release(None)
    assert limiter.in_flight == 0


def test_the_whole_process_has_a_ceiling() -> None:
    limiter = MemoryLimiter(2)
    leases = [admit(limiter, tenant()), admit(limiter, tenant("other"))]
    with pytest.raises(Overloaded) as caught:
        admit(limiter, tenant("third"))
    assert caught.value.retry_after_s is not None
    leases[0].release(0)
    admit(limiter, tenant("third"))


def test_the_day_is_of_utc_and_begins_with_what_was_counted_before() -> None:
    limiter, who = MemoryLimiter(100), tenant(daily_requests=3)
    limiter.requests_before = lambda name, key_id: 2 if (name, key_id) == ("acme", None) else 0
    admit(limiter, who)
    error = refusal(limiter, who)
    assert error.retry_after_s == 12 * 3600
    assert error.details == {"limit": "daily_requests", "limit_value": 3, "limit_of": "tenant"}
    admit(limiter, who, now_ns=NOON_NS + DAY_NS // 2)


def test_who_was_gone_for_a_while_goes_on_with_what_the_books_have_counted() -> None:
    limiter, who = MemoryLimiter(100), tenant(daily_requests=2)
    admit(limiter, who).release(0)
    limiter.configure((), 100)
    limiter.requests_before = lambda name, key_id: 1
    limiter.configure(("acme",), 100)
    admit(limiter, who)
    assert refusal(limiter, who).details["limit"] == "daily_requests"


def test_a_request_that_runs_on_counts_for_a_tenant_that_was_gone_meanwhile() -> None:
    limiter, who = MemoryLimiter(100), tenant(concurrency=1)
    lease = admit(limiter, who)
    limiter.configure((), 100)
    limiter.configure(("acme",), 100)
    assert refusal(limiter, who).details["limit"] == "concurrency"
    lease.release(0)
    limiter.configure((), 100)
    admit(limiter, who)


def test_a_jump_of_the_wall_clock_leaves_minute_limits_alone() -> None:
    limiter, who = MemoryLimiter(100), tenant(rpm=1)
    admit(limiter, who)
    with pytest.raises(RateLimited):
        admit(limiter, who, now_ns=NOON_NS + 365 * DAY_NS)
    with pytest.raises(RateLimited):
        admit(limiter, who, now_ns=NOON_NS - 365 * DAY_NS)


def test_a_reload_keeps_counts_and_forgets_removed_tenants() -> None:
    limiter, who = MemoryLimiter(1), tenant(rpm=1)
    lease = admit(limiter, who)
    limiter.configure(["acme"], 5)
    refusal(limiter, who)
    lease.release(None)
    assert limiter.in_flight == 0
    limiter.configure(["other"], 5)
    admit(limiter, who)


def test_a_limit_that_appears_with_a_reload_counts_what_already_runs() -> None:
    limiter = MemoryLimiter(100)
    running = admit(limiter, tenant())
    refusal(limiter, tenant(concurrency=1))
    running.release(None)
    admit(limiter, tenant(concurrency=1))


def test_headers_show_what_is_left_in_openais_words() -> None:
    limiter, who = MemoryLimiter(100), tenant(rpm=60, tpm=6_000)
    admit(limiter, who, tokens=1_000)
    assert limiter.headers(who, NOW_S, NOON_NS) == (
        ("x-ratelimit-limit-requests", "60"),
        ("x-ratelimit-remaining-requests", "59"),
        ("x-ratelimit-reset-requests", "1s"),
        ("x-ratelimit-limit-tokens", "6000"),
        ("x-ratelimit-remaining-tokens", "5000"),
        ("x-ratelimit-reset-tokens", "10s"),
    )


def test_no_limit_no_headers() -> None:
    limiter = MemoryLimiter(100)
    assert limiter.headers(tenant(concurrency=5), NOW_S, NOON_NS) == ()
    assert [name for name, _ in limiter.headers(tenant(rpm=5), NOW_S, NOON_NS)] == [
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
    ]


limit = st.one_of(st.none(), st.integers(1, 6))
moves = st.lists(
    st.tuples(st.floats(0, 30), st.integers(0, 400), st.booleans(), st.integers(0, 600)), min_size=1, max_size=50
)


@given(limit, st.one_of(st.none(), st.integers(50, 500)), limit, limit, moves)
@settings(max_examples=150, deadline=None)
def test_no_history_passes_a_limit(
    rpm: int | None,
    tpm: int | None,
    concurrency: int | None,
    daily: int | None,
    history: list[tuple[float, int, bool, int]],
) -> None:
    limiter = MemoryLimiter(4)
    who = Principal(Tenant("acme", Plan("p", limits=Limits(rpm, tpm, concurrency, daily))), "key_1")
    now_s, admitted, running, waits_s = NOW_S, [], [], []
    for gap_s, tokens, ends, used in history:
        now_s += gap_s
        try:
            running.append(admit(limiter, who, tokens, now_s))
            admitted.append(now_s)
        except (RateLimited, Overloaded) as refused:
            waits_s.append(refused.retry_after_s)
        assert len(running) == limiter.in_flight <= 4
        assert concurrency is None or len(running) <= concurrency
        assert daily is None or len(admitted) <= daily
        if rpm is not None:
            for first, started_s in enumerate(admitted):
                assert len(admitted) - first <= rpm * (1 + (now_s - started_s) / 60.0) + 1e-3
        if ends and running:
            lease = running.pop(0)
            lease.release(used)
            lease.release(used)
    assert all(wait_s is not None and wait_s > 0 for wait_s in waits_s)
