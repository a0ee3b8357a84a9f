"""`routerx ledger …`: are the books right, copies of them, and what is done to them as a whole."""

import os

import click

from routerx.cli import render
from routerx.cli.access import open_access, open_remote
from routerx.cli.render import money
from routerx.cli.settings import Settings, settings_of, shared_options
from routerx.control.book_values import BackupView, NewBackup, NewPruning, NewRerating, PruneView, RerateView
from routerx.control.values import VerifyView


@click.group(name="ledger")
def command() -> None:
    """The ledger: balances, transfers and charges."""


@command.command("verify")
@click.option("--file", "path", metavar="PATH", help="This ledger file, such as a backup, read as it is.")
@shared_options
@click.pass_context
def verify(ctx: click.Context, path: str | None) -> None:
    """Prove the books: exit 0 when every rule holds, 1 with the violations otherwise."""
    settings = settings_of(ctx)
    result = _verify(settings, path)
    render.emit(settings, result, _show)
    if not result.ok:
        ctx.exit(1)


@command.command("backup")
@click.argument("file", metavar="FILE")
@shared_options
@click.pass_context
def backup(ctx: click.Context, file: str) -> None:
    """Copy the ledger to FILE, which must not exist yet, and check the copy. Calls go on meanwhile.

    Exit 1 where the check finds something. With --url, FILE is a path on the server's machine.
    """
    settings = settings_of(ctx)
    with open_access(settings) as access:
        result = access.books.back_up(NewBackup(os.path.abspath(file) if settings.url is None else file))
    render.emit(settings, result, _show_backup)
    if not result.verified.ok:
        ctx.exit(1)


@command.command("restore")
@click.argument("file", metavar="FILE")
@click.option("--force", is_flag=True, help="Where there is a ledger already: put it aside and take the backup.")
@shared_options
@click.pass_context
def restore(ctx: click.Context, file: str, force: bool) -> None:
    """Make the backup FILE the ledger, once it is proven. No server may run."""
    from routerx.cli.local import restore_ledger  # Loads the ledger: only where it is used.

    settings = settings_of(ctx)
    result = restore_ledger(settings, file, replace=force)
    render.emit(settings, result, _show_backup)


@command.command("export")
@click.option(
    "--format", "shape", type=click.Choice(["csv", "json"]), default="csv", help="CSV, or one JSON object a line."
)
@click.option("--tenant", metavar="NAME", help="Only this tenant's.")
@click.option("--since", metavar="TIME", help="From this day or time (UTC) on.")
@click.option("--until", metavar="TIME", help="Before this day or time (UTC).")
@click.option("--file", "path", metavar="PATH", help="This ledger file, such as a backup.")
@shared_options
@click.pass_context
def export(
    ctx: click.Context, /, shape: str, tenant: str | None, since: str | None, until: str | None, path: str | None
) -> None:
    """Write every transfer to stdout, oldest first, as CSV or as one JSON object a line.

    It is read from the file, also while a server runs: run it where the ledger is.
    """
    from routerx.cli.export import write_transfers  # Loads the ledger: only where it is used.

    write_transfers(settings_of(ctx), shape, (tenant, since, until), path)


@command.command("rerate")
@click.option("--model", metavar="NAME", help="Requests answered by any endpoint of this model.")
@click.option("--endpoint", metavar="PROVIDER/MODEL", help="Requests answered by this endpoint.")
@click.option("--since", metavar="TIME", required=True, help="Settled from this day or time (UTC) on.")
@click.option("--until", metavar="TIME", help="Settled before this day or time (UTC). Default: now.")
@click.option("--dry-run", is_flag=True, help="Only tell what it would come to.")
@shared_options
@click.pass_context
def rerate(
    ctx: click.Context, /, model: str | None, endpoint: str | None, since: str, until: str | None, dry_run: bool
) -> None:
    """Correct finished paid requests to what they cost by the present prices of the configuration.

    Each difference becomes an adjustment that names its request; a second run finds none.
    """
    settings = settings_of(ctx)
    new = NewRerating(since=since, until=until, model=model, endpoint=endpoint, dry_run=dry_run)
    with open_access(settings) as access:
        result = access.books.rerate(new)
    render.emit(settings, result, _show_rerating)


@command.command("prune")
@click.option("--before", metavar="DATE", required=True, help="Rows of requests settled before this day (UTC).")
@click.option("--dry-run", is_flag=True, help="Only tell how many it would be.")
@shared_options
@click.pass_context
def prune(ctx: click.Context, before: str, dry_run: bool) -> None:
    """Delete old request rows, once the books up to there are proven. Charges and balances stay.

    The configuration's ledger.retention does the same every day.
    """
    settings = settings_of(ctx)
    with open_access(settings) as access:
        result = access.books.prune(NewPruning(before, dry_run))
    render.emit(settings, result, _show_pruning)


def _verify(settings: Settings, path: str | None) -> VerifyView:
    if path is None:
        server = open_remote(settings)
        if server is not None:
            return server.verify()
    from routerx.cli.local import verify_ledger  # Loads the ledger: only where no server answers.

    return verify_ledger(settings, path)


def _show(result: VerifyView) -> None:
    for violation in result.violations:
        click.echo(render.clean(violation))
    count = len(result.violations)
    found = "no violation" if not count else "one violation" if count == 1 else f"{count} violations"
    render.facts(
        [
            ("result", render.state(result.ok, found)),
            ("transfers", result.checked_transfers),
            ("requests", result.checked_requests),
            ("tenants", result.tenants),
            ("took", f"{result.duration_ms:,} ms"),
        ]
    )


def _show_backup(result: BackupView) -> None:
    render.facts([("file", result.path), ("size", f"{result.size_bytes:,} bytes")])
    _show(result.verified)


def _show_rerating(result: RerateView) -> None:
    render.facts(
        [
            ("endpoints", ", ".join(result.endpoints)),
            ("requests", result.requests),
            ("to correct" if result.dry_run else "corrected", result.corrected),
            ("given back", money(result.given_back_usd)),
            ("taken", money(result.taken_usd)),
            ("not to be had", money(result.short_usd)),
        ]
    )


def _show_pruning(result: PruneView) -> None:
    render.facts([("to delete" if result.dry_run else "deleted", result.requests), ("left", result.kept)])
