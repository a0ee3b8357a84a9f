"""Answers of the tenant API, framed by hand: a whole one in one write, a stream in one write per piece.

web.Response and StreamResponse build a multidict of headers and walk it several times; for the two responses that
nearly every request ends in, that is a tenth of what the gateway does. What the edge needs to know of a response, and
to say about the connection, still passes through its hook.
"""

import asyncio

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import HttpVersion11

JOINED_BYTES_MAX = 64 * 1024
"""A longer body is not copied to join its head."""
BUFFERED_BYTES_MAX = 64 * 1024
"""More than this waiting for a caller's socket, and the next write waits, too: a slow caller slows the upstream."""

Headers = tuple[tuple[str, str], ...]

_HEAD = "HTTP/1.1 200 OK\r\nContent-Type: {}\r\nX-Request-Id: {}\r\n{}Date: {}\r\n{}\r\n"
_LAST_CHUNK = b"0\r\n\r\n"


class _Framed(web.StreamResponse):
    """Status 200 whose bytes are written past aiohttp's header machinery. Header values come from our own tables and
    from a provider's content type, which the HTTP parser has freed of line breaks."""

    def __init__(self, request: web.BaseRequest, content_type: str, request_id: str, headers: Headers) -> None:
        super().__init__()
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("The caller has gone.")
        self._request = request
        self._wire: asyncio.Transport = transport
        self._type = content_type
        self._request_id = request_id
        self._more = headers

    async def _head(self, framing: str) -> bytes:
        """The head, once the edge has said whether the connection goes on. `framing`: a header line or nothing."""
        if self._keep_alive is None:
            self._keep_alive = self._request.keep_alive
        if self._request.version != HttpVersion11:
            self.force_close()
        await self._request._prepare_hook(self)
        more = "".join([f"{name}: {value}\r\n" for name, value in self._more])
        if not self._keep_alive:
            framing += "Connection: close\r\n"
        head = _HEAD.format(self._type, self._request_id, more, rfc822_formatted_time(), framing)
        return head.encode("latin-1", "replace")

    def _put(self, data: bytes) -> None:
        if self._wire.is_closing():
            raise ConnectionResetError("The caller has gone.")
        self._wire.write(data)
        self._request.writer.output_size += len(data)

    async def _send(self, data: bytes) -> None:
        self._put(data)
        if self._wire.get_write_buffer_size() > BUFFERED_BYTES_MAX:
            await self._request.writer.drain()

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """aiohttp calls it when the handler returns: for a stream everything has been sent by then."""
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Likewise: nothing is left to send."""


class WholeAnswer(_Framed):
    """A body in memory, sent when the handler returns it."""

    def __init__(
        self, request: web.BaseRequest, content_type: str, request_id: str, headers: Headers, body: bytes
    ) -> None:
        super().__init__(request, content_type, request_id, headers)
        self._whole = body

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        head = await self._head(f"Content-Length: {len(self._whole)}\r\n")
        if len(self._whole) <= JOINED_BYTES_MAX:
            await self._send(head + self._whole)
        else:
            await self._send(head)
            await self._send(self._whole)
        self._eof_sent = True
        return None


class EventStream(_Framed):
    """An event stream: start(), then any number of write(), then finish(). In chunks; to an HTTP/1.0 caller until the
    connection closes."""

    def __init__(self, request: web.BaseRequest, request_id: str, headers: Headers) -> None:
        super().__init__(request, "text/event-stream; charset=utf-8", request_id, headers)
        self._in_chunks = request.version == HttpVersion11

    async def start(self) -> None:
        # A reverse proxy must not collect the events.
        framing = "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"
        await self._send(await self._head(framing + ("Transfer-Encoding: chunked\r\n" if self._in_chunks else "")))

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        await self._send(_chunk(data) if self._in_chunks else bytes(data))

    async def finish(self, data: bytes) -> None:
        """The last bytes and the end of the body, in one write that is not waited for: nothing follows on it."""
        if self._in_chunks:
            data = (_chunk(data) if data else b"") + _LAST_CHUNK
        if data:
            self._put(data)
        self._eof_sent = True


class CallerStream:
    """The gateway's ClientStream over an EventStream that begins with start()."""

    __slots__ = ("_request", "_request_id", "response")

    def __init__(self, request: web.BaseRequest, request_id: str) -> None:
        self._request = request
        self._request_id = request_id
        self.response: EventStream | None = None
        """None until start()."""

    async def start(self, headers: Headers) -> None:
        self.response = EventStream(self._request, self._request_id, headers)
        await self.response.start()

    async def write(self, data: bytes) -> None:
        assert self.response is not None
        await self.response.write(data)

    async def finish(self, data: bytes) -> None:
        assert self.response is not None
        await self.response.finish(data)


def _chunk(data: bytes | bytearray | memoryview) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), bytes(data))
