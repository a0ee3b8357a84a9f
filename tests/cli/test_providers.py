"""`routerx providers …`: what each command prints, against a server on a Unix socket and without one."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from routerx.cli import main
from routerx.config.snapshot import IdleProvider
from routerx.domain.failure import Failure, FailureKind
from routerx.domain.policy import Policy
from routerx.providers.spec import Auth, Credential, MockSettings, Provider
from routerx.routing.health import Look, Seen
from routerx.secrets import Secret
from tests.cli.support import START_NS, Control, Running, running

KEYS = ("openai-aaaa1111", "openai-bbbb2222")


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


def provider(name: str, *keys: str, **changes: object) -> Provider:
    credentials = tuple(Credential(key, Secret(f"sk-canary-{key}")) for key in keys)
    credentials = credentials or (Credential(f"{name}-none", None),)
    plain = Provider(name, "openai", f"https://{name}.test/v1", Auth.BEARER, credentials)
    return msgspec.structs.replace(plain, **changes)


def world() -> Control:
    """openai with a key in quarantine, azure that cannot be reached, a mock, and one without a key."""
    control = Control()
    live = [provider("openai", *KEYS), provider("azure", "azure-cccc3333"), provider("stand-in", mock=MockSettings())]
    control.holder.current = msgspec.structs.replace(
        control.holder.current,
        providers={one.name: one for one in live},
        idle={"vendor": IdleProvider(provider("vendor"), "no_key")},
    )
    control.routing.retain(control.holder.current)
    control.checks.retain()
    now_s = control.clock.monotonic_s()
    endpoint = control.holder.current.models["gpt-4o"].endpoints[0]
    for kind in (FailureKind.AUTH_FAILED, FailureKind.SERVER_ERROR):
        chosen = control.routing.pick_credential(live[0], endpoint, Policy("default"), now_s)
        assert chosen is not None
        control.routing.failed(endpoint.key, chosen.id, Failure(kind, ""), Policy("default"), now_s)
    control.checks.book.record(Look("openai", KEYS[1], Seen.OK, None, 200, 123, START_NS), now_s)
    lost = Look("azure", "azure-cccc3333", Seen.UNREACHABLE, "upstream_dns_error", None, 5, START_NS)
    control.checks.book.record(lost, now_s)
    control.clock.advance(60.0)
    return control


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path, world()) as server:
        yield server


def run(server: Running, *arguments: str, exit_code: int = 0, stdin: str | None = None) -> Result:
    result = CliRunner().invoke(main, ["--data-dir", str(server.data_dir), *arguments], input=stdin)
    assert result.exit_code == exit_code, result.output
    assert "canary" not in result.output
    return result


def test_providers_are_listed_with_how_they_are(server: Running) -> None:
    assert [line.rstrip() for line in run(server, "providers", "list").stdout.splitlines()] == [
        "provider   state    health        circuit   keys                latency   uptime",
        "─" * 80,
        "azure      on       unreachable   closed    1 active               5 ms     0.0%",
        "openai     on       ok            closed    1 active, 1          123 ms   100.0%",
        "                                            quarantined",
        "stand-in   mock     –             closed    –                         –        –",
        "vendor     no key   –             –         –                         –        –",
    ]


def test_a_wide_terminal_shows_more_and_a_narrow_one_writes_rows_out(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    wide = run(server, "providers", "list").stdout
    assert "1 active, 1 quarantined   " in wide
    assert "2026-01-02 03:04:05" in wide
    monkeypatch.setenv("COLUMNS", "40")
    lines = run(server, "providers", "list").stdout.splitlines()
    assert lines[0].split() == ["provider", "azure"]
    assert max(len(line) for line in lines) <= 40


def test_programs_get_json(server: Running) -> None:
    listed = json.loads(run(server, "providers", "list", "--json").stdout)
    assert [one["name"] for one in listed] == ["azure", "openai", "stand-in", "vendor"]
    assert listed[0]["health"]["last"]["reason"] == "upstream_dns_error"


def test_a_provider_is_shown_with_keys_and_circuits(server: Running) -> None:
    shown = run(server, "providers", "show", "openai").stdout
    for text in ("https://openai.test/v1", "2026-01-02 03:04:05, 123 ms", "quarantined, ", "openai/gpt-4o", KEYS[0]):
        assert text in shown
    assert "did you mean 'openai'?" in run(server, "providers", "show", "opnai", exit_code=1).stderr


def test_a_test_prints_each_key_and_fails_where_none_is_taken(server: Running) -> None:
    good = run(server, "providers", "test", "stand-in")
    assert "ok" in good.stdout
    bad = run(server, "providers", "test", "azure", exit_code=1)
    assert bad.stdout.splitlines()[2].split()[:3] == ["azure-cccc3333", "unreachable", "–"]


def test_keys_are_listed_with_what_was_done_with_them(server: Running) -> None:
    lines = run(server, "providers", "keys", "list", "openai").stdout.splitlines()
    assert lines[0].split() == ["key", "state", "calls", "failed", "429", "tokens"]
    assert lines[2].split() == [KEYS[0], "quarantined,", "240", "s", "left", "1", "1", "0", "0"]
    assert lines[3].split() == [KEYS[1], "active", "1", "1", "0", "0"]
    assert run(server, "providers", "keys", "list", "vendor").stderr == "There are no keys.\n"


def test_a_quarantine_is_cleared(server: Running) -> None:
    assert run(server, "providers", "keys", "clear", KEYS[0]).stderr == f"{KEYS[0]} is active.\n"
    assert "quarantined" not in run(server, "providers", "list").stdout


def test_what_no_file_declares_is_not_changed(server: Running) -> None:
    refused = run(server, "providers", "disable", "openai", exit_code=1).stderr
    assert "runs on the environment alone" in refused
    run(server, "providers", "keys", "add", "openai", stdin="sk-new\n", exit_code=1)


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "says"),
    [
        (("keys", "add", "openai"), "", 1, "No key came on stdin"),
        (("keys", "add", "openai", "--rpm", "many"), "k", 2, "--rpm is not a count"),
        (("keys", "add"), "k", 2, "Missing argument"),
        (("keys", "add", "openai", "sk-on-the-command-line"), None, 2, "unexpected extra argument"),
        (("keys", "set", KEYS[0]), None, 2, "Nothing to change"),
        (("keys", "set", KEYS[0], "--tpm", "-3"), None, 2, "--tpm is not a count"),
        (("keys", "remove", "openai-0000"), None, 1, "There is no key 'openai-0000'"),
        (("keys", "clear", "a/b"), None, 1, "There is nothing named 'a/b'"),
        (("enable",), None, 2, "Missing argument"),
    ],
)
def test_misuse_is_told(server: Running, arguments: tuple[str, ...], stdin: str | None, code: int, says: str) -> None:
    assert says in run(server, "providers", *arguments, exit_code=code, stdin=stdin).stderr


# --- without a server

FILE = """\
providers:
  lab: {base_url: "http://127.0.0.1:1/v1", keys: ["${env:LAB_KEY}"]}   # upstairs
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "routerx.yaml").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAB_KEY", "lab-key-fake-123456")
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


def alone(*arguments: str, exit_code: int = 0, stdin: str | None = None) -> Result:
    result = CliRunner().invoke(main, ["providers", *arguments], input=stdin)
    assert result.exit_code == exit_code, result.output
    return result


def test_without_a_server_the_file_is_changed(folder: Path) -> None:
    assert alone("disable", "lab").stderr == "lab is off.\n"
    text = (folder / "routerx.yaml").read_text()
    assert text == FILE.replace("{base_url", "{enabled: false, base_url")
    assert "off" in alone("list").stdout
    alone("enable", "lab")
    added = json.loads(alone("keys", "add", "lab", "--rpm", "1k", "--json", stdin="sk-new-canary\n").stdout)
    assert added["rpm"] == 1_000
    (file,) = (folder / "data" / "secrets").iterdir()
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == ("sk-new-canary\n", 0o600)
    assert "sk-new-canary" not in (folder / "routerx.yaml").read_text()
    alone("keys", "set", added["id"], "--rpm", "none", "--off")
    assert "disabled" in alone("keys", "list").stdout
    removed = alone("keys", "remove", added["id"])
    assert removed.stderr == f"{added['id']} is no key of lab any more.\n"
    assert list((folder / "data" / "secrets").iterdir()) == []


def test_without_a_server_a_provider_can_be_tested(folder: Path) -> None:
    lines = alone("test", "lab", exit_code=1).stdout.splitlines()
    assert lines[2].split()[1] == "unreachable"
    assert lines[2].split()[-1] == "upstream_connect_error"
    assert "No RouterX runs here" in alone("keys", "clear", "lab-1", exit_code=1).stderr


def test_a_file_that_cannot_be_written_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda _path, _mode: False)
    refused = alone("disable", "lab", exit_code=1).stderr
    assert "make the file and its folder writable" in refused
    assert (folder / "routerx.yaml").read_text() == FILE


def test_a_provider_with_own_keys_only_is_shown_as_such(tmp_path: Path) -> None:
    control = world()
    only = msgspec.structs.replace(provider("groq"), byok_only=True, credentials=())
    control.holder.current = msgspec.structs.replace(control.holder.current, providers={"groq": only}, idle={})
    control.checks.retain()
    with running(tmp_path, control) as server:
        assert "groq       own keys only" in run(server, "providers", "list").stdout
        assert "own keys only" in run(server, "providers", "show", "groq").stdout
        assert "It has no key to ask with." in run(server, "providers", "test", "groq", exit_code=1).output
