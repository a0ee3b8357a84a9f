"""kill -9 at random moments: what was acknowledged is there, what is there was asked for, and the books prove."""

import random
import subprocess
import sys
import time
from pathlib import Path

from routerx.ledger.database import inspect
from routerx.ledger.proof.verify import verify_file
from tests.unit.ledger.ledger_kit import query

KILLS = 18
ROOT = Path(__file__).parents[3]


def run_and_kill(folder: Path, run: int, after: bytes, delay_s: float) -> None:
    """Kill it `delay_s` after it has said `after`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.unit.ledger.killed_settler", str(folder), f"{run:02d}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        while process.stdout.readline() != after:
            assert process.poll() is None
        time.sleep(delay_s)  # The moment of death is what is under test.
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()


def lines(path: Path) -> list[str]:
    """Whole lines; the last may be cut."""
    return path.read_text().split("\n")[:-1] if path.exists() else []


def test_no_acknowledged_charge_is_lost_and_none_is_invented_by_kills(tmp_path: Path):
    rng = random.Random(20260101)
    for run in range(KILLS):
        if run % 3 == 0:  # While the file is made, migrated or recovered.
            run_and_kill(tmp_path, run, b"opening\n", rng.uniform(0.0, 0.015))
        else:
            run_and_kill(tmp_path, run, b"ready\n", rng.uniform(0.0, 0.05))
        path = tmp_path / "ledger.db"
        if inspect(str(path), 5.0) == 0:
            continue
        rows = query(
            path,
            "SELECT r.id, coalesce(t.amount, 0) FROM requests AS r "
            "LEFT JOIN transfers AS t ON t.request = r.n AND t.kind = 'charge'",
        )
        present = {str(name): amount for name, amount in rows}
        assert len(present) == len(rows)
        for line in lines(tmp_path / "acknowledged"):
            name, charged = line.split()
            assert present.get(name) == int(charged), f"{name} was acknowledged in one of {run + 1} runs"
        assert present.keys() <= set(lines(tmp_path / "submitted"))
        assert verify_file(str(path)).violations == ()
    assert len(lines(tmp_path / "acknowledged")) > KILLS
