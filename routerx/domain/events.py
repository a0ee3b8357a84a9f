"""A streamed answer as events, and the two ways between events and a whole Answer.

Order within one choice is the order of the wire. `Reported` is cumulative: the last one counts. After `Ended` nothing
follows; a stream that simply stops has no `Ended`.
"""

from collections.abc import Iterable

import msgspec

from routerx.domain.chat import (
    Answer,
    Choice,
    Citation,
    Finish,
    Media,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
)
from routerx.domain.failure import Failure
from routerx.domain.usage import Usage


class Began(msgspec.Struct, frozen=True, gc=False):
    """The first event, once; what is not known yet is None."""

    id: str | None = None
    model: str | None = None
    tier: str | None = None
    """The service tier, as pricing.tier_name() gives it."""


class TextDelta(msgspec.Struct, frozen=True, gc=False):
    """More text. Never empty."""

    text: str
    choice: int = 0


class RefusalDelta(msgspec.Struct, frozen=True, gc=False):
    """More of a refusal. Never empty."""

    text: str
    choice: int = 0


class Cited(msgspec.Struct, frozen=True, gc=False):
    """A source of the text so far."""

    citation: Citation
    choice: int = 0


class ReasoningDelta(msgspec.Struct, frozen=True, gc=False):
    """More thought. Never empty."""

    text: str
    choice: int = 0


class ReasoningSigned(msgspec.Struct, frozen=True, gc=False):
    """The thought that is open, or one without text, ends with this signature; see chat.Reasoning."""

    signature: str | None
    origin: str
    redacted: bool = False
    id: str | None = None
    choice: int = 0


class ToolCallStarted(msgspec.Struct, frozen=True, gc=False):
    """A tool call begins. `index` counts the tool calls of a choice from 0, without gaps."""

    index: int
    id: str
    name: str
    signature: str | None = None
    origin: str | None = None
    custom: bool = False
    choice: int = 0


class ToolCallDelta(msgspec.Struct, frozen=True, gc=False):
    """More of its arguments. Never empty."""

    index: int
    arguments: str
    choice: int = 0


class ToolCallEnded(msgspec.Struct, frozen=True, gc=False):
    """The arguments are whole; a call without any has had the delta `{}` before this."""

    index: int
    choice: int = 0


class MediaMade(msgspec.Struct, frozen=True, gc=False):
    """The model made a picture or a sound."""

    media: Media
    choice: int = 0


class OpaqueMade(msgspec.Struct, frozen=True, gc=False):
    """A part that only one dialect understands."""

    part: Opaque
    choice: int = 0


class Finished(msgspec.Struct, frozen=True, gc=False):
    """A choice is whole. Follows its last part; once per choice."""

    finish: Finish
    native: str | None = None
    stop_sequence: str | None = None
    choice: int = 0


class Reported(msgspec.Struct, frozen=True, gc=False):
    """Usage so far. None with `anomaly`: a report came that cannot be used."""

    usage: Usage | None
    anomaly: bool = False
    tier: str | None = None
    """The service tier, where it is told now; it may be another one than at the beginning."""


class Ended(msgspec.Struct, frozen=True, gc=False):
    """The stream's own end mark."""


class Failed(msgspec.Struct, frozen=True):
    """An error inside the stream, or a frame that is none. Nothing follows."""

    failure: Failure


Event = (
    Began
    | TextDelta
    | RefusalDelta
    | Cited
    | ReasoningDelta
    | ReasoningSigned
    | ToolCallStarted
    | ToolCallDelta
    | ToolCallEnded
    | MediaMade
    | OpaqueMade
    | Finished
    | Reported
    | Ended
    | Failed
)


def events_of(answer: Answer) -> list[Event]:
    """A whole answer told as a stream: fold(events_of(x)) is x where adjacent texts are one part."""
    events: list[Event] = [Began(answer.id, answer.model, answer.service_tier)]
    for index, choice in enumerate(answer.choices):
        calls = 0
        for part in choice.parts:
            match part:
                case Text():
                    if part.text:
                        events.append(TextDelta(part.text, index))
                    events += [Cited(citation, index) for citation in part.citations]
                case Refusal():
                    events.append(RefusalDelta(part.text, index))
                case Reasoning():
                    if part.text:
                        events.append(ReasoningDelta(part.text, index))
                    if part.origin is not None:
                        events.append(ReasoningSigned(part.signature, part.origin, part.redacted, part.id, index))
                case ToolCall():
                    events += [
                        ToolCallStarted(calls, part.id, part.name, part.signature, part.origin, part.custom, index),
                        ToolCallDelta(calls, part.arguments, index),
                        ToolCallEnded(calls, index),
                    ]
                    calls += 1
                case Media():
                    events.append(MediaMade(part, index))
                case Opaque():
                    events.append(OpaqueMade(part, index))
        if choice.finish is not None:
            events.append(Finished(choice.finish, choice.native_finish, choice.stop_sequence, index))
    if answer.usage is not None:
        events.append(Reported(answer.usage))
    events.append(Ended())
    return events


def fold(events: Iterable[Event]) -> Answer:
    """The answer that a stream of events adds up to. A Failed event ends it where it stands."""
    id_ = model = tier = None
    usage: Usage | None = None
    choices: dict[int, _Folding] = {}
    for event in events:
        match event:
            case Began():
                id_, model, tier = event.id, event.model, event.tier
            case Reported():
                usage, tier = event.usage, event.tier if event.tier is not None else tier
            case Ended():
                pass
            case Failed():
                break
            case _:
                choices.setdefault(event.choice, _Folding()).take(event)
    return Answer(
        choices=tuple(choices[index].choice() for index in sorted(choices)) or (Choice((), None),),
        id=id_,
        model=model,
        usage=usage,
        service_tier=tier,
    )


class _Folding:
    """One choice while it grows."""

    def __init__(self) -> None:
        self._parts: list[Part] = []
        self._calls: dict[int, int] = {}
        """Index of a tool call to its place among the parts."""
        self._open: type | None = None
        """The kind of part that the next delta of its kind continues."""
        self._finished: Finished | None = None

    def take(self, event: Event) -> None:
        match event:
            case TextDelta():
                self._text(event.text)
            case Cited():
                self._text("", (event.citation,))
            case RefusalDelta():
                self._grow(Refusal(event.text))
            case ReasoningDelta():
                self._grow(Reasoning(event.text))
            case ReasoningSigned():
                self._sign(event)
            case ToolCallStarted():
                self._calls[event.index] = len(self._parts)
                self._add(ToolCall(event.id, event.name, "", event.signature, event.origin, event.custom))
            case ToolCallDelta():
                place = self._calls[event.index]
                call = self._parts[place]
                assert isinstance(call, ToolCall)
                self._parts[place] = msgspec.structs.replace(call, arguments=call.arguments + event.arguments)
            case MediaMade():
                self._add(event.media)
            case OpaqueMade():
                self._add(event.part)
            case Finished():
                self._finished = event

    def choice(self) -> Choice:
        end = self._finished
        if end is None:
            return Choice(tuple(self._parts), None)
        return Choice(tuple(self._parts), end.finish, end.native, end.stop_sequence)

    def _add(self, part: Part) -> None:
        self._parts.append(part)
        self._open = None

    def _text(self, text: str, citations: tuple[Citation, ...] = ()) -> None:
        last = self._parts[-1] if self._open is Text else None
        if isinstance(last, Text):
            self._parts[-1] = Text(last.text + text, None, last.citations + citations)
        else:
            self._parts.append(Text(text, None, citations))
            self._open = Text

    def _grow(self, part: Refusal | Reasoning) -> None:
        last = self._parts[-1] if self._open is type(part) else None
        if last is not None:
            assert isinstance(last, Refusal | Reasoning)
            self._parts[-1] = msgspec.structs.replace(last, text=last.text + part.text)
        else:
            self._parts.append(part)
            self._open = type(part)

    def _sign(self, event: ReasoningSigned) -> None:
        if self._open is Reasoning:
            last = self._parts.pop()
            assert isinstance(last, Reasoning)
            text = last.text
        else:
            text = ""
        self._add(Reasoning(text, event.signature, event.origin, event.redacted, event.id))
