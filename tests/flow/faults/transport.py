"""Rows 1 to 23 of the table of faults: connecting, and what a connection does."""

from dataclasses import replace

from tests.flow.faults.gear import (
    HEAD,
    HEL,
    OTHER,
    SAME,
    SSE_HEAD,
    Later,
    SlowDrip,
    another_connection_served,
    asked_for_plain_bytes,
    black_hole,
    breaking,
    certified,
    commenting,
    comments_came_first,
    framed,
    host_alone_is_named,
    hung_up,
    mute_handshake,
    nobody_listens,
    of_a_vendor,
    pooled,
    resolving,
    security_is_told,
    small_limits,
)
from tests.flow.faults.kit import (
    BACKOFF_S,
    ELSEWHERE,
    OK,
    RETRIED,
    TELLING,
    Cells,
    Effect,
    Expect,
    Row,
    always,
    broken,
    failing,
    only_streams,
    sampled,
)
from tests.flow.flow_kit import UP_COST, chunk
from tests.support.upstream import (
    End,
    Endless,
    Gate,
    GzipBomb,
    Hangup,
    HugeHeader,
    IllegalChunking,
    Ok,
    Raw,
    Redirect,
    Reset,
    Silence,
    Status,
    Stream,
    Truncated,
    sse,
)

SHORT = "60ms"
"""A deadline that passes."""
AMPLE = "5s"

BEFORE_REQUEST = "as in the other two cells: it is over before a byte of the request is sent"
BY_HEAD = "as in the other two cells: the head is judged before it matters what was asked for"
NO_BODY_SO_FAR = "a buffered answer has no events, so it is row 11, 12 or 17"
TOLD_AT_ONCE = "a buffered answer is told as a whole"
ALONE = "as beside the spare that goes on: without one, nothing tells the two apart"
NO_END_MARK = "a buffered answer has no end mark"


# --- expectations ------------------------------------------------------------------------------------------------

REFUSED = failing("upstream_protocol_error", 502, "upstream_protocol_error")
TOO_LARGE = failing("upstream_response_too_large", 502, "upstream_response_too_large")
TLS_ERROR = failing("upstream_tls_error", 502, "upstream_tls_error", seen=0)
NO_NAME = failing("upstream_dns_error", 502, "upstream_dns_error", seen=0)
NO_CONNECTION = failing("upstream_connect_timeout", 504, "upstream_connect_timeout", seen=0)
NOTHING = failing("upstream_first_byte_timeout", 504, "upstream_timeout")
RESET = failing("upstream_reset_before_output", 502, "upstream_disconnected", up=RETRIED)
RESET_IN_BODY = failing("upstream_reset_midstream", 502, "upstream_disconnected", up=RETRIED)
CUT_SHORT = failing("upstream_truncated", 502, "upstream_truncated", up=RETRIED)
SILENT = failing("upstream_stalled", 504, "upstream_stalled")
MOVED = failing("upstream_redirect", 502, "upstream_redirect")
WAITED_FOR = failing("client_deadline", 504, "client_deadline_exceeded", falls_back=False, effect=Effect.NONE)
TOO_SLOW = failing("upstream_too_slow", 504, "upstream_too_slow", falls_back=False)
TOO_SLOW_IN_BAND = Expect(
    "upstream_too_slow", in_band="upstream_too_slow", fault="upstream_too_slow", effect=Effect.COUNTED
)
WHOLE = replace(OK, text="Hello")
UNFINISHED = replace(WHOLE, flags=frozenset({"missing_done"}))


def midstream(buffered: Cells, outcome: str, code: str) -> Cells:
    """A stream that breaks and is gone on with by `spare`, beside what is the like of it in a buffered answer."""
    duo = buffered.buffered_duo
    helped = replace(duo, text="Hello") if isinstance(duo, Expect) else duo
    return Cells(buffered.buffered_solo, helped, *broken(outcome, code, rescued=True))


def diverging(outcome: str, code: str) -> Cells:
    return Cells(TOLD_AT_ONCE, TOLD_AT_ONCE, ALONE, broken(outcome, code, rescued=False)[1])


CONNECTING = (
    Row(
        1,
        "refused",
        failing("upstream_connect_error", 502, "upstream_unreachable", up=ELSEWHERE, seen=0),
        gear=nobody_listens,
    ),
    Row(2, "black_hole", NO_CONNECTION, gear=black_hole, timeouts={"connect": SHORT}),
    Row(3, "no_such_name", NO_NAME, gear=resolving([])),
    Row(3, "slow_resolver", sampled(NO_NAME, BEFORE_REQUEST), gear=resolving(None), timeouts={"connect": SHORT}),
    Row(
        4,
        "private_address",
        failing("blocked_address", 502, "upstream_blocked_address", effect=Effect.NONE, seen=0),
        gear=of_a_vendor("10.0.0.7", "169.254.169.254"),
        check=security_is_told,
    ),
    Row(5, "self_signed", TLS_ERROR, gear=certified("good", trusted=False)),
    Row(5, "expired", sampled(TLS_ERROR, BEFORE_REQUEST), gear=certified("expired", trusted=True)),
    Row(5, "other_name", sampled(TLS_ERROR, BEFORE_REQUEST), gear=certified("other_name", trusted=True)),
    Row(6, "mute_handshake", NO_CONNECTION, gear=mute_handshake, timeouts={"connect": SHORT}),
)

WAITING = (
    Row(7, "silence", NOTHING, always(Silence()), timeouts={"first_token": SHORT}, check=hung_up),
    Row(
        7,
        "silence_after_headers",
        only_streams(NOTHING, NO_BODY_SO_FAR),
        always(Stream(stop_after=0, end=End.STALL)),
        timeouts={"first_token": SHORT, "idle": AMPLE},
        check=hung_up,
    ),
    Row(
        8,
        "deadline_of_the_caller",
        WAITED_FOR,
        always(Silence()),
        headers={"X-RouterX-Timeout": SHORT},
        check=hung_up,
    ),
    Row(
        8,
        "deadline_of_the_caller_in_a_stream",
        Cells(
            TOLD_AT_ONCE,
            TOLD_AT_ONCE,
            *[Expect("client_deadline", in_band="client_deadline_exceeded", fault="client_deadline", charged=True)] * 2,
        ),
        breaking(End.STALL, ()),
        until=TELLING,
        headers={"X-RouterX-Timeout": "150ms"},
        check=hung_up,
    ),
    Row(
        9,
        "slow_first_byte",
        Cells(OK, OK, OK, OK),
        lambda gate: Ok(gate=gate),
        gear=commenting,
        until=b": keep-alive",
        check=comments_came_first,
    ),
    Row(
        9,
        "failure_after_comments",
        Cells(
            "comments are for streams",
            "comments are for streams",
            Expect(
                "upstream_5xx",
                in_band="upstream_error",
                up=3,
                fault="upstream_5xx",
                effect=Effect.COUNTED,
                wait_s=BACKOFF_S,
            ),
            Expect(
                up=2,
                spare=1,
                fault="upstream_5xx",
                effect=Effect.COUNTED,
                wait_s=BACKOFF_S,
                charged=True,
                cost_nano=10 * UP_COST,
            ),
        ),
        lambda gate: Later(gate, Status(500)),
        gear=commenting,
        until=b": keep-alive",
        check=comments_came_first,
    ),
    Row(
        10,
        "drip",
        Cells(TOO_SLOW.buffered_solo, TOO_SLOW.buffered_duo, TOO_SLOW_IN_BAND, TOO_SLOW_IN_BAND),
        always(SlowDrip()),
        timeouts={"total": "120ms", "idle": SHORT},
        check=hung_up,
    ),
)

BREAKING = (
    Row(
        11,
        "stall",
        midstream(SILENT, "upstream_stalled", "upstream_stalled"),
        always(Truncated(end=End.STALL)),
        streamed=breaking(End.STALL, ()),
        spare=SAME,
        until=TELLING,
        timeouts={"idle": SHORT},
        check=hung_up,
    ),
    Row(
        11,
        "stall_diverging",
        diverging("upstream_stalled", "upstream_stalled"),
        breaking(End.STALL, ()),
        spare=OTHER,
        until=TELLING,
        timeouts={"idle": SHORT},
        check=hung_up,
    ),
    Row(
        12,
        "reset",
        midstream(RESET_IN_BODY, "upstream_reset_midstream", "upstream_disconnected"),
        always(Truncated(end=End.RESET)),
        streamed=breaking(End.RESET),
        spare=SAME,
        until=TELLING,
    ),
    Row(
        12,
        "reset_diverging",
        diverging("upstream_reset_midstream", "upstream_disconnected"),
        breaking(End.RESET),
        spare=OTHER,
        until=TELLING,
    ),
    Row(13, "reset", RESET, always(Reset())),
    Row(13, "hangup", sampled(RESET, BY_HEAD), always(Hangup())),
    Row(13, "reset_after_headers", sampled(RESET, BY_HEAD), always(Truncated(b"", end=End.RESET))),
    Row(
        13,
        "reset_before_first_event",
        only_streams(RESET, NO_BODY_SO_FAR),
        always(Stream(stop_after=0, end=End.RESET)),
    ),
    Row(
        14,
        "pooled_connection_closed",
        Cells(*[replace(OK, seen=2)] * 4),
        before=pooled,
        check=another_connection_served,
    ),
    Row(
        15,
        "ended_without_mark",
        Cells(NO_END_MARK, NO_END_MARK, UNFINISHED, UNFINISHED),
        always(Stream(done=False, chunked=False)),
    ),
    Row(
        15,
        "cut_after_finish",
        Cells(NO_END_MARK, NO_END_MARK, *[replace(UNFINISHED, cost_nano=None)] * 2),
        always(Stream(stop_after=4)),
    ),
    Row(
        16,
        "cut",
        midstream(Cells(*[NO_BODY_SO_FAR] * 4), "upstream_truncated", "upstream_truncated"),
        breaking(End.FIN),
        spare=SAME,
        until=TELLING,
    ),
    Row(
        16,
        "cut_diverging",
        diverging("upstream_truncated", "upstream_truncated"),
        breaking(End.FIN),
        spare=OTHER,
        until=TELLING,
    ),
    Row(
        16,
        "ended_unfinished",
        midstream(Cells(*[NO_BODY_SO_FAR] * 4), "upstream_truncated", "upstream_truncated"),
        lambda gate: Stream(frames=[HEL, sse(chunk("l"))], gates={1: gate}),
        spare=SAME,
        until=TELLING,
    ),
    Row(
        16,
        "ended_unfinished_with_its_connection",
        midstream(Cells(*[NO_BODY_SO_FAR] * 4), "upstream_truncated", "upstream_truncated"),
        lambda gate: Stream(frames=[HEL, b": going\n\n"], gates={1: gate}, chunked=False),
        spare=SAME,
        until=TELLING,
    ),
    Row(16, "cut_before_content", only_streams(CUT_SHORT, NO_BODY_SO_FAR), always(Stream(stop_after=1))),
    Row(17, "shorter_than_declared", CUT_SHORT, always(Truncated())),
)

NO_HTTP = (
    Row(18, "illegal_chunking", REFUSED, always(IllegalChunking()), check=hung_up),
    Row(
        18,
        "illegal_chunking_midstream",
        midstream(Cells(*[TOLD_AT_ONCE] * 4), "upstream_protocol_error", "upstream_protocol_error"),
        lambda gate: Raw([SSE_HEAD + framed(HEL), Gate(gate), b"zz\r\nno chunk\r\n"], End.STALL),
        spare=SAME,
        until=TELLING,
        check=hung_up,
    ),
    Row(
        18,
        "length_and_chunks",
        sampled(REFUSED, BY_HEAD),
        always(Raw([HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"], End.STALL)),
        check=hung_up,
    ),
    Row(
        19,
        "flood_of_interim_replies",
        REFUSED,
        always(Raw([b"HTTP/1.1 103 Early Hints\r\n\r\n" * 10_000], End.STALL)),
        gear=small_limits,
        check=hung_up,
    ),
    *(
        Row(19, name, sampled(REFUSED, BY_HEAD), always(behaviour), check=hung_up)
        for name, behaviour in (
            ("header_of_a_megabyte", HugeHeader()),
            ("reason_of_20_kb", Raw([b"HTTP/1.1 200 " + b"X" * 20_000 + b"\r\ncontent-length: 0\r\n\r\n"], End.STALL)),
            ("ten_thousand_headers", Raw([HEAD + b"x-filler: a\r\n" * 10_000 + b"\r\n"], End.STALL)),
        )
    ),
    Row(20, "endless_body", TOO_LARGE, always(Endless()), gear=small_limits, check=hung_up),
    Row(
        20,
        "declared_gigabyte",
        sampled(TOO_LARGE, BY_HEAD),
        always(Truncated(b"{", 2**30, End.STALL)),
        check=hung_up,
    ),
    Row(
        21,
        "compressed_bomb",
        TOO_LARGE,
        always(GzipBomb(1024 * 1024)),
        gear=small_limits,
        check=asked_for_plain_bytes,
    ),
    Row(
        21,
        "compressed_otherwise",
        sampled(REFUSED, BY_HEAD),
        always(Raw([HEAD + b"content-encoding: br\r\ncontent-length: 5\r\n\r\nabcde"], End.STALL)),
        check=asked_for_plain_bytes,
    ),
    *(
        Row(
            22,
            f"status_{status}",
            MOVED if status == 302 else sampled(MOVED, BY_HEAD),
            always(Redirect("https://elsewhere.test/login?token=hush", status)),
            check=host_alone_is_named,
        )
        for status in (301, 302, 307, 308)
    ),
    Row(
        23,
        "switching_protocols",
        REFUSED,
        always(
            Raw([b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nxx"], End.STALL)
        ),
        check=hung_up,
    ),
    Row(23, "no_status_line", REFUSED, always(Raw([b"<html>hello</html>"], End.STALL)), check=hung_up),
)

ROWS: tuple[Row, ...] = (*CONNECTING, *WAITING, *BREAKING, *NO_HTTP)
