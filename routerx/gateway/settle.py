"""Step 10 of the road: from what happened to what is owed and written. Synchronous, and once per request.

The charge policy (MONEY.md section 4) is `_consumption`: each row is a case of it or of what it calls.
"""

import msgspec

from routerx.clock import Clock
from routerx.dialects.base import Reply, StreamTap
from routerx.domain.call import Operation, Peek
from routerx.domain.failure import FailureKind
from routerx.domain.model import Endpoint
from routerx.domain.pricing import BP, PriceSnapshot, cost_nano, is_unpriced, served, usage_pico, with_markup
from routerx.domain.record import AttemptRecord, BillingMode, Outcome, RequestRecord
from routerx.domain.tenant import BillEmpty
from routerx.domain.usage import Usage, UsageSource
from routerx.errors import TenantSuspended
from routerx.gateway.context import BufferedCommit, RequestContext, StreamCommit
from routerx.gateway.growth import OutputHistory
from routerx.ledger.base import Ledger
from routerx.money import PICO_PER_NANO

CHARS_PER_TOKEN = 4
"""For output whose usage the provider did not send: UTF-8 bytes per token of ordinary text."""

WINDOW_TOKENS_MAX = 4_000_000
"""The context of an endpoint that declares none, for telling what usage is absurd: twice the largest there is."""

GENERATING = (Operation.CHAT, Operation.COMPLETIONS)

ABORTS_PER_HOUR = 30
ABORT_NANO_PER_HOUR = 500_000_000
ABORT_KEYS_MAX = 10_000

CLIENT_GONE_LATE = frozenset({Outcome.CLIENT_GONE_MIDSTREAM, Outcome.CLIENT_SLOW})
CUT_BY_CALLER = frozenset({FailureKind.CLIENT_DEADLINE, FailureKind.BALANCE_EXHAUSTED, TenantSuspended.outcome})
CLIENT_GONE_EARLY = frozenset({Outcome.CLIENT_GONE_NO_OUTPUT, Outcome.CLIENT_GONE_NONSTREAM})


class AbortAllowance:
    """How many prompts a key may abandon for free each hour before the first token (MONEY.md row D)."""

    def __init__(self) -> None:
        self._used: dict[str, tuple[int, int, int]] = {}

    def take(self, key_id: str, prompt_nano: int, now_s: float) -> bool:
        """True when this abort is still free; counts it. `now_s` is monotonic."""
        hour = int(now_s // 3600)
        window, count, nano = self._used.get(key_id, (hour, 0, 0))
        if window != hour:
            count = nano = 0
        if count >= ABORTS_PER_HOUR or nano + prompt_nano > ABORT_NANO_PER_HOUR:
            return False
        if len(self._used) >= ABORT_KEYS_MAX and key_id not in self._used:
            self._used = {key: used for key, used in self._used.items() if used[0] == hour}
        self._used[key_id] = (hour, count + 1, nano + prompt_nano)
        return True


class Consumption(msgspec.Struct, frozen=True):
    """What was used, how it is known, and whether it is charged."""

    usage: Usage | None
    source: UsageSource
    charged: bool


NOTHING = Consumption(None, UsageSource.NONE, charged=False)
TOLD_AGAIN = Consumption(None, UsageSource.NONE, charged=True)
"""Row N: an answer of the response cache. No price is on its record, so nothing is owed."""


def estimated(input_tokens: int, output_chars: int) -> Usage:
    """Usage from sizes."""
    return Usage(in_fresh=input_tokens, out_text=-(-output_chars // CHARS_PER_TOKEN))


def capped(usage: Usage, terms: PriceSnapshot, cap_nano: int) -> Usage:
    """An estimate cut down until it costs at most `cap_nano`, output first: none is charged above its hold."""
    if cost_nano(usage, terms) <= cap_nano:
        return usage
    cap_pico = cap_nano * PICO_PER_NANO * BP // (BP + terms.markup_bp)
    card = terms.card.at(usage.input_tokens)  # Cutting input down may only lead to a cheaper price.
    for bucket, price in (("out_text", card.output_pico), ("in_fresh", card.input_pico)):
        usage = msgspec.structs.replace(usage, **{bucket: 0})
        left = cap_pico - usage_pico(usage, card)
        if left >= 0 and price > 0:
            return msgspec.structs.replace(usage, **{bucket: left // price})
    return usage


def plausible(usage: Usage, peek: Peek, endpoint: Endpoint) -> bool:
    """Whether a provider can mean this: twice what the endpoint can read and write at all is the limit (FAULTS.md 48).

    The caller's own maximum is no measure: some providers count reasoning beside it.
    """
    if peek.metered is not None:  # Sound and images need not fit into a window of text.
        tokens = max(usage.input_tokens, usage.output_tokens)
        return tokens <= 2 * WINDOW_TOKENS_MAX and usage.requests <= 2 * peek.metered.most.requests
    window = endpoint.context_tokens if endpoint.context_tokens is not None else WINDOW_TOKENS_MAX
    output = endpoint.output_tokens_max if endpoint.output_tokens_max is not None else window
    into = max(window, peek.input_tokens_estimate)
    return usage.output_tokens <= 2 * output * peek.choices and usage.input_tokens <= 2 * into


class Settler:
    """Turns contexts into settled records. Owns the abort allowance; the books are the ledger's."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._allowance = AbortAllowance()
        self._history = OutputHistory()

    def settle(self, ctx: RequestContext) -> RequestRecord | None:
        """Resolve hold and lease, charge, write. Does nothing the second time."""
        if ctx.settled:
            return None
        ctx.settled = True
        tokens = 0
        try:
            record = self._record(ctx)
            tokens = record.usage.total_tokens if record.usage is not None else 0
            ctx.receipt = self._ledger.settle(record, ctx.hold)
        finally:  # Whatever goes wrong above, nothing stays reserved: both know a hold and a lease that are resolved.
            if ctx.lease is not None:
                ctx.lease.release(tokens)
            if ctx.hold is not None and ctx.hold.open:
                self._ledger.release(ctx.hold)
        return record

    def _record(self, ctx: RequestContext) -> RequestRecord:
        if ctx.terms is not None:
            ctx.terms = _of_tier(ctx, ctx.terms)
        inbound, peek, committed, terms = ctx.inbound, ctx.peek, ctx.committed, ctx.terms
        now_s = self._clock.monotonic_s()
        used = self._consumption(ctx, now_s)
        owed = provider_cost = 0
        if used.usage is not None and terms is not None:
            pico = usage_pico(used.usage, terms.card)
            provider_cost = with_markup(pico, 0)
            if used.charged and ctx.billing.owes:
                owed = with_markup(pico, terms.markup_bp) if terms.markup_bp else provider_cost
        endpoint = committed.candidate.endpoint if committed is not None else None
        first_s = ctx.first_s
        own_s = (first_s if first_s is not None else now_s) - inbound.started_s - ctx.upstream_s
        return RequestRecord(  # The first half by position: so many keywords take longer than all the rest.
            inbound.request_id,
            ctx.principal.tenant.name,
            ctx.principal.key_id,
            inbound.operation.value,
            peek.model if peek is not None else "",
            endpoint.key if endpoint is not None else None,
            endpoint.provider if endpoint is not None else None,
            peek is not None and peek.stream,
            ctx.outcome,
            ctx.http_status,
            ctx.billing if used.charged else BillingMode.VOID,
            used.usage,
            used.source,
            terms,
            cost_nano=owed,
            held_nano=ctx.hold.amount_nano if ctx.hold is not None else 0,
            provider_cost_nano=provider_cost,
            started_ns=inbound.started_ns,
            duration_ms=round((now_s - inbound.started_s) * 1000),
            ttft_ms=round((first_s - inbound.started_s) * 1000) if first_s is not None else None,
            overhead_us=max(0, round(own_s * 1_000_000)),
            attempts=_attempts(ctx),
            served_model=_served_model(committed),
            user=inbound.user if inbound.user is not None else (peek.user if peek is not None else None),
            app=inbound.app,
            flags=tuple(ctx.flags),
        )

    def usual(self, tenant: str, peek: Peek) -> int | None:
        """Output tokens per choice that hardly any answer of the model passes for this tenant; None: too few known."""
        return self._history.expected(tenant, peek.model) if peek.metered is None else None

    def _learn(self, ctx: RequestContext, usage: Usage) -> None:
        if ctx.peek is not None and ctx.billing is BillingMode.PAID and ctx.peek.operation in GENERATING:
            tokens = usage.output_tokens // ctx.peek.choices
            self._history.add(ctx.principal.tenant.name, ctx.peek.model, tokens)

    def _consumption(self, ctx: RequestContext, now_s: float) -> Consumption:
        """The charge policy. Only the attempt that answered is ever looked at (row L)."""
        if ctx.billing is BillingMode.CACHED:
            return TOLD_AGAIN
        if ctx.outcome == Outcome.OK:
            return self._complete(ctx)
        if ctx.outcome in CLIENT_GONE_LATE:  # Row E: the prompt and what was delivered up to the cancel.
            ctx.flags.append("drained" if ctx.draining and _is_whole(ctx) else "cancelled")
            return self._delivered(ctx, charged=True)
        if ctx.outcome in CLIENT_GONE_EARLY:
            return self._abandoned(ctx, now_s)
        if ctx.delivered:  # Rows H and K: an answer cut short is not charged, unless it is the caller who has no more
            # time, no more money, or no more right to it.
            charged = ctx.outcome in CUT_BY_CALLER
            if charged:
                ctx.flags.append("cancelled")
            return self._delivered(ctx, charged=charged)
        return NOTHING  # Row G, and everything that was refused before it started.

    def _complete(self, ctx: RequestContext) -> Consumption:
        """Rows A, B, C, I and Y."""
        committed = ctx.committed
        assert committed is not None
        seen = _seen(committed)
        if seen.anomaly:
            ctx.flags.append("anomaly")
        if isinstance(committed, StreamCommit) and committed.tap.missing_done:
            ctx.flags.append("missing_done")
        used = self._delivered(ctx, charged=True)
        if seen.empty and "rescued" not in ctx.flags and ctx.peek is not None and ctx.peek.operation in GENERATING:
            return _empty(ctx, used)
        if used.usage is not None and used.source is UsageSource.PROVIDER:
            self._learn(ctx, used.usage)
        return used

    def _delivered(self, ctx: RequestContext, *, charged: bool) -> Consumption:
        """What the provider reported so far, or an estimate from what passed through, capped at the hold."""
        committed, peek = ctx.committed, ctx.peek
        assert committed is not None
        assert peek is not None
        missing = 0
        if isinstance(committed, StreamCommit):
            usage, chars = committed.tap.usage, committed.tap.output_chars
            if committed.given_chars > 0:
                return self._continued(ctx, committed, usage, charged=charged)
            if usage is not None:
                missing = _unreported(committed.tap, usage, chars)
        else:
            # A text whose usage was reported is not always measured; its body is the next best measure.
            result = committed.result
            usage, chars = result.usage, result.output_chars
            if usage is not None and chars == 0:
                chars = len(committed.body)
        if usage is not None:
            if plausible(usage, peek, committed.candidate.endpoint):
                if missing > 0:
                    grown = msgspec.structs.replace(usage, out_text=usage.out_text + missing)
                    return self._estimate(ctx, grown, charged=charged)
                return Consumption(usage, UsageSource.PROVIDER, charged=charged)
            if "anomaly" not in ctx.flags:
                ctx.flags.append("anomaly")
        if peek.metered is not None:
            made = committed.result.made if isinstance(committed, BufferedCommit) else None
            return self._estimate(ctx, peek.metered.made(made), charged=charged)
        if peek.operation is Operation.EMBEDDINGS:
            chars = 0
        return self._estimate(ctx, estimated(peek.input_tokens_likely, chars), charged=charged)

    def _continued(
        self, ctx: RequestContext, committed: StreamCommit, usage: Usage | None, *, charged: bool
    ) -> Consumption:
        """Row X: of an answer whose beginning another endpoint made, the prompt once and all of the answer, at the
        price of the endpoint that finished: a request has one."""
        assert ctx.peek is not None
        given = estimated(0, committed.given_chars).out_text
        if usage is None or not plausible(usage, ctx.peek, committed.candidate.endpoint):
            whole = estimated(ctx.peek.input_tokens_likely, committed.given_chars + committed.tap.output_chars)
        else:
            whole = msgspec.structs.replace(
                usage, in_fresh=max(0, usage.in_fresh - given), out_text=usage.out_text + given
            )
        return self._estimate(ctx, whole, charged=charged)

    def _abandoned(self, ctx: RequestContext, now_s: float) -> Consumption:
        """Row D: the caller left before the first token; free within the key's allowance, else the prompt."""
        if ctx.peek is None or ctx.terms is None or ctx.billing is not BillingMode.PAID:
            return NOTHING
        prompt = ctx.peek.asked_likely
        if self._allowance.take(ctx.principal.key_id, cost_nano(prompt, ctx.terms), now_s):
            return NOTHING
        return self._estimate(ctx, prompt, charged=True)

    def _estimate(self, ctx: RequestContext, usage: Usage, *, charged: bool) -> Consumption:
        if ctx.terms is not None and ctx.hold is not None and ctx.billing.owes:
            usage = capped(usage, ctx.terms, ctx.hold.amount_nano)
        return Consumption(usage, UsageSource.ESTIMATED, charged=charged)


def _of_tier(ctx: RequestContext, terms: PriceSnapshot) -> PriceSnapshot:
    """The terms as they are charged and stored: of the service tier that answered."""
    reported = _seen(ctx.committed).tier if ctx.committed is not None else None
    if reported is None and terms.card.tiers is None:
        return terms
    # A tier that the wire of the endpoint could not be asked for has not served.
    asked = ctx.peek.service_tier if ctx.peek is not None and "service_tier" not in ctx.dropped else None
    own = served(terms, reported, asked)
    if is_unpriced(terms.card, own):
        ctx.flags.append("tier_unpriced")
    return own


def _seen(committed: BufferedCommit | StreamCommit) -> Reply | StreamTap:
    return committed.tap if isinstance(committed, StreamCommit) else committed.result


def _empty(ctx: RequestContext, used: Consumption) -> Consumption:
    """Row Y: the answer is whole, and nothing is in it."""
    ctx.flags.append("empty")
    match ctx.principal.tenant.plan.bill_empty:
        case BillEmpty.NEVER:
            return Consumption(used.usage, used.source, charged=False)
        case BillEmpty.INPUT if used.usage is not None:
            unsaid = dict.fromkeys(("out_text", "out_reasoning", "out_audio", "out_image"), 0)
            return Consumption(msgspec.structs.replace(used.usage, **unsaid), used.source, charged=True)
    return used


def _is_whole(ctx: RequestContext) -> bool:
    return isinstance(ctx.committed, StreamCommit) and (ctx.committed.tap.finished or ctx.committed.tap.done)


def _unreported(tap: StreamTap, usage: Usage, chars: int) -> int:
    """Output tokens that flowed after the last report of a stream that was left before its end: some wires report the
    prompt first, beside a token or two."""
    if tap.finished or tap.done:
        return 0
    return estimated(0, chars).out_text - usage.output_tokens


def _attempts(ctx: RequestContext) -> tuple[AttemptRecord, ...]:
    """The attempts as they ended: one that had begun to answer has won only if the answer became whole."""
    if ctx.attempts and ctx.attempts[-1].won and ctx.outcome != Outcome.OK:
        ctx.attempts[-1] = msgspec.structs.replace(ctx.attempts[-1], outcome=ctx.outcome, won=False)
    return tuple(ctx.attempts)


def _served_model(committed: BufferedCommit | StreamCommit | None) -> str | None:
    return None if committed is None else _seen(committed).served_model
