"""What commands can ask about keys of tenants without a server: done here, over the ledger itself."""

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from routerx.control.key_values import KeyDetail, KeyTermsChange, NewKeyOrder
from routerx.control.operations import Operations
from routerx.control.values import KeyView, NewKey

T = TypeVar("T")


class Do(Protocol):
    """Run one operation with the ledger open."""

    def __call__(self, call: Callable[[Operations], Coroutine[Any, Any, T]]) -> T: ...


class LocalKeys:
    """A KeyAccess that owns the ledger while it is open."""

    def __init__(self, do: Do, actor: str) -> None:
        self._do = do
        self._actor = actor

    def every(self, tenant: str | None) -> tuple[KeyView, ...]:
        return self._do(lambda operations: operations.keys.every(tenant))

    def one(self, key_id: str) -> KeyDetail:
        return self._do(lambda operations: operations.keys.one(key_id))

    def create(self, order: NewKeyOrder) -> NewKey:
        return self._do(lambda operations: operations.keys.create(order, actor=self._actor))

    def limit(self, key_id: str, change: KeyTermsChange) -> KeyDetail:
        return self._do(lambda operations: operations.keys.limit(key_id, change, actor=self._actor))

    def revoke(self, key_id: str) -> KeyView:
        return self._do(lambda operations: operations.keys.revoke(key_id, actor=self._actor))
