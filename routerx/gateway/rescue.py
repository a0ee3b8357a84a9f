"""What a caller has of a stream that broke, and the proof that another stream goes on with exactly that. Pure.

A stream is rescued by a second answer to the same request whose beginning repeats, byte for byte, what was delivered:
only what comes after it flows. Where it says something else, an endpoint that can go on with a given beginning is given
what was delivered as one. Neither is possible within tool calls, signed thoughts or several choices: what was delivered
of these cannot be repeated or gone on with by another model.
"""

from collections.abc import Iterable, Iterator, Sequence
from enum import Enum

import msgspec

from routerx.dialects.base import Dialect, Frame, Splitter, StreamDecoder
from routerx.domain.chat import ChatRequest, Message, Role, Text
from routerx.domain.events import Began, Ended, Event, Failed, ReasoningDelta, Reported, TextDelta
from routerx.domain.failure import Failure, FailureKind, Next

PENDING_BYTES_MAX = 128 * 1024
"""Delivered frames kept as they are; beyond it they are read, and only their text is kept."""
ECHO_CHARS = 24
"""A continuation that begins with so much of what it was given says it again; with less, nobody can tell."""
TEXT_CHARS_MAX = 1024 * 1024
"""Longer texts are not kept: such a stream cannot be rescued."""


class Run(Enum):
    """What a stretch of an answer is."""

    TEXT = "text"
    THOUGHT = "thought"


class Delivered(msgspec.Struct, frozen=True):
    """What the caller has of one choice."""

    began: Began
    runs: tuple[tuple[Run, str], ...]
    deltas: int
    """In how many pieces."""

    @property
    def text(self) -> str | None:
        """All of it, where it is nothing but text."""
        if all(kind is Run.TEXT for kind, _ in self.runs):
            return "".join(text for _, text in self.runs)
        return None

    def retold(self) -> Iterator[Event]:
        """Events that bring an encoder to where the caller is, in as many pieces as the caller had."""
        yield self.began
        spare = self.deltas - len(self.runs)
        for kind, text in self.runs:
            pieces = min(max(spare, 0), len(text) - 1)
            spare -= pieces
            for piece in (*text[:pieces], text[pieces:]):
                yield TextDelta(piece) if kind is Run.TEXT else ReasoningDelta(piece)


class Transcript:
    """Keeps what flows to one caller, cheaply, until it is asked what that was."""

    __slots__ = ("_began", "_decoder", "_deltas", "_frames", "_lost", "_pending", "_pending_bytes", "_runs", "_size")

    def __init__(self, wire: Dialect, request_id: str) -> None:
        """`wire`: the caller's."""
        self._decoder: StreamDecoder = wire.target.decoder(request_id)
        self._frames: Splitter = wire.target.splitter()
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._began = Began()
        self._runs: list[tuple[Run, list[str]]] = []
        self._size = 0
        self._deltas = 0
        self._lost = False
        """Something was delivered that nobody can go on with."""

    def add(self, data: bytes) -> None:
        if self._lost:
            return
        self._pending.append(data)
        self._pending_bytes += len(data)
        if self._pending_bytes > PENDING_BYTES_MAX:
            self._read()

    def delivered(self) -> Delivered | None:
        """None where a rescue is out of the question."""
        self._read()
        if self._lost:
            return None
        runs = tuple((kind, "".join(pieces)) for kind, pieces in self._runs)
        return Delivered(self._began, runs, self._deltas)

    def _read(self) -> None:
        if self._pending and not self._lost:
            data = b"".join(self._pending)
            for frame in self._frames.feed(data)[1]:
                if frame.data:
                    for event in self._decoder.feed(frame):
                        self._learn(event)
        self._pending.clear()
        self._pending_bytes = 0

    def _learn(self, event: Event) -> None:
        match event:
            case Began():
                # A continuation tells its own beginning to nobody, so the first one is the caller's.
                self._began = event if self._began == Began() else self._began
            case TextDelta(choice=0):
                self._say(Run.TEXT, event.text)
            case ReasoningDelta(choice=0):
                self._say(Run.THOUGHT, event.text)
            case Reported():
                pass
            case _:
                self._lost = True

    def _say(self, kind: Run, text: str) -> None:
        if not self._runs or self._runs[-1][0] is not kind:
            self._runs.append((kind, []))
        self._runs[-1][1].append(text)
        self._deltas += 1
        self._size += len(text)
        if self._size > TEXT_CHARS_MAX:
            self._lost = True


class Rejoin(msgspec.Struct, frozen=True):
    """How a stream takes up where another one broke off."""

    delivered: Delivered
    runs: tuple[tuple[Run, str], ...]
    """What it has to repeat before anything of it flows."""
    given: str = ""
    """What it was given as the beginning of its answer."""


class Rejoining:
    """A decoder of the stream that is to go on: holds back what the caller has already, and fails where this is not
    what it says. See dialects.base.StreamDecoder."""

    def __init__(self, decoder: StreamDecoder, rejoin: Rejoin) -> None:
        self.end_mark = decoder.end_mark
        self.has_begun = False
        """Something has come that agrees: the stream is alive."""
        self._decoder = decoder
        self._id = rejoin.delivered.began.id
        self._runs = list(rejoin.runs)
        self._given = rejoin.given if len(rejoin.given) >= ECHO_CHARS else ""
        """What might be said again, until it is known whether it is."""
        self._opening = ""
        """What was said so far that might be that."""
        self._at = 0
        """Characters of the first of `_runs` that have come."""

    def feed(self, frame: Frame) -> Sequence[Event]:
        return self.keep(self._decoder.feed(frame))

    def finish(self) -> Sequence[Event]:
        return self.keep(self._decoder.finish())

    def keep(self, events: Iterable[Event]) -> Sequence[Event]:
        """Of events of the provider those that go on from what the caller has."""
        kept: list[Event] = []
        for event in events:
            match event:
                case Began():  # The caller's answer keeps its name; who goes on with it is told.
                    kept.append(Began(self._id, event.model, event.tier))
                case Reported():
                    kept.append(event)
                case TextDelta(choice=0) if self._given:
                    kept += self._opened(event.text)
                case _ if self._opening:
                    kept += (*self._continued(), *self.keep((event,)))
                case Ended() | Failed():
                    kept.append(event)
                case _ if not self._runs:
                    kept.append(event)
                case TextDelta(choice=0):
                    kept += self._compared(Run.TEXT, event.text)
                case ReasoningDelta(choice=0):
                    kept += self._compared(Run.THOUGHT, event.text)
                case _:
                    kept.append(_diverged())
            if kept and isinstance(kept[-1], Failed):
                break
        return kept

    def _opened(self, text: str) -> Sequence[Event]:
        """The first words of a stream that was given its beginning: it goes on, or says the beginning again, and then
        has to say all of it."""
        self.has_begun = True
        self._opening += text
        if self._given.startswith(self._opening[:ECHO_CHARS]):
            if len(self._opening) < ECHO_CHARS:
                return ()
            rest = "".join(run for _, run in self._runs)
            self._runs = [(Run.TEXT, self._given + rest)]
        return self._continued()

    def _continued(self) -> Sequence[Event]:
        opening, self._opening, self._given = self._opening, "", ""
        return self._compared(Run.TEXT, opening)

    def _compared(self, kind: Run, text: str) -> Sequence[Event]:
        self.has_begun = True
        while text and self._runs:
            wanted_kind, wanted = self._runs[0]
            if kind is not wanted_kind:
                # Thoughts on the way to a text that had none are nobody's: the caller cannot be told them any more.
                return () if kind is Run.THOUGHT and self._at == 0 else (_diverged(),)
            piece = text[: len(wanted) - self._at]
            if not wanted.startswith(piece, self._at):
                return (_diverged(),)
            self._at += len(piece)
            text = text[len(piece) :]
            if self._at == len(wanted):
                del self._runs[0]
                self._at = 0
        if not text:
            return ()
        return (TextDelta(text) if kind is Run.TEXT else ReasoningDelta(text),)


def restarted(delivered: Delivered) -> Rejoin:
    """Of a stream that answers the same request from its beginning."""
    return Rejoin(delivered, delivered.runs)


def continued(delivered: Delivered, text: str) -> Rejoin:
    """Of a stream that is given `text`, all that was delivered, as its beginning.

    White space at the end is not given, because some wires refuse it: it is expected instead.
    """
    given = text.rstrip()
    rest = text[len(given) :]
    return Rejoin(delivered, ((Run.TEXT, rest),) if rest else (), given)


def prefilled(request: ChatRequest, given: str) -> ChatRequest:
    """The request, with the beginning of its answer."""
    return msgspec.structs.replace(request, messages=(*request.messages, Message(Role.ASSISTANT, (Text(given),))))


def _diverged() -> Failed:
    message = "The provider's stream broke, and no other one goes on with the same text."
    return Failed(Failure(FailureKind.DIVERGED, message))


def is_worth_it(failure: Failure) -> bool:
    """Whether another endpoint may do better than the one that broke off."""
    return failure.rule.next is not Next.STOP and failure.kind is not FailureKind.TOTAL_TIMEOUT
