"""The OpenAI wire format, chat completions and embeddings: requests, replies, streams and errors, in that order.

The format most providers speak and all callers may. Long sections live in files of their own beside this one.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

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
from routerx.dialects.leniently import ABSENT, decode_or_none
from routerx.dialects.openai_chat import embeddings, errors
from routerx.dialects.openai_chat.answer import encode_answer
from routerx.dialects.openai_chat.chunks import Answer, Embeddings, message_bytes
from routerx.dialects.openai_chat.peek import peek_chat, peek_embeddings, request_fields
from routerx.dialects.openai_chat.relay import RELAYED
from routerx.dialects.openai_chat.relay.peek import peek_relayed
from routerx.dialects.openai_chat.relay.reply import read_relayed
from routerx.dialects.openai_chat.relay.stream import relay_tap
from routerx.dialects.openai_chat.request import decode_request
from routerx.dialects.openai_chat.stream import Decoder, Encoder, decode_answer
from routerx.dialects.openai_chat.tap import OpenAITap, to_stream
from routerx.dialects.openai_chat.target import encode_request
from routerx.dialects.openai_chat.usage import UsageReader
from routerx.dialects.sse import FrameSplitter
from routerx.domain.call import Operation, Peek
from routerx.domain.chat import MediaKind
from routerx.domain.failure import Failure, FailureKind
from routerx.domain.pricing import tier_name
from routerx.errors import RouterXError
from routerx.jsonx import Raw

_PATHS = {
    Operation.CHAT: "/chat/completions",
    Operation.EMBEDDINGS: "/embeddings",
    Operation.COMPLETIONS: "/completions",
    Operation.IMAGES: "/images/generations",
    Operation.SPEECH: "/audio/speech",
    Operation.TRANSCRIPTIONS: "/audio/transcriptions",
    Operation.MODERATIONS: "/moderations",
    Operation.RERANK: "/rerank",
}

_answer_decoder = msgspec.json.Decoder(Answer)
_embeddings_decoder = msgspec.json.Decoder(Embeddings)
_any_decoder = msgspec.json.Decoder()
_EMPTY_ARRAY = Raw(b"[]")


class OpenAIChat:
    """See dialects.base.Dialect. Holds no state."""

    name = "openai"
    source = ChatSource(decode_request, encode_answer, Encoder)
    target = ChatTarget(
        encode_request, decode_answer, Decoder, FrameSplitter, inline_media=frozenset({MediaKind.AUDIO, MediaKind.FILE})
    )
    embedding_source: EmbeddingSource | None = embeddings.Embeddings()
    embedding_target: EmbeddingTarget | None = None

    # --- request

    def peek(self, operation: Operation, body: bytes, fields: Mapping[str, Raw]) -> Peek:
        if operation is Operation.CHAT:
            return peek_chat(body, fields)
        if operation in RELAYED:
            return peek_relayed(operation, body, fields)
        return peek_embeddings(fields)

    def path(self, operation: Operation, model: str, *, stream: bool) -> str:
        return _PATHS[operation]

    def request_fields(self, fields: Mapping[str, Raw], *, model: str, ask_usage: bool) -> dict[str, Raw]:
        return request_fields(fields, model=model, ask_usage=ask_usage)

    # --- reply

    def read_reply(self, operation: Operation, content_type: str, body: bytes) -> Reply | Failure:
        if operation in RELAYED:
            return read_relayed(operation, content_type, body)
        # The body's first byte decides, not its label: answers have come as octet-stream, error pages as JSON.
        start = body[:64].lstrip()[:1] or body.lstrip()[:1]
        if not start:
            return Failure(FailureKind.EMPTY, "The provider sent an empty body.")
        if start == b"{":
            if operation is Operation.CHAT:
                return _read_answer(body, content_type)
            return _read_embeddings(body, content_type)
        return _read_array(body, content_type)

    # --- stream

    def tap(self, peek: Peek, *, strip_usage: bool) -> StreamTap:
        if peek.operation in RELAYED:
            return relay_tap(peek, strip_usage=strip_usage)
        return OpenAITap(peek.choices, strip_usage=strip_usage)

    def to_stream(self, body: bytes) -> bytes:
        return to_stream(body)

    # --- errors

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> Failure:
        return classify.classify(status, headers, body)

    def encode_error(self, error: RouterXError, request_id: str) -> bytes:
        return errors.error_body(error, request_id)

    def encode_stream_error(self, error: RouterXError, request_id: str, response_id: str | None) -> bytes:
        return errors.error_frames(error, request_id, response_id)


OPENAI: Final[CallerDialect] = OpenAIChat()


def _read_answer(body: bytes, content_type: str) -> Reply | Failure:
    answer = decode_or_none(_answer_decoder, body)
    if answer is None:
        return _in_disguise(body, content_type)
    reports = UsageReader(generates=True)
    for raw in (answer.envelope.usage if answer.envelope is not None else ABSENT, answer.usage):
        if raw != ABSENT:
            reports.read(raw)
    error = answer.error or (answer.envelope.error if answer.envelope is not None else None)
    if error:
        return classify.failure_in_band(error, otherwise=FailureKind.ERROR_IN_200)
    if not answer.choices and reports.usage is None:
        return _in_disguise(body, content_type)
    usage, size = reports.usage, 0
    choices = answer.choices or ()
    # More tokens than the body has bytes may be thoughts that are not shown, or nonsense: then the text counts.
    if usage is None or usage.output_tokens == 0 or usage.total_tokens > len(body):
        size = sum([message_bytes(choice.message) for choice in choices])
    zero_beside_content = usage is not None and usage.output_tokens == 0 and size > 0
    tier = None if answer.service_tier is None else tier_name(answer.service_tier)
    empty = all(choice.empty for choice in choices)
    return Reply(usage, reports.anomaly or zero_beside_content, _model(answer.model), size, tier=tier, empty=empty)


def _read_embeddings(body: bytes, content_type: str) -> Reply | Failure:
    answer = decode_or_none(_embeddings_decoder, body)
    if answer is None:
        return classify.foreign(content_type)
    if answer.error:
        return classify.failure_in_band(answer.error, otherwise=FailureKind.ERROR_IN_200)
    if answer.data in (ABSENT, _EMPTY_ARRAY):
        return _in_disguise(body, content_type)
    reports = UsageReader(generates=False)
    if answer.usage != ABSENT:
        reports.read(answer.usage)
    usage = reports.usage
    zero_beside_content = usage is not None and usage.total_tokens == 0
    return Reply(usage, reports.anomaly or zero_beside_content, _model(answer.model))


def _read_array(body: bytes, content_type: str) -> Failure:
    """One vendor wraps errors in an array; nobody wraps answers."""
    items = decode_or_none(_any_decoder, body)
    if isinstance(items, list) and items and isinstance(items[0], dict) and items[0].get("error"):
        return classify.failure_in_band(items, otherwise=FailureKind.ERROR_IN_200)
    return classify.foreign(content_type)


def _in_disguise(body: bytes, content_type: str) -> Failure:
    """A JSON object with nothing in it that answers: a flat error, an empty answer or somebody else's page."""
    value: Any = decode_or_none(_any_decoder, body)
    if not isinstance(value, dict):
        return classify.foreign(content_type)
    if "choices" not in value and (value.get("detail") or value.get("object") == "error" or "message" in value):
        return classify.failure_in_band(value, otherwise=FailureKind.ERROR_IN_200)
    if value.get("choices"):
        return classify.foreign(content_type)
    return Failure(FailureKind.EMPTY, "The provider sent an answer without any content.")


def _model(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
