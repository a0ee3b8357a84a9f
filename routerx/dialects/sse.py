"""Server-sent events as bytes: whole frames out of chunks that the network cut anywhere.

Owns the framing rules of the WHATWG event-stream format (lines end with LF, CRLF or CR; a byte order mark may come
first; `:` starts a comment; several `data:` lines make one payload) and the size limit of one event. Knows nothing of
what the payloads mean. Work is linear in the bytes fed, whatever the cuts.
"""

import re

from routerx.dialects.base import EVENT_BYTES_MAX, Frame

# A CR at the end of the bytes at hand may be half a CRLF, so it ends a line only once another byte follows it.
_BOUNDARY = re.compile(rb"(?:\r\n|\n|\r(?=[^\n])){2}")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOUNDARY_BYTES_MAX = 4
_BOM = b"\xef\xbb\xbf"
_PREFIX = b"data: "


class FrameSplitter:
    """Cuts one stream into frames. Bytes of an unfinished frame wait inside, at most `event_bytes_max`."""

    def __init__(self, event_bytes_max: int = EVENT_BYTES_MAX) -> None:
        self.oversized = False
        """One event passed the limit; the splitter takes no more."""
        self._event_bytes_max = event_bytes_max
        self._pending = bytearray()
        self._start = True

    def feed(self, chunk: bytes) -> tuple[bytes, list[Frame]]:
        """The frames that `chunk` completes, and their exact bytes back to back (`chunk` itself where it fits)."""
        if self.oversized:
            return b"", []
        pending = self._pending
        if pending:
            scan = max(len(pending) - _BOUNDARY_BYTES_MAX, 0)
            pending += chunk
            if _BOUNDARY.search(pending, scan) is None:
                self.oversized = len(pending) > self._event_bytes_max
                return b"", []
            chunk = bytes(pending)
            pending.clear()
        if self._start or b"\r" in chunk or len(chunk) > self._event_bytes_max:
            return self._feed_any(chunk)
        if chunk.find(b"\n") == len(chunk) - 2 and chunk.endswith(b"\n") and chunk.startswith(_PREFIX):
            return chunk, [Frame(len(chunk), chunk[6:-2])]  # What most reads are: one whole frame.
        frames = []
        end = 0
        pieces = chunk.split(b"\n\n")
        rest = pieces.pop()
        for piece in pieces:
            end += len(piece) + 2
            if piece.startswith(_PREFIX) and b"\n" not in piece:
                frames.append(Frame(end, piece[6:]))
            else:
                frames.append(_parse(piece, end))
        if not rest:
            return chunk, frames
        pending += rest
        return chunk[:end], frames

    def finish(self) -> tuple[bytes, Frame | None]:
        """The stream has ended: an event whose blank line never came, with that line added; no frame if there is none.

        The format drops such an event. Answers end with one in real life, so the caller judges whether it is whole.
        """
        tail = bytes(self._pending)
        self._pending.clear()
        frame = _parse(tail.removeprefix(_BOM) if self._start else tail, 0)
        if self.oversized or frame.data is None:
            return b"", None
        raw = tail + b"\n"
        if _BOUNDARY.search(raw, max(len(raw) - _BOUNDARY_BYTES_MAX, 0)) is None:
            raw += b"\n"
        return raw, Frame(len(raw), frame.data, frame.event)

    def _feed_any(self, chunk: bytes) -> tuple[bytes, list[Frame]]:
        """The start of a stream, any line ends, any size."""
        frames: list[Frame] = []
        end = 0
        for match in _BOUNDARY.finditer(chunk):
            if match.end() - end > self._event_bytes_max:
                self.oversized = True
                return chunk[:end], frames
            piece = chunk[end : match.start()]
            end = match.end()
            frames.append(_parse(piece.removeprefix(_BOM) if self._start else piece, end))
            self._start = False
        self._pending += chunk[end:]
        self.oversized = len(self._pending) > self._event_bytes_max
        return chunk[:end], frames


def _parse(piece: bytes, end: int) -> Frame:
    """A frame of any shape. Fields other than `data` and `event` mean nothing to us."""
    event = b""
    data: list[bytes] = []
    for line in _LINE_END.split(piece):
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
        elif name == b"event":
            event = value.removeprefix(b" ")
    return Frame(end, b"\n".join(data) if data else None, event)
