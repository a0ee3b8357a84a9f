"""Requests of generateContent: the few things the gateway reads. `model` and `stream` come from the path."""

from collections.abc import Mapping

import msgspec

from routerx.dialects.estimate import (
    AUDIO_BYTES_PER_TOKEN,
    FILE_BYTES_PER_TOKEN,
    TOKENS_PER_AUDIO,
    TOKENS_PER_FILE,
    TOKENS_PER_IMAGE,
    TOKENS_PER_REQUEST,
    TOKENS_PER_TOOLS,
    raw_tokens,
    text_tokens,
)
from routerx.dialects.fields import read_field, read_model
from routerx.dialects.gemini.request import decode_request
from routerx.domain.call import Operation, Peek
from routerx.domain.chat import ChatRequest, JsonSchema, Media, MediaKind, ToolResult
from routerx.domain.model import Capability
from routerx.errors import InvalidParameter
from routerx.jsonx import Raw

_boolean = msgspec.json.Decoder(bool | None).decode


def peek(fields: Mapping[str, Raw]) -> Peek:
    """Raises InvalidParameter. A native caller's request is rarely passed, so it is decoded whole."""
    model = read_model(fields)
    stream = read_field("stream", fields, _boolean, "true or false")
    if "contents" not in fields:
        raise InvalidParameter("'contents' is missing: send an array of contents.", param="contents")
    request = decode_request(fields)
    if not any(message.parts for message in request.messages):
        raise InvalidParameter("'contents' is empty: send at least one part.", param="contents")
    needs: set[Capability] = set()
    estimate = TOKENS_PER_REQUEST + _estimate(request, fields, needs)
    if request.tools:
        needs.add(Capability.TOOLS)
        estimate += TOKENS_PER_TOOLS + raw_tokens(fields["tools"])
    if isinstance(request.response_format, JsonSchema):
        needs.add(Capability.JSON_SCHEMA)
    return Peek(
        operation=Operation.CHAT,
        model=model,
        stream=stream is True,
        wants_usage=True,  # This wire always has it.
        choices=request.choices,
        output_tokens_max=request.output_tokens_max,
        needs=frozenset(needs),
        input_tokens_estimate=estimate,
    )


def _estimate(request: ChatRequest, fields: Mapping[str, Raw], needs: set[Capability]) -> int:
    media = [part for message in request.messages for part in message.parts if isinstance(part, Media)]
    for message in request.messages:
        for part in message.parts:
            if isinstance(part, ToolResult):
                media += [item for item in part.parts if isinstance(item, Media)]
    tokens = media_bytes = 0
    for one in media:
        size = len(one.data) if one.data is not None else 0
        media_bytes += size
        match one.kind:
            case MediaKind.IMAGE:
                needs.add(Capability.VISION)
                tokens += TOKENS_PER_IMAGE
            case MediaKind.AUDIO:
                needs.add(Capability.AUDIO)
                tokens += TOKENS_PER_AUDIO + size // AUDIO_BYTES_PER_TOKEN
            case _:
                tokens += TOKENS_PER_FILE + size // FILE_BYTES_PER_TOKEN
    for key in ("contents", "systemInstruction", "system_instruction"):
        if key in fields:
            raw = fields[key]
            tokens += raw_tokens(raw) if not media_bytes else 0
            if media_bytes:
                tokens += text_tokens(max(0, memoryview(raw).nbytes - (media_bytes if key == "contents" else 0)), 0)
    return tokens
