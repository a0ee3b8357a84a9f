"""A tenant is written to a file of its own and becomes live, beside a watcher and without one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from routerx.config.load import Loader
from routerx.config.snapshot import Snapshot, SnapshotHolder
from routerx.config.watch import ConfigWatcher
from routerx.control.configuration import Configuration, FileConfiguration, LiveConfiguration
from routerx.control.values import NewTenant
from routerx.errors import Conflict, InvalidParameter
from tests.support.clock import ManualClock

Build = Callable[[str | None], tuple[Configuration, SnapshotHolder]]
MAIN = "version: 1\ninclude: [tenants.d/*.yaml]\ntenants: {demo: {keys: []}}\n"


def _rewrite(path: Path, text: str) -> None:
    path.write_text(text)


class ImpatientClock(ManualClock):
    """Time passes as soon as someone waits for it."""

    async def sleep(self, delay_s: float) -> None:
        self.advance(delay_s)


def _loader(path: str | None) -> Loader:
    return Loader(path=path, env={}, announce=None)


def _live(path: str | None) -> tuple[Configuration, SnapshotHolder]:
    async def applied(old: Snapshot, new: Snapshot) -> None:
        assert new.generation > old.generation

    loader = _loader(path)
    holder = SnapshotHolder(loader.load(1))
    return LiveConfiguration(path, ConfigWatcher(holder, loader.load, ImpatientClock(), applied)), holder


def _offline(path: str | None) -> tuple[Configuration, SnapshotHolder]:
    loader = _loader(path)
    holder = SnapshotHolder(loader.load(1))
    return FileConfiguration(loader, holder), holder


@pytest.fixture(params=[_live, _offline], ids=["live", "offline"])
def build(request: pytest.FixtureRequest) -> Build:
    return request.param


@pytest.fixture
def main_file(tmp_path: Path) -> Path:
    path = tmp_path / "routerx.yaml"
    path.write_text(MAIN)
    return path


async def test_a_written_tenant_is_live_after_a_reload(build: Build, main_file: Path) -> None:
    configuration, holder = build(str(main_file))

    path = await configuration.write_tenant(NewTenant("acme", plan="default", allow=("gpt-*",)))
    status = await configuration.reload()

    assert status == configuration.state()
    assert (status.ok, status.generation) == (True, 2)
    assert holder.current.tenants["acme"].allow == ("gpt-*",)
    assert Path(path) == main_file.parent / "tenants.d" / "acme.yaml"


async def test_a_tenant_taken_back_is_gone_after_a_reload(build: Build, main_file: Path) -> None:
    configuration, holder = build(str(main_file))
    await configuration.write_tenant(NewTenant("acme"))
    await configuration.reload()

    await configuration.remove_tenant("acme")
    await configuration.reload()

    assert set(holder.current.tenants) == {"demo"}
    assert list((main_file.parent / "tenants.d").iterdir()) == []


async def test_a_refused_reload_keeps_what_was_and_says_why(build: Build, main_file: Path) -> None:
    configuration, holder = build(str(main_file))
    _rewrite(main_file, MAIN + "modles: {}\n")

    status = await configuration.reload()

    assert not status.ok
    assert "did you mean 'models'" in (status.error or "")
    assert holder.current.generation == 1
    _rewrite(main_file, MAIN)
    assert (await configuration.reload()).ok


async def test_a_name_that_is_none_is_an_invalid_parameter(build: Build, main_file: Path) -> None:
    for name in ("", "../etc", "Big Name", "a" * 100):
        with pytest.raises(InvalidParameter) as caught:
            await build(str(main_file))[0].write_tenant(NewTenant(name))
        assert caught.value.param == "name"


async def test_what_cannot_be_written_is_a_conflict_that_names_the_remedy(build: Build, main_file: Path) -> None:
    configuration, _ = build(str(main_file))
    await configuration.write_tenant(NewTenant("acme"))
    with pytest.raises(Conflict, match="exists already"):
        await configuration.write_tenant(NewTenant("acme"))

    _rewrite(main_file, "version: 1\n")
    with pytest.raises(Conflict, match="add `include:"):
        await configuration.write_tenant(NewTenant("other"))

    with pytest.raises(Conflict, match="without a configuration file"):
        await build(None)[0].write_tenant(NewTenant("other"))
