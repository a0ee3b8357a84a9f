"""What keeps a provider's credentials from being used, and what was done with each: rests, quarantine, limits, counts.

Keyed by credential id, which is public and survives a reload. Bounded by the number of credentials configured.
"""

from collections import deque
from collections.abc import Iterator

import msgspec

from routerx.domain.failure import Effect, Failure, FailureKind
from routerx.providers.spec import Credential
from routerx.routing.window import SlidingCount

COOL_MIN_S = 1.0
COOL_MAX_S = 60.0
"""A rate-limited credential without Retry-After rests 1 s × 2^k, at most this long (FAULTS.md 28)."""
RETRY_AFTER_MAX_S = 300.0
"""A longer Retry-After is not believed (FAULTS.md 30)."""
QUARANTINE_PROBE_S = 300.0
"""A refused or exhausted credential is tried again with one call per interval: keys get fixed at the vendor's side."""
PACE_MAX_S = 60.0
"""A provider that says how long until its limit is reset is believed so far without having refused anything."""
MINUTE_S = 60.0
MINUTES_MAX = 24 * 60


class KeyStats(msgspec.Struct, frozen=True):
    """What was done with one credential since the process began."""

    credential_id: str
    state: str
    """active | cooling | quarantined"""
    ready_in_s: float
    requests: int
    """That ended, but for those whose callers left before."""
    successes: int
    failures: int
    """Blamed on the provider or on the credential, rate limits apart."""
    rate_limited: int
    tokens: int
    last_used_s: float | None
    """Monotonic."""


class SeriesPoint(msgspec.Struct, frozen=True):
    """One step of a credential's history."""

    ago_s: float
    """How long ago the step began."""
    requests: int = 0
    successes: int = 0
    failures: int = 0
    rate_limited: int = 0
    tokens: int = 0


class _Counts:
    """Sums, in all or of one minute."""

    __slots__ = ("failures", "minute", "rate_limited", "requests", "successes", "tokens")

    def __init__(self, minute: int = 0) -> None:
        self.minute = minute
        self.requests = self.successes = self.failures = self.rate_limited = self.tokens = 0

    def add(self, other: "_Counts") -> None:
        self.requests += other.requests
        self.successes += other.successes
        self.failures += other.failures
        self.rate_limited += other.rate_limited
        self.tokens += other.tokens


class _Rest:
    """One credential."""

    __slots__ = (
        "calls",
        "cooled",
        "history",
        "last_used_s",
        "minute",
        "paced",
        "probing",
        "quarantined",
        "tokens",
        "total",
        "until_s",
    )

    def __init__(self) -> None:
        self.until_s = 0.0
        self.cooled = 0
        self.quarantined = False
        self.probing = False
        self.paced = False
        """It rests because it would be refused, not because it was."""
        self.calls: SlidingCount | None = None
        self.tokens: SlidingCount | None = None
        self.last_used_s: float | None = None
        self.total = _Counts()
        self.minute = _Counts(-1)
        self.history: deque[_Counts] = deque(maxlen=MINUTES_MAX)

    def counts(self, now_s: float) -> _Counts:
        """Of the current minute."""
        minute = int(now_s // MINUTE_S)
        if self.minute.minute != minute:
            if self.minute.requests:
                self.history.append(self.minute)
                self.total.add(self.minute)
            self.minute = _Counts(minute)
        return self.minute


class CredentialBook:
    """See the module. No clock of its own: `now_s` is monotonic."""

    def __init__(self) -> None:
        self._rests: dict[str, _Rest] = {}

    # --- asking

    def ready_s(self, credential: Credential, now_s: float, tokens: int = 1) -> float:
        """The time from which a call that will take so many tokens may go; 0.0 or a past time: at once."""
        rest = self._rests.get(credential.id)
        if rest is None:
            return 0.0
        ready = rest.until_s
        if credential.rpm is not None and rest.calls is not None:
            free = rest.calls.below_s(credential.rpm, now_s)
            ready = free if free > now_s and free > ready else ready
        if credential.tpm is not None and rest.tokens is not None:
            # More than the limit itself goes when nothing else does.
            free = rest.tokens.below_s(max(1, credential.tpm - tokens + 1), now_s)
            ready = free if free > now_s and free > ready else ready
        return ready

    def why(self, credential: Credential, now_s: float) -> str:
        """The rule that keeps it from being used now."""
        rest = self._rests.get(credential.id)
        if rest is not None and rest.until_s > now_s:
            if rest.quarantined:
                return "credential_quarantined"
            return "credential_paced" if rest.paced else "credential_cooling"
        calls = rest.calls if rest is not None and credential.rpm is not None else None
        if calls is not None and credential.rpm is not None and calls.below_s(credential.rpm, now_s) > now_s:
            return "credential_rpm"
        return "credential_tpm"

    def state(self, credential_id: str, now_s: float) -> str:
        """active | cooling | quarantined"""
        rest = self._rests.get(credential_id)
        if rest is None:
            return "active"
        if rest.quarantined:
            return "quarantined"
        return "cooling" if rest.until_s > now_s else "active"

    def until_s(self, credential_id: str) -> float:
        """When its rest ends; 0.0: it has none."""
        rest = self._rests.get(credential_id)
        return rest.until_s if rest is not None else 0.0

    def stats(self, now_s: float) -> Iterator[KeyStats]:
        for credential_id, rest in sorted(self._rests.items()):
            rest.counts(now_s)
            total = _Counts()
            total.add(rest.total)
            total.add(rest.minute)
            yield KeyStats(
                credential_id=credential_id,
                state=self.state(credential_id, now_s),
                ready_in_s=max(0.0, rest.until_s - now_s),
                requests=total.requests,
                successes=total.successes,
                failures=total.failures,
                rate_limited=total.rate_limited,
                tokens=total.tokens,
                last_used_s=rest.last_used_s,
            )

    def series(self, credential_id: str, window_s: float, step_s: float, now_s: float) -> tuple[SeriesPoint, ...]:
        """The last `window_s` in steps, oldest first. Kept are minutes: a shorter step shows a minute in its first."""
        steps = max(1, int(window_s // step_s))
        sums = [_Counts() for _ in range(steps)]
        rest = self._rests.get(credential_id)
        begin_s = now_s - steps * step_s
        if rest is not None:
            rest.counts(now_s)
            for counts in (*rest.history, rest.minute):
                at = min(int((counts.minute * MINUTE_S - begin_s) // step_s), steps - 1)  # The running minute is in it.
                if counts.minute * MINUTE_S <= begin_s < (counts.minute + 1) * MINUTE_S:
                    at = 0  # The minute in which the window begins.
                if 0 <= at < steps:
                    sums[at].add(counts)
        return tuple(
            SeriesPoint((steps - n) * step_s, one.requests, one.successes, one.failures, one.rate_limited, one.tokens)
            for n, one in enumerate(sums)
        )

    # --- calls

    def take(self, credential: Credential, now_s: float, tokens: int) -> None:
        """A call goes out. Takes the probe of a quarantined one."""
        rest = self._rests.get(credential.id)
        if credential.rpm is None and credential.tpm is None and (rest is None or not rest.quarantined):
            return
        if rest is None:
            rest = self._rests[credential.id] = _Rest()
        if credential.rpm is not None:
            if rest.calls is None:
                rest.calls = SlidingCount(MINUTE_S, 12)
            rest.calls.add(now_s)
        if credential.tpm is not None:
            if rest.tokens is None:
                rest.tokens = SlidingCount(MINUTE_S, 12)
            rest.tokens.add(now_s, tokens)
        if rest.quarantined:
            rest.probing = True
            rest.until_s = now_s + QUARANTINE_PROBE_S

    def used(self, credential_id: str, at_s: float, reserved: int, tokens: int) -> None:
        """A call that began at `at_s` took `tokens` instead of those that were reserved for it."""
        rest = self._rests.get(credential_id)
        if rest is not None and rest.tokens is not None:
            rest.tokens.correct(at_s, tokens - reserved)

    def proved(self, credential_id: str, tokens: int, now_s: float) -> None:
        """A call by it was answered. Calls from before its rest began prove nothing about it."""
        rest = self._rest(credential_id)
        rest.last_used_s = now_s
        counts = rest.counts(now_s)
        counts.requests += 1
        counts.successes += 1
        counts.tokens += tokens
        if rest.quarantined:
            if rest.probing:
                rest.quarantined = rest.probing = False
                rest.until_s, rest.cooled = now_s, 0
        elif now_s >= rest.until_s:
            rest.cooled = 0

    def failed(self, credential_id: str, failure: Failure, now_s: float) -> None:
        rest = self._rest(credential_id)
        rest.last_used_s = now_s
        counts = rest.counts(now_s)
        counts.requests += 1
        effect = failure.rule.effect
        if failure.kind is FailureKind.RATE_LIMITED:
            counts.rate_limited += 1
        elif effect is not Effect.NONE:
            counts.failures += 1
        if effect is Effect.COOL:
            self._cool(rest, failure.retry_after_s, now_s)
        elif effect is Effect.QUARANTINE:
            rest.quarantined, rest.probing, rest.paced = True, False, False
            rest.until_s = max(rest.until_s, now_s + QUARANTINE_PROBE_S)
        elif effect is Effect.NONE:
            self.return_probe(credential_id, now_s)

    def paced(self, credential_id: str, wait_s: float, now_s: float) -> None:
        """Its provider says that nothing is left of a limit for `wait_s`: the next call would be refused."""
        rest = self._rest(credential_id)
        until_s = now_s + min(wait_s, PACE_MAX_S)
        if until_s > rest.until_s and not rest.quarantined:
            rest.until_s, rest.paced = until_s, True

    def return_probe(self, credential_id: str, now_s: float) -> None:
        rest = self._rests.get(credential_id)
        if rest is not None and rest.probing:
            rest.probing = False
            rest.until_s = now_s

    # --- control

    def cleared(self, credential_id: str, now_s: float) -> None:
        """An operator says that it is good again: no rest and no quarantine."""
        rest = self._rests.get(credential_id)
        if rest is not None:
            rest.quarantined = rest.probing = rest.paced = False
            rest.until_s, rest.cooled = now_s, 0

    def retain(self, ids: frozenset[str]) -> None:
        self._rests = {key: rest for key, rest in self._rests.items() if key in ids}

    def _rest(self, credential_id: str) -> _Rest:
        rest = self._rests.get(credential_id)
        if rest is None:
            rest = self._rests[credential_id] = _Rest()
        return rest

    def _cool(self, rest: _Rest, retry_after_s: float | None, now_s: float) -> None:
        if retry_after_s is not None and retry_after_s > 0:  # NaN is neither.
            rest_s = min(max(retry_after_s, COOL_MIN_S), RETRY_AFTER_MAX_S)
        else:
            rest_s = min(COOL_MIN_S * 2.0 ** min(rest.cooled, 10), COOL_MAX_S)
        if now_s >= rest.until_s:
            rest.cooled += 1  # Once per rest: twenty calls refused at the same moment are one sign, not twenty.
        rest.paced = False
        rest.until_s = max(rest.until_s, now_s + rest_s)
