"""The compiled configuration. One immutable Snapshot per request; a reload swaps one reference or changes nothing."""

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from routerx.domain.egress import EgressPolicy
from routerx.domain.model import Model
from routerx.domain.policy import Policy
from routerx.domain.tenant import Plan, Principal, Tenant
from routerx.providers.spec import Provider
from routerx.secrets import Secret


class ServerConfig(msgspec.Struct, frozen=True):
    """The `server:` and `ledger:` blocks. Fields in RESTART_ONLY need a restart; the rest are live on reload."""

    host: str = "127.0.0.1"
    port: int = 8080
    data_dir: str = "./data"
    admin_key_digests: frozenset[str] = frozenset()
    vault_keys: tuple[Secret, ...] = ()
    """Texts that the keys for encryption at rest are made of (routerx/keyring.py); the first one seals."""
    auth: bool = True
    """False: every caller is the first tenant; allowed on loopback only."""
    auth_header: str | None = None
    """A further header that may carry the tenant key (`AUTH_HEADER_NAME`)."""
    public_models: bool = False
    public_metrics: bool = False
    """Whether GET /metrics answers callers that are not on this machine without an admin key."""
    body_bytes_max: int = 32 * 1024 * 1024
    connections_max: int = 10_000
    concurrency_max: int = 2_000
    header_timeout_s: float = 10.0
    body_timeout_s: float = 120.0
    body_idle_timeout_s: float = 30.0
    keepalive_timeout_s: float = 75.0
    write_timeout_s: float = 60.0
    drain_s: float = 30.0
    log_level: str = "info"
    ledger_path: str = "./data/ledger.db"
    ledger_synchronous: str = "full"
    log_retention_days: int = 30
    retention_days: int | None = None
    ledger_ballast_bytes: int = 16 * 1024 * 1024
    egress: EgressPolicy = EgressPolicy()
    keep_alive_s: float = 15.0
    """Silence after which a caller who waits for a stream gets a comment."""
    health_interval_s: float = 300.0
    """0: providers are never looked at off the request path."""
    metadata_always: bool = False
    """Every answer tells how it was routed, not only to who asks."""
    cache_ttl_s: float = 300.0
    """How long an answer is kept for who asks for it; 0: none is."""
    cache_bytes_max: int = 64 * 1024 * 1024
    answers_disk_bytes_max: int | None = 256 * 1024 * 1024
    """Of answers to idempotency keys on disk; None: they are kept in memory alone."""


RESTART_ONLY = frozenset(
    {
        "host",
        "port",
        "data_dir",
        "vault_keys",
        "answers_disk_bytes_max",
        "ledger_path",
        "ledger_synchronous",
        "ledger_ballast_bytes",
        "connections_max",
        "log_level",
    }
)


class IdleProvider(msgspec.Struct, frozen=True):
    """A provider that is configured and not called."""

    provider: Provider
    reason: str
    """`off`, or `no_key`: it needs one and has none that is on."""


class Places:
    """Where the parts that decide about routing are declared: `models.a.endpoints[0]` → `routerx.yaml:12`. For
    operators: callers must not learn paths.

    Says nothing of what a configuration means: any two are equal, and lines may move under a snapshot that stays.
    """

    __slots__ = ("by_path",)

    def __init__(self, by_path: Mapping[str, str] | None = None) -> None:
        self.by_path: Mapping[str, str] = by_path if by_path is not None else {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Places)

    __hash__ = None  # type: ignore[assignment]  # Equal ones may differ.


class Snapshot(msgspec.Struct, frozen=True):
    """Everything a request needs to know of the configuration."""

    generation: int
    server: ServerConfig
    providers: Mapping[str, Provider]
    models: Mapping[str, Model]
    """Every name callers may use except `provider/model` paths and suffixes: catalogue, YAML and aliases."""
    endpoints: Mapping[str, Model]
    """`provider/upstream_model` paths → a model of that one endpoint."""
    policies: Mapping[str, Policy]
    plans: Mapping[str, Plan]
    tenants: Mapping[str, Tenant]
    keys: Mapping[str, Principal]
    """Keys declared in YAML, by SHA-256 hex digest."""
    files: tuple[str, ...] = ()
    """What was read, for watching and for messages."""
    include_globs: tuple[str, ...] = ()
    """Patterns that new files may come to match."""
    idle: Mapping[str, IdleProvider] = MappingProxyType({})
    """Configured providers that are not among `providers`."""
    notices: tuple[str, ...] = ()
    """Things an operator should know that are not errors."""
    places: Places = msgspec.field(default_factory=Places)
    prices_until_ns: int | None = None
    """When the first price of an endpoint changes, nanoseconds since the epoch; None: no change is known of."""


class SnapshotHolder:
    """The one mutable reference to the current Snapshot."""

    __slots__ = ("current",)

    def __init__(self, snapshot: Snapshot) -> None:
        self.current = snapshot
