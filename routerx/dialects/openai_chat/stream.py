"""Streams of chat as events, both ways. The tap of a stream that passes is tap.py's."""

from collections.abc import Iterable, Iterator, Sequence
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec import structs

from routerx import jsonx
from routerx.dialects.base import Asked, Frame
from routerx.dialects.classify import failure_in_band
from routerx.dialects.leniently import decode_or_none
from routerx.dialects.media import from_url, kind_of
from routerx.dialects.openai_chat.answer import FINISHES, annotation, image
from routerx.dialects.openai_chat.reasoning import from_details, items_of, plain_text
from routerx.dialects.openai_chat.tap import DONE, DONE_FRAME
from routerx.dialects.openai_chat.usage import UsageReader
from routerx.dialects.openai_chat.usage_out import usage_object
from routerx.dialects.signatures import pack_call_id
from routerx.domain.chat import Answer, Citation, Finish, MediaKind, Opaque, Reasoning
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
from routerx.domain.pricing import tier_name
from routerx.domain.usage import Usage
from routerx.errors import InvalidParameter

ORIGIN = "openai"
_NATIVE_FINISHES = MappingProxyType(
    {
        "stop": Finish.STOP,
        "eos": Finish.STOP,
        "end_turn": Finish.STOP,
        "stop_sequence": Finish.STOP,
        "completed": Finish.STOP,
        "length": Finish.LENGTH,
        "max_tokens": Finish.LENGTH,
        "model_length": Finish.LENGTH,
        "tool_calls": Finish.TOOL_CALLS,
        "tool_use": Finish.TOOL_CALLS,
        "function_call": Finish.TOOL_CALLS,
        "content_filter": Finish.CONTENT_FILTER,
        "safety": Finish.CONTENT_FILTER,
    }
)
_any_decoder = msgspec.json.Decoder()


# --- from providers ----------------------------------------------------------------------------------------------


def decode_answer(body: bytes, seed: str) -> Answer:
    """See dialects.base.ChatTarget: a whole answer is read as the one chunk of a stream."""
    value = decode_or_none(_any_decoder, body)
    chunk = dict(value) if isinstance(value, dict) else {}
    choices = list(_dicts(chunk.get("choices")))
    named = len({str(choice.get("index")) for choice in choices}) == len(choices)
    whole = []
    for place, choice in enumerate(choices):
        told = {"index": choice.get("index") if named else place, "delta": _numbered(choice.get("message"))}
        whole.append({**told, "finish_reason": choice.get("finish_reason") or "stop"})
    decoder = Decoder(seed)
    return fold([*decoder.read({**chunk, "choices": whole}), *decoder.finish()])


def _numbered(message: Any) -> Any:
    """A whole message, whose every item of `tool_calls` is a call of its own, whatever index it names."""
    if not isinstance(message, dict):
        return message
    calls = _dicts(message.get("tool_calls"))
    return {**message, "tool_calls": [{**call, "index": place} for place, call in enumerate(calls)]}


class Decoder:
    """See dialects.base.StreamDecoder."""

    end_mark = DONE_FRAME

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._began = False
        self._choices: dict[int, _Choice] = {}
        self._reports = UsageReader(generates=True)

    def feed(self, frame: Frame) -> Sequence[Event]:
        data = frame.data
        if not data:
            return ()
        if data.strip() == DONE:
            return [*self.finish(), Ended()]
        value = decode_or_none(_any_decoder, data)
        if frame.event == b"error":
            return [Failed(failure_in_band(value, otherwise=FailureKind.ERROR_MIDSTREAM))]
        if not isinstance(value, dict):
            return [
                Failed(Failure(FailureKind.INVALID_CHUNK, "The provider sent an event that is no chat chunk.")),
            ]
        return self.read(value)

    def read(self, chunk: dict[str, Any]) -> list[Event]:
        """The events of one chunk."""
        envelope = chunk.get("x_groq")  # The name is on the wire.
        envelope = envelope if isinstance(envelope, dict) else {}
        events: list[Event] = []
        choices = chunk.get("choices")
        error = chunk.get("error") or envelope.get("error")
        if error:
            choices = None
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                index = choice.get("index")
                index = index if type(index) is int and index >= 0 else 0
                if index not in self._choices:
                    self._choices[index] = _Choice(index, self._seed)
                events += self._choices[index].take(choice)
        for report in (envelope.get("usage"), chunk.get("usage")):
            if report is not None:
                self._report(report, events, tier_name(chunk.get("service_tier")))
        if not self._began and (events or choices):
            # One vendor's first chunk holds nothing, not even its names.
            self._began = True
            tier = tier_name(chunk.get("service_tier"))
            events.insert(0, Began(_text(chunk.get("id")), _text(chunk.get("model")), tier))
        if error:
            events.append(Failed(failure_in_band(error, otherwise=FailureKind.ERROR_MIDSTREAM)))
        return events

    def finish(self) -> Sequence[Event]:
        return [event for choice in self._choices.values() for event in choice.end()]

    def _report(self, report: Any, events: list[Event], tier: str | None) -> None:
        before = self._reports.usage, self._reports.anomaly
        self._reports.read(msgspec.Raw(jsonx.encode(report)))
        if (self._reports.usage, self._reports.anomaly) != before:
            events.append(Reported(self._reports.usage, self._reports.anomaly, tier))


class _Call:
    """A tool call that is being told."""

    __slots__ = ("custom", "held", "id", "index", "sent", "wire_index")

    def __init__(self, index: int, wire_index: Any, id_: str | None, *, custom: bool) -> None:
        self.index = index
        self.wire_index = wire_index
        self.id = id_
        """As the provider has it."""
        self.custom = custom
        self.held = ""
        """What may yet turn out to be a `null`, which some servers send in place of no arguments."""
        self.sent = False


class _Choice:
    """One choice of a stream."""

    def __init__(self, index: int, seed: str) -> None:
        self._index = index
        self._seed = seed
        self._calls: list[_Call] = []
        self._told = ""
        """The thought that is open."""
        self._finished = False

    def take(self, choice: dict[str, Any]) -> Iterator[Event]:
        delta = choice.get("delta")
        if isinstance(delta, dict) and not self._finished:
            for event in self._delta(delta):
                self._note(event)
                yield event
        finish = choice.get("finish_reason")
        if finish and not self._finished:
            yield from self.end()
            native = str(finish)
            kind = _NATIVE_FINISHES.get(native.lower(), Finish.OTHER)
            if kind is Finish.STOP and self._calls:
                kind = Finish.TOOL_CALLS
            yield Finished(kind, native, choice=self._index)

    def end(self) -> Iterator[Event]:
        """The ends of its tool calls, once."""
        if not self._finished:
            self._finished = True
            for call in self._calls:
                yield from self._end(call)

    def _note(self, event: Event) -> None:
        match event:
            case ReasoningDelta():
                self._told += event.text
            case ToolCallDelta():
                pass
            case _:
                self._told = ""

    def _delta(self, delta: dict[str, Any]) -> Iterator[Event]:
        yield from self._thoughts(delta)
        yield from self._content(delta.get("content"))
        refusal = delta.get("refusal")
        if isinstance(refusal, str) and refusal:
            yield RefusalDelta(refusal, self._index)
        for item in _dicts(delta.get("annotations")):
            yield from self._citation(item)
        for item in _dicts(delta.get("images")):
            yield from self._image(item)
        if isinstance(delta.get("audio"), dict):
            value = msgspec.Raw(jsonx.encode(delta["audio"]))
            yield OpaqueMade(Opaque(ORIGIN, "audio", value), self._index)
        calls = delta.get("tool_calls")
        for call in _dicts(calls):
            yield from self._call(call)
        legacy = delta.get("function_call")
        if isinstance(legacy, dict):
            name = _text(legacy.get("name"))
            id_ = None if name is None else f"call_{name}"
            yield from self._call({"index": "legacy", "id": id_, "function": legacy})

    # --- content

    def _content(self, content: Any) -> Iterator[Event]:
        """Text, or a list of typed parts as one vendor has it."""
        if isinstance(content, str):
            if content:
                yield TextDelta(content, self._index)
            return
        for item in _dicts(content):
            if item.get("type") == "thinking":
                thought = plain_text(item.get("thinking"))
                if thought:
                    yield ReasoningDelta(thought, self._index)
            elif isinstance(item.get("text"), str):
                if item["text"]:
                    yield TextDelta(item["text"], self._index)
            elif item.get("type") == "image_url":
                yield from self._image(item)
            else:
                part = Opaque(ORIGIN, _text(item.get("type")) or "content", msgspec.Raw(jsonx.encode(item)))
                yield OpaqueMade(part, self._index)

    def _thoughts(self, delta: dict[str, Any]) -> Iterator[Event]:
        """Text under either name, once; what somebody signed ends a thought."""
        items = from_details(delta.get("reasoning_details"))
        text = plain_text(delta.get("reasoning_content")) or plain_text(delta.get("reasoning"))
        told = "".join(thought.text for thought in items)
        if text and (not told or "".join(text.split()) != "".join(told.split())):
            yield ReasoningDelta(text, self._index)
            items = [structs.replace(thought, text="") for thought in items]
        for thought in items:
            # Some repeat a whole thought beside its signature, RouterX among them.
            if thought.text and (thought.origin is None or thought.text != self._told):
                yield ReasoningDelta(thought.text, self._index)
            if thought.origin is not None:
                yield ReasoningSigned(thought.signature, thought.origin, thought.redacted, thought.id, self._index)

    def _citation(self, item: dict[str, Any]) -> Iterator[Event]:
        source = item.get("url_citation")
        if isinstance(source, dict) and isinstance(source.get("url"), str):
            yield Cited(Citation(source["url"], _text(source.get("title")), _text(source.get("content"))), self._index)

    def _image(self, item: dict[str, Any]) -> Iterator[Event]:
        target = item.get("image_url")
        url = target.get("url") if isinstance(target, dict) else target
        if isinstance(url, str):
            try:
                media = from_url(MediaKind.IMAGE, url, "image_url")
            except InvalidParameter:
                return
            if media.mime is None or kind_of(media.mime) is MediaKind.IMAGE:
                yield MediaMade(media, self._index)

    # --- tool calls

    def _call(self, item: dict[str, Any]) -> Iterator[Event]:
        custom = isinstance(item.get("custom"), dict)
        function = item["custom"] if custom else item.get("function")
        function = function if isinstance(function, dict) else {}
        name = _text(function.get("name"))
        call = self._open(item, name)
        if call is None:
            number, id_ = len(self._calls), _text(item.get("id"))
            call = _Call(number, item.get("index"), id_, custom=custom)
            if id_ is None or any(other.id == id_ for other in self._calls):
                # No longer than it must be: see ids.CALL_ID_CHARS_MAX.
                id_ = f"call_{self._seed}_{self._index}_{number}" if self._index else f"call_{self._seed}_{number}"
            self._calls.append(call)
            signature = _google_signature(item)
            origin = "gemini" if signature is not None else None
            yield ToolCallStarted(number, id_, name or "", signature, origin, custom, self._index)
        arguments = function.get("input" if custom else "arguments")
        if arguments is not None and not isinstance(arguments, str):
            arguments = jsonx.encode(arguments).decode()
        if arguments:
            yield from self._more(call, arguments)

    def _open(self, item: dict[str, Any], name: str | None) -> _Call | None:
        """The call that an item goes on with; None for a new one. Some servers leave the index out, or use it again for
        another call, which then has a name and an id of its own."""
        index, id_ = item.get("index"), _text(item.get("id"))
        if index is None and id_ is None and self._calls:
            return self._calls[-1]
        for call in reversed(self._calls):
            if index is None:
                if call.id == id_:
                    return call
            elif call.wire_index == index:
                return call if id_ is None or name is None or call.id == id_ else None
        return None

    def _more(self, call: _Call, text: str) -> Iterator[Event]:
        if not call.sent and not call.custom:
            text = call.held + text
            if "null".startswith(text.strip()):
                call.held = text
                return
            call.held = ""
        call.sent = True
        yield ToolCallDelta(call.index, text, self._index)

    def _end(self, call: _Call) -> Iterator[Event]:
        if not call.sent and not call.custom:
            yield ToolCallDelta(call.index, "{}" if call.held.strip() in ("", "null") else call.held, self._index)
        yield ToolCallEnded(call.index, self._index)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _dicts(value: Any) -> Iterable[dict[str, Any]]:
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else ()


def _google_signature(item: dict[str, Any]) -> str | None:
    extra = item.get("extra_content")
    google = extra.get("google") if isinstance(extra, dict) else None
    return _text(google.get("thought_signature")) if isinstance(google, dict) else None


# --- to callers --------------------------------------------------------------------------------------------------


class Encoder:
    """See dialects.base.StreamEncoder."""

    def __init__(self, asked: Asked) -> None:
        self.dropped: set[str] = {"logprobs"} if asked.request.logprobs else set()
        self._asked = asked
        self._head: dict[str, Any] = {}
        self._usage: Usage | None = None
        self._told: set[int] = set()
        """Choices whose role has been said."""
        self._finished: set[int] = set()
        self._thoughts: dict[int, list[str]] = {}
        """Text of the thought that is open, by choice."""
        self._counts: dict[tuple[int, str], int] = {}
        """How many items of a list were told, by choice and key."""
        self._called: set[int] = set()
        """Choices that call tools."""
        self._custom: set[tuple[int, int]] = set()
        """Calls that take free text, by choice and index."""

    def encode(self, event: Event) -> bytes:
        match event:
            case Began():
                self._begin(event)
                return b""
            case Reported():
                self._usage = event.usage
                return b""
            case Ended() | Failed() | ToolCallEnded():
                return b""
            case Finished():
                self._finished.add(event.choice)
                return self._finish(event)
        delta = self._delta(event)
        return b"" if delta is None else self._chunk(event.choice, delta)

    def end(self) -> bytes:
        frames = b""
        for choice in sorted(self._told | {0}):  # A provider may make fewer than were asked for.
            if choice not in self._finished:
                finish = Finish.TOOL_CALLS if choice in self._called else Finish.STOP
                frames += self._finish(Finished(finish, choice=choice))
        if self._usage is not None and self._asked.request.wants_usage:
            frames += _frame({**self._heading(), "choices": [], "usage": usage_object(self._usage)})
        return frames + DONE_FRAME

    def _begin(self, event: Began) -> None:
        asked = self._asked
        self._head = {
            "id": event.id if event.id is not None else f"chatcmpl-{asked.request_id}",
            "object": "chat.completion.chunk",
            "created": asked.created_s,
            "model": event.model if event.model is not None else asked.model,
        }

    def _heading(self) -> dict[str, Any]:
        if not self._head:
            self._begin(Began())
        return self._head

    def _chunk(self, choice: int, delta: dict[str, Any], **more: Any) -> bytes:
        if choice not in self._told:
            self._told.add(choice)
            delta = {"role": "assistant", "content": delta.get("content", ""), **delta}
        one = {"index": choice, "delta": delta, "finish_reason": None, **more}
        return _frame({**self._heading(), "choices": [one]})

    def _finish(self, event: Finished) -> bytes:
        more: dict[str, Any] = {"finish_reason": FINISHES[event.finish]}
        if event.native is not None:
            more["native_finish_reason"] = event.native
        return self._chunk(event.choice, {}, **more)

    def _delta(self, event: Event) -> dict[str, Any] | None:
        match event:
            case ReasoningDelta():
                self._thoughts.setdefault(event.choice, []).append(event.text)
                return {"reasoning_content": event.text}
            case ReasoningSigned():
                return self._signature(event)
            case ToolCallDelta():
                custom = (event.choice, event.index) in self._custom
                piece = {"input": event.arguments} if custom else {"arguments": event.arguments}
                return {"tool_calls": [{"index": event.index, "custom" if custom else "function": piece}]}
            case TextDelta() | RefusalDelta() | ToolCallStarted() | Cited() | MediaMade() | OpaqueMade():
                self._thoughts.pop(event.choice, None)  # Whoever signs now means what comes from here on.
                return self._said(event)
        return None

    def _said(self, event: Event) -> dict[str, Any] | None:
        match event:
            case TextDelta():
                return {"content": event.text}
            case RefusalDelta():
                return {"refusal": event.text}
            case ToolCallStarted():
                self._called.add(event.choice)
                if event.custom:
                    self._custom.add((event.choice, event.index))
                return {"tool_calls": [_started(event)]}
            case Cited():
                return {"annotations": self._listed("annotations", event.choice, [annotation(event.citation)])}
            case MediaMade():
                made = image(event.media, self.dropped)
                return None if made is None else {"images": self._listed("images", event.choice, [made])}
            case OpaqueMade():
                self.dropped.add(event.part.type)
        return None

    def _signature(self, event: ReasoningSigned) -> dict[str, Any] | None:
        """The whole thought again with its signature: who keeps the last item keeps what has to come back."""
        text = "".join(self._thoughts.pop(event.choice, ()))
        items = items_of(Reasoning(text, event.signature, event.origin, event.redacted, event.id), 0)
        return {"reasoning_details": self._listed("reasoning_details", event.choice, items)} if items else None

    def _listed(self, key: str, choice: int, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The items with their places in the whole list: the official client puts lists together by them, and raises
        without."""
        begin = self._counts.get((choice, key), 0)
        self._counts[choice, key] = begin + len(items)
        return [{**item, "index": place} for place, item in enumerate(items, begin)]


def _started(event: ToolCallStarted) -> dict[str, Any]:
    id_ = pack_call_id(event.id, event.origin, event.signature)
    if event.custom:
        return {"index": event.index, "id": id_, "type": "custom", "custom": {"name": event.name, "input": ""}}
    call: dict[str, Any] = {"index": event.index, "id": id_, "type": "function"}
    call["function"] = {"name": event.name, "arguments": ""}
    if event.origin == "gemini" and event.signature is not None:
        call["extra_content"] = {"google": {"thought_signature": event.signature}}
    return call


def _frame(value: dict[str, Any]) -> bytes:
    return b"data: " + jsonx.encode(value) + b"\n\n"
