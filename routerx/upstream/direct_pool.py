"""The direct transport's connections: opens them inside the connect deadline, keeps idle ones, closes them all.

The last one back is the first one out, so that a pool shrinks after a burst; one timer per pool ends what has been
idle too long.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable

import aiohappyeyeballs
from aiohttp.resolver import ThreadedResolver

from routerx.domain.call import UpstreamCall
from routerx.domain.failure import FailureKind, UpstreamFault
from routerx.providers.spec import Provider
from routerx.upstream.bounds import DNS_SHARE, KEEPALIVE_S
from routerx.upstream.direct_head import Address
from routerx.upstream.direct_wire import Wire
from routerx.upstream.dns import AddressBook, StaleResolver, guarded
from routerx.upstream.faults import Phase, failure, failure_of
from routerx.upstream.sockets import keepalive_socket, private_trust, system_trust

EYEBALLS_DELAY_S = 0.25
"""After this, the next address is tried beside the first (RFC 8305 section 5)."""


class Origin:
    """One host and port, and the connections to it that are idle: the Home of its wires."""

    __slots__ = ("_on_forget", "_on_idle", "host", "idle", "port", "tls")

    def __init__(self, address: Address, on_idle: Callable[[], None], on_forget: Callable[[Wire], None]) -> None:
        self.tls = address.tls
        self.host = address.host
        self.port = address.port
        self.idle: list[Wire] = []
        """The longest idle first."""
        self._on_idle = on_idle
        self._on_forget = on_forget

    def take(self, now_s: float) -> Wire | None:
        """An idle connection to send a call on; the peer may still have closed it unseen."""
        idle = self.idle
        while idle:
            wire = idle.pop()
            if wire.is_usable and wire.idle_until_s > now_s:
                return wire
            wire.abort()
        return None

    def take_back(self, wire: Wire) -> None:
        self.idle.append(wire)
        self._on_idle()

    def forget(self, wire: Wire) -> None:
        if wire in self.idle:
            self.idle.remove(wire)
        self._on_forget(wire)

    def sweep(self, now_s: float) -> None:
        """Close what has been idle too long."""
        fresh: list[Wire] = []
        old: list[Wire] = []
        for wire in self.idle:
            (fresh if wire.is_usable and wire.idle_until_s > now_s else old).append(wire)
        self.idle = fresh
        for wire in old:
            wire.abort()


class DirectPool:
    """All connections of one transport, on one event loop."""

    def __init__(self, provider: Provider, loop: asyncio.AbstractEventLoop) -> None:
        self.is_closed = False
        self._provider = provider
        self._loop = loop
        self._origins: dict[tuple[bool, str, int], Origin] = {}
        self._wires: set[Wire] = set()
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._all_closed: asyncio.Future[None] | None = None
        self._private_trust: ssl.SSLContext | None = None
        resolver = StaleResolver(ThreadedResolver(), provider.timeouts.connect_s * DNS_SHARE, time.monotonic)
        self._names = AddressBook(guarded(resolver, public=provider.public), time.monotonic)

    def origin(self, address: Address) -> Origin:
        key = (address.tls, address.host, address.port)
        origin = self._origins.get(key)
        if origin is None:
            origin = self._origins[key] = Origin(address, self._went_idle, self._forget)
        return origin

    async def connect(self, origin: Origin, call: UpstreamCall) -> Wire:
        """A new connection. Raises UpstreamFault."""
        trust = self._trust(call) if origin.tls else None
        try:
            async with asyncio.timeout(call.timeouts.connect_s):
                wire = await self._connect(origin, trust, call.timeouts.connect_s)
        except OSError as error:  # Timeouts, DNS and TLS included.
            raise UpstreamFault(failure_of(error, Phase.CONNECT, call)) from error
        if self.is_closed:
            wire.abort()
            raise UpstreamFault(failure(FailureKind.CONNECT_ERROR, call, "its configuration was replaced"))
        return wire

    async def close(self) -> None:
        """Close every connection; calls in flight fail. Idempotent; returns once they are gone."""
        self.is_closed = True
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None
        for wire in list(self._wires):
            wire.shut()
        if self._wires:
            if self._all_closed is None:
                self._all_closed = self._loop.create_future()
            await asyncio.shield(self._all_closed)
        await self._names.close()

    async def _connect(self, origin: Origin, trust: ssl.SSLContext | None, connect_s: float) -> Wire:
        addresses = await self._names.addresses(origin.host, origin.port)
        sock: socket.socket = await aiohappyeyeballs.start_connection(
            addresses,
            happy_eyeballs_delay=EYEBALLS_DELAY_S,
            interleave=1,
            loop=self._loop,
            socket_factory=keepalive_socket,
        )
        # From here on the socket is the event loop's, also when this fails or is cancelled.
        _, wire = await self._loop.create_connection(
            lambda: Wire(self._loop, origin),
            sock=sock,
            ssl=trust,
            server_hostname=origin.host if origin.tls else None,
            # The connect deadline is the one that ends a handshake; this only must not come before it.
            ssl_handshake_timeout=connect_s + 1.0 if origin.tls else None,
        )
        self._wires.add(wire)
        return wire

    def _trust(self, call: UpstreamCall) -> ssl.SSLContext:
        ca_file = self._provider.ca_file
        if ca_file is None:
            return system_trust()
        if self._private_trust is None:
            self._private_trust = private_trust(self._provider, ca_file, call)
        return self._private_trust

    def _went_idle(self) -> None:
        if self._sweep_timer is None and not self.is_closed:
            self._sweep_timer = self._loop.call_later(KEEPALIVE_S, self._sweep)

    def _sweep(self) -> None:
        self._sweep_timer = None
        now_s = self._loop.time()
        for origin in self._origins.values():
            origin.sweep(now_s)
        due_s = [wire.idle_until_s for origin in self._origins.values() for wire in origin.idle]
        if due_s:
            self._sweep_timer = self._loop.call_at(min(due_s), self._sweep)

    def _forget(self, wire: Wire) -> None:
        self._wires.discard(wire)
        if not self._wires and self._all_closed is not None and not self._all_closed.done():
            self._all_closed.set_result(None)
