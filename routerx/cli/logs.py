"""`routerx logs …`: what was asked, who answered, what it cost. Prompts and answers are in no log."""

import time
from collections import deque
from collections.abc import Callable

import click
import msgspec

from routerx import jsonx
from routerx.cli import render
from routerx.cli.access import open_access, open_remote
from routerx.cli.loglines import LogLines
from routerx.cli.remote import Unreachable
from routerx.cli.render import Cell, Column, count, money
from routerx.cli.settings import Settings, settings_of, shared_options
from routerx.control.values import LogDetail, LogEntry
from routerx.ledger.base import LogQuery

BACKLOG_MAX = 1_000
RECONNECT_S = 1.0


@click.group(name="logs")
def command() -> None:
    """The request log: metadata only, never a prompt or an answer."""


@command.command("tail")
@click.option("-f", "--follow", is_flag=True, help="Go on with new requests as they end.")
@click.option(
    "-n", "--lines", metavar="N", type=click.IntRange(0, BACKLOG_MAX), default=20, help="How many. Default: 20."
)
@click.option("--tenant", metavar="NAME", help="Only this tenant's.")
@click.option("--model", metavar="NAME", help="Only those that asked for this model.")
@click.option("--outcome", metavar="NAME", help="Only those that ended so, like ok or upstream_429.")
@shared_options
@click.pass_context
def tail(ctx: click.Context, /, follow: bool, lines: int, **filters: str | None) -> None:
    """The last requests, one line each; --json writes one object per line.

    With -f it waits for a server that is down and comes back to one that was restarted.
    """
    settings = settings_of(ctx)
    query = LogQuery(**filters, limit=lines)
    show = _printer(settings)
    entries: tuple[LogEntry, ...] = ()
    if lines:
        with open_access(settings) as access:
            entries = access.logs(query)
    for entry in entries:
        show(entry)
    if follow:
        _follow(settings, query, [entry.id for entry in entries], show)


@command.command("show")
@click.argument("request_id", metavar="ID")
@shared_options
@click.pass_context
def show_log(ctx: click.Context, request_id: str) -> None:
    """One request's full account: usage, price, cost, attempts and timings."""
    settings = settings_of(ctx)
    with open_access(settings) as access:
        detail = access.log(request_id)
    render.emit(settings, detail, _detail)


def _follow(settings: Settings, query: LogQuery, before: list[str], show: Callable[[LogEntry], None]) -> None:
    """Show new requests for ever; a server that is away is waited for, and asked for what was missed."""
    shown = deque(before, maxlen=BACKLOG_MAX)  # Requests end in another order than they began: ids alone do not tell.
    told = False
    while True:
        try:
            server = open_remote(settings)
            if server is None:
                raise Unreachable("No RouterX is running.")
            # With nothing shown yet there is nothing to catch up with.
            missed = (shown[-1], BACKLOG_MAX) if shown else (None, 0)
            for line in server.follow(msgspec.structs.replace(query, after_id=missed[0], limit=missed[1])):
                told = False
                if line.entry is not None and line.entry.id not in shown:
                    shown.append(line.entry.id)
                    show(line.entry)
        except Unreachable as error:
            if not told:
                render.say(f"{error.message} Waiting for it; Ctrl-C ends this.")
            told = True
        time.sleep(RECONNECT_S)


def _printer(settings: Settings) -> Callable[[LogEntry], None]:
    """How one entry is written."""
    if settings.json:
        return lambda entry: click.echo(jsonx.encode(entry).decode())
    out = render.console()
    bounded = out.width < render.UNBOUNDED
    lines = LogLines(out.width if bounded else None)
    if out.is_terminal:
        out.print(lines.head(), soft_wrap=True)
    return lambda entry: out.print(lines.line(entry), soft_wrap=True)


def _detail(detail: LogDetail) -> None:
    entry = detail.entry
    served = entry.endpoint if entry.served_model is None else f"{entry.endpoint} as {entry.served_model}"
    pairs: list[tuple[str, Cell]] = [
        ("request", entry.id),
        ("time (UTC)", render.when(entry.at)),
        ("tenant", f"{entry.tenant}, {entry.key_id}"),
        ("asked for", f"{entry.model} ({entry.operation}{', streamed' if entry.stream else ''})"),
        ("answered by", None if entry.endpoint is None else served),
        ("outcome", render.state(entry.outcome == "ok", f"{entry.outcome}, HTTP {entry.http_status}")),
        ("flags", ", ".join(entry.flags) or None),
        ("cost", f"{money(entry.cost_usd)} ({entry.billing})"),
        ("held before", money(detail.held_usd)),
        (_payer(entry.flags), f"{money(detail.provider_cost_usd)} at list price"),
        ("first token", None if entry.ttft_ms is None else f"{entry.ttft_ms:,} ms"),
        ("total", f"{entry.duration_ms:,} ms, {detail.overhead_us:,} µs of them in this gateway"),
        ("user", entry.user),
        ("app", entry.app),
    ]
    render.facts(pairs)
    _usage(detail)
    if detail.attempts:
        render.heading("Attempts")
        _attempts(detail)


def _payer(flags: tuple[str, ...]) -> str:
    """Whom the provider bills."""
    return "cost to the tenant" if "byok" in flags else "cost to the house"


def _usage(detail: LogDetail) -> None:
    """Each token bucket that was used, with its price."""
    if detail.usage is None:
        return
    render.heading(f"Usage ({detail.entry.usage_source})")
    pairs: list[tuple[str, Cell]] = [(name.replace("_", " "), n) for name, n in detail.usage.items() if n]
    for unit, rate in (detail.price or {}).items():
        pairs.append((f"price of {unit.replace('_', ' ')}", f"{money(rate.usd)} per {rate.per}"))
    if detail.tier is not None:
        pairs.append(("service tier", detail.tier))
    if detail.markup_bp:
        pairs.append(("markup", f"{detail.markup_bp / 100:g}%"))
    render.facts(pairs)


def _attempts(detail: LogDetail) -> None:
    columns = (
        Column("no.", right=True),
        Column("endpoint"),
        Column("outcome"),
        Column("status", right=True),
        Column("first byte", right=True),
        Column("total", right=True),
        Column("house cost", right=True),
    )
    rows = [
        (
            str(attempt.n),
            attempt.endpoint,
            render.state(attempt.won, attempt.outcome),
            None if attempt.upstream_status is None else str(attempt.upstream_status),
            None if attempt.first_byte_ms is None else f"{count(attempt.first_byte_ms)} ms",
            f"{count(attempt.duration_ms)} ms",
            money(attempt.cost_est_usd),
        )
        for attempt in detail.attempts
    ]
    render.table(columns, rows, "Nobody was asked.")
