"""What the gateway and the control plane ask of a ledger. SQLite answers today; the contract suite names the rules."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import msgspec

from routerx.domain.model import DatedPrice
from routerx.domain.record import RequestRecord
from routerx.domain.tenant import KeyTerms, Period, Principal, SpendLimit, Tenant
from routerx.secrets import Secret


class Hold:
    """Money set aside for one request. Resolved exactly once: by settle, or by release (nothing owed)."""

    __slots__ = ("amount_nano", "caller", "floor_nano", "open", "tenant")

    def __init__(self, tenant: str, amount_nano: int, floor_nano: int = 0, caller: Principal | None = None) -> None:
        self.tenant = tenant
        self.caller = caller
        """Whose key it counts against as well."""
        self.amount_nano = amount_nano
        self.floor_nano = floor_nano
        """The floor it was granted against: what costs more than the hold is charged down to here, no further."""
        self.open = True


class Receipt(msgspec.Struct, frozen=True):
    """What a settle did. `durable` resolves when it is on disk (or fails with StorageUnavailable): the terminal bytes
    of the response wait for it. None where there is nothing to wait for."""

    charged_nano: int
    written_off_nano: int
    balance_nano: int
    durable: asyncio.Future[None] | None


class TransferRow(msgspec.Struct, frozen=True):
    """One movement of money, as tables and the API show it; amounts in nano-USD, positive towards the tenant."""

    id: int
    ts_ns: int
    kind: str
    """opening | topup | charge | byok_fee | writeoff | adjustment | refund"""
    tenant: str
    amount_nano: int
    balance_nano: int
    """The tenant's balance after the operation that made this row."""
    request_id: str | None
    """The request that it charges, refunds or re-rates; None where that row was pruned."""
    reference: str | None
    actor: str | None
    note: str | None
    repeated: bool = False
    """Its reference was known: nothing was moved now, and this is the transfer of then."""


class Spent(msgspec.Struct, frozen=True):
    """What a tenant, or one of its keys, has done, and what its running requests hold; amounts in nano-USD, periods in
    UTC."""

    requests_today: int
    spent_today_nano: int
    spent_week_nano: int
    spent_month_nano: int
    spent_total_nano: int
    held_nano: int

    def spent_nano(self, period: Period) -> int:
        match period:
            case Period.DAY:
                return self.spent_today_nano
            case Period.WEEK:
                return self.spent_week_nano
            case Period.MONTH:
                return self.spent_month_nano
            case Period.TOTAL:
                return self.spent_total_nano

    def left_nano(self, limit: SpendLimit) -> int:
        """What the limit leaves for further requests in its period."""
        return max(0, limit.amount_nano - self.spent_nano(limit.period) - self.held_nano)


class TenantFunds(Spent, frozen=True):
    """One tenant's money and runtime state now."""

    tenant: str
    balance_nano: int
    floor_nano: int
    suspended: bool
    suspend_reason: str | None


class KeyRow(msgspec.Struct, frozen=True):
    """A key that the ledger issued or revoked; the key itself is not stored."""

    id: str
    tenant: str
    label: str | None
    created_ns: int
    revoked_ns: int | None
    source: str
    """`issued`, or `yaml` for the tombstone of a key declared in YAML."""
    terms: KeyTerms | None = None


class KeyUse(Spent, frozen=True):
    """What one key has done."""


class OwnKeyRow(msgspec.Struct, frozen=True):
    """A stored provider key that is a tenant's own, without the key."""

    tenant: str
    provider: str
    fingerprint: str
    created_ns: int
    readable: bool
    """Whether a vault key opens it."""


class AuditRow(msgspec.Struct, frozen=True):
    """Who did what to whom, as the audit trail has it."""

    id: int
    ts_ns: int
    actor: str
    action: str
    """Like `tenant.suspend`, `key.issue`, `money.topup`."""
    subject: str
    """A tenant, or the id of a key."""
    detail: str


class LogQuery(msgspec.Struct, frozen=True):
    """Filter of the request log. Newest last; at most `limit` rows after `after_id` (exclusive) or the newest ones."""

    tenant: str | None = None
    model: str | None = None
    outcome: str | None = None
    after_id: str | None = None
    limit: int = 50


class UsageQuery(msgspec.Struct, frozen=True):
    """What has settled since `since_ns`, in steps of `step_ns`; of one tenant, or of all."""

    since_ns: int
    step_ns: int
    tenant: str | None = None


class UsageRow(msgspec.Struct, frozen=True):
    """Sums of one provider in one step."""

    provider: str
    step: int
    """0 is the one that begins at `since_ns`."""
    requests: int
    succeeded: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    """Of the input: read from the provider's cache."""
    cost_nano: int
    provider_cost_nano: int
    """Of the house, at list price."""


class VerifyReport(msgspec.Struct, frozen=True):
    """Result of `ledger verify`: empty `violations` proves the books."""

    violations: tuple[str, ...]
    checked_transfers: int
    checked_requests: int
    tenants: int
    duration_ms: int


class Rerating(msgspec.Struct, frozen=True):
    """Which requests to re-rate, and by which prices."""

    prices: Mapping[str, Sequence[DatedPrice]]
    """Endpoint key → the cards it should have been charged by, sorted by date: each request by the one that was in
    force when it started."""
    since_ns: int
    until_ns: int
    """Exclusive; both are times of settling."""
    actor: str
    dry_run: bool


class RerateReport(msgspec.Struct, frozen=True):
    """What a re-rating did, or would do (`dry_run`); sums in nano-USD."""

    requests: int
    """Looked at: paid, and answered by one of the endpoints."""
    corrected: int
    given_back_nano: int
    taken_nano: int
    short_nano: int
    """Owed on top, but not taken: it is below the tenants' floors, or held by running requests."""
    dry_run: bool


class BackupReport(msgspec.Struct, frozen=True):
    """A copy of the ledger, and what its check said."""

    path: str
    size_bytes: int
    verified: VerifyReport


class PruneReport(msgspec.Struct, frozen=True):
    """Request rows that went, or would go (`dry_run`)."""

    requests: int
    kept: int
    """Request rows that are left."""
    dry_run: bool


class LedgerHealth(msgspec.Struct, frozen=True):
    """For /health and the start-up line."""

    ok: bool
    """Money operations work, but for `suspects`."""
    reason: str | None
    """Why not all is well, without names and amounts; None when it is."""
    synchronous: str
    flush_us: int
    """Measured flush time of the storage, median of a few commits at start."""
    survives_power_loss: bool
    queue: int
    held_nano: int
    suspects: int = 0
    """Accounts whose money operations are off because their verification failed."""
    details: tuple[str, ...] = ()
    """What verification found, with names and amounts: for operators only."""


class Bookkeeper(Protocol):
    """What operators do to books that are written already. Nothing of it changes a row: what was wrong is put right by
    further transfers. Every method raises StorageBusy and StorageUnavailable."""

    async def refund(
        self,
        charge: tuple[str, str],
        amount_nano: int | None,
        *,
        actor: str,
        reference: str | None,
        note: str | None,
    ) -> TransferRow:
        """Give back the charge of a request, `charge` being (tenant, request id): this much of it, or (None) what is
        left. The same reference again returns the first refund, and all that is left is given back once.
        Raises NotFound, and Conflict where that is more than is left."""
        ...

    async def rerate(self, rerating: Rerating) -> RerateReport:
        """Correct what paid requests cost to what they cost by other prices; a second time changes nothing."""
        ...

    async def back_up(self, path: str) -> BackupReport:
        """A copy of the ledger at this moment, checked. Raises Conflict where no new file can be made there."""
        ...

    async def prune(self, before_ns: int, *, actor: str, dry_run: bool) -> PruneReport:
        """Delete the rows of requests that settled before, once the books up to there are proven; what they came to is
        kept. Raises Conflict where the proof fails."""
        ...


class KeySafe(Protocol):
    """Stored provider keys that are tenants' own. What is changed counts for requests once it is written."""

    def rows(self, tenant: str) -> tuple[OwnKeyRow, ...]:
        """The tenant's, by provider. Raises NotFound."""
        ...

    def secrets(self) -> Iterator[Secret]:
        """All that are readable, of all tenants: what must appear in no log."""
        ...

    async def put(self, tenant: str, provider: str, secret: Secret, *, actor: str, reason: str | None) -> OwnKeyRow:
        """Store a key, in the place of the one that was there. Raises NotFound, ConfigError (no vault key can be read
        or kept), StorageBusy and StorageUnavailable."""
        ...

    async def remove(self, tenant: str, provider: str, *, actor: str, reason: str | None) -> OwnKeyRow:
        """Forget a key. Raises NotFound, StorageBusy and StorageUnavailable."""
        ...


class Ledger(Protocol):
    """One owner of the books. The first group is synchronous and in memory: it is the hot path."""

    # --- hot path
    def suspended(self, tenant: str) -> bool: ...

    def issued_key(self, digest: str) -> KeyRow | None:
        """A key issued by the ledger; None when unknown or revoked. Whether it has expired is the caller's to ask."""
        ...

    def revoked(self, digest: str) -> bool:
        """A key (also one declared in YAML) was revoked here."""
        ...

    def own_keys(self, tenant: str) -> Mapping[str, Secret | None]:
        """Provider keys that are the tenant's own, by provider; None for one that is stored and cannot be read any
        more. One shared empty mapping where there are none."""
        ...

    def hold(self, tenant: Tenant, amount_nano: int, caller: Principal | None = None) -> Hold:
        """Set money aside, or raise InsufficientBalance, SpendLimitReached, StorageBusy or StorageUnavailable.
        Atomic because it never awaits. `billing: off` and amount 0 get a hold of 0 (storage must still be well).
        With a `caller` it counts against the spend limit of that key, too."""
        ...

    def extend(self, tenant: Tenant, hold: Hold, amount_nano: int) -> None:
        """Set more money aside for the same request, or raise as hold() does and leave the hold as it is."""
        ...

    def room_nano(self, tenant: str) -> int:
        """What the tenant could still hold: its balance above the floor, less all holds."""
        ...

    def settle(self, record: RequestRecord, hold: Hold | None) -> Receipt:
        """Resolve the hold, charge the tenant, write the rows: once per request id, whoever calls how often."""
        ...

    def release(self, hold: Hold) -> None:
        """Give a hold back without a row: nothing was sent, nothing is owed. Harmless on a resolved hold."""
        ...

    def held_nano(self) -> int:
        """Sum of all open holds; 0 with nothing in flight (MONEY.md I3)."""
        ...

    # --- control plane
    def account_names(self) -> tuple[str, ...]:
        """Every tenant that has an account, also one that has left the configuration."""
        ...

    async def sync_tenants(self, tenants: Iterable[Tenant]) -> None:
        """Open accounts for new tenants, grant opening balances once, apply floors of changed plans."""
        ...

    async def top_up(
        self, tenant: str, amount_nano: int, *, actor: str, reference: str | None, note: str | None
    ) -> TransferRow:
        """Credit a tenant; the same reference again returns the first transfer, unchanged (MONEY.md V)."""
        ...

    async def adjust(self, tenant: str, amount_nano: int, *, actor: str, note: str | None) -> TransferRow:
        """A signed correction. Raises CallerError where it would pass the floor."""
        ...

    async def suspend(self, tenant: str, *, actor: str, reason: str | None) -> None: ...
    async def unsuspend(self, tenant: str, *, actor: str) -> None: ...
    async def remark(self, tenant: str, action: str, detail: str, *, actor: str) -> None:
        """Put into the audit trail what was done to a tenant elsewhere, like in its file. Raises NotFound."""
        ...

    async def issue_key(
        self, tenant: str, *, actor: str, label: str | None, terms: KeyTerms | None = None
    ) -> tuple[str, KeyRow]:
        """(the key, shown once; its row)."""
        ...

    async def limit_key(self, key_id: str, terms: KeyTerms | None, *, actor: str) -> KeyRow:
        """Give an issued key other terms, effective once written. Raises NotFound, and Conflict for one that is revoked
        or declared in YAML."""
        ...

    async def revoke_key(self, key_id: str, yaml_keys: Sequence[tuple[str, Principal]], *, actor: str) -> KeyRow:
        """Revoke an issued key, or put a tombstone on one declared in YAML (`yaml_keys`: (digest, principal))."""
        ...

    async def keys(self, tenant: str | None) -> tuple[KeyRow, ...]: ...
    def key_use(self, tenant: str, key_id: str) -> KeyUse:
        """Of any key, also one declared in YAML; zeros where it did nothing yet."""
        ...

    async def history(self, tenant: str, limit: int) -> tuple[AuditRow, ...]:
        """The latest `limit` audit rows of a tenant and of its keys, oldest first. Raises NotFound."""
        ...

    def funds(self, tenant: str) -> TenantFunds:
        """Raises NotFound."""
        ...

    async def transfers(self, tenant: str, limit: int) -> tuple[TransferRow, ...]: ...
    async def usage(self, query: UsageQuery) -> tuple[UsageRow, ...]:
        """What the books have by provider, oldest step first. Raises StorageBusy."""
        ...

    async def log(self, query: LogQuery) -> tuple[RequestRecord, ...]: ...
    async def request(self, request_id: str) -> RequestRecord | None: ...
    def follow(self) -> asyncio.Queue[RequestRecord]:
        """A bounded queue of requests as they settle (newest dropped when full); pass it to unfollow()."""
        ...

    def unfollow(self, queue: asyncio.Queue[RequestRecord]) -> None: ...
    async def verify(self) -> VerifyReport: ...
    @property
    def bookkeeper(self) -> Bookkeeper: ...
    @property
    def key_safe(self) -> KeySafe: ...
    def health(self) -> LedgerHealth: ...
    async def close(self) -> None:
        """Drain the queue, checkpoint, release the lock."""
        ...
