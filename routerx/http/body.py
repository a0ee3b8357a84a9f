"""Reading one request body under a size limit and deadlines.

Owns the limits of a body on its way in: the edge's sweeper asks `BodyWatch.late` and stops what is; nothing here sets a
timer. Must not know what a body means.
"""

import asyncio
from typing import Any, Protocol, cast

import msgspec
from aiohttp import hdrs, web
from aiohttp.streams import StreamReader

from routerx.clock import Clock
from routerx.errors import RequestTimeout, RequestTooLarge, RouterXError, UnsupportedMediaType


class BodyWatch(msgspec.Struct):
    """A body that is still arriving, as the sweeper sees it."""

    payload: Any
    """aiohttp's StreamReader."""
    idle_s: float
    total_s: float
    started_s: float
    progress_s: float
    received: int

    def late(self, now_s: float, *, rate_min: int, rate_grace_s: float) -> RequestTimeout | None:
        """Note what has arrived since the last call; an error once a deadline or the minimum rate is missed."""
        received: int = self.payload.total_bytes
        if received != self.received:
            self.received = received
            self.progress_s = now_s
        age_s = now_s - self.started_s
        if now_s - self.progress_s >= self.idle_s:
            return RequestTimeout(f"No byte of the body arrived for {self.idle_s:g} s.")
        if age_s >= self.total_s:
            return RequestTimeout(f"The body did not arrive within {self.total_s:g} s.")
        if age_s >= rate_grace_s and received < age_s * rate_min:
            return RequestTimeout(f"The body arrives at less than {rate_min} bytes per second.")
        return None

    def stop(self, error: RouterXError) -> None:
        """Make the reader raise `error`."""
        self.payload.set_exception(_BodyStopped(error))


class BodyKeeper(Protocol):
    """The connection a body arrives on."""

    wire: asyncio.Transport

    def watch_body(self, body: BodyWatch | None) -> None:
        """Put a body under the sweeper's eyes; None when it is done."""
        ...

    def hold_body(self, size: int) -> None:
        """Count bytes in memory until the answer is sent. Raises Overloaded."""
        ...


async def read_body(request: web.BaseRequest, *, bytes_max: int, idle_s: float, total_s: float, clock: Clock) -> bytes:
    """The whole body of a request served by an EdgeServer, whose sweeper keeps both deadlines and a minimum rate.

    Raises UnsupportedMediaType for a coded body and RequestTooLarge for a declared length over `bytes_max`, both before
    reading; RequestTooLarge for a chunked body at its first byte over; RequestTimeout; CallerError for broken chunks;
    Overloaded. An answer sent with the body unread closes the connection. `clock` is the server's clock.
    """
    coding = request.headers.get(hdrs.CONTENT_ENCODING)
    if coding is not None and coding.strip().lower() != "identity":
        raise UnsupportedMediaType(f"Content-Encoding {coding[:40]!r} is not accepted: send the body as it is.")
    declared = request.content_length
    if declared is not None and declared > bytes_max:
        raise RequestTooLarge(f"The body has {declared} bytes; the limit is {bytes_max}.")
    payload = request.content
    if payload.is_eof():
        body = payload.read_nowait()
        if len(body) > bytes_max:
            raise _too_large(bytes_max)
        return body
    keeper = cast(BodyKeeper, request.protocol)
    if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue" and payload.total_bytes == 0:
        keeper.wire.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    now_s = clock.monotonic_s()
    try:
        keeper.watch_body(BodyWatch(payload, idle_s, total_s, now_s, now_s, payload.total_bytes))
        return await _collect(payload, keeper, bytes_max)
    except _BodyStopped as stopped:
        raise stopped.error from None
    finally:
        keeper.watch_body(None)


async def _collect(payload: StreamReader, keeper: BodyKeeper, bytes_max: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while chunk := await payload.readany():
        size += len(chunk)
        if size > bytes_max:
            raise _too_large(bytes_max)
        keeper.hold_body(len(chunk))
        chunks.append(chunk)
    return b"".join(chunks)


def _too_large(bytes_max: int) -> RequestTooLarge:
    return RequestTooLarge(f"The body is larger than the limit of {bytes_max} bytes.")


class _BodyStopped(asyncio.TimeoutError):
    """Ends a payload that will not be read further. A TimeoutError: aiohttp's lingering passes over that one."""

    def __init__(self, error: RouterXError) -> None:
        super().__init__()
        self.error = error
