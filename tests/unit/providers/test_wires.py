"""Which wire a provider is spoken to in: the caller's own where it can be."""

import msgspec
import pytest

from routerx.domain.call import Operation
from routerx.providers.presets import PRESETS
from routerx.providers.spec import Auth, MockSettings, Provider, Wire
from routerx.providers.wires import wire_of

CHAT = Operation.CHAT
LAB = Provider("lab", "openai", "https://lab.test/v1", Auth.BEARER, ())


def of_preset(name: str) -> Provider:
    preset = PRESETS[name]
    return msgspec.structs.replace(LAB, dialect=preset.dialect, also=preset.also, relay_path=preset.relay_path)


@pytest.mark.parametrize(
    ("preset", "caller", "wire"),
    [
        ("openai", "openai", Wire("openai")),
        ("openai", "responses", Wire("responses")),
        ("openai", "anthropic", Wire("openai")),
        ("anthropic", "anthropic", Wire("anthropic")),
        ("anthropic", "openai", Wire("anthropic")),
        ("gemini", "openai", Wire("gemini")),
        ("deepseek", "anthropic", Wire("anthropic", "/anthropic/v1")),
        ("deepseek", "responses", Wire("openai")),
        ("ollama", "openai", Wire("ollama")),
    ],
)
def test_a_chat_is_passed_in_the_callers_own_wire_where_the_provider_speaks_it(
    preset: str, caller: str, wire: Wire
) -> None:
    assert wire_of(of_preset(preset), CHAT, caller) == wire


@pytest.mark.parametrize(
    ("preset", "wire"), [("gemini", "gemini"), ("ollama", "ollama"), ("openai", "openai"), ("anthropic", "openai")]
)
def test_embeddings_go_over_a_wire_that_has_them(preset: str, wire: str) -> None:
    assert wire_of(of_preset(preset), Operation.EMBEDDINGS, "openai").dialect == wire


def test_what_is_relayed_is_openais_at_the_providers_place_for_it() -> None:
    assert wire_of(of_preset("ollama"), Operation.COMPLETIONS, "openai") == Wire("openai", "/v1")


def test_the_mock_stands_in_for_any_provider_in_the_one_wire_it_speaks() -> None:
    mocked = msgspec.structs.replace(of_preset("anthropic"), mock=MockSettings())

    assert wire_of(mocked, CHAT, "anthropic") == Wire("openai")
