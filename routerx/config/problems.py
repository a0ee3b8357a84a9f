"""Everything that is wrong with a configuration, collected before anything is refused.

A problem names file, line, path, what is wrong, the value as it was *written* (a reference stays a reference, a secret
is left out) and the nearest valid name. Knows nothing of what is valid: the stages of the loader do.
"""

import difflib
from collections.abc import Iterable

import msgspec

from routerx.errors import ConfigError

Path = tuple[str | int, ...]

PROBLEMS_MAX = 100
_VALUE_CHARS_MAX = 60
_SECRET_PARTS = frozenset({"keys", "admin_keys", "vault_keys", "key", "headers", "proxy", "auth_keys"})


class Mark(msgspec.Struct, frozen=True):
    """Where a node stands; line 0 is the file as a whole."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


class Sources(msgspec.Struct, frozen=True):
    """What a configuration was made of: watched, and asked again after a refusal."""

    files: tuple[str, ...] = ()
    globs: tuple[str, ...] = ()


class ConfigRefused(ConfigError):
    """A ConfigError that remembers which files were asked, so that a watcher sees the one that was missing."""

    def __init__(self, problems: tuple[str, ...], sources: Sources) -> None:
        super().__init__(problems)
        self.sources = sources


class Problems:
    """Collects problems; `marks` and `written` are filled while files are read."""

    def __init__(self) -> None:
        self.marks: dict[Path, Mark] = {}
        self.written: dict[Path, str] = {}
        """Scalars as they stand in the file."""
        self._found: dict[tuple[str, int, str], None] = {}
        self._settled: set[Path] = set()
        self._quiet: set[Path] = set()

    def __bool__(self) -> bool:
        return bool(self._found)

    def at(self, mark: Mark, message: str) -> None:
        """A problem of a place, before there are paths."""
        self._found[(mark.file, mark.line, f"{mark}: {message}")] = None

    def add(self, path: Path, message: str, *, value: bool = True, word: str = "", valid: Iterable[str] = ()) -> None:
        """A problem of the node at `path`; `word` is what the nearest of `valid` is looked for."""
        if path in self._quiet or any(path[:size] in self._settled for size in range(len(path) + 1)):
            return
        text = f"{dotted(path)}: {message}" if path else message
        written = self._written(path) if value else None
        if written is not None:
            text += f" ({written!r})"
        if near := nearest(word, valid):
            text += f"; did you mean {near!r}?"
        mark = self.mark(path)
        self._found[(mark.file, mark.line, f"{mark}: {text}")] = None

    def settle(self, path: Path, message: str) -> None:
        """A problem after which nothing more is said about `path`."""
        self.add(path, message, value=False)
        self._settled.add(path)

    def quieten(self, path: Path) -> None:
        """Say nothing more about `path` and what is around it: it would only follow from what was said already.

        What stands beside it, or deeper, keeps its problems.
        """
        self._quiet.update(path[:size] for size in range(1, len(path) + 1))

    def mark(self, path: Path) -> Mark:
        """Where `path` stands, or the nearest node around it."""
        for size in range(len(path), -1, -1):
            if (mark := self.marks.get(path[:size])) is not None:
                return mark
        return Mark("configuration", 0)

    def raise_any(self, sources: Sources) -> None:
        """Raises ConfigRefused with all problems in the order of the files, if there are any."""
        if not self._found:
            return
        found = [text for _, _, text in sorted(self._found)]
        if len(found) > PROBLEMS_MAX:
            found = [*found[:PROBLEMS_MAX], f"and {len(found) - PROBLEMS_MAX} more problems"]
        raise ConfigRefused(tuple(found), sources)

    def _written(self, path: Path) -> str | None:
        if any(part in _SECRET_PARTS for part in path):
            return None
        text = self.written.get(path)
        if text is None:
            text = self.written.get(path[:-1])  # `fast: gpt-4o` is short for `fast: {alias: gpt-4o}`.
        if text is None or len(text) <= _VALUE_CHARS_MAX:
            return text
        return text[:_VALUE_CHARS_MAX] + "…"


def dotted(path: Path) -> str:
    """`("models", "a", "endpoints", 0, "price")` → `models.a.endpoints[0].price`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def nearest(word: str, valid: Iterable[str]) -> str | None:
    """The valid name most like `word`, if one is like it at all."""
    if not word:
        return None
    by_lower = {name.lower(): name for name in valid}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None
