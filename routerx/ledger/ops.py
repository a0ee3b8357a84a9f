"""What the event loop asks the writer thread to do. Each op is applied inside a transaction that others share.

`apply` runs in the writer thread and returns a result. A business refusal (a reference that is taken) is a result too,
an exception object: only the unforeseen is raised, and then the writer replays the batch one by one.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import msgspec

from routerx.domain.record import AttemptRecord, BillingMode, RequestRecord
from routerx.domain.tenant import Principal
from routerx.errors import Conflict, InvalidParameter
from routerx.ledger.access import store_terms, terms_text
from routerx.ledger.base import KeyRow, TransferRow
from routerx.ledger.batch import About, Batch
from routerx.ledger.schema.initial import HOUSE_CASH, HOUSE_REVENUE
from routerx.money import MAX_NANO, format_usd
from routerx.secrets import key_id

_encode = msgspec.json.Encoder().encode


class Op(ABC):
    """One unit of work; `future` is resolved in the event loop once it is durable or has failed."""

    __slots__ = ("future",)

    def __init__(self, future: "asyncio.Future[Any] | None") -> None:
        self.future = future

    @abstractmethod
    def apply(self, batch: Batch) -> object:
        """Put the work into `batch`."""

    def apply_checked(self, batch: Batch) -> object:
        """The same in a one-by-one replay, where there is time to look first."""
        return self.apply(batch)


EXISTS = object()
"""Result of a settle whose request was already in the books: nothing was written."""


class Settle(Op):
    """The rows of one finished request, with its charge."""

    __slots__ = ("charged_nano", "day", "now_ns", "record", "written_off_nano")

    def __init__(
        self,
        record: RequestRecord,
        amounts: tuple[int, int],
        now_ns: int,
        day: int,
        future: "asyncio.Future[Any] | None",
    ) -> None:
        self.record = record
        self.charged_nano, self.written_off_nano = amounts
        self.now_ns = now_ns
        self.day = day
        self.future = future

    def apply(self, batch: Batch) -> object:
        """Raises sqlite3.IntegrityError at flush when the request exists; `apply_checked` finds that out before."""
        record = self.record
        account = batch.account(record.tenant, self.now_ns)
        charged = self.charged_nano
        attempts = record.attempts
        batch.request(
            (
                record.id,
                account,
                record.key_id,
                record.operation,
                record.model,
                record.endpoint,
                record.provider,
                1 if record.stream else 0,
                str(record.outcome),
                record.http_status,
                str(record.billing),
                None if record.usage is None else _encode(record.usage).decode(),
                str(record.usage_source),
                None if record.price is None else _encode(record.price).decode(),
                record.cost_nano,
                charged,
                self.written_off_nano,
                record.held_nano,
                record.provider_cost_nano,
                len(attempts),
                ",".join(record.flags) if record.flags else "",
                record.started_ns,
                self.now_ns,
                record.duration_ms,
            ),
            [_attempt_values(attempt) for attempt in attempts],
        )
        batch.count(account, record.key_id, self.day, charged)
        if charged or self.written_off_nano:
            kind = "byok_fee" if record.billing is BillingMode.BYOK else "charge"
            batch.settle(account, kind, record.id, (charged, self.written_off_nano), self.now_ns)
        return None

    def apply_checked(self, batch: Batch) -> object:
        found = batch.connection.execute("SELECT 1 FROM requests WHERE id = ?", (self.record.id,)).fetchone()
        return EXISTS if found is not None else self.apply(batch)


def _attempt_values(attempt: AttemptRecord) -> tuple[Any, ...]:
    return (
        attempt.n,
        attempt.endpoint,
        attempt.provider,
        attempt.credential_id,
        str(attempt.outcome),
        attempt.upstream_status,
        1 if attempt.dispatched else 0,
        attempt.started_ms,
        attempt.first_byte_ms,
        attempt.duration_ms,
        1 if attempt.won else 0,
        attempt.cost_est_nano,
    )


class EnsureAccount(Op):
    """Open the tenant's account if needed and set its floor."""

    __slots__ = ("floor_nano", "now_ns", "tenant")

    def __init__(self, tenant: str, floor_nano: int, now_ns: int, future: "asyncio.Future[Any] | None") -> None:
        super().__init__(future)
        self.tenant, self.floor_nano, self.now_ns = tenant, floor_nano, now_ns

    def apply(self, batch: Batch) -> object:
        account = batch.account(self.tenant, self.now_ns, self.floor_nano)
        batch.flush()  # Balances first: the new floor is checked against them.
        batch.connection.execute("UPDATE accounts SET floor = ? WHERE id = ?", (self.floor_nano, account))
        return None


class Posting(msgspec.Struct, frozen=True):
    """Money in or out by hand or by grant."""

    kind: str
    """opening | topup | adjustment"""
    tenant: str
    amount_nano: int
    """Towards the tenant; negative only for an adjustment."""
    actor: str
    reference: str | None
    note: str | None
    now_ns: int
    request: tuple[str, int] | None = None
    """Id and number of the request that an adjustment re-rates: it corrects the house's revenue then, not its cash."""


class Post(Op):
    """One posting between the house and a tenant; a known reference gives the first transfer back."""

    __slots__ = ("posting",)

    def __init__(self, posting: Posting, future: "asyncio.Future[Any]") -> None:
        super().__init__(future)
        self.posting = posting

    def apply(self, batch: Batch) -> object:
        """(row, whether it is new), or an error object."""
        posting = self.posting
        account = batch.account(posting.tenant, posting.now_ns)
        batch.flush()
        if posting.reference is not None:
            known = by_reference(batch, posting.reference)
            if known is not None:
                return _same_posting(known, posting)
        if posting.request is not None and not _is_there(batch, posting.request):
            return Conflict(f"The row of request {posting.request[0]!r} was pruned: it cannot be re-rated.")
        if batch.balance(account) + posting.amount_nano > MAX_NANO:
            return InvalidParameter(
                f"The balance of {posting.tenant!r} would pass the ledger's limit of ${format_usd(MAX_NANO)}."
            )
        into = posting.amount_nano > 0
        house = HOUSE_CASH if posting.request is None else HOUSE_REVENUE
        if abs(batch.balance(house) - posting.amount_nano) > 2 * MAX_NANO - 1:  # An integer of SQLite's holds no more.
            return InvalidParameter(
                f"All that was ever credited would pass the ledger's limit of ${format_usd(2 * MAX_NANO - 1)}."
            )
        parties = (house, account, account) if into else (account, house, account)
        request_id, request = posting.request if posting.request is not None else (None, None)
        about = About(request_id, request, posting.reference, None, posting.actor, posting.note)
        posted = batch.transfer(posting.kind, parties, abs(posting.amount_nano), posting.now_ns, about)
        batch.audit(
            posting.actor,
            f"money.{posting.kind}",
            posting.tenant,
            _encode({"transfer": posted[0], "amount_nano": posting.amount_nano}).decode(),
            posting.now_ns,
        )
        batch.flush()
        return _posted_row(posted, posting), True


def _is_there(batch: Batch, request: tuple[str, int]) -> bool:
    found = batch.connection.execute("SELECT 1 FROM requests WHERE id = ? AND n = ?", request).fetchone()
    return found is not None


def _posted_row(posted: tuple[int, int, int], posting: Posting) -> TransferRow:
    number, ts_ns, balance_nano = posted
    return TransferRow(
        id=number,
        ts_ns=ts_ns,
        kind=posting.kind,
        tenant=posting.tenant,
        amount_nano=posting.amount_nano,
        balance_nano=balance_nano,
        request_id=None if posting.request is None else posting.request[0],
        reference=posting.reference,
        actor=posting.actor,
        note=posting.note,
    )


_BY_REFERENCE = """
SELECT t.id, t.ts_ns, t.kind, a.name, CASE t.credit WHEN t.tenant THEN t.amount ELSE -t.amount END, t.balance,
       r.id, t.ext_ref, t.actor, t.note
FROM transfers AS t
JOIN accounts AS a ON a.id = t.tenant
LEFT JOIN transfers AS c ON c.id = t.reverses
LEFT JOIN requests AS r ON r.n = coalesce(t.request, c.request)
WHERE t.ext_ref = ?"""


def by_reference(batch: Batch, reference: str) -> TransferRow | None:
    """The transfer that has it."""
    row = batch.connection.execute(_BY_REFERENCE, (reference,)).fetchone()
    return None if row is None else TransferRow(*row)


def _same_posting(known: TransferRow, posting: Posting) -> object:
    if posting.kind == "opening" or (known.kind, known.tenant, known.amount_nano) == (
        posting.kind,
        posting.tenant,
        posting.amount_nano,
    ):
        return known, False
    return taken(known)


def taken(known: TransferRow) -> Conflict:
    """A reference that belongs to another transfer."""
    return Conflict(
        f"The reference {known.reference!r} is taken: transfer {known.id}, {known.kind} of "
        f"${format_usd(known.amount_nano)} for {known.tenant!r}. Use another reference for another payment."
    )


class Suspend(Op):
    """Write a suspension, or lift it (`on` False)."""

    __slots__ = ("actor", "now_ns", "on", "reason", "tenant")

    def __init__(self, tenant: str, actor: str, reason: str | None, now_ns: int, future: "asyncio.Future[Any]") -> None:
        super().__init__(future)
        self.tenant, self.actor, self.reason, self.now_ns = tenant, actor, reason, now_ns
        self.on = True

    def apply(self, batch: Batch) -> object:
        account = batch.account(self.tenant, self.now_ns)
        if self.on:
            batch.connection.execute(
                "INSERT INTO suspensions(tenant, since_ns, actor, reason) VALUES (?, ?, ?, ?) ON CONFLICT(tenant)"
                " DO UPDATE SET since_ns = excluded.since_ns, actor = excluded.actor, reason = excluded.reason",
                (account, self.now_ns, self.actor, self.reason),
            )
            detail = "" if self.reason is None else self.reason
            batch.audit(self.actor, "tenant.suspend", self.tenant, detail, self.now_ns)
        else:
            batch.connection.execute("DELETE FROM suspensions WHERE tenant = ?", (account,))
            batch.audit(self.actor, "tenant.unsuspend", self.tenant, "", self.now_ns)
        return None


class Remark(Op):
    """One row of the audit trail about what was done elsewhere: (actor, action, subject, detail)."""

    __slots__ = ("about", "now_ns")

    def __init__(self, about: tuple[str, str, str, str], now_ns: int, future: "asyncio.Future[Any]") -> None:
        super().__init__(future)
        self.about, self.now_ns = about, now_ns

    def apply(self, batch: Batch) -> object:
        batch.audit(*self.about, self.now_ns)
        return None


class AddKey(Op):
    """Write an issued key's digest, or the tombstone of a key declared in YAML."""

    __slots__ = ("actor", "digest", "row")

    def __init__(self, row: KeyRow, digest: str, actor: str, future: "asyncio.Future[Any]") -> None:
        super().__init__(future)
        self.row, self.digest, self.actor = row, digest, actor

    def apply(self, batch: Batch) -> object:
        row = self.row
        account = batch.account(row.tenant, row.created_ns)
        batch.connection.execute(
            "INSERT INTO keys(id, digest, tenant, label, source, created_ns, revoked_ns) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (row.id, self.digest, account, row.label, row.source, row.created_ns, row.revoked_ns),
        )
        if row.terms is not None:
            store_terms(batch.connection, row)
        action = "key.issue" if row.revoked_ns is None else "key.revoke"
        detail = row.tenant if row.terms is None else terms_text(row)
        batch.audit(self.actor, action, row.id, detail, row.created_ns)
        return None


class SetKeyTerms(Op):
    """Write what holds for an issued key from now on."""

    __slots__ = ("actor", "now_ns", "row")

    def __init__(self, row: KeyRow, actor: str, now_ns: int, future: "asyncio.Future[Any]") -> None:
        super().__init__(future)
        self.row, self.actor, self.now_ns = row, actor, now_ns

    def apply(self, batch: Batch) -> object:
        store_terms(batch.connection, self.row)
        batch.audit(self.actor, "key.limit", self.row.id, terms_text(self.row), self.now_ns)
        return None


class RevokeKey(Op):
    """Mark an issued key as revoked."""

    __slots__ = ("actor", "now_ns", "row")

    def __init__(self, row: KeyRow, actor: str, now_ns: int, future: "asyncio.Future[Any]") -> None:
        super().__init__(future)
        self.row, self.actor, self.now_ns = row, actor, now_ns

    def apply(self, batch: Batch) -> object:
        batch.connection.execute(
            "UPDATE keys SET revoked_ns = ? WHERE id = ? AND revoked_ns IS NULL", (self.now_ns, self.row.id)
        )
        batch.audit(self.actor, "key.revoke", self.row.id, self.row.tenant, self.now_ns)
        return None


class Note(Op):
    """Remember a fact about the file itself in `meta`."""

    __slots__ = ("key", "value")

    def __init__(self, key: str, value: str) -> None:
        super().__init__(None)
        self.key, self.value = key, value

    def apply(self, batch: Batch) -> object:
        batch.connection.execute(
            "INSERT INTO meta(key, value) VALUES (?, ?) ON CONFLICT(key) DO UPDATE SET value = excluded.value",
            (self.key, self.value),
        )
        return None


def yaml_tombstones(key: str, yaml_keys: Sequence[tuple[str, Principal]]) -> tuple[tuple[str, Principal], ...]:
    """Those of the keys declared in YAML (digest, principal) whose public id is `key`."""
    return tuple((digest, principal) for digest, principal in yaml_keys if key_id(digest) == key)
