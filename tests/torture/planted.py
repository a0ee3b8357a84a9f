"""Faults planted into a copy of a good ledger or journal: the proof that the checker can see.

The ledger's own guards are taken out of the copy first. Where a fault can be made to balance, it is: what gives it
away shall be the comparison with what callers saw, not the sum at the end.
"""

import contextlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from routerx.ledger.schema.initial import HOUSE_REVENUE as REVENUE
from tests.torture.arena import judge
from tests.torture.checker import Evidence
from tests.torture.oracle import Leaving

CHARGED = """
SELECT r.n, r.id, t.id, t.amount, t.debit FROM requests AS r JOIN transfers AS t ON t.request = r.n
WHERE t.kind = 'charge' AND r.outcome = 'ok' AND r.id = ?"""


class Victim(msgspec.Struct):
    """A request that was answered completely and charged rightly."""

    number: int
    row: int
    transfer: int
    amount: int
    account: int


Fault = Callable[[sqlite3.Connection, Evidence, Victim], None]


def _move(db: sqlite3.Connection, account: int, nano: int) -> None:
    """Give `nano` of the house's revenue to an account, so that the books still balance."""
    db.execute("UPDATE accounts SET balance = balance + ? WHERE id = ?", (nano, account))
    db.execute("UPDATE accounts SET balance = balance - ? WHERE kind = 'house_revenue'", (nano,))


def lost_charge(db: sqlite3.Connection, evidence: Evidence, victim: Victim) -> None:
    db.execute("DELETE FROM transfers WHERE id = ?", (victim.transfer,))
    _move(db, victim.account, victim.amount)


def missing_row(db: sqlite3.Connection, evidence: Evidence, victim: Victim) -> None:
    lost_charge(db, evidence, victim)
    db.execute("DELETE FROM requests WHERE n = ?", (victim.row,))


def _copy(db: sqlite3.Connection, table: str, key: str, row: int, changes: dict[str, object]) -> None:
    columns = [name for _, name, *_ in db.execute(f"PRAGMA table_info({table})")]
    chosen = ", ".join(f":{name}" if name in changes else name for name in columns)
    db.execute(f"INSERT INTO {table} SELECT {chosen} FROM {table} WHERE {key} = {row}", changes)


def double_charge(db: sqlite3.Connection, evidence: Evidence, victim: Victim) -> None:
    _copy(db, "transfers", "id", victim.transfer, {"id": 10**9})
    _move(db, victim.account, -victim.amount)


def charged_under_two_ids(db: sqlite3.Connection, evidence: Evidence, victim: Victim) -> None:
    (twin,) = db.execute("SELECT max(n) + 1 FROM requests").fetchone()
    _copy(db, "requests", "n", victim.row, {"n": twin, "id": "req_twin"})
    _copy(db, "transfers", "id", victim.transfer, {"id": 10**9, "request": twin})
    _move(db, victim.account, -victim.amount)


def wrong_amount(db: sqlite3.Connection, evidence: Evidence, victim: Victim) -> None:
    db.execute("UPDATE transfers SET amount = amount + 1 WHERE id = ?", (victim.transfer,))
    _move(db, victim.account, -1)


def foreign_tenant(db: sqlite3.Connection, evidence: Evidence, victim: Victim) -> None:
    (other,) = db.execute(
        "SELECT min(id) FROM accounts WHERE kind = 'tenant' AND id <> ?", (victim.account,)
    ).fetchone()
    db.execute("UPDATE requests SET tenant = ? WHERE n = ?", (other, victim.row))
    db.execute("UPDATE transfers SET debit = ?, tenant = ? WHERE id = ?", (other, other, victim.transfer))
    _move(db, victim.account, victim.amount)
    _move(db, other, -victim.amount)


def drifted_balance(db: sqlite3.Connection, evidence: Evidence, victim: Victim) -> None:
    _move(db, victim.account, 1)


def unbalanced_books(db: sqlite3.Connection, evidence: Evidence, victim: Victim) -> None:
    db.execute("UPDATE accounts SET balance = balance + 1 WHERE kind = 'house_cash'")


def lost_top_up(db: sqlite3.Connection, evidence: Evidence, victim: Victim) -> None:
    row, account, nano = db.execute("SELECT id, credit, amount FROM transfers WHERE kind = 'topup'").fetchone()
    db.execute("DELETE FROM transfers WHERE id = ?", (row,))
    db.execute("UPDATE accounts SET balance = balance - ? WHERE id = ?", (nano, account))
    db.execute("UPDATE accounts SET balance = balance + ? WHERE kind = 'house_cash'", (nano,))


def never_dispatched(db: sqlite3.Connection, evidence: Evidence, victim: Victim) -> None:
    del evidence.dispatched[victim.number]


def refused_and_charged(db: sqlite3.Connection, evidence: Evidence, victim: Victim) -> None:
    saw = evidence.saw[victim.number]
    evidence.saw[victim.number] = msgspec.structs.replace(saw, end="refused", status=502, code="upstream_error")


def answer_of_an_unknown_row(db: sqlite3.Connection, evidence: Evidence, victim: Victim) -> None:
    saw = evidence.saw[victim.number]
    evidence.saw[victim.number] = msgspec.structs.replace(saw, request_id="req_nowhere")


def charge_without_a_caller(db: sqlite3.Connection, evidence: Evidence, victim: Victim) -> None:
    del evidence.sent[victim.number]
    del evidence.saw[victim.number]


def dispatch_without_a_row(db: sqlite3.Connection, evidence: Evidence, victim: Victim) -> None:
    missing_row(db, evidence, victim)
    saw = evidence.saw[victim.number]
    evidence.saw[victim.number] = msgspec.structs.replace(saw, end="cut", request_id="")


def broken_chain(db: sqlite3.Connection, evidence: Evidence, victim: Victim) -> None:
    db.execute("UPDATE transfers SET note = 'changed' WHERE id = ?", (victim.transfer,))


def float_amount(db: sqlite3.Connection, evidence: Evidence, victim: Victim) -> None:
    """Only a table that is not strict any more takes it."""
    db.execute("PRAGMA writable_schema = ON")
    db.execute("UPDATE sqlite_schema SET sql = replace(sql, ') STRICT', ')') WHERE name = 'transfers'")
    db.execute("PRAGMA writable_schema = RESET")
    db.execute("UPDATE transfers SET amount = amount + 0.5 WHERE id = ?", (victim.transfer,))


def negative_balance(db: sqlite3.Connection, evidence: Evidence, victim: Victim) -> None:
    (balance,) = db.execute("SELECT balance FROM accounts WHERE id = ?", (victim.account,)).fetchone()
    _move(db, victim.account, -balance - 1)


def orphan_attempt(db: sqlite3.Connection, evidence: Evidence, victim: Victim) -> None:
    _copy(db, "attempts", "request", victim.row, {"request": 10**9})


def rollup_drift(db: sqlite3.Connection, evidence: Evidence, victim: Victim) -> None:
    db.execute("UPDATE days SET charged = charged + 1 WHERE tenant = ?", (victim.account,))


def reordered_time(db: sqlite3.Connection, evidence: Evidence, victim: Victim) -> None:
    db.execute("UPDATE transfers SET ts_ns = ts_ns - 3600000000000 WHERE id = ?", (victim.transfer,))


def refund_above_charge(db: sqlite3.Connection, evidence: Evidence, victim: Victim) -> None:
    changes: dict[str, object] = {"id": 10**9, "kind": "refund", "amount": victim.amount + 1, "request": None}
    parties: dict[str, object] = {"debit": REVENUE, "credit": victim.account}
    names: dict[str, object] = {"reverses": victim.transfer, "ext_ref": "too-much", "actor": "planted"}
    _copy(db, "transfers", "id", victim.transfer, changes | parties | names)
    _move(db, victim.account, victim.amount + 1)


def usage_of_another_request(db: sqlite3.Connection, evidence: Evidence, victim: Victim) -> None:
    db.execute("UPDATE requests SET usage = json_set(usage, '$.in_fresh', 10000000) WHERE n = ?", (victim.row,))


IN_BOOKS: tuple[tuple[Fault, str], ...] = (
    (lost_charge, "lost"),
    (double_charge, "twice"),
    (wrong_amount, "amount"),
    (missing_row, "lost"),
    (broken_chain, "I11"),
    (float_amount, "I15"),
    (negative_balance, "I4"),
    (orphan_attempt, "I13"),
    (foreign_tenant, "tenant"),
    (rollup_drift, "I16"),
    (reordered_time, "I12"),
    (refund_above_charge, "I10"),
    (usage_of_another_request, "I9"),
)
"""Each fault, and the rule of the checker or the invariant of the books that has to name it."""

SEEN_FROM_OUTSIDE: tuple[tuple[Fault, str], ...] = (
    (charged_under_two_ids, "twice"),
    (drifted_balance, "balance"),
    (unbalanced_books, "books"),
    (lost_top_up, "credit"),
    (never_dispatched, "undispatched"),
    (refused_and_charged, "unearned"),
    (answer_of_an_unknown_row, "lost"),
    (charge_without_a_caller, "unexplained"),
    (dispatch_without_a_row, "rowless"),
)
"""More of the same, most of them in the journals: the checker's other rules can see, too."""


def undetected(ledger: Path, evidence: Evidence, folder: Path) -> list[str]:
    """Plant each fault in turn; returns those that were not named by their rule."""
    missed = []
    for fault, rule in IN_BOOKS + SEEN_FROM_OUTSIDE:
        copy = folder / f"{fault.__name__}.db"
        shutil.copyfile(ledger, copy)
        seen = msgspec.structs.replace(
            evidence, sent=dict(evidence.sent), saw=dict(evidence.saw), dispatched=evidence.dispatched.copy()
        )
        with _unguarded(copy) as db:
            fault(db, seen, _victim(db, seen))
        found = judge(copy, seen, unkilled=fault is dispatch_without_a_row)
        if not any(violation.startswith(f"{rule}:") for violation in found):
            missed.append(f"planted {fault.__name__}, expected {rule!r}, found {found}")
    return missed


@contextlib.contextmanager
def _unguarded(path: Path) -> Iterator[sqlite3.Connection]:
    """A copy of a ledger that lets anything be done to it."""
    db = sqlite3.connect(path, isolation_level=None)
    try:
        db.execute("PRAGMA ignore_check_constraints = ON")
        for kind, name in db.execute(
            "SELECT type, name FROM sqlite_master WHERE type = 'trigger' OR (type = 'index' AND sql IS NOT NULL)"
        ).fetchall():
            db.execute(f"DROP {kind} {name}")
        yield db
    finally:
        db.close()


def _victim(db: sqlite3.Connection, evidence: Evidence) -> Victim:
    for number, saw in evidence.saw.items():
        if saw.end == "complete" and evidence.sent[number].leaving is Leaving.NEVER:
            row, _, transfer, amount, account = db.execute(CHARGED, (saw.request_id,)).fetchone()
            return Victim(number, row, transfer, amount, account)
    raise ValueError("there is no complete answer to plant a fault for")
