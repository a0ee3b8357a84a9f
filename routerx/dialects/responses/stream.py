"""Streams of Responses from providers as events; a whole response is read by the same steps, item by item."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from routerx import jsonx
from routerx.dialects.base import Frame
from routerx.dialects.classify import failure_in_band
from routerx.dialects.leniently import decode_or_none
from routerx.dialects.responses.request import ORIGIN, thought_text
from routerx.dialects.responses.usage import read_usage
from routerx.domain.chat import Answer, Citation, Finish, Opaque
from routerx.domain.events import (
    Began,
    Cited,
    Ended,
    Event,
    Failed,
    Finished,
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

_INCOMPLETE = {"max_output_tokens": Finish.LENGTH, "max_tokens": Finish.LENGTH, "content_filter": Finish.CONTENT_FILTER}
_CALLS = ("function_call", "custom_tool_call")
_THOUGHTS = ("response.reasoning_summary_text.delta", "response.reasoning_text.delta")
_PARTS = ("response.reasoning_summary_part.added", "response.reasoning_part.added")
_ENDS = ("response.completed", "response.incomplete", "response.failed", "response.cancelled")
_any_decoder = msgspec.json.Decoder()


def decode_answer(body: bytes, seed: str) -> Answer:
    """See dialects.base.ChatTarget. Ids are the vendor's own; the seed is not needed."""
    value = decode_or_none(_any_decoder, body)
    return fold(events_of_response(value if isinstance(value, dict) else {}))


def events_of_response(response: dict[str, Any]) -> list[Event]:
    """A whole response as events."""
    decoder = Decoder()
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

    def __init__(self) -> None:
        self._began = False
        self._items: dict[Any, _Item] = {}
        self._calls = 0
        self._searches = 0

    def feed(self, frame: Frame) -> Sequence[Event]:
        data = frame.data
        if not data or data.strip() == b"[DONE]":  # Some compatible servers add another wire's end mark.
            return ()
        value = decode_or_none(_any_decoder, data)
        if not isinstance(value, dict):
            return [Failed(Failure(FailureKind.INVALID_CHUNK, "The provider sent an event that is no response event."))]
        return list(self._read(value))

    def finish(self) -> Sequence[Event]:
        return ()

    def _read(self, value: dict[str, Any]) -> Iterator[Event]:
        kind = value.get("type")
        if kind == "error" or (kind is None and value.get("error")):
            yield Failed(failure_in_band(value, otherwise=FailureKind.ERROR_MIDSTREAM))
            return
        response = value.get("response")
        if isinstance(response, dict):
            if not self._began:
                yield from self.begin(response)
            if kind in _ENDS:
                yield from self._rest(response)
                yield from self.end(response)
            return
        place = value.get("output_index")
        item = value.get("item")
        if kind == "response.output_item.added" and isinstance(item, dict):
            yield from self.open(place, item)
        elif kind == "response.output_item.done" and isinstance(item, dict):
            if place not in self._items:
                yield from self.open(place, item)
            yield from self.close(place, item)
        elif isinstance(kind, str):
            yield from self._grow(kind, self._items.get(place), value)

    def _grow(self, kind: str, item: "_Item | None", value: dict[str, Any]) -> Iterator[Event]:
        """More of an item."""
        delta = value.get("delta")
        delta = delta if isinstance(delta, str) and delta else None
        if item is None:
            item = _Item("message", None)
        if kind == "response.output_text.delta" and delta:
            item.told = True
            yield TextDelta(delta)
        elif kind == "response.refusal.delta" and delta:
            item.told = True
            yield RefusalDelta(delta)
        elif kind in _THOUGHTS and delta:
            item.told = True
            yield ReasoningDelta(delta)
        elif kind in _PARTS and item.told:
            yield ReasoningDelta("\n\n")
        elif kind.endswith(("function_call_arguments.delta", "custom_tool_call_input.delta")) and delta:
            if item.call is not None:
                item.told = True
                yield ToolCallDelta(item.call, delta)
        elif kind == "response.output_text.annotation.added":
            yield from _cited(value.get("annotation"))

    # --- steps, of a stream and of a whole response

    def begin(self, response: dict[str, Any]) -> Iterator[Event]:
        self._began = True
        yield Began(_text(response.get("id")), _text(response.get("model")))

    def open(self, place: Any, item: dict[str, Any]) -> Iterator[Event]:
        if not self._began:
            yield from self.begin({})
        kind = item.get("type")
        state = self._items[place] = _Item(str(kind), None)
        if kind in _CALLS:
            state.call = self._calls
            self._calls += 1
            id_ = _text(item.get("call_id")) or _text(item.get("id")) or f"call_{state.call}"
            custom = kind == "custom_tool_call"
            yield ToolCallStarted(state.call, id_, _text(item.get("name")) or "", custom=custom)

    def close(self, place: Any, item: dict[str, Any]) -> Iterator[Event]:
        """The item is whole; what of it has not been told yet is told now."""
        state = self._items.get(place)
        if state is None or state.closed:
            return
        state.closed = True
        match item.get("type"):
            case "message":
                yield from self._message(state, item)
            case "reasoning":
                text = thought_text(item)
                if text and not state.told:
                    yield ReasoningDelta(text)
                encrypted = _text(item.get("encrypted_content"))
                if encrypted is not None:
                    yield ReasoningSigned(encrypted, ORIGIN, id=_text(item.get("id")))
            case "function_call" | "custom_tool_call" as kind:
                assert state.call is not None
                if not state.told:
                    said = item.get("input" if kind == "custom_tool_call" else "arguments")
                    said = said if isinstance(said, str) and said.strip() not in ("", "null") else "{}"
                    yield ToolCallDelta(state.call, said)
                yield ToolCallEnded(state.call)
            case str() as kind:
                self._searches += kind == "web_search_call"
                yield OpaqueMade(Opaque(ORIGIN, kind, msgspec.Raw(jsonx.encode(item))))

    def _message(self, state: "_Item", item: dict[str, Any]) -> Iterator[Event]:
        content = item.get("content")
        if state.told or not isinstance(content, list):
            return
        for part in content:
            if not isinstance(part, dict):
                continue
            if text := _text(part.get("text")):
                yield TextDelta(text)
            if refusal := _text(part.get("refusal")):
                yield RefusalDelta(refusal)
            annotations = part.get("annotations")
            for one in annotations if isinstance(annotations, list) else ():
                yield from _cited(one)

    def _rest(self, response: dict[str, Any]) -> Iterator[Event]:
        """Items that a stream never told of, or never closed."""
        output = response.get("output")
        for place, item in enumerate(output if isinstance(output, list) else ()):
            if isinstance(item, dict):
                if place not in self._items and not self._items:
                    yield from self.open(place, item)
                yield from self.close(place, item)

    def end(self, response: dict[str, Any]) -> Iterator[Event]:
        status = response.get("status")
        if status in ("failed", "cancelled") or response.get("error"):
            error = response.get("error") or {"message": f"The response is {status}."}
            yield Failed(failure_in_band({"error": error}, otherwise=FailureKind.ERROR_MIDSTREAM))
            return
        usage, anomaly = read_usage(response.get("usage"))
        if usage is not None and self._searches:
            usage = msgspec.structs.replace(usage, searches=self._searches)
        for state in self._items.values():
            if state.call is not None and not state.closed:
                if not state.told:
                    yield ToolCallDelta(state.call, "{}")
                yield ToolCallEnded(state.call)
        details = response.get("incomplete_details")
        reason = _text(details.get("reason")) if isinstance(details, dict) else None
        if status == "incomplete" or reason is not None:
            yield Finished(_INCOMPLETE.get(reason or "", Finish.OTHER), reason)
        else:
            yield Finished(Finish.TOOL_CALLS if self._calls else Finish.STOP, _text(status))
        if usage is not None or anomaly:
            yield Reported(usage, anomaly)
        yield Ended()


class _Item:
    """An output item that is being told."""

    __slots__ = ("call", "closed", "kind", "told")

    def __init__(self, kind: str, call: int | None) -> None:
        self.kind = kind
        self.call = call
        self.told = False
        """Something of its content was streamed."""
        self.closed = False


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _cited(value: Any) -> Iterator[Event]:
    if isinstance(value, dict) and (url := _text(value.get("url"))):
        yield Cited(Citation(url, _text(value.get("title"))))
