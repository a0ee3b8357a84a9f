"""`plans:`, `tenants:` and their keys → Plan, Tenant and the table of declared keys."""

import msgspec

from routerx.config.compilation import Compilation
from routerx.config.compile_server import digest_of, exposed_at
from routerx.config.prices import pico_per_token
from routerx.config.problems import Path
from routerx.config.schema_customers import LimitsBlock, PlanEntry, TenantEntry, TenantKeyEntry
from routerx.config.snapshot import ServerConfig
from routerx.domain.policy import Policy
from routerx.domain.pricing import PriceCard
from routerx.domain.tenant import Billing, KeyTerms, Limits, OnUnpriced, Plan, Principal, Tenant
from routerx.secrets import API_KEY_CHARS_MAX, key_digest, key_id

DEMO_KEY = "demo_key_fake_123456"
"""Printed in the documentation, so it opens nothing but a demo on this machine."""

DEFAULT_PLAN = "default"


class Customers(msgspec.Struct, frozen=True):
    """Who may call, and on what terms."""

    plans: dict[str, Plan]
    tenants: dict[str, Tenant]
    keys: dict[str, Principal]


def compile_tenants(run: Compilation, server: ServerConfig, policies: dict[str, Policy]) -> Customers:
    """All tenants with their plans and declared keys."""
    plans = {name: _plan(run, name, entry) for name, entry in run.config.plans.items()}
    if DEFAULT_PLAN not in run.declared["plans"]:
        plans[DEFAULT_PLAN] = _plan(run, DEFAULT_PLAN, PlanEntry())
    tenants: dict[str, Tenant] = {}
    for name, entry in run.config.tenants.items():
        path: Path = ("tenants", name)
        plan = plans.get(entry.plan)
        if plan is None and entry.plan not in run.declared["plans"]:
            run.problems.add((*path, "plan"), "no plan has this name", word=entry.plan, valid=run.declared["plans"])
        if entry.policy not in policies and entry.policy not in run.declared["policies"]:
            run.problems.add(
                (*path, "policy"), "no policy has this name", word=entry.policy, valid=run.declared["policies"]
            )
        terms = plan if plan is not None else plans.get(DEFAULT_PLAN, Plan(name=DEFAULT_PLAN))
        tenants[name] = Tenant(
            name=name,
            plan=_of_tenant(terms, entry),
            policy=entry.policy,
            allow=tuple(entry.allow),
            opening_balance_nano=entry.opening_balance,
            byok_fallback=entry.byok_fallback,
        )
    return Customers(plans=plans, tenants=tenants, keys=_keys(run, server, tenants))


def _plan(run: Compilation, name: str, entry: PlanEntry) -> Plan:
    on_unpriced = entry.on_unpriced
    if on_unpriced is None:
        on_unpriced = OnUnpriced.ALLOW_FLAGGED if entry.billing is Billing.OFF else OnUnpriced.DENY
    return Plan(
        name=name,
        billing=entry.billing,
        markup_bp=entry.markup,
        byok_fee_bp=entry.byok_fee,
        limits=Limits(**_limits(entry.limits)),
        spend_limit=entry.spend_limit,
        free_suffix=entry.free_suffix,
        on_unpriced=on_unpriced,
        unpriced_price=_stand_in(run, name, entry, on_unpriced),
        hold_output_tokens=entry.hold_output_tokens,
        on_disconnect=entry.on_disconnect,
        bill_empty=entry.bill_empty,
    )


def _stand_in(run: Compilation, name: str, entry: PlanEntry, on_unpriced: OnUnpriced) -> PriceCard | None:
    """What models without a price are charged by."""
    path: Path = ("plans", name, "unpriced_price")
    if entry.unpriced_price is None:
        if on_unpriced is OnUnpriced.HOLD_ESTIMATE:
            run.problems.add(path[:-1], "has on_unpriced: hold_estimate and no unpriced_price to go by", value=False)
        return None
    if on_unpriced is not OnUnpriced.HOLD_ESTIMATE:
        run.problems.add(path, "is only gone by with on_unpriced: hold_estimate", value=False)
    block = entry.unpriced_price
    return PriceCard(
        input_pico=pico_per_token(block.input, "1M", (*path, "input"), run.problems),
        output_pico=pico_per_token(block.output, "1M", (*path, "output"), run.problems),
    )


def _of_tenant(plan: Plan, entry: TenantEntry) -> Plan:
    """The plan with what the tenant has in its place."""
    own = {name: value for name, value in _limits(entry.limits).items() if value is not None}
    if own:
        plan = msgspec.structs.replace(plan, limits=msgspec.structs.replace(plan.limits, **own))
    if entry.spend_limit is not None:
        plan = msgspec.structs.replace(plan, spend_limit=entry.spend_limit)
    return plan


def _limits(block: LimitsBlock | TenantKeyEntry) -> dict[str, int | None]:
    return {
        "rpm": block.rpm,
        "tpm": block.tpm,
        "concurrency": block.concurrency,
        "daily_requests": block.daily_requests,
    }


def _terms(entry: TenantKeyEntry) -> KeyTerms | None:
    """What holds for one key; None where nothing does."""
    terms = KeyTerms(
        allow=tuple(entry.allow),
        limits=Limits(**_limits(entry)),
        spend_limit=entry.spend_limit,
        expires_ns=entry.expires,
    )
    return terms if terms != KeyTerms() else None


def _keys(run: Compilation, server: ServerConfig, tenants: dict[str, Tenant]) -> dict[str, Principal]:
    keys: dict[str, Principal] = {}
    places: dict[str, Path] = {}
    demo, exposed = key_digest(DEMO_KEY), exposed_at(run, server)
    for name, tenant in tenants.items():
        for index, entry in enumerate(run.config.tenants[name].keys):
            path: Path = ("tenants", name, "keys", index)
            digest = _digest(run, name, index, path)
            if digest is None:
                continue
            if digest == demo and exposed is not None:
                run.problems.add(
                    path,
                    f"is the demo key, which everybody knows, and {exposed} is open to others; "
                    "give the tenant a key of its own, or listen on 127.0.0.1",
                    value=False,
                )
            if digest in server.admin_key_digests:
                run.problems.add(path, "is an admin key as well; a tenant needs a key of its own", value=False)
            other = keys.get(digest)
            if other is not None and other.tenant.name != name:
                place = run.problems.mark(places[digest])
                run.problems.add(path, f"is also a key of tenant {other.tenant.name!r} ({place})", value=False)
            keys[digest] = Principal(tenant=tenant, key_id=key_id(digest), terms=_terms(entry))
            places[digest] = path
    return keys


def _digest(run: Compilation, tenant: str, index: int, path: Path) -> str | None:
    """The digest of one declared key; None when it is empty or no key."""
    text = run.config.tenants[tenant].keys[index].key.reveal()
    if not text:
        run.notice(f"tenants.{tenant}.keys[{index}] is empty and left out")
        return None
    if (digest := digest_of(text)) is not None:
        return digest
    if text.startswith("sha256:"):
        run.problems.add(path, "is not a digest; write sha256: and 64 hexadecimal digits", value=False)
        return None
    if len(text) > API_KEY_CHARS_MAX or not text.isascii() or not text.isprintable() or " " in text:
        run.problems.add(
            path, f"is not a key: a key is at most {API_KEY_CHARS_MAX} characters of ASCII without spaces", value=False
        )
        return None
    if text != DEMO_KEY and not run.by_reference((*path, "key")) and run.problems.mark(path).line:
        run.problems.add(
            path, "is a key in plain text; write its digest (sha256:…), or ${env:NAME} or ${file:/path}", value=False
        )
        return None
    return key_digest(text)
