"""How a ledger answers as it grows: the same questions at 10,000 requests, 100,000, a million and --rows of them.

Rows are written by the ledger's own batches, hash chain and daily figures included, but without waiting for the disk;
the questions are then asked of the ledger as the server runs it. What is asked while calls are served must not take
longer the more there is; opening a ledger and proving it whole are shown beside it.
"""

import argparse
import asyncio
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from routerx import jsonx
from routerx.clock import SystemClock
from routerx.domain.pricing import PriceCard, PriceSnapshot, cost_nano
from routerx.domain.record import AttemptRecord, BillingMode, RequestRecord
from routerx.domain.tenant import Plan, Tenant
from routerx.domain.usage import Usage, UsageSource
from routerx.ledger.base import LogQuery, UsageQuery
from routerx.ledger.batch import Batch, load_state
from routerx.ledger.beside.requestlog import encode
from routerx.ledger.budget import day_of
from routerx.ledger.database import connect
from routerx.ledger.opening import LedgerOptions
from routerx.ledger.ops import Settle
from routerx.ledger.proof.verify import Verified, verify_file
from routerx.ledger.sqlite import SqliteLedger, open_ledger

USD = 10**9
TENANTS = tuple(Tenant(f"tenant-{n}", Plan("bench"), opening_balance_nano=10**6 * USD) for n in range(50))
SPACING_NS = 1_000_000
"""Between two requests: a thousand a second, so that ten million are less than three hours."""
COMMIT_ROWS = 20_000
FLUSH_ROWS = 64
REPEATS = 20
PER_INCREMENT = 500

TERMS = PriceSnapshot(PriceCard(2_500_000, 10_000_000), 1_000)
USAGE = Usage(in_fresh=900, out_text=120)
PLAIN = RequestRecord(
    id="",
    tenant="",
    key_id="key_0123456789ab",
    operation="chat",
    model="model",
    endpoint="vendor/model",
    provider="vendor",
    stream=True,
    outcome="ok",
    http_status=200,
    billing=BillingMode.PAID,
    usage=USAGE,
    usage_source=UsageSource.PROVIDER,
    price=TERMS,
    cost_nano=cost_nano(USAGE, TERMS),
    held_nano=cost_nano(USAGE, TERMS),
    provider_cost_nano=3_000_000,
    started_ns=0,
    duration_ms=900,
    ttft_ms=200,
    overhead_us=300,
    attempts=(AttemptRecord(1, "vendor/model", "vendor", "cred", "ok", 200, True, 1, 200, 900, True, 3_000_000),),
)


def record(number: int, started_ns: int) -> RequestRecord:
    return msgspec.structs.replace(
        PLAIN, id=f"req_{number:012d}", tenant=TENANTS[number % len(TENANTS)].name, started_ns=started_ns
    )


def fill(folder: Path, first: int, last: int, begin_ns: int) -> None:
    """Requests `first` to `last`, into the books and the request log."""
    books, log = connect(str(folder / "ledger.db"), 5.0), connect(str(folder / "requests.db"), 5.0)
    for connection in (books, log):
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -262144")
    state = load_state(books)
    detail = encode(PLAIN)
    for start in range(first, last + 1, COMMIT_ROWS):
        books.execute("BEGIN")
        batch = Batch(books, state)
        numbers = range(start, min(start + COMMIT_ROWS, last + 1))
        for number in numbers:
            now_ns = begin_ns + number * SPACING_NS
            Settle(record(number, now_ns), (PLAIN.cost_nano, 0), now_ns, day_of(now_ns), None).apply(batch)
            if number % FLUSH_ROWS == 0:
                batch.flush()
        batch.flush()
        books.execute("COMMIT")
        batch.merge()
        log.execute("BEGIN")
        log.executemany(
            "INSERT INTO log(id, tenant, model, outcome, started_ns, detail) VALUES (?, ?, 'model', 'ok', ?, ?)",
            (
                (f"req_{number:012d}", TENANTS[number % len(TENANTS)].name, begin_ns + number * SPACING_NS, detail)
                for number in numbers
            ),
        )
        log.execute("COMMIT")
        print(f"\r{numbers[-1]:,} requests", end="", flush=True)
    # As if it had been served and verified all the while; --verify proves that this is right.
    mark = Verified(
        state.last_transfer,
        state.last_transfer_hash.hex(),
        state.last_ts_ns,
        state.last_request,
        state.last_audit,
        state.last_audit_hash.hex(),
        0,
    )
    books.execute("UPDATE meta SET value = ? WHERE key = 'verified'", (jsonx.encode(mark).decode(),))
    for connection in (books, log):
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        connection.close()
    print("\r", end="")


async def timed(work: Callable[[], Awaitable[object]], repeats: int = REPEATS) -> float:
    """Median of milliseconds."""
    samples = []
    for _ in range(repeats):
        started_s = time.perf_counter()
        await work()
        samples.append((time.perf_counter() - started_s) * 1000)
    return statistics.median(samples)


async def questions(ledger: SqliteLedger, newest_ns: int) -> dict[str, float]:
    """What is asked while calls are served → milliseconds."""
    who = TENANTS[7]

    async def top_up() -> None:
        await ledger.top_up(who.name, USD, actor="bench", reference=None, note=None)

    async def charge() -> None:
        hold = ledger.hold(who, PLAIN.cost_nano)
        receipt = ledger.settle(msgspec.structs.replace(record(7, time.time_ns()), id=f"new_{time.time_ns()}"), hold)
        assert receipt.durable is not None
        await receipt.durable

    async def balance() -> None:
        ledger.funds(who.name)

    async def increment() -> None:
        for _ in range(PER_INCREMENT):
            done = msgspec.structs.replace(record(7, time.time_ns()), id=f"inc_{time.time_ns()}")
            last = ledger.settle(done, ledger.hold(who, done.cost_nano))
        assert last.durable is not None
        await last.durable

    figures = {
        "top-up": await timed(top_up),
        "charge": await timed(charge),
        "balance": await timed(balance),
        "last 50 transfers": await timed(lambda: ledger.transfers(who.name, 50)),
        "logs tail": await timed(lambda: ledger.log(LogQuery())),
        "logs tail --tenant": await timed(lambda: ledger.log(LogQuery(tenant=who.name))),
        "logs tail --outcome": await timed(lambda: ledger.log(LogQuery(outcome="nothing"))),
        "stats of 2 s": await timed(lambda: ledger.usage(UsageQuery(newest_ns - 2 * USD, USD, who.name))),
    }
    samples = []
    for _ in range(5):
        await increment()
        samples.append(await timed(ledger._watch.verify, 1))
    figures[f"verify {PER_INCREMENT} new"] = statistics.median(samples)
    return figures


async def measure(folder: Path, newest_ns: int) -> dict[str, float]:
    started_s = time.perf_counter()
    ledger = await open_ledger(LedgerOptions(path=str(folder / "ledger.db")), SystemClock())
    opened_s = time.perf_counter()
    try:
        await ledger.sync_tenants(TENANTS)
        await ledger._watch.verify()
        proven_s = time.perf_counter()
        figures = await questions(ledger, newest_ns)
    finally:
        await ledger.close()
    return figures | {"open": (opened_s - started_s) * 1000, "prove at start": (proven_s - opened_s) * 1000}


def show(table: dict[int, dict[str, float]]) -> None:
    """Questions by row, sizes by column, milliseconds."""
    sizes = list(table)
    print(f"{'milliseconds at':<22}" + "".join(f"{size:>14,}" for size in sizes))
    for name in table[sizes[0]]:
        print(f"{name:<22}" + "".join(f"{table[size][name]:>14,.2f}" for size in sizes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000, help="requests in the largest ledger")
    parser.add_argument("--folder", help="where to make it; a temporary folder, removed at the end, unless given")
    parser.add_argument("--verify", action="store_true", help="prove the largest ledger whole, too")
    asked = parser.parse_args()
    folder = Path(asked.folder if asked.folder is not None else tempfile.mkdtemp(prefix="routerx-bench-"))
    try:
        sizes = [size for size in (10_000, 100_000, 1_000_000) if size < asked.rows] + [asked.rows]
        begin_ns = time.time_ns() - asked.rows * SPACING_NS - 60 * USD
        asyncio.run(measure(folder, begin_ns))
        table: dict[int, dict[str, float]] = {}
        last = 0
        for size in sizes:
            started_s = time.perf_counter()
            fill(folder, last + 1, size, begin_ns)
            last = size
            print(f"{size:,} requests ({time.perf_counter() - started_s:,.0f} s)")
            table[size] = asyncio.run(measure(folder, begin_ns + size * SPACING_NS))
        show(table)
        print(f"ledger.db has {(folder / 'ledger.db').stat().st_size:,} bytes; SQLite {sqlite3.sqlite_version}")
        if asked.verify:
            report = verify_file(str(folder / "ledger.db"))
            print(f"proven whole in {report.duration_ms / 1000:,.0f} s: {len(report.violations)} violations")
    finally:
        if asked.folder is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
