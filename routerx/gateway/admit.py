"""Steps 3 and 5 of the road: who is calling, and may this start now and be paid for. Decides without awaiting."""

import msgspec

from routerx.config.snapshot import Snapshot
from routerx.domain.call import Exclusion, Operation, Peek, Plan
from routerx.domain.model import Endpoint
from routerx.domain.pricing import ceiling_nano, cost_nano, output_tokens_within
from routerx.domain.tenant import KeyTerms, Principal, Tenant
from routerx.errors import InsufficientBalance, InvalidApiKey, SpendLimitReached, TenantSuspended
from routerx.ledger.base import Hold, Ledger
from routerx.money import parse_usd
from routerx.routing.rules import UNPAYABLE
from routerx.secrets import API_KEY_CHARS_MAX, key_digest


def identify(key: str | None, snapshot: Snapshot, ledger: Ledger, now_ns: int) -> Principal:
    """The principal of a key, by the hash of the whole key (SECURITY.md 1, 2). `now_ns` is the wall clock.

    Raises InvalidApiKey (no key, unknown, revoked, expired: not told apart) or TenantSuspended.
    """
    principal = _lookup(key, snapshot, ledger, now_ns)
    if ledger.suspended(principal.tenant.name):
        raise TenantSuspended("This tenant is suspended. Ask the operator of this gateway.")
    own_keys = ledger.own_keys(principal.tenant.name)
    return msgspec.structs.replace(principal, own_keys=own_keys) if own_keys else principal


def _lookup(key: str | None, snapshot: Snapshot, ledger: Ledger, now_ns: int) -> Principal:
    if not snapshot.server.auth:
        return Principal(next(iter(snapshot.tenants.values())), "auth-off")
    if key is None:
        raise InvalidApiKey("No API key. Send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'.")
    if len(key) <= API_KEY_CHARS_MAX:
        digest = key_digest(key)
        principal = snapshot.keys.get(digest)
        if principal is not None and not ledger.revoked(digest):
            if principal.terms is None:
                return principal
            if not _expired(principal.terms, now_ns):
                return restricted(principal)
        issued = ledger.issued_key(digest)
        if issued is not None and not (issued.terms is not None and _expired(issued.terms, now_ns)):
            tenant = snapshot.tenants.get(issued.tenant)
            if tenant is not None:
                return restricted(Principal(tenant, issued.id, issued.terms))
    raise InvalidApiKey("Incorrect API key. Check the key, or ask the operator of this gateway for a new one.")


def _expired(terms: KeyTerms, now_ns: int) -> bool:
    return terms.expires_ns is not None and now_ns >= terms.expires_ns


def restricted(caller: Principal) -> Principal:
    """The caller with a tenant that may use no more than the key."""
    if caller.terms is None or not caller.terms.allow:
        return caller
    return msgspec.structs.replace(caller, tenant=msgspec.structs.replace(caller.tenant, key_allow=caller.terms.allow))


def output_tokens_expected(peek: Peek, endpoint: Endpoint, tenant: Tenant, usual: int | None = None) -> int:
    """Output tokens to hold for: the caller's own maximum, else the plan's, and no more than is `usual`; never above
    what the endpoint can make."""
    if peek.operation not in (Operation.CHAT, Operation.COMPLETIONS):
        return 0
    tokens = peek.output_tokens_max if peek.output_tokens_max is not None else tenant.plan.hold_output_tokens
    if endpoint.output_tokens_max is not None:
        tokens = min(tokens, endpoint.output_tokens_max)
    if usual is not None:
        tokens = min(tokens, usual)
    return tokens * peek.choices


def tokens_expected(peek: Peek, plan: Plan, caller: Principal) -> int:
    """Input and output together, for the limits on tokens per minute; 0 where neither tenant nor key has one."""
    tenant = caller.tenant
    if tenant.plan.limits.tpm is None and (caller.terms is None or caller.terms.limits.tpm is None):
        return 0
    if peek.metered is not None:
        return peek.metered.most.total_tokens
    return peek.input_tokens_estimate + output_tokens_expected(peek, plan.candidates[0].endpoint, tenant)


def hold_nano(peek: Peek, plan: Plan, tenant: Tenant, usual: int | None = None) -> int:
    """The most this request should cost, over the dearest target of the plan (MONEY.md section 3); with `usual` output
    tokens, the most that one like it mostly costs."""
    if peek.operation is Operation.COUNT_TOKENS:
        return 0
    dearest = 0
    for candidate in plan.candidates:
        terms = candidate.terms
        if terms is None or not candidate.billing.owes:
            continue
        if peek.metered is not None:
            nano = cost_nano(peek.metered.most, terms)
        else:
            tokens = output_tokens_expected(peek, candidate.endpoint, tenant, usual)
            nano = ceiling_nano(terms, peek.input_tokens_estimate, tokens, peek.service_tier)
        if nano > dearest:
            dearest = nano
    return dearest


def place_hold(ledger: Ledger, caller: Principal, peek: Peek, plan: Plan, usual: int | None = None) -> Hold:
    """Hold the money, or raise InsufficientBalance that also says how many output tokens would fit.

    `usual`: output tokens that hardly any answer like this passes. Enough for a stream, whose hold grows with it; a
    whole answer is held for by it only where the most it may cost does not fit.
    """
    tenant = caller.tenant
    try:
        if usual is None:
            return ledger.hold(tenant, hold_nano(peek, plan, tenant), caller)
        try:
            return ledger.hold(tenant, hold_nano(peek, plan, tenant, usual if peek.stream else None), caller)
        except InsufficientBalance:
            return ledger.hold(tenant, hold_nano(peek, plan, tenant, usual), caller)
    except InsufficientBalance as error:
        available = error.details.get("available")
        if isinstance(available, str) and peek.metered is None:
            tokens = affordable_output_tokens(parse_usd(available), peek, plan)
            error.details = {**error.details, "max_affordable_tokens": tokens}
        raise


def within_means(ledger: Ledger, caller: Principal, peek: Peek, plan: Plan, usual: int | None = None) -> Plan:
    """A plan that begins with an own key, without the keys of the house where the tenant cannot pay for them: then
    nothing has to be held for them, and its own go on serving it."""
    own = by_own_keys(plan)
    if own is None:
        return plan
    try:
        ledger.release(place_hold(ledger, caller, peek, plan, usual))
    except (InsufficientBalance, SpendLimitReached):
        return own
    return plan


def by_own_keys(plan: Plan) -> Plan | None:
    """The plan without the keys of the house, where it begins with an own key and goes on to theirs; else None."""
    candidates = tuple(candidate for candidate in plan.candidates if candidate.own_key)
    if not plan.candidates[0].own_key or len(candidates) == len(plan.candidates):
        return None
    kept = {candidate.endpoint.key for candidate in candidates}
    left_out = [key for candidate in plan.candidates if (key := candidate.endpoint.key) not in kept]
    excluded = (*plan.excluded, *(Exclusion(key, UNPAYABLE) for key in left_out))
    return msgspec.structs.replace(plan, candidates=candidates, excluded=excluded)


def affordable_output_tokens(available_nano: int, peek: Peek, plan: Plan) -> int:
    """Output tokens per choice that fit into `available_nano` after the prompt, on the plan's cheapest paid target."""
    best = 0
    for candidate in plan.candidates:
        terms = candidate.terms
        if terms is None or not candidate.billing.owes:
            continue
        tokens = output_tokens_within(terms, available_nano, peek.input_tokens_estimate, peek.service_tier)
        if tokens is not None:
            best = max(best, tokens // peek.choices)
    return max(best, 0)
