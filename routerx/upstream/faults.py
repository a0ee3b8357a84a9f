"""The one place that turns exceptions of aiohttp, ssl and the operating system into Failures, by type and phase.

Nothing here looks at message text. Every exception class of aiohttp's client has its own line in KINDS, though a base
class would catch it: a new one in a later aiohttp fails a test until somebody has decided what it means.
"""

import os
import socket
import ssl
from collections.abc import Mapping
from enum import Enum

import aiohttp
import msgspec
from aiohttp import client_exceptions, http_exceptions

from routerx.domain.call import UpstreamCall
from routerx.domain.failure import Failure, FailureKind
from routerx.upstream.dns import BlockedAddress


class Phase(Enum):
    """How far the call had come."""

    CONNECT = "connect"
    """No connection yet: DNS, TCP, proxy and TLS."""
    HEAD = "head"
    """Sent, at least in part; response headers are awaited."""
    BODY = "body"
    """Response headers are here."""


class ByPhase(msgspec.Struct, frozen=True):
    """Kinds of an exception that means another thing in each phase."""

    connect: FailureKind
    head: FailureKind
    body: FailureKind


_TIMEOUT = ByPhase(FailureKind.CONNECT_TIMEOUT, FailureKind.FIRST_BYTE_TIMEOUT, FailureKind.STALLED)
_LOST = ByPhase(FailureKind.CONNECT_ERROR, FailureKind.RESET_BEFORE_OUTPUT, FailureKind.RESET_MIDSTREAM)

KINDS: Mapping[type[BaseException], FailureKind | ByPhase] = {
    # Timeouts come before OSError, which TimeoutError is a child of.
    TimeoutError: _TIMEOUT,
    aiohttp.ConnectionTimeoutError: FailureKind.CONNECT_TIMEOUT,
    aiohttp.ServerTimeoutError: _TIMEOUT,
    aiohttp.SocketTimeoutError: _TIMEOUT,
    # Connecting.
    BlockedAddress: FailureKind.BLOCKED_ADDRESS,
    socket.gaierror: FailureKind.DNS_ERROR,
    aiohttp.ClientConnectorDNSError: FailureKind.DNS_ERROR,
    ssl.SSLError: FailureKind.TLS_ERROR,
    ssl.CertificateError: FailureKind.TLS_ERROR,
    aiohttp.ClientSSLError: FailureKind.TLS_ERROR,
    aiohttp.ClientConnectorSSLError: FailureKind.TLS_ERROR,
    aiohttp.ClientConnectorCertificateError: FailureKind.TLS_ERROR,
    aiohttp.ServerFingerprintMismatch: FailureKind.TLS_ERROR,
    aiohttp.ClientConnectorError: FailureKind.CONNECT_ERROR,
    client_exceptions.UnixClientConnectorError: FailureKind.CONNECT_ERROR,
    aiohttp.ClientProxyConnectionError: FailureKind.CONNECT_ERROR,
    aiohttp.ClientHttpProxyError: FailureKind.CONNECT_ERROR,
    aiohttp.InvalidURL: FailureKind.CONNECT_ERROR,
    aiohttp.InvalidUrlClientError: FailureKind.CONNECT_ERROR,
    aiohttp.NonHttpUrlClientError: FailureKind.CONNECT_ERROR,
    # The connection went away.
    OSError: _LOST,
    aiohttp.ClientConnectionError: _LOST,
    aiohttp.ClientConnectionResetError: _LOST,
    aiohttp.ClientOSError: _LOST,
    aiohttp.ServerConnectionError: _LOST,
    aiohttp.ServerDisconnectedError: _LOST,
    client_exceptions.UploadAbortedError: _LOST,
    # What arrived is not HTTP, or not all of it.
    aiohttp.ClientError: FailureKind.PROTOCOL_ERROR,
    aiohttp.ClientResponseError: FailureKind.PROTOCOL_ERROR,
    aiohttp.ContentTypeError: FailureKind.PROTOCOL_ERROR,
    aiohttp.ClientPayloadError: FailureKind.PROTOCOL_ERROR,
    http_exceptions.HttpProcessingError: FailureKind.PROTOCOL_ERROR,
    http_exceptions.ContentLengthError: FailureKind.TRUNCATED,
    http_exceptions.TransferEncodingError: FailureKind.TRUNCATED,
    # Redirects are never followed and WebSockets never opened; should aiohttp say so all the same, it is the peer's.
    aiohttp.TooManyRedirects: FailureKind.PROTOCOL_ERROR,
    aiohttp.RedirectClientError: FailureKind.PROTOCOL_ERROR,
    aiohttp.InvalidUrlRedirectClientError: FailureKind.PROTOCOL_ERROR,
    aiohttp.NonHttpUrlRedirectClientError: FailureKind.PROTOCOL_ERROR,
    aiohttp.WSServerHandshakeError: FailureKind.PROTOCOL_ERROR,
    aiohttp.WSMessageTypeError: FailureKind.PROTOCOL_ERROR,
}

CAUGHT: tuple[type[BaseException], ...] = (aiohttp.ClientError, http_exceptions.HttpProcessingError, OSError)
"""What a call can die of (TimeoutError and ssl's errors are children of OSError); anything else is a fault of ours."""


def failure_of(error: BaseException, phase: Phase, call: UpstreamCall) -> Failure:
    """The Failure that `error` means for `call` in `phase`."""
    return failure(kind_of(error, phase), call, reason_of(error))


def kind_of(error: BaseException, phase: Phase) -> FailureKind:
    if isinstance(error, aiohttp.ClientPayloadError) and error.__cause__ is not None:
        # aiohttp wraps the parser's verdict on a body: which of them it was decides between cut short and illegal.
        return kind_of(error.__cause__, phase)
    if isinstance(error, aiohttp.ClientConnectorError):
        if isinstance(error.os_error, BlockedAddress):
            return FailureKind.BLOCKED_ADDRESS
        if isinstance(error.os_error, TimeoutError):
            return FailureKind.CONNECT_TIMEOUT  # ETIMEDOUT: the kernel gave up before our deadline.
    found = next((KINDS[cls] for cls in type(error).__mro__ if cls in KINDS), FailureKind.PROTOCOL_ERROR)
    if isinstance(found, FailureKind):
        return found
    match phase:
        case Phase.CONNECT:
            return found.connect
        case Phase.HEAD:
            return found.head
        case Phase.BODY:
            return found.body


def failure(kind: FailureKind, call: UpstreamCall, reason: str | None = None) -> Failure:
    """A Failure with the message for its kind. `reason` must be safe to show: no URL, no key, nothing of the peer's."""
    message = f"Provider {call.provider!r} {_saying(kind, call)}"
    return Failure(kind, f"{message}." if reason is None else f"{message}: {reason}.")


def _saying(kind: FailureKind, call: UpstreamCall) -> str:
    match kind:
        case FailureKind.CONNECT_TIMEOUT:
            return f"did not accept a connection within {call.timeouts.connect_s:g} s"
        case FailureKind.FIRST_BYTE_TIMEOUT:
            return f"did not begin to answer within {call.first_byte_s:g} s"
        case FailureKind.STALLED:
            return f"sent nothing for {call.timeouts.idle_s:g} s in the middle of its answer"
        case FailureKind.TOTAL_TIMEOUT:
            return f"did not finish its answer within {call.timeouts.total_s:g} s"
        case _:
            return _SAYINGS[kind]


_SAYINGS: Mapping[FailureKind, str] = {
    FailureKind.CONNECT_ERROR: "could not be reached",
    FailureKind.DNS_ERROR: "could not be found: its host name did not resolve",
    FailureKind.TLS_ERROR: "could not be reached securely",
    FailureKind.BLOCKED_ADDRESS: "was not called: its public host name leads to an address that is not public",
    FailureKind.RESET_BEFORE_OUTPUT: "closed the connection without an answer",
    FailureKind.RESET_MIDSTREAM: "closed the connection in the middle of its answer",
    FailureKind.TRUNCATED: "ended its answer before it was complete",
    FailureKind.PROTOCOL_ERROR: "sent something that is not a valid HTTP answer",
    FailureKind.TOO_LARGE: "sent an answer over the size limit",
}


def reason_of(error: BaseException) -> str | None:
    """What the system says, from its own tables; never the exception's text, which holds addresses and peer bytes."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        error = error.certificate_error
    elif isinstance(error, aiohttp.ClientConnectorError):
        error = error.os_error
    if isinstance(error, ssl.SSLCertVerificationError):
        return getattr(error, "verify_message", None)
    if isinstance(error, ssl.SSLError):
        reason: str | None = getattr(error, "reason", None)
        return None if reason is None else reason.replace("_", " ").lower()
    if isinstance(error, OSError) and not isinstance(error, socket.gaierror) and error.errno is not None:
        return os.strerror(error.errno).lower()
    return None
