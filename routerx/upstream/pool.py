"""One transport per way of connecting, kept over reloads as long as the configuration has a provider that uses it."""

from collections.abc import Iterable

from routerx.clock import Clock
from routerx.providers.spec import Provider
from routerx.tasks import TaskSet
from routerx.upstream.aiohttp_client import AiohttpTransport
from routerx.upstream.base import Transport
from routerx.upstream.direct import DirectTransport
from routerx.upstream.mock import MockTransport

Identity = tuple[object, ...]


def _identity(provider: Provider) -> Identity:
    """What is built into a transport. Credentials, headers and quirks travel with each call."""
    return (
        provider.name,
        provider.base_url,
        provider.timeouts,
        provider.proxy,
        provider.ca_file,
        provider.public,
        provider.mock,
    )


class TransportPool:
    """Makes transports on first use; one that no provider uses any more is closed once its last call must be over."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tasks = TaskSet()
        self._transports: dict[Identity, tuple[Provider, Transport]] = {}
        self._current: dict[str, tuple[Provider, Transport]] = {}
        """By name, for the hot path: the provider as it was last asked for."""

    def get(self, provider: Provider) -> Transport:
        """The transport for this provider, whichever snapshot it is of."""
        current = self._current.get(provider.name)
        if current is not None and current[0] is provider:
            return current[1]
        identity = _identity(provider)
        known = self._transports.get(identity)
        transport = known[1] if known is not None else self._make(provider)
        self._transports[identity] = self._current[provider.name] = (provider, transport)
        return transport

    def _make(self, provider: Provider) -> Transport:
        if provider.mock is not None:
            return MockTransport(provider, self._clock)
        return AiohttpTransport(provider) if provider.proxy is not None else DirectTransport(provider)

    def retain(self, providers: Iterable[Provider]) -> None:
        """After a reload: retire the transports that none of `providers` uses."""
        wanted = {_identity(provider) for provider in providers}
        self._current.clear()
        for identity, (provider, transport) in list(self._transports.items()):
            if identity not in wanted:
                del self._transports[identity]
                self._tasks.spawn(f"retire-transport-{provider.name}", self._close_later(provider, transport))

    async def _close_later(self, provider: Provider, transport: Transport) -> None:
        try:
            await self._clock.sleep(provider.timeouts.total_s)
        finally:
            await transport.close()

    async def close(self) -> None:
        for _, transport in self._transports.values():
            await transport.close()
        self._transports.clear()
        self._current.clear()
        await self._tasks.close()
