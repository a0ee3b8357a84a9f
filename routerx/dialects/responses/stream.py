"""Streams of Responses from providers as events; a whole response is read by the same steps, item by item."""

from collections.abc import Iterator, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from routerx import jsonx
from routerx.dialects.base import Frame
from routerx.dialects.classify import failure_in_band
from routerx.dialects.leniently import decode_or_none
from routerx.dialects.responses.errors import TABLE
from routerx.dialects.responses.request import IMAGE_TYPE, ORIGIN, thought_text
from routerx.dialects.responses.usage import read_usage
from routerx.dialects.signatures import UNSIGNED
from routerx.domain.chat import Answer, Citation, Finish, Media, MediaKind, Opaque
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

_INCOMPLETE = {"max_output_tokens": Finish.LENGTH, "max_tokens": Finish.LENGTH, "content_filter": Finish.CONTENT_FILTER}
_CALLS = ("function_call", "custom_tool_call")
_TEXT = "response.output_text.delta"
_CITED = "response.output_text.annotation.added"
_PARTS = MappingProxyType(
    {
        "response.reasoning_summary_part.added": "response.reasoning_summary_text.delta",
        "response.reasoning_part.added": "response.reasoning_text.delta",
    }
)
"""Events that begin a part of a thought → those by which it grows."""
_GROWTH = MappingProxyType(
    {
        _TEXT: "message",
        _CITED: "message",
        "response.refusal.delta": "message",
        "response.reasoning_summary_text.delta": "reasoning",
        "response.reasoning_text.delta": "reasoning",
        **dict.fromkeys(_PARTS, "reasoning"),
        "response.function_call_arguments.delta": "function_call",
        "response.custom_tool_call_input.delta": "custom_tool_call",
    }
)
"""Events by which an item grows → its type."""
FAILURES = ("failed", "cancelled")
"""Statuses of a response that is no answer."""
_ENDS = ("response.completed", "response.incomplete", "response.failed", "response.cancelled")
_any_decoder = msgspec.json.Decoder()


def decode_answer(body: bytes, seed: str) -> Answer:
    """See dialects.base.ChatTarget."""
    value = decode_or_none(_any_decoder, body)
    return fold(events_of_response(value if isinstance(value, dict) else {}, seed))


def events_of_response(response: dict[str, Any], seed: str) -> list[Event]:
    """A whole response as events."""
    decoder = Decoder(seed)
    events = list(decoder.begin(response))
    output = response.get("output")
    for place, item in enumerate(output if isinstance(output, list) else ()):
        if isinstance(item, dict):
            events += decoder.open(place, item)
            events += decoder.close(place, item)
    return [*events, *decoder.end(response)]


class Decoder:
    """See dialects.base.StreamDecoder."""

    end_mark = b""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._began = False
        self._items: dict[int | None, _Item] = {}
        self._kinds: set[str] = set()
        """Types of all items so far."""
        self._calls = 0
        self._searches = 0

    def feed(self, frame: Frame) -> Sequence[Event]:
        data = frame.data
        if not data or data.strip() == b"[DONE]":  # Some compatible servers add another wire's end mark.
            return ()
        value = decode_or_none(_any_decoder, data)
        if not isinstance(value, dict):
            return [Failed(Failure(FailureKind.INVALID_CHUNK, "The provider sent an event that is no response event."))]
        kind = value.get("type")
        return list(self._read(kind if isinstance(kind, str) else frame.event.decode(errors="replace"), value))

    def finish(self) -> Sequence[Event]:
        return ()

    def _read(self, kind: str, value: dict[str, Any]) -> Iterator[Event]:
        if kind == "error" or (not kind and value.get("error")):
            yield Failed(failure_in_band(value, otherwise=FailureKind.ERROR_MIDSTREAM, table=TABLE))
            return
        response = value.get("response")
        if kind in _ENDS:
            response = {"status": kind.removeprefix("response."), **(response if isinstance(response, dict) else {})}
        if isinstance(response, dict):
            if not self._began:
                yield from self.begin(response)
            if kind in _ENDS:
                yield from self._rest(response)
                yield from self.end(response)
            return
        place = value.get("output_index")
        place = place if isinstance(place, int) else None
        item = value.get("item")
        if kind == "response.output_item.added" and isinstance(item, dict):
            yield from self.open(place, item)
        elif kind == "response.output_item.done" and isinstance(item, dict):
            yield from self.close(place, item)
        elif kind in _GROWTH:
            yield from self._grow(kind, place, value)

    def _grow(self, kind: str, place: int | None, value: dict[str, Any]) -> Iterator[Event]:
        """More of an item; some servers never said that it began."""
        if place not in self._items:
            if _GROWTH[kind] in _CALLS:
                return  # Told when it is whole, with its name.
            yield from self.open(place, {"type": _GROWTH[kind]})
        item = self._items[place]
        if kind == _CITED:
            item.cited += 1
            yield from _cited(value.get("annotation"))
            return
        if kind in _PARTS:
            item.gap = item.gap or (item.told and item.voice == _PARTS[kind])
            return
        delta = _text(value.get("delta"))
        if delta is None or item.ended:
            return
        if _GROWTH[kind] == "reasoning" and item.voice not in (None, kind):
            return  # A summary beside the thought itself says the same again.
        item.told, item.voice = True, kind
        match _GROWTH[kind]:
            case "message":
                yield TextDelta(delta) if kind == _TEXT else RefusalDelta(delta)
            case "reasoning":
                yield ReasoningDelta(f"\n\n{delta}" if item.gap else delta)
                item.gap = False
            case _ if item.call is not None:
                yield ToolCallDelta(item.call, delta)

    # --- steps, of a stream and of a whole response

    def begin(self, response: dict[str, Any]) -> Iterator[Event]:
        self._began = True
        tier = tier_name(response.get("service_tier"))
        yield Began(_text(response.get("id")), _text(response.get("model")), tier)

    def open(self, place: int | None, item: dict[str, Any]) -> Iterator[Event]:
        if not self._began:
            yield from self.begin({})
        before = self._items.get(place)
        if before is not None:  # A server that does not count them.
            yield from self._end_call(before)
        kind = item.get("type")
        state = self._items[place] = _Item(kind if isinstance(kind, str) else "")
        self._kinds.add(state.kind)
        if state.kind in _CALLS:
            state.call = self._calls
            self._calls += 1
            id_ = _text(item.get("call_id")) or _text(item.get("id")) or f"call_{self._seed}_{state.call}"
            custom = kind == "custom_tool_call"
            yield ToolCallStarted(state.call, id_, _text(item.get("name")) or "", custom=custom)

    def close(self, place: int | None, item: dict[str, Any]) -> Iterator[Event]:
        """The item is whole; what of it has not been told yet is told now."""
        state = self._items.get(place)
        if state is None or state.closed or (state.kind != item.get("type") and not state.told):
            yield from self.open(place, item)
            state = self._items[place]
        state.closed = True
        if state.kind != item.get("type"):
            yield from self._end_call(state)
            return
        match item.get("type"):
            case "message":
                yield from self._message(state, item)
            case "reasoning":
                text = thought_text(item)
                if text and not state.told:
                    yield ReasoningDelta(text)
                encrypted = _text(item.get("encrypted_content"))
                if encrypted not in (None, UNSIGNED):  # The latter of another gateway of this kind.
                    yield ReasoningSigned(encrypted, ORIGIN, id=_text(item.get("id")))
            case "function_call" | "custom_tool_call" as kind:
                said = item.get("input" if kind == "custom_tool_call" else "arguments")
                yield from self._end_call(state, said if isinstance(said, str) else "")
            case "image_generation_call" if (made := _text(item.get("result"))) is not None:
                shape = _text(item.get("output_format"))
                mime = IMAGE_TYPE if shape is None else f"image/{shape}"
                yield MediaMade(Media(MediaKind.IMAGE, mime=mime, data=made))
            case str() as kind:
                self._searches += _is_search(item)
                yield OpaqueMade(Opaque(ORIGIN, kind, msgspec.Raw(jsonx.encode(item))))

    def _end_call(self, state: "_Item", said: str = "") -> Iterator[Event]:
        """The arguments are whole: `said`, where none came in pieces."""
        if state.call is None or state.ended:
            return
        state.ended = True
        if not state.told:
            empty = "" if state.kind == "custom_tool_call" else "{}"
            said = empty if said.strip() in ("", "null") else said
            if said:
                yield ToolCallDelta(state.call, said)
        yield ToolCallEnded(state.call)

    def _message(self, state: "_Item", item: dict[str, Any]) -> Iterator[Event]:
        content = item.get("content")
        for part in content if isinstance(content, list) else ():
            if not isinstance(part, dict):
                continue
            if not state.told:
                if text := _text(part.get("text")):
                    yield TextDelta(text)
                if refusal := _text(part.get("refusal")):
                    yield RefusalDelta(refusal)
            annotations = part.get("annotations")
            for one in annotations if isinstance(annotations, list) else ():
                if state.cited > 0:
                    state.cited -= 1  # Told when it was added.
                else:
                    yield from _cited(one)

    def _rest(self, response: dict[str, Any]) -> Iterator[Event]:
        """Items that a stream never closed, and those of kinds it never told of. That a place is new proves nothing:
        some servers leave thoughts out at last."""
        told = frozenset(self._kinds)
        output = response.get("output")
        for place, item in enumerate(output if isinstance(output, list) else ()):
            if not isinstance(item, dict):
                continue
            state = self._items.get(place)
            kind = item.get("type")
            if not isinstance(kind, str) or kind not in told:
                yield from self.close(-1 - place, item)
            elif state is not None and state.kind == kind and not state.closed:
                yield from self.close(place, item)

    def end(self, response: dict[str, Any]) -> Iterator[Event]:
        status, tier = response.get("status"), tier_name(response.get("service_tier"))
        usage, anomaly = read_usage(response.get("usage"))
        if usage is not None and self._searches:
            usage = msgspec.structs.replace(usage, searches=self._searches)
        if status in FAILURES or response.get("error"):
            if usage is not None or anomaly:
                yield Reported(usage, anomaly, tier)
            error = response.get("error") or {"message": f"The response is {status}."}
            yield Failed(failure_in_band({"error": error}, otherwise=FailureKind.ERROR_MIDSTREAM, table=TABLE))
            return
        for state in self._items.values():
            yield from self._end_call(state)
        details = response.get("incomplete_details")
        reason = _text(details.get("reason")) if isinstance(details, dict) else None
        if status == "incomplete" or reason is not None:
            yield Finished(_INCOMPLETE.get(reason or "", Finish.OTHER), reason)
        else:
            yield Finished(Finish.TOOL_CALLS if self._calls else Finish.STOP, _text(status))
        if usage is not None or anomaly:
            yield Reported(usage, anomaly, tier)
        yield Ended()


class _Item:
    """An output item that is being told."""

    __slots__ = ("call", "cited", "closed", "ended", "gap", "kind", "told", "voice")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.call: int | None = None
        self.told = False
        """Something of its content was streamed."""
        self.voice: str | None = None
        """The kind of event that did so last."""
        self.gap = False
        """A new part has begun, and nothing of it was told yet."""
        self.cited = 0
        """Sources that were streamed."""
        self.ended = False
        """Its tool call is whole."""
        self.closed = False


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _is_search(item: dict[str, Any]) -> bool:
    """Only searches cost; pages that are opened do not (OpenAI's reference, actions of `web_search_call`)."""
    action = item.get("action")
    kind = action.get("type") if isinstance(action, dict) else None
    return item.get("type") == "web_search_call" and kind in (None, "search")


def _cited(value: Any) -> Iterator[Event]:
    if isinstance(value, dict) and (url := _text(value.get("url"))):
        yield Cited(Citation(url, _text(value.get("title"))))
