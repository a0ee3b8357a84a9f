"""`routerx keys …`: the keys with which tenants call."""

import click

from routerx.cli import render
from routerx.cli.access import open_access
from routerx.cli.render import Column
from routerx.cli.settings import settings_of, shared_options
from routerx.control.values import KeyView, NewKey


@click.group(name="keys")
def command() -> None:
    """Keys of tenants. Only their hashes are stored."""


@command.command("create")
@click.argument("tenant")
@click.option("--label", metavar="TEXT", help="A name for people.")
@shared_options
@click.pass_context
def create_key(ctx: click.Context, tenant: str, label: str | None) -> None:
    """Issue a key for TENANT; it is shown this once."""
    settings = settings_of(ctx)
    with open_access(settings) as access:
        key = access.create_key(tenant, label)
    render.emit(settings, key, show_new_key)


@command.command("list")
@click.argument("tenant", required=False)
@shared_options
@click.pass_context
def list_keys(ctx: click.Context, tenant: str | None) -> None:
    """Keys of TENANT, or of all: issued ones, those declared in YAML, revoked ones too."""
    settings = settings_of(ctx)
    with open_access(settings) as access:
        keys = access.keys(tenant)
    render.emit(settings, keys, key_table)


@command.command("revoke")
@click.argument("key_id", metavar="KEY_ID")
@shared_options
@click.pass_context
def revoke_key(ctx: click.Context, key_id: str) -> None:
    """Revoke a key for good, by the id that `keys list` shows."""
    settings = settings_of(ctx)
    with open_access(settings) as access:
        key = access.revoke_key(key_id)
    render.emit(settings, key, lambda key: render.say(f"{key.id} of {key.tenant} is revoked."))


def key_table(keys: tuple[KeyView, ...]) -> None:
    columns = (
        Column("key"),
        Column("tenant"),
        Column("state"),
        Column("source"),
        Column("created (UTC)"),
        Column("label", wrap=True),
    )
    rows = [
        (
            key.id,
            key.tenant,
            render.state(key.active, "active" if key.active else "revoked"),
            key.source,
            render.when(key.created),
            key.label,
        )
        for key in keys
    ]
    render.table(columns, rows, "There are no keys.")


def show_new_key(key: NewKey) -> None:
    """The key alone on stdout, so that a script can take it; what to do with it on stderr."""
    render.say(f"Key {key.view.id} of {key.view.tenant}. Keep it now: it cannot be shown again.")
    click.echo(key.key)
