"""The edge's bounds, the reasons it closes for, and what must be true of the process before it serves."""

import asyncio
import fcntl
import ipaddress
import resource
import struct
import termios
from enum import StrEnum

import msgspec
from aiohttp.http_parser import HttpRequestParser

from routerx.errors import OperatorError


class Closed(StrEnum):
    """Why the edge ended a connection or refused a message: the label given to `on_closed`."""

    BAD_HTTP = "bad_http"
    BODY_TIMEOUT = "body_timeout"
    CONNECTIONS_MAX = "connections_max"
    CONNECTIONS_PER_HOST_MAX = "connections_per_host_max"
    HEADER_TIMEOUT = "header_timeout"
    HEADERS_TOO_LARGE = "headers_too_large"
    KEEPALIVE_TIMEOUT = "keepalive_timeout"
    SHUTDOWN = "shutdown"
    WRITE_STALL = "write_stall"


class EdgeLimits(msgspec.Struct, frozen=True):
    """Every bound of the edge. EdgeServer.limits may be replaced while serving, but for the fields marked (start)."""

    connections_max: int = 10_000
    """(start) Never more than half of the descriptors this process may open."""
    connections_per_host_max: int | None = None
    """(start) Of one IPv4 address or IPv6 /64. None: half of connections_max, so that no host can lock out the rest."""
    header_timeout_s: float = 10.0
    """From accept, and from the first byte of each next request, to the end of its header."""
    header_bytes_max: int = 64 * 1024
    """Request target plus all header names and values."""
    keepalive_timeout_s: float = 75.0
    write_timeout_s: float = 60.0
    """Without one byte taken by the client's socket while bytes wait for it."""
    lingering_s: float = 1.0
    """(start) How long a body that nobody will read is still drained, so that the client gets to see the answer."""
    body_rate_min: int = 1024
    """Bytes per second a body must make on average, once it is older than body_rate_grace_s."""
    body_rate_grace_s: float = 10.0
    bodies_bytes_max: int = 1024 * 1024 * 1024
    """All request bodies in memory together; the one that passes it is refused as `overloaded`."""
    line_bytes_max: int = 8190
    """(start) Request line."""
    field_bytes_max: int = 8190
    """(start) One header's name and value."""
    headers_max: int = 128
    """(start)"""
    sweep_interval_s: float = 0.5


def require_guards() -> None:
    """Refuse to serve where the guards of this module or of aiohttp would be missing. Raises OperatorError."""
    if not __debug__:
        raise OperatorError("RouterX does not run under 'python -O' or PYTHONOPTIMIZE: its assertions guard money.")
    if HttpRequestParser.__module__ != "aiohttp._http_parser":
        raise OperatorError(
            "aiohttp runs without its C parser (AIOHTTP_NO_EXTENSIONS is set, or no wheel fits this machine); the one"
            " in Python has a history of request smuggling. Install the aiohttp wheel and unset that variable."
        )


def host_of(transport: asyncio.Transport) -> str | None:
    """What counts as one client: an IPv4 address or an IPv6 /64. None on a Unix socket, whose peers are trusted."""
    peer = transport.get_extra_info("peername")
    if not isinstance(peer, tuple) or not peer:
        return None
    host = str(peer[0])
    if ":" not in host:
        return host
    address = ipaddress.IPv6Address(host.partition("%")[0])
    return str(address.ipv4_mapped) if address.ipv4_mapped is not None else address.packed[:8].hex()


def within_descriptors(connections_max: int) -> int:
    """Raise this process's descriptor limit as far as needed and allowed; the rest of the half is for upstreams."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * connections_max + 1024
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (ValueError, OSError):  # macOS has a lower limit of its own.
            pass
    return connections_max if soft == resource.RLIM_INFINITY else max(1, min(connections_max, soft // 2))


def unacknowledged_bytes(transport: asyncio.Transport) -> int:
    """What the kernel holds for the peer (SIOCOUTQ of tcp(7) and unix(7)); 0 where it does not tell."""
    sock = transport.get_extra_info("socket")
    try:
        return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0])
    except (AttributeError, OSError, ValueError):
        return 0
