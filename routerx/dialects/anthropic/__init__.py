"""The Anthropic wire format, Messages: requests, replies, streams and errors, in that order."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from routerx import jsonx
from routerx.dialects import classify
from routerx.dialects.anthropic import errors
from routerx.dialects.anthropic.answer import encode_answer, output_bytes
from routerx.dialects.anthropic.passing import own_history, to_stream
from routerx.dialects.anthropic.peek import peek
from routerx.dialects.anthropic.request import decode_request
from routerx.dialects.anthropic.stream import Decoder, Encoder, decode_answer
from routerx.dialects.anthropic.target import encode_request
from routerx.dialects.anthropic.usage import UsageReader
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
from routerx.dialects.sse import FrameSplitter
from routerx.dialects.tap import EventTap
from routerx.domain.call import Operation, Peek
from routerx.domain.failure import Failure, FailureKind
from routerx.domain.usage import Usage
from routerx.errors import RouterXError
from routerx.jsonx import Raw

_PATHS = {Operation.CHAT: "/messages", Operation.COUNT_TOKENS: "/messages/count_tokens"}


class AnthropicMessages:
    """See dialects.base.CallerDialect. Holds no state."""

    name = "anthropic"
    source = ChatSource(decode_request, encode_answer, Encoder)
    target = ChatTarget(encode_request, decode_answer, Decoder, FrameSplitter)
    embedding_source: EmbeddingSource | None = None
    embedding_target: EmbeddingTarget | None = None

    # --- request

    def peek(self, operation: Operation, body: bytes, fields: Mapping[str, Raw]) -> Peek:
        return peek(operation, fields)

    def path(self, operation: Operation, model: str, *, stream: bool) -> str:
        return _PATHS[operation]

    def request_fields(self, fields: Mapping[str, Raw], *, model: str, ask_usage: bool) -> dict[str, Raw]:
        own = own_history(fields["messages"]) if "messages" in fields else None
        return {**fields, "model": Raw(jsonx.encode(model))} | ({"messages": own} if own is not None else {})

    # --- reply

    def read_reply(self, operation: Operation, content_type: str, body: bytes) -> Reply | Failure:
        if operation is Operation.COUNT_TOKENS:
            return _read_count(body, content_type)
        return _read_answer(body, content_type)

    # --- stream

    def tap(self, peek: Peek, *, strip_usage: bool) -> StreamTap:
        return EventTap(Decoder(""), FrameSplitter(), None)

    def to_stream(self, body: bytes) -> bytes:
        return to_stream(body)

    # --- errors

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> Failure:
        return classify.classify(status, headers, body, errors.TABLE)

    def encode_error(self, error: RouterXError, request_id: str) -> bytes:
        return errors.error_body(error, request_id)

    def encode_stream_error(self, error: RouterXError, request_id: str, response_id: str | None) -> bytes:
        return errors.error_frames(error, request_id)


ANTHROPIC: Final[CallerDialect] = AnthropicMessages()


class _Message(msgspec.Struct, gc=False):
    """A whole answer, read no further than the gateway needs; the content stays unread."""

    type: Any = None
    content: Raw = ABSENT
    stop_reason: Any = None
    usage: Any = None
    error: Any = None
    model: Any = None


class _Count(msgspec.Struct, gc=False):
    """How many tokens a prompt has."""

    input_tokens: Any = None
    error: Any = None


_AT_ITS_END = ("end_turn", "stop_sequence", None)
"""Stop reasons of an answer that nothing cut short."""

_message_decoder = msgspec.json.Decoder(_Message)
_count_decoder = msgspec.json.Decoder(_Count)
_any_decoder = msgspec.json.Decoder()


def _read_answer(body: bytes, content_type: str) -> Reply | Failure:
    message = decode_or_none(_message_decoder, body)
    if message is None:
        return classify.foreign(content_type, body)
    if message.type == "error" or message.error:
        return _in_disguise(body)
    if memoryview(message.content)[0] != 0x5B:
        return classify.foreign(content_type, body)
    blocks = decode_or_none(_any_decoder, message.content)
    if blocks == [] and not message.stop_reason:
        return Failure(FailureKind.EMPTY, "The provider sent an answer without any content.")
    reports = UsageReader()
    reports.read(message.usage)
    usage, size = reports.usage, 0
    if usage is None or usage.output_tokens == 0:
        size = output_bytes(decode_answer(body, ""))
    zero_beside_content = usage is not None and size > 0
    model = message.model if isinstance(message.model, str) and message.model else None
    return Reply(
        usage,
        reports.anomaly or zero_beside_content,
        model,
        size,
        tier=reports.tier,
        empty=message.stop_reason in _AT_ITS_END and all(_says_nothing(block) for block in blocks or ()),
    )


def _says_nothing(block: Any) -> bool:
    return isinstance(block, dict) and block.get("type") == "text" and block.get("text") in ("", None)


def _read_count(body: bytes, content_type: str) -> Reply | Failure:
    count = decode_or_none(_count_decoder, body)
    if count is not None and count.error:
        return _in_disguise(body)
    if count is None or type(count.input_tokens) is not int:
        return classify.foreign(content_type, body)
    return Reply(Usage(requests=0))  # Counting is free: what was counted is the answer, not what it cost.


def _in_disguise(body: bytes) -> Failure:
    """An error under a status of success."""
    value = decode_or_none(_any_decoder, body)
    return classify.failure_in_band(value, otherwise=FailureKind.ERROR_IN_200, table=errors.TABLE)
