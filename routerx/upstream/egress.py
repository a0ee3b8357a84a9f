"""The one way out for URLs that callers name (SECURITY.md 24-29): media that a provider must be given as bytes.

A URL is parsed once, and what was checked is what is connected to: scheme, host, port and every address that the name
resolves to; the connection goes to one of just these addresses, with the name in Host and in TLS. Nothing of the
process's environment (proxies, credentials, cookies) takes part, and no answer of a fetched server is ever shown.
"""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from routerx.domain.chat import MediaKind
from routerx.domain.egress import EgressPolicy, Fetched
from routerx.errors import MediaRefused, MediaUnavailable
from routerx.upstream.sniff import sniffed

log = logging.getLogger("routerx.egress")

FETCHES_MAX = 32
"""At once, over all requests."""
URL_CHARS_MAX = 8_192
_CHUNK_BYTES = 64 * 1024
_REDIRECTS = (301, 302, 303, 307, 308)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.ip_network("64:ff9b:1::/48")
_SIX_TO_FOUR = ipaddress.ip_network("2002::/16")
_TEREDO = ipaddress.ip_network("2001::/32")

_REMEDY = "Send its bytes as a data: URL."


class Egress:
    """Fetches. Connections are made for one fetch each and kept by nobody."""

    def __init__(self, resolver: AbstractResolver | None = None) -> None:
        """`resolver`: in place of the system's."""
        self._resolver = resolver
        self._places = asyncio.Semaphore(FETCHES_MAX)

    async def fetch(self, url: str, kinds: frozenset[MediaKind], policy: EgressPolicy) -> Fetched:
        """What `url` holds, if it is media of one of `kinds`.

        Raises MediaRefused for a URL that must not be fetched and for content that is none of `kinds`, MediaUnavailable
        where the fetch fails, takes too long or is too large.
        """
        if not policy.enabled:
            raise MediaRefused(f"This gateway fetches no URLs. {_REMEDY}", param="messages")
        target = checked_url(url, policy)
        try:
            async with self._places, asyncio.timeout(policy.timeout_s):
                data = await self._follow(target, policy)
        except TimeoutError:
            raise _unavailable(target, f"did not answer within {policy.timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            log.info("fetching from %s failed: %s", target.host, type(error).__name__)
            raise _unavailable(target, "could not be fetched") from None
        mime = sniffed(data, kinds)
        if mime is None:
            wanted = ", ".join(sorted(kinds))
            raise MediaRefused(f"What {target.host!r} sent is no {wanted} of a known format.", param="messages")
        return Fetched(mime, data)

    async def close(self) -> None:
        if self._resolver is not None:
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
                raise MediaRefused(f"{target.host!r} redirects from https to http.", param="messages")
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
        host, port = target.host, target.port
        assert host is not None
        assert port is not None
        try:
            found = [_result(host, host, port)] if _literal(host) else await self._resolve(host, port)
        except OSError:
            raise _unavailable(target, "has no address") from None
        if not _is_vouched(target, policy):
            for one in found:
                if not is_public(one["host"]):
                    log.warning(
                        "refused to fetch from %s: it leads to an address that is not public; server.egress.allow_hosts"
                        " would admit it",
                        host,
                    )
                    raise MediaRefused(f"{host!r} is not a public address. {_REMEDY}", param="messages")
        return found

    async def _resolve(self, host: str, port: int) -> list[ResolveResult]:
        if self._resolver is not None:
            found = await self._resolver.resolve(host, port, socket.AF_UNSPEC)
        else:
            infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found = [_result(host, str(info[4][0]), port) for info in infos]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "no address")
        return found


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
    return MediaUnavailable(f"{target.host!r}, named by a URL in the request, {what}. {_REMEDY}", param="messages")


def _too_large(target: URL, policy: EgressPolicy) -> MediaUnavailable:
    return _unavailable(target, f"sends more than {policy.bytes_max} bytes")


# --- what may be asked -------------------------------------------------------------------------------------------


def checked_url(text: str, policy: EgressPolicy) -> URL:
    """The URL, parsed once and for all. Raises MediaRefused, whose message shows nothing but the host."""
    if len(text) > URL_CHARS_MAX or not text.isprintable() or any(char in text for char in " \\\t\r\n\0"):
        raise MediaRefused(f"A URL in the request is malformed or too long. {_REMEDY}", param="messages")
    try:
        url = URL(text)
        host, port = url.host, url.port
    except ValueError:
        raise MediaRefused(f"A URL in the request is malformed. {_REMEDY}", param="messages") from None
    if url.scheme not in ("http", "https") or not host or port is None:
        raise MediaRefused(f"A URL in the request is not one of http(s). {_REMEDY}", param="messages")
    if url.user is not None or url.password is not None or "@" in url.raw_authority:
        raise MediaRefused(f"The URL of {host!r} in the request holds credentials.", param="messages")
    if _is_vouched(url, policy):
        return url
    if url.scheme != "https" and not policy.allow_http:
        raise MediaRefused(f"The URL of {host!r} in the request is not https.", param="messages")
    if port not in policy.ports and not (policy.allow_http and port == 80):
        raise MediaRefused(f"The URL of {host!r} in the request names port {port}, which is closed.", param="messages")
    if not _is_name(host) and not is_public(host):
        raise MediaRefused(f"{host!r} is not a public address. {_REMEDY}", param="messages")
    return url


def _is_vouched(url: URL, policy: EgressPolicy) -> bool:
    return url.host in policy.allow_hosts or f"{url.host}:{url.port}" in policy.allow_hosts


def _literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_name(host: str) -> bool:
    """A name with a top-level domain of letters. What a resolver may take for an address in another notation (decimal,
    octal, hexadecimal, abbreviated) has a last part that begins with a digit; a name without a dot is a machine of
    ours."""
    if _literal(host):
        return False
    labels = host.rstrip(".").split(".")
    last = labels[-1]
    return len(labels) > 1 and not last[:1].isdigit() and not host.endswith("..") and "%" not in host


def is_public(address: str) -> bool:
    """Whether an address is reachable by everybody. Addresses that carry one of the older kind are judged by both."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None or ip.is_site_local or ip in _NAT64_LOCAL:
            return False
        if ip in _NAT64 or ip in _SIX_TO_FOUR or ip in _TEREDO:
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved
