"""Live reload: what is applied, what is refused, and that a watch sees what editors and mounts do."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import watchfiles

from routerx.clock import SystemClock
from routerx.config import watch
from routerx.config.load import Loader
from routerx.config.snapshot import Snapshot, SnapshotHolder
from routerx.config.watch import ConfigWatcher
from routerx.errors import StorageUnavailable
from tests.unit.config.config_kit import WITH_KEY, Folder

BASE = "tenants: {a: {}}\ninclude: [tenants.d/*.yaml]\n"
PATIENCE_S = 10.0


class FastClock(SystemClock):
    """Real time, twenty times as fast."""

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s / 20)


class World:
    """A watcher over a folder, and what it applied."""

    def __init__(self, folder: Folder, text: str = BASE, env: dict[str, str] = WITH_KEY) -> None:
        self.folder = folder
        self.loader: Loader = folder.loader(text, env)
        self.loads = 0
        self.holder = SnapshotHolder(self.loader.load(1))
        self.applied: list[tuple[int, int]] = []
        self.fail_with: Exception | None = None
        self.watcher = ConfigWatcher(self.holder, self._load, FastClock(), self._on_applied)

    def _load(self, generation: int, bound_host: str) -> Snapshot:
        self.loads += 1
        return self.loader.load(generation, bound_host)

    async def _on_applied(self, old: Snapshot, new: Snapshot) -> None:
        assert self.holder.current is new, "what is told is live already"
        self.applied.append((old.generation, new.generation))
        if self.fail_with is not None:
            raise self.fail_with

    @property
    def tenants(self) -> set[str]:
        return set(self.holder.current.tenants)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.watcher.run())
        try:
            await self.until(lambda: self.loads == 1)
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not true():  # noqa: ASYNC110 - what is waited for is outside of the loop: files and a thread.
                await asyncio.sleep(0.005)


async def test_a_change_is_applied_whole(folder: Folder):
    world = World(folder)
    folder.write("tenants: {a: {}, b: {}}\n")
    status = await world.watcher.reload_now()
    assert (status.ok, status.generation, status.error) == (True, 2, None)
    assert world.tenants == {"a", "b"}
    assert world.applied == [(1, 2)]


async def test_a_broken_edit_is_refused_and_named_and_the_old_one_stays(
    folder: Folder, caplog: pytest.LogCaptureFixture
):
    world = World(folder)
    before = world.holder.current
    folder.write("tenants:\n  a: {plan: gone}\n  b: {}\n")
    status = await world.watcher.reload_now()
    assert not status.ok
    assert status.generation == 1
    assert status.error == f"{folder.path}/routerx.yaml:2: tenants.a.plan: no plan has this name ('gone')"
    assert status.error in caplog.text
    assert world.holder.current is before
    assert world.applied == []


async def test_a_mended_file_clears_the_error(folder: Folder):
    world = World(folder)
    folder.write("")
    assert not (await world.watcher.reload_now()).ok
    folder.write(BASE)
    status = await world.watcher.reload_now()
    assert (status.ok, status.error, status.generation) == (True, None, 1)


async def test_what_reads_the_same_is_not_applied_again(folder: Folder):
    world = World(folder)
    folder.write("# a remark\n" + BASE)
    await world.watcher.reload_now()
    assert (world.loads, world.applied, world.watcher.status.generation) == (1, [], 1)


async def test_what_needs_a_restart_is_told_against_what_the_process_was_started_with(folder: Folder):
    world = World(folder)
    folder.write(BASE + "server: {listen: 127.0.0.1:9999, log_level: debug, drain: 1s}\n")
    assert (await world.watcher.reload_now()).restart_needed == ("log_level", "port")
    folder.write(BASE + "server: {drain: 1s}\n")
    assert (await world.watcher.reload_now()).restart_needed == ()


DEMO = "tenants:\n  a:\n    keys: [demo_key_fake_123456]\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("server:\n  listen: 127.0.0.1:8080\n  auth: off\n" + BASE, "routerx.yaml:3: server.auth: auth is off"),
        ("server: {listen: 127.0.0.1:8080}\n" + DEMO, "routerx.yaml:4: tenants.a.keys[0]: is the demo key"),
    ],
)
async def test_what_is_for_this_machine_alone_is_refused_while_the_process_listens_beyond_it(
    folder: Folder, text: str, problem: str
):
    world = World(folder, "server: {listen: '0.0.0.0:8080'}\n" + BASE)
    folder.write(text)
    status = await world.watcher.reload_now()
    assert str(status.error).startswith(f"{folder.path}/{problem}")
    assert "'0.0.0.0', where this process listens until it is restarted" in str(status.error)
    assert world.holder.current.server.auth
    assert world.holder.current.keys == {}
    assert World(folder, text).watcher.status.ok, "a start with it is fine"


async def test_what_is_for_this_machine_alone_is_refused_where_a_restart_would_open_it(folder: Folder):
    world = World(folder, "server: {auth: off}\n" + BASE)
    folder.write("server: {listen: '0.0.0.0:8080', auth: off}\n" + BASE)
    assert "everybody who reaches '0.0.0.0' could call" in str((await world.watcher.reload_now()).error)


async def test_a_change_that_cannot_be_followed_is_live_but_not_called_good(folder: Folder):
    world = World(folder)
    world.fail_with = StorageUnavailable("The ledger cannot commit.")
    folder.write("tenants: {a: {}, b: {}}\n")
    status = await world.watcher.reload_now()
    assert (status.ok, status.error, status.generation) == (False, "The ledger cannot commit.", 2)
    assert world.tenants == {"a", "b"}


async def test_what_could_not_be_followed_stays_told_and_is_tried_again_by_a_reload_of_the_same(folder: Folder):
    world = World(folder)
    world.fail_with = StorageUnavailable("The ledger cannot commit.")
    folder.write("tenants: {a: {}, b: {}}\n")
    await world.watcher.reload_now()
    assert not (await world.watcher.reload_now()).ok
    world.fail_with = None
    status = await world.watcher.reload_now()
    assert (status.ok, status.error, status.generation) == (True, None, 2)
    assert world.applied == [(1, 2)] * 3
    await world.watcher.reload_now()
    assert world.applied == [(1, 2)] * 3, "once followed, it is not told again"


async def test_a_fault_in_following_is_not_called_good_either(folder: Folder):
    world = World(folder)
    world.fail_with = ValueError("a fault of ours")
    folder.write("tenants: {a: {}, b: {}}\n")
    with pytest.raises(ValueError, match="a fault of ours"):
        await world.watcher.reload_now()
    assert not world.watcher.status.ok
    world.fail_with = None
    assert (await world.watcher.reload_now()).ok
    assert world.applied == [(1, 2)] * 2


async def test_a_file_that_changes_under_the_reader_is_read_again(folder: Folder):
    world = World(folder)
    slow = world.loader.load

    def load_and_be_overtaken(generation: int, bound_host: str) -> Snapshot:
        snapshot = slow(generation, bound_host)
        if "b" in snapshot.tenants and "c" not in snapshot.tenants:
            folder.write("tenants: {a: {}, b: {}, c: {}}\n")
        return snapshot

    world.watcher = ConfigWatcher(world.holder, load_and_be_overtaken, FastClock(), world._on_applied)
    folder.write("tenants: {a: {}, b: {}}\n")
    await world.watcher.reload_now()
    assert world.tenants == {"a", "b", "c"}
    assert world.applied == [(1, 2)], "the half-way state was never live"


async def test_files_that_never_rest_are_not_read(folder: Folder, monkeypatch: pytest.MonkeyPatch):
    world = World(folder)
    monkeypatch.setattr(watch, "SETTLES_MAX", 3)
    restless = iter(range(1_000))
    monkeypatch.setattr(watch, "_print_of", lambda _: (("f", next(restless), 0, 0, 0),))
    status = await world.watcher.reload_now()
    assert (world.loads, status.ok) == (0, False)
    assert "have kept changing" in str(status.error)


# --- the watch -------------------------------------------------------------------------------------------------------


async def test_an_edit_in_place_is_seen(folder: Folder):
    world = World(folder)
    async with world.watching():
        folder.write("tenants: {a: {}, b: {}}\n")
        await world.until(lambda: world.tenants == {"a", "b"})


async def test_a_replaced_file_is_seen(folder: Folder):
    world = World(folder)
    async with world.watching():
        new = folder.write("tenants: {a: {}, b: {}}\n", "routerx.yaml.new")
        os.replace(new, folder.path / "routerx.yaml")
        await world.until(lambda: world.tenants == {"a", "b"})


async def test_a_removed_file_keeps_what_serves_and_is_picked_up_on_its_return(folder: Folder):
    world = World(folder)
    async with world.watching():
        (folder.path / "routerx.yaml").unlink()
        await world.until(lambda: not world.watcher.status.ok)
        assert world.tenants == {"a"}
        folder.write("tenants: {b: {}}\n")
        await world.until(lambda: world.tenants == {"b"})
        assert world.watcher.status.ok


async def test_a_folder_that_comes_later_is_seen_and_so_is_its_next_file(folder: Folder):
    world = World(folder)
    async with world.watching():
        folder.write("tenants: {b: {}}\n", "tenants.d/b.yaml")
        await world.until(lambda: world.tenants == {"a", "b"})
        folder.write("tenants: {c: {}}\n", "tenants.d/c.yaml")
        await world.until(lambda: world.tenants == {"a", "b", "c"})
        (folder.path / "tenants.d/b.yaml").unlink()
        await world.until(lambda: world.tenants == {"a", "c"})


async def test_a_symlink_swap_as_kubernetes_does_it_is_seen(folder: Folder):
    folder.write(BASE, "v1/routerx.yaml")
    folder.write("tenants: {b: {}}\n", "v2/routerx.yaml")
    world = World(folder)
    (folder.path / "routerx.yaml").unlink()
    (folder.path / "..data").symlink_to("v1")
    (folder.path / "routerx.yaml").symlink_to("..data/routerx.yaml")
    async with world.watching():
        (folder.path / "..next").symlink_to("v2")
        os.replace(folder.path / "..next", folder.path / "..data")
        await world.until(lambda: world.tenants == {"b"})


async def test_polling_alone_will_do(folder: Folder, monkeypatch: pytest.MonkeyPatch):
    def no_watches(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("watchfiles.awatch", no_watches)
    world = World(folder)
    async with world.watching():
        folder.write("tenants: {b: {}}\n")
        await world.until(lambda: world.tenants == {"b"})


class NeverPolling(FastClock):
    async def sleep(self, delay_s: float) -> None:
        await (asyncio.Event().wait() if delay_s == watch.POLL_S else super().sleep(delay_s))


async def test_events_alone_will_do(folder: Folder):
    world = World(folder)
    world.watcher = ConfigWatcher(world.holder, world._load, NeverPolling(), world._on_applied)
    async with world.watching():
        await asyncio.sleep(0.3)  # The watch is in a thread of its own, which nobody can ask whether it has begun.
        folder.write("tenants: {b: {}}\n")
        await world.until(lambda: world.tenants == {"b"})


async def test_a_folder_that_is_named_later_is_watched(folder: Folder, monkeypatch: pytest.MonkeyPatch):
    watched: list[tuple[str, ...]] = []

    async def awatch(*folders: str, stop_event: asyncio.Event, **_: object) -> AsyncIterator[object]:
        watched.append(folders)
        await stop_event.wait()
        for nothing in ():
            yield nothing

    monkeypatch.setattr("watchfiles.awatch", awatch)
    world = World(folder)
    async with world.watching():
        await world.until(lambda: watched == [(str(folder.path),)])
        folder.write("sk", "secrets/key")
        folder.write("tenants: {b: {keys: ['${file:secrets/key}']}}\n")
        await world.until(lambda: len(watched) == 2)
        assert watched[1] == (str(folder.path), str(folder.path / "secrets"))


@pytest.mark.parametrize(
    ("path", "concerns"),
    [
        ("tenants.d", True),
        ("tenants.d/new.yaml", True),
        ("..data", True),
        (".", True),
        ("b/tenants", True),
        ("b/tenants/new.yaml", True),
        ("tenants.d/.new.yaml.1.tmp", False),
        ("tenants.d/deeper/new.yaml", False),
        ("b/other", False),
        ("routerx.yaml~", False),
        ("ledger.db-wal", False),
        ("serve.log", False),
    ],
)
async def test_events_of_other_files_stir_nothing(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, path: str, concerns: bool
):
    events: asyncio.Queue[Path] = asyncio.Queue()
    passed: list[Path] = []

    async def awatch(
        *_: str, watch_filter: Callable[[watchfiles.Change, str], bool], **__: object
    ) -> AsyncIterator[object]:
        while True:
            event = await events.get()
            if watch_filter(watchfiles.Change.modified, str(event)):
                passed.append(event)
                yield event

    monkeypatch.setattr("watchfiles.awatch", awatch)
    world = World(folder, "tenants: {a: {}}\ninclude: [tenants.d/*.yaml, 'b*/tenants/*.yaml']\n")
    own = folder.path / "routerx.yaml"
    async with world.watching():
        events.put_nowait(folder.path / path)
        events.put_nowait(own)
        await world.until(lambda: own in passed)
        assert passed == ([folder.path / path, own] if concerns else [own])


async def test_a_file_named_by_a_relative_path_is_recognised(folder: Folder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder.path)
    folder.write(BASE)
    world = World(folder)
    world.loader = msgspec.structs.replace(world.loader, path="routerx.yaml")
    world.holder.current = world.loader.load(1)
    world.watcher = ConfigWatcher(world.holder, world._load, NeverPolling(), world._on_applied)
    async with world.watching():
        await asyncio.sleep(0.3)  # As above.
        folder.write("tenants: {c: {}}\n")
        await world.until(lambda: world.tenants == {"c"})


async def test_a_rotated_secret_file_is_seen(folder: Folder):
    folder.write("sk-old", "key")
    world = World(folder, "providers: {openai: {keys: ['${file:key}']}}\ntenants: {a: {}}\n")
    old = world.holder.current.providers["openai"].credentials[0].id
    async with world.watching():
        folder.write("sk-new", "key")
        await world.until(lambda: world.holder.current.providers["openai"].credentials[0].id != old)


async def test_a_file_that_was_missing_is_seen_when_it_comes(folder: Folder):
    world = World(folder)
    async with world.watching():
        folder.write("tenants: {b: {keys: ['${file:secrets/later}']}}\n")
        await world.until(lambda: not world.watcher.status.ok)
        folder.write("a-tenant-key", "secrets/later")
        await world.until(lambda: world.tenants == {"b"})


async def test_a_change_between_the_first_load_and_the_watch_is_not_lost(folder: Folder):
    world = World(folder)
    folder.write("tenants: {b: {}}\n")
    async with world.watching():
        await world.until(lambda: world.tenants == {"b"})


async def test_nothing_is_loaded_while_nothing_changes_though_the_data_folder_does(folder: Folder):
    world = World(folder)
    async with world.watching():
        for name in ("default.key", "ledger.db-wal"):
            (folder.path / name).write_text("x")
        folder.write("tenants: {b: {}}\n")
        await world.until(lambda: world.tenants == {"b"})
        assert world.loads == 2


async def test_a_fault_in_a_look_does_not_end_the_watch(folder: Folder, caplog: pytest.LogCaptureFixture):
    world = World(folder)
    async with world.watching():
        world.fail_with = ValueError("a fault of ours")
        folder.write("tenants: {b: {}}\n")
        await world.until(lambda: "a fault of ours" in caplog.text)
        world.fail_with = None
        folder.write("tenants: {c: {}}\n")
        await world.until(lambda: world.tenants == {"c"})


async def test_the_watch_tries_again_what_could_not_be_followed(folder: Folder, caplog: pytest.LogCaptureFixture):
    world = World(folder)
    async with world.watching():
        world.fail_with = StorageUnavailable("The ledger cannot commit.")
        folder.write("tenants: {b: {}}\n")
        await world.until(lambda: len(world.applied) >= 3)
        assert not world.watcher.status.ok
        world.fail_with = None
        await world.until(lambda: world.watcher.status.ok)
        assert set(world.applied) == {(1, 2)}
        assert caplog.text.count("The ledger cannot commit.") == 1


async def test_a_refused_file_stays_told_while_the_one_before_it_is_followed(folder: Folder):
    world = World(folder)
    async with world.watching():
        world.fail_with = StorageUnavailable("The ledger cannot commit.")
        folder.write("tenants: {b: {}}\n")
        await world.until(lambda: not world.watcher.status.ok)
        folder.write("tenants: {b: {plan: gone}}\n")
        await world.until(lambda: "gone" in str(world.watcher.status.error))
        seen = len(world.applied)
        await world.until(lambda: len(world.applied) > seen)
        assert "gone" in str(world.watcher.status.error)
        world.fail_with = None
        seen = len(world.applied)
        await world.until(lambda: len(world.applied) > seen)
        assert "gone" in str(world.watcher.status.error)


async def test_a_start_from_the_environment_alone_can_be_watched_too(tmp_path: Path):
    folder = Folder(tmp_path)
    loader = folder.loader(None, {**WITH_KEY, "AUTH_KEY": "k"})
    snapshot = loader.load(1)
    loads: list[int] = []

    def load(generation: int, bound_host: str) -> Snapshot:
        loads.append(generation)
        return loader.load(generation, bound_host)

    async def on_applied(old: Snapshot, new: Snapshot) -> None:
        raise AssertionError("nothing changed")

    watcher = ConfigWatcher(SnapshotHolder(snapshot), load, FastClock(), on_applied)
    task = asyncio.create_task(watcher.run())
    assert (await watcher.reload_now()).ok
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert msgspec.structs.replace(snapshot, generation=2) == loader.load(2)
