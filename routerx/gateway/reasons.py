"""Why a candidate stands in its place and why another is left out, in sentences. Pure."""

from collections.abc import Callable, Mapping

import msgspec

from routerx.domain.call import Candidate
from routerx.domain.model import Endpoint
from routerx.domain.policy import Sort
from routerx.money import format_usd
from routerx.routing.rules import (
    HOUSE_KEY,
    LACKS,
    NO_HOUSE_KEY,
    OWN_KEY_LOST,
    UNKNOWN_MODEL,
    UNPAYABLE,
    WISHED,
    blended_price,
)
from routerx.routing.state import RoutingState

RULES: Mapping[str, str] = {
    "not_allowed": "the tenant may not use it",
    "not_zero_priced": "':free' is allowed on models that cost nothing only",
    "unpriced": "it has no price, and the plan denies what has none",
    "fence_never_paid": "the price fence lets nothing in that costs money",
    "fence_max_cost_ratio": "it is too dear beside the first endpoint of the asked model, or cannot be compared",
    "context_too_small": "the prompt is too long for its context window",
    "output_too_small": "the answer may become longer than it can write",
    "circuit_open": "it has failed too often and is left alone until its next probe",
    "credential_cooling": "its keys rest after a 429",
    "credential_quarantined": "its keys are refused, or their accounts exhausted",
    "credential_rpm": "its keys have been used as often as they may be within a minute",
    "credential_tpm": "its keys have spent as many tokens as they may within a minute",
    "credential_paced": "its keys rest because the provider said that they are nearly used up",
    "provider_limited": "its provider has been called as often as it may be",
    "no_credential": "its provider has no key",
    "no_provider": "its provider is not configured",
    HOUSE_KEY: "the tenant has an own key for the model, and does not fall back to those of the house",
    OWN_KEY_LOST: "the tenant's own key for its provider cannot be read any more",
    NO_HOUSE_KEY: "its provider is asked with callers' own keys only, and there is none",
    UNPAYABLE: "the tenant cannot pay for the house's keys, and goes by its own",
    UNKNOWN_MODEL: "no model of this name is there, or none for this key",
    **WISHED,
}
"""What a rule says of the endpoint that it keeps out; `lacks_…` are made of what is lacked."""


class Standing(msgspec.Struct, frozen=True):
    """What has been measured of an endpoint; None is not known."""

    latency_s: float | None
    throughput: float | None
    uptime: float
    stream: bool
    """Latencies are of streams: to the first token."""


def standing(state: RoutingState, endpoint: Endpoint, now_s: float, *, stream: bool) -> Standing:
    latency_s, rate = state.latency_s(endpoint.key, now_s, stream=stream), state.throughput(endpoint.key, now_s)
    return Standing(
        latency_s=None if latency_s is None else round(latency_s, 3),
        throughput=None if rate is None else round(rate, 1),
        uptime=round(state.uptime(endpoint.key, now_s), 4),
        stream=stream,
    )


def says(rule: str) -> str:
    """The sentence of a rule."""
    if rule.startswith(LACKS):
        return f"it does not offer {rule.removeprefix(LACKS).replace('_', ' ')}, which the request needs"
    return RULES.get(rule, rule.replace("_", " "))


def reason(candidate: Candidate, sort: Sort, here: Standing, *, ordered: bool) -> str:
    """Why a candidate stands where it stands: what was looked at first comes first."""
    endpoint = candidate.endpoint
    parts = [f"fallback model {endpoint.model}"] if candidate.is_fallback_model else []
    if ordered:
        return ", ".join([*parts, "in the order that the caller gave"])
    if candidate.own_key:
        parts.append("asked with the tenant's own key")
    parts.append(f"priority {endpoint.priority}")
    parts.append(_BY_SORT.get(sort, _latency)(endpoint, here))
    return ", ".join(parts)


def _latency(endpoint: Endpoint, here: Standing) -> str:
    if here.latency_s is None:
        return "latency not known yet"
    latency = f"{here.latency_s:.2f} s {'to the first token' if here.stream else 'for an answer'}"
    return latency if here.uptime >= 1 else f"{latency}, {here.uptime:.0%} up"


def _price(endpoint: Endpoint, here: Standing) -> str:
    if endpoint.price is None:
        return "no price"
    return f"${format_usd(blended_price(endpoint.price))} for 3,000 tokens in and 1,000 out"


def _throughput(endpoint: Endpoint, here: Standing) -> str:
    return "throughput not known yet" if here.throughput is None else f"{here.throughput:.0f} tokens a second"


def _score(endpoint: Endpoint, here: Standing) -> str:
    return f"{_price(endpoint, here)}, {_latency(endpoint, here)}"


def _declared(endpoint: Endpoint, here: Standing) -> str:
    return "as declared"


def _weighted(endpoint: Endpoint, here: Standing) -> str:
    return f"drawn anew each time with weight {endpoint.weight}"


def _in_turn(endpoint: Endpoint, here: Standing) -> str:
    return "in turn"


_BY_SORT: Mapping[Sort, Callable[[Endpoint, Standing], str]] = {
    Sort.PRICE: _price,
    Sort.THROUGHPUT: _throughput,
    Sort.BALANCED: _score,
    Sort.COST_OPTIMIZED: _score,
    Sort.PERFORMANCE_FIRST: _score,
    Sort.PRIORITY: _declared,
    Sort.WEIGHTED: _weighted,
    Sort.ROUND_ROBIN: _in_turn,
}
