"""The keys of encryption at rest: given, made, exchanged, lost."""

import stat
from pathlib import Path

import pytest

from routerx.errors import ConfigError
from routerx.keyring import Keyring
from routerx.secrets import Secret
from routerx.vault import SealBroken, Vault

OLD, NEW = Secret("an old key of 32 characters, yes"), Secret("a new key of 32 characters, also")


def vault_of(ring: Keyring) -> Vault:
    vault = ring.present()
    assert vault is not None
    return vault


def test_without_a_key_nothing_is_made_before_it_is_needed(tmp_path: Path) -> None:
    assert Keyring((), str(tmp_path)).present() is None
    assert list(tmp_path.iterdir()) == []


def test_a_made_key_is_for_its_owner_alone_and_found_again(tmp_path: Path) -> None:
    ring = Keyring((), str(tmp_path / "data"))
    sealed = ring.vault().seal(b"secret", b"here")
    path = tmp_path / "data" / "secrets" / "vault.key"
    assert [file.name for file in path.parent.iterdir()] == ["vault.key"]
    assert (ring.path, stat.S_IMODE(path.stat().st_mode)) == (str(path), 0o600)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    again = Keyring((), str(tmp_path / "data"))
    assert vault_of(again).open(sealed, b"here") == b"secret"
    assert again.vault() is again.present()


def test_the_first_given_key_seals_and_all_open(tmp_path: Path) -> None:
    sealed = Keyring((OLD,), str(tmp_path)).vault().seal(b"secret", b"")
    both = Keyring((NEW, OLD), str(tmp_path)).vault()
    assert both.open(sealed, b"") == b"secret"
    assert not both.is_current(sealed)
    assert both.is_current(Keyring((NEW,), str(tmp_path)).vault().seal(b"secret", b""))
    with pytest.raises(SealBroken):
        Keyring((NEW,), str(tmp_path)).vault().open(sealed, b"")
    assert list(tmp_path.iterdir()) == []


def test_what_the_made_key_sealed_opens_after_others_are_given(tmp_path: Path) -> None:
    sealed = Keyring((), str(tmp_path)).vault().seal(b"secret", b"")
    given = vault_of(Keyring((NEW,), str(tmp_path)))
    assert given.open(sealed, b"") == b"secret"
    assert not given.is_current(sealed)


@pytest.mark.parametrize("content", [b"", b"too short\n", b"\xff" * 40, b"x" * 600])
def test_a_file_without_a_key_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secrets" / "vault.key"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"vault\.key: holds no vault key; put it back"):
        Keyring((), str(tmp_path)).vault()
    assert path.read_bytes() == content


def test_a_key_that_cannot_be_kept_or_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secrets" / "vault.key.new").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"the vault key cannot be kept: .*set server\.vault_keys"):
        Keyring((), str(tmp_path)).vault()
    (tmp_path / "secrets" / "vault.key").mkdir()
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        Keyring((), str(tmp_path)).present()
