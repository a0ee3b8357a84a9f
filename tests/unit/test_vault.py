"""Encryption at rest."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerx.vault import SealBroken, Vault, new_vault_key

OLD, NEW = b"o" * 32, b"n" * 32


@settings(max_examples=40)
@given(plain=st.binary(max_size=300), context=st.binary(max_size=40))
def test_what_is_sealed_opens_under_its_context(plain: bytes, context: bytes) -> None:
    vault = Vault([new_vault_key()])
    sealed = vault.seal(plain, context)
    assert vault.open(sealed, context) == plain
    assert len(sealed) == len(plain) + 33
    assert sealed != vault.seal(plain, context)


@settings(max_examples=40)
@given(plain=st.binary(min_size=8, max_size=60), at=st.integers(min_value=0), flip=st.integers(1, 255))
def test_a_changed_byte_does_not_open(plain: bytes, at: int, flip: int) -> None:
    vault = Vault([NEW])
    sealed = bytearray(vault.seal(plain, b"here"))
    sealed[at % len(sealed)] ^= flip
    with pytest.raises(SealBroken):
        vault.open(bytes(sealed), b"here")


def test_a_sealed_text_does_not_open_in_another_place() -> None:
    vault = Vault([NEW])
    with pytest.raises(SealBroken):
        vault.open(vault.seal(b"secret", b"acme/openai"), b"other/openai")


def test_keys_can_be_changed() -> None:
    before, both, after = Vault([OLD]), Vault([NEW, OLD]), Vault([NEW])
    sealed = before.seal(b"secret", b"")
    assert both.open(sealed, b"") == b"secret"
    assert not both.is_current(sealed)
    renewed = both.seal(both.open(sealed, b""), b"")
    assert both.is_current(renewed)
    assert after.open(renewed, b"") == b"secret"
    with pytest.raises(SealBroken):
        after.open(sealed, b"")


@pytest.mark.parametrize("torn", [b"", b"\x01", b"\x01" + b"x" * 20])
def test_a_torn_text_is_said_to_be_broken(torn: bytes) -> None:
    with pytest.raises(SealBroken):
        Vault([NEW]).open(torn, b"")
