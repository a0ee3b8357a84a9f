"""A token bucket as one number, and the arithmetic around it. Pure but for that number.

A limit of N per minute is a bucket of N that refills at N per minute: over any span of t seconds at most
N × (1 + t/60) pass. The state is the time at which the bucket will be full again (a virtual schedule, as in GCRA), so
there is nothing to refill and a changed limit keeps the share that was used.
"""

WINDOW_S = 60.0
DEBT_WINDOWS_MAX = 10
"""What a single call used beyond its reservation is taken up to so many minutes' worth: a provider that reports absurd
usage does not lock its caller out for long."""

_TOLERANCE_S = 1e-6  # Rounding of sums of floats; keeps a promise "in 1.3 s" true at exactly 1.3 s.


class Bucket:
    """Units per minute. Times are monotonic seconds."""

    __slots__ = ("full_at_s",)

    def __init__(self) -> None:
        self.full_at_s = 0.0

    def wait_s(self, limit: int, units: int, now_s: float) -> float:
        """Seconds until `units` can be taken; 0.0: now. More than the whole bucket waits for a full bucket."""
        filled_s = max(self.full_at_s, now_s) + WINDOW_S * min(units, limit) / limit
        wait_s = filled_s - now_s - WINDOW_S
        return wait_s if wait_s > _TOLERANCE_S else 0.0

    def take(self, limit: int, units: int, now_s: float) -> int:
        """Take what wait_s() allowed; returns the units taken: at most the whole bucket."""
        taken = min(units, limit)
        self.full_at_s = max(self.full_at_s, now_s) + WINDOW_S * taken / limit
        return taken

    def correct(self, limit: int, taken: int, used: int) -> None:
        """`taken` turned out to be `used`: give back the rest, or go into debt for the excess."""
        excess = min(used - taken, DEBT_WINDOWS_MAX * limit)
        self.full_at_s += WINDOW_S * excess / limit

    def remaining(self, limit: int, now_s: float) -> int:
        """Whole units that could be taken now: as many as wait_s() lets pass at once, and not one more."""
        units = min(limit, int(limit * (1.0 + (_TOLERANCE_S - self.reset_s(now_s)) / WINDOW_S)))
        while units > 0 and self.wait_s(limit, units, now_s) > 0.0:  # Where rounding fell on the wrong side.
            units -= 1
        return max(0, units)

    def reset_s(self, now_s: float) -> float:
        """Seconds until the bucket is full."""
        return max(0.0, self.full_at_s - now_s)


def format_duration(seconds: float) -> str:
    """`0s`, `17ms`, `8.64s`, `6m0s`, `1h0m2.5s`: the durations of OpenAI's x-ratelimit-reset-* headers, rounded up to
    the millisecond (platform.openai.com, rate limits in headers)."""
    milliseconds = -int(-seconds * 1000 // 1)
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    whole, part = divmod(rest, 1000)
    text = f"{whole}.{part:03d}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text
