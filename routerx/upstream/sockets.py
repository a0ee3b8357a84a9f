"""What a new connection to a provider is made of: a socket that watches its peer, and whom TLS trusts."""

import functools
import logging
import socket
import ssl

from aiohttp.connector import AddrInfoType

from routerx.domain.call import UpstreamCall
from routerx.domain.failure import FailureKind, UpstreamFault
from routerx.providers.spec import Provider
from routerx.upstream.faults import failure

log = logging.getLogger("routerx.upstream")

PROBE_IDLE_S, PROBE_INTERVAL_S, PROBES = 60, 20, 3
"""TCP keepalive, so that a model may think for minutes behind a NAT, and a dead peer is noticed."""


def keepalive_socket(address: AddrInfoType) -> socket.socket:
    """An unconnected socket with TCP keepalive. (TCP_NODELAY is set by the event loop.)"""
    family, kind, proto, _, _ = address
    sock = socket.socket(family, kind, proto)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # Linux has these three; elsewhere the system's own intervals hold.
    for option, value in (
        ("TCP_KEEPIDLE", PROBE_IDLE_S),
        ("TCP_KEEPINTVL", PROBE_INTERVAL_S),
        ("TCP_KEEPCNT", PROBES),
    ):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return sock


@functools.cache
def system_trust() -> ssl.SSLContext:
    """The system's authorities. One for the process: it takes time and memory to load, and nobody changes it."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def private_trust(provider: Provider, ca_file: str, call: UpstreamCall) -> ssl.SSLContext:
    """The system's authorities and those in `ca_file`. Raises UpstreamFault: TLS_ERROR, without the file's name."""
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(cafile=ca_file)
    except OSError as error:
        log.error("provider %r: ca_file %r cannot be used: %s", provider.name, ca_file, error)
        raise UpstreamFault(failure(FailureKind.TLS_ERROR, call, "its ca_file cannot be used")) from error
    context.set_alpn_protocols(["http/1.1"])
    return context
