"""Newline-delimited JSON as frames: whole lines out of chunks that the network cut anywhere."""

from routerx.dialects.base import EVENT_BYTES_MAX, Frame


class LineSplitter:
    """Cuts one stream into lines; see base.Splitter. An unfinished line waits inside, at most `line_bytes_max`."""

    def __init__(self, line_bytes_max: int = EVENT_BYTES_MAX) -> None:
        self.oversized = False
        """One line passed the limit; the splitter takes no more."""
        self._line_bytes_max = line_bytes_max
        self._pending = bytearray()

    def feed(self, chunk: bytes) -> tuple[bytes, list[Frame]]:
        """The lines that `chunk` completes, and their exact bytes back to back."""
        if self.oversized:
            return b"", []
        if b"\n" not in chunk:
            self._pending += chunk
            self.oversized = len(self._pending) > self._line_bytes_max
            return b"", []
        raw = bytes(self._pending) + chunk
        whole, _, rest = raw.rpartition(b"\n")
        self._pending[:] = rest
        frames: list[Frame] = []
        end = 0
        for line in whole.split(b"\n"):
            if len(line) > self._line_bytes_max:
                self.oversized = True
                return raw[:end], frames
            end += len(line) + 1
            frames.append(Frame(end, line.strip() or None))
        self.oversized = len(rest) > self._line_bytes_max
        return raw[:end], frames

    def finish(self) -> tuple[bytes, Frame | None]:
        """The stream has ended: a last line without its line feed, with that added; no frame if there is none."""
        tail = bytes(self._pending)
        self._pending.clear()
        if self.oversized or not tail.strip():
            return b"", None
        return tail + b"\n", Frame(len(tail) + 1, tail.strip())
