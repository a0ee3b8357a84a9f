"""What another vendor signed, carried through a wire that has no place for it."""

import re

from hypothesis import given
from hypothesis import strategies as st

from routerx.dialects.signatures import pack, pack_call_id, plain_call_id, unpack, unpack_call_id

ORIGINS = st.sampled_from(("anthropic", "gemini", "responses"))
PLAIN = st.from_regex(r"[a-zA-Z0-9_-]{1,20}", fullmatch=True)
ANY = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
ALLOWED = re.compile(r"[a-zA-Z0-9_-]+")
"""What a tool call's id may be made of where a wire is strict about it."""


@given(ORIGINS, ANY, st.none() | ANY)
def test_what_is_packed_comes_out_again(origin: str, signature: str, id_: str | None) -> None:
    assert unpack(pack(origin, signature, id_)) == (origin, signature, id_)


def test_a_signature_that_nobody_packed_is_left_alone() -> None:
    for text in ("", "EqQBCkYIBxgCKkD", "rx1.", "rx1.gemini", "rx1.gemini.***.x", "rx2.gemini..x"):
        assert unpack(text) is None


@given(PLAIN, ORIGINS, ANY)
def test_a_call_keeps_its_id_and_its_signature(id_: str, origin: str, signature: str) -> None:
    packed = pack_call_id(id_, origin, signature)
    assert unpack_call_id(packed) == (id_, origin, signature)
    assert ALLOWED.fullmatch(packed)


def test_a_call_that_nobody_signed_keeps_its_id_as_it_is() -> None:
    assert pack_call_id("functions.add:0", None, None) == "functions.add:0"
    assert unpack_call_id("toolu_01A--b") == ("toolu_01A--b", None, None)


def test_an_id_that_only_looks_packed_is_left_alone() -> None:
    for id_ in ("call--rx1-", "call--rx1-gemini", "call--rx1-gemini-", "call--rx1-gemini-A"):
        assert unpack_call_id(id_) == (id_, None, None)


@given(ANY, st.none() | st.tuples(ORIGINS, ANY))
def test_an_id_with_odd_characters_is_restored_from_a_plain_one(id_: str, signed: tuple[str, str] | None) -> None:
    plain = plain_call_id(id_)
    assert ALLOWED.fullmatch(plain)
    origin, signature = signed or (None, None)
    packed = pack_call_id(plain, origin, signature)
    assert ALLOWED.fullmatch(packed)
    assert unpack_call_id(packed) == (id_, origin, signature)


def test_a_plain_id_is_not_touched() -> None:
    assert plain_call_id("toolu_01-A") == "toolu_01-A"
