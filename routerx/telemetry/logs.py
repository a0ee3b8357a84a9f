"""Logging: standard library loggers in, one masked line each out, through a bounded queue and a writer thread.

A log that is not read must not stop requests: a full queue drops lines and counts them (FAULTS.md 100). Lines hold
metadata only, never a prompt, an answer or a key.
"""

import logging
import re
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import IO, Any

import msgspec

from routerx.domain.record import RequestRecord
from routerx.money import format_usd
from routerx.secrets import Secret
from routerx.telemetry.masking import Masker

LINES_MAX = 10_000
"""Lines waiting for the writer."""
BATCH_MAX = 256
DRAIN_INTERVAL_S = 0.05
CLOSE_TIMEOUT_S = 2.0
"""How long the end of the process waits for a log that nobody reads."""
LINE_CHARS_MAX = 32 * 1024

LEVELS: Mapping[str, int] = MappingProxyType(
    {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
)

REQUEST_LOGGER = "routerx.requests"
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_CONTROLS_BUT_NEWLINE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Logs:
    """The log of the process, as set up by configure_logging."""

    def __init__(self, pipe: "LinePipe", masker: Masker, handler: logging.Handler) -> None:
        self._pipe = pipe
        self._masker = masker
        self._handler = handler
        self._tells_requests = logging.getLogger(REQUEST_LOGGER).isEnabledFor(logging.INFO)

    def request(self, record: RequestRecord) -> None:
        """One line for a finished request, at info. The hot path only queues: a record never changes, so it is made
        into a line by the writer's thread."""
        if self._tells_requests:
            self._pipe.put(record)

    @property
    def dropped(self) -> int:
        """Lines lost so far."""
        return self._pipe.dropped

    def protect(self, secrets: Iterable[Secret]) -> None:
        """Mask these values wherever they would be written; call it with each configuration."""
        self._masker.protect(secrets)

    def close(self) -> None:
        """Write what waits, for at most CLOSE_TIMEOUT_S, and detach from the root logger."""
        logging.getLogger().removeHandler(self._handler)
        self._pipe.close()


def configure_logging(level: str, stream: IO[str], *, json: bool) -> Logs:
    """Send every logger's lines at `level` (debug, info, warning, error) and above to `stream`.

    `json`: one JSON object per line, for machines; else text for people. Raises ValueError on an unknown level.
    """
    if level.lower() not in LEVELS:
        raise ValueError(f"log level {level!r} is unknown; use one of {', '.join(LEVELS)}")
    encode = json_line if json else text_line
    masker = Masker()
    encode_request = RequestLines(masker, json=json).encode
    pipe = LinePipe(stream, encode_request, lambda count: masker.mask(encode(_drop_notice(count))))
    handler = _PipeHandler(pipe, masker, encode)
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(LEVELS[level.lower()])
    return Logs(pipe, masker, handler)


class LinePipe:
    """A bounded queue of lines, or of requests to be made into lines, and the daemon thread that writes them.

    The thread looks for work at an interval instead of being woken: waking it for every line would make it compete
    with the event loop for the interpreter lock at every request.
    """

    def __init__(
        self,
        stream: IO[str],
        encode: Callable[[RequestRecord], bytes],
        notice: Callable[[int], bytes],
        lines_max: int = LINES_MAX,
    ) -> None:
        self._refused = 0
        self._unwritten = 0
        self._stream = stream
        self._encode = encode
        self._notice = notice
        self._lines_max = lines_max
        self._lines: deque[bytes | RequestRecord] = deque()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._drain, name="routerx-log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines that found the queue full or the stream broken."""
        return self._refused + self._unwritten

    def put(self, line: bytes | RequestRecord) -> None:
        """Queue one line, or drop it when the queue is full. Never blocks."""
        if len(self._lines) >= self._lines_max or self._closing.is_set():
            self._refused += 1
        else:
            self._lines.append(line)

    def close(self) -> None:
        """Refuse further lines and wait a little for the writer."""
        self._closing.set()
        self._thread.join(CLOSE_TIMEOUT_S)

    def _drain(self) -> None:
        told = 0
        closing = False
        while not closing:
            closing = self._closing.wait(DRAIN_INTERVAL_S)
            while self._lines:
                batch = [self._lines.popleft() for _ in range(min(len(self._lines), BATCH_MAX))]
                dropped = self.dropped
                data = b"".join([line if isinstance(line, bytes) else self._encode(line) for line in batch])
                if dropped > told:
                    data += self._notice(dropped - told)
                if self._write(data):
                    told = dropped
                else:
                    self._unwritten += len(batch)

    def _write(self, data: bytes) -> bool:
        """False when the stream does not take it: closed, disk full, reader gone."""
        try:
            buffer = getattr(self._stream, "buffer", None)
            if buffer is not None:
                buffer.write(data)
            else:
                self._stream.write(data.decode("utf-8", "replace"))
            self._stream.flush()
        except (OSError, ValueError):
            return False
        return True


class _PipeHandler(logging.Handler):
    """Encodes on the caller's thread, so that what is logged is what was true then."""

    def __init__(self, pipe: LinePipe, masker: Masker, encode: "Callable[[logging.LogRecord], bytes]") -> None:
        super().__init__()
        self._pipe = pipe
        self._masker = masker
        self._encode = encode

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self._masker.mask(self._encode(record))
        except (TypeError, ValueError, KeyError, msgspec.MsgspecError) as error:
            # A format string that does not fit its arguments, say. The library would print the arguments, unmasked.
            text = f"a log call failed ({type(error).__name__}): {record.msg!r}"
            broken = logging.LogRecord(record.name, logging.ERROR, __file__, 0, "%s", (text,), None)
            line = self._masker.mask(self._encode(broken))
        self._pipe.put(line)


def _without_keys(request: RequestRecord, masker: Masker) -> RequestRecord:
    """The record with its free text masked; the rest comes from the configuration and from our own tables."""
    changes: dict[str, str] = {}
    for field in ("model", "served_model", "user", "app"):
        text: str | None = getattr(request, field)
        if text is not None and (masked := masker.mask_text(text)) != text:
            changes[field] = masked
    return msgspec.structs.replace(request, **changes) if changes else request


# --- lines


class _RequestLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """A finished request as one JSON line."""

    ts: str
    level: str
    logger: str
    message: str
    request_id: str
    tenant: str
    key_id: str
    operation: str
    model: str
    stream: bool
    outcome: str
    status: int
    billing: str
    cost_usd: str
    duration_ms: int
    overhead_us: int
    provider: str | None = None
    endpoint: str | None = None
    served_model: str | None = None
    ttft_ms: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    usage_source: str | None = None
    attempts: tuple[str, ...] = ()
    """`endpoint outcome`, in order."""
    user: str | None = None
    app: str | None = None
    flags: tuple[str, ...] = ()


def json_line(record: logging.LogRecord) -> bytes:
    """One JSON object and a line end."""
    fields: dict[str, object] = {
        "ts": _timestamp(record.created),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": _text(record.getMessage())[:LINE_CHARS_MAX],
    }
    for name, value in _extras(record):
        fields.setdefault(name, _text(value) if isinstance(value, str) else value)
    trace = _trace(record)
    if trace is not None:
        fields["trace"] = _text(trace)
    return _encode(fields)


def text_line(record: logging.LogRecord) -> bytes:
    """One line of text for people; a traceback follows on lines of its own."""
    extras = "".join(f" {name}={value}" for name, value in _extras(record))
    text = _text_head(record.created, record.levelname, record.name)
    text += _CONTROLS.sub(_escaped, record.getMessage()[:LINE_CHARS_MAX] + extras)
    trace = _trace(record)
    if trace is not None:
        text += "\n" + _CONTROLS_BUT_NEWLINE.sub(_escaped, trace)
    return _text(text).encode() + b"\n"


class RequestLines:
    """Makes lines of finished requests, masked. Used by the writer's thread alone."""

    def __init__(self, masker: Masker, *, json: bool) -> None:
        self._masker = masker
        self._json = json
        self._stamp = _Stamp()

    def encode(self, request: RequestRecord) -> bytes:
        # Only what a caller wrote can hold a key, so only that is searched.
        request = _without_keys(request, self._masker)
        ended_s = request.started_ns / 1e9 + request.duration_ms / 1e3
        if self._json:
            return _encode(_request_line(self._stamp.of(ended_s), request))
        text = _text_head(ended_s, "INFO", REQUEST_LOGGER) + _CONTROLS.sub(_escaped, _request_text(request))
        return _text(text).encode() + b"\n"


class _Stamp:
    """Timestamps as _timestamp() makes them; the text of a second is made once."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def of(self, created_s: float) -> str:
        milliseconds = int(created_s * 1000)
        second, rest = divmod(milliseconds, 1000)
        if second != self._second:
            self._second, self._text = second, _timestamp(second)[:-4]
        return f"{self._text}{rest:03d}Z"


def _request_line(stamp: str, request: RequestRecord) -> _RequestLine:
    usage = request.usage
    return _RequestLine(
        ts=stamp,
        level="info",
        logger=REQUEST_LOGGER,
        message="request",
        request_id=request.id,
        tenant=request.tenant,
        key_id=request.key_id,
        operation=request.operation,
        model=_text(request.model),
        stream=request.stream,
        outcome=request.outcome,
        status=request.http_status,
        billing=request.billing,
        cost_usd=format_usd(request.cost_nano),
        duration_ms=request.duration_ms,
        overhead_us=request.overhead_us,
        provider=request.provider,
        endpoint=request.endpoint,
        served_model=None if request.served_model is None else _text(request.served_model),
        ttft_ms=request.ttft_ms,
        input_tokens=None if usage is None else usage.input_tokens,
        output_tokens=None if usage is None else usage.output_tokens,
        usage_source=request.usage_source,
        attempts=tuple([f"{attempt.endpoint} {attempt.outcome}" for attempt in request.attempts]),
        user=None if request.user is None else _text(request.user),
        app=None if request.app is None else _text(request.app),
        flags=request.flags,
    )


def _request_text(request: RequestRecord) -> str:
    usage = request.usage
    tokens = "no usage" if usage is None else f"{usage.input_tokens}+{usage.output_tokens} tokens"
    return (
        f"{request.http_status} {request.outcome} {request.tenant} {request.model} -> {request.endpoint or 'nowhere'} "
        f"{tokens} ${format_usd(request.cost_nano)} {request.duration_ms} ms {request.id}"
    )


def _text_head(created_s: float, level: str, logger: str) -> str:
    return f"{_timestamp(created_s)} {level:<7} {logger}: "


def _extras(record: logging.LogRecord) -> list[tuple[str, Any]]:
    """What the caller added by `extra=`."""
    return [(name, value) for name, value in vars(record).items() if name not in _STANDARD]


def _trace(record: logging.LogRecord) -> str | None:
    if record.exc_info and record.exc_info[0] is not None:
        return "".join(traceback.format_exception(*record.exc_info)).rstrip()[-LINE_CHARS_MAX:]
    return None


def _encode(value: object) -> bytes:
    return msgspec.json.encode(value, enc_hook=_text_of) + b"\n"


def _text_of(value: object) -> str:
    """What JSON does not know is written as its repr; a Secret's repr is stars."""
    return _text(repr(value))


def _text(text: str) -> str:
    """Text that can be encoded: a lone surrogate becomes its escape."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _timestamp(created_s: float) -> str:
    return datetime.fromtimestamp(created_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def _drop_notice(count: int) -> logging.LogRecord:
    message = "%d log lines were dropped: the log's reader was too slow"
    return logging.LogRecord("routerx.logs", logging.WARNING, __file__, 0, message, (count,), None)
