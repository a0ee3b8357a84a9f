"""No question that is asked while calls are served reads a table through: SQLite's own plans say so.

Statements are taken as they run, from every connection of a ledger at work, and explained on its own files.
"""

import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from routerx.errors import Conflict
from routerx.ledger.base import LogQuery, UsageQuery
from routerx.ledger.database import connect, connect_read_only
from routerx.ledger.proof import watch
from routerx.ledger.sqlite import SqliteLedger
from tests.support.clock import START_NS, ManualClock
from tests.unit.ledger.ledger_kit import USD, ledger_file, opened, pay, query, record, tenant
from tests.unit.ledger.test_corrections import CARD, at, rated, settle

ACME = tenant(opening=10 * USD)
GROWING = ("transfers", "requests", "attempts", "audit", "log", "days", "key_days", "pruned_days")
"""Tables that grow with traffic or time."""


class Seen:
    """Statements in the order they ran, while `on`."""

    def __init__(self) -> None:
        self.on = False
        self.statements: list[str] = []

    def hear(self, statement: str) -> None:
        if self.on:
            self.statements.append(statement)

    @contextmanager
    def listening(self) -> Iterator[list[str]]:
        self.statements, self.on = [], True
        try:
            yield self.statements
        finally:
            self.on = False


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    seen = Seen()

    def heard(path: str, busy_timeout_s: float = 5.0) -> sqlite3.Connection:
        connection = connect_read_only(path, busy_timeout_s)
        connection.set_trace_callback(seen.hear)
        return connection

    monkeypatch.setattr(watch, "connect_read_only", heard)
    return seen


@pytest.fixture
async def ledger(tmp_path: Path, seen: Seen) -> AsyncIterator[SqliteLedger]:
    def heard(path: str, busy_timeout_s: float) -> sqlite3.Connection:
        connection = connect(path, busy_timeout_s)
        connection.set_trace_callback(seen.hear)
        return connection

    async with opened(tmp_path, ManualClock(), heard) as ledger:
        for reader in (ledger._books_reader, ledger._log_reader):
            await reader._connection.set_trace_callback(seen.hear)
        await ledger.sync_tenants([ACME])
        await settle(ledger, rated(id="req_1"))
        await pay(ledger, ACME, USD)
        await ledger._watch.verify()
        yield ledger


def scans(folder: Path, statements: list[str]) -> list[str]:
    """Steps of the statements' plans that read a growing table from one end to the other, or sort the log."""
    books, log = (sqlite3.connect(ledger_file(folder).with_name(name)) for name in ("ledger.db", "requests.db"))
    found = []
    for statement in statements:
        if not re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)", statement):
            continue
        asks_log = re.search(r"\b(FROM|INTO) log\b", statement) is not None
        plan = (log if asks_log else books).execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
        # A walk along the row numbers that ends at its LIMIT reads no more than it gives.
        is_walk = re.search(r"FROM log\s+ORDER BY seq (ASC|DESC) LIMIT \d+$", statement) is not None
        tables = {alias: table for table, alias in re.findall(r"(\w+) AS (\w)\b", statement)}
        for *_, step in plan:
            read = re.match(r"SCAN (\w+)", step)
            name = "" if read is None else tables.get(read[1], read[1])
            if (name in GROWING and not is_walk) or (asks_log and "TEMP B-TREE FOR ORDER BY" in step):
                found.append(f"{step}: {statement}")
    books.close()
    log.close()
    return found


async def hold_and_settle(ledger: SqliteLedger) -> None:
    await pay(ledger, ACME, 1_000)


async def settle_free(ledger: SqliteLedger) -> None:
    ledger.settle(record(), None)
    await pay(ledger, ACME, 1_000)


async def settle_again(ledger: SqliteLedger) -> None:
    done = rated(id="req_1")
    ledger._books._recent.__init__()
    await ledger.settle(done, ledger.hold(ACME, done.cost_nano)).durable


async def top_up(ledger: SqliteLedger) -> None:
    await ledger.top_up("acme", 5, actor="op", reference="r", note=None)
    await ledger.top_up("acme", 5, actor="op", reference="r", note=None)


async def adjust(ledger: SqliteLedger) -> None:
    await ledger.adjust("acme", -5, actor="op", note=None)


async def refund(ledger: SqliteLedger) -> None:
    await ledger.bookkeeper.refund(("acme", "req_1"), 5, actor="op", reference=None, note=None)
    with pytest.raises(Conflict):
        await ledger.bookkeeper.refund(("acme", "req_1"), USD, actor="op", reference=None, note=None)


async def rerate(ledger: SqliteLedger) -> None:
    assert (await ledger.bookkeeper.rerate(at(type(CARD)(0, 0)))).corrected == 2


async def tail_log(ledger: SqliteLedger) -> None:
    for asked in (
        LogQuery(),
        LogQuery(tenant="acme"),
        LogQuery(model="model"),
        LogQuery(outcome="ok"),
        LogQuery(tenant="acme", model="model", outcome="ok"),
        LogQuery(after_id="req_1"),
        LogQuery(after_id="req_1", tenant="acme"),
        LogQuery(after_id="gone"),
    ):
        await ledger.log(asked)


async def look_at_requests(ledger: SqliteLedger) -> None:
    await ledger.request("req_1")
    await ledger.request("gone")


async def tenant_stats(ledger: SqliteLedger) -> None:
    ledger.funds("acme")
    await ledger.transfers("acme", 50)
    await ledger.usage(UsageQuery(START_NS, 60 * USD))
    await ledger.usage(UsageQuery(START_NS, 60 * USD, "acme"))


async def verify_what_is_new(ledger: SqliteLedger) -> None:
    await refund(ledger)
    await ledger._watch.verify()


async def prune(ledger: SqliteLedger) -> None:
    await ledger.bookkeeper.prune(START_NS + 2 * 86_400 * USD, actor="op", dry_run=False)


WORK: tuple[Callable, ...] = (
    hold_and_settle,
    settle_free,
    settle_again,
    top_up,
    adjust,
    refund,
    rerate,
    tail_log,
    look_at_requests,
    tenant_stats,
    verify_what_is_new,
    prune,
)


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
async def test_no_table_is_read_through(tmp_path: Path, ledger: SqliteLedger, seen: Seen, work: Callable):
    with seen.listening() as statements:
        await work(ledger)
    assert statements
    assert scans(tmp_path, statements) == []


async def test_a_scan_would_be_seen(tmp_path: Path, ledger: SqliteLedger):
    bad = [
        "SELECT count(*) FROM requests WHERE cost > 5",
        "SELECT t.id FROM transfers AS t WHERE t.tenant = 4",
        "SELECT detail FROM log WHERE started_ns > 5 ORDER BY seq LIMIT 5",
        "SELECT detail FROM log ORDER BY started_ns LIMIT 5",
    ]
    assert len({line.split(": ")[1] for line in scans(tmp_path, bad)}) == len(bad)
    assert query(ledger_file(tmp_path), "SELECT count(*) FROM requests") == [(2,)]
