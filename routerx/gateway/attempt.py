"""Steps 6-8 of the road: prepare, open, judge. One loop for retry, fallback, hedge and breaker, buffered and streamed
alike.

The loop ends in a Committed attempt or in the failure that decided. Nothing of an answer has reached the caller before
that, so every verdict is still open; after it only rescue() may go on with a stream, where it can be proved that what
follows belongs to what was delivered.
"""

import asyncio
import logging
from collections.abc import Coroutine

import msgspec

from routerx.clock import Clock
from routerx.domain.call import Advance, Candidate, Plan, Retry, Stop, UpstreamCall, Verdict
from routerx.domain.failure import Effect, Failure, FailureKind, UpstreamFault, as_client_error
from routerx.domain.policy import (
    FIRST_TOKEN_BUFFERED_S,
    FIRST_TOKEN_STREAM_S,
    FIRST_TOKEN_WITH_FALLBACK_S,
    RetryPolicy,
    Timeouts,
)
from routerx.domain.pricing import PriceSnapshot, cost_nano
from routerx.domain.record import AttemptRecord, Outcome
from routerx.errors import InvalidParameter, RouterXError, UpstreamRefused
from routerx.gateway.context import BufferedCommit, RequestContext, StreamCommit
from routerx.gateway.judge import Attempt, Deadline, Judgement, judge
from routerx.gateway.redact import redacted
from routerx.gateway.rescue import Delivered, Rejoin, continued, restarted
from routerx.gateway.translation import Script, Translator
from routerx.providers.pacing import used_up_s
from routerx.providers.prepare import Preparer, Target
from routerx.providers.spec import Credential
from routerx.routing.decide import EARLY_S, AttemptState, decide, following
from routerx.routing.plan import no_healthy
from routerx.routing.state import RoutingState
from routerx.secrets import fingerprint
from routerx.tasks import TaskSet
from routerx.upstream.base import UpstreamReply
from routerx.upstream.pool import TransportPool

log = logging.getLogger("routerx.gateway.attempt")

CANCELLED = "cancelled"
"""Outcome of an attempt whose caller went away, or that another one was faster than."""

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


def first_token_deadline_s(timeouts: Timeouts, *, stream: bool, more: bool) -> float:
    """Deadline of the first token. Only a stream shows its first token, so only a stream is cut short in favour of
    another candidate: a buffered answer may rightly take minutes to its first byte."""
    if timeouts.first_token_s is not None:
        return timeouts.first_token_s
    if not stream:
        return FIRST_TOKEN_BUFFERED_S
    return FIRST_TOKEN_WITH_FALLBACK_S if more else FIRST_TOKEN_STREAM_S


def deadline_of(ctx: RequestContext, timeouts: Timeouts) -> Deadline:
    """When the request has to be over: by the total deadline of the endpoint that is asked, or by the caller's own."""
    started_s, own_s = ctx.inbound.started_s, ctx.inbound.steering.deadline_s
    if own_s is not None and own_s < timeouts.total_s:
        return Deadline(started_s + own_s, FailureKind.CLIENT_DEADLINE)
    return Deadline(started_s + timeouts.total_s, FailureKind.TOTAL_TIMEOUT)


class AttemptLoop:
    """Runs the candidates of a plan until one answers."""

    def __init__(self, routing: RoutingState, transports: TransportPool, translator: Translator, clock: Clock) -> None:
        self._routing = routing
        self._transports = transports
        self._translator = translator
        self._preparer = Preparer()
        self._clock = clock
        self._tasks = TaskSet()

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
                assert ctx.peek is not None
                tokens = ctx.peek.tokens_likely
                raise no_healthy(plan, ctx.snapshot, self._routing, self._clock.monotonic_s(), tokens)
            if tries == 0 and has_next and plan.policy.hedge_after_s is not None and _shows_first_token(ctx):
                asked = index
                result, attempt, index = await self._hedged(ctx, attempt, index, plan.policy.hedge_after_s)
                script = script if index == asked else attempt.script
            else:
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

    async def rescue(self, ctx: RequestContext, broken: StreamCommit, delivered: Delivered) -> StreamCommit | None:
        """A stream of a later candidate that goes on from `delivered`; None where nobody does. Restarts first, which
        prove themselves; an endpoint that says something else is given the beginning, where it can go on with one."""
        plan = ctx.plan
        assert plan is not None
        at = plan.candidates.index(broken.candidate) + 1
        for index in range(at, len(plan.candidates)):
            candidate = plan.candidates[index]
            text = delivered.text
            ways = [restarted(delivered)]
            if text is not None and text.strip() and candidate.endpoint.continues:
                ways.append(continued(delivered, text))
            for rejoin in ways:
                if len(ctx.attempts) >= plan.policy.retry.attempts_max:
                    return None
                result = await self._rejoined(ctx, candidate, rejoin, has_next=index + 1 < len(plan.candidates))
                if isinstance(result, StreamCommit):
                    return result
                if result is None or result.kind is not FailureKind.DIVERGED:
                    break
        return None

    async def _rejoined(
        self, ctx: RequestContext, candidate: Candidate, rejoin: Rejoin, *, has_next: bool
    ) -> StreamCommit | Failure | None:
        """One attempt at going on; None where the candidate cannot be asked."""
        assert ctx.plan is not None
        try:
            script = await self._translator.rejoining(ctx, candidate, rejoin)
        except RouterXError:
            return None
        attempt = self._begin(ctx, candidate, script, has_next=has_next)
        if attempt is None or attempt.first_token_s <= 0:
            return None
        result = await self._attempt(ctx, attempt)
        if isinstance(result, Failure):
            self._failed(ctx, attempt, result)
            return result
        assert isinstance(result, StreamCommit)
        return result

    def broke(self, ctx: RequestContext, commit: StreamCommit, failure: Failure) -> None:
        """A stream broke off after it had been committed: its attempt has not won, and routing is told."""
        assert ctx.plan is not None
        assert ctx.peek is not None
        cost = _prompt_cost_nano(ctx, commit.candidate)
        ctx.attempts[-1] = msgspec.structs.replace(
            ctx.attempts[-1], outcome=failure.kind.value, won=False, cost_est_nano=cost
        )
        if not commit.candidate.own_key:
            key, now_s = commit.candidate.endpoint.key, self._clock.monotonic_s()
            policy, began_s = ctx.plan.policy, commit.started_s
            self._routing.failed(key, commit.credential.id, failure, policy, now_s, began_s=began_s)

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
        credential: Credential | None
        if candidate.own_key:
            credential = _own_credential(ctx, provider.name)
            self._routing.budget(endpoint.key, own_keys=True).called(now_s)
        else:
            tokens = ctx.peek.tokens_likely if provider.limits_tokens else 0
            credential = self._routing.pick_credential(provider, endpoint, ctx.plan.policy, now_s, tokens=tokens)
        if credential is None:
            return None
        ctx.candidate = candidate
        first_token_s = first_token_deadline_s(candidate.timeouts, stream=_shows_first_token(ctx), more=has_next)
        deadline = deadline_of(ctx, candidate.timeouts)
        remaining_s = deadline.at_s - now_s
        return Attempt(
            candidate=candidate,
            provider=provider,
            credential=credential,
            script=script,
            started_s=now_s,
            first_token_s=min(first_token_s, max(remaining_s, 0.0)),
            deadline=deadline,
            cut_by=deadline.kind if remaining_s < first_token_s else FailureKind.FIRST_BYTE_TIMEOUT,
        )

    def _failed(self, ctx: RequestContext, attempt: Attempt, failure: Failure) -> None:
        """Tell routing, which learns nothing from keys that are not the house's."""
        assert ctx.plan is not None
        if not attempt.candidate.own_key:
            key, now_s = attempt.candidate.endpoint.key, self._clock.monotonic_s()
            policy, began_s = ctx.plan.policy, attempt.started_s
            self._routing.failed(key, attempt.credential.id, failure, policy, now_s, began_s=began_s)

    def _decide(
        self, ctx: RequestContext, plan: Plan, attempt: Attempt, failure: Failure, at: tuple[int, int]
    ) -> Verdict:
        """Tell routing of the failure and ask what next; `at` is (index of the candidate, tries of it so far)."""
        index, tries = at
        self._failed(ctx, attempt, failure)
        key, now_s = attempt.candidate.endpoint.key, self._clock.monotonic_s()
        own_key = attempt.candidate.own_key
        if own_key:
            ready_in_s = _own_rest_s(failure, plan.policy.retry)
        else:
            ready_in_s = self._routing.ready_in_s(attempt.provider, key, now_s)
        state = AttemptState(
            attempts=len(ctx.attempts),
            tries=tries,
            has_next=following(plan, index, failure) is not None,
            ready_in_s=ready_in_s,
            remaining_s=attempt.deadline.at_s - now_s,
            now_s=now_s,
            any_error=plan.any_error,
        )
        budget = self._routing.budget(key, own_keys=own_key)
        verdict = decide(failure, attempt=state, policy=plan.policy, budget=budget, rng=self._routing.rng)
        if isinstance(verdict, Stop) and failure.kind is FailureKind.RATE_LIMITED and failure.retry_after_s is None:
            # The provider did not say how long; the credential's own rest is when asking again has sense.
            return Stop(msgspec.structs.replace(failure, retry_after_s=ready_in_s))
        return verdict

    # --- hedging

    async def _hedged(
        self, ctx: RequestContext, attempt: Attempt, index: int, after_s: float
    ) -> tuple[Judgement, Attempt, int]:
        """The attempt, and beside it one at the next candidate once the first has been silent for `after_s`. The first
        that answers wins; where both fail, the second is told of as the last one made."""
        first = self._tasks.spawn("attempt", self._attempt(ctx, attempt))
        runs = [(first, attempt, index)]
        decided: asyncio.Task[Judgement] | None = None
        try:
            await asyncio.wait({first}, timeout=after_s)
            other = None if first.done() else await self._hedge(ctx, index + 1)
            if other is not None:
                runs.append((self._tasks.spawn("hedge", self._attempt(ctx, other)), other, index + 1))
                await asyncio.wait([task for task, _, _ in runs], return_when=asyncio.FIRST_COMPLETED)
            for task, one, at in sorted(runs, key=lambda run: not run[0].done()):
                result = await task
                if not isinstance(result, Failure):
                    decided = task
                    return result, one, at
            decided, one, at = runs[-1]
            return decided.result(), one, at
        finally:
            await self._end_race(ctx, [(task, one) for task, one, _ in runs if task is not decided])

    async def _hedge(self, ctx: RequestContext, index: int) -> Attempt | None:
        """The second attempt, where one more may be made."""
        plan, now_s = ctx.plan, self._clock.monotonic_s()
        assert plan is not None
        candidate = plan.candidates[index]
        left = plan.policy.retry.attempts_max - len(ctx.attempts)
        if left < 2 or candidate.own_key != plan.candidates[index - 1].own_key:
            return None  # Nobody asked to pay the house for a moment's patience.
        if not self._routing.budget(candidate.endpoint.key, own_keys=candidate.own_key).spend(now_s):
            return None
        try:
            script = self._translator.passing(ctx, candidate)
            if script is None:
                script = await self._translator.translated(ctx, candidate)
        except RouterXError:
            return None
        return self._begin(ctx, candidate, script, has_next=index + 1 < len(plan.candidates))

    async def _end_race(self, ctx: RequestContext, losers: list[tuple[asyncio.Task[Judgement], Attempt]]) -> None:
        """Cancel who still runs, so that it costs no more, tell routing of who failed, and put the attempt that won
        last."""
        for task, _ in losers:
            task.cancel()
        results = await asyncio.gather(*(task for task, _ in losers), return_exceptions=True)
        for result, (_, attempt) in zip(results, losers, strict=True):
            if isinstance(result, Failure):
                self._failed(ctx, attempt, result)
            elif isinstance(result, BufferedCommit | StreamCommit):  # In the same moment as the winner.
                result.reply.abort()
                at = next(
                    n for n, record in enumerate(ctx.attempts) if record.endpoint == result.candidate.endpoint.key
                )
                ctx.attempts[at] = msgspec.structs.replace(ctx.attempts[at], outcome=CANCELLED, won=False)
                self._abandon(attempt)
        ordered = sorted(ctx.attempts, key=lambda record: record.won)
        ctx.attempts[:] = [msgspec.structs.replace(record, n=n) for n, record in enumerate(ordered, 1)]

    # --- one attempt

    async def _attempt(self, ctx: RequestContext, attempt: Attempt) -> Judgement:
        """One call to one endpoint, judged. Owns the reply until it is committed."""
        peek = ctx.peek
        assert peek is not None
        result: Judgement | None = None
        try:
            timeouts = attempt.candidate.timeouts
            if ctx.attempts:  # The total is the request's: what earlier attempts took is gone.
                left_s = max(attempt.deadline.at_s - attempt.started_s, 0.001)
                timeouts = msgspec.structs.replace(timeouts, total_s=min(timeouts.total_s, left_s))
            target = Target(attempt.provider, attempt.credential, attempt.candidate.endpoint, timeouts)
            call = self._preparer.call(target, attempt.script.draft, attempt.first_token_s)
            if peek.stream:
                async with asyncio.timeout(attempt.first_token_s) as attempt.timer:
                    result = await self._ask(ctx, attempt, call)
            elif attempt.deadline.kind is FailureKind.CLIENT_DEADLINE:
                attempt.cut_by = FailureKind.CLIENT_DEADLINE
                async with asyncio.timeout(attempt.deadline.at_s - attempt.started_s):
                    result = await self._ask(ctx, attempt, call)
            else:  # The transport's own deadlines say it all: headers, silence, total. Nothing more waits than has to.
                attempt.progress = call.progress
                attempt.reply = await self._transports.get(attempt.provider).open(call)
                result = await self._judged(ctx, attempt, attempt.reply)
        except UpstreamFault as fault:
            result = fault.failure
        except TimeoutError:
            result = Failure(FailureKind.FIRST_BYTE_TIMEOUT, "")
        except RouterXError:
            self._cancelled(ctx, attempt)
            raise
        except Exception:
            # Whatever a provider sends is its fault before it is ours: the next one may be readable.
            log.exception("an answer of %s could not be read", attempt.provider.name)
            result = Failure(FailureKind.UNREADABLE, f"{attempt.provider.name} sent an answer that cannot be read.")
        except BaseException:
            self._cancelled(ctx, attempt)
            raise
        finally:
            if attempt.reply is not None and not isinstance(result, BufferedCommit | StreamCommit):
                attempt.reply.abort()
        if isinstance(result, Failure):
            result = self._told(ctx, attempt, result)
            self._note(ctx, attempt, result.kind.value)
        else:
            self._note(ctx, attempt, Outcome.OK)
        return result

    def _cancelled(self, ctx: RequestContext, attempt: Attempt) -> None:
        self._abandon(attempt)
        self._note(ctx, attempt, CANCELLED)

    def _abandon(self, attempt: Attempt) -> None:
        if not attempt.candidate.own_key:
            key, now_s = attempt.candidate.endpoint.key, self._clock.monotonic_s()
            self._routing.abandoned(key, attempt.credential.id, now_s, began_s=attempt.started_s)

    def _told(self, ctx: RequestContext, attempt: Attempt, failure: Failure) -> Failure:
        """The failure as it goes on: named for the deadline that was passed, blamed on the caller's own key where that
        was refused, and without the secrets of its call."""
        name = attempt.provider.name
        if failure.kind is FailureKind.FIRST_BYTE_TIMEOUT:
            if attempt.cut_by is FailureKind.TOTAL_TIMEOUT:
                return Failure(attempt.cut_by, f"{name} did not answer within its total time.")
            if attempt.cut_by is FailureKind.CLIENT_DEADLINE:
                return Failure(attempt.cut_by, f"{name} did not answer before the deadline that the request set.")
            return Failure(failure.kind, f"{name} sent no output within {attempt.first_token_s:g} s.")
        if attempt.candidate.own_key and failure.kind in (FailureKind.AUTH_FAILED, FailureKind.EXHAUSTED):
            stored = ctx.inbound.steering.own_key is None
            whose = "that is stored as this tenant's own" if stored else "in X-RouterX-API-Key"
            message = f"{name} refuses the key {whose}. No other key of it was tried."
            failure = msgspec.structs.replace(failure, kind=FailureKind.BYOK_REJECTED, message=message)
        return redacted(failure, attempt.provider, attempt.credential)

    async def _ask(self, ctx: RequestContext, attempt: Attempt, call: UpstreamCall) -> Judgement:
        attempt.progress = call.progress
        attempt.reply = await self._transports.get(attempt.provider).open(call)
        return await self._judged(ctx, attempt, attempt.reply)

    def _judged(self, ctx: RequestContext, attempt: Attempt, reply: UpstreamReply) -> Coroutine[None, None, Judgement]:
        """The head of the reply is here: what it says of limits, and what is to be made of it."""
        attempt.status = reply.status
        now_s = self._clock.monotonic_s()
        attempt.first_byte_s = now_s - attempt.started_s
        own_key = attempt.candidate.own_key
        if not own_key and (wait_s := used_up_s(reply.headers, self._clock.now_ns())) is not None:
            self._routing.paced(attempt.credential.id, wait_s, now_s)
        return judge(ctx, attempt, reply, self._clock)

    def _note(self, ctx: RequestContext, attempt: Attempt, outcome: str) -> None:
        """Write the attempt down. The one that answered is the last and the only one with outcome `ok`."""
        now_s = self._clock.monotonic_s()
        won = outcome == Outcome.OK
        ctx.upstream_s += now_s - attempt.started_s
        if won and ctx.first_s is None:
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


def _own_credential(ctx: RequestContext, provider: str) -> Credential | None:
    """The caller's own, as it was sent with the request, else as it is stored for its tenant."""
    sent = ctx.inbound.steering.own_key
    key = sent if sent is not None else ctx.principal.own_keys.get(provider)
    return None if key is None else Credential(f"own-{fingerprint(key)}", key, transient=True)


def _shows_first_token(ctx: RequestContext) -> bool:
    """Whether an answer is late once its first token is. What is no text may take its time even to its first piece: a
    picture, a long recording."""
    return ctx.peek is not None and ctx.peek.stream and ctx.peek.metered is None


def _own_rest_s(failure: Failure, retry: RetryPolicy) -> float:
    """How long a caller's own key rests after a failure: there is no other one, and nothing of it is remembered."""
    if failure.rule.effect is not Effect.COOL:
        return 0.0
    wait_s = failure.retry_after_s
    return max(EARLY_S, wait_s if wait_s is not None and wait_s > 0 else retry.backoff_min_s)


def _house_cost_nano(ctx: RequestContext, attempt: Attempt, outcome: str) -> int:
    """What the provider may bill the house for an attempt without an answer: the prompt, where it may have begun to
    work."""
    if not attempt.dispatched or outcome not in MAY_HAVE_WORKED:
        return 0
    return _prompt_cost_nano(ctx, attempt.candidate)


def _prompt_cost_nano(ctx: RequestContext, candidate: Candidate) -> int:
    """Of what is asked with a tenant's own key nothing is the house's."""
    price = candidate.endpoint.price
    if price is None or candidate.own_key or ctx.peek is None:
        return 0
    return cost_nano(ctx.peek.asked_likely, PriceSnapshot(price))
