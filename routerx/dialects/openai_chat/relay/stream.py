"""Streams: text completions are read as those of chat are; images, speech and transcripts come as typed events.

Of a typed stream the gateway reads the types, the usage and the errors; the frames pass.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from routerx.dialects.base import EVENT_BYTES_MAX, TERMINAL_BYTES_MAX, Frame, StreamTap
from routerx.dialects.classify import failure_in_band
from routerx.dialects.leniently import ABSENT, decode_or_none
from routerx.dialects.openai_chat.relay.usage import read_usage
from routerx.dialects.openai_chat.tap import DONE, DONE_FRAME, OpenAITap
from routerx.dialects.sse import FrameSplitter
from routerx.dialects.tap import EventTap
from routerx.domain.call import Operation, Peek
from routerx.domain.chat import Finish, Opaque
from routerx.domain.events import Ended, Event, Failed, Finished, OpaqueMade, Reported
from routerx.domain.failure import Failure, FailureKind
from routerx.domain.usage import Usage
from routerx.jsonx import Raw

IMAGE_EVENT_BYTES_MAX = 16 * 1024 * 1024
"""A whole image is one event (FAULTS.md 43)."""

_DONE_TYPES = ("image_generation.completed", "speech.audio.done", "transcript.text.done", "transcription.done")
_SOMETHING = OpaqueMade(Opaque("openai", "event", Raw(b"null")))


class _Typed(msgspec.Struct, gc=False):
    """One event. What it holds stays unread."""

    type: Any = None
    usage: msgspec.Raw = ABSENT
    error: Any = None


_typed_decoder = msgspec.json.Decoder(_Typed)
_any_decoder = msgspec.json.Decoder()


def relay_tap(peek: Peek, *, strip_usage: bool) -> StreamTap:
    """A fresh tap for the stream of an operation beside chat."""
    if peek.operation is Operation.COMPLETIONS:
        return OpenAITap(peek.choices, strip_usage=strip_usage)
    event_max = IMAGE_EVENT_BYTES_MAX if peek.operation is Operation.IMAGES else EVENT_BYTES_MAX
    terminal_max = event_max + TERMINAL_BYTES_MAX  # The event that finishes the last choice is in it.
    splitter = FrameSplitter(event_max)
    return EventTap(_Events(peek), splitter, None, choices=peek.choices, terminal_bytes_max=terminal_max)


def completion_as_stream(body: bytes) -> bytes:
    """A whole text completion, where a stream was asked for: its one frame has the same shape."""
    try:
        line = msgspec.json.format(body, indent=-1)
    except msgspec.DecodeError:
        line = b" ".join(body.splitlines())
    return b"data: " + line + b"\n\n" + DONE_FRAME


class _Events:
    """See dialects.base.StreamDecoder. One choice per image; speech and transcripts are one."""

    end_mark = b""

    def __init__(self, peek: Peek) -> None:
        self._operation = peek.operation
        self._finished = 0
        self._usage: Usage | None = None

    def feed(self, frame: Frame) -> Sequence[Event]:
        data = frame.data
        if data is None or data.strip() == DONE:
            return () if data is None else (Ended(),)
        event: _Typed | None = decode_or_none(_typed_decoder, data)
        if event is None:
            return (Failed(Failure(FailureKind.INVALID_CHUNK, "The provider sent an event that is none.")),)
        if event.error or event.type == "error" or frame.event == b"error":
            value = event.error or decode_or_none(_any_decoder, data)
            return (Failed(failure_in_band(value, otherwise=FailureKind.ERROR_MIDSTREAM)),)
        events: list[Event] = [_SOMETHING]
        if event.type in _DONE_TYPES:
            events.append(Finished(Finish.STOP, choice=self._finished))
            self._finished += 1
        if event.usage != ABSENT:
            events.append(self._reported(event.usage))
        return events

    def finish(self) -> Sequence[Event]:
        return ()

    def _reported(self, raw: msgspec.Raw) -> Reported:
        usage, anomaly = read_usage(self._operation, raw)
        if usage is not None and self._operation is Operation.IMAGES:
            usage = msgspec.structs.replace(usage, requests=max(self._finished, 1))
        self._usage = usage if usage is not None else self._usage
        return Reported(self._usage, anomaly)
