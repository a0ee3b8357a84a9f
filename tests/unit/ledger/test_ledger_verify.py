"""The checker checked: each planted fault in a good ledger is found, and the good ledger is found good."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from routerx.domain.pricing import PriceCard, PriceSnapshot, cost_nano
from routerx.domain.record import BillingMode
from routerx.domain.tenant import Billing
from routerx.domain.usage import Usage
from routerx.errors import LedgerUnusable, StorageUnavailable
from routerx.ledger.batch import link
from routerx.ledger.proof.verify import verify_file
from tests.support.clock import ManualClock
from tests.unit.ledger.ledger_kit import USD, attempt, ledger_file, opened, pay, query, record, tenant

ACME = tenant(opening=10 * USD)
OTHER = tenant("other", opening=10 * USD)


async def build(folder: Path) -> None:
    """Three charges, a write-off, a free and a failed request, a key, payments, two days, one of them postpaid."""
    clock = ManualClock()
    async with opened(folder, clock) as ledger:
        await ledger.sync_tenants([ACME, OTHER, tenant("big", billing=Billing.POSTPAID)])
        await ledger.issue_key("acme", actor="op", label=None)
        (key,) = await ledger.keys("acme")
        terms = PriceSnapshot(PriceCard(2_500_000, 10_000_000, cache_read_pico=1_250_000), 1_000)
        usage = Usage(in_fresh=1_000, in_cache_read=77, out_text=501)
        cost = cost_nano(usage, terms)
        real = record(cost, key_id=key.id, usage=usage, price=terms, attempts=(attempt(won=False), attempt(2)))
        await ledger.settle(real, ledger.hold(ACME, cost)).durable
        await pay(ledger, OTHER, USD)
        clock.advance(86_400)
        await pay(ledger, tenant("big", billing=Billing.POSTPAID), USD)
        await pay(ledger, OTHER, 20 * USD, hold_nano=USD)
        ledger.settle(record(), None)
        failed = record(0, outcome="upstream_5xx", billing=BillingMode.VOID, attempts=(attempt(won=False),))
        ledger.settle(failed, None)
        await ledger.top_up("acme", USD, actor="op", reference="pay-1", note="ü")
        await ledger.adjust("acme", -USD // 2, actor="op", note=None)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    asyncio.run(build(tmp_path))
    return ledger_file(tmp_path)


def tamper(path: Path, *statements: str) -> None:
    """Edit the file as somebody with full access would: guards and indexes gone, nothing checked."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA foreign_keys = OFF")
    connection.execute("PRAGMA ignore_check_constraints = ON")
    for kind, name in connection.execute(
        "SELECT type, name FROM sqlite_schema WHERE type = 'trigger' OR (type = 'index' AND sql IS NOT NULL)"
    ).fetchall():
        connection.execute(f"DROP {kind} {name}")
    for statement in statements:
        assert connection.execute(statement).rowcount != 0, statement
    connection.close()


def rechain(path: Path) -> None:
    """What a forger would do next: compute the transfers' chain anew."""
    connection = sqlite3.connect(path, isolation_level=None)
    rows = connection.execute(
        "SELECT t.id, t.ts_ns, t.kind, t.debit, t.credit, t.amount, t.tenant, t.balance, t.previous, r.id, t.ext_ref,"
        " t.reverses, t.actor, t.note FROM transfers AS t LEFT JOIN requests AS r ON r.n = t.request ORDER BY t.id"
    ).fetchall()
    digest = bytes(32)
    for row in rows:
        previous, digest = digest, link(digest, row)
        connection.execute("UPDATE transfers SET prev_hash = ?, hash = ? WHERE id = ?", (previous, digest, row[0]))
    connection.close()


CHARGE = (
    "(SELECT max(t.id) FROM transfers AS t JOIN accounts AS a ON a.id = t.tenant"
    " WHERE t.kind = 'charge' AND a.name = 'acme')"
)
COPY = (
    "INSERT INTO transfers SELECT id + 100, ts_ns, kind, debit, credit, amount, tenant, balance, previous, request,"
    " ext_ref, reverses, actor, note, prev_hash, hash FROM transfers WHERE "
)
ORPHAN = (
    "INSERT INTO attempts SELECT 999, n, endpoint, provider, credential_id, outcome, upstream_status, dispatched,"
    " started_ms, first_byte_ms, duration_ms, won, cost_est FROM attempts WHERE request = 1 AND n = 1"
)
REFUND = (
    "INSERT INTO transfers SELECT max(id) + 1, ts_ns, 'refund', 2, tenant, 1 << 40, tenant, 0, NULL, NULL, NULL,"
    " (SELECT id FROM transfers WHERE kind = 'charge' LIMIT 1), 'op', NULL, hash, hash FROM transfers"
)
RERATING = (
    "INSERT INTO transfers SELECT (SELECT max(id) + 1 FROM transfers), ts_ns, 'adjustment', 2, tenant, amount + 1,"
    " tenant, 0, NULL, request, 'rerate', NULL, 'op', NULL, hash, hash FROM transfers WHERE id = "
)

FAULTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "lost charge": ("I5", (f"DELETE FROM transfers WHERE id = {CHARGE}",)),
    "double charge": (
        "I5",
        (COPY + "id = " + CHARGE,),
    ),
    "wrong amount": ("I5", (f"UPDATE transfers SET amount = amount + 1 WHERE id = {CHARGE}",)),
    "missing row": ("I6", ("DELETE FROM requests WHERE n = 2",)),
    "missing free row": ("I11", ("DELETE FROM requests WHERE billing = 'free'",)),
    "broken chain": ("I11", ("UPDATE transfers SET hash = zeroblob(32) WHERE id = 3",)),
    "edited note": ("I11", ("UPDATE transfers SET note = 'mine' WHERE ext_ref = 'pay-1'",)),
    "edited audit": ("I11", ("UPDATE audit SET actor = 'nobody' WHERE id = 2",)),
    "lost audit": ("I11", ("DELETE FROM audit WHERE id = 2",)),
    "negative balance": ("I4", ("UPDATE accounts SET balance = -1 WHERE name = 'acme'",)),
    "wrong balance": ("I1", ("UPDATE accounts SET balance = balance + 1 WHERE name = 'acme'",)),
    "unbalanced": ("I2", ("UPDATE accounts SET balance = balance + 1 WHERE kind = 'house_cash'",)),
    "wrong tenant": (
        "I17",
        ("UPDATE requests SET tenant = (SELECT id FROM accounts WHERE name = 'other') WHERE n = 1",),
    ),
    "swapped names": (
        "I11",
        (
            "UPDATE accounts SET name = 'tmp' WHERE name = 'acme'",
            "UPDATE accounts SET name = 'acme' WHERE name = 'other'",
            "UPDATE accounts SET name = 'other' WHERE name = 'tmp'",
        ),
    ),
    "reordered ts": ("I12", ("UPDATE transfers SET ts_ns = ts_ns - 86400000000000 * 9 WHERE id = 4",)),
    "orphan attempt": ("I13", (ORPHAN,)),
    "lost attempt": ("I13", ("DELETE FROM attempts WHERE request = 1 AND n = 1",)),
    "two winners": ("I13", ("UPDATE attempts SET won = 1 WHERE request = 1",)),
    "wrong cost": ("I9", ("UPDATE requests SET usage = replace(usage, '1000', '1001') WHERE n = 1",)),
    "wrong price": ("I9", ("UPDATE requests SET price = replace(price, '2500000', '250000') WHERE n = 1",)),
    "unreadable usage": ("I9", ("UPDATE requests SET usage = '{' WHERE n = 1",)),
    "charged though free": ("I6", ("UPDATE requests SET billing = 'free' WHERE n = 1",)),
    "hidden write-off": ("I8", ("UPDATE requests SET flags = '' WHERE written_off > 0",)),
    "no outcome": ("I7", ("UPDATE requests SET outcome = '' WHERE n = 1",)),
    "daily figures": ("I16", ("UPDATE days SET charged = charged + 1",)),
    "top-up without reference": ("I19", ("UPDATE transfers SET ext_ref = NULL WHERE ext_ref = 'pay-1'",)),
    "payment twice": (
        "I19",
        (COPY + "ext_ref = 'pay-1'",),
    ),
    "refund above the charge": ("I10", (REFUND,)),
    "refund of another's charge": (
        "I10",
        (REFUND.replace("1 << 40", "1"), "UPDATE transfers SET reverses = 1 WHERE kind = 'refund'"),
    ),
    "re-rating above the charge": ("I10", (RERATING + CHARGE,)),
    "re-rating of another's request": (
        "I17",
        (RERATING + CHARGE, "UPDATE transfers SET request = 2, amount = 1 WHERE ext_ref = 'rerate'"),
    ),
    "charge as a fee": ("I6", (f"UPDATE transfers SET kind = 'byok_fee' WHERE id = {CHARGE}",)),
    "paid as by an own key": ("I6", ("UPDATE requests SET billing = 'byok' WHERE n = 1",)),
    "paid as from the cache": ("I6", ("UPDATE requests SET billing = 'cached' WHERE n = 1",)),
    "foreign key": ("I18", ("UPDATE keys SET tenant = 999",)),
}


def violations(path: Path) -> list[str]:
    return list(verify_file(str(path)).violations)


def test_a_good_ledger_is_proven(good: Path):
    report = verify_file(str(good))
    assert report.violations == ()
    assert (report.checked_transfers, report.checked_requests, report.tenants) == (9, 6, 3)


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_caught(good: Path, name: str):
    invariant, statements = FAULTS[name]
    tamper(good, *statements)
    found = violations(good)
    assert any(line.startswith(f"{invariant}:") for line in found), found


@pytest.mark.parametrize("name", ["lost charge", "wrong amount", "missing row", "reordered ts", "wrong tenant"])
def test_a_forger_who_mends_the_chain_is_caught_by_the_sums(good: Path, name: str):
    tamper(good, *FAULTS[name][1])
    rechain(good)
    assert violations(good)


@pytest.mark.parametrize(
    ("table", "statement"),
    [
        ("transfers", "UPDATE transfers SET amount = amount + 0.5 WHERE id = 1"),
        ("requests", "UPDATE requests SET cost = cost + 0.5 WHERE n = 1"),
        ("accounts", "UPDATE accounts SET balance = balance + 0.5"),
    ],
)
def test_a_fraction_of_the_smallest_unit_is_caught(good: Path, table: str, statement: str):
    connection = sqlite3.connect(good, isolation_level=None)
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("UPDATE sqlite_schema SET sql = replace(sql, ') STRICT', ')') WHERE name = ?", (table,))
    connection.close()
    tamper(good, statement)
    found = [line for line in violations(good) if line.startswith("I15:")]
    assert any(table in line for line in found)
    assert len(found) > 1


def test_a_wide_gap_in_the_requests_is_told_once(good: Path):
    tamper(good, f"UPDATE requests SET n = {10**7} WHERE n = (SELECT max(n) FROM requests)")
    violations = verify_file(str(good)).violations
    assert any(f"to {10**7 - 1} are missing" in each for each in violations), violations


def test_an_index_that_lies_is_caught(good: Path):
    connection = sqlite3.connect(good, isolation_level=None)
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("UPDATE sqlite_schema SET sql = replace(sql, 'ON transfers(ext_ref)', 'ON transfers(note)')")
    connection.close()
    assert any(line.startswith("I18:") for line in violations(good))


def test_a_damaged_page_is_reported_and_not_raised(good: Path):
    with good.open("r+b") as file:
        for page in range(1, good.stat().st_size // 4096):
            file.seek(page * 4096)
            file.write(b"\xff" * 64)
    assert any(line.startswith("I18:") for line in violations(good))


def test_what_is_no_ledger_is_refused(tmp_path: Path):
    for name, content in (("missing.db", None), ("empty.db", b"")):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(LedgerUnusable):
            verify_file(str(path))
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE accounts(id)")
    other.close()
    with pytest.raises(LedgerUnusable, match="another program"):
        verify_file(str(tmp_path / "other.db"))


def test_verify_changes_nothing(good: Path):
    before = good.read_bytes()
    verify_file(str(good))
    assert good.read_bytes() == before


async def wait_for_trouble(ledger, clock: ManualClock) -> None:
    for _ in range(1_500):
        await clock.run(60)
        if ledger.health().suspects or not ledger.health().ok:
            return
        await asyncio.sleep(0.002)
    raise AssertionError("the violation was not noticed")


@pytest.mark.parametrize("restart", [False, True])
async def test_a_running_ledger_stops_money_for_the_tenant_it_is_wrong_about(tmp_path: Path, restart: bool):
    clock = ManualClock()
    if restart:
        await build(tmp_path)
        tamper(
            ledger_file(tmp_path),
            "UPDATE accounts SET balance = balance + 5 WHERE name = 'acme'",
            "UPDATE accounts SET balance = balance - 5 WHERE kind = 'house_cash'",
        )
    async with opened(tmp_path, clock) as ledger:
        await ledger.sync_tenants([ACME, OTHER])
        if not restart:
            await pay(ledger, ACME, USD)
            tamper(ledger_file(tmp_path), "UPDATE requests SET cost = cost + 1, charged = charged + 1")
        await wait_for_trouble(ledger, clock)
        with pytest.raises(StorageUnavailable, match="verif"):
            ledger.hold(ACME, USD)
        with pytest.raises(StorageUnavailable):
            await ledger.top_up("acme", USD, actor="op", reference=None, note=None)
        health = ledger.health()
        assert (health.ok, health.suspects) == (not restart, 1), "the house's own account is everybody's trouble"
        who = "the books" if restart else "1 account"
        assert health.reason == f"{who} failed verification; see 'routerx ledger verify'"
        assert any("'acme'" in detail for detail in health.details)
        if not restart:
            ledger.release(ledger.hold(OTHER, USD))


async def test_verification_goes_on_from_its_watermark(tmp_path: Path):
    clock = ManualClock()
    async with opened(tmp_path, clock) as ledger:
        await ledger.sync_tenants([ACME])
        await pay(ledger, ACME, USD)
        for _ in range(300):
            await clock.run(60)
            stored = query(ledger_file(tmp_path), "SELECT value FROM meta WHERE key = 'verified'")
            if stored and '"transfer":2' in str(stored[0][0]):
                break
            await asyncio.sleep(0.002)
        else:
            raise AssertionError("no watermark was stored")
    async with opened(tmp_path, clock) as ledger:
        await pay(ledger, ACME, USD)
        for _ in range(5):
            await clock.run(60)
            await asyncio.sleep(0.005)
        assert ledger.health().ok
        assert (await ledger.verify()).violations == ()


async def test_verification_ends_while_the_books_grow(tmp_path: Path):
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([tenant(opening=10**6 * USD)])

        async def keep_paying() -> None:
            while True:
                await asyncio.gather(*(pay(ledger, ACME, 1_000) for _ in range(10)))

        payer = asyncio.create_task(keep_paying())
        async with asyncio.timeout(30):
            for _ in range(3):
                assert (await ledger.verify()).violations == ()
                await ledger._watch.verify()
        payer.cancel()
        await asyncio.gather(payer, return_exceptions=True)
        assert ledger.health().ok


async def test_memory_that_differs_from_the_file_is_found_and_mended(tmp_path: Path):
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME])
        await ledger._watch.verify()  # The one at start has passed.
        ledger._books.get("acme").balance_nano += 5
        report = await ledger.verify()
        assert report.violations == ("memory: balance of 'acme' is 10000000005, the file says 10000000000",)
        assert ledger.funds("acme").balance_nano == 10 * USD
        assert (await ledger.verify()).violations == ()
