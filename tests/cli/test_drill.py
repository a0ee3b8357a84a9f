"""`routerx drill`: faults played to a configuration of the user's own, by the real gateway, without anything real."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from routerx.cli import main
from routerx.upstream.drill import FAULTS
from tests.support.gateway import Config, config, save

KEY = "sk-must-not-leave-123456"


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, a terminal of 80 columns, and the provider's key in the environment."""

    def refused(*_: object) -> None:
        raise AssertionError("the drill has gone to the network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("UP_KEY", KEY)
    monkeypatch.chdir(tmp_path)


def duo() -> Config:
    return config("http://up.invalid", "http://spare.invalid")


def drill(folder: Path, value: Config, *arguments: str, exit_code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["drill", "-c", str(save(folder, value)), *arguments])
    assert result.exit_code == exit_code, result.output
    return result


def told(folder: Path, value: Config, *arguments: str, exit_code: int = 0) -> dict[str, Any]:
    found = json.loads(drill(folder, value, "--json", *arguments, exit_code=exit_code).stdout)
    assert isinstance(found, dict)
    return found


def scene(report: dict[str, Any], fault: str, streamed: bool = True) -> dict[str, Any]:
    [found] = [one for one in report["scenes"] if (one["fault"], one["streamed"]) == (fault, streamed)]
    assert isinstance(found, dict)
    return found


def test_with_a_fallback_no_survivable_fault_costs_an_answer(tmp_path: Path) -> None:
    report = told(tmp_path, duo(), "--model", "duo")
    assert report["ok"]
    assert {one["fault"] for one in report["scenes"]} == {"none", *FAULTS}
    for one in report["scenes"]:
        assert one["whole"] or not FAULTS[one["fault"]].survivable, one
        # A token costs 1,000 nano-USD in and 2,000 out at `up`, ten times that at `spare`; errors cost nothing.
        price = {"up": 128_000, "spare": 1_280_000, None: 0}[one["provider"]]
        assert one["cost_nano"] == price, one


def test_without_one_the_drill_fails_and_says_what_is_missing(tmp_path: Path) -> None:
    report = told(tmp_path, duo(), "--model", "solo", "--fault", "503", "--fault", "500-once", exit_code=1)
    assert not report["ok"]
    assert (scene(report, "503")["good"], scene(report, "500-once")["good"]) == (False, True)
    assert scene(report, "503", streamed=False)["saw"] == "502 upstream_error"
    [advice] = report["advice"]
    assert advice["model"] == "solo"
    assert "no fallback: it is served by up alone, so 503 cost the answer" in advice["text"]
    assert "models.solo.endpoints" in advice["text"]
    assert "policies.default.on_failure" in advice["text"]


def test_times_are_those_of_the_configuration(tmp_path: Path) -> None:
    value = duo()
    report = told(tmp_path, value, "--model", "duo", "--stream", "--fault", "silent", "--fault", "stalled")
    assert scene(report, "silent")["seconds"] == 12.0
    assert scene(report, "stalled")["seconds"] == 300.0
    value["policies"]["default"]["timeouts"] = {"first_token": "3s", "idle": "7s"}
    report = told(tmp_path, value, "--model", "duo", "--stream", "--fault", "silent", "--fault", "stalled")
    assert scene(report, "silent")["seconds"] == 3.0
    assert scene(report, "stalled")["seconds"] == 7.0
    assert report["advice"] == []


def test_what_only_one_provider_could_have_told_is_not_held_against_the_policy(tmp_path: Path) -> None:
    report = told(tmp_path, duo(), "--model", "duo", "--stream", "--fault", "cut-differing", "--fault", "all-down")
    broken = scene(report, "cut-differing")
    assert (broken["good"], broken["whole"], broken["saw"]) == (True, False, "20 words, then upstream_disconnected")
    assert scene(report, "all-down")["status"] == 502
    assert "policies.default.stream.commit: full" in report["advice"][0]["text"]
    value = duo()
    value["policies"]["default"]["stream"] = {"commit": "full"}
    report = told(tmp_path, value, "--model", "duo", "--stream", "--fault", "cut-differing")
    assert scene(report, "cut-differing")["whole"]


def test_another_policy_can_be_tried(tmp_path: Path) -> None:
    value = duo()
    value["policies"]["once"] = {"retry": {"attempts": 1}}
    report = told(tmp_path, value, "--model", "duo", "--policy", "once", "--fault", "refused", exit_code=1)
    assert report["policy"] == "once"
    assert "policies.once.retry.attempts is 1" in report["advice"][0]["text"]
    assert "did you mean 'once'" in drill(tmp_path, value, "--policy", "onec", exit_code=1).output


def test_what_a_switch_has_cost_is_named(tmp_path: Path) -> None:
    value = duo()
    value["policies"]["default"]["stream"] = {"rescue": False}
    report = told(tmp_path, value, "--model", "duo", "--stream", exit_code=1)
    assert [one["fault"] for one in report["scenes"] if not one["good"]] == ["cut", "stalled", "malformed"]
    assert (
        "cut, stalled, malformed cost the answer: policies.default.stream.rescue is off" in report["advice"][0]["text"]
    )


def test_a_fence_that_leaves_no_fallback_is_found_by_explaining(tmp_path: Path) -> None:
    value = duo()
    value["policies"]["default"]["fence"] = {"max_cost_ratio": 2}
    report = told(tmp_path, value, "--model", "duo", "--fault", "503", exit_code=1)
    assert "served by up, spare; see `routerx explain duo` for what is left out" in report["advice"][0]["text"]


def test_declared_chat_models_are_asked_where_none_is_named(tmp_path: Path) -> None:
    value = duo()
    value["models"]["twin"] = "duo"
    result = drill(tmp_path, value, "--fault", "500-once")
    assert result.stderr == "models: solo, flat, duo (name others with --model)\n"


def test_nothing_real_is_used_or_touched(tmp_path: Path) -> None:
    value = duo()
    value["plans"]["prepaid"]["limits"] = {"rpm": 1}
    del value["tenants"]["acme"]["opening_balance"]
    value["ledger"] = {"path": "books/ledger.db"}
    result = drill(tmp_path, value, "--model", "duo", "--json")
    assert KEY not in result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["routerx.yaml"]


def test_a_model_that_is_not_served_is_not_blamed_on_a_fault(tmp_path: Path) -> None:
    report = told(tmp_path, duo(), "--model", "nope", "--fault", "503", exit_code=1)
    assert [one["fault"] for one in report["scenes"]] == ["none", "none"]
    assert "even without a fault the caller gets 404 model_not_found" in report["advice"][0]["text"]


def test_tables_fit_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = drill(tmp_path, duo(), "--model", "duo", "--model", "solo", exit_code=1).stdout.splitlines()
    tables = [line for line in narrow if not line.startswith("- ")]
    assert max(len(line) for line in tables) <= 80
    assert "503                  whole answer" in " ".join(line[:33] for line in tables)
    monkeypatch.setenv("COLUMNS", "160")
    wide = drill(tmp_path, duo(), "--model", "duo").stdout
    assert "accepts the call and never answers" in wide
    assert "$0.00128" in wide


def test_of_many_models_only_losses_are_shown(tmp_path: Path) -> None:
    value = duo()
    value["models"]["more"] = {"endpoints": [{"provider": "up", "model": "more", "price": {"input": 1, "output": 2}}]}
    value["models"]["again"] = {
        "endpoints": [{"provider": "spare", "model": "again", "price": {"input": 1, "output": 2}}]
    }
    shown = drill(tmp_path, value, "--fault", "503", exit_code=1).stdout
    assert "duo, streamed" not in shown
    assert "solo, streamed" in shown
    assert "whole answer" not in shown
