"""What a gateway tells about itself, and how it meets requests that are not as they should be."""

import asyncio
import json
import logging
from pathlib import Path

import pytest

from routerx.ledger.base import LogQuery
from tests.flow.flow_kit import UP_COST, metrics
from tests.support.gateway import HELLO, KEY, TENANT, Gateway, config, running
from tests.support.upstream import Ok, ScriptedUpstream, Status

NEW_KEY = "new_tenant_key_fake_123456"
CHAT = {"model": "solo", "messages": HELLO}


async def test_health_and_readiness(gw: Gateway) -> None:
    await gw.chat()
    health = await gw.ask("GET", "/health", key=None)
    assert (health.status, health.json["status"], health.json["reason"]) == (200, "ok", None)
    assert health.json["ledger"]["ok"] is True
    assert [one["endpoint"] for one in health.json["endpoints"]] == ["up/solo"]
    assert TENANT not in health.body.decode()
    assert str(gw.folder) not in health.body.decode()
    assert (await gw.ask("GET", "/readyz", key=None)).json == {"ready": True, "reason": None}
    assert (await gw.ask("GET", "/", key=None)).json["name"] == "routerx"


async def test_gateway_whose_books_are_wrong_is_alive_and_not_ready(gw: Gateway) -> None:
    gw.runtime.ledger._books.suspect(None, "planted")
    health = await gw.ask("GET", "/health", key=None)
    assert (health.status, health.json["status"]) == (200, "degraded")
    assert (await gw.ask("GET", "/readyz", key=None)).status == 503
    refused = await gw.chat()
    assert (refused.status, refused.error["code"]) == (503, "storage_unavailable")


async def test_metrics_count_what_happened(gw: Gateway, up: ScriptedUpstream) -> None:
    up.queue(Ok(), Status(400))
    await gw.chat()
    await gw.chat()
    await gw.chat("no-such-model")
    text = await metrics(gw)
    for line in (
        f'routerx_requests_total{{model="solo",outcome="ok",provider="up",tenant="{TENANT}"}} 1.0',
        'routerx_attempts_total{outcome="ok",provider="up"} 1.0',
        'routerx_attempts_total{outcome="upstream_4xx",provider="up"} 1.0',
        'routerx_tokens_total{bucket="in_fresh",model="solo",provider="up"} 7.0',
        f'routerx_cost_usd_total{{model="solo",provider="up",tenant="{TENANT}"}} 1.3e-05',
        "routerx_requests_in_flight 0.0",
        "routerx_held_usd 0.0",
        "routerx_config_last_reload_ok 1.0",
    ):
        assert line in text
    assert "no-such-model" not in text  # Labels are never a caller's words.
    assert 'outcome="rejected_model"' in text


async def test_every_answer_has_a_request_id_of_its_own(gw: Gateway, up: ScriptedUpstream) -> None:
    up.queue(Ok(), Ok(), Status(500))
    replies = [
        await gw.chat(),
        await gw.chat(stream=True),
        await gw.chat("none"),
        await gw.chat(key=None),
        *[await gw.ask("GET", path) for path in ("/health", "/metrics", "/v1/models", "/nothing", "/admin/v1/status")],
    ]
    ids = [reply.headers["x-request-id"] for reply in replies]
    assert len(set(ids)) == len(ids)
    assert all(one.startswith("req_") for one in ids)


async def test_unknown_routes_and_methods(gw: Gateway) -> None:
    for path in ("/v1/unknown", "/nothing", "/v1/chat/completions/", "/V1/models", "/v1/../health"):
        reply = await gw.ask("GET", path)
        assert (reply.status, reply.error["code"], reply.error["type"]) == (404, "not_found", "invalid_request_error")
        assert reply.headers["x-should-retry"] == "false"
    for method, path, allowed in (("GET", "/v1/chat/completions", "POST"), ("POST", "/v1/models", "GET")):
        reply = await gw.ask(method, path, {})
        assert (reply.status, reply.error["code"]) == (405, "method_not_allowed")
        assert allowed in reply.error["message"]
    for path in ("/v1/batches", "/v1/realtime"):
        reply = await gw.ask("POST", path, {})
        assert (reply.status, reply.error["message"]) == (404, f"{path} is not offered by this gateway.")


async def test_refused_bodies_and_credentials(tmp_path: Path, up: ScriptedUpstream) -> None:
    value = config(up.url)
    value["server"]["body_max"] = "2KiB"
    async with running(tmp_path, value) as gateway:
        large = await gateway.chat(messages=[{"role": "user", "content": "x" * 3_000}])
        assert (large.status, large.error["code"]) == (413, "request_too_large")
        assert large.headers["connection"] == "close"
        packed = await gateway.ask("POST", "/v1/chat/completions", b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
        assert (packed.status, packed.error["code"]) == (415, "unsupported_media_type")
        both = await gateway.ask("POST", "/v1/chat/completions", CHAT, headers={"x-api-key": NEW_KEY})
        assert (both.status, both.error["code"]) == (400, "ambiguous_credentials")
        same = await gateway.ask("POST", "/v1/chat/completions", CHAT, headers={"x-api-key": KEY})
        alone = await gateway.ask("POST", "/v1/chat/completions", CHAT, key=None, headers={"x-api-key": KEY})
        assert (same.status, alone.status) == (200, 200)
        odd = await gateway.ask(
            "POST", "/v1/chat/completions", CHAT, key=None, headers={"Authorization": f"Basic {KEY}"}
        )
        assert odd.status == 401


async def test_connection_is_kept_and_requests_in_one_write_are_answered_in_order(gw: Gateway) -> None:
    caller = await gw.connect()
    for stream in (False, True, False):
        await caller.send("POST", "/v1/chat/completions", CHAT | {"stream": stream})
        assert (await caller.reply()).status == 200
    await caller.send("POST", "/v1/chat/completions", CHAT)
    await caller.send("GET", "/v1/models")
    await caller.send("GET", "/nothing")
    replies = [await caller.reply() for _ in range(3)]
    assert [reply.status for reply in replies] == [200, 200, 404]
    assert "choices" in replies[0].json
    assert await gw.spent() == 4 * UP_COST


async def test_callers_labels_reach_the_log_and_no_provider(
    gw: Gateway, up: ScriptedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    headers = {"X-RouterX-User": "u" * 300, "X-Title": "shop"}
    await gw.ask("POST", "/v1/chat/completions", CHAT, headers=headers)
    row = await gw.settled()
    assert (row.user, row.app) == ("u" * 128, "shop")
    assert b"shop" not in up.requests[0].body
    assert "x-title" not in up.requests[0].headers


async def test_label_that_is_no_text_is_logged_all_the_same(gw: Gateway) -> None:
    """A caller must not be able to keep a request out of the log."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gw.port)
    body = json.dumps(CHAT).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nx-api-key: %b\r\nConnection: close\r\n" % KEY.encode()
    writer.write(head + b"X-RouterX-User: caf\xc3\xa9 \xff\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()
    (row,) = await gw.runtime.ledger.log(LogQuery())
    assert row.user == "café \ufffd"


async def test_probes_may_ask_for_the_head_alone(gw: Gateway) -> None:
    for path in ("/", "/health", "/readyz", "/metrics"):
        caller = await gw.connect()
        await caller.send("HEAD", path, key=None)
        assert (await caller.head()).status == 200
        await caller.send("GET", "/readyz", key=None)
        assert (await caller.reply()).json["ready"] is True


async def test_caller_limits_requests_at_once(tmp_path: Path, up: ScriptedUpstream) -> None:
    value = config(up.url)
    value["plans"]["prepaid"]["limits"] = {"concurrency": 1}
    async with running(tmp_path, value) as gateway:
        gate = asyncio.Event()
        up.default = Ok(gate=gate)
        caller = await gateway.begin()
        await up.arrived()
        refused = await gateway.chat()
        assert (refused.status, refused.error["limit"], refused.headers["retry-after"]) == (429, "concurrency", "1")
        gate.set()
        await caller.reply()
        assert (await gateway.chat()).status == 200


async def test_a_target_in_absolute_form_is_served(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        assert (await gw.ask("GET", "http://gateway.test/health", key=None)).status == 200
        assert (await gw.ask("GET", "http://gateway.test/v1/models")).status == 200
