"""The keys that encrypt at rest: those of `server.vault_keys`, else one that is made here and kept in the data folder.

The one in the folder goes on opening after `server.vault_keys` is set, until an operator removes it, so that what it
has sealed can be sealed anew. Who loses all keys loses what they sealed, and nothing else.
"""

import hmac
import os
import secrets
import threading
from collections.abc import Sequence

from routerx.errors import ConfigError
from routerx.secrets import Secret
from routerx.vault import Vault

KEY_FOLDER, KEY_FILE = "secrets", "vault.key"
KEY_CHARS_MIN = 32
KEY_CHARS_MAX = 512
_LABEL = b"routerx vault key"


class Keyring:
    """One process's way to its Vault; any thread. Nothing is read or made before the first question, and each answer is
    kept."""

    def __init__(self, given: Sequence[Secret], data_dir: str) -> None:
        """`given`: `server.vault_keys`; the first one seals. `data_dir` belongs to this process alone."""
        self._given = tuple(secret.reveal() for secret in given)
        self._path = os.path.join(data_dir, KEY_FOLDER, KEY_FILE)
        self._vault: Vault | None = None
        self._lock = threading.Lock()

    @property
    def path(self) -> str:
        """The file of the key that is made here."""
        return self._path

    def present(self) -> Vault | None:
        """The vault, or None where no key was ever given or made: then nothing that is sealed can be opened.

        Raises ConfigError when the key's file cannot be read or holds no key.
        """
        with self._lock:
            return self._present()

    def vault(self) -> Vault:
        """The vault; the first time, where there is no key, one is made and is on disk when this returns.

        Raises ConfigError when the key cannot be read or kept.
        """
        with self._lock:
            vault = self._present()
            if vault is None:
                vault = self._vault = Vault([_derived(self._make())])
            return vault

    def _present(self) -> Vault | None:
        if self._vault is None:
            kept = self._kept()
            texts = self._given if kept is None else (*self._given, kept)
            if texts:
                self._vault = Vault([_derived(text) for text in texts])
        return self._vault

    def _kept(self) -> str | None:
        try:
            with open(self._path, encoding="utf-8") as file:
                text = file.read(KEY_CHARS_MAX + 1).strip()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError((f"{self._path}: cannot be read: {error.strerror}",)) from None
        except UnicodeDecodeError:
            text = ""
        if not KEY_CHARS_MIN <= len(text) <= KEY_CHARS_MAX:
            raise ConfigError(
                (
                    f"{self._path}: holds no vault key; put it back from a backup, or remove the file to begin with "
                    "another one (what the lost one has sealed stays closed)",
                )
            )
        return text

    def _make(self) -> str:
        """Whole or not at all, and durable before anything is sealed with it."""
        text = secrets.token_urlsafe(32)
        folder = os.path.dirname(self._path)
        draft = self._path + ".new"
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.rename(draft, self._path)
            for name in (folder, os.path.dirname(folder)):
                _sync_folder(name)
        except OSError as error:
            raise ConfigError(
                (
                    f"{self._path}: the vault key cannot be kept: {error.strerror}; set server.vault_keys or make the "
                    "folder writable",
                )
            ) from None
        return text


def _derived(text: str) -> bytes:
    """32 bytes of a key's text, of use for nothing else that might be made of the same text."""
    return hmac.digest(_LABEL, text.encode(), "sha256")


def _sync_folder(path: str) -> None:
    descriptor = os.open(path if path else ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
