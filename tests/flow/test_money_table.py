"""The design's charge policy, row by row and cell by cell, through a whole gateway. See tests/flow/money."""

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.flow.money import after, answers, ends, routes, silent
from tests.flow.money.kit import CELLS, Expect, Row, run

DESIGN = Path(__file__).parents[3] / "shared" / "design" / "MONEY.md"
LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXY")
ABSENT = {"T": "runs are not offered: no request is executed in the background"}
"""Rows of the design that cannot be played, and why."""

ROWS: tuple[Row, ...] = (*answers.ROWS, *ends.ROWS, *routes.ROWS, *silent.ROWS, *after.ROWS)


@pytest.mark.parametrize("row", [pytest.param(row, id=row.id) for row in ROWS])
async def test_charge(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await run(row, tmp_path, monkeypatch)


def test_every_row_has_a_name_of_its_own_and_every_cell_is_played_or_has_a_reason() -> None:
    assert {row.letter for row in ROWS} | set(ABSENT) == LETTERS
    assert [name for name, count in Counter(row.id for row in ROWS).items() if count > 1] == []
    for row in ROWS:
        found = [row.at(cell) for cell in CELLS]
        assert any(isinstance(one, Expect) for one in found), row.id
        assert all(isinstance(one, Expect) or one.strip() for one in found), row.id


def test_every_row_of_the_design_is_here() -> None:
    if not DESIGN.is_file():
        pytest.skip("the design's charge policy is not beside this repository")
    text = DESIGN.read_text()
    table = text[text.index("## 4. What is charged") : text.index("## 5. Invariants")]
    assert set(re.findall(r"^\| ([A-Z]) \|", table, re.MULTILINE)) == LETTERS
