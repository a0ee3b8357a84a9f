"""Tenants that are written by a command."""

import os
from pathlib import Path

import pytest

from routerx.config.edit import TenantFile, remove_tenant_file, tenant_file_text, write_tenant_file
from routerx.errors import ConfigError, Conflict, OperatorError
from routerx.secrets import key_digest
from tests.unit.config.config_kit import Folder

INCLUDING = "tenants: {a: {}}\nplans: {gold: {}}\npolicies: {fast: {}}\ninclude: [tenants.d/*.yaml]\n"


def test_a_written_tenant_is_read_back_as_it_was_meant(folder: Folder):
    loader = folder.loader(INCLUDING)
    digest = key_digest("k")
    tenant = TenantFile(
        name="acme",
        plan="gold",
        policy="fast",
        allow=("gpt-*", "yes", "${env:HOME}", "a: b # c"),
        key_digests=(digest,),
        opening_balance="$25",
    )
    path = write_tenant_file(loader.path, "acme", tenant_file_text(tenant))
    snapshot = loader.load(1)
    read = snapshot.tenants["acme"]
    assert path == str(folder.path / "tenants.d/acme.yaml")
    assert (read.plan.name, read.policy, read.allow) == ("gold", "fast", tenant.allow)
    assert read.opening_balance_nano == 25 * 10**9
    assert snapshot.keys[digest].tenant == read
    assert Path(path).stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in (folder.path / "tenants.d").iterdir()] == ["acme.yaml"]


def test_what_is_not_said_is_not_written():
    assert tenant_file_text(TenantFile(name="acme")) == "tenants:\n  acme: {}\n"


@pytest.mark.parametrize("name", ["", "Acme", "../acme", "a/b", "a b", "-a", "a" * 64, "a\n", ".a"])
def test_a_name_that_is_no_name_is_refused(folder: Folder, name: str):
    path = folder.write(INCLUDING)
    with pytest.raises(ConfigError, match="is not a name for a tenant"):
        tenant_file_text(TenantFile(name=name))
    with pytest.raises(ConfigError, match="is not a name for a tenant"):
        write_tenant_file(path, name, "x")


def test_an_existing_file_is_never_replaced(folder: Folder):
    path = folder.write(INCLUDING)
    folder.write("mine", "tenants.d/acme.yaml")
    with pytest.raises(Conflict, match="exists already"):
        write_tenant_file(path, "acme", "x")
    assert (folder.path / "tenants.d/acme.yaml").read_text() == "mine"


def test_of_two_writers_of_one_name_the_first_wins(folder: Folder, monkeypatch: pytest.MonkeyPatch):
    path = folder.write(INCLUDING)
    sync = os.fsync

    def overtaken(descriptor: int) -> None:
        sync(descriptor)
        folder.write("theirs", "tenants.d/acme.yaml")

    monkeypatch.setattr("os.fsync", overtaken)
    with pytest.raises(Conflict, match="exists already"):
        write_tenant_file(path, "acme", "x")
    files = {file.name: file.read_text() for file in (folder.path / "tenants.d").iterdir()}
    assert files == {"acme.yaml": "theirs"}


def test_what_cannot_be_written_whole_leaves_nothing_behind(folder: Folder, monkeypatch: pytest.MonkeyPatch):
    path = folder.write(INCLUDING)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OperatorError, match="No space left"):
        write_tenant_file(path, "acme", "x")
    assert list((folder.path / "tenants.d").iterdir()) == []


@pytest.mark.parametrize("include", ["", "include: [conf.d/*.yaml]\n", "include: [tenants.d/a*.yml]\n"])
def test_a_file_that_would_not_be_read_is_not_written(folder: Folder, include: str):
    path = folder.write("tenants: {a: {}}\n" + include)
    with pytest.raises(ConfigError, match=r"add `include: \[tenants.d/\*.yaml\]` to it"):
        write_tenant_file(path, "acme", "x")
    assert not (folder.path / "tenants.d").exists()


def test_without_a_configuration_file_the_refusal_says_what_to_do():
    with pytest.raises(ConfigError, match=r"without a configuration file.*write a routerx\.yaml"):
        write_tenant_file(None, "acme", "x")


def test_a_folder_that_cannot_be_written_is_named(folder: Folder):
    path = folder.write(INCLUDING)
    folder.write("a file in the folder's place", "tenants.d")
    with pytest.raises(OperatorError, match="cannot be written"):
        write_tenant_file(path, "acme", "x")


def test_a_tenant_can_be_taken_back(folder: Folder):
    loader = folder.loader(INCLUDING)
    write_tenant_file(loader.path, "acme", tenant_file_text(TenantFile(name="acme")))
    remove_tenant_file(loader.path, "acme")
    remove_tenant_file(loader.path, "acme")
    assert set(loader.load(1).tenants) == {"a"}
