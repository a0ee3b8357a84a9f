"""The response cache: an answer that a tenant was given minutes ago, given again to who says that it will do.

Of equal requests of one tenant in flight only the first is served; the others wait for its answer for a while. What
counts as equal is a digest of the body without what makes no other answer (`cache_key`). Kept are whole, good answers,
as they went out; whoever wants a stream where one was given whole, or the reverse, is told it anew in its own dialect.
"""

import asyncio
import hashlib
import logging
from collections import Counter, OrderedDict

import msgspec

from routerx import jsonx
from routerx.clock import Clock
from routerx.config.snapshot import ServerConfig
from routerx.dialects.base import StreamTap
from routerx.dialects.leniently import decode_or_none
from routerx.dialects.openai_chat import OPENAI
from routerx.dialects.openai_chat.relay.stream import completion_as_stream
from routerx.dialects.responses import RESPONSES
from routerx.domain.call import Operation, Peek
from routerx.domain.chat import Answer as ChatAnswer
from routerx.domain.chat import ChatRequest, Finish, Opaque, Refusal
from routerx.domain.events import Event, fold
from routerx.domain.usage import Usage
from routerx.errors import InvalidParameter
from routerx.gateway.attempt import deadline_of
from routerx.gateway.context import Answer, BufferedCommit, ClientStream, RequestContext, StreamCommit
from routerx.gateway.headers import dropped_headers
from routerx.gateway.translation import asked_of, canonical

log = logging.getLogger("routerx.gateway.cache")

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
_STATEFUL = "conversation"
"""A field of the Responses wire: the answer then depends on what the provider remembers by now."""
_OLD_CALLS = "functions"
"""A field of the OpenAI wire: calls are then told in a form of their own."""
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
    dropped: tuple[str, ...]
    """What of the request the wire of the endpoint that answered could not take."""
    until_s: float
    """Monotonic."""


class Flight:
    """A request that is being served and that others may be waiting for, and what it delivers meanwhile."""

    __slots__ = ("copied_bytes", "kept", "key", "landed", "peek", "pieces", "server")

    def __init__(self, key: bytes, peek: Peek, server: ServerConfig) -> None:
        self.key = key
        self.peek = peek
        self.server = server
        self.landed = asyncio.Event()
        self.kept: Kept | None = None
        self.pieces: list[bytes] | None = []
        """Of a stream; None: it is too long."""
        self.copied_bytes = 0

    @property
    def bytes_max(self) -> int:
        return self.server.cache_bytes_max // SHARE - OVERHEAD_BYTES


class Copying:
    """A ClientStream whose bytes a flight gets, too."""

    def __init__(self, client: ClientStream, cache: "ResponseCache", flight: Flight) -> None:
        self._client = client
        self._cache = cache
        self._flight = flight

    async def start(self, headers: Headers) -> None:
        await self._client.start(headers)

    async def write(self, data: bytes) -> None:
        self._cache.copy(self._flight, data)
        await self._client.write(data)

    async def finish(self, data: bytes) -> None:
        await self._client.finish(data)


class ResponseCache:
    """All that is kept. Memory is bounded by `server.cache.size_max`, and read anew for each request."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: OrderedDict[bytes, Kept] = OrderedDict()
        self._flights: dict[bytes, Flight] = {}
        self._serving: dict[str, Flight] = {}
        """The same, by the id of the request that is served."""
        self._waiting: Counter[tuple[str, ...]] = Counter()
        """Requests that wait for an equal one: of all, by tenant and by key."""
        self.bytes = 0
        """Of answers that are kept, and of streams that may be."""
        self.hits = 0
        self.misses = 0
        self.coalesced = 0
        """Hits that an equal request had not been answered for yet when they came."""

    async def find(self, ctx: RequestContext) -> Answer | None:
        """The answer, ready to be sent: a stream's in one piece. None: serve the request, and call land() at its end.

        Waits for an equal request that is being served: no longer than its own deadline, nor, as a stream, than one may
        be silent.
        """
        server = ctx.snapshot.server
        if server.cache_ttl_s == 0 or not _is_cacheable(ctx):
            return None
        key, peek = cache_key(ctx), ctx.peek
        assert peek is not None
        kept, flight = self._fresh(key), self._flights.get(key)
        told = None if kept is None else _told(ctx, kept)
        if told is None and flight is not None and _is_of_use(ctx, flight.peek) and self._may_wait(ctx):
            kept = await self._wait(ctx, flight)
            told = None if kept is None else _told(ctx, kept)
            self.coalesced += told is not None
        if told is not None:
            self.hits += 1
            return told
        self.misses += 1
        if key not in self._flights and not (peek.stream and peek.operation is Operation.COMPLETIONS):
            # Of streams of text completions nothing can be told in another shape: they are not kept.
            self._flights[key] = self._serving[ctx.inbound.request_id] = Flight(key, peek, server)
        return None

    def _may_wait(self, ctx: RequestContext) -> bool:
        """Who waits is not admitted yet, so what bounds the requests at once has to bound those that wait, too."""
        return all(most is None or self._waiting[who] < most for who, most in _ceilings(ctx))

    async def _wait(self, ctx: RequestContext, flight: Flight) -> Kept | None:
        assert ctx.plan is not None
        assert ctx.peek is not None
        left_s = deadline_of(ctx, ctx.plan.candidates[0].timeouts).at_s - self._clock.monotonic_s()
        most_s = min(left_s, ctx.snapshot.server.keep_alive_s) if ctx.peek.stream else left_s
        self._waiting.update(who for who, _ in _ceilings(ctx))
        try:
            async with asyncio.timeout(most_s):
                await flight.landed.wait()
        except TimeoutError:
            return None
        finally:
            self._waiting.subtract(who for who, _ in _ceilings(ctx))
            self._waiting = +self._waiting  # Without those of whom none waits.
        return flight.kept

    def keep(self, ctx: RequestContext, commit: BufferedCommit | StreamCommit) -> None:
        """The answer is settled and whole: keep it if it is good."""
        flight, peek = self._serving.get(ctx.inbound.request_id), ctx.peek
        if flight is None or peek is None or not _WRONG_FLAGS.isdisjoint(ctx.flags):
            return
        if isinstance(commit, StreamCommit):
            pieces, content_type, usage = self._taken(flight), None, commit.tap.usage
            body = None if pieces is None else b"".join((*pieces, commit.tap.terminal))
        else:
            body, usage = commit.body, commit.result.usage
            named = commit.result.content_type
            content_type = named if named is not None else "application/json"
        if body is None or len(body) > flight.bytes_max or not _is_good(ctx, body, whole=content_type is not None):
            return
        until_s = self._clock.monotonic_s() + flight.server.cache_ttl_s
        provider = commit.candidate.endpoint.provider
        flight.kept = Kept(body, content_type, peek.wants_usage, usage, provider, ctx.dropped, until_s)
        self._put(flight.key, flight.kept, flight.server.cache_bytes_max)

    def over(self, ctx: RequestContext, client: ClientStream) -> ClientStream:
        """The caller's end of a stream that may be kept."""
        flight = self._serving.get(ctx.inbound.request_id)
        return client if flight is None else Copying(client, self, flight)

    def land(self, ctx: RequestContext) -> None:
        """The request has ended, somehow: who waits for it goes on."""
        flight = self._serving.pop(ctx.inbound.request_id, None)
        if flight is not None:
            self._taken(flight)
            del self._flights[flight.key]
            flight.landed.set()

    def copy(self, flight: Flight, data: bytes) -> None:
        """A piece of its stream is on its way. What cannot be kept any more takes no memory."""
        if flight.pieces is None:
            return
        size = len(data)
        if flight.copied_bytes + size <= flight.bytes_max and self._has_room(size, flight.server.cache_bytes_max):
            flight.pieces.append(data)
            flight.copied_bytes += size
            self.bytes += size
        else:
            self._taken(flight)

    def _taken(self, flight: Flight) -> list[bytes] | None:
        """What was copied, which from now on is the caller's."""
        pieces, flight.pieces = flight.pieces, None
        self.bytes -= flight.copied_bytes
        flight.copied_bytes = 0
        return pieces

    def _has_room(self, size: int, bytes_max: int) -> bool:
        """Whether so much more may be kept, once the oldest are gone."""
        while self._entries and self.bytes + size > bytes_max:
            self._remove(next(iter(self._entries)))
        return self.bytes + size <= bytes_max

    def _fresh(self, key: bytes) -> Kept | None:
        kept = self._entries.get(key)
        if kept is None:
            return None
        if kept.until_s <= self._clock.monotonic_s():
            self._remove(key)
            return None
        self._entries.move_to_end(key)
        return kept

    def _put(self, key: bytes, kept: Kept, bytes_max: int) -> None:
        if key in self._entries:
            self._remove(key)
        size = len(kept.body) + OVERHEAD_BYTES
        if self._has_room(size, bytes_max):
            self._entries[key] = kept
            self.bytes += size

    def _remove(self, key: bytes) -> None:
        self.bytes -= len(self._entries.pop(key).body) + OVERHEAD_BYTES


def _ceilings(ctx: RequestContext) -> tuple[tuple[tuple[str, ...], int | None], ...]:
    """Whose requests are counted together, and how many of them there may be at once; None: any number."""
    caller = ctx.principal
    name, terms = caller.tenant.name, caller.terms
    return (
        ((), ctx.snapshot.server.concurrency_max),
        ((name,), caller.tenant.plan.limits.concurrency),
        ((name, caller.key_id), None if terms is None else terms.limits.concurrency),
    )


def cache_key(ctx: RequestContext) -> bytes:
    """A digest of what two requests have in common that one answer serves: whose they are and what their key may use,
    what they want, and of whom. A body's order of keys and white space do not count, nor does what makes no other
    answer."""
    inbound, peek = ctx.inbound, ctx.peek
    assert peek is not None
    tenant, spoken = inbound.principal.tenant, inbound.dialect
    ignored = _NO_MATTER - _ECHOED if spoken is RESPONSES else _NO_MATTER
    said = {name: value for name, value in jsonx.decode(inbound.body).items() if name not in ignored}
    if said.get("n") == 1 and said["n"] is not True:
        del said["n"]
    whose = (tenant.name, tenant.key_allow, ctx.snapshot.generation)
    what = (spoken.name, inbound.operation, peek.model, inbound.steering.wishes, dict(inbound.headers), said)
    return hashlib.sha256(msgspec.json.encode((whose, what), order="sorted")).digest()


def _is_cacheable(ctx: RequestContext) -> bool:
    peek, inbound = ctx.peek, ctx.inbound
    assert peek is not None
    if inbound.operation not in KEPT_WHOLE or inbound.steering.own_key is not None:
        return False
    if inbound.dialect is RESPONSES and bytes(ctx.fields.get(_STATEFUL, b"null")) != b"null":
        return False
    return not peek.stream or inbound.operation in (Operation.CHAT, Operation.COMPLETIONS)


# --- good answers


def _is_good(ctx: RequestContext, body: bytes, *, whole: bool) -> bool:
    """Whole, and neither empty, cut by its length, refused nor filtered. It is charged by now: what a provider can send
    and we cannot read is passed on and not kept."""
    try:
        return _reads_well(ctx, body, whole=whole)
    except Exception:
        log.exception("the answer to %s could not be read, and is not kept", ctx.inbound.request_id)
        return False


def _reads_well(ctx: RequestContext, body: bytes, *, whole: bool) -> bool:
    if ctx.inbound.operation is Operation.CHAT:
        answer = _answer_of(ctx, body, whole=whole)
        return bool(answer.choices) and all(
            choice.parts and choice.finish in _GOOD and not any(isinstance(part, Refusal) for part in choice.parts)
            for choice in answer.choices
        )
    if ctx.inbound.operation is Operation.COMPLETIONS:
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
    peek, body, content_type = ctx.peek, kept.body, kept.content_type
    assert peek is not None
    headers = (("X-RouterX-Provider", kept.provider), ("X-RouterX-Cache-Hit", "true"), *dropped_headers(kept.dropped))
    if content_type is None and _is_the_same_shape(peek, kept.wants_usage):
        stream: bytes | None = body
        if not peek.wants_usage and kept.wants_usage:
            stream = _through(ctx.inbound.dialect.tap(peek, strip_usage=True), body)
        return None if stream is None else Answer(stream, "", headers)
    if content_type is None:
        folded = _folded(ctx, kept)
        if folded is None:
            return None
        body, content_type = folded, "application/json"
    if not peek.stream:
        return Answer(body, content_type, headers)
    stream = _as_stream(ctx, body)
    return None if stream is None else Answer(stream, "", headers)


def _is_the_same_shape(peek: Peek, wants_usage: bool) -> bool:
    """Of a stream: whether it serves as it is, but for usage that may have to be taken out."""
    return peek.stream and (wants_usage or not peek.wants_usage)


def _is_of_use(ctx: RequestContext, served: Peek) -> bool:
    """Whether the answer to a request in flight can be told to this one, as far as that is known beforehand."""
    assert ctx.peek is not None
    return not served.stream or _is_the_same_shape(ctx.peek, served.wants_usage) or _foldable(ctx) is not None


def _foldable(ctx: RequestContext) -> ChatRequest | None:
    """The request, where a stream that answers it can be made a whole answer and lose nothing."""
    if ctx.inbound.operation is not Operation.CHAT or _OLD_CALLS in ctx.fields:
        return None
    try:
        request = canonical(ctx)
    except InvalidParameter:  # It passes to providers of its own wire; only we cannot read it.
        return None
    return None if request.logprobs or request.top_logprobs is not None else request


def _folded(ctx: RequestContext, kept: Kept) -> bytes | None:
    """A stream as one whole answer; None where something of it would be missing."""
    request = _foldable(ctx)
    if request is None:
        return None
    answer = _answer_of(ctx, kept.body, whole=False)
    if any(isinstance(part, Opaque) for choice in answer.choices for part in choice.parts):
        return None  # Pieces of something that we cannot put together.
    if answer.usage is None:
        answer = msgspec.structs.replace(answer, usage=kept.usage)
    body, lost = ctx.inbound.dialect.source.encode_answer(answer, asked_of(ctx, request))
    return None if lost else body


def _as_stream(ctx: RequestContext, body: bytes) -> bytes | None:
    """A whole answer as one stream, with usage in it for who asked; None where an event would be too long."""
    dialect, peek = ctx.inbound.dialect, ctx.peek
    assert peek is not None
    if dialect is OPENAI and not peek.wants_usage:
        fields = jsonx.request_object(body)
        body = jsonx.encode({name: value for name, value in fields.items() if name != "usage"})
    tap = dialect.tap(peek, strip_usage=False)
    told = completion_as_stream(body) if peek.operation is Operation.COMPLETIONS else dialect.to_stream(body)
    return _through(tap, told)


def _through(tap: StreamTap, stream: bytes) -> bytes | None:
    """What a tap makes of a whole stream; None where it cannot be told."""
    flowing = tap.feed(stream)
    return None if tap.close() is not None else flowing + tap.terminal
