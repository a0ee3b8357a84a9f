"""`routerx stats`: what was used and what it cost, by provider, from the books."""

import click

from routerx.cli import render
from routerx.cli.access import open_access
from routerx.cli.render import Cell, Column, money
from routerx.cli.settings import settings_of, shared_options
from routerx.control.provider_values import TokenReport, UsageView
from routerx.control.reports import PERIODS
from routerx.money import format_usd

COLUMNS = (
    Column("provider"),
    Column("requests", right=True),
    Column("answered", right=True),
    Column("input", right=True),
    Column("of it cached", right=True),
    Column("output", right=True),
    Column("cost", right=True),
    Column("list price", right=True),
)


@click.command(name="stats")
@click.option("--period", type=click.Choice(tuple(PERIODS)), default="day", help="How far back; day.")
@click.option("--tenant", metavar="NAME", help="Only this tenant's.")
@shared_options
@click.pass_context
def command(ctx: click.Context, period: str, tenant: str | None) -> None:
    """Requests, tokens and money by provider, over the time up to now.

    Cost is what tenants owe for it; list price is what it costs the house, by the price cards.
    """
    settings = settings_of(ctx)
    with open_access(settings) as access:
        report = access.usage(period, tenant)
    render.emit(settings, report, _show)


def _show(report: TokenReport) -> None:
    rows = [_row(one.provider, (one,)) for one in report.totals]
    if len(rows) > 1:
        rows.append(_row("all", report.totals))
    render.table(COLUMNS, rows, f"No provider has been asked since {render.when(report.since)}.")


def _row(name: str, some: tuple[UsageView, ...]) -> tuple[Cell, ...]:
    return (
        name,
        sum(one.requests for one in some),
        sum(one.succeeded for one in some),
        sum(one.input_tokens for one in some),
        sum(one.cached_tokens for one in some),
        sum(one.output_tokens for one in some),
        money(format_usd(sum(one.cost_nano for one in some))),
        money(format_usd(sum(one.provider_cost_nano for one in some))),
    )
