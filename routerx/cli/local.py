"""Access without a server: read the configuration, take the ledger's lock, do it here.

The same Operations as the server's, over the same ledger. While one of them runs no server can start on this ledger,
so the ledger is opened late and closed soon; what only needs the configuration does not open it.
"""

import asyncio
import getpass
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TypeVar

from routerx.cli.files import load, loader_for
from routerx.cli.local_books import LocalBooks
from routerx.cli.local_keys import LocalKeys
from routerx.cli.local_own_keys import LocalOwnKeys
from routerx.cli.local_providers import LocalProviders
from routerx.cli.settings import Settings
from routerx.clock import SystemClock
from routerx.config.snapshot import SnapshotHolder
from routerx.control import views
from routerx.control.book_values import BackupView
from routerx.control.books import BookOperations, backup_view
from routerx.control.configuration import FileConfiguration
from routerx.control.lookup import find_model, find_models
from routerx.control.operations import Operations
from routerx.control.provider_values import TokenReport
from routerx.control.reports import Reports
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
from routerx.keyring import Keyring
from routerx.ledger.backup import restore
from routerx.ledger.base import LogQuery
from routerx.ledger.opening import LedgerOptions
from routerx.ledger.proof.verify import verify_file
from routerx.ledger.sqlite import SqliteLedger, open_ledger

T = TypeVar("T")


def verify_ledger(settings: Settings, path: str | None) -> VerifyView:
    """Check the ledger file at `path`, or the configured one, without its lock and without writing."""
    return views.verify_view(verify_file(path if path is not None else load(settings).server.ledger_path))


def restore_ledger(settings: Settings, path: str, *, replace: bool) -> BackupView:
    """Make the backup at `path` the configured ledger. Raises LedgerLocked, LedgerUnusable and Conflict."""
    now = datetime.fromtimestamp(SystemClock.now_ns() // 10**9, UTC).strftime("%Y%m%dT%H%M%S")
    return backup_view(restore(path, load(settings).server.ledger_path, replace=replace, now=now))


class LocalAccess:
    """An Access that owns the ledger while it is open; a context manager."""

    def __init__(self, settings: Settings) -> None:
        self._loader = loader_for(settings)
        self._holder = SnapshotHolder(self._loader.load(generation=1))
        self._actor = f"cli:{getpass.getuser()}"
        self._runner = asyncio.Runner()
        self._ledger: SqliteLedger | None = None

    def __enter__(self) -> "LocalAccess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._runner:
            if self._ledger is not None:
                self._runner.run(self._ledger.close())

    @property
    def providers(self) -> LocalProviders:
        return LocalProviders(self._loader, self._holder, self._runner)

    @property
    def books(self) -> LocalBooks:
        return LocalBooks(self._do_books, self._actor)

    @property
    def keys(self) -> LocalKeys:
        return LocalKeys(self._do, self._actor)

    @property
    def own_keys(self) -> LocalOwnKeys:
        return LocalOwnKeys(self._do, self._actor)

    def tenants(self) -> tuple[TenantSummary, ...]:
        return self._do(lambda operations: operations.tenants())

    def tenant(self, name: str) -> TenantDetail:
        return self._do(lambda operations: operations.tenant(name))

    def create_tenant(self, new: NewTenant) -> CreatedTenant:
        return self._do(lambda operations: operations.create_tenant(new, actor=self._actor))

    def top_up(self, name: str, amount: str, reference: str | None, note: str | None) -> TransferView:
        return self._do(
            lambda operations: operations.top_up(name, amount, reference=reference, note=note, actor=self._actor)
        )

    def adjust(self, name: str, amount: str, note: str | None) -> TransferView:
        return self._do(lambda operations: operations.adjust(name, amount, note=note, actor=self._actor))

    def suspend(self, name: str, reason: str | None, *, hard: bool) -> TenantDetail:
        return self._do(lambda operations: operations.suspend(name, reason=reason, hard=hard, actor=self._actor))

    def unsuspend(self, name: str) -> TenantDetail:
        return self._do(lambda operations: operations.unsuspend(name, actor=self._actor))

    def limit_tenant(self, name: str, change: TenantLimitsChange) -> TenantDetail:
        return self._do(lambda operations: operations.limit_tenant(name, change, actor=self._actor))

    def history(self, name: str, limit: int) -> tuple[AuditView, ...]:
        return self._do(lambda operations: operations.history(name, limit))

    def models(self, query: ModelQuery) -> tuple[ModelView, ...]:
        return find_models(self._holder.current, query)

    def model(self, name: str) -> ModelView:
        return find_model(self._holder.current, name)

    def logs(self, query: LogQuery) -> tuple[LogEntry, ...]:
        return self._do(lambda operations: operations.logs(query))

    def log(self, request_id: str) -> LogDetail:
        return self._do(lambda operations: operations.log(request_id))

    def usage(self, period: str, tenant: str | None) -> TokenReport:
        return self._on_open_ledger(lambda ledger, clock: Reports(ledger, clock).tokens(period, tenant))

    def verify(self) -> VerifyView:
        return self._do(lambda operations: operations.verify())

    def _do(self, call: Callable[[Operations], Coroutine[Any, Any, T]]) -> T:
        def over(ledger: SqliteLedger, clock: SystemClock) -> Coroutine[Any, Any, T]:
            configuration = FileConfiguration(self._loader, self._holder)
            return call(Operations(ledger, self._holder, configuration, clock))

        return self._on_open_ledger(over)

    def _do_books(self, call: Callable[[BookOperations], Coroutine[Any, Any, T]]) -> T:
        return self._on_open_ledger(lambda ledger, clock: call(BookOperations(ledger, self._holder, clock)))

    def _on_open_ledger(self, call: Callable[[SqliteLedger, SystemClock], Coroutine[Any, Any, T]]) -> T:
        async def on_open_ledger() -> T:
            clock = SystemClock()
            return await call(await self._opened(clock), clock)

        return self._runner.run(on_open_ledger())

    async def _opened(self, clock: SystemClock) -> SqliteLedger:
        """The ledger, opened on first use with an account for every configured tenant. Raises LedgerLocked."""
        if self._ledger is None:
            server = self._holder.current.server
            options = LedgerOptions(
                path=server.ledger_path,
                synchronous=server.ledger_synchronous,
                log_retention_days=server.log_retention_days,
                ballast_bytes=server.ledger_ballast_bytes,
                keyring=Keyring(server.vault_keys, server.data_dir),
            )
            self._ledger = await open_ledger(options, clock)
            await self._ledger.sync_tenants(self._holder.current.tenants.values())
        return self._ledger
