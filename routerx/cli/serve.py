"""`routerx serve`: the server itself."""

import os

import click

from routerx.cli.settings import local_options, settings_of


@click.command("serve")
@click.option("--host", metavar="HOST", help="Address to listen on.")
@click.option("--port", metavar="PORT", type=click.IntRange(0, 65535), help="Port to listen on.")
@click.option("--mode", type=click.Choice(["real", "mock"]), help="mock: the built-in provider answers for all.")
@local_options
@click.pass_context
def command(ctx: click.Context, host: str | None, port: int | None, mode: str | None) -> None:
    """Start the server, and stop it by Ctrl-C or SIGTERM after the calls under way have ended.

    A flag beats the environment, the environment beats the file.
    """
    from routerx.config.settings import Flags  # Both load everything there is: only for the server itself.
    from routerx.runtime import ServeOptions, serve

    settings = settings_of(ctx)
    # The mode has no flag of its own below: it is the variable, said louder.
    environ = os.environ if mode is None else {**os.environ, "ROUTERX_MODE": mode}
    flags = Flags(host=host, port=port, data_dir=settings.data_dir)
    ctx.exit(serve(ServeOptions(config=settings.config, flags=flags, environ=environ)))
