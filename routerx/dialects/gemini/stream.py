"""Streams of generateContent as events, both ways; a whole answer is read as the one chunk of a stream."""

from collections.abc import Iterator, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from routerx import jsonx
from routerx.dialects.base import Asked, Frame
from routerx.dialects.classify import failure_in_band
from routerx.dialects.gemini.answer import FINISHES, grounding, heading, part
from routerx.dialects.gemini.calls import PartialArguments
from routerx.dialects.gemini.errors import TABLE
from routerx.dialects.gemini.signing import ORIGIN
from routerx.dialects.gemini.usage import UsageReader, usage_metadata
from routerx.dialects.leniently import decode_or_none
from routerx.dialects.media import kind_of
from routerx.domain.chat import Answer, Citation, Finish, Media, Opaque, Reasoning, Text, ToolCall
from routerx.domain.events import (
    Began,
    Cited,
    Ended,
    Event,
    Failed,
    Finished,
    MediaMade,
    OpaqueMade,
    ReasoningDelta,
    ReasoningSigned,
    RefusalDelta,
    Reported,
    TextDelta,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
    fold,
)
from routerx.domain.failure import Failure, FailureKind
from routerx.domain.usage import Usage

_FILTERS = (
    "SAFETY RECITATION LANGUAGE BLOCKLIST PROHIBITED_CONTENT SPII MODEL_ARMOR "
    "IMAGE_SAFETY IMAGE_PROHIBITED_CONTENT IMAGE_RECITATION"
)
NATIVE_FINISHES = MappingProxyType(
    {"STOP": Finish.STOP, "MAX_TOKENS": Finish.LENGTH} | dict.fromkeys(_FILTERS.split(), Finish.CONTENT_FILTER)
)
_SILENT = frozenset({"thought", "thoughtSignature", "mediaResolution", "videoMetadata", "partMetadata"})
"""Keys of a part that are about it, not it."""
_READ = frozenset({"text", "functionCall", "inlineData"})
"""Keys of parts that are told as what they are, or are odd beyond reading."""
_any_decoder = msgspec.json.Decoder()


# --- from providers ----------------------------------------------------------------------------------------------


def chunks_of(body: bytes) -> list[dict[str, Any]] | None:
    """A whole body as chunks: one object, or the array that a stream is without `alt=sse`; None for anything else."""
    value = decode_or_none(_any_decoder, body)
    values = value if isinstance(value, list) else [value]
    return values if values and all(isinstance(one, dict) for one in values) else None


def decode_answer(body: bytes, seed: str) -> Answer:
    """See dialects.base.ChatTarget."""
    decoder = Decoder(seed)
    events = [event for chunk in chunks_of(body) or [] for event in decoder.read(chunk)]
    return fold([*events, *decoder.finish()])


class Decoder:
    """See dialects.base.StreamDecoder."""

    end_mark = b""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._began = False
        self._candidates: dict[int, _Candidate] = {}
        self._reports = UsageReader()
        self._searches = 0
        self._reported: tuple[Usage | None, bool] = None, False

    def feed(self, frame: Frame) -> Sequence[Event]:
        data = frame.data
        if not data:
            return ()
        chunks = chunks_of(data)
        if chunks is None:
            return [Failed(Failure(FailureKind.INVALID_CHUNK, "The provider sent an event that is no answer."))]
        return [event for chunk in chunks for event in self.read(chunk)]

    def finish(self) -> Sequence[Event]:
        return ()

    def read(self, chunk: dict[str, Any]) -> Iterator[Event]:
        """The events of one chunk."""
        if chunk.get("error"):
            yield Failed(failure_in_band(chunk, otherwise=FailureKind.ERROR_MIDSTREAM, table=TABLE))
            return
        if not self._began:
            self._began = True
            yield Began(_text(chunk.get("responseId")), _text(chunk.get("modelVersion")))
        for place, value in enumerate(_dicts(chunk.get("candidates"))):
            index = value.get("index", place)
            index = index if type(index) is int and index >= 0 else place
            if index not in self._candidates:
                self._candidates[index] = _Candidate(index, self._seed)
            candidate = self._candidates[index]
            yield from candidate.take(value)
            self._searches = max(self._searches, candidate.searches)
        feedback = chunk.get("promptFeedback")
        if isinstance(feedback, dict) and feedback.get("blockReason") and not self._candidates:
            self._candidates[0] = _Candidate(0, self._seed)
            yield Finished(Finish.CONTENT_FILTER, str(feedback["blockReason"]))
        yield from self._report(chunk.get("usageMetadata"))

    def _report(self, report: Any) -> Iterator[Event]:
        self._reports.read(report)
        usage = self._reports.usage
        if usage is not None and self._searches:  # They may be told of after the last count of tokens.
            usage = msgspec.structs.replace(usage, searches=self._searches)
        if (usage, self._reports.anomaly) != self._reported:
            self._reported = usage, self._reports.anomaly
            yield Reported(usage, self._reports.anomaly)


class _Candidate:
    """One candidate of a stream."""

    def __init__(self, index: int, seed: str) -> None:
        self.searches = 0
        self._index = index
        self._seed = seed
        self._calls = 0
        self._partial: PartialArguments | None = None
        self._finished = False

    def take(self, value: dict[str, Any]) -> Iterator[Event]:
        if self._finished:
            return
        content = value.get("content")
        for one in _dicts(content.get("parts")) if isinstance(content, dict) else ():
            yield from self._part(one)
        metadata = value.get("groundingMetadata")
        if isinstance(metadata, dict):
            yield from self._sources(metadata)
        native = _text(value.get("finishReason"))
        if native is not None and native != "FINISH_REASON_UNSPECIFIED":
            self._finished = True
            yield from self._end_partial()
            finish = NATIVE_FINISHES.get(native, Finish.OTHER)
            if self._calls and finish in (Finish.STOP, Finish.OTHER) and native in ("STOP", "OTHER"):
                finish = Finish.TOOL_CALLS
            yield Finished(finish, native, choice=self._index)

    def _part(self, value: dict[str, Any]) -> Iterator[Event]:
        signature = _text(value.get("thoughtSignature"))
        call = value.get("functionCall")
        if isinstance(call, dict):
            yield from self._call(call, signature)
            return
        text = value.get("text")
        if isinstance(text, str):
            if text:
                yield ReasoningDelta(text, self._index) if value.get("thought") else TextDelta(text, self._index)
        else:
            yield from self._made(value)
        if signature is not None:
            yield ReasoningSigned(signature, ORIGIN, choice=self._index)

    def _made(self, value: dict[str, Any]) -> Iterator[Event]:
        """A part that is neither text nor a call."""
        inline = value.get("inlineData")
        if isinstance(inline, dict) and isinstance(inline.get("data"), str):
            mime = _text(inline.get("mimeType"))
            yield MediaMade(Media(kind_of(mime or ""), mime=mime, data=inline["data"]), self._index)
            return
        kinds = [key for key in value if key not in _SILENT and key not in _READ]
        if kinds:
            yield OpaqueMade(Opaque(ORIGIN, kinds[0], msgspec.Raw(jsonx.encode(value))), self._index)

    def _call(self, call: dict[str, Any], signature: str | None) -> Iterator[Event]:
        """A call comes whole, or opened by name and then in pieces."""
        name = _text(call.get("name"))
        if name is not None:
            yield from self._end_partial()
            index = self._calls
            self._calls += 1
            id_ = _text(call.get("id")) or self._call_id(index)
            origin = ORIGIN if signature is not None else None
            yield ToolCallStarted(index, id_, name, signature, origin, choice=self._index)
            self._partial = PartialArguments()
        if self._partial is None:
            return
        pieces = call.get("partialArgs")
        for piece in pieces if isinstance(pieces, list) else ():
            self._partial.take(piece)
        if name is not None and not call.get("willContinue") and not pieces:
            args = call.get("args")
            yield from self._end_call(jsonx.encode(args if isinstance(args, dict) else {}).decode())
        elif not call.get("willContinue"):
            yield from self._end_partial()

    def _call_id(self, index: int) -> str:
        """Unique in the conversation, and short: some wires take 40 characters."""
        choice = f"_{self._index}" if self._index else ""
        return f"call_{self._seed.removeprefix('req_')}{choice}_{index}"

    def _end_partial(self) -> Iterator[Event]:
        if self._partial is not None:
            yield from self._end_call(self._partial.text())

    def _end_call(self, arguments: str) -> Iterator[Event]:
        self._partial = None
        yield ToolCallDelta(self._calls - 1, arguments, self._index)
        yield ToolCallEnded(self._calls - 1, self._index)

    def _sources(self, metadata: dict[str, Any]) -> Iterator[Event]:
        queries = metadata.get("webSearchQueries")
        if isinstance(queries, list):
            self.searches = max(self.searches, len(queries))
        for chunk in _dicts(metadata.get("groundingChunks")):
            web = chunk.get("web")
            if isinstance(web, dict) and (url := _text(web.get("uri"))):
                yield Cited(Citation(url, _text(web.get("title"))), self._index)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


# --- to callers --------------------------------------------------------------------------------------------------


class Encoder:
    """See dialects.base.StreamEncoder."""

    def __init__(self, asked: Asked) -> None:
        self.dropped: set[str] = set()
        self._asked = asked
        self._began = Began()
        self._usage: Usage | None = None
        self._calls: dict[tuple[int, int], ToolCall] = {}
        self._cited: dict[int, list[Citation]] = {}
        self._finished: dict[int, Finished] = {}

    def encode(self, event: Event) -> bytes:
        match event:
            case Began():
                self._began = event
            case Reported():
                self._usage = event.usage
            case Finished():
                self._finished[event.choice] = event
            case Cited():
                self._cited.setdefault(event.choice, []).append(event.citation)
            case ToolCallStarted():
                call = ToolCall(event.id, event.name, "", event.signature, event.origin, event.custom)
                self._calls[event.choice, event.index] = call
            case ToolCallDelta():
                key = event.choice, event.index
                call = self._calls[key]
                self._calls[key] = msgspec.structs.replace(call, arguments=call.arguments + event.arguments)
            case ToolCallEnded():
                return self._chunk(event.choice, part(self._calls.pop((event.choice, event.index)), self.dropped))
            case TextDelta() | RefusalDelta():
                return self._chunk(event.choice, part(Text(event.text), self.dropped))
            case ReasoningDelta():
                return self._chunk(event.choice, part(Reasoning(event.text), self.dropped))
            case ReasoningSigned():
                thought = Reasoning("", event.signature, event.origin, event.redacted, event.id)
                return self._chunk(event.choice, part(thought, self.dropped))
            case MediaMade():
                return self._chunk(event.choice, part(event.media, self.dropped))
            case OpaqueMade():
                return self._chunk(event.choice, part(event.part, self.dropped))
            case Ended() | Failed():
                pass
        return b""

    def end(self) -> bytes:
        candidates = []
        for index in range(max(self._asked.request.choices, *(choice + 1 for choice in (*self._finished, 0)))):
            end = self._finished.get(index, Finished(Finish.STOP))
            candidate: dict[str, Any] = {
                "content": {"role": "model", "parts": [{"text": ""}]},
                "finishReason": FINISHES[end.finish],
                "index": index,
            }
            if index in self._cited:
                candidate["groundingMetadata"] = grounding(self._cited[index])
            candidates.append(candidate)
        last: dict[str, Any] = {"candidates": candidates}
        if self._usage is not None:
            last["usageMetadata"] = usage_metadata(self._usage)
        return self._frame(last)

    def _chunk(self, choice: int, encoded: dict[str, Any] | None) -> bytes:
        if encoded is None:
            return b""
        return self._frame({"candidates": [{"content": {"role": "model", "parts": [encoded]}, "index": choice}]})

    def _frame(self, chunk: dict[str, Any]) -> bytes:
        return (
            b"data: " + jsonx.encode({**chunk, **heading(self._began.id, self._began.model, self._asked)}) + b"\r\n\r\n"
        )
