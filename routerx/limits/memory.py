"""Limits in the memory of one process. No await between asking and counting, so no number of callers can overshoot."""

from collections.abc import Iterable

from routerx.domain.tenant import Limits, Tenant
from routerx.errors import Overloaded, RateLimited
from routerx.limits.base import DAY_NS, Standing
from routerx.limits.bucket import Bucket, format_duration

CONCURRENCY_WAIT_S = 1.0
"""When a running request ends cannot be known; this is what a caller is told to wait."""


class _Account:
    """One tenant's counts."""

    __slots__ = ("day", "in_flight", "requests", "today", "tokens")

    def __init__(self) -> None:
        self.requests = Bucket()
        self.tokens = Bucket()
        self.in_flight = 0
        self.day = 0
        self.today = 0


class MemoryLease:
    """One running request; see limits.base.Lease."""

    __slots__ = ("_account", "_limiter", "_reserved", "_tpm")

    def __init__(self, limiter: "MemoryLimiter", account: _Account, tpm: int | None, reserved: int) -> None:
        self._limiter: MemoryLimiter | None = limiter
        self._account = account
        self._tpm = tpm
        self._reserved = reserved

    def release(self, tokens_used: int | None) -> None:
        limiter, self._limiter = self._limiter, None
        if limiter is None:
            return
        limiter.in_flight -= 1
        self._account.in_flight -= 1
        if self._tpm is not None and tokens_used is not None:
            self._account.tokens.correct(self._tpm, self._reserved, tokens_used)


class MemoryLimiter:
    """The Limiter of a single process. State is bounded by the number of tenants in the configuration."""

    def __init__(self, concurrency_max: int) -> None:
        self.concurrency_max = concurrency_max
        self.in_flight = 0
        self._accounts: dict[str, _Account] = {}

    def configure(self, tenants: Iterable[str], concurrency_max: int) -> None:
        self.concurrency_max = concurrency_max
        names = frozenset(tenants)
        self._accounts = {name: account for name, account in self._accounts.items() if name in names}

    def seed_daily(self, tenant: str, count: int, day: int) -> None:
        account = self._account(tenant)
        account.day, account.today = day, count

    def admit(self, tenant: Tenant, tokens: int, now_s: float, now_ns: int) -> MemoryLease:
        if self.in_flight >= self.concurrency_max:
            raise Overloaded(
                f"this gateway runs {self.concurrency_max} requests at once and is full; retry in a moment",
                retry_after_s=CONCURRENCY_WAIT_S,
            )
        account = self._account(tenant.name)
        day = now_ns // DAY_NS
        if account.day != day:
            account.day, account.today = day, 0
        limits = tenant.plan.limits
        reserved = 0
        # A refusal has no side effect: everything is asked before anything is counted.
        if limits.concurrency is not None and account.in_flight >= limits.concurrency:
            raise _limited("concurrency", limits.concurrency, "requests at once", CONCURRENCY_WAIT_S)
        if limits.daily_requests is not None and account.today >= limits.daily_requests:
            wait_s = (DAY_NS - now_ns % DAY_NS) / 1e9
            raise _limited("daily_requests", limits.daily_requests, "requests per UTC day", wait_s)
        if limits.rpm is not None or limits.tpm is not None:
            reserved = _take_minute(account, limits, tokens, now_s)
        account.today += 1
        account.in_flight += 1
        self.in_flight += 1
        return MemoryLease(self, account, limits.tpm, reserved)

    def standings(self, tenant: Tenant, now_s: float, now_ns: int) -> tuple[Standing, ...]:
        limits, account = tenant.plan.limits, self._account(tenant.name)
        today = account.today if account.day == now_ns // DAY_NS else 0
        found: list[Standing] = []
        if limits.rpm is not None:
            found.append(Standing("rpm", limits.rpm, account.requests.remaining(limits.rpm, now_s)))
        if limits.tpm is not None:
            found.append(Standing("tpm", limits.tpm, account.tokens.remaining(limits.tpm, now_s)))
        if limits.concurrency is not None:
            found.append(Standing("concurrency", limits.concurrency, max(0, limits.concurrency - account.in_flight)))
        if limits.daily_requests is not None:
            found.append(Standing("daily_requests", limits.daily_requests, max(0, limits.daily_requests - today)))
        return tuple(found)

    def headers(self, tenant: Tenant, now_s: float) -> tuple[tuple[str, str], ...]:
        limits = tenant.plan.limits
        if limits.rpm is None and limits.tpm is None:
            return ()
        account = self._account(tenant.name)
        found: list[tuple[str, str]] = []
        for limit, bucket, name in (
            (limits.rpm, account.requests, "requests"),
            (limits.tpm, account.tokens, "tokens"),
        ):
            if limit is not None:
                found.append((f"x-ratelimit-limit-{name}", str(limit)))
                found.append((f"x-ratelimit-remaining-{name}", str(bucket.remaining(limit, now_s))))
                found.append((f"x-ratelimit-reset-{name}", format_duration(bucket.reset_s(now_s))))
        return tuple(found)

    def _account(self, tenant: str) -> _Account:
        account = self._accounts.get(tenant)
        if account is None:
            account = self._accounts[tenant] = _Account()
        return account


def _take_minute(account: _Account, limits: Limits, tokens: int, now_s: float) -> int:
    """Take one request and `tokens`, or raise for the limit that has to be waited for longest."""
    wait_requests_s = account.requests.wait_s(limits.rpm, 1, now_s) if limits.rpm is not None else 0.0
    wait_tokens_s = account.tokens.wait_s(limits.tpm, tokens, now_s) if limits.tpm is not None else 0.0
    if limits.rpm is not None and wait_requests_s > 0 and wait_requests_s >= wait_tokens_s:
        raise _limited("rpm", limits.rpm, "requests per minute", wait_requests_s)
    if limits.tpm is not None and wait_tokens_s > 0:
        raise _limited("tpm", limits.tpm, f"tokens per minute (this request reserves {tokens})", wait_tokens_s)
    if limits.rpm is not None:
        account.requests.take(limits.rpm, 1, now_s)
    return account.tokens.take(limits.tpm, tokens, now_s) if limits.tpm is not None else 0


def _limited(limit: str, value: int, what: str, wait_s: float) -> RateLimited:
    return RateLimited(
        f"this key's plan allows {value} {what}; retry in {format_duration(wait_s)}",
        retry_after_s=wait_s,
        details={"limit": limit, "limit_value": value},
    )
