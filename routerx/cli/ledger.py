"""`routerx ledger …`: are the books right."""

import click

from routerx.cli import render
from routerx.cli.access import open_remote
from routerx.cli.settings import Settings, settings_of, shared_options
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
