"""What a name that callers ask for means: a model, a provider's path to one, or a policy that chooses among models.

Pure: names over one snapshot. Whether a tenant may use what is found is said here, too, because a name that it may not
use has to be told in the words of one that does not exist.
"""

import difflib
import itertools
from collections.abc import Iterable

import msgspec

from routerx.config.snapshot import Snapshot
from routerx.domain.call import Operation, Peek
from routerx.domain.model import EVERYTHING, Capability, Endpoint, Kind, Model
from routerx.domain.policy import Policy, Sort
from routerx.domain.pricing import PriceCard
from routerx.domain.tenant import Tenant, may_use
from routerx.errors import ModelNotFound

NAME_MAX = 256
"""Characters of a model name; a longer one cannot exist."""
SUGGEST_MAX = 64
"""Longer names get no suggestion: comparing costs their length."""
SUGGEST_AMONG = 8
"""Names that are compared in full."""

KIND_OF = {
    Operation.CHAT: Kind.CHAT,
    Operation.COUNT_TOKENS: Kind.CHAT,
    Operation.EMBEDDINGS: Kind.EMBEDDING,
    Operation.COMPLETIONS: Kind.COMPLETION,
    Operation.IMAGES: Kind.IMAGE,
    Operation.SPEECH: Kind.SPEECH,
    Operation.TRANSCRIPTIONS: Kind.TRANSCRIPTION,
    Operation.MODERATIONS: Kind.MODERATION,
    Operation.RERANK: Kind.RERANK,
}
"""What a model has to do for a route to ask for it."""

OWNER = "routerx"
"""Of policies, where they are listed as models."""
TEXT = "text"
"""The key of `by_capability` for requests that need nothing else."""
STRONGEST = (
    Capability.VISION,
    Capability.AUDIO,
    Capability.TOOLS,
    Capability.JSON_SCHEMA,
    Capability.REASONING,
)
"""Of several needs the first one that a policy has models for chooses them; all of them still have to be met."""

_FREE_SUFFIX = ":free"
_SORT_SUFFIXES = {":floor": Sort.PRICE, ":nitro": Sort.THROUGHPUT}
_ZERO = PriceCard(input_pico=0, output_pico=0)


class Found(msgspec.Struct, frozen=True):
    """A model, and the names under which a tenant's patterns may admit it."""

    name: str
    """As asked, without suffixes."""
    model: Model

    def allowed(self, endpoint: Endpoint, tenant: Tenant) -> bool:
        """A pattern may match the name, the model's own name or a single path."""
        return may_use(tenant, self.name, self.model.name, endpoint.model, endpoint.key)

    def endpoints(self, tenant: Tenant) -> tuple[Endpoint, ...]:
        """Those the tenant may use, by priority, then as declared."""
        usable = (endpoint for endpoint in self.model.endpoints if self.allowed(endpoint, tenant))
        return tuple(sorted(usable, key=lambda endpoint: endpoint.priority))


class Meaning(msgspec.Struct, frozen=True):
    """What a name means."""

    name: str
    """As asked, without suffixes."""
    models: tuple[Found, ...]
    """One, or those of a policy, its first choice first."""
    free: bool = False
    sort: Sort | None = None
    """`:floor` or `:nitro`."""
    policy: Policy | None = None
    """The one that was asked for by its name."""


def resolve(name: str, kind: Kind, needs: frozenset[Capability], snapshot: Snapshot) -> Meaning | None:
    """A name as models: an existing name or path as it stands, else a policy's, else with suffixes taken off, else a
    path to a model of a configured provider that nobody declared. None: nothing of this kind has this name."""
    base, free, sort = name, False, None
    while True:
        model = snapshot.models.get(base) or snapshot.endpoints.get(base)
        if model is not None:
            return Meaning(base, (Found(base, model),), free, sort) if model.does(kind) else None
        policy = snapshot.policies.get(base)
        if policy is not None and policy.by_capability:
            found = tuple(Found(base, model) for model in _chosen(policy, kind, needs, snapshot))
            return Meaning(base, found, free, sort, policy) if found else None
        suffix = base[base.rfind(":") :] if ":" in base else ""
        if suffix == _FREE_SUFFIX and not free:
            free = True
        elif suffix in _SORT_SUFFIXES:
            sort = sort if sort is not None else _SORT_SUFFIXES[suffix]
        else:
            break
        base = base.removesuffix(suffix)
    model = _undeclared(base, kind, snapshot)
    return Meaning(base, (Found(base, model),), free, sort) if model is not None else None


def listed(policy: Policy, needs: Iterable[Capability]) -> tuple[str, ...]:
    """The policy's models for the strongest of the needs that it has any for; () where it has none."""
    rows = {capability: names for capability, names in policy.by_capability if names}
    wanted = set(needs)
    return next((rows[need.value] for need in STRONGEST if need in wanted and need.value in rows), ())


def models_named(names: Iterable[str], kind: Kind, snapshot: Snapshot) -> list[Found]:
    """Models by the names that a policy has for them; what is not there is passed over."""
    found = []
    for name in names:
        model = snapshot.models.get(name) or snapshot.endpoints.get(name) or _undeclared(name, kind, snapshot)
        if model is not None and model.does(kind):
            found.append(Found(name, model))
    return found


def named_policies(snapshot: Snapshot, tenant: Tenant | None) -> list[Model]:
    """Policies that can be asked for by their name, as models: each with all endpoints to which it may lead that the
    tenant may use, or all; without those that lead nowhere. None: nobody in particular."""
    found = []
    for policy in snapshot.policies.values():
        if not policy.by_capability or policy.name in snapshot.models:
            continue
        names = dict.fromkeys(name for _, row in policy.by_capability for name in row)
        models = [model for name in names if (model := snapshot.models.get(name) or snapshot.endpoints.get(name))]
        endpoints = {
            endpoint.key: endpoint
            for model in models
            for endpoint in (model.endpoints if tenant is None else Found(policy.name, model).endpoints(tenant))
        }
        if endpoints:
            found.append(Model(policy.name, models[0].kind, tuple(endpoints.values()), owner=OWNER))
    return found


def not_found(peek: Peek, tenant: Tenant, snapshot: Snapshot) -> ModelNotFound:
    """The same words for a model that does not exist and for one this tenant may not use."""
    asked, kind = peek.model, KIND_OF[peek.operation]
    named = snapshot.models.get(asked) or snapshot.endpoints.get(asked)
    if named is not None and not named.does(kind) and Found(asked, named).endpoints(tenant):
        return ModelNotFound(
            f"model {asked!r} is for {named.kind.value}, not for {peek.operation.value}; "
            "GET /v1/models says what each model is for",
            param="model",
        )
    return not_available(asked, _nearest(asked, kind, tenant, snapshot))


def not_available(name: str, nearest: str | None = None) -> ModelNotFound:
    """In the words that tell nobody which of the two it is."""
    shown = name if len(name) <= NAME_MAX else f"{name[:NAME_MAX]}…"
    hint = f"; did you mean {nearest!r}?" if nearest is not None else ""
    return ModelNotFound(f"model {shown!r} does not exist or is not available to this key{hint}", param="model")


def _chosen(policy: Policy, kind: Kind, needs: frozenset[Capability], snapshot: Snapshot) -> list[Model]:
    """The models of a policy for these needs; what is listed for something else can do text, too."""
    rows = [(capability, names) for capability, names in policy.by_capability if names]
    names = listed(policy, needs) or next((names for capability, names in rows if capability == TEXT), ())
    if not names and rows:
        names = rows[0][1]
    return [found.model for found in models_named(names, kind, snapshot)]


def _undeclared(path: str, kind: Kind, snapshot: Snapshot) -> Model | None:
    provider_name, _, upstream_model = path.partition("/")
    provider = snapshot.providers.get(provider_name)
    if provider is None or not upstream_model or len(path) > NAME_MAX:
        return None
    endpoint = Endpoint(
        key=path,
        provider=provider_name,
        model=path,
        upstream_model=upstream_model,
        price=_ZERO if provider.mock is not None else None,
        capabilities=EVERYTHING,
    )
    return Model(name=path, kind=kind, endpoints=(endpoint,), owner=provider_name)


def _nearest(asked: str, kind: Kind, tenant: Tenant, snapshot: Snapshot) -> str | None:
    """The most similar name that this tenant may use. A wrong name must not cost much, so a count of common pairs of
    letters picks the few that are compared with care."""
    if len(asked) > SUGGEST_MAX:
        return None
    named = {**snapshot.models, **snapshot.endpoints} if "/" in asked else snapshot.models
    pairs = {asked[index : index + 2] for index in range(len(asked) - 1)}
    ranked = sorted(named, key=lambda name: (-sum(pair in name for pair in pairs), abs(len(name) - len(asked))))
    usable = (name for name in ranked if named[name].does(kind) and Found(name, named[name]).endpoints(tenant))
    found = difflib.get_close_matches(asked, list(itertools.islice(usable, SUGGEST_AMONG)), n=1)
    return found[0] if found else None
