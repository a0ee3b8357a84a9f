"""Rows of the audit trail as a table for people: what is JSON there is told in words."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from routerx.cli import render
from routerx.cli.render import Column, money
from routerx.control.values import AuditView
from routerx.money import format_usd


def history_table(rows: tuple[AuditView, ...]) -> None:
    columns = (Column("time (UTC)"), Column("by"), Column("what"), Column("about", wrap=True))
    cells = [(render.when(row.at), row.actor, row.action, about(row)) for row in rows]
    render.table(columns, cells, "Nothing has been done yet.")


def about(row: AuditView) -> str | None:
    """`amount $25.00, transfer 1`; of a key its id first. None where there is nothing to tell."""
    if row.action.startswith("key."):
        return ", ".join((row.subject, *_words(_json(row.detail))))
    if row.action == "account.open":
        return f"account {row.detail}"
    words = ", ".join(_words(_json(row.detail), nothing="none"))
    return words or row.detail or None


def _json(detail: str) -> dict[str, Any]:
    """Empty where it is a text of its own, like a reason."""
    try:
        return msgspec.json.decode(detail, type=dict[str, Any])
    except (msgspec.DecodeError, msgspec.ValidationError):
        return {}


def _words(value: dict[str, Any], nothing: str | None = None) -> Iterator[str]:
    """Every field that says something; `nothing` stands for null where null was said on purpose."""
    for name, part in value.items():
        match part:
            case str() if name == "tenant":
                continue
            case dict():
                yield from _words(part)
            case [*several]:
                if several:
                    yield f"{name} {' '.join(map(str, several))}"
            case None:
                if nothing is not None:
                    yield f"{name} {nothing}"
            case int() if name.endswith("_nano"):
                yield f"{name.removesuffix('_nano')} {money(format_usd(part))}"
            case int() if name.endswith("_ns"):
                yield f"{name.removesuffix('_ns')} {datetime.fromtimestamp(part // 10**9, UTC):%Y-%m-%d %H:%M}"
            case _:
                yield f"{name} {part}"
