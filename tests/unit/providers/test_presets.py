"""Presets: every vendor that users are promised, complete and consistent."""

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from routerx.domain.call import Operation
from routerx.providers.presets import MOCK, PRESETS, find_preset
from routerx.providers.quirks import Quirk, transforms
from routerx.providers.spec import Auth, Preset

PROMISED = {
    "openai": "OPENAI_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
    "gemini": "GEMINI_API_KEY",
    "deepseek": "DEEPSEEK_API_KEY",
    "mistral": "MISTRAL_API_KEY",
    "groq": "GROQ_API_KEY",
    "cerebras": "CEREBRAS_API_KEY",
    "deepinfra": "DEEPINFRA_TOKEN",
    "huggingface": "HF_TOKEN",
    "openrouter": "OPENROUTER_API_KEY",
    "xai": "XAI_API_KEY",
    "together": "TOGETHER_API_KEY",
    "fireworks": "FIREWORKS_API_KEY",
}


@pytest.mark.parametrize(("name", "variable"), PROMISED.items())
def test_every_promised_vendor_is_switched_on_by_its_variable(name: str, variable: str) -> None:
    preset = PRESETS[name]

    assert preset.env_keys[0] == variable
    assert preset.key_required
    assert preset.base_url is not None
    assert urlsplit(preset.base_url).scheme == "https"


def test_the_second_google_variable_works_too() -> None:
    assert PRESETS["gemini"].env_keys == ("GEMINI_API_KEY", "GOOGLE_API_KEY")


def test_the_local_server_needs_an_address_and_no_key() -> None:
    preset = PRESETS["ollama"]

    assert (preset.env_base_url, preset.key_required, preset.env_keys) == ("OLLAMA_BASE_URL", False, ())


@pytest.mark.parametrize("name", ["azure-openai", "generic-openai"])
def test_vendors_without_one_address_require_it(name: str) -> None:
    assert PRESETS[name].base_url is None


def test_azure_takes_its_key_in_its_own_header() -> None:
    assert PRESETS["azure-openai"].auth is Auth.API_KEY


def test_names_and_aliases_are_unique_and_found() -> None:
    names = [name for preset in PRESETS.values() for name in (preset.name, *preset.aliases)]

    assert len(names) == len(set(names))
    assert find_preset("google-gemini") is PRESETS["gemini"]
    assert find_preset("openai") is PRESETS["openai"]
    assert find_preset("no-such-vendor") is None


def test_no_environment_variable_belongs_to_two_vendors() -> None:
    variables = [variable for preset in PRESETS.values() for variable in preset.env_keys]

    assert len(variables) == len(set(variables))


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
def test_every_row_is_well_formed(preset: Preset) -> None:
    transforms(preset.quirks, Operation.CHAT, "openai")

    assert preset.base_url is None or not preset.base_url.endswith("/")
    assert not {Quirk.MAX_TOKENS, Quirk.MAX_COMPLETION_TOKENS} <= preset.quirks


@pytest.mark.parametrize("name", ["groq", "gemini", "mistral", "huggingface"])
def test_vendors_that_bill_to_the_end_are_marked(name: str) -> None:
    assert not PRESETS[name].abort_stops_billing


@pytest.mark.parametrize(
    "name", ["openai", "azure-openai", "anthropic", "fireworks", "deepinfra", "together", "xai", "deepseek"]
)
def test_vendors_that_stop_billing_on_abort_are_marked(name: str) -> None:
    assert PRESETS[name].abort_stops_billing


def test_every_preset_and_its_variables_and_quirks_are_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "providers.md").read_text()

    for preset in PRESETS.values():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{preset.name}` |"))
        for word in (*preset.env_keys, *preset.aliases, preset.env_base_url, preset.base_url):
            assert word is None or preset.name == MOCK or f"`{word}`" in row
        for wire in (preset.dialect, *(wire.dialect for wire in preset.also)):
            assert f"`{wire}`" in row
        assert all(operation.value in row for operation in preset.relays)
        assert f"| {'yes' if preset.abort_stops_billing else 'no'} |" in row
    assert all(f"| `{quirk}` |" in page for quirk in Quirk)
