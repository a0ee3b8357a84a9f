"""Ollama's own wire format, /api/chat and /api/embed: requests, replies, streams and errors, in that order.

Spoken to providers only. The OpenAI-like route of the same server cannot set the context window, which is why this one
is preferred (PROVIDERS.md 6a).
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from routerx import jsonx
from routerx.dialects import classify
from routerx.dialects.base import (
    ChatTarget,
    Dialect,
    EmbeddingTarget,
    Reply,
)
from routerx.dialects.leniently import decode_or_none
from routerx.dialects.lines import LineSplitter
from routerx.dialects.ollama import embeddings
from routerx.dialects.ollama.errors import TABLE
from routerx.dialects.ollama.stream import LOADING, Decoder, decode_answer
from routerx.dialects.ollama.target import encode_request
from routerx.dialects.ollama.usage import read_usage
from routerx.domain.call import Operation
from routerx.domain.chat import MediaKind
from routerx.domain.failure import Failure, FailureKind

_PATHS = {Operation.CHAT: "/api/chat", Operation.EMBEDDINGS: "/api/embed"}
_any_decoder = msgspec.json.Decoder()


class Ollama:
    """See dialects.base.Dialect. Holds no state."""

    name = "ollama"
    target = ChatTarget(
        encode_request,
        decode_answer,
        Decoder,
        LineSplitter,
        inline_media=frozenset({MediaKind.IMAGE}),
    )
    embedding_target: EmbeddingTarget | None = embeddings.Embeddings()

    # --- request

    def path(self, operation: Operation, model: str, *, stream: bool) -> str:
        return _PATHS[operation]

    # --- reply

    def read_reply(self, operation: Operation, content_type: str, body: bytes) -> Reply | Failure:
        value = decode_or_none(_any_decoder, body)
        if not isinstance(value, dict):
            return classify.foreign(content_type, body)
        if value.get("error"):
            return classify.failure_in_band(value, otherwise=FailureKind.ERROR_IN_200, table=TABLE)
        if operation is Operation.EMBEDDINGS:
            return _read_embeddings(value, content_type, body)
        return _read_answer(value, content_type, body)

    # --- errors

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> Failure:
        return classify.classify(status, headers, body, TABLE)


OLLAMA: Final[Dialect] = Ollama()


def _read_answer(value: dict[str, Any], content_type: str, body: bytes) -> Reply | Failure:
    message = value.get("message")
    if not isinstance(message, dict):
        return classify.foreign(content_type, body)
    made = [message[key] for key in ("thinking", "content", "tool_calls") if message.get(key)]
    if not made and value.get("done_reason") in LOADING:
        return Failure(FailureKind.EMPTY, "The provider loaded the model and answered nothing.")
    usage, anomaly = read_usage(value)
    size = 0
    if usage is None or usage.output_tokens == 0:
        size = sum(
            len(part.encode("utf-8", "replace") if isinstance(part, str) else jsonx.encode(part)) for part in made
        )
    empty = not made and value.get("done_reason") in (None, "stop")
    return Reply(usage, anomaly or (usage is not None and size > 0), _model(value), size, empty=empty)


def _read_embeddings(value: dict[str, Any], content_type: str, body: bytes) -> Reply | Failure:
    embedded = embeddings.read_embedded(body)
    if embedded is None:
        return classify.foreign(content_type, body)
    if not all(embedded.embeddings) or not embedded.embeddings:
        return Failure(FailureKind.EMPTY, "The provider sent an answer without any content.")
    usage, anomaly = read_usage(value)
    return Reply(usage, anomaly or (usage is not None and usage.total_tokens == 0), _model(value))


def _model(value: dict[str, Any]) -> str | None:
    model = value.get("model")
    return model if isinstance(model, str) and model else None
