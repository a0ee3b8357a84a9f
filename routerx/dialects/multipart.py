"""Forms with a file (multipart/form-data, RFC 7578): read no further than needed, and sent on byte for byte.

Stricter than the format on purpose. The gateway decides by the same bytes that the provider reads with a parser of its
own, so whatever two parsers could read differently is refused: text before the first part or after the last, line ends
other than CRLF around a boundary, a boundary inside a part, a name said twice or in an unusual notation, a transfer
encoding. What clients send in practice has none of that.
"""

import re
from collections.abc import Mapping

import msgspec

from routerx import jsonx
from routerx.errors import InvalidParameter, UnsupportedMediaType
from routerx.jsonx import Raw

PARTS_MAX = 64
PART_HEADER_BYTES_MAX = 4 * 1024
PART_HEADERS_MAX = 8
TEXT_BYTES_MAX = 64 * 1024
"""One field that is no file."""

_CHARSET = r"(?:;\s*charset=[0-9A-Za-z_-]{1,40}\s*)?"
_TYPE = re.compile(
    rf"\s*multipart/form-data\s*{_CHARSET};\s*"
    rf"""boundary=(?:"([0-9A-Za-z'()+_,./:=? -]{{1,70}})"|([0-9A-Za-z'+_.-]{{1,70}}))\s*{_CHARSET}""",
    re.IGNORECASE,
)  # RFC 2046 section 5.1.1: the characters of a boundary.
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*)")
_PARAM = re.compile(r"""\s*;\s*([0-9A-Za-z*_-]+)=(?:"((?:[^"\\\r\n\0]|\\[^\r\n\0])*)"|([!#$%&'*+.^_`|~0-9A-Za-z-]+))""")
_NAME = re.compile(r"[0-9A-Za-z_.\[\]-]{1,64}")
_PLAIN_ENCODINGS = ("binary", "8bit", "7bit")


class FilePlace(msgspec.Struct, frozen=True):
    """Where the content of a file stands in the body."""

    start: int
    end: int


class Form(msgspec.Struct, frozen=True):
    """A form that has been read. `fields`: a text as a JSON string, a file as a FilePlace."""

    body: bytes
    boundary: str
    fields: Mapping[str, Raw]
    places: Mapping[str, FilePlace]
    """Of texts, too."""

    @property
    def content_type(self) -> str:
        """As it is sent on."""
        return f'multipart/form-data; boundary="{self.boundary}"'

    def with_text(self, name: str, text: str) -> bytes:
        """The body with another text in the field `name`; every other byte as it came. Raises InvalidParameter for a
        text that could be read as more than one field."""
        value = text.encode()
        if b"\r" in value or b"\n" in value or b"\0" in value or b"--" + self.boundary.encode() in value:
            raise InvalidParameter(f"{name!r} holds characters that a form cannot carry.", param=name)
        place = self.places[name]
        return b"".join((self.body[: place.start], value, self.body[place.end :]))


def read_form(content_type: str, body: bytes) -> Form:
    """Raises UnsupportedMediaType for a content type that is not a form's, and InvalidParameter for a body that is not
    a form or is written in a way that could be read differently elsewhere. Linear in the body."""
    boundary = boundary_of(content_type)
    if boundary is None:
        raise UnsupportedMediaType(
            f"Content-Type is {content_type[:80]!r}; this route takes 'multipart/form-data; boundary=…'."
        )
    fields: dict[str, Raw] = {}
    places: dict[str, FilePlace] = {}
    for start, end in _parts(body, b"--" + boundary.encode()):
        name, place, is_file = _read_part(body, start, end)
        if name in places and not name.endswith("[]"):
            raise InvalidParameter(f"{name!r} is in the form twice.", param=name)
        places[name] = place
        if is_file:
            fields[name] = Raw(jsonx.encode(place))
        else:
            fields[name] = Raw(jsonx.encode(_text(name, body[place.start : place.end])))
    return Form(body, boundary, fields, places)


def boundary_of(content_type: str) -> str | None:
    """What stands between the parts of a form; None for a content type that is not a form's."""
    found = _TYPE.fullmatch(content_type)
    return None if found is None else (found[1] or found[2]).rstrip(" ")


def _parts(body: bytes, delimiter: bytes) -> list[tuple[int, int]]:
    """Start and end of every part, its headers included and the line ends around it not."""
    if not body.startswith(delimiter + b"\r\n"):
        raise _no_form("it does not begin with its boundary")
    parts: list[tuple[int, int]] = []
    start = len(delimiter) + 2
    while True:
        at = body.find(delimiter, start)
        if at < start + 2 or body[at - 2 : at] != b"\r\n":
            raise _no_form("a part of it does not end with the boundary on a line of its own")
        parts.append((start, at - 2))
        if len(parts) > PARTS_MAX:
            raise _no_form(f"it has more than {PARTS_MAX} parts")
        after = at + len(delimiter)
        if body[after : after + 2] != b"\r\n":
            break
        start = after + 2
    if body[after:] not in (b"--", b"--\r\n"):
        raise _no_form("its last boundary is not followed by its end")
    return parts


def _read_part(body: bytes, start: int, end: int) -> tuple[str, FilePlace, bool]:
    """Its name, the place of its content, and whether it is a file."""
    blank = body.find(b"\r\n\r\n", start, min(end, start + PART_HEADER_BYTES_MAX))
    if blank < 0:
        raise _no_form(f"a part has no header or one of more than {PART_HEADER_BYTES_MAX} bytes")
    lines = body[start:blank].decode("latin-1").split("\r\n")
    if len(lines) > PART_HEADERS_MAX:
        raise _no_form(f"a part has more than {PART_HEADERS_MAX} header lines")
    headers: dict[str, str] = {}
    for line in lines:
        header = _HEADER.fullmatch(line)
        if header is None or header[1].lower() in headers:
            raise _no_form("a part has a header line that is none, or one twice")
        headers[header[1].lower()] = header[2].strip()
    if headers.get("content-transfer-encoding", "binary").lower() not in _PLAIN_ENCODINGS:
        raise _no_form("a part has a transfer encoding")
    name, is_file = _read_disposition(headers.get("content-disposition", ""))
    return name, FilePlace(blank + 4, end), is_file


def _read_disposition(value: str) -> tuple[str, bool]:
    kind, params = value[:9], value[9:]
    found: dict[str, str] = {}
    at = 0
    while at < len(params):
        param = _PARAM.match(params, at)
        if param is None or param[1].lower() in found:
            raise _no_form("a part's Content-Disposition cannot be read, or says something twice")
        found[param[1].lower()] = param[2] if param[2] is not None else param[3]
        at = param.end()
    name = found.get("name", "")
    if kind.lower() != "form-data" or _NAME.fullmatch(name) is None or "name*" in found:
        raise _no_form("a part has no name, or one of other characters than letters, digits and '_.[]-'")
    return name, "filename" in found or "filename*" in found


def _text(name: str, data: bytes) -> str:
    if len(data) > TEXT_BYTES_MAX:
        raise InvalidParameter(f"{name!r} has {len(data)} bytes; the limit is {TEXT_BYTES_MAX}.", param=name)
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidParameter(f"{name!r} is not valid UTF-8.", param=name) from None


def _no_form(why: str) -> InvalidParameter:
    return InvalidParameter(f"The body is not a form that can be passed on: {why}.")
