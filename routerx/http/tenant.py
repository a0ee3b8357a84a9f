"""The tenant API: calls of models in every dialect that callers may speak, and the list of models."""

from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web
from multidict import istr

from routerx import jsonx
from routerx.config.repricing import next_change_ns, priced_at
from routerx.config.snapshot import Snapshot
from routerx.control.views import iso_time
from routerx.dialects.anthropic import ANTHROPIC
from routerx.dialects.base import CallerDialect
from routerx.dialects.gemini import GEMINI
from routerx.domain.call import Operation
from routerx.domain.model import Model
from routerx.domain.pricing import PriceCard
from routerx.domain.tenant import Principal, Tenant, may_use
from routerx.errors import ModelNotFound
from routerx.gateway.context import Inbound
from routerx.gateway.idempotency import HEADER, Idempotency
from routerx.gateway.pipeline import Gateway
from routerx.gateway.wishes import OWN_KEY
from routerx.http.answer import CallerStream, WholeAnswer
from routerx.http.calls import named_in_path
from routerx.http.idempotent import OnceOnly
from routerx.http.inbound import Arrival, Door
from routerx.money import format_price_per_million
from routerx.routing.names import named_policies

Handler = Callable[[Arrival], Awaitable[web.StreamResponse]]

IDEMPOTENCY_KEY = istr(HEADER)


class TenantApi:
    """Handlers of the tenants' routes."""

    def __init__(self, gateway: Gateway, door: Door, uses: Idempotency) -> None:
        self._gateway = gateway
        self._door = door
        self._once = OnceOnly(gateway, uses)

    def calls(self, operation: Operation, dialect: CallerDialect) -> Handler:
        """The handler of a route whose body says everything."""

        def handle(arrival: Arrival) -> Awaitable[web.StreamResponse]:
            return self._serve(arrival, self._door.receive(arrival, operation, dialect))

        return handle

    async def count_tokens(self, arrival: Arrival) -> web.StreamResponse:
        """Anthropic's count of a prompt: the provider's own where it has one, else our estimate, which says so."""
        inbound = await self._door.receive(arrival, Operation.COUNT_TOKENS, ANTHROPIC)
        tokens = self._gateway.estimated_tokens(inbound)
        if tokens is None:
            return await self._serve(arrival, _at_hand(inbound))
        headers = (("X-RouterX-Estimated", "true"),)
        body = jsonx.encode({"input_tokens": tokens})
        return WholeAnswer(arrival.request, "application/json", arrival.request_id, headers, body)

    def generate_content(self, arrival: Arrival, target: str) -> Awaitable[web.StreamResponse]:
        """Gemini's route, whose path names the model and the method: `gemini-2.5-pro:generateContent`."""
        return self._serve(arrival, self._door.receive(arrival, Operation.CHAT, GEMINI, named_in_path(target)))

    async def _serve(self, arrival: Arrival, receiving: Awaitable[Inbound]) -> web.StreamResponse:
        inbound = await receiving
        stream = CallerStream(arrival.request, arrival.request_id)
        try:
            if IDEMPOTENCY_KEY in arrival.request.headers:
                answer = await self._once.serve(arrival, inbound, stream)
            else:
                answer = await self._gateway.serve(inbound, stream)
        except Exception:
            if stream.response is not None and arrival.request.transport is not None:
                arrival.request.transport.abort()  # Half a stream must not look like a whole one.
            raise
        if answer is None:
            assert stream.response is not None
            return stream.response
        return WholeAnswer(arrival.request, answer.content_type, arrival.request_id, answer.headers, answer.body)

    async def models(self, arrival: Arrival) -> web.StreamResponse:
        """What the key may use; without a key, everything where `server.public_models` is on."""
        snapshot, caller = self._door.reader(arrival.request)
        tenant, locked = _tenant(caller), _locked(arrival.request, snapshot, caller)
        models = [model for model in snapshot.models.values() if tenant is None or may_use(tenant, model.name)]
        models += named_policies(snapshot, tenant)
        data = [describe(shown) for model in models if (shown := _open_to(model, locked)) is not None]
        return self._json(arrival, {"object": "list", "data": data})

    async def model(self, arrival: Arrival, name: str) -> web.StreamResponse:
        snapshot, caller = self._door.reader(arrival.request)
        tenant = _tenant(caller)
        model = snapshot.models.get(name) or snapshot.endpoints.get(name)
        if model is None:
            model = next((policy for policy in named_policies(snapshot, tenant) if policy.name == name), None)
        elif tenant is not None and not may_use(tenant, name):
            model = None
        model = _open_to(model, _locked(arrival.request, snapshot, caller)) if model is not None else None
        if model is None:
            raise ModelNotFound(f"The model {name!r} does not exist or this key may not use it.", param="model")
        return self._json(arrival, describe(model))

    def _json(self, arrival: Arrival, value: object) -> web.Response:
        return web.Response(
            body=jsonx.encode(value),
            content_type="application/json",
            headers={"X-Request-Id": arrival.request_id},
        )


async def _at_hand(inbound: Inbound) -> Inbound:
    return inbound


def _tenant(caller: Principal | None) -> Tenant | None:
    return None if caller is None else caller.tenant


def _locked(request: web.BaseRequest, snapshot: Snapshot, caller: Principal | None) -> frozenset[str]:
    """Providers with own keys only for which this caller has none: who would be refused is not shown their models.
    Nobody in particular is shown all, and so is who brings a key for whichever provider it may be."""
    if caller is None or OWN_KEY in request.headers:
        return frozenset()
    return frozenset(name for name, one in snapshot.providers.items() if one.byok_only and name not in caller.own_keys)


def _open_to(model: Model, locked: frozenset[str]) -> Model | None:
    """The model without the endpoints of providers that are locked; None where no other is left."""
    if not locked:
        return model
    endpoints = tuple(endpoint for endpoint in model.endpoints if endpoint.provider not in locked)
    if not endpoints:
        return None
    return model if len(endpoints) == len(model.endpoints) else msgspec.structs.replace(model, endpoints=endpoints)


def describe(model: Model) -> dict[str, object]:
    """A model as /v1/models shows it: OpenAI's four fields, and what else callers choose by."""
    contexts = [endpoint.context_tokens for endpoint in model.endpoints if endpoint.context_tokens is not None]
    outputs = [endpoint.output_tokens_max for endpoint in model.endpoints if endpoint.output_tokens_max is not None]
    prices = [endpoint.price for endpoint in model.endpoints if endpoint.price is not None]
    cheapest = min(prices, key=_by_price, default=None)
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": model.owner,
        "kind": model.kind.value,
        "context_length": max(contexts, default=None),
        "max_output_tokens": max(outputs, default=None),
        "capabilities": sorted({capability.value for e in model.endpoints for capability in e.capabilities}),
        "providers": sorted({endpoint.provider for endpoint in model.endpoints}),
        "pricing": None if cheapest is None else _pricing(cheapest),
        "next_pricing": _next_pricing(model),
    }


def _pricing(card: PriceCard) -> dict[str, str]:
    return {
        "input_usd_per_million": format_price_per_million(card.input_pico),
        "output_usd_per_million": format_price_per_million(card.output_pico),
    }


def _next_pricing(model: Model) -> dict[str, str] | None:
    """What the lowest price will be from the first change on; None where none is known of."""
    moment_ns = next_change_ns((model,))
    if moment_ns is None:
        return None
    cards = [card for one in model.endpoints if (card := priced_at(one, moment_ns).price) is not None]
    return {"from": iso_time(moment_ns), **_pricing(min(cards, key=_by_price))}


def _by_price(card: PriceCard) -> tuple[int, int]:
    return card.input_pico, card.output_pico
