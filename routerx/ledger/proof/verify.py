"""Proves the books from the file alone, read-only: whole (`verify_file`), or on from where the last check ended.

Append-only rows are read in pages; one short transaction at the end adds the latest rows and compares the balances, so
that a running server is not held up. Whatever is found is a Violation, with the tenant it touches where there is one.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from routerx.errors import LedgerUnusable
from routerx.ledger.base import VerifyReport
from routerx.ledger.budget import DAY_NS
from routerx.ledger.database import connect_read_only, recognise
from routerx.ledger.own_keys import own_keys_told
from routerx.ledger.proof import checks
from routerx.ledger.proof.checks import Progress
from routerx.ledger.proof.pruning import newest_watermark, recorded
from routerx.ledger.schema.initial import TABLES

PAGE_ROWS = 500
VIOLATIONS_MAX = 1_000

PAUSE_ROWS = 50
Pause = Callable[[], None]
"""Called after every PAUSE_ROWS rows, about a millisecond's work: where an event loop runs in the same process, it must
get the interpreter lock back. May raise to end the check."""

Check = Callable[[Sequence[Any], Progress], Iterator[tuple[str, str]]]


_WRONG_KEY_DAYS = """
SELECT DISTINCT tenant, day FROM (
  SELECT tenant, day, requests, charged FROM days WHERE day >= ?1
  UNION ALL
  SELECT tenant, day, sum(requests), sum(charged) FROM key_days WHERE day >= ?1 GROUP BY 1, 2)
GROUP BY tenant, day, requests, charged HAVING count(*) <> 2 ORDER BY 1, 2"""
"""Days whose figures are not found both by tenant and by key."""


_WRONG_KEYS = """
SELECT DISTINCT key, day, tenant FROM (
  SELECT tenant, key, day, requests, charged FROM key_days WHERE day > ?1
  UNION ALL
  SELECT tenant, key_id, settled_ns / ?2, count(*), sum(charged) FROM requests
  WHERE settled_ns >= (?1 + 1) * ?2 GROUP BY 1, 2, 3)
GROUP BY tenant, key, day, requests, charged HAVING count(*) <> 2 ORDER BY 1, 2"""
"""Figures of keys that are not the sums of their requests, after a day."""


_OWN_KEYS = "SELECT a.name, k.provider, k.fingerprint FROM own_keys AS k JOIN accounts AS a ON a.id = k.tenant"


_GAP_ENDS = "SELECT coalesce(min(n) - 1, ?) FROM requests WHERE n > ?"


class Violation(msgspec.Struct, frozen=True):
    """One broken invariant; `tenant` None: it concerns the whole ledger."""

    invariant: str
    message: str
    tenant: str | None

    def __str__(self) -> str:
        return f"{self.invariant}: {self.message}" + (f" (tenant {self.tenant!r})" if self.tenant is not None else "")


class Verified(msgspec.Struct, frozen=True):
    """Where a verification ended, small enough for the file's own `meta`."""

    transfer: int = 0
    transfer_hash: str = ""
    ts_ns: int = 0
    request: int = 0
    audit: int = 0
    audit_hash: str = ""
    audit_ts_ns: int = 0


def no_pause() -> None:
    """For a process that has nothing else to do."""


def verify_file(path: str) -> VerifyReport:
    """Check every invariant on every row. Raises LedgerUnusable when there is no ledger of this version at `path`."""
    return check_file(path)[0]


def check_file(path: str, pause: Pause = no_pause) -> tuple[VerifyReport, tuple[Violation, ...]]:
    """As verify_file, with the violations also as values."""
    started_s = time.perf_counter()
    connection = connect_read_only(path)
    try:
        checker, is_over = _checked(connection, path, pause)
        while not is_over:  # Rows were pruned under the check, which took them for missing.
            checker, is_over = _checked(connection, path, pause)
        report = VerifyReport(
            violations=tuple(str(violation) for violation in checker.violations),
            checked_transfers=checker.checked_transfers,
            checked_requests=checker.checked_requests,
            tenants=sum(kind == "tenant" for kind, _ in checker.accounts.values()),
            duration_ms=round((time.perf_counter() - started_s) * 1000),
        )
        return report, tuple(checker.violations)
    finally:
        connection.close()


def _checked(connection: sqlite3.Connection, path: str, pause: Pause) -> tuple["Checker", bool]:
    """A whole check, and whether what it found can be believed."""
    progress = Progress()
    checker = Checker(connection, progress, pause)
    try:
        if recognise(connection, path) == 0:
            raise LedgerUnusable(f"there is no ledger in {path!r} yet")
        checker.run()
        checker.structure()
        return checker, not checker.violations or newest_watermark(connection) == progress.watermark
    except sqlite3.DatabaseError as error:
        checker.add("I18", f"the file cannot be read: {error}", None)
        return checker, True


class Checker:
    """One pass over one connection. `progress` says where to begin and is carried forward."""

    def __init__(self, connection: sqlite3.Connection, progress: Progress, pause: Pause) -> None:
        self._connection = connection
        self._progress = progress
        self._pause = pause
        self.violations: list[Violation] = []
        self.accounts: dict[int, tuple[str, str]] = {}
        """Account id → (kind, name)."""
        self.checked_transfers = 0
        self.checked_requests = 0

    def add(self, invariant: str, message: str, tenant: str | None) -> None:
        if len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(Violation(invariant, message, tenant))

    def run(self) -> None:
        """All rows after the progress, in pages; then the rest and the balances in one snapshot."""
        self._start()
        while self._page():
            pass
        self._connection.execute("BEGIN")
        try:
            self._load_accounts()
            while self._page():
                pass
            self._balances()
            self._days()
        finally:
            self._connection.execute("ROLLBACK")

    def _start(self) -> None:
        """What was pruned in the meantime is not looked for; what it came to is in the watermark's sums."""
        at = self._progress
        self._load_accounts()
        at.watermark = newest_watermark(self._connection)
        if at.request < at.watermark.request:
            at.request = at.watermark.request
            add_pruned_days(self._connection, at)

    def structure(self) -> None:
        """What only the whole file can tell: pages, references, doubles, tables (I5, I13, I15, I18, I19)."""
        fetch = self._connection.execute
        for (line,) in fetch("PRAGMA integrity_check(20)"):
            if line != "ok":
                self.add("I18", str(line), None)
        for table, row, parent, _ in fetch("PRAGMA foreign_key_check"):
            self.add("I18", f"{table} row {row} refers to a row of {parent} that is not there", None)
        strict = {name: strict for _, name, _, _, _, strict in fetch("PRAGMA table_list")}
        for table in TABLES:
            if strict.get(table) != 1:
                self.add("I15", f"table {table!r} is missing or does not enforce its types", None)
        for request, kind, count in fetch(
            "SELECT request, CASE kind WHEN 'byok_fee' THEN 'charge' ELSE kind END, count(*) FROM transfers "
            "WHERE request IS NOT NULL AND kind <> 'adjustment' GROUP BY 1, 2 HAVING count(*) > 1"
        ):
            self.add("I5", f"request row {request} has {count} transfers of kind {kind!r}", None)
        for reference, count in fetch(
            "SELECT ext_ref, count(*) FROM transfers WHERE ext_ref IS NOT NULL GROUP BY 1 HAVING count(*) > 1"
        ):
            self.add("I19", f"the reference {reference!r} was credited {count} times", None)
        for (request,) in fetch(
            "SELECT DISTINCT request FROM attempts WHERE NOT EXISTS (SELECT 1 FROM requests WHERE n = attempts.request)"
        ):
            self.add("I13", f"attempts of request row {request}, which is not there", None)
        self._watermarks()
        self._keys()
        self._own_keys()

    def _keys(self) -> None:
        """I16 by key; of days whose rows were pruned only the sums by tenant are left to prove."""
        if not self._counts_keys():
            return
        (pruned,) = self._connection.execute("SELECT coalesce(max(day), -1) FROM pruned_days").fetchone()
        for key, day, account in self._connection.execute(_WRONG_KEYS, (pruned, DAY_NS)):
            message = f"the figures of key {key!r} for day {day} are not the sums of its requests"
            self.add("I16", message, self._tenant(account))

    def _counts_keys(self) -> bool:
        """Not so a file of an older version."""
        return self._has_table("key_days")

    def _own_keys(self) -> None:
        """I11: tenants' own provider keys are those that the audit trail says were set."""
        if not self._has_table("own_keys"):
            return
        self._connection.execute("BEGIN")  # Both as of one moment: a key may be set in between.
        try:
            stored = {(tenant, name): public for tenant, name, public in self._connection.execute(_OWN_KEYS)}
            told = own_keys_told(self._connection)
        finally:
            self._connection.execute("ROLLBACK")
        for tenant, provider in sorted(stored.keys() | told.keys()):
            if stored.get((tenant, provider)) != told.get((tenant, provider)):
                message = f"the own key for {provider!r} is not the one that the audit trail tells of"
                self.add("I11", message, tenant)

    def _has_table(self, name: str) -> bool:
        sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?"
        return self._connection.execute(sql, (name,)).fetchone() is not None

    def _watermarks(self) -> None:
        """I11 and I16 of what was pruned: watermarks are those of the audit chain, and their sums those charged."""
        details, days, changed = recorded(self._connection)
        if list(details) != self._progress.prunings:
            self.add("I11", "the watermarks of pruned requests are not those of the audit trail", None)
        for number in changed:
            self.add("I11", f"the sums of watermark {number} are not those that were written down", None)
        if self._progress.transfer < self._progress.watermark.transfer:
            self.add("I11", f"transfers after {self._progress.transfer} are missing: they were sealed", None)
        sums: dict[int, int] = {}
        for tenant, _, _, charged in days:
            sums[tenant] = sums.get(tenant, 0) + charged
        for tenant in sums.keys() | self._progress.pruned.keys():
            if sums.get(tenant, 0) != self._progress.pruned.get(tenant, 0):
                message = f"the charges of account {tenant} for pruned requests are not the sums written down"
                self.add("I16", message, self._tenant(tenant))

    def _load_accounts(self) -> None:
        rows = self._connection.execute("SELECT id, kind, name FROM accounts")
        self.accounts = {account: (kind, name) for account, kind, name in rows}

    def _page(self) -> bool:
        """The next page of each table; False when the ends were reached, whatever is being added meanwhile."""
        at = self._progress
        transfers = self._connection.execute(checks.TRANSFERS, (at.transfer, PAGE_ROWS)).fetchall()
        self._rows(checks.transfer, transfers, 6)
        self.checked_transfers += len(transfers)
        (last,) = self._connection.execute("SELECT coalesce(max(n), 0) FROM requests").fetchone()
        upto = min(last, at.request + PAGE_ROWS)
        requests = self._connection.execute(checks.REQUESTS, (at.request, upto)).fetchall()
        self._rows(checks.request, requests, 2)
        self.checked_requests += len(requests)
        if upto > at.request and not requests:
            # A number may have been forged: what is missing is passed over in one step, however much it is.
            (upto,) = self._connection.execute(_GAP_ENDS, (upto, upto)).fetchone()
            self.add("I11", f"request rows {at.request + 1} to {upto} are missing", None)
            at.request = upto
        audit = self._connection.execute(checks.AUDIT, (at.audit, PAGE_ROWS)).fetchall()
        self._rows(checks.audit, audit, None)
        return len(transfers) == PAGE_ROWS or len(audit) == PAGE_ROWS or upto < last

    def _rows(self, check: Check, rows: Sequence[Sequence[Any]], tenant_column: int | None) -> None:
        for count, row in enumerate(rows, 1):
            if count % PAUSE_ROWS == 0:
                self._pause()
            for invariant, message in check(row, self._progress):
                tenant = self._tenant(row[tenant_column]) if tenant_column is not None else None
                self.add(invariant, message, tenant)

    def _tenant(self, account: int) -> str | None:
        kind, name = self.accounts.get(account, ("", ""))
        return name if kind == "tenant" else None

    def _balances(self) -> None:
        """I1, I2, I4, and that each account is the one that was opened."""
        total = 0
        sums = self._progress.sums
        rows = self._connection.execute("SELECT id, kind, name, balance, floor, last_transfer FROM accounts").fetchall()
        for account, kind, name, balance, floor, latest in rows:
            tenant = self._tenant(account)
            title = name if kind == "tenant" else kind
            if type(balance) is not int:
                self.add("I15", f"the balance of {title!r} is {balance!r}, which is no whole number", tenant)
                continue
            total += balance
            if balance != sums.get(account, 0):
                message = f"the balance of {title!r} is {balance}, its transfers add up to {sums.get(account, 0)}"
                self.add("I1", message, tenant)
            if kind == "tenant" and latest != self._progress.latest.get(account):
                self.add("I11", f"the latest transfer of {title!r} is not {latest}", tenant)
            if kind == "tenant" and balance < floor:
                self.add("I4", f"the balance of {title!r} is {balance}, below its floor of {floor}", tenant)
            if kind == "tenant" and self._progress.opened.get(str(account)) != name:
                self.add("I11", f"account {account} is named {name!r}, but was opened under another name", tenant)
        for account in sums.keys() - self.accounts.keys():
            self.add("I1", f"account {account} has transfers, but is not there", None)
        if total != 0:
            self.add("I2", f"all balances together are {total}, not 0", None)

    def _days(self) -> None:
        """I16: the daily figures that spend limits go by."""
        rows = self._connection.execute(
            "SELECT tenant, day, requests, charged FROM days WHERE day >= ?", (self._progress.first_day,)
        )
        found = {(tenant, day): [requests, charged] for tenant, day, requests, charged in rows}
        for key in sorted(found.keys() | self._progress.days.keys()):
            if found.get(key) != self._progress.days.get(key):
                message = f"the figures of account {key[0]} for day {key[1]} are not the sums of its requests"
                self.add("I16", message, self._tenant(key[0]))
        if not self._counts_keys():
            return
        for account, day in self._connection.execute(_WRONG_KEY_DAYS, (self._progress.first_day,)):
            message = f"the figures of account {account} for day {day} are not the sums of its keys' figures"
            self.add("I16", message, self._tenant(account))


def add_pruned_days(connection: sqlite3.Connection, progress: Progress) -> None:
    """Count what was pruned by its sums."""
    for tenant, day, requests, charged in recorded(connection)[1]:
        if day >= progress.first_day:
            figures = progress.days.setdefault((tenant, day), [0, 0])
            figures[0] += requests
            figures[1] += charged


def watermark_of(progress: Progress) -> Verified:
    """For storing."""
    return Verified(
        transfer=progress.transfer,
        transfer_hash=progress.transfer_hash.hex(),
        ts_ns=progress.ts_ns,
        request=progress.request,
        audit=progress.audit,
        audit_hash=progress.audit_hash.hex(),
        audit_ts_ns=progress.audit_ts_ns,
    )


def resume(connection: sqlite3.Connection, stored: str | None, first_day: int) -> Progress:
    """Progress as of a stored watermark; from the beginning where there is none or the file does not match it.

    Rows up to the watermark were proven row by row in an earlier run; here SQLite adds them up again.
    """
    progress = Progress(first_day)
    try:
        mark = Verified() if stored is None else msgspec.json.decode(stored, type=Verified)
    except msgspec.DecodeError:
        return progress
    row = connection.execute("SELECT hash FROM transfers WHERE id = ?", (mark.transfer,)).fetchone()
    if row is None or row[0].hex() != mark.transfer_hash:
        return progress
    progress.transfer, progress.transfer_hash, progress.ts_ns = mark.transfer, row[0], mark.ts_ns
    progress.request = mark.request
    progress.seal = None
    pruned = newest_watermark(connection).request
    progress.audit, progress.audit_hash = mark.audit, bytes.fromhex(mark.audit_hash)
    progress.audit_ts_ns = mark.audit_ts_ns
    for column, sign in (("debit", -1), ("credit", 1)):
        sql = f"SELECT {column}, sum(amount) FROM transfers WHERE id <= ? GROUP BY 1"  # noqa: S608 Two fixed names.
        for account, amount in connection.execute(sql, (mark.transfer,)):
            progress.sums[account] = progress.sums.get(account, 0) + sign * amount
    latest = connection.execute("SELECT tenant, max(id) FROM transfers WHERE id <= ? GROUP BY 1", (mark.transfer,))
    progress.latest = dict(latest.fetchall())
    progress.days = {
        (tenant, day): [requests, charged]
        for tenant, day, requests, charged in connection.execute(
            "SELECT tenant, settled_ns / ?1, count(*), sum(charged) FROM requests "
            "WHERE n > ?4 AND n <= ?2 AND settled_ns >= ?3 * ?1 GROUP BY 1, 2",
            (DAY_NS, mark.request, first_day, pruned),
        )
    }
    if pruned and mark.request >= pruned:
        add_pruned_days(connection, progress)
    opened = connection.execute(
        "SELECT detail, subject FROM audit WHERE action = 'account.open' AND id <= ?", (mark.audit,)
    )
    progress.opened = dict(opened.fetchall())
    return progress
