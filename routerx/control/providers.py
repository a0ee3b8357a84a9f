"""What operators can do about providers and their keys: see them, look at them now, switch them, and change keys.

What is to be goes to YAML through ProviderFiles and becomes live by a reload; what is known comes from routing and from
the looks of HealthChecks. No answer holds a key.
"""

from collections.abc import Iterable

import msgspec

from routerx.clock import Clock
from routerx.config.edit_providers import AddKey, ChangeKey, DeclaredKey, RemoveKey, SwitchProvider
from routerx.config.snapshot import Snapshot, SnapshotHolder
from routerx.control import provider_views as views
from routerx.control.checks import HealthChecks
from routerx.control.lookup import require
from routerx.control.provider_files import ProviderFiles
from routerx.control.provider_values import (
    KeyChange,
    KeyDebug,
    KeySeries,
    NewProviderKey,
    ProviderDetail,
    ProviderKeyView,
    ProviderStats,
    ProviderTest,
    ProviderView,
    Reloaded,
    RemovedKey,
)
from routerx.errors import Conflict, InvalidParameter, NotFound
from routerx.providers.spec import Credential, Provider
from routerx.routing.state import RoutingState
from routerx.secrets import Secret, fingerprint

KEY_CHARS_MAX = 4_096
LIMIT_MAX = 10**12
WINDOW_MINUTES_MAX = 24 * 60
STEPS_MAX = 1_440


def provider_key(text: str) -> Secret:
    """A key as somebody gave it, blanks around it taken off. Raises InvalidParameter for what is none."""
    text = text.strip()
    if not (0 < len(text) <= KEY_CHARS_MAX and text.isascii() and text.isprintable() and " " not in text):
        raise InvalidParameter(
            f"key must be one line of ASCII without spaces, at most {KEY_CHARS_MAX} characters.", param="key"
        )
    return Secret(text)


class ProviderParts(msgspec.Struct, frozen=True):
    """What the operations work on."""

    holder: SnapshotHolder
    routing: RoutingState
    checks: HealthChecks
    files: ProviderFiles
    clock: Clock


class ProviderOperations:
    """See the module."""

    def __init__(self, parts: ProviderParts) -> None:
        self._holder = parts.holder
        self._routing = parts.routing
        self._checks = parts.checks
        self._files = parts.files
        self._clock = parts.clock

    # --- providers

    async def providers(self) -> tuple[ProviderView, ...]:
        """Every configured provider, by name, those that are off included."""
        world = self._world()
        return tuple(views.provider_view(world, name) for name in sorted(world.every))

    async def provider(self, name: str) -> ProviderDetail:
        """One provider with its keys and circuits. Raises NotFound."""
        self._provider(name)
        world = self._world()
        return ProviderDetail(
            provider=views.provider_view(world, name),
            keys=views.key_views(world, name),
            circuits=views.circuit_rows(world, provider=name),
        )

    async def test(self, name: str) -> ProviderTest:
        """Look at a provider now, on or off, by each of its keys. Raises NotFound."""
        provider = self._provider(name)
        looks = await self._checks.test(provider, (*provider.credentials, *provider.credentials_off))
        shown = tuple(views.look_view(look) for look in looks)
        return ProviderTest(provider=name, ok=any(look.seen == "ok" for look in shown), looks=shown)

    async def switch(self, name: str, *, enabled: bool) -> ProviderDetail:
        """Call a provider from now on, or do not; calls under way end as they would. Raises NotFound and Conflict."""
        self._provider(name)
        await self._files.apply(SwitchProvider(name, enabled))
        return await self.provider(name)

    def worst_circuit(self, name: str) -> str:
        """`closed`, `half_open` or `open`, over all endpoints of a provider."""
        return views.worst_circuit(self._routing.view(self._clock.monotonic_s()), name)

    # --- keys

    async def keys(self, provider: str | None) -> tuple[ProviderKeyView, ...]:
        """The keys of one provider, or of all."""
        world = self._world()
        if provider is not None:
            self._provider(provider)
        names = [provider] if provider is not None else sorted(world.every)
        return tuple(key for name in names for key in views.key_views(world, name))

    async def add_key(self, new: NewProviderKey) -> ProviderKeyView:
        """Keep a key in a file of its own and use it from now on.

        Raises InvalidParameter for what is no key, NotFound and Conflict.
        """
        provider = self._provider(new.provider)
        secret = provider_key(new.key)
        key_id = f"{new.provider}-{fingerprint(secret)}"
        if any(one.id == key_id for one in _credentials(provider)):
            raise Conflict(f"Provider {new.provider!r} has this key already; it is {key_id!r}.", param="key")
        folder = self._snapshot.server.data_dir
        rpm, tpm = _limit(new.rpm, "rpm"), _limit(new.tpm, "tpm")
        await self._files.apply(AddKey(new.provider, secret, folder, rpm, tpm))
        return self._key_view(key_id)

    async def change_key(self, key_id: str, change: KeyChange) -> ProviderKeyView:
        """Other limits, on or off; `state: active` ends a quarantine. Raises NotFound, Conflict, InvalidParameter."""
        self._owner(key_id)
        if change.state is not msgspec.UNSET and change.state != "active":
            raise InvalidParameter(
                f"state can only be set to 'active', not {change.state!r}; use enabled to switch a key.", param="state"
            )
        fields: list[tuple[str, str | None]] = []
        for name, value in (("rpm", change.rpm), ("tpm", change.tpm)):
            if value is not msgspec.UNSET:
                limit = _limit(value, name)
                fields.append((name, None if limit is None else str(limit)))
        if change.enabled is not msgspec.UNSET:
            fields.append(("enabled", "true" if change.enabled else "false"))
        if fields:
            declared = await self._declared(key_id)
            await self._files.apply(ChangeKey(self._owner(key_id).name, declared.index, tuple(fields)))
        if change.state is not msgspec.UNSET:
            self._routing.clear(key_id, self._clock.monotonic_s())
        return self._key_view(key_id)

    async def clear_key(self, key_id: str) -> ProviderKeyView:
        """End a quarantine, or a rest, now. Raises NotFound."""
        self._owner(key_id)
        self._routing.clear(key_id, self._clock.monotonic_s())
        return self._key_view(key_id)

    async def remove_key(self, key_id: str) -> RemovedKey:
        """Forget a key, and its file if it was made here. Raises NotFound and Conflict."""
        provider = self._owner(key_id)
        declared = await self._declared(key_id)
        await self._files.apply(RemoveKey(provider.name, declared.index))
        removed = await self._files.forget_file(declared)
        return RemovedKey(id=key_id, provider=provider.name, file_removed=removed)

    async def reload(self) -> Reloaded:
        """Read the configuration again, keys in files and in the environment of `.env` included."""
        status = await self._files.reload()
        world = self._world()
        return Reloaded(
            ok=status.ok,
            generation=self._snapshot.generation,
            problems=() if status.error is None else tuple(status.error.splitlines()),
            keys=sum(len(views.key_views(world, name)) for name in world.every),
        )

    # --- statistics

    async def provider_stats(self) -> tuple[ProviderStats, ...]:
        """What was done with each provider since the start."""
        world = self._world()
        return tuple(views.provider_stats(world, name) for name in sorted(world.every))

    async def key_series(self, key_id: str, window_minutes: int, step_seconds: int) -> KeySeries:
        """A key's history in steps. Raises NotFound and InvalidParameter."""
        self._owner(key_id)
        if not 1 <= window_minutes <= WINDOW_MINUTES_MAX:
            raise InvalidParameter(
                f"window_minutes must be from 1 to {WINDOW_MINUTES_MAX}, not {window_minutes}.", param="window_minutes"
            )
        if not 1 <= step_seconds <= window_minutes * 60 or window_minutes * 60 > step_seconds * STEPS_MAX:
            raise InvalidParameter(
                f"step_seconds must be from 1 to the window's length, and the window at most {STEPS_MAX} steps.",
                param="step_seconds",
            )
        now_s = self._clock.monotonic_s()
        steps = self._routing.key_series(key_id, window_minutes * 60.0, float(step_seconds), now_s)
        return views.key_series(key_id, (window_minutes, step_seconds), steps, self._world())

    async def key_debug(self, key_id: str) -> KeyDebug:
        """Everything that is known of a key, but for the key. Raises NotFound."""
        provider = self._owner(key_id)
        world = self._world()
        return KeyDebug(
            key=self._key_view(key_id),
            circuits=views.circuit_rows(world, key_id=key_id),
            looks=views.looks_of(world, provider.name, key_id),
        )

    # --- helpers

    @property
    def _snapshot(self) -> Snapshot:
        return self._holder.current

    def _world(self) -> views.World:
        return views.World.of(self._snapshot, self._routing, self._checks.book, self._clock)

    def _provider(self, name: str) -> Provider:
        every = views.every_provider(self._snapshot)
        require(name, every, "provider")
        return every[name]

    def _owner(self, key_id: str) -> Provider:
        """The provider that a key is of."""
        every = views.every_provider(self._snapshot)
        owners = {key.id: provider for provider in every.values() for key in _credentials(provider)}
        require(key_id, owners, "key")
        return owners[key_id]

    def _key_view(self, key_id: str) -> ProviderKeyView:
        keys = views.key_views(self._world(), self._owner(key_id).name)
        return next(key for key in keys if key.id == key_id)

    async def _declared(self, key_id: str) -> DeclaredKey:
        """Where the files have a key."""
        provider = self._owner(key_id).name
        for key in await self._files.keys(provider):
            if key.id == key_id:
                return key
        raise NotFound(
            f"No file of the configuration has the key {key_id!r}; it comes from the environment, and is changed "
            "there.",
            param="key",
        )


def _credentials(provider: Provider) -> Iterable[Credential]:
    return (one for one in (*provider.credentials, *provider.credentials_off) if one.secret is not None)


def _limit(value: int | None, param: str) -> int | None:
    if value is not None and not 1 <= value <= LIMIT_MAX:
        raise InvalidParameter(f"{param} must be from 1 to {LIMIT_MAX}, or null for no limit.", param=param)
    return value
