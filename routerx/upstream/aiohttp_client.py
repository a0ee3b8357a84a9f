"""The transport for real providers: aiohttp's client with every default that matters overridden (FAULTS.md).

Owns one provider's connections. Deadlines are our own: connecting (DNS and TLS included), response headers, silence;
the overall cap is the caller's. No cookies, no redirects, no proxy or netrc from the environment, no limit on
connections (provider A's slow calls must not starve provider B), nothing added to the headers it is given but a plain
accept and identity encoding where they are missing.
"""

import asyncio
import ssl
import time
from collections.abc import Mapping

import aiohttp
from aiohttp import http_parser
from aiohttp.client_reqrep import ClientResponse
from aiohttp.helpers import EMPTY_BODY_STATUS_CODES
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from routerx.domain.call import UpstreamCall
from routerx.domain.failure import FailureKind, UpstreamFault
from routerx.errors import OperatorError
from routerx.providers.spec import Provider
from routerx.upstream.aiohttp_wire import Sending, Wire, WirePool
from routerx.upstream.base import UpstreamReply
from routerx.upstream.bounds import (
    CACHED_MAX,
    DNS_SHARE,
    HEADERS_MAX,
    KEEPALIVE_S,
    LINE_BYTES_MAX,
    READ_BUFFER_BYTES,
)
from routerx.upstream.dns import DNS_TTL_S, StaleResolver, guarded
from routerx.upstream.faults import CAUGHT, Phase, failure, failure_of
from routerx.upstream.sockets import private_trust


class AiohttpTransport:
    """One provider's way out. Connections open on first use, on the running event loop."""

    def __init__(self, provider: Provider) -> None:
        _require_compiled_parser()
        self._provider = provider
        self._session: aiohttp.ClientSession | None = None
        self._single_use: aiohttp.ClientSession | None = None
        self._ssl: ssl.SSLContext | None = None
        self._closed = False
        self._urls: dict[str, URL] = {}
        self._timeouts: dict[float, aiohttp.ClientTimeout] = {}

    async def open(self, call: UpstreamCall) -> UpstreamReply:
        """As Transport.open. A call that found its pooled connection closed is sent once more, on a new one."""
        if self._session is None:
            self._session = self._new_session(call, reuse=True)
        reply = await self._send(self._session, call, may_resend=True)
        if reply is None:
            if self._single_use is None:
                self._single_use = self._new_session(call, reuse=False)
            reply = await self._send(self._single_use, call, may_resend=False)
            assert reply is not None
        return reply

    async def close(self) -> None:
        self._closed = True
        for session in (self._session, self._single_use):
            if session is not None:
                await session.close()

    async def _send(self, session: aiohttp.ClientSession, call: UpstreamCall, *, may_resend: bool) -> "_Reply | None":
        """None: the pooled connection was closed under it before a byte came back (FAULTS.md 14)."""
        if self._closed:
            raise UpstreamFault(failure(FailureKind.CONNECT_ERROR, call, "its configuration was replaced"))
        sending = Sending(call)
        opened_s = asyncio.get_running_loop().time()
        try:
            response = await session.request(
                call.method,
                self._url(call.url),
                data=sending,
                headers=call.headers,
                timeout=self._timeout(call.timeouts.connect_s),
                allow_redirects=False,
                proxy=self._proxy(call),
            )
        except CAUGHT as error:
            sending.abort()
            phase = Phase.CONNECT if sending.wire is None else Phase.HEAD
            found = failure_of(error, phase, call)
            if may_resend and found.kind is FailureKind.RESET_BEFORE_OUTPUT and sending.may_go_again:
                return None
            raise UpstreamFault(found) from error
        except BaseException:
            sending.abort()
            raise
        sending.ended()
        if _is_irregular(response):
            response.close()
            sending.abort()  # Had the body come along with its head, the pool would already hold the connection.
            raise UpstreamFault(failure(FailureKind.PROTOCOL_ERROR, call))
        return _Reply(response, sending, call, opened_s)

    def _new_session(self, call: UpstreamCall, *, reuse: bool) -> aiohttp.ClientSession:
        resolver = StaleResolver(ThreadedResolver(), self._provider.timeouts.connect_s * DNS_SHARE, time.monotonic)
        proxy = self._proxy(call)
        pool = WirePool(
            limit=0,
            limit_per_host=0,
            ssl=self._trust(call),
            resolver=guarded(resolver, public=self._provider.public, spared=None if proxy is None else proxy.host),
            ttl_dns_cache=DNS_TTL_S,
            **({"keepalive_timeout": KEEPALIVE_S} if reuse else {"force_close": True}),
        )
        return aiohttp.ClientSession(
            connector=pool,
            timeout=aiohttp.ClientTimeout(total=None),
            headers={"accept": "*/*", "accept-encoding": "identity", "user-agent": "RouterX"},
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            # We ask for no compression. Who compresses all the same is read in bounded steps, and what comes out is
            # counted against the caller's cap like any other body (FAULTS.md 21).
            auto_decompress=True,
            read_bufsize=READ_BUFFER_BYTES,
            max_line_size=LINE_BYTES_MAX,
            max_field_size=LINE_BYTES_MAX,
            max_headers=HEADERS_MAX,
        )

    def _trust(self, call: UpstreamCall) -> ssl.SSLContext | bool:
        """The system's authorities, and the provider's own where it names a file."""
        ca_file = self._provider.ca_file
        if ca_file is None:
            return True
        if self._ssl is None:
            self._ssl = private_trust(self._provider, ca_file, call)
        return self._ssl

    def _url(self, text: str) -> URL:
        url = self._urls.get(text)
        if url is None:
            if len(self._urls) >= CACHED_MAX:
                self._urls.clear()
            url = self._urls[text] = URL(text, encoded=True)
        return url

    def _timeout(self, connect_s: float) -> aiohttp.ClientTimeout:
        timeout = self._timeouts.get(connect_s)
        if timeout is None:
            if len(self._timeouts) >= CACHED_MAX:
                self._timeouts.clear()
            timeout = self._timeouts[connect_s] = aiohttp.ClientTimeout(total=None, connect=connect_s)
        return timeout

    def _proxy(self, call: UpstreamCall) -> URL | None:
        proxy = call.proxy if call.proxy is not None else self._provider.proxy
        return None if proxy is None else self._url(proxy)


class _Reply:
    """An open aiohttp response as an UpstreamReply."""

    __slots__ = ("_call", "_content", "_deadline_s", "_response", "_until_close", "_wire", "headers", "status")

    def __init__(self, response: ClientResponse, sending: Sending, call: UpstreamCall, opened_s: float) -> None:
        assert sending.wire is not None
        self.status: int = response.status
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._content = response.content
        self._wire: Wire = sending.wire
        self._call = call
        self._deadline_s = opened_s + call.timeouts.total_s
        self._until_close = (
            "content-length" not in self.headers
            and "transfer-encoding" not in self.headers
            and self.status not in EMPTY_BODY_STATUS_CODES
        )
        if not self._content.is_eof():
            # The body is still coming: from here on silence is the matter. (At its end the wire is the pool's again.)
            self._wire.read_timeout = call.timeouts.idle_s
            self._wire.start_timeout()

    async def read(self, bytes_max: int) -> bytes:
        declared = self._response.content_length
        if declared is not None and declared > bytes_max:
            raise self._too_large(bytes_max)
        body = await self.chunk()
        if len(body) <= bytes_max and self._content.at_eof() and not self._until_close:
            return body
        parts = []
        size = 0
        while body:
            if asyncio.get_running_loop().time() > self._deadline_s:
                raise self._too_slow()
            size += len(body)
            if size > bytes_max:
                raise self._too_large(bytes_max)
            parts.append(body)
            body = await self.chunk()
        return b"".join(parts)

    async def chunk(self) -> bytes:
        try:
            data = await self._content.readany()
        except CAUGHT as error:
            # What had arrived before the fault is still an answer's beginning: aiohttp would drop it.
            if left := self._content._read_nowait(-1):
                return left
            raise self._fault(error) from error
        if not data and self._until_close and self._wire.lost is not None:
            raise self._fault(self._wire.lost)
        return data

    def release(self) -> None:
        self._response.release()

    def abort(self) -> None:
        connection = self._response.connection
        if connection is not None and connection.transport is not None:
            connection.transport.abort()
        self._response.close()

    def _fault(self, error: BaseException) -> UpstreamFault:
        if isinstance(error, aiohttp.ClientPayloadError) and self._wire.lost is not None:
            error = self._wire.lost  # The parser says "incomplete"; the reason is the reset.
        found = failure_of(error, Phase.BODY, self._call)
        if found.kind is FailureKind.RESET_MIDSTREAM and self._content.total_bytes == 0:
            found = failure(FailureKind.RESET_BEFORE_OUTPUT, self._call)
        self.abort()
        return UpstreamFault(found)

    def _too_slow(self) -> UpstreamFault:
        self.abort()
        return UpstreamFault(failure(FailureKind.TOTAL_TIMEOUT, self._call))

    def _too_large(self, bytes_max: int) -> UpstreamFault:
        self.abort()
        return UpstreamFault(failure(FailureKind.TOO_LARGE, self._call, f"{bytes_max} bytes are read at most"))


def _is_irregular(response: ClientResponse) -> bool:
    """What aiohttp's lenient parser lets through and we do not (FAULTS.md 18, 23)."""
    if not 200 <= response.status <= 599 or response.version is None or response.version.major != 1:
        return True
    codings = response.headers.getall("transfer-encoding", ())
    if not codings:
        return False
    return len(codings) > 1 or codings[0].lower() != "chunked" or "content-length" in response.headers


def _require_compiled_parser() -> None:
    if http_parser.HttpResponseParser.__module__ != "aiohttp._http_parser":
        raise OperatorError(
            "aiohttp runs without its compiled HTTP parser, and the pure Python one is not safe enough for providers. "
            "Install aiohttp from a wheel, and leave AIOHTTP_NO_EXTENSIONS unset."
        )
