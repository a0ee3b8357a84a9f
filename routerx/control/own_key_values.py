"""Provider keys that are tenants' own, as the admin API takes and tells them. No answer holds a key."""

import msgspec


class NewOwnKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key to be stored; `reason` is for the audit trail."""

    key: str
    reason: str | None = None

    def __repr__(self) -> str:
        return f"NewOwnKey(key='***', reason={self.reason!r})"


class OwnKeyView(msgspec.Struct, frozen=True):
    """A stored key, by its public fingerprint."""

    tenant: str
    provider: str
    fingerprint: str
    created: str
    state: str
    """`active`; `idle`: its provider is not called now (off, without a key of the house and not `byok_only`, or gone
    from the configuration); `unreadable`: no vault key opens it, and requests that need it fail."""
