"""The whole gateway in this process, on real sockets, and callers to talk to it.

    async with ScriptedUpstream() as upstream, running(tmp_path, config(upstream.url)) as gateway:
        upstream.queue(Stream(["Hel", "lo"]))
        reply = await gateway.chat(stream=True)
        assert reply.text == "Hello"
        assert (await gateway.settled()).outcome == "ok"

`config()` is the plain configuration as a dictionary (JSON is YAML); a test changes what it is about. `settled()` gives
the records of finished requests in the order in which they settled, so that nothing has to be polled for.
"""

import asyncio
import hashlib
import json
import os
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import openai

from routerx.clock import Clock
from routerx.config.settings import Flags
from routerx.config.watch import ReloadStatus
from routerx.domain.record import RequestRecord
from routerx.ledger.base import TenantFunds
from routerx.runtime import Runtime, ServeOptions

ROOT = Path(__file__).parent.parent.parent
KEY = "tenant_key_fake_123456"
ADMIN_KEY = "admin_key_fake_123456"
UPSTREAM_KEY = "provider-key-fake-123456"
TENANT = "acme"
USD = 10**9
GUARD_S = 10.0
"""A test that waits longer has failed; nothing sleeps this long."""

ENVIRON: Mapping[str, str] = MappingProxyType({"UP_KEY": UPSTREAM_KEY})

HELLO = [{"role": "user", "content": "Hello"}]

Config = dict[str, Any]


def digest(key: str) -> str:
    """A key as the file may hold it."""
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def config(up: str, spare: str | None = None) -> Config:
    """Provider `up`, and `spare` behind it; tenant `acme` with $10.

    Models: `solo` at `up` alone, `duo` at `up` and then `spare`, `flat` for $1 a request, `vectors` for embeddings. A
    token costs 1,000 nano-USD in and 2,000 out, and ten times that at `spare`. Waits between retries are short.
    """
    price = {"input": 1, "output": 2}
    endpoint = {"provider": "up", "price": price, "supports": ["tools", "vision", "json_schema"]}
    providers = {"up": {"dialect": "openai", "base_url": f"{up}/v1", "keys": ["${env:UP_KEY}"]}}
    models: dict[str, Any] = {
        "solo": {"endpoints": [endpoint]},
        "flat": {"endpoints": [{"provider": "up", "price": {"request": 1}}]},
        "vectors": {"kind": "embedding", "endpoints": [{"provider": "up", "price": {"input": 1}}]},
    }
    if spare is not None:
        providers["spare"] = {"dialect": "openai", "base_url": f"{spare}/v1", "keys": ["${env:UP_KEY}"]}
        dear = {"provider": "spare", "price": {"input": 10, "output": 20}, "priority": 1}
        models["duo"] = {"endpoints": [endpoint, dear]}
    return {
        "server": {"data_dir": "data", "admin_keys": [digest(ADMIN_KEY)], "health_interval": "0s"},
        "providers": providers,
        "models": models,
        "policies": {"default": {"retry": {"backoff": "1ms..5ms"}}},
        "plans": {"prepaid": {"billing": "prepaid"}},
        "tenants": {TENANT: {"plan": "prepaid", "opening_balance": "$10", "keys": [digest(KEY)]}},
    }


@dataclass(frozen=True)
class Head:
    """Status line and header of a response; names in lower case."""

    status: int
    headers: Mapping[str, str]


@dataclass
class Reply:
    """A response. `cut` tells that its body ended before its end: no caller takes it for whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    cut: bool = False

    @cached_property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        found = self.json["error"]
        assert isinstance(found, dict)
        return found

    @cached_property
    def events(self) -> list[Any]:
        """The events of a stream, `[DONE]` as that text."""
        frames = self.body.split(b"\n\n")
        assert frames[-1] == b"", f"half an event at the end: {frames[-1]!r}"
        data = [frame.removeprefix(b"data: ") for frame in frames if frame.startswith(b"data: ")]
        return ["[DONE]" if one == b"[DONE]" else json.loads(one) for one in data]

    @property
    def text(self) -> str:
        """What the model said, streamed or not."""
        if not self.headers["content-type"].startswith("text/event-stream"):
            return str(self.json["choices"][0]["message"]["content"])
        choices = [choice for event in self.events if event != "[DONE]" for choice in event["choices"]]
        return "".join(choice["delta"].get("content") or "" for choice in choices)

    @property
    def stream_error(self) -> dict[str, Any] | None:
        """The error that ended a stream. Checks the promised ending: one error event, `[DONE]`, a proper end."""
        assert self.status == 200
        errors = [event for event in self.events if event != "[DONE]" and "error" in event]
        assert not self.cut
        assert self.events.count("[DONE]") == 1
        assert self.events[-1] == "[DONE]"
        if not errors:
            return None
        assert errors == [self.events[-2]]
        assert errors[0]["choices"] == [{"index": 0, "delta": {}, "finish_reason": "error"}]
        found = errors[0]["error"]
        assert isinstance(found, dict)
        return found


class Caller:
    """One client connection, as slow or as rude as a test needs it. Made by Gateway.connect()."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = KEY,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """A request; `body` is JSON, or bytes as they are."""
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "Host: gateway.test", f"Content-Length: {len(content)}"]
        if key is not None:
            lines.append(f"Authorization: Bearer {key}")
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + content)
        await self._writer.drain()

    async def head(self) -> Head:
        async with asyncio.timeout(GUARD_S):
            raw = await self._reader.readuntil(b"\r\n\r\n")
        line, *fields = raw[:-4].decode("latin-1").split("\r\n")
        pairs = (one.partition(":") for one in fields)
        return Head(int(line.split(" ")[1]), {name.lower(): value.strip() for name, _, value in pairs})

    async def chunk(self) -> bytes:
        """The next chunk of a chunked body; b"" is its proper end. Raises IncompleteReadError where it is cut."""
        async with asyncio.timeout(GUARD_S):
            size = int(await self._reader.readuntil(b"\r\n"), 16)
            data = await self._reader.readexactly(size + 2)
        return data[:-2]

    async def until(self, text: bytes) -> bytes:
        """Read chunks until `text` has been seen; what was read."""
        seen = b""
        while text not in seen:
            chunk = await self.chunk()
            assert chunk, f"the stream has ended without {text!r}: {seen!r}"
            seen += chunk
        return seen

    async def reply(self, head: Head | None = None, seen: bytes = b"") -> Reply:
        """The response; `head` and `seen` are what of it has been read already."""
        if head is None:
            head = await self.head()
        body, cut = seen, False
        if "transfer-encoding" in head.headers:
            try:
                while data := await self.chunk():
                    body += data
            except (asyncio.IncompleteReadError, ConnectionError):
                cut = True
        else:
            async with asyncio.timeout(GUARD_S):
                body += await self._reader.readexactly(int(head.headers["content-length"]) - len(seen))
        return Reply(head.status, head.headers, body, cut)

    async def closed(self) -> None:
        """Wait until the gateway has closed the connection."""
        async with asyncio.timeout(GUARD_S):
            assert await self._reader.read(1) == b""

    @property
    def unread(self) -> bytes:
        """What has arrived and was not read."""
        buffer: bytearray = self._reader._buffer  # type: ignore[attr-defined]  # StreamReader has no peek.
        return bytes(buffer)

    def leave(self) -> None:
        """Hang up."""
        self._writer.transport.abort()


class Front:
    """The public port, and callers of it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._clients: list[openai.AsyncOpenAI] = []
        self._callers: list[Caller] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, key: str = KEY) -> openai.AsyncOpenAI:
        """The official client, unmodified but for address and key."""
        client = openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=GUARD_S)
        self._clients.append(client)
        return client

    async def connect(self) -> Caller:
        caller = Caller(*await asyncio.open_connection("127.0.0.1", self.port, limit=2**22))
        self._callers.append(caller)
        return caller

    async def ask(self, method: str, path: str, body: Any = None, **options: Any) -> Reply:
        """One request on a connection of its own. Options are those of Caller.send."""
        caller = await self.connect()
        await caller.send(method, path, body, **options)
        reply = await caller.reply()
        caller.leave()
        return reply

    async def chat(self, model: str = "solo", *, key: str | None = KEY, **fields: Any) -> Reply:
        """A chat completion; `fields` are further ones of the body."""
        body = {"model": model, "messages": HELLO, **fields}
        return await self.ask("POST", "/v1/chat/completions", body, key=key)

    async def begin(self, model: str = "solo", **fields: Any) -> Caller:
        """A chat completion that has been sent, its answer unread."""
        caller = await self.connect()
        await caller.send("POST", "/v1/chat/completions", {"model": model, "messages": HELLO, **fields})
        return caller

    async def close(self) -> None:
        """Hang up everywhere."""
        for caller in self._callers:
            caller.leave()
        for client in self._clients:
            await client.close()


class Gateway(Front):
    """A gateway in this process, and what a test asks of it."""

    def __init__(self, runtime: Runtime, folder: Path) -> None:
        super().__init__(runtime.port)
        self.runtime = runtime
        self.folder = folder
        self.settles: asyncio.Queue[RequestRecord] = runtime.ledger.follow()

    @property
    def data(self) -> Path:
        return self.folder / "data"

    # --- the books

    async def settled(self) -> RequestRecord:
        """The next request that settles (or has settled and was not asked for)."""
        async with asyncio.timeout(GUARD_S):
            return await self.settles.get()

    def funds(self, tenant: str = TENANT) -> TenantFunds:
        return self.runtime.ledger.funds(tenant)

    async def spent(self, tenant: str = TENANT) -> int:
        """nano-USD charged so far, by the transfers on disk, once all that has settled is there."""
        await wait_for(lambda: self.runtime.ledger.health().queue == 0)
        return await self.charged_on_disk(tenant)

    async def charged_on_disk(self, tenant: str = TENANT) -> int:
        """As spent(), without waiting for what is on its way."""
        rows = await self.runtime.ledger.transfers(tenant, 10_000)
        return -sum(row.amount_nano for row in rows if row.kind == "charge")

    async def assert_books_are_clean(self) -> None:
        """The ledger proves itself; nothing is held, leased or left running. With no request in flight."""
        await wait_for(lambda: self.runtime.gateway.in_flight == 0)
        report = await self.runtime.ledger.verify()
        assert report.violations == ()
        assert self.runtime.ledger.held_nano() == 0
        assert self.runtime.limiter.in_flight == 0

    @asynccontextmanager
    async def commits_blocked(self) -> AsyncIterator[None]:
        """Nothing becomes durable meanwhile: another program holds the database."""
        other = sqlite3.connect(self.data / "ledger.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            other.execute("ROLLBACK")
            other.close()

    @asynccontextmanager
    async def commits_failing(self) -> AsyncIterator[None]:
        """No charge can be written meanwhile; the batch is refused, not delayed."""
        other = sqlite3.connect(self.data / "ledger.db", isolation_level=None)
        other.execute("CREATE TRIGGER refuse BEFORE INSERT ON transfers BEGIN SELECT RAISE(ABORT, 'scripted'); END")
        try:
            yield
        finally:
            other.execute("DROP TRIGGER refuse")
            other.close()

    async def settling(self) -> None:
        """Wait until a request has settled, be it on disk or not; settled() still gives it."""
        await wait_for(lambda: not self.settles.empty())

    # --- the configuration

    def write(self, value: Config | str) -> None:
        """Save the file, as an editor does: a new one takes the old one's place."""
        save(self.folder, value)

    async def reload(self, value: Config | str) -> ReloadStatus:
        """Save the file and read it at once."""
        self.write(value)
        return await self.runtime.watcher.reload_now()


class Served(Front):
    """A gateway in a process of its own, as users run it."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        super().__init__(port)
        self.process = process
        self.log = b""
        """What it has written so far, and was read."""

    async def said(self, text: bytes) -> None:
        """Wait for a line of its log."""
        assert self.process.stderr is not None
        async with asyncio.timeout(GUARD_S):
            while text not in (line := await self.process.stderr.readline()):
                assert line, f"it has ended without saying {text!r}: {self.log.decode()}"
                self.log += line
        self.log += line

    async def ended(self) -> int:
        """Its exit code; `log` is then whole."""
        assert self.process.stderr is not None
        async with asyncio.timeout(GUARD_S):
            self.log += await self.process.stderr.read()
            return await self.process.wait()


def save(folder: Path, value: Config | str) -> Path:
    """Write routerx.yaml by rename."""
    path, fresh = folder / "routerx.yaml", folder / "routerx.yaml.new"
    fresh.write_text(value if isinstance(value, str) else json.dumps(value, indent=1))
    fresh.chmod(0o600)
    return fresh.rename(path)


@asynccontextmanager
async def running(
    folder: Path, value: Config | str, env: Mapping[str, str] = ENVIRON, clock: Clock | None = None
) -> AsyncIterator[Gateway]:
    """A gateway with this configuration, its files in `folder`. It is stopped without draining."""
    options = ServeOptions(config=str(save(folder, value)), flags=Flags(port=0), environ=env, folder=str(folder))
    runtime = await Runtime.start(options, clock)
    gateway = Gateway(runtime, folder)
    try:
        yield gateway
    finally:
        await gateway.close()
        await runtime.stop(0)
        (gateway.data / ".ballast").unlink(missing_ok=True)  # 16 MiB, times every test.


@asynccontextmanager
async def serving(folder: Path, value: Config, env: Mapping[str, str] = ENVIRON) -> AsyncIterator[Served]:
    """`routerx serve` with this configuration. Killed in the end, if it still runs."""
    value["server"]["listen"] = "127.0.0.1:0"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "routerx", "serve", "-c", str(save(folder, value))),
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **env},
        stderr=asyncio.subprocess.PIPE,
        limit=2**22,
    )
    try:
        assert process.stderr is not None
        line = await process.stderr.readline()
        assert b"serves" in line, (line + await process.stderr.read()).decode()
        served = Served(process, int(line.split(b"127.0.0.1:")[1].split(b",")[0]))
        served.log += line
        yield served
        await served.close()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        (folder / "data" / ".ballast").unlink(missing_ok=True)


async def wait_for(condition: Callable[[], object], within_s: float = GUARD_S) -> None:
    """Wait until `condition()` is true."""
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        await asyncio.sleep(0.002)
