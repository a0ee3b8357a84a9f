"""Deadlines, caps and draining of the edge, over real sockets and under a clock moved by hand."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest
import uvloop
from aiohttp import web

from routerx.errors import OperatorError
from routerx.http import edge_limits
from routerx.http.edge import EdgeLimits, EdgeServer
from routerx.http.edge_limits import host_of, require_guards
from tests.support.clock import ManualClock
from tests.unit.http.edge_kit import GET, Edge, Wire, serving


async def test_a_request_is_answered_without_a_server_header_and_the_connection_is_kept():
    async with serving() as edge:
        wire = await edge.connect()
        for path in (b"one", b"two"):
            await wire.send(GET % path)
            status, headers, body = await wire.response()
            assert (status, json.loads(body)["path"]) == (200, "/" + path.decode())
            assert "server" not in headers
            assert "connection" not in headers
        assert edge.server.connections == 1
        assert edge.server.in_flight == 0


async def test_a_silent_connection_is_closed_without_a_reply_at_the_header_deadline():
    async with serving() as edge:
        wire = await edge.connect()
        await edge.accepted()
        await edge.clock.run(9)
        assert edge.server.connections == 1
        await edge.clock.run(2)
        assert await wire.rest() == b""
        assert edge.closed == {"header_timeout": 1}


async def test_a_slow_header_gets_408_however_steadily_it_drips():
    async with serving() as edge:
        wire = await edge.connect()
        await wire.send(b"POST /drip HTTP/1.1\r\n")
        for number in range(8):
            await wire.send(b"X-%d: y\r\n" % number)
            await asyncio.sleep(0.002)
            await edge.clock.run(1)
        assert edge.server.connections == 1
        await edge.clock.run(3)
        status, headers, body = await wire.response()
        assert (status, headers["connection"]) == (408, "close")
        assert json.loads(body)["error"]["code"] == "request_timeout"
        assert json.loads(body)["error"]["request_id"] == headers["x-request-id"]
        assert await wire.rest() == b""
        assert edge.closed == {"header_timeout": 1}
        assert not edge.executed


async def test_the_next_header_on_a_kept_connection_has_its_own_deadline():
    async with serving() as edge:
        wire = await edge.connect()
        await wire.send(GET % b"first")
        await wire.response()
        await edge.clock.run(40)
        await wire.send(b"GET /second HTTP/1.1\r\n")
        await asyncio.sleep(0.01)
        await edge.clock.run(9)
        await wire.send(b"Host: x\r\n\r\n")
        assert (await wire.response())[0] == 200
        await wire.send(b"GET /third HTTP/1.1\r\n")
        await asyncio.sleep(0.01)
        await edge.clock.run(11)
        assert (await wire.response())[0] == 408
        assert edge.executed == {"/first": 1, "/second": 1}


async def test_an_idle_kept_connection_is_closed_at_its_deadline_and_blank_lines_do_not_prolong_it():
    async with serving() as edge:
        wire = await edge.connect()
        await wire.send(GET % b"first")
        await wire.response()
        await edge.clock.run(40)
        await wire.send(b"\r\n")
        await asyncio.sleep(0.01)
        await edge.clock.run(34)
        assert edge.server.connections == 1
        await edge.clock.run(2)
        assert await wire.rest() == b""
        assert edge.closed == {"keepalive_timeout": 1}


async def test_a_working_handler_has_no_deadline_of_the_edge():
    release = asyncio.Event()

    async def slow(request: web.BaseRequest) -> web.StreamResponse:
        await release.wait()
        return web.Response(text="late")

    async with serving(handler=slow) as edge:
        wire = await edge.connect()
        await wire.send(GET % b"slow")
        await edge.until(lambda: edge.server.in_flight == 1)
        await edge.clock.run(300)
        release.set()
        assert (await wire.response())[2] == b"late"
        assert not edge.closed


async def test_a_reader_that_takes_nothing_is_aborted_and_its_handler_cancelled():
    ended: list[str] = []

    async def pour(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        try:
            await response.prepare(request)
            while True:
                await response.write(b"x" * 65536)
        finally:
            ended.append(type(sys.exception()).__name__)

    async with serving(handler=pour) as edge:
        wire = await stalled_reader(edge)
        await edge.until(lambda: waiting_bytes(edge) > 0)
        await stuck(edge)
        await edge.clock.run(59)
        assert not ended
        await edge.clock.run(3)
        await stalled_until(edge, lambda: bool(ended))
        assert ended[0] in {"CancelledError", "ConnectionResetError"}
        assert edge.closed == {"write_stall": 1}
        await edge.until(lambda: edge.server.connections == 0)
        wire.close()


async def test_a_slow_reader_that_takes_something_is_kept():
    async def pour(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65536)

    async with serving(handler=pour) as edge:
        wire = await stalled_reader(edge)
        await edge.until(lambda: waiting_bytes(edge) > 0)
        await stuck(edge)
        try:
            for _ in range(6):
                for _ in range(20):
                    await asyncio.get_running_loop().sock_recv(wire, 65536)
                await asyncio.sleep(0.01)
                await edge.clock.run(30)
            assert not edge.closed
            assert edge.server.in_flight == 1
        finally:
            wire.close()


async def test_a_closed_answer_that_nobody_reads_does_not_hold_its_socket():
    async def big(request: web.BaseRequest) -> web.StreamResponse:
        response = web.Response(body=b"x" * 16_000_000)
        response.force_close()
        return response

    async with serving(handler=big) as edge:
        wire = await stalled_reader(edge)
        await edge.until(lambda: waiting_bytes(edge) > 0)
        await stuck(edge)
        await stalled_until(edge, lambda: edge.server.connections == 0)
        assert edge.closed == {"write_stall": 1}
        wire.close()


async def test_a_client_that_hangs_up_cancels_its_handler():
    ended = asyncio.Event()

    async def wait(request: web.BaseRequest) -> web.StreamResponse:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    async with serving(handler=wait) as edge:
        wire = await edge.connect()
        await wire.send(GET % b"gone")
        await edge.until(lambda: edge.server.in_flight == 1)
        wire.writer.close()
        await asyncio.wait_for(ended.wait(), 5)
        await edge.until(lambda: edge.server.in_flight == 0)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (EdgeLimits(connections_max=3), "connections_max"),
        (EdgeLimits(connections_per_host_max=3), "connections_per_host_max"),
    ],
)
async def test_a_connection_over_a_cap_gets_503_and_others_are_unaffected(limits: EdgeLimits, reason: str):
    limits = limits if limits.connections_per_host_max else EdgeLimits(connections_max=3, connections_per_host_max=9)
    async with serving(limits) as edge:
        kept = [await edge.connect() for _ in range(3)]
        await edge.accepted(3)
        over = await edge.connect()
        status, _, body = await over.response()
        assert (status, json.loads(body)["error"]["code"]) == (503, "overloaded")
        assert await over.rest() == b""
        assert edge.closed == {reason: 1}
        for wire in kept:
            await wire.send(GET % b"kept")
            assert (await wire.response())[0] == 200
        kept[0].writer.close()
        await edge.until(lambda: edge.server.connections == 2)
        again = await edge.connect()
        await again.send(GET % b"again")
        assert (await again.response())[0] == 200


async def test_one_host_gets_half_of_the_connections_by_default():
    async with serving(EdgeLimits(connections_max=4)) as edge:
        for _ in range(3):
            await edge.connect()
        await edge.until(lambda: edge.closed["connections_per_host_max"] == 1)
        assert edge.server.connections == 2


async def test_pipelined_requests_are_answered_in_order_and_one_at_a_time():
    at_work = 0
    peak = 0

    async def slow(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal at_work, peak
        at_work += 1
        peak = max(peak, at_work)
        await asyncio.sleep(0.001)
        at_work -= 1
        return web.Response(text=request.path)

    async with serving(handler=slow) as edge:
        wire = await edge.connect()
        await wire.send(b"".join(GET % b"%d" % number for number in range(80)))
        answers = [(await wire.response())[2] for _ in range(80)]
        assert answers == [b"/%d" % number for number in range(80)]
        assert peak == 1


async def test_draining_finishes_what_runs_answers_what_comes_and_then_closes_everything():
    release = asyncio.Event()

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/slow":
            await release.wait()
        return web.Response(text=request.path)

    async with serving(handler=handler) as edge:
        slow, idle, racing = [await edge.connect() for _ in range(3)]
        for wire in (idle, racing):
            await wire.send(GET % b"early")
            await wire.response()
        await slow.send(GET % b"slow")
        await edge.until(lambda: edge.server.in_flight == 1)
        stop = asyncio.ensure_future(edge.server.shutdown(30))
        await asyncio.sleep(0)
        await racing.send(GET % b"racing")
        status, headers, body = await racing.response()
        assert (status, headers["connection"], body) == (200, "close", b"/racing")
        release.set()
        status, headers, body = await slow.response()
        assert (status, headers["connection"], body) == (200, "close", b"/slow")
        await edge.until(lambda: edge.server.in_flight == 0)
        await edge.clock.run(1)
        assert await idle.rest() == b""
        await edge.clock.run(1)
        await asyncio.wait_for(stop, 5)
        assert edge.server.connections == 0


async def test_what_is_not_done_when_the_drain_ends_is_cancelled_and_its_finally_runs():
    ended: list[str] = []

    async def forever(request: web.BaseRequest) -> web.StreamResponse:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("settled")
        raise AssertionError

    async with serving(handler=forever) as edge:
        wire = await edge.connect()
        await wire.send(GET % b"forever")
        await edge.until(lambda: edge.server.in_flight == 1)
        stop = asyncio.ensure_future(edge.server.shutdown(30))
        await edge.clock.run(29)
        assert not ended
        await edge.clock.run(2)
        await edge.clock.run(2)
        await asyncio.wait_for(stop, 5)
        assert ended == ["settled"]
        assert edge.closed["shutdown"] == 1


async def test_a_handler_that_raises_becomes_a_bare_500(caplog: pytest.LogCaptureFixture):
    async def broken(request: web.BaseRequest) -> web.StreamResponse:
        raise KeyError("secret-detail")

    async with serving(handler=broken) as edge:
        wire = await edge.connect()
        await wire.send(b"GET / HTTP/1.1\r\nHost: x\r\nAccept: text/html\r\n\r\n")
        status, headers, body = await wire.response()
        assert (status, headers["content-type"]) == (500, "application/json")
        assert json.loads(body)["error"]["code"] == "internal_error"
        assert b"secret-detail" not in body
        assert b"Traceback" not in body
    assert "secret-detail" in caplog.text


async def test_a_caller_who_leaves_just_before_its_answer_is_no_error(caplog: pytest.LogCaptureFixture):
    async def gone(request: web.BaseRequest) -> web.StreamResponse:
        raise ConnectionResetError("The caller has gone.")

    async with serving(handler=gone) as edge:
        wire = await edge.connect()
        await wire.send(GET % b"x")
        assert await wire.rest() == b""
    assert not caplog.records


async def test_a_unix_socket_is_served_without_a_cap_per_host(tmp_path):
    clock = ManualClock()

    async def hello(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="hello")

    server = EdgeServer(hello, EdgeLimits(connections_per_host_max=1), clock, lambda reason: None)
    listener = await asyncio.get_running_loop().create_unix_server(server, tmp_path / "s")
    wires = [Wire(*await asyncio.open_unix_connection(tmp_path / "s")) for _ in range(3)]
    for wire in wires:
        await wire.send(GET % b"")
        assert (await wire.response())[2] == b"hello"
        wire.writer.close()
    listener.close()
    stop = asyncio.ensure_future(server.shutdown(0))
    while not stop.done():
        await clock.run(0.1)


def test_the_guards_hold_on_uvloop_too():
    async def check() -> None:
        assert isinstance(asyncio.get_running_loop(), uvloop.Loop)
        await test_a_request_is_answered_without_a_server_header_and_the_connection_is_kept()
        await test_a_silent_connection_is_closed_without_a_reply_at_the_header_deadline()
        await test_a_slow_header_gets_408_however_steadily_it_drips()
        await test_a_reader_that_takes_nothing_is_aborted_and_its_handler_cancelled()
        await test_a_closed_answer_that_nobody_reads_does_not_hold_its_socket()
        await test_draining_finishes_what_runs_answers_what_comes_and_then_closes_everything()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(check())


@pytest.mark.parametrize(
    ("flags", "environment", "word"),
    [(["-O"], {}, "python -O"), ([], {"AIOHTTP_NO_EXTENSIONS": "1"}, "C parser")],
)
def test_serving_is_refused_where_a_guard_would_be_missing(flags: list[str], environment: dict[str, str], word: str):
    code = "from routerx.http.edge_limits import require_guards; require_guards()"
    done = subprocess.run(
        [sys.executable, *flags, "-c", code], env=os.environ | environment, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1
    assert "OperatorError" in done.stderr
    assert word in done.stderr


def test_the_guards_are_here_in_this_process():
    require_guards()
    assert issubclass(OperatorError, Exception)


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        (("192.0.2.1", 5), "192.0.2.1"),
        (("2001:db8:1:2:3::4", 5, 0, 0), "20010db800010002"),
        (("2001:db8:1:2:9::9", 5, 0, 0), "20010db800010002"),
        (("fe80::1%eth0", 5, 0, 2), "fe80000000000000"),
        (("::ffff:192.0.2.1", 5, 0, 0), "192.0.2.1"),
        ("", None),
        (None, None),
    ],
)
def test_a_host_is_an_ipv4_address_or_an_ipv6_network(peer: object, host: str | None):
    class Transport(asyncio.Transport):
        def get_extra_info(self, name: str, default: object = None) -> object:
            return peer

    assert host_of(Transport()) == host


def test_connections_stay_within_half_of_the_descriptors(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(edge_limits.resource, "getrlimit", lambda which: (1024, 4096))
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(edge_limits.resource, "setrlimit", lambda which, pair: raised.append(pair))
    assert edge_limits.within_descriptors(10_000) == 2048
    assert raised == [(4096, 4096)]
    assert edge_limits.within_descriptors(100) == 100


async def stalled_reader(edge: Edge) -> socket.socket:
    """A client that asks and then reads nothing."""
    wire = socket.socket()
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    wire.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(wire, ("127.0.0.1", edge.port))
    await loop.sock_sendall(wire, GET % b"pour")
    return wire


def waiting_bytes(edge: Edge) -> int:
    return sum(protocol.wire.get_write_buffer_size() for protocol in edge.server._open)


async def stuck(edge: Edge) -> None:
    """Wait until the kernel's buffers are full and nothing flows any more, which takes its time on a busy machine."""
    seen: list[int] = []
    while len(seen) < 4 or len(set(seen[-4:])) > 1:
        await asyncio.sleep(0.01)
        seen.append(waiting_bytes(edge))


async def stalled_until(edge: Edge, condition: Callable[[], bool]) -> None:
    """Let stalls pass until `condition`: what the kernel still takes in between makes each of them begin anew."""
    for _ in range(20):
        for _ in range(20):
            if condition():
                return
            await asyncio.sleep(0.001)
        await edge.clock.run(62)
    await edge.until(condition)
