"""What the control plane answers about providers and their keys: frozen values, without any key."""

import msgspec


class LookView(msgspec.Struct, frozen=True):
    """One look at a provider off the request path."""

    seen: str
    """`ok`, `failed`, `auth` (the key is refused) or `unreachable`."""
    reason: str | None
    """A failure's name where it was not plainly well."""
    status: int | None
    latency_ms: int
    at: str
    key: str
    """Id of the key it was made with."""


class HealthView(msgspec.Struct, frozen=True):
    """What is known of a provider from such looks."""

    last: LookView
    consecutive: int
    """Looks in a row that came to the same."""
    uptime: float | None
    """0 to 1, most of it of the last day."""


class KeyCounts(msgspec.Struct, frozen=True):
    """How many keys are in which state."""

    active: int = 0
    cooling: int = 0
    quarantined: int = 0
    disabled: int = 0


class KeyStatsView(msgspec.Struct, frozen=True):
    """What was done with a key since the start of the process."""

    requests: int
    successes: int
    failures: int
    rate_limited: int
    tokens: int
    last_used: str | None


class ProviderKeyView(msgspec.Struct, frozen=True):
    """One key of a provider."""

    id: str
    provider: str
    state: str
    """`active`, `cooling` (rests after a 429), `quarantined` (refused by the provider) or `disabled`."""
    ready_in_s: float
    """0: it may be used now."""
    rpm: int | None
    tpm: int | None
    stats: KeyStatsView


class CircuitRow(msgspec.Struct, frozen=True):
    """One endpoint by one key."""

    endpoint: str
    key: str
    circuit: str
    ready_in_s: float
    requests: int
    """In the breaker's default window."""
    failures: float
    ttft_ms: int | None
    total_ms: int | None


class ProviderView(msgspec.Struct, frozen=True):
    """One provider."""

    name: str
    state: str
    """`on`, `off` (switched off), `no_key`, or `own_keys`: it is asked with tenants' own keys only."""
    dialect: str
    base_url: str
    mock: bool
    """The built-in mock answers in its place."""
    models: int
    circuit: str
    """The worst of its circuits: `closed`, `half_open` or `open`."""
    keys: KeyCounts
    health: HealthView | None


class ProviderDetail(msgspec.Struct, frozen=True):
    """One provider with its keys and circuits."""

    provider: ProviderView
    keys: tuple[ProviderKeyView, ...]
    circuits: tuple[CircuitRow, ...]


class ProviderTest(msgspec.Struct, frozen=True):
    """The outcome of looking at a provider now, by each of its keys."""

    provider: str
    ok: bool
    """At least one key is taken."""
    looks: tuple[LookView, ...]


class NewProviderKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key to be added."""

    provider: str
    key: str
    rpm: int | None = None
    tpm: int | None = None

    def __repr__(self) -> str:
        return f"NewProviderKey(provider={self.provider!r}, key='***', rpm={self.rpm!r}, tpm={self.tpm!r})"


class KeyChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be different about a key; what is left out stays. None takes a limit away."""

    rpm: int | msgspec.UnsetType | None = msgspec.UNSET
    tpm: int | msgspec.UnsetType | None = msgspec.UNSET
    enabled: bool | msgspec.UnsetType = msgspec.UNSET
    state: str | msgspec.UnsetType = msgspec.UNSET
    """`active`: a quarantine ends now."""


class RemovedKey(msgspec.Struct, frozen=True):
    """A key that is no longer configured."""

    id: str
    provider: str
    file_removed: bool
    """Its file was one of RouterX's own and is gone, too."""


class Reloaded(msgspec.Struct, frozen=True):
    """What came of reading the configuration again."""

    ok: bool
    generation: int
    problems: tuple[str, ...]
    """Why what is on disk is not in force; empty when it is."""
    keys: int
    """Of all providers."""


class SeriesPoint(msgspec.Struct, frozen=True):
    """What was done with a key in one step of time."""

    at: str
    requests: int
    successes: int
    failures: int
    rate_limited: int
    tokens: int


class KeySeries(msgspec.Struct, frozen=True):
    """A key's history, oldest step first."""

    id: str
    window_minutes: int
    step_seconds: int
    points: tuple[SeriesPoint, ...]


class KeyDebug(msgspec.Struct, frozen=True):
    """Everything that is known of a key, but for the key."""

    key: ProviderKeyView
    circuits: tuple[CircuitRow, ...]
    looks: tuple[LookView, ...]


class ProviderStats(msgspec.Struct, frozen=True):
    """What was done with a provider since the start of the process."""

    provider: str
    state: str
    circuit: str
    health: HealthView | None
    keys: KeyCounts
    stats: KeyStatsView


class UsageView(msgspec.Struct, frozen=True):
    """What the books have of one provider in one step of time."""

    at: str
    """When the step begins."""
    provider: str
    requests: int
    succeeded: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    """Of the input: read from the provider's cache."""
    cost_usd: str
    cost_nano: int
    provider_cost_usd: str
    provider_cost_nano: int


class TokenReport(msgspec.Struct, frozen=True):
    """Tokens by provider over a period that ends now."""

    period: str
    since: str
    step_seconds: int
    totals: tuple[UsageView, ...]
    """One row for each provider, over the whole period."""
    series: tuple[UsageView, ...]
