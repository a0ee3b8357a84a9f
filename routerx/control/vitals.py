"""How the process is: what /health, /readyz and /metrics are made of. Reads everywhere, owns `draining`."""

from collections.abc import Callable

from routerx import __version__
from routerx.clock import Clock
from routerx.config.snapshot import SnapshotHolder
from routerx.config.watch import ReloadStatus
from routerx.ledger.base import Ledger
from routerx.routing.health import HealthBook, Seen
from routerx.routing.state import RoutingState
from routerx.telemetry.metrics import Metrics


class Vitals:
    """One per process."""

    def __init__(
        self, holder: SnapshotHolder, ledger: Ledger, routing: RoutingState, metrics: Metrics, clock: Clock
    ) -> None:
        self._holder = holder
        self._ledger = ledger
        self._routing = routing
        self._metrics = metrics
        self._clock = clock
        self._started_s = clock.monotonic_s()
        self.draining = False
        self.reload_status: Callable[[], ReloadStatus] | None = None
        self.looks: HealthBook | None = None
        """What providers looked like off the request path."""

    def unready(self) -> str | None:
        """Why new requests are not welcome; None when they are."""
        if self.draining:
            return "draining"
        health = self._ledger.health()
        return None if health.ok else health.reason or "ledger"

    def metrics(self) -> bytes:
        """Prometheus text."""
        return self._metrics.render()

    def health(self) -> dict[str, object]:
        """For GET /health. Open to anyone: no paths, tenants, keys or amounts."""
        snapshot, now_s = self._holder.current, self._clock.monotonic_s()
        ledger = self._ledger.health()
        status = self.reload_status() if self.reload_status is not None else None
        reason = self.unready()
        return {
            "status": "ok" if reason is None and not ledger.suspects else "degraded",
            "reason": reason,
            "version": __version__,
            "uptime_s": round(now_s - self._started_s),
            "config": {"generation": snapshot.generation, "ok": status is None or status.ok},
            "ledger": {
                "ok": ledger.ok,
                "synchronous": ledger.synchronous,
                "flush_us": ledger.flush_us,
                "survives_power_loss": ledger.survives_power_loss,
                "queue": ledger.queue,
            },
            "providers": [self.provider(name) for name in sorted(snapshot.providers)],
            "endpoints": [
                {
                    "endpoint": view.endpoint,
                    "circuit": view.circuit,
                    "credential": view.credential,
                    "ready_in_s": round(view.ready_in_s, 1),
                }
                for view in self._routing.view(now_s)
                if view.endpoint in snapshot.endpoints  # Other paths are what callers have typed.
            ],
        }

    def provider(self, name: str) -> dict[str, object]:
        """How a provider looked. For anyone: neither its address is told nor which key it was looked at with."""
        health = self.looks.health(name, self._clock.monotonic_s()) if self.looks is not None else None
        return {
            "provider": name,
            "seen": None if health is None else health.last.seen.value,
            "latency_ms": None if health is None else health.last.latency_ms,
            "consecutive": None if health is None else health.consecutive,
            "uptime": None if health is None or health.uptime is None else round(health.uptime, 4),
        }

    def providers_up(self) -> list[tuple[str, bool]]:
        """For the metric: each provider that was looked at, and whether it was ok."""
        if self.looks is None:
            return []
        now_s = self._clock.monotonic_s()
        found = ((name, self.looks.health(name, now_s)) for name in sorted(self._holder.current.providers))
        return [(name, health.last.seen is Seen.OK) for name, health in found if health is not None]
