"""The options that every command shares, and how a command receives them."""

from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec

F = TypeVar("F", bound=Callable[..., Any])


class Settings(msgspec.Struct, frozen=True):
    """Which RouterX is meant, and how to answer."""

    config: str | None = None
    url: str | None = None
    admin_key: str | None = None
    data_dir: str | None = None
    json: bool = False

    def __repr__(self) -> str:
        return f"Settings(config={self.config!r}, url={self.url!r}, data_dir={self.data_dir!r}, json={self.json!r})"


def settings_of(ctx: click.Context) -> Settings:
    settings = ctx.find_root().obj
    return settings if isinstance(settings, Settings) else Settings()


def _remember(ctx: click.Context, param: click.Parameter, value: str | bool | None) -> None:
    """Keep a shared option in the root context: the one nearest to the command wins, wherever it is given."""
    if value is not None and value is not False:
        assert param.name is not None
        ctx.find_root().obj = msgspec.structs.replace(settings_of(ctx), **{param.name: value})


def _option(*names: str, **attributes: Any) -> Callable[[F], F]:
    return click.option(*names, expose_value=False, callback=_remember, **attributes)


_CONFIG = _option(
    "-c", "--config", metavar="FILE", help="Configuration file. Default: ./routerx.yaml, else the environment alone."
)
_DATA_DIR = _option("--data-dir", metavar="DIR", help="Data directory. Default: as the configuration says.")
_JSON = _option("--json", is_flag=True, help="Answer in JSON, for programs.")
_URL = _option("--url", metavar="URL", help="Ask the RouterX at this address instead of the one on this machine.")
_ADMIN_KEY = _option(
    "--admin-key",
    metavar="KEY",
    help="Admin key for --url. Default: ROUTERX_ADMIN_KEY, which does not show in the list of processes.",
)


def shared_options(function: F) -> F:
    """All of them: which server, which files, which output."""
    return local_options(_URL(_ADMIN_KEY(function)))


def local_options(function: F) -> F:
    """Those of commands that read files and never ask a server."""
    return _CONFIG(_DATA_DIR(_JSON(function)))
