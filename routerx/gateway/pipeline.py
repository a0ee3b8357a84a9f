"""The road of one request, as a table of contents: identify, plan, admit, attempt, relay, settle.

Every exit settles, in `finally`, without awaiting. The terminal bytes of an answer are released only once its charge is
durable, so every response that a caller saw complete has its charge on disk, whatever is killed when.
"""

import asyncio
from collections.abc import Callable, Collection

import msgspec

from routerx.clock import Clock
from routerx.dialects.multipart import read_form
from routerx.domain.call import Operation
from routerx.domain.failure import Failure, FailureKind, as_client_error
from routerx.domain.record import BillingMode, Outcome, RequestRecord
from routerx.domain.tenant import OnDisconnect
from routerx.errors import RateLimited, RouterXError, ShuttingDown, TenantSuspended
from routerx.gateway import metadata
from routerx.gateway.admit import place_hold, tokens_expected, within_means
from routerx.gateway.affinity import Affinity, conversation_of
from routerx.gateway.attempt import AttemptLoop, deadline_of
from routerx.gateway.cache import ResponseCache
from routerx.gateway.context import Answer, BufferedCommit, ClientStream, Inbound, RequestContext, StreamCommit
from routerx.gateway.growth import Growth
from routerx.gateway.headers import cost_headers, json_type, route_headers
from routerx.gateway.keepalive import KeepAlive
from routerx.gateway.redact import redacted
from routerx.gateway.relay import CallerTooSlow, drain, relay
from routerx.gateway.rescue import Transcript, is_worth_it
from routerx.gateway.settle import Settler
from routerx.gateway.translation import COERCED, cut_by_length, lost_in
from routerx.gateway.wishes import take_wishes
from routerx.jsonx import request_object
from routerx.ledger.base import Ledger
from routerx.limits.base import Limiter
from routerx.providers.wires import wire_of
from routerx.routing.plan import make_plan
from routerx.routing.shortlist import Ask
from routerx.routing.state import Measured, RoutingState
from routerx.tasks import TaskSet
from routerx.telemetry.metrics import Metrics

DRAINS_MAX = 32
"""Streams that are read to their end for nobody; beyond it they are cancelled, and what they took is estimated."""
MONEY_ENDED = b": balance_exhausted\n\n"
"""A comment before the end of a stream that was cut because no money was left."""


class GatewayParts(msgspec.Struct, frozen=True):
    """The collaborators of a Gateway."""

    ledger: Ledger
    limiter: Limiter
    routing: RoutingState
    attempts: AttemptLoop
    settler: Settler
    cache: ResponseCache
    metrics: Metrics
    log: Callable[[RequestRecord], None]
    """Called with every settled request, for the process's log."""
    clock: Clock


class Gateway:
    """Serves requests. A request's own state is in its RequestContext; only the active tasks are kept here."""

    def __init__(self, parts: GatewayParts) -> None:
        self._parts = parts
        self._active: dict[asyncio.Task[object], RequestContext] = {}
        self._tasks = TaskSet()
        self._affinity = Affinity()
        self._cutting_off = False
        self._drains = 0

    @property
    def in_flight(self) -> int:
        return len(self._active)

    @property
    def active(self) -> tuple[RequestContext, ...]:
        """Requests that have not ended, those that are only read to their end included."""
        return tuple(self._active.values())

    @property
    def cutting_off(self) -> bool:
        """cut_off() has been called."""
        return self._cutting_off

    async def serve(self, inbound: Inbound, client: ClientStream) -> Answer | None:
        """Answer one request: a buffered Answer, or None when the answer went through `client` as a stream.

        Raises RouterXError as long as nothing has been sent; a failure after that ends the stream in-band. A caller who
        has gone shows as cancellation or ConnectionError, which is passed on after settling.
        """
        if self._cutting_off:
            raise _cut_off()
        ctx = RequestContext(inbound)
        task = asyncio.current_task()
        assert task is not None
        self._active[task] = ctx
        try:
            self._begin(ctx)
            if inbound.steering.cache and (kept := await self._parts.cache.find(ctx)) is not None:
                return await self._tell_again(ctx, kept, client)
            self._admit(ctx)
            if ctx.peek is not None and ctx.peek.stream:
                commit = await self._committed(ctx, client)
            else:
                commit = await self._parts.attempts.commit(ctx)
            if isinstance(commit, BufferedCommit):
                return await self._answer(ctx, commit)
            await self._stream(ctx, commit, client)
            return None
        except RouterXError as error:
            ctx.http_status = error.status
            if not ctx.settled and ctx.outcome == Outcome.INTERNAL:
                ctx.outcome = error.outcome
            if isinstance(error, RateLimited):
                error.headers = self._limit_headers(ctx)
            if ctx.waiting is not None and ctx.waiting.started:
                ctx.http_status = 200
                await self._end_in_band(ctx, client, error)
                return None
            metadata.in_error(ctx, error, self._parts.clock)
            raise
        except (asyncio.CancelledError, ConnectionError) as error:
            self._interrupted(ctx, slow=isinstance(error, CallerTooSlow))
            if self._is_to_be_drained(ctx):
                ctx.draining = True
                self._active[self._tasks.spawn("drain", self._drain(ctx))] = ctx
            cut_by = self._cut_by(ctx)
            if cut_by is not None and not ctx.delivered:
                task.uncancel()
                if ctx.waiting is not None and ctx.waiting.started:
                    await self._end_in_band(ctx, client, cut_by)
                    return None
                raise cut_by from None
            raise
        finally:
            if inbound.steering.cache:
                self._parts.cache.land(ctx)
            if not ctx.draining:
                self._end(ctx)
            del self._active[task]

    async def _tell_again(self, ctx: RequestContext, kept: Answer, client: ClientStream) -> Answer | None:
        """An answer of the response cache: counted by the limits, free, and a request of its own (row N)."""
        parts = self._parts
        ctx.lease = parts.limiter.admit(ctx.principal, 0, parts.clock.monotonic_s(), parts.clock.now_ns())
        ctx.billing = BillingMode.CACHED
        self._settle_whole(ctx)
        if ctx.peek is not None and ctx.peek.stream:
            await client.start(kept.headers + self._limit_headers(ctx))
            await client.finish(metadata.in_stream(ctx, kept.body, parts.clock))
            return None
        headers = kept.headers + cost_headers(ctx, parts.clock.monotonic_s()) + self._limit_headers(ctx)
        body = metadata.in_body(ctx, kept.body, parts.clock) if "json" in kept.content_type else kept.body
        return Answer(body, kept.content_type, headers)

    def _is_to_be_drained(self, ctx: RequestContext) -> bool:
        """Whether a stream whose caller has gone is read to its end, because the provider bills it anyway (row F)."""
        if ctx.outcome != Outcome.CLIENT_GONE_MIDSTREAM or self._drains >= DRAINS_MAX or ctx.settled:
            return False
        wish = ctx.principal.tenant.plan.on_disconnect
        if not isinstance(ctx.committed, StreamCommit) or wish is OnDisconnect.CANCEL:
            return False
        provider = ctx.snapshot.providers[ctx.committed.candidate.endpoint.provider]
        return wish is OnDisconnect.DRAIN or not provider.abort_stops_billing

    async def _drain(self, ctx: RequestContext) -> None:
        assert isinstance(ctx.committed, StreamCommit)
        task = asyncio.current_task()
        assert task is not None
        self._drains += 1
        try:
            await drain(ctx.committed)
        finally:
            self._drains -= 1
            self._end(ctx)
            del self._active[task]

    def estimated_tokens(self, inbound: Inbound) -> int | None:
        """The likely size of a prompt in tokens; None where the provider that would answer it counts by itself.

        Raises what planning raises.
        """
        body = request_object(inbound.body)
        fields, wishes = take_wishes(body, inbound.steering, Operation.COUNT_TOKENS, inbound.dialect)
        peek = inbound.dialect.peek(Operation.COUNT_TOKENS, inbound.body, fields)
        ask = Ask(peek, inbound.principal, wishes, inbound.steering.own_key is not None)
        plan = make_plan(ask, inbound.snapshot, self._parts.routing, self._parts.clock.monotonic_s())
        provider = inbound.snapshot.providers[plan.candidates[0].endpoint.provider]
        if wire_of(provider, Operation.COUNT_TOKENS, inbound.dialect.name).dialect == inbound.dialect.name:
            return None
        return peek.input_tokens_likely

    def _begin(self, ctx: RequestContext) -> None:
        """Steps 2 to 4: what is asked, and who may answer. Never awaits."""
        parts, inbound, snapshot = self._parts, ctx.inbound, ctx.snapshot
        if inbound.operation is Operation.TRANSCRIPTIONS:
            ctx.form = read_form(inbound.content_type, inbound.body)
            ctx.fields = ctx.form.fields
        else:
            ctx.fields = request_object(inbound.body)
        if inbound.path_fields:
            ctx.fields = {**ctx.fields, **inbound.path_fields}
        steering = inbound.steering
        ctx.fields, wishes = take_wishes(ctx.fields, steering, inbound.operation, inbound.dialect)
        ctx.peek = peek = inbound.dialect.peek(inbound.operation, inbound.body, ctx.fields)
        now_s = parts.clock.monotonic_s()  # Not the start: the body may have taken its time.
        ask = Ask(peek, ctx.principal, wishes, steering.own_key is not None)
        ctx.plan = make_plan(ask, snapshot, parts.routing, now_s)
        if ctx.plan.policy.affinity_s is not None and not ctx.plan.ordered:
            ctx.conversation = conversation_of(ctx)
            if ctx.conversation is not None:
                ctx.plan = self._affinity.seated(ctx.conversation, ctx.plan, now_s)

    def _admit(self, ctx: RequestContext) -> None:
        """Step 5: whether it may start, and can be paid for. Never awaits."""
        parts, principal, peek = self._parts, ctx.principal, ctx.peek
        assert peek is not None
        assert ctx.plan is not None
        # The hold first: a request that cannot be paid for must not use up the limits.
        usual = parts.settler.usual(principal.tenant.name, peek)
        if ctx.plan.candidates[0].own_key:
            ctx.plan = within_means(parts.ledger, principal, peek, ctx.plan, usual)
        tokens = tokens_expected(peek, ctx.plan, principal)
        ctx.hold = place_hold(parts.ledger, principal, peek, ctx.plan, usual)
        ctx.lease = parts.limiter.admit(principal, tokens, parts.clock.monotonic_s(), parts.clock.now_ns())

    async def _committed(self, ctx: RequestContext, client: ClientStream) -> BufferedCommit | StreamCommit:
        """Steps 6 to 8 of a stream, with comments to a caller who waits long."""
        assert ctx.peek is not None
        if ctx.peek.operation not in COERCED:
            return await self._parts.attempts.commit(ctx)
        interval_s = ctx.snapshot.server.keep_alive_s
        ctx.waiting = waiting = KeepAlive(
            client, interval_s, lambda: self._limit_headers(ctx), self._tasks, ctx.inbound.dialect
        )
        waiting.begin()
        try:
            return await self._parts.attempts.commit(ctx)
        finally:
            await waiting.end()

    def _commit(self, ctx: RequestContext, commit: BufferedCommit | StreamCommit) -> None:
        """The answering endpoint decides the terms (MONEY.md rows L and R)."""
        ctx.committed = commit
        ctx.billing, ctx.terms = commit.candidate.billing, commit.candidate.terms
        if commit.candidate.endpoint.price is None:
            ctx.flags.append("unpriced")
        if commit.candidate.own_key:
            ctx.flags.append("byok")
        self._count_dropped(ctx, ctx.dropped)

    def _count_dropped(self, ctx: RequestContext, names: Collection[str]) -> None:
        if names:
            self._parts.metrics.dropped(names)
            if "dropped" not in ctx.flags:
                ctx.flags.append("dropped")

    async def _answer(self, ctx: RequestContext, commit: BufferedCommit) -> Answer:
        self._commit(ctx, commit)
        commit.reply.release()
        self._succeeded(ctx, commit, None)
        if (durable := self._settle_whole(ctx)) is not None:
            await durable
        self._keep(ctx, commit)
        headers = route_headers(ctx) + cost_headers(ctx, self._parts.clock.monotonic_s()) + self._limit_headers(ctx)
        content_type = commit.result.content_type
        body = metadata.in_answer(ctx, commit, self._parts.clock)
        return Answer(body, content_type if content_type is not None else json_type(commit.content_type), headers)

    async def _stream(self, ctx: RequestContext, commit: StreamCommit, client: ClientStream) -> None:
        self._commit(ctx, commit)
        parts = self._parts
        if ctx.waiting is None or not ctx.waiting.started:
            await client.start(route_headers(ctx) + self._limit_headers(ctx))
        client = parts.cache.over(ctx, client) if ctx.inbound.steering.cache else client
        ctx.growth = self._growth(ctx)
        if _may_be_rescued(ctx, commit) or (ctx.growth is not None and ctx.growth.is_tight):
            ctx.transcript = Transcript(ctx.inbound.dialect, ctx.inbound.request_id)
        try:
            while True:
                failure = await relay(ctx, commit, client, parts.clock, deadline_of(ctx, commit.candidate.timeouts))
                if failure is None:
                    break
                if failure.kind is FailureKind.BALANCE_EXHAUSTED:
                    await self._end_without_money(ctx, client, failure)
                    return
                commit = await self._rescued(ctx, commit, failure)
            tap = commit.tap
            commit.reply.release()
            self._count_dropped(ctx, lost_in(tap))
            self._succeeded(ctx, commit, ctx.first_s)
            if (durable := self._settle_whole(ctx)) is not None:
                await durable
            self._keep(ctx, commit)
        except RouterXError as error:
            await self._end_in_band(ctx, client, error)
            return
        except asyncio.CancelledError:
            cut_by, task = self._cut_by(ctx), asyncio.current_task()
            if cut_by is None or task is None:
                raise
            task.uncancel()
            self._interrupted(ctx, slow=False)
            await self._end_in_band(ctx, client, cut_by)
            return
        await client.finish(metadata.in_stream(ctx, tap.terminal, parts.clock))

    def _growth(self, ctx: RequestContext) -> Growth | None:
        """Of a stream whose every token costs; None where nothing is held, or output is free."""
        if ctx.hold is None or ctx.hold.amount_nano == 0 or ctx.terms is None or ctx.peek is None:
            return None
        if not ctx.billing.owes or not ctx.terms.bills_output or ctx.peek.metered is not None:
            return None
        return Growth(self._parts.ledger, ctx.principal.tenant, ctx.hold, ctx.terms, ctx.peek)

    async def _end_without_money(self, ctx: RequestContext, client: ClientStream, failure: Failure) -> None:
        """The tenant's money has ended: the provider is cancelled, what was delivered is charged, and the answer ends
        as one that is cut by its length, or in-band where that cannot be said."""
        ctx.outcome = failure.kind.value
        ctx.http_status = 200
        self._end(ctx)
        if ctx.receipt is not None and ctx.receipt.durable is not None:
            await ctx.receipt.durable
        delivered = ctx.transcript.delivered() if ctx.transcript is not None else None
        if delivered is None:
            error = as_client_error(failure)
            frames = ctx.inbound.dialect.encode_stream_error(error, ctx.inbound.request_id, None)
        else:
            frames = MONEY_ENDED + cut_by_length(ctx, delivered)
        await client.finish(frames)

    async def _rescued(self, ctx: RequestContext, broken: StreamCommit, failure: Failure) -> StreamCommit:
        """The stream that goes on with one that broke. Raises UpstreamRefused where nobody does."""
        self._failed_midstream(ctx, broken, failure)
        broken.reply.abort()
        rescued = None
        # What is delivered may be known for the sake of money alone.
        told = ctx.transcript if _may_be_rescued(ctx, broken) else None
        delivered = told.delivered() if told is not None else None
        if delivered is not None and is_worth_it(failure):
            waiting = ctx.waiting
            assert waiting is not None
            waiting.started = True
            waiting.begin()
            try:
                rescued = await self._parts.attempts.rescue(ctx, broken, delivered)
            finally:
                await waiting.end()
        if rescued is None:
            provider = ctx.snapshot.providers[broken.candidate.endpoint.provider]
            raise as_client_error(redacted(failure, provider, broken.credential))
        ctx.told = False
        ctx.flags.append("rescued")
        self._commit(ctx, rescued)
        return rescued

    async def _end_in_band(self, ctx: RequestContext, client: ClientStream, error: RouterXError) -> None:
        """End a stream that has begun with `error`. What happened is settled before the caller is told: one who leaves
        now, or takes its time, changes nothing about it and keeps nothing open."""
        self._end(ctx)
        inbound, committed = ctx.inbound, ctx.committed
        response_id = committed.tap.response_id if isinstance(committed, StreamCommit) else None
        frames = inbound.dialect.encode_stream_error(error, inbound.request_id, response_id)
        await client.finish(metadata.in_stream_error(ctx, frames, self._parts.clock))

    # --- ends

    def _settle_whole(self, ctx: RequestContext) -> "asyncio.Future[None] | None":
        """A complete answer: charge it. Done once the charge is on disk; None where nothing is owed. Cancelling the
        wait does not cancel the commit: who hangs up now has had a whole answer, and is charged for it (FAULTS.md 57).
        """
        ctx.outcome = Outcome.OK
        ctx.http_status = 200
        self._settle(ctx)
        return ctx.receipt.durable if ctx.receipt is not None else None

    def _keep(self, ctx: RequestContext, commit: BufferedCommit | StreamCommit) -> None:
        if ctx.inbound.steering.cache:
            self._parts.cache.keep(ctx, commit)

    def _settle(self, ctx: RequestContext) -> None:
        record = self._parts.settler.settle(ctx)
        if record is not None:
            self._parts.metrics.observe(record)
            self._parts.log(record)

    def _end(self, ctx: RequestContext) -> None:
        """Every exit passes here: nothing is left open, held or unwritten."""
        if ctx.committed is not None:
            ctx.committed.reply.abort()  # Has no effect after release().
            if not ctx.told:
                self._abandoned(ctx, ctx.committed)
        self._settle(ctx)

    def _interrupted(self, ctx: RequestContext, *, slow: bool) -> None:
        """The caller has gone, or is as good as gone, or the drain deadline has cut the request off."""
        if ctx.settled:
            return
        cut_by = self._cut_by(ctx)
        ctx.http_status = 499 if cut_by is None else cut_by.status
        if cut_by is not None:
            ctx.outcome = cut_by.outcome
        elif not any(attempt.dispatched for attempt in ctx.attempts):
            ctx.outcome = Outcome.CLIENT_GONE_PREDISPATCH
        elif ctx.delivered:
            ctx.outcome = Outcome.CLIENT_SLOW if slow else Outcome.CLIENT_GONE_MIDSTREAM
        elif ctx.peek is not None and ctx.peek.stream:
            ctx.outcome = Outcome.CLIENT_GONE_NO_OUTPUT
        else:
            ctx.outcome = Outcome.CLIENT_GONE_NONSTREAM
        if ctx.committed is None and ctx.candidate is not None:
            ctx.billing, ctx.terms = ctx.candidate.billing, ctx.candidate.terms

    def _abandoned(self, ctx: RequestContext, commit: BufferedCommit | StreamCommit) -> None:
        ctx.told = True
        if not commit.candidate.own_key:
            key, now_s = commit.candidate.endpoint.key, self._parts.clock.monotonic_s()
            self._parts.routing.abandoned(key, commit.credential.id, now_s, began_s=commit.started_s)

    def _failed_midstream(self, ctx: RequestContext, commit: StreamCommit, failure: Failure) -> None:
        ctx.outcome = failure.kind.value
        ctx.http_status = 200
        ctx.told = True
        self._parts.attempts.broke(ctx, commit, failure)

    def _succeeded(self, ctx: RequestContext, commit: BufferedCommit | StreamCommit, first_s: float | None) -> None:
        """Tell routing; `first_s` is the time of a stream's first content, None for a buffered answer."""
        ctx.told = True
        if commit.candidate.own_key:
            return
        now_s = self._parts.clock.monotonic_s()
        if ctx.conversation is not None and ctx.plan is not None and ctx.plan.policy.affinity_s is not None:
            self._affinity.sit(ctx.conversation, commit.candidate, now_s + ctx.plan.policy.affinity_s)
        ttft_s = first_s - commit.started_s if first_s is not None and first_s > commit.started_s else None
        key = commit.candidate.endpoint.key
        usage = commit.tap.usage if isinstance(commit, StreamCommit) else commit.result.usage
        output_tokens = tokens = 0
        if usage is not None:
            output_tokens = usage.output_tokens
            tokens = usage.input_tokens + output_tokens
        reserved = ctx.peek.tokens_likely if commit.credential.tpm is not None and ctx.peek is not None else 0
        measured = Measured(ttft_s, now_s - commit.started_s, output_tokens, tokens, reserved)
        self._parts.routing.succeeded(key, commit.credential.id, measured, now_s)

    def _limit_headers(self, ctx: RequestContext) -> tuple[tuple[str, str], ...]:
        clock = self._parts.clock
        return self._parts.limiter.headers(ctx.principal, clock.monotonic_s(), clock.now_ns())

    def cut_off(self) -> int:
        """The drain deadline has passed: end what still runs, each in its own shape. Returns how many.

        An answer that is whole and only waits for its charge to be durable is left to end well: it is paid for.
        """
        self._cutting_off = True
        return self._cut([*self._active.items()], _cut_off())

    def cut_off_tenant(self, tenant: str) -> int:
        """The tenant's rights have ended: end what still runs for it, charged for what was delivered. Returns how many.
        Streams that are only read to their end for their usage are left to it."""
        own = [(task, ctx) for task, ctx in self._active.items() if ctx.principal.tenant.name == tenant]
        error = TenantSuspended("This tenant is suspended. Ask the operator of this gateway.")
        return self._cut([(task, ctx) for task, ctx in own if not ctx.draining], error)

    def _cut(self, running: list[tuple[asyncio.Task[object], RequestContext]], why: RouterXError) -> int:
        unfinished = [(task, ctx) for task, ctx in running if not ctx.settled and ctx.cut_by is None]
        for task, ctx in unfinished:
            # Once: a second cancellation would strike while its end is being written. One error each: raising collects
            # the traceback of whoever raised it.
            ctx.cut_by = type(why)(why.message, retry_after_s=why.retry_after_s)
            task.cancel()
        return len(unfinished)

    def _cut_by(self, ctx: RequestContext) -> RouterXError | None:
        """Why the gateway, and not the caller, ended a request."""
        return ctx.cut_by if ctx.cut_by is not None or not self._cutting_off else _cut_off()


def _may_be_rescued(ctx: RequestContext, commit: StreamCommit) -> bool:
    """Whether what is delivered has to be known, should the stream break: another candidate is left to go on with it,
    and no more than one text is told."""
    peek, plan = ctx.peek, ctx.plan
    assert peek is not None
    assert plan is not None
    return (
        plan.policy.stream.rescue
        and commit.candidate is not plan.candidates[-1]
        and peek.operation is Operation.CHAT
        and peek.choices == 1
        and len(ctx.attempts) < plan.policy.retry.attempts_max
        and "logprobs" not in ctx.fields
    )


def _cut_off() -> ShuttingDown:
    return ShuttingDown("The gateway is shutting down. Send the request again.", retry_after_s=1)
