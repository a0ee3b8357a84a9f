"""The way from a command to a RouterX: by URL, by the Unix socket of the one that runs here, or by opening its ledger.

Commands see one interface and need not know which it is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from routerx.cli.remote import RemoteAccess, socket_answers
from routerx.cli.remote_books import BookAccess
from routerx.cli.remote_keys import KeyAccess
from routerx.cli.remote_own_keys import OwnKeyAccess
from routerx.cli.remote_providers import ProviderAccess
from routerx.cli.render import say
from routerx.cli.settings import Settings
from routerx.control.provider_values import TokenReport
from routerx.control.values import (
    AuditView,
    CreatedTenant,
    LogDetail,
    LogEntry,
    ModelQuery,
    ModelView,
    NewTenant,
    TenantDetail,
    TenantLimitsChange,
    TenantSummary,
    TransferView,
    VerifyView,
)
from routerx.errors import ConfigError
from routerx.ledger.base import LogQuery

ADMIN_SOCKET = "admin.sock"


class Access(Protocol):
    """What commands can ask for; see control/operations.py. Every method raises RouterXError."""

    @property
    def providers(self) -> ProviderAccess: ...
    @property
    def keys(self) -> KeyAccess: ...
    @property
    def own_keys(self) -> OwnKeyAccess: ...
    @property
    def books(self) -> BookAccess: ...

    def tenants(self) -> tuple[TenantSummary, ...]: ...
    def tenant(self, name: str) -> TenantDetail: ...
    def create_tenant(self, new: NewTenant) -> CreatedTenant: ...
    def top_up(self, name: str, amount: str, reference: str | None, note: str | None) -> TransferView: ...
    def adjust(self, name: str, amount: str, note: str | None) -> TransferView: ...
    def suspend(self, name: str, reason: str | None, *, hard: bool) -> TenantDetail: ...
    def unsuspend(self, name: str) -> TenantDetail: ...
    def limit_tenant(self, name: str, change: TenantLimitsChange) -> TenantDetail: ...
    def history(self, name: str, limit: int) -> tuple[AuditView, ...]: ...
    def models(self, query: ModelQuery) -> tuple[ModelView, ...]: ...
    def model(self, name: str) -> ModelView: ...
    def logs(self, query: LogQuery) -> tuple[LogEntry, ...]: ...
    def log(self, request_id: str) -> LogDetail: ...
    def usage(self, period: str, tenant: str | None) -> TokenReport: ...
    def verify(self) -> VerifyView: ...


@contextmanager
def open_access(settings: Settings) -> Iterator[Access]:
    """The RouterX that `settings` mean: `--url`, else the one running on the data directory, else the files."""
    remote = open_remote(settings)
    if remote is not None:
        yield remote
        return
    from routerx.cli.local import LocalAccess  # Loads the ledger: only where no server answers.

    with LocalAccess(settings) as local:
        yield local


def open_remote(settings: Settings) -> RemoteAccess | None:
    """The running RouterX, or None where none answers on this machine. With `--url` there is no looking further.

    Raises ConfigError where the configuration cannot say where to look and nobody answers in the likely place.
    """
    if settings.url is not None:
        key = settings.admin_key
        if key is None:
            from routerx.cli.files import admin_key  # Loads pydantic: only to look into .env.

            key = admin_key()
        return RemoteAccess.by_url(settings.url, key)
    if settings.data_dir is not None:
        return _by_socket(settings.data_dir)
    from routerx.cli.files import load, probable_data_dir  # Loads pydantic: only where the configuration must be read.

    try:
        return _by_socket(load(settings).server.data_dir)
    except ConfigError:
        folder = probable_data_dir(settings)
        server = _by_socket(folder) if folder is not None else None
        if server is None:
            raise
        say(f"note: the configuration on disk is refused (see routerx check); asking the server that runs in {folder}.")
        return server


def _by_socket(data_dir: str) -> RemoteAccess | None:
    path = Path(data_dir) / ADMIN_SOCKET
    return RemoteAccess.by_socket(path) if socket_answers(path) else None
