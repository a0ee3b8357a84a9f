"""Provider keys that are tenants' own: sealed in the file, open in memory, told in the audit trail."""

import asyncio
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerx.domain.tenant import NO_KEYS
from routerx.errors import ConfigError, NotFound, StorageUnavailable
from routerx.keyring import Keyring
from routerx.ledger.backup import restore
from routerx.ledger.export import ExportQuery, exported
from routerx.ledger.own_keys import TOLD_MAX
from routerx.ledger.proof.verify import verify_file
from routerx.ledger.schema.initial import guard
from routerx.ledger.sqlite import SqliteLedger
from routerx.secrets import Secret, fingerprint
from tests.support.clock import START_NS
from tests.unit.ledger.ledger_kit import USD, Fault, ledger_file, opened, pay, query, tenant

ACME, OTHER = tenant(opening=10 * USD), tenant("other")
KEY, NEXT = Secret("sk-canary-of-acme-0001"), Secret("sk-canary-of-acme-0002")
OLD_VAULT, NEW_VAULT = Secret("the vault key of the last year.."), Secret("the vault key of this year......")


async def put(ledger: SqliteLedger, key: Secret = KEY, name: str = "acme", provider: str = "openai") -> None:
    await ledger.key_safe.put(name, provider, key, actor="boss", reason="their contract")


def files_with(folder: Path, key: Secret) -> list[Path]:
    """The files that hold a key's text."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {"ledger.db", "requests.db", "vault.key"} <= {path.name for path in files}
    return [path for path in files if key.reveal().encode() in path.read_bytes()]


async def test_a_key_is_found_from_the_moment_it_is_set(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME, OTHER])
        assert ledger.own_keys("acme") is NO_KEYS
        row = await ledger.key_safe.put("acme", "openai", KEY, actor="boss", reason=None)
        assert (row.tenant, row.provider, row.fingerprint) == ("acme", "openai", fingerprint(KEY))
        assert (row.created_ns, row.readable) == (START_NS, True)
        assert ledger.own_keys("acme") == {"openai": KEY}
        assert ledger.own_keys("acme") is ledger.own_keys("acme")
        assert ledger.own_keys("other") is NO_KEYS
        assert ledger.key_safe.rows("acme") == (row,)


async def test_keys_are_replaced_and_removed_each_for_itself(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME, OTHER])
        await put(ledger)
        await put(ledger, provider="anthropic")
        await put(ledger, name="other")
        before = ledger.own_keys("acme")
        await put(ledger, NEXT)
        assert before["openai"] == KEY  # A request that began with it goes on with it.
        assert ledger.own_keys("acme") == {"openai": NEXT, "anthropic": KEY}
        assert [row.provider for row in ledger.key_safe.rows("acme")] == ["anthropic", "openai"]
        gone = await ledger.key_safe.remove("acme", "anthropic", actor="boss", reason=None)
        assert gone.fingerprint == fingerprint(KEY)
        assert ledger.own_keys("acme") == {"openai": NEXT}
        await ledger.key_safe.remove("acme", "openai", actor="boss", reason=None)
        assert ledger.own_keys("acme") is NO_KEYS
        assert ledger.own_keys("other") == {"openai": KEY}
        with pytest.raises(NotFound, match="'acme' has no own key for 'openai'"):
            await ledger.key_safe.remove("acme", "openai", actor="boss", reason=None)
        with pytest.raises(NotFound, match="no tenant 'nobody'"):
            await put(ledger, name="nobody")
        with pytest.raises(NotFound, match="no tenant 'nobody'"):
            ledger.key_safe.rows("nobody")


async def test_of_two_removals_at_once_one_finds_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME])
        await put(ledger)
        both = [ledger.key_safe.remove("acme", "openai", actor="boss", reason=None) for _ in range(2)]
        results = await asyncio.gather(*both, return_exceptions=True)
        assert [type(result).__name__ for result in results] == ["OwnKeyRow", "NotFound"]
        assert [row.action for row in await ledger.history("acme", 9)][-2:] == ["byok.set", "byok.remove"]


async def test_a_restart_keeps_them_and_the_audit_trail_tells_of_them(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME])
        await put(ledger)
        await put(ledger, NEXT)
        await put(ledger, provider="anthropic")
        await ledger.key_safe.remove("acme", "anthropic", actor="boss", reason="left")
    async with opened(tmp_path) as ledger:
        assert ledger.own_keys("acme") == {"openai": NEXT}
        assert list(ledger.key_safe.secrets()) == [NEXT]
        told = [
            (row.actor, row.action, msgspec.json.decode(row.detail))
            for row in await ledger.history("acme", 9)
            if row.action.startswith("byok.")
        ]
        assert told[1:] == [
            ("boss", "byok.set", {"provider": "openai", "fingerprint": fingerprint(NEXT), "reason": "their contract"}),
            (
                "boss",
                "byok.set",
                {"provider": "anthropic", "fingerprint": fingerprint(KEY), "reason": "their contract"},
            ),
            ("boss", "byok.remove", {"provider": "anthropic", "fingerprint": fingerprint(KEY), "reason": "left"}),
        ]
        assert (await ledger.verify()).violations == ()


async def test_no_file_holds_a_key_and_the_export_nothing_of_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME])
        await put(ledger)
        await pay(ledger, ACME, USD)
        copy = await ledger.bookkeeper.back_up(str(tmp_path / "backup.db"))
        assert copy.verified.violations == ()
        rows = list(exported(str(ledger_file(tmp_path)), ExportQuery()))
        assert files_with(tmp_path, KEY) == []  # The WAL is there now.
    (sealed,) = query(tmp_path / "backup.db", "SELECT sealed FROM own_keys")[0]
    assert isinstance(sealed, bytes)
    assert files_with(tmp_path, KEY) == []
    text = msgspec.json.encode(rows)
    assert len(rows) == 2
    assert fingerprint(KEY).encode() not in text
    assert KEY.reveal().encode() not in text


async def test_a_new_vault_key_takes_the_rows_of_the_old_one_over(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    async with opened(tmp_path, keyring=Keyring((OLD_VAULT,), data)) as ledger:
        await ledger.sync_tenants([ACME])
        await put(ledger)
    (before,) = query(ledger_file(tmp_path), "SELECT sealed FROM own_keys")
    async with opened(tmp_path, keyring=Keyring((NEW_VAULT, OLD_VAULT), data)) as ledger:
        assert ledger.own_keys("acme") == {"openai": KEY}
        assert ledger.key_safe.notices == (
            "own provider keys of tenants that were sealed anew with the first vault key: 1",
        )
    (after,) = query(ledger_file(tmp_path), "SELECT sealed FROM own_keys")
    assert before != after
    async with opened(tmp_path, keyring=Keyring((NEW_VAULT,), data)) as ledger:
        assert ledger.own_keys("acme") == {"openai": KEY}
        assert ledger.key_safe.notices == ()
        assert (await ledger.verify()).violations == ()
    assert query(ledger_file(tmp_path), "SELECT sealed FROM own_keys") == [after]


async def test_a_restored_backup_needs_its_vault_key_for_them_and_for_nothing_else(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME])
        await put(ledger)
        await ledger.bookkeeper.back_up(str(tmp_path / "backup.db"))
    elsewhere = tmp_path / "elsewhere"
    ledger_file(elsewhere).parent.mkdir(parents=True)
    restore(str(tmp_path / "backup.db"), str(ledger_file(elsewhere)), replace=False, now="now")
    async with opened(elsewhere) as ledger:
        assert ledger.own_keys("acme") == {"openai": None}
        assert ledger.funds("acme").balance_nano == 10 * USD
    async with opened(elsewhere, keyring=Keyring((), str(tmp_path / "data"))) as ledger:
        assert ledger.own_keys("acme") == {"openai": KEY}
        assert (await ledger.verify()).violations == ()


async def test_a_lost_vault_key_leaves_a_key_unreadable_and_told(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME])
        await put(ledger)
    path = tmp_path / "data" / "secrets" / "vault.key"
    kept = path.rename(tmp_path / "kept.key")
    async with opened(tmp_path) as ledger:
        (notice,) = ledger.key_safe.notices
        assert "the own key of tenant 'acme' for 'openai' cannot be read" in notice
        assert str(path) in notice
        assert notice.endswith("routerx byok set acme openai")
        assert ledger.own_keys("acme") == {"openai": None}
        assert [row.readable for row in ledger.key_safe.rows("acme")] == [False]
        assert list(ledger.key_safe.secrets()) == []
        assert (await ledger.verify()).violations == ()
    assert not path.exists()
    kept.rename(path)
    async with opened(tmp_path) as ledger:
        assert ledger.own_keys("acme") == {"openai": KEY}


async def test_a_key_set_anew_after_the_vault_key_was_lost_is_readable(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME])
        await put(ledger)
        await put(ledger, provider="anthropic")
    (tmp_path / "data" / "secrets" / "vault.key").unlink()
    async with opened(tmp_path) as ledger:
        await put(ledger, NEXT)
    async with opened(tmp_path) as ledger:
        assert ledger.own_keys("acme") == {"openai": NEXT, "anthropic": None}
        await ledger.key_safe.remove("acme", "anthropic", actor="boss", reason=None)
        assert ledger.own_keys("acme") == {"openai": NEXT}


async def test_many_lost_keys_are_told_in_bounds(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME])
        await asyncio.gather(*(put(ledger, provider=f"p{number}") for number in range(TOLD_MAX + 2)))
    (tmp_path / "data" / "secrets" / "vault.key").unlink()
    async with opened(tmp_path) as ledger:
        notices = ledger.key_safe.notices
        assert len(notices) == TOLD_MAX + 1
        assert notices[-1].startswith(f"{TOLD_MAX + 2} own keys in all cannot be read")


async def test_a_row_that_was_moved_is_no_key_of_the_other_tenant(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME, OTHER])
        await put(ledger)
    with closing(sqlite3.connect(ledger_file(tmp_path), isolation_level=None)) as connection:
        connection.execute("UPDATE own_keys SET tenant = (SELECT id FROM accounts WHERE name = 'other')")
    async with opened(tmp_path) as ledger:
        assert ledger.own_keys("acme") is NO_KEYS
        assert ledger.own_keys("other") == {"openai": None}
    assert verify_file(str(ledger_file(tmp_path))).violations == (
        "I11: the own key for 'openai' is not the one that the audit trail tells of (tenant 'acme')",
        "I11: the own key for 'openai' is not the one that the audit trail tells of (tenant 'other')",
    )


async def test_an_audit_row_that_was_changed_is_told_with_all_else(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME])
        await put(ledger)
    with closing(sqlite3.connect(ledger_file(tmp_path), isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER audit_no_update")
        connection.execute("UPDATE audit SET detail = 'gone' WHERE action = 'byok.set'")
        connection.execute(guard("audit", "UPDATE"))
    violations = verify_file(str(ledger_file(tmp_path))).violations
    assert any("audit" in violation for violation in violations)
    assert violations[-1].startswith("I11: the own key for 'openai' is not the one that the audit trail tells of")


async def test_an_older_key_put_back_by_hand_is_not_used(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME])
        await put(ledger)
        (old,) = query(ledger_file(tmp_path), "SELECT sealed FROM own_keys")[0]
        await put(ledger, NEXT)
    with closing(sqlite3.connect(ledger_file(tmp_path), isolation_level=None)) as connection:
        connection.execute("UPDATE own_keys SET sealed = ?", (old,))
    async with opened(tmp_path) as ledger:
        assert ledger.own_keys("acme") == {"openai": None}


_STEPS = st.lists(
    st.tuples(st.sampled_from(["acme", "other"]), st.sampled_from(["openai", "lab"]), st.integers(0, 3)), max_size=12
)


@settings(max_examples=12, deadline=None)
@given(steps=_STEPS)
def test_memory_and_file_hold_what_was_done_last(steps: list[tuple[str, str, int]]) -> None:
    """Each step stores key number 1, 2 or 3, or (0) removes what is there."""
    wanted: dict[str, dict[str, Secret]] = {"acme": {}, "other": {}}

    async def play(folder: Path) -> None:
        async with opened(folder) as ledger:
            await ledger.sync_tenants([ACME, OTHER])
            for name, provider, number in steps:
                if number:
                    wanted[name][provider] = Secret(f"sk-canary-{number}")
                    await put(ledger, wanted[name][provider], name, provider)
                elif wanted[name].pop(provider, None) is not None:
                    await ledger.key_safe.remove(name, provider, actor="boss", reason=None)
            assert {name: ledger.own_keys(name) for name in wanted} == wanted
        async with opened(folder) as ledger:
            assert {name: ledger.own_keys(name) for name in wanted} == wanted
            for name, keys in wanted.items():
                assert [row.fingerprint for row in ledger.key_safe.rows(name)] == [
                    fingerprint(keys[provider]) for provider in sorted(keys)
                ]
            assert (await ledger.verify()).violations == ()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(Path(folder)))


async def test_what_is_not_written_does_not_count(tmp_path: Path) -> None:
    fault = Fault()
    async with opened(tmp_path, connect=fault.connect) as ledger:
        await ledger.sync_tenants([ACME])
        await put(ledger)
        fault.set(sqlite3.SQLITE_FULL, times=9)
        with pytest.raises(StorageUnavailable):
            await put(ledger, NEXT)
        with pytest.raises(StorageUnavailable):
            await ledger.key_safe.remove("acme", "openai", actor="boss", reason=None)
        assert ledger.own_keys("acme") == {"openai": KEY}
        fault.set(0, times=0)


async def test_a_caller_who_leaves_does_not_part_memory_from_the_file(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME])
        await put(ledger)
        leaving = asyncio.ensure_future(ledger.key_safe.remove("acme", "openai", actor="boss", reason=None))
        await asyncio.sleep(0)
        leaving.cancel()
        await put(ledger, provider="anthropic")  # Written after it.
        assert ledger.own_keys("acme") == {"anthropic": KEY}


async def test_a_vault_key_that_cannot_be_read_is_told_before_anything_is_changed(tmp_path: Path) -> None:
    async with opened(tmp_path) as ledger:
        await ledger.sync_tenants([ACME])
        await put(ledger)
    (tmp_path / "data" / "secrets" / "vault.key").write_text("damaged")
    with pytest.raises(ConfigError, match="holds no vault key"):
        async with opened(tmp_path):
            pass
