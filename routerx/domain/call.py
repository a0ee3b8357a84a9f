"""A call on its way: what was asked (Peek), where it may go (Plan), what is sent (UpstreamCall)."""

from enum import StrEnum

import msgspec
from multidict import MultiMapping

from routerx.domain.failure import Failure
from routerx.domain.model import Capability, Endpoint
from routerx.domain.policy import Policy, Timeouts
from routerx.domain.pricing import PriceSnapshot
from routerx.domain.record import BillingMode
from routerx.domain.usage import Usage
from routerx.money import ceil_div


class Operation(StrEnum):
    """What the caller wants done; one inbound route each."""

    CHAT = "chat"
    COUNT_TOKENS = "count_tokens"
    """Of a chat that is not to be answered. Costs nothing."""
    EMBEDDINGS = "embeddings"
    COMPLETIONS = "completions"
    IMAGES = "images"
    SPEECH = "speech"
    TRANSCRIPTIONS = "transcriptions"
    MODERATIONS = "moderations"
    RERANK = "rerank"

    __hash__ = str.__hash__  # Enum's is written in Python, and every request asks tables by its operation.


class Metered(msgspec.Struct, frozen=True):
    """What a request for something other than text is going to use, before anybody has counted it."""

    most: Usage
    """To be held for. No bucket is below that of `likely`."""
    likely: Usage
    """To be charged where the provider reports nothing."""

    def made(self, count: int | None) -> Usage:
        """`likely`, where `count` of the things that were asked for were made; None: all of them."""
        asked = self.likely.requests
        if count is None or count >= asked:
            return self.likely
        return msgspec.structs.replace(
            self.likely, requests=count, out_image=ceil_div(self.likely.out_image * count, asked)
        )


OUTPUT_TOKENS_LIKELY = 500
"""Of an answer that nobody has seen yet."""


class Peek(msgspec.Struct, frozen=True):
    """What the gateway needs to know of a request body; everything else passes through unread."""

    operation: Operation
    model: str
    stream: bool = False
    wants_usage: bool = False
    """The caller itself asked for a usage frame in the stream."""
    choices: int = 1
    """`n`."""
    output_tokens_max: int | None = None
    """The caller's own ceiling on output tokens per choice."""
    needs: frozenset[Capability] = frozenset()
    input_tokens_estimate: int = 0
    """Upper estimate of the prompt in tokens, for holds and context checks."""
    user: str | None = None
    service_tier: str | None = None
    """The one asked for, as pricing.tier_name() gives it."""
    metered: Metered | None = None
    """Of operations that are not metered by text in and text out; the estimate of the prompt then says nothing."""

    @property
    def input_tokens_likely(self) -> int:
        """What to charge for a prompt that nobody counted: the upper estimate is about twice what ordinary text has."""
        return self.input_tokens_estimate // 2

    @property
    def tokens_likely(self) -> int:
        """Input and output together, as far as anybody can say beforehand: to be reserved where tokens are limited."""
        if self.metered is not None:
            return self.metered.likely.total_tokens
        output = (
            OUTPUT_TOKENS_LIKELY
            if self.output_tokens_max is None
            else min(self.output_tokens_max, OUTPUT_TOKENS_LIKELY)
        )
        return self.input_tokens_likely + output * self.choices

    @property
    def asked_likely(self) -> Usage:
        """What a provider may bill for that began to work and never answered."""
        if self.metered is not None:
            return self.metered.likely
        return Usage(in_fresh=self.input_tokens_likely, requests=0)


class Candidate(msgspec.Struct, frozen=True):
    """One endpoint of a plan. `is_fallback_model`: it serves another model than the one asked for."""

    endpoint: Endpoint
    is_fallback_model: bool = False
    timeouts: Timeouts = Timeouts()
    """Of calls to it: the policy's, else the endpoint's, else the provider's."""
    own_key: bool = False
    """It is asked with the tenant's own credential; else with the house's."""
    billing: BillingMode = BillingMode.FREE
    terms: PriceSnapshot | None = None
    """How its answer is billed, and on which terms; None where it has no price."""


class Exclusion(msgspec.Struct, frozen=True):
    """Why an endpoint is not in the plan."""

    endpoint: str
    rule: str


class Plan(msgspec.Struct, frozen=True):
    """Candidates in order, best first; never empty."""

    model: str
    """The catalogue name that was resolved."""
    policy: Policy
    candidates: tuple[Candidate, ...]
    excluded: tuple[Exclusion, ...] = ()
    free: bool = False
    """`:free` was asked for and is allowed."""
    any_error: bool = False
    """The caller named further models itself: every failure, also a rejection, goes on to the next candidate."""
    ordered: bool = False
    """The caller said in which order; nothing else may change it."""


class Progress:
    """How far a call has come; the one thing of it that changes."""

    __slots__ = ("sent",)

    def __init__(self) -> None:
        self.sent = False
        """Bytes of it may have left: from here on the provider may work, and bill. Set by the transport."""


class UpstreamCall(msgspec.Struct, frozen=True):
    """One HTTP call, ready to send. Its repr shows neither headers (the credential) nor body (the prompt)."""

    endpoint: str
    """Endpoint key, for pools, logs and errors."""
    provider: str
    method: str
    url: str
    headers: MultiMapping[str]
    """Case-insensitive. A read-only CIMultiDictProxy may be shared by many calls, and is encoded only once."""
    body: bytes
    stream: bool
    timeouts: Timeouts
    first_byte_s: float
    """Seconds until response headers must be here, from the start of sending."""
    proxy: str | None = None
    progress: Progress = msgspec.field(default_factory=Progress)

    def __repr__(self) -> str:
        return f"UpstreamCall({self.method} {self.url} for {self.endpoint}, {len(self.body)} bytes)"


class Retry(msgspec.Struct, frozen=True):
    """Ask the same endpoint again after `delay_s`."""

    delay_s: float


class Advance(msgspec.Struct, frozen=True):
    """Go on to the next candidate at once."""


class Stop(msgspec.Struct, frozen=True):
    """Give up; `failure` decides what the caller gets."""

    failure: Failure


Verdict = Retry | Advance | Stop
