"""The tenant API in OpenAI's shape: chat completions, embeddings, models."""

from fnmatch import fnmatchcase

from aiohttp import web

from routerx import jsonx
from routerx.dialects.base import CallerDialect
from routerx.domain.call import Operation
from routerx.domain.model import Model
from routerx.domain.tenant import Tenant
from routerx.errors import ModelNotFound
from routerx.gateway.pipeline import Gateway
from routerx.http.answer import CallerStream, WholeAnswer
from routerx.http.inbound import Arrival, Door
from routerx.money import format_price_per_million


class OpenAIApi:
    """Handlers of the /v1 routes."""

    def __init__(self, gateway: Gateway, door: Door, dialect: CallerDialect) -> None:
        self._gateway = gateway
        self._door = door
        self._dialect = dialect

    async def chat_completions(self, arrival: Arrival) -> web.StreamResponse:
        return await self._serve(arrival, Operation.CHAT)

    async def embeddings(self, arrival: Arrival) -> web.StreamResponse:
        return await self._serve(arrival, Operation.EMBEDDINGS)

    async def _serve(self, arrival: Arrival, operation: Operation) -> web.StreamResponse:
        inbound = await self._door.receive(arrival, operation, self._dialect)
        stream = CallerStream(arrival.request, arrival.request_id)
        try:
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
        snapshot, tenant = self._door.reader(arrival.request)
        data = [describe(model) for model in snapshot.models.values() if may_use(tenant, model.name)]
        return self._json(arrival, {"object": "list", "data": data})

    async def model(self, arrival: Arrival, name: str) -> web.StreamResponse:
        snapshot, tenant = self._door.reader(arrival.request)
        model = snapshot.models.get(name) or snapshot.endpoints.get(name)
        if model is None or not may_use(tenant, name):
            raise ModelNotFound(f"The model {name!r} does not exist or this key may not use it.", param="model")
        return self._json(arrival, describe(model))

    def _json(self, arrival: Arrival, value: object) -> web.Response:
        return web.Response(
            body=jsonx.encode(value),
            content_type="application/json",
            headers={"X-Request-Id": arrival.request_id},
        )


def may_use(tenant: Tenant | None, name: str) -> bool:
    """Whether the tenant's `allow` patterns admit a model name."""
    return tenant is None or not tenant.allow or any(fnmatchcase(name, pattern) for pattern in tenant.allow)


def describe(model: Model) -> dict[str, object]:
    """A model as /v1/models shows it: OpenAI's four fields, and what else callers choose by."""
    contexts = [endpoint.context_tokens for endpoint in model.endpoints if endpoint.context_tokens is not None]
    outputs = [endpoint.output_tokens_max for endpoint in model.endpoints if endpoint.output_tokens_max is not None]
    prices = [endpoint.price for endpoint in model.endpoints if endpoint.price is not None]
    cheapest = min(prices, key=lambda price: (price.input_pico, price.output_pico), default=None)
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
        "pricing": None
        if cheapest is None
        else {
            "input_usd_per_million": format_price_per_million(cheapest.input_pico),
            "output_usd_per_million": format_price_per_million(cheapest.output_pico),
        },
    }
