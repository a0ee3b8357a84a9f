"""Step 9 of the road: pump a committed stream to the caller, keeping the terminal event back.

relay() ends when the upstream's answer has ended, well or badly; releasing the terminal event is the pipeline's,
because the charge has to be durable first. One upstream read becomes one client write; nothing is buffered beyond
that, so a slow caller slows the upstream down.
"""

import asyncio
import logging

from routerx.clock import Clock
from routerx.domain.failure import Failure, FailureKind, UpstreamFault
from routerx.gateway.context import ClientStream, RequestContext, StreamCommit
from routerx.gateway.judge import Deadline

log = logging.getLogger("routerx.gateway.relay")

TAIL_S = 10.0
"""How long to wait for usage and the end mark once every choice has finished: some providers send neither and do not
close either."""
MARK_S = 1.0
"""And how long for the end mark alone."""

DRAIN_S = 60.0
"""How long a stream is read on whose caller has gone."""


class CallerTooSlow(ConnectionError):
    """The caller did not take the answer within the total deadline: not the provider's fault, and as good as gone."""


async def relay(
    ctx: RequestContext, commit: StreamCommit, client: ClientStream, clock: Clock, deadline: Deadline
) -> Failure | None:
    """Forward until the stream ends. A Failure when the answer was cut short; None when `commit.tap.terminal` is whole.

    Raises ConnectionError when the caller has gone, CallerTooSlow when the deadline passed while it was not reading.
    """
    tap = commit.tap
    total = asyncio.timeout(
        deadline.at_s - clock.monotonic_s()
    )  # One timer a stream: silence and drips end by it alike.
    try:
        async with total:
            if not await _pump(ctx, commit, client):
                return Failure(FailureKind.BALANCE_EXHAUSTED, "The balance is used up; what was delivered is charged.")
            if tap.finished and not tap.done:
                await _tail(commit)
    except UpstreamFault as fault:
        if not tap.finished:
            return fault.failure
    except TimeoutError:
        if not total.expired():
            raise
        if ctx.writing:
            raise CallerTooSlow("The caller did not read its answer.") from None
        if not tap.finished:
            return Failure(deadline.kind, "The provider did not finish before the deadline of the request.")
    return _closed(commit)


def _fed(commit: StreamCommit, data: bytes) -> bytes:
    """What may flow of `data`. Whatever a provider sends is its fault before it is ours: raises UpstreamFault."""
    try:
        return commit.tap.feed(data)
    except Exception:
        raise UpstreamFault(_unreadable(commit)) from None


def _closed(commit: StreamCommit) -> Failure | None:
    try:
        return commit.tap.close()
    except Exception:
        return _unreadable(commit)


def _unreadable(commit: StreamCommit) -> Failure:
    provider = commit.candidate.endpoint.provider
    log.exception("a stream of %s could not be read", provider)
    return Failure(FailureKind.UNREADABLE, f"{provider} sent a stream that cannot be read.")


async def _pump(ctx: RequestContext, commit: StreamCommit, client: ClientStream) -> bool:
    """Until the last choice has finished, or the stream has ended in any other way. False: no money is left for it."""
    tap, reply, transcript, growth = commit.tap, commit.reply, ctx.transcript, ctx.growth
    out = commit.head
    while True:
        if out:
            if transcript is not None:
                transcript.add(out)
            # Before the wait: bytes that the socket has taken are delivered, whether or not it takes more.
            ctx.delivered = ctx.writing = True
            await client.write(out)
            ctx.writing = False
        if tap.finished or tap.done or tap.failure is not None:
            return True
        while growth is not None and tap.output_chars > growth.covered_bytes:
            if not growth.extend():
                return False
        data = await reply.chunk()
        if not data:
            return True
        out = _fed(commit, data)


async def drain(commit: StreamCommit) -> bool:
    """Read a stream that nobody waits for any more to its end; whether it ended well."""
    tap = commit.tap
    try:
        async with asyncio.timeout(DRAIN_S):
            while not tap.done and tap.failure is None:
                data = await commit.reply.chunk()
                if not data:
                    break
                _fed(commit, data)
        return _closed(commit) is None
    except (TimeoutError, UpstreamFault):
        return tap.finished


async def _tail(commit: StreamCommit) -> None:
    """Read on after the last choice has finished: the usage frame and the end mark. All of it is withheld."""
    tap, reply = commit.tap, commit.reply
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(TAIL_S if tap.usage is None else MARK_S) as tail:
            while not tap.done and tap.failure is None:
                data = await reply.chunk()
                if not data:
                    return
                before = tap.usage
                _fed(commit, data)
                if before is None and tap.usage is not None:
                    tail.reschedule(loop.time() + MARK_S)
    except TimeoutError:
        return
