"""How a request is billed by who answers it, and on which terms."""

from routerx.domain.model import Endpoint
from routerx.domain.pricing import PriceSnapshot, fee_terms
from routerx.domain.record import BillingMode
from routerx.domain.tenant import Billing, OnUnpriced, Tenant


def terms_of(
    endpoint: Endpoint, tenant: Tenant, *, free: bool, own_key: bool
) -> tuple[BillingMode, PriceSnapshot | None]:
    """The billing of an answer by `endpoint`; no terms where neither it nor the plan says a price. `free`: `:free` was
    asked for and is allowed; `own_key`: it is asked with the tenant's own key, not with the house's."""
    is_own = own_key and not free
    card = endpoint.price
    if card is None and not own_key and tenant.plan.on_unpriced is OnUnpriced.HOLD_ESTIMATE:
        card = tenant.plan.unpriced_price
    if card is None:
        if tenant.plan.billing is Billing.OFF:
            return BillingMode.OFF, None
        return (BillingMode.BYOK if is_own else BillingMode.FREE), None
    terms = PriceSnapshot(card, tenant.plan.markup_bp)
    if tenant.plan.billing is Billing.OFF:
        return BillingMode.OFF, terms
    if is_own:  # The caller pays the provider itself, and at most a fee here (MONEY.md row Q).
        return BillingMode.BYOK, fee_terms(card, tenant.plan.byok_fee_bp)
    if free or card.is_free:
        return BillingMode.FREE, terms
    return BillingMode.PAID, terms
