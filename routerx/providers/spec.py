"""A provider as a value: what is needed to call it, and nothing of how."""

from enum import StrEnum

import msgspec

from routerx.dialects.base import OPTIONAL
from routerx.domain.call import Operation
from routerx.domain.model import Capability, Kind
from routerx.domain.policy import Timeouts
from routerx.domain.pricing import PriceCard
from routerx.secrets import Secret


class Auth(StrEnum):
    """Which header carries the credential."""

    BEARER = "bearer"
    X_API_KEY = "x-api-key"
    X_GOOG_API_KEY = "x-goog-api-key"
    API_KEY = "api-key"
    NONE = "none"


class Credential(msgspec.Struct, frozen=True):
    """One key of a provider. `id` is stable and public: `provider-<fingerprint>` (or `provider-none`)."""

    id: str
    secret: Secret | None
    rpm: int | None = None
    tpm: int | None = None
    transient: bool = False
    """A caller's own: nothing that holds it outlives its request."""


class RequestLimit(msgspec.Struct, frozen=True):
    """At most `requests` calls in any `window_s` seconds."""

    requests: int
    window_s: float


class MockSettings(msgspec.Struct, frozen=True):
    """How the built-in mock provider behaves."""

    latency_s: float = 0.0
    """Before the first byte."""
    token_delay_s: float = 0.0
    """Between streamed tokens."""
    output_tokens: int | None = None
    """Length of a text answer; None: as the deterministic text has it."""


class Wire(msgspec.Struct, frozen=True):
    """A wire format that a provider speaks, and where."""

    dialect: str
    path: str = ""
    """Below the base URL."""


class Provider(msgspec.Struct, frozen=True):
    """A configured vendor."""

    name: str
    dialect: str
    """Of chats, where the caller's own is not among `also`."""
    base_url: str
    """No trailing slash."""
    auth: Auth
    credentials: tuple[Credential, ...]
    preset: str | None = None
    """The vendor it is of; callers may name it by that."""
    credentials_off: tuple[Credential, ...] = ()
    """Keys that are switched off: nothing is sent with them."""
    timeouts: Timeouts = Timeouts()
    quirks: frozenset[str] = frozenset()
    """Names of functions and switches in providers/quirks.py."""
    headers: tuple[tuple[str, str], ...] = ()
    also: tuple[Wire, ...] = ()
    """Further wire formats of chats."""
    relays: frozenset[Operation] | None = None
    """What it does beside chats and embeddings, all in OpenAI's shape; None: nobody said."""
    relay_path: str = ""
    """Where, below the base URL."""
    forward_headers: frozenset[str] = frozenset()
    """Headers of callers, in lower case, that go on to it where their bytes do."""
    takes: frozenset[str] = OPTIONAL
    """Optional parameters of the OpenAI chat wire that it takes (dialects.base.Aim)."""
    reasoning_field: str | None = None
    """The key of a message under which it takes thoughts back, on the OpenAI chat wire."""
    api_version: str | None = None
    """Set: a deployment's name stands in the path and this in the query, as older Azure resources have it."""
    abort_stops_billing: bool = True
    """Whether cancelling a stream stops the provider's bill."""
    limits_tokens: bool = False
    """One of its credentials has a limit of tokens."""
    limit: RequestLimit | None = None
    """Of all its credentials together; while it is reached the provider is passed over."""
    keeps_data: bool = True
    """It may keep or train on what it is sent (`provider.data_collection` of callers)."""
    zdr: bool = False
    """Zero data retention is agreed with it."""
    byok_only: bool = False
    """The house has no key for it: it is asked with keys that are tenants' own, and has no `credentials`."""
    public: bool = False
    """A vendor's own address: it cannot be on a private network."""
    mock: MockSettings | None = None
    """Set: the built-in mock transport answers in this provider's place."""
    proxy: str | None = None
    ca_file: str | None = None

    @property
    def takes_key(self) -> bool:
        """Whether a key is sent to it at all; the mock takes any."""
        return self.auth is not Auth.NONE or self.mock is not None

    def does(self, operation: Operation) -> bool:
        """Whether it may be asked for `operation`. Chats and embeddings are everybody's business."""
        if operation in (Operation.CHAT, Operation.COUNT_TOKENS, Operation.EMBEDDINGS):
            return True
        return self.mock is None and (self.relays is None or operation in self.relays)


class Preset(msgspec.Struct, frozen=True):
    """What is known of a vendor before anyone configures it."""

    name: str
    dialect: str
    base_url: str | None
    """None: the user must name it."""
    auth: Auth = Auth.BEARER
    env_keys: tuple[str, ...] = ()
    """Environment variables that switch the provider on, first one set wins; a key (or, for `env_base_url`, a URL)."""
    env_base_url: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    also: tuple[Wire, ...] = ()
    relays: frozenset[Operation] = frozenset()
    relay_path: str = ""
    forward_headers: frozenset[str] = frozenset()
    takes: frozenset[str] = OPTIONAL
    reasoning_field: str | None = None
    aliases: tuple[str, ...] = ()
    quirks: frozenset[str] = frozenset()
    key_required: bool = True
    abort_stops_billing: bool = True


class CatalogueEndpoint(msgspec.Struct, frozen=True):
    """One vendor's offer of a catalogue model."""

    provider: str
    model: str
    price: PriceCard | None
    context_tokens: int | None = None
    output_tokens_max: int | None = None
    also_can: frozenset[Capability] = frozenset()
    """What the model can at this vendor and not everywhere."""
    source: str = ""
    """The page that states the facts."""


class CatalogueModel(msgspec.Struct, frozen=True):
    """A bundled model: facts with source and date, kept in dated data files."""

    name: str
    kind: Kind
    owner: str
    endpoints: tuple[CatalogueEndpoint, ...]
    capabilities: frozenset[Capability] = frozenset()
    context_tokens: int | None = None
    output_tokens_max: int | None = None
    released: str | None = None
    """ISO date."""
    aliases: tuple[str, ...] = ()
    as_of: str = ""
    """ISO date on which the facts were read."""
