"""Provider keys that are tenants' own: sealed in the file, open in memory, where every request looks them up.

A row that the vault does not open stays, as unreadable, until it is replaced or removed or the vault key is back: who
brought a key must not be served, and charged, with the house's because ours was lost.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from routerx.clock import Clock
from routerx.domain.tenant import NO_KEYS
from routerx.errors import NotFound, RouterXError
from routerx.keyring import Keyring
from routerx.ledger.base import OwnKeyRow
from routerx.ledger.batch import Batch
from routerx.ledger.books import Books
from routerx.ledger.ops import Op
from routerx.secrets import Secret, fingerprint
from routerx.vault import SealBroken, Vault

TOLD_MAX = 20
"""Unreadable keys that are named one by one."""

_CONTEXT = b"own key"
_SET, _REMOVED = "byok.set", "byok.remove"
_encode = msgspec.json.Encoder().encode

_ROWS = """
SELECT k.tenant, a.name, k.provider, k.sealed, k.fingerprint, k.created_ns
FROM own_keys AS k JOIN accounts AS a ON a.id = k.tenant ORDER BY a.name, k.provider"""
_STORE = """
INSERT INTO own_keys(tenant, provider, sealed, fingerprint, created_ns) VALUES (?, ?, ?, ?, ?)
ON CONFLICT(tenant, provider) DO UPDATE SET
  sealed = excluded.sealed, fingerprint = excluded.fingerprint, created_ns = excluded.created_ns"""
_RESEAL = "UPDATE own_keys SET sealed = ? WHERE tenant = ? AND provider = ?"
_TOLD = f"SELECT subject, action, detail FROM audit WHERE action IN ('{_SET}', '{_REMOVED}') ORDER BY id"  # noqa: S608
_REMOVE = "DELETE FROM own_keys WHERE tenant = ? AND provider = ?"


class OwnKeys:
    """Those of all tenants, in memory. A tenant's mapping is replaced, never changed: requests hold on to it."""

    __slots__ = ("_keys", "_rows", "notices")

    def __init__(self) -> None:
        self.notices: tuple[str, ...] = ()
        """What an operator should know of how they were opened."""
        self._keys: dict[str, Mapping[str, Secret | None]] = {}
        self._rows: dict[str, dict[str, OwnKeyRow]] = {}

    def of(self, tenant: str) -> Mapping[str, Secret | None]:
        """As Ledger.own_keys."""
        return self._keys.get(tenant, NO_KEYS)

    def rows(self, tenant: str) -> tuple[OwnKeyRow, ...]:
        """By provider."""
        rows = self._rows.get(tenant, {})
        return tuple(rows[provider] for provider in sorted(rows))

    def row(self, tenant: str, provider: str) -> OwnKeyRow | None:
        return self._rows.get(tenant, {}).get(provider)

    def put(self, row: OwnKeyRow, secret: Secret | None) -> None:
        self._keys[row.tenant] = {**self.of(row.tenant), row.provider: secret}
        self._rows.setdefault(row.tenant, {})[row.provider] = row

    def drop(self, tenant: str, provider: str) -> None:
        left = {name: secret for name, secret in self.of(tenant).items() if name != provider}
        if left:
            self._keys[tenant] = left
            del self._rows[tenant][provider]
        else:
            self._keys.pop(tenant, None)
            self._rows.pop(tenant, None)

    def secrets(self) -> Iterator[Secret]:
        """All that are readable."""
        return (secret for keys in self._keys.values() for secret in keys.values() if secret is not None)


def load_own_keys(connection: sqlite3.Connection, keyring: Keyring) -> OwnKeys:
    """Open what the file has, and seal anew what an older vault key has sealed. Blocking.

    Raises sqlite3.DatabaseError, and ConfigError where the vault key's file is there and cannot be read.
    """
    found = OwnKeys()
    rows = connection.execute(_ROWS).fetchall()
    if not rows:
        return found
    vault = keyring.present()
    unreadable: list[OwnKeyRow] = []
    stale: list[tuple[bytes, int, str]] = []
    for account, tenant, provider, sealed, public, created_ns in rows:
        secret = None if vault is None else _opened(vault, sealed, (tenant, provider, public))
        row = OwnKeyRow(tenant, provider, public, created_ns, readable=secret is not None)
        found.put(row, secret)
        if secret is None:
            unreadable.append(row)
        elif vault is not None and not vault.is_current(sealed):
            stale.append((_sealed(vault, secret, tenant, provider), account, provider))
    if stale:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(_RESEAL, stale)
        connection.execute("COMMIT")
        found.notices += (f"own provider keys of tenants that were sealed anew with the first vault key: {len(stale)}",)
    found.notices += _lost(unreadable, keyring.path)
    return found


def _lost(unreadable: list[OwnKeyRow], path: str) -> tuple[str, ...]:
    told = tuple(
        f"the own key of tenant {row.tenant!r} for {row.provider!r} cannot be read, and requests that need it fail: no "
        f"vault key opens it; put that back (server.vault_keys, or {path}) and restart, or set the key anew: "
        f"routerx byok set {row.tenant} {row.provider}"
        for row in unreadable[:TOLD_MAX]
    )
    if len(unreadable) <= TOLD_MAX:
        return told
    return (*told, f"{len(unreadable)} own keys in all cannot be read; 'routerx byok list TENANT' shows a tenant's")


class SqliteKeySafe:
    """Implements routerx.ledger.base.KeySafe for SqliteLedger."""

    def __init__(self, books: Books, keys: OwnKeys, keyring: Keyring, clock: Clock) -> None:
        self._books = books
        self._keys = keys
        self._keyring = keyring
        self._clock = clock

    def rows(self, tenant: str) -> tuple[OwnKeyRow, ...]:
        """As the protocol says."""
        self._books.get(tenant)
        return self._keys.rows(tenant)

    @property
    def notices(self) -> tuple[str, ...]:
        """What an operator should know of how the keys were opened; told at start."""
        return self._keys.notices

    def secrets(self) -> Iterator[Secret]:
        """As the protocol says."""
        return self._keys.secrets()

    async def put(self, tenant: str, provider: str, secret: Secret, *, actor: str, reason: str | None) -> OwnKeyRow:
        """As the protocol says."""
        self._books.get(tenant)
        vault = await asyncio.to_thread(self._keyring.vault)  # The first one is made and flushed to the disk.
        row = OwnKeyRow(tenant, provider, fingerprint(secret), self._clock.now_ns(), readable=True)
        op = StoreOwnKey(row, _sealed(vault, secret, tenant, provider), (actor, reason), self._books.future())

        def written(done: "asyncio.Future[Any]") -> None:
            if _succeeded(done):
                self._keys.put(row, secret)

        await self._done(op, written)
        return row

    async def remove(self, tenant: str, provider: str, *, actor: str, reason: str | None) -> OwnKeyRow:
        """As the protocol says."""
        self._books.get(tenant)
        row = self._keys.row(tenant, provider)
        if row is None:
            raise no_such_key(tenant, provider)
        op = RemoveOwnKey(row, (actor, reason), self._clock.now_ns(), self._books.future())

        def removed(done: "asyncio.Future[Any]") -> None:
            if _succeeded(done):
                self._keys.drop(tenant, provider)

        await self._done(op, removed)
        return row

    async def _done(self, op: Op, then: "Callable[[asyncio.Future[Any]], None]") -> None:
        """Memory follows the file whether or not the caller still waits. Raises what a rule refused the op with."""
        assert op.future is not None
        op.future.add_done_callback(then)
        self._books.submit(op)
        result = await asyncio.shield(op.future)
        if isinstance(result, RouterXError):
            raise result


def no_such_key(tenant: str, provider: str) -> NotFound:
    return NotFound(f"Tenant {tenant!r} has no own key for {provider!r}; 'routerx byok list {tenant}' shows all.")


class _Told(msgspec.Struct):
    """What an audit row says of a key."""

    provider: str
    fingerprint: str


def own_keys_told(connection: sqlite3.Connection) -> dict[tuple[str, str], str]:
    """(tenant, provider) → fingerprint of the keys that there are by the audit trail."""
    found: dict[tuple[str, str], str] = {}
    for tenant, action, detail in connection.execute(_TOLD):
        try:
            told = msgspec.json.decode(detail, type=_Told)
        except msgspec.DecodeError:
            continue  # A row that was changed; its hash tells.
        if action == _SET:
            found[tenant, told.provider] = told.fingerprint
        else:
            found.pop((tenant, told.provider), None)
    return found


class StoreOwnKey(Op):
    """Write a sealed key, in the place of the one that was there. `by` is (actor, reason)."""

    __slots__ = ("by", "row", "sealed")

    def __init__(
        self, row: OwnKeyRow, sealed: bytes, by: tuple[str, str | None], future: "asyncio.Future[Any]"
    ) -> None:
        super().__init__(future)
        self.row, self.sealed, self.by = row, sealed, by

    def apply(self, batch: Batch) -> object:
        row = self.row
        account = batch.account(row.tenant, row.created_ns)
        batch.connection.execute(_STORE, (account, row.provider, self.sealed, row.fingerprint, row.created_ns))
        _audit(batch, _SET, row, self.by, row.created_ns)
        return None


class RemoveOwnKey(Op):
    """Delete a key. `by` is (actor, reason)."""

    __slots__ = ("by", "now_ns", "row")

    def __init__(self, row: OwnKeyRow, by: tuple[str, str | None], now_ns: int, future: "asyncio.Future[Any]") -> None:
        super().__init__(future)
        self.row, self.by, self.now_ns = row, by, now_ns

    def apply(self, batch: Batch) -> object:
        """None, or NotFound where somebody was faster."""
        row = self.row
        account = batch.account(row.tenant, self.now_ns)
        if batch.connection.execute(_REMOVE, (account, row.provider)).rowcount == 0:
            return no_such_key(row.tenant, row.provider)
        _audit(batch, _REMOVED, row, self.by, self.now_ns)
        return None


def _audit(batch: Batch, action: str, row: OwnKeyRow, by: tuple[str, str | None], now_ns: int) -> None:
    actor, reason = by
    detail = {"provider": row.provider, "fingerprint": row.fingerprint, "reason": reason}
    batch.audit(actor, action, row.tenant, _encode(detail).decode(), now_ns)


def _succeeded(done: "asyncio.Future[Any]") -> bool:
    return not done.cancelled() and done.exception() is None and not isinstance(done.result(), RouterXError)


def _sealed(vault: Vault, secret: Secret, tenant: str, provider: str) -> bytes:
    return vault.seal(secret.reveal().encode(), _context(tenant, provider))


def _opened(vault: Vault, sealed: bytes, about: tuple[str, str, str]) -> Secret | None:
    """`about` is (tenant, provider, fingerprint): all three have to be those of what was sealed."""
    tenant, provider, public = about
    try:
        secret = Secret(vault.open(sealed, _context(tenant, provider)).decode())
    except SealBroken:
        return None
    return secret if fingerprint(secret) == public else None


def _context(tenant: str, provider: str) -> bytes:
    """Names hold no zero bytes, so no two places share a context."""
    return b"\0".join((_CONTEXT, tenant.encode(), provider.encode()))
