"""What aiohttp does not do by itself, hung on its own seams: one connection (Wire), its pool (WirePool), one request's
body (Sending).

Three gaps are closed here. A call must know whether its connection was reused and whether a single byte came back, to
be sent again safely (FAULTS.md 14). The wait for response headers needs one deadline that 1xx replies and dripped
headers cannot extend (7, 19). And aiohttp 3.14 lets the reader of a body wait for ever when its framing breaks or the
pool is closed, and takes a reset in a body without a length for its end (12, 18).
"""

import asyncio
import functools
from typing import Any

import aiohttp
from aiohttp import payload
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from aiohttp.http_exceptions import BadHttpMessage, HttpProcessingError
from aiohttp.tracing import Trace

from routerx.domain.call import UpstreamCall
from routerx.upstream.bounds import HEAD_BYTES_MAX, PIECE_BYTES
from routerx.upstream.sockets import keepalive_socket


class Wire(ResponseHandler):
    """A client connection that knows its history."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.calls = 0
        """Calls sent on it, this one included."""
        self.head_bytes = 0
        """Read since the current call was sent, until its headers were complete."""
        self.lost: BaseException | None = None
        """The error that ended the connection; None for a clean end."""
        self._awaits_head = False
        self._head_deadline: asyncio.TimerHandle | None = None

    def begin(self, first_byte_s: float) -> None:
        """A call is about to be sent; its headers must be here in `first_byte_s` seconds."""
        self.calls += 1
        self.head_bytes = 0
        self._awaits_head = True
        self._head_deadline = self._loop.call_later(first_byte_s, self._head_is_late)

    def head_ended(self) -> None:
        """Headers are here, or the call is over. Idempotent."""
        self._awaits_head = False
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None

    def data_received(self, data: bytes) -> None:
        if self._awaits_head:
            self.head_bytes += len(data)
            if self.head_bytes > HEAD_BYTES_MAX:
                self.set_exception(BadHttpMessage(f"over {HEAD_BYTES_MAX} bytes before the response headers ended"))
                if self.transport is not None:
                    self.transport.abort()
                return
        super().data_received(data)

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        super().set_exception(exc, *cause)
        body = self._payload
        if isinstance(exc, HttpProcessingError) and body is not None and not body.is_eof():
            body.set_exception(exc)

    def close(self) -> None:
        self._end_body()
        super().close()

    def abort(self) -> None:
        self._end_body()
        super().abort()

    def _end_body(self) -> None:
        """Closed on our side, as when the transport is closed with calls in flight: their readers must hear of it."""
        body = self._payload
        if body is not None and not body.is_eof() and body.exception() is None:
            body.set_exception(aiohttp.ClientConnectionError("closed on this side"))

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost = exc
        super().connection_lost(exc)

    def _head_is_late(self) -> None:
        self.set_exception(aiohttp.SocketTimeoutError("no response headers in time"))


class Sending(payload.Payload):
    """A request body on its way, and the wire it went out on: aiohttp brings it to the pool with the request."""

    def __init__(self, call: UpstreamCall) -> None:
        super().__init__(call.body)
        self._size = len(call.body)
        self._autoclose = True
        self._call = call
        self.wire: Wire | None = None
        """None: not connected yet."""
        self._transport: asyncio.Transport | None = None

    def dispatch(self, connection: Connection) -> None:
        """The pool has a connection for this request."""
        wire = connection.protocol
        assert isinstance(wire, Wire)
        self.wire = wire
        self._transport = connection.transport
        wire.begin(self._call.first_byte_s)
        self._call.progress.sent = True

    def ended(self) -> None:
        if self.wire is not None:
            self.wire.head_ended()

    def abort(self) -> None:
        """Close the connection now. aiohttp's own close would first flush what is unsent."""
        self.ended()
        if self._transport is not None:
            self._transport.abort()

    @property
    def may_go_again(self) -> bool:
        """It went out on a reused connection, and not a byte came back."""
        return self.wire is not None and self.wire.calls > 1 and self.wire.head_bytes == 0

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return str(self._value, encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        body: bytes = self._value
        if len(body) <= PIECE_BYTES:
            await writer.write(body)
            return
        view = memoryview(body)
        for start in range(0, len(body), PIECE_BYTES):
            await writer.write(view[start : start + PIECE_BYTES])

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        await self.write(writer)  # The length is always that of the body.


class WirePool(aiohttp.TCPConnector):
    """aiohttp's pool, of Wires."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(socket_factory=keepalive_socket, **settings)
        # partial is invariant, though a factory of Wires is one of ResponseHandlers.
        self._factory = functools.partial(Wire, loop=self._loop)  # type: ignore[assignment]

    async def connect(self, req: ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout) -> Connection:
        connection = await super().connect(req, traces, timeout)
        sending = req.body
        assert isinstance(sending, Sending)
        sending.dispatch(connection)
        return connection
