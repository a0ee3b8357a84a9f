"""Quirks: renames keep values, nothing a vendor does not do of its own accord is left out."""

import copy
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerx.domain.call import Operation
from routerx.jsonx import Raw
from routerx.providers.quirks import Fields, Quirk, asks_usage, base_url, transforms

CHAT, EMBEDDINGS = Operation.CHAT, Operation.EMBEDDINGS


def apply(fields: dict[str, bytes], *names: Quirk, operation: Operation = CHAT) -> dict[str, bytes]:
    raw: Fields = {key: Raw(value) for key, value in fields.items()}
    for transform in transforms(frozenset(names), operation, "openai"):
        transform(raw)
    return {key: bytes(value) for key, value in raw.items()}


@pytest.mark.parametrize("options", [b'{"include_usage":true}', b'{ "include_usage" : false }', b"{}", b"null"])
def test_a_wish_for_usage_that_comes_anyway_is_left_out(options: bytes) -> None:
    assert apply({"model": b'"m"', "stream_options": options}, Quirk.NO_STREAM_OPTIONS) == {"model": b'"m"'}


def test_any_other_stream_option_is_sent_on_so_that_the_vendor_can_refuse_it() -> None:
    fields = {"stream_options": b'{"include_usage":true,"include_obfuscation":false}'}

    assert apply(fields, Quirk.NO_STREAM_OPTIONS) == fields


def test_usage_is_not_asked_for_where_stream_options_are_refused() -> None:
    assert asks_usage(frozenset())
    assert not asks_usage(frozenset({Quirk.NO_STREAM_OPTIONS.value}))


@pytest.mark.parametrize(
    ("quirk", "old", "new"),
    [
        (Quirk.MAX_TOKENS, "max_completion_tokens", "max_tokens"),
        (Quirk.MAX_COMPLETION_TOKENS, "max_tokens", "max_completion_tokens"),
        (Quirk.RANDOM_SEED, "seed", "random_seed"),
    ],
)
def test_a_renamed_field_keeps_its_exact_bytes(quirk: Quirk, old: str, new: str) -> None:
    assert apply({"model": b'"m"', old: b"1e2"}, quirk) == {"model": b'"m"', new: b"1e2"}
    assert apply({new: b"7"}, quirk) == {new: b"7"}
    assert apply({old: b"1", new: b"2"}, quirk) == {old: b"1", new: b"2"}


def test_a_null_encoding_format_is_left_out_of_embeddings_only() -> None:
    quirk = Quirk.OMIT_NULL_ENCODING_FORMAT

    assert apply({"encoding_format": b"null"}, quirk, operation=EMBEDDINGS) == {}
    assert apply({"encoding_format": b'"float"'}, quirk, operation=EMBEDDINGS) == {"encoding_format": b'"float"'}
    assert apply({"encoding_format": b"null"}, quirk, operation=CHAT) == {"encoding_format": b"null"}


@pytest.mark.parametrize(
    ("url", "names", "expected"),
    [
        ("http://box:11434", {Quirk.ROOT_PATH}, "http://box:11434"),
        ("http://box:11434/v1/", {Quirk.ROOT_PATH}, "http://box:11434"),
        ("https://acme.openai.azure.com", {Quirk.OPENAI_V1_PATH}, "https://acme.openai.azure.com/openai/v1"),
        ("https://acme.openai.azure.com/openai/v1", {Quirk.OPENAI_V1_PATH}, "https://acme.openai.azure.com/openai/v1"),
        ("https://host", set(), "https://host"),
    ],
)
def test_a_base_url_of_a_host_alone_gets_the_vendors_path(url: str, names: set[Quirk], expected: str) -> None:
    assert base_url(url, frozenset(names)) == expected


HISTORY = [
    {"role": "assistant", "tool_calls": [{"id": "call_1", "type": "function"}, {"id": "abcdefgh1"}]},
    {"role": "tool", "tool_call_id": "call_1", "content": "x"},
]


@pytest.mark.parametrize("as_raw", [True, False])
def test_tool_ids_become_short_and_stay_paired(as_raw: bool) -> None:
    fields: Fields = {"messages": Raw(json.dumps(HISTORY).encode()) if as_raw else copy.deepcopy(HISTORY)}

    for transform in transforms(frozenset({Quirk.SHORT_TOOL_IDS}), CHAT, "openai"):
        transform(fields)

    calls, result = fields["messages"]
    short, kept = (call["id"] for call in calls["tool_calls"])
    assert re.fullmatch("[a-zA-Z0-9]{9}", short)
    assert result["tool_call_id"] == short
    assert kept == "abcdefgh1"


@pytest.mark.parametrize("calls", [5, 1.5, True, {"a": 1}, [5]])
def test_tool_calls_that_are_none_are_left_to_the_vendor(calls: object) -> None:
    messages = json.dumps([{"role": "assistant", "tool_calls": calls}]).encode()

    assert apply({"messages": messages}, Quirk.SHORT_TOOL_IDS) == {"messages": messages}


def test_messages_without_tool_calls_keep_their_exact_bytes() -> None:
    fields = {"messages": b'[ {"role":"user", "content":"hi"} ]'}

    assert apply(fields, Quirk.SHORT_TOOL_IDS) == fields


def test_an_unknown_quirk_is_refused() -> None:
    with pytest.raises(ValueError, match="no_such_quirk"):
        transforms(frozenset({"no_such_quirk"}), CHAT, "openai")


@given(
    fields=st.dictionaries(
        st.sampled_from(["max_tokens", "max_completion_tokens", "seed", "random_seed", "temperature", "x"]),
        st.integers(0, 9).map(lambda n: str(n).encode()),
    ),
    names=st.sets(st.sampled_from([Quirk.MAX_TOKENS, Quirk.RANDOM_SEED])),
)
def test_renames_lose_and_invent_no_value(fields: dict[str, bytes], names: set[Quirk]) -> None:
    assert sorted(apply(fields, *names).values()) == sorted(fields.values())
