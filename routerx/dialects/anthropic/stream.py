"""Streams of Messages as events, both ways; a whole answer is read by the same steps."""

from collections import deque
from collections.abc import Iterator, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from routerx import jsonx
from routerx.dialects.anthropic.answer import FINISHES, call_block, citation, opening, stopping, thought
from routerx.dialects.anthropic.errors import TABLE
from routerx.dialects.anthropic.request import CITATIONS, ORIGIN
from routerx.dialects.anthropic.usage import UsageReader, usage_object
from routerx.dialects.base import Asked, Frame
from routerx.dialects.classify import failure_in_band
from routerx.dialects.leniently import decode_or_none
from routerx.dialects.signatures import UNSIGNED
from routerx.domain.chat import Answer, Choice, Citation, Finish, Opaque, Reasoning, ToolCall
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

_THOUGHTS = frozenset({"thinking", "redacted_thinking"})
_IMPLIED = MappingProxyType({"text_delta": "text", "thinking_delta": "thinking"})
"""The block that a delta must belong to."""
END_MARK = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_any_decoder = msgspec.json.Decoder()


# --- from providers ----------------------------------------------------------------------------------------------


def decode_answer(body: bytes, seed: str) -> Answer:
    """See dialects.base.ChatTarget."""
    value = decode_or_none(_any_decoder, body)
    message = value if isinstance(value, dict) else {}
    decoder = Decoder(seed)
    events = list(decoder.begin(message))
    content = message.get("content")
    for index, block in enumerate(content if isinstance(content, list) else ()):
        if isinstance(block, dict):
            events += decoder.open(index, block)
            events += decoder.close(index)
    events += decoder.stop(message, is_last=True)
    events += decoder.report(message.get("usage"))
    return fold(events)


class Decoder:
    """See dialects.base.StreamDecoder."""

    end_mark = END_MARK

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._began = False
        self._has_content = False
        self._calls = 0
        self._wanted = False
        """A tool was called by the model itself; what its own code calls is answered while the turn goes on."""
        self._open: dict[int, _Block] = {}
        self._places: list[Any] = []
        """Citations that only this wire understands."""
        self._finished = False
        self._reports = UsageReader()

    def feed(self, frame: Frame) -> Sequence[Event]:
        data = frame.data
        if not data or data.strip() == b"[DONE]":  # Some compatible servers add another wire's end mark.
            return ()
        value = decode_or_none(_any_decoder, data)
        if not isinstance(value, dict):
            return [Failed(Failure(FailureKind.INVALID_CHUNK, "The provider sent an event that is no message event."))]
        if value.get("type") == "error" or frame.event == b"error" or value.get("error"):
            return [Failed(failure_in_band(value, otherwise=FailureKind.ERROR_MIDSTREAM, table=TABLE))]
        return list(self._read(value))

    def finish(self) -> Sequence[Event]:
        return ()

    def _read(self, value: dict[str, Any]) -> Iterator[Event]:
        index = value.get("index")
        index = index if isinstance(index, int) else 0
        match value.get("type"):
            case "message_start":
                message = value.get("message")
                if isinstance(message, dict):
                    if not self._began:
                        yield from self.begin(message)
                    yield from self.report(message.get("usage"))
            case "content_block_start":
                block = value.get("content_block")
                if isinstance(block, dict):
                    yield from self.open(index, block)
            case "content_block_delta":
                delta = value.get("delta")
                if isinstance(delta, dict):
                    yield from self._delta(index, delta)
            case "content_block_stop":
                yield from self.close(index)
            case "message_delta":
                yield from self.report(value.get("usage"))
                delta = value.get("delta")
                if isinstance(delta, dict):
                    yield from self.stop(delta, is_last=False)
            case "message_stop":
                yield from self.stop({}, is_last=True)
                yield Ended()

    # --- steps, of a stream and of a whole answer

    def begin(self, message: dict[str, Any]) -> Iterator[Event]:
        self._began = True
        yield Began(_text(message.get("id")), _text(message.get("model")))

    def report(self, usage: Any) -> Iterator[Event]:
        before = self._reports.usage, self._reports.anomaly
        self._reports.read(usage)
        if (self._reports.usage, self._reports.anomaly) != before:
            yield Reported(self._reports.usage, self._reports.anomaly, self._reports.tier)

    def open(self, index: int, block: dict[str, Any]) -> Iterator[Event]:
        kind = block.get("type")
        if self._finished or not isinstance(kind, str):
            return
        if not self._began:
            yield from self.begin({})
        for place, told in list(self._open.items()):
            # Some servers forget to end a block. A thought is over when something else begins.
            if place == index or told.kind in _THOUGHTS:
                yield from self.close(place)
        state = self._open[index] = _Block(kind, block)
        self._has_content = True
        match kind:
            case "text":
                if text := _text(block.get("text")):
                    yield TextDelta(text)
                citations = block.get("citations")
                for one in citations if isinstance(citations, list) else ():
                    yield from self._cited(one)
            case "thinking":
                if thinking := _text(block.get("thinking")):
                    yield ReasoningDelta(thinking)
                state.signature = _text(block.get("signature")) or ""
            case "redacted_thinking":
                state.signature = _text(block.get("data")) or ""
            case "tool_use":
                state.call = self._calls
                self._calls += 1
                caller = block.get("caller")
                self._wanted = self._wanted or not isinstance(caller, dict) or caller.get("type") == "direct"
                id_ = _text(block.get("id")) or f"toolu_{self._seed}_{state.call}"
                yield ToolCallStarted(state.call, id_, _text(block.get("name")) or "")

    def _cited(self, value: Any) -> Iterator[Event]:
        """A source with an address; a place inside the caller's own documents means nothing elsewhere."""
        if isinstance(value, dict) and (url := _text(value.get("url"))):
            yield Cited(Citation(url, _text(value.get("title")), _text(value.get("cited_text"))))
        elif value:
            self._places.append(value)

    def _delta(self, index: int, delta: dict[str, Any]) -> Iterator[Event]:
        kind = delta.get("type")
        state = self._open.get(index)
        if state is None and not self._finished and (implied := _IMPLIED.get(str(kind))):
            yield from self.open(index, {"type": implied})  # Some servers forget to begin a block.
            state = self._open[index]
        if state is None:
            return
        match kind:
            case "text_delta":
                if text := _text(delta.get("text")):
                    yield TextDelta(text)
            case "citations_delta":
                yield from self._cited(delta.get("citation"))
            case "thinking_delta":
                if thinking := _text(delta.get("thinking")):
                    yield ReasoningDelta(thinking)
            case "signature_delta":
                state.signature += _text(delta.get("signature")) or ""
            case "input_json_delta":
                piece = state.more(_text(delta.get("partial_json")) or "")
                if piece and state.call is not None:
                    yield ToolCallDelta(state.call, piece)
            case _:
                state.grow(delta)

    def close(self, index: int) -> Iterator[Event]:
        state = self._open.pop(index, None)
        if state is None:
            return
        match state.kind:
            case "text":
                pass
            case "thinking" | "redacted_thinking":
                if state.signature not in ("", UNSIGNED):
                    yield ReasoningSigned(state.signature, ORIGIN, state.kind == "redacted_thinking")
            case "tool_use":
                assert state.call is not None
                if not state.json:
                    yield ToolCallDelta(state.call, state.whole_input())
                yield ToolCallEnded(state.call)
            case kind:
                yield OpaqueMade(Opaque(ORIGIN, kind, state.value()))

    def stop(self, message: dict[str, Any], *, is_last: bool) -> Iterator[Event]:
        """The end of a message, or of a stream's one. After the last word an answer is whole, reason or not."""
        native = _text(message.get("stop_reason"))
        if self._finished or (native is None and not (is_last and self._has_content)):
            return
        for index in list(self._open):
            yield from self.close(index)
        if self._places:
            yield OpaqueMade(Opaque(ORIGIN, CITATIONS, msgspec.Raw(jsonx.encode(self._places))))
        self._finished = True
        finish = Finish.STOP if native is None else FINISHES.get(native, Finish.OTHER)
        if self._wanted and native in (None, "end_turn"):
            finish = Finish.TOOL_CALLS
        yield Finished(finish, native, _text(message.get("stop_sequence")))


class _Block:
    """A content block that is being told."""

    __slots__ = ("_held", "_opened", "call", "json", "kind", "signature")

    def __init__(self, kind: str, opened: dict[str, Any]) -> None:
        self.kind = kind
        self.call: int | None = None
        self.json = ""
        """What of the input has been told in pieces."""
        self.signature = ""
        self._held = ""
        """What may yet turn out to be a `null`, which some servers send in place of no input."""
        self._opened = opened

    def more(self, piece: str) -> str:
        """What of the input may be told on with this piece of it."""
        if not self.json:
            piece, self._held = self._held + piece, ""
            if "null".startswith(piece.strip()):
                self._held = piece
                return ""
        self.json += piece
        return piece

    def whole_input(self) -> str:
        """The input of a block that brought it at once, or none."""
        if self._held.strip() not in ("", "null"):
            return self._held
        given = self._opened.get("input")
        if isinstance(given, str):  # Against the reference, which says it is an object.
            return given if given.strip() else "{}"
        return jsonx.encode({} if given is None else given).decode()

    def grow(self, delta: dict[str, Any]) -> None:
        """A piece of a block of a kind that only this wire knows: texts grow, anything else is replaced."""
        for key, value in delta.items():
            if key != "type":
                before = self._opened.get(key)
                both = isinstance(before, str) and isinstance(value, str)
                self._opened = {**self._opened, key: before + value if both else value}

    def value(self) -> msgspec.Raw:
        """The block, whole."""
        parsed = decode_or_none(_any_decoder, self.json.encode("utf-8", "replace")) if self.json else None
        return msgspec.Raw(jsonx.encode(self._opened if parsed is None else {**self._opened, "input": parsed}))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


# --- to callers --------------------------------------------------------------------------------------------------


class Encoder:
    """See dialects.base.StreamEncoder. Blocks follow each other on this wire, so what is told of a second tool call
    while the first is open waits for its turn."""

    def __init__(self, asked: Asked) -> None:
        self.dropped: set[str] = set()
        self._asked = asked
        self._started = False
        self._index = 0
        self._open: str | None = None
        """What the open block is: `text`, `thinking` (its signature yet to come), `tool` or another."""
        self._call: int | None = None
        self._waiting: deque[Event] = deque()
        """What came while a call was open and is not of it: other calls, texts."""
        self._held: dict[int, list[Event]] = {}
        """The pieces of calls that wait, by their index."""
        self._finished: Finished | None = None
        self._usage: Usage | None = None
        self._began = Began()

    def encode(self, event: Event) -> bytes:
        match event:
            case Began():
                self._began = event
                return b""
            case Reported():
                self._usage = event.usage
                return b""
            case Finished():
                if event.choice == 0:
                    self._finished = event
                return b""
            case Ended() | Failed():
                return b""
        if event.choice:  # One choice is all this wire has.
            self.dropped.add("n")
            return b""
        return self._start() + self._in_turn(event)

    def end(self) -> bytes:
        frames = self._start() + self._close()
        while self._waiting:
            frames += self._release() + self._close()
        end = self._finished if self._finished is not None else Finished(Finish.STOP)
        choice = Choice((), end.finish, end.native, end.stop_sequence)
        usage = usage_object(self._usage if self._usage is not None else Usage())
        frames += frame("message_delta", delta=stopping(choice), usage=usage)
        return frames + END_MARK

    def _start(self) -> bytes:
        if self._started:
            return b""
        self._started = True
        message = opening(self._began.id, self._began.model, self._asked)
        usage = self._usage if self._usage is not None else Usage()
        message["usage"] = usage_object(usage) | {"output_tokens": 0}
        return frame("message_start", message=message)

    # --- the order of blocks

    def _in_turn(self, event: Event) -> bytes:
        if isinstance(event, ToolCallDelta | ToolCallEnded):
            if event.index != self._call:
                self._held.setdefault(event.index, []).append(event)
                return b""
            frames = self._tell(event)
            return frames + self._release() if self._call is None else frames
        if self._call is None:
            return self._tell(event)
        self._waiting.append(event)
        return b""

    def _release(self) -> bytes:
        """Tell what has waited, up to a call that has not ended yet."""
        frames: list[bytes] = []
        while self._waiting and self._call is None:
            event = self._waiting.popleft()
            frames.append(self._tell(event))
            if isinstance(event, ToolCallStarted):
                frames += [self._tell(piece) for piece in self._held.pop(event.index, ())]
        return b"".join(frames)

    # --- blocks

    def _tell(self, event: Event) -> bytes:
        match event:
            case TextDelta() | RefusalDelta():
                return self._ensure("text") + self._delta(type="text_delta", text=event.text)
            case Cited():
                return self._ensure("text") + self._delta(type="citations_delta", citation=citation(event.citation))
            case ReasoningDelta():
                return self._ensure("thinking") + self._delta(type="thinking_delta", thinking=event.text)
            case ReasoningSigned():
                return self._sign(event)
            case ToolCallStarted():
                call = ToolCall(event.id, event.name, "{}", event.signature, event.origin)
                frames = self._close() + self._begin_block("tool", call_block(call) | {"input": {}})
                self._call = event.index
                return frames
            case ToolCallDelta():
                return self._delta(type="input_json_delta", partial_json=event.arguments)
            case ToolCallEnded():
                return self._close()
            case OpaqueMade(part=part) if part.origin == ORIGIN and part.type != CITATIONS:
                return self._close() + self._begin_block("opaque", part.value) + self._close()
            case OpaqueMade():
                self.dropped.add(event.part.type)
            case MediaMade():
                self.dropped.add(event.media.kind.value)
        return b""

    def _sign(self, event: ReasoningSigned) -> bytes:
        part = thought(Reasoning("", event.signature, event.origin, event.redacted, event.id))
        if event.redacted:
            return self._close() + self._begin_block("opaque", part) + self._close()
        frames = self._ensure("thinking") + self._delta(type="signature_delta", signature=part["signature"])
        self._open = "signed"
        return frames + self._close()

    def _ensure(self, kind: str) -> bytes:
        if self._open == kind:
            return b""
        empty = {"type": "text", "text": ""} if kind == "text" else {"type": kind, "thinking": "", "signature": ""}
        return self._close() + self._begin_block(kind, empty)

    def _begin_block(self, kind: str, block: Any) -> bytes:
        self._open = kind
        return frame("content_block_start", index=self._index, content_block=block)

    def _delta(self, **delta: Any) -> bytes:
        return frame("content_block_delta", index=self._index, delta=delta)

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        signature = self._delta(type="signature_delta", signature=UNSIGNED) if self._open == "thinking" else b""
        self._open = self._call = None
        ended = frame("content_block_stop", index=self._index)
        self._index += 1
        return signature + ended


def frame(kind: str, **fields: Any) -> bytes:
    """One event of this wire."""
    return b"event: " + kind.encode() + b"\ndata: " + jsonx.encode({"type": kind, **fields}) + b"\n\n"
