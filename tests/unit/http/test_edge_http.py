"""Malformed HTTP: refused in our shape, the connection closed, and nothing behind it executed (FAULTS.md 69).

Each case is sent in one piece and with its body apart, with a canary request behind it.
"""

import asyncio
import json

import pytest

from routerx.http.edge import EdgeLimits
from tests.unit.http.edge_kit import GET, serving

CANARY = GET % b"canary"
POST = b"POST /a HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

REFUSED = {
    "content_length_and_chunked": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked_and_content_length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two_content_lengths": POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "two_equal_content_lengths": POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na",
    "content_length_list": POST + b"Content-Length: 1, 1\r\n\r\na",
    "content_length_plus": POST + b"Content-Length: +5\r\n\r\nabcde",
    "content_length_minus": POST + b"Content-Length: -1\r\n\r\n",
    "content_length_hex": POST + b"Content-Length: 0x5\r\n\r\nabcde",
    "content_length_underscore": POST + b"Content-Length: 5_0\r\n\r\nabcde",
    "content_length_empty": POST + b"Content-Length: \r\n\r\n",
    "content_length_overflow": POST + b"Content-Length: 99999999999999999999999\r\n\r\n",
    "bare_lf": b"GET /a HTTP/1.1\nHost: x\n\n",
    "bare_lf_in_header": b"GET /a HTTP/1.1\r\nHost: x\nA: b\r\n\r\n",
    "bare_cr": b"GET /a HTTP/1.1\r\nHost: x\rA: b\r\n\r\n",
    "obs_fold": b"GET /a HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
    "space_before_colon": b"GET /a HTTP/1.1\r\nHost : x\r\n\r\n",
    "nul_in_value": b"GET /a HTTP/1.1\r\nHost: x\r\nA: b\x00c\r\n\r\n",
    "control_in_value": b"GET /a HTTP/1.1\r\nHost: x\r\nA: b\x01c\r\n\r\n",
    "empty_name": b"GET /a HTTP/1.1\r\nHost: x\r\n: c\r\n\r\n",
    "identity_coding": POST + b"Transfer-Encoding: identity\r\n\r\n",
    "chunked_then_identity": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "gzip_then_chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "unknown_coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked_twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked_chunked": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked_in_http_1_0": b"POST /a HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two_hosts": b"GET /a HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "no_host": b"GET /a HTTP/1.1\r\n\r\n",
    "bad_host": b"GET /a HTTP/1.1\r\nHost: a b\r\n\r\n",
    "host_with_path": b"GET /a HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "two_authorizations": b"GET /a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n",
    "http_0_9": b"GET /a\r\n\r\n",
    "http_1_2": b"GET /a HTTP/1.2\r\nHost: x\r\n\r\n",
    "http_2": b"GET /a HTTP/2.0\r\nHost: x\r\n\r\n",
    "http_2_preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "lower_case_method": b"get /a HTTP/1.1\r\nHost: x\r\n\r\n",
    "space_in_target": b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
    "authority_form": b"GET evil:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    "connect": b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
    "tls_hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}

BAD_CHUNKS = {
    "not_hex": b"zz\r\nab\r\n0\r\n\r\n",
    "plus": b"+2\r\nab\r\n0\r\n\r\n",
    "prefix": b"0x2\r\nab\r\n0\r\n\r\n",
    "bare_lf": b"2\nab\r\n0\r\n\r\n",
    "data_too_long": b"2\r\nabc\r\n0\r\n\r\n",
    "space": b"2 \r\nab\r\n0\r\n\r\n",
    "overflow": b"FFFFFFFFFFFFFFFFF\r\nab\r\n0\r\n\r\n",
    "length_in_trailer": b"2\r\nab\r\n0\r\nContent-Length: 5\r\n\r\n",
}


@pytest.mark.parametrize("apart", [False, True], ids=["one_piece", "body_apart"])
@pytest.mark.parametrize("case", REFUSED)
async def test_a_malformed_request_gets_400_and_what_follows_is_not_executed(case: str, apart: bool):
    raw = REFUSED[case]
    cut = raw.find(b"\r\n\r\n") + 4 if apart and b"\r\n\r\n" in raw else len(raw)
    async with serving() as edge:
        wire = await edge.connect()
        await wire.send(raw[:cut])
        if apart:
            await asyncio.sleep(0.002)
        await wire.send(raw[cut:] + CANARY)
        status, headers, body = await wire.response()
        assert (status, wire.version) == (400, "HTTP/1.1")
        assert headers["content-type"] == "application/json"
        assert headers["x-should-retry"] == "false"
        assert headers["connection"] == "close"
        assert "server" not in headers
        error = json.loads(body)["error"]
        assert error["code"] in {"invalid_request", "ambiguous_credentials"}
        assert error["request_id"] == headers["x-request-id"]
        assert await wire.rest() == b""
        assert not edge.executed
        assert edge.closed == {"bad_http": 1}


@pytest.mark.parametrize("case", BAD_CHUNKS)
async def test_broken_chunks_behind_a_good_header_get_400_at_once_and_nothing_follows(case: str):
    async with serving() as edge:
        wire = await edge.connect()
        await wire.send(CHUNKED)
        await edge.until(lambda: edge.server.in_flight == 1)
        await wire.send(BAD_CHUNKS[case] + CANARY)
        status, headers, _ = await wire.response()
        assert (status, headers["connection"]) == (400, "close")
        assert await wire.rest() == b""
        assert edge.executed == {"/a": 1}
        assert edge.bodies == []
        assert edge.closed == {"bad_http": 1}


@pytest.mark.parametrize(
    "raw",
    [
        b"GET http://elsewhere/a HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: \r\n\r\n",
        b"\r\n\r\nGET /a HTTP/1.1\r\nHost: x\r\n\r\n",
        POST + b"Content-Length: 3\r\n\r\nabc",
        CHUNKED + b"3;name=value\r\nabc\r\n0\r\nX-Trailer: y\r\n\r\n",
        CHUNKED.replace(b"chunked", b"Chunked") + b"0\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
    ],
)
async def test_what_the_rfc_allows_is_served_and_the_next_request_too(raw: bytes):
    async with serving() as edge:
        wire = await edge.connect()
        await wire.send(raw + CANARY)
        assert (await wire.response())[0] == 200
        assert (await wire.response())[0] == 200
        assert edge.executed == {"/a": 1, "/canary": 1}
        assert not edge.closed


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
async def test_an_upgrade_is_ignored_with_its_body_read_and_the_connection_closed(protocol: bytes):
    async with serving() as edge:
        wire = await edge.connect()
        upgrade = b"Connection: Upgrade\r\nUpgrade: " + protocol + b"\r\nContent-Length: 5\r\n\r\nabcde"
        await wire.send(POST + upgrade + CANARY)
        status, headers, _ = await wire.response()
        assert (status, headers["connection"]) == (200, "close")
        assert await wire.rest() == b""
        assert edge.bodies == [b"abcde"]
        assert edge.executed == {"/a": 1}


async def test_an_http_1_0_client_gets_an_answer_and_a_closed_connection():
    async with serving() as edge:
        wire = await edge.connect()
        await wire.send(b"GET /a HTTP/1.0\r\n\r\n")
        status, headers, _ = await wire.response()
        assert (status, headers["connection"]) == (200, "close")
        assert await wire.rest() == b""


@pytest.mark.parametrize("quoted", [b"Authorization: Bearer sk-secret\x01", b"X-Key: sk-secret" + b"x" * 9000])
async def test_an_error_does_not_quote_the_header_it_refuses(quoted: bytes):
    async with serving() as edge:
        wire = await edge.connect()
        await wire.send(b"GET / HTTP/1.1\r\nHost: x\r\n" + quoted + b"\r\n\r\n")
        _, _, body = await wire.response()
        assert b"sk-secret" not in body


async def test_the_parsers_reason_is_told_where_it_quotes_nothing():
    async with serving() as edge:
        wire = await edge.connect()
        await wire.send(b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n")
        message = json.loads((await wire.response())[2])["error"]["message"]
        assert message == "This is not well-formed HTTP/1.1: Duplicate 'Host' header found."


# --- limits, at n and n+1 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "status"), [(299, 200), (300, 200), (301, 431)])
async def test_a_request_target_may_be_as_long_as_its_limit(size: int, status: int):
    await answers(b"GET /" + b"a" * (size - 1) + b" HTTP/1.1\r\nHost: x\r\n\r\n", status)


# aiohttp means to count the name with the value and does so for the first header only: hence one byte of play.
@pytest.mark.parametrize(("size", "status"), [(298, 200), (299, 200), (301, 431)])
async def test_a_header_may_be_as_long_as_its_limit(size: int, status: int):
    await answers(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * size + b"\r\n\r\n", status)


@pytest.mark.parametrize(("count", "status"), [(19, 200), (20, 200), (21, 400)])
async def test_there_may_be_as_many_headers_as_the_limit(count: int, status: int):
    headers = b"".join(b"X-%d: y\r\n" % number for number in range(count - 1))
    await answers(b"GET / HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n", status)


@pytest.mark.parametrize(("size", "status"), [(999, 200), (1000, 200), (1001, 431)])
async def test_the_header_as_a_whole_may_be_as_long_as_its_limit(size: int, status: int):
    await answers(whole_header(size), status)


@pytest.mark.parametrize(("size", "status"), [(1000, 200), (1001, 431)])
async def test_a_pipelined_header_has_the_same_limit(size: int, status: int):
    await answers(GET % b"first" + whole_header(size), status, before=1)


@pytest.mark.parametrize(("size", "status"), [(1000, 200), (1001, 431)])
async def test_a_header_that_comes_while_a_request_is_served_has_the_same_limit(size: int, status: int):
    await answers(POST + b"Content-Length: 3\r\n\r\n", status, before=1, behind=b"abc" + whole_header(size))


def whole_header(size: int) -> bytes:
    """A request whose target, names and values have `size` bytes together."""
    rest = size - len(b"/") - len(b"Host") - len(b"x") - 5 * len(b"X-0")
    each, left = divmod(rest, 5)
    headers = b"".join(b"X-%d: %s\r\n" % (n, b"a" * (each + (left if n == 0 else 0))) for n in range(5))
    return b"GET / HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n"


async def answers(raw: bytes, status: int, before: int = 0, behind: bytes = b"") -> None:
    """`before` good answers, then one with this status; `behind` is sent while the first request is at work."""
    limits = EdgeLimits(line_bytes_max=300, field_bytes_max=300, headers_max=20, header_bytes_max=1000)
    async with serving(limits) as edge:
        wire = await edge.connect()
        await wire.send(raw)
        if behind:
            await edge.until(lambda: edge.server.in_flight == 1)
            await wire.send(behind)
        for _ in range(before):
            assert (await wire.response())[0] == 200
        got, headers, body = await wire.response()
        assert got == status
        if status != 200:
            expected = "headers_too_large" if status == 431 else "invalid_request"
            assert json.loads(body)["error"]["code"] == expected
            assert headers["connection"] == "close"
            assert await wire.rest() == b""


async def test_a_header_without_end_is_cut_at_the_limit_however_it_arrives():
    async with serving(EdgeLimits(header_bytes_max=1000)) as edge:
        wire = await edge.connect()
        await wire.send(b"GET / HTTP/1.1\r\n")
        for number in range(21):
            await wire.send(b"X-%04d: %s\r\n" % (number, b"a" * 40))
            await asyncio.sleep(0.001)
            if edge.closed:
                break
        status, _, body = await wire.response()
        assert (status, json.loads(body)["error"]["code"]) == (431, "headers_too_large")
        assert edge.closed == {"headers_too_large": 1}
        assert not edge.executed
