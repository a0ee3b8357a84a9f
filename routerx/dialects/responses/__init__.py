"""The wire format of OpenAI's Responses: requests, replies, streams and errors, in that order."""

from collections.abc import Mapping
from typing import Final

import msgspec

from routerx import jsonx
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
from routerx.dialects.leniently import decode_or_none
from routerx.dialects.openai_chat.errors import error_body
from routerx.dialects.responses.answer import encode_answer
from routerx.dialects.responses.encoder import Encoder
from routerx.dialects.responses.errors import TABLE, error_frames
from routerx.dialects.responses.passing import own_history, to_stream
from routerx.dialects.responses.peek import peek
from routerx.dialects.responses.request import decode_request
from routerx.dialects.responses.stream import FAILURES, Decoder, decode_answer, events_of_response
from routerx.dialects.responses.target import encode_request
from routerx.dialects.sse import FrameSplitter
from routerx.dialects.tap import EventTap, judged
from routerx.domain.call import Operation, Peek
from routerx.domain.chat import MediaKind
from routerx.domain.failure import Failure, FailureKind
from routerx.errors import RouterXError
from routerx.jsonx import Raw

_any_decoder = msgspec.json.Decoder()


class Responses:
    """See dialects.base.CallerDialect. Holds no state."""

    name = "responses"
    source = ChatSource(decode_request, encode_answer, Encoder)
    target = ChatTarget(
        encode_request, decode_answer, Decoder, FrameSplitter, inline_media=frozenset({MediaKind.AUDIO})
    )
    embedding_source: EmbeddingSource | None = None
    embedding_target: EmbeddingTarget | None = None

    # --- request

    def peek(self, operation: Operation, body: bytes, fields: Mapping[str, Raw]) -> Peek:
        return peek(fields)

    def path(self, operation: Operation, model: str, *, stream: bool) -> str:
        return "/responses"

    def request_fields(self, fields: Mapping[str, Raw], *, model: str, ask_usage: bool) -> dict[str, Raw]:
        prepared = {**fields, "model": Raw(jsonx.encode(model))}
        if "input" in fields:
            prepared["input"] = own_history(fields["input"])
        return prepared

    # --- reply

    def read_reply(self, operation: Operation, content_type: str, body: bytes) -> Reply | Failure:
        value = decode_or_none(_any_decoder, body)
        if not isinstance(value, dict):
            return classify.foreign(content_type, body)
        if value.get("error") or value.get("status") in FAILURES:
            error = value.get("error") or {"message": f"The response is {value['status']}."}
            return classify.failure_in_band({"error": error}, otherwise=FailureKind.ERROR_IN_200, table=TABLE)
        if not isinstance(value.get("output"), list):
            return classify.foreign(content_type, body)
        if not value["output"] and not value.get("usage"):
            return Failure(FailureKind.EMPTY, "The provider sent an answer without any content.")
        return judged(events_of_response(value, seed=""))

    # --- stream

    def tap(self, peek: Peek, *, strip_usage: bool) -> StreamTap:
        return EventTap(Decoder(peek.model), FrameSplitter(), None)

    def to_stream(self, body: bytes) -> bytes:
        return to_stream(body)

    # --- errors

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> Failure:
        return classify.classify(status, headers, body, TABLE)

    def encode_error(self, error: RouterXError, request_id: str) -> bytes:
        return error_body(error, request_id)

    def encode_stream_error(self, error: RouterXError, request_id: str, response_id: str | None) -> bytes:
        return error_frames(error, request_id)


RESPONSES: Final[CallerDialect] = Responses()
