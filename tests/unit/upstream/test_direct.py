"""What only the direct transport has to prove: its own pool, its own parsing, its own limits."""

import asyncio
import contextlib
import os
import socket
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from multidict import CIMultiDict, CIMultiDictProxy

from routerx.domain.call import UpstreamCall
from routerx.domain.failure import FailureKind, UpstreamFault
from routerx.upstream import bounds, direct, direct_pool, direct_unpack, direct_wire
from routerx.upstream.direct_reply import UNREAD_BYTES_MAX
from routerx.upstream.direct_unpack import STEP_BYTES_MAX
from tests.support.upstream import End, Gate, Json, Ok, Peer, Raw, ScriptedUpstream, Silence, Stream
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

OK = b"HTTP/1.1 200 OK\r\n"
HELLO = OK + b"content-length: 5\r\n\r\nhello"


async def settled() -> None:
    """Let both ends of the sockets of this loop see what has been sent."""
    for _ in range(10):
        await asyncio.sleep(0.001)


# --- the pool ----------------------------------------------------------------------------------------------------

UNFIT = {
    "it says close": OK + b"connection: close\r\ncontent-length: 5\r\n\r\nhello",
    "it is HTTP/1.0": b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    "it is kept for a second": OK + b"keep-alive: timeout=1, max=9\r\ncontent-length: 5\r\n\r\nhello",
    "more came than was said": HELLO + b"x",
    "a second answer came with it": HELLO + HELLO,
    "the next answer has begun": HELLO + b"HTTP/1.1 2",
    "its chunks go on": OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("raw", UNFIT.values(), ids=UNFIT)
async def test_a_connection_serves_no_other_call_when(raw: bytes) -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        upstream.queue(Raw([raw], End.KEEP))
        assert await fetch(out, call(upstream.url)) == b"hello"
        assert b"from upstream" in await fetch(out, call(upstream.url))
        assert upstream.connections == 2


FIT = {
    "HTTP/1.0 that asks to be kept": b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 5\r\n\r\nhello",
    "kept for a minute": OK + b"Keep-Alive: timeout=60\r\ncontent-length: 5\r\n\r\nhello",
    "interim answers first": b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + HELLO,
    "trailers": OK + b"transfer-encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n",
    "padded chunk sizes": OK + b"transfer-encoding: chunked\r\n\r\n5   \r\nhello\r\n0\r\n\r\n",
    "an offer to upgrade": OK + b"connection: upgrade\r\nupgrade: h2c\r\ncontent-length: 5\r\n\r\nhello",
}


@pytest.mark.parametrize("raw", FIT.values(), ids=FIT)
@pytest.mark.parametrize("cut", [None, 1])
async def test_a_connection_serves_the_next_call_after(raw: bytes, cut: int | None) -> None:
    gates = [asyncio.Event() for _ in raw] if cut else []
    steps = [step for at in range(len(raw)) for step in (raw[at : at + 1], Gate(gates[at]))] if cut else [raw]
    async with ScriptedUpstream() as upstream, transport() as out:
        upstream.queue(Raw(steps, End.KEEP))
        asking = asyncio.ensure_future(fetch(out, call(upstream.url)))
        for gate in gates:
            await asyncio.sleep(0)
            gate.set()
        assert await asking == b"hello"
        assert b"from upstream" in await fetch(out, call(upstream.url))
        assert upstream.connections == 1


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_a_body_has_none(status: int) -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        upstream.queue(Raw([b"HTTP/1.1 %d X\r\n\r\n" % status], End.KEEP))
        assert await fetch(out, call(upstream.url, idle_s=SHORT_S)) == b""
        await fetch(out, call(upstream.url))
        assert upstream.connections == 1


async def test_bytes_on_an_idle_connection_close_it() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        late = asyncio.Event()
        upstream.queue(Raw([HELLO, Gate(late), HELLO], End.STALL))
        assert await fetch(out, call(upstream.url)) == b"hello"
        late.set()
        await upstream.requests[0].gone()
        assert b"from upstream" in await fetch(out, call(upstream.url))


async def test_a_connection_closed_while_idle_is_not_tried() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        upstream.queue(Json({}, end=End.FIN))
        await fetch(out, call(upstream.url))
        await upstream.idle()
        await settled()
        (target,) = out._targets.values()  # type: ignore[attr-defined]
        assert target.origin.idle == []
        await fetch(out, call(upstream.url))
        assert [seen.connection for seen in upstream.requests] == [1, 2]


async def test_idle_connections_are_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_wire, "KEEPALIVE_S", SHORT_S)
    monkeypatch.setattr(direct_pool, "KEEPALIVE_S", SHORT_S)
    async with ScriptedUpstream() as upstream, transport() as out:
        gate = asyncio.Event()
        upstream.default = Ok(gate=gate)
        both = [asyncio.ensure_future(fetch(out, call(upstream.url))) for _ in range(2)]
        await upstream.arrived(2)
        gate.set()
        await asyncio.gather(*both)
        assert upstream.open_connections == 2
        await upstream.idle()


async def test_a_connection_too_old_is_not_used_even_before_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_wire, "KEEPALIVE_S", 0.0)
    async with ScriptedUpstream() as upstream, transport() as out:
        for _ in range(2):
            await fetch(out, call(upstream.url))
        assert upstream.connections == 2


async def test_a_stale_reply_cannot_touch_the_next_call_on_its_connection() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        old = await out.open(call(upstream.url))
        body = await old.read(1_000)
        old.release()
        upstream.queue(Stream(gates={1: (gate := asyncio.Event())}))
        new = await out.open(call(upstream.url))
        old.abort()
        old.release()
        assert await old.chunk() == b""
        gate.set()
        assert b"[DONE]" in await new.read(10_000)
        new.release()
        assert body
        assert upstream.connections == 1


class GatedResolver(AbstractResolver):
    """Says 127.0.0.1 once it may."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        await self.gate.wait()
        return [ResolveResult(hostname=host, host="127.0.0.1", port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None:
        pass


async def test_a_transport_closed_while_it_connects_hangs_up_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = GatedResolver()
    monkeypatch.setattr(direct_pool, "ThreadedResolver", lambda: resolver)
    async with ScriptedUpstream() as upstream, transport() as out:
        opening = asyncio.ensure_future(failing(out, call(upstream.url.replace("127.0.0.1", "acme.test"))))
        await asyncio.sleep(0)
        await out.close()
        resolver.gate.set()
        assert (await opening).kind is FailureKind.CONNECT_ERROR
        await upstream.idle()
        assert not upstream.requests


@asynccontextmanager
async def no_descriptor_left() -> AsyncIterator[None]:
    before = len(os.listdir("/dev/fd"))
    yield
    async with asyncio.timeout(5):
        while len(os.listdir("/dev/fd")) > before:  # noqa: ASYNC110 - no event tells of a closed descriptor.
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_call_may_be_cancelled_at_any_moment(scheme: str) -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        upstream.default = Silence()
        with pytest.raises(TimeoutError):  # What loads once is not a leak.
            async with asyncio.timeout(SHORT_S):
                await out.open(call(upstream.url.replace("http", scheme)))
        await upstream.idle()
        async with no_descriptor_left():
            for turns in range(12):
                opening = asyncio.ensure_future(out.open(call(upstream.url.replace("http", scheme))))
                for _ in range(turns):
                    await asyncio.sleep(0)
                opening.cancel()
                await asyncio.wait({opening})
                assert opening.cancelled()
            await upstream.idle()


async def test_sockets_have_no_delay_and_probe_a_silent_peer() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        reply = await out.open(call(upstream.url))
        sock = reply._wire._transport.get_extra_info("socket")  # type: ignore[attr-defined]
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        reply.abort()


async def test_the_next_address_of_a_name_is_tried_when_one_refuses() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        # localhost is ::1 and 127.0.0.1, or the latter alone; only the latter listens.
        assert b"Hello" in await fetch(out, call(upstream.url.replace("127.0.0.1", "localhost")))


# --- what is sent ------------------------------------------------------------------------------------------------


def with_headers(sent: UpstreamCall, headers: CIMultiDict[str] | CIMultiDictProxy[str]) -> UpstreamCall:
    changed = {field: getattr(sent, field) for field in sent.__struct_fields__} | {"headers": headers}
    return UpstreamCall(**changed)


UNSENDABLE = {
    "a line break": {"x": "a\r\nhost: evil"},
    "a bare line feed": {"x": "a\nb"},
    "a NUL": {"x": "a\0b"},
    "a line break in a name": {"x\r\ny": "a"},
    "a second length": {"Content-Length": "1"},
    "chunks": {"Transfer-Encoding": "chunked"},
    "another host": {"host": "evil"},
}


@pytest.mark.parametrize("headers", UNSENDABLE.values(), ids=UNSENDABLE)
async def test_headers_that_would_change_the_message_are_not_sent(headers: dict[str, str]) -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        found = await failing(out, call(upstream.url, headers=headers))
        assert found.message == "Provider 'acme' could not be reached: its headers cannot be sent."
        assert upstream.connections == 0


@pytest.mark.parametrize(
    "url",
    ["http://h/a b", "http://h/a\r\nx: y", "ftp://h", "http://", "http://u:p@h", "http://" + "a" * 64, "http://h:x"],
)
async def test_a_url_that_would_change_the_message_is_not_sent(url: str) -> None:
    async with transport() as out:
        found = await failing(out, call(url))
        assert found.message == "Provider 'acme' could not be reached: its URL cannot be used."


async def test_a_shared_header_block_is_encoded_once_and_a_changed_one_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []
    encode_head = direct.encode_head
    monkeypatch.setattr(direct, "encode_head", lambda *given: (encoded.append(given), encode_head(*given))[1])
    async with ScriptedUpstream() as upstream, transport() as out:
        own = CIMultiDict({"x": "1"})
        shared = CIMultiDictProxy(CIMultiDict({"x": "shared"}))
        for headers in (shared, shared, own):
            await fetch(out, with_headers(call(upstream.url), headers))
        assert len(encoded) == 2
        own["x"] = "2"
        for headers in (own, CIMultiDictProxy(CIMultiDict({"x": "other"})), shared):
            await fetch(out, with_headers(call(upstream.url), headers))
        assert [seen.headers["x"] for seen in upstream.requests] == ["shared", "shared", "1", "2", "other", "shared"]


async def test_kept_heads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "HEADS_MAX", 2)
    async with ScriptedUpstream() as upstream, transport() as out:
        for i in range(5):
            await fetch(out, with_headers(call(upstream.url), CIMultiDictProxy(CIMultiDict({"x": str(i)}))))
        (target,) = out._targets.values()  # type: ignore[attr-defined]
        assert len(target.heads) <= 2
        assert [seen.headers["x"] for seen in upstream.requests] == list("01234")


@pytest.mark.parametrize("size", [1, 65_536, 65_537, 262_144, 262_145, 1_000_000])
async def test_a_body_of_any_length_arrives_whole(size: int) -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        body = bytes(i % 26 + 97 for i in range(size))
        upstream.queue(Json({}))
        await fetch(out, call(upstream.url, body))
        assert upstream.requests[0].body == body


async def test_a_connection_answered_before_its_request_was_sent_is_not_reused() -> None:
    async def refuse_unread(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\n{}")
        with contextlib.suppress(ConnectionError):
            await reader.read(-1)
        hung_up.set()

    hung_up = asyncio.Event()
    async with serving(refuse_unread) as address, transport() as out:
        assert await fetch(out, call(f"http://{address}", b"x" * 30_000_000)) == b"{}"
        async with asyncio.timeout(AMPLE_S):
            await hung_up.wait()


# --- what is read ------------------------------------------------------------------------------------------------


class Eager:
    """Sends 25 MiB as fast as it may."""

    unit = b" " * 65_536
    size = 400 * len(unit)

    def __init__(self) -> None:
        self.sent = 0

    async def play(self, peer: Peer) -> None:
        await peer.head(200, {"content-type": "text/plain", "transfer-encoding": "chunked"})
        while self.sent < self.size:
            await peer.chunk(self.unit)
            self.sent += len(self.unit)
        await peer.chunk(b"")


@pytest.mark.parametrize("how", ["chunk", "read"])
async def test_a_slow_reader_holds_the_provider_back_and_is_no_stall(how: str) -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        eager = Eager()
        upstream.queue(eager)
        reply = await out.open(call(upstream.url, idle_s=SHORT_S))
        await asyncio.sleep(3 * SHORT_S)
        assert eager.sent < eager.size
        seen = 0
        if how == "read":
            seen = len(await reply.read(eager.size))
        else:
            first = await reply.chunk()
            assert len(first) <= UNREAD_BYTES_MAX + 2 * 262_144  # What one or two reads of the socket may add.
            seen = len(first)
            while data := await reply.chunk():
                seen += len(data)
        assert seen == eager.sent == eager.size
        reply.release()
        await fetch(out, call(upstream.url))
        assert upstream.connections == 1


async def test_a_head_of_the_greatest_size_is_read_and_one_more_is_not() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        filler = b"".join(b"x-%d: a\r\n" % i for i in range(bounds.HEADERS_MAX - 2))
        line = b"x: " + b"a" * (bounds.LINE_BYTES_MAX - 3)
        fits = OK + filler + line + b"\r\ncontent-length: 2\r\n\r\n{}"
        upstream.queue(Raw([fits], End.KEEP))
        assert await fetch(out, call(upstream.url)) == b"{}"
        for raw in (fits.replace(line, line + b"a"), fits.replace(line, line + b"\r\ny: b")):
            upstream.queue(Raw([raw], End.KEEP))
            assert (await failing(out, call(upstream.url))).kind is FailureKind.PROTOCOL_ERROR


PLAIN = b"What a long body. " * 40_000
assert len(PLAIN) > 2 * STEP_BYTES_MAX


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def gzip(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(data) + packer.flush()


PACKED = {
    "gzip": ("gzip", gzip(PLAIN)),
    "x-gzip": ("x-gzip", gzip(PLAIN)),
    "two members": ("GZIP", gzip(PLAIN[:10]) + gzip(PLAIN[10:])),
    "deflate": ("deflate", zlib.compress(PLAIN)),
    "raw deflate": ("deflate", raw_deflate(PLAIN)),
    "identity": ("identity", PLAIN),
}


@pytest.mark.parametrize(("coding", "packed"), PACKED.values(), ids=PACKED)
async def test_a_compressed_answer_is_unpacked_in_steps(coding: str, packed: bytes) -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        upstream.queue(*[Json(packed, headers={"content-encoding": coding})] * 2)
        assert await fetch(out, call(upstream.url)) == PLAIN
        reply = await out.open(call(upstream.url))
        chunks = []
        while data := await reply.chunk():
            chunks.append(data)
        assert b"".join(chunks) == PLAIN
        if coding != "identity":
            assert max(map(len, chunks)) <= STEP_BYTES_MAX
        reply.release()
        assert upstream.connections == 1


BAD_PACKED = {
    "gzip that stops early": ("gzip", gzip(PLAIN)[:-9], FailureKind.TRUNCATED),
    "a second member that stops": ("gzip", gzip(PLAIN) + gzip(PLAIN)[:20], FailureKind.TRUNCATED),
    "text after gzip": ("gzip", gzip(PLAIN) + b"text", FailureKind.PROTOCOL_ERROR),
    "text after deflate": ("deflate", zlib.compress(PLAIN) + b"text", FailureKind.PROTOCOL_ERROR),
    "a false checksum": ("gzip", gzip(PLAIN)[:-8] + bytes(8), FailureKind.PROTOCOL_ERROR),
}


@pytest.mark.parametrize(("coding", "packed", "kind"), BAD_PACKED.values(), ids=BAD_PACKED)
async def test_a_badly_compressed_answer_is_no_answer(coding: str, packed: bytes, kind: FailureKind) -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        upstream.queue(Json(packed, headers={"content-encoding": coding}))
        reply = await out.open(call(upstream.url))
        assert (await chunks_until_fault(reply))[1].kind is kind


async def test_an_empty_compressed_answer_is_empty() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        upstream.queue(Json(b"", headers={"content-encoding": "gzip"}))
        assert await fetch(out, call(upstream.url)) == b""


async def test_a_read_that_was_cancelled_leaves_the_rest_to_chunk() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        gates = {i: asyncio.Event() for i in range(3)}
        upstream.queue(Stream(frames=[b"a", b"b", b"c"], gates=gates))
        reply = await out.open(call(upstream.url))
        reading = asyncio.ensure_future(reply.read(100))
        gates[0].set()
        await settled()
        reading.cancel()
        await asyncio.wait({reading})
        assert await reply.chunk() == b"a"
        gates[1].set()
        assert await reply.chunk() == b"b"
        gates[2].set()
        assert await reply.chunk() == b"c"
        assert await reply.chunk() == b""
        reply.release()


@pytest.mark.parametrize("step", [1, 100, 300])
def test_no_output_is_lost_between_steps(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_unpack, "STEP_BYTES_MAX", step)
    plain = b"a" * 1_000
    unpacker = direct_unpack.Unpacker("gzip")
    seen = b""
    for at in range(len(packed := gzip(plain))):
        unpacker.feed(packed[at : at + 1])
        while data := unpacker.step():
            assert len(data) <= step
            seen += data
        assert unpacker.is_whole is (at + 1 == len(packed))
    assert seen == plain


async def test_after_a_fault_every_read_says_the_same() -> None:
    async with ScriptedUpstream() as upstream, transport() as out:
        upstream.queue(Stream(frames=[b"a"], stop_after=1))
        reply = await out.open(call(upstream.url))
        assert (await chunks_until_fault(reply))[1].kind is FailureKind.TRUNCATED
        for again in (reply.chunk(), reply.read(10)):
            with pytest.raises(UpstreamFault) as caught:
                await again
            assert caught.value.failure.kind is FailureKind.TRUNCATED


async def test_a_fault_of_ours_in_a_callback_is_reported_and_ends_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, data: bytes) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(direct_wire.Wire, "on_body", broken)
    reported = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
    async with ScriptedUpstream() as upstream, transport() as out:
        assert (await failing(out, call(upstream.url, BODY))).kind is FailureKind.PROTOCOL_ERROR
    assert isinstance(reported[0].__cause__.__context__, ZeroDivisionError)
