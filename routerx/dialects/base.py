"""What a dialect offers. A dialect is a wire format and code; a provider is a vendor and data (providers/).

One object per dialect, without state. A StreamTap is the state of one stream.

Caller and provider of one dialect: bytes pass, and only peek, request_fields, read_reply and tap look at them. Of two:
the caller's ChatSource and the provider's ChatTarget translate by way of the canonical values of domain/chat.py and
domain/events.py.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from routerx.domain.call import Operation, Peek
from routerx.domain.chat import Answer, ChatRequest, MediaKind
from routerx.domain.embedding import EmbeddingAnswer, EmbeddingRequest
from routerx.domain.events import Event
from routerx.domain.failure import Failure
from routerx.domain.model import Capability
from routerx.domain.usage import Usage
from routerx.errors import RouterXError
from routerx.jsonx import Raw

EVENT_BYTES_MAX = 1024 * 1024
"""One SSE event; a longer one is a failure, not a buffer (FAULTS.md 43)."""
TERMINAL_BYTES_MAX = EVENT_BYTES_MAX
"""What may follow the last finish; a stream that goes on beyond it has not finished but run wild."""


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
    made: int | None = None
    """Images in it, where usage is missing: what is then charged by."""
    content_type: str | None = None
    """What to call a body that is no JSON, fit for a header."""
    tier: str | None = None
    """The service tier that it names, as pricing.tier_name() gives it."""
    empty: bool = False
    """It ended of its own accord and says nothing: no text, no thoughts, no calls, no media."""


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
    tier: str | None
    """The service tier that it names, as pricing.tier_name() gives it; the last one that it named."""
    missing_done: bool
    """The answer was whole but its end mark never came; close() has added one to `terminal` (FAULTS.md 15)."""

    @property
    def empty(self) -> bool:
        """As Reply.empty, of what has come so far."""
        ...

    def feed(self, data: bytes) -> bytes:
        """Forwardable bytes, always whole frames, equal to the upstream's (minus a usage frame we asked for)."""
        ...

    def close(self) -> Failure | None:
        """Upstream ended. A Failure when the answer was cut short; else completes `terminal` with an end mark."""
        ...


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One event of a stream, or a stretch of comments and blank lines."""

    end: int
    """Where the frame ends, what separates it from the next included, in the bytes returned beside it."""
    data: bytes | None
    """The payload; None when the frame has none."""
    event: bytes = b""


class Splitter(Protocol):
    """Cuts one stream into frames at any cut of the network. See sse.FrameSplitter."""

    oversized: bool

    def feed(self, chunk: bytes) -> tuple[bytes, list[Frame]]: ...

    def finish(self) -> tuple[bytes, Frame | None]: ...


# --- translation -------------------------------------------------------------------------------------------------


OPTIONAL = frozenset({"top_k", "min_p", "repetition_penalty", "user", "service_tier", "verbosity", "prompt_cache_key"})
"""Top-level parameters on which OpenAI-like providers differ."""


class Aim(msgspec.Struct, frozen=True, kw_only=True):
    """What an encoder has to know of the endpoint that a request is written for."""

    model: str
    """The provider's name for it."""
    output_tokens_max: int | None = None
    """What the endpoint can write at all; a wire that demands a ceiling gets this where the caller named none."""
    capabilities: frozenset[Capability] = frozenset()
    ask_usage: bool = False
    """Usage in a stream has to be asked for."""
    takes: frozenset[str] = OPTIONAL
    """OpenAI-like wires: which of OPTIONAL this provider takes; it refuses the others, or does not know them."""
    reasoning_field: str | None = None
    """OpenAI-like wires: the message key under which this provider takes thoughts back; None: it takes none."""
    continues: bool = False
    """The last message is the beginning of the answer, and has to be marked as one where the wire has a mark."""


class Encoded(msgspec.Struct, frozen=True):
    """A request as a provider gets it."""

    fields: dict[str, Any]
    """Top-level keys; values are plain JSON values or Raw."""
    dropped: tuple[str, ...] = ()
    """What the target cannot take, sorted, each once: dotted paths in OpenAI chat's names without indices (`seed`,
    `messages.audio`, `tools.strict`), and unknown top-level keys by their own name."""


class Asked(msgspec.Struct, frozen=True):
    """What an answer is written for."""

    request: ChatRequest
    model: str
    """As the caller named it."""
    request_id: str
    """Stands in where the provider gives its answer no id."""
    created_s: int
    """Seconds since the epoch."""


class StreamDecoder(Protocol):
    """Turns the frames of one stream into events. Never raises: a frame that is none is a Failed event."""

    end_mark: bytes
    """The frame that ends a stream on this wire; empty where the connection's end is all there is."""

    def feed(self, frame: Frame) -> Sequence[Event]: ...

    def finish(self) -> Sequence[Event]:
        """The connection has ended: what is still owed, such as the end of an open tool call. Makes up no Finished and
        no Ended."""
        ...


class StreamEncoder(Protocol):
    """Writes events as one stream for a caller."""

    dropped: set[str]
    """What this wire cannot say, as in Encoded.dropped."""

    def encode(self, event: Event) -> bytes:
        """Whole frames; empty where there is nothing to say yet. Began, Reported and Ended are heard, and told in
        their place on this wire. Failed is never passed."""
        ...

    def end(self) -> bytes:
        """All that is still owed, usage and the end mark included. Called once, last, when every choice has finished or
        the stream ended by its mark; a choice without Finished is told as one that stopped."""
        ...


class ChatSource(msgspec.Struct, frozen=True):
    """A dialect as callers speak it: functions, without state."""

    decode_request: Callable[[Mapping[str, Raw]], ChatRequest]
    """The canonical request of top-level fields that peek() has accepted. Raises InvalidParameter naming the field for
    what is malformed, and for what would change the meaning if it were left out (a stored conversation)."""
    encode_answer: Callable[[Answer, Asked], tuple[bytes, tuple[str, ...]]]
    """The body, and what this wire cannot say."""
    encoder: Callable[[Asked], StreamEncoder]


class ChatTarget(msgspec.Struct, frozen=True):
    """A dialect as providers speak it: functions, without state."""

    encode_request: Callable[[ChatRequest, Aim], Encoded]
    """Raises InvalidParameter for a conversation of which nothing is left that this wire can hold."""
    decode_answer: Callable[[bytes, str], Answer]
    """A body that read_reply has accepted, and a seed that makes synthetic ids unique in the conversation."""
    decoder: Callable[[str], StreamDecoder]
    """Takes the same seed."""
    splitter: Callable[[], Splitter]
    inline_media: frozenset[MediaKind] = frozenset()
    """Kinds of media that must come as bytes: their URLs are fetched before encode_request."""


class EmbeddingSource(Protocol):
    """Embeddings as callers ask for them."""

    def decode_request(self, fields: Mapping[str, Raw]) -> EmbeddingRequest:
        """Raises InvalidParameter for what only a provider of the same dialect understands (arrays of tokens)."""
        ...

    def encode_answer(self, answer: EmbeddingAnswer, request: EmbeddingRequest) -> bytes: ...


class EmbeddingTarget(Protocol):
    """Embeddings as providers of another wire make them."""

    def encode_request(self, request: EmbeddingRequest, aim: Aim) -> Encoded: ...

    def decode_answer(self, body: bytes) -> EmbeddingAnswer:
        """A body that read_reply has accepted."""
        ...


# --- the dialect -------------------------------------------------------------------------------------------------


class Dialect(Protocol):
    """One wire format, as providers speak it."""

    name: str
    target: ChatTarget
    embedding_target: EmbeddingTarget | None
    """None: it has no embeddings, or they are what embedding_source of a CallerDialect reads."""

    def path(self, operation: Operation, model: str, *, stream: bool) -> str:
        """Path, and query if any, below the provider's base URL. `model` is the provider's name."""
        ...

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> Failure:
        """An upstream error reply as a Failure, by tables of (status, code); the message is sanitised."""
        ...

    def read_reply(self, operation: Operation, content_type: str, body: bytes) -> Reply | Failure:
        """Judge a complete 200 body: an answer, or an error, an empty or a foreign page in disguise."""
        ...


class CallerDialect(Dialect, Protocol):
    """One wire format that callers may speak, too."""

    source: ChatSource
    embedding_source: EmbeddingSource | None

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

    # --- a provider of the same dialect: bytes pass
    def request_fields(self, fields: Mapping[str, Raw], *, model: str, ask_usage: bool) -> dict[str, Raw]:
        """A shallow copy with the upstream's model name and, if asked, a request for usage in the stream."""
        ...

    def tap(self, peek: Peek, *, strip_usage: bool) -> StreamTap:
        """A fresh tap; `strip_usage` removes the usage frame with empty choices that we asked for ourselves."""
        ...

    def to_stream(self, body: bytes) -> bytes:
        """A complete buffered answer as the frames of a stream, end mark included (FAULTS.md 38)."""
        ...
