"""Prices that change with time: what a snapshot becomes when one of them does.

Every dated card is in the snapshot already, so nothing is read for it: no file that is broken at that moment can stop
a price from changing.
"""

from collections.abc import Iterable

import msgspec

from routerx.config.snapshot import Snapshot
from routerx.domain.model import Endpoint, Model, following_price, in_force


def next_change_ns(models: Iterable[Model]) -> int | None:
    """When the first price changes; None: never, as far as is known."""
    coming = (
        endpoint.next_price.from_ns
        for model in models
        for endpoint in model.endpoints
        if endpoint.next_price is not None and endpoint.next_price.from_ns is not None
    )
    return min(coming, default=None)


def priced_at(endpoint: Endpoint, now_ns: int) -> Endpoint:
    """The endpoint with that one of its `prices` which is in force at `now_ns`."""
    if not endpoint.prices:
        return endpoint
    now = in_force(endpoint.prices, now_ns)
    coming = following_price(endpoint.prices, now_ns)
    return msgspec.structs.replace(endpoint, price=now.card, price_origin=now.origin, next_price=coming)


def repriced(snapshot: Snapshot, now_ns: int) -> tuple[Snapshot, tuple[str, ...]]:
    """The next generation of `snapshot`, with the prices in force at `now_ns`, and the keys of the endpoints whose
    price is another one than before."""
    changed: dict[str, None] = {}
    models, endpoints = (
        {name: _repriced(model, now_ns, changed) for name, model in named.items()}
        for named in (snapshot.models, snapshot.endpoints)
    )
    following = msgspec.structs.replace(
        snapshot,
        generation=snapshot.generation + 1,
        models=models,
        endpoints=endpoints,
        prices_until_ns=next_change_ns((*models.values(), *endpoints.values())),
    )
    return following, tuple(changed)


def _repriced(model: Model, now_ns: int, changed: dict[str, None]) -> Model:
    if not any(endpoint.prices for endpoint in model.endpoints):
        return model
    endpoints = tuple(priced_at(endpoint, now_ns) for endpoint in model.endpoints)
    changed.update(
        (new.key, None) for new, old in zip(endpoints, model.endpoints, strict=True) if new.price != old.price
    )
    return msgspec.structs.replace(model, endpoints=endpoints)
