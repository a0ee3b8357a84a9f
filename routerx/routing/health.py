"""When providers are looked at off the request path, and what was last seen of each. Pure: no clock and no I/O.

A look says whether a provider can be reached and takes the key, not whether it answers chats: nothing here opens a
circuit. But while a circuit is open the provider is looked at more often, and a look that succeeds brings the
circuit's next probe forward, once until the circuit closes or the provider is seen to be down: where the looks succeed
and the calls do not, the growing cooldown stays what it is.
"""

import math
import random
from collections.abc import Iterable
from enum import StrEnum

import msgspec

from routerx.providers.spec import Credential, Provider

RECHECK_S = 10.0
"""Between two looks while one of the provider's circuits is open."""
FIRST_CHECK_S = 5.0
"""After the start, or after a provider's address or keys have changed."""
INTERVAL_MIN_S = 1.0
JITTER = 0.1
"""Share of a wait by which it is longer or shorter, so that not all are looked at together."""
UPTIME_MEMORY_S = 86_400.0
"""How far back the uptime looks: older times count less and less."""


class Seen(StrEnum):
    """What a look at a provider came to."""

    OK = "ok"
    FAILED = "failed"
    """It answered that something is wrong with it, or not as a provider does."""
    AUTH = "auth"
    """It refuses the key, or wants money first."""
    UNREACHABLE = "unreachable"

    __hash__ = str.__hash__


class Look(msgspec.Struct, frozen=True):
    """One look at one provider, by one credential."""

    provider: str
    credential_id: str
    seen: Seen
    reason: str | None
    """Why it is not ok: a failure's name, or a status."""
    status: int | None
    """Of its answer; None: there was none."""
    latency_ms: int
    """Until the answer's head was here, or until it was given up."""
    at_ns: int


class Health(msgspec.Struct, frozen=True):
    """What is known of one provider."""

    last: Look
    consecutive: int
    """Looks in a row that came to the same."""
    uptime: float | None
    """Share of the time, most of it of the last day, in which it was ok; None: not known for long enough."""


class _Watched:
    """One provider."""

    __slots__ = ("address", "brought", "busy", "consecutive", "due_s", "known_s", "last", "last_s", "turn", "up_s")

    def __init__(self, address: tuple[object, ...], due_s: float) -> None:
        self.address = address
        self.due_s = due_s
        self.busy = False
        self.turn = 0
        self.last: Look | None = None
        self.last_s = 0.0
        self.consecutive = 0
        self.up_s = 0.0
        self.known_s = 0.0
        self.brought: set[tuple[str, str]] = set()
        """Open circuits (endpoint, credential) whose probe was brought forward since the provider was last down."""


class HealthBook:
    """The state of all providers. One owner, no await."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._watched: dict[str, _Watched] = {}

    def retain(self, providers: Iterable[Provider], now_s: float) -> None:
        """After the start and each reload: who is there. One whose address or keys have changed is looked at anew."""
        before, self._watched = self._watched, {}
        for provider in providers:
            address = _address(provider)
            known = before.get(provider.name)
            if known is None or known.address != address:
                known = _Watched(address, now_s + self._about(FIRST_CHECK_S))
            self._watched[provider.name] = known

    def due(self, interval_s: float, open_providers: frozenset[str], now_s: float) -> list[str]:
        """Who is to be looked at now; each is busy until record(). `open_providers`: those with an open circuit.
        An interval of 0 is never."""
        if interval_s <= 0:
            return []
        found = []
        for name, watched in self._watched.items():
            due_s = watched.due_s
            if name in open_providers and watched.last is not None:
                due_s = min(due_s, watched.last_s + RECHECK_S)
            elif name in open_providers:
                due_s = min(due_s, now_s)
            if due_s <= now_s and not watched.busy:
                watched.busy = True
                watched.due_s = now_s + self._about(max(interval_s, INTERVAL_MIN_S))
                found.append(name)
        return found

    def credential(self, provider: Provider, usable: frozenset[str]) -> Credential:
        """The credential to look with: those that are `usable` take turns, all of them where none is."""
        watched = self._watched.get(provider.name)
        candidates = [one for one in provider.credentials if one.id in usable] or list(provider.credentials)
        if watched is None:
            return candidates[0]
        watched.turn += 1
        return candidates[watched.turn % len(candidates)]

    def record(self, look: Look, now_s: float) -> None:
        """A look is over. One at a provider that is gone by now is forgotten."""
        watched = self._watched.get(look.provider)
        if watched is None:
            return
        watched.busy = False
        if watched.last is not None:
            watched.up_s, watched.known_s = _times(watched, now_s)
        same = watched.last is not None and watched.last.seen is look.seen
        watched.consecutive = watched.consecutive + 1 if same else 1
        watched.last, watched.last_s = look, now_s
        if look.seen in (Seen.FAILED, Seen.UNREACHABLE):
            watched.brought.clear()

    def given_up(self, provider: str) -> None:
        """A look that came to nothing, such as one that was cancelled."""
        watched = self._watched.get(provider)
        if watched is not None:
            watched.busy = False

    def to_bring_forward(self, provider: str, tripped: Iterable[tuple[str, str, bool]]) -> list[tuple[str, str]]:
        """After a look that was ok: the open circuits (endpoint, credential) whose probe may go earlier. `tripped`: all
        that are not closed, as RoutingState has them."""
        watched = self._watched.get(provider)
        if watched is None or watched.last is None or watched.last.seen is not Seen.OK:
            return []
        own = {(endpoint, key): is_open for endpoint, key, is_open in tripped if provider_of(endpoint) == provider}
        watched.brought &= own.keys()
        return [circuit for circuit, is_open in own.items() if is_open and circuit not in watched.brought]

    def brought_forward(self, provider: str, circuit: tuple[str, str]) -> None:
        """The probe of a circuit goes earlier than it would have."""
        watched = self._watched.get(provider)
        if watched is not None:
            watched.brought.add(circuit)

    def health(self, provider: str, now_s: float) -> Health | None:
        """What is known of a provider; None: it was not looked at yet."""
        watched = self._watched.get(provider)
        if watched is None or watched.last is None:
            return None
        up_s, known_s = _times(watched, now_s)
        return Health(watched.last, watched.consecutive, up_s / known_s if known_s > 0 else None)

    def _about(self, wait_s: float) -> float:
        return wait_s * (1 + JITTER * (2 * self._rng.random() - 1))


def provider_of(endpoint_key: str) -> str:
    """An endpoint's key begins with its provider."""
    return endpoint_key.partition("/")[0]


def _times(watched: _Watched, now_s: float) -> tuple[float, float]:
    """Seconds up and seconds known until now. What lies between two looks counts as the first of them saw it."""
    assert watched.last is not None
    passed_s = max(0.0, now_s - watched.last_s)
    fading = math.exp(-passed_s / UPTIME_MEMORY_S)
    up_s = passed_s if watched.last.seen is Seen.OK else 0.0
    return watched.up_s * fading + up_s, watched.known_s * fading + passed_s


def _address(provider: Provider) -> tuple[object, ...]:
    """What a look depends on."""
    ids = tuple(credential.id for credential in provider.credentials)
    return provider.base_url, provider.dialect, provider.auth, provider.proxy, provider.mock is not None, ids
