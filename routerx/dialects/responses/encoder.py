"""Streams of Responses to callers: every item opens, grows and closes, and the last event holds the whole response."""

from typing import Any

from routerx import jsonx
from routerx.dialects.base import Asked
from routerx.dialects.responses.answer import (
    annotation,
    call,
    heading,
    item,
    item_id,
    message,
    part_id,
    response,
    spoken,
    thought,
)
from routerx.domain.chat import Citation, Media, Opaque, Reasoning, Refusal, Text, ToolCall
from routerx.domain.events import (
    Began,
    Cited,
    Event,
    Failed,
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


class Encoder:
    """See dialects.base.StreamEncoder."""

    def __init__(self, asked: Asked) -> None:
        self.dropped: set[str] = {"n"} if asked.request.choices > 1 else set()
        self._asked = asked
        self._events: list[Event] = []
        """Everything told, for the last event."""
        self._number = 0
        self._started = False
        self._place = 0
        """Of the next item in the output."""
        self._spoken: _Spoken | None = None
        self._thought: _Thought | None = None
        self._calls: dict[int, _Call] = {}

    def encode(self, event: Event) -> bytes:
        if isinstance(event, Failed) or getattr(event, "choice", None):
            return b""  # One choice is all this wire has.
        self._events.append(event)
        if isinstance(event, Began | Reported):
            return b""
        return self._start() + self._tell(event)

    def end(self) -> bytes:
        frames = self._start() + self._close()
        for index in sorted(self._calls):
            frames += self._end_call(index)
        body = response(fold(self._events), self._asked, self.dropped)
        return frames + self._frame(f"response.{body['status']}", response=body)

    def _start(self) -> bytes:
        if self._started:
            return b""
        self._started = True
        began = next((event for event in self._events if isinstance(event, Began)), Began())
        body = heading(began.id, began.model, self._asked)
        return self._frame("response.created", response=body) + self._frame("response.in_progress", response=body)

    def _tell(self, event: Event) -> bytes:
        match event:
            case TextDelta():
                return self._say("output_text", event.text)
            case RefusalDelta():
                return self._say("refusal", event.text)
            case Cited():
                return self._cite(event.citation)
            case ReasoningDelta():
                return self._think(event.text)
            case ReasoningSigned():
                return self._sign(event)
            case ToolCallStarted():
                return self._start_call(event)
            case ToolCallDelta():
                return self._more_call(event)
            case ToolCallEnded():
                return self._end_call(event.index)
            case MediaMade():
                return self._whole_item(event.media)
            case OpaqueMade():
                return self._whole_item(event.part)
        return b""

    # --- messages

    def _say(self, kind: str, text: str) -> bytes:
        frames = b"" if self._thought is None else self._close()
        if self._spoken is None:
            self._spoken = _Spoken(item_id("msg", self._asked.request_id, self._place), self._next())
            opened = message(self._spoken.id, [], "in_progress")
            frames += self._frame("response.output_item.added", output_index=self._spoken.place, item=opened)
        frames += self._part(kind)
        self._spoken.text += text
        more: dict[str, Any] = {"logprobs": []} if kind == "output_text" else {}
        return frames + self._in_part(f"response.{kind}.delta", delta=text, **more)

    def _part(self, kind: str) -> bytes:
        assert self._spoken is not None
        if self._spoken.kind == kind:
            return b""
        frames = self._close_part()
        self._spoken.kind, self._spoken.text, self._spoken.citations = kind, "", []
        return frames + self._in_part("response.content_part.added", part=spoken(self._spoken.part()))

    def _cite(self, citation: Citation) -> bytes:
        frames = b"" if self._spoken is not None else self._say("output_text", "")
        frames += self._part("output_text")
        assert self._spoken is not None
        self._spoken.citations.append(citation)
        place = len(self._spoken.citations) - 1
        return frames + self._in_part(
            "response.output_text.annotation.added", annotation_index=place, annotation=annotation(citation)
        )

    def _close_part(self) -> bytes:
        one = self._spoken
        assert one is not None
        if one.kind is None:
            return b""
        part = spoken(one.part())
        if one.kind == "refusal":
            frames = self._in_part("response.refusal.done", refusal=one.text)
        else:
            frames = self._in_part("response.output_text.done", text=one.text, logprobs=[])
        frames += self._in_part("response.content_part.done", part=part)
        one.done.append(part)
        one.kind = None
        return frames

    def _in_part(self, kind: str, **fields: Any) -> bytes:
        one = self._spoken
        assert one is not None
        where = {"item_id": one.id, "output_index": one.place, "content_index": len(one.done)}
        return self._frame(kind, **where, **fields)

    # --- thoughts

    def _think(self, text: str) -> bytes:
        frames = b"" if self._spoken is None else self._close()
        if self._thought is None:
            frames += self._open_thought(item_id("rs", self._asked.request_id, self._place))
            assert self._thought is not None
            part = {"type": "summary_text", "text": ""}
            frames += self._in_thought("response.reasoning_summary_part.added", part=part)
        self._thought.text += text
        return frames + self._in_thought("response.reasoning_summary_text.delta", delta=text)

    def _open_thought(self, id_: str) -> bytes:
        self._thought = _Thought(id_, self._next())
        opened = thought(Reasoning(""), id_)
        return self._frame("response.output_item.added", output_index=self._thought.place, item=opened)

    def _sign(self, event: ReasoningSigned) -> bytes:
        frames = b"" if self._spoken is None else self._close()
        signed = Reasoning("", event.signature, event.origin, event.redacted, event.id)
        if self._thought is None:
            frames += self._open_thought(part_id(signed, self._asked.request_id, self._place))
        assert self._thought is not None
        self._thought.signed = signed
        return frames + self._close()

    def _close_thought(self) -> bytes:
        one = self._thought
        assert one is not None
        frames = b""
        if one.text:
            frames += self._in_thought("response.reasoning_summary_text.done", text=one.text)
            part = {"type": "summary_text", "text": one.text}
            frames += self._in_thought("response.reasoning_summary_part.done", part=part)
        signed = one.signed if one.signed is not None else Reasoning()
        whole = Reasoning(one.text, signed.signature, signed.origin, signed.redacted, signed.id)
        encoded = thought(whole, part_id(whole, self._asked.request_id, one.place))
        self._thought = None
        return frames + self._frame("response.output_item.done", output_index=one.place, item=encoded)

    def _in_thought(self, kind: str, **fields: Any) -> bytes:
        one = self._thought
        assert one is not None
        return self._frame(kind, item_id=one.id, output_index=one.place, summary_index=0, **fields)

    # --- calls and the rest

    def _start_call(self, event: ToolCallStarted) -> bytes:
        frames = self._close()
        begun = ToolCall(event.id, event.name, "", event.signature, event.origin, event.custom)
        id_ = item_id("ctc" if event.custom else "fc", self._asked.request_id, self._place)
        one = self._calls[event.index] = _Call(id_, self._next(), begun)
        opened = call(begun, id_, "in_progress")
        return frames + self._frame("response.output_item.added", output_index=one.place, item=opened)

    def _more_call(self, event: ToolCallDelta) -> bytes:
        one = self._calls[event.index]
        one.said += event.arguments
        return self._in_call(one, "delta", delta=event.arguments)

    def _end_call(self, index: int) -> bytes:
        one = self._calls.pop(index)
        begun = one.begun
        whole = ToolCall(begun.id, begun.name, one.said, begun.signature, begun.origin, begun.custom)
        said = {"input": one.said} if begun.custom else {"arguments": one.said, "name": begun.name}
        frames = self._in_call(one, "done", **said)
        item_ = call(whole, one.id, "completed")
        return frames + self._frame("response.output_item.done", output_index=one.place, item=item_)

    def _in_call(self, one: "_Call", kind: str, **fields: Any) -> bytes:
        name = "custom_tool_call_input" if one.begun.custom else "function_call_arguments"
        return self._frame(f"response.{name}.{kind}", item_id=one.id, output_index=one.place, **fields)

    def _whole_item(self, part: Media | Opaque) -> bytes:
        frames = self._close()
        encoded = item(part, self._asked.request_id, self._place, self.dropped)
        if encoded is None:
            return frames
        place = self._next()
        frames += self._frame("response.output_item.added", output_index=place, item=encoded)
        return frames + self._frame("response.output_item.done", output_index=place, item=encoded)

    # --- common

    def _close(self) -> bytes:
        """Close the message or the thought that is open."""
        if self._thought is not None:
            return self._close_thought()
        one = self._spoken
        if one is None:
            return b""
        frames = self._close_part()
        self._spoken = None
        item_ = message(one.id, one.done)
        return frames + self._frame("response.output_item.done", output_index=one.place, item=item_)

    def _next(self) -> int:
        self._place += 1
        return self._place - 1

    def _frame(self, kind: str, **fields: Any) -> bytes:
        body = jsonx.encode({"type": kind, "sequence_number": self._number, **fields})
        self._number += 1
        return b"event: " + kind.encode() + b"\ndata: " + body + b"\n\n"


class _Spoken:
    """The message that is open."""

    def __init__(self, id_: str, place: int) -> None:
        self.id = id_
        self.place = place
        self.kind: str | None = None
        """Of the content part that is open."""
        self.text = ""
        self.citations: list[Citation] = []
        self.done: list[dict[str, Any]] = []

    def part(self) -> Text | Refusal:
        return Refusal(self.text) if self.kind == "refusal" else Text(self.text, None, tuple(self.citations))


class _Thought:
    """The thought that is open."""

    def __init__(self, id_: str, place: int) -> None:
        self.id = id_
        self.place = place
        self.text = ""
        self.signed: Reasoning | None = None


class _Call:
    """A tool call that is open; several may be at once."""

    def __init__(self, id_: str, place: int, begun: ToolCall) -> None:
        self.id = id_
        self.place = place
        self.begun = begun
        self.said = ""
