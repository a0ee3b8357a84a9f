"""What commands can ask about providers without a server: the files are read and changed, and looks are made from here.

Nothing is known of calls, circuits and rests: they are in the memory of a server.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from routerx.clock import SystemClock
from routerx.config.load import Loader
from routerx.config.snapshot import SnapshotHolder
from routerx.control.checks import CheckParts, HealthChecks
from routerx.control.configuration import FileConfiguration
from routerx.control.provider_files import ProviderFiles
from routerx.control.provider_values import (
    KeyChange,
    NewProviderKey,
    ProviderDetail,
    ProviderKeyView,
    ProviderTest,
    ProviderView,
    RemovedKey,
)
from routerx.control.providers import ProviderOperations, ProviderParts
from routerx.errors import OperatorError
from routerx.routing.state import RoutingState
from routerx.upstream.pool import TransportPool

T = TypeVar("T")


class LocalProviders:
    """A ProviderAccess over the configuration files."""

    def __init__(self, loader: Loader, holder: SnapshotHolder, runner: asyncio.Runner) -> None:
        self._loader = loader
        self._holder = holder
        self._runner = runner

    def every(self) -> tuple[ProviderView, ...]:
        return self._do(lambda providers: providers.providers())

    def one(self, name: str) -> ProviderDetail:
        return self._do(lambda providers: providers.provider(name))

    def test(self, name: str) -> ProviderTest:
        return self._do(lambda providers: providers.test(name))

    def switch(self, name: str, *, enabled: bool) -> ProviderDetail:
        return self._do(lambda providers: providers.switch(name, enabled=enabled))

    def keys(self, provider: str | None) -> tuple[ProviderKeyView, ...]:
        return self._do(lambda providers: providers.keys(provider))

    def add_key(self, new: NewProviderKey) -> ProviderKeyView:
        return self._do(lambda providers: providers.add_key(new))

    def change_key(self, key_id: str, change: KeyChange) -> ProviderKeyView:
        return self._do(lambda providers: providers.change_key(key_id, change))

    def clear_key(self, key_id: str) -> ProviderKeyView:
        raise OperatorError("No RouterX runs here, so no key is in quarantine; it would be tried again at the start.")

    def remove_key(self, key_id: str) -> RemovedKey:
        return self._do(lambda providers: providers.remove_key(key_id))

    def _do(self, call: Callable[[ProviderOperations], Coroutine[Any, Any, T]]) -> T:
        return self._runner.run(self._with_transports(call))

    async def _with_transports(self, call: Callable[[ProviderOperations], Coroutine[Any, Any, T]]) -> T:
        clock = SystemClock()
        routing = RoutingState(random.Random())  # noqa: S311 Ordering, nothing secret.
        transports = TransportPool(clock)
        checks = HealthChecks(CheckParts(self._holder, routing, transports, clock))
        checks.retain()
        configuration = FileConfiguration(self._loader, self._holder)
        files = ProviderFiles(self._loader.path, self._loader.env, self._holder, configuration)
        try:
            return await call(ProviderOperations(ProviderParts(self._holder, routing, checks, files, clock)))
        finally:
            await transports.close()
