"""One transport per provider, kept over reloads as long as what it depends on stays the same."""

from collections.abc import Iterable

from routerx.clock import Clock
from routerx.providers.spec import Provider
from routerx.tasks import TaskSet
from routerx.upstream.base import Transport
from routerx.upstream.client import AiohttpTransport
from routerx.upstream.direct import DirectTransport
from routerx.upstream.mock import MockTransport


def _same_connection(a: Provider, b: Provider) -> bool:
    """Credentials, headers and quirks travel with each call; only these are built into a transport."""
    return (a.mock, a.base_url, a.timeouts, a.proxy, a.ca_file) == (b.mock, b.base_url, b.timeouts, b.proxy, b.ca_file)


def _new_transport(provider: Provider, clock: Clock) -> Transport:
    if provider.mock is not None:
        return MockTransport(provider, clock)
    if provider.proxy is not None:
        return AiohttpTransport(provider)  # It speaks to proxies; the lean one does not.
    return DirectTransport(provider)


class TransportPool:
    """Opens transports on first use; a replaced one is closed once its last call must be over."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tasks = TaskSet()
        self._open: dict[str, tuple[Provider, Transport]] = {}

    def get(self, provider: Provider) -> Transport:
        """The provider's transport. An old snapshot's provider gets the newest transport of that name only if it is
        the same connection; else one is made and retired at the next retain()."""
        entry = self._open.get(provider.name)
        if entry is not None and (entry[0] is provider or _same_connection(entry[0], provider)):
            return entry[1]
        if entry is not None:
            self._retire(*entry)
        transport = _new_transport(provider, self._clock)
        self._open[provider.name] = (provider, transport)
        return transport

    def retain(self, providers: Iterable[Provider]) -> None:
        """After a reload: retire the transports of providers that are gone or connect differently now."""
        current = {provider.name: provider for provider in providers}
        for name, (provider, transport) in list(self._open.items()):
            now = current.get(name)
            if now is None or not _same_connection(now, provider):
                del self._open[name]
                self._retire(provider, transport)

    def _retire(self, provider: Provider, transport: Transport) -> None:
        self._tasks.spawn(f"retire-transport-{provider.name}", self._close_later(provider, transport))

    async def _close_later(self, provider: Provider, transport: Transport) -> None:
        try:
            await self._clock.sleep(provider.timeouts.total_s)
        finally:
            await transport.close()

    async def close(self) -> None:
        for _, transport in self._open.values():
            await transport.close()
        self._open.clear()
        await self._tasks.close()
