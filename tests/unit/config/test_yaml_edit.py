"""Changes of a YAML text: they do what was asked for and leave every other character alone."""

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from routerx.config.document import parse_tree
from routerx.config.yaml_edit import append_item, remove_item, set_field
from routerx.errors import Conflict

BLOCK = """\
# Who is called.
providers:
  openai:   # the main account
    # Two keys: one for each team.
    keys:
      - {key: "${env:A}", rpm: 500}   # team a
      # and b
      - "${env:B}"
    timeouts: {connect: 2s}
  lab: {base_url: 'http://10.0.0.7/v1'}
tenants: {}
"""
OPENAI = ("providers", "openai")
KEYS = (*OPENAI, "keys")


def lines_of(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def added(before: str, after: str) -> list[str]:
    """The lines that are new; every line that was there still is, in its order."""
    old, new = lines_of(before), lines_of(after)
    fresh = []
    for line in new:
        if old and old[0] == line:
            old.pop(0)
        else:
            fresh.append(line)
    assert old == [], "a line is gone"
    return fresh


def test_a_provider_is_switched_off_by_one_line_below_its_name():
    text = set_field(BLOCK, OPENAI, "enabled", "false")
    assert added(BLOCK, text) == ["    enabled: false\n"]
    assert lines_of(text)[3] == "    enabled: false\n"
    assert set_field(text, OPENAI, "enabled", "true") == text.replace("enabled: false", "enabled: true")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("providers: {a: {keys: [x]}}\n", "providers: {a: {enabled: false, keys: [x]}}\n"),
        ("providers: {a: {}}\n", "providers: {a: {enabled: false}}\n"),
        ("providers:\n  a:  # mine\n  b: {}\n", "providers:\n  a: {enabled: false}  # mine\n  b: {}\n"),
        ("providers:\n  a: ~\n", "providers:\n  a: {enabled: false}\n"),
        ("providers:\n  a:\n    enabled: on # why\n", "providers:\n  a:\n    enabled: false # why\n"),
        ("providers:\n  a:\n    enabled:\n    keys: []\n", "providers:\n  a:\n    enabled: false\n    keys: []\n"),
        ("providers:\r\n  a:\r\n    x: 1\r\n", "providers:\r\n  a:\r\n    enabled: false\r\n    x: 1\r\n"),
        ("providers:\n  a: &x\n    y: 1\n", "providers:\n  a: &x\n    enabled: false\n    y: 1\n"),
        ('"providers":\n  "a":\n    "y": 1', '"providers":\n  "a":\n    enabled: false\n    "y": 1'),
        ("providers:\n  a:\n    ä: ö\n", "providers:\n  a:\n    enabled: false\n    ä: ö\n"),
    ],
)
def test_a_field_is_set_however_the_mapping_is_written(before: str, after: str):
    assert set_field(before, ("providers", "a"), "enabled", "false") == after


@pytest.mark.parametrize(
    "text",
    [
        "providers:\n  a: &x {keys: [k]}\n  b: *x\n",
        "base: &x {keys: [k]}\nproviders:\n  a: {}\n  b: {<<: *x}\n",
        "providers:\n  b: plain\n",
        "providers:\n  ? b\n  : ? y\n    : 1\n",
        "providers: {b: [1]}\n",
    ],
)
def test_a_text_that_cannot_be_changed_by_itself_is_refused_and_named(text: str):
    if "<<" in text:
        with pytest.raises(Conflict, match=r"providers\.b\.keys is written in a way"):
            append_item(text, ("providers", "b", "keys"), {"key": "y"})
        return
    with pytest.raises(Conflict, match=r"providers\.b is written in a way .* by hand"):
        set_field(text, ("providers", "b"), "enabled", "false")


def test_a_key_is_added_behind_the_last_one():
    text = append_item(BLOCK, KEYS, {"key": "${file:data/secrets/x}", "rpm": "60"})
    assert added(BLOCK, text) == ['      - {key: "${file:data/secrets/x}", rpm: 60}\n']
    assert lines_of(text)[7] == '      - "${env:B}"\n'
    assert parse_tree(text)["providers"]["openai"]["keys"][2] == {"key": "${file:data/secrets/x}", "rpm": "60"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("p: {a: {}}\n", "p: {a: {keys: [{key: x}]}}\n"),
        ("p:\n  a:\n", "p:\n  a: {keys: [{key: x}]}\n"),
        ("p:\n  a:\n    keys:\n    z: 1\n", "p:\n  a:\n    keys: [{key: x}]\n    z: 1\n"),
        ("p:\n  a:\n    keys: []\n", "p:\n  a:\n    keys: [{key: x}]\n"),
        ("p:\n  a:\n    keys: [y, ]\n", "p:\n  a:\n    keys: [y, {key: x}, ]\n"),
        (
            "p:\n  a:\n    keys: [y, # one\n      z] # two\n",
            "p:\n  a:\n    keys: [y, # one\n      z, {key: x}] # two\n",
        ),
        ("p:\n  a:\n    keys:\n    - y", "p:\n  a:\n    keys:\n    - y\n    - {key: x}"),
        (
            "p:\n  a:\n    keys:\n      - key: y\n        rpm: 5 # b\n    z: 1\n",
            "p:\n  a:\n    keys:\n      - key: y\n        rpm: 5 # b\n      - {key: x}\n    z: 1\n",
        ),
        ("p:\n  a:\n    z: 1\n", "p:\n  a:\n    keys: [{key: x}]\n    z: 1\n"),
    ],
)
def test_an_item_is_added_however_the_list_is_written(before: str, after: str):
    assert append_item(before, ("p", "a", "keys"), {"key": "x"}) == after


@pytest.mark.parametrize(
    ("before", "index", "after"),
    [
        ("k: [a, b, c]\n", 0, "k: [b, c]\n"),
        ("k: [a, b, c] # x\n", 2, "k: [a, b] # x\n"),
        ("k: [{key: a}]\n", 0, "k: []\n"),
        ("k:\n  - a # first\n  # of b\n  - b\n", 0, "k:\n  # of b\n  - b\n"),
        ("k:\n  - a\n  - key: b\n    rpm: 5 # slow\nz: 1\n", 1, "k:\n  - a\nz: 1\n"),
        ("k: # keys\n  # mine\n  - a\nz: 1\n", 0, "k: [] # keys\n  # mine\nz: 1\n"),
        ("k:\n- a\n", 0, "k: []\n"),
        ("k:\n  - # of a\n    key: a\n  - b", 0, "k:\n  - b"),
    ],
)
def test_an_item_goes_with_its_own_lines(before: str, index: int, after: str):
    assert remove_item(before, ("k",), index) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('k:\n  - "${env:B}" # b\n', 'k:\n  - {key: "${env:B}", rpm: 5} # b\n'),
        ("k: [{key: a, rpm: 3}]\n", "k: [{key: a, rpm: 5}]\n"),
        ("k:\n  - key: a\n    tpm: 9 # much\n", "k:\n  - key: a\n    tpm: 9 # much\n    rpm: 5\n"),
    ],
)
def test_a_field_of_an_item_is_set(before: str, after: str):
    assert set_field(before, ("k", 0), "rpm", "5", short="key") == after


def test_a_field_is_unset():
    assert set_field("k: [{key: a, rpm: 3}]\n", ("k", 0), "rpm", None, short="key") == "k: [{key: a, rpm: null}]\n"


def test_text_that_would_mean_something_in_yaml_stays_text():
    odd = {"key": '${file:a "b" #c}', "x": "null", "y": "- z", "z": "a: b"}
    text = append_item("k:\n", ("k",), odd)
    assert parse_tree(text)["k"] == [odd]
    assert yaml.load(text, Loader=yaml.CSafeLoader)["k"] == [odd]


NAMES = st.sampled_from(["a", "b-c", "ünder", "x.y"])
VALUES = st.recursive(
    st.sampled_from(["1", "on", "text with: colon", "# no comment", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(NAMES, VALUES, min_size=1, max_size=3),
    st.lists(VALUES.filter(lambda value: value not in ({}, [])), max_size=3),
    st.sampled_from([True, False, None]),
)
def test_whatever_the_text_only_the_asked_for_changes(entry: dict[str, Any], keys: list[Any], flow: bool | None):
    before = yaml.safe_dump({"p": {"a": {**entry, "keys": keys}, "b": entry}}, default_flow_style=flow, sort_keys=False)
    if "&" in before:
        return
    tree = parse_tree(before)
    off = parse_tree(set_field(before, ("p", "a"), "enabled", "false"))
    assert off == {"p": {**tree["p"], "a": {**tree["p"]["a"], "enabled": "false"}}}
    longer = append_item(before, ("p", "a", "keys"), {"key": "k"})
    assert parse_tree(longer)["p"]["a"]["keys"] == [*tree["p"]["a"]["keys"], {"key": "k"}]
    back = parse_tree(remove_item(longer, ("p", "a", "keys"), len(keys)))
    assert back == tree
