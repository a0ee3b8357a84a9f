"""`routing_metadata`: what a caller may know of the way its request took, told in the answer, the stream or the error.

Pure. Who asks for it (X-RouterX-Metadata, or `server.routing_metadata: always`) gets one more key beside the provider's
own bytes, which stay as they are; for everybody else nothing is done at all. It names no credential, no cost of the
house and no endpoint that the tenant is not allowed to know of.
"""

from collections.abc import Iterator

import msgspec

from routerx import jsonx
from routerx.clock import Clock
from routerx.dialects.gemini import GEMINI
from routerx.dialects.leniently import decode_or_none
from routerx.dialects.openai_chat import OPENAI
from routerx.dialects.sse import FrameSplitter
from routerx.domain.call import Exclusion, Operation
from routerx.errors import RouterXError
from routerx.gateway.context import BufferedCommit, RequestContext
from routerx.money import format_usd
from routerx.routing.rules import NOT_ALLOWED

KEY = "routing_metadata"
_CHUNKS = {Operation.CHAT: "chat.completion.chunk", Operation.COMPLETIONS: "text_completion"}
"""Streams of chunks with choices, by the `object` of a chunk."""
_DONE = b"[DONE]"
_chunk_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


class AttemptTold(msgspec.Struct, frozen=True):
    """One call to one endpoint."""

    n: int
    """1-based."""
    provider: str
    endpoint: str
    outcome: str
    upstream_status: int | None
    started_ms: int
    """Since the request's start."""
    duration_ms: int
    """Until it failed or its first content was here."""


class RoutingMetadata(msgspec.Struct, frozen=True):
    """The object on the wire."""

    request_id: str
    primary_provider: str | None
    """The first choice; None where the request was refused before there was one."""
    provider: str | None
    """Who answered."""
    model: str | None
    """The name of the model that answered."""
    policy_used: str | None
    fallback: bool
    """Another endpoint than the first choice answered."""
    attempts: tuple[AttemptTold, ...]
    excluded: tuple[Exclusion, ...]
    cost_usd: str
    cost_nano: int
    service_tier: str | None
    """In which it was served and charged, once it is settled; None: the plain one."""
    latency_ms: int
    """From the request's start until this was written."""


def routing_metadata(ctx: RequestContext, now_s: float, excluded: tuple[Exclusion, ...] = ()) -> RoutingMetadata:
    """What is known of the request by now; its cost once it is settled, 0 before. `excluded`: in place of the plan's,
    where there is none."""
    plan, committed = ctx.plan, ctx.committed
    first = plan.candidates[0].endpoint if plan is not None else None
    endpoint = committed.candidate.endpoint if committed is not None else None
    cost_nano = ctx.receipt.charged_nano if ctx.receipt is not None else 0
    return RoutingMetadata(
        request_id=ctx.inbound.request_id,
        primary_provider=first.provider if first is not None else None,
        provider=endpoint.provider if endpoint is not None else None,
        model=endpoint.model if endpoint is not None else None,
        policy_used=plan.policy.name if plan is not None else None,
        fallback=endpoint is not None and first is not None and endpoint.key != first.key,
        attempts=tuple(
            AttemptTold(
                n=attempt.n,
                provider=attempt.provider,
                endpoint=attempt.endpoint,
                outcome=attempt.outcome,
                upstream_status=attempt.upstream_status,
                started_ms=attempt.started_ms,
                duration_ms=attempt.duration_ms,
            )
            for attempt in ctx.attempts
        ),
        excluded=tellable(plan.excluded if plan is not None else excluded),
        cost_usd=format_usd(cost_nano),
        cost_nano=cost_nano,
        service_tier=ctx.terms.tier if ctx.terms is not None else None,
        latency_ms=round((now_s - ctx.inbound.started_s) * 1000),
    )


def tellable(excluded: tuple[Exclusion, ...]) -> tuple[Exclusion, ...]:
    """Exclusions as a tenant may see them: a model that it may not use does not exist for it."""
    return tuple(one for one in excluded if one.rule != NOT_ALLOWED)


def in_answer(ctx: RequestContext, commit: BufferedCommit, clock: Clock) -> bytes:
    """The body of a buffered answer: the provider's, and one more key at its end where it is JSON and was asked for."""
    return commit.body if commit.result.content_type is not None else in_body(ctx, commit.body, clock)


def in_body(ctx: RequestContext, body: bytes, clock: Clock) -> bytes:
    """The same of a body that is known to be JSON."""
    return jsonx.with_key(body, KEY, _encoded(ctx, clock)) if _wanted(ctx) else body


def in_stream(ctx: RequestContext, terminal: bytes, clock: Clock) -> bytes:
    """The last frames of a stream that has ended well.

    Chunks of the OpenAI chat wire carry it: the usage chunk where there is one, else one of its own before the end
    mark. Google's client takes a comment for an answer, so there the last event carries it, too. In other streams it
    is a comment, which their clients pass over.
    """
    if not _wanted(ctx):
        return terminal
    encoded, spoken = _encoded(ctx, clock), ctx.inbound.dialect
    if spoken is GEMINI:
        return _in_last(terminal, encoded)
    if spoken is OPENAI and ctx.inbound.operation in _CHUNKS:
        return _in_chunks(ctx, terminal, encoded)
    return _comment(encoded) + terminal


def in_stream_error(ctx: RequestContext, frames: bytes, clock: Clock) -> bytes:
    """The frames that end a stream with an error. It comes before them, because clients stop reading at the error."""
    if not _wanted(ctx):
        return frames
    encoded = _encoded(ctx, clock)
    return _in_last(frames, encoded) if ctx.inbound.dialect is GEMINI else _comment(encoded) + frames


def in_error(ctx: RequestContext, error: RouterXError, clock: Clock) -> None:
    """Leave it with an error that is going to be the response's body. A fault of ours says nothing of routing."""
    if error.status != 500 and _wanted(ctx):
        excluded = tuple(Exclusion(endpoint, rule) for endpoint, rule in error.excluded)
        error.routing_metadata = jsonx.encode(routing_metadata(ctx, clock.monotonic_s(), excluded))


def _wanted(ctx: RequestContext) -> bool:
    return ctx.inbound.steering.metadata or ctx.snapshot.server.metadata_always


def _encoded(ctx: RequestContext, clock: Clock) -> bytes:
    return jsonx.encode(routing_metadata(ctx, clock.monotonic_s()))


def _comment(encoded: bytes) -> bytes:
    return b": " + KEY.encode() + b" " + encoded + b"\n\n"


def _in_chunks(ctx: RequestContext, terminal: bytes, encoded: bytes) -> bytes:
    """In the last usage chunk, else in a chunk before the end mark."""
    found = list(_payloads(terminal))
    last: dict[str, msgspec.Raw] = {}
    usage: tuple[int, bytes] | None = None
    for start, data in found:
        chunk = decode_or_none(_chunk_decoder, data)
        if chunk is not None:
            last = chunk
            if bytes(chunk.get("usage", b"null")) != b"null":
                usage = start, data
    if usage is not None:
        return _with_metadata(terminal, usage, encoded)
    head: dict[str, object] = {name: last[name] for name in ("id", "created", "model") if name in last}
    own = {**head, "object": _CHUNKS[ctx.inbound.operation], "choices": [], KEY: msgspec.Raw(encoded)}
    end = next((terminal.rindex(b"data:", 0, start) for start, data in found if data == _DONE), len(terminal))
    return terminal[:end] + b"data: " + jsonx.encode(own) + b"\n\n" + terminal[end:]


def _in_last(terminal: bytes, encoded: bytes) -> bytes:
    """In the last event that has a payload."""
    found = list(_payloads(terminal))
    return _with_metadata(terminal, found[-1], encoded) if found else terminal


def _with_metadata(terminal: bytes, place: tuple[int, bytes], encoded: bytes) -> bytes:
    start, data = place
    return terminal[:start] + jsonx.with_key(data, KEY, encoded) + terminal[start + len(data) :]


def _payloads(frames: bytes) -> Iterator[tuple[int, bytes]]:
    """Where the payload of each event begins, and the payload; those written in several lines are left out."""
    raw, cut = FrameSplitter(len(frames) + 1).feed(frames)
    begin = 0
    for frame in cut:
        if frame.data is not None and (start := raw.find(frame.data, begin, frame.end)) >= 0:
            yield start, frame.data
        begin = frame.end
