"""YAML as text with places: what is refused, what references become, how files are merged."""

import os

import pytest

from routerx.config.document import Document, read_document
from routerx.config.problems import Problems
from tests.unit.config.config_kit import Folder

TAGGED = "routerx.yaml:1: holds a tag that is not allowed; only plain YAML is read"


def read(folder: Folder, text: str, env: dict[str, str] | None = None) -> tuple[Document, list[str]]:
    problems = Problems()
    document = read_document(folder.write(text), env if env is not None else {}, problems)
    return document, sorted(text.replace(f"{folder.path}/", "") for _, _, text in problems._found)


def test_scalars_stay_as_they_are_written(folder: Folder):
    document, problems = read(folder, "server: {auth: off, a: 2.50, b: 0x1F, c: 12:30, d: ~, e: '', f: 2026-01-01}\n")
    assert not problems
    assert document.data["server"] == {
        "auth": "off",
        "a": "2.50",
        "b": "0x1F",
        "c": "12:30",
        "d": None,
        "e": "",
        "f": "2026-01-01",
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "routerx.yaml: is empty; an empty file is taken for an accident, not for a configuration"),
        ("# nothing\n", "routerx.yaml: is empty; an empty file is taken for an accident, not for a configuration"),
        ("{}\n", "routerx.yaml: is empty; an empty file is taken for an accident, not for a configuration"),
        ("- a\n", "routerx.yaml:1: must be a mapping, like `providers: {…}`"),
        ("a: 1\n---\nb: 2\n", "routerx.yaml:2: holds a second document (`---`); one file is one document"),
        ("a: 1\nb: 2\na: 3\n", "routerx.yaml:3: the key 'a' is already at line 1 of this mapping"),
        ("a: !!python/object/apply:os.system [id]\n", TAGGED),
        ("a: !secret b\n", TAGGED),
        ("a: *nobody\n", "routerx.yaml:1: uses the alias *nobody, which is not defined above it"),
        ("a: &x [*x]\n", "routerx.yaml:1: uses the alias *x, which is not defined above it"),
        ("? [a]\n: b\n", "routerx.yaml:1: has a key that is not plain text"),
        ("a: " + "[" * 100_000, "routerx.yaml:1: is nested deeper than 32 levels"),
        ("a: &x b\nc: [" + "*x, " * 101 + "]\n", "routerx.yaml:2: uses more than 100 aliases"),
        ("a: [" + "b, " * 100_001 + "]\n", "routerx.yaml:1: has more than 100000 entries, aliases expanded"),
        ("a: b\n" * 220_000, "routerx.yaml: is larger than the limit of 1024 KiB"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_plain_mapping_is_refused(folder: Folder, text: str, problem: str):
    _, problems = read(folder, text)
    assert problems == [problem]


def test_a_bomb_of_aliases_is_refused_at_once(folder: Folder):
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))
    _, problems = read(folder, bomb)
    assert problems == ["routerx.yaml:5: has more than 100000 entries, aliases expanded"]


def test_a_syntax_error_names_the_line_and_quotes_nothing(folder: Folder):
    _, problems = read(folder, "a: 1\nkeys: [sk-canary\nb: 2\n")
    assert len(problems) == 1
    assert problems[0].startswith("routerx.yaml:3: is not valid YAML: ")
    assert "canary" not in problems[0]


def test_bytes_that_are_no_text_are_refused_with_their_line(folder: Folder):
    path = folder.path / "routerx.yaml"
    path.write_bytes(b"a: 1\nb: \xff\n")
    problems = Problems()
    read_document(str(path), {}, problems)
    assert [text for _, _, text in problems._found] == [f"{path}:2: is not UTF-8 text"]


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe"])
def test_what_is_no_file_is_refused_and_never_waited_for(folder: Folder, kind: str):
    path = folder.path / "routerx.yaml"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    problems = Problems()
    read_document(str(path), {}, problems)
    assert len(problems._found) == 1


def test_merge_keys_fill_in_what_is_not_said(folder: Folder):
    document, _ = read(folder, "models:\n  a: &a {kind: chat, alias: x}\n  b: {<<: *a, alias: y}\n")
    assert document.data["models"]["b"] == {"kind": "chat", "alias": "y"}


# --- references ------------------------------------------------------------------------------------------------------


def test_references_are_replaced_inside_values(folder: Folder):
    folder.write("from a file\r\n", "secret")
    text = "server: {a: 'x ${env:A} y', b: '${file:secret}', c: '${env:B:-default}', d: '${env:B:-}', e: '$${env:A}'}\n"
    document, problems = read(folder, text, {"A": "1"})
    assert not problems
    assert document.data["server"] == {"a": "x 1 y", "b": "from a file", "c": "default", "d": "", "e": "${env:A}"}
    assert document.by_reference == {("server", key) for key in "abcd"}
    assert document.sources.files == (str(folder.path / "routerx.yaml"), str(folder.path / "secret"))


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("${env:A}", "the environment variable A is not set; set it, or write ${env:A:-} to do without"),
        ("${A}", "has a reference that is neither ${env:NAME} nor ${file:/path}; a plain ${ is $${"),
        ("${env:A", "has a reference that is neither ${env:NAME} nor ${file:/path}; a plain ${ is $${"),
        ("${env:A B}", "has a reference that is neither ${env:NAME} nor ${file:/path}; a plain ${ is $${"),
        ("${file:}", "has a reference that is neither ${env:NAME} nor ${file:/path}; a plain ${ is $${"),
    ],
)
def test_a_reference_to_nothing_is_a_problem(folder: Folder, value: str, problem: str):
    _, problems = read(folder, f"version: 1\nserver:\n  listen: '{value}'\n")
    assert problems == [f"routerx.yaml:3: server.listen: {problem}"]


def test_a_reference_to_a_missing_file_is_a_problem_and_is_watched_for(folder: Folder):
    document, problems = read(folder, "server:\n  listen: '${file:gone}'\n")
    gone = str(folder.path / "gone")
    assert problems == [f"routerx.yaml:2: server.listen: the file '{gone}' cannot be read: No such file or directory".replace(f"{folder.path}/", "")]  # fmt: skip  # noqa: E501
    assert gone in document.sources.files


# --- includes --------------------------------------------------------------------------------------------------------


def test_included_files_are_merged_by_name(folder: Folder):
    folder.write("tenants: {b: {plan: p}}\nserver: {drain: 1s}\n", "tenants.d/b.yaml")
    folder.write("tenants: {c: {}}\n", "tenants.d/c.yaml")
    folder.write("tenants: {no: {}}\n", "tenants.d/.b.yaml.1.tmp")
    document, problems = read(folder, "include: [tenants.d/*.yaml]\ntenants: {a: {}}\nserver: {listen: '80'}\n")
    assert not problems
    assert set(document.data["tenants"]) == {"a", "b", "c"}
    assert document.data["server"] == {"listen": "80", "drain": "1s"}
    assert document.sources.globs == (str(folder.path / "tenants.d/*.yaml"),)
    assert len(document.sources.files) == 3


def test_a_name_in_two_files_is_a_problem_that_names_both(folder: Folder):
    folder.write("\ntenants:\n  a: {plan: p}\n", "extra.yaml")
    _, problems = read(folder, "include: extra.yaml\ntenants:\n  a: {}\n")
    assert problems == [f"extra.yaml:3: tenants.a: this name is already at {folder.path}/routerx.yaml:3".replace(f"{folder.path}/", "")]  # fmt: skip  # noqa: E501


def test_a_plain_include_must_exist_and_an_included_file_must_not_be_empty(folder: Folder):
    folder.write("", "tenants.d/a.yaml")
    _, problems = read(folder, "include: [gone.yaml, tenants.d/*.yaml]\nversion: 1\n")
    assert problems == [
        "gone.yaml: cannot be read: No such file or directory",
        "tenants.d/a.yaml: is empty; an empty file is taken for an accident, not for a configuration",
    ]


def test_only_the_main_file_includes(folder: Folder):
    folder.write("include: [b.yaml]\n", "a.yaml")
    _, problems = read(folder, "include: [a.yaml]\nversion: 1\n")
    assert problems == ["a.yaml: include: is only read in the main file"]
