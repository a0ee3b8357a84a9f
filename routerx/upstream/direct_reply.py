"""An open response of the direct transport: collects the body, wakes its one reader, holds the peer back.

While nobody reads, what arrives is kept up to twice READ_BUFFER_BYTES, then the socket is left unread. read() lifts
that: it is bounded by its own cap and is woken once, at the end.
"""

import asyncio
import zlib
from collections.abc import Mapping

from routerx.domain.call import UpstreamCall
from routerx.domain.failure import FailureKind, UpstreamFault
from routerx.upstream.bounds import READ_BUFFER_BYTES
from routerx.upstream.direct_head import Framing, ResponseHeaders
from routerx.upstream.direct_unpack import Unpacker
from routerx.upstream.direct_wire import Wire
from routerx.upstream.faults import failure, reason_of

UNREAD_BYTES_MAX = 2 * READ_BUFFER_BYTES
NO_CAP = -1
_NO_HEADERS = ResponseHeaders(b"", b"")


class DirectReply:
    """One exchange: a wire's Answer and, once `status` is set, its caller's UpstreamReply."""

    __slots__ = (
        "_call",
        "_cap",
        "_cause",
        "_deadline_s",
        "_declared",
        "_ended",
        "_has_output",
        "_kind",
        "_loop",
        "_parts",
        "_size",
        "_unpacker",
        "_wire",
        "headers",
        "status",
        "waiter",
    )

    def __init__(self, call: UpstreamCall, wire: Wire, waiter: "asyncio.Future[None]") -> None:
        self.status = 0
        self.headers: Mapping[str, str] = _NO_HEADERS
        self.waiter = waiter
        """Done once the head is here or will not come; then, in turn, each time the reader waits for."""
        self._call = call
        self._loop = waiter.get_loop()
        self._deadline_s = self._loop.time() + call.timeouts.total_s
        self._wire: Wire | None = wire
        self._parts: list[bytes] = []
        self._size = 0
        """Of `_parts`, bytes."""
        self._cap = NO_CAP
        """Set while read() collects: it is woken at the end, or when there is more than this."""
        self._declared: int | None = None
        self._ended = False
        self._kind: FailureKind | None = None
        self._cause: BaseException | None = None
        self._unpacker: Unpacker | None = None
        self._has_output = False

    # --- UpstreamReply -------------------------------------------------------------------------------------------

    async def read(self, bytes_max: int) -> bytes:
        if self._declared is not None and self._declared > bytes_max:
            raise self._too_large(bytes_max)
        if self._unpacker is not None:
            try:
                async with asyncio.timeout_at(self._deadline_s):
                    return await self._read_unpacked(self._unpacker, bytes_max)
            except TimeoutError:
                raise self._too_slow() from None
        if not self._ended and self._kind is None and self._size <= bytes_max:
            self._cap = bytes_max
            if self._wire is not None:
                self._wire.resume_reading()
            try:
                await self._more()
            finally:
                self._cap = NO_CAP
        if self._size > bytes_max:
            raise self._too_large(bytes_max)
        if not self._ended:
            raise self.fault() if self._kind is not None else self._too_slow()
        return self._take()

    async def chunk(self) -> bytes:
        if self._unpacker is not None:
            return await self._unpacked(self._unpacker)
        while not self._parts:
            if self._ended:
                return b""
            if self._kind is not None:
                raise self.fault()
            await self._more()
        return self._take()

    def release(self) -> None:
        wire = self._wire
        if wire is not None:
            self._wire = None
            if not self._ended:
                self._kind = FailureKind.RESET_MIDSTREAM
            wire.release()

    def abort(self) -> None:
        wire = self._wire
        if wire is not None:
            wire.abort()
            self._parts = []
            self._size = 0
            self._ended = False
            self.failed(FailureKind.RESET_MIDSTREAM, None)

    # --- Answer --------------------------------------------------------------------------------------------------

    def headed(self, status: int, headers: ResponseHeaders, framing: Framing) -> None:
        self.status = status
        self.headers = headers
        self._declared = framing.length_bytes
        if framing.coding is not None:
            self._unpacker = Unpacker(framing.coding)

    def fed(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        self._has_output = True

    def ended(self) -> None:
        self._ended = True

    def woken(self) -> None:
        if not self._ended:
            if self._cap != NO_CAP:
                if self._size <= self._cap and not self._is_late:
                    return
            elif self._size > UNREAD_BYTES_MAX and self._wire is not None:
                self._wire.pause_reading()
        waiter = self.waiter
        if not waiter.done():
            waiter.set_result(None)

    def failed(self, kind: FailureKind, cause: BaseException | None) -> None:
        self._wire = None
        if kind is FailureKind.RESET_MIDSTREAM and not self._has_output:
            kind = FailureKind.RESET_BEFORE_OUTPUT
        self._kind = kind
        self._cause = cause
        if not self.waiter.done():
            self.waiter.set_result(None)

    # --- steps ---------------------------------------------------------------------------------------------------

    @property
    def may_go_again(self) -> bool:
        """The connection was closed without an answer (whether a byte came is the wire's to say)."""
        return self.status == 0 and self._kind is FailureKind.RESET_BEFORE_OUTPUT

    def fault(self) -> UpstreamFault:
        """Why there is no more."""
        assert self._kind is not None
        reason = None if self._cause is None else reason_of(self._cause)
        return UpstreamFault(failure(self._kind, self._call, reason))

    def _more(self) -> "asyncio.Future[None]":
        self.waiter = self._loop.create_future()
        return self.waiter

    def _take(self) -> bytes:
        parts = self._parts
        if not parts:
            return b""
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self._parts = []
        self._size = 0
        if self._wire is not None:
            self._wire.resume_reading()
        return data

    def _too_large(self, bytes_max: int) -> UpstreamFault:
        self.abort()
        return UpstreamFault(failure(FailureKind.TOO_LARGE, self._call, f"{bytes_max} bytes are read at most"))

    @property
    def _is_late(self) -> bool:
        """Drips keep the wire's deadline of silence from passing: this one they do not move (FAULTS.md 10)."""
        return self._loop.time() > self._deadline_s

    def _too_slow(self) -> UpstreamFault:
        self.abort()
        return UpstreamFault(failure(FailureKind.TOTAL_TIMEOUT, self._call))

    async def _unpacked(self, unpacker: Unpacker) -> bytes:
        """chunk() of a compressed body."""
        while True:
            try:
                data = unpacker.step()
            except zlib.error as error:
                self.abort()
                self.failed(FailureKind.PROTOCOL_ERROR, None)
                raise self.fault() from error
            if data:
                return data
            if self._parts:
                unpacker.feed(self._take())
            elif self._ended and unpacker.is_whole:
                return b""
            elif self._ended or self._kind is not None:
                if self._kind is None:
                    self.failed(FailureKind.TRUNCATED, None)
                raise self.fault()
            else:
                await self._more()

    async def _read_unpacked(self, unpacker: Unpacker, bytes_max: int) -> bytes:
        parts = []
        size = 0
        while data := await self._unpacked(unpacker):
            size += len(data)
            if size > bytes_max:
                raise self._too_large(bytes_max)
            parts.append(data)
            await asyncio.sleep(0)  # A long body unpacks without a pause of its own.
        return b"".join(parts)
