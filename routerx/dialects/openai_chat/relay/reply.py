"""Whole answers: judged, named and metered. What is no answer of its operation is a failure, whatever its status."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from routerx.dialects import classify
from routerx.dialects.base import Reply
from routerx.dialects.leniently import ABSENT, decode_or_none
from routerx.dialects.openai_chat.chunks import STOP, text_bytes
from routerx.dialects.openai_chat.relay.usage import read_usage, seconds_of
from routerx.dialects.openai_chat.usage import UsageReader
from routerx.domain.call import Operation
from routerx.domain.failure import Failure, FailureKind
from routerx.domain.usage import Usage

OCTETS = "application/octet-stream"
SEARCH_UNITS_MAX = 1_000_000

_TEXTS = ("text/plain", "text/vtt", "text/srt", "application/x-subrip", "application/srt")
_AUDIO = re.compile(r"audio/[a-z0-9.+-]{1,64}")
_PARAMS = re.compile(r"""(?:;[ ]?[a-z_-]{1,32}=(?:[a-z0-9.+-]{1,32}|"[a-z0-9.+-]{1,32}")){0,4}""", re.IGNORECASE)
_PAGE = re.compile(rb"\s*<(?:!doctype|html|head|body)\b", re.IGNORECASE)


class _Text(msgspec.Struct, gc=False):
    text: Any = None
    finish_reason: Any = None


class _Answer(msgspec.Struct, gc=False):
    """The keys of all these answers; what is unnamed or not asked for stays unread."""

    choices: list[_Text] | None = None
    data: msgspec.Raw = ABSENT
    results: msgspec.Raw = ABSENT
    text: Any = None
    segments: msgspec.Raw = ABSENT
    duration: Any = None
    usage: msgspec.Raw = ABSENT
    meta: Any = None
    model: Any = None
    error: Any = None


_answer_decoder = msgspec.json.Decoder(_Answer)
_any_decoder = msgspec.json.Decoder()
_list_decoder = msgspec.json.Decoder(list[msgspec.Raw])


def read_relayed(operation: Operation, content_type: str, body: bytes) -> Reply | Failure:
    """See dialects.base.Dialect.read_reply."""
    if not body:
        return Failure(FailureKind.EMPTY, "The provider sent an empty body.")
    if operation is Operation.SPEECH:
        return _read_speech(content_type, body)
    start = body[:64].lstrip()[:1]
    if operation is Operation.TRANSCRIPTIONS and start != b"{":
        return _read_transcript(content_type, body)
    if operation is Operation.RERANK and start == b"[":
        return _read_scores(content_type, body)
    answer: _Answer | None = decode_or_none(_answer_decoder, body)
    if answer is None:
        if operation is Operation.TRANSCRIPTIONS and decode_or_none(_any_decoder, body) is None:
            return _read_transcript(content_type, body)  # Somebody may speak in braces.
        return _in_disguise(content_type, body)
    if answer.error:
        return classify.failure_in_band(answer.error, otherwise=FailureKind.ERROR_IN_200)
    reply = _READERS[operation](answer)
    return _in_disguise(content_type, body) if reply is None else reply


# --- of each operation; None: this is no answer of it


def _read_completion(answer: _Answer) -> Reply | None:
    reports = UsageReader(generates=True)
    if answer.usage != ABSENT:
        reports.read(answer.usage)
    if not answer.choices and reports.usage is None:
        return None
    usage, size = reports.usage, 0
    if usage is None or usage.output_tokens == 0:
        size = sum(text_bytes(choice.text) for choice in answer.choices or ())
    zero_beside_content = usage is not None and size > 0
    empty = all(not choice.text and choice.finish_reason in (None, STOP) for choice in answer.choices or ())
    return Reply(usage, reports.anomaly or zero_beside_content, _model(answer), size, empty=empty)


def _read_images(answer: _Answer) -> Reply | None:
    images = decode_or_none(_list_decoder, answer.data)
    if not images:
        return None
    usage, anomaly = _reported(Operation.IMAGES, answer)
    if usage is None:
        return Reply(None, anomaly, _model(answer), made=len(images))
    # By the token and by the image: the price says which of the two costs something.
    return Reply(msgspec.structs.replace(usage, requests=len(images)), anomaly, _model(answer))


def _read_transcription(answer: _Answer) -> Reply | None:
    if not isinstance(answer.text, str) and answer.segments == ABSENT:
        return None
    usage, anomaly = _reported(Operation.TRANSCRIPTIONS, answer)
    seconds = seconds_of(answer.duration)
    if usage is None and not anomaly and seconds is not None:
        usage = Usage(in_audio=seconds)
    return Reply(usage, anomaly, _model(answer))


def _read_moderation(answer: _Answer) -> Reply | None:
    if not decode_or_none(_list_decoder, answer.results):
        return None
    usage, anomaly = _reported(Operation.MODERATIONS, answer)
    return Reply(usage, anomaly, _model(answer))


def _read_rerank(answer: _Answer) -> Reply | None:
    """Results in the order of relevance, under either of two names; none at all where none was relevant enough, which
    is an answer if it was metered."""
    results = [decode_or_none(_list_decoder, raw) for raw in (answer.results, answer.data)]
    if not any(results) and (answer.usage == ABSENT or results == [None, None]):
        return None
    usage, anomaly = _reported(Operation.RERANK, answer)
    meta = answer.meta if isinstance(answer.meta, dict) else {}
    billed, tokens = meta.get("billed_units"), meta.get("tokens")
    if usage is None and not anomaly and isinstance(tokens, dict):
        usage, anomaly = read_usage(Operation.RERANK, msgspec.Raw(msgspec.json.encode(tokens)))
    units = _units(billed.get("search_units")) if isinstance(billed, dict) else None
    if units is not None:
        usage = msgspec.structs.replace(usage if usage is not None else Usage(), requests=units)
    return Reply(usage, anomaly, _model(answer))


_READERS: Mapping[Operation, Callable[[_Answer], Reply | None]] = {
    Operation.COMPLETIONS: _read_completion,
    Operation.IMAGES: _read_images,
    Operation.TRANSCRIPTIONS: _read_transcription,
    Operation.MODERATIONS: _read_moderation,
    Operation.RERANK: _read_rerank,
}


# --- bodies that are no object


def _read_speech(content_type: str, body: bytes) -> Reply | Failure:
    if body[:64].lstrip()[:1] in (b"{", b"[") and isinstance(decode_or_none(_any_decoder, body), dict | list):
        return _in_disguise(content_type, body)
    kind, label = _named(content_type)
    if _AUDIO.fullmatch(kind):
        return Reply(None, content_type=label)
    if kind in ("", OCTETS) and _PAGE.match(body) is None:
        return Reply(None, content_type=OCTETS)
    return classify.foreign(content_type)


def _read_transcript(content_type: str, body: bytes) -> Reply | Failure:
    """`text`, `srt` and `vtt`; a text of nothing but blanks is what silence says."""
    kind, label = _named(content_type)
    if kind == "application/json" and isinstance(decode_or_none(_any_decoder, body), str):
        return Reply(None)
    if kind not in _TEXTS or _PAGE.match(body) is not None:
        return classify.foreign(content_type)
    return Reply(None, content_type=label)


def _read_scores(content_type: str, body: bytes) -> Reply | Failure:
    """One family of servers answers with the bare list of results."""
    items = decode_or_none(_any_decoder, body)
    if isinstance(items, list) and items and all(isinstance(item, dict) and "index" in item for item in items):
        return Reply(None)
    return _in_disguise(content_type, body)


# --- parts


def _named(content_type: str) -> tuple[str, str]:
    """The media type, and what to call the body: with its parameters where they are plain."""
    kind, _, params = content_type.partition(";")
    kind = kind.strip().lower()
    params = f";{params.rstrip()}" if params else ""
    return kind, kind + params if _PARAMS.fullmatch(params) else kind


def _reported(operation: Operation, answer: _Answer) -> tuple[Usage | None, bool]:
    return (None, False) if answer.usage == ABSENT else read_usage(operation, answer.usage)


def _units(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= SEARCH_UNITS_MAX:
        return None
    return math.ceil(value)


def _in_disguise(content_type: str, body: bytes) -> Failure:
    """JSON with nothing in it that answers: an error in some shape, or nothing."""
    value: Any = decode_or_none(_any_decoder, body)
    first = value[0] if isinstance(value, list) and value else value
    if not isinstance(first, dict):
        return classify.foreign(content_type)
    if any(first.get(key) for key in ("error", "detail", "message")) or first.get("object") == "error":
        return classify.failure_in_band(value, otherwise=FailureKind.ERROR_IN_200)
    return Failure(FailureKind.EMPTY, "The provider sent an answer without any content.")


def _model(answer: _Answer) -> str | None:
    return answer.model if isinstance(answer.model, str) and answer.model else None
