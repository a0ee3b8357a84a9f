"""`routerx byok …` without a server: over the ledger itself, under its lock."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from routerx.cli import main
from routerx.ledger.lock import DataDirLock
from routerx.secrets import Secret, fingerprint

KEY = "canary-own-key-of-demo"
CONFIG = """\
providers:
  lab: {base_url: "http://127.0.0.1:1/v1", keys: ["${env:LAB_KEY}"]}
  open: {base_url: "http://127.0.0.1:1/v1"}
tenants:
  demo: {keys: [demo_key_fake_123456]}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "routerx.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAB_KEY", "lab-key-fake-123456")
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


def run(*arguments: str, given: str | None = None, exit_code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["byok", *arguments], given)
    assert result.exit_code == exit_code, result.output
    assert "canary" not in result.output
    return result


def test_a_key_is_kept_from_one_command_to_the_next(folder: Path) -> None:
    assert run("list", "demo").stderr == "demo has no own keys.\n"
    told = json.loads(run("set", "demo", "lab", "--json", given=f"{KEY}\n").stdout)
    assert (told["tenant"], told["provider"], told["state"]) == ("demo", "lab", "active")
    assert told["fingerprint"] == fingerprint(Secret(KEY))
    assert json.loads(run("list", "demo", "--json").stdout) == [told]
    assert not [path for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()], (
        "its text is in no file"
    )
    assert "is forgotten" in run("remove", "demo", "lab", "--reason", "left").stderr
    assert json.loads(run("list", "demo", "--json").stdout) == []


def test_a_key_comes_from_a_file(folder: Path) -> None:
    (folder / "own.key").write_text(f"\n{KEY}\n")
    run("set", "demo", "lab", "--key-file", "own.key")
    assert fingerprint(Secret(KEY)) in run("list", "demo").stdout


def test_a_key_is_asked_for_on_a_terminal_without_an_echo(folder: Path) -> None:
    main_end, terminal = pty.openpty()
    code = "import sys; from routerx.cli import main; sys.argv[0] = 'routerx'; main()"
    command = [sys.executable, "-c", code, "byok", "set", "demo", "lab"]
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True) as process:
        os.close(terminal)
        seen = b""
        while b"Key for lab: " not in seen:
            seen += os.read(main_end, 1024)
        os.write(main_end, KEY.encode() + b"\n")
        seen += _rest(main_end)
        assert process.wait(20) == 0, seen
    os.close(main_end)
    assert KEY.encode() not in seen
    assert fingerprint(Secret(KEY)) in run("list", "demo").stdout


def _rest(descriptor: int) -> bytes:
    seen = b""
    while True:
        try:
            piece = os.read(descriptor, 1024)
        except OSError:  # The other end is closed.
            return seen
        if not piece:
            return seen
        seen += piece


def test_a_key_whose_vault_key_is_lost_is_shown_as_what_it_is(folder: Path) -> None:
    run("set", "demo", "lab", given=KEY)
    (folder / "data" / "secrets" / "vault.key").unlink()
    assert "unreadable: set it anew" in run("list", "demo").stdout
    run("set", "demo", "lab", given=KEY)
    assert "active" in run("list", "demo").stdout


def test_a_given_vault_key_seals_and_no_other_is_made(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT", "a vault key that an operator has brought")
    (folder / "routerx.yaml").write_text(
        CONFIG + 'server: {vault_keys: ["${env:VAULT}"]}\nledger: {path: books/b.db}\n'
    )
    run("set", "demo", "lab", given=KEY)
    assert "active" in run("list", "demo").stdout
    assert not list(folder.rglob("vault.key"))
    monkeypatch.setenv("VAULT", "another key that does not open these")
    assert "unreadable" in run("list", "demo").stdout


@pytest.mark.parametrize(
    ("arguments", "given", "code", "says"),
    [
        (("set", "demo", "lab"), "", 1, "No key came on stdin"),
        (("set", "demo", "lab", KEY), None, 2, "unexpected extra argument"),
        (("set", "demo", "lab", "--key-file", "none.key"), None, 1, "'none.key' cannot be read: No such file"),
        (("set", "demo", "lab", "--key-file", "empty.key"), None, 1, "'empty.key' is empty"),
        (("set", "demo", "lab", "--key-file", "odd.key"), None, 1, "'odd.key' holds no text"),
        (("set", "demo", "lab"), "two words", 1, "key must be one line of ASCII without spaces"),
        (("set", "demo", "labb"), KEY, 1, "no provider 'labb'; did you mean 'lab'?"),
        (("set", "demo", "open"), KEY, 1, "'open' takes no key"),
        (("set", "dmo", "lab"), KEY, 1, "no tenant 'dmo'; did you mean 'demo'?"),
        (("list", "dmo"), None, 1, "no tenant 'dmo'; did you mean 'demo'?"),
        (("remove", "demo", "lab"), None, 1, "'demo' has no own key for 'lab'"),
        (("list",), None, 2, "Missing argument"),
    ],
)
def test_misuse_is_told(folder: Path, arguments: tuple[str, ...], given: str | None, code: int, says: str) -> None:
    (folder / "empty.key").touch()
    (folder / "odd.key").write_bytes(b"\xff\xfe")
    result = CliRunner().invoke(main, ["byok", *arguments], given)
    assert result.exit_code == code, result.output
    assert says in result.stderr


def test_a_ledger_in_use_is_left_alone(folder: Path) -> None:
    run("set", "demo", "lab", given=KEY)
    lock = DataDirLock(folder / "data")
    lock.acquire()
    try:
        run("remove", "demo", "lab", exit_code=75)
    finally:
        lock.release()
