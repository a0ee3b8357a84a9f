"""What commands can ask of books that are written already, of a running RouterX."""

from typing import Protocol

from routerx.cli.remote_kit import segment
from routerx.cli.remote_providers import Call
from routerx.control.book_values import (
    BackupView,
    NewBackup,
    NewPruning,
    NewRefund,
    NewRerating,
    PruneView,
    RerateView,
)
from routerx.control.values import TransferView

LEDGER = "/admin/v1/ledger"


class BookAccess(Protocol):
    """See control/books.py. Every method raises RouterXError."""

    def refund(self, tenant: str, new: NewRefund) -> TransferView: ...
    def rerate(self, new: NewRerating) -> RerateView: ...
    def back_up(self, new: NewBackup) -> BackupView: ...
    def prune(self, new: NewPruning) -> PruneView: ...


class RemoteBooks:
    """A BookAccess over the admin API."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def refund(self, tenant: str, new: NewRefund) -> TransferView:
        return self._call("POST", f"/admin/v1/tenants/{segment(tenant)}/refund", new, TransferView)

    def rerate(self, new: NewRerating) -> RerateView:
        return self._call("POST", f"{LEDGER}/rerate", new, RerateView)

    def back_up(self, new: NewBackup) -> BackupView:
        return self._call("POST", f"{LEDGER}/backup", new, BackupView)

    def prune(self, new: NewPruning) -> PruneView:
        return self._call("POST", f"{LEDGER}/prune", new, PruneView)
