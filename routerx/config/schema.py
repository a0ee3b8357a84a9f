"""The shape of the YAML: every key, its type, its default and what it means.

What a single value may be is checked here and nowhere else; what values mean together is compile.py's. `json_schema()`
gives editors the same rules, and `config_keys()` lists every key for the documentation's test. `None` means "not
said": the default then comes from the preset, the plan's billing or the value struct named in the description.
"""

import types
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, Discriminator, Field, Tag
from pydantic.json_schema import GenerateJsonSchema

from routerx.config.blocks import Block, OverridesBlock, ShortBlock
from routerx.config.problems import Path
from routerx.config.scalars import (
    UNIT_KEY,
    Count,
    Days,
    Deadline,
    Duration,
    Expiry,
    Flag,
    Integer,
    Price,
    SecretText,
    Size,
    Text,
    default_text,
)
from routerx.config.schema_customers import PlanEntry, TenantEntry
from routerx.config.schema_policies import PolicyEntry
from routerx.domain.model import Capability, Kind
from routerx.providers.quirks import Quirk
from routerx.providers.spec import Auth

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
"""Providers, policies and plans."""
TENANT_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,62}$"
MODEL_PATTERN = r"^[A-Za-z0-9@][A-Za-z0-9@._:/+-]{0,199}$"
WEIGHT_MAX = 1_000


class EgressBlock(Block):
    """What may be fetched for callers: media named by URL, for providers that must have bytes."""

    enabled: Annotated[Flag, Field(description="Whether URLs are fetched at all.")] = True
    allow_http: Annotated[Flag, Field(description="Whether plain http, and port 80, may be asked, too.")] = False
    ports: Annotated[tuple[Integer, ...], Field(description="Ports that may be asked.")] = (443,)
    allow_hosts: Annotated[
        tuple[Text, ...],
        Field(description="HOST or HOST:PORT you vouch for: address, port and scheme are not checked."),
    ] = ()
    size_max: Annotated[Size, Field(description="Largest thing that is fetched.")] = 20 * 1024 * 1024
    timeout: Annotated[Deadline, Field(description="For the whole fetch, redirects included.")] = 10.0


class CacheBlock(Block):
    """Answers kept in memory for callers that ask for them."""

    ttl: Annotated[Duration, Field(description="How long an answer is kept; 0s: none is.")] = 300.0
    size_max: Annotated[Size, Field(description="Memory for all of them; the least recently used go first.")] = (
        64 * 1024 * 1024
    )


class IdempotencyBlock(Block):
    """Answers kept for the Idempotency-Key they were given under, for a day."""

    on_disk: Annotated[
        Flag, Field(description="Whether answers are kept on disk, too, encrypted: told again after a restart.")
    ] = True
    disk_max: Annotated[Size, Field(description="Of all answers on disk; the oldest go first.")] = 256 * 1024 * 1024


class ServerBlock(Block):
    """How the gateway listens and what it bears."""

    listen: Annotated[Text | None, Field(description="Address and port; a port alone listens on 127.0.0.1.")] = None
    data_dir: Annotated[
        Text | None, Field(description="Folder for ledger, socket and generated keys; relative to this file.")
    ] = None
    admin_keys: Annotated[
        list[SecretText],
        Field(description="Keys of the admin API: references, or digests as sha256:<hex>."),
    ] = []
    vault_keys: Annotated[
        list[SecretText],
        Field(
            description="Keys that encrypt what is kept for tenants: the first one seals, all open. None: one is made "
            "in data_dir/secrets/vault.key."
        ),
    ] = []
    auth: Annotated[Flag, Field(description="off: every caller is the first tenant; only on a loopback address.")] = (
        True
    )
    auth_header: Annotated[Text | None, Field(description="A further header that may carry the tenant key.")] = None
    public_models: Annotated[Flag, Field(description="Whether /v1/models answers without a key.")] = False
    public_metrics: Annotated[
        Flag, Field(description="Whether /metrics answers without an admin key beyond this machine.")
    ] = False
    mode: Annotated[
        Literal["real", "mock"] | None,
        Field(description="mock: the built-in mock answers for every provider. Unset: real where keys exist."),
    ] = None
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"] | None, Field(description="Least severity that is logged.")
    ] = None
    body_max: Annotated[Size, Field(description="Largest request body.")] = 32 * 1024 * 1024
    connections_max: Annotated[Count, Field(description="Open client connections.")] = 10_000
    concurrency_max: Annotated[Count, Field(description="Requests being served at once, all tenants.")] = 2_000
    header_timeout: Annotated[Deadline, Field(description="For a request's headers to arrive.")] = 10.0
    body_timeout: Annotated[Deadline, Field(description="For a request's body to arrive.")] = 120.0
    body_idle_timeout: Annotated[Deadline, Field(description="Longest silence within a request's body.")] = 30.0
    keepalive_timeout: Annotated[Deadline, Field(description="How long an idle connection is kept.")] = 75.0
    write_timeout: Annotated[Deadline, Field(description="For a client that does not read its answer.")] = 60.0
    drain: Annotated[Duration, Field(description="What running requests are given at shutdown.")] = 30.0
    egress: Annotated[EgressBlock, Field(description="Fetching media that callers name by URL.")] = EgressBlock()
    cache: Annotated[CacheBlock, Field(description="Keeping answers for callers that ask for it.")] = CacheBlock()
    idempotency: Annotated[IdempotencyBlock, Field(description="Keeping answers for an Idempotency-Key.")] = (
        IdempotencyBlock()
    )
    keep_alive: Annotated[
        Deadline, Field(description="Silence after which a waiting stream gets a comment, and again each time.")
    ] = 15.0
    health_interval: Annotated[
        Duration, Field(description="Between two looks at each provider off the request path; 0s: never.")
    ] = 300.0
    routing_metadata: Annotated[
        Literal["on_request", "always"],
        Field(description="Whether answers tell how they were routed: to who asks, or to all."),
    ] = "on_request"


class LedgerBlock(Block):
    """Where money and usage are kept."""

    path: Annotated[Text | None, Field(description="The SQLite file; relative to this file.")] = None
    synchronous: Annotated[
        Literal["full", "normal"],
        Field(description="full: a committed charge survives a power loss; normal: it survives a crash."),
    ] = "full"
    retention: Annotated[
        Days | None,
        Field(description="How long the books keep the rows of requests, in whole days; their charges stay for ever."),
    ] = None
    log_retention: Annotated[Days, Field(description="How long the detail of requests is kept, in whole days.")] = 30
    ballast: Annotated[
        Size, Field(description="Kept free by a file beside the ledger, for what is under way when the disk is full.")
    ] = 16 * 1024 * 1024


class KeyEntry(ShortBlock):
    """One credential of a provider."""

    key: Annotated[SecretText, Field(description="The provider's key, as a reference.")]
    rpm: Annotated[Count | None, Field(description="Requests per minute that may use this key.")] = None
    tpm: Annotated[Count | None, Field(description="Tokens per minute that may be spent with this key.")] = None
    enabled: Annotated[Flag, Field(description="off: nothing is sent with this key.")] = True


class TimeoutsBlock(Block):
    """Deadlines of calls to a provider, each its own."""

    connect: Annotated[Deadline, Field(description="For the connection, TLS included.")] = 5.0
    first_token: Annotated[
        Deadline | None,
        Field(description="For the first content. Unset: 12s while another endpoint is left, else 60s or 120s."),
    ] = None
    idle: Annotated[Deadline, Field(description="Longest silence within an answer.")] = 300.0
    total: Annotated[Deadline, Field(description="For the whole call.")] = 600.0


class RequestLimitBlock(Block):
    """How often a provider may be called, with all its keys together. While that is reached it is passed over."""

    requests: Annotated[Count, Field(description="Calls …")]
    window: Annotated[Deadline, Field(description="… in any span of this length.")] = 60.0


class MockBlock(Block):
    """How the built-in mock behaves where it answers for this provider."""

    latency: Annotated[Duration, Field(description="Before the first byte.")] = 0.0
    token_delay: Annotated[Duration, Field(description="Between streamed tokens.")] = 0.0
    output_tokens: Annotated[
        Count | None, Field(description="Length of a text answer. Unset: as the deterministic text has it.")
    ] = None


class ProviderEntry(Block):
    """A vendor or a server of one's own: a preset's name needs only keys, any other name a base_url."""

    preset: Annotated[Text | None, Field(description="The preset to start from. Unset: the one of this name.")] = None
    dialect: Annotated[
        Text | None, Field(description="The wire format: openai, responses, anthropic, gemini or ollama.")
    ] = None
    also: Annotated[
        list[Text], Field(description="Further wire formats it speaks at the same base_url, for callers of the same.")
    ] = []
    base_url: Annotated[Text | None, Field(description="Where its API begins, like https://host/v1.")] = None
    api_version: Annotated[
        Text | None,
        Field(description="Set: calls go to /openai/deployments/MODEL/… with it in the query."),
    ] = None
    auth: Annotated[Auth | None, Field(description="The header that carries the key.")] = None
    keys: Annotated[
        list[KeyEntry], Field(description="Its keys, used in turn. An empty one (an unset variable) is left out.")
    ] = []
    byok_only: Annotated[
        Flag, Field(description="Whether the house has no key, and it is asked with tenants' own keys only.")
    ] = False
    timeouts: Annotated[TimeoutsBlock, Field(description="Deadlines of its calls.")] = TimeoutsBlock()
    headers: Annotated[dict[str, SecretText], Field(description="Headers added to every call.")] = {}
    quirks: Annotated[list[Quirk], Field(description="Deviations from the dialect, beyond the preset's.")] = []
    proxy: Annotated[Text | None, Field(description="An HTTP proxy for its calls.")] = None
    ca_file: Annotated[Text | None, Field(description="Certificates (PEM) to trust for it; relative to this file.")] = (
        None
    )
    priority: Annotated[Integer, Field(description="For its endpoints that set none. Lower is tried first.")] = 0
    enabled: Annotated[Flag, Field(description="off: nothing is asked of it.")] = True
    limit: Annotated[RequestLimitBlock | None, Field(description="How often it may be called.")] = None
    keeps_data: Annotated[
        Flag, Field(description="Whether it may keep or train on what it is sent, for callers who refuse that.")
    ] = True
    zdr: Annotated[Flag, Field(description="Whether zero data retention is agreed with it.")] = False
    abort_stops_billing: Annotated[
        Flag | None,
        Field(
            description="Whether it bills no more of an answer that is cancelled. Unset: as the preset has it, or on."
        ),
    ] = None
    mock: Annotated[
        MockBlock | None, Field(description="Set: the built-in mock answers for this provider, keys or not.")
    ] = None


class LongPriceBlock(Block):
    """Prices that a request is charged by as a whole once its input is long; what is left out stays as it is."""

    above: Annotated[Count, Field(description="Input tokens that may be passed before these prices apply.")]
    input: Annotated[Price | None, Field(description="Input tokens.")] = None
    output: Annotated[Price | None, Field(description="Output tokens.")] = None
    cached_input: Annotated[Price | None, Field(description="Input read from the provider's cache.")] = None
    cache_write_5m: Annotated[Price | None, Field(description="Input written to a 5 minute cache.")] = None
    cache_write_1h: Annotated[Price | None, Field(description="Input written to a 1 hour cache.")] = None


class TierPriceBlock(Block):
    """Prices in USD. Of a service tier: what is left out costs what it costs without the tier."""

    input: Annotated[Price | None, Field(description="Input tokens.")] = None
    output: Annotated[Price | None, Field(description="Output tokens.")] = None
    cached_input: Annotated[Price | None, Field(description="Input read from the provider's cache; as input.")] = None
    cache_write_5m: Annotated[Price | None, Field(description="Input written to a 5 minute cache; as input.")] = None
    cache_write_1h: Annotated[
        Price | None, Field(description="Input written to a 1 hour cache; as the 5 minute one.")
    ] = None
    audio_input: Annotated[Price | None, Field(description="Audio input tokens; as input.")] = None
    image_input: Annotated[Price | None, Field(description="Image input tokens; as input.")] = None
    reasoning: Annotated[Price | None, Field(description="Reasoning tokens; as output.")] = None
    audio_output: Annotated[Price | None, Field(description="Audio output tokens; as output.")] = None
    image_output: Annotated[Price | None, Field(description="Image output tokens; as output.")] = None
    request: Annotated[Price | None, Field(description="Each request, whatever `per` says; 0.")] = None
    search: Annotated[
        Price | None, Field(description="Each web search the provider makes, whatever `per` says; 0.")
    ] = None
    long: Annotated[LongPriceBlock | None, Field(description="Prices of requests with a long input.")] = None


class PriceBlock(TierPriceBlock):
    """A whole price card in USD; a part that is left out costs what its nearest kind costs."""

    per: Annotated[Literal["1M", "1k"], Field(description="How many tokens a token price is for.")] = "1M"
    tiers: Annotated[
        dict[str, TierPriceBlock], Field(description="What differs where a service tier served, by its name.")
    ] = {}
    from_: Annotated[Expiry | None, Field(alias="from", description="From when on it counts, UTC.")] = None


CARD, CARDS = "{card}", "{cards}"
"""What pydantic calls the two forms of a price in the places of its complaints; no name in a file looks like it."""


def _form_of(price: object) -> str:
    return CARDS if isinstance(price, list) else CARD


Prices = Annotated[Annotated[PriceBlock, Tag(CARD)] | Annotated[list[PriceBlock], Tag(CARDS)], Discriminator(_form_of)]
"""One card, or several that follow one another."""


class EndpointEntry(Block):
    """One provider's offer of a model. What is left out comes from the catalogue, where it knows the offer."""

    provider: Annotated[Text, Field(description="A name under `providers`.")]
    model: Annotated[Text | None, Field(description="The provider's name for it. Unset: the same name.")] = None
    price: Annotated[Prices | None, Field(description="What it costs. Unset: the catalogue's price, or none.")] = None
    supports: Annotated[list[Capability] | None, Field(description="What a request may need of it.")] = None
    context: Annotated[Count | None, Field(description="Context window in tokens.")] = None
    max_output: Annotated[Count | None, Field(description="Most output tokens of one answer.")] = None
    weight: Annotated[Count, Field(description="Share among endpoints that are otherwise equal.")] = 1
    priority: Annotated[Integer | None, Field(description="Lower is tried first. Unset: the provider's.")] = None
    timeouts: Annotated[OverridesBlock, Field(description="Deadlines of calls of this model.")] = OverridesBlock()
    quantization: Annotated[
        Text | None, Field(description="How its weights are stored, like fp8, for callers who choose by it.")
    ] = None
    distillable: Annotated[Flag, Field(description="Whether its owner allows training on its text.")] = False


class ModelEntry(ShortBlock):
    """A name that callers may ask for; the plain text of another name makes it an alias."""

    alias: Annotated[Text | None, Field(description="The model that this name stands for.")] = None
    kind: Annotated[Kind | None, Field(description="Unset: the catalogue's, else chat.")] = None
    endpoints: Annotated[
        list[EndpointEntry],
        Field(description="Who serves it; replaces the catalogue's list. May be left out for a catalogue model."),
    ] = []
    aliases: Annotated[list[Text], Field(description="Further names for it.")] = []


class Config(Block):
    """A whole configuration."""

    version: Annotated[Integer, Field(description="Version of this format: 1.")] = 1
    include: Annotated[list[Text], Field(description="Files to add, with * and ?; relative to this file.")] = []
    server: Annotated[ServerBlock, Field(description="Listening, limits and deadlines.")] = ServerBlock()
    ledger: Annotated[LedgerBlock, Field(description="Storage of money and usage.")] = LedgerBlock()
    providers: Annotated[
        dict[str, ProviderEntry] | None,
        Field(description="Who is called, by name. Unset: the providers whose keys are in the environment."),
    ] = None
    models: Annotated[
        dict[str, ModelEntry], Field(description="What the bundled catalogue lacks or has otherwise, by name.")
    ] = {}
    pricing: Annotated[
        dict[str, Prices], Field(description="Prices that replace all others, by model or by provider/model.")
    ] = {}
    policies: Annotated[dict[str, PolicyEntry], Field(description="Routing policies by name.")] = {}
    plans: Annotated[dict[str, PlanEntry], Field(description="Plans by name.")] = {}
    tenants: Annotated[
        dict[str, TenantEntry],
        Field(description="Tenants by name. None: one named default, with the keys of the environment."),
    ] = {}


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the file, for editors."""
    schema = Config.model_json_schema(schema_generator=_Generator)
    for block in (schema, *schema["$defs"].values()):
        for field in block.get("properties", {}).values():
            _tidy(field)
    return {
        **schema,
        "$schema": GenerateJsonSchema.schema_dialect,
        "title": "RouterX configuration",
    }


class _Generator(GenerateJsonSchema):
    def encode_default(self, dft: Any) -> Any:
        """Defaults stay as they are; _tidy writes them as the file would."""
        return dft


def _tidy(field: dict[str, Any]) -> None:
    """Write a field's default as the file would, and leave out what says nothing."""
    field.pop("title", None)
    unit = field.pop(UNIT_KEY, "")
    for choice in field.get("anyOf", ()):
        choice.pop(UNIT_KEY, None)
    if "default" in field:
        value = field.pop("default")
        if value is not None and not isinstance(value, BaseModel | list | dict):
            field["default"] = default_text(value, unit)


def config_keys() -> tuple[str, ...]:
    """Every key as the documentation writes it: `providers.<name>.keys[].rpm`."""
    return tuple(_keys_of(Config, ""))


def fields_at(path: Path) -> frozenset[str]:
    """The keys that a mapping at `path` may have; empty where any name will do."""
    kind: Any = Config
    for part in path:
        kind = _inner(kind, of_list=isinstance(part, int))
        if isinstance(kind, type) and issubclass(kind, Block):
            kind = _fields(kind).get(str(part))
        else:
            kind = get_args(kind)[-1] if get_origin(kind) in (dict, list) else None
    kind = _inner(kind)
    return frozenset(_fields(kind)) if isinstance(kind, type) and issubclass(kind, Block) else frozenset()


def _fields(block: type[Block]) -> dict[str, Any]:
    """The types of a mapping's keys, as the file names them."""
    return {
        name if field.alias is None else field.alias: field.annotation for name, field in block.model_fields.items()
    }


def _keys_of(kind: Any, prefix: str) -> list[str]:
    kind = _inner(kind)
    if isinstance(kind, type) and issubclass(kind, Block):
        keys: list[str] = []
        for name, inner in _fields(kind).items():
            path = f"{prefix}.{name}" if prefix else name
            keys += [path, *_keys_of(inner, path)]
        return keys
    if get_origin(kind) is dict:
        return _keys_of(get_args(kind)[1], f"{prefix}.<name>")
    if get_origin(kind) is list:
        return _keys_of(get_args(kind)[0], f"{prefix}[]")
    return []


def _inner(kind: Any, *, of_list: bool = False) -> Any:
    """The type without `| None` and Annotated; of two forms the plain one, or the list."""
    while True:
        if get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        elif isinstance(kind, types.UnionType) or str(get_origin(kind)) == "typing.Union":
            forms = [arg for arg in get_args(kind) if arg is not type(None)]
            kind = forms[-1] if of_list else forms[0]
        else:
            return kind
