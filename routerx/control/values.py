"""What the control plane answers: frozen values, the same over the admin API, in `--json` and behind the tables.

Money appears twice, as an exact decimal string (`…_usd`) and as an integer (`…_nano`, nano-USD); prices as USD and
integer pico-USD. Instants are ISO 8601 text in UTC. Nothing here holds a secret, except NewKey, which is shown once.
"""

from typing import Annotated

import msgspec

from routerx.domain.tenant import Limits

AtLeastOne = Annotated[int, msgspec.Meta(ge=1, le=10**12)]


class Funds(msgspec.Struct, frozen=True):
    """A tenant's money now. `available_*` is what a new request may hold; None where the plan charges nothing. `left_*`
    is what its spend limit leaves in this period; None where it has none."""

    balance_usd: str
    balance_nano: int
    held_usd: str
    held_nano: int
    available_usd: str | None
    available_nano: int | None
    spent_today_usd: str
    spent_today_nano: int
    spent_month_usd: str
    spent_month_nano: int
    spent_total_usd: str
    spent_total_nano: int
    left_usd: str | None
    left_nano: int | None
    requests_today: int


class TenantSummary(msgspec.Struct, frozen=True):
    """One row of the list of tenants."""

    name: str
    plan: str
    billing: str
    policy: str
    suspended: bool
    suspend_reason: str | None
    funds: Funds


class SpendLimitView(msgspec.Struct, frozen=True):
    """At most this much is charged in each period (UTC)."""

    amount_usd: str
    amount_nano: int
    period: str


class PlanView(msgspec.Struct, frozen=True):
    """The commercial terms a tenant is on. `markup_bp` is in basis points: 1000 is 10%."""

    name: str
    billing: str
    markup_bp: int
    limits: Limits
    spend_limit: SpendLimitView | None
    free_suffix: str
    on_unpriced: str


class KeyView(msgspec.Struct, frozen=True):
    """A tenant's key; the key itself is not stored anywhere."""

    id: str
    tenant: str
    source: str
    """`issued` (by the ledger) or `yaml` (declared in the configuration)."""
    active: bool
    """Neither revoked nor expired."""
    label: str | None
    created: str | None
    """None for a key declared in YAML."""
    revoked: str | None
    expires: str | None = None
    allow: tuple[str, ...] = ()
    """Models it may use of those its tenant may; none named allows all."""
    limits: Limits = Limits()
    """Its own, beside its tenant's."""
    spend_limit: SpendLimitView | None = None


class NewKey(msgspec.Struct, frozen=True):
    """A key at the only moment it can be seen."""

    key: str
    view: KeyView

    def __repr__(self) -> str:
        return f"NewKey(key='***', view={self.view!r})"


class TransferView(msgspec.Struct, frozen=True):
    """One movement of money, positive towards the tenant."""

    id: int
    at: str
    kind: str
    tenant: str
    amount_usd: str
    amount_nano: int
    balance_usd: str
    balance_nano: int
    request_id: str | None
    reference: str | None
    actor: str | None
    note: str | None
    repeated: bool = False
    """The reference was known: nothing was moved now, and this is the transfer of then."""


class AuditView(msgspec.Struct, frozen=True):
    """Who did what to a tenant or to one of its keys (`subject`), as the audit trail has it."""

    id: int
    at: str
    actor: str
    action: str
    subject: str
    detail: str


class LimitsChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to hold from now on; what is left out stays, None takes it away."""

    rpm: AtLeastOne | msgspec.UnsetType | None = msgspec.UNSET
    tpm: AtLeastOne | msgspec.UnsetType | None = msgspec.UNSET
    concurrency: AtLeastOne | msgspec.UnsetType | None = msgspec.UNSET
    daily_requests: AtLeastOne | msgspec.UnsetType | None = msgspec.UNSET
    spend_limit: str | msgspec.UnsetType | None = msgspec.UNSET


class TenantLimitsChange(LimitsChange, frozen=True):
    """Limits of a tenant in place of its plan's: where one is taken away, the plan's holds again."""


class TenantDetail(msgspec.Struct, frozen=True):
    """Everything about one tenant; transfers newest first."""

    name: str
    policy: str
    allow: tuple[str, ...]
    suspended: bool
    suspend_reason: str | None
    plan: PlanView
    funds: Funds
    keys: tuple[KeyView, ...]
    transfers: tuple[TransferView, ...]


class NewTenant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `tenants create` asks for. `topup` is an amount like `25` or `$0.50`; `label` names the first key."""

    name: str
    plan: str | None = None
    policy: str | None = None
    allow: tuple[str, ...] = ()
    topup: str | None = None
    label: str | None = None


class CreatedTenant(msgspec.Struct, frozen=True):
    """A new tenant, live, with its first key."""

    tenant: TenantDetail
    key: NewKey
    file: str
    """Name of the file that now declares it."""


class Rate(msgspec.Struct, frozen=True):
    """One price: `usd` per `per`, and exactly the same as integer pico-USD per single token, request or
    search."""

    usd: str
    per: str
    """`1M tokens`, `request` or `search`; of models billed otherwise `1M characters`, `1M seconds` or `image`."""
    pico: int


class EndpointView(msgspec.Struct, frozen=True):
    """One provider's offer of a model. `price` maps a unit (`input`, `output`, `cache_read` …) to its rate; None where
    no price is known."""

    key: str
    provider: str
    upstream_model: str
    price: dict[str, Rate] | None
    long_above_tokens: int | None
    """With more input tokens than these the `long_…` rates count."""
    capabilities: tuple[str, ...]
    context_tokens: int | None
    output_tokens_max: int | None
    priority: int
    weight: int
    price_source: str | None = None
    """The page that states the price, or `configuration`."""
    price_as_of: str | None = None
    """ISO date on which it was read there."""
    tiers: dict[str, dict[str, Rate]] = {}
    """Service tiers that have rates of their own, whole."""
    next_price: "NextPrice | None" = None


class NextPrice(msgspec.Struct, frozen=True):
    """What takes the place of an endpoint's price."""

    at: str
    """From then on, ISO 8601, UTC."""
    price: dict[str, Rate]
    long_above_tokens: int | None
    tiers: dict[str, dict[str, Rate]]


class ModelView(msgspec.Struct, frozen=True):
    """A name that callers may ask for; `alias_of` is set where it stands for another one."""

    name: str
    kind: str
    owner: str
    alias_of: str | None
    released: str | None
    """ISO date."""
    endpoints: tuple[EndpointView, ...]
    """Who serves it."""
    aliases: tuple[str, ...] = ()
    """Its further names."""
    elsewhere: tuple[EndpointView, ...] = ()
    """Offers that the catalogue knows of vendors which are not configured; nothing is sent there."""


class ModelQuery(msgspec.Struct, frozen=True):
    """Filter of the list of models; `search` is found anywhere in the name, the owner or an upstream name."""

    provider: str | None = None
    kind: str | None = None
    search: str | None = None
    capability: str | None = None
    """What at least one of its endpoints can."""
    everywhere: bool = False
    """The catalogue's models that no configured provider serves as well."""


class AttemptView(msgspec.Struct, frozen=True):
    """One attempt at one endpoint."""

    n: int
    endpoint: str
    provider: str
    credential_id: str
    outcome: str
    upstream_status: int | None
    dispatched: bool
    started_ms: int
    first_byte_ms: int | None
    duration_ms: int
    won: bool
    cost_est_usd: str
    cost_est_nano: int


class LogEntry(msgspec.Struct, frozen=True):
    """One finished request. Token counts are None where no usage is known, 0 where it is known to be none."""

    id: str
    at: str
    """When it began."""
    tenant: str
    key_id: str
    operation: str
    model: str
    served_model: str | None
    provider: str | None
    endpoint: str | None
    stream: bool
    outcome: str
    http_status: int
    billing: str
    input_tokens: int | None
    output_tokens: int | None
    usage_source: str
    cost_usd: str
    cost_nano: int
    ttft_ms: int | None
    duration_ms: int
    attempts: int
    user: str | None
    app: str | None
    flags: tuple[str, ...]


class LogDetail(msgspec.Struct, frozen=True):
    """The full account of one request: enough, with `usage` and `price`, to recompute its cost."""

    entry: LogEntry
    held_usd: str
    held_nano: int
    provider_cost_usd: str
    provider_cost_nano: int
    overhead_us: int
    usage: dict[str, int] | None
    """Every token bucket by name, and `requests`."""
    price: dict[str, Rate] | None
    long_above_tokens: int | None
    markup_bp: int | None
    attempts: tuple[AttemptView, ...]
    tier: str | None = None
    """The service tier that served, where it was another than the plain one."""


class LogLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the log stream: exactly one field is set."""

    entry: LogEntry | None = None
    heartbeat: str | None = None
    """The server's time; says that the stream lives though nothing happens."""
    end: str | None = None
    """Why no more will come: `shutting_down`."""


class VerifyView(msgspec.Struct, frozen=True):
    """Result of `ledger verify`; `ok` is the same as having no violations."""

    ok: bool
    violations: tuple[str, ...]
    checked_transfers: int
    checked_requests: int
    tenants: int
    duration_ms: int


class LedgerView(msgspec.Struct, frozen=True):
    """The state of the ledger."""

    ok: bool
    reason: str | None
    synchronous: str
    flush_us: int
    survives_power_loss: bool
    queue: int
    held_usd: str
    held_nano: int
    suspects: int = 0
    """Accounts whose money operations are off because their verification failed."""
    details: tuple[str, ...] = ()
    """What verification found, with names and amounts; the log has all of it."""


class Status(msgspec.Struct, frozen=True):
    """What this RouterX runs on."""

    version: str
    generation: int
    """Of the configuration; grows by one with every applied reload."""
    files: tuple[str, ...]
    notices: tuple[str, ...]
    problems: tuple[str, ...]
    """Why the files as they are now are not applied; empty when they are."""
    restart_needed: tuple[str, ...]
    """Settings on disk that differ from those the process was started with and that only a restart applies."""
    providers: int
    models: int
    tenants: int
    ledger: LedgerView
