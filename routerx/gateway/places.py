"""Where in the files stands what decided: file and line of endpoints, policies and rules. For operators. Pure."""

from routerx.config.snapshot import Snapshot
from routerx.domain.call import Exclusion
from routerx.domain.model import Endpoint
from routerx.domain.policy import Policy
from routerx.domain.tenant import Tenant

_ENDPOINT_KEYS = {
    "context_too_small": "context",
    "output_too_small": "max_output",
    "over_max_price": "price",
    "not_distillable": "distillable",
    "other_quantization": "quantization",
}
_PROVIDER_KEYS = {
    "provider_limited": "limit",
    "keeps_data": "keeps_data",
    "not_zdr": "zdr",
    "no_house_key": "byok_only",
}


def endpoint_place(snapshot: Snapshot, endpoint: Endpoint, key: str = "") -> str | None:
    """Of an endpoint's entry (or of `key` in it), else of its model, else of its provider; None: in no file."""
    model = snapshot.models.get(endpoint.model)
    path = f"models.{endpoint.model}"
    found: list[str] = []
    if model is not None and endpoint in model.endpoints and _are_all_there(snapshot, path, len(model.endpoints)):
        entry = f"{path}.endpoints[{model.endpoints.index(endpoint)}]"
        found = [f"{entry}.{key}", entry]
    return _first(snapshot, *found, path, f"providers.{endpoint.provider}")


def policy_place(snapshot: Snapshot, policy: Policy, key: str = "") -> str | None:
    path = f"policies.{policy.name}"
    return _first(snapshot, f"{path}.{key}", path)


def exclusion_place(
    snapshot: Snapshot, excluded: Exclusion, tenant: Tenant, policy: Policy, models: tuple[str, ...]
) -> str | None:
    """Of what excluded an endpoint of one of `models`; None where the caller itself did, or no file says it."""
    rule = excluded.rule
    provider = excluded.endpoint.partition("/")[0]
    if rule == "not_allowed":
        return _first(snapshot, f"tenants.{tenant.name}.allow", f"tenants.{tenant.name}")
    if rule == "house_key":
        return _first(snapshot, f"tenants.{tenant.name}.byok_fallback", f"tenants.{tenant.name}")
    if rule in ("unpriced", "not_zero_priced"):
        key = "on_unpriced" if rule == "unpriced" else "free_suffix"
        return _first(snapshot, f"plans.{tenant.plan.name}.{key}", f"plans.{tenant.plan.name}")
    if rule.startswith("fence_"):
        return policy_place(snapshot, policy, f"fence.{rule.removeprefix('fence_')}")
    if rule == "circuit_open":
        return policy_place(snapshot, policy, "breaker")
    if rule in _PROVIDER_KEYS:
        return _first(snapshot, f"providers.{provider}.{_PROVIDER_KEYS[rule]}", f"providers.{provider}")
    if rule.startswith("credential_") or rule in ("no_credential", "no_provider"):
        return _first(snapshot, f"providers.{provider}.keys", f"providers.{provider}")
    if rule.startswith("lacks_") or rule in _ENDPOINT_KEYS:
        endpoint = _endpoint(snapshot, excluded.endpoint, models)
        return None if endpoint is None else endpoint_place(snapshot, endpoint, _ENDPOINT_KEYS.get(rule, "supports"))
    return None


def _endpoint(snapshot: Snapshot, key: str, models: tuple[str, ...]) -> Endpoint | None:
    found = (snapshot.models.get(name) or snapshot.endpoints.get(name) for name in (*models, key))
    return next((one for model in found if model is not None for one in model.endpoints if one.key == key), None)


def _are_all_there(snapshot: Snapshot, path: str, count: int) -> bool:
    """Whether the file's list is the model's: entries of providers that are off are left out of the model."""
    places = snapshot.places.by_path
    return f"{path}.endpoints[{count - 1}]" in places and f"{path}.endpoints[{count}]" not in places


def _first(snapshot: Snapshot, *paths: str) -> str | None:
    places = snapshot.places.by_path
    return next((places[path] for path in paths if path in places), None)
