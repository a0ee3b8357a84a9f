"""One connection of the direct transport, without a network: its deadlines on a clock moved by hand, and the law that
how a response is cut changes nothing of it."""

import asyncio
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerx.domain.failure import FailureKind
from routerx.upstream.direct_head import Framing, ResponseHeaders
from routerx.upstream.direct_wire import Wire

OK = b"HTTP/1.1 200 OK\r\n"
MESSAGES = {
    "length": OK + b"Content-Length: 12\r\n\r\nhello, world",
    "chunks": OK + b"Transfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n7\r\n, world\r\n0\r\nsum: 1\r\n\r\n",
    "interim": b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n" * 3 + OK + b"content-length: 12\r\n\r\nhello, world",
    "to the end": OK + b"\r\nhello, world",
    "nothing": b"HTTP/1.1 204 No Content\r\n\r\n",
    "surplus": OK + b"content-length: 12\r\n\r\nhello, world" + OK + b"content-length: 1\r\n\r\nx",
    "short": OK + b"content-length: 13\r\n\r\nhello, world",
    "chunk cut": OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n9\r\n, world",
    "not HTTP": b"<html>",
    "bad chunk": OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
    "two lengths": OK + b"content-length: 1\r\ncontent-length: 1\r\n\r\nx",
    "switching": b"HTTP/1.1 101 X\r\n\r\n",
    "status 600": b"HTTP/1.1 600 X\r\ncontent-length: 0\r\n\r\n",
}


class Socket(asyncio.Transport):
    """Takes what is written and notices its end."""

    closed = False
    reading = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def write(self, data: object) -> None:
        assert not self.closed

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True


class Seen:
    """An Answer and a Home that remember what they were told."""

    def __init__(self) -> None:
        self.status = 0
        self.body = b""
        self.is_ended = False
        self.kind: FailureKind | None = None
        self.is_back = False

    def headed(self, status: int, headers: ResponseHeaders, framing: Framing) -> None:
        assert self.status == 0
        self.status = status

    def fed(self, data: bytes) -> None:
        assert data
        assert not self.is_ended
        self.body += data

    def ended(self) -> None:
        assert self.status
        assert not self.is_ended
        self.is_ended = True

    def woken(self) -> None:
        assert self.kind is None

    def failed(self, kind: FailureKind, cause: BaseException | None) -> None:
        assert self.kind is None
        assert not self.is_ended
        self.kind = kind

    def take_back(self, wire: Wire) -> None:
        self.is_back = True

    def forget(self, wire: Wire) -> None:
        pass


class Timer:
    """A handle of ManualLoop's."""

    def __init__(self, due_s: float, callback: Callable[[], None]) -> None:
        self.due_s = due_s
        self.callback = callback
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class ManualLoop:
    """As much of an event loop as a wire uses: a clock, and timers that run when it is moved."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now_s

    def call_at(self, due_s: float, callback: Callable[[], None]) -> Timer:
        assert due_s >= self.now_s
        self.timers.append(Timer(due_s, callback))
        return self.timers[-1]

    @property
    def waiting(self) -> list[Timer]:
        return [timer for timer in self.timers if not timer.is_cancelled]

    def run(self, delay_s: float) -> None:
        until_s = self.now_s + delay_s
        while due := [timer for timer in self.waiting if timer.due_s <= until_s]:
            timer = min(due, key=lambda one: one.due_s)
            self.timers.remove(timer)
            self.now_s = timer.due_s
            timer.callback()
        self.now_s = until_s


FIRST_BYTE_S, IDLE_S = 10.0, 3.0
REQUEST = b"POST / HTTP/1.1\r\ncontent-length: "


class Bench:
    """A wire with a request out."""

    def __init__(self) -> None:
        self.loop, self.seen, self.sock = ManualLoop(), Seen(), Socket()
        self.wire = Wire(self.loop, self.seen)  # type: ignore[arg-type]
        self.wire.connection_made(self.sock)
        self.send()

    def send(self, first_byte_s: float = FIRST_BYTE_S) -> None:
        self.seen.__init__()  # type: ignore[misc]
        self.wire.send(self.seen, REQUEST, b"{}", (first_byte_s, IDLE_S))


HEAD = OK + b"content-length: 12\r\n\r\n"


def test_the_head_has_one_deadline_that_nothing_extends() -> None:
    bench = Bench()
    for piece in (b"HTTP/1.1 103 Early Hints\r\n\r\n", b"HTTP/1.1 200 ", b"OK\r\n"):
        bench.loop.run(3.0)
        bench.wire.data_received(piece)
    bench.loop.run(0.875)
    assert bench.seen.kind is None
    bench.loop.run(0.125)
    assert bench.seen.kind is FailureKind.FIRST_BYTE_TIMEOUT
    assert bench.sock.closed


def test_silence_counts_from_the_last_byte() -> None:
    bench = Bench()
    bench.loop.run(9.0)
    bench.wire.data_received(HEAD)
    for letter in b"hello":
        bench.loop.run(2.875)
        bench.wire.data_received(bytes([letter]))
    bench.loop.run(2.875)
    assert (bench.seen.kind, bench.seen.body) == (None, b"hello")
    bench.loop.run(0.125)
    assert bench.seen.kind is FailureKind.STALLED
    assert bench.sock.closed


def test_silence_does_not_count_while_reading_is_paused_and_counts_anew_after() -> None:
    bench = Bench()
    bench.wire.data_received(HEAD)
    bench.wire.pause_reading()
    bench.loop.run(100.0)
    bench.loop.run(2.0)
    bench.wire.resume_reading()
    bench.loop.run(2.875)
    assert bench.seen.kind is None
    bench.loop.run(0.125)
    assert bench.seen.kind is FailureKind.STALLED


def test_one_timer_serves_call_after_call_and_rests_when_there_is_none() -> None:
    bench = Bench()
    for _ in range(50):
        bench.wire.data_received(HEAD + b"hello, world")
        bench.wire.release()
        bench.loop.run(0.01)
        bench.send()
        assert len(bench.loop.timers) == 1
    bench.wire.data_received(HEAD + b"hello, world")
    bench.wire.release()
    bench.loop.run(100.0)
    assert not bench.loop.timers
    assert bench.seen.kind is None
    bench.send(first_byte_s=20.0)
    bench.loop.run(19.875)
    assert bench.seen.kind is None
    bench.loop.run(0.125)
    assert bench.seen.kind is FailureKind.FIRST_BYTE_TIMEOUT


def test_a_nearer_deadline_replaces_a_farther_one() -> None:
    bench = Bench()
    bench.wire.data_received(HEAD + b"hello, world")
    bench.wire.release()
    bench.send(first_byte_s=1.0)
    bench.loop.run(1.0)
    assert bench.seen.kind is FailureKind.FIRST_BYTE_TIMEOUT


def test_a_connection_that_ends_takes_its_timer_along() -> None:
    bench = Bench()
    bench.wire.connection_lost(ConnectionResetError())
    assert bench.seen.kind is FailureKind.RESET_BEFORE_OUTPUT
    assert not bench.loop.waiting


def test_a_connection_is_read_again_once_it_is_back() -> None:
    bench = Bench()
    bench.wire.data_received(HEAD)
    bench.wire.pause_reading()
    bench.wire.data_received(b"hello, world")  # An event loop may still deliver what it had read.
    assert not bench.sock.reading
    bench.wire.release()
    assert bench.seen.is_back
    assert bench.sock.reading


# --- cuts --------------------------------------------------------------------------------------------------------


def played(message: bytes, cuts: set[int]) -> tuple[object, ...]:
    bench = Bench()
    wire, seen, sock = bench.wire, bench.seen, bench.sock
    for start, stop in _pieces(len(message), cuts):
        if not sock.closed:
            wire.data_received(message[start:stop])
    if not sock.closed and not seen.is_ended:
        wire.eof_received()
    wire.release()
    # In one read with its head, a body's fault is the head's: nobody has seen either yet.
    headless = seen.kind is FailureKind.PROTOCOL_ERROR
    return (seen.is_ended, seen.kind, seen.is_back, *(() if headless else (seen.status, seen.body)))


def _pieces(length: int, cuts: set[int]) -> Iterator[tuple[int, int]]:
    ends = [*sorted(cut for cut in cuts if 0 < cut < length), length]
    return zip([0, *ends], ends, strict=False)


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_a_response_cut_into_single_bytes_is_the_response(message: bytes) -> None:
    assert played(message, set(range(len(message)))) == played(message, set())


@given(st.sampled_from(list(MESSAGES.values())), st.sets(st.integers(1, 150), max_size=6))
def test_a_response_cut_anywhere_is_the_response(message: bytes, cuts: set[int]) -> None:
    assert played(message, cuts) == played(message, set())


@given(st.binary(max_size=60), st.booleans())
def test_no_bytes_break_the_connection_out_of_its_answers(junk: bytes, as_body: bool) -> None:
    message = (OK + b"transfer-encoding: chunked\r\n\r\n" if as_body else b"") + junk
    is_ended, kind, *_ = played(message, set())
    assert is_ended is (kind is None)
