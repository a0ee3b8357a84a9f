"""What the books know of keys: their terms, what each has spent, and who changed what."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from routerx.domain.tenant import KeyTerms, Limits, Period, Principal, SpendLimit, Tenant
from routerx.errors import Conflict, InsufficientBalance, NotFound, SpendLimitReached
from routerx.ledger.base import KeyUse
from routerx.ledger.proof.verify import verify_file
from routerx.ledger.sqlite import SqliteLedger
from routerx.secrets import key_digest
from tests.support.clock import START_NS, ManualClock
from tests.unit.ledger.ledger_kit import USD, ledger_file, opened, query, record, tenant

DAY_NS = 86_400 * 10**9
ACME = tenant(opening=10 * USD)
FULL = KeyTerms(
    allow=("gpt-*", 'odd"\\name'),
    limits=Limits(rpm=60, tpm=1_000, concurrency=2, daily_requests=5),
    spend_limit=SpendLimit(5 * USD, Period.WEEK),
    expires_ns=START_NS + DAY_NS,
)


def caller(key_id: str, limit: tuple[int, Period] | None = None, who: Tenant = ACME) -> Principal:
    return Principal(who, key_id, None if limit is None else KeyTerms(spend_limit=SpendLimit(*limit)))


async def spend(ledger: SqliteLedger, by: Principal, cost_nano: int) -> None:
    hold = ledger.hold(by.tenant, cost_nano, by)
    receipt = ledger.settle(record(cost_nano, by.tenant.name, key_id=by.key_id), hold)
    assert receipt.durable is not None
    await receipt.durable


async def test_terms_of_a_key_are_kept_with_it_and_can_be_changed(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME])
        key, row = await ledger.issue_key("acme", actor="op", label="ci", terms=FULL)
        plain, _ = await ledger.issue_key("acme", actor="op", label=None)
        assert ledger.issued_key(key_digest(key)) == row
        assert row.terms == FULL
    async with opened(tmp_path) as ledger:
        assert ledger.issued_key(key_digest(key)) == row
        other = ledger.issued_key(key_digest(plain))
        assert other is not None
        assert other.terms is None
        fewer = await ledger.limit_key(row.id, KeyTerms(limits=Limits(rpm=1)), actor="boss")
        assert ledger.issued_key(key_digest(key)) == fewer
        assert ledger.issued_key(key_digest(key)) != row
        await ledger.limit_key(other.id, FULL, actor="boss")
        await ledger.limit_key(other.id, None, actor="boss")
    async with opened(tmp_path) as ledger:
        assert ledger.issued_key(key_digest(key)) == fewer
        assert ledger.issued_key(key_digest(plain)) == other
        assert (await ledger.verify()).violations == ()


async def test_only_a_living_key_of_the_ledger_gets_other_terms(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME])
        with pytest.raises(NotFound, match="key_none"):
            await ledger.limit_key("key_none", FULL, actor="op")
        _, row = await ledger.issue_key("acme", actor="op", label=None)
        await ledger.revoke_key(row.id, (), actor="op")
        with pytest.raises(Conflict, match="revoked"):
            await ledger.limit_key(row.id, FULL, actor="op")


async def test_a_keys_spending_is_its_own_and_outlives_a_restart(tmp_path: Path) -> None:
    clock = ManualClock()
    async with opened(tmp_path, clock) as ledger:
        await ledger.sync_tenants([ACME])
        await spend(ledger, caller("key_a"), 2 * USD)
        hold = ledger.hold(ACME, USD, caller("key_b"))
        assert ledger.key_use("acme", "key_b").held_nano == USD
        assert ledger.key_use("acme", "key_a").held_nano == 0
        ledger.release(hold)
        ledger.release(hold)
        assert ledger.key_use("acme", "key_b") == KeyUse(0, 0, 0, 0, 0, 0)
        clock.jump(86_400.0)
        await spend(ledger, caller("key_b"), USD)
    async with opened(tmp_path, clock) as ledger:
        assert ledger.key_use("acme", "key_a") == KeyUse(0, 0, 2 * USD, 2 * USD, 2 * USD, 0)
        assert ledger.key_use("acme", "key_b") == KeyUse(1, USD, USD, USD, USD, 0)
        assert ledger.key_use("acme", "key_c") == KeyUse(0, 0, 0, 0, 0, 0)
        assert ledger.funds("acme").spent_total_nano == 3 * USD
        assert (await ledger.verify()).violations == ()


async def test_no_number_of_requests_passes_the_spend_limit_of_a_key(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME])
        limited, free = caller("key_a", (3 * USD, Period.DAY)), caller("key_b")
        await spend(ledger, limited, USD)
        holds = [ledger.hold(ACME, USD, limited)]
        ledger.extend(ACME, holds[0], USD // 2)
        with pytest.raises(SpendLimitReached) as caught:
            ledger.extend(ACME, holds[0], USD)
        assert caught.value.details == {
            "limit": "3.00",
            "limit_of": "key",
            "period": "day",
            "spent": "2.50",
            "needed": "1.00",
            "resets": "2026-01-02T00:00:00Z",
        }
        assert caught.value.message.startswith("This key's spend limit of $3.00 per day would be passed")
        with pytest.raises(SpendLimitReached):
            ledger.hold(ACME, USD, limited)
        assert ledger.held_nano() == 3 * USD // 2  # A refusal holds nothing.
        ledger.release(ledger.hold(ACME, 5 * USD, free))
        ledger.release(holds[0])
        ledger.release(ledger.hold(ACME, 2 * USD, limited))
        with pytest.raises(InsufficientBalance):
            ledger.hold(ACME, 100 * USD, free)
        assert ledger.key_use("acme", "key_b").held_nano == 0


async def test_the_limit_of_the_tenant_still_holds(tmp_path: Path) -> None:
    poor = tenant(opening=10 * USD, limit=(USD, Period.DAY))
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([poor])
        with pytest.raises(SpendLimitReached) as caught:
            ledger.hold(poor, 2 * USD, caller("key_a", (5 * USD, Period.TOTAL), poor))
        assert caught.value.details["limit_of"] == "tenant"
        assert ledger.key_use("acme", "key_a").held_nano == 0


async def test_history_tells_who_did_what_to_a_tenant_and_its_keys(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME, tenant("rival")])
        _, row = await ledger.issue_key("acme", actor="op", label=None, terms=FULL)
        _, foreign = await ledger.issue_key("rival", actor="op", label=None)
        await ledger.suspend("acme", actor="boss", reason="unpaid")
        await ledger.unsuspend("acme", actor="boss")
        await ledger.limit_key(row.id, None, actor="op")
        await ledger.revoke_key(row.id, (), actor="op")
        rows = await ledger.history("acme", 100)
        assert [(one.actor, one.action) for one in rows] == [
            ("ledger", "account.open"),
            ("config", "money.opening"),
            ("op", "key.issue"),
            ("boss", "tenant.suspend"),
            ("boss", "tenant.unsuspend"),
            ("op", "key.limit"),
            ("op", "key.revoke"),
        ]
        assert rows[3].detail == "unpaid"
        assert '"rpm":60' in rows[2].detail
        assert foreign.id not in {one.subject for one in rows}
        assert await ledger.history("acme", 2) == rows[-2:]
        with pytest.raises(NotFound):
            await ledger.history("nobody", 2)


async def test_verification_finds_figures_of_keys_that_do_not_add_up(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME])
        await spend(ledger, caller("key_a"), USD)
    path = ledger_file(tmp_path)
    assert verify_file(str(path)).violations == ()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE key_days SET charged = charged - 1")
    by_account, by_key = verify_file(str(path)).violations
    assert by_account.startswith("I16: the figures of account 4 for day")
    assert by_key.startswith("I16: the figures of key 'key_a' for day")


async def test_verification_finds_figures_that_were_moved_from_one_key_to_another(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME])
        await spend(ledger, caller("key_a"), USD)
        await spend(ledger, caller("key_b"), USD)
    path = ledger_file(tmp_path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for key, sign in (("key_a", -1), ("key_b", 1)):
            connection.execute("UPDATE key_days SET charged = charged + ? WHERE key = ?", (sign, key))
    found = verify_file(str(path)).violations
    assert [violation.split(" for day")[0] for violation in found] == [
        "I16: the figures of key 'key_a'",
        "I16: the figures of key 'key_b'",
    ]


async def test_history_and_figures_are_found_by_their_indexes(tmp_path: Path) -> None:
    async with opened(tmp_path):
        pass
    plans = {
        "audit_by_subject": "SELECT id FROM audit WHERE subject = 'acme' ORDER BY id DESC LIMIT 5",
        "key_days_by_day": "SELECT * FROM key_days WHERE day >= 5",
    }
    for index, sql in plans.items():
        (row,) = query(ledger_file(tmp_path), "EXPLAIN QUERY PLAN " + sql)
        assert index in str(row[3])
