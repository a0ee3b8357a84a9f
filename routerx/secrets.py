"""Secrets: a type that does not print itself, and the keys of RouterX (made here, shown once, stored as SHA-256)."""

import hashlib
import secrets as _secrets

KEY_PREFIX = "rx_"
DIGEST_PREFIX = "sha256:"
API_KEY_CHARS_MAX = 512


class Secret:
    """A provider key or password. `reveal()` is the only way to the text; repr, str and format show stars."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and _secrets.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash(self._value)


def new_api_key() -> str:
    """`rx_` and 256 random bits. Show it once; keep only key_digest(key)."""
    return KEY_PREFIX + _secrets.token_urlsafe(32)


def key_digest(key: str) -> str:
    """SHA-256 in hex. A key of 256 random bits needs no salt and no slow hash."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def key_id(digest: str) -> str:
    """Short public name of a key, safe in logs and tables: `key_` and 48 bits of the digest."""
    return f"key_{digest[:12]}"


def fingerprint(secret: Secret) -> str:
    """Stable public name of a provider credential: 32 bits of its digest."""
    return key_digest(secret.reveal())[:8]
