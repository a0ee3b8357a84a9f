"""`routerx keys …`: the keys with which tenants call."""

from collections.abc import Callable
from typing import Any

import click
import msgspec

from routerx.cli import render
from routerx.cli.access import open_access
from routerx.cli.render import Cell, Column, money
from routerx.cli.settings import settings_of, shared_options
from routerx.cli.types import count_or_none
from routerx.control.key_values import KeyDetail, KeyTermsChange, NewKeyOrder
from routerx.control.values import KeyView, NewKey, SpendLimitView
from routerx.domain.tenant import Limits

Command = Callable[..., None]

NONE = "none"


@click.group(name="keys")
def command() -> None:
    """Keys of tenants. Only their hashes are stored."""


def limit_options(function: Command) -> Command:
    """The options of a set of limits."""
    for option, text in (
        ("--spend-limit", "Most that is charged, like '$5/day'; per day, week, month or total."),
        ("--daily-requests", "Requests per UTC day."),
        ("--concurrency", "Requests at once."),
        ("--tpm", "Tokens per minute."),
        ("--rpm", "Requests per minute."),
    ):
        metavar = "LIMIT" if option == "--spend-limit" else "COUNT"
        kind = None if option == "--spend-limit" else count_or_none
        function = click.option(option, metavar=metavar, type=kind, help=text)(function)
    return function


def said(given: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, with None for those of 'none'."""
    return {name: None if value == NONE else value for name, value in given.items() if value not in (None, ())}


@command.command("create")
@click.argument("tenant")
@click.option("--label", metavar="TEXT", help="A name for people.")
@click.option("--expires", metavar="WHEN", help="A time from now, like 30d, or a date, like 2027-01-01.")
@click.option("--allow", metavar="PATTERN", multiple=True, help="Models it may use, like 'gpt-*'. Repeatable.")
@limit_options
@shared_options
@click.pass_context
def create_key(ctx: click.Context, /, **given: Any) -> None:  # The fields of NewKeyOrder, as click parsed them.
    """Issue a key for TENANT; it is shown this once. Its limits hold beside those of the tenant."""
    settings = settings_of(ctx)
    order = msgspec.convert(said(given), NewKeyOrder)
    with open_access(settings) as access:
        key = access.keys.create(order)
    render.emit(settings, key, show_new_key)


@command.command("list")
@click.argument("tenant", required=False)
@shared_options
@click.pass_context
def list_keys(ctx: click.Context, tenant: str | None) -> None:
    """Keys of TENANT, or of all: issued ones, those declared in YAML, revoked ones too."""
    settings = settings_of(ctx)
    with open_access(settings) as access:
        keys = access.keys.every(tenant)
    render.emit(settings, keys, key_table)


@command.command("show")
@click.argument("key_id", metavar="KEY_ID")
@shared_options
@click.pass_context
def show_key(ctx: click.Context, key_id: str) -> None:
    """One key: what holds for it, and what it has spent."""
    settings = settings_of(ctx)
    with open_access(settings) as access:
        key = access.keys.one(key_id)
    render.emit(settings, key, _detail)


@command.command("limit")
@click.argument("key_id", metavar="KEY_ID")
@click.option("--expires", metavar="WHEN", help="A time from now, like 30d, or a date, like 2027-01-01.")
@click.option("--allow", metavar="PATTERN", multiple=True, help="Models it may use from now on. Repeatable.")
@limit_options
@shared_options
@click.pass_context
def limit_key(ctx: click.Context, /, key_id: str, **given: Any) -> None:
    """Change what holds for an issued key, at once. What is not named stays; 'none' takes it away."""
    settings = settings_of(ctx)
    values = said(given)
    if values.get("allow") == (NONE,):
        values["allow"] = ()
    if not values:
        raise click.UsageError("Nothing to change: give at least one limit, or 'none' to take it away.")
    change = msgspec.convert(values, KeyTermsChange)
    with open_access(settings) as access:
        key = access.keys.limit(key_id, change)
    render.emit(settings, key, _detail)


@command.command("revoke")
@click.argument("key_id", metavar="KEY_ID")
@shared_options
@click.pass_context
def revoke_key(ctx: click.Context, key_id: str) -> None:
    """Revoke a key for good, by the id that `keys list` shows."""
    settings = settings_of(ctx)
    with open_access(settings) as access:
        key = access.keys.revoke(key_id)
    render.emit(settings, key, lambda key: render.say(f"{key.id} of {key.tenant} is revoked."))


def key_table(keys: tuple[KeyView, ...]) -> None:
    columns = [
        Column("key"),
        Column("tenant"),
        Column("state"),
        Column("source"),
        Column("created (UTC)"),
        Column("label", wrap=True),
    ]
    rows: list[list[Cell]] = [
        [key.id, key.tenant, _state(key), key.source, render.when(key.created), key.label] for key in keys
    ]
    terms = [_terms(key) for key in keys]
    if any(terms):  # Mostly nothing is restricted.
        columns.append(Column("restricted to", wrap=True))
        rows = [[*row, text] for row, text in zip(rows, terms, strict=True)]
    render.table(columns, rows, "There are no keys.")


def show_new_key(key: NewKey) -> None:
    """The key alone on stdout, so that a script can take it; what to do with it on stderr."""
    render.say(f"Key {key.view.id} of {key.view.tenant}. Keep it now: it cannot be shown again.")
    if (terms := _terms(key.view)) is not None:
        render.say(f"It is restricted to {terms}.")
    click.echo(key.key)


def limits_text(limits: Limits) -> str | None:
    """`60 requests a minute, 2 at a time`; None where there is no limit."""
    parts = (
        (limits.rpm, "requests a minute"),
        (limits.tpm, "tokens a minute"),
        (limits.concurrency, "at a time"),
        (limits.daily_requests, "requests a day"),
    )
    return ", ".join(f"{value:,} {unit}" for value, unit in parts if value is not None) or None


def spend_text(limit: SpendLimitView | None) -> str | None:
    """`$5.00 a day`."""
    if limit is None:
        return None
    return f"{money(limit.amount_usd)} {'in all' if limit.period == 'total' else f'a {limit.period}'}"


def _terms(key: KeyView) -> str | None:
    parts = (
        ", ".join(key.allow) or None,
        limits_text(key.limits),
        spend_text(key.spend_limit),
        None if key.expires is None else f"until {render.when(key.expires)}",
    )
    return "; ".join(part for part in parts if part is not None) or None


def _state(key: KeyView) -> Cell:
    ended = "revoked" if key.revoked is not None else "expired"
    return render.state(key.active, "active" if key.active else ended)


def _detail(key: KeyDetail) -> None:
    view = key.view
    spend = spend_text(view.spend_limit)
    if spend is not None:
        spend += f", {money(key.left_usd)} left"
    pairs: list[tuple[str, Cell]] = [
        ("key", view.id),
        ("tenant", view.tenant),
        ("state", _state(view)),
        ("source", view.source),
        ("label", view.label),
        ("created", render.when(view.created)),
        ("expires", "never" if view.expires is None else f"{render.when(view.expires)} UTC"),
        ("models", ", ".join(view.allow) if view.allow else "all that its tenant may use"),
        ("limits", limits_text(view.limits) or "those of its tenant"),
        ("spend limit", spend or "that of its tenant"),
        ("spent today", f"{money(key.spent_today_usd)} in {key.requests_today:,} requests"),
        ("spent this month", money(key.spent_month_usd)),
        ("spent in all", money(key.spent_total_usd)),
        ("held", money(key.held_usd)),
    ]
    render.facts(pairs)
