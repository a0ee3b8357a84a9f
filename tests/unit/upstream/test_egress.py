"""The guarded way out: what may be asked, whom it is asked of, and what is taken back."""

import asyncio
import gzip
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from routerx.domain.chat import MediaKind
from routerx.domain.egress import EgressPolicy
from routerx.errors import MediaRefused, MediaUnavailable
from routerx.upstream.egress import Egress, checked_url, is_public
from routerx.upstream.sniff import sniffed

IMAGE = frozenset({MediaKind.IMAGE})
FILE = frozenset({MediaKind.FILE})
PNG = b"\x89PNG\r\n\x1a\n" + bytes(32)
STRICT = EgressPolicy()
LOOSE = EgressPolicy(allow_http=True, ports=frozenset({443, 8443}))
TLS = Path(__file__).parents[2] / "support" / "tls"

FORBIDDEN = [
    # Other schemes, and none.
    "file:///etc/passwd",
    "ftp://example.com/a.png",
    "gopher://example.com/",
    "data:image/png;base64,AAAA",
    "//example.com/a.png",
    "/a.png",
    "example.com/a.png",
    "javascript:alert(1)",
    "unix:///var/run/docker.sock",
    "",
    # Plain http, and ports that are closed.
    "http://example.com/a.png",
    "https://example.com:22/",
    "https://example.com:8080/",
    "https://example.com:0/",
    "https://example.com:99999/",
    # Credentials, and what parsers disagree about.
    "https://user@example.com/",
    "https://user:pass@example.com/",
    "https://example.com@127.0.0.1/",
    "https://a@127.0.0.1:80@b/",
    "https://127.0.0.1\\@example.com/",
    "https://example.com\\.evil.test/",
    "https://exam\tple.com/",
    "https://example.com/a b",
    "https://example.com/\r\nHost: evil",
    "https://example.com/\0",
    "https://exa\u202emple.com/",
    "https://[::1/",
    "https:///a.png",
    "https://:443/",
    # This machine and its network, in every notation.
    "https://localhost/",
    "https://localhost./",
    "https://intranet/",
    "https://127.0.0.1/",
    "https://127.1/",
    "https://127.0.1/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0x7f.0.0.1/",
    "https://0177.0.0.1/",
    "https://017700000001/",
    "https://127.0.0.1./",
    "https://127。0。0。1/",
    "https://①②⑦.0.0.1/",
    "https://0.0.0.0/",
    "https://0/",
    "https://10.0.0.1/",
    "https://172.16.0.1/",
    "https://192.168.1.1/",
    "https://169.254.169.254/latest/meta-data/",
    "https://100.64.0.1/",
    "https://198.18.0.1/",
    "https://192.0.2.1/",
    "https://224.0.0.1/",
    "https://240.0.0.1/",
    "https://255.255.255.255/",
    "https://[::]/",
    "https://[::1]/",
    "https://[fe80::1]/",
    "https://[fe80::1%25eth0]/",
    "https://[fc00::1]/",
    "https://[fd00::1]/",
    "https://[fec0::1]/",
    "https://[ff02::1]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:10.0.0.1]/",
    "https://[::ffff:8.8.8.8]/",
    "https://[64:ff9b::7f00:1]/",
    "https://[64:ff9b::808:808]/",
    "https://[2002:7f00:1::]/",
    "https://[2001:0:7f00:1::]/",
    "https://[2001:db8::1]/",
    "https://" + "a" * 9_000 + ".com/",
]


class Answers(AbstractResolver):
    """A resolver that gives these addresses, one list after the other; the last for ever."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        self.asked.append(host)
        found = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return [
            ResolveResult(
                hostname=host,
                host=one,
                port=port,
                family=socket.AF_INET6 if ":" in one else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for one in found
        ]

    async def close(self) -> None:
        pass


@asynccontextmanager
async def site(handler: object, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server on this machine; its port."""
    server = web.Server(handler)  # type: ignore[arg-type]  # Any coroutine function of a request.
    runner = web.ServerRunner(server)
    await runner.setup()
    where = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await where.start()
    assert runner.addresses
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def vouched(port: int, **changes: object) -> EgressPolicy:
    return msgspec.structs.replace(STRICT, allow_hosts=frozenset({f"127.0.0.1:{port}"}), **changes)


def sends(body: bytes, **headers: str) -> object:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=body, headers={"Content-Type": "image/png", **headers})

    return handle


async def refusal(url: str, policy: EgressPolicy, kinds: frozenset[MediaKind] = IMAGE) -> str:
    with pytest.raises((MediaRefused, MediaUnavailable)) as caught:
        await Egress().fetch(url, kinds, policy)
    return str(caught.value)


# --- what may be asked


def test_the_corpus_is_as_large_as_it_should_be() -> None:
    assert len(set(FORBIDDEN)) >= 60


@pytest.mark.parametrize("url", FORBIDDEN, ids=lambda url: ascii(url)[:40])
async def test_a_url_that_could_reach_what_is_not_public_is_refused_before_anything_is_sent(url: str) -> None:
    resolver = Answers(["127.0.0.1"])

    with pytest.raises((MediaRefused, MediaUnavailable)):
        await Egress(resolver).fetch(url, IMAGE, STRICT)


@pytest.mark.parametrize("url", ["https://example.com/a.png?x=1", "https://8.8.8.8/", "https://[2606:4700::1111]/"])
def test_a_public_url_is_let_through(url: str) -> None:
    assert str(checked_url(url, STRICT)) == url


def test_http_and_further_ports_are_the_operators_to_open() -> None:
    assert checked_url("http://example.com/", LOOSE).port == 80
    assert checked_url("https://example.com:8443/", LOOSE).port == 8443
    with pytest.raises(MediaRefused):
        checked_url("http://example.com:8080/", LOOSE)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.1.2.3", "::1", "fe80::1%eth0", "::ffff:8.8.8.8", "64:ff9b::1", "nonsense", ""]
)
def test_an_address_is_public_only_where_everybody_reaches_it(address: str) -> None:
    assert not is_public(address)


async def test_a_switched_off_egress_fetches_nothing() -> None:
    assert "fetches no URLs" in await refusal("https://example.com/", msgspec.structs.replace(STRICT, enabled=False))


# --- where it leads


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.7", "::1", "169.254.169.254", "::ffff:127.0.0.1"])
async def test_a_name_that_leads_to_a_private_address_is_refused(address: str) -> None:
    with pytest.raises(MediaRefused, match=r"'evil\.test' is not a public address"):
        await Egress(Answers([address])).fetch("https://evil.test/a.png", IMAGE, STRICT)


async def test_one_private_address_among_public_ones_is_enough() -> None:
    with pytest.raises(MediaRefused):
        await Egress(Answers(["8.8.8.8", "127.0.0.1"])).fetch("https://evil.test/", IMAGE, STRICT)


async def test_a_name_is_resolved_once_so_that_it_cannot_change_its_mind() -> None:
    resolver = Answers(["8.8.8.8"], ["127.0.0.1"])
    egress = Egress(resolver)

    addresses = await egress._addresses(checked_url("https://rebind.test/", STRICT), STRICT)

    assert [one["host"] for one in addresses] == ["8.8.8.8"]
    assert resolver.asked == ["rebind.test"]


async def test_the_connection_goes_to_the_checked_address_with_the_name_in_host() -> None:
    seen: list[str] = []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request.headers["Host"])
        return web.Response(body=PNG)

    async with site(handle) as port:
        policy = msgspec.structs.replace(STRICT, allow_hosts=frozenset({"images.test"}))
        got = await Egress(Answers(["127.0.0.1"])).fetch(f"http://images.test:{port}/a", IMAGE, policy)

    assert got.data == PNG
    assert seen == [f"images.test:{port}"]


async def test_certificates_are_checked() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "good.pem")
    async with site(sends(PNG), context) as port:
        said = await refusal(f"https://127.0.0.1:{port}/", vouched(port))

    assert "could not be fetched" in said


# --- what comes back


async def test_an_image_is_fetched_and_named_by_its_bytes() -> None:
    async with site(sends(PNG, **{"Content-Type": "text/plain"})) as port:
        got = await Egress().fetch(f"http://127.0.0.1:{port}/a.gif", IMAGE, vouched(port))

    assert (got.mime, got.data) == ("image/png", PNG)


@pytest.mark.parametrize(
    "body",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"<?xml version='1.0'?><svg/>",
        b"<!DOCTYPE html><p>",
        b"just text",
        b"",
        b"%PDF-1.7",
    ],
)
async def test_what_is_no_image_is_refused_whatever_its_label(body: bytes) -> None:
    async with site(sends(body)) as port:
        said = await refusal(f"http://127.0.0.1:{port}/secret?token=abc", vouched(port))

    assert "is no image" in said
    assert "secret" not in said
    assert "token" not in said
    assert body[:8].decode() not in said or not body


@pytest.mark.parametrize("declared", [True, False])
async def test_more_than_the_limit_is_refused_with_and_without_a_declared_length(declared: bool) -> None:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if declared:
            return web.Response(body=PNG + bytes(1000))
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for _ in range(100):
            await response.write(PNG)
        return response

    async with site(handle) as port:
        said = await refusal(f"http://127.0.0.1:{port}/", vouched(port, bytes_max=500))

    assert "more than 500 bytes" in said


async def test_a_compressed_body_is_not_unpacked() -> None:
    async with site(sends(gzip.compress(bytes(10_000_000)), **{"Content-Encoding": "gzip"})) as port:
        assert "compressed" in await refusal(f"http://127.0.0.1:{port}/", vouched(port))


async def test_silence_ends_at_the_deadline() -> None:
    gone = asyncio.Event()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        await gone.wait()
        return web.Response()

    async with site(handle) as port:
        said = await refusal(f"http://127.0.0.1:{port}/", vouched(port, timeout_s=0.05))
        gone.set()

    assert "within 0.05 s" in said


@pytest.mark.parametrize("status", [204, 401, 404, 500])
async def test_any_other_status_than_success_is_told_and_nothing_else(status: int) -> None:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=status, text="" if status == 204 else "internal secret")

    async with site(handle) as port:
        said = await refusal(f"http://127.0.0.1:{port}/", vouched(port))

    assert f"status {status}" in said
    assert "internal secret" not in said


# --- redirects


async def redirected(location: str, **changes: object) -> str:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": location.replace("SELF", request.headers["Host"])})

    async with site(handle) as port:
        return await refusal(f"http://127.0.0.1:{port}/", vouched(port, **changes))


@pytest.mark.parametrize(
    "location", ["http://127.0.0.1:1/", "https://169.254.169.254/", "file:///etc/passwd", "//[::1]/"]
)
async def test_every_hop_is_checked_like_the_first(location: str) -> None:
    assert "127.0.0.1:1/" not in await redirected(location)


async def test_a_loop_of_redirects_ends() -> None:
    assert "redirects more than 3 times" in await redirected("http://SELF/again")


async def test_a_redirect_within_the_rules_is_followed() -> None:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/":
            return web.Response(status=307, headers={"Location": "/there"})
        return web.Response(body=PNG)

    async with site(handle) as port:
        got = await Egress().fetch(f"http://127.0.0.1:{port}/", IMAGE, vouched(port))

    assert got.mime == "image/png"


async def test_nothing_of_the_environment_or_of_credentials_goes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    seen: list[dict[str, str]] = []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(dict(request.headers))
        return web.Response(body=PNG, headers={"Set-Cookie": "a=b"})

    async with site(handle) as port:
        egress = Egress()
        for _ in range(2):
            await egress.fetch(f"http://127.0.0.1:{port}/", IMAGE, vouched(port))

    assert len(seen) == 2
    assert {name.lower() for name in seen[1]} <= {"host", "user-agent", "accept", "accept-encoding", "connection"}


# --- formats


@pytest.mark.parametrize(
    ("data", "mime"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF0000WEBP", "image/webp"),
        (b"\0\0\0\x18ftypheic", "image/heic"),
    ],
)
def test_images_are_known_by_their_first_bytes(data: bytes, mime: str) -> None:
    assert sniffed(data, IMAGE) == mime
    assert sniffed(data, frozenset({MediaKind.AUDIO})) is None


@pytest.mark.parametrize(
    ("data", "mime"),
    [
        (b"RIFF0000WAVE", "audio/wav"),
        (b"ID3\x04", "audio/mpeg"),
        (b"\xff\xfb\x90\x00", "audio/mpeg"),
        (b"OggS", "audio/ogg"),
        (b"fLaC", "audio/flac"),
    ],
)
def test_sounds_are_known_by_their_first_bytes(data: bytes, mime: str) -> None:
    assert sniffed(data, frozenset({MediaKind.AUDIO})) == mime


@pytest.mark.parametrize(
    ("data", "mime"),
    [
        (b"%PDF-1.7", "application/pdf"),
        (b'{"a": 1}', "application/json"),
        (b"a,b\n1,2\n", "text/plain"),
        ("Ærlig".encode(), "text/plain"),
        (b"  <HTML><body>", None),
        (b"\xef\xbb\xbf<svg/>", None),
        (b"\x00\x01\x02", None),
        (b"\xff\xfe\x00", None),
    ],
)
def test_files_are_documents_and_text_and_never_pages(data: bytes, mime: str | None) -> None:
    assert sniffed(data, FILE) == mime
