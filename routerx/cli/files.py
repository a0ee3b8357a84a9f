"""The configuration as a command reads it: from the same places as a server started here, making nothing."""

import os

from routerx.cli.settings import Settings
from routerx.config.document import read_document
from routerx.config.load import Loader
from routerx.config.problems import Problems
from routerx.config.settings import Flags, config_path, read_environment
from routerx.config.snapshot import ServerConfig, Snapshot


def loader_for(settings: Settings) -> Loader:
    """Reads what a server would, but makes no key."""
    env = read_environment(os.environ)
    path = config_path(settings.config, env)
    return Loader(path=path, env=env, flags=Flags(data_dir=settings.data_dir), announce=None)


def load(settings: Settings) -> Snapshot:
    """The configuration as it is now. Raises ConfigError."""
    return loader_for(settings).load(generation=1)


def probable_data_dir(settings: Settings) -> str | None:
    """Where the data directory of a configuration that is refused most likely is: a server may run there on the last
    good one, and can then still be told what to do. None without a file."""
    env = read_environment(os.environ)
    path = config_path(settings.config, env)
    if path is None:
        return None
    server = read_document(path, env, Problems()).data.get("server")
    named = server.get("data_dir") if isinstance(server, dict) else None
    return os.path.join(os.path.dirname(path), named if isinstance(named, str) else ServerConfig().data_dir)


def admin_key() -> str | None:
    """ROUTERX_ADMIN_KEY of the environment or of `.env`, as a server started here would have it."""
    return read_environment(os.environ).get("ROUTERX_ADMIN_KEY") or None
