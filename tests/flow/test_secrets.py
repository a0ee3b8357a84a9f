"""Canaries: no key that RouterX was given may come out of it again, whatever goes wrong."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.flow.flow_kit import chunk
from tests.support.gateway import HELLO, TENANT, Config, Served, config, serving
from tests.support.upstream import Behaviour, End, Html, Json, Redirect, ScriptedUpstream, Status, Stream, sse

PROVIDER_KEYS = {
    "as_vendors_make_them": "sk-canary0123456789abcdefXYZ",
    "long_and_plain": "canary0123456789abcdefghijXYZ",
    "with_odd_signs": "canary.of-the_provider/key+1",
    "words": "canary-provider-secret",
}
TENANT_KEY = "canary_tenant_key_123456789"
ADMIN_KEY = "canary_admin_key_123456789"
HEADER_SECRET = "canary-in-a-header"


CANARIES = (*PROVIDER_KEYS.values(), TENANT_KEY, ADMIN_KEY, HEADER_SECRET)
ENV = {"TENANT": TENANT_KEY, "ADMIN": ADMIN_KEY, "HEADER": HEADER_SECRET} | PROVIDER_KEYS


def secret_config(up: str, calls: Sequence[tuple[str, Behaviour, bool]]) -> Config:
    """Every secret by reference, as the documentation says. Models `m0`, `m1` …, one a call and each at a provider of
    its own, so that no call finds a circuit open or a key resting."""
    value = config(up)
    value["server"] |= {"log_level": "debug", "admin_keys": ["${env:ADMIN}"]}
    plain = value["providers"]["up"] | {"headers": {"X-Team-Token": "${env:HEADER}"}}
    price = {"input": 1, "output": 2}
    value["providers"] = {f"up{n}": plain | {"keys": [f"${{env:{kind}}}"]} for n, (kind, _, _) in enumerate(calls)}
    value["models"] = {f"m{n}": {"endpoints": [{"provider": f"up{n}", "price": price}]} for n in range(len(calls))}
    value["providers"]["up"] = plain | {"keys": ["${env:words}"]}
    value["models"]["solo"] = {"endpoints": [{"provider": "up", "price": price}]}
    value["policies"]["default"]["retry"]["max"] = 0
    value["tenants"][TENANT]["keys"] = ["${env:TENANT}"]
    return value


def echoes(key: str) -> Iterator[Behaviour]:
    """Providers that repeat what they were sent, in every place that is read."""
    told = f"Bad header 'Authorization: Bearer {key}', key {key}, team {HEADER_SECRET} ({key})"
    for status in (400, 401, 403, 404, 422, 429, 500, 503):
        yield Status(status, {"error": {"message": told, "type": "invalid_request_error", "code": "x", "param": None}})
    yield Status(400, {"error": {"message": "no", "code": key, "type": HEADER_SECRET, "param": f"header {key}"}})
    for blanks in range(478, 500, 3):  # Messages are cut somewhere here, and with them the key.
        yield Status(400, {"error": {"message": f"a{' b' * (blanks // 2)} {key}{key}"}})
    yield Status(400, {"error": {"message": "no", "code": f"{'c' * 45}_{key}", "param": f"{'p' * 105}_{key}"}})
    yield Status(400, {"error": told})
    yield Status(422, {"detail": [{"loc": ["header", key], "msg": told}]})
    yield Status(400, told)
    yield Json(told.encode(), 400, {"content-type": f"text/plain; {key}"})
    yield Json({"error": {"message": told}})
    yield Json(told.encode(), 200, {"content-type": f"text/{key}"})
    yield Html()
    yield Redirect(f"http://user:{key}@{key}.test/{key}?key={key}")
    yield Json(b"{}", 302, {"location": key})
    yield Stream(frames=[sse({"error": {"message": told, "code": key}})])
    yield Stream(frames=[b"event: error\ndata: " + json.dumps({"message": told}).encode() + b"\n\n"])


async def test_no_key_comes_out_again(tmp_path: Path) -> None:
    key = PROVIDER_KEYS["words"]
    calls = [
        (kind, behaviour, stream)
        for kind, key in PROVIDER_KEYS.items()
        for behaviour in echoes(key)
        for stream in (False, True)
    ]
    async with ScriptedUpstream() as up, serving(tmp_path, secret_config(up.url, calls), ENV) as served:
        seen = []
        for n, (_, behaviour, stream) in enumerate(calls):
            up.default = behaviour
            seen.append(await ask(served, f"m{n}", stream))
        seen.append(await broken_midstream(served, up, "solo", key))
        seen += [await tell(served, path, who) for path, who in PLACES]
        sent = {request.headers["authorization"] for request in up.requests}
        assert sent == {f"Bearer {key}" for key in PROVIDER_KEYS.values()}  # They were used, and so could be told.
        assert {request.headers["x-team-token"] for request in up.requests} == {HEADER_SECRET}
        served.process.terminate()
        assert await served.ended() == 0

    for canary in CANARIES:
        beginning = canary[:12].encode()  # What is left when a text is cut in the middle of a key.
        assert [text for text in seen if beginning in text.lower() or canary.encode() in text] == []
        assert canary not in served.log.decode()
        files = [path for path in (tmp_path / "data").iterdir() if path.is_file()]
        assert {path.name for path in files} >= {"ledger.db", "requests.db"}
        assert [path.name for path in files if canary.encode() in path.read_bytes()] == []
    assert b'"upstream_4xx"' in served.log  # The log does tell of these requests.


PLACES = (
    ("/health", None),
    ("/metrics", None),
    ("/readyz", None),
    ("/v1/models", TENANT_KEY),
    ("/v1/models", "canary_wrong_key"),
    ("/admin/v1/status", ADMIN_KEY),
    ("/admin/v1/tenants", ADMIN_KEY),
    (f"/admin/v1/tenants/{TENANT}", ADMIN_KEY),
    ("/admin/v1/keys", ADMIN_KEY),
    ("/admin/v1/models", ADMIN_KEY),
    ("/admin/v1/logs", ADMIN_KEY),
    ("/admin/v1/status", TENANT_KEY),
)


async def ask(served: Served, model: str, stream: bool) -> bytes:
    """One call that fails; all that came back."""
    reply = await served.chat(model, key=TENANT_KEY, stream=stream)
    assert reply.status >= 400
    assert reply.error["code"] not in ("no_healthy_upstream", "invalid_api_key")
    return str(dict(reply.headers)).encode() + reply.body


async def broken_midstream(served: Served, up: ScriptedUpstream, model: str, key: str) -> bytes:
    gate = asyncio.Event()
    error = sse({"error": {"message": f"lost {key} and {HEADER_SECRET}", "code": key}})
    up.default = Stream(frames=[sse(chunk("Hel")), error], gates={1: gate}, end=End.STALL)
    caller = await served.connect()
    body = {"model": model, "messages": HELLO, "stream": True}
    await caller.send("POST", "/v1/chat/completions", body, key=TENANT_KEY)
    head = await caller.head()
    seen = await caller.until(b"Hel")
    gate.set()
    reply = await caller.reply(head, seen)
    assert reply.stream_error is not None
    return reply.body


async def tell(served: Served, path: str, key: str | None) -> bytes:
    reply = await served.ask("GET", path, key=key)
    return str(dict(reply.headers)).encode() + reply.body
