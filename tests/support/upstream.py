"""A provider for tests: a raw HTTP/1.1 socket server on 127.0.0.1 that does, request by request, what it was told.

    async with ScriptedUpstream() as upstream:
        upstream.queue(Status(429, headers={"retry-after": "2"}), Ok("Hello"))   # in this order, for any request
        upstream.on("gpt-4o", Stream(["Hel", "lo"]))                             # always, for this model
        ...                                                                      # send requests to upstream.url
        assert upstream.requests[0].json["model"] == "gpt-4o"
        await upstream.requests[1].gone()                                        # the peer hung up

What `queue_for` holds for the request's model goes first, then the queue, then what `on` says, then `default` (`Ok()`).
Behaviours are small frozen values; each has `play(peer)` and writes through its Peer, so a test may bring its own.
Nothing sleeps: a pause is an `asyncio.Event` that the test sets (`Stream(gates={1: event})`, or a `Gate` in `Raw`).
"""

import asyncio
import contextlib
import socket
import ssl
from collections import defaultdict, deque
from collections.abc import AsyncIterator

from tests.support.behaviours import (
    DONE,
    GUARD_S,
    Behaviour,
    Drip,
    End,
    Endless,
    Gate,
    GzipBomb,
    Hangup,
    Html,
    HugeHeader,
    IllegalChunking,
    Json,
    Ok,
    Peer,
    Raw,
    Redirect,
    Replay,
    Request,
    Reset,
    Silence,
    Status,
    Stream,
    Truncated,
    sse,
    usage_of,
)

# The behaviours are offered here too, so that a test has one import.
__all__ = [
    "ScriptedUpstream",
    "refused_url",
    "DONE",
    "Behaviour",
    "Drip",
    "End",
    "Endless",
    "Gate",
    "GzipBomb",
    "Hangup",
    "Html",
    "HugeHeader",
    "IllegalChunking",
    "Json",
    "Ok",
    "Peer",
    "Raw",
    "Redirect",
    "Replay",
    "Request",
    "Reset",
    "Silence",
    "Status",
    "Stream",
    "Truncated",
    "sse",
    "usage_of",
]


def refused_url() -> str:
    """A URL on this machine where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


class _Wire(asyncio.StreamReaderProtocol):
    """A server-side connection that notices at once when its peer hangs up, without anyone reading from it."""

    def __init__(self, upstream: "ScriptedUpstream") -> None:
        super().__init__(asyncio.StreamReader(limit=2**20), upstream.connected)
        self.gone = asyncio.Event()

    def eof_received(self) -> bool | None:
        self.gone.set()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()
        super().connection_lost(exc)


class ScriptedUpstream:
    """The server. See the module's docstring; `requests` and `connections` only grow."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.default: Behaviour = Ok()
        self.requests: list[Request] = []
        self.connections = 0
        """Connections accepted so far."""
        self._tls = tls
        self._queue: deque[Behaviour] = deque()
        self._by_model: dict[str, Behaviour] = {}
        self._scripts: dict[str, deque[Behaviour]] = defaultdict(deque)
        self._arrived = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._port = 0

    def queue(self, *behaviours: Behaviour) -> None:
        """Play these, once each and in this order, for the next requests."""
        self._queue.extend(behaviours)

    def queue_for(self, model: str, *behaviours: Behaviour) -> None:
        """As `queue`, for requests that name this model."""
        self._scripts[model].extend(behaviours)

    def on(self, model: str, behaviour: Behaviour) -> None:
        """Play this for every request that names this model."""
        self._by_model[model] = behaviour

    @property
    def url(self) -> str:
        """Base URL without a trailing slash."""
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self._port}"

    @property
    def open_connections(self) -> int:
        return len(self._tasks)

    async def arrived(self, count: int = 1) -> Request:
        """Wait for the count-th request (1 is the first) and return it."""
        async with asyncio.timeout(GUARD_S), self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) >= count)
        return self.requests[count - 1]

    async def idle(self) -> None:
        """Wait until every connection is closed."""
        async with asyncio.timeout(GUARD_S):
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def refuse(self) -> None:
        """Stop listening: new connections are refused until `listen()`; open ones go on."""
        assert self._server is not None
        self._server.close()
        self._server = None

    async def listen(self) -> None:
        """Listen (again, on the same port)."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Wire(self), "127.0.0.1", self._port, ssl=self._tls, reuse_address=True, backlog=1024
        )
        self._port = self._server.sockets[0].getsockname()[1]

    async def __aenter__(self) -> "ScriptedUpstream":
        await self.listen()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection. Called by the event loop, as a task of its own."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            # A peer that hangs up ends the connection, whatever was being played.
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
                await self._serve(reader, writer)
        except asyncio.CancelledError:
            pass  # The test is over; streams' own callback would report it as an error.
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = self.connections
        wire = writer.transport.get_protocol()
        assert isinstance(wire, _Wire)
        async for request in self._requests(reader, connection, wire.gone):
            peer = Peer(request, writer)
            playing = asyncio.ensure_future(self._next(request).play(peer))
            leaving = asyncio.ensure_future(wire.gone.wait())
            try:
                await asyncio.wait({playing, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if not playing.done():
                    return
                playing.result()
            finally:
                leaving.cancel()
                playing.cancel()
                await asyncio.gather(leaving, playing, return_exceptions=True)
            if peer.end is not End.KEEP:
                await _leave(peer.end, wire, writer)
                return

    async def _requests(
        self, reader: asyncio.StreamReader, connection: int, gone: asyncio.Event
    ) -> AsyncIterator[Request]:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            line, *fields = head[:-4].decode("latin-1").split("\r\n")
            method, path, _ = line.split(" ", 2)
            headers = {name.lower(): value.strip() for name, _, value in (f.partition(":") for f in fields)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            request = Request(len(self.requests) + 1, connection, method, path, headers, body, gone)
            async with self._arrived:
                self.requests.append(request)
                self._arrived.notify_all()
            yield request

    def _next(self, request: Request) -> Behaviour:
        model = request.model
        if model is not None and self._scripts.get(model):
            return self._scripts[model].popleft()
        if self._queue:
            return self._queue.popleft()
        if model is not None and model in self._by_model:
            return self._by_model[model]
        return self.default


async def _leave(end: End, wire: _Wire, writer: asyncio.StreamWriter) -> None:
    if end is End.STALL:
        await wire.gone.wait()
    elif end is End.RESET:
        sock = writer.get_extra_info("socket")
        # Linger of zero seconds: close() sends RST instead of FIN.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        writer.transport.abort()
    else:
        writer.close()
        await writer.wait_closed()
