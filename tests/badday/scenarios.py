"""Sixteen bad days of a provider, as its callers see them: one list for the suite, where time is scaled, and for
scripts/badday, where it is real. A primary provider, one fallback behind it, the default policy, the official client.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support.behaviours import Behaviour, End, Ok, Peer, Reset, Silence, Status, Stream, sse

WORDS = [f"w{n} " for n in range(60)]
TEXT = "".join(WORDS)
USAGE = (9, 60)
FALLBACK_USAGE = (11, 60)
RETRY_AFTER_S = 2.0
"""On the wire in whole seconds, so this one is the same on every scale."""
PAUSE_S = 0.05
"""So that what comes after it is read apart from what came before."""
DOWN_S = 60.0
BACK_WITHIN_S = 30.0


@dataclass(frozen=True)
class Late:
    """Nothing for a while, then `then`."""

    delay_s: float
    then: Behaviour

    async def play(self, peer: Peer) -> None:
        await asyncio.sleep(self.delay_s)
        await self.then.play(peer)


@dataclass(frozen=True)
class NoPrefill:
    """Refuses a conversation that ends with the assistant's words, and answers all others."""

    then: Behaviour

    async def play(self, peer: Peer) -> None:
        if peer.request.json["messages"][-1]["role"] == "assistant":
            await Status(400, code="invalid_request_error").play(peer)
        else:
            await self.then.play(peer)


WHOLE = Stream(WORDS, usage=FALLBACK_USAGE)


@dataclass(frozen=True)
class Want:
    """What has to come of it. Seconds are of the real scale."""

    text: str | None = TEXT
    code: str | None = None
    """Of an error, in place of a text."""
    calls: tuple[int, int] = (1, 1)
    """At the primary and at the fallback."""
    within_s: tuple[float, float] = (0.0, 5.0)
    outcomes: tuple[str, ...] = ()
    """Of the attempts, in order."""
    by_fallback: bool = True


@dataclass(frozen=True)
class Scenario:
    name: str
    primary: Callable[[float], Sequence[Behaviour]]
    """What the primary plays, one after the other, the last one for ever. Takes the scale of time."""
    want: Want
    fallback: Behaviour = field(default_factory=lambda: WHOLE)
    stream: bool = True
    alone: bool = False
    """Asks for the model that has no fallback."""
    idle_s: float | None = None


@dataclass(frozen=True)
class Malformed:
    """Half an answer, a pause, and an event that is none."""

    async def play(self, peer: Peer) -> None:
        await peer.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        for word in WORDS[:30]:
            await peer.chunk(sse(_chunk(word)), None)
        await asyncio.sleep(PAUSE_S)
        await peer.chunk(b"data: {oops\n\n", None)
        await asyncio.sleep(PAUSE_S)
        peer.end = End.FIN


def _chunk(word: str) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
    return {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


def _no_done() -> Behaviour:
    """All of it but the end mark, and the connection stays open."""
    return Stream(WORDS, usage=USAGE, stop_after=len(WORDS) + 3, end=End.STALL)


OK = ("ok",)
SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        "429 with Retry-After 2: the fallback answers at once",
        lambda _: [Status(429, headers={"retry-after": "2"}, code="rate_limit_exceeded"), Ok(TEXT, USAGE)],
        Want(outcomes=("upstream_429", "ok")),
    ),
    Scenario(
        "429 with Retry-After 2, nobody else: waited for and answered",
        lambda _: [Status(429, headers={"retry-after": "2"}, code="rate_limit_exceeded"), Stream(WORDS, usage=USAGE)],
        Want(calls=(2, 0), within_s=(RETRY_AFTER_S, 4.0), outcomes=("upstream_429", "ok"), by_fallback=False),
        alone=True,
    ),
    Scenario(
        "429 for ever",
        lambda _: [Status(429, headers={"retry-after": "30"}, code="rate_limit_exceeded")],
        Want(outcomes=("upstream_429", "ok")),
    ),
    Scenario(
        "500 once: the same endpoint again",
        lambda _: [Status(500), Stream(WORDS, usage=USAGE)],
        Want(calls=(2, 0), outcomes=("upstream_5xx", "ok"), by_fallback=False),
    ),
    Scenario(
        "503 for ever", lambda _: [Status(503)], Want(calls=(2, 1), outcomes=("upstream_5xx", "upstream_5xx", "ok"))
    ),
    Scenario(
        "reset before headers",
        lambda _: [Reset()],
        Want(calls=(2, 1), outcomes=("upstream_reset_before_output", "upstream_reset_before_output", "ok")),
    ),
    Scenario(
        "accepts and never answers",
        lambda _: [Silence()],
        Want(within_s=(12.0, 15.0), outcomes=("upstream_first_byte_timeout", "ok")),
    ),
    Scenario(
        "first token after 20 s",
        lambda scale: [Late(20.0 * scale, Stream(WORDS, usage=USAGE))],
        Want(within_s=(12.0, 15.0), outcomes=("upstream_first_byte_timeout", "ok")),
    ),
    Scenario(
        "cut after 40 of 60 tokens",
        lambda _: [Stream(WORDS, stop_after=41, end=End.RESET)],
        Want(outcomes=("upstream_reset_midstream", "ok")),
    ),
    Scenario(
        "stalled after 20 tokens",
        lambda _: [Stream(WORDS, stop_after=21, end=End.STALL)],
        Want(within_s=(30.0, 35.0), outcomes=("upstream_stalled", "ok")),
        idle_s=30.0,
    ),
    Scenario("one malformed event", lambda _: [Malformed()], Want(outcomes=("upstream_invalid_chunk", "ok"))),
    Scenario("no [DONE]", lambda _: [_no_done()], Want(calls=(1, 0), outcomes=OK, by_fallback=False)),
    Scenario(
        "context exceeded",
        lambda _: [Status(400, code="context_length_exceeded")],
        Want(None, "context_length_exceeded", (1, 0), outcomes=("upstream_context_exceeded",)),
    ),
    Scenario(
        "content rejected",
        lambda _: [Status(400, code="content_policy_violation")],
        Want(None, "content_rejected", (1, 0), outcomes=("upstream_content_rejected",)),
    ),
    Scenario(
        "cut, and the fallback takes no prefill",
        lambda _: [Stream(WORDS, stop_after=41)],
        Want(outcomes=("upstream_truncated", "ok")),
        fallback=NoPrefill(WHOLE),
    ),
    Scenario(
        "accounting after fallback",
        lambda _: [Status(503)],
        Want(calls=(2, 1), outcomes=("upstream_5xx", "upstream_5xx", "ok")),
        fallback=Ok(TEXT, FALLBACK_USAGE),
        stream=False,
    ),
)
"""The sixteenth, a primary that is down for a minute and comes back, is a time and not an answer: see outage.py."""
