"""The values of one request on its road. RequestContext is the only mutable one (stats, cells and leases aside)."""

from collections.abc import Mapping
from typing import Protocol

import msgspec

from routerx.config.snapshot import Snapshot
from routerx.dialects.base import CallerDialect, Reply, StreamTap
from routerx.dialects.multipart import Form
from routerx.domain.call import Candidate, Operation, Peek, Plan
from routerx.domain.chat import ChatRequest
from routerx.domain.pricing import PriceSnapshot
from routerx.domain.record import AttemptRecord, BillingMode, Outcome
from routerx.domain.tenant import Principal
from routerx.domain.wishes import NO_STEERING, Steering
from routerx.errors import RouterXError
from routerx.gateway.growth import Growth
from routerx.gateway.rescue import Transcript
from routerx.jsonx import Raw
from routerx.ledger.base import Hold, Receipt
from routerx.limits.base import Lease
from routerx.providers.spec import Credential
from routerx.upstream.base import UpstreamReply


class Inbound(msgspec.Struct, frozen=True):
    """What the rim hands over: one request, its body read, nothing decided."""

    request_id: str
    operation: Operation
    dialect: CallerDialect
    snapshot: Snapshot
    """The configuration this request is served by, from its first to its last step."""
    principal: Principal
    body: bytes
    started_ns: int
    started_s: float
    content_type: str = ""
    """What the caller calls the body. Only forms are told by it: everything else is read as JSON."""
    user: str | None = None
    app: str | None = None
    headers: Mapping[str, str] = {}
    """Those that a provider may want to see, by their names in lower case."""
    path_fields: Mapping[str, Raw] = {}
    """What the path said that other dialects say in the body."""
    steering: Steering = NO_STEERING
    """What RouterX's own headers say of the routing."""


class Answer(msgspec.Struct, frozen=True):
    """A buffered response, ready to send."""

    body: bytes
    content_type: str
    headers: tuple[tuple[str, str], ...]


class ClientStream(Protocol):
    """The caller's end of a stream. Every method may raise ConnectionError when the caller has gone."""

    async def start(self, headers: tuple[tuple[str, str], ...]) -> None:
        """Send status 200 and the headers."""
        ...

    async def write(self, data: bytes) -> None:
        """Send bytes; waits while the caller's socket is full."""
        ...

    async def finish(self, data: bytes) -> None:
        """Send the last bytes and end the response properly."""
        ...


class Waiting(Protocol):
    """Comments to a caller who waits (gateway/keepalive.py)."""

    started: bool
    """The response has begun: its status is 200, and what fails from here on is told within it."""

    def begin(self) -> None: ...

    async def end(self) -> None:
        """Returns when the last comment is written."""
        ...


class Committed(msgspec.Struct, frozen=True):
    """An attempt that answered. The loop is over: a retry after it cannot be written down."""

    candidate: Candidate
    credential: Credential
    reply: UpstreamReply
    started_s: float
    """Monotonic time when this attempt began."""


class BufferedCommit(Committed, frozen=True):
    """A whole body, judged."""

    body: bytes
    content_type: str
    result: Reply


class StreamCommit(Committed, frozen=True):
    """A stream whose first content has been seen."""

    tap: StreamTap
    head: bytes
    """Frames up to and with the first content; nothing of them has been sent."""
    given_chars: int = 0
    """UTF-8 bytes of the answer that another endpoint had made and this one was given to go on with."""


class RequestContext:
    """What is known of a request so far. settle() reads it on every exit path."""

    __slots__ = (
        "attempts",
        "billing",
        "candidate",
        "committed",
        "conversation",
        "cut_by",
        "delivered",
        "draining",
        "dropped",
        "fields",
        "first_s",
        "flags",
        "form",
        "growth",
        "hold",
        "http_status",
        "inbound",
        "lease",
        "outcome",
        "peek",
        "plan",
        "principal",
        "receipt",
        "request",
        "settled",
        "snapshot",
        "terms",
        "told",
        "transcript",
        "upstream_s",
        "waiting",
        "writing",
    )

    def __init__(self, inbound: Inbound) -> None:
        self.inbound = inbound
        self.snapshot = inbound.snapshot
        self.fields: Mapping[str, Raw] = {}
        self.form: Form | None = None
        """Where the body is one; `fields` are then its fields."""
        self.principal = inbound.principal
        self.request: ChatRequest | None = None
        """In canonical form, once somebody needed it."""
        self.dropped: tuple[str, ...] = ()
        """What the wire of the endpoint that answers, or the caller's, could not take."""
        self.peek: Peek | None = None
        self.plan: Plan | None = None
        self.lease: Lease | None = None
        self.hold: Hold | None = None
        self.growth: Growth | None = None
        """Of a stream whose hold has to grow with it."""
        self.draining = False
        """Its caller has gone, and it is read to its end."""
        self.attempts: list[AttemptRecord] = []
        self.candidate: Candidate | None = None
        """The endpoint being asked; None until the first call is on its way."""
        self.upstream_s = 0.0
        """Time spent waiting for providers before the first content."""
        self.first_s: float | None = None
        """Monotonic time of the first content."""
        self.committed: BufferedCommit | StreamCommit | None = None
        self.terms: PriceSnapshot | None = None
        self.billing = BillingMode.VOID
        self.delivered = False
        """Content has been handed to the caller's socket."""
        self.writing = False
        """The caller's socket is being waited for."""
        self.told = False
        """Routing knows how the committed attempt ended."""
        self.cut_by: RouterXError | None = None
        """Why the gateway ended this request before its end."""
        self.outcome: str = Outcome.INTERNAL
        self.http_status = 500
        self.flags: list[str] = []
        self.conversation: bytes | None = None
        """Which one it is, where it stays with its endpoint."""
        self.waiting: Waiting | None = None
        """What keeps a caller of a stream patient."""
        self.transcript: Transcript | None = None
        """What has been delivered, where a broken stream may be rescued."""
        self.settled = False
        self.receipt: Receipt | None = None
