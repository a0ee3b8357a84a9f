"""What commands can ask about tenants' own provider keys without a server: done here, over the ledger itself."""

from routerx.cli.local_keys import Do
from routerx.control.own_key_values import NewOwnKey, OwnKeyView


class LocalOwnKeys:
    """An OwnKeyAccess that owns the ledger while it is open."""

    def __init__(self, do: Do, actor: str) -> None:
        self._do = do
        self._actor = actor

    def every(self, tenant: str) -> tuple[OwnKeyView, ...]:
        return self._do(lambda operations: operations.own_keys.every(tenant))

    def put(self, tenant: str, provider: str, new: NewOwnKey) -> OwnKeyView:
        return self._do(lambda operations: operations.own_keys.put(tenant, provider, new, actor=self._actor))

    def remove(self, tenant: str, provider: str, reason: str | None) -> OwnKeyView:
        return self._do(
            lambda operations: operations.own_keys.remove(tenant, provider, reason=reason, actor=self._actor)
        )
