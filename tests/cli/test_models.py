"""`routerx models`: the catalogue as people and programs see it, in narrow and in wide terminals."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from routerx.cli import main
from routerx.providers.catalogue import load_catalogue

CONFIG = """\
version: 1
providers:
  groq: {keys: [gsk-canary-groq]}
  gemini: {keys: [canary-gemini]}
models:
  house: {alias: gpt-oss-120b}
  own: {endpoints: [{provider: groq, model: own-1, price: {input: 1, output: 2, request: 0.01}}]}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "routerx.yaml").write_text(CONFIG)
    (tmp_path / "routerx.yaml").chmod(0o600)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path


def run(*arguments: str, exit_code: int = 0) -> Result:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == exit_code, result.output
    return result


def names(*arguments: str) -> list[str]:
    return [model["name"] for model in json.loads(run("models", "list", *arguments, "--json").stdout)]


def test_a_wide_table_has_limits_prices_and_abilities() -> None:
    lines = run("models", "list", "gpt-oss-120b").stdout.splitlines()

    assert " ".join(lines[0].split()) == "model kind providers context output in $/M out $/M can"
    assert lines[2].split() == [
        "gpt-oss-120b",
        "chat",
        "groq",
        "131k",
        "65.5k",
        "$0.15",
        "$0.60",
        "tools",
        "json",
        "reasoning",
    ]


def test_a_narrow_table_says_what_does_no_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = run("models", "list", "embedding-001").stdout.splitlines()

    assert lines[0].split() == ["model", "context", "in", "$/M", "out", "$/M", "can"]
    assert lines[2].split() == ["gemini-embedding-001", "2.05k", "$0.15", "$0.00", "embedding"]


@pytest.mark.parametrize("width", [80, 120])
def test_the_whole_catalogue_fits_a_terminal_as_a_table(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = run("models", "list", "--all").stdout.splitlines()

    assert max(len(line) for line in lines) <= width
    assert set(lines[1]) == {"─"}
    assert {line.split()[0] for line in lines[2:]} >= load_catalogue().keys()


def test_models_are_filtered_by_what_they_can_and_who_serves_them() -> None:
    assert "gemini-3.8-flash" in names("--capability", "audio")
    assert "gpt-oss-120b" not in names("--capability", "audio")
    assert set(names("--provider", "groq")) >= {"gpt-oss-120b", "house", "own"}
    assert names("--provider", "gemini", "--kind", "embedding") == ["gemini-embedding-001", "gemini-embedding-2"]
    assert "'telepathy' is not one of" in run("models", "list", "--capability", "telepathy", exit_code=2).stderr


def test_models_that_nobody_here_serves_are_listed_on_demand() -> None:
    assert names("claude-opus-5-5") == []
    assert names("claude-opus-5-5", "--all") == ["claude-opus-5-5"]
    assert names("--all", "--provider", "anthropic", "--capability", "prefill", "haiku") == [
        "claude-haiku-4-5",
        "claude-haiku-4-5-20251001",
    ]
    listed = run("models", "list", "claude-opus-5-5", "--all").stdout.splitlines()[2].split()
    assert listed[:7] == ["claude-opus-5-5", "chat", "–", "1M", "128k", "$4.00", "$20.00"]


def test_a_model_is_shown_with_every_price_its_source_and_who_else_offers_it() -> None:
    shown = " ".join(run("models", "show", "gpt-oss-120b").stdout.split())

    for text in (
        "other names house",
        "served by groq",
        "offered by cerebras, together, deepinfra, openrouter, huggingface (not configured)",
        "groq/openai/gpt-oss-120b context 131,072 tokens longest answer 65,536 tokens",
        "cache read $0.075 per 1M tokens",
        "search $0.005 per search",
        "source https://groq.com/pricing (via LiteLLM price table",
        "read on 2026-11-21",
        "cerebras/gpt-oss-120b (not configured)",
        "price unknown",
    ):
        assert text in shown


def test_a_price_is_shown_with_the_one_of_long_requests() -> None:
    shown = run("models", "show", "gemini-2.5-pro").stdout

    assert "$1.25 per 1M tokens; $2.50 above 200,000 input tokens" in shown
    assert "$0.125 per 1M tokens; $0.25 above 200,000 input tokens" in shown
    assert "long" not in shown.replace("longest answer", "")


def test_a_model_of_the_catalogue_is_shown_without_a_provider_for_it() -> None:
    for name in ("claude-opus-5-5", "claude-opus-5.5"):
        shown = run("models", "show", name).stdout
        assert "nobody here" in shown
        assert "anthropic/claude-opus-5-5 (not configured)" in shown
    assert "did you mean 'claude-opus-5" in run("models", "show", "claude-opus-55", exit_code=1).stderr


def test_a_price_of_the_configuration_says_so() -> None:
    shown = " ".join(run("models", "show", "own").stdout.split())

    assert "request $0.01 per request source configuration" in shown
    assert "not configured" not in shown


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("whisper-1", "seconds $100.00 per 1M seconds source"),
        ("tts-1", "characters $15.00 per 1M characters source"),
        ("grok-imagine-image", "image $0.02 per image source"),
        ("gpt-image-2", "input $5.00 per 1M tokens output $30.00 per 1M tokens"),
        ("gpt-4o-mini-tts", "input $0.60 per 1M tokens output $10.00 per 1M tokens audio out $12.00 per 1M tokens"),
        ("gpt-4o-transcribe", "input $2.50 per 1M tokens output $10.00 per 1M tokens"),
        ("omni-moderation-latest", "input $0.00 per 1M tokens output $0.00 per 1M tokens"),
    ],
)
def test_a_price_names_what_is_counted(model: str, text: str) -> None:
    assert text in " ".join(run("models", "show", model).stdout.split())


def test_an_alias_knows_its_model_and_its_sisters() -> None:
    shown = json.loads(run("models", "show", "house", "--json").stdout)

    assert (shown["alias_of"], shown["aliases"]) == ("gpt-oss-120b", [])
    assert json.loads(run("models", "show", "gpt-oss-120b", "--json").stdout)["aliases"] == ["house"]
    assert json.loads(run("models", "show", "groq/openai/gpt-oss-120b", "--json").stdout)["alias_of"] is None


def test_prices_to_come_and_those_of_other_tiers_are_shown(folder: Path) -> None:
    flex = "tiers: {flex: {input: 0.50, output: 1}}"
    coming = f"{{from: 2199-01-02T08:00:00Z, input: 3, output: 4, {flex}}}"
    prices = f"pricing: {{own-1: [{{input: 1, output: 2}}, {coming}]}}\n".replace("own-1", "groq/own-1")
    (folder / "routerx.yaml").write_text(CONFIG + prices)

    listed = [" ".join(line.split()) for line in run("models", "list", "own").stdout.splitlines()]
    assert "own chat groq – – $1.00 $2.00 (new price 2199-01-02)" in listed
    shown = " ".join(run("models", "show", "own").stdout.split())
    assert "input $1.00 per 1M tokens output $2.00 per 1M tokens source configuration" in shown
    assert "from (UTC) 2199-01-02 08:00:00, the price is input $3.00 per 1M tokens" in shown
    assert "tier flex input $0.50, output $1.00" in shown
