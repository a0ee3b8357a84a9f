"""What the transport's tests share: providers and calls with short deadlines, and what a call came to."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from multidict import CIMultiDict

from routerx.domain.call import UpstreamCall
from routerx.domain.failure import Failure, UpstreamFault
from routerx.domain.policy import Timeouts
from routerx.providers.spec import Auth, Provider
from routerx.upstream.aiohttp_client import AiohttpTransport
from routerx.upstream.base import RESPONSE_BYTES_MAX, Transport, UpstreamReply
from routerx.upstream.direct import DirectTransport

SHORT_S = 0.1
AMPLE_S = 10.0
BODY = json.dumps({"model": "m", "messages": []}).encode()


TRANSPORTS: dict[str, type[AiohttpTransport] | type[DirectTransport]] = {
    "aiohttp": AiohttpTransport,
    "direct": DirectTransport,
}
chosen: list[str] = ["direct"]
"""The transport under test, last in the list; conftest.py sets it."""


@asynccontextmanager
async def transport(**settings: Any) -> AsyncIterator[Transport]:
    provider = Provider("acme", "openai_chat", "http://acme.invalid", Auth.NONE, (), **settings)
    opened = AiohttpTransport(provider) if provider.proxy is not None else TRANSPORTS[chosen[-1]](provider)
    try:
        yield opened
    finally:
        await opened.close()


@asynccontextmanager
async def serving(
    handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """`host:port` of a server that gives each connection to `handler` and closes it when that returns."""
    busy: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        busy.add(task)
        try:
            await handler(reader, writer)
        except (asyncio.CancelledError, ConnectionError):
            pass  # The test is over, or the peer is gone.
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"
    finally:
        server.close()
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)


def call(
    url: str,
    body: bytes = BODY,
    *,
    headers: Mapping[str, str] | None = None,
    first_byte_s: float = AMPLE_S,
    connect_s: float = AMPLE_S,
    idle_s: float = AMPLE_S,
    total_s: float = AMPLE_S,
) -> UpstreamCall:
    return UpstreamCall(
        endpoint="acme/m",
        provider="acme",
        method="POST",
        url=f"{url}/v1/chat/completions",
        headers=CIMultiDict(headers if headers is not None else {"content-type": "application/json"}),
        body=body,
        stream=False,
        timeouts=Timeouts(connect_s=connect_s, idle_s=idle_s, total_s=total_s),
        first_byte_s=first_byte_s,
    )


async def fetch(transport: Transport, sent: UpstreamCall, bytes_max: int = RESPONSE_BYTES_MAX) -> bytes:
    reply = await transport.open(sent)
    body = await reply.read(bytes_max)
    reply.release()
    return body


async def chunks_until_fault(reply: UpstreamReply) -> tuple[bytes, Failure]:
    """All that came before the fault, and the fault."""
    seen = b""
    try:
        async with asyncio.timeout(AMPLE_S):
            while chunk := await reply.chunk():
                seen += chunk
    except UpstreamFault as fault:
        return seen, fault.failure
    finally:
        reply.abort()
    raise AssertionError(f"the body ended well after {len(seen)} bytes")


async def failing(transport: Transport, sent: UpstreamCall) -> Failure:
    with pytest.raises(UpstreamFault) as caught:
        async with asyncio.timeout(AMPLE_S):
            await transport.open(sent)
    return caught.value.failure
