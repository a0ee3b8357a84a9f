"""Steps 6-8 of the road: prepare, open, judge. One loop for retry, fallback and breaker, buffered and streamed alike.

The loop ends in a Committed attempt or in the failure that decided. Nothing has reached the caller before that, so
every verdict is still open; after it none is, because the loop is over.
"""

import asyncio

import msgspec

from routerx.clock import Clock
from routerx.domain.call import Advance, Candidate, Plan, Progress, Retry, Stop, UpstreamCall, Verdict
from routerx.domain.failure import Failure, FailureKind, UpstreamFault, as_client_error
from routerx.domain.policy import (
    FIRST_TOKEN_BUFFERED_S,
    FIRST_TOKEN_STREAM_S,
    FIRST_TOKEN_WITH_FALLBACK_S,
)
from routerx.domain.pricing import PriceSnapshot, cost_nano
from routerx.domain.record import AttemptRecord, Outcome
from routerx.errors import InvalidParameter, UpstreamRefused
from routerx.gateway.context import BufferedCommit, RequestContext, StreamCommit
from routerx.gateway.redact import redacted
from routerx.gateway.translation import COERCED, Script, Translator, stream_tap, tell_as_stream, tell_whole
from routerx.providers.prepare import JSON, Preparer, Target
from routerx.providers.spec import Credential, Provider
from routerx.routing.decide import AttemptState, decide, following
from routerx.routing.plan import no_healthy
from routerx.routing.state import RoutingState
from routerx.upstream.base import ERROR_BYTES_MAX, RESPONSE_BYTES_MAX, UpstreamReply
from routerx.upstream.pool import TransportPool

HEAD_BYTES_MAX = 1024 * 1024
"""Frames held back while waiting for the first content."""

STREAMS = ("text/event-stream", "application/x-ndjson")
"""Content types of streams; anything else that comes in place of one is a whole answer."""

CANCELLED = "cancelled"
"""Outcome of an attempt whose caller went away."""

MAY_HAVE_WORKED: frozenset[str] = frozenset(
    {
        FailureKind.FIRST_BYTE_TIMEOUT,
        FailureKind.TOTAL_TIMEOUT,
        FailureKind.STALLED,
        FailureKind.RESET_BEFORE_OUTPUT,
        FailureKind.RESET_MIDSTREAM,
        FailureKind.TRUNCATED,
        FailureKind.INVALID_CHUNK,
        FailureKind.EVENT_TOO_LARGE,
        FailureKind.TOO_LARGE,
        FailureKind.ERROR_MIDSTREAM,
        FailureKind.EMPTY,
        CANCELLED,
    }
)
"""Failures after which the provider may still bill the house for the prompt."""


class Attempt(msgspec.Struct):
    """One attempt while it runs."""

    candidate: Candidate
    provider: Provider
    credential: Credential
    script: Script
    started_s: float
    first_token_s: float
    total_first: bool
    """`first_token_s` is what is left of the total deadline."""
    first_byte_s: float | None = None
    """Seconds until response headers were here."""
    status: int | None = None
    progress: Progress | None = None
    """Of the call, once it is made."""
    reply: UpstreamReply | None = None

    @property
    def dispatched(self) -> bool:
        return self.progress is not None and self.progress.sent


def first_token_deadline_s(provider: Provider, *, stream: bool, more: bool) -> float:
    """Deadline of the first token. Only a stream shows its first token, so only a stream is cut short in favour of
    another candidate: a buffered answer may rightly take minutes to its first byte."""
    if provider.timeouts.first_token_s is not None:
        return provider.timeouts.first_token_s
    if not stream:
        return FIRST_TOKEN_BUFFERED_S
    return FIRST_TOKEN_WITH_FALLBACK_S if more else FIRST_TOKEN_STREAM_S


class AttemptLoop:
    """Runs the candidates of a plan until one answers."""

    def __init__(self, routing: RoutingState, transports: TransportPool, translator: Translator, clock: Clock) -> None:
        self._routing = routing
        self._transports = transports
        self._translator = translator
        self._preparer = Preparer()
        self._clock = clock

    async def commit(self, ctx: RequestContext) -> BufferedCommit | StreamCommit:
        """The first answer. Raises UpstreamRefused with the failure that decided, NoHealthyUpstream, or
        InvalidParameter where no candidate can be told what was asked."""
        plan = ctx.plan
        assert plan is not None
        index, tries = 0, 0
        last: Failure | None = None
        unsayable: InvalidParameter | None = None
        passed_over = False
        script: Script | None = None
        while True:
            candidate = plan.candidates[index]
            has_next = index + 1 < len(plan.candidates)
            attempt = None
            try:
                if tries == 0 or script is None:
                    script = self._translator.passing(ctx, candidate)
                    if script is None:
                        script = await self._translator.translated(ctx, candidate)
                attempt = self._begin(ctx, candidate, script, has_next=has_next)
                passed_over = passed_over or attempt is None
            except InvalidParameter as error:  # Another may speak the caller's own language.
                unsayable = unsayable or error
            if attempt is None:
                if has_next:
                    index, tries = index + 1, 0
                    continue
                if last is not None:
                    raise self._given_up(ctx, last)
                if unsayable is not None and not passed_over:  # Else somebody may take it later.
                    raise unsayable
                raise no_healthy(plan, ctx.snapshot, self._routing, self._clock.monotonic_s())
            result = await self._attempt(ctx, attempt)
            if not isinstance(result, Failure):
                return result
            last = result
            tries += 1
            match self._decide(ctx, plan, attempt, result, (index, tries)):
                case Retry(delay_s=delay_s):
                    await self._clock.sleep(delay_s)
                    ctx.upstream_s += delay_s
                case Advance():
                    following_index = following(plan, index, result)
                    assert following_index is not None
                    index, tries = following_index, 0
                case Stop(failure=failure):
                    raise self._given_up(ctx, failure)

    def _given_up(self, ctx: RequestContext, failure: Failure) -> UpstreamRefused:
        ctx.outcome = failure.kind.value
        return as_client_error(failure)

    def _begin(self, ctx: RequestContext, candidate: Candidate, script: Script, *, has_next: bool) -> Attempt | None:
        """An attempt at `candidate`, or None when no credential of it may be used any more."""
        assert ctx.peek is not None
        assert ctx.plan is not None
        endpoint = candidate.endpoint
        provider = ctx.snapshot.providers[endpoint.provider]
        now_s = self._clock.monotonic_s()
        credential = self._routing.pick_credential(provider, endpoint, ctx.plan.policy, now_s)
        if credential is None:
            return None
        ctx.candidate = candidate
        # What is no text may take its time even to its first piece: a picture, a long recording.
        stream = ctx.peek.stream and ctx.peek.metered is None
        first_token_s = first_token_deadline_s(provider, stream=stream, more=has_next)
        remaining_s = ctx.inbound.started_s + provider.timeouts.total_s - now_s
        return Attempt(
            candidate=candidate,
            provider=provider,
            credential=credential,
            script=script,
            started_s=now_s,
            first_token_s=min(first_token_s, max(remaining_s, 0.0)),
            total_first=remaining_s < first_token_s,
        )

    def _decide(
        self, ctx: RequestContext, plan: Plan, attempt: Attempt, failure: Failure, at: tuple[int, int]
    ) -> Verdict:
        """Tell routing of the failure and ask what next; `at` is (index of the candidate, tries of it so far)."""
        index, tries = at
        key, now_s = attempt.candidate.endpoint.key, self._clock.monotonic_s()
        self._routing.failed(key, attempt.credential.id, failure, plan.policy, now_s)
        state = AttemptState(
            attempts=len(ctx.attempts),
            tries=tries,
            has_next=following(plan, index, failure) is not None,
            ready_in_s=self._routing.ready_in_s(attempt.provider, key, now_s),
            remaining_s=ctx.inbound.started_s + attempt.provider.timeouts.total_s - now_s,
            now_s=now_s,
        )
        return decide(
            failure, attempt=state, policy=plan.policy, budget=self._routing.budget(key), rng=self._routing.rng
        )

    async def _attempt(self, ctx: RequestContext, attempt: Attempt) -> BufferedCommit | StreamCommit | Failure:
        """One call to one endpoint, judged. Owns the reply until it is committed."""
        peek = ctx.peek
        assert peek is not None
        result: BufferedCommit | StreamCommit | Failure | None = None
        try:
            target = Target(attempt.provider, attempt.credential, attempt.candidate.endpoint)
            call = self._preparer.call(target, attempt.script.draft, attempt.first_token_s)
            if peek.stream:
                async with asyncio.timeout(attempt.first_token_s):
                    result = await self._ask(ctx, attempt, call)
            else:  # The transport's own deadlines say it all: headers, silence, total.
                result = await self._ask(ctx, attempt, call)
        except UpstreamFault as fault:
            result = fault.failure
        except TimeoutError:
            result = Failure(
                FailureKind.FIRST_BYTE_TIMEOUT,
                f"{attempt.provider.name} sent no output within {attempt.first_token_s:g} s.",
            )
        except BaseException:
            now_s = self._clock.monotonic_s()
            self._routing.abandoned(attempt.candidate.endpoint.key, attempt.credential.id, now_s)
            self._note(ctx, attempt, CANCELLED)
            raise
        finally:
            if attempt.reply is not None and not isinstance(result, BufferedCommit | StreamCommit):
                attempt.reply.abort()
        if isinstance(result, Failure):
            result = self._told(attempt, result)
            self._note(ctx, attempt, result.kind.value)
        else:
            self._note(ctx, attempt, Outcome.OK)
        return result

    def _told(self, attempt: Attempt, failure: Failure) -> Failure:
        """The failure as it goes on: named for the deadline that was passed, and without the secrets of its call."""
        if failure.kind is FailureKind.FIRST_BYTE_TIMEOUT and attempt.total_first:
            name = attempt.provider.name
            return Failure(FailureKind.TOTAL_TIMEOUT, f"{name} did not answer within its total time.")
        return redacted(failure, attempt.provider, attempt.credential)

    async def _ask(
        self, ctx: RequestContext, attempt: Attempt, call: UpstreamCall
    ) -> BufferedCommit | StreamCommit | Failure:
        attempt.progress = call.progress
        reply = await self._transports.get(attempt.provider).open(call)
        attempt.reply = reply
        attempt.status = reply.status
        attempt.first_byte_s = self._clock.monotonic_s() - attempt.started_s
        return await self._judge(ctx, attempt, reply)

    async def _judge(
        self, ctx: RequestContext, attempt: Attempt, reply: UpstreamReply
    ) -> BufferedCommit | StreamCommit | Failure:
        """Look at a reply until it is certain: an answer, its first content, or a failure."""
        script, peek = attempt.script, ctx.peek
        assert peek is not None
        if reply.status != 200:
            return script.dialect.classify(reply.status, reply.headers, await _error_body(reply))
        content_type = reply.headers.get("Content-Type", "")
        if peek.stream and content_type.lower().startswith(STREAMS):
            return await self._first_content(ctx, attempt, reply)
        body = await reply.read(RESPONSE_BYTES_MAX)
        verdict = script.dialect.read_reply(peek.operation, content_type, body)
        if isinstance(verdict, Failure):
            return verdict
        request_id = ctx.inbound.request_id
        ctx.dropped = script.dropped
        if (
            peek.stream and peek.operation in COERCED
        ):  # A stream was asked for and one whole answer came (FAULTS.md 38).
            ctx.flags.append("coerced")
            tap = stream_tap(script, peek, request_id)
            head = tell_as_stream(script, tap, body, request_id)
            return StreamCommit(attempt.candidate, attempt.credential, reply, attempt.started_s, tap, head)
        if script.translates:
            body, lost = tell_whole(script, body, request_id)
            content_type = JSON
            ctx.dropped = tuple(sorted({*script.dropped, *lost}))
        return BufferedCommit(
            attempt.candidate, attempt.credential, reply, attempt.started_s, body, content_type, verdict
        )

    async def _first_content(
        self, ctx: RequestContext, attempt: Attempt, reply: UpstreamReply
    ) -> StreamCommit | Failure:
        assert ctx.peek is not None
        tap = stream_tap(attempt.script, ctx.peek, ctx.inbound.request_id)
        head = bytearray()
        while not (tap.has_content or tap.done):
            data = await reply.chunk()
            if not data:
                break
            head += tap.feed(data)
            if tap.failure is not None:  # Also beside content: nothing has been sent, so another may still answer.
                return tap.failure
            if len(head) > HEAD_BYTES_MAX and not tap.has_content:
                return Failure(FailureKind.EVENT_TOO_LARGE, f"No content within {HEAD_BYTES_MAX} bytes of stream.")
        if not tap.has_content and (failure := tap.close()) is not None:
            return failure
        ctx.dropped = attempt.script.dropped
        return StreamCommit(attempt.candidate, attempt.credential, reply, attempt.started_s, tap, bytes(head))

    def _note(self, ctx: RequestContext, attempt: Attempt, outcome: str) -> None:
        """Write the attempt down. The one that answered is the last and the only one with outcome `ok`."""
        now_s = self._clock.monotonic_s()
        won = outcome == Outcome.OK
        ctx.upstream_s += now_s - attempt.started_s
        if won:
            ctx.first_s = now_s
        ctx.attempts.append(
            AttemptRecord(
                n=len(ctx.attempts) + 1,
                endpoint=attempt.candidate.endpoint.key,
                provider=attempt.provider.name,
                credential_id=attempt.credential.id,
                outcome=outcome,
                upstream_status=attempt.status,
                dispatched=attempt.dispatched,
                started_ms=round((attempt.started_s - ctx.inbound.started_s) * 1000),
                first_byte_ms=None if attempt.first_byte_s is None else round(attempt.first_byte_s * 1000),
                duration_ms=round((now_s - attempt.started_s) * 1000),
                won=won,
                cost_est_nano=0 if won else _house_cost_nano(ctx, attempt, outcome),
            )
        )


async def _error_body(reply: UpstreamReply) -> bytes:
    """An error's body; nothing where it is too long or breaks off: the status says enough, and must not be lost."""
    try:
        body = await reply.read(ERROR_BYTES_MAX)
    except UpstreamFault:
        return b""
    reply.release()
    return body


def _house_cost_nano(ctx: RequestContext, attempt: Attempt, outcome: str) -> int:
    """What the provider may bill for an attempt without an answer: the prompt, where it may have begun to work."""
    price = attempt.candidate.endpoint.price
    if price is None or ctx.peek is None or not attempt.dispatched or outcome not in MAY_HAVE_WORKED:
        return 0
    return cost_nano(ctx.peek.asked_likely, PriceSnapshot(price))
