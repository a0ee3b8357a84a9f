"""From routing, looks and configuration to what the control plane shows of providers. Only World.of reads state."""

from collections.abc import Mapping, Sequence

import msgspec

from routerx.clock import Clock
from routerx.config.snapshot import Snapshot
from routerx.control.provider_values import (
    CircuitRow,
    HealthView,
    KeyCounts,
    KeySeries,
    KeyStatsView,
    LookView,
    ProviderKeyView,
    ProviderStats,
    ProviderView,
    SeriesPoint,
)
from routerx.control.views import iso_time
from routerx.providers.spec import Credential, Provider
from routerx.routing.credentials import KeyStats
from routerx.routing.credentials import SeriesPoint as Step
from routerx.routing.health import HealthBook, Look, provider_of
from routerx.routing.state import CircuitView, RoutingState

_WORSE = ("closed", "half_open", "open")


class World(msgspec.Struct, frozen=True):
    """Everything that views are made of, read at one moment."""

    snapshot: Snapshot
    every: Mapping[str, Provider]
    circuits: tuple[CircuitView, ...]
    stats: Mapping[str, KeyStats]
    book: HealthBook
    now_s: float
    now_ns: int

    @classmethod
    def of(cls, snapshot: Snapshot, routing: RoutingState, book: HealthBook, clock: Clock) -> "World":
        now_s = clock.monotonic_s()
        return cls(
            snapshot=snapshot,
            every=every_provider(snapshot),
            circuits=routing.view(now_s),
            stats={stats.credential_id: stats for stats in routing.key_stats(now_s)},
            book=book,
            now_s=now_s,
            now_ns=clock.now_ns(),
        )

    def wall_ns(self, at_s: float) -> int:
        """A monotonic time as the wall clock has it now."""
        return self.now_ns - round((self.now_s - at_s) * 1e9)


def every_provider(snapshot: Snapshot) -> Mapping[str, Provider]:
    """Those that are called, and those that are not."""
    return {**{name: idle.provider for name, idle in snapshot.idle.items()}, **snapshot.providers}


def provider_view(world: World, name: str) -> ProviderView:
    provider = world.every[name]
    return ProviderView(
        name=name,
        state=state_of(world.snapshot, name),
        dialect=provider.dialect,
        base_url=provider.base_url,
        mock=provider.mock is not None,
        models=sum(any(one.provider == name for one in m.endpoints) for m in world.snapshot.models.values()),
        circuit=worst_circuit(world.circuits, name),
        keys=key_counts(world, name),
        health=health_view(world, name),
    )


def state_of(snapshot: Snapshot, name: str) -> str:
    idle = snapshot.idle.get(name)
    if idle is not None:
        return idle.reason
    return "own_keys" if snapshot.providers[name].byok_only else "on"


def worst_circuit(circuits: Sequence[CircuitView], name: str) -> str:
    """Of a provider."""
    found = (view.circuit for view in circuits if provider_of(view.endpoint) == name)
    return max(found, key=_WORSE.index, default="closed")


def key_counts(world: World, name: str) -> KeyCounts:
    states = [key.state for key in key_views(world, name)]
    return KeyCounts(**{state: states.count(state) for state in set(states)})


def key_views(world: World, name: str) -> tuple[ProviderKeyView, ...]:
    """The keys of a provider in the order of the file, those that are off last. What needs no key has none."""
    provider = world.every[name]
    on = (_key_view(world, name, one) for one in provider.credentials if one.secret is not None)
    off = (msgspec.structs.replace(_key_view(world, name, one), state="disabled") for one in provider.credentials_off)
    return (*on, *off)


def _key_view(world: World, provider: str, credential: Credential) -> ProviderKeyView:
    stats = _stats_of(world, credential)
    return ProviderKeyView(
        id=credential.id,
        provider=provider,
        state=stats.state,
        ready_in_s=round(stats.ready_in_s, 1),
        rpm=credential.rpm,
        tpm=credential.tpm,
        stats=_stats_view(world, (stats,)),
    )


def _stats_of(world: World, credential: Credential) -> KeyStats:
    """What was done with a key; one that was never used is known by nobody."""
    stats = world.stats.get(credential.id)
    return stats if stats is not None else KeyStats(credential.id, "active", 0.0, 0, 0, 0, 0, 0, None)


def _stats_view(world: World, every: Sequence[KeyStats]) -> KeyStatsView:
    """The sums over keys."""
    last_s = max((stats.last_used_s for stats in every if stats.last_used_s is not None), default=None)
    return KeyStatsView(
        requests=sum(stats.requests for stats in every),
        successes=sum(stats.successes for stats in every),
        failures=sum(stats.failures for stats in every),
        rate_limited=sum(stats.rate_limited for stats in every),
        tokens=sum(stats.tokens for stats in every),
        last_used=None if last_s is None else iso_time(world.wall_ns(last_s)),
    )


def circuit_rows(world: World, *, provider: str | None = None, key_id: str | None = None) -> tuple[CircuitRow, ...]:
    """The circuits of a provider or of a key."""
    return tuple(
        CircuitRow(
            endpoint=view.endpoint,
            key=view.credential_id,
            circuit=view.circuit,
            ready_in_s=round(view.ready_in_s, 1),
            requests=view.requests,
            failures=view.failures,
            ttft_ms=None if view.ttft_s is None else round(view.ttft_s * 1000),
            total_ms=None if view.total_s is None else round(view.total_s * 1000),
        )
        for view in world.circuits
        if provider in (None, provider_of(view.endpoint)) and key_id in (None, view.credential_id)
    )


def look_view(look: Look) -> LookView:
    return LookView(
        seen=look.seen.value,
        reason=look.reason,
        status=look.status,
        latency_ms=look.latency_ms,
        at=iso_time(look.at_ns),
        key=look.credential_id,
    )


def health_view(world: World, name: str) -> HealthView | None:
    health = world.book.health(name, world.now_s)
    if health is None:
        return None
    return HealthView(
        last=look_view(health.last),
        consecutive=health.consecutive,
        uptime=None if health.uptime is None else round(health.uptime, 4),
    )


def looks_of(world: World, provider: str, key_id: str) -> tuple[LookView, ...]:
    """The last look at a provider, where it was made with this key."""
    health = world.book.health(provider, world.now_s)
    return () if health is None or health.last.credential_id != key_id else (look_view(health.last),)


def provider_stats(world: World, name: str) -> ProviderStats:
    provider = world.every[name]
    every = [_stats_of(world, one) for one in (*provider.credentials, *provider.credentials_off)]
    return ProviderStats(
        provider=name,
        state=state_of(world.snapshot, name),
        circuit=worst_circuit(world.circuits, name),
        health=health_view(world, name),
        keys=key_counts(world, name),
        stats=_stats_view(world, every),
    )


def key_series(key_id: str, shape: tuple[int, int], steps: Sequence[Step], world: World) -> KeySeries:
    """`shape`: minutes of the window, seconds of a step."""
    return KeySeries(
        id=key_id,
        window_minutes=shape[0],
        step_seconds=shape[1],
        points=tuple(
            SeriesPoint(
                at=iso_time(world.wall_ns(world.now_s - step.ago_s)),
                requests=step.requests,
                successes=step.successes,
                failures=step.failures,
                rate_limited=step.rate_limited,
                tokens=step.tokens,
            )
            for step in steps
        ),
    )
