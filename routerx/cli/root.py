"""The root command: global options, commands loaded when they are asked for, and the one place where errors end."""

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import click
import msgspec

import routerx
from routerx.cli.settings import settings_of, shared_options
from routerx.errors import ConfigError, OperatorError, RouterXError

# Modules are imported by the command that needs them: `routerx --version` and completion stay quick.
COMMANDS = {
    "serve": "routerx.cli.serve",
    "check": "routerx.cli.check",
    "config": "routerx.cli.config",
    "tenants": "routerx.cli.tenants",
    "keys": "routerx.cli.keys",
    "byok": "routerx.cli.byok",
    "logs": "routerx.cli.logs",
    "stats": "routerx.cli.stats",
    "models": "routerx.cli.models",
    "providers": "routerx.cli.providers",
    "explain": "routerx.cli.explain",
    "drill": "routerx.cli.drill",
    "ledger": "routerx.cli.ledger",
}
INTERRUPTED = 130  # 128 + SIGINT, as shells report it.


class Root(click.Group):
    """Loads a command's module on first use and turns every error into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[cmd_name]).command
        assert isinstance(command, click.Command)
        return command

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Run and exit; what click would do in its standalone mode, with this program's exit codes."""
        code = 0
        try:
            result = super().main(
                args, prog_name or "routerx", complete_var, False, windows_expand_args=windows_expand_args, **extra
            )
            code = result if isinstance(result, int) else 0
            sys.stdout.flush()
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except click.Abort:
            code = INTERRUPTED
        except BrokenPipeError:
            # The reader has left (`| head`). What is still buffered must not fail again when the interpreter ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 1
        except Exception as error:
            code = report(error)
        sys.exit(code)


def report(error: Exception) -> int:
    """Tell the user what went wrong; the exit code."""
    if os.environ.get("ROUTERX_DEBUG"):
        traceback.print_exception(error)
    if isinstance(error, ConfigError):
        click.echo("error: the configuration is refused", err=True)
        for problem in error.problems:
            click.echo(f"  {problem}", err=True)
    elif isinstance(error, RouterXError):
        click.echo(f"error: {error.message}", err=True)
    else:
        click.echo(
            f"error: unexpected {type(error).__name__}: {error} (ROUTERX_DEBUG=1 shows where it came from)", err=True
        )
    return error.exit_code if isinstance(error, OperatorError) else 1


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(routerx.__version__, "--version", "-V", message="routerx %(version)s")
@shared_options
@click.pass_context
def main(ctx: click.Context) -> None:
    """A self-hosted gateway for language models: routing, fallback, metering and billing in one process.

    Commands talk to the RouterX that runs on this machine's data directory, or to the one at --url. With none running
    they open the ledger themselves.
    """
    # Read here and not as click's envvar: on a command's own option it would beat a flag given before the command.
    given = settings_of(ctx)
    environment = os.environ
    ctx.obj = msgspec.structs.replace(
        given,
        url=given.url or environment.get("ROUTERX_URL") or None,
        admin_key=given.admin_key or environment.get("ROUTERX_ADMIN_KEY") or None,
    )
