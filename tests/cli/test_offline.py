"""Commands without a server: they read the configuration and open the real ledger under its lock."""

import json
import os
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from routerx.cli import main
from routerx.ledger.lock import DataDirLock
from tests.cli.support import running

CONFIG = """\
version: 1
include: [tenants.d/*.yaml]
plans:
  standard: {billing: prepaid, markup: 10%}
tenants:
  demo: {plan: standard, keys: [demo_key_fake_123456], opening_balance: $25}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "routerx.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


def run(*arguments: str, exit_code: int = 0) -> Result:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == exit_code, result.output
    return result


def run_json(*arguments: str) -> dict:
    return json.loads(run(*arguments, "--json").stdout)


def test_money_stays_from_one_command_to_the_next() -> None:
    assert run_json("tenants", "show", "demo")["funds"]["balance_usd"] == "25.00"
    run("tenants", "topup", "demo", "2.5", "--ref", "inv-1")
    run("tenants", "topup", "demo", "2.5", "--ref", "inv-1")
    run("tenants", "adjust", "demo", "--", "-0.000000001")

    shown = run_json("tenants", "show", "demo")
    assert shown["funds"]["balance_nano"] == 27_499_999_999
    assert [row["kind"] for row in shown["transfers"]] == ["adjustment", "topup", "opening"]
    assert shown["transfers"][0]["actor"].startswith("cli:")


def test_a_tenant_made_here_is_declared_and_has_its_money(folder: Path) -> None:
    created = run_json("tenants", "create", "acme", "--plan", "standard", "--topup", "3")

    assert (folder / "tenants.d" / "acme.yaml").exists()
    assert created["key"]["key"].startswith("rx_")
    assert [tenant["name"] for tenant in run_json("tenants", "list")] == ["acme", "demo"]
    assert run_json("tenants", "show", "acme")["funds"]["balance_usd"] == "3.00"
    assert "There already is a tenant 'acme'." in run("tenants", "create", "acme", exit_code=1).stderr
    assert run_json("check")["tenants"] == ["demo", "acme"]


def test_suspensions_and_keys_are_kept() -> None:
    key = run_json("keys", "create", "demo", "--label", "ci")["view"]["id"]
    run("tenants", "suspend", "demo", "--reason", "unpaid")

    assert run_json("tenants", "show", "demo")["suspend_reason"] == "unpaid"
    assert not run_json("keys", "revoke", key)["active"]
    assert [(one["source"], one["active"]) for one in run_json("keys", "list")] == [("yaml", True), ("issued", False)]
    run("tenants", "unsuspend", "demo")
    assert not run_json("tenants", "show", "demo")["suspended"]


def test_models_need_no_ledger(folder: Path) -> None:
    assert run_json("models", "show", "gpt-4o")["name"] == "gpt-4o"
    assert len(run_json("models", "list")) > 50
    assert not (folder / "data").exists()


def test_an_empty_log_is_no_failure() -> None:
    assert run("logs", "tail").stdout == ""
    run("logs", "show", "req_none", exit_code=1)


def test_the_books_are_proved_from_the_file_alone(folder: Path) -> None:
    run("tenants", "topup", "demo", "1")
    backup = folder / "backup.db"
    backup.write_bytes((folder / "data" / "ledger.db").read_bytes())

    assert run_json("ledger", "verify")["checked_transfers"] == 2
    assert run_json("ledger", "verify", "--file", str(backup))["ok"]
    backup.write_text("nothing")
    assert "not a database" in run("ledger", "verify", "--file", str(backup), exit_code=1).stdout
    run("ledger", "verify", "--file", str(folder / "none.db"), exit_code=78)


def test_a_ledger_in_use_names_its_owner(folder: Path) -> None:
    lock = DataDirLock(folder / "data")
    lock.acquire()
    try:
        error = run("tenants", "list", exit_code=75).stderr
    finally:
        lock.release()

    assert error.startswith("error: ")
    assert str(os.getpid()) in error


def test_a_socket_left_by_a_killed_server_is_passed_by(folder: Path) -> None:
    (folder / "data").mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(folder / "data" / "admin.sock"))

    assert [tenant["name"] for tenant in run_json("tenants", "list")] == ["demo"]


def test_a_good_configuration_is_summed_up() -> None:
    result = run("check")

    assert "The configuration is good." in result.stderr
    for text in ("routerx.yaml", "127.0.0.1:8080", "mock", "standard", "demo"):
        assert text in result.stdout


def test_a_bad_configuration_is_refused_with_every_problem(folder: Path) -> None:
    (folder / "bad.yaml").write_text("version: 1\nserver: {listne: 1}\nplans: {x: {billing: prepid}}\n")

    result = run("check", "bad.yaml", exit_code=1)
    assert [line.partition(": ")[0] for line in result.stdout.splitlines()] == ["bad.yaml:2", "bad.yaml:3"]
    assert "for 2 reasons" in result.stderr
    found = json.loads(run("check", "-c", "bad.yaml", "--json", exit_code=1).stdout)
    assert (found["ok"], len(found["problems"])) == (False, 2)


def test_other_commands_stop_at_a_bad_configuration(folder: Path) -> None:
    (folder / "routerx.yaml").write_text("version: 1\nmodles: {}\n")

    error = run("tenants", "list", exit_code=78).stderr
    assert error.splitlines()[0] == "error: the configuration is refused"
    assert "did you mean 'models'?" in error


def test_a_running_server_is_reached_though_the_file_on_disk_is_broken(folder: Path) -> None:
    (folder / "run").mkdir(mode=0o700)
    (folder / "routerx.yaml").write_text("version: 1\nserver: {data_dir: run}\nmodles: {}\n")
    with running(folder / "run"):
        result = run("tenants", "suspend", "demo")
        assert "note: the configuration on disk is refused" in result.stderr
        assert "demo is suspended." in result.stderr

    assert run("tenants", "suspend", "demo", exit_code=78).stderr.startswith("error: the configuration is refused")


def test_a_missing_file_is_named() -> None:
    assert "none.yaml" in run("-c", "none.yaml", "tenants", "list", exit_code=78).stderr


def test_without_a_file_the_environment_alone_counts(folder: Path) -> None:
    (folder / "routerx.yaml").unlink()

    assert run_json("check")["tenants"] == ["default"]
    assert not (folder / "data").exists()
    error = run("tenants", "create", "acme", exit_code=1).stderr
    assert "without a configuration file" in error


def test_the_schema_is_json_schema() -> None:
    schema = json.loads(run("config", "schema").stdout)

    assert schema["$schema"].startswith("https://json-schema.org/")
    assert "tenants" in schema["properties"]


def test_the_admin_key_for_a_remote_may_stand_in_dot_env(folder: Path) -> None:
    (folder / ".env").write_text("ROUTERX_ADMIN_KEY=from_dot_env\n")

    error = run("--url", "http://127.0.0.1:1", "tenants", "list", exit_code=69).stderr
    assert "No answer from RouterX at http://127.0.0.1:1" in error
