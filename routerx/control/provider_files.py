"""Changes of providers and their keys in the configuration files: written, made live by a reload, or taken back.

One change at a time: two at once would each work on a text that the other one replaces.
"""

import asyncio
from collections.abc import Mapping

from routerx.config.edit_providers import (
    DeclaredKey,
    ProviderEdit,
    Written,
    apply_edit,
    declared_keys,
    is_ours,
    remove_key_file,
    take_back,
)
from routerx.config.snapshot import Snapshot, SnapshotHolder
from routerx.config.watch import ReloadStatus
from routerx.control.configuration import Configuration
from routerx.errors import Conflict


class ProviderFiles:
    """The way from a wish to a live configuration."""

    def __init__(
        self, path: str | None, env: Mapping[str, str], holder: SnapshotHolder, configuration: Configuration
    ) -> None:
        self._path = path
        self._env = env
        self._holder = holder
        self._configuration = configuration
        self._turn = asyncio.Lock()

    async def keys(self, provider: str) -> tuple[DeclaredKey, ...]:
        """The keys that the files declare. Raises Conflict or NotFound where they do not declare the provider."""
        return await asyncio.to_thread(declared_keys, self._path, self._env, provider)

    async def apply(self, edit: ProviderEdit) -> None:
        """Make a change, live when this returns. Raises Conflict, and NotFound, where nothing was changed."""
        async with self._turn:
            before, changes = self._holder.current, self._configuration.state().price_changes
            written = await asyncio.to_thread(apply_edit, self._path, edit)
            if written is None:
                return
            try:
                status = await self._configuration.reload()
            except BaseException:
                await self._undo(written)
                raise
            # Prices may have changed meanwhile, which makes a generation, too.
            loads = self._holder.current.generation - before.generation - (status.price_changes - changes)
            refusal = status.error if loads == 0 else None
            if refusal is None and (mocked := _newly_mocked(before, self._holder.current)):
                refusal = (
                    f"no key would be left, and the built-in mock would answer for {', '.join(mocked)}; switch the "
                    "provider off instead"
                )
            if refusal is not None:
                await self._undo(written)
                raise Conflict(f"Nothing was changed, because the configuration would be refused: {refusal}")

    async def reload(self) -> ReloadStatus:
        """Read the files again, changed or not."""
        async with self._turn:
            return await self._configuration.reload()

    async def forget_file(self, key: DeclaredKey) -> bool:
        """Remove the file of a key that is no longer declared, if it was made here."""
        if key.file is None or not is_ours(key.file, self._holder.current.server.data_dir):
            return False
        await asyncio.to_thread(remove_key_file, key.file)
        return True

    async def _undo(self, written: Written) -> None:
        await asyncio.to_thread(take_back, written)
        await self._configuration.reload()


def _newly_mocked(before: Snapshot, after: Snapshot) -> list[str]:
    """Providers that the mock answers for now and did not before."""
    mocked = {name for name, provider in before.providers.items() if provider.mock is not None}
    return sorted(
        name for name, provider in after.providers.items() if provider.mock is not None and name not in mocked
    )
