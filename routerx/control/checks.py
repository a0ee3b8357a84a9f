"""Looks at providers off the request path: at an interval, more often while a circuit is open, and when asked to.

Decisions are routing/health.py's; here are the calls. What a look finds is never counted as a chat's failure: a
provider that lists its models badly may answer chats well.
"""

import asyncio
import logging
from collections.abc import Iterable

import msgspec

from routerx.clock import Clock
from routerx.config.snapshot import SnapshotHolder
from routerx.dialects.registry import dialect
from routerx.domain.failure import Failure, FailureKind, UpstreamFault
from routerx.errors import ConfigError
from routerx.providers.probe import PROBE_TOTAL_S, probe_call
from routerx.providers.spec import Credential, Provider
from routerx.routing.health import HealthBook, Look, Seen, provider_of
from routerx.routing.state import RoutingState
from routerx.tasks import TaskSet
from routerx.upstream.base import ERROR_BYTES_MAX, UpstreamReply
from routerx.upstream.pool import TransportPool

log = logging.getLogger("routerx.health")

TICK_S = 1.0
"""How often it is asked who is due."""
LIST_BYTES_MAX = 1024 * 1024
"""A list of models that is read to its end, so that its connection can be used for the next call."""

_UNREACHABLE = frozenset(
    {
        FailureKind.CONNECT_ERROR,
        FailureKind.CONNECT_TIMEOUT,
        FailureKind.DNS_ERROR,
        FailureKind.TLS_ERROR,
        FailureKind.FIRST_BYTE_TIMEOUT,
        FailureKind.RESET_BEFORE_OUTPUT,
        FailureKind.TOTAL_TIMEOUT,
    }
)
_AUTH = frozenset({FailureKind.AUTH_FAILED, FailureKind.EXHAUSTED})
_ANSWERS = frozenset({FailureKind.REJECTED, FailureKind.RATE_LIMITED})
"""It is there and speaks its wire; that it has no list of models, or has had enough of us, is no fault of it."""


class CheckParts(msgspec.Struct, frozen=True):
    """What looking at providers needs."""

    holder: SnapshotHolder
    routing: RoutingState
    transports: TransportPool
    clock: Clock


class HealthChecks:
    """Owns the looks. `run` is a task for the life of the server; `test` serves the admin API."""

    def __init__(self, parts: CheckParts) -> None:
        self.book = HealthBook(parts.routing.rng)
        self._holder = parts.holder
        self._routing = parts.routing
        self._transports = parts.transports
        self._clock = parts.clock

    async def run(self) -> None:
        """Look at whoever is due until cancelled."""
        tasks = TaskSet()
        try:
            while True:
                now_s = self._clock.monotonic_s()
                snapshot = self._holder.current
                for name in self.book.due(snapshot.server.health_interval_s, self._open_providers(), now_s):
                    provider = snapshot.providers.get(name)
                    if provider is None:
                        self.book.given_up(name)
                    else:
                        tasks.spawn(f"health-check-{name}", self._look_in_turn(provider))
                await self._clock.sleep(TICK_S)
        finally:
            await tasks.close()

    async def test(self, provider: Provider, credentials: Iterable[Credential]) -> tuple[Look, ...]:
        """Look at a provider now, by all of these credentials at once. What is best of it is kept."""
        looks = await asyncio.gather(*(self._look(provider, credential) for credential in credentials))
        if looks:
            self._keep(next((look for look in looks if look.seen is Seen.OK), looks[0]))
        return tuple(looks)

    def retain(self) -> None:
        """After the start and each reload. There is no key to look with where only tenants have one."""
        looked_at = (one for one in self._holder.current.providers.values() if not one.byok_only)
        self.book.retain(looked_at, self._clock.monotonic_s())

    def _open_providers(self) -> frozenset[str]:
        return frozenset(provider_of(endpoint) for endpoint, _, is_open in self._routing.tripped() if is_open)

    async def _look_in_turn(self, provider: Provider) -> None:
        now_s = self._clock.monotonic_s()
        try:
            usable = frozenset(
                one.id for one in provider.credentials if self._routing.credential_state(one.id, now_s) != "quarantined"
            )
            self._keep(await self._look(provider, self.book.credential(provider, usable)))
        finally:
            self.book.given_up(provider.name)

    def _keep(self, look: Look) -> None:
        now_s = self._clock.monotonic_s()
        before = self.book.health(look.provider, now_s)
        self.book.record(look, now_s)
        if before is None or before.last.seen is not look.seen:
            level = logging.INFO if look.seen is Seen.OK else logging.WARNING
            log.log(level, "provider %s is %s (%s)", look.provider, look.seen.value, look.reason or look.status)
        policy = self._holder.current.policies["default"]
        for endpoint, credential_id in self.book.to_bring_forward(look.provider, self._routing.tripped()):
            if self._routing.brought_forward(endpoint, credential_id, now_s, policy):
                self.book.brought_forward(look.provider, (endpoint, credential_id))
                log.info("%s is asked again sooner by %s: its provider can be reached", endpoint, credential_id)

    async def _look(self, provider: Provider, credential: Credential) -> Look:
        """One look. Raises nothing but cancellation."""
        started_s, at_ns = self._clock.monotonic_s(), self._clock.now_ns()
        status: int | None = None
        head_s: float | None = None
        failure: Failure | None = None
        if provider.mock is None:
            reply: UpstreamReply | None = None
            try:
                call = probe_call(provider, credential)
                async with asyncio.timeout(PROBE_TOTAL_S + 1):
                    reply = await self._transports.get(provider).open(call)
                    head_s, status = self._clock.monotonic_s(), reply.status
                    failure = await _judged(provider, reply)
            except UpstreamFault as fault:
                failure = fault.failure
            except TimeoutError:
                failure = Failure(FailureKind.TOTAL_TIMEOUT, "")
            except ConfigError as error:
                failure = Failure(FailureKind.PROTOCOL_ERROR, error.message)
            finally:
                if reply is not None:
                    reply.release()
        took_s = (head_s if head_s is not None else self._clock.monotonic_s()) - started_s
        return Look(
            provider=provider.name,
            credential_id=credential.id,
            seen=_seen(failure, status),
            reason=None if failure is None else str(failure.kind),
            status=status,
            latency_ms=round(took_s * 1000),
            at_ns=at_ns,
        )


async def _judged(provider: Provider, reply: UpstreamReply) -> Failure | None:
    """What is wrong with an answer; None where it is a list of models. Raises UpstreamFault."""
    if reply.status != 200:
        body = await reply.read(ERROR_BYTES_MAX)
        return dialect(provider.dialect).classify(reply.status, reply.headers, body)
    if "json" not in reply.headers.get("content-type", "json"):
        return Failure(FailureKind.BAD_CONTENT_TYPE, "")
    try:
        await reply.read(LIST_BYTES_MAX)
    except UpstreamFault as fault:
        if fault.failure.kind is not FailureKind.TOO_LARGE:
            raise
    return None


def _seen(failure: Failure | None, status: int | None) -> Seen:
    if failure is None:
        return Seen.OK
    if failure.kind in _AUTH:
        return Seen.AUTH
    if failure.kind in _ANSWERS and status != 200:
        return Seen.OK
    return Seen.UNREACHABLE if failure.kind in _UNREACHABLE else Seen.FAILED
