"""The plan of one request: candidates in order, best first, without those that cannot be called now.

The static part (names, permissions, capabilities, prices, wishes) is prepared once per shape of request and cached in
the state; per request only circuits, sizes and latencies are looked at. Synchronous; time and randomness come in.
"""

import math

import msgspec

from routerx.config.snapshot import Snapshot
from routerx.domain.call import Candidate, Exclusion, Peek, Plan
from routerx.errors import NoHealthyUpstream, UpstreamsLimited
from routerx.routing.order import OrderView, arrange
from routerx.routing.rules import NO_FALLBACKS
from routerx.routing.shortlist import Ask, Option, Shortlist, make_shortlist
from routerx.routing.state import RoutingState

Groups = tuple[tuple[Option, ...], ...]

LIMITED = frozenset({"provider_limited", "credential_rpm", "credential_tpm", "credential_cooling", "credential_paced"})
"""Rules by which an endpoint is not ill, only asked too often."""


def make_plan(ask: Ask, snapshot: Snapshot, state: RoutingState, now_s: float) -> Plan:
    """Where this request may go. `now_s` is monotonic.

    Raises what make_shortlist() raises (nothing could ever serve it); where nothing can serve it now, UpstreamsLimited
    if only rate limits are in the way, else NoHealthyUpstream, both with the earliest time as retry_after_s.
    """
    peek, wishes = ask.peek, ask.wishes
    key = ask.key
    shortlist = state.plans.get(snapshot, key)
    if shortlist is None:
        shortlist = make_shortlist(ask, snapshot)
        state.plans.put(key, shortlist)
    groups, excluded = shortlist.groups, shortlist.excluded
    if shortlist.sole is not None and _is_ready(groups[0][0], peek, state, now_s):
        return shortlist.sole
    if _needs_fitting(peek, shortlist):
        groups, unfit = _fitting(peek, groups)
        excluded += unfit
    candidates: list[Candidate] = []
    blocked: list[Option] = []
    for group in groups:
        ready: list[Option] = []
        for option in group:
            (ready if _is_ready(option, peek, state, now_s) else blocked).append(option)
        if len(ready) > 1:
            # Only what is tried first is measured, so only the first group has an unknown endpoint to explore.
            view = OrderView(
                shortlist.sort,
                shortlist.model,
                peek.stream,
                not candidates,
                wishes.max_latency,
                wishes.min_throughput,
            )
            ready = arrange(ready, view, state, now_s)
        candidates += [option.candidate for option in ready]
    if blocked:
        lack = _lack(blocked, state, now_s, peek.tokens_likely)
        if not candidates:
            # Raised without a name here: a frame that holds its own exception is left to the garbage collector, and in
            # an outage there are thousands of them a second.
            raise _none_ready(shortlist.model, lack, now_s, excluded + lack.out)
        excluded += lack.out
    if not wishes.allow_fallbacks and not wishes.order:
        excluded += tuple(Exclusion(candidate.endpoint.key, NO_FALLBACKS) for candidate in candidates[1:])
        del candidates[1:]
    return Plan(
        model=shortlist.model,
        policy=shortlist.policy,
        candidates=tuple(candidates),
        excluded=excluded,
        free=shortlist.free,
        any_error=bool(wishes.models),
        ordered=shortlist.ordered,
    )


def _is_ready(option: Option, peek: Peek, state: RoutingState, now_s: float) -> bool:
    """Whether it can be called now. What keeps the house's keys from being used says nothing of a caller's own."""
    if option.candidate.own_key:
        return True
    tokens = peek.tokens_likely if option.provider.limits_tokens else 1
    return state.ready_s(option.provider, option.candidate.endpoint.key, now_s, tokens) <= now_s


def no_healthy(
    plan: Plan, snapshot: Snapshot, state: RoutingState, now_s: float, tokens: int = 1
) -> NoHealthyUpstream | UpstreamsLimited:
    """The error for a plan of which no candidate gave a credential: their probes, or the last of their limits, were
    taken since it was made. `tokens`: what the request takes of a limit."""
    options = [
        Option(candidate, snapshot.providers[candidate.endpoint.provider])
        for candidate in plan.candidates
        if candidate.endpoint.provider in snapshot.providers
    ]
    return _none_ready(plan.model, _lack(options, state, now_s, tokens), now_s)


class _Lack(msgspec.Struct, frozen=True):
    """Why nothing of what is blocked can be called now, and from when on something can."""

    out: tuple[Exclusion, ...]
    earliest_s: float


def _lack(blocked: list[Option], state: RoutingState, now_s: float, tokens: int) -> _Lack:
    ends = [(option.provider, option.endpoint.key) for option in blocked]
    return _Lack(
        tuple(Exclusion(key, state.why_blocked(provider, key, now_s, tokens)) for provider, key in ends),
        min((state.ready_s(provider, key, now_s, tokens) for provider, key in ends), default=math.inf),
    )


def _none_ready(
    model: str, lack: _Lack, now_s: float, excluded: tuple[Exclusion, ...] = ()
) -> NoHealthyUpstream | UpstreamsLimited:
    error: NoHealthyUpstream | UpstreamsLimited
    wait_s = max(0.0, lack.earliest_s - now_s)
    if math.isinf(lack.earliest_s):
        error = NoHealthyUpstream(f"no provider of model {model!r} has a usable credential")
    elif LIMITED.issuperset([each.rule for each in lack.out]):
        error = UpstreamsLimited(
            f"every provider of model {model!r} has reached a rate limit; the next call fits in {math.ceil(wait_s)} s",
            retry_after_s=wait_s,
        )
    else:
        error = NoHealthyUpstream(
            f"every provider of model {model!r} is failing or resting; the next one is tried in {wait_s:.0f} s",
            retry_after_s=wait_s,
        )
    error.excluded = tuple((one.endpoint, one.rule) for one in excluded)
    return error


# --- sizes


def _needs_fitting(peek: Peek, shortlist: Shortlist) -> bool:
    output = peek.output_tokens_max
    return peek.input_tokens_estimate > 2 * shortlist.context_min or (
        output is not None and output > shortlist.output_min
    )


def _fitting(peek: Peek, groups: Groups) -> tuple[Groups, tuple[Exclusion, ...]]:
    """Drop what is too small, as long as something else is not: if nothing fits, the upstream shall say so itself.

    The estimate of the prompt is an upper one, so only a window smaller than half of it is surely too small.
    """
    excluded: list[Exclusion] = []
    output = peek.output_tokens_max
    for rule in ("context_too_small", "output_too_small"):
        small = set()
        for group in groups:
            for option in group:
                context, output_max = option.endpoint.context_tokens, option.endpoint.output_tokens_max
                if rule == "context_too_small":
                    is_small = context is not None and peek.input_tokens_estimate > 2 * context
                else:
                    is_small = output is not None and output_max is not None and output > output_max
                if is_small:
                    small.add(option.endpoint.key)
        kept = tuple(tuple(each for each in group if each.endpoint.key not in small) for group in groups)
        if any(kept):
            groups = kept
            excluded += [Exclusion(key, rule) for key in sorted(small)]
    return groups, tuple(excluded)
