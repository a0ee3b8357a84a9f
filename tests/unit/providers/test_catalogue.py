"""The bundled catalogue: complete, consistent, and right where the prices are well known."""

import datetime as dt
from decimal import Decimal
from importlib import resources

import pytest

from routerx import jsonx
from routerx.domain.model import Capability, Kind
from routerx.domain.pricing import PriceCard, PriceSnapshot, cost_nano
from routerx.domain.usage import Usage
from routerx.money import parse_price_per_million
from routerx.providers import catalogue
from routerx.providers.catalogue import load_catalogue
from routerx.providers.presets import PRESETS
from routerx.providers.spec import CatalogueEndpoint, CatalogueModel

MODELS = load_catalogue()
TEXT = {Kind.CHAT, Kind.COMPLETION}
"""Kinds that read and write text: both windows are known, and both directions cost."""
INPUT_ONLY = {Kind.EMBEDDING, Kind.RERANK}
PER_MILLION_MAX = 200
"""USD per million tokens; the dearest there are at the date of the files are the image tokens of a model, at 120."""
ENDPOINTS = [(model, endpoint) for model in MODELS.values() for endpoint in model.endpoints]


def str_id(value: CatalogueModel | CatalogueEndpoint) -> str:
    return value.provider if isinstance(value, CatalogueEndpoint) else value.name


def offer(model: str, provider: str) -> CatalogueEndpoint:
    return next(endpoint for endpoint in MODELS[model].endpoints if endpoint.provider == provider)


def card(model: str, provider: str) -> PriceCard:
    price = offer(model, provider).price
    assert price is not None
    return price


def usd(text: str) -> int:
    return parse_price_per_million(text)


def test_there_are_more_than_a_hundred_and_fifty_models_of_many_owners() -> None:
    assert len(MODELS) >= 150
    assert sum(model.kind in {Kind.CHAT, Kind.EMBEDDING} for model in MODELS.values()) >= 150
    assert {"openai", "anthropic", "google", "deepseek", "mistral", "meta", "qwen", "xai"} <= {
        model.owner for model in MODELS.values()
    }


@pytest.mark.parametrize("name", ["gpt-4o", "gpt-4o-mini", "gpt-5", "o3", "claude-sonnet-4-5", "gemini-2.5-flash"])
def test_models_that_everybody_asks_for_are_there(name: str) -> None:
    assert MODELS[name].kind is Kind.CHAT


def test_names_and_aliases_are_unique() -> None:
    names = [name for model in MODELS.values() for name in (model.name, *model.aliases)]

    assert len(names) == len(set(names))
    assert all(name == model.name for name, model in MODELS.items())


def test_no_name_can_be_taken_for_a_path_or_a_suffix() -> None:
    for model in MODELS.values():
        for name in (model.name, *model.aliases):
            assert not set(name) & set("/: ")
            assert name == name.lower()


def test_every_provider_is_a_preset_and_every_preset_of_a_vendor_has_models() -> None:
    of_nobody = {"azure-openai", "generic-openai", "mock"}  # Deployments and servers of one's own; and no vendor.

    assert {endpoint.provider for _, endpoint in ENDPOINTS} == PRESETS.keys() - of_nobody


def test_every_kind_has_a_model() -> None:
    assert {model.kind for model in MODELS.values()} == set(Kind)


def test_no_provider_serves_one_model_twice_and_no_endpoint_serves_two_models() -> None:
    paths = [f"{endpoint.provider}/{endpoint.model}" for _, endpoint in ENDPOINTS]

    assert len(paths) == len(set(paths))
    for model in MODELS.values():
        providers = [endpoint.provider for endpoint in model.endpoints]
        assert len(providers) == len(set(providers))


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.name)
def test_every_model_has_facts_with_source_and_date(model: CatalogueModel) -> None:
    dt.date.fromisoformat(model.as_of)
    assert model.released is None or dt.date.fromisoformat(model.released) <= dt.date.fromisoformat(model.as_of)
    assert model.endpoints
    assert all(endpoint.source.startswith("https://") for endpoint in model.endpoints)
    assert model.capabilities <= set(Capability)
    if model.owner == "ollama":
        return  # What a local server can read is a setting of that server.
    assert model.context_tokens is not None or model.kind not in TEXT | INPUT_ONLY
    assert model.output_tokens_max is not None or model.kind not in TEXT


@pytest.mark.parametrize(("model", "endpoint"), ENDPOINTS, ids=str_id)
def test_no_endpoint_writes_more_than_it_can_read(model: CatalogueModel, endpoint: CatalogueEndpoint) -> None:
    context, output = endpoint.context_tokens, endpoint.output_tokens_max

    assert context is None or 512 <= context <= 2_000_000
    assert output is None or output > 0
    assert context is None or output is None or output <= context


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.name)
def test_every_model_has_a_price_somewhere_and_only_resellers_have_none(model: CatalogueModel) -> None:
    assert any(endpoint.price is not None for endpoint in model.endpoints)
    for endpoint in model.endpoints:
        assert endpoint.price is not None or endpoint.provider in {"openrouter", "huggingface"}
        free = endpoint.provider == "ollama" or model.kind is Kind.MODERATION
        assert endpoint.price is None or endpoint.price.is_free is free


def is_by_the_piece(model: CatalogueModel) -> bool:
    """Billed by the second, the character or the image: then nothing that it writes has a price."""
    return model.kind in {Kind.SPEECH, Kind.TRANSCRIPTION, Kind.IMAGE} and all(
        endpoint.price is not None and endpoint.price.output_pico == 0 for endpoint in model.endpoints
    )


@pytest.mark.parametrize(("model", "endpoint"), [(m, e) for m, e in ENDPOINTS if is_by_the_piece(m)], ids=str_id)
def test_a_price_by_the_piece_is_plausible(model: CatalogueModel, endpoint: CatalogueEndpoint) -> None:
    price = endpoint.price
    assert price is not None
    match model.kind:
        case Kind.SPEECH:
            assert price == PriceCard(input_pico=price.input_pico, output_pico=0)
            assert usd("5") <= price.input_pico <= usd("100")
        case Kind.TRANSCRIPTION:
            assert price == PriceCard(input_pico=0, output_pico=0, audio_in_pico=price.audio_in_pico)
            assert usd("5") <= (price.audio_in_pico or 0) <= usd("500")
        case _:
            assert price == PriceCard(input_pico=0, output_pico=0, request_nano=price.request_nano)
            assert 1_000_000 <= price.request_nano <= 500_000_000


def test_pieces_cost_what_the_vendor_says() -> None:
    minute, thousand_letters, image = Usage(in_audio=60), Usage(in_fresh=1_000), Usage(in_fresh=90, out_image=4_160)

    assert cost_nano(minute, PriceSnapshot(card("whisper-1", "openai"))) == 6_000_000
    assert cost_nano(thousand_letters, PriceSnapshot(card("tts-1", "openai"))) == 15_000_000
    assert cost_nano(image, PriceSnapshot(card("grok-imagine-image", "xai"))) == 20_000_000


@pytest.mark.parametrize(("model", "endpoint"), ENDPOINTS, ids=str_id)
def test_prices_are_plausible(model: CatalogueModel, endpoint: CatalogueEndpoint) -> None:
    price = endpoint.price
    if price is None or price.is_free or is_by_the_piece(model):
        return
    assert price.input_pico > 0
    assert (price.output_pico == 0) == (model.kind in INPUT_ONLY)
    assert price.output_pico == 0 or price.output_pico >= price.input_pico
    assert price.cache_read_pico is None or price.cache_read_pico <= price.input_pico
    assert price.cache_write_5m_pico is None or price.cache_write_5m_pico >= price.input_pico
    assert price.cache_write_1h_pico is None or price.cache_write_5m_pico is not None
    assert price.cache_write_1h_pico is None or price.cache_write_1h_pico > (price.cache_write_5m_pico or 0)
    picos = [pico for field in price.__struct_fields__ if field.endswith("_pico") and (pico := getattr(price, field))]
    assert max(picos) <= usd(str(PER_MILLION_MAX))
    assert price.search_nano <= 50_000_000
    if price.long_above_tokens is not None:
        assert endpoint.context_tokens is not None
        assert price.long_above_tokens < endpoint.context_tokens
        long = price.at(price.long_above_tokens + 1)
        assert long.input_pico > price.input_pico
        assert long.output_pico >= price.output_pico
        assert (price.long_cache_read_pico is None) == (price.cache_read_pico is None)
        assert (price.long_cache_write_5m_pico is None) == (price.cache_write_5m_pico is None)
        assert (price.long_cache_write_1h_pico is None) == (price.cache_write_1h_pico is None)


def test_prices_in_the_files_are_decimal_text_with_at_most_six_decimals() -> None:
    def check(value: object) -> None:
        assert isinstance(value, str), "a price is text: a float would be rounded before we see it"
        exponent = Decimal(value).as_tuple().exponent
        assert isinstance(exponent, int)
        assert exponent >= -6

    count = 0
    for path in resources.files(catalogue).iterdir():
        if not path.name.endswith(".json"):
            continue
        for entry in jsonx.decode(path.read_bytes())["models"].values():
            for row in entry["endpoints"]:
                for key, value in (row["price"] or {}).items():
                    if key == "long":
                        for long_key, long_value in value.items():
                            if long_key != "above":
                                check(long_value)
                    else:
                        check(value)
                    count += 1
    assert count > 600


@pytest.mark.parametrize(
    ("model", "provider", "into", "cached", "out"),
    [
        ("gpt-4o", "openai", "2.50", "1.25", "10.00"),
        ("gpt-4o-mini", "openai", "0.15", "0.075", "0.60"),
        ("gpt-5", "openai", "1.25", "0.125", "10.00"),
        ("o3", "openai", "2.00", "0.50", "8.00"),
        ("claude-sonnet-4-5", "anthropic", "3.00", "0.30", "15.00"),
        ("claude-haiku-4-5", "anthropic", "1.00", "0.10", "5.00"),
        ("gemini-2.5-pro", "gemini", "1.25", "0.125", "10.00"),
        ("gemini-2.5-flash", "gemini", "0.30", "0.03", "2.50"),
        ("mistral-large-2512", "mistral", "0.50", "0.05", "1.50"),
        ("gpt-oss-120b", "groq", "0.15", "0.075", "0.60"),
        ("gpt-oss-120b", "cerebras", "0.35", None, "0.75"),
    ],
)
def test_well_known_prices(model: str, provider: str, into: str, cached: str | None, out: str) -> None:
    price = card(model, provider)

    assert (price.input_pico, price.output_pico) == (usd(into), usd(out))
    assert price.cache_read_pico == (None if cached is None else usd(cached))


def test_cache_writes_are_priced_where_the_vendor_charges_for_them() -> None:
    price = card("claude-sonnet-4-5", "anthropic")

    assert (price.cache_write_5m_pico, price.cache_write_1h_pico) == (usd("3.75"), usd("6"))


def test_embeddings_are_priced_by_input_alone() -> None:
    assert card("text-embedding-3-small", "openai") == PriceCard(input_pico=usd("0.02"), output_pico=0)
    assert card("text-embedding-3-large", "openai") == PriceCard(input_pico=usd("0.13"), output_pico=0)


def test_a_long_prompt_is_charged_by_the_vendors_long_context_price() -> None:
    price = card("gemini-2.5-pro", "gemini")

    assert cost_nano(Usage(in_fresh=200_000), PriceSnapshot(price)) == 250_000_000
    assert cost_nano(Usage(in_fresh=400_000), PriceSnapshot(price)) == 1_000_000_000


def test_an_open_model_has_several_endpoints() -> None:
    assert {endpoint.provider for endpoint in MODELS["gpt-oss-120b"].endpoints} >= {
        "groq",
        "cerebras",
        "together",
        "deepinfra",
    }
    assert len(MODELS["llama-3.3-70b"].endpoints) >= 3


def test_names_at_the_vendor_are_the_vendors_own() -> None:
    assert offer("llama-3.3-70b", "fireworks").model == "accounts/fireworks/models/llama-v3p3-70b-instruct"
    assert offer("llama-3.3-70b", "deepinfra").model == "meta-llama/Llama-3.3-70B-Instruct"
    assert offer("claude-sonnet-4-5", "openrouter").model == "anthropic/claude-sonnet-4.5"


def test_limits_of_an_endpoint_override_those_of_the_model() -> None:
    assert MODELS["gpt-oss-120b"].output_tokens_max == 65_536
    assert offer("gpt-oss-120b", "cerebras").output_tokens_max == 32_768


def test_a_vendor_may_be_able_to_do_more_than_others_with_the_same_model() -> None:
    assert Capability.PREFILL not in MODELS["deepseek-v4-pro"].capabilities
    assert offer("deepseek-v4-pro", "deepseek").also_can == {Capability.PREFILL}
    assert offer("deepseek-v4-pro", "deepinfra").also_can == frozenset()


def abilities(model: str, provider: str) -> frozenset[Capability]:
    return MODELS[model].capabilities | offer(model, provider).also_can


@pytest.mark.parametrize("model", [model for model in MODELS.values() if model.owner == "anthropic"], ids=str_id)
def test_claude_goes_on_from_a_prefill_up_to_its_generation_4_5(model: CatalogueModel) -> None:
    old = "-4-5" in model.name

    assert (Capability.PREFILL in abilities(model.name, "anthropic")) is old
    assert (Capability.ADAPTIVE_REASONING in abilities(model.name, "anthropic")) is not old
    assert Capability.JSON_SCHEMA in model.capabilities


@pytest.mark.parametrize(
    ("model", "provider", "search"),
    [
        ("claude-haiku-4-5", "anthropic", 10_000_000),
        ("gpt-5", "openai", 10_000_000),
        ("gpt-4.1", "openai", 25_000_000),
        ("gemini-3.8-flash", "gemini", 14_000_000),
        ("gpt-oss-120b", "groq", 5_000_000),
        ("gpt-oss-120b", "cerebras", 0),
    ],
)
def test_searches_are_priced_where_the_vendor_bills_each_of_them(model: str, provider: str, search: int) -> None:
    assert card(model, provider).search_nano == search


def test_a_vendor_that_bills_searches_by_the_prompt_has_no_price_for_each() -> None:
    assert card("gemini-2.5-flash", "gemini").search_nano == 0


def test_images_are_priced_by_their_own_tokens() -> None:
    price = card("gpt-image-2", "openai")

    assert (price.input_pico, price.image_in_pico, price.output_pico) == (usd("5"), usd("8"), usd("30"))
    assert card("gemini-3-pro-image", "gemini").image_out_pico == usd("120")


def test_the_catalogue_is_read_once() -> None:
    assert load_catalogue() is MODELS
