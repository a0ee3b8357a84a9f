"""What a tenant may see of the gateway: its own limits and figures, and how the providers of its models are.

Nothing here names another tenant, a key of the house or an amount that is not the tenant's own.
"""

from collections.abc import Callable
from types import MappingProxyType

import msgspec

from routerx.clock import Clock
from routerx.config.snapshot import Snapshot
from routerx.control.provider_values import UsageView
from routerx.control.reports import Reports
from routerx.control.views import iso_time
from routerx.control.vitals import Vitals
from routerx.domain.tenant import KeyTerms, Principal, SpendLimit, Tenant, may_use
from routerx.ledger.base import KeyUse, Ledger
from routerx.limits.base import Limiter
from routerx.limits.bucket import format_duration
from routerx.money import format_usd

_COUNTED = MappingProxyType(
    {
        "rpm": "requests_per_minute",
        "tpm": "tokens_per_minute",
        "concurrency": "concurrency",
        "daily_requests": "daily_requests",
    }
)
"""What callers know the limits of the YAML as."""


class OwnSources(msgspec.Struct, frozen=True):
    """What the views are made of."""

    ledger: Ledger
    limiter: Limiter
    vitals: Vitals
    reports: Reports
    clock: Clock
    circuit: Callable[[str], str]
    """The worst circuit of a provider."""


class OwnViews:
    """Values to encode; `snapshot` is the one the caller was identified by."""

    def __init__(self, sources: OwnSources) -> None:
        self._sources = sources

    def providers(self, snapshot: Snapshot, tenant: Tenant) -> list[dict[str, object]]:
        """The providers that serve at least one model the tenant may use, by name."""
        return [
            {**self._sources.vitals.provider(name), "circuit": self._sources.circuit(name), "models": models}
            for name, models in sorted(_models_by_provider(snapshot, tenant).items())
        ]

    def health(self, snapshot: Snapshot, tenant: Tenant) -> dict[str, object]:
        """Whether requests are welcome, and how many of the tenant's providers are well."""
        reason = self._sources.vitals.unready()
        providers = self.providers(snapshot, tenant)
        usable = sum(one["circuit"] != "open" for one in providers)
        status = "ok" if reason is None and usable else "degraded"
        return {"status": status, "reason": reason, "providers_usable": usable, "providers": providers}

    async def stats(self, snapshot: Snapshot, tenant: Tenant) -> dict[str, object]:
        """What the tenant has used of late."""
        funds = self._sources.ledger.funds(tenant.name)
        report = await self._sources.reports.tokens("day", tenant.name)
        return {
            "tenant": tenant.name,
            "models": len(_own_models(snapshot, tenant)),
            "requests_today": funds.requests_today,
            "spent_today_usd": format_usd(funds.spent_today_nano),
            "spent_month_usd": format_usd(funds.spent_month_nano),
            "last_24h": _own_usage(report.totals),
        }

    async def metrics(self, tenant: Tenant, period: str) -> dict[str, object]:
        """Tokens and charges by provider over a period. Raises NotFound for one that is none."""
        report = await self._sources.reports.tokens(period, tenant.name)
        return {
            "tenant": tenant.name,
            "period": report.period,
            "since": report.since,
            "step_seconds": report.step_seconds,
            "totals": _own_usage(report.totals),
            "series": _own_usage(report.series),
        }

    def rate_limits(self, caller: Principal) -> dict[str, object]:
        """The limits of the plan and of the key, and what is left of them now. None is no limit."""
        limits = self._limits(caller)
        own = None if caller.terms is None else limits["key"]
        return {"tenant": caller.tenant.name, **limits["tenant"], "key": own}

    def key(self, caller: Principal) -> dict[str, object]:
        """The key itself: what holds for it, what it has spent and what is left."""
        terms = caller.terms if caller.terms is not None else KeyTerms()
        use = self._sources.ledger.key_use(caller.tenant.name, caller.key_id)
        limits = self._limits(caller)
        return {
            "id": caller.key_id,
            "tenant": caller.tenant.name,
            "plan": caller.tenant.plan.name,
            "allow": terms.allow,
            "tenant_allow": caller.tenant.allow,
            "expires": None if terms.expires_ns is None else iso_time(terms.expires_ns),
            "limits": limits["key"],
            "tenant_limits": limits["tenant"],
            "spend_limit": _spend_limit(terms.spend_limit, use),
            "requests_today": use.requests_today,
            "spent_today_usd": format_usd(use.spent_today_nano),
            "spent_month_usd": format_usd(use.spent_month_nano),
            "spent_total_usd": format_usd(use.spent_total_nano),
            "held_usd": format_usd(use.held_nano),
        }

    def _limits(self, caller: Principal) -> dict[str, dict[str, object]]:
        """By whose they are, then by what they count."""
        clock = self._sources.clock
        found: dict[str, dict[str, object]] = {of: dict.fromkeys(_COUNTED.values()) for of in ("tenant", "key")}
        for one in self._sources.limiter.standings(caller, clock.monotonic_s(), clock.now_ns()):
            reset = None if one.reset_s is None else format_duration(one.reset_s)
            found[one.of][_COUNTED[one.limit]] = {"limit": one.value, "remaining": one.left, "reset": reset}
        return found

    def status(self, principal: Principal) -> dict[str, object]:
        """Who the caller is."""
        tenant = principal.tenant
        return {
            "authenticated": True,
            "tenant": tenant.name,
            "key_id": principal.key_id,
            "plan": tenant.plan.name,
            "billing": tenant.plan.billing.value,
            "policy": tenant.policy,
            "allow": tenant.allow,
        }


def _spend_limit(limit: SpendLimit | None, use: KeyUse) -> dict[str, str] | None:
    if limit is None:
        return None
    return {
        "amount_usd": format_usd(limit.amount_nano),
        "period": limit.period.value,
        "left_usd": format_usd(use.left_nano(limit)),
    }


def _own_models(snapshot: Snapshot, tenant: Tenant) -> list[str]:
    return [name for name in snapshot.models if may_use(tenant, name)]


def _models_by_provider(snapshot: Snapshot, tenant: Tenant) -> dict[str, int]:
    """How many of the tenant's models each provider serves; one that serves it only by a path counts, too."""
    found: dict[str, int] = {}
    for name in _own_models(snapshot, tenant):
        for provider in {endpoint.provider for endpoint in snapshot.models[name].endpoints}:
            found[provider] = found.get(provider, 0) + 1
    for path, model in snapshot.endpoints.items():
        if may_use(tenant, path):
            found.setdefault(model.endpoints[0].provider, 0)
    return found


def _own_usage(rows: tuple[UsageView, ...]) -> list[dict[str, object]]:
    """Without what the house pays."""
    return [
        {
            "at": row.at,
            "provider": row.provider,
            "requests": row.requests,
            "succeeded": row.succeeded,
            "input_tokens": row.input_tokens,
            "output_tokens": row.output_tokens,
            "cached_tokens": row.cached_tokens,
            "cost_usd": row.cost_usd,
        }
        for row in rows
    ]
