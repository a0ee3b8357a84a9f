"""What operators do about provider keys that are tenants' own: list, set, remove. The ledger keeps them, sealed."""

from collections.abc import Callable, Iterable

from routerx.config.snapshot import Snapshot, SnapshotHolder
from routerx.control.keys import short_text
from routerx.control.lookup import require
from routerx.control.own_key_values import NewOwnKey, OwnKeyView
from routerx.control.providers import provider_key
from routerx.control.views import iso_time
from routerx.errors import ConfigError, InvalidParameter, StorageUnavailable
from routerx.ledger.base import Ledger, OwnKeyRow
from routerx.providers.spec import Provider
from routerx.secrets import Secret


class OwnKeyOperations:
    """Own keys of all tenants. Callers are authorised before; `actor` is the name that the audit trail keeps."""

    def __init__(self, ledger: Ledger, holder: SnapshotHolder) -> None:
        self._ledger = ledger
        self._holder = holder
        self.protect: Callable[[Iterable[Secret]], None] = _nothing_is_logged
        """Told of every new key before it is used, so that no log ever shows it."""

    async def every(self, tenant: str) -> tuple[OwnKeyView, ...]:
        """A tenant's keys, by provider; also of a tenant that has left the configuration. Raises NotFound."""
        require(tenant, self._ledger.account_names(), "tenant")
        return tuple(_view(row, self._snapshot) for row in self._ledger.key_safe.rows(tenant))

    async def put(self, tenant: str, provider: str, new: NewOwnKey, *, actor: str) -> OwnKeyView:
        """Store a key, in the place of the one that was there; it counts from the next request on.

        Raises NotFound, InvalidParameter for what is no key or a provider that takes none, StorageBusy and
        StorageUnavailable.
        """
        require(tenant, self._snapshot.tenants, "tenant")
        if not self._provider(provider).takes_key:
            raise InvalidParameter(
                f"Provider {provider!r} takes no key; if it should, give it an auth in the configuration.",
                param="provider",
            )
        secret = provider_key(new.key)
        reason = short_text(new.reason, "reason")
        self.protect((secret,))
        try:
            row = await self._ledger.key_safe.put(tenant, provider, secret, actor=actor, reason=reason)
        except ConfigError as error:
            raise StorageUnavailable(f"The key cannot be sealed, so it was not stored: {error.message}") from None
        return _view(row, self._snapshot)

    async def remove(self, tenant: str, provider: str, *, reason: str | None, actor: str) -> OwnKeyView:
        """Forget a key; the view of what was there. Raises NotFound, StorageBusy and StorageUnavailable."""
        require(tenant, self._ledger.account_names(), "tenant")
        reason = short_text(reason, "reason")
        row = await self._ledger.key_safe.remove(tenant, provider, actor=actor, reason=reason)
        return _view(row, self._snapshot)

    @property
    def _snapshot(self) -> Snapshot:
        return self._holder.current

    def _provider(self, name: str) -> Provider:
        """One that is called, or is configured and idle. Raises NotFound."""
        snapshot = self._snapshot
        require(name, (*snapshot.providers, *snapshot.idle), "provider")
        found = snapshot.providers.get(name)
        return found if found is not None else snapshot.idle[name].provider


def _view(row: OwnKeyRow, snapshot: Snapshot) -> OwnKeyView:
    state = "active" if row.provider in snapshot.providers else "idle"
    return OwnKeyView(
        tenant=row.tenant,
        provider=row.provider,
        fingerprint=row.fingerprint,
        created=iso_time(row.created_ns),
        state=state if row.readable else "unreadable",
    )


def _nothing_is_logged(secrets: Iterable[Secret]) -> None:
    return
