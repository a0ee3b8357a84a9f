"""The schema as others see it: editors, the documentation, and the example that is shipped."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from routerx.config.load import Loader
from routerx.config.schema import Block, Config, config_keys, fields_at, json_schema
from routerx.config.settings import read_environment
from routerx.domain.tenant import FreeSuffix
from routerx.secrets import key_digest

ROOT = Path(__file__).parents[3]


def blocks(kind: type[Block] = Block) -> list[type[Block]]:
    return [kind, *(below for child in kind.__subclasses__() for below in blocks(child))]


def test_every_key_says_what_it_means():
    silent = [
        f"{block.__name__}.{name}" for block in blocks() for name, f in block.model_fields.items() if not f.description
    ]
    assert silent == []


def test_keys_are_listed_as_they_are_nested():
    keys = config_keys()
    assert len(set(keys)) == len(keys)
    assert {
        "server.listen",
        "providers.<name>.keys[].rpm",
        "models.<name>.endpoints[].price.input",
        "pricing.<name>.long.above",
        "tenants.<name>.opening_balance",
    } <= set(keys)


def test_fields_are_found_by_path():
    assert "listen" in fields_at(("server",))
    assert "price" in fields_at(("models", "any", "endpoints", 3))
    assert fields_at(("models",)) == fields_at(("server", "listen")) == fields_at(("no", "where")) == frozenset()


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return json.loads(json.dumps(json_schema()))


def test_the_json_schema_writes_defaults_as_the_file_does(schema: dict[str, Any]):
    retry = schema["$defs"]["RetryBlock"]["properties"]
    server = schema["$defs"]["ServerBlock"]["properties"]
    assert retry["backoff"]["default"] == "300ms..5s"
    assert server["body_max"]["default"] == "32MiB"
    assert schema["$defs"]["BreakerBlock"]["properties"]["error_rate"]["default"] == "50%"
    assert schema["$defs"]["PlanEntry"]["properties"]["billing"]["default"] == "prepaid"


def test_a_default_in_the_json_schema_is_allowed_by_it(schema: dict[str, Any]):
    for block in schema["$defs"].values():
        for name, field in block.get("properties", {}).items():
            default = field.get("default")
            if isinstance(default, str) and "pattern" in field:
                assert re.search(field["pattern"], default), name


@pytest.mark.parametrize(
    ("value", "allowed"),
    [("30s", True), ("${env:DRAIN}", True), ("30", False), ("a while", False)],
)
def test_editors_check_durations(schema: dict[str, Any], value: str, allowed: bool):
    pattern = schema["$defs"]["ServerBlock"]["properties"]["drain"]["pattern"]
    assert (re.search(pattern, value) is not None) is allowed


def test_editors_know_no_other_keys(schema: dict[str, Any]):
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(Config.model_fields)
    plain = [name for name, block in schema["$defs"].items() if block.get("type") == "object"]
    assert len(plain) > 10
    assert all(schema["$defs"][name]["additionalProperties"] is False for name in plain)


# --- the example -----------------------------------------------------------------------------------------------------


def example(tmp_path: Path, env: dict[str, str]) -> Loader:
    path = tmp_path / "routerx.yaml"
    path.write_bytes((ROOT / "routerx.yaml.example").read_bytes())
    path.chmod(0o644)
    return Loader(path=str(path), env=env, announce=None)


@pytest.mark.parametrize(("env", "mocked"), [({}, True), ({"OPENAI_API_KEY": "sk-x"}, False)])
def test_the_example_serves_with_and_without_a_key(tmp_path: Path, env: dict[str, str], mocked: bool):
    snapshot = example(tmp_path, env).load(1)
    demo = snapshot.keys[key_digest("demo_key_fake_123456")].tenant
    assert (demo.name, demo.opening_balance_nano, demo.plan.free_suffix) == ("demo", 25 * 10**9, FreeSuffix.ANY)
    assert snapshot.server.public_models
    for name in ("gpt-4o", "fast"):
        endpoint = snapshot.models[name].endpoints[0]
        assert endpoint.provider == "openai"
        assert endpoint.price is not None
        assert endpoint.price.is_free is mocked
    assert (snapshot.providers["openai"].mock is not None) is mocked
    assert ("mock" in snapshot.models) is mocked


def test_every_line_that_the_example_has_commented_out_is_right_as_well(tmp_path: Path):
    loader = example(tmp_path, {})
    assert loader.path is not None
    path = Path(loader.path)
    lines = path.read_text().splitlines()
    optional = re.compile(r"^( *)# ((?:  )*(?:[a-z][a-z0-9_-]*:(?! \$)|- \{).*)$")
    path.write_text("\n".join(optional.sub(r"\1\2", line) for line in lines) + "\n")
    names = ("OPENAI", "ANTHROPIC", "GEMINI", "DEEPSEEK", "MISTRAL", "GROQ", "OPENROUTER", "XAI")
    env = {f"{name}_API_KEY": f"key-of-{name}" for name in names}
    snapshot = Loader(path=loader.path, env=env, announce=None).load(1)
    assert {"anthropic", "ollama", "lab"} <= set(snapshot.providers)
    assert "house-chat" in snapshot.models


def test_the_example_of_the_environment_names_only_what_is_read(tmp_path: Path):
    text = (ROOT / ".env.example").read_text()
    (tmp_path / ".env").write_text(re.sub(r"(?m)^# (?=ROUTERX_)", "", text))
    env = read_environment({}, str(tmp_path))
    page = (ROOT / "docs/configuration.md").read_text() + (ROOT / "docs/providers.md").read_text()
    assert len(env) > 15
    assert [name for name in env if f"`{name}`" not in page] == []
