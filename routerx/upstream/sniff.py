"""What some bytes are, by their first ones: labels lie, and what a browser would run (SVG, HTML) is never passed on."""

from routerx import jsonx
from routerx.domain.chat import MediaKind

_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
    (b"%PDF-", "application/pdf"),
    (b"ID3", "audio/mpeg"),
    (b"fLaC", "audio/flac"),
    (b"OggS", "audio/ogg"),
    (b"\xff\xf1", "audio/aac"),
    (b"\xff\xf9", "audio/aac"),
    (b"FORM", "audio/aiff"),
    (b"\x1aE\xdf\xa3", "video/webm"),
)
_RIFF = {b"WEBP": "image/webp", b"WAVE": "audio/wav", b"AVI ": "video/avi"}
_BRANDS = {
    b"heic": "image/heic",
    b"heix": "image/heic",
    b"mif1": "image/heif",
    b"avif": "image/avif",
    b"M4A ": "audio/mp4",
    b"qt  ": "video/quicktime",
}
_KINDS = {"image": MediaKind.IMAGE, "audio": MediaKind.AUDIO, "video": MediaKind.VIDEO}
_MARKUP = (b"<!doctype", b"<html", b"<svg", b"<?xml", b"<script", b"<body", b"<head")


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
        text = data.decode()
    except UnicodeDecodeError:
        return None
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(_MARKUP) or b"<svg" in head or b"<html" in head or "\0" in text:
        return None
    if head[:1] in (b"{", b"["):
        try:
            jsonx.decode(data)
        except ValueError:
            return "text/plain"
        return "application/json"
    return "text/plain"
