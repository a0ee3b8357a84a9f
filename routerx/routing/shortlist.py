"""The part of a plan that only changes with the configuration: which endpoints a name means, and which may be used.

Pure: names (names.py) and filters (rules.py) over one snapshot. What depends on the moment (circuits, latency) is in
plan.py.
"""

import math
from typing import NoReturn

import msgspec

from routerx.config.snapshot import Snapshot
from routerx.domain.call import Candidate, Exclusion, Operation, Peek, Plan
from routerx.domain.model import Capability, Endpoint
from routerx.domain.policy import Policy, Sort
from routerx.domain.tenant import FreeSuffix, Principal, StoredKeys, Tenant
from routerx.domain.wishes import NO_WISHES, Wishes
from routerx.errors import (
    FreeNotAllowed,
    InvalidParameter,
    NoEndpoint,
    NoHealthyUpstream,
    PermissionDenied,
    RouterXError,
    UnsupportedOperation,
)
from routerx.providers.spec import Provider
from routerx.routing.names import KIND_OF, Found, Meaning, listed, models_named, not_available, not_found, resolve
from routerx.routing.rules import (
    HOUSE_KEY,
    NO_HOUSE_KEY,
    NOT_ALLOWED,
    OTHER_PROVIDER,
    OWN_KEY_LOST,
    UNKNOWN_MODEL,
    WISHED,
    Rules,
    Terms,
    lacks_of,
    stricter,
)

TOLD_MAX = 5
"""Endpoints that an error names for one rule."""

PlanKey = (
    tuple[str, str, Operation, frozenset[Capability]]
    | tuple[str, str, Operation, frozenset[Capability], Wishes, bool, StoredKeys]
)
"""(model as asked, tenant with what its key is restricted to, operation, needs), and the wishes and the own keys where
there are any: what the static part of a plan depends on, beside the snapshot."""

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
    """The caller brings its own credential, which goes before those that are stored for its tenant."""

    @property
    def key(self) -> PlanKey:
        """Under which the static part of its plan is kept."""
        peek, tenant = self.peek, self.principal.tenant.name
        if self.principal.tenant.key_allow:
            tenant = "\0".join((tenant, *self.principal.tenant.key_allow))
        if self.wishes is NO_WISHES and not self.own_key and not self.principal.own_keys:
            return peek.model, tenant, peek.operation, peek.needs
        return peek.model, tenant, peek.operation, peek.needs, self.wishes, self.own_key, self.principal.stored


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
    ordered: bool = False
    """The caller said in which order."""
    sole: Plan | None = None
    """The plan, where there is one option alone: nothing about it depends on the moment."""


class _Link(msgspec.Struct, frozen=True):
    """One model of the chain that is gone along."""

    found: Found
    rank: int
    """Links of one rank are ordered as one."""
    is_fallback: bool = True


def make_shortlist(ask: Ask, snapshot: Snapshot) -> Shortlist:
    """Resolve, filter and group.

    Raises ModelNotFound, FreeNotAllowed, InvalidParameter, PermissionDenied or UnsupportedOperation where nothing could
    serve it, and NoEndpoint where nothing may for what the caller itself wants.
    """
    peek, tenant, wishes = ask.peek, ask.principal.tenant, ask.wishes
    meaning = resolve(peek.model, KIND_OF[peek.operation], peek.needs, snapshot)
    first = next((found for found in meaning.models if found.endpoints(tenant)), None) if meaning is not None else None
    if meaning is None or first is None:
        raise not_found(peek, tenant, snapshot)
    if meaning.free and tenant.plan.free_suffix is FreeSuffix.OFF:
        raise FreeNotAllowed(
            f"the suffix ':free' is switched off in plan {tenant.plan.name!r}; ask for {meaning.name!r}"
        )
    house = snapshot.policies.get(tenant.policy, Policy(name=tenant.policy))
    policy = meaning.policy if meaning.policy is not None else house
    stored, fence = ask.principal.stored, stricter(policy.fence, house.fence)
    terms = Terms(peek, tenant, meaning.free, fence, first.endpoints(tenant)[0], ask.own_key, stored)
    chain, unknown = _chain(ask, meaning, first, policy, snapshot)
    sort = wishes.sort if wishes.sort is not None else meaning.sort
    groups, excluded = _grouped(chain, Rules(terms, wishes), policy, snapshot, by_priority=sort is None)
    if ask.own_key and groups:
        home = _home(groups, wishes, terms.reference, snapshot)
        others = [option.endpoint.key for group in groups for option in group if option.provider.name != home]
        groups = [kept for group in groups if (kept := tuple(each for each in group if each.provider.name == home))]
        excluded += [Exclusion(key, OTHER_PROVIDER) for key in others]
    if not groups:
        try:
            _refuse(meaning, excluded, tenant)
        except RouterXError as error:
            error.excluded = tuple((one.endpoint, one.rule) for one in excluded)
            raise
    options = [option for group in groups for option in group]
    name, ordered = first.model.name if meaning.policy is None else meaning.name, sort is not None or bool(wishes.order)
    left_out = (*excluded, *unknown)
    sole = None
    if len(options) == 1:
        sole = Plan(name, policy, (options[0].candidate,), left_out, meaning.free, bool(wishes.models), ordered)
    return Shortlist(
        model=name,
        policy=policy,
        sort=sort if sort is not None else policy.sort,
        free=meaning.free,
        groups=tuple(groups),
        excluded=left_out,
        context_min=min(_or_inf(option.endpoint.context_tokens) for option in options),
        output_min=min(_or_inf(option.endpoint.output_tokens_max) for option in options),
        ordered=ordered,
        sole=sole,
    )


def _chain(
    ask: Ask, meaning: Meaning, first: Found, policy: Policy, snapshot: Snapshot
) -> tuple[list[_Link], list[Exclusion]]:
    """The models that are gone along: the asked one, then those the caller names, else those the policy has.

    A further name that nobody serves, or not to this tenant, is passed over: a provider that was taken away must not
    fail the requests that could have fallen back to it.
    """
    unknown: list[Exclusion] = []
    peek, wishes, kind = ask.peek, ask.wishes, KIND_OF[ask.peek.operation]
    chain = [_Link(found, rank, found is not first) for rank, found in enumerate(meaning.models)]
    if wishes.models:
        for name in wishes.models:
            named = resolve(name, kind, peek.needs, snapshot)
            if named is None or not any(found.endpoints(ask.principal.tenant) for found in named.models):
                unknown.append(Exclusion(name, UNKNOWN_MODEL))
                continue
            if named.free and not meaning.free:
                raise InvalidParameter(
                    f"{name!r} in 'models' asks for a free answer; put ':free' on the first model, it holds for all",
                    param="models",
                )
            chain += [_Link(found, len(chain) + rank) for rank, found in enumerate(named.models)]
        return ([msgspec.structs.replace(link, rank=0) for link in chain] if wishes.across_models else chain), unknown
    further: list[Found] = []
    if meaning.policy is None:
        lacking = [peek.needs - endpoint.capabilities for endpoint in first.endpoints(ask.principal.tenant)]
        if all(lacking):  # Whatever answers in its place is better than an error that says what it cannot do.
            further += models_named(listed(policy, frozenset.union(*lacking)), kind, snapshot)
    if wishes.allow_fallbacks:
        further += models_named(policy.on_failure, kind, snapshot)
    further = [found for found in further if found.model.name != first.model.name]
    return chain + [_Link(found, len(chain) + rank) for rank, found in enumerate(further)], unknown


def _grouped(
    chain: list[_Link], rules: Rules, policy: Policy, snapshot: Snapshot, *, by_priority: bool
) -> tuple[list[tuple[Option, ...]], list[Exclusion]]:
    """What passes the rules, in groups of what only the moment puts in an order, and what does not.

    By model, then what is asked with the tenant's own keys, then by the caller's order, then by the operator's
    priority, which does not count where the caller says by what to sort. From the first model on that the tenant has a
    key of its own for, the house's keys serve only a tenant that has opted in.
    """
    groups: dict[tuple[int, int, int, int], list[Option]] = {}
    excluded: dict[str, str] = {}
    kept: set[str] = set()
    owned_from = math.inf
    for link in chain:
        for endpoint in sorted(link.found.model.endpoints, key=lambda each: each.priority):
            # What is not allowed under one model's name may be under another's.
            if endpoint.key in kept or excluded.get(endpoint.key, NOT_ALLOWED) != NOT_ALLOWED:
                continue
            provider = snapshot.providers.get(endpoint.provider)
            if provider is None:
                excluded[endpoint.key] = "no_provider"
                continue
            timeouts = policy.timeouts.over(endpoint.timeouts.over(provider.timeouts))
            ways = {own: rules.against(endpoint, provider, link.found, own_key=own) for own in rules.keys_for(provider)}
            if ways.get(True, NOT_ALLOWED) in (None, OWN_KEY_LOST):
                owned_from = min(owned_from, link.rank)
            open_ways = [own_key for own_key, rule in ways.items() if rule is None]
            if not open_ways:
                excluded[endpoint.key] = str(next(iter(ways.values())))
                continue
            kept.add(endpoint.key)
            excluded.pop(endpoint.key, None)
            for own_key in open_ways:
                billing, terms = rules.terms_of(endpoint, own_key=own_key)
                candidate = Candidate(endpoint, link.is_fallback, timeouts, own_key, billing, terms)
                place = rules.place(endpoint, provider)
                rank = (link.rank, 0 if own_key else 1, place, endpoint.priority if by_priority else 0)
                groups.setdefault(rank, []).append(Option(candidate, provider))
    if not rules.falls_back:
        for rank in [rank for rank in groups if rank[0] >= owned_from and rank[1] == 1]:
            excluded.update((option.endpoint.key, HOUSE_KEY) for option in groups.pop(rank))
    return [tuple(groups[rank]) for rank in sorted(groups)], [Exclusion(key, rule) for key, rule in excluded.items()]


def _home(groups: list[tuple[Option, ...]], wishes: Wishes, reference: Endpoint, snapshot: Snapshot) -> str:
    """The one provider that a caller's own key is for: the one that `only` names, else that of the first endpoint of
    the asked model, by the configuration alone: what the moment prefers must not decide who sees a key."""
    if len(wishes.only) == 1:
        named = wishes.only[0].partition("/")[0]
        exact = next((name for name in snapshot.providers if name.lower() == named), None)
        if exact is not None:
            return exact
    asked = (option for group in groups for option in group if not option.candidate.is_fallback_model)
    first = next(asked, None)
    return first.provider.name if first is not None else reference.provider


def _refuse(meaning: Meaning, excluded: list[Exclusion], tenant: Tenant) -> NoReturn:
    """Nothing is left. Where nothing but a key is missing, that is told; where only the caller's wishes keep the asked
    model out, they are; else the reason that excluded its first endpoint."""
    name = meaning.name
    keys = {endpoint.key for found in meaning.models for endpoint in found.model.endpoints}
    asked = [each for each in excluded if each.endpoint in keys and each.rule != NOT_ALLOWED]
    if any(each.rule == OWN_KEY_LOST for each in excluded):
        raise NoHealthyUpstream(
            f"this tenant's own key for a provider of model {name!r} cannot be read any more, and no other key is used "
            "in its place; ask the operator of this gateway to store it again"
        )
    if any(each.rule == NO_HOUSE_KEY for each in asked):
        raise PermissionDenied(
            f"model {name!r} is served with callers' own provider keys only; send yours in X-RouterX-API-Key, or have "
            "the operator of this gateway store it for this tenant",
            param="model",
            details={"reason": NO_HOUSE_KEY},
        )
    unwanted = [each for each in asked if each.rule in WISHED]
    if unwanted:
        raise _no_endpoint(name, unwanted)
    rule = asked[0].rule if asked else NOT_ALLOWED
    lacking = lacks_of(rule)
    if isinstance(lacking, Operation):
        raise UnsupportedOperation(
            f"no provider of model {name!r} offers {lacking.value}; ask for a model of one that does", param="model"
        )
    if lacking is not None:
        what, param = _PARAMS[lacking]
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
    raise not_available(name)


def _no_endpoint(name: str, unwanted: list[Exclusion]) -> NoEndpoint:
    reasons: dict[str, list[str]] = {}
    for exclusion in unwanted:
        reasons.setdefault(exclusion.rule, []).append(exclusion.endpoint)
    told = []
    for rule, keys in reasons.items():
        more = f" and {len(keys) - TOLD_MAX} more" if len(keys) > TOLD_MAX else ""
        told.append(f"{WISHED[rule]} ({', '.join(keys[:TOLD_MAX])}{more})")
    return NoEndpoint(
        f"no endpoint of model {name!r} is left: {'; '.join(told)}; loosen that, or ask for another model",
        param="provider",
        details={"excluded_by": ",".join(reasons)},
    )


def _or_inf(value: int | None) -> float:
    return math.inf if value is None else value
