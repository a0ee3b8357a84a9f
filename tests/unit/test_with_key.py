"""One more key at the end of a JSON object, and not another byte changed."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerx.jsonx import with_key

LEAVES = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=8)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))
SPACES = st.text(" \n\r\t", max_size=3).map(str.encode)


@settings(max_examples=60, deadline=None)
@given(
    before=st.dictionaries(st.text(max_size=5), VALUES, max_size=4), after=SPACES, ahead=SPACES, indent=st.booleans()
)
def test_all_that_was_there_keeps_its_bytes(before: dict[str, Any], after: bytes, ahead: bytes, indent: bool):
    body = ahead + json.dumps(before, indent=2 if indent else None).encode() + after
    got = with_key(body, "more", b'{"x":[1]}')
    assert json.loads(got) == {**before, "more": {"x": [1]}}
    kept = body.rstrip()[:-1]
    assert got.startswith(kept)
    assert got.endswith(b'"more":{"x":[1]}}' + after)


@pytest.mark.parametrize("body", [b"[1]", b'"{}"', b"null", b"", b" "])
def test_what_is_no_object_stays_as_it_is(body: bytes):
    assert with_key(body, "more", b"1") == body
