"""Compressed bodies, unpacked in bounded steps: who reads looks at its cap in between (FAULTS.md 21)."""

import zlib

STEP_BYTES_MAX = 256 * 1024

_GZIP, _ZLIB, _RAW_DEFLATE = 31, 15, -15
_ZLIB_METHOD = 8  # RFC 1950: the low four bits of a zlib stream's first byte.


class Unpacker:
    """Takes a gzip or deflate body in pieces and gives it in steps. Raises zlib.error where it is neither."""

    __slots__ = ("_coding", "_has_begun", "_packed", "_stream", "_was_full")

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._packed = b""
        self._has_begun = False
        self._stream = zlib.decompressobj(_GZIP)
        self._was_full = False

    @property
    def is_whole(self) -> bool:
        """It may end here. Nothing at all is an empty body."""
        return not self._packed and (not self._has_begun or self._stream.eof)

    def feed(self, packed: bytes) -> None:
        """The next piece, at least one byte."""
        if not self._has_begun and self._coding == "deflate":
            # RFC 9110 section 8.4.1.2 means zlib; some servers send the bare stream within it.
            is_zlib = packed[0] & 0x0F == _ZLIB_METHOD
            self._stream = zlib.decompressobj(_ZLIB if is_zlib else _RAW_DEFLATE)
        self._has_begun = True
        self._packed += packed

    def step(self) -> bytes:
        """Up to STEP_BYTES_MAX bytes; none: it needs more."""
        while self._packed or self._was_full:
            if self._stream.eof:
                if self._coding == "deflate":
                    raise zlib.error("data after its end")
                self._stream = zlib.decompressobj(_GZIP)  # A gzip body may have several members (RFC 1952).
            data = self._stream.decompress(self._packed, STEP_BYTES_MAX)
            self._packed = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
            # A full step may leave output inside zlib, with no input left to show for it.
            self._was_full = len(data) == STEP_BYTES_MAX and not self._stream.eof
            if data:
                return data
        return b""
