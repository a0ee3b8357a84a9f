"""The design's table of faults, row by row and cell by cell, through a whole gateway. See tests/flow/faults."""

import asyncio
import importlib
import importlib.util
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.flow.faults import transport
from tests.flow.faults.kit import CELLS, Cell, Expect, Row, run

DESIGN = Path(__file__).parents[3] / "shared" / "design" / "FAULTS.md"
HAS_CONTENT = importlib.util.find_spec("tests.flow.faults.content") is not None
LAST = 52 if HAS_CONTENT else 23

ROWS: tuple[Row, ...] = (
    *transport.ROWS,
    *(importlib.import_module("tests.flow.faults.content").ROWS if HAS_CONTENT else ()),
)
PLAYED = {row.id: [cell for cell in CELLS if isinstance(row.cells.at(cell), Expect)] for row in ROWS}


@pytest.mark.parametrize("row", [pytest.param(row, id=row.id) for row in ROWS])
async def test_fault(
    row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The cells of a row wait for their deadlines at the same time; each has a gateway of its own."""

    async def play(cell: Cell) -> None:
        folder = tmp_path / str(cell)
        folder.mkdir()
        try:
            await run(row, cell, folder, monkeypatch, caplog)
        except BaseException as error:
            error.add_note(f"in cell {cell} of row {row.id}")
            raise

    results = await asyncio.gather(*(play(cell) for cell in PLAYED[row.id]), return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    if errors:
        raise BaseExceptionGroup(f"row {row.id}", errors)


def test_every_cell_of_every_row_is_played_or_has_a_reason() -> None:
    assert {row.number for row in ROWS} == set(range(1, LAST + 1))
    assert [name for name, count in Counter(row.id for row in ROWS).items() if count > 1] == []
    for row in ROWS:
        for cell in CELLS:
            found = row.cells.at(cell)
            assert cell in PLAYED[row.id] or (isinstance(found, str) and found.strip()), f"{row.id} {cell}"


def test_every_row_of_the_design_is_here() -> None:
    if not DESIGN.is_file():
        pytest.skip("the design's table of faults is not beside this repository")
    text = DESIGN.read_text()
    table = text[text.index("## 1. Upstream connect") : text.index("## 3. Client side")]
    numbers = {int(number) for number in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    wanted = numbers if HAS_CONTENT else {number for number in numbers if number <= LAST}
    assert wanted == {row.number for row in ROWS}
