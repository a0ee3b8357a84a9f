"""A small world for configuration tests: three presets, three models, and files in a folder of their own."""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from routerx.clock import Clock
from routerx.config.compilation import Facts
from routerx.config.load import Loader
from routerx.config.settings import Flags
from routerx.config.snapshot import Snapshot
from routerx.domain.model import Capability, Kind
from routerx.domain.pricing import PriceCard
from routerx.errors import ConfigError
from routerx.providers.spec import CatalogueEndpoint, CatalogueModel

CHAT_PRICE = PriceCard(input_pico=2_500_000, output_pico=10_000_000)
EMBEDDING_PRICE = PriceCard(input_pico=20_000, output_pico=0)

CATALOGUE = {
    "gpt-4o": CatalogueModel(
        name="gpt-4o",
        kind=Kind.CHAT,
        owner="openai",
        endpoints=(
            CatalogueEndpoint("openai", "gpt-4o", CHAT_PRICE, source="https://openai.test/prices"),
            CatalogueEndpoint("openrouter", "openai/gpt-4o", CHAT_PRICE, also_can=frozenset({Capability.PREFILL})),
        ),
        capabilities=frozenset({Capability.VISION, Capability.TOOLS}),
        context_tokens=128_000,
        output_tokens_max=16_384,
        released="2024-05-13",
        aliases=("gpt-4o-latest",),
        as_of="2026-01-02",
    ),
    "claude": CatalogueModel(
        name="claude",
        kind=Kind.CHAT,
        owner="anthropic",
        endpoints=(CatalogueEndpoint("anthropic", "claude", CHAT_PRICE),),
        capabilities=frozenset({Capability.FIXED_SAMPLING}),
    ),
    "embed-small": CatalogueModel(
        name="embed-small",
        kind=Kind.EMBEDDING,
        owner="openai",
        endpoints=(CatalogueEndpoint("openai", "embed-small", EMBEDDING_PRICE),),
    ),
}

NO_FLAGS = Flags()
WITH_KEY = {"OPENAI_API_KEY": "sk-canary-openai"}
TWO_LINES = 'providers: {openai: {keys: ["${env:OPENAI_API_KEY}"]}}\n'


def nobody_is_told(text: str) -> None:
    raise AssertionError(f"no key was to be made: {text}")


class Folder:
    """A folder with configuration files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, text: str, name: str = "routerx.yaml", mode: int = 0o600) -> str:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)
        return str(file)

    def loader(self, text: str | None = None, env: Mapping[str, str] = WITH_KEY, flags: Flags = NO_FLAGS) -> Loader:
        path = self.write(text) if text is not None else None
        return Loader(path=path, env=env, flags=flags, announce=None, facts=Facts(catalogue=CATALOGUE))

    def load(self, text: str | None = None, env: Mapping[str, str] = WITH_KEY, flags: Flags = NO_FLAGS) -> Snapshot:
        return self.loader(text, env, flags).load(1)

    def problems(
        self, text: str | None = None, env: Mapping[str, str] = WITH_KEY, clock: Clock | None = None
    ) -> tuple[str, ...]:
        """Why the configuration is refused, without the folder's name."""
        loader = self.loader(text, env)
        with pytest.raises(ConfigError) as caught:
            (loader if clock is None else msgspec.structs.replace(loader, clock=clock)).load(1)
        return tuple(problem.replace(f"{self.path}/", "") for problem in caught.value.problems)

    def problem(self, text: str | None = None, env: Mapping[str, str] = WITH_KEY) -> str:
        found = self.problems(text, env)
        assert len(found) == 1, found
        return found[0]
