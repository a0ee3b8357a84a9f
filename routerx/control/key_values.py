"""Orders for keys of tenants, as the admin API takes them, and one key in full."""

import msgspec

from routerx.control.values import AtLeastOne, KeyView, LimitsChange


class NewKeyOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key to be issued. `expires` is a time from now (`30d`) or a date; `spend_limit` is like `$5/day`."""

    tenant: str
    label: str | None = None
    expires: str | None = None
    allow: tuple[str, ...] = ()
    rpm: AtLeastOne | None = None
    tpm: AtLeastOne | None = None
    concurrency: AtLeastOne | None = None
    daily_requests: AtLeastOne | None = None
    spend_limit: str | None = None


class KeyTermsChange(LimitsChange, frozen=True):
    """Terms of a key: its limits, its models (an empty `allow` restricts nothing) and its end."""

    expires: str | msgspec.UnsetType | None = msgspec.UNSET
    allow: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET


class KeyDetail(msgspec.Struct, frozen=True):
    """One key, and what it has done; periods in UTC. `left_*` is what its spend limit leaves, None without one."""

    view: KeyView
    requests_today: int
    spent_today_usd: str
    spent_today_nano: int
    spent_month_usd: str
    spent_month_nano: int
    spent_total_usd: str
    spent_total_nano: int
    held_usd: str
    held_nano: int
    left_usd: str | None
    left_nano: int | None
