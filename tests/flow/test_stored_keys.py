"""Provider keys that are tenants' own, stored: set by operators while the gateway serves, used at once, never shown."""

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from routerx.cli import main
from routerx.ledger.proof.verify import verify_file
from routerx.secrets import Secret, fingerprint
from routerx.telemetry.logs import configure_logging
from tests.support.gateway import (
    ADMIN_KEY,
    ENVIRON,
    KEY,
    TENANT,
    UPSTREAM_KEY,
    Config,
    Gateway,
    config,
    running,
    serving,
)
from tests.support.upstream import ScriptedUpstream, Status

OWN, NEXT = "canary-own-key-of-acme-1", "canary-own-key-of-acme-2"
VAULT = "canary vault key that an operator has brought"
BYOK = f"/admin/v1/tenants/{TENANT}/byok"


@pytest.fixture
async def gw(tmp_path: Path, up: ScriptedUpstream) -> AsyncIterator[Gateway]:
    async with running(tmp_path, plain(up.url)) as gateway:
        yield gateway


def plain(up: str) -> Config:
    """Beside provider `up`, one that is off and one that takes no key."""
    value = config(up)
    value["providers"]["resting"] = {**value["providers"]["up"], "enabled": False}
    value["providers"]["open"] = {"base_url": f"{up}/v1"}
    return value


async def admin(gateway: Gateway, method: str, path: str, body: Any = None, status: int = 200) -> Any:
    reply = await gateway.ask(method, path, body, key=ADMIN_KEY)
    assert reply.status == status, reply.body
    assert b"canary" not in reply.body
    return reply.json if status == 200 else reply.error


async def listed(gateway: Gateway) -> list[tuple[str, str, str]]:
    """(provider, fingerprint, state)."""
    found = (await admin(gateway, "GET", BYOK))["data"]
    assert all(key["tenant"] == TENANT and key["created"].endswith("Z") for key in found)
    return [(key["provider"], key["fingerprint"], key["state"]) for key in found]


def print_of(key: str) -> str:
    return fingerprint(Secret(key))


async def key_used(gateway: Gateway, up: ScriptedUpstream) -> str:
    """Which key the next request goes out with."""
    assert (await gateway.chat()).status == 200
    return up.requests[-1].headers["authorization"].removeprefix("Bearer ")


def holding(folder: Path, key: str) -> list[str]:
    """The files that have the text of a key in them."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {"ledger.db", "requests.db"} <= {path.name for path in files}
    return [path.name for path in files if key.encode() in path.read_bytes()]


async def test_a_stored_key_is_used_at_once_replaced_and_removed(tmp_path: Path, up: ScriptedUpstream) -> None:
    async with running(tmp_path, plain(up.url)) as gateway:
        assert await listed(gateway) == []
        assert await key_used(gateway, up) == UPSTREAM_KEY
        stored = await admin(gateway, "PUT", f"{BYOK}/up", {"key": f" {OWN}\n", "reason": "contract 7"})
        assert (stored["provider"], stored["fingerprint"], stored["state"]) == ("up", print_of(OWN), "active")
        assert await key_used(gateway, up) == OWN
        await admin(gateway, "PUT", f"{BYOK}/up", {"key": NEXT})
        assert await listed(gateway) == [("up", print_of(NEXT), "active")]
        assert await key_used(gateway, up) == NEXT
        gone = await admin(gateway, "DELETE", f"{BYOK}/up?reason=left")
        assert gone["fingerprint"] == print_of(NEXT)
        assert await listed(gateway) == []
        assert await key_used(gateway, up) == UPSTREAM_KEY
        history = (await admin(gateway, "GET", f"/admin/v1/tenants/{TENANT}/history"))["data"]
        told = [(row["action"], json.loads(row["detail"])) for row in history if row["action"].startswith("byok.")]
        assert told == [
            ("byok.set", {"provider": "up", "fingerprint": print_of(OWN), "reason": "contract 7"}),
            ("byok.set", {"provider": "up", "fingerprint": print_of(NEXT), "reason": None}),
            ("byok.remove", {"provider": "up", "fingerprint": print_of(NEXT), "reason": "left"}),
        ]
        await gateway.assert_books_are_clean()


async def test_a_restart_keeps_a_key_and_the_vault_key_can_be_changed(tmp_path: Path, up: ScriptedUpstream) -> None:
    value = plain(up.url)
    async with running(tmp_path, value) as gateway:
        await admin(gateway, "PUT", f"{BYOK}/up", {"key": OWN})
        made = gateway.data / "secrets" / "vault.key"
        assert made.stat().st_mode & 0o777 == 0o600
    value["server"]["vault_keys"] = ["${env:VAULT}"]
    env = {**ENVIRON, "VAULT": VAULT}
    async with running(tmp_path, value, env) as gateway:
        assert await key_used(gateway, up) == OWN
    made.unlink()
    async with running(tmp_path, value, env) as gateway:
        assert await listed(gateway) == [("up", print_of(OWN), "active")]
        assert await key_used(gateway, up) == OWN
        await gateway.assert_books_are_clean()
    assert not made.exists()


async def test_without_its_vault_key_a_stored_key_fails_and_the_houses_is_not_used(
    tmp_path: Path, up: ScriptedUpstream
) -> None:
    async with running(tmp_path, plain(up.url)) as gateway:
        await admin(gateway, "PUT", f"{BYOK}/up", {"key": OWN})
    (tmp_path / "data" / "secrets" / "vault.key").unlink()
    async with running(tmp_path, plain(up.url)) as gateway:
        assert await listed(gateway) == [("up", print_of(OWN), "unreadable")]
        assert (await gateway.chat()).status >= 400
        assert up.requests == []
        assert gateway.funds().spent_total_nano == 0
        await admin(gateway, "PUT", f"{BYOK}/up", {"key": NEXT})
        assert await listed(gateway) == [("up", print_of(NEXT), "active")]
        assert await key_used(gateway, up) == NEXT


async def test_a_start_without_the_vault_key_tells_what_is_lost_and_what_to_do(
    tmp_path: Path, up: ScriptedUpstream
) -> None:
    async with running(tmp_path, plain(up.url)) as gateway:
        await admin(gateway, "PUT", f"{BYOK}/up", {"key": OWN})
    (tmp_path / "data" / "secrets" / "vault.key").unlink()
    async with serving(tmp_path, plain(up.url), ENVIRON) as served:
        await served.said(b"the own key of tenant 'acme' for 'up' cannot be read")
        assert b"routerx byok set acme up" in served.log


async def test_a_key_may_wait_for_its_provider(
    tmp_path: Path, up: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("routerx.config.watch.SETTLE_S", 0.005)
    async with running(tmp_path, plain(up.url)) as gateway:
        await admin(gateway, "PUT", f"{BYOK}/resting", {"key": OWN})
        assert await listed(gateway) == [("resting", print_of(OWN), "idle")]
        without = plain(up.url)
        del without["providers"]["resting"]
        assert (await gateway.reload(without)).ok
        assert await listed(gateway) == [("resting", print_of(OWN), "idle")]
        await admin(gateway, "DELETE", f"{BYOK}/resting")
        assert await listed(gateway) == []


@pytest.mark.parametrize("others", [(), ("up",)], ids=["mocked", "idle"])
async def test_a_vendor_whose_key_the_house_has_not_set_takes_those_of_tenants(
    tmp_path: Path, others: tuple[str, ...]
) -> None:
    async with ScriptedUpstream() as upstream:
        value = config(upstream.url)
        value["providers"] = {name: value["providers"][name] for name in others} | {
            "openai": {"keys": ["${env:UNSET:-}"]}
        }
        value["models"] = {}
        async with running(tmp_path, value) as gateway:
            stored = await admin(gateway, "PUT", f"{BYOK}/openai", {"key": OWN})
            assert stored["state"] == ("idle" if others else "active")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("GET", "/admin/v1/tenants/acmee/byok", None, 404, "no tenant 'acmee'; did you mean 'acme'?"),
        ("GET", f"{BYOK}?provider=up", None, 400, "There is no parameter 'provider' here"),
        ("PUT", "/admin/v1/tenants/acmee/byok/up", {"key": OWN}, 404, "no tenant 'acmee'; did you mean 'acme'?"),
        ("DELETE", "/admin/v1/tenants/acmee/byok/up", None, 404, "no tenant 'acmee'; did you mean 'acme'?"),
        ("PUT", f"{BYOK}/restin", {"key": OWN}, 404, "no provider 'restin'; did you mean 'resting'?"),
        ("DELETE", f"{BYOK}/up", None, 404, "'acme' has no own key for 'up'"),
        ("DELETE", f"{BYOK}/up?why=x", None, 400, "There is no parameter 'why' here"),
        ("PUT", f"{BYOK}/open", {"key": OWN}, 400, "'open' takes no key"),
        ("PUT", f"{BYOK}/up", {}, 400, "missing required field `key`"),
        ("PUT", f"{BYOK}/up", {"key": 7}, 400, "Expected `str`"),
        ("PUT", f"{BYOK}/up", {"key": OWN, "ttl": 1}, 400, "unknown field `ttl`"),
        ("PUT", f"{BYOK}/up", {"key": " "}, 400, "key must be one line of ASCII without spaces"),
        ("PUT", f"{BYOK}/up", {"key": f"{OWN}\r\nX-Evil: 1"}, 400, "key must be one line of ASCII without spaces"),
        ("PUT", f"{BYOK}/up", {"key": f"{OWN}\x00"}, 400, "key must be one line of ASCII without spaces"),
        ("PUT", f"{BYOK}/up", {"key": f"{OWN}é"}, 400, "key must be one line of ASCII without spaces"),
        ("PUT", f"{BYOK}/up", {"key": OWN * 400}, 400, "at most 4096 characters"),
        ("PUT", f"{BYOK}/up", {"key": OWN, "reason": "x" * 501}, 400, "reason is limited to 500 characters"),
    ],
)
async def test_what_cannot_be_stored_is_refused_by_name(
    gw: Gateway, method: str, path: str, body: Any, status: int, says: str
) -> None:
    error = await admin(gw, method, path, body, status)
    assert says in error["message"]
    assert await listed(gw) == []
    assert not (gw.data / "secrets").exists()


async def test_only_an_admin_key_opens_these_routes(gw: Gateway) -> None:
    for method, path, body in (
        ("GET", BYOK, None),
        ("PUT", f"{BYOK}/up", {"key": OWN}),
        ("DELETE", f"{BYOK}/up", None),
    ):
        for key in (KEY, None):
            reply = await gw.ask(method, path, body, key=key)
            assert (reply.status, reply.error["code"]) == (401, "invalid_api_key")


async def test_a_vault_key_that_cannot_be_kept_is_told_and_nothing_is_stored(
    tmp_path: Path, up: ScriptedUpstream
) -> None:
    async with running(tmp_path, plain(up.url)) as gateway:
        (gateway.data / "secrets").write_text("not a folder")
        error = await admin(gateway, "PUT", f"{BYOK}/up", {"key": OWN}, 503)
        assert "The key cannot be sealed, so it was not stored" in error["message"]
        assert await listed(gateway) == []
        assert await key_used(gateway, up) == UPSTREAM_KEY


async def test_the_command_line_does_it_on_the_running_server(tmp_path: Path, up: ScriptedUpstream) -> None:
    async with running(tmp_path, plain(up.url)) as gateway:

        async def run(*words: str, given: str | None = None, code: int = 0) -> Result:
            arguments = ["byok", *words, "--data-dir", str(gateway.data)]
            result = await asyncio.to_thread(CliRunner().invoke, main, arguments, given)
            assert result.exit_code == code, result.output
            assert "canary" not in result.output
            return result

        said = await run("set", TENANT, "up", "--reason", "contract 7", given=OWN + "\n")
        assert f"acme calls up with its own key {print_of(OWN)} from now on." in said.stderr
        assert await key_used(gateway, up) == OWN
        (tmp_path / "own.key").write_text(NEXT + "\n")
        told = json.loads((await run("set", TENANT, "up", "--key-file", str(tmp_path / "own.key"), "--json")).stdout)
        assert (told["fingerprint"], told["state"]) == (print_of(NEXT), "active")
        table = (await run("list", TENANT)).stdout
        assert print_of(NEXT) in table
        assert "active" in table
        assert "note: resting is not in use now" in (await run("set", TENANT, "resting", given=OWN)).stderr
        assert "is forgotten" in (await run("remove", TENANT, "up", "--reason", "left")).stderr
        assert "did you mean 'up'?" in (await run("set", TENANT, "upp", given=OWN, code=1)).stderr
        assert [key["provider"] for key in json.loads((await run("list", TENANT, "--json")).stdout)] == ["resting"]
        history = await gateway.runtime.ledger.history(TENANT, 1)
        assert (history[0].actor, json.loads(history[0].detail)["reason"]) == ("socket", "left")


async def test_the_log_masks_a_stored_key_from_before_it_is_used_and_after_a_restart(
    tmp_path: Path, up: ScriptedUpstream
) -> None:
    stream = io.StringIO()
    async with running(tmp_path, plain(up.url)) as gateway:
        gateway.runtime.logs = logs = configure_logging("info", stream, json=True)
        try:
            await admin(gateway, "PUT", f"{BYOK}/up", {"key": OWN})
            logging.getLogger("routerx.test").info("somebody told %s", OWN)
        finally:
            logs.close()
    assert "somebody told ***" in stream.getvalue()
    async with running(tmp_path, plain(up.url)) as gateway:
        assert {Secret(OWN), Secret(UPSTREAM_KEY)} <= set(gateway.runtime.secrets())


async def test_no_file_no_log_and_no_answer_shows_a_stored_key(tmp_path: Path, up: ScriptedUpstream) -> None:
    value = plain(up.url)
    value["server"] |= {"log_level": "debug", "vault_keys": ["${env:VAULT}"]}
    async with serving(tmp_path, value, {**ENVIRON, "VAULT": VAULT}) as served:
        put = await served.ask("PUT", f"{BYOK}/up", {"key": OWN}, key=ADMIN_KEY)
        assert put.status == 200
        up.default = Status(400, {"error": {"message": f"Bad key {OWN}, Authorization: Bearer {OWN}", "code": OWN}})
        refused = await served.chat()
        assert refused.status == 400
        assert up.requests[-1].headers["authorization"] == f"Bearer {OWN}"
        copied = await served.ask("POST", "/admin/v1/ledger/backup", {"path": str(tmp_path / "copy.db")}, key=ADMIN_KEY)
        assert copied.status == 200, copied.body
        places = (f"/admin/v1/tenants/{TENANT}", f"/admin/v1/tenants/{TENANT}/history", "/admin/v1/logs", "/metrics")
        answers = [put, refused, copied, *[await served.ask("GET", path, key=ADMIN_KEY) for path in places]]
        assert holding(tmp_path, OWN) == []
        served.process.terminate()
        assert await served.ended() == 0
    assert holding(tmp_path, OWN) == holding(tmp_path, VAULT) == []
    assert OWN not in served.log.decode()
    assert VAULT not in served.log.decode()
    assert [reply.status for reply in answers] == [200, 400, 200, 200, 200, 200, 200]
    assert not any(OWN.encode() in reply.body or OWN in str(dict(reply.headers)) for reply in answers)
    for name in ("data/ledger.db", "copy.db"):
        assert verify_file(str(tmp_path / name)).violations == ()
