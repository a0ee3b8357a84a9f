"""Both transports over real sockets: what is sent, what is kept open, what is closed and when."""

import asyncio
import contextlib
import os

import pytest

from routerx.domain.failure import FailureKind, UpstreamFault
from routerx.upstream import aiohttp_client, direct
from tests.support.upstream import (
    Drip,
    End,
    Hangup,
    Json,
    Ok,
    Raw,
    Redirect,
    Reset,
    ScriptedUpstream,
    Silence,
    Status,
    Stream,
)
from tests.unit.upstream.kit import (
    AMPLE_S,
    BODY,
    SHORT_S,
    call,
    chunks_until_fault,
    failing,
    fetch,
    serving,
    transport,
)


async def test_the_request_arrives_as_given_with_nothing_of_aiohttp_added() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        headers = {"authorization": "Bearer k", "content-type": "application/json"}
        await fetch(out, call(upstream.url + "/p%2Fq", headers=headers))
        (seen,) = upstream.requests
        assert (seen.method, seen.path, seen.body) == ("POST", "/p%2Fq/v1/chat/completions", BODY)
        assert seen.headers == {
            "host": upstream.url.removeprefix("http://"),
            "content-length": str(len(BODY)),
            "accept": "*/*",
            "accept-encoding": "identity",
            "user-agent": "RouterX",
            **headers,
        }


async def test_own_headers_replace_the_defaults() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        await fetch(out, call(upstream.url, headers={"User-Agent": "me", "Accept": "text/event-stream"}))
        seen = upstream.requests[0].headers
        assert (seen["user-agent"], seen["accept"]) == ("me", "text/event-stream")


async def test_an_answer_comes_with_status_headers_and_body() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        upstream.queue(Status(429, {"error": {}}, {"Retry-After": "7"}))
        reply = await out.open(call(upstream.url))
        assert reply.status == 429
        assert reply.headers["retry-after"] == "7"
        assert await reply.read(100) == b'{"error": {}}'
        reply.release()


async def test_environment_proxies_and_cookies_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ScriptedUpstream() as trap, ScriptedUpstream() as upstream, transport() as out:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, trap.url)
        upstream.queue(Json({}, headers={"set-cookie": "a=b"}))
        await fetch(out, call(upstream.url))
        await fetch(out, call(upstream.url))
        assert "cookie" not in upstream.requests[1].headers
        assert not trap.requests


async def test_a_configured_proxy_is_used() -> None:
    async with ScriptedUpstream() as proxy, transport(proxy=None) as out:
        async with transport(proxy=proxy.url.replace("//", "//user:pass@")) as proxied:
            await fetch(proxied, call("http://acme.invalid"))
        assert proxy.requests[0].path == "http://acme.invalid/v1/chat/completions"
        assert proxy.requests[0].headers["proxy-authorization"].startswith("Basic ")
        assert (await failing(out, call("http://acme.invalid"))).kind is FailureKind.DNS_ERROR


async def test_a_redirect_is_a_reply_and_is_not_followed() -> None:
    async with ScriptedUpstream() as elsewhere, ScriptedUpstream() as upstream, transport() as out:
        upstream.queue(Redirect(elsewhere.url, 307))
        reply = await out.open(call(upstream.url))
        assert (reply.status, reply.headers["location"]) == (307, elsewhere.url)
        reply.abort()
        assert not elsewhere.requests


async def test_a_released_connection_is_used_again() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        for _ in range(5):
            await fetch(out, call(upstream.url))
        upstream.queue(Stream())
        reply = await out.open(call(upstream.url))
        while await reply.chunk():
            pass
        reply.release()
        reply.release()
        await fetch(out, call(upstream.url))
        assert upstream.connections == 1


async def test_a_reply_released_before_its_end_takes_its_connection_along() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        gate = asyncio.Event()
        upstream.queue(Stream(gates={1: gate}))
        reply = await out.open(call(upstream.url))
        await reply.chunk()
        reply.release()
        await upstream.requests[0].gone()
        await fetch(out, call(upstream.url))
        assert upstream.connections == 2


async def test_abort_hangs_up_at_once_in_the_middle_of_a_stream() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        upstream.queue(Stream(gates={1: asyncio.Event()}))
        reply = await out.open(call(upstream.url))
        await reply.chunk()
        reply.abort()
        reply.abort()
        reply.release()
        await upstream.requests[0].gone()
        with pytest.raises(UpstreamFault):
            await reply.chunk()


async def test_cancelling_an_open_call_hangs_up() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        upstream.queue(Raw([], End.STALL))
        opening = asyncio.ensure_future(out.open(call(upstream.url)))
        seen = await upstream.arrived()
        opening.cancel()
        await seen.gone()
        assert opening.cancelled() or isinstance(await _outcome(opening), asyncio.CancelledError)


async def _outcome(task: "asyncio.Future[object]") -> BaseException | None:
    await asyncio.wait({task})
    return None if task.cancelled() else task.exception()


async def test_concurrent_calls_are_not_limited_by_the_pool() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        gate = asyncio.Event()
        upstream.default = Ok(gate=gate)
        calls = [asyncio.ensure_future(fetch(out, call(upstream.url))) for _ in range(110)]
        await upstream.arrived(110)  # aiohttp's own limit is 100.
        gate.set()
        assert all(b"Hello" in body for body in await asyncio.gather(*calls))


async def test_many_calls_good_and_bad_leak_no_descriptors() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        await fetch(out, call(upstream.url))
        before = len(os.listdir("/dev/fd"))
        for _ in range(20):
            bad = [Reset(), Hangup(), Stream(stop_after=1, end=End.RESET), Raw([b"HTTP/0.9"]), Raw([], End.STALL)]
            upstream.queue(*bad)
            for _ in range(3 + len(bad)):
                with contextlib.suppress(UpstreamFault):
                    await fetch(out, call(upstream.url, first_byte_s=SHORT_S / 10))
        await out.close()
        await upstream.idle()
        assert len(os.listdir("/dev/fd")) < before


async def test_a_body_of_many_megabytes_goes_out_whole_and_in_silence() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        body = b'{"model":"m","x":"' + b"a" * (5 * 1024 * 1024) + b'"}'
        await fetch(out, call(upstream.url, body))  # aiohttp warns of bytes over 1 MiB, and warnings are errors here.
        assert upstream.requests[0].body == body


async def test_an_early_answer_to_a_body_still_on_its_way_is_read() -> None:
    async def refuse_unread(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\n{}")
        await asyncio.Event().wait()

    async with serving(refuse_unread) as address, transport() as out:
        reply = await out.open(call(f"http://{address}", b"x" * 30_000_000))
        assert reply.status == 413
        assert await reply.read(10) == b"{}"
        reply.abort()


@pytest.mark.parametrize("ends_by", ["abort", "timeout"])
async def test_a_call_that_is_over_does_not_wait_to_flush_its_request(ends_by: str) -> None:
    async def never_read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if ends_by == "abort":
            await asyncio.sleep(SHORT_S)  # Until every buffer on the way is full.
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n{")
        await asyncio.Event().wait()

    async with serving(never_read) as address, transport() as out:
        first_byte_s = SHORT_S if ends_by == "timeout" else AMPLE_S
        sent = call(f"http://{address}", b"x" * 30_000_000, first_byte_s=first_byte_s)
        before = len(os.listdir("/dev/fd"))
        if ends_by == "abort":
            (await out.open(sent)).abort()
        else:
            await failing(out, sent)
        async with asyncio.timeout(5):
            # The server's end stays open: it has not noticed. No event tells of a closed descriptor.
            while len(os.listdir("/dev/fd")) > before + 1:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("end", [Hangup, Reset])
async def test_a_call_that_meets_a_closed_pooled_connection_is_sent_again_on_a_new_one(end: type) -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        gate = asyncio.Event()
        upstream.queue(Ok(gate=gate), Ok(gate=gate))
        both = [asyncio.ensure_future(fetch(out, call(upstream.url))) for _ in range(2)]
        await upstream.arrived(2)
        gate.set()
        await asyncio.gather(*both)  # Two connections are pooled now.
        upstream.queue(end(), Ok("again"))
        assert b"again" in await fetch(out, call(upstream.url))
        assert [seen.body for seen in upstream.requests[2:]] == [BODY, BODY]
        # A new socket, not the other pooled one, which may be as stale.
        assert upstream.requests[3].connection == upstream.connections == 3


async def test_a_call_is_sent_again_only_once() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        await fetch(out, call(upstream.url))
        upstream.queue(Hangup(), Hangup())
        assert (await failing(out, call(upstream.url))).kind is FailureKind.RESET_BEFORE_OUTPUT
        assert len(upstream.requests) == 3


async def test_a_new_connection_that_is_closed_is_not_tried_again() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        upstream.queue(Hangup())
        assert (await failing(out, call(upstream.url))).kind is FailureKind.RESET_BEFORE_OUTPUT
        assert len(upstream.requests) == 1


@pytest.mark.parametrize("end", [End.FIN, End.RESET])
@pytest.mark.parametrize("start", [b"H", b"HTTP/1.1 200 OK\r\ncontent-", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_a_call_is_not_sent_again_once_a_byte_has_come_back(start: bytes, end: End) -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        await fetch(out, call(upstream.url))
        upstream.queue(Raw([start], end))
        assert (await failing(out, call(upstream.url))).kind is FailureKind.RESET_BEFORE_OUTPUT
        assert len(upstream.requests) == 2


async def test_a_timeout_on_a_pooled_connection_is_not_sent_again() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        await fetch(out, call(upstream.url))
        upstream.queue(Raw([], End.STALL))
        found = await failing(out, call(upstream.url, first_byte_s=SHORT_S))
        assert found.kind is FailureKind.FIRST_BYTE_TIMEOUT
        assert len(upstream.requests) == 2


async def test_the_idle_limit_does_not_run_before_the_answer_begins() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        gate = asyncio.Event()
        upstream.queue(Ok("late", gate=gate))
        asyncio.get_running_loop().call_later(4 * SHORT_S, gate.set)
        assert b"late" in await fetch(out, call(upstream.url, idle_s=SHORT_S))


async def test_a_pooled_connection_outlives_the_idle_limit_of_its_last_call() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        pace = asyncio.Semaphore(0)
        upstream.queue(Drip(pace, b"{}"))
        reply = await out.open(call(upstream.url, idle_s=2 * SHORT_S))
        pace.release()
        pace.release()
        assert await reply.read(10) == b"{}"
        reply.release()
        gate = asyncio.Event()
        upstream.queue(Ok("later", gate=gate))
        asyncio.get_running_loop().call_later(4 * SHORT_S, gate.set)
        assert b"later" in await fetch(out, call(upstream.url, idle_s=SHORT_S))
        assert upstream.connections == 1


async def test_a_slow_drip_is_no_stall() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        pace = asyncio.Semaphore(0)
        upstream.queue(Drip(pace, b"{" + b" " * 20 + b"}"))
        reply = await out.open(call(upstream.url))
        body = b""
        while len(body) < 22:
            pace.release()
            body += await reply.chunk()
        assert await reply.chunk() == b""


async def test_a_closed_transport_refuses_calls() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        await fetch(out, call(upstream.url))
        await out.close()
        await out.close()
        assert (await failing(out, call(upstream.url))).kind is FailureKind.CONNECT_ERROR


async def test_closing_the_transport_ends_the_calls_in_flight() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        upstream.queue(Stream(frames=[b"data: 1\n\n"] * 2, gates={1: asyncio.Event()}), Silence())
        reply = await out.open(call(upstream.url))
        await reply.chunk()
        reading = asyncio.ensure_future(chunks_until_fault(reply))
        waiting = asyncio.ensure_future(failing(out, call(upstream.url)))
        await upstream.arrived(2)
        await out.close()
        assert (await reading)[1].kind is FailureKind.RESET_MIDSTREAM
        assert (await waiting).kind is FailureKind.RESET_BEFORE_OUTPUT


async def test_what_arrived_before_a_fault_is_delivered_before_it() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        frames = [b"data: 1\n\n", b"data: 2\n\n"]
        upstream.queue(Stream(frames=frames, stop_after=2, end=End.RESET))
        reply = await out.open(call(upstream.url))
        await asyncio.sleep(SHORT_S / 2)  # Frames and reset are both here before the first read.
        assert (await chunks_until_fault(reply))[0] == b"".join(frames)


async def test_parsed_urls_and_timeouts_are_kept_up_to_a_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiohttp_client, "CACHED_MAX", 2)
    monkeypatch.setattr(direct, "CACHED_MAX", 2)
    async with ScriptedUpstream() as upstream, transport() as out:
        for i in range(5):
            await fetch(out, call(f"{upstream.url}/{i}", connect_s=1.0 + i))
        for table in ("_urls", "_timeouts", "_targets"):
            assert len(getattr(out, table, ())) <= 2
        assert upstream.connections == 1


def test_the_compiled_parser_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    from aiohttp import http_parser

    from routerx.errors import OperatorError

    monkeypatch.setattr(http_parser, "HttpResponseParser", http_parser.HttpResponseParserPy)
    with pytest.raises(OperatorError, match="compiled"):
        aiohttp_client._require_compiled_parser()
