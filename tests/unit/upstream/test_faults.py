"""Exceptions to Failures: nothing that aiohttp can raise is unknown, and no message shows what it must not."""

import inspect
import ssl

import aiohttp
import pytest
from aiohttp import client_exceptions

from routerx.domain.failure import FailureKind
from routerx.upstream.faults import CAUGHT, KINDS, ByPhase, Phase, failure, kind_of
from tests.unit.upstream.kit import call

CLIENT_EXCEPTIONS = [
    found
    for found in vars(client_exceptions).values()
    if inspect.isclass(found) and issubclass(found, Exception) and found.__module__ == client_exceptions.__name__
]


def test_the_walk_finds_the_exceptions() -> None:
    assert aiohttp.ClientConnectorCertificateError in CLIENT_EXCEPTIONS
    assert len(CLIENT_EXCEPTIONS) >= 29


@pytest.mark.parametrize("error", CLIENT_EXCEPTIONS)
def test_every_exception_of_the_client_has_a_line_of_its_own(error: type[Exception]) -> None:
    assert error in KINDS
    # WSMessageTypeError is a TypeError; it needs a WebSocket, which we never open.
    assert issubclass(error, CAUGHT) or error is aiohttp.WSMessageTypeError


def test_every_kind_in_the_table_has_a_message_that_names_the_provider() -> None:
    for found in KINDS.values():
        for kind in (found.connect, found.head, found.body) if isinstance(found, ByPhase) else (found,):
            assert failure(kind, call("http://h")).message.startswith("Provider 'acme' ")


@pytest.mark.parametrize(
    ("error", "phase", "kind"),
    [
        (TimeoutError(), Phase.CONNECT, FailureKind.CONNECT_TIMEOUT),
        (TimeoutError(), Phase.HEAD, FailureKind.FIRST_BYTE_TIMEOUT),
        (aiohttp.SocketTimeoutError(), Phase.BODY, FailureKind.STALLED),
        (ConnectionResetError(), Phase.CONNECT, FailureKind.CONNECT_ERROR),
        (ConnectionResetError(), Phase.HEAD, FailureKind.RESET_BEFORE_OUTPUT),
        (BrokenPipeError(), Phase.BODY, FailureKind.RESET_MIDSTREAM),
        (ssl.SSLCertVerificationError(), Phase.CONNECT, FailureKind.TLS_ERROR),
        (aiohttp.ServerDisconnectedError(), Phase.HEAD, FailureKind.RESET_BEFORE_OUTPUT),
        (aiohttp.ClientPayloadError(), Phase.BODY, FailureKind.PROTOCOL_ERROR),
    ],
)
def test_the_phase_decides_what_an_error_means(error: BaseException, phase: Phase, kind: FailureKind) -> None:
    assert kind_of(error, phase) is kind


def test_a_timeout_of_the_kernel_is_a_connect_timeout() -> None:
    error = aiohttp.ClientConnectorError(None, TimeoutError(110, "Connection timed out"))  # type: ignore[arg-type]
    assert kind_of(error, Phase.CONNECT) is FailureKind.CONNECT_TIMEOUT


def test_an_unknown_child_of_a_known_class_is_what_its_parent_is() -> None:
    class NewInAiohttp5(aiohttp.ServerDisconnectedError):
        pass

    assert kind_of(NewInAiohttp5(), Phase.BODY) is FailureKind.RESET_MIDSTREAM
