"""YAML files as one tree of plain text, with the place of every node.

Reads events of CSafeLoader's parser rather than Python objects: scalars stay text (schema.py gives them types), tags
other than YAML's own are refused, and nothing is built that a bomb could blow up. Resolves `${env:…}` and `${file:…}`,
and merges included files by name. Does not know what a valid configuration is.
"""

import glob
import os
import re
import stat
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import yaml

from routerx.config.problems import Mark, Path, Problems, Sources

FILE_BYTES_MAX = 1024 * 1024
FILES_MAX = 10_000
DEPTH_MAX = 32
NODES_MAX = 100_000
ALIASES_MAX = 100
REFERENCED_BYTES_MAX = 64 * 1024

NAMED_SECTIONS = ("providers", "models", "pricing", "policies", "plans", "tenants")
FIELD_SECTIONS = ("server", "ledger")

_CORE_TAGS = frozenset(
    {"!", *(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "map", "seq"))}
)
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_REFERENCE = re.compile(r"\$\$\{|\$\{([^{}]*)\}|\$\{")
_ENV = re.compile(r"^env:([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?$", re.DOTALL)

# Mappings, lists, text and None, nested: recursive types gain nothing over Any where pydantic checks next.
Tree = Any


class Document(msgspec.Struct):
    """What the files say, references resolved. Built by one load and then only read."""

    data: dict[str, Tree]
    sources: Sources
    by_reference: frozenset[Path] = frozenset()
    """Paths whose text came from `${env:…}` or `${file:…}`."""
    open_to_all: frozenset[str] = frozenset()
    """Files that every user of the machine can read."""


class _Refused(Exception):
    """This file cannot be read any further."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def read_document(path: str, env: Mapping[str, str], problems: Problems) -> Document:
    """The main file and what it includes. Problems are collected; the result then holds what could be read."""
    reader = _Reader(env, problems)
    main = reader.read(path)
    patterns = reader.include_patterns(main, path)
    for pattern in patterns:
        for included in reader.matches(pattern):
            reader.merge(main, reader.read(included), Mark(included, 0))
    return Document(
        data=main,
        sources=Sources(files=tuple(dict.fromkeys(reader.files)), globs=tuple(patterns)),
        by_reference=frozenset(reader.by_reference),
        open_to_all=frozenset(reader.open_to_all),
    )


def include_globs(path: str) -> tuple[str, ...]:
    """The absolute-or-relative glob patterns that the file at `path` includes. Raises ConfigError."""
    problems = Problems()
    reader = _Reader({}, problems)
    patterns = tuple(reader.include_patterns(reader.read(path), path))
    if not patterns:
        problems.raise_any(Sources(files=(path,)))
    return patterns


def include_files(path: str) -> tuple[str, ...]:
    """The files that the file at `path` includes, as they are now."""
    reader = _Reader({}, Problems())
    patterns = reader.include_patterns(reader.read(path), path)
    return tuple(file for pattern in patterns for file in reader.matches(pattern))


def parse_tree(text: str) -> Tree:
    """What one file says, references as they are written. Raises yaml.YAMLError for what is no configuration."""
    try:
        return _Builder(text, "", Problems()).build()
    except _Refused as refused:
        raise yaml.YAMLError(str(refused)) from None


class _Reader:
    """One load: the files seen so far, and where everything stands."""

    def __init__(self, env: Mapping[str, str], problems: Problems) -> None:
        self._env = env
        self._problems = problems
        self.files: list[str] = []
        self.by_reference: set[Path] = set()
        self.open_to_all: set[str] = set()

    def read(self, path: str) -> dict[str, Tree]:
        """One file as a mapping with its references resolved; empty after a problem."""
        self.files.append(path)
        try:
            text = self._text(path)
            builder = _Builder(text, path, self._problems)
            tree = builder.build()
        except OSError as error:
            self._problems.at(Mark(path, 0), f"cannot be read: {error.strerror}")
            return {}
        except _Refused as refused:
            self._problems.at(Mark(path, refused.line), str(refused))
            return {}
        except yaml.MarkedYAMLError as error:
            # The error's own text quotes the line, which may hold a secret: only its first part is told.
            line = error.problem_mark.line + 1 if error.problem_mark is not None else 0
            self._problems.at(Mark(path, line), f"is not valid YAML: {error.problem}")
            return {}
        except yaml.YAMLError:
            self._problems.at(Mark(path, 0), "is not valid YAML: it holds a character that YAML forbids")
            return {}
        self._place(builder)
        return {key: self._resolved(value, (key,), path) for key, value in tree.items()}

    def include_patterns(self, main: dict[str, Tree], path: str) -> list[str]:
        """The main file's `include`, joined to its folder."""
        given = main.pop("include", None)
        patterns = [given] if isinstance(given, str) else given if given is not None else []
        if not isinstance(patterns, list) or not all(isinstance(item, str) and item for item in patterns):
            self._problems.add(("include",), "must be a list of file names or patterns, like [tenants.d/*.yaml]")
            return []
        return [os.path.join(os.path.dirname(path), pattern) for pattern in patterns]

    def matches(self, pattern: str) -> list[str]:
        """The files of one pattern, in the order of their names; a plain name must exist."""
        found = [pattern] if not glob.has_magic(pattern) else sorted(glob.glob(pattern))
        if len(self.files) + len(found) > FILES_MAX:
            self._problems.add(("include",), f"matches more than {FILES_MAX} files", value=False)
            return []
        return [file for file in found if file not in self.files]

    def merge(self, main: dict[str, Tree], extra: dict[str, Tree], mark: Mark) -> None:
        """Add what an included file says; the same name twice is a problem that names both places."""
        for section, value in extra.items():
            if section == "include":
                self._problems.at(mark, "include: is only read in the main file")
            elif section == "version":
                continue
            elif section not in (*NAMED_SECTIONS, *FIELD_SECTIONS) or not isinstance(value, dict):
                main.setdefault(section, value)  # The schema will say what is wrong with it.
            elif main.get(section) is None:
                main[section] = value
            elif isinstance(main[section], dict):
                main[section].update({name: item for name, item in value.items() if name not in main[section]})

    def _place(self, builder: "_Builder") -> None:
        """Keep the places of a file's nodes; a name that another file has already is a problem."""
        marks = self._problems.marks
        for path, mark in builder.marks.items():
            if path not in marks:
                marks[path] = mark
            elif len(path) == 2 and path[0] in (*NAMED_SECTIONS, *FIELD_SECTIONS) and marks[path].file != mark.file:
                kind = "name" if path[0] in NAMED_SECTIONS else "field"
                self._problems.at(mark, f"{path[0]}.{path[1]}: this {kind} is already at {marks[path]}")
        for path, text in builder.written.items():
            self._problems.written.setdefault(path, text)

    def _text(self, path: str) -> str:
        with open(path, "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise _Refused(0, "is not a regular file")
            if status.st_mode & stat.S_IROTH:
                self.open_to_all.add(path)
            data = file.read(FILE_BYTES_MAX + 1)
        if len(data) > FILE_BYTES_MAX:
            raise _Refused(0, f"is larger than the limit of {FILE_BYTES_MAX // 1024} KiB")
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise _Refused(data.count(b"\n", 0, error.start) + 1, "is not UTF-8 text") from None

    # --- references ----------------------------------------------------------------------------------------------

    def _resolved(self, value: Tree, path: Path, file: str) -> Tree:
        if isinstance(value, dict):
            return {key: self._resolved(item, (*path, key), file) for key, item in value.items()}
        if isinstance(value, list):
            return [self._resolved(item, (*path, index), file) for index, item in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value
        if any(match[0] != "$${" for match in _REFERENCE.finditer(value)):
            self.by_reference.add(path)
        return _REFERENCE.sub(lambda match: self._reference(match, path, file), value)

    def _reference(self, match: re.Match[str], path: Path, file: str) -> str:
        if match[0] == "$${":
            return "${"
        name = match[1] if match[1] is not None else ""
        if (env := _ENV.match(name)) is not None:
            return self._variable(env[1], env[2], path)
        if name.startswith("file:") and len(name) > len("file:"):
            return self._file(os.path.join(os.path.dirname(file), name.removeprefix("file:")), path)
        self._problems.settle(path, "has a reference that is neither ${env:NAME} nor ${file:/path}; a plain ${ is $${")
        return ""

    def _variable(self, name: str, default: str | None, path: Path) -> str:
        value = self._env.get(name)
        if value is None and default is None:
            self._problems.settle(
                path, f"the environment variable {name} is not set; set it, or write ${{env:{name}:-}} to do without"
            )
            return ""
        return value if value else default if default is not None else ""

    def _file(self, target: str, path: Path) -> str:
        self.files.append(target)
        try:
            with open(target, "rb", opener=_open_without_waiting) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise _Refused(0, "it is not a regular file")
                data = file.read(REFERENCED_BYTES_MAX + 1)
            if len(data) > REFERENCED_BYTES_MAX:
                raise _Refused(0, f"it is larger than {REFERENCED_BYTES_MAX // 1024} KiB")
            return data.decode().rstrip("\r\n")
        except OSError as error:
            self._problems.settle(path, f"the file {target!r} cannot be read: {error.strerror}")
        except UnicodeDecodeError:
            self._problems.settle(path, f"the file {target!r} cannot be used: it is not UTF-8 text")
        except _Refused as refused:
            self._problems.settle(path, f"the file {target!r} cannot be used: {refused}")
        return ""


def _open_without_waiting(path: str, flags: int) -> int:
    """A pipe put in a file's place must not hang the server."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


class _Builder:
    """One file's events → a tree, with the line and the written text of every node."""

    def __init__(self, text: str, file: str, problems: Problems) -> None:
        self._events: Iterator[yaml.Event] = iter(yaml.parse(text, Loader=yaml.CSafeLoader))
        self._file = file
        self._problems = problems
        self._anchors: dict[str, tuple[Tree, int]] = {}
        self._aliases = 0
        self._nodes = 0
        self.marks: dict[Path, Mark] = {}
        self.written: dict[Path, str] = {}

    def build(self) -> dict[str, Tree]:
        """The only document of the file. Raises _Refused and yaml.YAMLError."""
        tree: Tree = None
        documents = 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise _Refused(_line(event), "holds a second document (`---`); one file is one document")
                tree = self._node(next(self._events), ())
        if tree is None or tree == {}:
            raise _Refused(0, "is empty; an empty file is taken for an accident, not for a configuration")
        if not isinstance(tree, dict):
            raise _Refused(1, "must be a mapping, like `providers: {…}`")
        return tree

    def _node(self, event: yaml.Event, path: Path) -> Tree:
        self._nodes += 1
        self.marks[path] = Mark(self._file, _line(event))
        if len(path) > DEPTH_MAX:
            raise _Refused(_line(event), f"is nested deeper than {DEPTH_MAX} levels")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        assert isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        if event.tag is not None and event.tag not in _CORE_TAGS:
            raise _Refused(_line(event), "holds a tag that is not allowed; only plain YAML is read")
        before = self._nodes
        value: Tree
        if isinstance(event, yaml.MappingStartEvent):
            value = self._mapping(path)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._sequence(path)
        else:
            assert isinstance(event, yaml.ScalarEvent)
            value = self._scalar(event, path)
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, self._nodes - before + 1)
        self._check_size(event)
        return value

    def _check_size(self, event: yaml.Event) -> None:
        if self._nodes > NODES_MAX:
            raise _Refused(_line(event), f"has more than {NODES_MAX} entries, aliases expanded")

    def _alias(self, event: yaml.AliasEvent) -> Tree:
        self._aliases += 1
        if self._aliases > ALIASES_MAX:
            raise _Refused(_line(event), f"uses more than {ALIASES_MAX} aliases")
        if event.anchor not in self._anchors:
            raise _Refused(_line(event), f"uses the alias *{event.anchor}, which is not defined above it")
        value, size = self._anchors[event.anchor]
        self._nodes += size
        self._check_size(event)
        return value

    def _scalar(self, event: yaml.ScalarEvent, path: Path) -> str | None:
        text: str = event.value
        plain = event.implicit[0] and not event.style
        if event.tag == "tag:yaml.org,2002:null" or (plain and text in _NULLS):
            return None
        self.written[path] = text
        return text

    def _sequence(self, path: Path) -> list[Tree]:
        items: list[Tree] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, (*path, len(items))))
        return items

    def _mapping(self, path: Path) -> dict[str, Tree]:
        own: dict[str, Tree] = {}
        merged: dict[str, Tree] = {}
        lines: dict[str, int] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise _Refused(_line(event), "has a key that is not plain text")
            key = event.value
            value = self._node(next(self._events), (*path, key))
            if key == "<<" and not event.style:
                for part in value if isinstance(value, list) else [value]:
                    if not isinstance(part, dict):
                        raise _Refused(_line(event), "merges (`<<`) something that is not a mapping")
                    merged = {**part, **merged}
                continue
            if key in lines:
                self._problems.at(
                    Mark(self._file, _line(event)), f"the key {key!r} is already at line {lines[key]} of this mapping"
                )
            lines.setdefault(key, _line(event))
            # A mapping's own line is its key's, not the line its first entry stands on.
            self.marks[(*path, key)] = Mark(self._file, _line(event))
            own[key] = value
        return {**merged, **own}


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark is not None else 0
