"""Rows 24 to 52 of the table of faults: what providers say."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from routerx.dialects import retry_after
from routerx.routing import credentials, decide
from tests.flow.faults.gear import hung_up
from tests.flow.faults.kit import (
    ELSEWHERE,
    HEARD,
    RETRIED,
    TELLING,
    Cells,
    Effect,
    Expect,
    Gear,
    Play,
    Ran,
    Row,
    Scene,
    always,
    broken,
    failing,
    only_buffered,
    only_streams,
)
from tests.flow.flow_kit import UP_COST, chunk, completion
from tests.support.gateway import UPSTREAM_KEY
from tests.support.upstream import DONE, End, Html, Json, Ok, Peer, Status, Stream, sse, usage_of

TODAY = "Sat, 21 Nov 2026 09:00:00 GMT"
"""A date is read against the date of the reply that names it."""
COOL_S = 0.05
"""The first rest of a key without Retry-After."""
ENDLESS_EVENT = b'data: {"filler":"' + b"x" * (1024 * 1024 + 1)
TROUBLE = {"message": "scripted trouble", "type": "server_error", "code": None}
BUSY = sse({"error": {"type": "overloaded_error", "message": "busy"}})
HEL, LO = sse(chunk("Hel")), sse(chunk("lo"))
STOP = sse(chunk(None, "stop"))
USAGE = sse({"id": "chatcmpl-x", "object": "chat.completion.chunk", "choices": [], "usage": usage_of(7, 3)})
WHOLE = (HEL, LO, STOP, USAGE, DONE)

HAS_NO_EVENTS = "a buffered answer has no events; as a whole it is row 17, 36 or 37"
IS_WHOLE = "a whole answer in place of a stream is what a buffered call asks for"
IS_STREAM = "a stream in place of a whole answer is what a streamed call asks for"
OTHER_KEY = (
    "the caller's own key is sent and no circuit is kept: test_steered.py plays it buffered, streamed, with a spare"
)
OPEN_CIRCUIT = "the circuit is open beforehand, which this runner does not do: test_fault_table.py has it apart"
COSTS_NOTHING = (
    "it is complete, paid and costs 0, which this runner does not tell apart: 47_zero_usage in test_odd_answers.py"
)


# --- what is expected of good answers ----------------------------------------------------------------------------


def good(**expect: Any) -> Expect:
    """Answered by `up`, and charged by what it reports."""
    return replace(Expect(charged=True, cost_nano=UP_COST, text="Hello"), **expect)


def everywhere(expect: Expect) -> Cells:
    """An answer that is good needs no fallback."""
    return Cells(expect, expect, expect, expect)


def frames(*parts: bytes, cut: int | None = None) -> Play:
    return always(Stream(frames=parts, cut=cut))


def after_hel(*parts: bytes) -> Play:
    """`Hel`, and when the caller has it, the rest; then silence: who waits for more waits in vain."""
    return lambda gate: endless(HEL, *parts, gate=gate)


def endless(*parts: bytes, gate: asyncio.Event | None = None) -> Stream:
    """These frames, and a connection that the provider does not close."""
    gates = {} if gate is None else {1: gate}
    return Stream(frames=(*parts, b""), stop_after=len(parts), end=End.STALL, gates=gates)


# --- gear and checks ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def short_rests(scene: Scene) -> AsyncIterator[None]:
    scene.patch.setattr(credentials, "COOL_MIN_S", COOL_S)
    scene.patch.setattr(retry_after, "RETRY_AFTER_MIN_S", COOL_S)
    scene.patch.setattr(decide, "RETRY_AFTER_SPREAD_S", 0.0)  # Chance alone would be long enough.
    yield


def windows(up: int, spare: int) -> Gear:
    """Declared context windows of the two endpoints."""

    @asynccontextmanager
    async def gear(scene: Scene) -> AsyncIterator[None]:
        for model in ("solo", "duo"):
            for endpoint, tokens in zip(scene.value["models"][model]["endpoints"], (up, spare), strict=False):
                endpoint["context"] = tokens
        yield

    return gear


async def is_estimated(ran: Ran) -> None:
    assert ran.row.usage_source.value == "estimated"
    assert ran.row.usage is not None
    assert ran.row.cost_nano <= ran.row.held_nano


async def has_rested(ran: Ran) -> None:
    """The key was left alone for as long as it rests, which is longer than the backoff."""
    for before, after in itertools.pairwise(request.at_s for request in ran.scene.up.requests):
        assert after - before >= COOL_S * 0.9


async def is_over(ran: Ran) -> None:
    """Nothing runs on that nobody reads, and the books know what the house may have to pay for."""
    await hung_up(ran)
    assert ran.row.usage is not None


async def is_the_same_uncut(ran: Ran) -> None:
    """Bytes to the caller do not depend on how those of the provider were cut."""
    cut = ran.scene.up.default
    assert isinstance(cut, Stream)
    ran.scene.up.default = replace(cut, cut=None)
    whole = await ran.gateway.chat("duo" if ran.scene.cell.duo else "solo", stream=True)
    await ran.gateway.settled()
    assert ran.reply.body == whole.body


async def is_not_told_of_usage(ran: Ran) -> None:
    """Who did not ask for usage does not get it, though the gateway did."""
    assert not ran.scene.cell.stream or b"usage" not in ran.reply.body


async def is_served_by_another(ran: Ran) -> None:
    assert ran.row.served_model == "another-model"


async def has_cached_tokens(ran: Ran) -> None:
    assert ran.row.usage is not None
    assert (ran.row.usage.in_fresh, ran.row.usage.in_cache_read, ran.row.usage.out_text) == (5, 2, 3)


async def passes_unknown_fields(ran: Ran) -> None:
    assert b"x_unknown" in ran.reply.body


@dataclass(frozen=True)
class Shaped:
    """What is asked for, a whole answer or a stream, with the same odd usage or fields."""

    body: Mapping[str, Any]
    stream: Sequence[bytes]

    async def play(self, peer: Peer) -> None:
        if peer.request.json.get("stream"):
            await Stream(frames=self.stream).play(peer)
        else:
            await Json(dict(self.body)).play(peer)


def with_usage(usage: Mapping[str, Any]) -> Play:
    report = sse({"id": "x", "object": "chat.completion.chunk", "choices": [], "usage": dict(usage)})
    return always(Shaped(completion(dict(usage)), (HEL, LO, STOP, report, DONE)))


# --- the rows ----------------------------------------------------------------------------------------------------


def limited(name: str, after: str | None) -> Row:
    """429 with a Retry-After that says nothing, or no more than the least."""
    headers = {} if after is None else {"retry-after": after}
    return Row(
        28 if after is None else 30,
        name,
        failing("upstream_429", 429, "upstream_rate_limited", up=ELSEWHERE, effect=Effect.COOLED, retry_after="1"),
        always(Status(429, headers=headers, code="rate_limit_exceeded")),
        gear=short_rests,
        check=has_rested,
    )


def resting(number: int, name: str, after: str, told: str) -> Row:
    """429 with a Retry-After that is longer than anybody waits."""
    return Row(
        number,
        name,
        failing("upstream_429", 429, "upstream_rate_limited", effect=Effect.COOLED, retry_after=told),
        always(Status(429, headers={"retry-after": after, "date": TODAY}, code="rate_limit_exceeded")),
    )


def midway(number: int, name: str, play: Play, outcome: str, code: str, effect: Effect = Effect.COUNTED) -> list[Row]:
    """A stream that fails after "Hel": beside a spare that goes on with that, and beside one that says otherwise."""
    rows = []
    for spare, rescued in (("Hello", True), ("Bonjour", False)):
        solo, duo = broken(outcome, code, rescued=rescued, effect=effect)
        cells = Cells(HAS_NO_EVENTS, HAS_NO_EVENTS, solo, duo)
        spares = always(Stream([spare[:3], spare[3:]]))
        rows.append(
            Row(
                number,
                f"{name}_{'same' if rescued else 'other'}",
                cells,
                play,
                spare=spares,
                until=TELLING,
                check=is_over,
            )
        )
    return rows


FAILED_5XX = failing("upstream_5xx", 502, "upstream_error", up=RETRIED)
IN_200 = failing("upstream_200_error", 502, "upstream_error", up=RETRIED)
CRLF = b"".join(WHOLE).replace(b"\n", b"\r\n")
POINTS = 'data: {"choices":[{"index":0,"delta":{"content":"hé✓🙂"}}]}\n\n'
LEAKING = {"error": {"message": f"The key {UPSTREAM_KEY} may not do that.", "type": "x", "code": None}}
ODD = b"\xef\xbb\xbf: a comment\n\nretry: 5\n\n" + b"".join(WHOLE)

ROWS: tuple[Row, ...] = (
    *(Row(24, f"status_{status}", FAILED_5XX, always(Status(status))) for status in (500, 502, 503, 504)),
    Row(
        25,
        "overloaded_529",
        failing("upstream_overloaded", 503, "upstream_overloaded", effect=Effect.HALF, retry_after="60"),
        always(Status(529, headers={"retry-after": "60"})),
    ),
    Row(
        25,
        "overloaded_by_code",
        failing("upstream_overloaded", 503, "upstream_overloaded", up=ELSEWHERE, effect=Effect.HALF),
        always(Status(503, {"error": {"type": "overloaded_error", "message": "busy"}})),
    ),
    Row(26, "all_open", Cells(*[OPEN_CIRCUIT] * 4)),
    resting(27, "retry_after", "60", "60"),
    limited("no_retry_after", None),
    Row(
        29,
        "spend_cap",
        failing("provider_exhausted", 503, "provider_account_exhausted", effect=Effect.QUARANTINED),
        always(Status(429, code="insufficient_quota")),
    ),
    limited("retry_after_negative", "-5"),
    limited("retry_after_nan", "nan"),
    resting(30, "retry_after_far", "Fri, 31 Dec 2099 23:59:59 GMT", "300"),
    resting(30, "retry_after_huge", "1000000000", "300"),
    *(
        Row(
            31,
            f"key_refused_{name}",
            failing("upstream_auth_failed", 502, "upstream_auth_failed", effect=Effect.QUARANTINED),
            always(reply),
        )
        for name, reply in (("401", Status(401)), ("403", Status(403)), ("by_name", Status(401, LEAKING)))
    ),
    Row(32, "own_key_refused", Cells(*[OTHER_KEY] * 4)),
    *(
        Row(
            33,
            f"rejected_{name}",
            failing("upstream_4xx", status, "upstream_rejected", falls_back=False, effect=Effect.NONE),
            always(Status(status, body)),
        )
        for name, status, body in (
            *((str(status), status, None) for status in (400, 404, 413, 422)),
            ("naming_the_key", 400, LEAKING),
        )
    ),
    Row(
        34,
        "context_and_unknown_windows",
        failing("upstream_context_exceeded", 400, "context_length_exceeded", falls_back=False, effect=Effect.NONE),
        always(Status(400, code="context_length_exceeded")),
    ),
    Row(
        34,
        "context_and_no_larger_window",
        failing("upstream_context_exceeded", 400, "context_length_exceeded", falls_back=False, effect=Effect.NONE),
        always(Status(400, code="context_length_exceeded")),
        gear=windows(100_000, 50_000),
    ),
    Row(
        34,
        "context_and_a_larger_window",
        failing("upstream_context_exceeded", 400, "context_length_exceeded", effect=Effect.NONE),
        always(Status(400, code="context_length_exceeded")),
        gear=windows(50_000, 100_000),
    ),
    Row(
        34,
        "credit_too_low",
        failing("provider_exhausted", 503, "provider_account_exhausted", effect=Effect.QUARANTINED),
        always(Status(402)),
    ),
    Row(
        34,
        "credit_too_low_as_400",
        failing("provider_exhausted", 503, "provider_account_exhausted", effect=Effect.QUARANTINED),
        always(Status(400, code="insufficient_credits")),
    ),
    *(Row(35, f"status_{status}", FAILED_5XX, always(Status(status))) for status in (408, 425)),
    Row(36, "error_in_a_body", IN_200, always(Json({"error": TROUBLE}))),
    Row(36, "error_as_first_event", only_streams(IN_200, HAS_NO_EVENTS), frames(sse({"error": TROUBLE}))),
    Row(
        36,
        "error_after_the_role",
        only_streams(IN_200, HAS_NO_EVENTS),
        frames(sse(chunk("")), sse({"error": TROUBLE})),
    ),
    Row(
        36,
        "error_as_first_event_cut_short",
        only_streams(IN_200, HAS_NO_EVENTS),
        frames(sse({"error": TROUBLE})[:-2]),
    ),
    Row(36, "error_as_first_event_for_json", only_buffered(IN_200, IS_STREAM), frames(sse({"error": TROUBLE}))),
    Row(
        36,
        "overloaded_in_a_body",
        failing("upstream_overloaded", 503, "upstream_overloaded", up=ELSEWHERE, effect=Effect.HALF),
        always(Json({"error": {"type": "overloaded_error", "message": "busy"}})),
    ),
    Row(
        36,
        "account_exhausted_in_a_body",
        failing("provider_exhausted", 503, "provider_account_exhausted", effect=Effect.QUARANTINED),
        always(Json({"error": {"code": "insufficient_quota", "message": "no more"}})),
    ),
    Row(
        36,
        "overloaded_as_first_event",
        only_streams(
            failing("upstream_overloaded", 503, "upstream_overloaded", up=ELSEWHERE, effect=Effect.HALF), HAS_NO_EVENTS
        ),
        frames(BUSY),
    ),
    Row(
        37,
        "html_called_json",
        failing("upstream_bad_content_type", 502, "upstream_bad_content_type"),
        always(replace(Html(), headers={"content-type": "application/json"})),
    ),
    Row(
        37,
        "html",
        failing("upstream_bad_content_type", 502, "upstream_bad_content_type"),
        always(Html()),
    ),
    Row(
        38,
        "json_for_a_stream",
        only_streams(everywhere(good(flags=frozenset({"coerced"}))), IS_WHOLE),
        always(Json(completion(usage_of(7, 3)))),
    ),
    Row(
        39,
        "a_stream_for_json",
        only_buffered(everywhere(good(flags=frozenset({"coerced"}))), IS_STREAM),
        frames(*WHOLE),
    ),
    Row(
        39,
        "a_cut_stream_for_json",
        only_buffered(failing("upstream_truncated", 502, "upstream_truncated", up=RETRIED), IS_STREAM),
        frames(HEL, LO),
    ),
    Row(40, "empty_body", failing("upstream_empty", 502, "upstream_empty_response", up=RETRIED), always(Json(b""))),
    Row(
        40,
        "no_choices",
        failing("upstream_empty", 502, "upstream_empty_response", up=RETRIED),
        always(Json({"id": "x", "object": "chat.completion", "choices": []})),
    ),
    Row(
        40,
        "stream_of_nothing",
        only_streams(failing("upstream_empty", 502, "upstream_empty_response", up=RETRIED), HAS_NO_EVENTS),
        frames(DONE),
    ),
    Row(
        41,
        "invalid_first_event",
        only_streams(failing("upstream_invalid_chunk", 502, "upstream_invalid_chunk", up=RETRIED), HAS_NO_EVENTS),
        frames(b"data: {oops\n\n"),
    ),
    *midway(41, "invalid_later", after_hel(b"data: {oops\n\n"), "upstream_invalid_chunk", "upstream_invalid_chunk"),
    *(
        Row(
            42,
            name,
            only_streams(everywhere(good(text=text)), HAS_NO_EVENTS),
            frames(*parts, cut=cut),
            check=is_the_same_uncut,
        )
        for name, text, parts, cut in (
            ("cut_at_every_byte", "Hello", WHOLE, 1),
            ("crlf", "Hello", (CRLF,), 3),
            ("bom_and_comments", "Hello", (ODD,), 5),
            ("cut_in_a_code_point", "hé✓🙂", (POINTS.encode(), STOP, USAGE, DONE), 1),
        )
    ),
    Row(
        43,
        "endless_event",
        only_streams(failing("upstream_event_too_large", 502, "upstream_event_too_large"), HAS_NO_EVENTS),
        frames(ENDLESS_EVENT),
    ),
    *midway(43, "endless_later", after_hel(ENDLESS_EVENT), "upstream_event_too_large", "upstream_event_too_large"),
    *midway(44, "error_event", after_hel(sse({"error": TROUBLE})), "upstream_error_midstream", "upstream_error"),
    *midway(
        44,
        "error_event_by_name",
        after_hel(b'event: error\ndata: {"message":"scripted trouble"}\n\n'),
        "upstream_error_midstream",
        "upstream_error",
    ),
    *midway(44, "overloaded_event", after_hel(BUSY), "upstream_overloaded", "upstream_overloaded", Effect.HALF),
    Row(
        45,
        "done_twice",
        only_streams(everywhere(good()), "a buffered answer has no end mark"),
        always(endless(*WHOLE, sse(chunk(" and more")), DONE)),
        check=hung_up,
    ),
    Row(46, "usage_unasked_for", everywhere(good(text=HEARD)), always(Ok()), check=is_not_told_of_usage),
    Row(46, "no_usage", everywhere(good(cost_nano=None, text=None)), always(Ok(usage=None)), check=is_estimated),
    Row(47, "zero_usage", Cells(*[COSTS_NOTHING] * 4)),
    *(
        Row(
            48,
            f"usage_{name}",
            everywhere(good(cost_nano=None, flags=frozenset({"anomaly"}))),
            with_usage({"prompt_tokens": 7, "completion_tokens": value, "total_tokens": 7}),
            check=is_estimated,
        )
        for name, value in (("negative", -3), ("text", "3"), ("enormous", 10**300), ("beyond_the_hold", 10**9))
    ),
    Row(
        49,
        "usage_in_every_event",
        only_streams(everywhere(good()), HAS_NO_EVENTS),
        frames(
            *(
                sse(chunk(text, finish, usage=usage_of(7, tokens)))
                for text, finish, tokens in (("Hel", None, 1), ("lo", None, 2), (None, "stop", 3))
            ),
            USAGE,
            DONE,
        ),
    ),
    Row(
        50,
        "cached_within_prompt",
        everywhere(good()),
        with_usage(usage_of(7, 3) | {"prompt_tokens_details": {"cached_tokens": 2}}),
        check=has_cached_tokens,
    ),
    Row(
        51,
        "another_model",
        everywhere(good()),
        always(
            Shaped(
                completion(usage_of(7, 3), model="another-model"),
                (sse(chunk("Hello") | {"model": "another-model"}), STOP, USAGE, DONE),
            )
        ),
        check=is_served_by_another,
    ),
    Row(
        52,
        "unknown_fields",
        everywhere(good()),
        always(
            Shaped(
                completion(usage_of(7, 3)) | {"x_unknown": {"a": [1]}, "id": None},
                (sse(chunk("Hello", x_unknown=1)), STOP, USAGE, DONE),
            )
        ),
        check=passes_unknown_fields,
    ),
)
