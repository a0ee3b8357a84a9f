"""`routerx providers …`: who is called, how they are, and the keys they are called with."""

import click
import msgspec

from routerx.cli import render
from routerx.cli.access import open_access
from routerx.cli.key_input import read_key
from routerx.cli.provider_tables import detail, key_table, looks, provider_table
from routerx.cli.settings import settings_of, shared_options
from routerx.config.scalars import parse_count
from routerx.control.provider_values import KeyChange, NewProviderKey, RemovedKey


@click.group(name="providers")
def command() -> None:
    """Providers: how they are, switched on and off, and their keys."""


@command.command("list")
@shared_options
@click.pass_context
def list_providers(ctx: click.Context) -> None:
    """All configured providers with their state, health, circuits and keys."""
    settings = settings_of(ctx)
    with open_access(settings) as access:
        providers = access.providers.every()
    render.emit(settings, providers, provider_table)


@command.command("show")
@click.argument("name")
@shared_options
@click.pass_context
def show_provider(ctx: click.Context, name: str) -> None:
    """One provider: its address, health, keys and circuits."""
    settings = settings_of(ctx)
    with open_access(settings) as access:
        provider = access.providers.one(name)
    render.emit(settings, provider, detail)


@command.command("test")
@click.argument("name")
@shared_options
@click.pass_context
def test_provider(ctx: click.Context, name: str) -> int:
    """Ask a provider for its models now, with each of its keys. Exit 1 where none is taken."""
    settings = settings_of(ctx)
    with open_access(settings) as access:
        outcome = access.providers.test(name)
    render.emit(settings, outcome, looks)
    return 0 if outcome.ok else 1


@command.command("enable")
@click.argument("name")
@shared_options
@click.pass_context
def enable(ctx: click.Context, name: str) -> None:
    """Call a provider from now on. It is written to the configuration file."""
    _switch(ctx, name, enabled=True)


@command.command("disable")
@click.argument("name")
@shared_options
@click.pass_context
def disable(ctx: click.Context, name: str) -> None:
    """Call a provider no more; calls under way end as they would. It is written to the configuration file."""
    _switch(ctx, name, enabled=False)


def _switch(ctx: click.Context, name: str, *, enabled: bool) -> None:
    settings = settings_of(ctx)
    with open_access(settings) as access:
        provider = access.providers.switch(name, enabled=enabled)
    said = "on" if enabled else "off"
    if provider.provider.state == "no_key":
        said += ", but has no key and is not called"
    render.emit(settings, provider, lambda _: render.say(f"{name} is {said}."))


# --- keys


@command.group("keys")
def keys() -> None:
    """Keys of providers. They are kept in files of their own, and never shown."""


@keys.command("list")
@click.argument("provider", required=False)
@shared_options
@click.pass_context
def list_keys(ctx: click.Context, provider: str | None) -> None:
    """Keys of PROVIDER, or of all: state, limits, and what was done with each."""
    settings = settings_of(ctx)
    with open_access(settings) as access:
        found = access.providers.keys(provider)
    render.emit(settings, found, key_table)


@keys.command("add")
@click.argument("provider")
@click.option("--rpm", metavar="COUNT", help="Requests per minute that may use it.")
@click.option("--tpm", metavar="COUNT", help="Tokens per minute that may be spent with it.")
@shared_options
@click.pass_context
def add_key(ctx: click.Context, provider: str, rpm: str | None, tpm: str | None) -> None:
    """Add a key to PROVIDER, live at once. The key is read from stdin, or asked for, and never an argument."""
    settings = settings_of(ctx)
    limits = {"rpm": _count(rpm, "--rpm"), "tpm": _count(tpm, "--tpm")}
    new = NewProviderKey(provider=provider, key=read_key(provider), **limits)
    with open_access(settings) as access:
        key = access.providers.add_key(new)
    render.emit(settings, key, lambda key: render.say(f"{key.id} is used for {key.provider} from now on."))


@keys.command("set")
@click.argument("key_id", metavar="KEY_ID")
@click.option("--rpm", metavar="COUNT", help="Requests per minute that may use it; 'none' for no limit.")
@click.option("--tpm", metavar="COUNT", help="Tokens per minute that may be spent with it; 'none' for no limit.")
@click.option("--on/--off", "enabled", default=None, help="Use it, or do not.")
@shared_options
@click.pass_context
def set_key(ctx: click.Context, key_id: str, rpm: str | None, tpm: str | None, *, enabled: bool | None) -> None:
    """Change a key's limits, or switch it on and off, by the id that `providers keys list` shows."""
    settings = settings_of(ctx)
    change = KeyChange()
    for name, text in (("rpm", rpm), ("tpm", tpm)):
        if text is not None:
            value = None if text == "none" else _count(text, f"--{name}")
            change = msgspec.structs.replace(change, **{name: value})
    if enabled is not None:
        change = msgspec.structs.replace(change, enabled=enabled)
    if change == KeyChange():
        raise click.UsageError("Nothing to change: give --rpm, --tpm, --on or --off.")
    with open_access(settings) as access:
        key = access.providers.change_key(key_id, change)
    render.emit(settings, key, lambda key: key_table((key,)))


@keys.command("clear")
@click.argument("key_id", metavar="KEY_ID")
@shared_options
@click.pass_context
def clear_key(ctx: click.Context, key_id: str) -> None:
    """Use a key again that is in quarantine or rests, without waiting."""
    settings = settings_of(ctx)
    with open_access(settings) as access:
        key = access.providers.clear_key(key_id)
    render.emit(settings, key, lambda key: render.say(f"{key.id} is {key.state}."))


@keys.command("remove")
@click.argument("key_id", metavar="KEY_ID")
@shared_options
@click.pass_context
def remove_key(ctx: click.Context, key_id: str) -> None:
    """Forget a key, and its file if RouterX made it."""
    settings = settings_of(ctx)
    with open_access(settings) as access:
        key = access.providers.remove_key(key_id)
    render.emit(settings, key, _removed)


def _removed(key: RemovedKey) -> None:
    rest = "" if key.file_removed else "; where the key itself is kept, it stays"
    render.say(f"{key.id} is no key of {key.provider} any more{rest}.")


def _count(text: str | None, option: str) -> int | None:
    try:
        return None if text is None else parse_count(text)
    except ValueError as error:
        raise click.BadParameter(f"{option} {error}.") from None
