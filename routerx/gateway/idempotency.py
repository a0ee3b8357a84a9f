"""Idempotency keys: who sends a request again under the same key gets the same answer, and pays once.

The use of a key is on disk before its request goes anywhere (ledger/beside/uses.py); whether it came to anything is
what the ledger says of that request. So whatever is killed when, one key is charged once: a use without a row in the
ledger came to nothing, and one with a row is not served again. The answers are kept in memory and, encrypted, on disk
(ledger/beside/answers.py); they are written once they are told, so a crash may lose the last of them, and no charge.
"""

import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable

import msgspec

from routerx.clock import Clock
from routerx.domain.record import Outcome, RequestRecord
from routerx.errors import (
    IdempotencyInProgress,
    IdempotencyMismatch,
    InvalidParameter,
    ReplayUnavailable,
    StorageUnavailable,
)
from routerx.gateway.context import Answer, ClientStream
from routerx.ledger.beside.answers import AnswerStore
from routerx.ledger.beside.uses import UseIndex, UseRow
from routerx.money import format_usd

HEADER = "Idempotency-Key"
KEY_CHARS_MAX = 255
KEPT_NS = 24 * 3600 * 10**9
ANSWER_BYTES_MAX = 1024 * 1024
"""A longer answer is not kept; its key still answers for it."""
TOTAL_BYTES_MAX = 64 * 1024 * 1024
USES_MAX = 100_000
"""In memory. Beyond either, the oldest go; the disk still knows them."""
RECORDED_BYTES_MAX = 64 * 1024 * 1024
"""Of streams on their way; what comes beyond is not kept."""
SWEEP_S = 600.0
"""Between two removals of what has expired."""
PIECE_BYTES = 64 * 1024
"""A replayed stream is written in pieces of this size."""

Headers = tuple[tuple[str, str], ...]
Lookup = Callable[[str], Awaitable[RequestRecord | None]]
"""The ledger's row of a request."""

_REPLAYED = ("Idempotent-Replayed", "true")
_OF_THE_MOMENT = ("x-ratelimit-", "x-routerx-cost-usd", "x-routerx-latency-ms", "x-routerx-overhead-ms")


class Kept(msgspec.Struct, frozen=True):
    """An answer as it was sent."""

    headers: Headers
    content_type: str | None
    """None: it was a stream."""
    body: bytes

    @property
    def size_bytes(self) -> int:
        return len(self.body) + sum(len(name) + len(value) for name, value in self.headers)

    def answer(self) -> Answer | None:
        """None where it is a stream."""
        if self.content_type is None:
            return None
        cost = ("X-RouterX-Cost-USD", format_usd(0))
        return Answer(self.body, self.content_type, (*self.headers, cost, _REPLAYED))

    async def stream_to(self, client: ClientStream) -> None:
        """Raises ConnectionError when the caller has gone."""
        await client.start((*self.headers, _REPLAYED))
        for begin in range(0, len(self.body), PIECE_BYTES):
            await client.write(self.body[begin : begin + PIECE_BYTES])
        await client.finish(b"")


_kept_decoder = msgspec.msgpack.Decoder(Kept)


class Use:
    """One use of one key, from its first to its last step."""

    __slots__ = ("answer", "charged", "left", "row", "scope")

    def __init__(self, scope: bytes, row: UseRow) -> None:
        self.scope = scope
        self.row = row
        self.charged: bool | None = None
        """Whether it came to something: an answer that is whole, or any that is charged. None until it has settled."""
        self.left = False
        """Nobody serves it any more."""
        self.answer: Kept | None = None

    @property
    def size_bytes(self) -> int:
        return self.answer.size_bytes if self.answer is not None else 0

    @property
    def is_over(self) -> bool:
        """It came to something, and what comes now under its key is told that again."""
        return self.left and self.charged is True


class Idempotency:
    """All uses. One per process, like the ledger."""

    def __init__(self, index: UseIndex, answers: AnswerStore | None, lookup: Lookup, clock: Clock) -> None:
        """`answers` is None where they are kept in memory alone."""
        self._index = index
        self._answers = answers
        self._lookup = lookup
        self._clock = clock
        self._uses: OrderedDict[bytes, Use] = OrderedDict()
        self._served: dict[str, Use] = {}
        """Those that were served by this process, by the id of the request."""
        self._bytes = 0
        self.replays = 0

    async def begin(self, scope: bytes, fingerprint: bytes, request_id: str) -> Use | Kept:
        """The answer that was given under this key; or its use, which is on disk by then, to be served and passed to
        leave().

        Raises IdempotencyMismatch, IdempotencyInProgress, ReplayUnavailable and StorageUnavailable.
        """
        now_ns = self._clock.now_ns()
        known = self._uses.get(scope)
        if known is not None and known.row.expires_ns <= now_ns and known.is_over:
            self._forget(known)
            known = None
        if known is not None:
            kept = _replay(known, fingerprint)
            self.replays += 1
            return kept
        use = Use(scope, UseRow(fingerprint, request_id, now_ns + KEPT_NS))
        self._uses[scope] = use  # Before the first await: of two that come at once one is served.
        try:
            earlier = await self._index.claim(scope, use.row, now_ns)
            if earlier is not None and await self._came_to_something(use, earlier):
                return await self._found(use, earlier, now_ns)
        except BaseException:
            self._forget(use)
            raise
        self._served[request_id] = use
        return use

    async def _came_to_something(self, use: Use, earlier: UseRow) -> bool:
        """Whether an earlier use that only the disk knows did; else it is taken over."""
        record = await self._lookup(earlier.request_id)
        if record is not None and _came_to_something(record):
            return True
        await self._index.retake(use.scope, use.row)
        return False

    async def _found(self, use: Use, earlier: UseRow, now_ns: int) -> Kept:
        """The answer of an earlier use that only the disk knows; from now on memory knows it, too."""
        if earlier.fingerprint != use.row.fingerprint:
            raise _mismatch()
        plain = None
        if self._answers is not None:
            plain = await self._answers.get(use.scope, earlier.request_id, now_ns)
        kept = None if plain is None else _read(plain)
        if kept is None:
            raise _unavailable()
        use.row, use.answer, use.charged, use.left = earlier, kept, True, True
        self._add(use)
        self.replays += 1
        return kept

    def settled(self, record: RequestRecord) -> None:
        """A request has settled; it may have been served for a key."""
        use = self._served.get(record.id) if self._served else None
        if use is not None and use.charged is None:
            use.charged = _came_to_something(record)
            if use.left:
                self._end(use)

    def lost(self, record: RequestRecord) -> None:
        """The charge of a request could not be written: it came to nothing, whatever was to be told of it."""
        use = self._served.get(record.id)
        if use is None or record.cost_nano == 0:  # What is free came to something all the same.
            return
        if use.is_over:
            self._free(use)
            return
        use.charged, use.answer = False, None
        if use.left:
            self._free(use)

    def leave(self, use: Use, *, settles: bool) -> None:
        """Nobody serves it any more. `settles`: if it has not settled yet, it still will."""
        use.left = True
        if use.charged is None and not settles:
            use.charged = False
        if use.charged is not None:
            self._end(use)

    def abandon(self, use: Use) -> None:
        """Its request has ended as nobody foresaw: whether it came to anything is for the books to say."""
        self._forget(use)

    def _end(self, use: Use) -> None:
        if not use.charged:
            self._free(use)
            return
        self._add(use)
        if use.answer is not None and self._answers is not None:
            plain = msgspec.msgpack.encode(use.answer)
            self._answers.put(use.scope, use.row.request_id, use.row.expires_ns, plain)

    def _free(self, use: Use) -> None:
        """It came to nothing."""
        self._forget(use)
        self._index.drop(use.scope, use.row)

    def _add(self, use: Use) -> None:
        self._bytes += use.size_bytes
        while (self._bytes > TOTAL_BYTES_MAX or len(self._uses) > USES_MAX) and (oldest := self._oldest()) is not None:
            self._forget(oldest)

    def _oldest(self) -> Use | None:
        return next((use for use in self._uses.values() if use.is_over), None)

    def _forget(self, use: Use) -> None:
        del self._uses[use.scope]
        self._served.pop(use.row.request_id, None)
        if use.is_over:
            self._bytes -= use.size_bytes

    async def run(self) -> None:
        """Remove what has expired, now and again, until cancelled."""
        while True:
            now_ns = self._clock.now_ns()
            while (oldest := self._oldest()) is not None and oldest.row.expires_ns <= now_ns:
                self._forget(oldest)
            with contextlib.suppress(StorageUnavailable):  # It is logged where it happened.
                await self._index.sweep(now_ns)
            if self._answers is not None:
                await self._answers.sweep(now_ns)
            await self._clock.sleep(SWEEP_S)

    async def close(self) -> None:
        """Once what was begun is on disk."""
        await self._index.close()
        if self._answers is not None:
            await self._answers.close()


class Room:
    """Memory for streams that are on their way and may be kept."""

    def __init__(self) -> None:
        self.bytes = 0

    def take(self, size: int) -> bool:
        if self.bytes + size > RECORDED_BYTES_MAX:
            return False
        self.bytes += size
        return True


class Recorder:
    """A ClientStream that keeps what passes, for a use of a key. To be closed."""

    def __init__(self, client: ClientStream, use: Use, room: Room) -> None:
        self._client = client
        self._use = use
        self._room = room
        self._headers: Headers = ()
        self._pieces: list[bytes] | None = []
        """None: it is too long, or there is no room for it."""
        self._bytes = 0

    async def start(self, headers: Headers) -> None:
        self._headers = headers
        await self._client.start(headers)

    async def write(self, data: bytes) -> None:
        self._add(data)
        await self._client.write(data)

    async def finish(self, data: bytes) -> None:
        self._add(data)
        # Settled before its end is sent, and before anybody can leave who has not got it.
        if self._use.charged and self._pieces is not None:
            self._use.answer = Kept(_lasting(self._headers), None, b"".join(self._pieces))
        await self._client.finish(data)

    def _add(self, data: bytes) -> None:
        if self._pieces is None:
            return
        size = len(data)
        if self._bytes + size <= ANSWER_BYTES_MAX and self._room.take(size):
            self._pieces.append(data)
            self._bytes += size
        else:
            self.close()

    def close(self) -> None:
        """Nothing more is kept."""
        self._pieces = None
        self._room.bytes -= self._bytes
        self._bytes = 0


def keep_whole(use: Use, answer: Answer) -> None:
    """Keep a buffered answer."""
    if len(answer.body) <= ANSWER_BYTES_MAX:
        use.answer = Kept(_lasting(answer.headers), answer.content_type, answer.body)


def checked_key(values: list[str]) -> str:
    """The key of a request's headers of that name. Raises InvalidParameter."""
    if len(values) > 1:
        raise InvalidParameter(f"{HEADER} was sent {len(values)} times; send it once", param=HEADER)
    key = values[0]
    if not 1 <= len(key) <= KEY_CHARS_MAX or not all(" " <= char <= "~" for char in key):
        raise InvalidParameter(f"{HEADER} takes 1 to {KEY_CHARS_MAX} printable ASCII characters", param=HEADER)
    return key


def digest_of(*parts: bytes) -> bytes:
    """SHA-256 of the parts, each with its length, so that no two lists have one text."""
    state = hashlib.sha256()
    for part in parts:
        state.update(b"%d:" % len(part))
        state.update(part)
    return state.digest()


def _replay(known: Use, fingerprint: bytes) -> Kept:
    if known.row.fingerprint != fingerprint:
        raise _mismatch()
    if not known.is_over:  # Or its caller has gone, and whether it comes to something is not known yet.
        raise IdempotencyInProgress(
            f"A request with this {HEADER} is being served. Wait for its answer, then send it again to get the same.",
            retry_after_s=1,
        )
    if known.answer is None:
        raise _unavailable()
    return known.answer


def _read(plain: bytes) -> Kept | None:
    """An answer from the disk; None where a version wrote it that kept answers in another way."""
    try:
        return _kept_decoder.decode(plain)
    except msgspec.DecodeError:
        return None


def _mismatch() -> IdempotencyMismatch:
    return IdempotencyMismatch(f"This {HEADER} was used for another request. Use a new one for each.", param=HEADER)


def _unavailable() -> ReplayUnavailable:
    return ReplayUnavailable(
        f"The request with this {HEADER} was served and charged, and its answer is not kept any more: it was cut off, "
        f"is longer than {ANSWER_BYTES_MAX} bytes, had to make room for others, or this gateway has lost it. Use a new "
        "key to ask again.",
        param=HEADER,
    )


def _came_to_something(record: RequestRecord) -> bool:
    return record.outcome == Outcome.OK or record.cost_nano > 0


def _lasting(headers: Headers) -> Headers:
    return tuple(pair for pair in headers if not pair[0].lower().startswith(_OF_THE_MOMENT))
