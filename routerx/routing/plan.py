"""The plan of one request: candidates in order, best first, without those that cannot be called now.

The static part (names, permissions, capabilities, prices) is prepared once per shape of request and cached in the
state; per request only circuits, sizes and latencies are looked at. Synchronous; time and randomness come in.
"""

import math

from routerx.config.snapshot import Snapshot
from routerx.domain.call import Candidate, Exclusion, Peek, Plan
from routerx.domain.tenant import Principal
from routerx.errors import NoHealthyUpstream
from routerx.routing.shortlist import Option, Shortlist, make_shortlist
from routerx.routing.state import RoutingState

Groups = tuple[tuple[Option, ...], ...]


def make_plan(peek: Peek, principal: Principal, snapshot: Snapshot, state: RoutingState, now_s: float) -> Plan:
    """Where this request may go. `now_s` is monotonic.

    Raises ModelNotFound, FreeNotAllowed, InvalidParameter or PermissionDenied (nothing could ever serve it), or
    NoHealthyUpstream with the earliest probe as retry_after_s (nothing can serve it now).
    """
    key = (peek.model, principal.tenant.name, peek.operation, peek.needs)
    shortlist = state.plans.get(snapshot, key)
    if shortlist is None:
        shortlist = make_shortlist(peek, principal.tenant, snapshot)
        state.plans.put(key, shortlist)
    groups, excluded = shortlist.groups, shortlist.excluded
    if _needs_fitting(peek, shortlist):
        groups, unfit = _fitting(peek, groups)
        excluded += unfit
    candidates: list[Candidate] = []
    blocked: list[Option] = []
    for group in groups:
        ready = []
        for option in group:
            if state.ready_s(option.provider, option.candidate.endpoint.key, now_s) <= now_s:
                ready.append(option)
            else:
                blocked.append(option)
        if len(ready) > 1:
            # Only what is tried first is measured, so only the first group has an unknown latency to explore.
            ready = _by_latency(ready, peek, state, now_s, explores=not candidates)
        candidates += [option.candidate for option in ready]
    if blocked:
        excluded += tuple(_exclusion(option, state, now_s) for option in blocked)
    if not candidates:
        raise _none_healthy(shortlist.model, blocked, state, now_s)
    return Plan(shortlist.model, shortlist.policy, tuple(candidates), excluded, shortlist.free)


def no_healthy(plan: Plan, snapshot: Snapshot, state: RoutingState, now_s: float) -> NoHealthyUpstream:
    """The error for a plan of which no candidate gave a credential: their probes were taken since it was made."""
    options = [
        Option(candidate, snapshot.providers[candidate.endpoint.provider])
        for candidate in plan.candidates
        if candidate.endpoint.provider in snapshot.providers
    ]
    return _none_healthy(plan.model, options, state, now_s)


def _none_healthy(model: str, blocked: list[Option], state: RoutingState, now_s: float) -> NoHealthyUpstream:
    earliest = min((state.ready_s(each.provider, each.endpoint.key, now_s) for each in blocked), default=math.inf)
    if math.isinf(earliest):
        return NoHealthyUpstream(f"no provider of model {model!r} has a usable credential")
    wait_s = max(0.0, earliest - now_s)
    return NoHealthyUpstream(
        f"every provider of model {model!r} is failing or resting; the next one is tried in {wait_s:.0f} s",
        retry_after_s=wait_s,
    )


def _exclusion(option: Option, state: RoutingState, now_s: float) -> Exclusion:
    key = option.endpoint.key
    return Exclusion(key, state.why_blocked(option.provider, key, now_s))


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


# --- order


def _by_latency(
    options: list[Option], peek: Peek, state: RoutingState, now_s: float, *, explores: bool
) -> list[Option]:
    """Fastest first, equals (within a tenth) by weighted chance. Unknown latencies go to the middle, except that
    each of them is put first once per interval: it gets known, and one that never answers does not sit in front."""
    known: list[tuple[int, float, int, Option]] = []
    unknown: list[Option] = []
    for index, option in enumerate(options):
        endpoint = option.candidate.endpoint
        latency_s = state.latency_s(endpoint.key, now_s, stream=peek.stream)
        if latency_s is None:
            unknown.append(option)
        else:
            step = int(10.0 * math.log(max(latency_s, 1e-3)))
            known.append((step, _draw(endpoint.weight, state), index, option))
    known.sort()
    order = [option for _, _, _, option in known]
    if not unknown:
        return order
    if len({option.candidate.endpoint.weight for option in unknown}) > 1:
        unknown.sort(key=lambda option: _draw(option.candidate.endpoint.weight, state))
    first: list[Option] = []
    if explores:
        for option in unknown:
            if state.explore(option.candidate.endpoint, now_s):
                first.append(option)
                unknown.remove(option)
                break
    middle = (len(order) + 1) // 2
    return [*first, *order[:middle], *unknown, *order[middle:]]


def _draw(weight: int, state: RoutingState) -> float:
    """A random key; the smallest of several is each one's in proportion to its weight (Efraimidis and Spirakis)."""
    return -(state.rng.random() ** (1.0 / weight)) if weight > 0 else 0.0
