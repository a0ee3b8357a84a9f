"""The tap of every stream that is understood event by event: translated ones, and passed ones of all wires but the lean
one of OpenAI chat. See base.StreamTap for the contract.
"""

from collections.abc import Iterable

from routerx.dialects.base import (
    TERMINAL_BYTES_MAX,
    Frame,
    Reply,
    Splitter,
    StreamDecoder,
    StreamEncoder,
)
from routerx.domain.chat import Finish
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
)
from routerx.domain.failure import Failure, FailureKind
from routerx.domain.usage import Usage


class EventTap:
    """The state of one stream. With an encoder the caller gets what it writes; without, the provider's own frames."""

    def __init__(
        self,
        decoder: StreamDecoder,
        splitter: Splitter,
        encoder: StreamEncoder | None,
        *,
        choices: int = 1,
        terminal_bytes_max: int = TERMINAL_BYTES_MAX,
    ) -> None:
        self.has_content = False
        self.done = False
        self.failure: Failure | None = None
        self.finished = False
        self.terminal = b""
        self.usage: Usage | None = None
        self.anomaly = False
        self.served_model: str | None = None
        self.response_id: str | None = None
        self.tier: str | None = None
        self.output_chars = 0
        self.missing_done = False
        self._stopped = True
        """Nothing has finished for another reason than that it was at its end."""
        self._made = False
        """Something came that is no text."""
        self._decoder = decoder
        self._splitter = splitter
        self._encoder = encoder
        self._choices = choices
        self._terminal_bytes_max = terminal_bytes_max
        self._finished_choices: set[int] = set()
        self._begun: set[int] = set()
        self._seen = False
        self._closed = False
        self._withheld: list[bytes] = []
        """Of `terminal`, not yet joined to it: frames may be many and small."""
        self._withheld_bytes = 0

    @property
    def empty(self) -> bool:
        return self._stopped and not self._made and self.output_chars == 0

    @property
    def dropped(self) -> frozenset[str]:
        """What the caller's wire could not say so far."""
        return frozenset() if self._encoder is None else frozenset(self._encoder.dropped)

    def feed(self, data: bytes) -> bytes:
        if self._closed or self.done or self.failure is not None:
            return b""
        raw, frames = self._splitter.feed(data)
        out: list[bytes] = []
        begin = 0
        for frame in frames:
            self._take(frame, raw[begin : frame.end], out)
            begin = frame.end
            if self.done or self.failure is not None:
                break
        else:
            if self._splitter.oversized:
                self.failure = _oversized("An event of the stream")
        self._join()
        return b"".join(out)

    def tell(self, events: Iterable[Event]) -> bytes:
        """Take a whole answer as events, in place of bytes (FAULTS.md 38). Needs an encoder."""
        out: list[bytes] = []
        self._encode(events, out)
        self._join()
        return b"".join(out)

    def close(self) -> Failure | None:
        if not self._closed:
            if not self.done and self.failure is None:
                self._take_tail()
            self._closed = True
            if self.failure is None:
                self._complete()
        return self.failure

    # --- frames

    def _take(self, frame: Frame, raw: bytes, out: list[bytes]) -> None:
        events = self._decoder.feed(frame) if frame.data else ()
        if self._encoder is not None:
            self._encode(events, out)
            return
        for event in events:
            self._learn(event)
        if self.failure is None:
            self._place(raw, out)

    def _encode(self, events: Iterable[Event], out: list[bytes]) -> None:
        assert self._encoder is not None
        for event in events:
            self._learn(event)
            if self.failure is not None:
                return
            piece = self._encoder.encode(event)
            if piece:
                self._place(piece, out)

    def _place(self, piece: bytes, out: list[bytes]) -> None:
        """What comes with the last finish or after it waits for the charge."""
        if not (self.finished or self.done):
            out.append(piece)
            return
        self._withheld.append(piece)
        self._withheld_bytes += len(piece)
        if self._withheld_bytes > self._terminal_bytes_max:
            self.failure = _oversized("What follows the last finish")

    def _join(self) -> None:
        if self._withheld:
            self.terminal += b"".join(self._withheld)
            self._withheld.clear()

    def _learn(self, event: Event) -> None:
        self._seen = True
        match event:
            case TextDelta() | RefusalDelta() | ReasoningDelta():
                self._begun.add(event.choice)
                self._generated(event.text)
            case ToolCallDelta():
                self._generated(event.arguments)
            case ToolCallStarted():
                self._begun.add(event.choice)
                self._generated(event.name)
                self._made = True
            case ReasoningSigned() | MediaMade() | OpaqueMade():
                self.has_content = self._made = True
            case Finished():
                self.has_content = True
                self._stopped = self._stopped and event.finish is Finish.STOP
                self._finished_choices.add(event.choice)
                self.finished = len(self._finished_choices) >= self._choices
            case Reported():
                self.anomaly = self.anomaly or event.anomaly
                self.usage = event.usage
                self.tier = event.tier if event.tier is not None else self.tier
            case Began():
                self.response_id, self.served_model, self.tier = event.id, event.model, event.tier
            case Ended():
                self.done = True
            case Failed():
                self.failure = event.failure
            case Cited() | ToolCallEnded():
                pass

    def _generated(self, text: str) -> None:
        self.has_content = True
        self.output_chars += len(text) if text.isascii() else len(text.encode("utf-8", "replace"))

    # --- the end

    def _take_tail(self) -> None:
        """An event whose closing blank line never came, and what the decoder still owes."""
        raw, frame = self._splitter.finish()
        out: list[bytes] = []
        if frame is not None:
            broken_before = self.failure
            self._take(frame, raw, out)
            if self.failure is not None and self.failure.kind is FailureKind.INVALID_CHUNK:
                self.failure = broken_before  # Cut short: _complete decides what that means.
        if self.failure is None:
            events = self._decoder.finish()
            if self._encoder is not None:
                self._encode(events, out)
            else:
                for event in events:
                    self._learn(event)
        # Too late to flow: whoever is told the rest is told the end with it.
        self.terminal += b"".join(out)
        self._join()

    def _is_all_there_is(self) -> bool:
        """On a wire without an end mark: something has finished, and nothing that began has not. A provider may answer
        with fewer choices than were asked for, or refuse the prompt for all of them at once."""
        return not self._decoder.end_mark and bool(self._finished_choices) and self._begun <= self._finished_choices

    def _complete(self) -> None:
        usage = self.usage
        self.anomaly = self.anomaly or (usage is not None and usage.output_tokens == 0 and self.output_chars > 0)
        if not self.has_content and (self.done or not self._seen):
            self.failure = Failure(FailureKind.EMPTY, "The provider's stream ended without any content.")
        elif not (self.done or self.finished or self._is_all_there_is()):
            self.failure = Failure(FailureKind.TRUNCATED, "The provider's stream ended before the answer was finished.")
        else:
            self.missing_done = not self.done and bool(self._decoder.end_mark)
            if self._encoder is not None:
                self.terminal += self._encoder.end()
            elif self.missing_done:
                self.terminal += self._decoder.end_mark


def judged(events: Iterable[Event]) -> Reply | Failure:
    """What the gateway learns from a whole answer that is told as events (base.Dialect.read_reply)."""
    usage: Usage | None = None
    anomaly = seen = made = cut = False
    model: str | None = None
    tier: str | None = None
    size = 0
    for event in events:
        match event:
            case TextDelta() | RefusalDelta() | ReasoningDelta():
                size += len(event.text.encode("utf-8", "replace"))
            case ToolCallDelta():
                size += len(event.arguments.encode("utf-8", "replace"))
            case Finished():
                seen, cut = True, cut or event.finish is not Finish.STOP
            case MediaMade() | OpaqueMade() | ToolCallStarted():
                seen = made = True
            case Reported():
                usage, anomaly = event.usage, anomaly or event.anomaly
                tier = event.tier if event.tier is not None else tier
            case Began():
                model, tier = event.model, event.tier
            case Failed():
                return event.failure
    if not (size or seen or usage is not None):
        return Failure(FailureKind.EMPTY, "The provider sent an answer without any content.")
    empty = not (size or made or cut)
    if usage is not None and usage.output_tokens:
        size = 0
    return Reply(usage, anomaly or (usage is not None and size > 0), model, size, tier=tier, empty=empty)


def _oversized(what: str) -> Failure:
    return Failure(FailureKind.EVENT_TOO_LARGE, f"{what} is too long to be passed on.")
