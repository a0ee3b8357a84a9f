"""Flags and environment: who wins, what the predecessors' names mean, what is made where nothing is said."""

import json
from pathlib import Path

import pytest

from routerx.config.keyfile import KEY_FILE, make_key, stored_key
from routerx.config.load import Loader
from routerx.config.settings import Flags, config_path, read_environment
from routerx.domain.tenant import Billing
from routerx.errors import ConfigError
from routerx.providers.spec import MockSettings
from routerx.secrets import key_digest
from tests.unit.config.config_kit import TWO_LINES, WITH_KEY, Folder, nobody_is_told

FILE = TWO_LINES + "server: {listen: 127.0.0.1:1, log_level: error, data_dir: from-file}\n"


def test_a_flag_wins_over_the_environment_and_that_over_the_file(folder: Folder):
    env = {**WITH_KEY, "PORT": "3", "LOG_LEVEL": "WARN", "HOST": "127.0.0.3"}
    ours = {**env, "ROUTERX_PORT": "4", "ROUTERX_LOG_LEVEL": "debug", "ROUTERX_DATA_DIR": "from-env"}
    flags = Flags(port=5, host="127.0.0.5", data_dir="from-flag", log_level="info")

    def effective(env: dict[str, str], flags: Flags) -> tuple[str, int, str, str]:
        server = folder.load(FILE, env, flags).server
        return server.host, server.port, server.log_level, Path(server.data_dir).name

    assert effective(WITH_KEY, Flags()) == ("127.0.0.1", 1, "error", "from-file")
    assert effective(env, Flags()) == ("127.0.0.3", 3, "warning", "from-file")
    assert effective(ours, Flags()) == ("127.0.0.3", 4, "debug", "from-env")
    assert effective(ours, flags) == ("127.0.0.5", 5, "info", "from-flag")


def test_the_environment_decides_what_is_open_to_callers_without_a_key(folder: Folder):
    def public(**env: str) -> tuple[bool, bool]:
        server = folder.load("server: {public_models: on}\n" + TWO_LINES, {**WITH_KEY, **env}).server
        return server.public_models, server.public_metrics

    assert public() == (True, False)
    assert public(ROUTERX_PUBLIC_MODELS="off", ROUTERX_PUBLIC_METRICS="on") == (False, True)


def test_an_empty_variable_counts_as_not_set(folder: Folder):
    assert folder.load(FILE, {**WITH_KEY, "PORT": "", "ROUTERX_PORT": ""}).server.port == 1


def test_the_predecessors_names_are_honoured(folder: Folder):
    env = {
        **WITH_KEY,
        "REQUEST_TIMEOUT": "45",
        "ENABLE_AUTH": "false",
        "AUTH_HEADER_NAME": "X-Key",
        "DATABASE_URL": "sqlite+aiosqlite:////var/lib/ledger.db",
        "ROUTERX_ADMIN_KEY": "an-admin-key-of-some-length",
    }
    snapshot = folder.load(TWO_LINES, env)
    assert snapshot.providers["openai"].timeouts.total_s == 45.0
    assert (snapshot.server.auth, snapshot.server.auth_header) == (False, "X-Key")
    assert snapshot.server.ledger_path == "/var/lib/ledger.db"
    assert snapshot.server.admin_key_digests == {key_digest("an-admin-key-of-some-length")}


@pytest.mark.parametrize(("value", "mocked"), [("false", True), ("true", False)])
def test_real_calls_can_be_switched_off(folder: Folder, value: str, mocked: bool):
    snapshot = folder.load(TWO_LINES, {**WITH_KEY, "ENABLE_REAL_CALLS": value})
    assert snapshot.providers["openai"].mock == (MockSettings() if mocked else None)


@pytest.mark.parametrize(
    ("name", "value", "seconds"),
    [
        ("HEALTH_CHECK_INTERVAL", "30000", 30.0),
        ("HEALTH_CHECK_INTERVAL", "0", 0.0),
        ("ROUTERX_HEALTH_INTERVAL", "2m", 120.0),
    ],
)
def test_the_health_interval_is_in_milliseconds_or_has_a_unit(folder: Folder, name: str, value: str, seconds: float):
    assert folder.load(TWO_LINES, {**WITH_KEY, name: value}).server.health_interval_s == seconds


def test_what_this_version_does_not_use_is_accepted_and_told(folder: Folder):
    names = ("REDIS_URL", "JWT_SECRET", "OTEL_ENDPOINT", "ROUTERX_SEED")
    notices = folder.load(TWO_LINES, {**WITH_KEY, **dict.fromkeys(names, "canary")}).notices
    assert [notice.split()[0] for notice in notices[:-1]] == list(names)
    assert "canary" not in "".join(notices)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("PORT", "80a", "environment: PORT: is not a port; write a number from 0 to 65535"),
        ("ROUTERX_LOG_LEVEL", "loud", "environment: ROUTERX_LOG_LEVEL: is not a log level"),
        ("ROUTERX_MODE", "demo", "environment: ROUTERX_MODE: must be real or mock"),
        ("ENABLE_AUTH", "perhaps", "environment: ENABLE_AUTH: must be on or off"),
        ("HEALTH_CHECK_INTERVAL", "often", "environment: HEALTH_CHECK_INTERVAL: is not a duration"),
        ("REQUEST_TIMEOUT", "0", "environment: REQUEST_TIMEOUT: must be longer than 0"),
        ("ROUTERX_ADMIN_KEY", "canary", "environment: ROUTERX_ADMIN_KEY: is not an admin key: it needs"),
        ("DATABASE_URL", "sqlite:///:memory:", "environment: DATABASE_URL: names no file"),
        ("DATABASE_URL", "mysql://canary@h/x", "environment: DATABASE_URL: is not an SQLite URL"),
        ("ROUTER_SERVICES", "[{]", "environment: ROUTER_SERVICES: is not a JSON list of services: "),
        ("ROUTER_SERVICES", '[{"api_key": "canary"}]', "environment: ROUTER_SERVICES: is not a JSON list of services"),
    ],
)  # fmt: skip
def test_a_variable_that_cannot_be_read_is_named(folder: Folder, name: str, value: str, problem: str):
    found = folder.problem(None, {**WITH_KEY, name: value})
    assert found.startswith(problem)
    assert "canary" not in found


def test_a_postgresql_url_is_refused_in_so_many_words(folder: Folder):
    found = folder.problem(TWO_LINES, {**WITH_KEY, "DATABASE_URL": "postgresql://u:canary@db/x"})
    assert "this version keeps its ledger in SQLite only" in found
    assert "canary" not in found


# --- environment only ------------------------------------------------------------------------------------------------


def test_keys_in_the_environment_switch_providers_on(folder: Folder):
    env = {"GEMINI_API_KEY": "", "GOOGLE_API_KEY": "g", "OLLAMA_BASE_URL": "http://box:11434", "AUTH_KEY_07": "seven"}
    snapshot = folder.load(None, env)
    assert set(snapshot.providers) == {"gemini", "ollama"}
    assert snapshot.providers["ollama"].base_url == "http://box:11434"
    assert snapshot.tenants["default"].plan.billing is Billing.OFF
    assert set(snapshot.keys) == {key_digest("seven")}
    assert snapshot.files == ()


def test_only_a_vendor_at_its_own_address_is_public(folder: Folder):
    keys = {"OPENAI_API_KEY": "o", "OLLAMA_BASE_URL": "http://box:11434"}
    assert {name: one.public for name, one in folder.load(None, keys).providers.items()} == {
        "openai": True,
        "ollama": False,
    }
    text = "version: 1\nproviders:\n  openai: {base_url: 'https://llm.lan/v1', keys: [k-fake-123456]}\n  ollama: {}\n"
    found = folder.load(text, {}).providers
    assert {name: one.public for name, one in found.items()} == {"openai": False, "ollama": False}


def test_services_become_providers_in_their_order(folder: Folder):
    services = [
        {"name": "main", "backend_type": "openai", "api_key": "sk-canary", "priority": 1, "models": ["x"]},
        {
            "name": "spare",
            "backend_type": "generic-openai",
            "base_url": "http://10.0.0.9/v1",
            "api_key": "sk-canary2",
            "priority": "2",
            "rate_limit_requests": 50,
            "rate_limit_window": 10,
        },
    ]
    snapshot = folder.load(None, {"ROUTER_SERVICES": json.dumps(services), "AUTH_KEY": "k"})
    assert set(snapshot.providers) == {"main", "spare"}
    assert snapshot.providers["spare"].credentials[0].rpm == 300
    assert [(endpoint.key, endpoint.priority) for endpoint in snapshot.models["gpt-4o"].endpoints] == [
        ("main/gpt-4o", 1)
    ]


def test_a_service_of_an_unknown_type_is_named(folder: Folder):
    services = json.dumps([{"name": "a", "backend_type": "opnai", "api_key": "canary"}])
    found = folder.problem(None, {"ROUTER_SERVICES": services})
    assert found == "environment: providers.a.preset: is no preset; did you mean 'openai'?"


def test_keys_of_the_environment_do_nothing_where_tenants_are_declared(folder: Folder):
    snapshot = folder.load(TWO_LINES + "tenants: {a: {}}\n", {**WITH_KEY, "AUTH_KEY": "k"})
    assert snapshot.keys == {}
    assert "AUTH_KEY is set but not used" in snapshot.notices[0]


def test_the_demo_key_in_the_environment_is_refused_off_this_machine(folder: Folder):
    found = folder.problem(None, {**WITH_KEY, "AUTH_KEY": "demo_key_fake_123456", "HOST": "0.0.0.0"})
    assert "is the demo key" in found


# --- the key that is made --------------------------------------------------------------------------------------------


def test_a_key_is_made_once_told_once_and_kept_where_only_the_owner_reads(tmp_path: Path):
    told: list[str] = []
    flags = Flags(data_dir=str(tmp_path / "data"))
    first = Loader(path=None, env=WITH_KEY, flags=flags, announce=told.append).load(1)
    again = Loader(path=None, env=WITH_KEY, flags=flags, announce=nobody_is_told).load(2)
    key = (tmp_path / "data" / KEY_FILE).read_text().strip()
    assert len(told) == 1
    assert told[0].endswith(key)
    assert set(first.keys) == set(again.keys) == {key_digest(key)}
    assert (tmp_path / "data" / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert key not in repr(first)


def test_a_check_makes_no_key_and_says_that_a_start_will(tmp_path: Path):
    flags = Flags(data_dir=str(tmp_path / "data"))
    snapshot = Loader(path=None, env=WITH_KEY, flags=flags, announce=None).load(1)
    assert snapshot.keys == {}
    assert snapshot.notices[-1].startswith("no key is configured: the first start makes one")
    assert not (tmp_path / "data").exists()


def test_no_key_is_made_where_none_is_asked_for(tmp_path: Path):
    env = {**WITH_KEY, "ENABLE_AUTH": "off"}
    flags = Flags(data_dir=str(tmp_path / "data"))
    assert Loader(path=None, env=env, flags=flags, announce=nobody_is_told).load(1).keys == {}


def test_of_two_makers_one_wins_and_both_use_its_key(tmp_path: Path):
    first = make_key(str(tmp_path), lambda _: None)
    assert make_key(str(tmp_path), nobody_is_told) == first == stored_key(str(tmp_path))


def test_a_key_file_without_a_key_is_refused(tmp_path: Path):
    (tmp_path / KEY_FILE).write_text("\n")
    with pytest.raises(ConfigError, match="holds no key"):
        stored_key(str(tmp_path))


# --- .env and the file's name ----------------------------------------------------------------------------------------


def test_the_environment_wins_over_dot_env(tmp_path: Path):
    (tmp_path / ".env").write_text("A=from-file\nB='from file'\n# C=no\n")
    assert read_environment({"A": "given"}, str(tmp_path)) == {"A": "given", "B": "from file"}
    assert read_environment({"A": "given"}, str(tmp_path / "nowhere")) == {"A": "given"}


def test_the_file_is_the_flags_then_the_environments_then_the_folders(tmp_path: Path):
    assert config_path(None, {}, str(tmp_path)) is None
    (tmp_path / "routerx.yaml").touch()
    assert config_path(None, {}, str(tmp_path)) == str(tmp_path / "routerx.yaml")
    assert config_path(None, {"ROUTERX_CONFIG": "b"}, str(tmp_path)) == "b"
    assert config_path("a", {"ROUTERX_CONFIG": "b"}, str(tmp_path)) == "a"
