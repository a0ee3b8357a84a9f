"""`plans:` and `tenants:` as the file writes them: who may call, and on what terms."""

from typing import Annotated

from pydantic import Field

from routerx.config.blocks import Block, ShortBlock
from routerx.config.scalars import (
    Count,
    Expiry,
    MoneyNano,
    PercentBp,
    Price,
    SecretText,
    SpendLimitText,
    Text,
)
from routerx.domain.tenant import BillEmpty, Billing, FreeSuffix, OnDisconnect, OnUnpriced


class LimitsBlock(Block):
    """Ceilings of one tenant; unset is no limit."""

    rpm: Annotated[Count | None, Field(description="Requests per minute.")] = None
    tpm: Annotated[Count | None, Field(description="Tokens per minute.")] = None
    concurrency: Annotated[Count | None, Field(description="Requests at once.")] = None
    daily_requests: Annotated[Count | None, Field(description="Requests per UTC day.")] = None


class StandInBlock(Block):
    """What tokens of models without a price are charged by, in USD per million."""

    input: Annotated[Price, Field(description="Input tokens, per million.")]
    output: Annotated[Price, Field(description="Output tokens, per million.")]


class PlanEntry(Block):
    """Commercial terms that tenants share."""

    billing: Annotated[Billing, Field(description="prepaid: never below 0; postpaid: may owe; off: not charged.")] = (
        Billing.PREPAID
    )
    markup: Annotated[PercentBp, Field(description="Added to list prices.")] = 0
    byok_fee: Annotated[
        PercentBp, Field(description="Owed, of the list price, for requests made with the caller's own key.")
    ] = 0
    limits: Annotated[LimitsBlock, Field(description="Ceilings.")] = LimitsBlock()
    spend_limit: Annotated[
        SpendLimitText | None, Field(description="Most that is charged per day, week, month or in total.")
    ] = None
    free_suffix: Annotated[FreeSuffix, Field(description="Which models `:free` may be put on.")] = (
        FreeSuffix.ZERO_PRICED
    )
    on_unpriced: Annotated[
        OnUnpriced | None,
        Field(description="A model without a price. Unset: deny, or allow_flagged when billing is off."),
    ] = None
    unpriced_price: Annotated[
        StandInBlock | None, Field(description="What it is charged by with `hold_estimate`, until it is re-rated.")
    ] = None
    hold_output_tokens: Annotated[
        Count, Field(description="Output tokens held for a request that sets no maximum of its own.")
    ] = 4_096
    on_disconnect: Annotated[
        OnDisconnect,
        Field(description="A stream whose caller has gone: cancel, drain (read to its end), or auto, by the provider."),
    ] = OnDisconnect.AUTO
    bill_empty: Annotated[
        BillEmpty, Field(description="A whole answer with nothing in it: never charged, the input, or as reported.")
    ] = BillEmpty.NEVER


class TenantKeyEntry(ShortBlock):
    """A key of a tenant, and what holds for it beside what holds for the tenant; its plain text is the key alone."""

    key: Annotated[SecretText, Field(description="Its digest as sha256:<hex>, or a reference to the key.")]
    allow: Annotated[
        list[Text], Field(description="Models it may use of those the tenant may, with * and ?; none named allows all.")
    ] = []
    rpm: Annotated[Count | None, Field(description="Requests per minute.")] = None
    tpm: Annotated[Count | None, Field(description="Tokens per minute.")] = None
    concurrency: Annotated[Count | None, Field(description="Requests at once.")] = None
    daily_requests: Annotated[Count | None, Field(description="Requests per UTC day.")] = None
    spend_limit: Annotated[
        SpendLimitText | None, Field(description="Most that is charged per day, week, month or in total.")
    ] = None
    expires: Annotated[Expiry | None, Field(description="From when on it is no key any more, UTC.")] = None


class TenantEntry(Block):
    """A customer."""

    plan: Annotated[Text, Field(description="A name under `plans`.")] = "default"
    policy: Annotated[Text, Field(description="A name under `policies`.")] = "default"
    allow: Annotated[list[Text], Field(description="Models it may use, with * and ?; none named allows all.")] = []
    keys: Annotated[list[TenantKeyEntry], Field(description="Its keys; the ledger may issue further ones.")] = []
    limits: Annotated[LimitsBlock, Field(description="In place of the plan's, where set.")] = LimitsBlock()
    spend_limit: Annotated[SpendLimitText | None, Field(description="In place of the plan's.")] = None
    opening_balance: Annotated[MoneyNano, Field(description="Granted once, when the ledger first sees the tenant.")] = 0
    byok_fallback: Annotated[
        bool,
        Field(description="Where the tenant's own provider keys fail, go on with the house's, at the plan's prices."),
    ] = False
