"""The one way out for URLs that callers name (SECURITY.md 24-29): media that a provider must be given as bytes.

A URL is parsed once, and what was checked is what is connected to: scheme, host, port and every address that the name
resolves to; the connection goes to one of just these addresses, with the name in Host and in TLS. Nothing of the
process's environment (proxies, credentials, cookies) takes part, and no answer of a fetched server is ever shown.
"""

import asyncio
import ipaddress
import logging
import re
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from routerx.domain.chat import MediaKind
from routerx.domain.egress import EgressPolicy, Fetched
from routerx.errors import MediaRefused, MediaUnavailable, Overloaded
from routerx.upstream.sniff import sniffed

log = logging.getLogger("routerx.egress")

FETCHES_MAX = 32
"""At once, over all requests."""
URL_CHARS_MAX = 8_192
RESOLUTIONS_MAX = 8
"""At once. What waits for its turn does so on the time of its own fetch."""
_CHUNK_BYTES = 64 * 1024
_REDIRECTS = (301, 302, 303, 307, 308)
_PUBLIC_V6 = ipaddress.ip_network("2000::/3")
"""All that has been given out; mapped, compatible, translated (64:ff9b::/96), local and group addresses lie outside."""
_CLOSED = tuple(
    ipaddress.ip_network(block)
    for block in (
        "192.0.0.0/24",  # Of protocols.
        "192.88.99.0/24",  # Relays to 2002::/16.
        "2001::/23",  # Of protocols, among them Teredo, which carries an IPv4 address.
        "2002::/16",  # Carries an IPv4 address.
        "3fff::/20",  # Of documents.
    )
)
"""Refused whatever the version of Python takes them for: its lists have changed."""
_AUTHORITY = re.compile(r"https?://(\[[0-9a-f:.]+\]|[^][/?#@:]+)(?::[0-9]{1,5})?(?=[/?#]|$)", re.IGNORECASE)
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)+(?![0-9]){_LABEL}")
_NAME_CHARS_MAX = 253

_REMEDY = "Send its bytes as a data: URL."


class Egress:
    """Fetches. Connections are made for one fetch each and kept by nobody."""

    def __init__(self, resolver: AbstractResolver | None = None) -> None:
        """`resolver`: in place of the system's."""
        self._resolver = resolver if resolver is not None else _SystemResolver()
        self._places = asyncio.Semaphore(FETCHES_MAX)

    async def fetch(self, url: str, kinds: frozenset[MediaKind], policy: EgressPolicy) -> Fetched:
        """What `url` holds, if it is media of one of `kinds`.

        Raises MediaRefused for a URL that must not be fetched and for content that is none of `kinds`, MediaUnavailable
        where the fetch fails, takes too long or is too large, Overloaded where it finds no place among FETCHES_MAX in
        the time that it may take itself.
        """
        if not policy.enabled:
            raise MediaRefused(f"This gateway fetches no URLs. {_REMEDY}", param="messages")
        target = checked_url(url, policy)
        try:
            async with asyncio.timeout(policy.timeout_s):
                await self._places.acquire()
        except TimeoutError:
            raise Overloaded("Too many URLs are being fetched at this moment.", retry_after_s=1.0) from None
        try:
            async with asyncio.timeout(policy.timeout_s):
                data = await self._follow(target, policy)
        except TimeoutError:
            raise _unavailable(target, f"did not send everything within {policy.timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            log.info("fetching from %s failed: %s", target.raw_host, type(error).__name__)
            raise _unavailable(target, "could not be fetched") from None
        finally:
            self._places.release()
        mime = sniffed(data, kinds)
        if mime is None:
            wanted = ", ".join(sorted(kinds))
            raise MediaRefused(f"What {target.raw_host!r} sent is no {wanted} of a known format.", param="messages")
        return Fetched(mime, data)

    async def close(self) -> None:
        await self._resolver.close()

    async def _follow(self, target: URL, policy: EgressPolicy) -> bytes:
        """The body at the end of the redirects, each of which is checked like the first URL."""
        for _ in range(policy.redirects_max + 1):
            async with self._get(target, policy) as response:
                if response.status not in _REDIRECTS:
                    return await _body(response, target, policy)
                location = response.headers.get("Location")
            if location is None:
                raise _unavailable(target, "redirects to nowhere")
            following = checked_url(str(target.join(URL(location, encoded=False))), policy)
            if target.scheme == "https" and following.scheme != "https":
                raise MediaRefused(f"{target.raw_host!r} redirects from https to http.", param="messages")
            target = following
        raise _unavailable(target, f"redirects more than {policy.redirects_max} times")

    @asynccontextmanager
    async def _get(self, target: URL, policy: EgressPolicy) -> AsyncIterator[aiohttp.ClientResponse]:
        connector = aiohttp.TCPConnector(
            resolver=_Pinned(await self._addresses(target, policy)), use_dns_cache=False, force_close=True, limit=1
        )
        async with (
            aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                auto_decompress=False,  # A small body must not become a large one.
                headers={"User-Agent": "routerx", "Accept": "*/*", "Accept-Encoding": "identity"},
            ) as session,
            session.get(target, allow_redirects=False) as response,
        ):
            yield response

    async def _addresses(self, target: URL, policy: EgressPolicy) -> list[ResolveResult]:
        """Where the name leads: all of it must be public, or none of it is used (SECURITY.md 25, 28)."""
        host, port = target.raw_host, target.port  # The name that is in Host and in TLS, to the letter.
        assert host is not None
        assert port is not None
        try:
            found = [_result(host, host, port)] if _literal(host) else await self._resolver.resolve(host, port)
        except OSError:
            raise _unavailable(target, "has no address") from None
        if not found:
            raise _unavailable(target, "has no address")
        if not _is_vouched(target, policy) and not all(is_public(one["host"]) for one in found):
            raise _closed(host, "is not a public address")
        return found


class _SystemResolver(AbstractResolver):
    """The system's resolver in threads of its own.

    A name whose servers never answer holds a thread for as long as the system cares to wait. The loop's threads are
    few, and the names of providers are resolved in them: callers must not be able to take them all.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(RESOLUTIONS_MAX, "routerx-egress")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        ask = partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM)
        infos = await asyncio.get_running_loop().run_in_executor(self._threads, ask)
        return [_result(host, str(info[4][0]), port) for info in infos]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class _Pinned(AbstractResolver):
    """Answers with addresses that have been checked, whatever the name leads to by now."""

    def __init__(self, addresses: list[ResolveResult]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return self._addresses

    async def close(self) -> None:
        pass


def _result(name: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ResolveResult(hostname=name, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST)


async def _body(response: aiohttp.ClientResponse, target: URL, policy: EgressPolicy) -> bytes:
    if response.status != 200:
        raise _unavailable(target, f"answered with status {response.status}")
    if response.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise _unavailable(target, "sends its content compressed, unasked")
    declared = response.content_length
    if declared is not None and declared > policy.bytes_max:
        raise _too_large(target, policy)
    body = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        body += chunk
        if len(body) > policy.bytes_max:
            raise _too_large(target, policy)
    return bytes(body)


def _unavailable(target: URL, what: str) -> MediaUnavailable:
    return MediaUnavailable(f"{target.raw_host!r}, named by a URL in the request, {what}. {_REMEDY}", param="messages")


def _too_large(target: URL, policy: EgressPolicy) -> MediaUnavailable:
    return _unavailable(target, f"sends more than {policy.bytes_max} bytes")


def _closed(host: str, why: str) -> MediaRefused:
    """Refuses what the operator might wish to admit: the operator is told how, the caller is not."""
    log.warning("refused to fetch from %s: it %s; server.egress.allow_hosts would admit it", host, why)
    return MediaRefused(f"The URL of {host!r} in the request {why}. {_REMEDY}", param="messages")


# --- what may be asked -------------------------------------------------------------------------------------------


def checked_url(text: str, policy: EgressPolicy) -> URL:
    """The URL, parsed once and for all. Raises MediaRefused, whose message shows nothing but the host."""
    if len(text) > URL_CHARS_MAX or not text.isprintable() or " " in text or "\\" in text:
        raise MediaRefused(f"A URL in the request is malformed or too long. {_REMEDY}", param="messages")
    try:
        url = URL(text)
        host, port = url.raw_host, url.port
        plain = _is_plain(text, url)
    except ValueError:
        raise MediaRefused(f"A URL in the request is malformed. {_REMEDY}", param="messages") from None
    if url.scheme not in ("http", "https") or not host or port is None:
        raise MediaRefused(f"A URL in the request is not one of http(s). {_REMEDY}", param="messages")
    if not plain:
        raise MediaRefused(
            f"A URL in the request does not write its host plainly: no credentials, no other characters than those of "
            f"the name, its port in digits. {_REMEDY}",
            param="messages",
        )
    if _is_vouched(url, policy):
        return url
    if url.scheme != "https" and not policy.allow_http:
        raise _closed(host, "is not https")
    if port not in policy.ports and not (policy.allow_http and port == 80):
        raise _closed(host, f"names port {port}, which is closed")
    if not (is_public(host) if _literal(host) else _is_name(host)):
        raise _closed(host, "is not a public address")
    return url


def _is_plain(text: str, url: URL) -> bool:
    """Whether the host is written just as it is understood: what other parsers might take for another host or port
    (credentials, digits and dots of other scripts, zones, empty ports) is not worth guessing."""
    written = _AUTHORITY.match(text)
    return written is not None and (written[1].startswith("[") or written[1].lower() in (url.host, url.raw_host))


def _is_vouched(url: URL, policy: EgressPolicy) -> bool:
    host = url.host_subcomponent
    return host in policy.allow_hosts or f"{host}:{url.port}" in policy.allow_hosts


def _literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_name(host: str) -> bool:
    """A name of at least two parts. What a resolver may take for an address in another notation (decimal, octal,
    hexadecimal, abbreviated) has a last part that begins with a digit; a name without a dot is a machine of ours."""
    return len(host) <= _NAME_CHARS_MAX and _NAME.fullmatch(host) is not None


def is_public(address: str) -> bool:
    """Whether an address is reachable by everybody. One that carries another address in it never is."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if ip.version == 6 and ip not in _PUBLIC_V6:
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and not any(ip in block for block in _CLOSED)
