"""The design's table of faults, row by row and cell by cell, through a whole gateway. See tests/flow/faults."""

import importlib
import importlib.util
from pathlib import Path

import pytest

from tests.flow.faults import transport
from tests.flow.faults.kit import CELLS, Cell, Expect, Row, run

HAS_CONTENT = importlib.util.find_spec("tests.flow.faults.content") is not None

ROWS: tuple[Row, ...] = (
    *transport.ROWS,
    *(importlib.import_module("tests.flow.faults.content").ROWS if HAS_CONTENT else ()),
)
PLAYED = [(row, cell) for row in ROWS for cell in CELLS if isinstance(row.cells.at(cell), Expect)]


@pytest.mark.parametrize(("row", "cell"), [pytest.param(*one, id=f"{one[0].id}-{one[1]}") for one in PLAYED])
async def test_fault(
    row: Row, cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await run(row, cell, tmp_path, monkeypatch, caplog)
