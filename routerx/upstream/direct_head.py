"""Heads of HTTP/1.1 messages for the direct transport: URL and headers to bytes, a response's bytes to its framing.

Pure. The parser (llhttp, strict) has already accepted a response head before it comes here; what is judged here is
what llhttp leaves open, and nothing is decoded before somebody asks for it.
"""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TypeVar, overload
from urllib.parse import quote, urlsplit

import msgspec

from routerx.upstream.bounds import HEADERS_MAX, LINE_BYTES_MAX

_T = TypeVar("_T")

DEFAULTS = (("accept", "*/*"), ("accept-encoding", "identity"), ("user-agent", "RouterX"))
"""Sent where the call does not name them."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2.
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f]")
_NOT_IN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # RFC 9110 section 5.5: a tab is the one control allowed.
_OURS = frozenset({"host", "content-length", "transfer-encoding", "connection", "expect", "upgrade", "trailer", "te"})
_URL_SAFE = "!$%&'()*+,-./:;=?@[]_~"

# All header names are sought in a head in lower case. One pass in C: a loop over fields would cost more than the rest.
_FRAMING = re.compile(rb"\r\n(content-length|transfer-encoding|content-encoding|keep-alive):[ \t]*([^\r\n]*)")
_KEEP_ALIVE_TIMEOUT = re.compile(rb"(?:^|[,\s])timeout=(\d{1,9})")
_VERSIONS = (b"HTTP/1.1 ", b"HTTP/1.0 ")
_CODINGS: Mapping[bytes, str | None] = {
    b"": None,
    b"identity": None,
    b"gzip": "gzip",
    b"x-gzip": "gzip",
    b"deflate": "deflate",
}


class Address(msgspec.Struct, frozen=True):
    """A URL taken apart. `host` is as in DNS; `authority` and `path` are as sent."""

    tls: bool
    host: str
    port: int
    authority: str
    path: str


def address_of(url: str) -> Address:
    """Raises ValueError for a URL that cannot be sent: another scheme, no host, white space or control characters."""
    if _UNPRINTABLE.search(url):
        raise ValueError("white space or control characters")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ValueError("not an HTTP URL of a host")
    host = parts.hostname.encode("idna").decode("ascii")
    tls = parts.scheme == "https"
    usual = 443 if tls else 80
    port = usual if parts.port is None else parts.port
    shown = f"[{host}]" if ":" in host else host
    path = quote(parts.path, safe=_URL_SAFE) or "/"
    if parts.query:
        path += "?" + quote(parts.query, safe=_URL_SAFE)
    return Address(tls, host, port, shown if port == usual else f"{shown}:{port}", path)


def encode_head(method: str, address: Address, headers: Mapping[str, str]) -> bytes:
    """The request's head up to the value of Content-Length, which comes last and is the caller's to add.

    Raises ValueError for what would not arrive as it is meant: a line break or NUL, a name that is not one, a header
    that frames the message. The text of a refused value is not in the error: it may be a credential.
    """
    if not _TOKEN.fullmatch(method):
        raise ValueError("not a method")
    lines = [f"{method} {address.path} HTTP/1.1", f"host: {address.authority}"]
    given = set()
    for name, value in headers.items():
        lower = name.lower()
        if not _TOKEN.fullmatch(name) or lower in _OURS or _NOT_IN_VALUE.search(value):
            raise ValueError(f"header {name!r} cannot be sent")
        given.add(lower)
        lines.append(f"{name}: {value}")
    lines.extend(f"{name}: {value}" for name, value in DEFAULTS if name not in given)
    lines.append("content-length: ")
    return "\r\n".join(lines).encode()


class Framing(msgspec.Struct, frozen=True, gc=False):
    """How a response's body is laid out."""

    length_bytes: int | None
    chunked: bool
    coding: str | None
    """"gzip" or "deflate": compressed although identity was asked for."""
    keep_alive_s: float | None
    """How long the server says it keeps an idle connection."""


def read_framing(head: bytes, lower: bytes) -> Framing | None:
    """The framing of a final response's head (without its last CRLF CRLF; `lower` is the same in lower case). None for
    what is not to be trusted (FAULTS.md 18, 19, 23)."""
    if not head.startswith(_VERSIONS) or head.count(b"\r\n") > HEADERS_MAX:
        return None
    if len(head) > LINE_BYTES_MAX and max(map(len, head.split(b"\r\n"))) > LINE_BYTES_MAX:
        return None
    length: int | None = None
    chunked = False
    coding: str | None = None
    keep_alive_s: float | None = None
    for name, text in _FRAMING.findall(lower):
        value = text.rstrip(b" \t")
        if name == b"content-length":
            if length is not None or not value.isdigit():
                return None
            length = int(value)
        elif name == b"transfer-encoding":
            if chunked or value != b"chunked":
                return None
            chunked = True
        elif name == b"content-encoding":
            if coding is not None or value not in _CODINGS:
                return None
            coding = _CODINGS[value]
        elif (found := _KEEP_ALIVE_TIMEOUT.search(value)) is not None:
            keep_alive_s = float(found[1])
    if chunked and length is not None:
        return None
    return Framing(length, chunked, coding, keep_alive_s)


@lru_cache(maxsize=1024)
def _line_start(name: str) -> bytes:
    """What a field of that name begins with in a head: a few names are asked for again and again."""
    return b"\r\n%b:" % name.lower().encode("latin-1", "replace")


class ResponseHeaders(Mapping[str, str]):
    """The fields of a head, found in its bytes when asked for. Of a name that occurs twice, the first counts; names
    come in lower case."""

    __slots__ = ("_head", "_lower")

    def __init__(self, head: bytes, lower: bytes) -> None:
        self._head = head
        self._lower = lower

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    @overload
    def get(self, name: str, /) -> str | None: ...

    @overload
    def get(self, name: str, /, default: str | _T) -> str | _T: ...

    def get(self, name: str, /, default: object = None) -> object:
        key = _line_start(name)
        at = self._lower.find(key)
        if at < 0:
            return default
        start = at + len(key)
        end = self._head.find(b"\r\n", start)
        return self._head[start : end if end >= 0 else None].strip(b" \t").decode("latin-1")

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __iter__(self) -> Iterator[str]:
        _, *fields = self._lower.split(b"\r\n")
        return iter(dict.fromkeys(field.partition(b":")[0].decode("latin-1") for field in fields))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"ResponseHeaders({', '.join(self)})"
