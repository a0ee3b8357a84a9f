"""Encryption at rest: tenants' own provider keys, and the answers that are kept for idempotency keys.

AES-256-GCM under a random nonce, bound to a context (whose it is, and what), so that a sealed text that is moved to
another row does not open there. What is sealed names its key, so that keys can be changed: the first one seals, all
open.
"""

import hashlib
import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
_NAME_BYTES = 4
_NONCE_BYTES = 12
_FORMAT = b"\x01"
_NONCE_AT = len(_FORMAT) + _NAME_BYTES
_TEXT_AT = _NONCE_AT + _NONCE_BYTES


class SealBroken(Exception):
    """A sealed text that none of the keys opens: another key sealed it, or it was changed or moved."""


class Vault:
    """Seals and opens. Any thread."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        """`keys`: at least one, of 32 bytes each. The first one seals."""
        assert keys
        assert all(len(key) == KEY_BYTES for key in keys)
        self._ciphers = {_name(key): AESGCM(key) for key in reversed(keys)}
        self._sealing = _name(keys[0])

    def seal(self, plain: bytes, context: bytes) -> bytes:
        """`plain`, readable only with the key and the same context; 33 bytes longer."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._ciphers[self._sealing].encrypt(nonce, plain, context)
        return _FORMAT + self._sealing + nonce + sealed

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """What was sealed under this context. Raises SealBroken."""
        cipher = self._ciphers.get(sealed[len(_FORMAT) : _NONCE_AT])
        if cipher is None or not sealed.startswith(_FORMAT):
            raise SealBroken
        try:
            return cipher.decrypt(sealed[_NONCE_AT:_TEXT_AT], sealed[_TEXT_AT:], context)
        except InvalidTag:
            raise SealBroken from None

    def is_current(self, sealed: bytes) -> bool:
        """Whether the key that seals now has sealed it; False where it waits to be sealed anew."""
        return sealed[len(_FORMAT) : _NONCE_AT] == self._sealing


def new_vault_key() -> bytes:
    """256 random bits."""
    return os.urandom(KEY_BYTES)


def _name(key: bytes) -> bytes:
    return hashlib.sha256(b"routerx vault key" + key).digest()[:_NAME_BYTES]
