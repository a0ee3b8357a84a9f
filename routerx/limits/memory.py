"""Limits in the memory of one process. No await between asking and counting, so no number of callers can overshoot."""

from collections.abc import Callable, Iterable

import msgspec

from routerx.domain.tenant import Limits, Principal
from routerx.errors import Overloaded, RateLimited
from routerx.limits.base import DAY_NS, Standing
from routerx.limits.bucket import Bucket, format_duration

CONCURRENCY_WAIT_S = 1.0
"""When a running request ends cannot be known; this is what a caller is told to wait."""

_ALLOWS = {"tenant": "this key's plan allows", "key": "this key allows"}


class _Account:
    """The counts of one tenant, or of one of its keys."""

    __slots__ = ("day", "in_flight", "keys", "requests", "today", "tokens")

    def __init__(self, day: int) -> None:
        self.requests = Bucket()
        self.tokens = Bucket()
        self.in_flight = 0
        self.day = day
        self.today = 0
        self.keys: dict[str, _Account] = {}
        """Of a tenant: its keys that have terms of their own."""

    def used_on(self, day: int) -> int:
        return self.today if self.day == day else 0


class _Party(msgspec.Struct, frozen=True, gc=False):
    """Whose limits, and the counts they are held against."""

    of: str
    limits: Limits
    account: _Account


_Share = tuple[_Account, int | None, int]
"""What one request took: from whose counts, under which limit on tokens, and how many tokens were reserved."""


class _Wait(msgspec.Struct, frozen=True, gc=False):
    """One limit that is in the way."""

    seconds: float
    limit: str
    value: int
    what: str
    of: str


class MemoryLease:
    """One running request; see limits.base.Lease."""

    __slots__ = ("_limiter", "_own", "_whole")

    def __init__(self, limiter: "MemoryLimiter", whole: _Share, own: _Share | None) -> None:
        self._limiter: MemoryLimiter | None = limiter
        self._whole = whole
        self._own = own

    def release(self, tokens_used: int | None) -> None:
        limiter, self._limiter = self._limiter, None
        if limiter is None:
            return
        limiter.in_flight -= 1
        _give_back(self._whole, tokens_used)
        if self._own is not None:
            _give_back(self._own, tokens_used)


class MemoryLimiter:
    """The Limiter of a single process. State is bounded by the tenants in the configuration and their keys."""

    def __init__(self, concurrency_max: int) -> None:
        self.concurrency_max = concurrency_max
        self.in_flight = 0
        self.requests_before: Callable[[str, str | None], int] = _none_before
        """(tenant, key id, or None for all its keys) → requests on this UTC day. Asked when counting begins: after
        a start, and for a tenant that was not in the configuration for a while."""
        self._accounts: dict[str, _Account] = {}

    def configure(self, tenants: Iterable[str], concurrency_max: int) -> None:
        self.concurrency_max = concurrency_max
        names = frozenset(tenants)
        self._accounts = {
            name: account for name, account in self._accounts.items() if name in names or account.in_flight
        }

    def admit(self, caller: Principal, tokens: int, now_s: float, now_ns: int) -> MemoryLease:
        if self.in_flight >= self.concurrency_max:
            raise Overloaded(
                f"this gateway runs {self.concurrency_max} requests at once and is full; retry in a moment",
                retry_after_s=CONCURRENCY_WAIT_S,
            )
        limits, terms = caller.tenant.plan.limits, caller.terms
        # A refusal has no side effect: everything is asked before anything is counted.
        if terms is not None or not _has_none(limits):
            self._require_room(caller, tokens, now_s, now_ns)
        day = now_ns // DAY_NS
        whole = _take(self._account(caller.tenant.name, now_ns), limits, tokens, now_s, day)
        own = None if terms is None else _take(self._own_account(caller, now_ns), terms.limits, tokens, now_s, day)
        self.in_flight += 1
        return MemoryLease(self, whole, own)

    def standings(self, caller: Principal, now_s: float, now_ns: int) -> tuple[Standing, ...]:
        return tuple(one for party in self._parties(caller, now_ns) for one in _standings(party, now_s, now_ns))

    def headers(self, caller: Principal, now_s: float, now_ns: int) -> tuple[tuple[str, str], ...]:
        if caller.terms is None and _has_none(caller.tenant.plan.limits):
            return ()
        standings = self.standings(caller, now_s, now_ns)
        found: list[tuple[str, str]] = []
        for name, limits in (("requests", ("rpm", "daily_requests")), ("tokens", ("tpm",))):
            # Of several the one that is reached first, and of those the one that lasts: who waits for its reset finds
            # room in the others as well.
            nearest: Standing | None = None
            for one in standings:
                if one.limit in limits and (nearest is None or _distance(one) < _distance(nearest)):
                    nearest = one
            if nearest is not None and nearest.reset_s is not None:
                found.append((f"x-ratelimit-limit-{name}", str(nearest.value)))
                found.append((f"x-ratelimit-remaining-{name}", str(nearest.left)))
                found.append((f"x-ratelimit-reset-{name}", format_duration(nearest.reset_s)))
        return tuple(found)

    def _require_room(self, caller: Principal, tokens: int, now_s: float, now_ns: int) -> None:
        """Raises RateLimited for the limit that has to be waited for longest."""
        longest: _Wait | None = None
        for party in self._parties(caller, now_ns):
            for wait in _waits(party, tokens, now_s, now_ns):
                if longest is None or wait.seconds > longest.seconds:
                    longest = wait
        if longest is not None:
            raise _limited(longest)

    def _parties(self, caller: Principal, now_ns: int) -> tuple[_Party, ...]:
        tenant = caller.tenant
        whole = _Party("tenant", tenant.plan.limits, self._account(tenant.name, now_ns))
        if caller.terms is None:
            return (whole,)
        return whole, _Party("key", caller.terms.limits, self._own_account(caller, now_ns))

    def _own_account(self, caller: Principal, now_ns: int) -> _Account:
        keys = self._account(caller.tenant.name, now_ns).keys
        own = keys.get(caller.key_id)
        if own is None:
            own = keys[caller.key_id] = _Account(now_ns // DAY_NS)
            own.today = self.requests_before(caller.tenant.name, caller.key_id)
        return own

    def _account(self, tenant: str, now_ns: int) -> _Account:
        account = self._accounts.get(tenant)
        if account is None:
            account = self._accounts[tenant] = _Account(now_ns // DAY_NS)
            account.today = self.requests_before(tenant, None)
        return account


def _has_none(limits: Limits) -> bool:
    return limits.rpm is None and limits.tpm is None and limits.concurrency is None and limits.daily_requests is None


def _none_before(tenant: str, key_id: str | None) -> int:
    return 0


def _waits(party: _Party, tokens: int, now_s: float, now_ns: int) -> Iterable[_Wait]:
    """Every limit of one party that is in the way now."""
    limits, account, of = party.limits, party.account, party.of
    if limits.concurrency is not None and account.in_flight >= limits.concurrency:
        yield _Wait(CONCURRENCY_WAIT_S, "concurrency", limits.concurrency, "requests at once", of)
    if limits.daily_requests is not None and account.used_on(now_ns // DAY_NS) >= limits.daily_requests:
        yield _Wait(_rest_of_day_s(now_ns), "daily_requests", limits.daily_requests, "requests per UTC day", of)
    if limits.rpm is not None:
        wait_s = account.requests.wait_s(limits.rpm, 1, now_s)
        if wait_s > 0:
            yield _Wait(wait_s, "rpm", limits.rpm, "requests per minute", of)
    if limits.tpm is not None:
        wait_s = account.tokens.wait_s(limits.tpm, tokens, now_s)
        if wait_s > 0:
            what = f"tokens per minute (this request reserves {tokens})"
            yield _Wait(wait_s, "tpm", limits.tpm, what, of)


def _take(account: _Account, limits: Limits, tokens: int, now_s: float, day: int) -> _Share:
    """Count one request that has room."""
    if account.day != day:
        account.day, account.today = day, 0
    account.today += 1
    account.in_flight += 1
    if limits.rpm is not None:
        account.requests.take(limits.rpm, 1, now_s)
    if limits.tpm is None:
        return account, None, 0
    return account, limits.tpm, account.tokens.take(limits.tpm, tokens, now_s)


def _give_back(share: _Share, tokens_used: int | None) -> None:
    account, tpm, reserved = share
    account.in_flight -= 1
    if tpm is not None and tokens_used is not None:
        account.tokens.correct(tpm, reserved, tokens_used)


def _standings(party: _Party, now_s: float, now_ns: int) -> Iterable[Standing]:
    limits, account, of = party.limits, party.account, party.of
    for name, limit, bucket in (("rpm", limits.rpm, account.requests), ("tpm", limits.tpm, account.tokens)):
        if limit is not None:
            yield Standing(name, limit, bucket.remaining(limit, now_s), bucket.reset_s(now_s), of)
    if limits.concurrency is not None:
        yield Standing("concurrency", limits.concurrency, max(0, limits.concurrency - account.in_flight), None, of)
    if limits.daily_requests is not None:
        left = max(0, limits.daily_requests - account.used_on(now_ns // DAY_NS))
        yield Standing("daily_requests", limits.daily_requests, left, _rest_of_day_s(now_ns), of)


def _distance(one: Standing) -> tuple[int, float]:
    return one.left, -one.reset_s if one.reset_s is not None else 0.0


def _rest_of_day_s(now_ns: int) -> float:
    return (DAY_NS - now_ns % DAY_NS) / 1e9


def _limited(wait: _Wait) -> RateLimited:
    return RateLimited(
        f"{_ALLOWS[wait.of]} {wait.value} {wait.what}; retry in {format_duration(wait.seconds)}",
        retry_after_s=wait.seconds,
        details={"limit": wait.limit, "limit_value": wait.value, "limit_of": wait.of},
    )
