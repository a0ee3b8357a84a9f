"""Runtime facts about who may call: issued keys, revocations and suspensions, in memory beside their rows.

What takes a right away counts at once, before it is durable; what gives one counts once it is durable.
"""

import sqlite3

import msgspec

from routerx.ledger.base import KeyRow


class Access:
    """Keys by digest and suspended tenants. The file's rows are written by ops; this only answers."""

    def __init__(self) -> None:
        self._keys: dict[str, KeyRow] = {}
        self._digests: dict[str, str] = {}
        self._suspended: dict[str, str | None] = {}

    @classmethod
    def load(cls, connection: sqlite3.Connection) -> "Access":
        access = cls()
        for digest, *fields in connection.execute(
            "SELECT k.digest, k.id, a.name, k.label, k.created_ns, k.revoked_ns, k.source "
            "FROM keys AS k JOIN accounts AS a ON a.id = k.tenant"
        ):
            access.add_key(digest, KeyRow(*fields))
        for tenant, reason in connection.execute(
            "SELECT a.name, s.reason FROM suspensions AS s JOIN accounts AS a ON a.id = s.tenant"
        ):
            access.suspend(tenant, reason)
        return access

    def issued(self, digest: str) -> tuple[str, str] | None:
        """As Ledger.issued_key."""
        row = self._keys.get(digest)
        if row is None or row.revoked_ns is not None or row.source != "issued":
            return None
        return row.tenant, row.id

    def revoked(self, digest: str) -> bool:
        row = self._keys.get(digest)
        return row is not None and row.revoked_ns is not None

    def key(self, key_id: str) -> KeyRow | None:
        digest = self._digests.get(key_id)
        return None if digest is None else self._keys[digest]

    def keys(self, tenant: str | None) -> tuple[KeyRow, ...]:
        """All keys, or one tenant's, oldest first."""
        rows = (row for row in self._keys.values() if tenant is None or row.tenant == tenant)
        return tuple(sorted(rows, key=lambda row: (row.created_ns, row.id)))

    def add_key(self, digest: str, row: KeyRow) -> None:
        self._keys[digest] = row
        self._digests[row.id] = digest

    def revoke(self, key_id: str, now_ns: int) -> KeyRow:
        digest = self._digests[key_id]
        row = self._keys[digest] = msgspec.structs.replace(self._keys[digest], revoked_ns=now_ns)
        return row

    def is_suspended(self, tenant: str) -> bool:
        return tenant in self._suspended

    def suspension(self, tenant: str) -> tuple[bool, str | None]:
        """(suspended, why)."""
        return tenant in self._suspended, self._suspended.get(tenant)

    def suspend(self, tenant: str, reason: str | None) -> None:
        self._suspended[tenant] = reason

    def unsuspend(self, tenant: str) -> None:
        self._suspended.pop(tenant, None)
