"""Names to addresses for one transport: the last good answer outlives its resolver (FAULTS.md 3).

A resolver that fails or is slow is not asked again for NEGATIVE_S; in that time, and after, the last good addresses of
the name serve. In front of this good answers are kept for DNS_TTL_S, by aiohttp or by an AddressBook.
"""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable
from typing import TypeVar

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import AddrInfoType

from routerx.upstream.egress import is_public

log = logging.getLogger("routerx.upstream.dns")

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


class BlockedAddress(OSError):
    """A public provider's name leads to nothing but addresses that are not public."""


class PublicOnly(AbstractResolver):
    """Wraps the resolver of a public provider: who answers its name with an address of this machine, of a private
    network or of a cloud's metadata service would be sent the provider's key (FAULTS.md 4).

    Such addresses are left out. Raises BlockedAddress where nothing else is left.
    """

    def __init__(self, inner: AbstractResolver, spared: str | None = None) -> None:
        """`spared`: a name that may lead anywhere, as an operator's own proxy may."""
        self._inner = inner
        self._spared = spared

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        if host == self._spared:
            return found
        public = [one for one in found if is_public(one["host"])]
        if len(public) < len(found):
            refused = ", ".join(one["host"] for one in found if one not in public)
            log.warning(
                "security: %s belongs to a public provider and leads to %s, which is not public; nothing is sent there."
                " If it is meant, set base_url.",
                host,
                refused,
            )
        if not public:
            raise BlockedAddress(f"{host} leads to no public address")
        return public

    async def close(self) -> None:
        await self._inner.close()


def guarded(resolver: AbstractResolver, *, public: bool, spared: str | None = None) -> AbstractResolver:
    """`resolver`, watched where it is a public provider's."""
    return PublicOnly(resolver, spared) if public else resolver


class AddressBook:
    """A resolver's answers as socket addresses, kept for DNS_TTL_S and asked for once at a time."""

    def __init__(self, resolver: AbstractResolver, monotonic_s: Callable[[], float]) -> None:
        self._resolver = resolver
        self._monotonic_s = monotonic_s
        self._kept: dict[tuple[str, int], tuple[float, list[AddrInfoType]]] = {}
        self._asking = asyncio.Lock()

    async def addresses(self, host: str, port: int) -> list[AddrInfoType]:
        """At least one. Raises socket.gaierror. An address in place of a name needs no resolver."""
        try:
            version = ipaddress.ip_address(host).version
        except ValueError:
            async with self._asking:  # Many calls at once need one answer, not one each.
                return await self._resolved(host, port)
        return [_address(socket.AF_INET if version == 4 else socket.AF_INET6, host, port)]

    async def close(self) -> None:
        await self._resolver.close()

    async def _resolved(self, host: str, port: int) -> list[AddrInfoType]:
        name = (host, port)
        until_s, addresses = self._kept.get(name, (0.0, []))
        if until_s > self._monotonic_s():
            return addresses
        found = await self._resolver.resolve(host, port, socket.AF_UNSPEC)
        addresses = [_address(one["family"], one["host"], one["port"]) for one in found]
        _keep(self._kept, name, (self._monotonic_s() + DNS_TTL_S, addresses))
        return addresses


def _address(family: int, host: str, port: int) -> AddrInfoType:
    where = (host, port, 0, 0) if family == socket.AF_INET6 else (host, port)
    return (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", where)


def _keep(table: dict[tuple[str, int], _V], name: tuple[str, int], value: _V) -> None:
    if len(table) >= NAMES_MAX and name not in table:
        table.clear()
    table[name] = value
