"""What a caller wants of the routing of one request: its headers and the body's `provider` and `models`.

Hashable: the static part of a plan is cached by it. docs/routing.md lists the names on the wire.
"""

import msgspec

from routerx.domain.policy import Sort
from routerx.secrets import Secret


class MaxPrice(msgspec.Struct, frozen=True):
    """Prices above these exclude an endpoint; None is no ceiling."""

    input_pico: int | None = None
    """Per token, as PriceCard has it."""
    output_pico: int | None = None
    request_nano: int | None = None
    image_pico: int | None = None


class Wishes(msgspec.Struct, frozen=True):
    """Which endpoints, in which order. A provider is named by its configured name, its preset or `provider/model`."""

    order: tuple[str, ...] = ()
    """Tried first, in this order. Switches every other order off."""
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    allow_fallbacks: bool = True
    """False: the first candidate or nothing."""
    sort: Sort | None = None
    across_models: bool = False
    """Sort the endpoints of all `models` together, rather than exhaust the first model's first."""
    models: tuple[str, ...] = ()
    """Further models to go on to, after any failure."""
    max_price: MaxPrice | None = None
    parameters: frozenset[str] = frozenset()
    """Optional parameters in the request that an endpoint must take (`require_parameters`)."""
    max_latency: tuple[tuple[int, float], ...] = ()
    """(percentile, seconds to the first token): endpoints above any of them come last."""
    min_throughput: tuple[tuple[int, float], ...] = ()
    """(percentile, output tokens a second) likewise."""
    keeps_no_data: bool = False
    zdr: bool = False
    distillable: bool = False
    quantizations: tuple[str, ...] = ()


NO_WISHES = Wishes()


class Steering(msgspec.Struct, frozen=True):
    """What else a caller says of one request in RouterX's own headers."""

    wishes: Wishes = NO_WISHES
    own_key: Secret | None = None
    """Its own credential for the provider (X-RouterX-API-Key)."""
    metadata: bool = False
    """It wants `routing_metadata` in the answer."""
    deadline_s: float | None = None
    """It waits no longer than this, from the request's start."""
    session: str | None = None
    """Requests of one session share a provider's cache."""
    cache: bool = False
    """An answer that was given before will do, and this one may be kept."""


NO_STEERING = Steering()
