"""What is left of a tenant's limits, told without counting."""

from routerx.domain.tenant import Limits, Plan, Principal, Tenant
from routerx.limits.base import DAY_NS, Standing
from routerx.limits.memory import MemoryLimiter

LIMITS = Limits(rpm=10, tpm=1_000, concurrency=2, daily_requests=3)
CALLER = Principal(Tenant("acme", Plan("plan", limits=LIMITS)), "key_1")


def test_standings_follow_what_was_admitted_and_count_nothing_themselves():
    limiter = MemoryLimiter(100)
    lease = limiter.admit(CALLER, 400, 0.0, 0)
    for _ in range(5):
        assert limiter.standings(CALLER, 0.0, 0) == (
            Standing("rpm", 10, 9, 6.0),
            Standing("tpm", 1_000, 600, 24.0),
            Standing("concurrency", 2, 1, None),
            Standing("daily_requests", 3, 2, 86_400.0),
        )
    lease.release(100)
    left = {one.limit: one.left for one in limiter.standings(CALLER, 0.0, 0)}
    assert left == {"rpm": 9, "tpm": 900, "concurrency": 2, "daily_requests": 2}
    assert limiter.standings(CALLER, 60.0, DAY_NS)[3].left == 3


def test_a_tenant_without_limits_has_none():
    assert MemoryLimiter(100).standings(Principal(Tenant("lab", Plan("free")), "key_1"), 0.0, 0) == ()
