"""From ledger and configuration values to what the control plane shows. Pure: no I/O, no clock."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType

import msgspec

from routerx.control.values import (
    AttemptView,
    AuditView,
    EndpointView,
    Funds,
    KeyView,
    LedgerView,
    LogDetail,
    LogEntry,
    ModelQuery,
    ModelView,
    NextPrice,
    PlanView,
    Rate,
    SpendLimitView,
    TenantSummary,
    TransferView,
    VerifyView,
)
from routerx.domain.call import Operation
from routerx.domain.model import DatedPrice, Endpoint, Kind, Model, Origin
from routerx.domain.pricing import PriceCard
from routerx.domain.record import AttemptRecord, RequestRecord
from routerx.domain.tenant import Billing, KeyTerms, Plan, Principal, SpendLimit, Tenant
from routerx.ledger.base import AuditRow, KeyRow, LedgerHealth, TenantFunds, TransferRow, VerifyReport
from routerx.money import PICO_PER_NANO, format_price_per_million, format_usd
from routerx.providers.spec import CatalogueEndpoint, CatalogueModel
from routerx.secrets import key_id

PER_MILLION = "1M tokens"
PER_REQUEST = "request"
PER_SEARCH = "search"
PER_IMAGE = "image"
PER_CHARACTERS = "1M characters"
PER_SECONDS = "1M seconds"
_KINDS: Mapping[str, Kind] = MappingProxyType(
    {Operation.SPEECH: Kind.SPEECH, Operation.TRANSCRIPTIONS: Kind.TRANSCRIPTION, Operation.IMAGES: Kind.IMAGE}
)
"""What models do that may be billed by something else than tokens, by the operation of a record."""


def iso_time(ns: int) -> str:
    """Nanoseconds since the epoch → `2026-01-02T03:04:05.678Z`."""
    seconds, rest = divmod(ns, 10**9)
    instant = datetime.fromtimestamp(seconds, UTC)
    return f"{instant:%Y-%m-%dT%H:%M:%S}.{rest // 10**6:03d}Z"


def funds_view(funds: TenantFunds, plan: Plan) -> Funds:
    available = None if plan.billing is Billing.OFF else funds.balance_nano - funds.held_nano - funds.floor_nano
    left = None if plan.spend_limit is None else funds.left_nano(plan.spend_limit)
    return Funds(
        balance_usd=format_usd(funds.balance_nano),
        balance_nano=funds.balance_nano,
        held_usd=format_usd(funds.held_nano),
        held_nano=funds.held_nano,
        available_usd=None if available is None else format_usd(available),
        available_nano=available,
        spent_today_usd=format_usd(funds.spent_today_nano),
        spent_today_nano=funds.spent_today_nano,
        spent_month_usd=format_usd(funds.spent_month_nano),
        spent_month_nano=funds.spent_month_nano,
        spent_total_usd=format_usd(funds.spent_total_nano),
        spent_total_nano=funds.spent_total_nano,
        left_usd=None if left is None else format_usd(left),
        left_nano=left,
        requests_today=funds.requests_today,
    )


def tenant_summary(tenant: Tenant, funds: TenantFunds) -> TenantSummary:
    return TenantSummary(
        name=tenant.name,
        plan=tenant.plan.name,
        billing=tenant.plan.billing.value,
        policy=tenant.policy,
        suspended=funds.suspended,
        suspend_reason=funds.suspend_reason,
        funds=funds_view(funds, tenant.plan),
    )


def plan_view(plan: Plan) -> PlanView:
    return PlanView(
        name=plan.name,
        billing=plan.billing.value,
        markup_bp=plan.markup_bp,
        limits=plan.limits,
        spend_limit=spend_limit_view(plan.spend_limit),
        free_suffix=plan.free_suffix.value,
        on_unpriced=plan.on_unpriced.value,
    )


def spend_limit_view(limit: SpendLimit | None) -> SpendLimitView | None:
    if limit is None:
        return None
    return SpendLimitView(format_usd(limit.amount_nano), limit.amount_nano, limit.period.value)


def transfer_view(row: TransferRow) -> TransferView:
    return TransferView(
        id=row.id,
        at=iso_time(row.ts_ns),
        kind=row.kind,
        tenant=row.tenant,
        amount_usd=format_usd(row.amount_nano),
        amount_nano=row.amount_nano,
        balance_usd=format_usd(row.balance_nano),
        balance_nano=row.balance_nano,
        request_id=row.request_id,
        reference=row.reference,
        actor=row.actor,
        note=row.note,
        repeated=row.repeated,
    )


def audit_view(row: AuditRow) -> AuditView:
    return AuditView(row.id, iso_time(row.ts_ns), row.actor, row.action, row.subject, row.detail)


def key_view(row: KeyRow, now_ns: int) -> KeyView:
    declared = row.source == "yaml"  # A tombstone: the row's own times are those of the revocation.
    view = KeyView(
        id=row.id,
        tenant=row.tenant,
        source=row.source,
        active=row.revoked_ns is None,
        label=row.label,
        created=None if declared else iso_time(row.created_ns),
        revoked=None if row.revoked_ns is None else iso_time(row.revoked_ns),
    )
    return _with_terms(view, row.terms, now_ns)


def _with_terms(view: KeyView, terms: KeyTerms | None, now_ns: int) -> KeyView:
    if terms is None:
        return view
    return msgspec.structs.replace(
        view,
        active=view.active and (terms.expires_ns is None or now_ns < terms.expires_ns),
        expires=None if terms.expires_ns is None else iso_time(terms.expires_ns),
        allow=terms.allow,
        limits=terms.limits,
        spend_limit=spend_limit_view(terms.spend_limit),
    )


def key_views(
    rows: Iterable[KeyRow], declared: Mapping[str, Principal], tenant: str | None, now_ns: int
) -> tuple[KeyView, ...]:
    """The ledger's keys and those declared in YAML (`declared` is keyed by digest), by tenant; active ones first."""
    views = [key_view(row, now_ns) for row in rows]
    known = {view.id for view in views}
    for digest, principal in declared.items():
        name = principal.tenant.name
        if tenant in (None, name) and principal.key_id not in known and key_id(digest) not in known:
            plain = KeyView(
                id=principal.key_id,
                tenant=name,
                source="yaml",
                active=True,
                label=None,
                created=None,
                revoked=None,
            )
            views.append(_with_terms(plain, principal.terms, now_ns))
    return tuple(sorted(views, key=lambda view: (view.tenant, not view.active, view.created or "", view.id)))


def price_view(card: PriceCard, kind: Kind) -> dict[str, Rate]:
    """Every price the card states, by unit, input and output first; `long_…` ones count above `long_above_tokens`.

    What is not billed by the token says so: its card prices the one bucket in which characters, seconds or images of
    this kind of model are metered, and nothing that it writes.
    """
    if not card.output_pico and not card.is_free:
        match kind:
            case Kind.SPEECH if not card.audio_out_pico and card.input_pico:
                return {"characters": _rate(card.input_pico, PER_CHARACTERS)}
            case Kind.TRANSCRIPTION if not card.input_pico and card.audio_in_pico:
                return {"seconds": _rate(card.audio_in_pico, PER_SECONDS)}
            case Kind.IMAGE if not card.input_pico and not card.image_out_pico and card.request_nano:
                return {"image": _each(card.request_nano, PER_IMAGE)}
    rates: dict[str, Rate] = {}
    for field in card.__struct_fields__:
        value: int | None = getattr(card, field)
        if value is None or field == "tiers":  # These have views of their own.
            continue
        if field.endswith("_pico"):
            rates[field.removesuffix("_pico")] = _rate(value, PER_MILLION)
        elif field == "request_nano" and value:
            rates["request"] = _each(value, PER_REQUEST)
        elif field == "search_nano" and value:
            rates["search"] = _each(value, PER_SEARCH)
    return rates


def _tier_views(card: PriceCard, kind: Kind) -> dict[str, dict[str, Rate]]:
    return {tier.name: price_view(tier.card, kind) for tier in card.tiers or ()}


def _next_price(coming: DatedPrice | None, kind: Kind) -> NextPrice | None:
    if coming is None or coming.from_ns is None:
        return None
    card = coming.card
    return NextPrice(iso_time(coming.from_ns), price_view(card, kind), card.long_above_tokens, _tier_views(card, kind))


def _rate(pico: int, per: str) -> Rate:
    return Rate(usd=format_price_per_million(pico), per=per, pico=pico)


def _each(nano: int, per: str) -> Rate:
    return Rate(usd=format_usd(nano), per=per, pico=nano * PICO_PER_NANO)


def endpoint_view(endpoint: Endpoint, kind: Kind) -> EndpointView:
    return EndpointView(
        key=endpoint.key,
        provider=endpoint.provider,
        upstream_model=endpoint.upstream_model,
        price=None if endpoint.price is None else price_view(endpoint.price, kind),
        long_above_tokens=None if endpoint.price is None else endpoint.price.long_above_tokens,
        capabilities=tuple(sorted(capability.value for capability in endpoint.capabilities)),
        context_tokens=endpoint.context_tokens,
        output_tokens_max=endpoint.output_tokens_max,
        priority=endpoint.priority,
        weight=endpoint.weight,
        price_source=None if endpoint.price_origin is None else endpoint.price_origin.source,
        price_as_of=None if endpoint.price_origin is None else endpoint.price_origin.as_of,
        tiers={} if endpoint.price is None else _tier_views(endpoint.price, kind),
        next_price=_next_price(endpoint.next_price, kind),
    )


def offer_view(model: CatalogueModel, offer: CatalogueEndpoint) -> EndpointView:
    """An offer of a vendor as it would be, were the vendor configured under its own name."""
    return endpoint_view(
        Endpoint(
            key=f"{offer.provider}/{offer.model}",
            provider=offer.provider,
            model=model.name,
            upstream_model=offer.model,
            price=offer.price,
            capabilities=model.capabilities | offer.also_can,
            context_tokens=offer.context_tokens,
            output_tokens_max=offer.output_tokens_max,
            price_origin=None if offer.price is None else Origin(offer.source, model.as_of),
        ),
        model.kind,
    )


def model_view(name: str, model: Model) -> ModelView:
    """`name` is what callers ask for; it differs from the model's own where it is an alias."""
    own = own_name(model)
    return ModelView(
        name=name,
        kind=model.kind.value,
        owner=model.owner,
        alias_of=own if own != name else None,
        released=f"{datetime.fromtimestamp(model.created, UTC):%Y-%m-%d}" if model.created else None,
        endpoints=tuple(endpoint_view(endpoint, model.kind) for endpoint in model.endpoints),
    )


def own_name(model: Model) -> str:
    """What a model is called by itself: an alias is a copy under another name, whose endpoints keep the model's own.

    A `provider/model` path is its own name."""
    if not model.endpoints or model.endpoints[0].key == model.name:
        return model.name
    return model.endpoints[0].model


def unserved_view(model: CatalogueModel) -> ModelView:
    """A model of the catalogue that no configured provider serves."""
    return ModelView(
        name=model.name,
        kind=model.kind.value,
        owner=model.owner,
        alias_of=None,
        released=model.released,
        endpoints=(),
        aliases=model.aliases,
    )


def model_matches(model: ModelView, query: ModelQuery) -> bool:
    """Whether a filter lets it through; offers of vendors that are not configured count where they are asked for."""
    endpoints = (*model.endpoints, *model.elsewhere) if query.everywhere else model.endpoints
    if query.kind is not None and query.kind != model.kind:
        return False
    if query.provider is not None and not any(query.provider == endpoint.provider for endpoint in endpoints):
        return False
    if query.capability is not None and not any(query.capability in endpoint.capabilities for endpoint in endpoints):
        return False
    if query.search is None:
        return True
    texts = (model.name, model.owner, *(endpoint.upstream_model for endpoint in endpoints))
    return any(query.search.casefold() in text.casefold() for text in texts)


def log_entry(record: RequestRecord) -> LogEntry:
    usage = record.usage
    return LogEntry(
        id=record.id,
        at=iso_time(record.started_ns),
        tenant=record.tenant,
        key_id=record.key_id,
        operation=record.operation,
        model=record.model,
        served_model=record.served_model,
        provider=record.provider,
        endpoint=record.endpoint,
        stream=record.stream,
        outcome=record.outcome,
        http_status=record.http_status,
        billing=record.billing.value,
        input_tokens=None if usage is None else usage.input_tokens,
        output_tokens=None if usage is None else usage.output_tokens,
        usage_source=record.usage_source.value,
        cost_usd=format_usd(record.cost_nano),
        cost_nano=record.cost_nano,
        ttft_ms=record.ttft_ms,
        duration_ms=record.duration_ms,
        attempts=len(record.attempts),
        user=record.user,
        app=record.app,
        flags=record.flags,
    )


def log_detail(record: RequestRecord) -> LogDetail:
    return LogDetail(
        entry=log_entry(record),
        held_usd=format_usd(record.held_nano),
        held_nano=record.held_nano,
        provider_cost_usd=format_usd(record.provider_cost_nano),
        provider_cost_nano=record.provider_cost_nano,
        overhead_us=record.overhead_us,
        usage=None if record.usage is None else msgspec.structs.asdict(record.usage),
        price=None if record.price is None else price_view(record.price.card, _KINDS.get(record.operation, Kind.CHAT)),
        long_above_tokens=None if record.price is None else record.price.card.long_above_tokens,
        markup_bp=None if record.price is None else record.price.markup_bp,
        attempts=tuple(attempt_view(attempt) for attempt in record.attempts),
        tier=None if record.price is None else record.price.tier,
    )


def attempt_view(attempt: AttemptRecord) -> AttemptView:
    return AttemptView(
        n=attempt.n,
        endpoint=attempt.endpoint,
        provider=attempt.provider,
        credential_id=attempt.credential_id,
        outcome=attempt.outcome,
        upstream_status=attempt.upstream_status,
        dispatched=attempt.dispatched,
        started_ms=attempt.started_ms,
        first_byte_ms=attempt.first_byte_ms,
        duration_ms=attempt.duration_ms,
        won=attempt.won,
        cost_est_usd=format_usd(attempt.cost_est_nano),
        cost_est_nano=attempt.cost_est_nano,
    )


def verify_view(report: VerifyReport) -> VerifyView:
    return VerifyView(
        ok=not report.violations,
        violations=report.violations,
        checked_transfers=report.checked_transfers,
        checked_requests=report.checked_requests,
        tenants=report.tenants,
        duration_ms=report.duration_ms,
    )


def ledger_view(health: LedgerHealth) -> LedgerView:
    return LedgerView(
        ok=health.ok,
        reason=health.reason,
        synchronous=health.synchronous,
        flush_us=health.flush_us,
        survives_power_loss=health.survives_power_loss,
        queue=health.queue,
        held_usd=format_usd(health.held_nano),
        held_nano=health.held_nano,
        suspects=health.suspects,
        details=health.details,
    )
