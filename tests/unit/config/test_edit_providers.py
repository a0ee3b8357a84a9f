"""What a command changes of a provider in the files, and what it leaves alone."""

import os
from pathlib import Path

import pytest

from routerx.config.edit_providers import (
    AddKey,
    ChangeKey,
    ProviderEdit,
    RemoveKey,
    SwitchProvider,
    apply_edit,
    declared_keys,
    is_ours,
    take_back,
)
from routerx.errors import Conflict, NotFound
from routerx.secrets import Secret, fingerprint
from tests.unit.config.config_kit import Folder

NEW = Secret("sk-new-canary")
ENV = {"KEY_A": "sk-canary-a", "KEY_B": "sk-canary-b"}
FILE = """\
providers:
  openai:
    keys:
      - "${env:KEY_A}"  # team a
      - {key: "${env:KEY_B}", rpm: 5}
"""


def apply(folder: Folder, edit: ProviderEdit, text: str = FILE) -> str:
    """The main file afterwards."""
    path = folder.write(text)
    apply_edit(path, edit)
    return Path(path).read_text()


def test_a_provider_that_is_switched_off_is_idle_and_comes_back(folder: Folder):
    path = folder.write(FILE)
    loader = folder.loader(FILE, ENV)
    apply_edit(path, SwitchProvider("openai", enabled=False))
    off = loader.load(1)
    assert (dict(off.providers), off.idle["openai"].reason) == ({}, "off")
    assert len(off.idle["openai"].provider.credentials) == 2
    apply_edit(path, SwitchProvider("openai", enabled=True))
    assert loader.load(2).providers["openai"] == folder.load(FILE, ENV).providers["openai"]


def test_what_is_so_already_is_not_written(folder: Folder):
    path = folder.write(FILE)
    assert apply_edit(path, SwitchProvider("openai", enabled=True)) is None
    assert Path(path).read_text() == FILE


def test_a_new_key_is_kept_apart_and_referred_to(folder: Folder):
    data = folder.path / "data"
    text = apply(folder, AddKey("openai", NEW, str(data), rpm=60))
    name = f"openai-{fingerprint(NEW)}.key"
    assert text == FILE + f'      - {{key: "${{file:data/secrets/{name}}}", rpm: 60}}\n'
    file = data / "secrets" / name
    assert file.read_text() == "sk-new-canary\n"
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    credentials = folder.load(text, ENV).providers["openai"].credentials
    assert [one.rpm for one in credentials] == [None, 5, 60]
    assert credentials[2].secret == NEW
    found = declared_keys(folder.write(text), ENV, "openai")
    assert [(key.index, key.id, key.file) for key in found] == [
        (0, credentials[0].id, None),
        (1, credentials[1].id, None),
        (2, credentials[2].id, str(file)),
    ]
    assert is_ours(str(file), str(data))
    assert not is_ours(str(folder.path / "elsewhere.key"), str(data))


def test_a_data_directory_elsewhere_is_referred_to_by_its_whole_path(folder: Folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("data")
    assert f"${{file:{other}/secrets/openai-" in apply(folder, AddKey("openai", NEW, str(other)))


def test_a_key_is_changed_and_removed_in_its_place(folder: Folder):
    text = apply(folder, ChangeKey("openai", 0, (("rpm", "9"), ("enabled", "false"))))
    assert '- {enabled: false, key: "${env:KEY_A}", rpm: 9}  # team a\n' in text
    provider = folder.load(text, ENV).providers["openai"]
    assert [one.rpm for one in provider.credentials] == [5]
    assert [one.rpm for one in provider.credentials_off] == [9]
    assert apply(folder, RemoveKey("openai", 0)) == FILE.replace('      - "${env:KEY_A}"  # team a\n', "")
    assert "rpm: null" in apply(folder, ChangeKey("openai", 1, (("rpm", None),)))


def test_an_included_file_is_changed_where_the_provider_is(folder: Folder):
    path = folder.write("include: [conf.d/*.yaml]\nplans: {p: {}}\n")
    part = folder.write(FILE, "conf.d/openai.yaml")
    apply_edit(path, SwitchProvider("openai", enabled=False))
    assert "enabled: false" in Path(part).read_text()
    assert "enabled" not in Path(path).read_text()


def test_mode_and_links_stay_as_they_are(folder: Folder):
    real = Path(folder.write(FILE, "real/routerx.yaml"))
    real.chmod(0o640)
    link = folder.path / "routerx.yaml"
    link.symlink_to(real)
    apply_edit(str(link), SwitchProvider("openai", enabled=False))
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert "enabled: false" in real.read_text()
    assert [file.name for file in real.parent.iterdir()] == ["routerx.yaml"]


def test_a_change_is_taken_back_unless_somebody_has_changed_more(folder: Folder):
    path = folder.write(FILE)
    written = apply_edit(path, AddKey("openai", NEW, str(folder.path)))
    assert written is not None
    take_back(written)
    assert Path(path).read_text() == FILE
    assert list((folder.path / "secrets").iterdir()) == []
    written = apply_edit(path, SwitchProvider("openai", enabled=False))
    assert written is not None
    folder.write("mine: {}\n")
    take_back(written)
    assert Path(path).read_text() == "mine: {}\n"


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (None, Conflict, "runs on the environment alone"),
        ("plans: {p: {}}\n", NotFound, "No file of the configuration declares the provider 'openai'"),
        ("providers: {other: {}}\n", NotFound, "add it under `providers`"),
        ("providers: [", Conflict, "is refused, so nothing was changed"),
        ("x: &a {}\nproviders: {other: &b {}, openai: *b}\n", Conflict, "Change it by hand"),
    ],
)
def test_what_cannot_be_changed_is_refused_and_says_what_to_do(
    folder: Folder, text: str | None, error: type[Exception], message: str
):
    path = folder.write(text) if text is not None else None
    with pytest.raises(error, match=message):
        apply_edit(path, SwitchProvider("openai", enabled=False))
    if path is not None:
        assert Path(path).read_text() == text


def test_a_file_that_cannot_be_written_stays_whole_and_leaves_no_key(folder: Folder, monkeypatch: pytest.MonkeyPatch):
    path = folder.write(FILE)

    def busy(_source: str, _target: str) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr("os.replace", busy)
    with pytest.raises(Conflict, match="mount its folder"):
        apply_edit(path, AddKey("openai", NEW, str(folder.path / "data")))
    assert Path(path).read_text() == FILE
    assert list((folder.path / "data/secrets").iterdir()) == []
    assert sorted(file.name for file in folder.path.iterdir()) == ["data", "routerx.yaml"]


def test_of_two_writers_at_once_the_second_is_told(folder: Folder, monkeypatch: pytest.MonkeyPatch):
    path = folder.write(FILE)
    sync = os.fsync

    def overtaken(descriptor: int) -> None:
        sync(descriptor)
        folder.write("mine: {}\n")

    monkeypatch.setattr("os.fsync", overtaken)
    with pytest.raises(Conflict, match="changed by somebody else"):
        apply_edit(path, SwitchProvider("openai", enabled=False))
    assert Path(path).read_text() == "mine: {}\n"
