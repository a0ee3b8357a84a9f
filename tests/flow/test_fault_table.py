"""The design's table of faults, row by row and cell by cell, through a whole gateway. See tests/flow/faults."""

import asyncio
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.flow.faults import content, transport
from tests.flow.faults.kit import CELLS, Cell, Expect, Row, run
from tests.support.gateway import UPSTREAM_KEY, config, running
from tests.support.upstream import Html, ScriptedUpstream, Status

DESIGN = Path(__file__).parents[3] / "shared" / "design" / "FAULTS.md"
LAST = 52
ROWS: tuple[Row, ...] = (*transport.ROWS, *content.ROWS)
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
    assert numbers == {row.number for row in ROWS}


@pytest.mark.parametrize("cell", [pytest.param(cell, id=str(cell)) for cell in CELLS])
async def test_all_open(tmp_path: Path, cell: Cell) -> None:  # 26
    """Nobody is asked, nothing is held, and the caller learns at once when the next one is."""
    async with (
        ScriptedUpstream() as up,
        ScriptedUpstream() as spare,
        running(tmp_path, config(up.url, spare.url)) as gw,
    ):
        up.default = spare.default = Html()  # Counted, and not asked again for it.
        model = "duo" if cell.duo else "solo"
        for _ in range(5):
            assert (await gw.chat(model)).error["code"] == "upstream_bad_content_type"
            await gw.settled()
        asked = len(up.requests), len(spare.requests)

        told = await gw.chat(model, stream=cell.stream)

        assert (told.status, told.error["code"], told.error["retryable"]) == (503, "no_healthy_upstream", True)
        assert 1 <= int(told.headers["retry-after"]) <= 30
        assert (len(up.requests), len(spare.requests)) == asked
        row = await gw.settled()
        assert (row.outcome, row.attempts, row.held_nano, row.cost_nano) == ("breaker_open", (), 0, 0)
        health = (await gw.ask("GET", "/health", key=None)).json
        assert {one["circuit"] for one in health["endpoints"]} == {"open"}
        await gw.assert_books_are_clean()


async def test_rate_limited_key_rests_and_the_other_one_answers(tmp_path: Path) -> None:  # 27
    async with ScriptedUpstream() as up:
        value = config(up.url)
        value["providers"]["up"]["keys"] = ["${env:UP_KEY}", "${env:OTHER}"]
        async with running(tmp_path, value, {"UP_KEY": UPSTREAM_KEY, "OTHER": "other-key-fake-123456"}) as gw:
            up.queue(Status(429, headers={"retry-after": "60"}))
            assert (await gw.chat()).headers["x-routerx-attempts"] == "2"
            assert (await gw.chat()).headers["x-routerx-attempts"] == "1"
            keys = [request.headers["authorization"] for request in up.requests]
            assert keys[0] != keys[1] == keys[2]
