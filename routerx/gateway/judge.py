"""Step 8 of the road: look at a provider's reply until it is certain what it is: an answer, its beginning, a failure.

How much of a stream has to be seen is the policy's word (stream.commit); nothing of it has been sent before.
"""

import asyncio

import msgspec

from routerx.clock import Clock
from routerx.dialects.tap import judged
from routerx.domain.call import Candidate, Operation, Progress
from routerx.domain.events import events_of
from routerx.domain.failure import Failure, FailureKind, UpstreamFault
from routerx.domain.policy import CommitMode, StreamPolicy
from routerx.gateway.context import BufferedCommit, RequestContext, StreamCommit
from routerx.gateway.translation import (
    COERCED,
    Script,
    gathered,
    rejoining_tap,
    stream_tap,
    tell_as_stream,
    tell_gathered,
    tell_whole,
)
from routerx.providers.prepare import JSON
from routerx.providers.spec import Credential, Provider
from routerx.upstream.base import ERROR_BYTES_MAX, RESPONSE_BYTES_MAX, UpstreamReply

HEAD_BYTES_MAX = 1024 * 1024
"""Frames held back while waiting for the first content."""
FULL_BYTES_MAX = 16 * 1024 * 1024
"""Frames held back where a stream is committed as a whole; a longer one flows from there on."""

STREAMS = ("text/event-stream", "application/x-ndjson")
"""Content types of streams; anything else that comes in place of one is a whole answer."""


class Deadline(msgspec.Struct, frozen=True):
    """When a request has to be over."""

    at_s: float
    """Monotonic."""
    kind: FailureKind
    """TOTAL_TIMEOUT, or CLIENT_DEADLINE where it is the caller's own."""


class Attempt(msgspec.Struct):
    """One attempt while it runs."""

    candidate: Candidate
    provider: Provider
    credential: Credential
    script: Script
    started_s: float
    first_token_s: float
    deadline: Deadline
    cut_by: FailureKind = FailureKind.FIRST_BYTE_TIMEOUT
    """What it means when time is up: less than the first token's may be left of the whole request's deadline."""
    first_byte_s: float | None = None
    """Seconds until response headers were here."""
    status: int | None = None
    progress: Progress | None = None
    """Of the call, once it is made."""
    reply: UpstreamReply | None = None
    timer: asyncio.Timeout | None = None
    """Of the first token; lifted once it is here."""

    @property
    def dispatched(self) -> bool:
        return self.progress is not None and self.progress.sent

    def first_token_came(self, clock: Clock) -> None:
        """What is still held back may take until the request's own deadline."""
        if self.timer is not None and self.cut_by is FailureKind.FIRST_BYTE_TIMEOUT:
            self.cut_by = self.deadline.kind
            left_s = self.deadline.at_s - clock.monotonic_s()
            self.timer.reschedule(asyncio.get_running_loop().time() + left_s)


Judgement = BufferedCommit | StreamCommit | Failure


async def judge(ctx: RequestContext, attempt: Attempt, reply: UpstreamReply, clock: Clock) -> Judgement:
    """Raises UpstreamFault where the connection fails."""
    script, peek = attempt.script, ctx.peek
    assert peek is not None
    if reply.status != 200:
        return script.dialect.classify(reply.status, reply.headers, await _error_body(reply))
    content_type = reply.headers.get("Content-Type", "")
    is_stream = content_type.lower().startswith(STREAMS)
    if peek.stream and is_stream:
        return await _beginning(ctx, attempt, reply, clock)
    body = await reply.read(RESPONSE_BYTES_MAX)
    if is_stream and peek.operation is Operation.CHAT:
        return _gathered(ctx, attempt, reply, body)
    return _whole(ctx, attempt, (reply, content_type), body)


def _whole(ctx: RequestContext, attempt: Attempt, told: tuple[UpstreamReply, str], body: bytes) -> Judgement:
    (reply, content_type), script, peek = told, attempt.script, ctx.peek
    assert peek is not None
    verdict = script.dialect.read_reply(peek.operation, content_type, body)
    if isinstance(verdict, Failure):
        return verdict
    request_id = ctx.inbound.request_id
    dropped = script.dropped
    if peek.stream and peek.operation in COERCED:  # A stream was asked for and one whole answer came (FAULTS.md 38).
        if script.rejoin is None:
            tap = stream_tap(script, peek, request_id)
            head = tell_as_stream(script, tap, body, request_id)
        else:
            tap, rejoining = rejoining_tap(script, script.rejoin, request_id)
            head = tap.tell(rejoining.keep(events_of(script.dialect.target.decode_answer(body, request_id))))
        if tap.failure is not None:
            return tap.failure
        ctx.flags.append("coerced")
        ctx.dropped = dropped
        return StreamCommit(
            attempt.candidate, attempt.credential, reply, attempt.started_s, tap, head, _given_chars(script)
        )
    if script.translates:
        body, lost = tell_whole(script, body, request_id)
        content_type = JSON
        dropped = tuple(sorted({*dropped, *lost}))
    ctx.dropped = dropped
    return BufferedCommit(attempt.candidate, attempt.credential, reply, attempt.started_s, body, content_type, verdict)


def _gathered(ctx: RequestContext, attempt: Attempt, reply: UpstreamReply, body: bytes) -> Judgement:
    """One whole answer was asked for and a stream came (FAULTS.md 39)."""
    script = attempt.script
    events = gathered(script, body, ctx.inbound.request_id)
    if isinstance(events, Failure):
        return _before_output(events)
    verdict = judged(events)
    if isinstance(verdict, Failure):
        return _before_output(verdict)
    told, lost = tell_gathered(script, ctx, events)
    ctx.flags.append("coerced")
    ctx.dropped = tuple(sorted({*script.dropped, *lost}))
    return BufferedCommit(attempt.candidate, attempt.credential, reply, attempt.started_s, told, JSON, verdict)


async def _beginning(
    ctx: RequestContext, attempt: Attempt, reply: UpstreamReply, clock: Clock
) -> StreamCommit | Failure:
    """The stream up to where the policy commits it."""
    script, peek = attempt.script, ctx.peek
    assert peek is not None
    rejoining = None
    if script.rejoin is None:
        tap = stream_tap(script, peek, ctx.inbound.request_id)
    else:
        tap, rejoining = rejoining_tap(script, script.rejoin, ctx.inbound.request_id)
    hold = _hold(ctx, attempt, clock)
    head = bytearray()
    is_open = True
    while not (tap.done or tap.finished or (tap.has_content and (hold is None or hold.is_over(len(head))))):
        data = await (reply.chunk() if hold is None else hold.chunk(reply))
        if data is None:
            break
        if not data:
            is_open = False
            break
        head += tap.feed(data)
        if tap.failure is not None:  # Also beside content: nothing has been sent, so another may still answer.
            return _before_output(tap.failure)
        if tap.has_content or (rejoining is not None and rejoining.has_begun):
            attempt.first_token_came(clock)
        elif len(head) > HEAD_BYTES_MAX:
            return Failure(FailureKind.EVENT_TOO_LARGE, f"No content within {HEAD_BYTES_MAX} bytes of stream.")
    if not (is_open and tap.has_content) and (failure := tap.close()) is not None:
        return _before_output(failure)
    ctx.dropped = script.dropped
    return StreamCommit(
        attempt.candidate, attempt.credential, reply, attempt.started_s, tap, bytes(head), _given_chars(script)
    )


def _given_chars(script: Script) -> int:
    return len(script.rejoin.given.encode("utf-8", "replace")) if script.rejoin is not None else 0


def _before_output(failure: Failure) -> Failure:
    """An error that is the first the caller would have seen of a stream is one in place of an answer (FAULTS.md 36)."""
    if failure.kind is not FailureKind.ERROR_MIDSTREAM:
        return failure
    return msgspec.structs.replace(failure, kind=FailureKind.ERROR_IN_200)


class _Hold:
    """Keeps a stream back beyond its first content."""

    def __init__(self, policy: StreamPolicy, clock: Clock) -> None:
        self._policy = policy
        self._clock = clock
        self._until_s: float | None = None

    def is_over(self, size: int) -> bool:
        """Whether what is here, `size` bytes, may flow. First asked when there is content."""
        if self._policy.commit is CommitMode.FULL:
            return size >= FULL_BYTES_MAX
        now_s = self._clock.monotonic_s()
        if self._until_s is None:
            self._until_s = now_s + self._policy.probe_s
        return now_s >= self._until_s or size >= self._policy.probe_bytes

    async def chunk(self, reply: UpstreamReply) -> bytes | None:
        """What comes next; None where it does not come before what is here may flow."""
        if self._until_s is None:
            return await reply.chunk()
        try:
            async with asyncio.timeout(self._until_s - self._clock.monotonic_s()):
                return await reply.chunk()
        except TimeoutError:
            return None


def _hold(ctx: RequestContext, attempt: Attempt, clock: Clock) -> _Hold | None:
    assert ctx.plan is not None
    assert ctx.peek is not None
    policy = ctx.plan.policy.stream
    if policy.commit is CommitMode.FIRST_TOKEN or attempt.script.rejoin is not None or ctx.peek.metered is not None:
        return None
    return _Hold(policy, clock)


async def _error_body(reply: UpstreamReply) -> bytes:
    """An error's body; nothing where it is too long or breaks off: the status says enough, and must not be lost."""
    try:
        body = await reply.read(ERROR_BYTES_MAX)
    except UpstreamFault:
        return b""
    reply.release()
    return body
