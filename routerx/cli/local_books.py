"""What commands can ask of books that are written already, without a server: the ledger is opened and closed here."""

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from routerx.control.book_values import (
    BackupView,
    NewBackup,
    NewPruning,
    NewRefund,
    NewRerating,
    PruneView,
    RerateView,
)
from routerx.control.books import BookOperations
from routerx.control.values import TransferView

T = TypeVar("T")


class Do(Protocol):
    """Runs a call over the opened ledger."""

    def __call__(self, call: Callable[[BookOperations], Coroutine[Any, Any, T]]) -> T: ...


class LocalBooks:
    """A BookAccess over the ledger's file."""

    def __init__(self, do: Do, actor: str) -> None:
        self._do = do
        self._actor = actor

    def refund(self, tenant: str, new: NewRefund) -> TransferView:
        return self._do(lambda books: books.refund(tenant, new, actor=self._actor))

    def rerate(self, new: NewRerating) -> RerateView:
        return self._do(lambda books: books.rerate(new, actor=self._actor))

    def back_up(self, new: NewBackup) -> BackupView:
        return self._do(lambda books: books.back_up(new))

    def prune(self, new: NewPruning) -> PruneView:
        return self._do(lambda books: books.prune(new, actor=self._actor))
