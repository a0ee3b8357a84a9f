"""What `routerx drill` runs: the real gateway on the user's own configuration, with the faulty provider in it.

Each scene is one request to a gateway that has just started: real plan, attempts, circuits, rescue, ledger and charge.
Only the transports are the drill's, the ledger is a new one in a temporary folder, and time jumps over the waiting
(quicktime.py). Keys are replaced before anything begins, so that none can leave.
"""

import asyncio
import random
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from routerx import jsonx
from routerx.cli.quicktime import QuickClock, QuickLoop
from routerx.config.snapshot import Snapshot
from routerx.dialects.openai_chat import OPENAI
from routerx.domain.call import Operation
from routerx.domain.chat import MediaKind
from routerx.domain.egress import EgressPolicy, Fetched
from routerx.domain.record import RequestRecord
from routerx.domain.tenant import Limits, Principal, Tenant
from routerx.errors import MediaUnavailable, RouterXError
from routerx.gateway.attempt import AttemptLoop
from routerx.gateway.cache import ResponseCache
from routerx.gateway.context import Answer, Inbound
from routerx.gateway.pipeline import Gateway, GatewayParts
from routerx.gateway.settle import Settler
from routerx.gateway.translation import Translator
from routerx.ids import new_request_id
from routerx.ledger.opening import LedgerOptions
from routerx.ledger.sqlite import SqliteLedger, open_ledger
from routerx.limits.memory import MemoryLimiter
from routerx.money import format_usd
from routerx.providers.spec import Credential, MockSettings, Provider
from routerx.routing.state import RoutingState
from routerx.secrets import Secret
from routerx.telemetry.metrics import Metrics
from routerx.upstream.drill import WELL, Fault, Stage

BALANCE_NANO = 10**15
NEVER_S = 1e9


class Order(msgspec.Struct, frozen=True):
    """What to rehearse."""

    tenant: str
    models: tuple[str, ...]
    faults: tuple[Fault, ...]
    modes: tuple[bool, ...] = (True, False)
    """Streamed, buffered."""
    policy: str | None = None
    """In place of the tenant's."""


class Call(msgspec.Struct, frozen=True):
    """One attempt."""

    endpoint: str
    provider: str
    outcome: str
    upstream_status: int | None


class Scene(msgspec.Struct, frozen=True):
    """One fault met by one request."""

    model: str
    fault: str
    says: str
    streamed: bool
    good: bool
    """A whole answer; where no one could have given it, one clear error that costs nothing."""
    whole: bool
    """The caller got the whole answer."""
    saw: str
    """What the caller got, in words."""
    status: int
    code: str | None
    """Of the error."""
    answered_by: str | None
    """The endpoint."""
    provider: str | None
    """Of that."""
    attempts: tuple[Call, ...]
    seconds: float
    """Until the answer, or the error, was complete."""
    cost_usd: str
    cost_nano: int
    flags: tuple[str, ...]


class _Caller:
    """The caller's end of a stream."""

    def __init__(self) -> None:
        self.body = bytearray()
        self.ended = False

    async def start(self, headers: tuple[tuple[str, str], ...]) -> None:
        """Nothing of them is looked at."""

    async def write(self, data: bytes) -> None:
        self.body += data

    async def finish(self, data: bytes) -> None:
        self.body += data
        self.ended = True


class _Seen(msgspec.Struct, frozen=True):
    """What a caller got."""

    status: int
    text: str
    done: bool
    """The answer ended as whole answers do."""
    code: str | None = None


def rehearse(snapshot: Snapshot, order: Order) -> tuple[Scene, ...]:
    """Play every fault to every model in every mode, after one scene without a fault."""
    safe = _made_safe(snapshot, order)
    with asyncio.Runner(loop_factory=QuickLoop) as runner:
        return runner.run(_rehearse(safe, order))


async def _rehearse(snapshot: Snapshot, order: Order) -> tuple[Scene, ...]:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, QuickLoop)
    async with _ledger(snapshot, QuickClock(loop)) as ledger:
        studio = _Studio(snapshot, ledger, loop, order.tenant)
        scenes: list[Scene] = []
        for model in order.models:
            for streamed in order.modes:
                scenes.append(await studio.play(WELL, model, streamed=streamed))
                if scenes[-1].good:  # Else nothing that follows would be about the faults.
                    scenes += [
                        await studio.play(fault, model, streamed=streamed)
                        for fault in order.faults
                        if streamed in fault.modes
                    ]
        return tuple(scenes)


@asynccontextmanager
async def _ledger(snapshot: Snapshot, clock: QuickClock) -> AsyncIterator[SqliteLedger]:
    with tempfile.TemporaryDirectory(prefix="routerx-drill-") as folder:
        options = LedgerOptions(
            path=f"{folder}/ledger.db",
            synchronous="normal",
            verify_interval_s=NEVER_S,
            ballast_bytes=0,
            free_bytes_min=0,
        )
        ledger = await open_ledger(options, clock)
        try:
            await ledger.sync_tenants(snapshot.tenants.values())
            yield ledger
        finally:
            await ledger.close()


class _Studio:
    """Gateways for one scene each, over one ledger."""

    def __init__(self, snapshot: Snapshot, ledger: SqliteLedger, loop: QuickLoop, tenant: str) -> None:
        self._snapshot = snapshot
        self._ledger = ledger
        self._loop = loop
        self._clock = QuickClock(loop)
        self._metrics = Metrics()
        self._principal = Principal(snapshot.tenants[tenant], "drill")

    async def play(self, fault: Fault, model: str, *, streamed: bool) -> Scene:
        clock, records = self._clock, list[RequestRecord]()
        stage = Stage(fault, clock)
        routing = RoutingState(random.Random(1))  # noqa: S311 - the same drill gives the same result.
        routing.retain(self._snapshot)
        limiter = MemoryLimiter(self._snapshot.server.concurrency_max)
        limiter.configure(self._snapshot.tenants, limiter.concurrency_max)
        parts = GatewayParts(
            ledger=self._ledger,
            limiter=limiter,
            routing=routing,
            attempts=AttemptLoop(routing, stage, Translator(_no_fetch), clock),
            settler=Settler(self._ledger, clock),
            cache=ResponseCache(clock),
            metrics=self._metrics,
            log=records.append,
            clock=clock,
        )
        started_s = clock.monotonic_s()
        self._loop.busy = lambda: self._ledger.health().queue > 0
        try:
            seen = await _ask(Gateway(parts), self._inbound(model, streamed=streamed))
        finally:
            self._loop.busy = None
        return _scene(stage, records[-1], seen, clock.monotonic_s() - started_s)

    def _inbound(self, model: str, *, streamed: bool) -> Inbound:
        body = {"model": model, "messages": [{"role": "user", "content": "This is a drill."}], "stream": streamed}
        now_ns = self._clock.now_ns()
        return Inbound(
            request_id=new_request_id(now_ns),
            operation=Operation.CHAT,
            dialect=OPENAI,
            snapshot=self._snapshot,
            principal=self._principal,
            body=jsonx.encode(body),
            started_ns=now_ns,
            started_s=self._clock.monotonic_s(),
        )


async def _ask(gateway: Gateway, inbound: Inbound) -> _Seen:
    caller = _Caller()
    try:
        answer = await gateway.serve(inbound, caller)
    except RouterXError as error:
        return _Seen(error.status, "", done=False, code=error.code)
    return _read_answer(answer) if answer is not None else _read_stream(bytes(caller.body), ended=caller.ended)


def _read_answer(answer: Answer) -> _Seen:
    text = jsonx.decode(answer.body)["choices"][0]["message"]["content"]
    return _Seen(200, text, done=True)


def _read_stream(body: bytes, *, ended: bool) -> _Seen:
    events = list(_events(body))
    done = ended and bool(events) and events[-1] is None
    text, code = "", None
    for event in events:
        if event is None:
            continue
        if "error" in event:
            code = event["error"]["code"]
        text += "".join(choice["delta"].get("content") or "" for choice in event["choices"])
    return _Seen(200, text, done=done and code is None, code=code)


def _events(body: bytes) -> Iterator[Any]:
    """The events of a stream, None for its end mark."""
    for line in body.split(b"\n"):
        if line.startswith(b"data: "):
            yield None if line == b"data: [DONE]" else jsonx.decode(line.removeprefix(b"data: "))


def _scene(stage: Stage, record: RequestRecord, seen: _Seen, seconds: float) -> Scene:
    fault = stage.fault
    whole = seen.done and seen.text in stage.whole
    told = seen.code is not None and record.cost_nano == 0
    return Scene(
        model=record.model,
        fault=fault.name,
        says=fault.says,
        streamed=record.stream,
        good=whole or (told and not fault.survivable),
        whole=whole,
        saw=_in_words(seen, whole=whole),
        status=seen.status,
        code=seen.code,
        answered_by=record.endpoint if whole else None,
        provider=record.provider if whole else None,
        attempts=tuple(
            Call(attempt.endpoint, attempt.provider, attempt.outcome, attempt.upstream_status)
            for attempt in record.attempts
        ),
        seconds=round(seconds, 3),
        cost_usd=format_usd(record.cost_nano),
        cost_nano=record.cost_nano,
        flags=record.flags,
    )


def _in_words(seen: _Seen, *, whole: bool) -> str:
    if whole:
        return "whole answer"
    if seen.code is None:
        return "a wrong answer that looks whole" if seen.done else "an answer cut short without an error"
    if seen.status != 200:
        return f"{seen.status} {seen.code}"
    return f"{len(seen.text.split())} words, then {seen.code}" if seen.text else f"{seen.code} within the stream"


async def _no_fetch(url: str, kinds: frozenset[MediaKind], policy: EgressPolicy) -> Fetched:
    raise MediaUnavailable("Nothing is fetched in a drill.")


# --- the configuration, made safe


def _made_safe(snapshot: Snapshot, order: Order) -> Snapshot:
    """The same routing, and nothing that is real: no keys, and tenants with money whose limits refuse nothing."""
    tenant = snapshot.tenants[order.tenant]
    policy = order.policy if order.policy is not None else tenant.policy
    return msgspec.structs.replace(
        snapshot,
        providers={name: _played(provider) for name, provider in snapshot.providers.items()},
        tenants={order.tenant: _rich(msgspec.structs.replace(tenant, policy=policy))},
        keys={},
    )


def _played(provider: Provider) -> Provider:
    credentials = tuple(
        msgspec.structs.replace(credential, secret=Secret("drill") if credential.secret is not None else None)
        for credential in provider.credentials
    )
    if provider.byok_only:  # Whose tenants have a key for it is not known here.
        credentials = (Credential(f"{provider.name}-drill", Secret("drill")),)
    safe = msgspec.structs.replace(provider, credentials=credentials, byok_only=False, headers=(), proxy=None)
    # `mock` makes the gateway speak the one wire that the drill's providers know.
    return msgspec.structs.replace(safe, mock=MockSettings())


def _rich(tenant: Tenant) -> Tenant:
    plan = msgspec.structs.replace(tenant.plan, limits=Limits(), spend_limit=None)
    return msgspec.structs.replace(tenant, plan=plan, opening_balance_nano=BALANCE_NANO)
