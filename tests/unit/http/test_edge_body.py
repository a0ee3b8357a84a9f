"""Request bodies: limits at n-1, n and n+1, deadlines, and what is counted while they are held."""

import asyncio

import pytest
from aiohttp import web

from routerx.errors import Overloaded, RequestTimeout, RouterXError
from routerx.http.edge import EdgeLimits, read_body
from tests.unit.http.edge_kit import BODY_MAX, GET, Edge, Wire, serving

CANARY = GET % b"canary"


def declared(size: int) -> bytes:
    return b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size


CHUNKED = b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("apart", [False, True], ids=["one_piece", "body_apart"])
@pytest.mark.parametrize("size", [0, 1, BODY_MAX - 1, BODY_MAX])
@pytest.mark.parametrize("framing", ["declared", "chunked"])
async def test_a_body_up_to_the_limit_is_read_whole(framing: str, size: int, apart: bool):
    content = bytes(number % 251 for number in range(size))
    if framing == "declared":
        head, tail = declared(size), content
    else:
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in pieces(content))
        head, tail = CHUNKED, chunks + b"0\r\n\r\n"
    async with serving() as edge:
        wire = await edge.connect()
        await wire.send(head if apart else head + tail)
        if apart and tail:
            await edge.until(lambda: edge.server.in_flight == 1 or not content)
            for part in pieces(tail):
                await wire.send(part)
                await asyncio.sleep(0.001)
        assert (await wire.response())[0] == 200
        await wire.send(CANARY)
        assert (await wire.response())[0] == 200
        assert edge.bodies == [content, b""]
        assert edge.server.bodies_bytes == 0


@pytest.mark.parametrize("size", [BODY_MAX + 1, 10**15])
async def test_a_declared_body_over_the_limit_is_refused_before_it_is_sent(size: int):
    async with serving(EdgeLimits(lingering_s=0.05)) as edge:
        wire = await edge.connect()
        await wire.send(declared(size))
        status, headers, _ = await wire.response()
        assert (status, headers["connection"]) == (413, "close")
        await wire.send(CANARY)
        assert await wire.rest() == b""
        assert edge.executed == {"/a": 1}
        assert edge.bodies == []


@pytest.mark.parametrize("apart", [False, True], ids=["one_piece", "body_apart"])
async def test_a_chunked_body_is_refused_at_its_first_byte_over(apart: bool):
    async with serving() as edge:
        wire = await edge.connect()
        await wire.send(CHUNKED)
        if apart:
            await edge.until(lambda: edge.server.in_flight == 1)
            for part in pieces(b"x" * BODY_MAX):
                await wire.send(b"%x\r\n%s\r\n" % (len(part), part))
            await asyncio.sleep(0.01)
            assert edge.server.in_flight == 1
            await wire.send(b"1\r\nx\r\n")
        else:
            await wire.send(b"%x\r\n%s\r\n" % (BODY_MAX + 1, b"x" * (BODY_MAX + 1)))
        status, headers, _ = await wire.response()
        assert (status, headers["connection"]) == (413, "close")
        await wire.send(b"0\r\n\r\n" + CANARY)
        assert await wire.rest() == b""
        assert edge.executed == {"/a": 1}


async def test_a_complete_chunked_body_over_the_limit_is_refused_and_its_connection_kept():
    async with serving() as edge:
        wire = await edge.connect()
        await wire.send(CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (BODY_MAX + 1, b"x" * (BODY_MAX + 1)))
        assert (await wire.response())[0] == 413
        await wire.send(CANARY)
        assert (await wire.response())[0] == 200


async def test_a_client_that_pours_behind_a_413_still_reads_it():
    async with serving() as edge:
        wire = await edge.connect()
        await wire.send(declared(3_000_000))
        pour = asyncio.ensure_future(wire.send(b"x" * 2_000_000))
        assert (await wire.response())[0] == 413
        await pour


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "zstd", "gzip, identity", "\xff"])
async def test_a_coded_body_is_refused_unread(coding: str):
    async with serving() as edge:
        wire = await edge.connect()
        head = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Encoding: " + coding.encode("latin-1")
        await wire.send(head + b"\r\nContent-Length: 3\r\n\r\nabc")
        assert (await wire.response())[0] == 415
        assert edge.bodies == []


async def test_an_identity_body_is_read():
    async with serving() as edge:
        wire = await edge.connect()
        await wire.send(declared(3)[:-2] + b"Content-Encoding: Identity\r\n\r\nabc")
        assert (await wire.response())[0] == 200
        assert edge.bodies == [b"abc"]


async def test_a_client_that_expects_100_continue_gets_it_unless_its_body_is_refused():
    async with serving() as edge:
        wire = await edge.connect()
        await wire.send(declared(3)[:-2] + b"Expect: 100-continue\r\n\r\n")
        assert await wire.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await wire.send(b"abc")
        assert (await wire.response())[0] == 200
        await wire.send(declared(BODY_MAX + 1)[:-2] + b"Expect: 100-continue\r\n\r\n")
        assert (await wire.response())[0] == 413
        assert edge.bodies == [b"abc"]


# --- deadlines ---------------------------------------------------------------------------------------------------


async def test_a_body_that_stops_is_timed_out_and_the_connection_closed():
    async with serving(EdgeLimits(body_rate_min=0)) as edge:
        wire = await begin(edge, declared(10) + b"abc")
        await edge.clock.run(29)
        assert edge.server.in_flight == 1
        await edge.clock.run(2)
        await timed_out(edge, wire)


async def test_each_byte_prolongs_the_idle_deadline_but_not_the_total():
    async with serving(EdgeLimits(body_rate_min=0)) as edge:
        wire = await begin(edge, declared(10))
        for _ in range(5):
            await wire.send(b"x")
            await asyncio.sleep(0.002)
            await edge.clock.run(20)
        assert edge.server.in_flight == 1
        await wire.send(b"x")
        await asyncio.sleep(0.002)
        await edge.clock.run(21)
        await timed_out(edge, wire)


async def test_a_drip_below_the_minimum_rate_is_timed_out_after_its_grace():
    async with serving(EdgeLimits(body_rate_min=10, body_rate_grace_s=10)) as edge:
        slow, quick = await begin(edge, declared(900)), await begin(edge, declared(900), count=2)
        for _ in range(9):
            await slow.send(b"x" * 9)
            await quick.send(b"x" * 11)
            await asyncio.sleep(0.002)
            await edge.clock.run(1)
        assert edge.server.in_flight == 2
        await slow.send(b"x" * 9)
        await quick.send(b"x" * 20)
        await asyncio.sleep(0.002)
        await edge.clock.run(1.5)
        await edge.until(lambda: edge.server.in_flight == 1)
        await timed_out(edge, slow)
        await quick.send(b"x" * (900 - 9 * 11 - 20))
        assert (await quick.response())[0] == 200


async def test_a_body_in_many_pieces_is_not_timed_out():
    async with serving() as edge:
        wire = await begin(edge, declared(BODY_MAX))
        for part in pieces(b"x" * BODY_MAX):
            await wire.send(part)
        assert (await wire.response())[0] == 200
        await edge.clock.run(70)
        assert edge.server.connections == 1
        assert not edge.closed


async def test_bodies_together_stay_within_their_budget_and_it_is_given_back():
    refused: list[RouterXError] = []

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        try:
            await read_body(request, bytes_max=10_000, idle_s=30, total_s=120, clock=edge.clock)
        except Overloaded as error:
            refused.append(error)
            return web.Response(status=error.status)
        await release.wait()
        return web.Response()

    release = asyncio.Event()
    async with serving(EdgeLimits(bodies_bytes_max=1000), handler) as edge:
        first = await begin(edge, declared(600))
        await first.send(b"x" * 600)
        await edge.until(lambda: edge.server.bodies_bytes == 600)
        second = await begin(edge, declared(401), count=2)
        await second.send(b"x" * 401)
        assert (await second.response())[0] == 503
        assert refused
        await edge.until(lambda: edge.server.bodies_bytes == 600)
        third = await begin(edge, declared(400), count=2)
        await third.send(b"x" * 400)
        await edge.until(lambda: edge.server.bodies_bytes == 1000)
        release.set()
        assert (await first.response())[0] == 200
        assert (await third.response())[0] == 200
        assert edge.server.bodies_bytes == 0


async def test_a_client_that_leaves_in_its_body_cancels_the_reader_and_gives_back_the_budget():
    async with serving() as edge:
        wire = await begin(edge, declared(900))
        await wire.send(b"x" * 500)
        await edge.until(lambda: edge.server.bodies_bytes == 500)
        wire.writer.transport.abort()
        await edge.until(lambda: edge.server.in_flight == 0)
        assert edge.server.bodies_bytes == 0
        assert edge.bodies == []


async def test_slow_clients_do_not_disturb_a_good_one():
    async with serving() as edge:
        slow = [await begin(edge, declared(900), count=number + 1) for number in range(20)]
        drip = [await edge.connect() for _ in range(20)]
        for wire in drip:
            await wire.send(b"GET / HT")
        good = await edge.connect()
        for _ in range(5):
            await good.send(GET % b"good")
            assert (await good.response())[0] == 200
            await edge.clock.run(8)
        for wire in (*slow, *drip):
            await wire.rest()
        assert edge.closed == {"header_timeout": 20, "body_timeout": 20}
        await good.send(GET % b"good")
        assert (await good.response())[0] == 200


async def begin(edge: Edge, data: bytes, count: int = 1) -> Wire:
    wire = await edge.connect()
    await wire.send(data)
    await edge.until(lambda: edge.server.in_flight == count)
    return wire


async def timed_out(edge: Edge, wire: Wire) -> None:
    status, headers, _ = await wire.response()
    assert (status, headers["connection"]) == (RequestTimeout.status, "close")
    assert await wire.rest() == b""
    assert edge.closed == {"body_timeout": 1}
    assert edge.bodies == []


def pieces(data: bytes) -> list[bytes]:
    return [data[start : start + 97] for start in range(0, len(data), 97)]
