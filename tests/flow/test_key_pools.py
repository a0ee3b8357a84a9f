"""Operators switch providers and change their keys while the gateway serves; the file keeps everything else."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.flow.flow_kit import metrics
from tests.support.gateway import ADMIN_KEY, ENVIRON, KEY, UPSTREAM_KEY, Config, Gateway, Reply, config, running
from tests.support.upstream import Ok, ScriptedUpstream, Status

NEW = "sk-new-canary-key-1234"
KEYS = "/v1/admin/keys"
PROVIDERS = "/admin/v1/providers"

FILE = """\
# the gateway of acme
server: {{data_dir: data, admin_keys: ["${{env:ROUTERX_ADMIN_KEY}}"], health_interval: 0s}}
providers:
  # our account
  up:
    dialect: openai
    base_url: {url}/v1   # a stand-in
    keys:
      - "${{env:UP_KEY}}"  # team a
  spare: {{dialect: openai, base_url: "{url}/v1", keys: ["${{env:UP_KEY}}"]}}
models:
  solo: {{endpoints: [{{provider: up, price: {{input: 1, output: 2}}}}]}}
policies: {{default: {{retry: {{max: 0, backoff: 1ms..5ms}}}}}}
plans: {{prepaid: {{billing: prepaid}}}}
tenants:
  acme: {{plan: prepaid, opening_balance: $10, keys: ["${{env:TENANT_KEY}}"]}}
"""
ENV = {**ENVIRON, "TENANT_KEY": KEY, "ROUTERX_ADMIN_KEY": ADMIN_KEY}


@pytest.fixture(autouse=True)
def _files_settle_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("routerx.config.watch.SETTLE_S", 0.005)


async def admin(gateway: Gateway, method: str, path: str, body: Any = None, status: int = 200) -> Any:
    reply = await gateway.ask(method, path, body, key=ADMIN_KEY)
    assert reply.status == status, reply.body
    assert NEW.encode() not in reply.body
    return reply.json if status == 200 else reply.error


def text_of(gateway: Gateway) -> str:
    return (gateway.folder / "routerx.yaml").read_text()


async def key_ids(gateway: Gateway, provider: str = "up") -> list[str]:
    found = await admin(gateway, "GET", f"{KEYS}?provider={provider}")
    return [key["id"] for key in found["data"]]


def key_used(up: ScriptedUpstream) -> str:
    return up.requests[-1].headers["authorization"].removeprefix("Bearer ")


# --- providers


async def test_a_provider_is_off_at_once_stays_off_after_a_restart_and_comes_back(
    tmp_path: Path, up: ScriptedUpstream
) -> None:
    text = FILE.format(url=up.url)
    async with running(tmp_path, text, ENV) as gateway:
        off = await admin(gateway, "POST", f"{PROVIDERS}/up/disable", {})
        assert off["provider"]["state"] == "off"
        refused = await gateway.chat()
        assert (refused.status, refused.error["code"]) == (404, "model_not_found")
        written = text_of(gateway)
        assert written == text.replace("  up:\n", "  up:\n    enabled: false\n")
    async with running(tmp_path, written, ENV) as gateway:
        assert (await gateway.chat()).status == 404
        states = {one["name"]: one["state"] for one in (await admin(gateway, "GET", PROVIDERS))["data"]}
        assert states == {"up": "off", "spare": "on"}
        await admin(gateway, "POST", f"{PROVIDERS}/up/enable", {})
        assert (await gateway.chat()).status == 200
        assert text_of(gateway) == written.replace("enabled: false", "enabled: true")


async def test_a_gateway_with_every_provider_off_starts_and_says_no_clearly(
    tmp_path: Path, up: ScriptedUpstream
) -> None:
    text = (
        FILE.format(url=up.url)
        .replace("  up:\n", "  up:\n    enabled: off\n")
        .replace("spare: {", "spare: {enabled: off, ")
    )
    async with running(tmp_path, text, ENV) as gateway:
        refused = await gateway.chat()
        assert (refused.status, refused.error["code"]) == (404, "model_not_found")
        assert (await gateway.ask("GET", "/v1/models")).json["data"] == []
        assert (await gateway.ask("GET", "/health", key=None)).json["providers"] == []
        assert up.requests == []
        assert (await admin(gateway, "POST", f"{PROVIDERS}/up/test", {}))["ok"], "it can be looked at before it is on"
        await admin(gateway, "POST", f"{PROVIDERS}/up/enable", {})
        assert (await gateway.chat()).status == 200


async def test_calls_under_way_outlive_their_provider(tmp_path: Path, up: ScriptedUpstream) -> None:
    gate = asyncio.Event()
    up.default = Ok(gate=gate)
    async with running(tmp_path, FILE.format(url=up.url), ENV) as gateway:
        caller = await gateway.begin()
        await up.arrived()
        await admin(gateway, "POST", f"{PROVIDERS}/up/disable", {})
        gate.set()
        assert (await caller.reply()).status == 200


async def test_one_provider_is_shown_with_keys_and_circuits(tmp_path: Path, up: ScriptedUpstream) -> None:
    async with running(tmp_path, FILE.format(url=up.url), ENV) as gateway:
        await gateway.chat()
        shown = await admin(gateway, "GET", f"{PROVIDERS}/up")
        assert shown["provider"]["keys"] == {"active": 1, "cooling": 0, "quarantined": 0, "disabled": 0}
        assert (shown["provider"]["circuit"], shown["provider"]["models"]) == ("closed", 1)
        assert [row["endpoint"] for row in shown["circuits"]] == ["up/solo"]
        assert shown["keys"][0]["stats"]["requests"] == 1


# --- keys


async def test_a_key_is_added_used_changed_and_removed(tmp_path: Path, up: ScriptedUpstream) -> None:
    text = FILE.format(url=up.url)
    async with running(tmp_path, text, ENV) as gateway:
        added = await admin(gateway, "POST", KEYS, {"provider": "up", "key": NEW, "rpm": 100})
        assert (added["provider"], added["state"], added["rpm"], added["tpm"]) == ("up", "active", 100, None)
        assert await key_ids(gateway) == [(await key_ids(gateway))[0], added["id"]]
        (file,) = (gateway.data / "secrets").iterdir()
        assert file.read_text() == NEW + "\n"
        assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        assert NEW not in text_of(gateway)
        await gateway.chat()
        first = key_used(up)
        await gateway.chat()
        assert {first, key_used(up)} == {UPSTREAM_KEY, NEW}

        changed = await admin(gateway, "PATCH", f"{KEYS}/{added['id']}", {"rpm": None, "tpm": 5_000, "enabled": False})
        assert (changed["rpm"], changed["tpm"], changed["state"]) == (None, 5_000, "disabled")
        for _ in range(2):
            await gateway.chat()
            assert key_used(up) == UPSTREAM_KEY
        assert (await admin(gateway, "PATCH", f"{KEYS}/{added['id']}", {"enabled": True}))["state"] == "active"

        removed = await admin(gateway, "DELETE", f"{KEYS}/{added['id']}")
        assert removed == {"id": added["id"], "provider": "up", "file_removed": True}
        assert list((gateway.data / "secrets").iterdir()) == []
        assert text_of(gateway) == text
        assert NEW not in await metrics(gateway)


async def test_a_key_that_came_otherwise_leaves_its_file(tmp_path: Path, up: ScriptedUpstream) -> None:
    (tmp_path / "own.key").write_text("own-key-fake-123456\n")
    text = FILE.format(url=up.url).replace('"${env:UP_KEY}"  # team a', '"${env:UP_KEY}"\n      - "${file:own.key}"')
    async with running(tmp_path, text, ENV) as gateway:
        removed = await admin(gateway, "DELETE", f"{KEYS}/{(await key_ids(gateway))[1]}")
        assert removed["file_removed"] is False
        assert (tmp_path / "own.key").exists()


async def test_a_refused_key_is_in_quarantine_until_an_operator_clears_it(tmp_path: Path, up: ScriptedUpstream) -> None:
    async with running(tmp_path, FILE.format(url=up.url), ENV) as gateway:
        (key,) = await key_ids(gateway)
        for clear in (("POST", f"{KEYS}/{key}/clear", {}), ("PATCH", f"{KEYS}/{key}", {"state": "active"})):
            up.queue(Status(401))
            assert (await gateway.chat()).status >= 500
            found = (await admin(gateway, "GET", KEYS + "?provider=up"))["data"][0]
            assert (found["state"], found["ready_in_s"] > 200) == ("quarantined", True)
            assert (await gateway.chat()).status == 503
            assert (await admin(gateway, *clear))["state"] == "active"
            assert (await gateway.chat()).status == 200


async def test_the_last_key_is_not_removed_for_the_mock_to_take_over(tmp_path: Path, up: ScriptedUpstream) -> None:
    value = config(up.url)
    value["providers"]["up"]["preset"] = "openai"
    async with running(tmp_path, value) as gateway:
        (key,) = await key_ids(gateway)
        before = text_of(gateway)
        refused = await admin(gateway, "DELETE", f"{KEYS}/{key}", status=409)
        assert "the built-in mock would answer for mock, up" in refused["message"]
        assert text_of(gateway) == before
        assert (await gateway.chat()).headers["x-routerx-provider"] == "up"
        assert (await admin(gateway, "PATCH", f"{KEYS}/{key}", {"enabled": False}))["state"] == "disabled"
        assert (await gateway.chat()).status == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "param", "says"),
    [
        ("POST", KEYS, {"provider": "upp", "key": NEW}, 404, "not_found", "provider", "did you mean 'up'?"),
        ("POST", KEYS, {"provider": "up", "key": ""}, 400, "invalid_parameter", "key", "one line of ASCII"),
        ("POST", KEYS, {"provider": "up", "key": "two words"}, 400, "invalid_parameter", "key", "without spaces"),
        ("POST", KEYS, {"provider": "up", "key": "k" * 5_000}, 400, "invalid_parameter", "key", "at most 4096"),
        ("POST", KEYS, {"provider": "up", "key": NEW, "rpm": 0}, 400, "invalid_parameter", "rpm", "from 1"),
        ("POST", KEYS, {"provider": "up", "key": NEW, "rpm": "9"}, 400, "invalid_parameter", None, "rpm"),
        ("POST", KEYS, {"provider": "up", "key": NEW, "rpd": 9}, 400, "invalid_parameter", None, "rpd"),
        ("POST", KEYS, {"provider": "up"}, 400, "invalid_parameter", None, "key"),
        ("POST", KEYS, {"provider": "up", "key": UPSTREAM_KEY}, 409, "conflict", "key", "has this key already"),
        ("POST", KEYS, b"{", 400, "invalid_json", None, "not a JSON object"),
        ("GET", KEYS + "?provider=none", None, 404, "not_found", "provider", "no provider 'none'"),
        ("GET", KEYS + "?prov=up", None, 400, "invalid_parameter", "prov", "known: provider"),
        ("PATCH", KEYS + "/up-00000000", {"rpm": 1}, 404, "not_found", "key", "There is no key"),
        ("PATCH", KEYS + "/KEY", {"state": "cooling"}, 400, "invalid_parameter", "state", "only be set to 'active'"),
        ("PATCH", KEYS + "/KEY", {"tpm": -1}, 400, "invalid_parameter", "tpm", "or null for no limit"),
        ("PATCH", KEYS + "/KEY", {"key": NEW}, 400, "invalid_parameter", None, "key"),
        ("DELETE", KEYS + "/up-00000000", None, 404, "not_found", "key", "There is no key"),
        ("POST", KEYS + "/up-00000000/clear", {}, 404, "not_found", "key", "There is no key"),
        ("PUT", KEYS + "/KEY", {}, 405, "method_not_allowed", None, "DELETE, PATCH"),
        ("POST", PROVIDERS + "/none/disable", {}, 404, "not_found", "provider", "no provider 'none'"),
        ("POST", PROVIDERS + "/up/disable", {"why": "x"}, 400, "invalid_parameter", None, "why"),
        ("POST", PROVIDERS + "/up/restart", {}, 404, "not_found", None, "no admin route"),
    ],
)
async def test_what_is_wrong_is_named_and_changes_nothing(
    gw: Gateway, method: str, path: str, body: Any, status: int, code: str, param: str | None, says: str
) -> None:
    (key,) = await key_ids(gw)
    before = text_of(gw)
    error = await admin(gw, method, path.replace("KEY", key), body, status)
    assert (error["code"], error["param"]) == (code, param)
    assert says in error["message"]
    assert text_of(gw) == before
    assert not (gw.data / "secrets").exists()


async def test_only_an_admin_key_opens_these_routes(gw: Gateway) -> None:
    for method, path in (("GET", KEYS), ("POST", KEYS), ("GET", PROVIDERS), ("POST", "/auth/reload-keys")):
        for key in (KEY, None):
            reply = await gw.ask(method, path, {} if method == "POST" else None, key=key)
            assert (reply.status, reply.error["code"]) == (401, "invalid_api_key")


async def test_without_a_file_nothing_can_be_changed_and_the_answer_says_what_to_do(
    tmp_path: Path, up: ScriptedUpstream
) -> None:
    value: Config = config(up.url)
    services = f'[{{"name": "up", "backend_type": "generic-openai", "base_url": "{up.url}/v1", "api_key": "k-fake-1"}}]'
    del value["providers"], value["models"]
    async with running(tmp_path, value, {**ENV, "ROUTER_SERVICES": services}) as gateway:
        error = await admin(gateway, "POST", f"{PROVIDERS}/up/disable", {}, 404)
        assert "No file of the configuration declares the provider 'up'" in error["message"]
        error = await admin(gateway, "DELETE", f"{KEYS}/{(await key_ids(gateway))[0]}", status=404)
        assert "changed there" in error["message"]


async def test_a_change_that_the_configuration_refuses_is_taken_back(tmp_path: Path, up: ScriptedUpstream) -> None:
    value = config(up.url)
    value["providers"]["up"]["preset"] = "openai"
    value["server"]["mode"] = "real"
    async with running(tmp_path, value) as gateway:
        before = text_of(gateway)
        refused: Reply = await gateway.ask("DELETE", f"{KEYS}/{(await key_ids(gateway))[0]}", key=ADMIN_KEY)
        assert refused.status == 409
        assert "the mode is real, but no provider has a key" in refused.error["message"]
        assert text_of(gateway) == before
        status = await admin(gateway, "GET", "/admin/v1/status")
        assert status["problems"] == []


async def test_keys_in_files_are_read_again_when_asked(tmp_path: Path, up: ScriptedUpstream) -> None:
    (tmp_path / "own.key").write_text("old-key-fake-123456\n")
    text = FILE.format(url=up.url).replace('"${env:UP_KEY}"  # team a', '"${file:own.key}"')
    async with running(tmp_path, text, ENV) as gateway:
        (tmp_path / "own.key").write_text("new-key-fake-123456\n")
        reloaded = await admin(gateway, "POST", "/auth/reload-keys", {})
        assert (reloaded["ok"], reloaded["keys"], reloaded["problems"]) == (True, 2, [])
        await gateway.chat()
        assert key_used(up) == "new-key-fake-123456"
