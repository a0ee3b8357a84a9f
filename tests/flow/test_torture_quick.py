"""The proofs of scripts/torture in small: the program is killed, reloaded, ended and overspent on, the judge judged."""

import asyncio
import shutil
import socket
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from tests.torture.arena import Report
from tests.torture.commits import prove_commits
from tests.torture.everything import prove_everything
from tests.torture.failing import prove_failpoints
from tests.torture.failpoints import Action
from tests.torture.kills import prove_kills
from tests.torture.overspend import prove_no_overspend
from tests.torture.power import prove_power_loss
from tests.torture.processes import Zygote, zygote
from tests.torture.racing import prove_racing_operations
from tests.torture.reloads import prove_reloads
from tests.torture.report import Findings, Reporter
from tests.torture.selftest import prove_checker
from tests.torture.stops import prove_stops
from tests.torture.trials import MISHAPS, TRIALS

SEED = 20260101


@pytest.fixture(scope="module")
def forker() -> Iterator[Zygote]:
    with zygote() as made:
        yield made


async def test_the_checker_finds_20_planted_faults_in_books_and_gateways(tmp_path: Path, forker: Zygote):
    report = await prove_checker(tmp_path, SEED, forker, requests=160)
    assert not report.violations, report
    assert report.figures["planted faults"].startswith("20 of 20 caught")


async def test_kill_9_under_load_loses_doubles_and_invents_no_charge(tmp_path: Path, forker: Zygote):
    report = await prove_kills(tmp_path / "kills", SEED, 5, forker)
    assert not report.violations, report


async def test_kill_9_of_the_ledger_alone_loses_no_acknowledged_charge(tmp_path: Path):
    report = await prove_commits(tmp_path / "commits", SEED, kills=15)
    assert not report.violations, report


async def test_kill_9_and_errors_at_named_places_lose_double_and_invent_no_charge(tmp_path: Path, forker: Zygote):
    trials = tuple(trial for trial in TRIALS if trial.name in ("after_commit", "start", "after_claim"))
    mishaps = tuple(mishap for mishap in MISHAPS if (mishap.place, mishap.action) == ("before_commit", Action.FULL))
    report = await prove_failpoints(tmp_path, SEED, forker, kills=1, trials=trials, mishaps=mishaps)
    assert not report.violations, report
    assert len(trials) == 4
    assert len(report.figures) == len(trials) + len(mishaps)


async def test_power_loss_loses_charges_only_where_durability_is_given_up(tmp_path: Path):
    report, without = await asyncio.gather(
        prove_power_loss(tmp_path / "full", SEED, cuts=10),
        prove_power_loss(tmp_path / "normal", SEED, cuts=5, synchronous="normal"),
    )
    assert not report.violations, report
    assert not without.violations, without
    figure = "acknowledged and lost"
    if figure in report.figures:
        assert report.figures[figure] == "0 charges in 0 images"
        assert without.figures[figure] != report.figures[figure], "the images cannot show a loss at all"


async def test_reloads_under_load_drop_no_request_and_apply_no_broken_file(tmp_path: Path):
    report = await prove_reloads(tmp_path / "reloads", SEED, reloads=10)
    assert not report.violations, report


async def test_sigterm_under_load_loses_no_row_and_keeps_its_drain_limit(tmp_path: Path):
    report = await prove_stops(tmp_path / "stops", SEED, stops=2)
    assert not report.violations, report


async def test_200_calls_on_a_balance_for_10_are_10(tmp_path: Path):
    report = await prove_no_overspend(tmp_path / "overspend", SEED)
    assert not report.violations, report


async def test_racing_operations_pass_no_floor_and_agree_with_a_second_set_of_books(tmp_path: Path):
    report = await prove_racing_operations(tmp_path / "racing", SEED, operations=6_400)
    assert not report.violations, report


async def test_everything_at_once_is_noticed_by_nobody_but_for_a_full_disk(tmp_path: Path, forker: Zygote):
    report = await prove_everything(tmp_path / "everything", SEED, forker, seconds=1.0)
    assert not report.violations, report
    assert report.figures["failed"].startswith("0 outside")


async def test_a_report_tells_what_failed_and_neither_names_nor_paths_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(socket, "gethostname", lambda: "host-of-mine")
    place, folder = tmp_path / "place", tmp_path / "report"
    proved = await prove_commits(place / "commits", SEED, kills=15)
    reporter = Reporter(place, SEED, {"seed": SEED, "only": None})
    reporter.add("commits", proved, 0.26)
    assert reporter.write(folder)
    reporter.add("odd", Report("an <odd> one", {"a & b": "1 < 2"}, [f"{place} on host-of-mine & more"]), 1.0)
    assert not reporter.write(folder)
    data, page = (folder / "report.json").read_bytes(), (folder / "report.html").read_text("utf-8")
    found = msgspec.json.decode(data, type=Findings)
    assert not found.passed
    assert [(proof.name, proof.seconds, bool(proof.violations)) for proof in found.proofs] == [
        ("commits", 0.3, False),
        ("odd", 1.0, True),
    ]
    assert (found.books.ledgers, found.books.violations) == (1, [])
    assert found.books.transfers > 0
    for text in (data.decode(), page):
        assert str(tmp_path) not in text
        assert "host-of-mine" not in text
    assert not [outside for outside in ("://", "src=", "href=", "@import", "url(") if outside in page]
    assert "an &lt;odd&gt; one" in page
    assert "<details open>" in page
    assert Tags(page).unclosed == []


def test_a_report_is_bad_where_a_ledger_that_is_left_is(tmp_path: Path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "ledger.db").write_bytes(b"no ledger at all")
    (tmp_path / "checker").mkdir()
    shutil.copy(tmp_path / "disk" / "ledger.db", tmp_path / "checker" / "ledger.db")
    assert not Reporter(tmp_path, SEED, {}).write(tmp_path / "report")
    found = msgspec.json.decode((tmp_path / "report" / "report.json").read_bytes(), type=Findings)
    assert found.books.ledgers == 1
    assert [violation.split(":")[0] for violation in found.books.violations] == ["disk/ledger.db"]


class Tags(HTMLParser):
    """Which tags of a page are open at its end, or closed without having been opened."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.unclosed: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.unclosed.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.unclosed[-1:] == [tag]:
            self.unclosed.pop()
        else:
            self.unclosed.append(f"/{tag}")
