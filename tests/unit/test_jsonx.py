"""The one JSON door: what is a request body and what is not."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from routerx.errors import InvalidJson
from routerx.jsonx import DEPTH_MAX, decode, encode, pretty, request_object


def nested(levels: int) -> bytes:
    """An object whose deepest bracket lies `levels` deep."""
    return b'{"a":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


def test_values_keep_their_exact_bytes() -> None:
    fields = request_object(b' {"a": 1.50, "b":{"c" : [1,  2]}, "d":"\\u00e9\\/"} ')
    assert {key: bytes(raw) for key, raw in fields.items()} == {
        "a": b"1.50",
        "b": b'{"c" : [1,  2]}',
        "d": b'"\\u00e9\\/"',
    }


def test_a_repeated_key_keeps_its_last_value_once() -> None:
    assert encode(request_object(b'{"model":"a","x":1,"model":"b"}')) == b'{"model":"b","x":1}'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"a"',
        b"{",
        b'{"a":1} x',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":01}',
        b"{'a':1}",
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',
        '{"a":"ä"}'.encode("latin-1"),
        '{"a":1}'.encode("utf-16"),
        b'{"a":"\\ud800"}',
        b'{"a":["x","\\udc00y"]}',
        b'{"\\ud800":1}',
        b'{"a":"line\nbreak"}',
    ],
)
def test_what_is_no_json_object_in_utf8_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidJson) as caught:
        request_object(body)
    assert caught.value.status == 400


def test_surrogate_pairs_are_text() -> None:
    assert decode(bytes(request_object(b'{"a":"\\ud83d\\ude00"}')["a"])) == "😀"


def test_depth_is_limited_to_the_level() -> None:
    assert list(request_object(nested(DEPTH_MAX))) == ["a"]
    for levels in (DEPTH_MAX + 1, 5_000, 200_000):
        with pytest.raises(InvalidJson, match="deeper than 64"):
            request_object(nested(levels))


def test_brackets_in_strings_are_not_depth() -> None:
    body = json.dumps({"a": "[" * 500 + '\\"{{{', "b": [{}] * 500}).encode()
    assert set(request_object(body)) == {"a", "b"}


@pytest.mark.parametrize("number", ["1e400", "9" * 5_000])
def test_numbers_out_of_range_pass_as_bytes_and_are_judged_by_who_reads_them(number: str) -> None:
    fields = request_object(b'{"a":%s}' % number.encode())
    assert bytes(fields["a"]) == number.encode()


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode(errors="surrogatepass")))
def test_no_bytes_break_the_reader(body: bytes) -> None:
    try:
        fields = request_object(body)
    except InvalidJson:
        return
    assert all(isinstance(raw, Raw) for raw in fields.values())


values = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=8)


@given(st.dictionaries(st.text(), values))
def test_what_the_standard_library_writes_is_read_back(value: dict[str, object]) -> None:
    for ascii_only in (True, False):
        try:
            body = json.dumps(value, ensure_ascii=ascii_only).encode()
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return  # Half a surrogate pair: refused, as a test above has it.
        assert {key: json.loads(bytes(raw)) for key, raw in request_object(body).items()} == value


def test_pretty_is_the_same_value_on_many_lines() -> None:
    text = pretty({"a": [1, 2], "b": None})
    assert text.count("\n") > 2
    assert json.loads(text) == {"a": [1, 2], "b": None}
