"""What a dialect offers. A dialect is a wire format and code; a provider is a vendor and data (providers/).

One object per dialect, without state. A StreamTap is the state of one stream.
"""

from collections.abc import Mapping
from typing import Protocol

import msgspec

from routerx.domain.call import Operation, Peek
from routerx.domain.failure import Failure
from routerx.domain.usage import Usage
from routerx.errors import RouterXError
from routerx.jsonx import Raw

EVENT_BYTES_MAX = 1024 * 1024
"""One SSE event; a longer one is a failure, not a buffer (FAULTS.md 43)."""


class Reply(msgspec.Struct, frozen=True):
    """What the gateway learns from a complete buffered answer; its bytes are relayed untouched."""

    usage: Usage | None
    """None: absent or invalid. Explicit zeros are a value."""
    anomaly: bool = False
    """Usage was present and unusable, or zero beside content."""
    served_model: str | None = None
    output_chars: int = 0
    """UTF-8 bytes of generated text, tool arguments and reasoning: the base of an estimate. Measured only where usage
    is missing or reports no output."""


class StreamTap(Protocol):
    """Watches one stream: splits frames at every byte cut, withholds the terminal event, reads usage.

    Feed it every chunk; what `feed` returns may flow to the client (once the attempt is committed). From the frame that
    finishes the last choice on, everything is kept in `terminal`, to be released after the charge is durable.
    """

    has_content: bool
    """A content event was seen (text, tool call, reasoning, refusal or a finish): the attempt may commit."""
    done: bool
    """The stream's own end mark was seen; drop what follows."""
    failure: Failure | None
    """An error event, an invalid or oversized frame. Nothing after it may be forwarded."""
    finished: bool
    """Every choice has a finish reason."""
    terminal: bytes
    usage: Usage | None
    anomaly: bool
    served_model: str | None
    response_id: str | None
    output_chars: int
    missing_done: bool
    """The answer was whole but its end mark never came; close() has added one to `terminal` (FAULTS.md 15)."""

    def feed(self, data: bytes) -> bytes:
        """Forwardable bytes, always whole frames, equal to the upstream's (minus a usage frame we asked for)."""
        ...

    def close(self) -> Failure | None:
        """Upstream ended. A Failure when the answer was cut short; else completes `terminal` with an end mark."""
        ...


class Dialect(Protocol):
    """One wire format, both directions."""

    name: str

    # --- inbound: what callers speak
    def peek(self, operation: Operation, body: bytes, fields: Mapping[str, Raw]) -> Peek:
        """Read and range-check the keys the gateway needs, of a body and its top-level fields. Raises InvalidParameter
        naming the field."""
        ...

    def encode_error(self, error: RouterXError, request_id: str) -> bytes:
        """The JSON body of a failed request."""
        ...

    def encode_stream_error(self, error: RouterXError, request_id: str, response_id: str | None) -> bytes:
        """The frames that end a stream that has begun: the error, then the end mark."""
        ...

    # --- outbound: what providers speak
    def path(self, operation: Operation) -> str:
        """Path below the provider's base URL."""
        ...

    def request_fields(self, fields: Mapping[str, Raw], *, model: str, ask_usage: bool) -> dict[str, Raw]:
        """A shallow copy with the upstream's model name and, if asked, a request for usage in the stream."""
        ...

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> Failure:
        """An upstream error reply as a Failure, by tables of (status, code); the message is sanitised."""
        ...

    def read_reply(self, operation: Operation, content_type: str, body: bytes) -> Reply | Failure:
        """Judge a complete 200 body: an answer, or an error, an empty or a foreign page in disguise."""
        ...

    def tap(self, peek: Peek, *, strip_usage: bool) -> StreamTap:
        """A fresh tap; `strip_usage` removes the usage frame with empty choices that we asked for ourselves."""
        ...

    def to_stream(self, body: bytes) -> bytes:
        """A complete buffered answer as the frames of a stream, end mark included (FAULTS.md 38)."""
        ...
