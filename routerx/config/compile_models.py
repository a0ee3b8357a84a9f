"""Catalogue, `models:`, aliases and `pricing:` → the names that callers may use and the endpoints behind them."""

from datetime import UTC, datetime

import msgspec

from routerx.config.compilation import Compilation, overrides
from routerx.config.compile_providers import Sources
from routerx.config.prices import price_cards
from routerx.config.problems import Path
from routerx.config.repricing import priced_at
from routerx.config.schema import WEIGHT_MAX, EndpointEntry, ModelEntry
from routerx.domain.model import EVERYTHING, Capability, DatedPrice, Endpoint, Kind, Model, Origin
from routerx.domain.pricing import PriceCard
from routerx.providers.spec import CatalogueEndpoint, CatalogueModel

MOCK_CHAT = "mock"
MOCK_EMBEDDING = "mock-embedding"
_FREE = (DatedPrice(PriceCard(input_pico=0, output_pico=0)),)
_Prices = tuple[DatedPrice, ...]
"""Of one endpoint, sorted by date. Empty: nobody says what it costs."""


class Names(msgspec.Struct, frozen=True):
    """What callers may ask for."""

    models: dict[str, Model]
    endpoints: dict[str, Model]
    known: frozenset[str]
    """Every name that is not a mistake, also where nobody configured serves it."""


def compile_models(run: Compilation, sources: Sources) -> Names:
    """All models, aliases included, and `provider/model` paths."""
    return _Models(run, sources).build()


class _Models:
    """The tables of one compile run."""

    def __init__(self, run: Compilation, sources: Sources) -> None:
        self._run = run
        self._sources = sources
        self._models: dict[str, Model] = {}
        self._by_preset: dict[str, list[str]] = {}
        for name, source in sources.live.items():
            if source.preset is not None:
                self._by_preset.setdefault(source.preset, []).append(name)
        self._offers: dict[tuple[str, str], tuple[CatalogueModel, CatalogueEndpoint]] = {}
        for model in run.facts.catalogue.values():
            for offer in model.endpoints:
                self._offers.setdefault((offer.provider, offer.model), (model, offer))
        self._overrides: dict[str, _Prices] = {}
        self._aliases: dict[str, str] = {}
        self._alias_paths: dict[str, Path] = {}

    def build(self) -> Names:
        self._collect_aliases()
        self._collect_prices()
        for name, known in self._run.facts.catalogue.items():
            entry = self._run.config.models.get(name)
            if entry is None or (entry.alias is None and not entry.endpoints):
                self._add(self._from_catalogue(known))
        for name, entry in self._run.config.models.items():
            if entry.alias is None:
                self._add_declared(name, entry)
        self._add_mock_models()
        endpoints = self._paths()
        known_names = frozenset(
            {*self._models, *self._run.facts.catalogue, *self._run.declared["models"], *self._aliases, *endpoints}
        )
        self._resolve_aliases(endpoints, known_names)
        return Names(models=self._models, endpoints=endpoints, known=known_names)

    def _add(self, model: Model) -> None:
        if model.endpoints:
            self._models[model.name] = model

    # --- the catalogue's models --------------------------------------------------------------------------------------

    def _from_catalogue(self, known: CatalogueModel) -> Model:
        endpoints = [
            self._offered(provider, known, offer)
            for offer in known.endpoints
            for provider in self._by_preset.get(offer.provider, ())
        ]
        if not endpoints and self._sources.mock_serves_all:
            endpoints = [
                self._offered(
                    self._run.facts.mock,
                    known,
                    CatalogueEndpoint(provider=self._run.facts.mock, model=known.name, price=None),
                )
            ]
        return Model(
            name=known.name,
            kind=known.kind,
            endpoints=tuple(endpoints),
            created=_epoch_s(known.released),
            owner=known.owner,
        )

    def _offered(self, provider: str, known: CatalogueModel, offer: CatalogueEndpoint) -> Endpoint:
        source = self._sources.live[provider]
        key = f"{provider}/{offer.model}"
        endpoint = Endpoint(
            key=key,
            provider=provider,
            model=known.name,
            upstream_model=offer.model,
            price=None,
            capabilities=known.capabilities | offer.also_can,
            context_tokens=_first(offer.context_tokens, known.context_tokens),
            output_tokens_max=_first(offer.output_tokens_max, known.output_tokens_max),
            priority=source.priority,
        )
        return self._priced(endpoint, self._listed(provider, (known, offer)))

    def _add_mock_models(self) -> None:
        """`mock` and `mock-embedding`, wherever the mock provider is there under a name of its own."""
        for provider in self._by_preset.get(self._run.facts.mock, ()):
            for name, kind in ((MOCK_CHAT, Kind.CHAT), (MOCK_EMBEDDING, Kind.EMBEDDING)):
                if name in self._models or name in self._aliases or name in self._run.config.models:
                    continue
                known = CatalogueModel(
                    name=name,
                    kind=kind,
                    owner="routerx",
                    endpoints=(),
                    capabilities=EVERYTHING if kind is Kind.CHAT else frozenset(),
                )
                offer = CatalogueEndpoint(provider=provider, model=name, price=None)
                self._add(
                    Model(name=name, kind=kind, endpoints=(self._offered(provider, known, offer),), owner="routerx")
                )

    # --- the file's models -------------------------------------------------------------------------------------------

    def _add_declared(self, name: str, entry: ModelEntry) -> None:
        path: Path = ("models", name)
        known = self._run.facts.catalogue.get(name)
        if not entry.endpoints:
            if known is None:
                self._run.problems.add(
                    path, "needs endpoints: the catalogue has no such model", word=name, valid=self._run.facts.catalogue
                )
            elif entry.kind is not None:
                self._run.problems.add((*path, "kind"), "is the catalogue's where endpoints are left out")
            return
        kind = entry.kind if entry.kind is not None else self._kind(entry, known)
        endpoints: dict[str, Endpoint] = {}
        for index, item in enumerate(entry.endpoints):
            where: Path = (*path, "endpoints", index)
            endpoint = self._declared_endpoint(name, kind, item, where)
            if endpoint is None:
                continue
            if endpoint.key in endpoints:
                self._run.problems.add(where, f"names {endpoint.key!r} a second time", value=False)
            endpoints[endpoint.key] = endpoint
        if not endpoints and self._sources.mock_serves_all:
            item = entry.endpoints[0].model_copy(update={"provider": self._run.facts.mock, "model": name})
            stand_in = self._declared_endpoint(name, kind, item, (*path, "endpoints", 0))
            endpoints = {stand_in.key: stand_in} if stand_in is not None else {}
        if not endpoints:
            self._run.notice(f"model {name!r} is left out: none of its providers has a key")
        owner = known.owner if known is not None else "routerx"
        self._add(Model(name, kind, tuple(endpoints.values()), _epoch_s(known.released if known else None), owner))

    def _kind(self, entry: ModelEntry, known: CatalogueModel | None) -> Kind:
        """The catalogue's word on the name, else on the first endpoint it knows, else chat."""
        if known is not None:
            return known.kind
        for item in entry.endpoints:
            source = self._sources.live.get(item.provider)
            offer = self._offers.get((source.preset or "", item.model or "")) if source is not None else None
            if offer is not None:
                return offer[0].kind
        return Kind.CHAT

    def _declared_endpoint(self, name: str, kind: Kind, item: EndpointEntry, where: Path) -> Endpoint | None:
        source = self._sources.live.get(item.provider)
        own: _Prices = ()
        if item.price is not None:
            own = price_cards(item.price, kind, (*where, "price"), self._run.problems)
        if item.weight > WEIGHT_MAX:
            self._run.problems.add((*where, "weight"), f"is over the limit of {WEIGHT_MAX}")
        if source is None:
            self._missing_provider(item.provider, (*where, "provider"), name)
            return None
        upstream_model = item.model if item.model is not None else name
        offer = self._offers.get((source.preset or "", upstream_model))
        stated = self._instead(own, self._listed(item.provider, offer), (*where, "price"))
        capabilities, context_tokens, output_tokens_max = _abilities(offer)
        if item.supports is not None:
            # What a model refuses it refuses whatever a file says it can do.
            capabilities = frozenset(item.supports) | (capabilities - EVERYTHING)
        key = f"{item.provider}/{upstream_model}"
        endpoint = Endpoint(
            key=key,
            provider=item.provider,
            model=name,
            upstream_model=upstream_model,
            price=None,
            capabilities=capabilities,
            context_tokens=_first(item.context, context_tokens),
            output_tokens_max=_first(item.max_output, output_tokens_max),
            weight=item.weight,
            priority=item.priority if item.priority is not None else source.priority,
            timeouts=overrides(item.timeouts),
            quantization=item.quantization,
            distillable=item.distillable,
        )
        return self._priced(endpoint, stated)

    def _missing_provider(self, provider: str, path: Path, model: str) -> None:
        """A slip of the pen is a problem; a provider that is only switched off here is not."""
        declared = self._run.declared["providers"]
        by_environment = self._run.document.data.get("providers") is None
        if provider in declared or (by_environment and self._run.facts.find_preset(provider) is not None):
            self._run.notice(f"model {model!r} does without provider {provider!r}, which has no key or is off")
            return
        self._run.problems.add(path, "no provider has this name", word=provider, valid=declared)

    # --- paths, prices, aliases --------------------------------------------------------------------------------------

    def _paths(self) -> dict[str, Model]:
        """`provider/model` → a model of that endpoint alone; those with a price of their own included."""
        paths: dict[str, Model] = {}
        for model in self._models.values():
            for endpoint in model.endpoints:
                paths.setdefault(endpoint.key, msgspec.structs.replace(model, name=endpoint.key, endpoints=(endpoint,)))
        for key in self._overrides:
            provider, _, upstream_model = key.partition("/")
            if key not in paths and key not in self._models and upstream_model and provider in self._sources.live:
                paths[key] = self._path_model(key)
        return paths

    def _path_model(self, key: str) -> Model:
        """Of a path that nobody declared, nothing is known but its price: as routing takes one without even that."""
        provider, _, upstream_model = key.partition("/")
        endpoint = Endpoint(
            key=key,
            provider=provider,
            model=key,
            upstream_model=upstream_model,
            price=None,
            capabilities=EVERYTHING,
            priority=self._sources.live[provider].priority,
        )
        endpoint = self._priced(endpoint, self._listed(provider, None))
        return Model(name=key, kind=Kind.CHAT, endpoints=(endpoint,), owner=provider, any_kind=True)

    def _collect_prices(self) -> None:
        run = self._run
        models = {*run.facts.catalogue, *run.declared["models"], MOCK_CHAT, MOCK_EMBEDDING}
        for name, block in run.config.pricing.items():
            path: Path = ("pricing", name)
            self._overrides[name] = price_cards(block, self._priced_kind(name), path, run.problems)
            if name in self._aliases:
                target = self._aliases[name]
                run.problems.add(path, f"is an alias of {target!r}; set the price of that", value=False)
            elif name not in models and not self._is_path(name):
                run.problems.add(path, "no model has this name", value=False, word=name, valid=models)

    def _priced_kind(self, name: str) -> Kind | None:
        entry = self._run.config.models.get(name)
        known = self._run.facts.catalogue.get(name)
        if entry is not None and entry.endpoints:
            return entry.kind if entry.kind is not None else self._kind(entry, known)
        if known is not None:
            return known.kind
        provider, _, upstream_model = name.partition("/")
        source = self._sources.live.get(provider)
        offer = self._offers.get((source.preset or "", upstream_model)) if source is not None else None
        return offer[0].kind if offer is not None else None

    def _is_path(self, name: str) -> bool:
        """Whether `name` is a path of a provider that is configured, or that could be."""
        provider, slash, model = name.partition("/")
        declared = provider in self._run.declared["providers"] or provider in self._sources.live
        return bool(slash and model) and (declared or self._run.facts.find_preset(provider) is not None)

    def _listed(self, provider: str, offer: tuple[CatalogueModel, CatalogueEndpoint] | None) -> _Prices:
        """What the catalogue says of an offer that it may know; the mock costs nothing, whatever it stands in for."""
        if self._sources.live[provider].provider.mock is not None:
            return _FREE
        if offer is None or offer[1].price is None:
            return ()
        return (DatedPrice(offer[1].price, origin=Origin(offer[1].source, offer[0].as_of)),)

    def _priced(self, endpoint: Endpoint, stated: _Prices) -> Endpoint:
        """The endpoint with its prices: those that `pricing` has for it, or else `stated`."""
        name = endpoint.key if endpoint.key in self._overrides else endpoint.model
        prices = self._instead(self._overrides.get(name, ()), stated, ("pricing", name))
        if not prices:
            return endpoint
        if len(prices) > 1:
            return priced_at(msgspec.structs.replace(endpoint, prices=prices), self._run.now_ns)
        return msgspec.structs.replace(endpoint, price=prices[0].card, price_origin=prices[0].origin)

    def _instead(self, own: _Prices, others: _Prices, path: Path) -> _Prices:
        """`own` prices, which stand at `path`; before the first of them counts, the others do as if it were not there.
        Where there are none, nobody would say what a request costs until then."""
        if not own or own[0].from_ns is None:
            return own if own else others
        first_ns = own[0].from_ns
        before = tuple(one for one in others if one.from_ns is None or one.from_ns < first_ns)
        if not before and first_ns > self._run.now_ns:
            where: Path = (*path, 0, "from") if (*path, 0, "from") in self._run.problems.marks else (*path, "from")
            self._run.problems.add(where, "is to come, and nothing says what it costs until then; add a card before it")
        return (*before, *own)

    def _collect_aliases(self) -> None:
        """Aliases of the file, then those of the catalogue that the file leaves free."""
        for name, entry in self._run.config.models.items():
            path: Path = ("models", name)
            if entry.alias is not None:
                if entry.endpoints or entry.aliases or entry.kind is not None:
                    self._run.problems.add(path, "is an alias, which has nothing but `alias`", value=False)
                self._aliases[name] = entry.alias
                self._alias_paths[name] = (*path, "alias")
            for index, alias in enumerate(entry.aliases):
                where: Path = (*path, "aliases", index)
                if alias in self._run.config.models or alias in self._aliases:
                    self._run.problems.add(where, "is already the name of another model")
                    continue
                self._aliases[alias] = name
                self._alias_paths[alias] = where
        for known in self._run.facts.catalogue.values():
            for alias in known.aliases:
                if alias not in self._run.config.models:
                    self._aliases.setdefault(alias, known.name)

    def _resolve_aliases(self, endpoints: dict[str, Model], known: frozenset[str]) -> None:
        for alias in self._aliases:
            target = self._target(alias)
            if target is None:
                continue
            model = self._models.get(target) or endpoints.get(target)
            provider, slash, _ = target.partition("/")
            if model is None and slash and provider in self._sources.live:
                model = self._path_model(target)
            if model is not None:
                self._models[alias] = msgspec.structs.replace(model, name=alias)
            elif alias in self._alias_paths and target not in known and not self._is_path(target):
                path = self._alias_paths[alias]
                self._run.problems.add(path, "no model has this name", word=target, valid=known - {alias})
            elif alias in self._alias_paths:
                self._run.notice(f"alias {alias!r} is left out: nobody configured serves {target!r}")

    def _target(self, alias: str) -> str | None:
        """Where the chain of aliases ends; None and a problem where it goes in a circle."""
        chain = [alias]
        while (following := self._aliases.get(chain[-1])) is not None:
            if following in chain:
                path = self._alias_paths.get(alias, ("models", alias))
                circle = " → ".join([*chain, following])
                self._run.problems.add(path, f"is an alias that goes in a circle: {circle}", value=False)
                return None
            chain.append(following)
        return chain[-1]


def _first(*values: int | None) -> int | None:
    """The first value that is there."""
    return next((value for value in values if value is not None), None)


def _abilities(
    offer: tuple[CatalogueModel, CatalogueEndpoint] | None,
) -> tuple[frozenset[Capability], int | None, int | None]:
    """Capabilities, context window and largest output of an offer that the catalogue may know."""
    if offer is None:
        return frozenset(), None, None
    model, endpoint = offer
    return (
        model.capabilities | endpoint.also_can,
        _first(endpoint.context_tokens, model.context_tokens),
        _first(endpoint.output_tokens_max, model.output_tokens_max),
    )


def _epoch_s(released: str | None) -> int:
    """ISO date → seconds since the epoch; 0 where nobody knows."""
    return int(datetime.fromisoformat(released).replace(tzinfo=UTC).timestamp()) if released is not None else 0
