"""Runtime facts about who may call: issued keys, revocations and suspensions, in memory beside their rows.

What takes a right away counts at once, before it is durable; what gives one counts once it is durable.
"""

import sqlite3
from typing import Any

import msgspec

from routerx.domain.tenant import KeyTerms, Limits, Period, SpendLimit
from routerx.ledger.base import KeyRow

_KEYS = """
SELECT k.digest, k.id, a.name, k.label, k.created_ns, k.revoked_ns, k.source,
       t.key, t.allow, t.rpm, t.tpm, t.concurrency, t.daily_requests, t.spend_amount, t.spend_period, t.expires_ns
FROM keys AS k JOIN accounts AS a ON a.id = k.tenant LEFT JOIN key_terms AS t ON t.key = k.id"""

_STORE_TERMS = """
INSERT INTO key_terms(key, allow, rpm, tpm, concurrency, daily_requests, spend_amount, spend_period, expires_ns)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT(key) DO UPDATE SET
  allow = excluded.allow, rpm = excluded.rpm, tpm = excluded.tpm, concurrency = excluded.concurrency,
  daily_requests = excluded.daily_requests, spend_amount = excluded.spend_amount,
  spend_period = excluded.spend_period, expires_ns = excluded.expires_ns"""


class Access:
    """Keys by digest and suspended tenants. The file's rows are written by ops; this only answers."""

    def __init__(self) -> None:
        self._keys: dict[str, KeyRow] = {}
        self._digests: dict[str, str] = {}
        self._suspended: dict[str, str | None] = {}

    @classmethod
    def load(cls, connection: sqlite3.Connection) -> "Access":
        access = cls()
        for digest, key, tenant, label, created_ns, revoked_ns, source, *terms in connection.execute(_KEYS):
            access.add_key(digest, KeyRow(key, tenant, label, created_ns, revoked_ns, source, _terms(terms)))
        for tenant, reason in connection.execute(
            "SELECT a.name, s.reason FROM suspensions AS s JOIN accounts AS a ON a.id = s.tenant"
        ):
            access.suspend(tenant, reason)
        return access

    def issued(self, digest: str) -> KeyRow | None:
        """As Ledger.issued_key."""
        row = self._keys.get(digest)
        return row if row is not None and row.revoked_ns is None and row.source == "issued" else None

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

    def set_terms(self, row: KeyRow) -> None:
        """`row` has other terms than the key of its id, which may have been revoked meanwhile."""
        digest = self._digests[row.id]
        self._keys[digest] = msgspec.structs.replace(self._keys[digest], terms=row.terms)

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


def store_terms(connection: sqlite3.Connection, row: KeyRow) -> None:
    """Write the terms of an issued key, in the place of those it had."""
    terms = row.terms if row.terms is not None else KeyTerms()
    limits, spend = terms.limits, terms.spend_limit
    connection.execute(
        _STORE_TERMS,
        (
            row.id,
            msgspec.json.encode(terms.allow).decode(),
            limits.rpm,
            limits.tpm,
            limits.concurrency,
            limits.daily_requests,
            None if spend is None else spend.amount_nano,
            None if spend is None else spend.period.value,
            terms.expires_ns,
        ),
    )


def terms_text(row: KeyRow) -> str:
    """What the audit trail says of a key's terms."""
    return msgspec.json.encode({"tenant": row.tenant, "terms": row.terms}).decode()


def _terms(columns: list[Any]) -> KeyTerms | None:
    """The terms of a row of _KEYS; None where the key has none."""
    key, allow, rpm, tpm, concurrency, daily_requests, amount, period, expires_ns = columns
    if key is None:
        return None
    terms = KeyTerms(
        allow=msgspec.json.decode(allow, type=tuple[str, ...]),
        limits=Limits(rpm=rpm, tpm=tpm, concurrency=concurrency, daily_requests=daily_requests),
        spend_limit=None if amount is None else SpendLimit(amount, Period(period)),
        expires_ns=expires_ns,
    )
    return terms if terms != KeyTerms() else None
