"""Names to addresses for one transport: the last good answer outlives its resolver (FAULTS.md 3).

A resolver that fails or is slow is not asked again for NEGATIVE_S; in that time, and after, the last good addresses of
the name serve. aiohttp keeps good answers for DNS_TTL_S in front of this.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import TypeVar

from aiohttp.abc import AbstractResolver, ResolveResult

_V = TypeVar("_V")

DNS_TTL_S = 10
NEGATIVE_S = 5.0
NAMES_MAX = 64
"""A transport asks for its provider's host and perhaps a proxy's; beyond this all names are forgotten."""


class StaleResolver(AbstractResolver):
    """Wraps a resolver. Raises socket.gaierror when a name has no address, old or new."""

    def __init__(self, inner: AbstractResolver, timeout_s: float, monotonic_s: Callable[[], float]) -> None:
        self._inner = inner
        self._timeout_s = timeout_s
        self._monotonic_s = monotonic_s
        self._good: dict[tuple[str, int], list[ResolveResult]] = {}
        self._failed_until_s: dict[tuple[str, int], float] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        name = (host, port)
        if self._failed_until_s.get(name, 0.0) <= self._monotonic_s():
            try:
                async with asyncio.timeout(self._timeout_s):
                    found = await self._inner.resolve(host, port, family)
            except OSError:  # Timeouts included.
                _keep(self._failed_until_s, name, self._monotonic_s() + NEGATIVE_S)
            else:
                self._failed_until_s.pop(name, None)
                _keep(self._good, name, found)
                return found
        if name in self._good:
            return self._good[name]
        raise socket.gaierror(socket.EAI_AGAIN, "name did not resolve")

    async def close(self) -> None:
        await self._inner.close()


def _keep(table: dict[tuple[str, int], _V], name: tuple[str, int], value: _V) -> None:
    if len(table) >= NAMES_MAX and name not in table:
        table.clear()
    table[name] = value
