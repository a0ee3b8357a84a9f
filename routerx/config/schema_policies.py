"""The shape of `policies:`."""

from typing import Annotated

from pydantic import Field

from routerx.config.blocks import Block, OverridesBlock
from routerx.config.scalars import Backoff, Count, Deadline, Flag, Integer, PercentBp, Ratio, Size, Text
from routerx.domain.policy import CommitMode, Sort, Translation


class RetryBlock(Block):
    """Repeating a call that failed for a passing reason."""

    max: Annotated[Integer, Field(description="Repeats at one endpoint, 0 to 10.")] = 2
    backoff: Annotated[Backoff, Field(description="Shortest and longest wait before a repeat.")] = (0.3, 5.0)
    attempts: Annotated[Integer, Field(description="Attempts of one request in all, 1 to 10.")] = 3


class BreakerBlock(Block):
    """When an endpoint is left alone for a while."""

    window: Annotated[Deadline, Field(description="The span over which errors are counted.")] = 60.0
    error_rate: Annotated[PercentBp, Field(description="Opens at this share of failures …")] = 5_000
    min_requests: Annotated[Count, Field(description="… of at least so many requests …")] = 10
    consecutive: Annotated[Count, Field(description="… or at so many failures in a row.")] = 5
    cooldown: Annotated[Deadline, Field(description="Until a probe, times the number of openings in a row.")] = 30.0
    cooldown_max: Annotated[Deadline, Field(description="The longest cooldown.")] = 300.0


class FenceBlock(Block):
    """What a fallback may cost."""

    max_cost_ratio: Annotated[Ratio | None, Field(description="Most a fallback may cost, as a multiple.")] = None
    never_paid: Annotated[Flag, Field(description="A free model never falls back to a paid one.")] = False


class StreamBlock(Block):
    """When a stream begins to flow, and what becomes of one that breaks."""

    commit: Annotated[
        CommitMode,
        Field(description="What has to be here first: first_token, probe (a first stretch) or full (all of it)."),
    ] = CommitMode.FIRST_TOKEN
    probe: Annotated[Deadline, Field(description="probe: how long after the first content …")] = 1.0
    probe_size: Annotated[Size, Field(description="… or how much of the stream.")] = 2_048
    rescue: Annotated[
        Flag, Field(description="Whether the next endpoint goes on with a stream that broke, where that can be proved.")
    ] = True


class PolicyEntry(Block):
    """How candidates are ordered, repeated and replaced."""

    sort: Annotated[Sort, Field(description="Order of candidates of equal priority.")] = Sort.LATENCY
    on_failure: Annotated[list[Text], Field(description="Models tried after the endpoints of the asked one.")] = []
    retry: Annotated[RetryBlock, Field(description="Repeats.")] = RetryBlock()
    breaker: Annotated[BreakerBlock, Field(description="The circuit breaker.")] = BreakerBlock()
    fence: Annotated[FenceBlock, Field(description="Limits to what a fallback costs.")] = FenceBlock()
    translation: Annotated[
        Translation,
        Field(description="What a provider's format cannot express: report (left out, named) or strict (400)."),
    ] = Translation.REPORT
    timeouts: Annotated[OverridesBlock, Field(description="Deadlines, before those of models and providers.")] = (
        OverridesBlock()
    )
    stream: Annotated[StreamBlock, Field(description="Streams.")] = StreamBlock()
    by_capability: Annotated[
        dict[str, list[Text]],
        Field(description="Models by what a request needs: text, or a capability. Asked for by the policy's name."),
    ] = {}
    resend_rejected: Annotated[
        Flag, Field(description="Whether what one provider rejects for its content is sent to the next.")
    ] = False
    hedge: Annotated[
        Deadline | None, Field(description="A stream silent for so long is asked of the next endpoint as well.")
    ] = None
    affinity: Annotated[
        Deadline | None,
        Field(description="How long a conversation stays with the endpoint that answered it, for its cache."),
    ] = None
