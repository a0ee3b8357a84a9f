"""Tenants, their plans, and who is calling."""

from collections.abc import Mapping
from enum import StrEnum
from fnmatch import fnmatchcase
from types import MappingProxyType

import msgspec

from routerx.domain.pricing import PriceCard
from routerx.secrets import Secret


class Billing(StrEnum):
    """prepaid: never below a floor of 0; postpaid: runs into debt; off: metered, never charged."""

    PREPAID = "prepaid"
    POSTPAID = "postpaid"
    OFF = "off"


class FreeSuffix(StrEnum):
    """Which models `:free` may be put on."""

    ANY = "any"
    ZERO_PRICED = "zero_priced"
    OFF = "off"


class OnUnpriced(StrEnum):
    """What to do with a model that has no price: refuse it, charge it by the plan's stand-in for a price, or serve it
    unbilled. What is served has the flag `unpriced`."""

    DENY = "deny"
    HOLD_ESTIMATE = "hold_estimate"
    ALLOW_FLAGGED = "allow_flagged"


class BillEmpty(StrEnum):
    """What an answer costs that is at its end and says nothing (MONEY.md row Y)."""

    NEVER = "never"
    INPUT = "input"
    """The prompt."""
    PROVIDER = "provider"
    """What the provider reports, as for any answer."""


class OnDisconnect(StrEnum):
    """What becomes of a stream whose caller has gone."""

    AUTO = "auto"
    """Drained where the provider bills to the end, else cancelled."""
    CANCEL = "cancel"
    DRAIN = "drain"
    """Read to its end, for its actual usage."""


class Period(StrEnum):
    """Calendar periods in UTC; weeks start on Monday. `total` never resets."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    TOTAL = "total"


class Limits(msgspec.Struct, frozen=True):
    """Ceilings of one tenant; None is no limit."""

    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None
    daily_requests: int | None = None


class SpendLimit(msgspec.Struct, frozen=True):
    """At most `amount_nano` charged in each period."""

    amount_nano: int
    period: Period


class Plan(msgspec.Struct, frozen=True):
    """Commercial terms shared by tenants."""

    name: str
    billing: Billing = Billing.PREPAID
    markup_bp: int = 0
    byok_fee_bp: int = 0
    """Of the list price, for requests made with the caller's own key."""
    limits: Limits = Limits()
    spend_limit: SpendLimit | None = None
    free_suffix: FreeSuffix = FreeSuffix.ZERO_PRICED
    on_unpriced: OnUnpriced = OnUnpriced.DENY
    unpriced_price: PriceCard | None = None
    """The stand-in, where `on_unpriced` is `hold_estimate`."""
    hold_output_tokens: int = 4_096
    """Output tokens held for a request that sets no maximum of its own."""
    on_disconnect: OnDisconnect = OnDisconnect.AUTO
    bill_empty: BillEmpty = BillEmpty.NEVER


class Tenant(msgspec.Struct, frozen=True):
    """A customer as the YAML declares it. Balance, suspension and issued keys are ledger facts."""

    name: str
    plan: Plan
    policy: str = "default"
    allow: tuple[str, ...] = ()
    """Model name patterns (`gpt-*`); empty allows all."""
    key_allow: tuple[str, ...] = ()
    """Of the key that calls, where it is restricted: what is used has to match both."""
    opening_balance_nano: int = 0
    """Granted once, when the ledger first sees the tenant."""
    byok_fallback: bool = False
    """Where its own stored keys fail, the house's may be used, and paid for."""


def may_use(tenant: Tenant, *names: str) -> bool:
    """Whether the patterns of tenant and key admit something that goes by any of these names."""
    if not tenant.allow and not tenant.key_allow:
        return True
    return all(
        not patterns or any(fnmatchcase(name, pattern) for pattern in patterns for name in names)
        for patterns in (tenant.allow, tenant.key_allow)
    )


class StoredKeys(msgspec.Struct, frozen=True):
    """Providers that a tenant has keys of its own for."""

    usable: frozenset[str] = frozenset()
    lost: frozenset[str] = frozenset()
    """Keys that are stored and cannot be read any more."""


NO_STORED_KEYS = StoredKeys()
NO_KEYS: Mapping[str, Secret | None] = MappingProxyType({})


class KeyTerms(msgspec.Struct, frozen=True):
    """What holds for one key beside what holds for its tenant; () and None restrict nothing."""

    allow: tuple[str, ...] = ()
    """Model name patterns; what is used has to match these and the tenant's."""
    limits: Limits = Limits()
    spend_limit: SpendLimit | None = None
    expires_ns: int | None = None
    """Wall clock, nanoseconds since the epoch; from then on the key is none."""


class Principal(msgspec.Struct, frozen=True):
    """Who calls: the tenant and the public name of the key used."""

    tenant: Tenant
    key_id: str
    terms: KeyTerms | None = None
    """Of the key; None: only what holds for the tenant."""
    own_keys: Mapping[str, Secret | None] = NO_KEYS
    """The tenant's own provider keys by provider; None for one that is stored and cannot be read any more."""

    @property
    def stored(self) -> StoredKeys:
        """For which providers there are such keys."""
        if not self.own_keys:
            return NO_STORED_KEYS
        usable = frozenset(name for name, key in self.own_keys.items() if key is not None)
        return StoredKeys(usable, frozenset(self.own_keys) - usable)
