"""One transaction in the making: rows are collected in memory, numbered, chained, and written in a few statements.

Runs in the writer thread. A batch is built on a BooksState and leaves it alone until `merge()`: a batch that fails is
simply dropped. Many rows go into one statement, because each statement lets go of the interpreter lock and has to wait
for it again while the event loop is busy.
"""

import hashlib
import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Any

import msgspec

from routerx.ledger.schema.initial import HOUSE_REVENUE, HOUSE_WRITEOFF

GENESIS = bytes(32)
"""What the first row of a chain follows."""

_encode = msgspec.json.Encoder().encode


def link(prev_hash: bytes, values: Sequence[object]) -> bytes:
    """SHA-256 over the previous row's hash and this row's values as a JSON array without spaces."""
    return hashlib.sha256(prev_hash + _encode(values)).digest()


class About(msgspec.Struct, frozen=True, gc=False):
    """What a transfer is about. `request` is the number of the row whose id is `request_id`."""

    request_id: str | None = None
    request: int | None = None
    reference: str | None = None
    reverses: int | None = None
    actor: str | None = None
    note: str | None = None


class BooksState:
    """What the writer knows of the file as of the last commit."""

    __slots__ = (
        "accounts",
        "balances",
        "last_audit",
        "last_audit_hash",
        "last_request",
        "last_transfer",
        "last_transfer_hash",
        "last_ts_ns",
        "latest",
        "next_account",
    )

    def __init__(self) -> None:
        self.next_account = HOUSE_WRITEOFF + 1
        self.accounts: dict[str, int] = {}
        """Tenant name → account id."""
        self.balances: dict[int, int] = {}
        """Account id → nano-USD."""
        self.latest: dict[int, int] = {}
        """Tenant's account id → its latest transfer."""
        self.last_transfer = 0
        self.last_transfer_hash = GENESIS
        self.last_request = 0
        self.last_audit = 0
        self.last_audit_hash = GENESIS
        self.last_ts_ns = 0

    def marks(self) -> tuple[int, bytes, int, int, bytes]:
        """Two equal marks of one file mean that nothing was appended in between."""
        return (
            self.last_transfer,
            self.last_transfer_hash,
            self.last_request,
            self.last_audit,
            self.last_audit_hash,
        )


_LAST_REQUEST = """
SELECT max(coalesce((SELECT max(n) FROM requests), 0),
           coalesce((SELECT request FROM watermarks ORDER BY id DESC LIMIT 1), 0))"""


def load_state(connection: sqlite3.Connection) -> BooksState:
    """Read the state back from the file."""
    state = BooksState()
    accounts = connection.execute("SELECT id, kind, name, balance, last_transfer FROM accounts")
    for account, kind, name, balance, latest in accounts:
        state.balances[account] = balance
        if latest is not None:
            state.latest[account] = latest
        state.next_account = max(state.next_account, account + 1)
        if kind == "tenant":
            state.accounts[name] = account
    row = connection.execute("SELECT id, hash, ts_ns FROM transfers ORDER BY id DESC LIMIT 1").fetchone()
    if row is not None:
        state.last_transfer, state.last_transfer_hash, state.last_ts_ns = row
    (state.last_request,) = connection.execute(_LAST_REQUEST).fetchone()
    row = connection.execute("SELECT id, hash, ts_ns FROM audit ORDER BY id DESC LIMIT 1").fetchone()
    if row is not None:
        state.last_audit, state.last_audit_hash, audit_ts_ns = row
        state.last_ts_ns = max(state.last_ts_ns, audit_ts_ns)
    return state


class Insert:
    """INSERT of any number of rows in as few statements as makes sense."""

    __slots__ = ("_by_count",)

    COUNTS = (64, 16, 4, 1)

    def __init__(self, table: str, columns: Sequence[str], suffix: str = "") -> None:
        row = f"({', '.join('?' * len(columns))})"
        head = f"INSERT INTO {table}({', '.join(columns)}) VALUES "  # noqa: S608 Names from this module only.
        self._by_count = tuple((count, head + ", ".join([row] * count) + suffix) for count in self.COUNTS)

    def run(self, connection: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> None:
        at, left = 0, len(rows)
        for count, sql in self._by_count:
            while left >= count:
                connection.execute(sql, tuple(chain.from_iterable(rows[at : at + count])))
                at += count
                left -= count


TRANSFER_COLUMNS = (
    "id",
    "ts_ns",
    "kind",
    "debit",
    "credit",
    "amount",
    "tenant",
    "balance",
    "previous",
    "request",
    "ext_ref",
    "reverses",
    "actor",
    "note",
    "prev_hash",
    "hash",
)
"""The hash covers all columns but the last two, with the request's id in the place of its number."""

REQUEST_COLUMNS = (
    "n",
    "id",
    "tenant",
    "key_id",
    "operation",
    "model",
    "endpoint",
    "provider",
    "stream",
    "outcome",
    "http_status",
    "billing",
    "usage",
    "usage_source",
    "price",
    "cost",
    "charged",
    "written_off",
    "held",
    "provider_cost",
    "attempts",
    "flags",
    "started_ns",
    "settled_ns",
    "duration_ms",
)

ATTEMPT_COLUMNS = (
    "request",
    "n",
    "endpoint",
    "provider",
    "credential_id",
    "outcome",
    "upstream_status",
    "dispatched",
    "started_ms",
    "first_byte_ms",
    "duration_ms",
    "won",
    "cost_est",
)

AUDIT_COLUMNS = ("id", "ts_ns", "actor", "action", "subject", "detail", "prev_hash", "hash")

_INSERT_TRANSFERS = Insert("transfers", TRANSFER_COLUMNS)
_INSERT_REQUESTS = Insert("requests", REQUEST_COLUMNS)
_INSERT_ATTEMPTS = Insert("attempts", ATTEMPT_COLUMNS)
_INSERT_AUDIT = Insert("audit", AUDIT_COLUMNS)
_ADD_DAYS = Insert(
    "days",
    ("tenant", "day", "requests", "charged"),
    " ON CONFLICT(tenant, day) DO UPDATE SET"
    " requests = requests + excluded.requests, charged = charged + excluded.charged",
)
_ADD_KEY_DAYS = Insert(
    "key_days",
    ("tenant", "key", "day", "requests", "charged"),
    " ON CONFLICT(tenant, key, day) DO UPDATE SET"
    " requests = requests + excluded.requests, charged = charged + excluded.charged",
)
_INSERT_ACCOUNT = "INSERT INTO accounts(id, kind, name, floor, created_ns) VALUES (?, 'tenant', ?, ?, ?)"
_ADD_BALANCE = "UPDATE accounts SET balance = balance + ?, last_transfer = ? WHERE id = ?"


class Batch:
    """The rows of one transaction. Callers read the file through `connection` only after `flush()`."""

    __slots__ = (
        "_attempts",
        "_audit",
        "_base",
        "_days",
        "_deltas",
        "_key_days",
        "_requests",
        "_transfers",
        "accounts",
        "balances",
        "connection",
        "last_audit",
        "last_audit_hash",
        "last_request",
        "last_transfer",
        "last_transfer_hash",
        "last_ts_ns",
        "latest",
        "next_account",
    )

    def __init__(self, connection: sqlite3.Connection, base: BooksState) -> None:
        self.connection = connection
        self._base = base
        self.accounts: dict[str, int] = {}
        self.balances: dict[int, int] = {}
        self.latest: dict[int, int] = {}
        self.last_transfer = base.last_transfer
        self.last_transfer_hash = base.last_transfer_hash
        self.last_request = base.last_request
        self.last_audit = base.last_audit
        self.last_audit_hash = base.last_audit_hash
        self.last_ts_ns = base.last_ts_ns
        self.next_account = base.next_account
        self._transfers: list[tuple[Any, ...]] = []
        self._requests: list[tuple[Any, ...]] = []
        self._attempts: list[tuple[Any, ...]] = []
        self._audit: list[tuple[Any, ...]] = []
        self._days: dict[tuple[int, int], list[int]] = {}
        self._key_days: dict[tuple[int, str, int], list[int]] = {}
        self._deltas: dict[int, int] = {}

    def account(self, tenant: str, now_ns: int, floor_nano: int = 0) -> int:
        """The tenant's account, opened with `floor_nano` if there is none. The audit chain binds name and number."""
        account = self.accounts.get(tenant)
        if account is None:
            account = self._base.accounts.get(tenant)
        if account is None:
            account = self.next_account
            self.next_account += 1
            self.connection.execute(_INSERT_ACCOUNT, (account, tenant, floor_nano, now_ns))
            self.accounts[tenant] = account
            self.balances[account] = 0
            self.audit("ledger", "account.open", tenant, str(account), now_ns)
        return account

    def balance(self, account: int) -> int:
        balance = self.balances.get(account)
        return self._base.balances[account] if balance is None else balance

    def transfer(
        self,
        kind: str,
        parties: tuple[int, int, int],
        amount_nano: int,
        now_ns: int,
        about: About,
    ) -> tuple[int, int, int]:
        """Move money: (id, time, the tenant's new balance). `parties` are (debit, credit, tenant) accounts."""
        debit, credit, tenant = parties
        self.balances[debit] = self.balance(debit) - amount_nano
        self.balances[credit] = self.balance(credit) + amount_nano
        self._deltas[debit] = self._deltas.get(debit, 0) - amount_nano
        self._deltas[credit] = self._deltas.get(credit, 0) + amount_nano
        self._deltas.setdefault(tenant, 0)
        self.last_transfer += 1
        ts_ns = self._stamp(now_ns)
        number = self.last_transfer
        balance = self.balance(tenant)
        previous = self.latest.get(tenant)
        if previous is None:
            previous = self._base.latest.get(tenant)
        self.latest[tenant] = number
        head = (number, ts_ns, kind, debit, credit, amount_nano, tenant, balance, previous)
        tail = (about.reference, about.reverses, about.actor, about.note)
        prev_hash = self.last_transfer_hash
        self.last_transfer_hash = link(prev_hash, (*head, about.request_id, *tail))
        self._transfers.append((*head, about.request, *tail, prev_hash, self.last_transfer_hash))
        return number, ts_ns, balance

    def request(self, values: tuple[Any, ...], attempts: Sequence[tuple[Any, ...]]) -> None:
        """Append a request row (all columns but the first) and its attempts (all columns but the first)."""
        self.last_request = number = self.last_request + 1
        self._requests.append((number, *values))
        for attempt in attempts:
            self._attempts.append((number, *attempt))

    def count(self, tenant: int, key_id: str, day: int, charged_nano: int) -> None:
        """One more request of that UTC day, of the tenant and of its key."""
        figures = self._days.get((tenant, day))
        if figures is None:
            self._days[tenant, day] = [1, charged_nano]
        else:
            figures[0] += 1
            figures[1] += charged_nano
        figures = self._key_days.get((tenant, key_id, day))
        if figures is None:
            self._key_days[tenant, key_id, day] = [1, charged_nano]
        else:
            figures[0] += 1
            figures[1] += charged_nano

    def audit(self, actor: str, action: str, subject: str, detail: str, now_ns: int) -> None:
        """Who did what to whom."""
        self.last_audit += 1
        values = (self.last_audit, self._stamp(now_ns), actor, action, subject, detail)
        previous = self.last_audit_hash
        self.last_audit_hash = link(previous, values)
        self._audit.append((*values, previous, self.last_audit_hash))

    def flush(self) -> None:
        """Write what was collected; referenced rows first."""
        connection = self.connection
        if self._requests:
            _INSERT_REQUESTS.run(connection, self._requests)
            _INSERT_ATTEMPTS.run(connection, self._attempts)
            _ADD_DAYS.run(connection, [(*key, *figures) for key, figures in self._days.items()])
            _ADD_KEY_DAYS.run(connection, [(*key, *figures) for key, figures in self._key_days.items()])
            self._requests, self._attempts, self._days, self._key_days = [], [], {}, {}
        if self._transfers:
            _INSERT_TRANSFERS.run(connection, self._transfers)
            for account, delta in self._deltas.items():
                connection.execute(_ADD_BALANCE, (delta, self.latest.get(account), account))
            self._transfers, self._deltas = [], {}
        if self._audit:
            _INSERT_AUDIT.run(connection, self._audit)
            self._audit = []

    def marks(self) -> tuple[int, bytes, int, int, bytes]:
        """As BooksState.marks(), of the file once this batch is in it."""
        return (self.last_transfer, self.last_transfer_hash, self.last_request, self.last_audit, self.last_audit_hash)

    def appends(self) -> bool:
        """Whether the file can tell by its marks that this batch is in it."""
        return self.marks() != self._base.marks()

    def merge(self) -> None:
        """The commit is durable: the state becomes what this batch made of it."""
        base = self._base
        base.accounts.update(self.accounts)
        base.balances.update(self.balances)
        base.latest.update(self.latest)
        base.last_transfer, base.last_transfer_hash = self.last_transfer, self.last_transfer_hash
        base.last_request = self.last_request
        base.last_audit, base.last_audit_hash = self.last_audit, self.last_audit_hash
        base.last_ts_ns = self.last_ts_ns
        base.next_account = self.next_account

    def settle(self, account: int, kind: str, request_id: str, amounts: tuple[int, int], now_ns: int) -> None:
        """The money of the request appended last: `amounts` are (charged, written off), `kind` that of the charge."""
        charged, written_off = amounts
        about = About(request_id=request_id, request=self.last_request)
        if charged:
            self.transfer(kind, (account, HOUSE_REVENUE, account), charged, now_ns, about)
        if written_off:
            self.transfer("writeoff", (HOUSE_WRITEOFF, HOUSE_REVENUE, account), written_off, now_ns, about)

    def _stamp(self, now_ns: int) -> int:
        """Time never runs backwards in the books, whatever the clock does (FAULTS.md 93)."""
        if now_ns > self.last_ts_ns:
            self.last_ts_ns = now_ns
        return self.last_ts_ns
