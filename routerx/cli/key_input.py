"""Keys of providers on their way in: from a terminal, from stdin, from a file; never from an argument, which the list
of processes and the shell's history show."""

import sys

import click

from routerx.errors import OperatorError

KEY_BYTES_MAX = 64 * 1024


def read_key(provider: str, file: str | None = None) -> str:
    """The key in `file`; without one that on stdin, from a terminal without an echo. Raises OperatorError."""
    if file is not None:
        return _some(_content(file), f"{file!r} is empty; it is to hold the key and nothing else.")
    if sys.stdin.isatty():
        return str(click.prompt(f"Key for {provider}", hide_input=True, err=True))
    return _some(sys.stdin.read(KEY_BYTES_MAX), "No key came on stdin; pipe it in, or run this in a terminal.")


def _content(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(KEY_BYTES_MAX)
    except OSError as error:
        raise OperatorError(f"The key file {path!r} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise OperatorError(f"The key file {path!r} holds no text.") from None


def _some(text: str, otherwise: str) -> str:
    key = text.strip()
    if not key:
        raise OperatorError(otherwise)
    return key
