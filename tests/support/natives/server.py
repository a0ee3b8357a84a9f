"""What the fake providers have in common: a server on a port of its own, a log of what came, awkward cuts, refusals."""

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from aiohttp import web

from tests.support.natives.script import Refused, Tokens, png, refuse_unless

KEY = "native-key-fake-123456"
PICTURE_PATH = "/picture.png"
CUTS = (1, 2, 7, 3, 64, 5, 1, 200, 11)
"""Sizes of the pieces in which a stream is written, over and over: inside characters, line ends and marks."""


@dataclass
class Sent:
    """A request as it came."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]
    """Names in lower case."""
    body: dict[str, Any]
    refusal: str | None = None
    """Why it was refused."""
    signatures: list[str] = field(default_factory=list)
    """The fake's own, of thoughts that the request gave back unchanged."""


@dataclass(frozen=True)
class Reply:
    """A whole answer, or the frames of a stream."""

    body: Any = None
    frames: tuple[bytes, ...] = ()
    content_type: str = "application/json"


class Native(ABC):
    """A fake provider. `requests` only grows."""

    name: ClassVar[str]
    """Of its wire."""

    def __init__(self) -> None:
        self.requests: list[Sent] = []
        self._runner: web.AppRunner | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def picture_url(self) -> str:
        return self.url + PICTURE_PATH

    @property
    def refusals(self) -> list[str]:
        return [one.refusal for one in self.requests if one.refusal is not None]

    @abstractmethod
    def tokens(self, scenario: str, turn: int) -> Tokens:
        """What this wire tells of a turn's usage."""

    @abstractmethod
    def answer(self, sent: Sent) -> Reply:
        """Raises Refused for what the provider would not take."""

    @abstractmethod
    def refused(self, reason: str) -> Mapping[str, Any]:
        """The body of a 400."""

    async def __aenter__(self) -> "Native":
        app = web.Application(client_max_size=2**24)
        app.router.add_get(PICTURE_PATH, self._picture)
        app.router.add_post("/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _picture(self, request: web.Request) -> web.Response:
        return web.Response(body=png(), content_type="image/png")

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        sent = Sent(request.path, dict(request.query), headers, await request.json())
        self.requests.append(sent)
        try:
            refuse_unless(headers.get("content-type", "").startswith("application/json"), "no JSON content type")
            reply = self.answer(sent)
        except Refused as refusal:
            sent.refusal = str(refusal)
            return web.json_response(dict(self.refused(sent.refusal)), status=400)
        if not reply.frames:
            return web.Response(body=json.dumps(reply.body, ensure_ascii=False), content_type=reply.content_type)
        response = web.StreamResponse(headers={"content-type": reply.content_type})
        await response.prepare(request)
        for piece in cut(b"".join(reply.frames)):
            await response.write(piece)
            await asyncio.sleep(0)
        await response.write_eof()
        return response


def cut(stream: bytes) -> list[bytes]:
    found, at, place = [], 0, 0
    while at < len(stream):
        size = CUTS[place % len(CUTS)]
        found.append(stream[at : at + size])
        at, place = at + size, place + 1
    return found


def dumped(value: Any) -> bytes:
    """Compact, and with characters as they are: cuts go through them."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def arguments_of(text: Any) -> Any:
    """Arguments of a tool call that travel as text. Raises Refused unless they are an object."""
    refuse_unless(isinstance(text, str), f"arguments are {text!r}, not a string")
    try:
        found = json.loads(text)
    except ValueError:
        raise Refused(f"arguments are no JSON: {text!r}") from None
    refuse_unless(isinstance(found, dict), f"arguments are {found!r}, not an object")
    return found
