"""The proofs of scripts/torture in small: the installed program, killed, reloaded, ended and overspent on."""

from pathlib import Path

from tests.torture.kills import prove_kills
from tests.torture.overspend import prove_no_overspend
from tests.torture.planted import PLANTED
from tests.torture.reloads import prove_reloads
from tests.torture.stops import prove_stops

SEED = 20260101


async def test_kill_9_under_load_loses_doubles_and_invents_no_charge(tmp_path: Path):
    report = await prove_kills(tmp_path / "kills", SEED, kills=5)
    assert not report.violations, report
    assert report.figures["planted faults"] == f"{len(PLANTED)} of {len(PLANTED)} found"


async def test_reloads_under_load_drop_no_request_and_apply_no_broken_file(tmp_path: Path):
    report = await prove_reloads(tmp_path / "reloads", SEED, reloads=10)
    assert not report.violations, report


async def test_sigterm_under_load_loses_no_row_and_keeps_its_drain_limit(tmp_path: Path):
    report = await prove_stops(tmp_path / "stops", SEED, stops=2)
    assert not report.violations, report


async def test_200_calls_on_a_balance_for_10_are_10(tmp_path: Path):
    report = await prove_no_overspend(tmp_path / "overspend", SEED)
    assert not report.violations, report
