"""The response cache: an answer that a tenant was given minutes ago, given again to who says that it will do.

Of equal requests of one tenant in flight only the first is served; the others wait for its answer for a while. What
counts as equal is a digest of the body without what makes no other answer (`cache_key`). Kept are whole, good answers,
as they went out; whoever wants a stream where one was given whole, or the reverse, is told it anew in its own dialect.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Hashable

import msgspec

from routerx import jsonx
from routerx.clock import Clock
from routerx.dialects.leniently import decode_or_none
from routerx.dialects.openai_chat import OPENAI
from routerx.dialects.openai_chat.relay.stream import completion_as_stream
from routerx.dialects.responses import RESPONSES
from routerx.domain.call import Operation
from routerx.domain.chat import Answer as ChatAnswer
from routerx.domain.chat import Finish, Refusal
from routerx.domain.events import Event, fold
from routerx.domain.usage import Usage
from routerx.gateway.context import Answer, BufferedCommit, ClientStream, Inbound, RequestContext, StreamCommit
from routerx.gateway.translation import asked_of, canonical

KEPT_WHOLE = frozenset(
    {
        Operation.CHAT,
        Operation.COMPLETIONS,
        Operation.EMBEDDINGS,
        Operation.IMAGES,
        Operation.SPEECH,
        Operation.MODERATIONS,
        Operation.RERANK,
    }
)
"""Operations whose requests are JSON and whose answers take work to make."""
OVERHEAD_BYTES = 512
"""What an entry takes beside its answer."""
SHARE = 8
"""One entry takes at most this part of the memory for all."""

_NO_MATTER = frozenset({"stream", "stream_options", "user", "metadata"})
_ECHOED = frozenset({"user", "metadata"})
"""Of these, what the Responses wire tells back in its answer."""
_ONES = frozenset({"n", "temperature", "top_p"})
"""Parameters that say nothing when they are 1."""
_GOOD = frozenset({Finish.STOP, Finish.TOOL_CALLS})
_WRONG_FLAGS = frozenset({"anomaly", "missing_done", "rescued"})

Headers = tuple[tuple[str, str], ...]


class Kept(msgspec.Struct, frozen=True):
    """An answer as it was given."""

    body: bytes
    content_type: str | None
    """None: it is a stream, whole, end mark included."""
    wants_usage: bool
    """Its caller asked for usage in the stream."""
    usage: Usage | None
    provider: str
    until_s: float
    """Monotonic."""


class Flight:
    """A request that is being served and that others may be waiting for, and what it delivers meanwhile."""

    __slots__ = ("_bytes", "_pieces", "bytes_max", "kept", "key", "landed")

    def __init__(self, key: Hashable, bytes_max: int) -> None:
        self.key = key
        self.bytes_max = bytes_max
        self.landed = asyncio.Event()
        self.kept: Kept | None = None
        self._pieces: list[bytes] = []
        self._bytes = 0

    def add(self, data: bytes) -> None:
        self._bytes += len(data)
        if self._bytes <= self.bytes_max:
            self._pieces.append(data)

    def delivered(self, terminal: bytes) -> bytes | None:
        """The whole stream; None where it is too long."""
        if self._bytes + len(terminal) > self.bytes_max:
            return None
        return b"".join((*self._pieces, terminal))


class Copying:
    """A ClientStream whose bytes a flight gets, too."""

    def __init__(self, client: ClientStream, flight: Flight) -> None:
        self._client = client
        self._flight = flight

    async def start(self, headers: Headers) -> None:
        await self._client.start(headers)

    async def write(self, data: bytes) -> None:
        self._flight.add(data)
        await self._client.write(data)

    async def finish(self, data: bytes) -> None:
        await self._client.finish(data)


class ResponseCache:
    """All that is kept. Memory is bounded by `server.cache.size_max`, and read anew for each request."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: OrderedDict[Hashable, Kept] = OrderedDict()
        self._flights: dict[Hashable, Flight] = {}
        self._serving: dict[str, Flight] = {}
        """The same, by the id of the request that is served."""
        self.bytes = 0

    async def find(self, ctx: RequestContext) -> Answer | None:
        """The answer, ready to be sent: a stream's in one piece. None: serve the request, and call land() at its end.

        Waits for an equal request that is being served, no longer than a stream may be silent.
        """
        server = ctx.snapshot.server
        if server.cache_ttl_s == 0 or not _is_cacheable(ctx):
            return None
        key = cache_key(ctx)
        kept = self._fresh(key)
        if kept is None:
            flight = self._flights.get(key)
            if flight is not None:
                kept = await self._wait(flight, server.keep_alive_s)
        if kept is not None and (told := _told(ctx, kept)) is not None:
            return told
        if key not in self._flights:
            flight = Flight(key, server.cache_bytes_max // SHARE - OVERHEAD_BYTES)
            self._flights[key] = self._serving[ctx.inbound.request_id] = flight
        return None

    async def _wait(self, flight: Flight, most_s: float) -> Kept | None:
        try:
            async with asyncio.timeout(most_s):
                await flight.landed.wait()
        except TimeoutError:
            return None
        return flight.kept

    def keep(self, ctx: RequestContext, commit: BufferedCommit | StreamCommit) -> None:
        """The answer is settled and whole: keep it if it is good."""
        flight, peek, server = self._serving.get(ctx.inbound.request_id), ctx.peek, ctx.snapshot.server
        if flight is None or peek is None or not _WRONG_FLAGS.isdisjoint(ctx.flags):
            return
        if isinstance(commit, StreamCommit):
            body, content_type, usage = flight.delivered(commit.tap.terminal), None, commit.tap.usage
        else:
            body, usage = commit.body, commit.result.usage
            named = commit.result.content_type
            content_type = named if named is not None else "application/json"
        if body is None or len(body) > flight.bytes_max or not _is_good(ctx, body, whole=content_type is not None):
            return
        until_s = self._clock.monotonic_s() + server.cache_ttl_s
        provider = commit.candidate.endpoint.provider
        flight.kept = Kept(body, content_type, peek.wants_usage, usage, provider, until_s)
        self._put(flight.key, flight.kept, server.cache_bytes_max)

    def over(self, ctx: RequestContext, client: ClientStream) -> ClientStream:
        """The caller's end of a stream that may be kept."""
        flight = self._serving.get(ctx.inbound.request_id)
        return client if flight is None else Copying(client, flight)

    def land(self, ctx: RequestContext) -> None:
        """The request has ended, somehow: who waits for it goes on."""
        flight = self._serving.pop(ctx.inbound.request_id, None)
        if flight is not None:
            del self._flights[flight.key]
            flight.landed.set()

    def _fresh(self, key: Hashable) -> Kept | None:
        kept = self._entries.get(key)
        if kept is None:
            return None
        if kept.until_s <= self._clock.monotonic_s():
            self._remove(key)
            return None
        self._entries.move_to_end(key)
        return kept

    def _put(self, key: Hashable, kept: Kept, bytes_max: int) -> None:
        if key in self._entries:
            self._remove(key)
        self._entries[key] = kept
        self.bytes += len(kept.body) + OVERHEAD_BYTES
        while self.bytes > bytes_max:
            self._remove(next(iter(self._entries)))

    def _remove(self, key: Hashable) -> None:
        self.bytes -= len(self._entries.pop(key).body) + OVERHEAD_BYTES


def cache_key(ctx: RequestContext) -> Hashable:
    """What two requests have in common that one answer serves: whose they are, what they want, and of whom."""
    inbound, peek = ctx.inbound, ctx.peek
    assert peek is not None
    return (
        inbound.principal.tenant.name,
        ctx.snapshot.generation,
        inbound.dialect.name,
        inbound.operation,
        peek.model,
        inbound.steering.wishes,
        tuple(sorted(inbound.headers.items())),
        body_digest(inbound),
    )


def body_digest(inbound: Inbound) -> bytes:
    """Of the body, whatever the order of its keys and its white space, without what makes no other answer."""
    fields = jsonx.decode(inbound.body)
    ignored = _NO_MATTER - _ECHOED if inbound.dialect is RESPONSES else _NO_MATTER
    said = {name: value for name, value in fields.items() if name not in ignored and not _says_nothing(name, value)}
    return hashlib.sha256(msgspec.json.encode(said, order="sorted")).digest()


def _says_nothing(name: str, value: object) -> bool:
    return name in _ONES and isinstance(value, int | float) and not isinstance(value, bool) and value == 1


def _is_cacheable(ctx: RequestContext) -> bool:
    peek, inbound = ctx.peek, ctx.inbound
    assert peek is not None
    if inbound.operation not in KEPT_WHOLE or inbound.steering.own_key is not None:
        return False
    return not peek.stream or inbound.operation in (Operation.CHAT, Operation.COMPLETIONS)


# --- good answers


def _is_good(ctx: RequestContext, body: bytes, *, whole: bool) -> bool:
    """Whole, and neither cut by its length, refused nor filtered."""
    if ctx.inbound.operation is Operation.CHAT:
        answer = _answer_of(ctx, body, whole=whole)
        return bool(answer.choices) and all(
            choice.finish in _GOOD and not any(isinstance(part, Refusal) for part in choice.parts)
            for choice in answer.choices
        )
    if ctx.inbound.operation is Operation.COMPLETIONS:
        if not whole:  # Of these streams nothing can be told in another shape.
            return False
        found = decode_or_none(_completion_decoder, body)
        return found is not None and all(choice.finish_reason == "stop" for choice in found.choices)
    return True


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice] = []


_completion_decoder = msgspec.json.Decoder(_Completion)


def _answer_of(ctx: RequestContext, body: bytes, *, whole: bool) -> ChatAnswer:
    """A chat's answer as its caller's dialect has it."""
    target, seed = ctx.inbound.dialect.target, ctx.inbound.request_id
    if whole:
        return target.decode_answer(body, seed)
    decoder, splitter = target.decoder(seed), target.splitter()
    events: list[Event] = []
    for frame in splitter.feed(body)[1]:
        if frame.data:
            events += decoder.feed(frame)
    return fold([*events, *decoder.finish()])


# --- telling one again


def _told(ctx: RequestContext, kept: Kept) -> Answer | None:
    """The answer in the shape that this caller wants; None where it cannot be told so."""
    peek, body = ctx.peek, kept.body
    assert peek is not None
    headers = (("X-RouterX-Provider", kept.provider), ("X-RouterX-Cache-Hit", "true"))
    if peek.stream and kept.content_type is None and kept.wants_usage == peek.wants_usage:
        return Answer(body, "", headers)
    if kept.content_type is None:
        folded = _folded(ctx, kept)
        if folded is None:
            return None
        body = folded
    if not peek.stream:
        return Answer(body, kept.content_type if kept.content_type is not None else "application/json", headers)
    return Answer(_as_stream(ctx, body), "", headers)


def _folded(ctx: RequestContext, kept: Kept) -> bytes | None:
    """A stream as one whole answer."""
    if ctx.inbound.operation is not Operation.CHAT or "logprobs" in ctx.fields:
        return None
    answer = _answer_of(ctx, kept.body, whole=False)
    if answer.usage is None:
        answer = msgspec.structs.replace(answer, usage=kept.usage)
    return ctx.inbound.dialect.source.encode_answer(answer, asked_of(ctx, canonical(ctx)))[0]


def _as_stream(ctx: RequestContext, body: bytes) -> bytes:
    """A whole answer as one stream, with usage in it for who asked."""
    dialect, peek = ctx.inbound.dialect, ctx.peek
    assert peek is not None
    if dialect is OPENAI and not peek.wants_usage:
        fields = jsonx.request_object(body)
        body = jsonx.encode({name: value for name, value in fields.items() if name != "usage"})
    tap = dialect.tap(peek, strip_usage=False)
    told = completion_as_stream(body) if peek.operation is Operation.COMPLETIONS else dialect.to_stream(body)
    flowing = tap.feed(told)
    tap.close()
    return flowing + tap.terminal
