"""A gateway while it lives: changes of its configuration, its tenants and keys, and what it tells about itself."""

import asyncio
import json
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from routerx.cli.remote import Refused, RemoteAccess
from routerx.config.settings import Flags
from routerx.errors import LedgerLocked, OperatorError
from routerx.ledger.base import LogQuery
from routerx.runtime import Runtime, ServeOptions
from tests.flow.flow_kit import OPENING, UP_COST, metrics, priced
from tests.support.gateway import (
    ADMIN_KEY,
    ENVIRON,
    HELLO,
    KEY,
    TENANT,
    USD,
    Config,
    Gateway,
    config,
    digest,
    running,
    save,
    wait_for,
)
from tests.support.upstream import Ok, ScriptedUpstream, Status, Stream

NEW_KEY = "new_tenant_key_fake_123456"
CHAT = {"model": "solo", "messages": HELLO}


async def price_of_a_chat(gw: Gateway) -> str:
    return (await gw.chat()).headers["x-routerx-cost-usd"]


# --- reloads


async def test_saved_price_is_live_within_a_second(gw: Gateway, up: ScriptedUpstream) -> None:
    assert await price_of_a_chat(gw) == "0.000013"
    gw.write(priced(up.url, input=2, output=4))
    await wait_for(lambda: gw.runtime.watcher.status.generation == 2, within_s=3)  # A second, on a machine with time.
    assert await price_of_a_chat(gw) == "0.000026"
    assert (await gw.ask("GET", "/health", key=None)).json["config"] == {"generation": 2, "ok": True}


async def test_broken_edit_is_refused_and_named_and_the_last_good_one_serves(
    gw: Gateway, up: ScriptedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    broken = priced(up.url, input=2, output=-4)
    broken["modls"] = {}
    gw.write(broken)
    await wait_for(lambda: not gw.runtime.watcher.status.ok)

    health = (await gw.ask("GET", "/health", key=None)).json
    assert (health["status"], health["config"]) == ("ok", {"generation": 1, "ok": False})
    status = (await gw.ask("GET", "/admin/v1/status", key=ADMIN_KEY)).json
    problems = "\n".join(status["problems"])
    assert re.search(r"routerx\.yaml:\d+", problems)
    assert "modls: unknown key; did you mean 'models'?" in problems
    assert "output" in problems  # Every mistake at once.
    assert problems in caplog.text
    assert "routerx_config_last_reload_ok 0.0" in await metrics(gw)
    assert await price_of_a_chat(gw) == "0.000013"

    gw.write(priced(up.url, input=2, output=4))
    await wait_for(lambda: gw.runtime.watcher.status.ok)
    assert await price_of_a_chat(gw) == "0.000026"
    assert "routerx_config_last_reload_ok 1.0" in await metrics(gw)
    assert "routerx_config_reload_failures_total 1.0" in await metrics(gw)


@pytest.mark.parametrize("text", ["", "{", "\x00", "tenants: !!python/object:os.system {}", "- a list"])
async def test_file_that_is_no_configuration_changes_nothing(gw: Gateway, text: str) -> None:
    status = await gw.reload(text)
    assert (status.ok, status.generation) == (False, 1)
    assert (await gw.chat()).status == 200


async def test_reloads_under_load_drop_nothing(gw: Gateway, up: ScriptedUpstream) -> None:
    done = asyncio.Event()
    up.default = Stream(["Hel", "lo"], cut=40)
    served: list[tuple[int, bool]] = []

    async def caller(stream: bool) -> None:
        connection = await gw.connect()
        while not done.is_set():
            await connection.send("POST", "/v1/chat/completions", CHAT | {"stream": True})
            reply = await connection.reply()
            served.append((reply.status, reply.stream_error is None and reply.text == "Hello"))

    callers = [asyncio.ensure_future(caller(n % 2 == 0)) for n in range(4)]
    before = gw.runtime.watcher.status.generation
    for n in range(1, 4):
        assert (await gw.reload(priced(up.url, input=n + 1, output=n + 1))).ok
        assert not (await gw.reload("models: [")).ok
    done.set()
    await asyncio.gather(*callers)

    assert gw.runtime.watcher.status.generation == before + 3
    assert len(served) > 20
    assert set(served) == {(200, True)}
    await gw.assert_books_are_clean()


async def test_provider_that_is_taken_away_still_ends_its_stream(gw: Gateway, up: ScriptedUpstream) -> None:
    gate = asyncio.Event()
    up.default = Stream(["Hel", "lo"], gates={2: gate})
    caller = await gw.begin(stream=True)
    head = await caller.head()
    seen = await caller.until(b'"Hel"')
    value = config(up.url)
    value["providers"]["other"] = value["providers"].pop("up")
    for model in value["models"].values():
        model["endpoints"][0]["provider"] = "other"
    assert (await gw.reload(value)).ok
    gate.set()
    reply = await caller.reply(head, seen)
    assert (reply.text, reply.stream_error) == ("Hello", None)
    assert (await gw.settled()).provider == "up"
    up.default = Ok()
    assert (await gw.chat()).headers["x-routerx-provider"] == "other"
    await gw.assert_books_are_clean()


async def test_rotated_provider_key_is_used_at_once(tmp_path: Path, up: ScriptedUpstream) -> None:
    key = tmp_path / "provider.key"
    key.write_text("first-key-fake-123456\n")
    key.chmod(0o600)
    value = config(up.url)
    value["providers"]["up"]["keys"] = [f"${{file:{key}}}"]
    async with running(tmp_path, value) as gateway:
        await gateway.chat()
        key.write_text("second-key-fake-123456\n")
        await wait_for(lambda: gateway.runtime.watcher.status.generation == 2)
        await gateway.chat()
        sent = [request.headers["authorization"] for request in up.requests]
        assert sent == ["Bearer first-key-fake-123456", "Bearer second-key-fake-123456"]


async def test_quarantined_key_is_tried_again_when_a_new_one_is_configured(
    tmp_path: Path, up: ScriptedUpstream
) -> None:
    key = tmp_path / "provider.key"
    key.write_text("wrong-key-fake-123456")
    key.chmod(0o600)
    value = config(up.url)
    value["providers"]["up"]["keys"] = [f"${{file:{key}}}"]
    async with running(tmp_path, value) as gateway:
        up.queue(Status(401))
        assert (await gateway.chat()).error["code"] == "upstream_auth_failed"
        assert (await gateway.chat()).error["code"] == "no_healthy_upstream"
        key.write_text("right-key-fake-123456")
        assert (await gateway.runtime.watcher.reload_now()).ok
        assert (await gateway.chat()).status == 200


# --- starts


async def test_second_gateway_on_the_same_books_is_refused_and_told_whose_they_are(gw: Gateway) -> None:
    with pytest.raises(LedgerLocked, match=str(os.getpid())) as caught:
        async with running(gw.folder, config("http://unused.test")):
            pass
    assert caught.value.exit_code == 75
    assert (await gw.chat()).status == 200
    assert (gw.data / "admin.sock").exists()


async def test_gateway_that_cannot_start_leaves_nothing_behind(tmp_path: Path, up: ScriptedUpstream) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        options = ServeOptions(config=str(save(tmp_path, config(up.url))), flags=Flags(port=port), environ=ENVIRON)
        with pytest.raises(OperatorError, match=f"cannot listen on 127.0.0.1:{port}"):
            await Runtime.start(options)
    async with running(tmp_path, config(up.url)) as gateway:
        assert (await gateway.chat()).status == 200


# --- tenants and keys


def with_folder(up: str) -> Config:
    return config(up) | {"include": ["tenants.d/*.yaml"]}


async def test_tenant_that_is_saved_as_a_file_can_call(tmp_path: Path, up: ScriptedUpstream) -> None:
    (tmp_path / "tenants.d").mkdir()
    async with running(tmp_path, with_folder(up.url)) as gateway:
        assert (await gateway.chat(key=NEW_KEY)).status == 401
        tenant = {"tenants": {"fresh": {"plan": "prepaid", "opening_balance": "$2", "keys": [digest(NEW_KEY)]}}}
        (tmp_path / "tenants.d" / "fresh.yaml").write_text(json.dumps(tenant))
        await wait_for(lambda: gateway.runtime.holder.current.generation == 2)
        assert (await gateway.chat(key=NEW_KEY)).status == 200  # Its opening balance was there before it was.
        assert (gateway.funds("fresh").balance_nano, gateway.funds().balance_nano) == (2 * USD - UP_COST, OPENING)

        (tmp_path / "tenants.d" / "fresh.yaml").unlink()
        await wait_for(lambda: gateway.runtime.watcher.status.generation == 3)
        assert (await gateway.chat(key=NEW_KEY)).status == 401
        await gateway.assert_books_are_clean()


async def test_tenant_that_is_created_by_the_command_line_can_call(tmp_path: Path, up: ScriptedUpstream) -> None:
    async with running(tmp_path, with_folder(up.url)) as gateway:
        body = {"name": "fresh", "plan": "prepaid", "topup": "3"}
        created = await gateway.ask("POST", "/admin/v1/tenants", body, key=ADMIN_KEY)
        assert created.status == 200
        key = created.json["key"]["key"]
        assert (await gateway.chat(key=key)).status == 200
        assert gateway.funds("fresh").balance_nano == 3 * USD - UP_COST
        assert key not in (tmp_path / "tenants.d" / "fresh.yaml").read_text()
    async with running(tmp_path, with_folder(up.url)) as gateway:
        assert (await gateway.chat(key=key)).status == 200
        await gateway.assert_books_are_clean()


async def test_suspension_counts_at_once_and_lets_what_runs_end(gw: Gateway, up: ScriptedUpstream) -> None:
    gate = asyncio.Event()
    up.default = Ok(gate=gate)
    running_one = await gw.begin()
    await up.arrived()
    path = f"/admin/v1/tenants/{TENANT}"
    assert (await gw.ask("POST", f"{path}/suspend", {"reason": "unpaid"}, key=ADMIN_KEY)).status == 200
    refused = await gw.chat()
    assert (refused.status, refused.error["code"]) == (403, "tenant_suspended")
    assert (await gw.ask("GET", "/v1/models")).status == 403
    gate.set()
    assert (await running_one.reply()).status == 200
    assert await gw.spent() == UP_COST
    assert (await gw.ask("POST", f"{path}/unsuspend", {}, key=ADMIN_KEY)).status == 200
    assert (await gw.chat()).status == 200


@pytest.mark.parametrize("declared", [True, False], ids=["in_yaml", "issued"])
async def test_revoked_key_is_refused_at_once_and_after_a_restart(
    tmp_path: Path, up: ScriptedUpstream, declared: bool
) -> None:
    async with running(tmp_path, config(up.url)) as gateway:
        if declared:
            key = KEY
            (row,) = (await gateway.ask("GET", "/admin/v1/keys", key=ADMIN_KEY)).json["data"]
        else:
            made = await gateway.ask("POST", "/admin/v1/keys", {"tenant": TENANT}, key=ADMIN_KEY)
            key, row = made.json["key"], made.json["view"]
        assert (await gateway.chat(key=key)).status == 200
        assert (await gateway.ask("POST", f"/admin/v1/keys/{row['id']}/revoke", {}, key=ADMIN_KEY)).status == 200
        refused = await gateway.chat(key=key)
        assert (refused.status, refused.error["code"]) == (401, "invalid_api_key")
    async with running(tmp_path, config(up.url)) as gateway:
        assert (await gateway.chat(key=key)).status == 401
        assert (await gateway.chat()).status == (401 if declared else 200)


# --- the admin API, from this machine and from elsewhere


@pytest.mark.parametrize("where", ["socket", "tcp"])
async def test_command_line_reaches_a_running_server(gw: Gateway, where: str) -> None:
    await gw.chat()
    if where == "socket":
        path = gw.data / "admin.sock"
        assert path.stat().st_mode & 0o777 == 0o600
        access = RemoteAccess.by_socket(path)
    else:
        access = RemoteAccess.by_url(gw.url, ADMIN_KEY)

    row = await asyncio.to_thread(access.top_up, TENANT, "25", "ref-1", None)
    again = await asyncio.to_thread(access.top_up, TENANT, "25", "ref-1", None)
    assert row.id == again.id
    detail = await asyncio.to_thread(access.tenant, TENANT)
    assert detail.funds.balance_nano == OPENING - UP_COST + 25 * USD == gw.funds().balance_nano
    assert len(await asyncio.to_thread(access.tenants)) == 1
    (entry,) = await asyncio.to_thread(access.logs, LogQuery())
    log = await asyncio.to_thread(access.log, entry.id)
    assert (entry.outcome, [attempt.endpoint for attempt in log.attempts]) == ("ok", ["up/solo"])
    assert (await asyncio.to_thread(access.verify)).ok
    with pytest.raises(Refused, match="no tenant 'acmee'; did you mean 'acme'"):
        await asyncio.to_thread(access.tenant, "acmee")


async def test_log_is_followed_until_the_server_drains(gw: Gateway) -> None:
    access = RemoteAccess.by_socket(gw.data / "admin.sock")
    lines: asyncio.Queue[Any] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def follow() -> None:
        for line in access.follow(LogQuery(limit=0)):
            loop.call_soon_threadsafe(lines.put_nowait, line)

    following = asyncio.ensure_future(asyncio.to_thread(follow))
    assert (await lines.get()).heartbeat
    reply = await gw.chat()
    assert (await lines.get()).entry.id == reply.headers["x-request-id"]
    gw.runtime.begin_drain()
    assert (await lines.get()).end == "shutting_down"
    await following


async def test_admin_api_needs_its_own_key(gw: Gateway) -> None:
    for key in (None, KEY, "wrong_admin_key_fake_123456"):
        for path in ("/admin/v1/status", "/admin/v1/tenants", f"/admin/v1/tenants/{TENANT}/topup"):
            method = "POST" if path.endswith("topup") else "GET"
            reply = await gw.ask(method, path, {"amount": "5"}, key=key)
            assert (reply.status, reply.error["code"]) == (401, "invalid_api_key")
            assert reply.error["request_id"] == reply.headers["x-request-id"]
    assert (await gw.ask("GET", "/admin/v1/status", key=ADMIN_KEY)).status == 200
    assert (await gw.chat(key=ADMIN_KEY)).status == 401
    assert gw.funds().balance_nano == OPENING


async def test_unknown_admin_routes_are_told_apart(gw: Gateway) -> None:
    assert (await gw.ask("GET", "/admin/v1/nothing", key=ADMIN_KEY)).error["code"] == "not_found"
    wrong = await gw.ask("DELETE", "/admin/v1/tenants", key=ADMIN_KEY)
    assert (wrong.status, wrong.error["code"]) == (405, "method_not_allowed")
    assert "GET, POST" in wrong.error["message"]
