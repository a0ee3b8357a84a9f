"""A document → a validated Config, with every complaint in words of our own, at its place in the file.

One mistake hides no other: what fails is reported and cut out, the rest is checked as if it had been left out, and
nothing more is said about what stood around it.
"""

import copy
import re
from typing import Any

import msgspec
from pydantic import ValidationError

from routerx.config.document import DEPTH_MAX, NAMED_SECTIONS, Tree
from routerx.config.problems import Path, Problems
from routerx.config.schema import (
    CARD,
    CARDS,
    MODEL_PATTERN,
    NAME_PATTERN,
    TENANT_PATTERN,
    Config,
    fields_at,
)

_NAMES = {
    "providers": (NAME_PATTERN, "letters, digits, '.', '_' and '-', at most 63"),
    "policies": (NAME_PATTERN, "letters, digits, '.', '_' and '-', at most 63"),
    "plans": (NAME_PATTERN, "letters, digits, '.', '_' and '-', at most 63"),
    "tenants": (TENANT_PATTERN, "small letters, digits, '_' and '-', at most 63"),
    "models": (MODEL_PATTERN, "letters, digits and '@', '.', '_', ':', '/', '+', '-', at most 200"),
}
_QUOTED = re.compile(r"'([^']*)'")


class Checked(msgspec.Struct, frozen=True):
    """What is valid of a document, and the names of everything it declares, valid or not."""

    config: Config
    declared: dict[str, frozenset[str]]


def validate(data: dict[str, Tree], problems: Problems) -> Checked:
    """Check `data` against the schema; problems are collected and what is left is always usable."""
    declared = {
        section: frozenset(data[section]) if isinstance(data.get(section), dict) else frozenset()
        for section in NAMED_SECTIONS
    }
    _check_names(data, problems)
    kept = data
    for _ in range(DEPTH_MAX):
        try:
            return Checked(Config.model_validate(kept), declared)
        except ValidationError as error:
            kept = copy.deepcopy(kept) if kept is data else kept
            cut: set[Path] = set()
            for detail in error.errors(include_url=False, include_input=False):
                path: Path = tuple(part for part in detail["loc"] if part not in (CARD, CARDS))
                _explain(path, detail, problems)
                _cut(kept, path, cut)
            for path in cut:
                problems.quieten(path)
    return Checked(Config(), declared)


def _check_names(data: dict[str, Tree], problems: Problems) -> None:
    for section, (pattern, allowed) in _NAMES.items():
        entries = data.get(section)
        for name in entries if isinstance(entries, dict) else ():
            if re.fullmatch(pattern, name) is None:
                problems.add((section, name), f"is not a name; use {allowed}", value=False)


def _explain(path: Path, detail: Any, problems: Problems) -> None:
    """One complaint of pydantic in our words. Its own text is never used where it could hold the input."""
    match detail["type"]:
        case "extra_forbidden":
            problems.add(path, "unknown key", value=False, word=str(path[-1]), valid=fields_at(path[:-1]))
        case "missing":
            problems.add(path, "is required", value=False)
        case "model_type" | "dict_type":
            problems.add(path, "must be a mapping of keys to values", value=False)
        case "list_type":
            problems.add(path, "must be a list, like [a, b]", value=False)
        case "value_error":
            problems.add(path, str(detail["ctx"]["error"]))
        case "enum" | "literal_error":
            choices = _QUOTED.findall(detail["ctx"]["expected"])
            written = problems.written.get(path, "")
            problems.add(path, f"must be one of {', '.join(choices)}", word=written, valid=choices)
        case _:
            problems.add(path, "is not valid here", value=False)


def _cut(data: dict[str, Tree], path: Path, cut: set[Path]) -> None:
    """Take the smallest key around `path` out of `data`: never an item of a list, whose followers would move."""
    while path and not any(path[:size] in cut for size in range(1, len(path) + 1)):
        owner = _at(data, path[:-1])
        if isinstance(owner, dict) and path[-1] in owner:
            del owner[str(path[-1])]
            cut.add(path)
            return
        path = path[:-1]


def _at(tree: Tree, path: Path) -> Tree:
    """The node at `path`; None where there is none."""
    for part in path:
        match tree:
            case dict() if part in tree:
                tree = tree[part]
            case list() if isinstance(part, int) and part < len(tree):
                tree = tree[part]
            case _:
                return None
    return tree
