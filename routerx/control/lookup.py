"""Names looked up in a snapshot, with the nearest one where there is no such name. Pure."""

import difflib
from collections.abc import Iterable

from routerx.config.snapshot import Snapshot
from routerx.control import views
from routerx.control.values import ModelQuery, ModelView
from routerx.domain.model import Kind
from routerx.errors import ModelNotFound, NotFound


def require(name: str, known: Iterable[str], what: str) -> None:
    """Raise NotFound, with the nearest name, where `name` is not among `known`."""
    names = list(known)
    if name not in names:
        raise NotFound(f"There is no {what} {name!r}{_nearest(name, names)}", param=what)


def find_models(snapshot: Snapshot, query: ModelQuery) -> tuple[ModelView, ...]:
    """The names that callers may ask for, sorted; `provider/model` paths are left out."""
    if query.provider is not None:
        require(query.provider, snapshot.providers, "provider")
    if query.kind is not None:
        require(query.kind, [kind.value for kind in Kind], "kind")
    every = (views.model_view(name, snapshot.models[name]) for name in sorted(snapshot.models))
    return tuple(model for model in every if views.model_matches(model, query))


def find_model(snapshot: Snapshot, name: str) -> ModelView:
    """One model, by name, alias or `provider/model` path. Raises ModelNotFound with the nearest name."""
    found = snapshot.models.get(name) or snapshot.endpoints.get(name)
    if found is None:
        hint = _nearest(name, [*snapshot.models, *snapshot.endpoints])
        raise ModelNotFound(f"There is no model {name!r}{hint}", param="model")
    # A path is not an alias: it is the full name of one endpoint.
    return views.model_view(name if name in snapshot.models else found.name, found)


def _nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence that says a name is unknown."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else "."
