"""Transfers on stdout, for other programs. Written row by row, so that any number of them fits."""

import csv
import sys
from collections.abc import Iterator

import click
import msgspec

from routerx import jsonx
from routerx.cli.files import load
from routerx.cli.settings import Settings
from routerx.control.books import parse_time
from routerx.control.views import iso_time
from routerx.errors import OperatorError
from routerx.ledger.export import ExportedTransfer, ExportQuery, exported
from routerx.money import format_usd


class ExportRow(msgspec.Struct, frozen=True):
    """One transfer, positive towards the tenant; money as exact text and in nano-USD."""

    id: int
    at: str
    kind: str
    tenant: str
    amount_usd: str
    amount_nano: int
    balance_usd: str
    balance_nano: int
    request_id: str | None
    model: str | None
    endpoint: str | None
    billing: str | None
    reference: str | None
    reverses: int | None
    actor: str | None
    note: str | None


def write_transfers(
    settings: Settings, shape: str, bounds: tuple[str | None, str | None, str | None], path: str | None
) -> None:
    """`bounds` are (tenant, since, until). Raises OperatorError with --url, InvalidParameter, NotFound."""
    if settings.url is not None:
        raise OperatorError("ledger export reads the ledger's file: run it on the server's machine, without --url.")
    tenant, since, until = bounds
    query = ExportQuery(
        tenant,
        None if since is None else parse_time(since, "since"),
        None if until is None else parse_time(until, "until"),
    )
    rows = exported(path if path is not None else load(settings).server.ledger_path, query)
    if shape == "json" or settings.json:
        for row in rows:
            click.echo(jsonx.encode(_row(row)))
    else:
        _write_csv(rows)


def _write_csv(rows: Iterator[ExportedTransfer]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(ExportRow.__struct_fields__)
    for row in rows:
        writer.writerow([_cell(value) for value in msgspec.structs.astuple(_row(row))])


def _cell(value: object) -> object:
    """A text that a spreadsheet would take for a formula is made plain text. Numbers stay what they are."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "@", "\t", "\r") else value


def _row(row: ExportedTransfer) -> ExportRow:
    return ExportRow(
        id=row.id,
        at=iso_time(row.ts_ns),
        kind=row.kind,
        tenant=row.tenant,
        amount_usd=format_usd(row.amount_nano),
        amount_nano=row.amount_nano,
        balance_usd=format_usd(row.balance_nano),
        balance_nano=row.balance_nano,
        request_id=row.request_id,
        model=row.model,
        endpoint=row.endpoint,
        billing=row.billing,
        reference=row.reference,
        reverses=row.reverses,
        actor=row.actor,
        note=row.note,
    )
