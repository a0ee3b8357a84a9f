"""The transport seam: two methods and a reply. Everything above it is the same for real and mock providers."""

from collections.abc import Mapping
from typing import Protocol

from routerx.domain.call import UpstreamCall

RESPONSE_BYTES_MAX = 64 * 1024 * 1024
"""A buffered response; a longer one is a failure (FAULTS.md 20)."""
ERROR_BYTES_MAX = 64 * 1024
"""How much of an error body is read."""


class UpstreamReply(Protocol):
    """An open response: headers are here, the body is not. Exactly one of release() or abort() ends it; both are
    synchronous, idempotent and safe in `finally`."""

    status: int
    headers: Mapping[str, str]
    """Case-insensitive."""

    async def read(self, bytes_max: int) -> bytes:
        """The whole body. Raises UpstreamFault: TOO_LARGE, STALLED, TRUNCATED, RESET_MIDSTREAM, PROTOCOL_ERROR, and
        TOTAL_TIMEOUT once the call's total deadline has passed since open() (looked at whenever bytes arrive)."""
        ...

    async def chunk(self) -> bytes:
        """What has arrived, at least one byte; b"" at a proper end of the body. Raises UpstreamFault as read(), but for
        the total deadline, which is the relay's."""
        ...

    def release(self) -> None:
        """The reader is done: the connection may be used again if the body was read to its end, else it is closed."""
        ...

    def abort(self) -> None:
        """Close the connection now, so that the provider stops working."""
        ...


class Transport(Protocol):
    """Sends calls. One per provider; owns its connections."""

    async def open(self, call: UpstreamCall) -> UpstreamReply:
        """Send and wait for response headers; `call.progress.sent` is set as soon as there is a connection to send on.

        Raises UpstreamFault (connect, DNS, TLS, timeout, protocol); a 3xx is a reply. Cancellation closes what was
        opened."""
        ...

    async def close(self) -> None:
        """Drop all connections."""
        ...
