"""Usage of the operations beside chat: tokens in the names of Responses, seconds, or search units.

OpenAI's images, speech and transcriptions say `input_tokens` and `output_tokens` where chat says `prompt_tokens` and
`completion_tokens`; others answer these routes in the names of chat.
"""

import math
from typing import Annotated, Any

import msgspec

from routerx.dialects.leniently import decode_or_none
from routerx.dialects.openai_chat.usage import TOKENS_MAX, UsageReader
from routerx.domain.call import Operation
from routerx.domain.usage import Usage

SECONDS_MAX = 10_000_000

_Tokens = Annotated[int, msgspec.Meta(ge=0, le=TOKENS_MAX)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=SECONDS_MAX)]


class _Details(msgspec.Struct, gc=False):
    text_tokens: _Tokens | None = None
    image_tokens: _Tokens | None = None
    audio_tokens: _Tokens | None = None
    cached_tokens: _Tokens | None = None


class _Wire(msgspec.Struct, gc=False):
    """`type` tells nothing that the fields do not."""

    input_tokens: _Tokens | None = None
    output_tokens: _Tokens | None = None
    input_tokens_details: _Details | None = None
    input_token_details: _Details | None = None
    """Transcriptions call it so."""
    output_tokens_details: _Details | None = None
    seconds: _Seconds | None = None
    prompt_audio_seconds: _Seconds | None = None
    prompt_tokens: _Tokens | None = None
    completion_tokens: _Tokens | None = None
    total_tokens: _Tokens | None = None


_decoder = msgspec.json.Decoder(_Wire)
_NO_DETAILS = _Details()


def read_usage(operation: Operation, raw: msgspec.Raw) -> tuple[Usage | None, bool]:
    """Buckets, and whether the report was unusable; (None, False) for one without any number in it."""
    wire: _Wire | None = decode_or_none(_decoder, raw)
    if wire is None:
        return None, True
    seconds = wire.seconds if wire.seconds is not None else wire.prompt_audio_seconds
    if seconds is not None:
        # By duration: tokens of text that are told beside it are in buckets of their own.
        text = Usage(in_fresh=_zero(wire.prompt_tokens), out_text=_zero(wire.completion_tokens))
        return msgspec.structs.replace(text, in_audio=math.ceil(seconds)), False
    if wire.input_tokens is None and wire.output_tokens is None:
        reader = UsageReader(generates=operation is Operation.TRANSCRIPTIONS)
        reader.read(raw)
        return _in_its_kind(operation, reader.usage, wire), reader.anomaly
    return _in_its_kind(operation, _tokens(wire), wire), False


def seconds_of(value: Any) -> int | None:
    """`duration` of a verbose transcription, rounded up: a number, or one as text as it was once written."""
    try:
        seconds = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except ValueError:
        return None
    return math.ceil(seconds) if 0 <= seconds <= SECONDS_MAX else None


def _tokens(wire: _Wire) -> Usage:
    into = wire.input_tokens_details or wire.input_token_details or _NO_DETAILS
    out = wire.output_tokens_details or _NO_DETAILS
    left_in, left_out = _zero(wire.input_tokens), _zero(wire.output_tokens)
    audio, left_in = _take(into.audio_tokens, left_in)
    image, left_in = _take(into.image_tokens, left_in)
    cached, left_in = _take(into.cached_tokens, left_in)
    out_image, left_out = _take(out.image_tokens, left_out)
    out_audio, left_out = _take(out.audio_tokens, left_out)
    return Usage(
        in_fresh=left_in,
        in_cache_read=cached,
        in_audio=audio,
        in_image=image,
        out_text=left_out,
        out_audio=out_audio,
        out_image=out_image,
    )


def _in_its_kind(operation: Operation, usage: Usage | None, wire: _Wire) -> Usage | None:
    """Output that nobody told apart is what the operation makes."""
    if usage is None or wire.output_tokens_details is not None:
        return usage
    replace = msgspec.structs.replace
    match operation:
        case Operation.IMAGES:
            return replace(usage, out_text=0, out_image=usage.out_image + usage.out_text)
        case Operation.SPEECH:
            return replace(usage, out_text=0, out_audio=usage.out_audio + usage.out_text)
        case Operation.TRANSCRIPTIONS if wire.input_token_details is None and wire.input_tokens_details is None:
            return replace(usage, in_fresh=0, in_audio=usage.in_audio + usage.in_fresh)
    return usage


def _take(part: int | None, whole: int) -> tuple[int, int]:
    taken = min(_zero(part), whole)
    return taken, whole - taken


def _zero(value: int | None) -> int:
    return 0 if value is None else value
