"""What people see: tables that fit the terminal, facts in pairs, and the one switch between them and `--json`.

Text that came from a caller or a provider may hold anything; it is shown with control characters escaped, so that no
log line can move the cursor or forge another. Colour only on a terminal, and not where NO_COLOR is set (rich sees to
both). Nothing is cut short: where a table does not fit, its rows are written out as pairs.
"""

import os
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import click
import msgspec
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from routerx import jsonx
from routerx.cli.settings import Settings

T = TypeVar("T")
Cell = str | Text | int | None
UNBOUNDED = 10_000
NOTHING = "–"


class Column(msgspec.Struct, frozen=True):
    """A column's title; `right` for numbers and money; `wrap` where a cell may take several lines."""

    title: str
    right: bool = False
    wrap: bool = False


def emit(settings: Settings, value: T, show: Callable[[T], None]) -> None:
    """Data to stdout: JSON for programs, otherwise as `show` draws it."""
    if settings.json:
        click.echo(jsonx.pretty(value))
    else:
        show(value)


def say(text: str) -> None:
    """Talk to stderr."""
    click.echo(clean(text), err=True)


def console() -> Console:
    """Stdout, as wide as the terminal; off a terminal as wide as the data, so that lines stay whole for `grep`."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else UNBOUNDED
    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False, width=width)


def table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], nothing: str) -> None:
    """Rows under titles; `nothing` goes to stderr when there are none."""
    if not rows:
        say(nothing)
        return
    out = console()
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        grid.add_column(
            Text(column.title), justify="right" if column.right else "left", no_wrap=not column.wrap, overflow="fold"
        )
    for row in rows:
        grid.add_row(*(_text(cell) for cell in row))
    if Measurement.get(out, out.options.update(width=UNBOUNDED, max_width=UNBOUNDED), grid).minimum <= out.width:
        out.print(grid)
        return
    for index, row in enumerate(rows):
        if index:
            out.print()
        facts([(column.title, cell) for column, cell in zip(columns, row, strict=True)], out)


def facts(pairs: Sequence[tuple[str, Cell]], out: Console | None = None) -> None:
    """Names and values in two columns; a long value folds under itself."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for name, value in pairs:
        grid.add_row(Text(name), _text(value))
    (out if out is not None else console()).print(grid)


def heading(text: str) -> None:
    """Stands above one of several parts of an answer."""
    out = console()
    out.print()
    out.print(Text(text, style="bold"))


def money(usd: str | None) -> str | None:
    """`25.00` → `$25.00`, `-3.50` → `-$3.50`: exact, as it came."""
    if usd is None:
        return None
    return f"-${usd[1:]}" if usd.startswith("-") else f"${usd}"


def count(number: int | None) -> str | None:
    """`1234567` → `1,234,567`."""
    return None if number is None else f"{number:,}"


def when(iso: str | None) -> str | None:
    """`2026-01-02T03:04:05.678Z` → `2026-01-02 03:04:05`; all times are UTC."""
    return None if iso is None else iso[:19].replace("T", " ")


def state(good: bool, text: str) -> Text:
    return Text(clean(text), style="green" if good else "red")


def clean(text: str) -> str:
    """Control, format and direction characters as escapes; everything a person can read as it is."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _text(cell: Cell) -> Text:
    if cell is None:
        return Text(NOTHING, style="dim")
    if isinstance(cell, Text):
        return cell
    return Text(clean(cell) if isinstance(cell, str) else f"{cell:,}")
