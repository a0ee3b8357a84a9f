"""What each command prints and how it exits, against a server on a Unix socket."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

import routerx
from routerx.cli import main
from routerx.secrets import key_digest, key_id
from tests.cli.support import ADMIN_KEY, DEMO_KEY, Running, record, routerx_process, running


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path) as server:
        yield server


def run(server: Running, *arguments: str, exit_code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["--data-dir", str(server.data_dir), *arguments])
    assert result.exit_code == exit_code, result.output
    return result


def run_json(server: Running, *arguments: str) -> object:
    return json.loads(run(server, *arguments, "--json").stdout)


# --- tenants


def test_tenants_are_listed_with_exact_money_to_the_right(server: Running) -> None:
    assert run(server, "tenants", "list").stdout.splitlines() == [
        "tenant   plan       state    balance    held       today       month",
        "─" * 68,
        "demo     standard   active    $25.00   $0.05   $0.003674   $1.003674",
        "lab      free       active     $0.00   $0.05   $0.003674   $1.003674",
    ]


def test_a_table_that_does_not_fit_is_written_out_row_by_row(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    lines = run(server, "tenants", "list").stdout.splitlines()

    assert lines[0].split() == ["tenant", "demo"]
    assert ["month", "$1.003674"] in [line.split() for line in lines]
    assert max(len(line) for line in lines) <= 40


def test_off_a_terminal_lines_are_as_long_as_their_data(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS")
    server.settle(record(1, model="m" * 200))

    assert "m" * 200 in run(server, "logs", "tail").stdout


def test_a_tenant_is_shown_with_everything(server: Running) -> None:
    run(server, "tenants", "topup", "demo", "2.5", "--ref", "inv-7", "--note", "thanks")
    shown = run(server, "tenants", "show", "demo").stdout

    for text in (
        "$27.50",
        "$0.05",
        "$27.45",
        "$0.003674 in 1,234 requests",
        "$12.003674",
        "standard (prepaid, markup 10%)",
        "$500.00 a month, $498.946326 left",
        "300 requests a minute, 10,000 requests a day",
        "gpt-*",
        "yaml",
        "inv-7, thanks",
        "opening",
        "2026-01-02 03:04:0",
    ):
        assert text in shown


def test_a_tenant_is_created_with_a_key_alone_on_stdout_last(server: Running) -> None:
    result = run(server, "tenants", "create", "acme", "--plan", "standard", "--allow", "gpt-*", "--topup", "10")

    assert result.stdout.splitlines()[-1] == "rx_fake_1"
    assert "$10.00" in result.stdout
    assert "tenants.d/acme.yaml" in result.stderr
    assert "cannot be shown again" in result.stderr
    assert run_json(server, "tenants", "show", "acme")["allow"] == ["gpt-*"]


def test_money_goes_in_and_out(server: Running) -> None:
    credited = run(server, "tenants", "topup", "demo", "25")
    assert "Credited $25.00" in credited.stderr
    assert re.search(r"balance +\$50\.00", credited.stdout)

    taken = run(server, "tenants", "adjust", "demo", "--note", "typo", "--", "-3.5")
    assert "Took $3.50" in taken.stderr
    assert run_json(server, "tenants", "show", "demo")["funds"]["balance_usd"] == "46.50"


def test_a_tenant_is_suspended_and_let_in_again(server: Running) -> None:
    assert run(server, "tenants", "suspend", "demo", "--reason", "unpaid").stderr == "demo is suspended.\n"
    assert "suspended: unpaid" in run(server, "tenants", "show", "demo").stdout
    assert run(server, "tenants", "unsuspend", "demo").stderr == "demo may call again.\n"


def test_a_tenant_is_suspended_hard(server: Running) -> None:
    said = run(server, "tenants", "suspend", "demo", "--hard", "--reason", "stolen card").stderr
    assert said == "demo is suspended, and its calls under way are ended.\n"
    assert re.search(r"socket +tenant.cut_off +0 running requests", run(server, *HISTORY).stdout)


HISTORY = ("tenants", "history", "demo")


def test_limits_of_a_tenant_take_the_place_of_its_plans(server: Running) -> None:
    limited = run(server, "tenants", "limit", "demo", "--rpm", "10k", "--daily-requests", "none")
    assert limited.stderr == "demo has new limits.\n"
    assert re.search(r"limits +10,000 requests a minute *$", limited.stdout, re.MULTILINE)
    (row,) = run_json(server, *HISTORY)
    assert (row["action"], row["detail"]) == ("tenant.limit", '{"rpm":10000,"daily_requests":null}')
    assert re.search(r"tenant.limit +rpm 10000, daily_requests none", run(server, *HISTORY).stdout)
    assert "Nothing has been done yet." in run(server, "tenants", "history", "lab").stderr


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (("limit", "demo"), 2, "Nothing to change"),
        (("limit", "dmo", "--rpm", "1"), 1, "did you mean 'demo'?"),
        (("limit", "demo", "--tpm", "many"), 2, "is not a count"),
        (("limit", "demo", "--spend-limit", "5/year"), 1, "spend_limit is not a spend limit"),
        (("history", "dmo"), 1, "did you mean 'demo'?"),
        (("history", "demo", "-n", "0"), 1, "limit must be between 1 and 1000"),
    ],
)
def test_limits_and_histories_that_make_no_sense_are_named(
    server: Running, arguments: tuple[str, ...], exit_code: int, message: str
) -> None:
    result = run(server, "tenants", *arguments, exit_code=exit_code)
    assert message in " ".join(result.stderr.split())


# --- keys


def test_a_new_key_is_alone_on_stdout(server: Running) -> None:
    assert run(server, "keys", "create", "demo", "--label", "ci").stdout == "rx_fake_1\n"


def test_a_key_is_listed_and_revoked(server: Running) -> None:
    run(server, "keys", "create", "demo", "--label", "ci")
    name = next(key["id"] for key in run_json(server, "keys", "list") if key["source"] == "issued")

    assert f"{name} of demo is revoked." in run(server, "keys", "revoke", name).stderr
    assert re.search(rf"{name} +demo +revoked +issued", run(server, "keys", "list", "demo").stdout)
    assert "There are no keys." in run(server, "keys", "list", "lab").stderr


def test_a_key_gets_terms_of_its_own_and_others_later(server: Running) -> None:
    terms = ("--expires", "2100-01-01", "--allow", "gpt-*", "--rpm", "1k", "--spend-limit", "$5/day")
    made = run(server, "keys", "create", "demo", *terms)
    assert "restricted to gpt-*; 1,000 requests a minute; $5.00 a day; until 2100-01-01 00:00:00." in made.stderr
    (key,) = [key for key in run_json(server, "keys", "list") if key["source"] == "issued"]
    assert (key["allow"], key["limits"]["rpm"], key["spend_limit"]["amount_usd"]) == (["gpt-*"], 1_000, "5.00")
    shown = run(server, "keys", "show", key["id"]).stdout
    assert re.search(r"spend limit +\$5.00 a day, \$4.996326 left", shown)
    assert re.search(r"spent today +\$0.003674 in 12 requests", shown)
    change = ("--rpm", "none", "--allow", "none", "--spend-limit", "none", "--expires", "none", "--tpm", "10k")
    limited = run(server, "keys", "limit", key["id"], *change).stdout
    assert re.search(r"limits +10,000 tokens a minute", limited)
    assert re.search(r"expires +never", limited)
    assert "until" not in run(server, "keys", "list").stdout


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (("limit", "KEY"), 2, "Nothing to change"),
        (("limit", "key_none", "--rpm", "1"), 1, "There is no key 'key_none'"),
        (("limit", "YAML", "--rpm", "1"), 1, "is declared in YAML; change its entry under tenants.demo.keys there."),
        (("limit", "KEY", "--rpm", "0"), 2, "must be a whole number from 1"),
        (("limit", "KEY", "--spend-limit", "$5"), 1, "spend_limit is not a spend limit"),
        (("limit", "KEY", "--spend-limit", "inf/day"), 1, "spend_limit is not an amount of money; write it like $25"),
        (("limit", "KEY", "--spend-limit", "$-5/day"), 1, "spend_limit is not an amount of money; write it like $25"),
        (("limit", "KEY", "--spend-limit", "-5/day"), 1, "spend_limit must not be negative"),
        (("limit", "KEY", "--spend-limit", "0.0000000001/day"), 1, "spend_limit has more than 9 decimals"),
        (("limit", "KEY", "--rpm", "١"), 2, "is not a count"),
        (("limit", "KEY", "--expires", "soon"), 1, "write it like 30d or 2027-01-01"),
        (("limit", "KEY", "--allow", " "), 1, "allow takes at most 100 patterns"),
        (("create", "demo", "--expires", "2001-01-01"), 1, "expires is over already"),
        (("show", "key_none"), 1, "There is no key 'key_none'"),
    ],
)
def test_terms_of_keys_that_make_no_sense_are_named(
    server: Running, arguments: tuple[str, ...], exit_code: int, message: str
) -> None:
    run(server, "keys", "create", "demo")
    ids = {key["source"]: key["id"] for key in run_json(server, "keys", "list")}
    named = {"KEY": ids["issued"], "YAML": ids["yaml"]}
    result = run(server, "keys", *(named.get(word, word) for word in arguments), exit_code=exit_code)
    assert message in " ".join(result.stderr.split())


# --- models


def test_models_are_listed_with_their_lowest_price(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    lines = run(server, "models", "list").stdout.splitlines()

    assert lines[3].split() == [
        "gpt-4o",
        "chat",
        "openai,",
        "azure",
        "128k",
        "16.4k",
        "$2.50",
        "$10.00",
        "tools",
        "vision",
    ]
    assert lines[4].split() == ["tiny-embed", "embedding", "ollama", "–", "16.4k", "–", "–", "–"]


def test_models_are_filtered_by_kind_and_text(server: Running) -> None:
    assert [model["name"] for model in run_json(server, "models", "list", "gpt", "--kind", "chat")] == [
        "fast",
        "gpt-4o",
    ]
    assert run_json(server, "models", "list", "--capability", "audio") == []
    assert len(run_json(server, "models", "list", "--all", "--capability", "audio")) > 10
    assert "No model matches." in run(server, "models", "list", "zzz").stderr


def test_a_model_is_shown_with_each_endpoint(server: Running) -> None:
    shown = run(server, "models", "show", "fast").stdout

    for text in ("alias of", "2024-05-13", "azure/gpt-4o", "128,000 tokens", "tools, vision", "$1.25 per 1M tokens"):
        assert text in shown


# --- logs


def test_the_log_is_one_aligned_line_per_request(server: Running) -> None:
    server.settle(
        record(1),
        record(2, outcome="upstream_5xx", http_status=502, usage=None, cost_nano=0, ttft_ms=None),
        record(3, tenant="a-tenant-with-a-long-name", model="house-chat", served_model="gpt-4o-mini"),
    )
    first, second, third = run(server, "logs", "tail").stdout.splitlines()

    assert first == "03:04:06 200 demo     gpt-4o → openai      1200/34    $0.003674  310ms/1.2s ok"
    assert second == "03:04:07 502 demo     gpt-4o → openai          –/–        $0.00      –/1.2s upstream_5xx"
    assert third == "03:04:08 200 a-tenant-… house-chat → op…     1200/34    $0.003674  310ms/1.2s ok"
    assert len(third) == 80


def test_on_a_wide_terminal_nothing_of_a_log_line_is_cut(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    server.settle(record(1, model="house-chat", served_model="gpt-4o-mini", flags=("overrun",)))

    line = run(server, "logs", "tail").stdout.rstrip()
    assert "house-chat → openai/gpt-4o-mini " in line
    assert line.endswith("ok overrun")


def test_the_log_is_filtered_and_bounded(server: Running) -> None:
    server.settle(*(record(n, outcome="ok" if n % 2 else "rejected") for n in range(1, 9)))
    result = run(server, "logs", "tail", "-n", "2", "--outcome", "rejected", "--json")

    assert [json.loads(line)["id"] for line in result.stdout.splitlines()] == ["req_0006", "req_0008"]
    run(server, "logs", "tail", "-n", "1001", exit_code=2)


def test_what_a_caller_named_cannot_move_the_cursor(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    server.settle(record(1, model="x\x1b[2J\r\n\u202eevil", user="a\x07b"))

    line = run(server, "logs", "tail").stdout
    assert "x\\x1b[2J\\r\\n\\u202eevil" in line
    assert "a\\x07b" in run(server, "logs", "show", "req_0001").stdout


def test_a_request_is_shown_in_full(server: Running) -> None:
    server.settle(record(1, user="u1", app="my app"))
    shown = run(server, "logs", "show", "req_0001").stdout

    for text in (
        "gpt-4o (chat, streamed)",
        "ok, HTTP 200",
        "$0.003674 (paid)",
        "$0.00334 at list price",
        "1,200",
        "$2.50 per 1M tokens",
        "10%",
        "310 ms",
        "420 µs",
        "my app",
        "cost to the house",
    ):
        assert text in shown


def test_what_an_own_key_is_billed_for_is_shown_as_the_tenants(server: Running) -> None:
    server.settle(record(1, flags=("byok",)))
    assert re.search(r"cost to the tenant +\$0.00334 at list price", run(server, "logs", "show", "req_0001").stdout)


# --- ledger


def test_good_books_exit_0_and_bad_ones_1(server: Running) -> None:
    assert "no violation" in run(server, "ledger", "verify").stdout

    server.control.ledger.violations = ("I2: the books are off by 1",)
    bad = run(server, "ledger", "verify", exit_code=1)
    assert "I2: the books are off by 1" in bad.stdout
    assert json.loads(run(server, "ledger", "verify", "--json", exit_code=1).stdout)["ok"] is False


# --- everything


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        assert child is not None
        yield from leaves(child, (*path, name))


@pytest.mark.parametrize(("path", "command"), [pytest.param(*leaf, id=" ".join(leaf[0])) for leaf in leaves(main)])
def test_every_command_has_help_and_speaks_json(path: tuple[str, ...], command: click.Command) -> None:
    options = [option for option in command.params if isinstance(option, click.Option)]

    assert command.help
    assert all(option.help for option in options)
    assert any("--json" in option.opts for option in options) or path == ("serve",)
    text = CliRunner().invoke(main, [*path, "--help"]).output
    assert max(map(len, text.splitlines())) <= 80


def test_every_command_and_option_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    for path, command in leaves(main):
        assert f"`routerx {' '.join(path)}" in text, path
        for option in command.params:
            if isinstance(option, click.Option):
                assert all(f"`{name}" in text for name in option.opts), (path, option.opts)


@pytest.mark.parametrize(
    "arguments",
    [
        ("tenants", "list"),
        ("tenants", "show", "demo"),
        ("tenants", "create", "acme"),
        ("tenants", "topup", "demo", "1"),
        ("tenants", "adjust", "demo", "1"),
        ("tenants", "suspend", "demo"),
        ("tenants", "unsuspend", "demo"),
        ("tenants", "limit", "demo", "--rpm", "5"),
        ("tenants", "history", "demo"),
        ("keys", "create", "demo"),
        ("keys", "list"),
        ("keys", "show", key_id(key_digest(DEMO_KEY))),
        ("models", "list"),
        ("models", "show", "gpt-4o"),
        ("logs", "show", "req_0001"),
        ("ledger", "verify"),
    ],
)
def test_json_is_all_there_is_on_stdout(server: Running, arguments: tuple[str, ...]) -> None:
    server.settle(record(1))
    result = run(server, *arguments, "--json")
    before = CliRunner().invoke(main, ["--json", "--data-dir", str(server.data_dir), *arguments])

    assert isinstance(json.loads(result.stdout), dict | list)
    assert result.stderr == ""
    if arguments[1] in ("list", "show"):
        assert before.stdout == result.stdout


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (("tenants", "show", "dmo"), 1, "error: There is no tenant 'dmo'; did you mean 'demo'?"),
        (("models", "show", "tiny-embe"), 1, "error: There is no model 'tiny-embe'; did you mean 'tiny-embed'?"),
        (("logs", "show", "nothing"), 1, "error: There is no request 'nothing' in the log."),
        (("keys", "revoke", "key_none"), 1, "error: There is no key 'key_none'."),
        (("tenants", "show", "../demo"), 1, "error: There is nothing named '../demo'."),
        (("tenants", "show", ".."), 1, "error: There is no tenant '..'."),
        (("tenants", "create", "demo"), 1, "error: There already is a tenant 'demo'."),
        (("tenants", "adjust", "demo", "--", "-99"), 1, "error: This would take 'demo' below its floor."),
        (("tenants", "topup", "demo", "--", "-1"), 1, "error: A top-up must be more than 0"),
        (("tenants", "topup", "demo", "ten"), 2, "'ten' is not an amount of money"),
        (("tenants", "topup", "demo"), 2, "Missing argument 'AMOUNT'"),
        (("tenants", "list", "--colour"), 2, "No such option"),
        (("tenants", "lst"), 2, "No such command 'lst'"),
        (("models", "list", "--kind", "video"), 2, "'video' is not one of"),
    ],
)
def test_failures_are_one_line_on_stderr_and_an_exit_code(
    server: Running, arguments: tuple[str, ...], exit_code: int, message: str
) -> None:
    result = run(server, *arguments, exit_code=exit_code)

    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_a_remote_server_is_asked_by_url_and_admin_key(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    by_flag = CliRunner().invoke(main, ["tenants", "list", "--url", server.url, "--admin-key", ADMIN_KEY, "--json"])
    monkeypatch.setenv("ROUTERX_ADMIN_KEY", ADMIN_KEY)
    by_variable = CliRunner().invoke(main, ["--url", server.url + "/", "tenants", "list", "--json"])

    assert by_flag.exit_code == 0
    assert [tenant["name"] for tenant in json.loads(by_flag.stdout)] == ["demo", "lab"]
    assert by_variable.stdout == by_flag.stdout


def test_who_moved_money_is_on_record(server: Running) -> None:
    run(server, "tenants", "topup", "demo", "1")
    CliRunner().invoke(main, ["--url", server.url, "--admin-key", ADMIN_KEY, "tenants", "topup", "demo", "1"])

    actors = [row["actor"] for row in run_json(server, "tenants", "show", "demo")["transfers"]]
    assert actors == ["admin", "socket", "system"]


@pytest.mark.parametrize(
    ("url", "key", "exit_code", "message"),
    [
        ("{url}", "wrong", 1, "Is it an admin key of http://127.0.0.1"),
        ("{url}", None, 1, "needs an admin key; set ROUTERX_ADMIN_KEY"),
        ("{url}", "a\nb", 1, "holds characters that no key has"),
        ("gateway:8080", "k", 1, "must be like http://host:8080"),
        ("http://127.0.0.1:99999", "k", 1, "must be like http://host:8080"),
        ("http://127.0.0.1:1", "k", 69, "No answer from RouterX at http://127.0.0.1:1"),
        ("{url}/elsewhere", "k", 69, "answers 404, and not as a RouterX does"),
    ],
)
def test_a_remote_that_cannot_be_used_says_why(
    server: Running, url: str, key: str | None, exit_code: int, message: str
) -> None:
    credentials = [] if key is None else ["--admin-key", key]
    address = url.format(url=server.url)
    result = CliRunner().invoke(main, ["--url", address, *credentials, "tenants", "list"])

    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert message in result.stderr
    assert key is None or len(key) < 4 or key not in result.stderr


def test_an_unexpected_fault_is_one_line_and_a_traceback_only_where_asked(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(settings: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("routerx.cli.tenants.open_access", broken)
    assert run(server, "tenants", "list", exit_code=1).stderr.startswith("error: unexpected KeyError: 'surprise'")

    monkeypatch.setenv("ROUTERX_DEBUG", "1")
    assert "Traceback" in run(server, "tenants", "list", exit_code=1).stderr


def test_ctrl_c_ends_without_a_word_and_with_130(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("routerx.cli.tenants.open_access", interrupted)
    assert run(server, "tenants", "list", exit_code=130).stderr.strip() == ""


def test_the_version_is_told_without_loading_the_rest() -> None:
    code = "import sys; from routerx.cli import main\ntry: main(['--version'])\nfinally: print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    version, modules = done.stdout.splitlines()

    assert version == f"routerx {routerx.__version__}"
    assert not {"aiohttp", "pydantic", "rich", "sqlite3", "asyncio", "yaml"} & {
        name.strip("'[]") for name in modules.split(", ")
    }


def test_a_closed_pipe_ends_in_silence(server: Running) -> None:
    server.settle(*(record(n) for n in range(1, 1000)))
    with routerx_process("--data-dir", str(server.data_dir), "logs", "tail", "-n", "1000", "--json") as process:
        process.stdout.readline()
        process.stdout.close()

        assert process.stderr.read() == ""
        assert process.wait(30) == 1


def test_colour_is_for_terminals_alone(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b" not in run(server, "tenants", "list").stdout
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[32mactive" in run(server, "tenants", "list").stdout
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in run(server, "tenants", "list").stdout
