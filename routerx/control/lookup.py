"""Names looked up in a snapshot and in the catalogue, with the nearest one where there is no such name. Pure."""

import difflib
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from routerx.config.snapshot import Snapshot
from routerx.control import views
from routerx.control.values import ModelQuery, ModelView
from routerx.domain.model import Capability, Kind
from routerx.errors import ModelNotFound, NotFound
from routerx.providers.catalogue import load_catalogue
from routerx.providers.presets import PRESETS
from routerx.providers.spec import CatalogueModel


def require(name: str, known: Iterable[str], what: str) -> None:
    """Raise NotFound, with the nearest name, where `name` is not among `known`."""
    names = list(known)
    if name not in names:
        raise NotFound(f"There is no {what} {name!r}{_nearest(name, names)}", param=what)


def find_models(snapshot: Snapshot, query: ModelQuery) -> tuple[ModelView, ...]:
    """The names that callers may ask for, sorted; `provider/model` paths are left out."""
    if query.provider is not None:
        known = {*snapshot.providers, *PRESETS} if query.everywhere else snapshot.providers
        require(query.provider, known, "provider")
    if query.kind is not None:
        require(query.kind, [kind.value for kind in Kind], "kind")
    if query.capability is not None:
        require(query.capability, [capability.value for capability in Capability], "capability")
    aliases = _aliases(snapshot)
    every = {name: _served(snapshot, name, aliases) for name in snapshot.models}
    if query.everywhere:
        for name, model in load_catalogue().items():
            if name not in every:
                every[name] = _with_offers(snapshot, views.unserved_view(model))
    return tuple(every[name] for name in sorted(every) if views.model_matches(every[name], query))


def find_model(snapshot: Snapshot, name: str) -> ModelView:
    """One model, by name, alias or `provider/model` path; one of the catalogue also where nobody configured serves it.

    Raises ModelNotFound with the nearest name.
    """
    if name in snapshot.models:
        return _served(snapshot, name, _aliases(snapshot))
    found = snapshot.endpoints.get(name)
    if found is not None:
        # A path is not an alias: it is the full name of one endpoint.
        return views.model_view(found.name, found)
    known = _known(name)
    if known is None:
        hint = _nearest(name, [*snapshot.models, *snapshot.endpoints, *load_catalogue()])
        raise ModelNotFound(f"There is no model {name!r}{hint}", param="model")
    return _with_offers(snapshot, views.unserved_view(known))


def _served(snapshot: Snapshot, name: str, aliases: Mapping[str, Sequence[str]]) -> ModelView:
    view = views.model_view(name, snapshot.models[name])
    others = tuple(other for other in aliases.get(view.alias_of or name, ()) if other != name)
    return _with_offers(snapshot, msgspec.structs.replace(view, aliases=others))


def _aliases(snapshot: Snapshot) -> Mapping[str, Sequence[str]]:
    """Model → its further names, sorted; a name for one of several endpoints is not one of them."""
    found: dict[str, list[str]] = {}
    for name, model in sorted(snapshot.models.items()):
        own_name = views.own_name(model)
        own = snapshot.models.get(own_name)
        if name != own_name and own is not None and own.endpoints == model.endpoints:
            found.setdefault(own_name, []).append(name)
    return found


def _with_offers(snapshot: Snapshot, view: ModelView) -> ModelView:
    known = load_catalogue().get(view.alias_of or view.name)
    if known is None:
        return view
    here = {*snapshot.providers, *(endpoint.provider for endpoint in view.endpoints)}
    offers = (offer for offer in known.endpoints if offer.provider not in here)
    return msgspec.structs.replace(view, elsewhere=tuple(views.offer_view(known, offer) for offer in offers))


def _known(name: str) -> CatalogueModel | None:
    """The catalogue's model of a name or an alias."""
    catalogue = load_catalogue()
    return catalogue.get(name) or next((known for known in catalogue.values() if name in known.aliases), None)


def _nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence that says a name is unknown."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else "."
