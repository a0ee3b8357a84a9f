"""Shortlists that were made before, so that the next request of the same shape need not ask for one."""

from routerx.config.snapshot import Snapshot
from routerx.routing.shortlist import PlanKey, Shortlist

PLANS_MAX = 4_096


class PlanCache:
    """The static parts of plans, of one snapshot; the oldest entry goes when it is full."""

    __slots__ = ("_entries", "_snapshot")

    def __init__(self) -> None:
        self._entries: dict[PlanKey, Shortlist] = {}
        self._snapshot: Snapshot | None = None

    def get(self, snapshot: Snapshot, key: PlanKey) -> Shortlist | None:
        if snapshot is not self._snapshot:
            self._entries.clear()
            self._snapshot = snapshot
        return self._entries.get(key)

    def put(self, key: PlanKey, value: Shortlist) -> None:
        """Store for the snapshot last asked for."""
        if len(self._entries) >= PLANS_MAX:
            del self._entries[next(iter(self._entries))]
        self._entries[key] = value

    def __len__(self) -> int:
        return len(self._entries)
