"""What operators do to keys of tenants: issue, look, limit, revoke. Facts are the ledger's, wishes the YAML's."""

import msgspec

from routerx.clock import Clock
from routerx.config.scalars import parse_duration, parse_expiry, parse_spend_limit
from routerx.config.snapshot import Snapshot, SnapshotHolder
from routerx.control import views
from routerx.control.key_values import KeyDetail, KeyTermsChange, NewKeyOrder
from routerx.control.lookup import require
from routerx.control.values import KeyView, NewKey
from routerx.domain.tenant import KeyTerms, Period, SpendLimit
from routerx.errors import Conflict, InvalidParameter
from routerx.ledger.base import Ledger
from routerx.money import format_usd

TEXT_CHARS_MAX = 500
PATTERNS_MAX = 100
PATTERN_CHARS_MAX = 200
LIMITS = ("rpm", "tpm", "concurrency", "daily_requests")


class KeyOperations:
    """Keys of all tenants. Callers are authorised before; `actor` is the name that the audit trail keeps."""

    def __init__(self, ledger: Ledger, holder: SnapshotHolder, clock: Clock) -> None:
        self._ledger = ledger
        self._holder = holder
        self._clock = clock

    async def every(self, tenant: str | None) -> tuple[KeyView, ...]:
        """The keys of one tenant, or of all: issued ones and those declared in YAML, revoked ones included."""
        if tenant is not None:
            require(tenant, self._snapshot.tenants, "tenant")
        rows = await self._ledger.keys(tenant)
        return views.key_views(rows, self._snapshot.keys, tenant, self._clock.now_ns())

    async def one(self, key_id: str) -> KeyDetail:
        """One key with its terms, and what it has spent. Raises NotFound."""
        view = await self._view(key_id)
        use = self._ledger.key_use(view.tenant, key_id)
        limit = view.spend_limit
        left_nano = None
        if limit is not None:
            left_nano = use.left_nano(SpendLimit(limit.amount_nano, Period(limit.period)))
        return KeyDetail(
            view=view,
            requests_today=use.requests_today,
            spent_today_usd=format_usd(use.spent_today_nano),
            spent_today_nano=use.spent_today_nano,
            spent_month_usd=format_usd(use.spent_month_nano),
            spent_month_nano=use.spent_month_nano,
            spent_total_usd=format_usd(use.spent_total_nano),
            spent_total_nano=use.spent_total_nano,
            held_usd=format_usd(use.held_nano),
            held_nano=use.held_nano,
            left_usd=None if left_nano is None else format_usd(left_nano),
            left_nano=left_nano,
        )

    async def create(self, order: NewKeyOrder, *, actor: str) -> NewKey:
        """A new key; the result is the only place where it can ever be read."""
        require(order.tenant, self._snapshot.tenants, "tenant")
        values = {name: getattr(order, name) for name in KeyTermsChange.__struct_fields__}
        terms = self._changed(KeyTerms(), KeyTermsChange(**values))
        if terms.expires_ns is not None and terms.expires_ns <= self._clock.now_ns():
            raise InvalidParameter("expires is over already; a key needs a time to live.", param="expires")
        key, row = await self._ledger.issue_key(
            order.tenant,
            actor=actor,
            label=short_text(order.label, "label"),
            terms=terms if terms != KeyTerms() else None,
        )
        return NewKey(key=key, view=views.key_view(row, self._clock.now_ns()))

    async def limit(self, key_id: str, change: KeyTermsChange, *, actor: str) -> KeyDetail:
        """Change what holds for an issued key. Raises NotFound; Conflict for a key that is revoked or declared in
        YAML, where it has to be changed."""
        view = await self._view(key_id)
        if view.source == "yaml":
            raise Conflict(
                f"The key {key_id!r} is declared in YAML; change its entry under tenants.{view.tenant}.keys there."
            )
        row = next(row for row in await self._ledger.keys(view.tenant) if row.id == key_id)
        terms = self._changed(row.terms if row.terms is not None else KeyTerms(), change)
        await self._ledger.limit_key(key_id, terms if terms != KeyTerms() else None, actor=actor)
        return await self.one(key_id)

    async def revoke(self, key_id: str, *, actor: str) -> KeyView:
        """Revoke a key for good, by its id. Raises NotFound."""
        await self._view(key_id)
        declared = tuple(self._snapshot.keys.items())
        row = await self._ledger.revoke_key(key_id, declared, actor=actor)
        return views.key_view(row, self._clock.now_ns())

    @property
    def _snapshot(self) -> Snapshot:
        return self._holder.current

    async def _view(self, key_id: str) -> KeyView:
        every = {view.id: view for view in await self.every(None)}
        require(key_id, every, "key")
        return every[key_id]

    def _changed(self, terms: KeyTerms, change: KeyTermsChange) -> KeyTerms:
        """Raises InvalidParameter for what cannot be read."""
        if change.allow is not msgspec.UNSET:
            terms = msgspec.structs.replace(terms, allow=_patterns(change.allow))
        if change.expires is not msgspec.UNSET:
            terms = msgspec.structs.replace(terms, expires_ns=self._expiry(change.expires))
        if change.spend_limit is not msgspec.UNSET:
            terms = msgspec.structs.replace(terms, spend_limit=spend_limit(change.spend_limit))
        limits = {name: getattr(change, name) for name in LIMITS if getattr(change, name) is not msgspec.UNSET}
        return msgspec.structs.replace(terms, limits=msgspec.structs.replace(terms.limits, **limits))

    def _expiry(self, text: str | None) -> int | None:
        if text is None:
            return None
        try:
            return self._clock.now_ns() + int(parse_duration(text) * 1e9)
        except ValueError:
            pass
        try:
            return parse_expiry(text)
        except ValueError:
            raise InvalidParameter(
                "expires is neither a time from now nor a date; write it like 30d or 2027-01-01.", param="expires"
            ) from None


def spend_limit(text: str | None) -> SpendLimit | None:
    """`$5/day`. Raises InvalidParameter."""
    if text is None:
        return None
    try:
        return parse_spend_limit(text)
    except ValueError as error:
        raise InvalidParameter(f"spend_limit {error}.", param="spend_limit") from None


def short_text(text: str | None, param: str) -> str | None:
    """Free text that will be kept for ever: stripped, bounded, None where nothing is left."""
    if text is None:
        return None
    text = text.strip()
    if len(text) > TEXT_CHARS_MAX:
        raise InvalidParameter(f"{param} is limited to {TEXT_CHARS_MAX} characters.", param=param)
    return text or None


def reference_text(text: str | None) -> str | None:
    """A reference that makes a payment count once. An empty one is refused: whoever gives it means to be protected, and
    without a reference the same payment would be credited each time."""
    found = short_text(text, "reference")
    if text is not None and found is None:
        raise InvalidParameter("reference is empty; name the payment, or leave it out.", param="reference")
    return found


def _patterns(allow: tuple[str, ...]) -> tuple[str, ...]:
    if len(allow) > PATTERNS_MAX or any(not 0 < len(one.strip()) <= PATTERN_CHARS_MAX for one in allow):
        raise InvalidParameter(
            f"allow takes at most {PATTERNS_MAX} patterns of 1 to {PATTERN_CHARS_MAX} characters, like gpt-*.",
            param="allow",
        )
    return tuple(one.strip() for one in allow)
