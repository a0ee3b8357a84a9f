"""One tenant's money in memory: balance, open holds and spend by period. Pure arithmetic: no clock, no file, no await.

The balance here is never above what the file will hold once everything queued is written: debits count at once, credits
when they are durable. So what is admitted here always fits there.
"""

from datetime import date

from routerx.domain.tenant import Billing, Period, Plan, SpendLimit
from routerx.errors import InsufficientBalance, SpendLimitReached
from routerx.money import format_usd

PREPAID_FLOOR_NANO = 0
POSTPAID_FLOOR_NANO = -(2**53)
DAY_NS = 86_400 * 10**9
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
_DAYS_KEPT = 62
"""Days of spend that stay in memory: any month and any week lie inside, also after a clock was set back a month."""


def floor_of(plan: Plan) -> int:
    """The balance a plan may not pass."""
    return POSTPAID_FLOOR_NANO if plan.billing is Billing.POSTPAID else PREPAID_FLOOR_NANO


def day_of(now_ns: int) -> int:
    """Days since the epoch, UTC."""
    return now_ns // DAY_NS


def first_day(period: Period, day: int) -> int:
    """First day of the calendar period that `day` lies in; weeks start on Monday."""
    match period:
        case Period.DAY:
            return day
        case Period.WEEK:
            return day - (day + 3) % 7  # Day 0 was a Thursday.
        case Period.MONTH:
            return date.fromordinal(day + _EPOCH_ORDINAL).replace(day=1).toordinal() - _EPOCH_ORDINAL
        case Period.TOTAL:
            return 0


def next_start(period: Period, day: int) -> str | None:
    """When the next period begins, as 2026-02-01T00:00:00Z; None of a total, which never does."""
    match period:
        case Period.TOTAL:
            return None
        case Period.DAY:
            first = day + 1
        case Period.WEEK:
            first = first_day(period, day) + 7
        case Period.MONTH:
            first = first_day(period, first_day(period, day) + 31)
    return f"{date.fromordinal(first + _EPOCH_ORDINAL).isoformat()}T00:00:00Z"


class Spending:
    """What was charged and how many requests there were, by UTC day."""

    __slots__ = ("_charged", "_day", "_month", "_requests", "_today", "_today_nano", "_week", "total_nano")

    def __init__(self) -> None:
        self.total_nano = 0
        self._charged: dict[int, int] = {}
        self._requests: dict[int, int] = {}
        self._day = -1  # The day that the sums below are for; what came on it is in them alone.
        self._today = 0
        self._today_nano = 0
        self._week = 0
        self._month = 0

    def load(self, day: int, requests: int, charged_nano: int) -> None:
        """Add a day's figures as the file has them, without the total."""
        self._put_away()
        self._charged[day] = charged_nano
        self._requests[day] = requests

    def add(self, day: int, requests: int, charged_nano: int) -> None:
        """Count a settled request; negative numbers take one back."""
        if day != self._day:
            self._turn(day)
        self._today += requests
        if charged_nano:
            self._today_nano += charged_nano
            self._week += charged_nano
            self._month += charged_nano
            self.total_nano += charged_nano

    def spent(self, period: Period, day: int) -> int:
        """nano-USD charged in the period that `day` lies in."""
        if day != self._day:
            self._turn(day)
        match period:
            case Period.DAY:
                return self._today_nano
            case Period.WEEK:
                return self._week
            case Period.MONTH:
                return self._month
            case Period.TOTAL:
                return self.total_nano

    def requests(self, day: int) -> int:
        return self._today if day == self._day else self._requests.get(day, 0)

    def _put_away(self) -> None:
        """No day is the current one any more."""
        if self._day >= 0:
            self._requests[self._day] = self._today
            self._charged[self._day] = self._today_nano
            self._day = -1

    def _turn(self, day: int) -> None:
        """Another day than last time, in either direction: sum up again."""
        self._put_away()
        self._day = day
        self._today, self._today_nano = self._requests.get(day, 0), self._charged.get(day, 0)
        if len(self._requests) > 2 * _DAYS_KEPT:
            self._charged = {key: value for key, value in self._charged.items() if abs(key - day) <= _DAYS_KEPT}
            self._requests = {key: value for key, value in self._requests.items() if abs(key - day) <= _DAYS_KEPT}
        week, month = first_day(Period.WEEK, day), first_day(Period.MONTH, day)
        next_month = first_day(Period.MONTH, month + 31)
        self._week = sum(value for key, value in self._charged.items() if week <= key < week + 7)
        self._month = sum(value for key, value in self._charged.items() if month <= key < next_month)


def _require_within(limit: SpendLimit, of: str, spent_nano: int, amount_nano: int, day: int) -> None:
    """Raises SpendLimitReached; `spent_nano` is spent or held in the limit's period, `of` says whose it is."""
    if spent_nano + amount_nano <= limit.amount_nano:
        return
    per = "in total" if limit.period is Period.TOTAL else f"per {limit.period.value}"
    whose = "this key's" if of == "key" else "the"
    raise SpendLimitReached(
        f"{whose.capitalize()} spend limit of ${format_usd(limit.amount_nano)} {per} would be passed: "
        f"${format_usd(spent_nano)} is spent or held and this request may cost up to ${format_usd(amount_nano)}.",
        details={
            "limit": format_usd(limit.amount_nano),
            "limit_of": of,
            "period": limit.period.value,
            "spent": format_usd(spent_nano),
            "needed": format_usd(amount_nano),
            "resets": next_start(limit.period, day),
        },
    )


class KeyFunds:
    """What one key of a tenant has spent, and what its running requests hold."""

    __slots__ = ("held_nano", "spending")

    def __init__(self) -> None:
        self.held_nano = 0
        self.spending = Spending()

    def require_within(self, amount_nano: int, limit: SpendLimit, day: int) -> None:
        """Raises SpendLimitReached where the key may not spend so much more."""
        _require_within(limit, "key", self.spending.spent(limit.period, day) + self.held_nano, amount_nano, day)


class Funds:
    """Balance and holds of one tenant."""

    __slots__ = ("balance_nano", "file_floor_nano", "floor_nano", "held_nano", "keys", "spending", "tenant")

    def __init__(self, tenant: str, balance_nano: int, floor_nano: int) -> None:
        self.tenant = tenant
        self.balance_nano = balance_nano
        self.held_nano = 0
        self.floor_nano = floor_nano
        """Of the tenant's plan: what new holds go by."""
        self.file_floor_nano = floor_nano
        """In the file: what no charge can pass. Below the plan's while a debt from another plan is paid back."""
        self.spending = Spending()
        self.keys: dict[str, KeyFunds] = {}
        """By key id, of those that were ever used; a spend limit holds whenever it is set."""

    def key(self, key_id: str) -> KeyFunds:
        funds = self.keys.get(key_id)
        if funds is None:
            funds = self.keys[key_id] = KeyFunds()
        return funds

    def admit(self, amount_nano: int, floor_nano: int, limit: SpendLimit | None, day: int) -> None:
        """Set `amount_nano` aside. Raises InsufficientBalance or SpendLimitReached and then changes nothing."""
        assert amount_nano > 0
        free = self.balance_nano - self.held_nano - floor_nano
        if amount_nano > free:
            needed, available = format_usd(amount_nano), format_usd(max(free, 0))
            raise InsufficientBalance(
                f"This request may cost up to ${needed}, but only ${available} is available "
                "(balance less what running requests hold). Top up, or ask for fewer output tokens.",
                details={"needed": needed, "available": available},
            )
        if limit is not None:
            _require_within(limit, "tenant", self.spending.spent(limit.period, day) + self.held_nano, amount_nano, day)
        self.held_nano += amount_nano

    def release(self, amount_nano: int) -> None:
        """A hold is resolved."""
        assert 0 <= amount_nano <= self.held_nano
        self.held_nano -= amount_nano

    def charge(self, cost_nano: int, hold_nano: int, floor_nano: int) -> tuple[int, int]:
        """Take what a finished request owes, its hold already released: (charged, written off).

        At least the hold, at most what is free above the floor besides other holds, and never past the file's floor;
        the rest is the house's loss (MONEY.md section 3).
        """
        assert cost_nano > 0
        room = max(hold_nano, self.balance_nano - self.held_nano - floor_nano)
        charged = max(0, min(cost_nano, room, self.balance_nano - self.file_floor_nano))
        self.balance_nano -= charged
        return charged, cost_nano - charged

    def room_nano(self) -> int:
        """What may be taken out by hand: the balance above the plan's floor that no request holds."""
        return self.balance_nano - self.held_nano - self.floor_nano
