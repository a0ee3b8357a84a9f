"""The built-in mock provider: a Transport that answers by itself, in the wire format of chat completions.

It stands below the attempt loop, so that everything above it (plan, retry, relay, metering, charge) runs as with a real
provider. Owns latency, routing by path, embeddings and errors; what it says in a chat is mock_chat.py's.
"""

import base64
import hashlib
import math
import struct
from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec
from multidict import CIMultiDict, CIMultiDictProxy

from routerx import jsonx
from routerx.clock import Clock
from routerx.domain.call import UpstreamCall
from routerx.domain.failure import FailureKind, UpstreamFault
from routerx.providers.spec import MockSettings, Provider
from routerx.upstream import mock_chat
from routerx.upstream.base import UpstreamReply
from routerx.upstream.faults import failure
from routerx.upstream.mock_chat import BadRequest

DIMENSIONS = 1536
DIMENSIONS_MAX = 8192
INPUTS_MAX = 2048

_JSON = CIMultiDictProxy(CIMultiDict({"content-type": "application/json"}))
_SSE = CIMultiDictProxy(CIMultiDict({"content-type": "text/event-stream; charset=utf-8"}))


class EmbeddingRequest(msgspec.Struct):
    """`input`: a text, texts, one text's tokens or several texts' tokens."""

    model: str
    input: str | list[str | int | list[int]]
    dimensions: int | None = None
    encoding_format: str | None = None


_embedding_decoder = msgspec.json.Decoder(EmbeddingRequest)


class MockTransport:
    """As Transport. Keeps no state and no connection."""

    def __init__(self, provider: Provider, clock: Clock) -> None:
        self._settings = provider.mock if provider.mock is not None else MockSettings()
        self._clock = clock

    async def open(self, call: UpstreamCall) -> UpstreamReply:
        """Raises UpstreamFault FIRST_BYTE_TIMEOUT when the set latency is beyond the call's deadline."""
        call.progress.sent = True
        latency_s = self._settings.latency_s
        if latency_s > 0:
            await self._clock.sleep(min(latency_s, call.first_byte_s))
            if latency_s > call.first_byte_s:
                raise UpstreamFault(failure(FailureKind.FIRST_BYTE_TIMEOUT, call))
        try:
            answered = self._answer(call)
        except BadRequest as error:
            body = _error(error.message, code="invalid_request", param=error.param)
            answered = _Answered([body], status=400)
        return _MockReply(answered, call, self._clock)

    async def close(self) -> None:
        """Nothing is held."""

    def _answer(self, call: UpstreamCall) -> "_Answered":
        path = urlsplit(call.url).path
        if path.endswith("/chat/completions"):
            request = mock_chat.parse(call.body)
            found = mock_chat.answer(request, call.body, self._settings.output_tokens)
            if not request.stream:
                return _Answered([mock_chat.as_completion(found)])
            options = request.stream_options
            frames = mock_chat.as_frames(found, include_usage=options is not None and options.include_usage is True)
            delay_s = self._settings.token_delay_s
            return _Answered(frames if delay_s > 0 else [b"".join(frames)], _SSE, delay_s=delay_s)
        if path.endswith("/embeddings"):
            return _Answered([_embeddings(call.body)])
        if path.endswith("/models"):
            return _Answered([_models()])
        return _Answered([_error(f"The mock provider has nothing at {path!r}.", code="not_found")], status=404)


class _Answered(msgspec.Struct, frozen=True):
    """A whole answer: its pieces come `delay_s` apart."""

    pieces: list[bytes]
    headers: Mapping[str, str] = _JSON
    status: int = 200
    delay_s: float = 0.0


class _MockReply:
    """An answer made in advance, given out piece by piece."""

    __slots__ = ("_answered", "_call", "_clock", "_next", "headers", "status")

    def __init__(self, answered: _Answered, call: UpstreamCall, clock: Clock) -> None:
        self.status: int = answered.status
        self.headers: Mapping[str, str] = answered.headers
        self._answered = answered
        self._call = call
        self._clock = clock
        self._next = 0

    async def read(self, bytes_max: int) -> bytes:
        body = b""
        while piece := await self.chunk():
            body += piece
            if len(body) > bytes_max:
                reason = f"{bytes_max} bytes are read at most"
                raise UpstreamFault(failure(FailureKind.TOO_LARGE, self._call, reason))
        return body

    async def chunk(self) -> bytes:
        pieces, delay_s = self._answered.pieces, self._answered.delay_s
        if delay_s > 0 and 0 < self._next < len(pieces):
            idle_s = self._call.timeouts.idle_s
            await self._clock.sleep(min(delay_s, idle_s))
            if delay_s > idle_s:
                raise UpstreamFault(failure(FailureKind.STALLED, self._call))
        if self._next >= len(pieces):
            return b""
        self._next += 1
        return pieces[self._next - 1]

    def release(self) -> None:
        self._next = len(self._answered.pieces)

    def abort(self) -> None:
        self._next = len(self._answered.pieces)


def _error(message: str, *, code: str, param: str | None = None) -> bytes:
    return jsonx.encode({"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}})


def _models() -> bytes:
    model = {"id": "mock", "object": "model", "created": mock_chat.CREATED, "owned_by": "routerx"}
    return jsonx.encode({"object": "list", "data": [model]})


def _embeddings(body: bytes) -> bytes:
    try:
        request = _embedding_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"The body is not an embeddings request: {error}") from None
    size = request.dimensions if request.dimensions is not None else DIMENSIONS
    if not 1 <= size <= DIMENSIONS_MAX:
        raise BadRequest(f"dimensions is {size}; it must be between 1 and {DIMENSIONS_MAX}.", "dimensions")
    if request.encoding_format not in (None, "float", "base64"):
        raise BadRequest("encoding_format must be 'float' or 'base64'.", "encoding_format")
    inputs = _inputs(request)
    data = []
    for index, one in enumerate(inputs):
        packed = _unit_vector(jsonx.encode(one), size)
        shown: str | tuple[float, ...] = struct.unpack(f"<{size}f", packed)
        if request.encoding_format == "base64":
            shown = base64.b64encode(packed).decode()
        data.append({"object": "embedding", "index": index, "embedding": shown})
    tokens = sum(mock_chat.count_tokens(one) if isinstance(one, str) else len(one) for one in inputs)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return jsonx.encode({"object": "list", "data": data, "model": request.model, "usage": usage})


def _inputs(request: EmbeddingRequest) -> list[str | list[int]]:
    """One entry per vector."""
    asked = request.input
    if isinstance(asked, str):
        found: list[str | list[int]] = [asked]
    elif asked and all(isinstance(one, int) for one in asked):
        found = [[one for one in asked if isinstance(one, int)]]
    else:
        found = [one for one in asked if not isinstance(one, int)]
        if len(found) != len(asked):
            raise BadRequest("input mixes tokens with texts.", "input")
    if not found or not all(found):
        raise BadRequest("input is empty.", "input")
    if len(found) > INPUTS_MAX:
        raise BadRequest(f"input has {len(found)} entries; at most {INPUTS_MAX} are taken.", "input")
    return found


def _unit_vector(seed: bytes, size: int) -> bytes:
    """`size` little-endian 32-bit floats of length 1, always the same for the same seed."""
    raw = struct.unpack(f"<{size}i", hashlib.shake_128(seed).digest(4 * size))
    length = math.sqrt(math.fsum(value * value for value in raw))
    return struct.pack(f"<{size}f", *(value / length for value in raw))
