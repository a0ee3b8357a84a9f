"""FAULTS.md section 1 over real sockets: each row that is a transport's matter comes out as its FailureKind."""

import asyncio
import socket
import ssl
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from routerx.domain.failure import FailureKind, UpstreamFault
from routerx.upstream import aiohttp_client, aiohttp_wire, direct_pool, direct_wire, dns
from tests.support.upstream import (
    Behaviour,
    End,
    Endless,
    Gate,
    GzipBomb,
    HugeHeader,
    IllegalChunking,
    Ok,
    Raw,
    Reset,
    ScriptedUpstream,
    Silence,
    Stream,
    Truncated,
    refused_url,
)
from tests.unit.upstream.kit import AMPLE_S, SHORT_S, call, chunks_until_fault, failing, fetch, serving, transport

TLS = Path(__file__).parents[2] / "support" / "tls"
OK = b"HTTP/1.1 200 OK\r\n"


# --- connecting: rows 1-6 ----------------------------------------------------------------------------------


async def test_refused_is_a_connect_error() -> None:
    async with transport() as out:
        found = await failing(out, call(refused_url()))
        assert found.kind is FailureKind.CONNECT_ERROR
        assert found.message == "Provider 'acme' could not be reached: connection refused."


@asynccontextmanager
async def full_listener() -> AsyncIterator[str]:
    """A listener whose accept queue is full: further SYNs get no answer, as from a black hole."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(address)
            fillers.append(filler)
        try:
            yield f"http://{address[0]}:{address[1]}"
        finally:
            for filler in fillers:
                filler.close()


async def test_a_syn_without_an_answer_is_a_connect_timeout() -> None:
    async with full_listener() as url, transport() as out:
        found = await failing(out, call(url, connect_s=SHORT_S))
        assert found.kind is FailureKind.CONNECT_TIMEOUT
        assert "0.1 s" in found.message


async def test_an_unknown_host_is_a_dns_error() -> None:
    async with transport() as out:
        assert (await failing(out, call("http://does-not-exist.invalid"))).kind is FailureKind.DNS_ERROR


class LeadsTo(AbstractResolver):
    """A resolver that says these addresses, whatever it is asked for."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=one, port=port, family=socket.AF_INET, proto=0, flags=0)
            for one in self.addresses
        ]

    async def close(self) -> None:
        pass


def lead_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    for module in (aiohttp_client, direct_pool):
        monkeypatch.setattr(module, "ThreadedResolver", lambda: LeadsTo(*addresses))


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "100.64.0.1"])
async def test_a_public_provider_is_not_called_at_an_address_that_is_not_public(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, address: str
) -> None:
    lead_to(monkeypatch, address)
    async with ScriptedUpstream() as upstream, transport(public=True) as out:
        found = await failing(out, call(upstream.url.replace("127.0.0.1", "api.acme.test")))
        assert found.kind is FailureKind.BLOCKED_ADDRESS
        assert address not in found.message
        assert f"security: api.acme.test belongs to a public provider and leads to {address}" in caplog.text
        assert upstream.connections == 0


async def test_of_a_public_providers_addresses_only_the_public_ones_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    lead_to(monkeypatch, "10.1.2.3", "127.0.0.1")
    monkeypatch.setattr(dns, "is_public", lambda address: address == "127.0.0.1")
    async with ScriptedUpstream() as upstream, transport(public=True) as out:
        assert b"Hello" in await fetch(out, call(upstream.url.replace("127.0.0.1", "api.acme.test")))


async def test_a_provider_of_the_users_own_may_be_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    lead_to(monkeypatch, "127.0.0.1")
    async with ScriptedUpstream() as upstream, transport() as out:
        assert b"Hello" in await fetch(out, call(upstream.url.replace("127.0.0.1", "llm.lan")))


async def test_a_proxy_before_a_public_provider_may_be_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    lead_to(monkeypatch, "127.0.0.1")
    async with ScriptedUpstream() as upstream:
        proxy = upstream.url.replace("127.0.0.1", "proxy.lan")
        async with transport(public=True, proxy=proxy) as out:
            assert b"Hello" in await fetch(out, call("http://api.acme.test"))


def tls_server(name: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(TLS / f"{name}.pem")
    return context


@pytest.mark.parametrize(
    ("certificate", "trusted", "reason"),
    [
        ("good", None, "self-signed certificate"),
        ("expired", "expired", "certificate has expired"),
        ("other_name", "other_name", "not valid for '127.0.0.1'"),
    ],
)
async def test_a_bad_certificate_is_a_tls_error(certificate: str, trusted: str | None, reason: str) -> None:
    ca_file = None if trusted is None else str(TLS / f"{trusted}.pem")
    async with ScriptedUpstream(tls=tls_server(certificate)) as upstream, transport(ca_file=ca_file) as out:
        found = await failing(out, call(upstream.url))
        assert found.kind is FailureKind.TLS_ERROR
        assert reason in found.message
        assert not upstream.requests


async def test_a_certificate_of_the_providers_own_authority_is_accepted() -> None:
    async with ScriptedUpstream(tls=tls_server("good")) as upstream, transport(ca_file=str(TLS / "good.pem")) as out:
        assert b"Hello" in await fetch(out, call(upstream.url))
        reply = await out.open(call(upstream.url))
        await reply.read(10_000)
        upstream.queue(Stream(gates={1: asyncio.Event()}))
        reply = await out.open(call(upstream.url))
        await reply.chunk()
        reply.abort()
        await upstream.requests[2].gone()


async def test_an_unreadable_ca_file_is_a_tls_error_that_does_not_name_the_file() -> None:
    async with transport(ca_file="/nowhere/ca.pem") as out:
        found = await failing(out, call("https://127.0.0.1:1"))
        assert found.kind is FailureKind.TLS_ERROR
        assert "nowhere" not in found.message


async def test_plain_http_where_tls_is_expected_is_a_tls_error() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()

    async with serving(greet) as address, transport() as out:
        assert (await failing(out, call(f"https://{address}"))).kind is FailureKind.TLS_ERROR


async def test_a_stalled_handshake_is_a_connect_timeout() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        # The plain server waits for a request while the client waits for its hello to be answered.
        url = upstream.url.replace("http:", "https:")
        assert (await failing(out, call(url, connect_s=SHORT_S))).kind is FailureKind.CONNECT_TIMEOUT


# --- the head: rows 7, 13, 18, 19, 23 ----------------------------------------------------------------------------


async def test_silence_is_a_first_byte_timeout_and_hangs_up() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        upstream.queue(Silence())
        found = await failing(out, call(upstream.url, first_byte_s=SHORT_S))
        assert found.kind is FailureKind.FIRST_BYTE_TIMEOUT
        await upstream.requests[0].gone()


async def test_interim_replies_do_not_extend_the_first_byte_deadline() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        upstream.queue(Raw([b"HTTP/1.1 103 Early Hints\r\n\r\n", b"HTTP/1.1 2"], End.STALL))
        found = await failing(out, call(upstream.url, first_byte_s=SHORT_S))
        assert found.kind is FailureKind.FIRST_BYTE_TIMEOUT


async def test_a_peer_that_does_not_read_the_request_is_a_first_byte_timeout() -> None:
    async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with serving(ignore) as address, transport() as out:
        sent = call(f"http://{address}", b"x" * 30_000_000, first_byte_s=SHORT_S)
        assert (await failing(out, sent)).kind is FailureKind.FIRST_BYTE_TIMEOUT


async def test_a_reset_before_the_headers_is_a_reset_before_output() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        upstream.queue(Reset())
        assert (await failing(out, call(upstream.url))).kind is FailureKind.RESET_BEFORE_OUTPUT


IRREGULAR = {
    "both a length and chunks": OK + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "chunks, then a length": OK + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "two equal lengths": OK + b"content-length: 2\r\ncontent-length: 2\r\n\r\n{}",
    "two unequal lengths": OK + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}",
    "a signed length": OK + b"content-length: +2\r\n\r\n{}",
    "another coding": OK + b"transfer-encoding: identity\r\n\r\n{}",
    "two codings": OK + b"transfer-encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "two coding headers": OK + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "101": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nxx",
    "no status line": b"<html>hello</html>",
    "HTTP/2": b"HTTP/2.0 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    "status 999": b"HTTP/1.1 999 What\r\ncontent-length: 0\r\n\r\n",
    "a huge reason": b"HTTP/1.1 200 " + b"X" * 20_000 + b"\r\ncontent-length: 0\r\n\r\n",
    "10,000 headers": OK + b"".join(b"x-%d: a\r\n" % i for i in range(10_000)) + b"\r\n",
    "a NUL in a header": OK + b"x: a\0b\r\ncontent-length: 0\r\n\r\n",
    "brotli": OK + b"content-encoding: br\r\ncontent-length: 5\r\n\r\nabcde",
    "an illegal chunk at once": OK + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
}


@pytest.mark.parametrize("raw", IRREGULAR.values(), ids=IRREGULAR)
async def test_an_irregular_head_is_a_protocol_error_and_its_connection_is_not_reused(raw: bytes) -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        upstream.queue(Raw([raw], End.KEEP))
        found = await failing(out, call(upstream.url))
        assert found.kind is FailureKind.PROTOCOL_ERROR
        assert found.message == "Provider 'acme' sent something that is not a valid HTTP answer."
        await upstream.requests[0].gone()
        assert b"Hello" in await fetch(out, call(upstream.url))


async def test_a_header_of_a_megabyte_is_a_protocol_error() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        upstream.queue(HugeHeader())
        assert (await failing(out, call(upstream.url))).kind is FailureKind.PROTOCOL_ERROR


async def test_a_flood_of_interim_replies_is_a_protocol_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (aiohttp_wire, direct_wire):
        monkeypatch.setattr(module, "HEAD_BYTES_MAX", 100_000)
    async with ScriptedUpstream() as upstream, transport() as out:
        upstream.queue(Raw([b"HTTP/1.1 103 Early Hints\r\n\r\n" * 10_000], End.STALL))
        assert (await failing(out, call(upstream.url))).kind is FailureKind.PROTOCOL_ERROR
        await upstream.requests[0].gone()


# --- the body: rows 11-13, 16-18, 20, 21 -------------------------------------------------------------------------

ONE = b"data: 1\n\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"

BODIES: dict[str, tuple[Behaviour, bytes, FailureKind]] = {
    "stall": (Stream(frames=[ONE], stop_after=1, end=End.STALL), ONE, FailureKind.STALLED),
    "stall before any event": (Stream(stop_after=0, end=End.STALL), b"", FailureKind.STALLED),
    "reset": (Stream(frames=[ONE], stop_after=1, end=End.RESET), ONE, FailureKind.RESET_MIDSTREAM),
    "reset before any event": (Stream(stop_after=0, end=End.RESET), b"", FailureKind.RESET_BEFORE_OUTPUT),
    "end inside the chunks": (Stream(frames=[ONE], stop_after=1, end=End.FIN), ONE, FailureKind.TRUNCATED),
    "end inside a chunk": (Raw([CHUNKED + b"9\r\ndata: "]), b"data: ", FailureKind.TRUNCATED),
    "length not reached": (Truncated(b"{", 10), b"{", FailureKind.TRUNCATED),
    "reset within the length": (Truncated(b"{", 10, End.RESET), b"{", FailureKind.RESET_MIDSTREAM),
    "reset of a body without length": (
        Raw([OK + b"\r\n" + ONE], End.RESET),
        ONE,
        FailureKind.RESET_MIDSTREAM,
    ),
    "not gzip": (
        Raw([OK + b"content-encoding: gzip\r\ncontent-length: 5\r\n\r\nabcde"]),
        b"",
        FailureKind.PROTOCOL_ERROR,
    ),
}


@pytest.mark.parametrize(("behaviour", "before", "kind"), BODIES.values(), ids=BODIES)
async def test_a_broken_body_gives_what_it_had_and_then_its_fault(
    behaviour: Behaviour, before: bytes, kind: FailureKind
) -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        upstream.queue(behaviour)
        reply = await out.open(call(upstream.url, idle_s=SHORT_S))
        seen, found = await chunks_until_fault(reply)
        assert (seen, found.kind) == (before, kind)
        await upstream.requests[0].gone()
        assert b"Hello" in await fetch(out, call(upstream.url))


async def test_illegal_chunking_after_a_good_frame_is_a_protocol_error_and_no_hang() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        gate = asyncio.Event()
        upstream.queue(Raw([CHUNKED + b"9\r\n" + ONE + b"\r\n", Gate(gate), b"zz\r\n"], End.STALL))
        reply = await out.open(call(upstream.url))
        assert await reply.chunk() == ONE
        gate.set()
        seen, found = await chunks_until_fault(reply)
        assert (seen, found.kind) == (b"", FailureKind.PROTOCOL_ERROR)
        await upstream.requests[0].gone()


async def test_illegal_chunking_in_the_first_packet_is_a_protocol_error() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        upstream.queue(IllegalChunking(ONE))
        assert (await failing(out, call(upstream.url))).kind is FailureKind.PROTOCOL_ERROR


async def test_a_body_without_length_ends_with_its_connection() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        upstream.queue(Stream(frames=[ONE], chunked=False))
        assert await fetch(out, call(upstream.url)) == ONE


def flushed(packer: "zlib._Compress", data: bytes) -> bytes:
    return packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
async def test_a_body_that_drips_past_the_total_deadline_is_too_slow(packed: bool) -> None:
    packer = zlib.compressobj(wbits=31)
    first, second = (flushed(packer, one) if packed else one for one in (b"{", b" "))
    coding = b"content-encoding: gzip\r\n" if packed else b""
    async with ScriptedUpstream() as upstream, transport() as out:
        gate = asyncio.Event()
        upstream.queue(Raw([OK + coding + b"content-length: 1000\r\n\r\n" + first, Gate(gate), second], End.STALL))
        reply = await out.open(call(upstream.url, total_s=SHORT_S))
        reading = asyncio.ensure_future(reply.read(1_000_000))
        await asyncio.sleep(SHORT_S * 1.2)
        gate.set()
        with pytest.raises(UpstreamFault) as caught:
            await asyncio.wait_for(reading, AMPLE_S / 10)
        assert caught.value.failure.kind is FailureKind.TOTAL_TIMEOUT
        await upstream.requests[0].gone()


async def test_an_endless_body_is_too_large_and_is_cut_off() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        endless = Endless()
        upstream.queue(endless)
        reply = await out.open(call(upstream.url))
        with pytest.raises(UpstreamFault) as caught:
            await reply.read(1_000_000)
        assert caught.value.failure.kind is FailureKind.TOO_LARGE
        await upstream.requests[0].gone()


async def test_a_declared_length_over_the_cap_is_too_large_before_the_body_is_read() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        upstream.queue(Truncated(b"{", 1_000_001, End.STALL))
        reply = await out.open(call(upstream.url))
        with pytest.raises(UpstreamFault) as caught:
            await reply.read(1_000_000)
        assert caught.value.failure.kind is FailureKind.TOO_LARGE


async def test_a_small_body_over_the_cap_is_too_large() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        upstream.queue(Stream())
        reply = await out.open(call(upstream.url))
        with pytest.raises(UpstreamFault) as caught:
            await reply.read(20)
        assert caught.value.failure.kind is FailureKind.TOO_LARGE


async def test_a_compressed_bomb_is_too_large_before_it_is_unpacked() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        upstream.queue(GzipBomb(64 * 1024 * 1024))
        reply = await out.open(call(upstream.url))
        with pytest.raises(UpstreamFault) as caught:
            await reply.read(1_000_000)
        assert caught.value.failure.kind is FailureKind.TOO_LARGE


async def test_a_compressed_answer_within_the_cap_is_unpacked() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        upstream.queue(GzipBomb(3 * 1024 * 1024), Ok())
        assert await fetch(out, call(upstream.url)) == b" " * 3 * 1024 * 1024
