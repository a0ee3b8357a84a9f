"""`routerx check`: is this configuration good, and what is in it."""

import click
import msgspec

from routerx.cli import render
from routerx.cli.files import load
from routerx.cli.render import Cell
from routerx.cli.settings import local_options, settings_of
from routerx.config.snapshot import Snapshot
from routerx.errors import ConfigError


class Found(msgspec.Struct, frozen=True):
    """What `check --json` says; a configuration is good when it has no problems."""

    ok: bool
    problems: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    listen: str | None = None
    data_dir: str | None = None
    providers: tuple[str, ...] = ()
    models: int = 0
    policies: tuple[str, ...] = ()
    plans: tuple[str, ...] = ()
    tenants: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()


@click.command("check")
@click.argument("file", required=False)
@local_options
@click.pass_context
def command(ctx: click.Context, file: str | None) -> None:
    """Read a configuration as the server would: every problem at once, or a summary of what is in it."""
    settings = settings_of(ctx)
    if file is not None:
        settings = msgspec.structs.replace(settings, config=file)
    try:
        found = _found(load(settings))
    except ConfigError as error:
        found = Found(ok=False, problems=error.problems)
    render.emit(settings, found, _show)
    if not found.ok:
        ctx.exit(1)


def _found(snapshot: Snapshot) -> Found:
    return Found(
        ok=True,
        files=snapshot.files,
        listen=f"{snapshot.server.host}:{snapshot.server.port}",
        data_dir=snapshot.server.data_dir,
        providers=tuple(snapshot.providers),
        models=len(snapshot.models),
        policies=tuple(snapshot.policies),
        plans=tuple(snapshot.plans),
        tenants=tuple(snapshot.tenants),
        notices=snapshot.notices,
    )


def _show(found: Found) -> None:
    if not found.ok:
        count = len(found.problems)
        render.say(f"error: the configuration is refused, for {'one reason' if count == 1 else f'{count} reasons'}:")
        for problem in found.problems:
            click.echo(render.clean(problem))
        return
    pairs: list[tuple[str, Cell]] = [
        ("files", "\n".join(found.files) if found.files else "none; the environment alone"),
        ("listens on", found.listen),
        ("data", found.data_dir),
        ("providers", ", ".join(found.providers) or "none"),
        ("models", found.models),
        ("policies", ", ".join(found.policies)),
        ("plans", ", ".join(found.plans)),
        ("tenants", ", ".join(found.tenants) or "none"),
    ]
    pairs += [("notice", notice) for notice in found.notices]
    render.facts(pairs)
    render.say("The configuration is good.")
