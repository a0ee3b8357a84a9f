"""One connection of the direct transport: sends a request, feeds the parser, keeps the deadlines.

It knows one answer at a time and nothing of pools. Its parser is strict: what llhttp does not accept, or accepts and
we do not, ends the connection. One timer per connection serves all deadlines: it is set again only when it fires too
early, or when a deadline comes before it.
"""

import asyncio
from enum import Enum
from typing import Protocol

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpResponseParser

from routerx.domain.failure import FailureKind
from routerx.upstream.bounds import HEAD_BYTES_MAX, KEEPALIVE_S, PIECE_BYTES
from routerx.upstream.direct_head import Framing, ResponseHeaders, read_framing
from routerx.upstream.faults import Phase, kind_of

JOIN_BYTES_MAX = 64 * 1024
"""A request body up to this goes out in one write with its head; copying a longer one costs more than a write."""
TIMER_SLACK_S = 0.001
"""An event loop may fire a timer too early by its resolution."""
STATUSES_WITHOUT_BODY = frozenset({204, 304})


class Answer(Protocol):
    """Who waits for the response. All is told from within the event loop's reading; nothing may block or raise."""

    def headed(self, status: int, headers: ResponseHeaders, framing: Framing) -> None:
        """The head is here, and read without fault up to where reading stopped; woken() follows."""
        ...

    def fed(self, data: bytes) -> None:
        """A part of the body; before headed() where both came in one read."""
        ...

    def ended(self) -> None:
        """The body is complete; woken() follows."""
        ...

    def woken(self) -> None:
        """Everything that came in one read has been told."""
        ...

    def failed(self, kind: FailureKind, cause: BaseException | None) -> None:
        """There will be no more. The connection is closed already."""
        ...


class Home(Protocol):
    """Whom a connection belongs to."""

    def take_back(self, wire: "Wire") -> None:
        """It is ready for another call, until `wire.idle_until_s`."""
        ...

    def forget(self, wire: "Wire") -> None:
        """It is closed, whoever closed it."""
        ...


class State(Enum):
    """Where a connection is in its current exchange."""

    IDLE = "idle"
    """No request is out: not a byte may come."""
    HEAD = "head"
    BODY = "body"
    DONE = "done"
    """The response is complete, or the connection closed, and its reader has not let go yet."""


class Wire(asyncio.Protocol):
    """A connection of `home`'s."""

    def __init__(self, loop: asyncio.AbstractEventLoop, home: Home) -> None:
        self.calls = 0
        """Requests sent on it."""
        self.heard = False
        """A byte came back since the last request was sent."""
        self.idle_until_s = 0.0
        """When it is too old to be used again, by the event loop's clock."""
        self._loop = loop
        self._home = home
        self._transport: asyncio.Transport
        self._is_lost = False
        self._parser = HttpResponseParser(self)
        # Some servers pad chunk sizes with blanks to a fixed width. The blanks frame nothing, so they mislead nobody.
        self._parser.set_dangerous_leniencies(lenient_spaces_after_chunk_size=True)
        self._state = State.IDLE
        self._answer: Answer | None = None
        self._unsent: memoryview | None = None
        self._write_paused = False
        self._read_paused = False
        # The response's head: what was read of it, how much of that is parsed, and what it came to.
        self._raw: bytes | bytearray = b""
        self._parsed = 0
        self._head_bytes = 0
        self._head: tuple[int, ResponseHeaders, Framing] | None = None
        self._irregular = False
        self._keep = False
        self._surplus = False
        # The deadline: `_limit_s` after `_since_s`.
        self._since_s = 0.0
        self._limit_s = 0.0
        self._idle_limit_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_s = 0.0

    # --- what the pool and the reader ask ------------------------------------------------------------------------

    @property
    def is_usable(self) -> bool:
        return self._state is State.IDLE and not self._transport.is_closing()

    def send(self, answer: Answer, head: bytes, body: bytes, deadlines_s: tuple[float, float]) -> None:
        """Send one request. `head` ends where the value of Content-Length belongs. `deadlines_s`: until response
        headers must be here, and of silence after them."""
        assert self._state is State.IDLE
        self.calls += 1
        self.heard = False
        self._answer = answer
        self._state = State.HEAD
        self._head_bytes = 0
        self._limit_s, self._idle_limit_s = deadlines_s
        self._since_s = self._loop.time()
        self._set_timer(self._since_s + self._limit_s)
        if len(body) <= JOIN_BYTES_MAX:
            self._transport.write(b"%b%d\r\n\r\n%b" % (head, len(body), body))
            return
        self._transport.write(b"%b%d\r\n\r\n" % (head, len(body)))
        self._unsent = memoryview(body)
        self._send_more()

    def release(self) -> None:
        """Its reader is done: it goes home, or is closed where another call must not follow on it."""
        self._answer = None
        head = self._head
        if (
            self._state is not State.DONE
            or head is None
            or not self._keep
            or self._surplus
            or self._unsent is not None
            or self._transport.is_closing()
        ):
            self.abort()
            return
        self._state = State.IDLE
        self._head = None
        self.resume_reading()
        keep_s = KEEPALIVE_S
        granted_s = head[2].keep_alive_s
        if granted_s is not None:
            # A second less than the server grants: a request sent at its last moment meets a closed connection.
            keep_s = min(keep_s, granted_s - 1.0)
        self.idle_until_s = self._loop.time() + keep_s
        self._home.take_back(self)

    def abort(self) -> None:
        """Close now: what is unsent is dropped, and nobody is told but its home."""
        self._answer = None
        self._unsent = None
        self._state = State.DONE
        self._keep = False
        if not self._is_lost:
            self._transport.abort()

    def fail(self, kind: FailureKind, cause: BaseException | None = None) -> None:
        """Close now and tell who waits."""
        answer = self._answer
        self.abort()
        if answer is not None:
            answer.failed(kind, cause)

    def shut(self) -> None:
        """Close now because its owner closes: a call in flight fails as if the peer had hung up."""
        self._peer_left(ConnectionAbortedError())

    def pause_reading(self) -> None:
        """The reader has enough: the peer is to wait, and its silence does not count."""
        if not self._read_paused and not self._transport.is_closing():
            self._read_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._read_paused:
            self._read_paused = False
            self._since_s = self._loop.time()
            if not self._transport.is_closing():
                self._transport.resume_reading()

    # --- asyncio.Protocol ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Each event loop and TLS have transports of their own kind; all of them read and write.
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        state = self._state
        if state is State.HEAD:
            self.heard = True
            self._head_bytes += len(data)
            if self._raw:
                self._raw += data
            else:
                self._raw = data
        elif state is State.BODY:
            self._since_s = self._loop.time()
        elif state is State.IDLE:
            self.abort()  # Nothing was asked: whatever this is, the next call must not get it.
            return
        else:
            self._surplus = True
            return
        is_broken = self._parse(data)
        now = self._state
        if self._irregular or (is_broken and now is not State.DONE):
            self.fail(FailureKind.PROTOCOL_ERROR)
            return
        self._surplus = self._surplus or is_broken
        if state is State.HEAD:
            if now is State.HEAD:
                self._hold_head()
                return
            self._end_head()
        answer = self._answer
        if answer is not None:
            if now is State.DONE:
                answer.ended()
            answer.woken()

    def eof_received(self) -> None:
        self._peer_left(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._is_lost = True
        self._peer_left(exc)
        del self._parser  # It holds this wire's methods: a cycle.
        self._home.forget(self)

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        self._send_more()

    # --- the parser's callbacks ----------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._state is State.DONE:
            self._surplus = True

    def on_headers_complete(self) -> None:
        if self._state is not State.HEAD or self._irregular:
            return
        status = self._parser.get_status_code()
        end = self._raw.find(b"\r\n\r\n", self._parsed)
        head = bytes(self._raw[self._parsed : end])
        self._parsed = end + 4
        if 100 <= status <= 199 and status != 101:
            return  # Interim (RFC 9110 section 15.2): the final response follows.
        lower = head.lower()
        framing = read_framing(head, lower)
        if framing is None or not 200 <= status <= 599:
            self._irregular = True
            return
        self._head = (status, ResponseHeaders(head, lower), framing)
        self._keep = self._parser.should_keep_alive()
        self._state = State.BODY

    def on_body(self, data: bytes) -> None:
        if self._state is State.BODY and self._answer is not None:
            self._answer.fed(data)

    def on_message_complete(self) -> None:
        if self._state is State.BODY:
            self._state = State.DONE

    # --- steps ---------------------------------------------------------------------------------------------------

    def _parse(self, data: bytes) -> bool:
        """True: this is not HTTP, from some byte on."""
        try:
            self._parser.feed_data(data)
        except HttpParserCallbackError as error:
            raise RuntimeError("a parser callback failed") from error  # A fault of ours; the loop reports it.
        except (HttpParserError, HttpParserUpgrade):
            return True
        return False

    def _hold_head(self) -> None:
        """Keep what is not parsed yet of a head that came in part."""
        if self._head_bytes > HEAD_BYTES_MAX:
            self.fail(FailureKind.PROTOCOL_ERROR)
            return
        if self._parsed or not isinstance(self._raw, bytearray):
            # A bytearray grows without being copied at each of many small reads.
            self._raw = bytearray(self._raw[self._parsed :])
            self._parsed = 0

    def _end_head(self) -> None:
        assert self._head is not None
        self._raw = b""
        self._parsed = 0
        if self._state is State.BODY:
            self._since_s = self._loop.time()
            self._limit_s = self._idle_limit_s
            self._set_timer(self._since_s + self._limit_s)
        if self._answer is not None:
            self._answer.headed(*self._head)

    def _peer_left(self, error: Exception | None) -> None:
        """FIN (no error) or worse."""
        answer, state = self._answer, self._state
        if answer is None or state is State.DONE or state is State.IDLE:
            self.abort()
            return
        if state is State.HEAD:
            kind = FailureKind.RESET_BEFORE_OUTPUT if error is None else kind_of(error, Phase.HEAD)
            self.fail(kind, error)
            return
        assert self._head is not None
        status, _, framing = self._head
        if error is not None:
            self.fail(kind_of(error, Phase.BODY), error)
        elif framing.chunked or framing.length_bytes is not None or status in STATUSES_WITHOUT_BODY:
            self.fail(FailureKind.TRUNCATED)
        else:
            self.abort()
            answer.ended()
            answer.woken()

    def _send_more(self) -> None:
        """Hand over the next pieces of a long request body, as long as the socket takes them."""
        while (unsent := self._unsent) is not None and not self._write_paused:
            self._unsent = unsent[PIECE_BYTES:] if len(unsent) > PIECE_BYTES else None
            self._transport.write(unsent[:PIECE_BYTES])

    def _set_timer(self, due_s: float) -> None:
        if self._timer is not None:
            if self._timer_at_s <= due_s:
                return  # It looks again when it fires.
            self._timer.cancel()
        self._timer_at_s = due_s
        self._timer = self._loop.call_at(due_s, self._look)

    def _look(self) -> None:
        """The timer fired."""
        self._timer = None
        if self._state is not State.HEAD and self._state is not State.BODY:
            return
        now_s = self._loop.time()
        if self._read_paused:
            self._since_s = now_s
        due_s = self._since_s + self._limit_s
        if due_s > now_s + TIMER_SLACK_S:
            self._set_timer(due_s)
        else:
            is_head = self._state is State.HEAD
            self.fail(FailureKind.FIRST_BYTE_TIMEOUT if is_head else FailureKind.STALLED)
