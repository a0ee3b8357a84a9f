"""A checked configuration → the immutable Snapshot, or problems. Reads no file, no clock and no environment."""

from collections.abc import Mapping
from types import MappingProxyType

from routerx.config.compilation import Compilation, overrides
from routerx.config.compile_models import Names, compile_models
from routerx.config.compile_providers import compile_providers
from routerx.config.compile_server import compile_server
from routerx.config.compile_tenants import compile_tenants
from routerx.config.problems import Path, Problems, dotted
from routerx.config.repricing import next_change_ns
from routerx.config.schema_policies import PolicyEntry
from routerx.config.snapshot import Places, Snapshot
from routerx.domain.model import EVERYTHING
from routerx.domain.policy import BreakerPolicy, Fence, Policy, RetryPolicy, StreamPolicy

DEFAULT_POLICY = "default"
ATTEMPTS_MAX = 10
PLACES_DEPTH: Mapping[str | int, int] = MappingProxyType(
    {"providers": 3, "models": 4, "policies": 4, "plans": 3, "tenants": 3, "pricing": 2}
)
"""How deep the places of what decides about routing are kept, for explanations."""


def compile_snapshot(run: Compilation, generation: int) -> Snapshot:
    """Everything a request needs to know. Problems are left in `run`; with any, the result must not be used."""
    if run.config.version != 1:
        run.problems.add(("version",), "must be 1; this release knows no other format")
    server = compile_server(run)
    sources = compile_providers(run)
    names = compile_models(run, sources)
    policies = {name: _policy(run, name, entry, names) for name, entry in run.config.policies.items()}
    if DEFAULT_POLICY not in run.declared["policies"]:
        policies[DEFAULT_POLICY] = Policy(name=DEFAULT_POLICY)
    customers = compile_tenants(run, server, policies)
    return Snapshot(
        generation=generation,
        server=server,
        providers={name: source.provider for name, source in sources.live.items()},
        models=names.models,
        endpoints=names.endpoints,
        policies=policies,
        plans=customers.plans,
        tenants=customers.tenants,
        keys=customers.keys,
        files=run.document.sources.files,
        include_globs=run.document.sources.globs,
        idle=sources.idle,
        notices=tuple(run.notices),
        places=_places(run.problems),
        prices_until_ns=next_change_ns((*names.models.values(), *names.endpoints.values())),
    )


def _places(problems: Problems) -> Places:
    return Places(
        {
            dotted(path): str(mark)
            for path, mark in problems.marks.items()
            if 2 <= len(path) <= PLACES_DEPTH.get(path[0], 0) and mark.line
        }
    )


def _policy(run: Compilation, name: str, entry: PolicyEntry, names: Names) -> Policy:
    path: Path = ("policies", name)
    retry, breaker = entry.retry, entry.breaker
    for key, value, least in (("max", retry.max, 0), ("attempts", retry.attempts, 1)):
        if not least <= value <= ATTEMPTS_MAX:
            run.problems.add((*path, "retry", key), f"must be from {least} to {ATTEMPTS_MAX}")
    if not 1 <= breaker.error_rate <= 10_000:
        run.problems.add((*path, "breaker", "error_rate"), "must be above 0% and at most 100%")
    if breaker.cooldown > breaker.cooldown_max:
        run.problems.add((*path, "breaker", "cooldown"), "is longer than cooldown_max")
    return Policy(
        name=name,
        sort=entry.sort,
        on_failure=_on_failure(run, path, entry, names),
        retry=RetryPolicy(
            retries_max=retry.max,
            backoff_min_s=retry.backoff[0],
            backoff_max_s=retry.backoff[1],
            attempts_max=retry.attempts,
        ),
        breaker=BreakerPolicy(
            window_s=breaker.window,
            error_rate=breaker.error_rate / 10_000,
            requests_min=breaker.min_requests,
            consecutive_max=breaker.consecutive,
            cooldown_s=breaker.cooldown,
            cooldown_max_s=breaker.cooldown_max,
        ),
        fence=Fence(max_cost_ratio=entry.fence.max_cost_ratio, never_paid=entry.fence.never_paid),
        translation=entry.translation,
        timeouts=overrides(entry.timeouts),
        stream=StreamPolicy(
            commit=entry.stream.commit,
            probe_s=entry.stream.probe,
            probe_bytes=entry.stream.probe_size,
            rescue=entry.stream.rescue,
        ),
        by_capability=_by_capability(run, path, entry, names),
        resend_rejected=entry.resend_rejected,
        hedge_after_s=entry.hedge,
        affinity_s=entry.affinity,
    )


def _by_capability(
    run: Compilation, path: Path, entry: PolicyEntry, names: Names
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Models for each capability. A name that nobody serves here is left out with a notice."""
    rows: list[tuple[str, tuple[str, ...]]] = []
    valid = ("text", *(capability.value for capability in EVERYTHING))
    for capability, models in entry.by_capability.items():
        where: Path = (*path, "by_capability", capability)
        if capability not in valid:
            run.problems.add(where, "is not something a request can need", word=capability, valid=sorted(valid))
        rows.append((capability, _served(run, where, models, names)))
    return tuple(rows)


def _on_failure(run: Compilation, path: Path, entry: PolicyEntry, names: Names) -> tuple[str, ...]:
    """The models to fall back to; each once, under whichever of its names, so that no chain returns to its start."""
    return _served(run, (*path, "on_failure"), entry.on_failure, names)


def _served(run: Compilation, path: Path, wanted: list[str], names: Names) -> tuple[str, ...]:
    chain: list[str] = []
    seen: dict[tuple[str, ...], str] = {}
    for index, name in enumerate(wanted):
        where: Path = (*path, index)
        provider, slash, rest = name.partition("/")
        model = names.models.get(name) or names.endpoints.get(name)
        if name in wanted[:index]:
            run.problems.add(where, "names the same model twice; a fallback chain must not return to where it was")
            continue
        if model is None and not (slash and rest and provider in run.declared["providers"]):
            if name in names.known:
                run.notice(f"policy {path[1]!r} does without {name!r}: nobody configured serves it")
            else:
                run.problems.add(where, "no model has this name", word=name, valid=names.known)
            continue
        same = tuple(endpoint.key for endpoint in model.endpoints) if model is not None else (name,)
        if same in seen:
            what = f"is the same model as {seen[same]!r}"
            run.problems.add(where, f"{what}; a fallback chain must not return to where it was")
        seen.setdefault(same, name)
        chain.append(name)
    return tuple(chain)
