"""What is left of a tenant's limits, told without counting."""

from routerx.domain.tenant import Limits, Plan, Tenant
from routerx.limits.base import DAY_NS, Standing
from routerx.limits.memory import MemoryLimiter

LIMITS = Limits(rpm=10, tpm=1_000, concurrency=2, daily_requests=3)
TENANT = Tenant("acme", Plan("plan", limits=LIMITS))


def test_standings_follow_what_was_admitted_and_count_nothing_themselves():
    limiter = MemoryLimiter(100)
    lease = limiter.admit(TENANT, 400, 0.0, 0)
    for _ in range(5):
        assert limiter.standings(TENANT, 0.0, 0) == (
            Standing("rpm", 10, 9),
            Standing("tpm", 1_000, 600),
            Standing("concurrency", 2, 1),
            Standing("daily_requests", 3, 2),
        )
    lease.release(100)
    left = {one.limit: one.left for one in limiter.standings(TENANT, 0.0, 0)}
    assert left == {"rpm": 9, "tpm": 900, "concurrency": 2, "daily_requests": 2}
    assert limiter.standings(TENANT, 60.0, DAY_NS)[3].left == 3


def test_a_tenant_without_limits_has_none():
    assert MemoryLimiter(100).standings(Tenant("lab", Plan("free")), 0.0, 0) == ()
