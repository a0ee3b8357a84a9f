"""The key that is made where nobody brought one: generated once, told once, kept in the data folder (0600)."""

import os
from collections.abc import Callable

from routerx.errors import ConfigError
from routerx.secrets import new_api_key

KEY_FILE = "default.key"
_KEY_CHARS_MAX = 512

Announce = Callable[[str], None]


def stored_key(data_dir: str) -> str | None:
    """The key kept in `data_dir`, if there is one. Raises ConfigError when the file cannot be read or holds no key."""
    path = os.path.join(data_dir, KEY_FILE)
    try:
        with open(path, encoding="utf-8") as file:
            key = file.read(_KEY_CHARS_MAX + 1).strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        raise ConfigError((f"{path}: cannot be read; remove the file and a new key is made",)) from None
    if not key or len(key) > _KEY_CHARS_MAX:
        raise ConfigError((f"{path}: holds no key; remove the file and a new key is made",))
    return key


def make_key(data_dir: str, announce: Announce) -> str:
    """Make, keep and announce a key. Of two processes at once one makes it and both use it. Raises ConfigError."""
    key = new_api_key()
    path = os.path.join(data_dir, KEY_FILE)
    try:
        os.makedirs(data_dir, mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        other = stored_key(data_dir)
        if other is not None:
            return other
        raise ConfigError((f"{path}: changes while it is read; start again",)) from None
    except OSError as error:
        raise ConfigError(
            (f"{path}: the generated key cannot be kept: {error.strerror}; set AUTH_KEY or make the folder writable",)
        ) from None
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(key + "\n")
        file.flush()
        os.fsync(file.fileno())
    announce(f"No key was configured, so one was made for tenant 'default' (kept in {path}): {key}")
    return key
