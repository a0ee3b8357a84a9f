"""Counting in a sliding window of time, and the retry budget made of two such counts."""

RETRY_WINDOW_S = 10.0
RETRY_SHARE = 0.2
"""Retries may be this share of the requests of the window …"""
RETRY_FLOOR = 3
"""… but so many are always allowed, so that a quiet endpoint is retried too."""


class SlidingCount:
    """Events of the last `window_s` seconds, in `buckets` steps. Counts up to one bucket too long, never too short:
    an event leaves only when the whole window has passed. Memory is fixed."""

    __slots__ = ("_bucket_s", "_counts", "_slot", "_total")

    def __init__(self, window_s: float, buckets: int) -> None:
        self._bucket_s = window_s / buckets
        self._counts = [0] * (buckets + 1)
        self._slot = 0
        self._total = 0

    def add(self, now_s: float, count: int = 1) -> None:
        self._advance(now_s)
        self._counts[self._slot % len(self._counts)] += count
        self._total += count

    def correct(self, at_s: float, delta: int) -> None:
        """Change what was added at `at_s`, as long as it still counts; never below nothing."""
        slot = int(at_s // self._bucket_s)
        size = len(self._counts)
        if self._slot - size < slot <= self._slot:
            delta = max(delta, -self._counts[slot % size])
            self._counts[slot % size] += delta
            self._total += delta

    def count(self, now_s: float) -> int:
        self._advance(now_s)
        return self._total

    def below_s(self, limit: int, now_s: float) -> float:
        """The time from which the count is below `limit` if nothing is added; `now_s` when it is already."""
        left = self.count(now_s)
        size = len(self._counts)
        for slot in range(self._slot - size + 1, self._slot + 1):
            if left < limit:
                return max(now_s, (slot + size - 1) * self._bucket_s)
            left -= self._counts[slot % size]
        return max(now_s, (self._slot + size) * self._bucket_s)

    def _advance(self, now_s: float) -> None:
        slot = int(now_s // self._bucket_s)
        if slot <= self._slot:
            return
        size = len(self._counts)
        if slot - self._slot >= size:
            self._counts = [0] * size
            self._total = 0
        else:
            for passed in range(self._slot + 1, slot + 1):
                self._total -= self._counts[passed % size]
                self._counts[passed % size] = 0
        self._slot = slot


class RetryBudget:
    """Caps the retries of one endpoint, so that an outage is not answered with three times the traffic."""

    __slots__ = ("_calls", "_retries")

    def __init__(self) -> None:
        self._calls = SlidingCount(RETRY_WINDOW_S, 10)
        self._retries = SlidingCount(RETRY_WINDOW_S, 10)

    def called(self, now_s: float) -> None:
        """A call goes out, be it a first try or a retry."""
        self._calls.add(now_s)

    def spend(self, now_s: float) -> bool:
        """Take one retry out of the budget; False when it is used up."""
        retries = self._retries.count(now_s)
        requests = self._calls.count(now_s) - retries
        if retries + 1 > max(RETRY_FLOOR, RETRY_SHARE * requests):
            return False
        self._retries.add(now_s)
        return True
