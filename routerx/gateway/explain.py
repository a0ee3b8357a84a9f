"""Explains a request that is not made: the plan it would get now, with the reasons, the hold and the limits.

It asks what the pipeline asks and takes nothing: no hold, no limit, no turn, no probe, no exploration. Tenants are told
no credential, no file and no endpoint that they may not use; operators get those, too.
"""

from collections.abc import Callable, Iterator

import msgspec

from routerx.clock import Clock
from routerx.config.snapshot import Snapshot
from routerx.domain.call import Candidate, Exclusion, Operation, Peek, Plan
from routerx.domain.explanation import (
    CandidateTold,
    CircuitTold,
    DeadlinesTold,
    ExclusionTold,
    Explanation,
    HoldTold,
    LimitTold,
    PriceTold,
    RefusalTold,
    SettingsTold,
)
from routerx.domain.model import Endpoint
from routerx.domain.policy import Policy
from routerx.domain.pricing import ceiling_nano, cost_nano
from routerx.domain.tenant import Billing, Tenant
from routerx.errors import InvalidParameter, RouterXError
from routerx.gateway.admit import by_own_keys, hold_nano, output_tokens_expected, tokens_expected
from routerx.gateway.attempt import first_token_deadline_s
from routerx.gateway.context import Inbound
from routerx.gateway.metadata import tellable
from routerx.gateway.places import endpoint_place, exclusion_place, policy_place
from routerx.gateway.reasons import reason, says, standing
from routerx.gateway.wishes import take_wishes
from routerx.jsonx import request_object
from routerx.ledger.base import TenantFunds
from routerx.limits.base import Limiter, Standing
from routerx.money import format_price_per_million, format_usd
from routerx.routing.onlooker import Onlooker
from routerx.routing.plan import make_plan
from routerx.routing.shortlist import Ask, Shortlist, make_shortlist
from routerx.routing.state import CircuitView, RoutingState

Funds = Callable[[str], TenantFunds]


class _Planned(msgspec.Struct, frozen=True):
    """What planning came to."""

    shortlist: Shortlist | None = None
    plan: Plan | None = None
    excluded: tuple[Exclusion, ...] = ()
    refused: RefusalTold | None = None


class _Case(msgspec.Struct, frozen=True):
    """One request being explained."""

    inbound: Inbound
    ask: Ask
    planned: _Planned
    now_s: float
    for_operator: bool

    @property
    def peek(self) -> Peek:
        return self.ask.peek

    @property
    def snapshot(self) -> Snapshot:
        return self.inbound.snapshot

    @property
    def tenant(self) -> Tenant:
        return self.inbound.principal.tenant


class Explainer:
    """Reads everywhere, owns nothing. `funds` None: there is no ledger to ask."""

    def __init__(self, routing: RoutingState, limiter: Limiter, clock: Clock, funds: Funds | None) -> None:
        self._routing = routing
        self._limiter = limiter
        self._clock = clock
        self._funds = funds

    def explain(
        self, inbound: Inbound, route: str, *, for_operator: bool = False, prompt_tokens: int | None = None
    ) -> Explanation:
        """What would become of `inbound` now. `prompt_tokens`: how long its prompt is to be taken for.

        Raises InvalidJson and InvalidParameter for a request that cannot be read; whatever else would refuse it is part
        of the explanation.
        """
        if inbound.operation is Operation.TRANSCRIPTIONS:
            raise InvalidParameter("Only requests in JSON can be explained, not forms.", param="route")
        fields = {**request_object(inbound.body), **inbound.path_fields}
        rest, wishes = take_wishes(fields, inbound.steering, inbound.operation, inbound.dialect)
        peek = inbound.dialect.peek(inbound.operation, inbound.body, rest)
        if prompt_tokens is not None:  # The estimate is an upper one, about twice what a prompt has.
            peek = msgspec.structs.replace(peek, input_tokens_estimate=2 * prompt_tokens)
        now_s = self._clock.monotonic_s()
        state = Onlooker(self._routing)
        ask = Ask(peek, inbound.principal, wishes, inbound.steering.own_key is not None)
        planned = self._within_means(ask, _planned(ask, inbound.snapshot, state, now_s))
        case = _Case(inbound, ask, planned, now_s, for_operator)
        policy = _policy(case)
        hold = self._hold(case)
        limits = self._limiter.standings(inbound.principal, now_s, self._clock.now_ns())
        return Explanation(
            tenant=case.tenant.name,
            route=route,
            asked=peek.model,
            model=planned.shortlist.model if planned.shortlist is not None else None,
            policy=policy.name,
            sort=planned.shortlist.sort.value if planned.shortlist is not None else None,
            stream=peek.stream,
            needs=tuple(sorted(peek.needs)),
            refused=planned.refused or _refused_by(case, hold, limits),
            candidates=_candidates(case, state),
            excluded=_excluded(case),
            hold=hold,
            limits=tuple(LimitTold(one.limit, one.value, one.left, one.of) for one in limits),
            settings=_settings(case, policy),
        )

    def _within_means(self, ask: Ask, planned: _Planned) -> _Planned:
        """As within_means(): without the keys of the house where a tenant with own keys has no money for them."""
        plan, tenant = planned.plan, ask.principal.tenant
        own = by_own_keys(plan) if plan is not None else None
        available_nano = self._available_nano(tenant) if own is not None else None
        if plan is None or own is None or available_nano is None:
            return planned
        if hold_nano(ask.peek, plan, tenant) <= max(available_nano, 0):
            return planned
        return msgspec.structs.replace(planned, plan=own, excluded=own.excluded)

    def _available_nano(self, tenant: Tenant) -> int | None:
        """What the tenant may spend; None: its plan charges nothing, or nobody knows here."""
        if self._funds is None or tenant.plan.billing is Billing.OFF:
            return None
        funds = self._funds(tenant.name)
        return funds.balance_nano - funds.held_nano - funds.floor_nano

    def _hold(self, case: _Case) -> HoldTold | None:
        plan, tenant, peek = case.planned.plan, case.tenant, case.peek
        if plan is None:
            return None
        amount_nano = hold_nano(peek, plan, tenant)
        available_nano = self._available_nano(tenant)
        outputs = (output_tokens_expected(peek, candidate.endpoint, tenant) for candidate in plan.candidates)
        return HoldTold(
            amount_usd=format_usd(amount_nano),
            amount_nano=amount_nano,
            input_tokens_most=peek.input_tokens_estimate,
            output_tokens_most=max(outputs),
            available_usd=None if available_nano is None else format_usd(available_nano),
            available_nano=available_nano,
            fits=available_nano is None or amount_nano <= max(available_nano, 0),
        )


def _planned(ask: Ask, snapshot: Snapshot, state: RoutingState, now_s: float) -> _Planned:
    shortlist: Shortlist | None = None
    try:
        shortlist = make_shortlist(ask, snapshot)
        plan = make_plan(ask, snapshot, state, now_s)
    except RouterXError as error:
        excluded = tuple(Exclusion(endpoint, rule) for endpoint, rule in error.excluded)
        return _Planned(shortlist, None, excluded, _refusal(error))
    return _Planned(shortlist, plan, plan.excluded)


def _refusal(error: RouterXError) -> RefusalTold:
    return RefusalTold(error.status, error.code, error.message, error.retry_after_s)


def _refused_by(case: _Case, hold: HoldTold | None, limits: tuple[Standing, ...]) -> RefusalTold | None:
    """What stands in the way of a request that has a plan, in the order of the road."""
    if case.planned.plan is None:
        return None
    if hold is not None and not hold.fits:
        message = f"The request needs up to ${hold.amount_usd}, and ${hold.available_usd} is available."
        return RefusalTold(402, "insufficient_balance", message, None)
    tokens = tokens_expected(case.peek, case.planned.plan, case.ask.principal)
    for one in limits:
        needed = min(tokens, one.value) if one.limit == "tpm" else 1
        if one.left < needed:
            message = f"{one.limit} is {one.value}: the request takes {needed}, and {one.left} of it are left."
            return RefusalTold(429, "rate_limit_exceeded", message, None)
    return None


def _policy(case: _Case) -> Policy:
    if case.planned.shortlist is not None:
        return case.planned.shortlist.policy
    name = case.tenant.policy
    return case.snapshot.policies.get(name, Policy(name=name))


# --- candidates


def _candidates(case: _Case, state: RoutingState) -> tuple[CandidateTold, ...]:
    plan, shortlist = case.planned.plan, case.planned.shortlist
    if plan is None or shortlist is None:
        return ()
    circuits: dict[str, list[CircuitView]] = {}
    for view in state.view(case.now_s):
        circuits.setdefault(view.endpoint, []).append(view)
    return tuple(
        _candidate(case, state, (index, candidate), tuple(circuits.get(candidate.endpoint.key, ())))
        for index, candidate in enumerate(plan.candidates)
    )


def _candidate(
    case: _Case, state: RoutingState, place: tuple[int, Candidate], circuits: tuple[CircuitView, ...]
) -> CandidateTold:
    plan, shortlist, peek = case.planned.plan, case.planned.shortlist, case.peek
    assert plan is not None
    assert shortlist is not None
    index, candidate = place
    endpoint = candidate.endpoint
    here = standing(state, endpoint, case.now_s, stream=peek.stream)
    most_nano = _most_nano(case, candidate)
    return CandidateTold(
        n=index + 1,
        endpoint=endpoint.key,
        provider=endpoint.provider,
        model=endpoint.model,
        fallback_model=candidate.is_fallback_model,
        own_key=candidate.own_key,
        why=reason(candidate, shortlist.sort, here, ordered=bool(case.ask.wishes.order)),
        priority=endpoint.priority,
        weight=endpoint.weight,
        latency_s=here.latency_s,
        throughput=here.throughput,
        uptime=here.uptime,
        price=_price(endpoint),
        cost_most_usd=None if most_nano is None else format_usd(most_nano),
        cost_most_nano=most_nano,
        deadlines=_deadlines(case, candidate, more=index + 1 < len(plan.candidates)),
        circuits=()
        if candidate.own_key
        else tuple(_circuit(view, for_operator=case.for_operator) for view in circuits),
        place=endpoint_place(case.snapshot, endpoint) if case.for_operator else None,
    )


def _price(endpoint: Endpoint) -> PriceTold | None:
    card = endpoint.price
    if card is None:
        return None
    return PriceTold(
        format_price_per_million(card.input_pico),
        format_price_per_million(card.output_pico),
        format_usd(card.request_nano),
    )


def _most_nano(case: _Case, candidate: Candidate) -> int | None:
    peek, terms = case.peek, candidate.terms
    if terms is None:
        return None
    if not candidate.billing.owes:
        return 0
    if peek.metered is not None:
        return cost_nano(peek.metered.most, terms)
    tokens = output_tokens_expected(peek, candidate.endpoint, case.tenant)
    return ceiling_nano(terms, peek.input_tokens_estimate, tokens, peek.service_tier)


def _deadlines(case: _Case, candidate: Candidate, *, more: bool) -> DeadlinesTold:
    timeouts, own_s = candidate.timeouts, case.inbound.steering.deadline_s
    total_s = timeouts.total_s if own_s is None else min(own_s, timeouts.total_s)
    stream = case.peek.stream and case.peek.metered is None
    first_token_s = first_token_deadline_s(timeouts, stream=stream, more=more)
    return DeadlinesTold(timeouts.connect_s, min(first_token_s, total_s), timeouts.idle_s, total_s)


def _circuit(view: CircuitView, *, for_operator: bool) -> CircuitTold:
    return CircuitTold(
        credential_id=view.credential_id if for_operator else None,
        circuit=view.circuit,
        credential=view.credential,
        ready_in_s=round(view.ready_in_s, 1),
        failures=view.failures if for_operator else None,
        requests=view.requests if for_operator else None,
    )


# --- what is left out, and the policy


def _excluded(case: _Case) -> tuple[ExclusionTold, ...]:
    shortlist, policy = case.planned.shortlist, _policy(case)
    models = (case.peek.model if shortlist is None else shortlist.model, *_further(policy))
    excluded = case.planned.excluded if case.for_operator else tellable(case.planned.excluded)
    return tuple(
        ExclusionTold(
            endpoint=one.endpoint,
            rule=one.rule,
            says=says(one.rule),
            place=exclusion_place(case.snapshot, one, case.tenant, policy, models) if case.for_operator else None,
        )
        for one in excluded
    )


def _further(policy: Policy) -> Iterator[str]:
    """Models that a policy names."""
    yield from policy.on_failure
    for _, models in policy.by_capability:
        yield from models


def _settings(case: _Case, policy: Policy) -> SettingsTold:
    retry, breaker = policy.retry, policy.breaker
    return SettingsTold(
        attempts_max=retry.attempts_max,
        retries_max=retry.retries_max,
        backoff_min_s=retry.backoff_min_s,
        backoff_max_s=retry.backoff_max_s,
        breaker_error_rate=breaker.error_rate,
        breaker_requests_min=breaker.requests_min,
        breaker_consecutive_max=breaker.consecutive_max,
        breaker_window_s=breaker.window_s,
        breaker_cooldown_s=breaker.cooldown_s,
        breaker_cooldown_max_s=breaker.cooldown_max_s,
        stream_commit=policy.stream.commit.value,
        stream_rescue=policy.stream.rescue,
        hedge_after_s=policy.hedge_after_s,
        affinity_s=policy.affinity_s,
        place=policy_place(case.snapshot, policy) if case.for_operator else None,
    )
