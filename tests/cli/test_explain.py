"""`routerx explain`: what people read, from a configuration alone and from a server that runs."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from routerx.cli import main
from tests.support.gateway import ENVIRON, ROOT, Config, config, running, save
from tests.support.upstream import ScriptedUpstream


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("UP_KEY", ENVIRON["UP_KEY"])


def fenced() -> Config:
    value = config("http://up.invalid", "http://spare.invalid")
    value["plans"]["prepaid"]["limits"] = {"rpm": 60}
    value["policies"]["default"] |= {"on_failure": ["flat"], "fence": {"max_cost_ratio": 5}}
    return value


def explain(folder: Path, *arguments: str, exit_code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["explain", "-c", str(save(folder, fenced())), *arguments])
    assert result.exit_code == exit_code, result.output
    return result


def test_a_configuration_alone_is_explained_line_by_line(tmp_path: Path) -> None:
    result = explain(tmp_path, "duo", "--stream", "--max-tokens", "100")
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert "no RouterX runs here" in result.stderr
    assert lines[:6] == [
        "asked    duo",
        "tenant   acme",
        "request  /v1/chat/completions, streamed",
        "policy   default, by latency " + place(tmp_path, '"default": {'),
        "hold     $0.00029 for up to 90 tokens in and 100 out",
        "limits   rpm 60 of 60 left",
    ]
    at = lines.index("asked in this order")
    assert lines[at + 1 : at + 5] == [
        "1.  up/duo " + place(tmp_path, '"duo": {', 2),
        "    priority 0, latency not known yet",
        "    $1.00 in, $2.00 out per million tokens; this request at most $0.00029",
        "    deadlines: connect 5 s, first token 60 s, idle 300 s, total 600 s",
    ]
    at = lines.index("left out")
    assert lines[at + 1].startswith("spare/duo  fence_max_cost_ratio: it is too dear beside the first endpoint")
    assert place(tmp_path, '"max_cost_ratio": 5') in " ".join(lines[at + 1 : at + 4])
    assert max(map(len, lines)) <= 80


def place(folder: Path, text: str, further: int = 0) -> str:
    """The line that is `text`, and so many further."""
    lines = (folder / "routerx.yaml").read_text().splitlines()
    number = next(number for number, line in enumerate(lines, 1) if line.strip() == text)
    return f"(routerx.yaml:{number + further})"


def test_a_wide_terminal_gets_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    text = explain(tmp_path, "duo").stdout
    titles = [line.split() for line in text.splitlines() if line.split()[:1] == ["endpoint"]]
    assert titles[0][:3] == ["endpoint", "why", "here"]
    assert titles[1] == ["endpoint", "rule", "because", "see"]
    assert max(map(len, text.splitlines())) <= 160


def test_headers_tenant_and_length_reach_the_plan(tmp_path: Path) -> None:
    arguments = ("--header", "X-RouterX-Provider-Ignore: up", "--tenant", "acme", "--prompt-tokens", "5000", "--json")
    told = json.loads(explain(tmp_path, "solo", *arguments, exit_code=1).stdout)
    assert told["refused"]["status"] >= 400
    told = json.loads(explain(tmp_path, "solo", *arguments[2:]).stdout)
    assert told["hold"]["input_tokens_most"] == 10_000
    assert f"({told['candidates'][0]['place']})" == place(tmp_path, '"solo": {', 2).replace("(", f"({tmp_path}/")
    assert "'X-RouterX-Sort: price'" in explain(tmp_path, "solo", "--header", "price", exit_code=2).output
    assert "no tenant 'acm'; did you mean 'acme'?" in explain(tmp_path, "solo", "--tenant", "acm", exit_code=1).output


def test_what_would_be_refused_says_why_and_fails(tmp_path: Path) -> None:
    text = explain(tmp_path, "flat", "--image", exit_code=1).stdout
    assert "refused  400 invalid_parameter: model 'flat' takes no images" in text


async def test_a_server_that_runs_is_asked(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url, up.url)) as gateway:
        await gateway.chat("duo")
        told = await asked_by_process(tmp_path, "duo")
        assert told["candidates"][0]["circuits"][0]["circuit"] == "closed"
        assert told["candidates"][0]["latency_s"] is not None
        assert told["hold"]["available_usd"].startswith("9.99")
        assert len(up.requests) == 1


async def asked_by_process(folder: Path, model: str) -> Any:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "routerx", "explain", model, "-c", str(folder / "routerx.yaml"), "--json"),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **ENVIRON},
        stdout=asyncio.subprocess.PIPE,
    )
    stdout, _ = await process.communicate()
    assert process.returncode == 0
    return json.loads(stdout)
