"""The Gemini wire format, generateContent and batchEmbedContents: requests, replies, streams and errors, in that order.

Here the path names the model and says whether to stream. The rim puts both among the fields of a native caller's
request; they are taken out again before it passes.
"""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from routerx.dialects import classify
from routerx.dialects.base import (
    CallerDialect,
    ChatSource,
    ChatTarget,
    EmbeddingSource,
    EmbeddingTarget,
    Reply,
    StreamTap,
)
from routerx.dialects.gemini import errors
from routerx.dialects.gemini.answer import encode_answer
from routerx.dialects.gemini.embeddings import Embeddings, vectors_of
from routerx.dialects.gemini.peek import peek
from routerx.dialects.gemini.request import decode_request
from routerx.dialects.gemini.stream import Decoder, Encoder, chunks_of, decode_answer
from routerx.dialects.gemini.target import encode_request
from routerx.dialects.gemini.usage import UsageReader
from routerx.dialects.leniently import one_line
from routerx.dialects.sse import FrameSplitter
from routerx.dialects.tap import EventTap, judged
from routerx.domain.call import Operation, Peek
from routerx.domain.chat import MediaKind
from routerx.domain.events import Event
from routerx.domain.failure import Failure, FailureKind
from routerx.errors import RouterXError
from routerx.jsonx import Raw

_METHODS = {Operation.CHAT: "generateContent", Operation.EMBEDDINGS: "batchEmbedContents"}
_FROM_THE_PATH = ("model", "stream")


class GeminiGenerate:
    """See dialects.base.CallerDialect. Holds no state."""

    name = "gemini"
    source = ChatSource(decode_request, encode_answer, Encoder)
    target = ChatTarget(
        encode_request,
        decode_answer,
        Decoder,
        FrameSplitter,
        inline_media=frozenset({MediaKind.IMAGE, MediaKind.AUDIO, MediaKind.FILE}),
    )
    embedding_source: EmbeddingSource | None = None
    embedding_target: EmbeddingTarget | None = Embeddings()

    # --- request

    def peek(self, operation: Operation, body: bytes, fields: Mapping[str, Raw]) -> Peek:
        return peek(fields)

    def path(self, operation: Operation, model: str, *, stream: bool) -> str:
        name = quote(model, safe="/-._~") if "/" in model else "models/" + quote(model, safe="-._~")
        if stream and operation is Operation.CHAT:
            return f"/{name}:streamGenerateContent?alt=sse"
        return f"/{name}:{_METHODS[operation]}"

    def request_fields(self, fields: Mapping[str, Raw], *, model: str, ask_usage: bool) -> dict[str, Raw]:
        return {key: raw for key, raw in fields.items() if key not in _FROM_THE_PATH}

    # --- reply

    def read_reply(self, operation: Operation, content_type: str, body: bytes) -> Reply | Failure:
        chunks = chunks_of(body)
        if chunks is None:
            return classify.foreign(content_type, body)
        if any(chunk.get("error") for chunk in chunks):
            return classify.failure_in_band(chunks, otherwise=FailureKind.ERROR_IN_200, table=errors.TABLE)
        if operation is Operation.EMBEDDINGS:
            if vectors_of(chunks[0]) is None:
                return classify.foreign(content_type, body)
            reports = UsageReader()
            reports.read(chunks[0].get("usageMetadata"))
            return Reply(reports.usage, reports.anomaly)
        if not any("candidates" in chunk or "promptFeedback" in chunk for chunk in chunks):
            return classify.foreign(content_type, body)
        return judged(_events(chunks))

    # --- stream

    def tap(self, peek: Peek, *, strip_usage: bool) -> StreamTap:
        return EventTap(Decoder(""), FrameSplitter(), None, choices=peek.choices)

    def to_stream(self, body: bytes) -> bytes:
        return b"data: " + one_line(body) + b"\r\n\r\n"

    # --- errors

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> Failure:
        return classify.classify(status, headers, body, errors.TABLE)

    def encode_error(self, error: RouterXError, request_id: str) -> bytes:
        return errors.error_body(error, request_id)

    def encode_stream_error(self, error: RouterXError, request_id: str, response_id: str | None) -> bytes:
        return errors.error_frames(error, request_id)


def _events(chunks: list[dict[str, Any]]) -> list[Event]:
    decoder = Decoder("")
    return [event for chunk in chunks for event in decoder.read(chunk)]


GEMINI: Final[CallerDialect] = GeminiGenerate()
