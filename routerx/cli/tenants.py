"""`routerx tenants …`: customers, their money and whether they may call."""

from typing import Any

import click
import msgspec

from routerx.cli import render
from routerx.cli.access import open_access
from routerx.cli.history import history_table
from routerx.cli.keys import key_table, limit_options, limits_text, said, show_new_key, spend_text
from routerx.cli.render import Cell, Column, money
from routerx.cli.settings import settings_of, shared_options
from routerx.cli.types import amount as amount_type
from routerx.control.book_values import NewRefund
from routerx.control.values import (
    CreatedTenant,
    NewTenant,
    PlanView,
    TenantDetail,
    TenantLimitsChange,
    TenantSummary,
    TransferView,
)


@click.group(name="tenants")
def command() -> None:
    """Tenants: their balance, plan, limits and suspension."""


@command.command("list")
@shared_options
@click.pass_context
def list_tenants(ctx: click.Context) -> None:
    """All tenants with their balance and spend."""
    settings = settings_of(ctx)
    with open_access(settings) as access:
        tenants = access.tenants()
    render.emit(settings, tenants, _table)


@command.command("show")
@click.argument("name")
@shared_options
@click.pass_context
def show_tenant(ctx: click.Context, name: str) -> None:
    """One tenant: balance, spend, plan, limits, keys and last transfers."""
    settings = settings_of(ctx)
    with open_access(settings) as access:
        tenant = access.tenant(name)
    render.emit(settings, tenant, _detail)


@command.command("create")
@click.argument("name")
@click.option("--plan", metavar="PLAN", help="A plan of the configuration. Default: the configuration's own.")
@click.option("--policy", metavar="POLICY", help="A routing policy of the configuration.")
@click.option("--allow", metavar="PATTERN", multiple=True, help="Models it may use, like 'gpt-*'. Repeatable.")
@click.option("--topup", metavar="AMOUNT", type=amount_type, help="Credit this many USD at once.")
@click.option("--label", metavar="TEXT", help="A name for its first key.")
@shared_options
@click.pass_context
def create_tenant(ctx: click.Context, /, **given: Any) -> None:  # The fields of NewTenant, as click parsed them.
    """Create a tenant, live at once, with a first key that is shown this once.

    It is declared in tenants.d/NAME.yaml beside the configuration file.
    """
    settings = settings_of(ctx)
    with open_access(settings) as access:
        created = access.create_tenant(msgspec.convert(given, NewTenant))
    render.emit(settings, created, _created)


@command.command("topup")
@click.argument("name")
@click.argument("amount", metavar="AMOUNT", type=amount_type)
@click.option("--ref", "reference", metavar="TEXT", help="Your reference; the same one again credits nothing more.")
@click.option("--note", metavar="TEXT", help="Why; kept with the transfer.")
@shared_options
@click.pass_context
def top_up(ctx: click.Context, name: str, amount: str, reference: str | None, note: str | None) -> None:
    """Credit a tenant with AMOUNT, in USD."""
    settings = settings_of(ctx)
    with open_access(settings) as access:
        transfer = access.top_up(name, amount, reference, note)
    render.emit(settings, transfer, _transfer)


@command.command("adjust")
@click.argument("name")
@click.argument("amount", metavar="AMOUNT", type=amount_type)
@click.option("--note", metavar="TEXT", help="Why; kept with the transfer.")
@shared_options
@click.pass_context
def adjust(ctx: click.Context, name: str, amount: str, note: str | None) -> None:
    """Correct a balance by AMOUNT, up or down.

    Put -- before a negative amount: routerx tenants adjust demo -- -3.5
    """
    settings = settings_of(ctx)
    with open_access(settings) as access:
        transfer = access.adjust(name, amount, note)
    render.emit(settings, transfer, _transfer)


@command.command("refund")
@click.argument("name")
@click.argument("request_id")
@click.option("--amount", metavar="AMOUNT", type=amount_type, help="This many USD of it. Default: all that is left.")
@click.option("--ref", "reference", metavar="TEXT", help="Your reference; the same one again refunds nothing more.")
@click.option("--note", metavar="TEXT", required=True, help="Why; kept with the transfer.")
@shared_options
@click.pass_context
def refund(
    ctx: click.Context, /, name: str, request_id: str, amount: str | None, reference: str | None, note: str
) -> None:
    """Give a tenant back what a request cost, whole or in part; never more than it cost.

    For goodwill without a request, use adjust.
    """
    settings = settings_of(ctx)
    with open_access(settings) as access:
        transfer = access.books.refund(name, NewRefund(request_id, amount, reference, note))
    render.emit(settings, transfer, _transfer)


@command.command("suspend")
@click.argument("name")
@click.option("--reason", metavar="TEXT", help="Shown to operators.")
@click.option("--hard", is_flag=True, help="End the calls under way, too.")
@shared_options
@click.pass_context
def suspend(ctx: click.Context, name: str, reason: str | None, *, hard: bool) -> None:
    """Refuse a tenant's calls from now on; without --hard calls under way end as they would."""
    settings = settings_of(ctx)
    with open_access(settings) as access:
        tenant = access.suspend(name, reason, hard=hard)
    ended = ", and its calls under way are ended" if hard else ""
    render.emit(settings, tenant, lambda tenant: render.say(f"{tenant.name} is suspended{ended}."))


@command.command("unsuspend")
@click.argument("name")
@shared_options
@click.pass_context
def unsuspend(ctx: click.Context, name: str) -> None:
    """Let a suspended tenant call again."""
    settings = settings_of(ctx)
    with open_access(settings) as access:
        tenant = access.unsuspend(name)
    render.emit(settings, tenant, lambda tenant: render.say(f"{tenant.name} may call again."))


@command.command("limit")
@click.argument("name")
@limit_options
@shared_options
@click.pass_context
def limit_tenant(ctx: click.Context, /, name: str, **given: Any) -> None:  # As click parsed them.
    """Set limits of a tenant in place of its plan's, live at once; 'none' lets the plan's hold again.

    They are written to the file that declares the tenant.
    """
    settings = settings_of(ctx)
    change = msgspec.convert(said(given), TenantLimitsChange)
    if change == TenantLimitsChange():
        raise click.UsageError("Nothing to change: give at least one limit, or 'none' to let the plan's hold.")
    with open_access(settings) as access:
        tenant = access.limit_tenant(name, change)
    render.emit(settings, tenant, _limited)


@command.command("history")
@click.argument("name")
@click.option("-n", "--lines", "limit", metavar="N", type=int, default=50, help="How many; 50 unless given.")
@shared_options
@click.pass_context
def history(ctx: click.Context, name: str, limit: int) -> None:
    """Who did what to a tenant and its keys, when and why: newest last."""
    settings = settings_of(ctx)
    with open_access(settings) as access:
        rows = access.history(name, limit)
    render.emit(settings, rows, history_table)


def _limited(tenant: TenantDetail) -> None:
    render.say(f"{tenant.name} has new limits.")
    render.facts(_terms(tenant))


def _table(tenants: tuple[TenantSummary, ...]) -> None:
    columns = (
        Column("tenant"),
        Column("plan"),
        Column("state"),
        Column("balance", right=True),
        Column("held", right=True),
        Column("today", right=True),
        Column("month", right=True),
    )
    rows = [
        (
            tenant.name,
            tenant.plan,
            render.state(not tenant.suspended, "suspended" if tenant.suspended else "active"),
            money(tenant.funds.balance_usd),
            money(tenant.funds.held_usd),
            money(tenant.funds.spent_today_usd),
            money(tenant.funds.spent_month_usd),
        )
        for tenant in tenants
    ]
    render.table(columns, rows, "The configuration declares no tenant.")


def _detail(tenant: TenantDetail) -> None:
    funds = tenant.funds
    suspended = "suspended" if tenant.suspend_reason is None else f"suspended: {tenant.suspend_reason}"
    pairs: list[tuple[str, Cell]] = [
        ("tenant", tenant.name),
        ("state", render.state(not tenant.suspended, suspended if tenant.suspended else "active")),
        ("balance", money(funds.balance_usd)),
        ("held", money(funds.held_usd)),
        ("available", "not limited by money" if funds.available_usd is None else money(funds.available_usd)),
        ("spent today", f"{money(funds.spent_today_usd)} in {funds.requests_today:,} requests"),
        ("spent this month", money(funds.spent_month_usd)),
        ("spent in all", money(funds.spent_total_usd)),
        *_terms(tenant),
        ("policy", tenant.policy),
        ("models", ", ".join(tenant.allow) if tenant.allow else "all"),
    ]
    render.facts(pairs)
    render.heading("Keys")
    key_table(tenant.keys)
    render.heading("Last transfers")
    _transfers(tenant.transfers)


def _plan(plan: PlanView) -> str:
    parts = [f"{plan.name} ({plan.billing}"]
    if plan.markup_bp:
        parts.append(f"markup {plan.markup_bp / 100:g}%")
    return ", ".join(parts) + ")"


def _terms(tenant: TenantDetail) -> list[tuple[str, Cell]]:
    """The plan and the limits as they are for this tenant."""
    spend = spend_text(tenant.plan.spend_limit)
    return [
        ("plan", _plan(tenant.plan)),
        ("spend limit", "none" if spend is None else f"{spend}, {money(tenant.funds.left_usd)} left"),
        ("limits", limits_text(tenant.plan.limits) or "none"),
    ]


def _transfers(transfers: tuple[TransferView, ...]) -> None:
    columns = (
        Column("time (UTC)"),
        Column("kind"),
        Column("amount", right=True),
        Column("balance", right=True),
        Column("by"),
        Column("about", wrap=True),
    )
    rows = [
        (
            render.when(row.at),
            row.kind,
            money(row.amount_usd),
            money(row.balance_usd),
            row.actor,
            ", ".join(text for text in (row.request_id, row.reference, row.note) if text is not None) or None,
        )
        for row in transfers
    ]
    render.table(columns, rows, "No money has moved yet.")


def _transfer(row: TransferView) -> None:
    verb = "Credited" if row.amount_nano > 0 else "Took"
    amount = money(row.amount_usd.removeprefix("-"))
    if row.repeated:
        render.say(
            f"Nothing is credited now: {row.kind} no. {row.id} of {amount} was made before, by the same reference."
        )
        render.facts(
            [("tenant", row.tenant), ("credited", render.when(row.at)), ("balance then", money(row.balance_usd))]
        )
        return
    render.say(f"{verb} {amount}, {row.kind} no. {row.id}.")
    render.facts([("tenant", row.tenant), ("balance", money(row.balance_usd))])


def _created(created: CreatedTenant) -> None:
    render.say(f"Tenant {created.tenant.name} is live, declared in {created.file}.")
    render.facts([("balance", money(created.tenant.funds.balance_usd))])
    show_new_key(created.key)
