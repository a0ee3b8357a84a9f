"""The part of a plan that only changes with the configuration: which endpoints a name means, and which may be used.

Pure: names and filters over one snapshot. What depends on the moment (circuits, latency) is in plan.py.
"""

import difflib
import itertools
import math
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import NoReturn

import msgspec

from routerx.config.snapshot import Snapshot
from routerx.domain.call import Candidate, Exclusion, Operation, Peek
from routerx.domain.model import EVERYTHING, Capability, Endpoint, Kind, Model
from routerx.domain.policy import Fence, Policy, Sort
from routerx.domain.pricing import PriceCard
from routerx.domain.tenant import FreeSuffix, OnUnpriced, Principal, Tenant
from routerx.domain.wishes import NO_WISHES, Wishes
from routerx.errors import FreeNotAllowed, InvalidParameter, ModelNotFound, PermissionDenied, UnsupportedOperation
from routerx.providers.spec import Provider

NAME_MAX = 256
"""Characters of a model name; a longer one cannot exist."""
SUGGEST_MAX = 64
"""Longer names get no suggestion: comparing costs their length."""
SUGGEST_AMONG = 8
"""Names that are compared in full."""

PlanKey = tuple[str, str, Operation, frozenset[Capability]]
"""(model as asked, tenant, operation, needs): what the static part of a plan depends on, beside the snapshot."""

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

_FREE = PriceCard(input_pico=0, output_pico=0)
_OPERATIONS = frozenset(Operation)
_LACKS = "lacks_"
_NOT_ALLOWED = "not_allowed"
_PARAMS = {
    Capability.VISION: ("images", "messages"),
    Capability.AUDIO: ("audio", "messages"),
    Capability.TOOLS: ("tools", "tools"),
    Capability.JSON_SCHEMA: ("JSON schema as response format", "response_format"),
    Capability.REASONING: ("reasoning settings", "reasoning_effort"),
}


class Ask(msgspec.Struct, frozen=True):
    """What a plan is made for."""

    peek: Peek
    principal: Principal
    wishes: Wishes = NO_WISHES
    own_key: bool = False
    """The caller brings its own credential."""


class Option(msgspec.Struct, frozen=True):
    """A candidate with its provider at hand."""

    candidate: Candidate
    provider: Provider

    @property
    def endpoint(self) -> Endpoint:
        return self.candidate.endpoint


class Shortlist(msgspec.Struct, frozen=True):
    """Groups in order; within a group what was measured decides (order.py)."""

    model: str
    policy: Policy
    sort: Sort
    free: bool
    groups: tuple[tuple[Option, ...], ...]
    excluded: tuple[Exclusion, ...]
    context_min: float
    """The smallest context window of all options; inf where none is declared."""
    output_min: float
    """The smallest output maximum likewise."""


class Resolved(msgspec.Struct, frozen=True):
    """What a name means."""

    name: str
    """As asked, without suffixes."""
    model: Model
    free: bool = False
    floor: bool = False


def make_shortlist(peek: Peek, tenant: Tenant, snapshot: Snapshot) -> Shortlist:
    """Resolve, filter and group. Raises ModelNotFound, FreeNotAllowed, InvalidParameter or PermissionDenied."""
    kind = KIND_OF[peek.operation]
    resolved = resolve(peek.model, kind, snapshot)
    endpoints = _allowed_endpoints(resolved, tenant) if resolved is not None else ()
    if resolved is None or not endpoints:
        raise _not_found(peek, tenant, snapshot)
    if resolved.free and tenant.plan.free_suffix is FreeSuffix.OFF:
        raise FreeNotAllowed(
            f"the suffix ':free' is switched off in plan {tenant.plan.name!r}; ask for {resolved.name!r}"
        )
    policy = snapshot.policies.get(tenant.policy, Policy(name=tenant.policy))
    sort = Sort.PRICE if resolved.floor else policy.sort
    rules = _Rules(peek.needs, tenant, resolved.free, policy.fence, endpoints[0])
    operation = peek.operation
    groups: list[tuple[Option, ...]] = []
    excluded: list[Exclusion] = []
    seen: set[str] = set()
    for found in (resolved, *_fallbacks(policy, kind, resolved.model, snapshot)):
        kept: list[Option] = []
        is_fallback = found is not resolved
        for endpoint in found.model.endpoints if is_fallback else endpoints:
            if endpoint.key in seen:
                continue
            seen.add(endpoint.key)
            provider = snapshot.providers.get(endpoint.provider)
            rule = rules.against(endpoint, found)
            if rule != _NOT_ALLOWED and provider is not None and not provider.does(operation):
                rule = f"{_LACKS}{operation.value}"
            if provider is None or rule is not None:
                excluded.append(Exclusion(endpoint.key, rule if rule is not None else "no_provider"))
            else:
                timeouts = policy.timeouts.over(endpoint.timeouts.over(provider.timeouts))
                kept.append(Option(Candidate(endpoint, is_fallback, timeouts), provider))
        groups += _grouped(kept)
    if not groups:
        _refuse(resolved, excluded, tenant)
    options = [option for group in groups for option in group]
    return Shortlist(
        model=resolved.model.name,
        policy=policy,
        sort=sort,
        free=resolved.free,
        groups=tuple(groups),
        excluded=tuple(excluded),
        context_min=min(_or_inf(option.endpoint.context_tokens) for option in options),
        output_min=min(_or_inf(option.endpoint.output_tokens_max) for option in options),
    )


def resolve(name: str, kind: Kind, snapshot: Snapshot) -> Resolved | None:
    """A name as a model: an existing name or path as it stands, else with suffixes taken off, else a path to a model
    of a configured provider that nobody declared. None: no such model of this kind."""
    base, free, floor = name, False, False
    while True:
        model = snapshot.models.get(base) or snapshot.endpoints.get(base)
        if model is not None:
            return Resolved(base, model, free, floor) if model.does(kind) else None
        if base.endswith(":free") and not free:
            base, free = base.removesuffix(":free"), True
        elif base.endswith(":floor") and not floor:
            base, floor = base.removesuffix(":floor"), True
        else:
            break
    model = _undeclared(base, kind, snapshot)
    return Resolved(base, model, free, floor) if model is not None else None


def blended_price(card: PriceCard) -> int:
    """Nano-USD of a call of 3,000 input and 1,000 output tokens: one number to compare endpoints by."""
    return 3 * card.input_pico + card.output_pico + card.request_nano


class _Rules(msgspec.Struct, frozen=True):
    """The static filters of one request shape."""

    needs: frozenset[Capability]
    tenant: Tenant
    free: bool
    fence: Fence
    reference: Endpoint
    """The asked model's first endpoint: what the fence measures against."""

    def against(self, endpoint: Endpoint, found: Resolved) -> str | None:
        """The first rule that keeps the endpoint of `found` out."""
        if not _is_allowed(endpoint, found, self.tenant):
            return _NOT_ALLOWED
        missing = sorted(self.needs - endpoint.capabilities)
        if missing:
            return f"{_LACKS}{missing[0]}"
        plan, card = self.tenant.plan, endpoint.price
        if self.free and plan.free_suffix is FreeSuffix.ZERO_PRICED and (card is None or not card.is_free):
            return "not_zero_priced"
        if card is None and plan.on_unpriced is OnUnpriced.DENY:
            return "unpriced"
        return None if endpoint.key == self.reference.key else self._fenced(card)

    def _fenced(self, card: PriceCard | None) -> str | None:
        if self.fence.never_paid and (card is None or not card.is_free):
            return "fence_never_paid"
        ratio = self.fence.max_cost_ratio
        if ratio is None or (card is not None and card.is_free):
            return None
        reference = self.reference.price
        # What has no price cannot be shown to be cheap enough.
        if card is None or reference is None or blended_price(card) > ratio * blended_price(reference):
            return "fence_max_cost_ratio"
        return None


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
        price=_FREE if provider.mock is not None else None,
        capabilities=EVERYTHING,
    )
    return Model(name=path, kind=kind, endpoints=(endpoint,), owner=provider_name)


def _allowed_endpoints(resolved: Resolved, tenant: Tenant) -> tuple[Endpoint, ...]:
    """By priority, then as declared. A pattern may match the name, the model's own name or a single path."""
    usable = (endpoint for endpoint in resolved.model.endpoints if _is_allowed(endpoint, resolved, tenant))
    return tuple(sorted(usable, key=lambda endpoint: endpoint.priority))


def _is_allowed(endpoint: Endpoint, found: Resolved, tenant: Tenant) -> bool:
    names = (found.name, found.model.name, endpoint.model, endpoint.key)
    return not tenant.allow or any(fnmatchcase(name, pattern) for pattern in tenant.allow for name in names)


def _fallbacks(policy: Policy, kind: Kind, asked: Model, snapshot: Snapshot) -> Iterator[Resolved]:
    for name in policy.on_failure:
        resolved = resolve(name, kind, snapshot)
        if resolved is not None and resolved.model.name != asked.name:
            yield resolved


def _grouped(options: list[Option]) -> list[tuple[Option, ...]]:
    """Cut one model's options into groups of equal priority."""
    groups: dict[int, list[Option]] = {}
    for option in options:
        groups.setdefault(option.endpoint.priority, []).append(option)
    return [tuple(groups[rank]) for rank in sorted(groups)]


def _not_found(peek: Peek, tenant: Tenant, snapshot: Snapshot) -> ModelNotFound:
    """The same words for a model that does not exist and for one this tenant may not use."""
    asked, kind = peek.model, KIND_OF[peek.operation]
    named = snapshot.models.get(asked) or snapshot.endpoints.get(asked)
    if named is not None and not named.does(kind) and _allowed_endpoints(Resolved(asked, named), tenant):
        return ModelNotFound(
            f"model {asked!r} is for {named.kind.value}, not for {peek.operation.value}; "
            "GET /v1/models says what each model is for",
            param="model",
        )
    shown = asked if len(asked) <= NAME_MAX else f"{asked[:NAME_MAX]}…"
    message = f"model {shown!r} does not exist or is not available to this key"
    nearest = _nearest(asked, kind, tenant, snapshot) if len(asked) <= SUGGEST_MAX else None
    if nearest is not None:
        message += f"; did you mean {nearest!r}?"
    return ModelNotFound(message, param="model")


def _nearest(asked: str, kind: Kind, tenant: Tenant, snapshot: Snapshot) -> str | None:
    """The most similar name that this tenant may use. A wrong name must not cost much, so a count of common pairs of
    letters picks the few that are compared with care."""
    named = {**snapshot.models, **snapshot.endpoints} if "/" in asked else snapshot.models
    pairs = {asked[index : index + 2] for index in range(len(asked) - 1)}
    ranked = sorted(named, key=lambda name: (-sum(pair in name for pair in pairs), abs(len(name) - len(asked))))
    usable = (
        name for name in ranked if named[name].does(kind) and _allowed_endpoints(Resolved(name, named[name]), tenant)
    )
    found = difflib.get_close_matches(asked, list(itertools.islice(usable, SUGGEST_AMONG)), n=1)
    return found[0] if found else None


def _refuse(resolved: Resolved, excluded: list[Exclusion], tenant: Tenant) -> NoReturn:
    """Nothing is left: the reason that excluded the asked model's first endpoint is the one to tell."""
    rule, name = excluded[0].rule, resolved.name
    lacking = rule.removeprefix(_LACKS)
    if rule.startswith(_LACKS) and lacking in _OPERATIONS:
        raise UnsupportedOperation(
            f"no provider of model {name!r} offers {lacking}; ask for a model of one that does", param="model"
        )
    if rule.startswith(_LACKS):
        what, param = _PARAMS[Capability(lacking)]
        raise InvalidParameter(
            f"model {name!r} takes no {what}; leave that out or ask for a model that does", param=param
        )
    if rule == "not_zero_priced":
        raise FreeNotAllowed(
            f"plan {tenant.plan.name!r} allows ':free' on models without a price only, and {name!r} has one"
        )
    if rule == "unpriced":
        raise PermissionDenied(
            f"model {name!r} has no price and plan {tenant.plan.name!r} denies unpriced models; "
            "give it a price or set on_unpriced in the plan",
            param="model",
            details={"reason": "model_unpriced"},
        )
    raise ModelNotFound(f"model {name!r} does not exist or is not available to this key", param="model")


def _or_inf(value: int | None) -> float:
    return math.inf if value is None else value
