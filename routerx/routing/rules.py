"""Which endpoints may serve a request at all, whatever the moment: by the tenant's terms, the price fence, what the
request needs and what its caller wants. Pure. docs/routing.md lists every rule by its name."""

import msgspec

from routerx.domain.billing import terms_of
from routerx.domain.call import Operation, Peek
from routerx.domain.model import Capability, Endpoint
from routerx.domain.policy import Fence
from routerx.domain.pricing import BP, PriceCard, PriceSnapshot
from routerx.domain.record import BillingMode
from routerx.domain.tenant import NO_STORED_KEYS, FreeSuffix, OnUnpriced, StoredKeys, Tenant
from routerx.domain.wishes import MaxPrice, Wishes
from routerx.providers.presets import find_preset
from routerx.providers.spec import Auth, Provider
from routerx.routing.names import Found

NOT_ALLOWED = "not_allowed"
LACKS = "lacks_"
NO_FALLBACKS = "no_fallbacks"
OTHER_PROVIDER = "other_provider"
HOUSE_KEY = "house_key"
"""The tenant has keys of its own for other endpoints, and does not fall back to the house's."""
OWN_KEY_LOST = "own_key_lost"
"""The tenant's own key for the provider cannot be read."""
NO_HOUSE_KEY = "no_house_key"
"""The provider is asked with tenants' own keys only, and there is none here."""
UNPAYABLE = "unpayable"
"""The tenant has an own key to go by, and no money left for those of the house."""
UNKNOWN_MODEL = "unknown_model"
"""Of a name among the caller's own `models`, in place of an endpoint."""

WISHED = {
    "not_in_only": "'only' names other providers",
    "ignored": "'ignore' names its provider",
    NO_FALLBACKS: "'allow_fallbacks' is off, and it is not the first, or not in 'order'",
    "over_max_price": "'max_price' is below its price",
    "takes_not_all_parameters": "'require_parameters' is on and it does not take all of them",
    "keeps_data": "'data_collection' is deny and its provider may keep data",
    "not_zdr": "'zdr' is on and there is no such agreement with its provider",
    "not_distillable": "'enforce_distillable_text' is on and nobody allows that of its text",
    "other_quantization": "'quantizations' does not name its own",
    "takes_no_own_key": "X-RouterX-API-Key is for a provider that asks for a key, and its provider asks for none",
    OTHER_PROVIDER: "X-RouterX-API-Key is for another provider",
}
"""Rules that callers bring upon themselves, and how to tell them."""


def blended_price(card: PriceCard) -> int:
    """Nano-USD of a call of 3,000 input and 1,000 output tokens: one number to compare endpoints by."""
    return 3 * card.input_pico + card.output_pico + card.request_nano


def stricter(one: Fence, other: Fence) -> Fence:
    """What both fences let through."""
    ratios = [ratio for ratio in (one.max_cost_ratio, other.max_cost_ratio) if ratio is not None]
    return Fence(max_cost_ratio=min(ratios, default=None), never_paid=one.never_paid or other.never_paid)


class Slugs:
    """Providers and endpoints as callers name them: by configured name, by vendor (the preset, under any of its names),
    or by either with a model behind it. What is wider covers what is narrower. Case is not told apart."""

    __slots__ = ("_rows",)

    def __init__(self, slugs: tuple[str, ...]) -> None:
        self._rows = tuple(_readings(slug) for slug in slugs)

    def place(self, endpoint: Endpoint, provider: Provider) -> int | None:
        """The index of the first slug that covers the endpoint."""
        model = endpoint.upstream_model.lower()
        paths = [f"{provider.name.lower()}/{model}/"]
        if provider.preset is not None:
            paths.append(f"{provider.preset}/{model}/")
        for index, readings in enumerate(self._rows):
            if any(path.startswith(reading) for path in paths for reading in readings):
                return index
        return None


def _readings(slug: str) -> tuple[str, ...]:
    vendor, slash, rest = slug.lower().partition("/")
    preset = find_preset(vendor)
    readings = {f"{slug.lower()}/"} | ({f"{preset.name}{slash}{rest}/"} if preset is not None else set())
    return tuple(readings)


class Terms(msgspec.Struct, frozen=True):
    """Under which conditions a request is served."""

    peek: Peek
    tenant: Tenant
    free: bool
    fence: Fence
    reference: Endpoint
    """The asked model's first endpoint: what the fence measures against."""
    own_key: bool
    """The caller brings its own credential, for whichever provider it is."""
    stored: StoredKeys = NO_STORED_KEYS

    def owns(self, provider: Provider) -> bool:
        """Whether the tenant has a key of its own for the provider, be it one that cannot be read any more."""
        if self.own_key:
            return True
        has_one = provider.name in self.stored.usable or provider.name in self.stored.lost
        return has_one and provider.takes_key


class Rules:
    """The filters of one request shape."""

    __slots__ = ("_ignore", "_only", "_order", "_terms", "_wishes")

    def __init__(self, terms: Terms, wishes: Wishes) -> None:
        self._terms = terms
        self._wishes = wishes
        self._only = Slugs(wishes.only)
        self._ignore = Slugs(wishes.ignore)
        self._order = Slugs(wishes.order)

    @property
    def falls_back(self) -> bool:
        """Whether the house's keys may serve where the tenant's own do not."""
        return self._terms.tenant.byok_fallback and not self._terms.own_key

    def place(self, endpoint: Endpoint, provider: Provider) -> int:
        """Where the caller's `order` has it; behind all places where it is not named."""
        place = self._order.place(endpoint, provider)
        return len(self._wishes.order) if place is None else place

    def keys_for(self, provider: Provider) -> tuple[bool, ...]:
        """With whose keys the provider may be asked, in order: True the tenant's own, False the house's."""
        if provider.byok_only:
            return (True,)
        if not self._terms.owns(provider):
            return (False,)
        return (True, False) if self.falls_back else (True,)

    def terms_of(self, endpoint: Endpoint, *, own_key: bool) -> tuple[BillingMode, PriceSnapshot | None]:
        """How an answer by the endpoint is billed."""
        return terms_of(endpoint, self._terms.tenant, free=self._terms.free, own_key=own_key)

    def against(self, endpoint: Endpoint, provider: Provider, found: Found, *, own_key: bool) -> str | None:
        """The first rule that keeps the endpoint, asked with such a key, out. The caller's own come late, and at last
        that there is no such key, so that each tells that nothing before it is in the way."""
        terms = self._terms
        if not found.allowed(endpoint, terms.tenant):
            return NOT_ALLOWED
        lacking = _lacking(endpoint, provider, terms.peek)
        if lacking is not None:
            return f"{LACKS}{lacking}"
        plan, card = terms.tenant.plan, endpoint.price
        if terms.free and plan.free_suffix is FreeSuffix.ZERO_PRICED and (card is None or not card.is_free):
            return "not_zero_priced"
        if card is None and plan.on_unpriced is OnUnpriced.DENY and not own_key:
            return "unpriced"
        rule = None if endpoint.key == terms.reference.key else self._fenced(card)
        if rule is None:
            rule = self._unwanted(endpoint, provider, own_key=own_key)
        return rule if rule is not None or not own_key else self._keyless(provider)

    def _keyless(self, provider: Provider) -> str | None:
        """Why there is no own key to ask the provider with."""
        terms = self._terms
        if terms.own_key or provider.name in terms.stored.usable:
            return None
        return OWN_KEY_LOST if provider.name in terms.stored.lost else NO_HOUSE_KEY

    def _fenced(self, card: PriceCard | None) -> str | None:
        fence = self._terms.fence
        if fence.never_paid and (card is None or not card.is_free):
            return "fence_never_paid"
        ratio = fence.max_cost_ratio
        if ratio is None or (card is not None and card.is_free):
            return None
        reference = self._terms.reference.price
        # What has no price cannot be shown to be cheap enough.
        if card is None or reference is None or blended_price(card) > ratio * blended_price(reference):
            return "fence_max_cost_ratio"
        return None

    def _unwanted(self, endpoint: Endpoint, provider: Provider, *, own_key: bool) -> str | None:
        wishes = self._wishes
        rule = self._named(endpoint, provider)
        if rule is not None:
            return rule
        if wishes.max_price is not None and self._is_over(wishes.max_price, endpoint.price, own_key=own_key):
            return "over_max_price"
        if not wishes.parameters <= provider.takes:
            return "takes_not_all_parameters"
        if wishes.keeps_no_data and provider.keeps_data:
            return "keeps_data"
        if wishes.zdr and not provider.zdr:
            return "not_zdr"
        if wishes.distillable and not endpoint.distillable:
            return "not_distillable"
        if wishes.quantizations:
            quantization = endpoint.quantization.lower() if endpoint.quantization is not None else "unknown"
            if quantization not in wishes.quantizations:
                return "other_quantization"
        return "takes_no_own_key" if self._terms.own_key and not _asks_for_key(provider) else None

    def _named(self, endpoint: Endpoint, provider: Provider) -> str | None:
        wishes = self._wishes
        if wishes.only and self._only.place(endpoint, provider) is None:
            return "not_in_only"
        if wishes.ignore and self._ignore.place(endpoint, provider) is not None:
            return "ignored"
        if wishes.order and not wishes.allow_fallbacks and self._order.place(endpoint, provider) is None:
            return NO_FALLBACKS
        return None

    def _is_over(self, most: MaxPrice, card: PriceCard | None, *, own_key: bool) -> bool:
        """Whether the tenant would pay more for any unit, its markup included; the plain price counts, not the one of
        long prompts. What has no price cannot be shown to be cheap enough."""
        terms = self._terms
        if terms.free:
            return False
        if card is None:
            return True
        whole = BP if own_key else BP + terms.tenant.plan.markup_bp
        image_pico = card.input_pico if card.image_in_pico is None else card.image_in_pico
        pairs = (
            (most.input_pico, card.input_pico),
            (most.output_pico, card.output_pico),
            (most.request_nano, card.request_nano),
            (most.image_pico, image_pico),
        )
        return any(ceiling is not None and price * whole > ceiling * BP for ceiling, price in pairs)


def lacks_of(rule: str) -> Capability | Operation | None:
    """What a rule `lacks_…` says is lacking."""
    word = rule.removeprefix(LACKS)
    if word == rule:
        return None
    return Operation(word) if word in _OPERATIONS else Capability(word)


_OPERATIONS = frozenset(Operation)


def _lacking(endpoint: Endpoint, provider: Provider, peek: Peek) -> str | None:
    if not provider.does(peek.operation):
        return peek.operation.value
    missing = sorted(peek.needs - endpoint.capabilities)
    return missing[0].value if missing else None


def _asks_for_key(provider: Provider) -> bool:
    """Whether a caller's key pays for anything there: where none is asked for, the house serves."""
    if provider.mock is not None:
        return True
    has_one = provider.byok_only or any(each.secret is not None for each in provider.credentials)
    return provider.auth is not Auth.NONE and has_one
