"""kill -9 of the ledger alone: `python -m tests.torture.commits SEED KILLS FOLDER`, a process of its own.

It has imported everything and forks children that open the books, charge as fast as they can, and are killed within
5 ms of their first charge. A child says on a pipe what it is about to submit and what was acknowledged to it; the
parent compares that with the file. Acknowledged ⊆ present ⊆ submitted, amounts and balances included. The books are
opened by the next child as a gateway opens them, and verified whole every so many kills, after which new ones begin.
"""

import asyncio
import fcntl
import gc
import os
import random
import shutil
import signal
import sqlite3
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import uvloop

from routerx.clock import SystemClock
from routerx.domain.pricing import PriceCard, PriceSnapshot
from routerx.domain.record import AttemptRecord, BillingMode, RequestRecord
from routerx.domain.tenant import Plan, Tenant
from routerx.domain.usage import Usage, UsageSource
from routerx.ledger.opening import LedgerOptions
from routerx.ledger.proof.verify import verify_file
from routerx.ledger.sqlite import SqliteLedger, open_ledger
from tests.torture.arena import Report, spread_ms
from tests.torture.processes import ROOT, clean_environment, die_with_parent

COMMITTING_S_MAX = 0.005
STARTING_SHARE = 0.05
"""Of the kills: these come while the books are opened."""

BEGINNINGS = 5
"""So many kills of new books come while they are opened: for the first time, most of them."""

OPENING_S_MAX = 0.03
VERIFY_EVERY = 500
OPENING_NANO = 10**12
NAMES = ("north", "south", "west")
AT_ONCE = (1, 4, 24)
"""Charges that are submitted together: batches of all sizes."""

READY, SUBMITTED, ACKNOWLEDGED = b"r", b"s", b"a"
LINE = struct.Struct("<cq")
PIPE_BYTES = 1 << 20
PER_CHILD = 100_000
"""Numbers of one child's charges; each child has its own."""

ROWS = """
SELECT r.n, r.id, a.name, t.amount FROM requests AS r
LEFT JOIN transfers AS t ON t.request = r.n AND t.kind = 'charge' JOIN accounts AS a ON a.id = r.tenant
WHERE r.n > ? ORDER BY r.n"""
BALANCES = "SELECT name, balance FROM accounts WHERE kind = 'tenant'"

Say = Callable[[bytes, int], None]


def amount_nano(number: int) -> int:
    """What charge `number` is, known to both sides."""
    return 1 + number * 7919 % 100_003


def tenant_of(number: int) -> str:
    return NAMES[number % len(NAMES)]


def options(folder: Path) -> LedgerOptions:
    return LedgerOptions(
        path=str(folder / "ledger.db"), verify_interval_s=3600.0, ballast_bytes=0, free_bytes_min=0, queue_max=10**6
    )


def tenants() -> list[Tenant]:
    return [Tenant(name, Plan("plan"), opening_balance_nano=OPENING_NANO) for name in NAMES]


def record(number: int) -> RequestRecord:
    """A served request that is priced by the request alone."""
    nano = amount_nano(number)
    attempt = AttemptRecord(
        n=1, endpoint="stub/model", provider="stub", credential_id="key", outcome="ok", upstream_status=200,
        dispatched=True, started_ms=1, first_byte_ms=2, duration_ms=3, won=True,
    )  # fmt: skip
    return RequestRecord(
        id=f"req_{number}", tenant=tenant_of(number), key_id=f"key_{tenant_of(number)}", operation="chat",
        model="model", endpoint="stub/model", provider="stub", stream=False, outcome="ok", http_status=200,
        billing=BillingMode.PAID, usage=Usage(in_fresh=11, out_text=7), usage_source=UsageSource.PROVIDER,
        price=PriceSnapshot(PriceCard(0, 0, request_nano=nano)), cost_nano=nano, held_nano=nano,
        provider_cost_nano=nano, started_ns=time.time_ns(), duration_ms=3, ttft_ms=2, overhead_us=1,
        attempts=(attempt,),
    )  # fmt: skip


async def charge(ledger: SqliteLedger, numbers: range, say: Say) -> None:
    """Hold and settle all of them at once, and return when the last is durable."""
    by_name = {tenant.name: tenant for tenant in tenants()}
    waiting: list[asyncio.Future[None]] = []
    for number in numbers:
        hold = ledger.hold(by_name[tenant_of(number)], amount_nano(number))
        say(SUBMITTED, number)
        durable = ledger.settle(record(number), hold).durable
        assert durable is not None
        durable.add_done_callback(lambda future, number=number: say(ACKNOWLEDGED, number))  # type: ignore[misc]
        waiting.append(durable)
    await asyncio.gather(*waiting)


async def _commit_without_end(folder: Path, first: int, say: Say) -> None:
    """The child."""
    rng = random.Random(first)
    ledger = await open_ledger(options(folder), SystemClock())
    await ledger.sync_tenants(tenants())
    await charge(ledger, range(first, first + 1), say)
    say(READY, 0)
    number = first + 1
    while True:
        count = rng.choice(AT_ONCE)
        await charge(ledger, range(number, number + count), say)
        number += count


class Heard(msgspec.Struct):
    """What a child said before it was killed."""

    submitted: set[int] = msgspec.field(default_factory=set)
    acknowledged: set[int] = msgspec.field(default_factory=set)


class Books:
    """One ledger's file as far as it was compared."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = 0
        self._due: dict[str, int] = {}
        """Tenant → nano-USD, once its opening balance was seen."""

    def compare(self, heard: Heard) -> tuple[int, list[str]]:
        """(rows that are new, what is wrong with them)."""
        path = self.folder / "ledger.db"
        try:
            rows, balances = _read(f"file:{path}?mode=ro", self.rows) if path.exists() else ([], {})
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_READONLY:
                raise
            # Killed while the file was made: what is begun has to be rolled back first, and not in the original.
            with tempfile.TemporaryDirectory(dir=self.folder) as copies:
                for file in self.folder.glob("ledger.db*"):
                    shutil.copy(file, copies)
                rows, balances = _read(f"file:{copies}/ledger.db", self.rows)
        return len(rows), self._judge(rows, balances, heard)

    def _judge(self, rows: list[tuple[int, str, str, int]], balances: dict[str, int], heard: Heard) -> list[str]:
        found: list[str] = []
        for name, balance in balances.items():
            if balance:
                self._due.setdefault(name, OPENING_NANO)
        present: Counter[int] = Counter()
        for row, request_id, name, nano in rows:
            number = int(request_id.removeprefix("req_"))
            present[number] += 1
            if row != self.rows + 1:
                found.append(f"gap: row {row} follows row {self.rows}")
            self.rows = row
            if (name, nano) != (tenant_of(number), amount_nano(number)):
                found.append(f"wrong: {number} is charged {nano} to {name}")
            self._due[name] -= nano if nano is not None else 0
        found += [f"lost: {number}" for number in sorted(heard.acknowledged - present.keys())]
        found += [f"invented: {number}" for number in sorted(present.keys() - heard.submitted)]
        found += [f"twice: {number}" for number, count in present.items() if count > 1]
        found += [f"balance: {name} has {balances[name]}, not {due}" for name, due in self._due.items()
                  if balances.get(name) != due]  # fmt: skip
        return found


def _read(uri: str, after: int) -> tuple[list[tuple[int, str, str, int]], dict[str, int]]:
    """Rows after row `after`, and all balances; of a file without tables: nothing. Raises sqlite3.Error."""
    connection = sqlite3.connect(uri, uri=True, isolation_level=None)
    try:
        connection.execute("BEGIN")
        if connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'requests'").fetchone() is None:
            return [], {}
        return connection.execute(ROWS, (after,)).fetchall(), dict(connection.execute(BALANCES).fetchall())
    finally:
        connection.close()


class Tally(msgspec.Struct):
    """What it came to."""

    acknowledged: int = 0
    present: int = 0
    submitted: int = 0
    starting: int = 0
    verified: int = 0
    opened_s: list[float] = []


def kill_ledgers(seed: int, kills: int, folder: Path) -> Report:
    """All of it, in this process. Nothing that a child must not inherit is open when it forks."""
    report = Report(f"kill -9 of the ledger alone ({kills} kills, seed {seed})")
    rng, tally = random.Random(seed), Tally()
    gc.collect()
    gc.freeze()
    books = Books(_fresh(folder, 0))
    for kill in range(kills):
        is_opening = kill % VERIFY_EVERY < BEGINNINGS or rng.random() < STARTING_SHARE
        tally.starting += is_opening
        heard = _one(books.folder, (kill + 1) * PER_CHILD, rng.uniform(0, OPENING_S_MAX) if is_opening else None, tally)
        new, found = books.compare(heard)
        report.violations += [f"kill {kill}: {line}" for line in found]
        tally.acknowledged += len(heard.acknowledged)
        tally.submitted += len(heard.submitted)
        tally.present += new
        if (kill + 1) % VERIFY_EVERY == 0 or kill + 1 == kills:
            if books.rows:
                verified = verify_file(str(books.folder / "ledger.db"))
                report.violations += verified.violations
                tally.verified += verified.checked_requests
            books = Books(_fresh(folder, kill + 1))
    report.figures["kills"] = f"{kills - tally.starting} while committing, {tally.starting} while opening"
    report.figures["charges"] = (
        f"{tally.acknowledged} acknowledged, {tally.present} present, {tally.submitted} submitted, "
        f"{tally.verified} verified again in whole files"
    )
    report.figures["first charge after a kill"] = spread_ms(tally.opened_s) + " from the fork on"
    report.figures["lost, invented, wrong"] = str(len(report.violations))
    return report


def _fresh(folder: Path, kill: int) -> Path:
    place = folder / f"books-{kill}"
    place.mkdir(parents=True)
    return place


def _one(folder: Path, first: int, after_s: float | None, tally: Tally) -> Heard:
    """One child from its fork to its end: `after_s` from there, or within 5 ms of its first charge."""
    reader, writer = os.pipe()
    if sys.platform == "linux":
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    began_s = time.monotonic()
    pid = os.fork()
    if pid == 0:
        die_with_parent()
        os.close(reader)

        def say(what: bytes, number: int) -> None:
            os.write(writer, LINE.pack(what, number))

        try:
            uvloop.run(_commit_without_end(folder, first, say))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(70)
    os.close(writer)
    try:
        if after_s is not None:
            time.sleep(after_s)
            data = b""
        else:
            data = _until_ready(reader)
            tally.opened_s.append(time.monotonic() - began_s)
            time.sleep(random.Random(first).uniform(0, COMMITTING_S_MAX))
    finally:
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    with os.fdopen(reader, "rb") as stream:
        data += stream.read()
    if not os.WIFSIGNALED(status):
        raise RuntimeError(f"the ledger of {folder} ended by itself, with status {status}")
    return _heard(data)


def _until_ready(reader: int) -> bytes:
    """What a child has said when it says that it is ready. Returns early where the child ended."""
    data = b""
    while line := os.read(reader, LINE.size):
        data += line
        if line[:1] == READY:
            break
    return data


def _heard(data: bytes) -> Heard:
    heard = Heard()
    for what, number in LINE.iter_unpack(data):
        match what:
            case b"s":
                heard.submitted.add(number)
            case b"a":
                heard.acknowledged.add(number)
    return heard


async def prove_commits(folder: Path, seed: int, kills: int) -> Report:
    """The same in a process of its own, so that it runs beside another proof."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.torture.commits", str(seed), str(kills), str(folder),
        cwd=ROOT, env=clean_environment(), stdout=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = await child.communicate()
        return msgspec.json.decode(output, type=Report)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


if __name__ == "__main__":
    die_with_parent()
    result = kill_ledgers(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    sys.stdout.buffer.write(msgspec.json.encode(result))
