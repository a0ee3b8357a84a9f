"""What the rows of transport.py need beside a scripted server: other ways to listen, names that lead elsewhere, small
limits, endless and broken answers, and checks of their own."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp.abc import AbstractResolver, ResolveResult

from routerx.gateway import judge
from routerx.upstream import aiohttp_wire, direct_pool, direct_wire
from tests.flow.faults.kit import Gear, Play, Ran, Scene, always
from tests.flow.flow_kit import chunk
from tests.support.gateway import GUARD_S, Gateway, wait_for
from tests.support.upstream import Behaviour, End, Hangup, Ok, Peer, ScriptedUpstream, Stream, sse

TLS = Path(__file__).parents[2] / "support" / "tls"
LIMIT_BYTES = 100_000
"""Of answers and heads, where a row is about the limit."""

HEAD = b"HTTP/1.1 200 OK\r\n"
SSE_HEAD = HEAD + b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
HEL = sse(chunk("Hel"))


def at_url(scene: Scene, url: str) -> None:
    scene.value["providers"]["up"]["base_url"] = f"{url}/v1"


@asynccontextmanager
async def nobody_listens(scene: Scene) -> AsyncIterator[None]:
    await scene.up.refuse()
    yield


@asynccontextmanager
async def black_hole(scene: Scene) -> AsyncIterator[None]:
    """A listener whose accept queue is full: further SYNs get no answer."""
    with ExitStack() as stack:
        listener, *fillers = [stack.enter_context(socket.socket()) for _ in range(5)]
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        at_url(scene, f"http://127.0.0.1:{listener.getsockname()[1]}")
        yield


class Names(AbstractResolver):
    """Leads every name to these addresses; no address: the name does not exist; None: no answer comes."""

    def __init__(self, addresses: Sequence[str] | None) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        if self._addresses is None:
            await asyncio.sleep(GUARD_S)
        if not self._addresses:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [
            ResolveResult(hostname=host, host=one, port=port, family=socket.AF_INET, proto=0, flags=0)
            for one in self._addresses
        ]

    async def close(self) -> None:
        pass


def resolving(addresses: Sequence[str] | None) -> Gear:
    @asynccontextmanager
    async def gear(scene: Scene) -> AsyncIterator[None]:
        at_url(scene, "http://api.acme.test")
        scene.patch.setattr(direct_pool, "ThreadedResolver", lambda: Names(addresses))
        yield

    return gear


def of_a_vendor(*addresses: str) -> Gear:
    """`up` is a vendor at its own address, and its name leads elsewhere."""

    @asynccontextmanager
    async def gear(scene: Scene) -> AsyncIterator[None]:
        settings = scene.value["providers"]["up"]
        settings["preset"] = "openai"
        del settings["base_url"], settings["dialect"]
        scene.patch.setattr(direct_pool, "ThreadedResolver", lambda: Names(addresses))
        yield

    return gear


def certified(name: str, *, trusted: bool) -> Gear:
    """`up` speaks TLS, with this certificate."""

    @asynccontextmanager
    async def gear(scene: Scene) -> AsyncIterator[None]:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(TLS / f"{name}.pem")
        async with ScriptedUpstream(tls=context) as scene.up:
            at_url(scene, scene.up.url)
            if trusted:
                scene.value["providers"]["up"]["ca_file"] = str(TLS / f"{name}.pem")
            yield

    return gear


@asynccontextmanager
async def mute_handshake(scene: Scene) -> AsyncIterator[None]:
    """The plain server waits for a request while its client waits for an answer to its hello."""
    at_url(scene, scene.up.url.replace("http:", "https:"))
    yield


@asynccontextmanager
async def small_limits(scene: Scene) -> AsyncIterator[None]:
    scene.patch.setattr(judge, "RESPONSE_BYTES_MAX", LIMIT_BYTES)
    for module in (aiohttp_wire, direct_wire):
        scene.patch.setattr(module, "HEAD_BYTES_MAX", LIMIT_BYTES)
    yield


@asynccontextmanager
async def commenting(scene: Scene) -> AsyncIterator[None]:
    scene.value["server"]["keep_alive"] = "10ms"
    yield


# --- behaviours --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Later:
    """Another behaviour, once the gate is open."""

    gate: asyncio.Event
    then: Behaviour

    async def play(self, peer: Peer) -> None:
        await self.gate.wait()
        await self.then.play(peer)


@dataclass(frozen=True)
class SlowDrip:
    """An answer of which a byte comes every 10 ms, and which never ends. As a stream it says something first."""

    async def play(self, peer: Peer) -> None:
        if peer.request.json.get("stream"):
            await peer.send(SSE_HEAD)
            await peer.chunk(HEL)
        else:
            await peer.send(HEAD + b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            await peer.chunk(b" " if not peer.request.json.get("stream") else b":")
            await asyncio.sleep(0.01)


def breaking(end: End, last: Sequence[bytes] = (b": going\n\n",)) -> Play:
    """A stream that has told "Hel" when the event comes, and then goes on with `last` and ends as `end` says."""
    frames = [HEL, *last, b": never sent\n\n"]
    return lambda gate: Stream(frames=frames, gates={1: gate}, stop_after=1 + len(last), end=end)


@dataclass(frozen=True)
class Retelling:
    """What `up` was about to say, in the same pieces where that shows."""

    async def play(self, peer: Peer) -> None:
        again = Stream(["Hel", "lo"]) if peer.request.json.get("stream") else Ok("Hello")
        await again.play(peer)


SAME = always(Retelling())
OTHER = always(Stream(["Bonjour"]))


def framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


# --- further checks ----------------------------------------------------------------------------------------------


async def hung_up(ran: Ran) -> None:
    """No broken connection is used again, and none is left to run on."""
    for request in ran.scene.up.requests:
        await request.gone()


async def security_is_told(ran: Ran) -> None:
    assert "security: api.openai.com belongs to a public provider" in ran.log
    assert b"169.254" not in ran.reply.body


async def comments_came_first(ran: Ran) -> None:
    assert ran.reply.body.startswith(b": keep-alive\n\n") is ran.scene.cell.stream


async def another_connection_served(ran: Ran) -> None:
    assert ran.scene.up.connections == 2


async def host_alone_is_named(ran: Ran) -> None:
    if not ran.scene.cell.duo:
        assert "elsewhere.test" in ran.reply.error["message"]
    assert b"hush" not in ran.reply.body
    assert "hush" not in ran.log
    assert all(request.path == "/v1/chat/completions" for request in ran.scene.up.requests)


async def asked_for_plain_bytes(ran: Ran) -> None:
    assert [request.headers["accept-encoding"] for request in ran.scene.up.requests] == ["identity"]
    await hung_up(ran)


async def pooled(scene: Scene, gateway: Gateway) -> None:
    """A connection that was used and kept, and whose peer closes it as the next call is written to it."""
    scene.up.queue(Ok(), Hangup())
    assert (await gateway.chat("duo" if scene.cell.duo else "solo")).status == 200
    await wait_for(lambda: gateway.runtime.gateway.in_flight == 0)
