"""What some bytes are, by their first ones: labels lie, and what a browser would run (SVG, HTML) is never passed on."""

import re

from routerx import jsonx
from routerx.domain.chat import MediaKind

_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
    (b"%PDF-", "application/pdf"),
    (b"ID3", "audio/mpeg"),
    (b"fLaC", "audio/flac"),
    (b"OggS", "audio/ogg"),
    (b"\xff\xf1", "audio/aac"),
    (b"\xff\xf9", "audio/aac"),
    (b"\x1aE\xdf\xa3", "video/webm"),
)
_RIFF = {b"WEBP": "image/webp", b"WAVE": "audio/wav", b"AVI ": "video/avi"}
_BRANDS = {
    b"heic": "image/heic",
    b"heix": "image/heic",
    b"heim": "image/heic",
    b"heis": "image/heic",
    b"hevc": "image/heic",
    b"hevx": "image/heic",
    b"mif1": "image/heif",
    b"msf1": "image/heif",
    b"avif": "image/avif",
    b"avis": "image/avif",
    b"M4A ": "audio/mp4",
    b"M4B ": "audio/mp4",
    b"qt  ": "video/quicktime",
}
_KINDS = {"image": MediaKind.IMAGE, "audio": MediaKind.AUDIO, "video": MediaKind.VIDEO}
_MARKUP = re.compile(
    rb"<(?:!doctype|html|head|script|iframe|h1|div|font|table|a|style|title|b|body|br|p)[\s>/]|<!--|<\?xml", re.IGNORECASE
)
"""What browsers take for the beginning of a page or of XML: mimesniff.spec.whatwg.org, 7.1."""
_PAGE_WITHIN = re.compile(rb"<(?:[\w-]+:)?(?:svg|html)[\s>/]|www\.w3\.org/2000/svg", re.IGNORECASE)
_HEAD_BYTES = 1024
JSON_BYTES_MAX = 1024 * 1024
"""What is larger is text: parsing it only to name it would hold up everybody."""


def sniffed(data: bytes, kinds: frozenset[MediaKind]) -> str | None:
    """The media type of `data`; None for what is none of `kinds` or of no known format."""
    mime = _binary(data)
    if mime is None:
        return _text(data) if MediaKind.FILE in kinds else None
    kind = _KINDS.get(mime.partition("/")[0], MediaKind.FILE)
    return mime if kind in kinds or MediaKind.FILE in kinds else None


def _binary(data: bytes) -> str | None:
    for start, mime in _STARTS:
        if data.startswith(start):
            return mime
    if data[:2] == b"BM" and data[6:10] == bytes(4):  # Two letters alone begin texts as well.
        return "image/bmp"
    if data[:4] == b"FORM":
        return "audio/aiff" if data[8:12] in (b"AIFF", b"AIFC") else None
    if data[:4] == b"RIFF":
        return _RIFF.get(data[8:12])
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "video/mp4")
    if len(data) > 2 and data[0] == 0xFF and data[1] & 0xE6 == 0xE2:  # An MPEG audio frame of layer III.
        return "audio/mpeg"
    return None


def _text(data: bytes) -> str | None:
    """A file of text; nothing that begins like a page."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return None
    head = data[:_HEAD_BYTES].removeprefix(b"\xef\xbb\xbf").lstrip()
    if _MARKUP.match(head) or _PAGE_WITHIN.search(head) or b"\0" in data:
        return None
    if head[:1] in (b"{", b"[") and len(data) <= JSON_BYTES_MAX:
        try:
            jsonx.decode(data)
        except (ValueError, RecursionError):  # The latter of what is nested too deep.
            return "text/plain"
        return "application/json"
    return "text/plain"
