"""Media as callers name them: `data:` URLs taken apart, addresses checked for their scheme, formats named."""

import base64
import binascii
from types import MappingProxyType
from urllib.parse import unquote_to_bytes

from routerx.domain.chat import CacheMark, Media, MediaKind
from routerx.errors import InvalidParameter

_TEXTUAL = ("text/", "application/json", "application/xml")
_WEB = ("http://", "https://", "gs://")

AUDIO_TYPES = MappingProxyType(
    {
        "wav": "audio/wav",
        "mp3": "audio/mpeg",
        "flac": "audio/flac",
        "ogg": "audio/ogg",
        "opus": "audio/opus",
        "aac": "audio/aac",
        "m4a": "audio/mp4",
        "aiff": "audio/aiff",
        "webm": "audio/webm",
    }
)
"""Names of audio formats in requests → media types."""

_MISSPELT = MappingProxyType({"image/jpg": "image/jpeg", "audio/mp3": "audio/mpeg", "audio/x-wav": "audio/wav"})


def kind_of(mime: str) -> MediaKind:
    """What a media type is of."""
    for kind in (MediaKind.IMAGE, MediaKind.AUDIO, MediaKind.VIDEO):
        if mime.startswith(f"{kind.value}/"):
            return kind
    return MediaKind.FILE


def from_url(
    kind: MediaKind, url: str, path: str, *, detail: str | None = None, cache: CacheMark | None = None
) -> Media:
    """The part that a URL in the field `path` names. Raises InvalidParameter for any but http(s), gs and `data:`."""
    if url.startswith(_WEB):
        return Media(kind, url=url, detail=detail, cache=cache)
    if url[:5].lower() != "data:":
        raise InvalidParameter(f"{path!r} must be an http(s) URL or a data: URL.", param=path)
    head, comma, payload = url[5:].partition(",")
    if not comma:
        raise InvalidParameter(f"{path!r} is a data: URL without data.", param=path)
    mime, *options = head.split(";")
    if "base64" in (option.strip().lower() for option in options):
        data = checked_base64(payload, path)
    else:
        data = base64.b64encode(unquote_to_bytes(payload)).decode()
    return Media(kind, mime=media_type(mime), data=data, detail=detail, cache=cache)


def media_type(mime: str) -> str | None:
    """In the spelling that providers know; None for an empty one."""
    mime = mime.strip().lower()
    return _MISSPELT.get(mime, mime) or None


def checked_base64(text: str, path: str) -> str:
    """Base64 in the standard alphabet, without line breaks. Raises InvalidParameter for anything else."""
    if not text.isascii():
        raise InvalidParameter(f"{path!r} holds data that is not base64.", param=path)
    try:
        binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        text = "".join(text.split()).replace("-", "+").replace("_", "/").replace("%2B", "+").replace("%2F", "/")
        text = text.replace("%3D", "=").rstrip("=")
        text += "=" * (-len(text) % 4)
        try:
            binascii.a2b_base64(text, strict_mode=True)
        except binascii.Error:
            raise InvalidParameter(f"{path!r} holds data that is not base64.", param=path) from None
    return text


def data_url(media: Media) -> str:
    """The address of a part that has data."""
    assert media.data is not None
    mime = media.mime if media.mime is not None else "application/octet-stream"
    return f"data:{mime};base64,{media.data}"


def text_of(media: Media) -> str | None:
    """What a file of text says, for a wire that takes no files; None for any other part."""
    if media.data is None or media.mime is None or not media.mime.startswith(_TEXTUAL):
        return None
    try:
        return base64.b64decode(media.data).decode()
    except ValueError:
        return None
