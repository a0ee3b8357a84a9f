"""The guarded edge: aiohttp's low-level HTTP server with the deadlines and caps it does not have (FAULTS.md 58-62, 69).

Owns accepting, header and keep-alive deadlines, connection caps, stalled writers, body deadlines, malformed HTTP and
draining. Must not know routes or tenants: it calls one handler with a web.BaseRequest and sends what that
returns. No timer is set per request: connections carry counters, and one sweeper task per server compares them with
the last sweep, so a deadline fires at most one `sweep_interval_s` late.

Handlers are cancelled when their client goes (also when the client is aborted as too slow); what must happen on every
exit path belongs in a `finally` that does not await.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import cast

from aiohttp import HttpVersion10, HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from routerx.clock import Clock
from routerx.dialects.openai_chat import OPENAI
from routerx.errors import (
    AmbiguousCredentials,
    CallerError,
    HeadersTooLarge,
    InternalError,
    Overloaded,
    RequestTimeout,
    RouterXError,
)
from routerx.http.body import BodyWatch, read_body
from routerx.http.edge_limits import (
    Closed,
    EdgeLimits,
    host_of,
    require_guards,
    unacknowledged_bytes,
    within_descriptors,
)
from routerx.http.faults import error_response
from routerx.ids import new_request_id
from routerx.tasks import TaskSet

__all__ = ["Closed", "EdgeLimits", "EdgeProtocol", "EdgeServer", "read_body"]

log = logging.getLogger("routerx.http.edge")

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_VERSIONS = (HttpVersion11, HttpVersion10)
_HOST = re.compile(r"[A-Za-z0-9._~%!$&'()*+,;=:\[\]-]*", re.ASCII)
"""RFC 3986's host and port, as far as characters go; nothing here decides by the Host header."""
_NEVER_S = 10 * 365 * 86_400.0
_CANCEL_GRACE_S = 5.0
"""How long shutdown waits for cancelled handlers to run their `finally` and for closed sockets to flush."""


class EdgeServer:
    """A protocol factory for loop.create_server() and loop.create_unix_server(). Needs a running loop.

    `handler` answers every well-formed request and should not raise; what it raises becomes a bare 500.
    `on_closed` is told each reason of Closed, once per connection or refused message, and must not raise.
    Raises OperatorError under `python -O` and when aiohttp's C parser is missing.
    """

    def __init__(self, handler: Handler, limits: EdgeLimits, clock: Clock, on_closed: Callable[[str], None]) -> None:
        require_guards()
        self.limits = limits
        self.clock = clock
        self.on_closed = on_closed
        self.draining = False
        self.in_flight = 0
        """Requests with a handler at work."""
        self.bodies_bytes = 0
        self._open: dict[EdgeProtocol, str | None] = {}
        self._per_host: dict[str, int] = {}
        self._connections_max = within_descriptors(limits.connections_max)
        per_host = limits.connections_per_host_max
        self._connections_per_host_max = per_host if per_host is not None else max(1, self._connections_max // 2)
        # aiohttp's manager makes requests and keeps the handler; its own registry of connections is not used.
        self.web = web.Server(handler, request_factory=_make_request, handler_cancellation=True)
        self._tasks = TaskSet()
        self._tasks.spawn("edge sweep", self._sweep_forever())

    def __call__(self) -> "EdgeProtocol":
        return EdgeProtocol(self)

    @property
    def connections(self) -> int:
        """Open client sockets."""
        return len(self._open)

    async def shutdown(self, timeout_s: float) -> None:
        """Drain, then close everything. Stop listening first.

        From now on each answer closes its connection. Requests in flight have `timeout_s` to finish; idle connections
        stay open meanwhile, so that a request already on its way is answered (by a handler that says 503) rather than
        reset. Then handlers still at work are cancelled.
        """
        self.draining = True
        await self._until(lambda: self.in_flight == 0, timeout_s)
        for protocol in list(self._open):
            protocol.end(Closed.SHUTDOWN)
        await self._until(lambda: self.in_flight == 0 and not self._open, _CANCEL_GRACE_S)
        for protocol in list(self._open):
            protocol.wire.abort()
        await self._tasks.close()

    async def _until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        deadline_s = self.clock.monotonic_s() + timeout_s
        while not condition() and (left_s := deadline_s - self.clock.monotonic_s()) > 0:
            await self.clock.sleep(min(0.02, left_s))

    def admit(self, protocol: "EdgeProtocol", host: str | None) -> Closed | None:
        """Register a new connection, or say which cap it would pass."""
        if len(self._open) >= self._connections_max:
            return Closed.CONNECTIONS_MAX
        if host is not None:
            count = self._per_host.get(host, 0)
            if count >= self._connections_per_host_max:
                return Closed.CONNECTIONS_PER_HOST_MAX
            self._per_host[host] = count + 1
        self._open[protocol] = host
        return None

    def forget(self, protocol: "EdgeProtocol") -> None:
        host = self._open.pop(protocol, None)
        if host is not None:
            self._per_host[host] -= 1
            if self._per_host[host] == 0:
                del self._per_host[host]

    async def _sweep_forever(self) -> None:
        while True:
            await self.clock.sleep(self.limits.sweep_interval_s)
            now_s = self.clock.monotonic_s()
            for protocol in list(self._open):
                protocol.sweep(now_s)


class EdgeProtocol(RequestHandler):
    """One client connection. The counters here are what the sweeper compares."""

    __slots__ = (
        "_body",
        "_body_bytes",
        "_edge",
        "_head_bytes",
        "_head_since_s",
        "_idle_served",
        "_idle_since_s",
        "_in_flight",
        "_last",
        "_line_seen",
        "_measure_until",
        "_sent",
        "_served",
        "_stalled_since_s",
        "_writer",
        "wire",
    )

    wire: asyncio.Transport
    """The transport until connection_lost; aiohttp drops its own reference while bytes may still wait in it."""

    def __init__(self, edge: EdgeServer) -> None:
        limits = edge.limits
        super().__init__(
            edge.web,
            loop=asyncio.get_running_loop(),
            # Idle connections are the sweeper's; aiohttp has no value for "off".
            keepalive_timeout=_NEVER_S,
            access_log=None,  # type: ignore[arg-type]  # None is how aiohttp's own servers turn it off.
            logger=log,
            max_line_size=limits.line_bytes_max,
            max_field_size=limits.field_bytes_max,
            max_headers=limits.headers_max,
            lingering_time=limits.lingering_s,
            auto_decompress=False,
        )
        self._edge = edge
        self._body: BodyWatch | None = None
        self._body_bytes = 0
        self._head_bytes = 0
        self._head_since_s: float | None = None
        self._line_seen = False
        self._measure_until = 0
        """Requests up to this one came in reads that do not show that their headers are within the limit."""
        self._served = 0
        self._in_flight = False
        self._last = False
        """Nothing more will be served here: the answer said so, or the connection was refused."""
        self._idle_served = -1
        self._idle_since_s = 0.0
        self._sent: tuple[int, int, int] | None = None
        self._stalled_since_s = 0.0
        self._writer: AbstractStreamWriter | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.wire = cast(asyncio.Transport, transport)
        refused = self._edge.admit(self, host_of(self.wire))
        if refused is not None:
            self._refuse(Overloaded("Too many open connections."), refused)
            return
        super().connection_made(transport)
        self._head_since_s = self._edge.clock.monotonic_s()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._edge.forget(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        parsed = self._request_count
        if self._in_flight or self._last or self._served != parsed:
            super().data_received(data)
            if self._request_count != parsed:
                self._measure_until = self._request_count
                self._check_framing()
            return
        super().data_received(data)
        header_bytes_max = self._edge.limits.header_bytes_max
        if self._request_count != parsed:
            if self._head_bytes + len(data) > header_bytes_max:
                self._measure_until = self._request_count
            self._head_bytes = 0
            self._head_since_s = None
            self._line_seen = False
        elif self._head_bytes or data.strip(b"\r\n"):  # Blank lines before a request are allowed (RFC 9112, 2.2).
            self._head_bytes += len(data)
            self._line_seen = self._line_seen or b"\n" in data
            if self._head_bytes > header_bytes_max:
                self._refuse(self._headers_too_large(), Closed.HEADERS_TOO_LARGE)

    # --- requests ------------------------------------------------------------------------------------------------

    async def _handle_request(
        self,
        request: web.BaseRequest,
        start_time: float | None,
        request_handler: Handler,
    ) -> tuple[web.StreamResponse, bool]:
        self._served += 1
        self._in_flight = True
        self._edge.in_flight += 1
        self._writer = request.writer
        malformed = request_handler is not self._request_handler  # aiohttp has put its own in place.
        if not malformed and (error := self._unacceptable(request)) is not None:
            malformed = True
            request_handler = _answer_with(self._error_response(error))
        if malformed:
            request._version = HttpVersion11  # Of the status line.
        try:
            return await super()._handle_request(request, start_time, request_handler)
        finally:
            self._in_flight = False
            self._edge.in_flight -= 1
            self._edge.bodies_bytes -= self._body_bytes
            self._body_bytes = 0

    def _unacceptable(self, request: web.BaseRequest) -> RouterXError | None:
        if self._served <= self._measure_until and _header_bytes(request) > self._edge.limits.header_bytes_max:
            self._edge.on_closed(Closed.HEADERS_TOO_LARGE)
            return self._headers_too_large()
        error = _violation(request)
        if error is not None:
            self._edge.on_closed(Closed.BAD_HTTP)
        return error

    def _headers_too_large(self) -> HeadersTooLarge:
        return HeadersTooLarge(f"The request header is larger than {self._edge.limits.header_bytes_max} bytes.")

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """aiohttp's hook for malformed HTTP (400) and for handlers that raised (500, 504)."""
        if isinstance(exc, ConnectionError):  # The caller has gone; nothing has failed.
            raise exc
        if status == HTTPStatus.BAD_REQUEST:
            error = self._malformed(exc)
        else:
            log.error("the request handler failed", exc_info=exc)
            error = InternalError("The gateway failed on this request. Its log has the details.")
        if request.writer.output_size > 0:
            raise ConnectionError("An answer has begun; only closing can tell that it failed.")
        return self._error_response(error)

    def _malformed(self, exc: BaseException | None) -> RouterXError:
        """The parser's verdict without the bytes it quotes: they may hold a key."""
        if isinstance(exc, LineTooLong):
            self._edge.on_closed(Closed.HEADERS_TOO_LARGE)
            return HeadersTooLarge(
                f"The request line is longer than {self.max_line_size} bytes"
                f" or a header is longer than {self.max_field_size} bytes."
            )
        self._edge.on_closed(Closed.BAD_HTTP)
        reason = exc.message.partition("\n")[0].rstrip(":.") if type(exc) is BadHttpMessage else ""
        return CallerError(f"This is not well-formed HTTP/1.1{': ' + reason if reason else ''}.")

    def _error_response(self, error: RouterXError) -> web.Response:
        """In OpenAI's shape: what speaks here has not said which dialect it wants."""
        response = error_response(error, OPENAI, new_request_id(self._edge.clock.now_ns()))
        response.force_close()
        return response

    def about_to_answer(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Response headers are ready: hide what serves here, and close where the next bytes could not be trusted."""
        response.headers.pop(hdrs.SERVER, None)
        # After an upgrade that was not taken, aiohttp may have dropped what was pipelined behind it.
        if self._edge.draining or not request.content.is_eof() or hdrs.UPGRADE in request.headers:
            response.force_close()
        if not response.keep_alive:
            self._last = True
            response.headers[hdrs.CONNECTION] = "close"

    # --- bodies --------------------------------------------------------------------------------------------------

    def watch_body(self, body: BodyWatch | None) -> None:
        """Put a body that is still arriving under the sweeper's eyes; None when it is done."""
        self._body = body
        if body is not None and self._request_count > self._served:
            self._check_framing()

    def hold_body(self, size: int) -> None:
        """Count bytes of this request's body until its answer is sent. Raises Overloaded."""
        self._body_bytes += size
        self._edge.bodies_bytes += size
        if self._edge.bodies_bytes > self._edge.limits.bodies_bytes_max:
            raise Overloaded("The gateway holds too many request bodies at this moment.", retry_after_s=1.0)

    def _check_framing(self) -> None:
        """The parser gave a message while a body is unfinished: it is the error that ended that body."""
        body = self._body
        if body is not None and not body.payload.is_eof():
            self._edge.on_closed(Closed.BAD_HTTP)
            body.stop(CallerError("The body is not framed as its header says (chunks)."))
            self._body = None

    # --- the sweeper's side --------------------------------------------------------------------------------------

    def sweep(self, now_s: float) -> None:
        """End this connection if a deadline has passed."""
        limits = self._edge.limits
        if (waiting_bytes := self.wire.get_write_buffer_size()) > 0:
            self._sweep_writes(waiting_bytes, now_s)
            return
        self._sent = None
        if self._body is not None:
            self._sweep_body(self._body, now_s)
        if self._in_flight or self._last or self._served != self._request_count or self.wire.is_closing():
            return
        if self._head_bytes or self._head_since_s is not None:
            if self._head_since_s is None:
                self._head_since_s = now_s
            elif now_s - self._head_since_s >= limits.header_timeout_s:
                self._header_is_late()
        elif self._idle_served != self._served:
            self._idle_served = self._served
            self._idle_since_s = now_s
        elif now_s - self._idle_since_s >= limits.keepalive_timeout_s:
            self.end(Closed.KEEPALIVE_TIMEOUT)

    def _sweep_writes(self, waiting_bytes: int, now_s: float) -> None:
        output_bytes = self._writer.output_size if self._writer is not None else 0
        # A kernel with a large send buffer takes more only when much of it is gone; what it still holds shows the rest.
        sent = (self._served, output_bytes - waiting_bytes, unacknowledged_bytes(self.wire))
        if sent != self._sent:
            self._sent = sent
            self._stalled_since_s = now_s
        elif now_s - self._stalled_since_s >= self._edge.limits.write_timeout_s:
            self._edge.on_closed(Closed.WRITE_STALL)
            self.wire.abort()

    def _sweep_body(self, body: BodyWatch, now_s: float) -> None:
        limits = self._edge.limits
        error = body.late(now_s, rate_min=limits.body_rate_min, rate_grace_s=limits.body_rate_grace_s)
        if error is not None:
            self._edge.on_closed(Closed.BODY_TIMEOUT)
            body.stop(error)
            self._body = None

    def _header_is_late(self) -> None:
        timeout_s = self._edge.limits.header_timeout_s
        if self._line_seen:
            error = RequestTimeout(f"The request header did not arrive within {timeout_s:g} s.")
            self._refuse(error, Closed.HEADER_TIMEOUT)
        else:
            self.end(Closed.HEADER_TIMEOUT)

    def end(self, reason: Closed) -> None:
        """Close now: an idle connection after its last bytes, a busy one by aborting it, which cancels its handler."""
        self._edge.on_closed(reason)
        if self._in_flight or self._served != self._request_count:
            self.wire.abort()
        else:
            self.force_close()
            self.wire.close()

    def _refuse(self, error: RouterXError, reason: Closed) -> None:
        """Answer on a connection on which no request is in flight, and close it."""
        self._edge.on_closed(reason)
        self._last = True
        response = self._error_response(error)
        body = cast(bytes, response.body)
        headers = {**response.headers, hdrs.CONTENT_LENGTH: str(len(body)), hdrs.CONNECTION: "close"}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.wire.write(f"HTTP/1.1 {response.status} {response.reason}\r\n{head}\r\n".encode() + body)
        self.force_close()
        self.wire.close()


class EdgeRequest(web.BaseRequest):
    """BaseRequest that lets its connection see the answer's headers before they are sent."""

    match_info: Mapping[str, str] = MappingProxyType({})
    """Variable parts of the path, set by a dispatcher that has any."""

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        cast(EdgeProtocol, self._protocol).about_to_answer(self, response)


def _make_request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: RequestHandler,
    writer: AbstractStreamWriter,
    task: "asyncio.Task[None]",
) -> EdgeRequest:
    return EdgeRequest(message, payload, protocol, writer, task, task.get_loop())


def _header_bytes(request: web.BaseRequest) -> int:
    return len(request.raw_path) + sum(len(name) + len(value) for name, value in request.raw_headers)


def _violation(request: web.BaseRequest) -> RouterXError | None:
    """What the parser lets pass and we do not."""
    headers = request.headers
    version = request._version  # `request.version` would remember it; an error's status line says 1.1.
    if version not in _VERSIONS:
        return CallerError("Only HTTP/1.1 and HTTP/1.0 are served.")
    if _HOST.fullmatch(headers.get(hdrs.HOST, "")) is None:
        return CallerError("The Host header is not a host name or address.")
    coding = headers.get(hdrs.TRANSFER_ENCODING)
    if coding is not None and (coding.lower() != "chunked" or version != HttpVersion11):
        return CallerError("The only Transfer-Encoding served is 'chunked', in HTTP/1.1.")
    if len(headers.getall(hdrs.AUTHORIZATION, ())) > 1:
        return AmbiguousCredentials("The Authorization header was sent more than once.")
    if request.method == hdrs.METH_CONNECT:
        return CallerError("CONNECT is not served: this is a gateway for one API, not a proxy.")
    return None


def _answer_with(response: web.StreamResponse) -> Handler:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return response

    return answer
