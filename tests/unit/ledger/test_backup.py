"""Copies of the books: made while they are written to, proven, and put back."""

import asyncio
import sqlite3
import stat
from pathlib import Path

import pytest

from routerx.errors import Conflict, LedgerLocked, LedgerUnusable
from routerx.ledger import backup
from routerx.ledger.backup import restore
from routerx.ledger.proof.verify import verify_file
from tests.unit.ledger.ledger_kit import USD, ledger_file, opened, pay, query, tenant
from tests.unit.ledger.test_ledger_verify import tamper

ACME = tenant(opening=10 * USD)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_a_backup_is_one_moment_of_books_that_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backup, "PAGES_PER_STEP", 1)
    copy = tmp_path / "copy.db"
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME])
        for _ in range(20):
            await pay(ledger, ACME, 1_000)
        making = asyncio.create_task(ledger.bookkeeper.back_up(str(copy)))
        during = 0
        while not making.done():
            await pay(ledger, ACME, 1_000)
            during += 1
        report = await making
        assert during > 5, "commits went on while it was copied"
        assert report.verified.violations == ()
        assert 20 <= report.verified.checked_requests <= 20 + during
        assert report.size_bytes == copy.stat().st_size
        assert (await ledger.verify()).checked_requests == 20 + during
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert names(tmp_path) == ["copy.db", "data"]
    assert verify_file(str(copy)).violations == ()
    assert names(tmp_path) == ["copy.db", "data"], "it needs no other file"


async def test_a_backup_replaces_no_file_and_needs_a_folder(tmp_path: Path):
    (tmp_path / "mine").write_text("precious")
    async with opened(tmp_path) as ledger:
        for path in ("mine", "nowhere/copy.db"):
            with pytest.raises(Conflict):
                await ledger.bookkeeper.back_up(str(tmp_path / path))
    assert (tmp_path / "mine").read_text() == "precious"
    assert names(tmp_path) == ["data", "mine"]


async def test_a_backup_leaves_another_one_that_is_being_written_alone(tmp_path: Path):
    (tmp_path / "copy.db.partial").write_text("half")
    async with opened(tmp_path) as ledger:
        with pytest.raises(Conflict, match="under way"):
            await ledger.bookkeeper.back_up(str(tmp_path / "copy.db"))
    assert (tmp_path / "copy.db.partial").read_text() == "half"


async def test_a_backup_of_wrong_books_says_so(tmp_path: Path):
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME])
        await pay(ledger, ACME, USD)
        tamper(ledger_file(tmp_path), "UPDATE requests SET cost = cost + 1, charged = charged + 1")
        report = await ledger.bookkeeper.back_up(str(tmp_path / "copy.db"))
    assert any(line.startswith("I5:") for line in report.verified.violations)
    with pytest.raises(LedgerUnusable, match="I5:"):
        restore(str(tmp_path / "copy.db"), str(tmp_path / "new" / "ledger.db"), replace=False, now="now")
    assert not (tmp_path / "new" / "ledger.db").exists()


async def saved(folder: Path) -> Path:
    """A backup after one charge; the ledger has another since."""
    copy = folder / "copy.db"
    async with opened(folder) as ledger:
        await ledger.sync_tenants([ACME])
        await pay(ledger, ACME, USD)
        await ledger.bookkeeper.back_up(str(copy))
        await pay(ledger, ACME, USD)
    return copy


async def test_a_backup_takes_the_place_of_a_ledger_only_when_told_to(tmp_path: Path):
    copy, path = await saved(tmp_path), ledger_file(tmp_path)
    with pytest.raises(Conflict, match="--force"):
        restore(str(copy), str(path), replace=False, now="now")
    assert len(query(path, "SELECT id FROM requests")) == 2
    report = restore(str(copy), str(path), replace=True, now="20260101T000000")
    assert (report.verified.checked_requests, report.path) == (1, str(path))
    async with opened(tmp_path) as ledger:
        assert ledger.funds("acme").balance_nano == 9 * USD
        assert (await ledger.verify()).violations == ()
    aside = path.with_name("ledger-replaced-20260101T000000.db")
    assert len(query(aside, "SELECT id FROM requests")) == 2
    assert verify_file(str(aside)).violations == ()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_backup_is_put_where_no_ledger_is(tmp_path: Path):
    copy = await saved(tmp_path)
    restore(str(copy), str(tmp_path / "other" / "data" / "ledger.db"), replace=False, now="now")
    async with opened(tmp_path / "other") as ledger:
        assert ledger.funds("acme").balance_nano == 9 * USD


async def test_no_backup_is_put_under_a_running_server(tmp_path: Path):
    copy = await saved(tmp_path)
    async with opened(tmp_path):
        with pytest.raises(LedgerLocked):
            restore(str(copy), str(ledger_file(tmp_path)), replace=True, now="now")


@pytest.mark.parametrize("step", ["_put_aside", "_put"])
async def test_a_restore_that_is_cut_off_leaves_a_ledger_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
):
    copy, path = await saved(tmp_path), ledger_file(tmp_path)

    def killed(*arguments: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(backup, step, killed)
        with pytest.raises(KeyboardInterrupt):
            restore(str(copy), str(path), replace=True, now="now")
    assert len(query(path, "SELECT id FROM requests")) == 2
    restore(str(copy), str(path), replace=True, now="again")
    assert len(query(path, "SELECT id FROM requests")) == 1


async def test_a_damaged_ledger_is_put_aside_as_it_is(tmp_path: Path):
    copy, path = await saved(tmp_path), ledger_file(tmp_path)
    path.write_bytes(b"no ledger at all" * 100)
    restore(str(copy), str(path), replace=True, now="now")
    assert path.with_name("ledger-replaced-now.db").read_bytes().startswith(b"no ledger")
    assert len(query(path, "SELECT id FROM requests")) == 1


async def test_a_long_reader_never_makes_commits_wait(tmp_path: Path):
    async with opened(tmp_path, busy_timeout_s=30.0) as ledger:
        await ledger.sync_tenants([ACME])
        reader = sqlite3.connect(f"file:{ledger_file(tmp_path)}?mode=ro", uri=True, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM accounts").fetchone()
        await pay(ledger, ACME, USD)
        ledger._writer.chore(lambda: ledger._writer._storage.checkpoint("TRUNCATE"))
        async with asyncio.timeout(5):
            await pay(ledger, ACME, USD)
        reader.close()
