"""The configuration as something that can be changed: reloaded, and given a new tenant in a file of its own.

Two ways to do the same: beside a running watcher, and without a server. What the files refuse becomes an error that
can be told to a caller of the admin API.
"""

import asyncio
from collections.abc import Mapping
from typing import Protocol

import msgspec

from routerx.config.edit import TenantFile, remove_tenant_file, tenant_file_text, write_tenant_file
from routerx.config.edit_providers import Written, take_back
from routerx.config.edit_tenants import limit_tenant
from routerx.config.load import Loader
from routerx.config.snapshot import SnapshotHolder
from routerx.config.watch import ConfigWatcher, ReloadStatus
from routerx.control.values import NewTenant
from routerx.errors import ConfigError, Conflict, InvalidParameter, OperatorError


class Configuration(Protocol):
    """What Operations ask of it."""

    def state(self) -> ReloadStatus:
        """What the last look at the files came to."""
        ...

    async def reload(self) -> ReloadStatus:
        """Read the files again and apply them whole, or change nothing."""
        ...

    async def write_tenant(self, tenant: NewTenant) -> str:
        """Declare a tenant in a file of its own and return its path. Raises InvalidParameter for a bad name, and
        Conflict where the file exists, is not included or cannot be written."""
        ...

    async def remove_tenant(self, name: str) -> None:
        """Take back what write_tenant has just written."""
        ...

    async def limit_tenant(self, name: str, changes: Mapping[str, str | None]) -> Written | None:
        """As config.edit_tenants.limit_tenant."""
        ...

    async def take_back(self, written: Written) -> None:
        """Undo what limit_tenant has just written."""
        ...


class LiveConfiguration:
    """That of a running server. `path` is its main file, None where it runs on the environment alone."""

    def __init__(self, path: str | None, watcher: ConfigWatcher) -> None:
        self._path = path
        self._watcher = watcher

    def state(self) -> ReloadStatus:
        return self._watcher.status

    async def reload(self) -> ReloadStatus:
        return await self._watcher.reload_now()

    async def write_tenant(self, tenant: NewTenant) -> str:
        return await asyncio.to_thread(_write, self._path, tenant)

    async def remove_tenant(self, name: str) -> None:
        await asyncio.to_thread(_remove, self._path, name)

    async def limit_tenant(self, name: str, changes: Mapping[str, str | None]) -> Written | None:
        return await asyncio.to_thread(limit_tenant, self._path, name, changes)

    async def take_back(self, written: Written) -> None:
        await asyncio.to_thread(take_back, written)


class FileConfiguration:
    """That of a command without a server: read when asked, kept in `holder`."""

    def __init__(self, loader: Loader, holder: SnapshotHolder) -> None:
        self._loader = loader
        self._holder = holder
        self._status = ReloadStatus(generation=holder.current.generation)

    def state(self) -> ReloadStatus:
        return self._status

    async def reload(self) -> ReloadStatus:
        try:
            self._holder.current = self._loader.load(self._holder.current.generation + 1)
        except ConfigError as error:
            self._status = msgspec.structs.replace(self._status, ok=False, error="\n".join(error.problems))
        else:
            self._status = ReloadStatus(generation=self._holder.current.generation)
        return self._status

    async def write_tenant(self, tenant: NewTenant) -> str:
        return _write(self._loader.path, tenant)

    async def remove_tenant(self, name: str) -> None:
        _remove(self._loader.path, name)

    async def limit_tenant(self, name: str, changes: Mapping[str, str | None]) -> Written | None:
        return limit_tenant(self._loader.path, name, changes)

    async def take_back(self, written: Written) -> None:
        take_back(written)


def _write(path: str | None, tenant: NewTenant) -> str:
    declared = TenantFile(name=tenant.name, plan=tenant.plan, policy=tenant.policy, allow=tenant.allow)
    try:
        text = tenant_file_text(declared)
    except ConfigError as error:
        raise InvalidParameter(error.message, param="name") from None
    try:
        return write_tenant_file(path, tenant.name, text)
    except OperatorError as error:
        raise Conflict(error.message) from None


def _remove(path: str | None, name: str) -> None:
    try:
        remove_tenant_file(path, name)
    except OperatorError as error:
        raise Conflict(error.message) from None
