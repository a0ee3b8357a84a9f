"""A served edge and a raw client for it: what a test writes is what goes over the wire."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from routerx.errors import RouterXError
from routerx.http.edge import EdgeLimits, EdgeServer, read_body
from tests.support.clock import ManualClock

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

BODY_MAX = 1000
GET = b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n"


class Wire:
    """One raw client connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.version = ""
        """Of the last response."""

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def response(self) -> tuple[int, dict[str, str], bytes]:
        """The next response, framed by Content-Length."""
        head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 5)).decode()
        lines = head.split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:-2])}
        self.version = lines[0].partition(" ")[0]
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return int(lines[0].split(" ")[1]), headers, body

    async def rest(self) -> bytes:
        """Everything until the server closes; a reset counts as a close."""
        try:
            return await asyncio.wait_for(self.reader.read(), 5)
        except ConnectionResetError:
            return b""


class Edge:
    """An EdgeServer on a loopback port under a clock moved by hand. Counts the paths that its handler executed."""

    def __init__(self, limits: EdgeLimits, handler: Handler | None) -> None:
        self.clock = ManualClock()
        self.closed: Counter[str] = Counter()
        self.executed: Counter[str] = Counter()
        self.bodies: list[bytes] = []
        self._handler = handler if handler is not None else self._echo
        self.server = EdgeServer(self._count, limits, self.clock, self._on_closed)
        self.port = 0
        self.wires: list[Wire] = []

    def _on_closed(self, reason: str) -> None:
        self.closed[reason] += 1

    async def _count(self, request: web.BaseRequest) -> web.StreamResponse:
        self.executed[request.path] += 1
        return await self._handler(request)

    async def _echo(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            body = await read_body(request, bytes_max=BODY_MAX, idle_s=30, total_s=120, clock=self.clock)
        except RouterXError as error:
            return web.json_response({"error": {"code": error.code}}, status=error.status)
        self.bodies.append(body)
        return web.json_response({"path": request.path, "bytes": len(body)})

    async def connect(self) -> Wire:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        wire = Wire(reader, writer)
        self.wires.append(wire)
        return wire

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let the loop run until `condition`: for what the kernel delivers in its own time."""
        for _ in range(2000):
            if condition():
                return
            await asyncio.sleep(0.001)
        raise AssertionError("the condition did not come true")

    async def accepted(self, count: int = 1) -> None:
        await self.until(lambda: self.server.connections >= count)


@asynccontextmanager
async def serving(limits: EdgeLimits | None = None, handler: Handler | None = None) -> AsyncIterator[Edge]:
    edge = Edge(limits if limits is not None else EdgeLimits(), handler)
    listener = await asyncio.get_running_loop().create_server(edge.server, "127.0.0.1", 0)
    edge.port = listener.sockets[0].getsockname()[1]
    try:
        yield edge
    finally:
        listener.close()
        for wire in edge.wires:
            wire.writer.transport.abort()
        stop = asyncio.ensure_future(edge.server.shutdown(0))
        while not stop.done():
            await edge.clock.run(0.1)
        await stop
