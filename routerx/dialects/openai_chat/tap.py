"""Streams on the OpenAI wire: the tap that watches one, and a whole answer told as one."""

from enum import Enum
from typing import Any

import msgspec

from routerx import jsonx
from routerx.dialects.base import EVENT_BYTES_MAX, TERMINAL_BYTES_MAX, Frame
from routerx.dialects.classify import failure_in_band
from routerx.dialects.leniently import ABSENT, decode_or_none, mend, one_line
from routerx.dialects.openai_chat.chunks import STOP, Chunk, NamedChunk, Output, TierChunk, output_bytes
from routerx.dialects.openai_chat.usage import UsageReader
from routerx.dialects.sse import FrameSplitter
from routerx.domain.failure import Failure, FailureKind
from routerx.domain.pricing import tier_name
from routerx.domain.usage import Usage

DONE = b"[DONE]"
DONE_FRAME = b"data: [DONE]\n\n"

_named_decoder = msgspec.json.Decoder(NamedChunk)
_chunk_decoder = msgspec.json.Decoder(Chunk)
_tier_decoder = msgspec.json.Decoder(TierChunk)
_any_decoder = msgspec.json.Decoder()
_TIER = b'"service_tier"'


class _Fate(Enum):
    """What becomes of a frame's bytes."""

    FLOW = 1
    WITHHOLD = 2
    REMOVE = 3
    STOP = 4
    """Neither it nor anything behind it."""


class OpenAITap:
    """The state of one stream; see dialects.base.StreamTap for the contract.

    Call close() once the upstream has ended or `done` is set; it may be called again and says the same.
    """

    def __init__(self, choices: int, *, strip_usage: bool) -> None:
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
        self._choices = choices
        self._strip_usage = strip_usage
        self._finished_choices: set[int] = set()
        self._seen = False
        self._closed = False
        self._reports = UsageReader(generates=True)
        self._splitter = FrameSplitter()
        self._decoder: msgspec.json.Decoder[Any] = _named_decoder

    @property
    def empty(self) -> bool:
        return self._stopped and self.output_chars == 0

    def feed(self, data: bytes) -> bytes:
        if self._closed or self.done or self.failure is not None:
            return b""
        raw, frames = self._splitter.feed(data)
        kept: list[bytes] | None = None  # None: everything so far flows, and `raw` need not be cut.
        begin = 0
        for frame in frames:
            fate = self._judge(frame)
            if fate is _Fate.FLOW:
                if kept is not None:
                    kept.append(raw[begin : frame.end])
            else:
                if kept is None:
                    kept = [raw[:begin]]
                if fate is _Fate.WITHHOLD:
                    self._withhold(raw[begin : frame.end])
                if fate is _Fate.STOP or self.done or self.failure is not None:
                    break
            begin = frame.end
        else:
            if self._splitter.oversized:
                self.failure = _oversized("An event of the stream", EVENT_BYTES_MAX)
        return raw if kept is None else b"".join(kept)

    def close(self) -> Failure | None:
        if not self._closed:
            if not self.done and self.failure is None:
                self._take_tail()
            self._closed = True
            if self.failure is None:
                self._complete()
        return self.failure

    # --- frames

    def _judge(self, frame: Frame) -> _Fate:
        """Learn from one frame and decide its fate."""
        data = frame.data
        if not data:
            return _Fate.WITHHOLD if self.finished else _Fate.FLOW
        if frame.event == b"error":
            return self._fail_in_band(decode_or_none(_any_decoder, data))
        try:
            chunk = self._decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            if data.strip() == DONE:
                self.done = True
                return _Fate.WITHHOLD
            chunk = None if mend(data) is None else decode_or_none(self._decoder, data)
            if chunk is None:
                self.failure = Failure(FailureKind.INVALID_CHUNK, "The provider sent an event that is no chat chunk.")
                return _Fate.STOP
        return self._read(chunk, data)

    def _read(self, chunk: Chunk, data: bytes) -> _Fate:
        self._seen = True
        if self._decoder is _named_decoder:
            self._name(chunk)
        has_usage = chunk.usage is not ABSENT and chunk.usage != ABSENT
        if has_usage:
            self._report(chunk.usage)
            if _TIER in data:  # What the first frames said may have been what was asked for.
                self._serve(decode_or_none(_tier_decoder, data))
        error = chunk.error
        if chunk.envelope is not None:
            if chunk.envelope.usage != ABSENT:
                self._report(chunk.envelope.usage)
            error = error or chunk.envelope.error
        if error:
            return self._fail_in_band(error)
        if not chunk.choices:
            if self._strip_usage and has_usage:
                return _Fate.REMOVE
            return _Fate.WITHHOLD if self.finished else _Fate.FLOW
        for choice in chunk.choices:
            delta = choice.delta
            if delta is not None:
                self._measure(delta)
            elif choice.text:
                self._measure(Output(content=choice.text))
            if choice.finish_reason:
                self.has_content = True
                self._stopped = self._stopped and choice.finish_reason == STOP
                self._finished_choices.add(choice.index if isinstance(choice.index, int) else 0)
                self.finished = len(self._finished_choices) >= self._choices
        return _Fate.WITHHOLD if self.finished else _Fate.FLOW

    def _measure(self, delta: Output) -> None:
        content = delta.content
        if type(content) is str and content.isascii():  # By far the most frames: no calls, no encoding.
            size = len(content)
            if (
                not size
                or delta.tool_calls
                or delta.reasoning_content
                or delta.reasoning
                or delta.refusal
                or delta.function_call
                or delta.audio
            ):
                size = output_bytes(delta)
        else:
            size = output_bytes(delta)
        if size:
            self.output_chars += size
            self.has_content = True

    def _name(self, chunk: Any) -> None:
        """Keep the first id and model that are not empty; once both are known, later frames are read without them."""
        if self.response_id is None and isinstance(chunk.id, str) and chunk.id:
            self.response_id = chunk.id
        if self.served_model is None and isinstance(chunk.model, str) and chunk.model:
            self.served_model = chunk.model
        self._serve(chunk)
        if self.response_id is not None and self.served_model is not None:
            self._decoder = _chunk_decoder

    def _serve(self, chunk: Any) -> None:
        if chunk is not None and (tier := tier_name(chunk.service_tier)) is not None:
            self.tier = tier

    def _report(self, raw: msgspec.Raw) -> None:
        self._reports.read(raw)
        self.usage = self._reports.usage

    def _fail_in_band(self, error: Any) -> _Fate:
        self.failure = failure_in_band(error, otherwise=FailureKind.ERROR_MIDSTREAM)
        return _Fate.STOP

    def _withhold(self, raw: bytes) -> None:
        self.terminal += raw
        if len(self.terminal) > TERMINAL_BYTES_MAX:
            self.failure = _oversized("What follows the last finish", TERMINAL_BYTES_MAX)

    # --- the end

    def _take_tail(self) -> None:
        """An event whose closing blank line never came counts when it is whole: it can only matter at the end."""
        raw, frame = self._splitter.finish()
        if frame is None or not frame.data:
            return
        if frame.data.strip() != DONE and decode_or_none(_chunk_decoder, frame.data) is None:
            return  # Cut short: _complete decides what that means.
        if self._judge(frame) is _Fate.WITHHOLD:
            self._withhold(raw)

    def _complete(self) -> None:
        usage = self.usage
        self.anomaly = self._reports.anomaly or (
            usage is not None and usage.output_tokens == 0 and self.output_chars > 0
        )
        if not self.has_content and usage is None and (self.done or not self._seen):
            self.failure = Failure(FailureKind.EMPTY, "The provider's stream ended without any content.")
        elif self.done:
            return
        elif self.finished:
            self.terminal += DONE_FRAME
            self.missing_done = True
        else:
            self.failure = Failure(FailureKind.TRUNCATED, "The provider's stream ended before the answer was finished.")


def _oversized(what: str, bytes_max: int) -> Failure:
    return Failure(FailureKind.EVENT_TOO_LARGE, f"{what} is longer than {bytes_max} bytes.")


# --- a whole answer as a stream ----------------------------------------------------------------------------------

_Fields = dict[str, msgspec.Raw]
_fields_decoder = msgspec.json.Decoder(_Fields)
_list_decoder = msgspec.json.Decoder(list[_Fields])


def to_stream(body: bytes) -> bytes:
    """A chat answer as three frames: all content, the finish reasons with the usage, the end mark.

    `body` is an answer that read_reply has accepted. Values keep their exact bytes.
    """
    answer: _Fields = decode_or_none(_fields_decoder, one_line(body)) or {}
    choices: list[_Fields] = decode_or_none(_list_decoder, answer.pop("choices", ABSENT)) or []
    usage = answer.pop("usage", ABSENT)
    head = {**answer, "object": _CHUNK}
    content = []
    finish = []
    for place, choice in enumerate(choices):
        index = choice.get("index", msgspec.Raw(b"%d" % place))
        opening: dict[str, Any] = {
            "index": index,
            "delta": _delta(choice.get("message", ABSENT)),
            "finish_reason": None,
        }
        if "logprobs" in choice:
            opening["logprobs"] = choice["logprobs"]
        content.append(opening)
        finish.append({"index": index, "delta": {}, "finish_reason": choice.get("finish_reason", _STOP)})
    ending = {**head, "choices": finish} | ({} if usage == ABSENT else {"usage": usage})
    opening_data, ending_data = jsonx.encode({**head, "choices": content}), jsonx.encode(ending)
    return b"data: " + opening_data + b"\n\ndata: " + ending_data + b"\n\n" + DONE_FRAME


_STOP = msgspec.Raw(b'"stop"')
_CHUNK = msgspec.Raw(b'"chat.completion.chunk"')


def _delta(message: msgspec.Raw) -> dict[str, Any]:
    """The message as one delta: its tool calls numbered, as clients that assemble deltas need them."""
    delta: dict[str, Any] = decode_or_none(_fields_decoder, message) or {}
    calls = decode_or_none(_list_decoder, delta.get("tool_calls", ABSENT))
    if calls:
        delta["tool_calls"] = [{"index": msgspec.Raw(b"%d" % place), **call} for place, call in enumerate(calls)]
    return delta
