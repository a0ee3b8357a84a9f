"""The Anthropic wire format, Messages: requests, replies, streams and errors, in that order."""

from collections.abc import Mapping
from typing import Final

import msgspec

from routerx import jsonx
from routerx.dialects import classify
from routerx.dialects.anthropic import errors
from routerx.dialects.anthropic.answer import encode_answer
from routerx.dialects.anthropic.peek import peek
from routerx.dialects.anthropic.request import decode_request
from routerx.dialects.anthropic.stream import Decoder, Encoder, decode_answer
from routerx.dialects.anthropic.target import encode_request
from routerx.dialects.anthropic.usage import UsageReader
from routerx.dialects.base import (
    Aim,
    Asked,
    CallerDialect,
    ChatSource,
    ChatTarget,
    EmbeddingSource,
    EmbeddingTarget,
    Encoded,
    Reply,
    Splitter,
    StreamDecoder,
    StreamEncoder,
    StreamTap,
)
from routerx.dialects.leniently import decode_or_none
from routerx.dialects.sse import FrameSplitter
from routerx.dialects.tap import EventTap
from routerx.domain.call import Operation, Peek
from routerx.domain.chat import Answer, ChatRequest, MediaKind
from routerx.domain.events import events_of
from routerx.domain.failure import Failure, FailureKind
from routerx.domain.usage import Usage
from routerx.errors import RouterXError
from routerx.jsonx import Raw

_any_decoder = msgspec.json.Decoder()
_PATHS = {Operation.CHAT: "/messages", Operation.COUNT_TOKENS: "/messages/count_tokens"}


class _Source:
    """See dialects.base.ChatSource."""

    def decode_request(self, fields: Mapping[str, Raw]) -> ChatRequest:
        return decode_request(fields)

    def encode_answer(self, answer: Answer, asked: Asked) -> tuple[bytes, tuple[str, ...]]:
        return encode_answer(answer, asked)

    def encoder(self, asked: Asked) -> StreamEncoder:
        return Encoder(asked)


class _Target:
    """See dialects.base.ChatTarget."""

    inline_media: frozenset[MediaKind] = frozenset()

    def encode_request(self, request: ChatRequest, aim: Aim) -> Encoded:
        return encode_request(request, aim)

    def decode_answer(self, body: bytes, seed: str) -> Answer:
        return decode_answer(body, seed)

    def decoder(self, seed: str) -> StreamDecoder:
        return Decoder(seed)

    def splitter(self) -> Splitter:
        return FrameSplitter()


class AnthropicMessages:
    """See dialects.base.CallerDialect. Holds no state."""

    name = "anthropic"
    source: ChatSource = _Source()
    target: ChatTarget = _Target()
    embedding_source: EmbeddingSource | None = None
    embedding_target: EmbeddingTarget | None = None

    # --- request

    def peek(self, operation: Operation, body: bytes, fields: Mapping[str, Raw]) -> Peek:
        return peek(operation, fields)

    def path(self, operation: Operation, model: str, *, stream: bool) -> str:
        return _PATHS[operation]

    def request_fields(self, fields: Mapping[str, Raw], *, model: str, ask_usage: bool) -> dict[str, Raw]:
        return {**fields, "model": Raw(jsonx.encode(model))}

    # --- reply

    def read_reply(self, operation: Operation, content_type: str, body: bytes) -> Reply | Failure:
        value = decode_or_none(_any_decoder, body)
        if not isinstance(value, dict):
            return classify.foreign(content_type, body)
        if value.get("type") == "error" or value.get("error"):
            return classify.failure_in_band(value, otherwise=FailureKind.ERROR_IN_200, table=errors.TABLE)
        if operation is Operation.COUNT_TOKENS:
            if type(value.get("input_tokens")) is not int:
                return classify.foreign(content_type, body)
            return Reply(Usage(requests=0))
        if not isinstance(value.get("content"), list):
            return classify.foreign(content_type, body)
        if not value["content"] and not value.get("stop_reason"):
            return Failure(FailureKind.EMPTY, "The provider sent an answer without any content.")
        reports = UsageReader()
        reports.read(value.get("usage"))
        size = 0
        if reports.usage is None or reports.usage.output_tokens == 0:
            size = sum(len(jsonx.encode(block)) for block in value["content"])
        model = value.get("model")
        zero_beside_content = reports.usage is not None and size > 0
        return Reply(
            reports.usage, reports.anomaly or zero_beside_content, model if isinstance(model, str) else None, size
        )

    # --- stream

    def tap(self, peek: Peek, *, strip_usage: bool) -> StreamTap:
        return EventTap(Decoder(""), FrameSplitter(), None)

    def to_stream(self, body: bytes) -> bytes:
        encoder = Encoder(Asked(request=ChatRequest(messages=()), model="", request_id="", created_s=0))
        return b"".join(encoder.encode(event) for event in events_of(decode_answer(body, ""))) + encoder.end()

    # --- errors

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> Failure:
        return classify.classify(status, headers, body, errors.TABLE)

    def encode_error(self, error: RouterXError, request_id: str) -> bytes:
        return errors.error_body(error, request_id)

    def encode_stream_error(self, error: RouterXError, request_id: str, response_id: str | None) -> bytes:
        return errors.error_frames(error, request_id)


ANTHROPIC: Final[CallerDialect] = AnthropicMessages()
