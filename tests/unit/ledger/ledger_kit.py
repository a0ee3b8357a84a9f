"""Tenants, records and ledgers for the tests of the books."""

import itertools
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from routerx.domain.pricing import PriceCard, PriceSnapshot
from routerx.domain.record import AttemptRecord, BillingMode, RequestRecord
from routerx.domain.tenant import Billing, Period, Plan, SpendLimit, Tenant
from routerx.domain.usage import Usage, UsageSource
from routerx.ledger.database import Connect, connect
from routerx.ledger.opening import LedgerOptions
from routerx.ledger.sqlite import SqliteLedger, open_ledger
from tests.support.clock import START_NS, ManualClock

USD = 10**9
_ids = itertools.count(1)


def tenant(
    name: str = "acme",
    *,
    billing: Billing = Billing.PREPAID,
    opening: int = 0,
    limit: tuple[int, Period] | None = None,
) -> Tenant:
    spend_limit = None if limit is None else SpendLimit(*limit)
    return Tenant(name, Plan("plan", billing=billing, spend_limit=spend_limit), opening_balance_nano=opening)


def attempt(n: int = 1, *, won: bool = True, outcome: str = "ok") -> AttemptRecord:
    return AttemptRecord(
        n=n,
        endpoint="acme-ai/model",
        provider="acme-ai",
        credential_id="abcd1234",
        outcome=outcome,
        upstream_status=200 if won else 500,
        dispatched=True,
        started_ms=1,
        first_byte_ms=20,
        duration_ms=30,
        won=won,
    )


def record(cost_nano: int = 0, name: str = "acme", /, **changes: object) -> RequestRecord:
    """A served request that costs exactly `cost_nano`: priced per request. Free when that is 0."""
    values = {
        "id": f"req_{next(_ids):028x}",
        "tenant": name,
        "key_id": "key_000000000001",
        "operation": "chat",
        "model": "model",
        "endpoint": "acme-ai/model",
        "provider": "acme-ai",
        "stream": False,
        "outcome": "ok",
        "http_status": 200,
        "billing": BillingMode.PAID if cost_nano else BillingMode.FREE,
        "usage": Usage(in_fresh=11, out_text=7),
        "usage_source": UsageSource.PROVIDER,
        "price": PriceSnapshot(PriceCard(0, 0, request_nano=cost_nano)),
        "cost_nano": cost_nano,
        "held_nano": cost_nano,
        "provider_cost_nano": cost_nano,
        "started_ns": START_NS,
        "duration_ms": 40,
        "ttft_ms": 20,
        "overhead_us": 150,
        "attempts": (attempt(),),
    }
    return RequestRecord(**(values | changes))


def refused(name: str = "acme", outcome: str = "rejected_balance") -> RequestRecord:
    """A request that was turned away before anything was sent."""
    return record(0, name, outcome=outcome, http_status=402, billing=BillingMode.VOID, usage=None, attempts=())


def options(folder: Path, **changes: object) -> LedgerOptions:
    values = {"path": str(folder / "data" / "ledger.db"), "ballast_bytes": 0, "free_bytes_min": 0}
    return LedgerOptions(**(values | changes))


@asynccontextmanager
async def opened(
    folder: Path, clock: ManualClock | None = None, connect: Connect = connect, **changes: object
) -> AsyncIterator[SqliteLedger]:
    ledger = await open_ledger(options(folder, **changes), clock if clock is not None else ManualClock(), connect)
    try:
        yield ledger
    finally:
        await ledger.close()


async def pay(ledger: SqliteLedger, who: Tenant, cost_nano: int, hold_nano: int | None = None) -> RequestRecord:
    """Hold, settle, wait until it is durable."""
    hold = ledger.hold(who, cost_nano if hold_nano is None else hold_nano)
    done = record(cost_nano, who.name, held_nano=hold.amount_nano)
    receipt = ledger.settle(done, hold)
    assert receipt.durable is not None
    await receipt.durable
    return done


def query(path: str | Path, sql: str, *parameters: object) -> list[tuple[object, ...]]:
    """Ask the file itself."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return connection.execute(sql, parameters).fetchall()
    finally:
        connection.close()


def ledger_file(folder: Path) -> Path:
    return folder / "data" / "ledger.db"


class FaultyConnection(sqlite3.Connection):
    """Raises `fault.error` instead of the statements that begin with `fault.at`, `fault.times` times."""

    fault: "Fault"

    def execute(self, sql: str, *parameters: object) -> sqlite3.Cursor:
        self.fault.strike(self, sql)
        return super().execute(sql, *parameters)


class Fault:
    """A switch for a sick disk."""

    def __init__(self) -> None:
        self.code = 0
        self.at = "COMMIT"
        self.times = 0
        self.after = False
        """The statement works, and its success is lost on the way back (a failed flush)."""

    def set(self, code: int, times: int, at: str = "COMMIT", *, after: bool = False) -> None:
        self.code, self.times, self.at, self.after = code, times, at, after

    def strike(self, connection: sqlite3.Connection, sql: str) -> None:
        if self.times > 0 and sql.startswith(self.at):
            self.times -= 1
            if self.after:
                sqlite3.Connection.execute(connection, sql)
            error = sqlite3.OperationalError("planted")
            error.sqlite_errorcode = self.code
            raise error

    def connect(self, path: str, busy_timeout_s: float) -> sqlite3.Connection:
        connection = sqlite3.connect(
            path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False, factory=FaultyConnection
        )
        connection.fault = self
        return connection


def replaced(value: RequestRecord, **changes: object) -> RequestRecord:
    return msgspec.structs.replace(value, **changes)
