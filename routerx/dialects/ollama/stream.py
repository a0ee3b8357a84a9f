"""Answers of /api/chat as events: lines of JSON, each a piece of the message, the last one with `done`.

A whole answer is such a line, and is read as one.
"""

from collections.abc import Iterator, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from routerx import jsonx
from routerx.dialects.base import Frame
from routerx.dialects.classify import failure_in_band
from routerx.dialects.leniently import decode_or_none
from routerx.dialects.ollama.errors import TABLE
from routerx.dialects.ollama.usage import read_usage
from routerx.domain.chat import Answer, Finish
from routerx.domain.events import (
    Began,
    Ended,
    Event,
    Failed,
    Finished,
    ReasoningDelta,
    Reported,
    TextDelta,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
    fold,
)
from routerx.domain.failure import Failure, FailureKind

LOADING = ("load", "unload")
"""Ends of what was no answer: the server took the model into memory, or out of it."""
_FINISHES = MappingProxyType({"stop": Finish.STOP, "length": Finish.LENGTH})
_any_decoder = msgspec.json.Decoder()


def decode_answer(body: bytes, seed: str) -> Answer:
    """See dialects.base.ChatTarget."""
    value = decode_or_none(_any_decoder, body)
    whole = {**value, "done": True} if isinstance(value, dict) else {"done": True}
    return fold(Decoder(seed).read(whole))


class Decoder:
    """See dialects.base.StreamDecoder. Ids of tool calls are made up of the seed by servers' versions without any."""

    end_mark = b""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._began = False
        self._calls = 0

    def feed(self, frame: Frame) -> Sequence[Event]:
        if not frame.data:
            return ()
        value = decode_or_none(_any_decoder, frame.data)
        if not isinstance(value, dict):
            return [Failed(Failure(FailureKind.INVALID_CHUNK, "The provider sent a line that is no chat answer."))]
        return list(self.read(value))

    def finish(self) -> Sequence[Event]:
        return ()

    def read(self, line: dict[str, Any]) -> Iterator[Event]:
        """The events of one line."""
        if line.get("error"):
            yield Failed(failure_in_band(line, otherwise=FailureKind.ERROR_MIDSTREAM, table=TABLE))
            return
        if not self._began:
            self._began = True
            yield Began(None, _text(line.get("model")))
        message = line.get("message")
        if isinstance(message, dict):
            yield from self._message(message)
        if line.get("done") is True:
            yield from self._end(line)

    def _message(self, message: dict[str, Any]) -> Iterator[Event]:
        if (thought := _text(message.get("thinking"))) is not None:
            yield ReasoningDelta(thought)
        if (text := _text(message.get("content"))) is not None:
            yield TextDelta(text)
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict) and isinstance(call.get("function"), dict):
                yield from self._call(call, call["function"])

    def _call(self, call: dict[str, Any], function: dict[str, Any]) -> Iterator[Event]:
        """Calls come whole, so each is ended at once."""
        index = self._calls
        self._calls += 1
        yield ToolCallStarted(
            index, _text(call.get("id")) or f"call_{self._seed}_{index}", _text(function.get("name")) or ""
        )
        arguments = function.get("arguments")
        if not isinstance(arguments, str):
            arguments = jsonx.encode({} if arguments is None else arguments).decode()
        yield ToolCallDelta(index, "{}" if arguments.strip() in ("", "null") else arguments)
        yield ToolCallEnded(index)

    def _end(self, line: dict[str, Any]) -> Iterator[Event]:
        native = _text(line.get("done_reason"))
        if native not in LOADING:
            finish = Finish.STOP if native is None else _FINISHES.get(native, Finish.OTHER)
            if finish is Finish.STOP and self._calls:
                finish = Finish.TOOL_CALLS
            yield Finished(finish, native)
        usage, anomaly = read_usage(line)
        if usage is not None or anomaly:
            yield Reported(usage, anomaly)
        yield Ended()


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
