"""Between the caller's wire and the provider's: the draft of a request on its way out, and the answer on its way back.

Of one dialect on both ends: the caller's fields pass, and the provider's bytes. Of two: both ways go over the canonical
values of the domain, and what the other side cannot take is counted, told in X-RouterX-Dropped or, where the policy
says so, refused. Nothing here has been sent yet when it fails.
"""

import asyncio
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterator, Mapping

import msgspec

from routerx.dialects.base import Aim, Asked, CallerDialect, Dialect, StreamTap
from routerx.dialects.openai_chat.relay.stream import completion_as_stream
from routerx.dialects.registry import dialect
from routerx.dialects.tap import EventTap
from routerx.domain.call import Candidate, Operation, Peek
from routerx.domain.chat import ChatRequest, Finish, Media, MediaKind, Message, Part, ToolResult
from routerx.domain.egress import EgressPolicy, Fetched
from routerx.domain.embedding import EmbeddingRequest
from routerx.domain.events import Ended, Event, Failed, Finished, events_of, fold
from routerx.domain.failure import Failure, FailureKind
from routerx.domain.policy import Translation
from routerx.errors import InvalidParameter, MediaUnavailable, TranslationLossy, UnsupportedOperation
from routerx.gateway.context import RequestContext
from routerx.gateway.rescue import Delivered, Rejoin, Rejoining, prefilled
from routerx.providers.prepare import Draft
from routerx.providers.quirks import asks_usage
from routerx.providers.spec import Provider, Wire
from routerx.providers.wires import wire_of

COERCED = (Operation.CHAT, Operation.COMPLETIONS)
"""Operations whose whole answer can be told as a stream; of others it passes as it is, which clients expect of models
that do not stream."""

URLS_MAX = 32
"""Media that one request may have fetched for it."""


Fetch = Callable[[str, frozenset[MediaKind], EgressPolicy], Awaitable[Fetched]]
"""upstream.egress.Egress.fetch: raises MediaRefused or MediaUnavailable."""


TOTAL_BYTES_MAX = 40 * 1024 * 1024
"""And of so many bytes together."""
LANES_MAX = 1_024
"""Kept ways to speak: providers × operations × dialects, with room for a reload."""


class Script(msgspec.Struct, frozen=True):
    """How one candidate is spoken to, and how what it says is told to the caller."""

    draft: Draft
    dialect: Dialect
    """The provider's."""
    caller: CallerDialect
    translates: bool
    """The two differ."""
    asked: Asked | None = None
    """What a chat's answer is written for; None where bytes pass, and for embeddings."""
    embedding: EmbeddingRequest | None = None
    dropped: tuple[str, ...] = ()
    rejoin: Rejoin | None = None
    """The answer goes on with one that broke off."""


class _Lane(msgspec.Struct, frozen=True):
    """How one provider is spoken to for one operation by callers of one dialect; the same for all requests."""

    provider: Provider
    wire: Wire
    spoken: Dialect
    asks_usage: bool
    """Usage in a stream has to be asked for."""


class Translator:
    """Makes scripts. Holds the way out for what callers name by URL."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._lanes: dict[tuple[str, Operation, str], _Lane] = {}

    def passing(self, ctx: RequestContext, candidate: Candidate) -> Script | None:
        """The script of one attempt between two ends of one dialect; None where there are two."""
        inbound, peek, endpoint = ctx.inbound, ctx.peek, candidate.endpoint
        assert peek is not None
        caller = inbound.dialect
        provider = ctx.snapshot.providers[endpoint.provider]
        lane = self._lane(provider, peek.operation, caller)
        if lane.spoken is not caller:
            return None
        model = endpoint.upstream_model
        ask_usage = lane.asks_usage and peek.stream and not peek.wants_usage
        draft = Draft(
            operation=peek.operation,
            wire=lane.wire,
            path=caller.path(peek.operation, model, stream=peek.stream),
            stream=peek.stream,
            fields=caller.request_fields(ctx.fields, model=model, ask_usage=ask_usage),
            headers=_forwarded(inbound.headers, provider) if inbound.headers else (),
            strip_usage=ask_usage,
        )
        if ctx.form is not None:
            form = ctx.form
            draft = msgspec.structs.replace(draft, body=form.with_text("model", model), content_type=form.content_type)
        return Script(draft, caller, caller, translates=False)

    def _lane(self, provider: Provider, operation: Operation, caller: CallerDialect) -> "_Lane":
        key = (provider.name, operation, caller.name)
        lane = self._lanes.get(key)
        if lane is None or lane.provider is not provider:
            wire = wire_of(provider, operation, caller.name)
            asks = operation in COERCED and asks_usage(provider.quirks)
            lane = _Lane(provider, wire, dialect(wire.dialect), asks)
            if len(self._lanes) >= LANES_MAX:
                self._lanes.clear()
            self._lanes[key] = lane
        return lane

    async def rejoining(self, ctx: RequestContext, candidate: Candidate, rejoin: Rejoin) -> Script:
        """The script of an attempt that goes on with a stream that broke off: whatever the dialects, its answer is read
        event by event. Raises what translated() raises."""
        script = self.passing(ctx, candidate) if not rejoin.given else None
        if script is None:
            script = await self.translated(ctx, candidate, given=rejoin.given)
        return msgspec.structs.replace(script, translates=True, asked=asked_of(ctx, canonical(ctx)), rejoin=rejoin)

    async def translated(self, ctx: RequestContext, candidate: Candidate, *, given: str = "") -> Script:
        """The script of one attempt between two dialects. Awaits only where a URL has to be fetched. `given`: the
        beginning of the answer.

        Raises InvalidParameter for a request that cannot be told to this provider, and MediaRefused or MediaUnavailable
        for a URL that it would have to be given as bytes.
        """
        inbound, endpoint, peek = ctx.inbound, candidate.endpoint, ctx.peek
        assert peek is not None
        provider = ctx.snapshot.providers[endpoint.provider]
        lane = self._lane(provider, peek.operation, inbound.dialect)
        spoken = lane.spoken
        path = spoken.path(peek.operation, endpoint.upstream_model, stream=peek.stream)
        draft = Draft(peek.operation, lane.wire, path, peek.stream, {})
        caller = inbound.dialect
        aim = Aim(
            model=endpoint.upstream_model,
            output_tokens_max=endpoint.output_tokens_max,
            capabilities=endpoint.capabilities,
            ask_usage=draft.stream and asks_usage(provider.quirks),
            takes=provider.takes,
            reasoning_field=provider.reasoning_field,
            continues=bool(given),
        )
        asked = embedding = None
        if draft.operation is Operation.CHAT:
            request = canonical(ctx)
            request = ctx.request = await self._inlined(request, spoken.target.inline_media, ctx.snapshot.server.egress)
            asked = asked_of(ctx, request)
            encoded = spoken.target.encode_request(prefilled(request, given) if given else request, aim)
        elif draft.operation is Operation.EMBEDDINGS and caller.embedding_source and spoken.embedding_target:
            embedding = caller.embedding_source.decode_request(ctx.fields)
            encoded = spoken.embedding_target.encode_request(embedding, aim)
        else:
            raise UnsupportedOperation(
                f"{provider.name} cannot do {draft.operation.value} in the format of this route."
            )
        assert ctx.plan is not None
        if encoded.dropped and ctx.plan.policy.translation is Translation.STRICT:
            raise TranslationLossy(
                f"{provider.name} cannot take {', '.join(map(repr, encoded.dropped))}, and the policy "
                f"{ctx.plan.policy.name!r} allows nothing to be dropped. Leave it out, or ask for another model.",
                param=encoded.dropped[0],
            )
        draft = msgspec.structs.replace(draft, fields=encoded.fields)
        return Script(draft, spoken, caller, True, asked, embedding, encoded.dropped)

    async def _inlined(self, request: ChatRequest, kinds: frozenset[MediaKind], policy: EgressPolicy) -> ChatRequest:
        """The request with the media of these kinds as bytes: every URL among them is fetched, once."""
        wanted = {
            media.url: media.kind
            for media in _media(request)
            if media.kind in kinds and media.url is not None and media.url.startswith(("http://", "https://"))
        }
        if not wanted:
            return request
        if len(wanted) > URLS_MAX:
            raise InvalidParameter(
                f"The request names {len(wanted)} URLs of media that would have to be fetched; at most {URLS_MAX} may."
                " Send their bytes as data: URLs.",
                param="messages",
            )
        # At once, so that together they take no longer than one may; and all to their end, so that none is left behind.
        fetches = (self._fetch(url, frozenset({kind}), policy) for url, kind in wanted.items())
        got: list[Fetched] = []
        for one in await asyncio.gather(*fetches, return_exceptions=True):
            if isinstance(one, BaseException):
                raise one
            got.append(one)
        total_bytes = sum(len(one.data) for one in got)
        if total_bytes > TOTAL_BYTES_MAX:
            raise MediaUnavailable(
                f"The media that the request names by URL have {total_bytes} bytes together; at most {TOTAL_BYTES_MAX} "
                "are fetched.",
                param="messages",
            )
        # Encoding takes a millisecond a megabyte: not on the loop that everybody waits for.
        data = await asyncio.to_thread(lambda: [b64encode(one.data).decode() for one in got])
        fetched = {url: (one.mime, text) for url, one, text in zip(wanted, got, data, strict=True)}
        return msgspec.structs.replace(
            request, messages=tuple(_with_bytes(message, fetched) for message in request.messages)
        )


def asked_of(ctx: RequestContext, request: ChatRequest) -> Asked:
    """What this request's answer is written for."""
    inbound, peek = ctx.inbound, ctx.peek
    assert peek is not None
    return Asked(
        request=request,
        model=peek.model,
        request_id=inbound.request_id,
        created_s=inbound.started_ns // 1_000_000_000,
    )


def canonical(ctx: RequestContext) -> ChatRequest:
    """The caller's request in canonical form, decoded once. Raises InvalidParameter."""
    if ctx.request is None:
        ctx.request = ctx.inbound.dialect.source.decode_request(ctx.fields)
    return ctx.request


# --- the answer --------------------------------------------------------------------------------------------------


def tell_whole(script: Script, body: bytes, request_id: str) -> tuple[bytes, tuple[str, ...]]:
    """A provider's whole answer as the caller gets it, and what of it the caller's wire cannot say."""
    if script.embedding is not None:
        assert script.dialect.embedding_target is not None
        assert script.caller.embedding_source is not None
        vectors = script.dialect.embedding_target.decode_answer(body)
        return script.caller.embedding_source.encode_answer(vectors, script.embedding), ()
    assert script.asked is not None
    answer = script.dialect.target.decode_answer(body, request_id)
    return script.caller.source.encode_answer(answer, script.asked)


def stream_tap(script: Script, peek: Peek, request_id: str) -> StreamTap:
    """The tap of a stream from this provider to this caller."""
    if not script.translates:
        return script.caller.tap(peek, strip_usage=script.draft.strip_usage)
    assert script.asked is not None
    target = script.dialect.target
    encoder = script.caller.source.encoder(script.asked)
    choices = 1 if "n" in script.dropped else peek.choices
    return EventTap(target.decoder(request_id), target.splitter(), encoder, choices=choices)


def rejoining_tap(script: Script, rejoin: Rejoin, request_id: str) -> tuple[EventTap, Rejoining]:
    """The tap of a stream that goes on with another, and the decoder in it that proves it does."""
    assert script.asked is not None
    target = script.dialect.target
    encoder = script.caller.source.encoder(script.asked)
    for event in rejoin.delivered.retold():
        encoder.encode(event)  # The caller has it: it only brings the encoder to where the caller is.
    rejoining = Rejoining(target.decoder(request_id), rejoin)
    tap = EventTap(rejoining, target.splitter(), encoder)
    if not rejoin.given:  # All of it is this provider's work, and is charged as such where it reports nothing.
        tap.output_chars = sum(len(text.encode("utf-8", "replace")) for _, text in rejoin.runs)
    return tap, rejoining


def cut_by_length(ctx: RequestContext, delivered: Delivered) -> bytes:
    """The end of a stream that is no longer than what the caller has of it."""
    encoder = ctx.inbound.dialect.source.encoder(asked_of(ctx, canonical(ctx)))
    for event in delivered.retold():
        encoder.encode(event)
    return encoder.encode(Finished(Finish.LENGTH)) + encoder.end()


def gathered(script: Script, body: bytes, request_id: str) -> list[Event] | Failure:
    """The events of a whole stream that came where one whole answer was asked for (FAULTS.md 39)."""
    target = script.dialect.target
    decoder, splitter = target.decoder(request_id), target.splitter()
    frames = splitter.feed(body)[1]
    last = splitter.finish()[1]
    events = [event for frame in (*frames, *([last] if last else ())) if frame.data for event in decoder.feed(frame)]
    events += decoder.finish()
    for event in events:
        if isinstance(event, Failed):
            return event.failure
    if not any(isinstance(event, Finished | Ended) for event in events):
        return Failure(FailureKind.TRUNCATED, "The provider's answer ended before it was finished.")
    return events


def tell_gathered(script: Script, ctx: RequestContext, events: list[Event]) -> tuple[bytes, tuple[str, ...]]:
    """Such a stream as the caller's one whole answer, and what of it the caller's wire cannot say."""
    return script.caller.source.encode_answer(fold(events), asked_of(ctx, canonical(ctx)))


def tell_as_stream(script: Script, tap: StreamTap, body: bytes, request_id: str) -> bytes:
    """A whole answer, where a stream was asked for, as what of it may flow (FAULTS.md 38)."""
    if isinstance(tap, EventTap) and script.translates:
        return tap.tell(events_of(script.dialect.target.decode_answer(body, request_id)))
    if script.draft.operation is Operation.COMPLETIONS:
        return tap.feed(completion_as_stream(body))
    return tap.feed(script.caller.to_stream(body))


def lost_in(tap: StreamTap) -> frozenset[str]:
    """What a stream held that the caller's wire could not say."""
    return tap.dropped if isinstance(tap, EventTap) else frozenset()


# --- parts -------------------------------------------------------------------------------------------------------


def _media(request: ChatRequest) -> Iterator[Media]:
    for message in request.messages:
        for part in message.parts:
            if isinstance(part, Media):
                yield part
            elif isinstance(part, ToolResult):
                yield from (item for item in part.parts if isinstance(item, Media))


def _with_bytes(message: Message, fetched: Mapping[str, tuple[str, str]]) -> Message:
    return msgspec.structs.replace(message, parts=tuple(_inline(part, fetched) for part in message.parts))


def _inline(part: Part, fetched: Mapping[str, tuple[str, str]]) -> Part:
    if isinstance(part, ToolResult):
        inner = tuple(_inline_media(item, fetched) if isinstance(item, Media) else item for item in part.parts)
        return msgspec.structs.replace(part, parts=inner)
    return _inline_media(part, fetched) if isinstance(part, Media) else part


def _inline_media(media: Media, fetched: Mapping[str, tuple[str, str]]) -> Media:
    got = fetched.get(media.url) if media.url is not None else None
    if got is None:
        return media
    mime, data = got
    return msgspec.structs.replace(media, mime=mime, data=data, url=None)


def _forwarded(headers: Mapping[str, str], provider: Provider) -> tuple[tuple[str, str], ...]:
    if not headers or not provider.forward_headers:
        return ()
    return tuple((name, value) for name, value in headers.items() if name in provider.forward_headers)
