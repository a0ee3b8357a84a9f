"""The admin API over a real socket: every route, its errors, and the log stream."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from routerx.http.admin_kit import BODY_BYTES_MAX
from tests.cli.support import ADMIN_KEY, Control, record

AUTH = {"Authorization": f"Bearer {ADMIN_KEY}"}


@pytest.fixture
async def control() -> Control:
    return await Control().start()


@pytest.fixture
async def api(control: Control) -> AsyncIterator[aiohttp.ClientSession]:
    server = TestServer(control.app(), handler_cancellation=True)
    await server.start_server()
    async with aiohttp.ClientSession(server.make_url("/"), headers=AUTH) as session:
        yield session
    await server.close()


async def call(api: aiohttp.ClientSession, method: str, path: str, body: object = None, status: int = 200) -> dict:
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    async with api.request(method, f"/admin/v1{path}", data=data) as response:
        answer = await response.json()
        assert response.status == status, answer
        assert response.headers["X-Request-Id"].startswith("req_")
        assert response.headers["Cache-Control"] == "no-store"
        if status != 200:
            assert answer["error"]["request_id"] == response.headers["X-Request-Id"]
            assert set(answer["error"]) >= {"message", "type", "code", "param", "request_id"}
        return answer


def routes(control: Control) -> list[tuple[str, str]]:
    resources = [route for route in control.app().router.routes() if route.method != "HEAD"]
    return [(route.method, route.resource.canonical) for route in resources if route.resource is not None]


async def test_every_route_refuses_a_caller_without_admin_key(control: Control, api: aiohttp.ClientSession) -> None:
    every = routes(control)
    assert len(every) == 41
    for method, path in every:
        url = path.replace("{tenant}", "demo").replace("{key}", "k").replace("{request}", "r").replace("{model}", "m")
        url = url.replace("{provider}", "p")
        for headers in ({"Authorization": ""}, {"Authorization": "Bearer demo_key_fake_123456"}):
            async with api.request(method, url, headers=headers) as response:
                assert response.status == 401, path
                assert (await response.json())["error"]["code"] == "invalid_api_key"


def test_every_route_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "admin-api.md").read_text()
    for method, path in routes(Control()):
        assert f"`{method} {path}`" in text, (method, path)


async def test_a_tenant_lives_its_life_over_http(api: aiohttp.ClientSession) -> None:
    created = await call(api, "POST", "/tenants", {"name": "acme", "plan": "standard", "topup": "5"})
    assert created["key"]["key"].startswith("rx_")
    assert created["tenant"]["funds"]["balance_usd"] == "5.00"

    transfer = await call(api, "POST", "/tenants/acme/topup", {"amount": "$1.5", "reference": "r1", "note": "n"})
    assert (transfer["balance_nano"], transfer["actor"]) == (6_500_000_000, "admin")
    await call(api, "POST", "/tenants/acme/adjust", {"amount": "-0.5"})
    suspended = await call(api, "POST", "/tenants/acme/suspend", {"reason": "unpaid"})
    assert (suspended["suspended"], suspended["funds"]["balance_usd"]) == (True, "6.00")
    assert not (await call(api, "POST", "/tenants/acme/unsuspend"))["suspended"]

    key = await call(api, "POST", "/keys", {"tenant": "acme", "label": "ci"})
    assert not (await call(api, "POST", f"/keys/{key['view']['id']}/revoke"))["active"]
    keys = (await call(api, "GET", "/keys?tenant=acme"))["data"]
    assert [one["active"] for one in keys] == [True, False]
    assert "key" not in keys[0]

    assert (await call(api, "GET", "/tenants/acme"))["name"] == "acme"
    assert [one["name"] for one in (await call(api, "GET", "/tenants"))["data"]] == ["acme", "demo", "lab"]


async def test_models_logs_books_and_status_are_read(control: Control, api: aiohttp.ClientSession) -> None:
    control.ledger.seen(record(1), record(2, outcome="upstream_5xx", http_status=502))

    assert [one["name"] for one in (await call(api, "GET", "/models?search=gpt"))["data"]] == ["fast", "gpt-4o"]
    assert (await call(api, "GET", "/models?capability=audio"))["data"] == []
    assert len((await call(api, "GET", "/models?capability=audio&everywhere=true"))["data"]) > 10
    assert (await call(api, "GET", "/models/openai/gpt-4o"))["endpoints"][0]["provider"] == "openai"
    assert [one["id"] for one in (await call(api, "GET", "/logs?outcome=ok&limit=5"))["data"]] == ["req_0001"]
    assert (await call(api, "GET", "/logs/req_0002"))["entry"]["http_status"] == 502
    assert (await call(api, "GET", "/ledger/verify"))["ok"]
    assert (await call(api, "GET", "/status"))["generation"] == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "param"),
    [
        ("GET", "/tenants/nobody", None, 404, "not_found", "tenant"),
        ("GET", "/models/nothing", None, 404, "model_not_found", "model"),
        ("GET", "/logs/req_none", None, 404, "not_found", "id"),
        ("GET", "/logs?limit=many", None, 400, "invalid_parameter", "limit"),
        ("GET", "/logs?limit=5000", None, 400, "invalid_parameter", "limit"),
        ("GET", "/logs?limt=5", None, 400, "invalid_parameter", "limt"),
        ("GET", "/logs?limit=1&limit=2", None, 400, "invalid_parameter", "limit"),
        ("GET", "/logs/stream?limit=5000", None, 400, "invalid_parameter", "limit"),
        ("GET", "/logs/stream?tenant=nobody", None, 404, "not_found", "tenant"),
        ("GET", "/models?kind=", None, 400, "invalid_parameter", "kind"),
        ("GET", "/models?capability=flying", None, 404, "not_found", "capability"),
        ("GET", "/models?everywhere=yes", None, 400, "invalid_parameter", "everywhere"),
        ("POST", "/tenants", {"name": "demo"}, 409, "conflict", "name"),
        ("POST", "/tenants", {"name": "new", "balance": "5"}, 400, "invalid_parameter", None),
        ("POST", "/tenants", {}, 400, "invalid_parameter", None),
        ("POST", "/tenants/demo/topup", {"amount": "-5"}, 400, "invalid_parameter", "amount"),
        ("POST", "/tenants/demo/topup", {"amount": 5}, 400, "invalid_parameter", None),
        ("POST", "/tenants/demo/adjust", {"amount": "-5000"}, 409, "conflict", None),
        ("POST", "/tenants/demo/topup", b"{", 400, "invalid_json", None),
        ("POST", "/tenants/demo/topup", b"\xff", 400, "invalid_json", None),
        ("POST", "/tenants/demo/topup", b" " * (BODY_BYTES_MAX + 1), 413, "request_too_large", None),
    ],
)
async def test_what_is_wrong_is_named_in_one_shape(
    api: aiohttp.ClientSession, method: str, path: str, body: object, status: int, code: str, param: str | None
) -> None:
    error = (await call(api, method, path, body, status))["error"]

    assert (error["code"], error["param"]) == (code, param)


async def test_a_fault_of_ours_says_nothing_of_itself(
    control: Control, api: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(tenant: str) -> None:
        raise KeyError("/secret/path")

    monkeypatch.setattr(control.ledger, "funds", broken)
    error = (await call(api, "GET", "/tenants", status=500))["error"]

    assert (error["code"], "/secret/path" in error["message"]) == ("internal_error", False)
    assert error["request_id"] in caplog.text


async def lines_of(response: aiohttp.ClientResponse, count: int) -> list[dict]:
    return [json.loads(await response.content.readline()) for _ in range(count)]


async def test_the_stream_shows_what_was_and_what_comes(control: Control, api: aiohttp.ClientSession) -> None:
    control.ledger.seen(record(1), record(2))
    async with api.get("/admin/v1/logs/stream?limit=1") as response:
        assert response.content_type == "application/x-ndjson"
        first, old = await lines_of(response, 2)
        control.ledger.seen(record(3))
        (new,) = await lines_of(response, 1)

    assert list(first) == ["heartbeat"]
    assert (old["entry"]["id"], new["entry"]["id"]) == ("req_0002", "req_0003")


async def test_the_stream_says_that_the_server_drains(control: Control, api: aiohttp.ClientSession) -> None:
    async with api.get("/admin/v1/logs/stream?limit=0") as response:
        await lines_of(response, 1)
        control.operations.stop_following()

        assert await lines_of(response, 1) == [{"end": "shutting_down"}]
        assert await response.content.read() == b""


async def test_a_follower_who_leaves_is_forgotten(control: Control, api: aiohttp.ClientSession) -> None:
    async with api.get("/admin/v1/logs/stream?limit=0") as response:
        await lines_of(response, 1)
        assert len(control.ledger.followers) == 1
        response.close()

    async with asyncio.timeout(5):
        await control.ledger.left.wait()


async def test_a_body_that_does_not_come_is_given_up(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("routerx.http.admin_kit.BODY_TIMEOUT_S", 0.01)
    server = TestServer(control.app())
    await server.start_server()
    try:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        head = (
            "POST /admin/v1/tenants HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n"
            f"Authorization: Bearer {ADMIN_KEY}\r\n\r\n"
        )
        writer.write(head.encode())
        assert b" 408 " in await reader.readline()
        writer.close()
    finally:
        await server.close()
