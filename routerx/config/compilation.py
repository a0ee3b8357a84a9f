"""What the stages of compiling share: the checked configuration, what is known without it, and where to complain."""

import os
from collections.abc import Callable, Mapping

import msgspec

from routerx.config.blocks import OverridesBlock
from routerx.config.document import Document
from routerx.config.problems import Path, Problems
from routerx.config.schema import Config
from routerx.config.settings import Settings
from routerx.domain.policy import TimeoutOverrides
from routerx.providers.presets import MOCK, PRESETS, find_preset
from routerx.providers.spec import CatalogueModel, Preset


class Facts(msgspec.Struct, frozen=True):
    """What is known before anyone configures anything."""

    catalogue: Mapping[str, CatalogueModel]
    presets: Mapping[str, Preset] = PRESETS
    find_preset: Callable[[str], Preset | None] = find_preset
    mock: str = MOCK
    """Name of the preset that the built-in mock answers for."""


class Compilation(msgspec.Struct, frozen=True):
    """One compile run."""

    config: Config
    declared: Mapping[str, frozenset[str]]
    """Names in each section, those of broken entries included."""
    document: Document
    settings: Settings
    facts: Facts
    problems: Problems
    folder: str | None
    """Of the main file; None: there is no file."""
    now_ns: int
    """For which moment: of prices that change with time, those in force then count."""
    bound_host: str | None = None
    """What the process listens on already, whatever the file says now; None: it does not listen yet."""
    notices: list[str] = msgspec.field(default_factory=list)

    def notice(self, text: str) -> None:
        if text not in self.notices:
            self.notices.append(text)

    def beside(self, path: str) -> str:
        """A path written in the file is relative to the file's folder."""
        return os.path.normpath(os.path.join(self.folder if self.folder is not None else "", path))

    def by_reference(self, path: Path) -> bool:
        """Whether the value at `path`, or one level up in its short form, came from outside the file."""
        return path in self.document.by_reference or path[:-1] in self.document.by_reference

    def refuse_open_secret(self, path: Path) -> None:
        """A secret written out in a file that everyone on the machine can read is refused (SECURITY.md 20)."""
        file = self.problems.mark(path).file
        if file in self.document.open_to_all and not self.by_reference(path):
            self.problems.add(
                path,
                "is a secret in plain text, and every user of this machine can read the file; "
                "write ${env:NAME} or ${file:/path} instead, or chmod 600 the file",
                value=False,
            )


def overrides(block: OverridesBlock) -> TimeoutOverrides:
    """Deadlines of a model or a policy."""
    return TimeoutOverrides(
        connect_s=block.connect, first_token_s=block.first_token, idle_s=block.idle, total_s=block.total
    )
