"""`routerx byok …`: provider keys that are tenants' own."""

import click

from routerx.cli import render
from routerx.cli.access import open_access
from routerx.cli.key_input import read_key
from routerx.cli.render import Cell, Column
from routerx.cli.settings import settings_of, shared_options
from routerx.control.own_key_values import NewOwnKey, OwnKeyView

_STATES = {"active": "active", "idle": "provider not in use", "unreadable": "unreadable: set it anew"}


@click.group(name="byok")
def command() -> None:
    """Provider keys that are tenants' own. They are kept sealed, and never shown."""


@command.command("list")
@click.argument("tenant")
@shared_options
@click.pass_context
def list_own_keys(ctx: click.Context, tenant: str) -> None:
    """Own keys of TENANT, by provider, each by its fingerprint."""
    settings = settings_of(ctx)
    with open_access(settings) as access:
        keys = access.own_keys.every(tenant)
    render.emit(settings, keys, lambda keys: _table(tenant, keys))


@command.command("set")
@click.argument("tenant")
@click.argument("provider")
@click.option("--key-file", metavar="FILE", help="A file that holds the key. Default: stdin, or a prompt.")
@click.option("--reason", metavar="TEXT", help="Why, for the audit trail.")
@shared_options
@click.pass_context
def set_own_key(ctx: click.Context, tenant: str, provider: str, key_file: str | None, reason: str | None) -> None:
    """Use TENANT's own key at PROVIDER from now on, in the place of the one it had. The key is read from stdin, asked
    for, or in a file, and never an argument."""
    settings = settings_of(ctx)
    new = NewOwnKey(read_key(provider, key_file), reason)
    with open_access(settings) as access:
        key = access.own_keys.put(tenant, provider, new)
    render.emit(settings, key, _stored)


@command.command("remove")
@click.argument("tenant")
@click.argument("provider")
@click.option("--reason", metavar="TEXT", help="Why, for the audit trail.")
@shared_options
@click.pass_context
def remove_own_key(ctx: click.Context, tenant: str, provider: str, reason: str | None) -> None:
    """Forget TENANT's own key for PROVIDER: its requests go there with the house's key again, where it has one, and are
    charged."""
    settings = settings_of(ctx)
    with open_access(settings) as access:
        key = access.own_keys.remove(tenant, provider, reason)
    render.emit(settings, key, _removed)


def _table(tenant: str, keys: tuple[OwnKeyView, ...]) -> None:
    columns = [Column("provider"), Column("fingerprint"), Column("created (UTC)"), Column("state", wrap=True)]
    rows: list[list[Cell]] = [
        [
            key.provider,
            key.fingerprint,
            render.when(key.created),
            render.state(key.state == "active", _STATES.get(key.state, key.state)),
        ]
        for key in keys
    ]
    render.table(columns, rows, f"{tenant} has no own keys.")


def _stored(key: OwnKeyView) -> None:
    render.say(f"{key.tenant} calls {key.provider} with its own key {key.fingerprint} from now on.")
    if key.state == "idle":
        render.say(
            f"note: {key.provider} is not in use now: it is off, or has no key of the house; 'byok_only: true' in the "
            "configuration serves it with own keys alone."
        )


def _removed(key: OwnKeyView) -> None:
    render.say(f"The key {key.fingerprint} of {key.tenant} for {key.provider} is forgotten.")
