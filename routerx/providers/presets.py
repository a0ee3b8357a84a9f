"""What is known of each vendor before anyone configures it: address, credential header, environment names, quirks.

A row here is all a vendor needs. Base URLs, headers and environment names are the vendors' own; whether cancelling a
stream stops the bill follows OpenRouter's published list of providers (docs/providers.md). Where nothing is published
the row says no: the stream is then drained and charged by its real usage.
"""

from collections.abc import Mapping
from types import MappingProxyType

from routerx.domain.call import Operation
from routerx.providers.quirks import Quirk
from routerx.providers.spec import Auth, Preset, Wire

OPENAI = "openai"
RESPONSES = "responses"
ANTHROPIC = "anthropic"
GEMINI = "gemini"
OLLAMA = "ollama"

_SAMPLING = ("top_k", "min_p", "repetition_penalty")
_OPENAI_TAKES = frozenset({"user", "service_tier", "verbosity", "prompt_cache_key"})
"""Of the parameters on which OpenAI-like providers differ; who refuses unknown ones must not be sent others'."""
_OPENAI_HAS = frozenset(
    {Operation.COMPLETIONS, Operation.IMAGES, Operation.SPEECH, Operation.TRANSCRIPTIONS, Operation.MODERATIONS}
)

MOCK = "mock"
"""The preset whose provider is answered by the built-in transport."""

_ROWS = (
    Preset(
        name="openai",
        dialect=OPENAI,
        base_url="https://api.openai.com/v1",
        env_keys=("OPENAI_API_KEY",),
        quirks=frozenset({Quirk.MAX_COMPLETION_TOKENS}),
        also=(Wire(RESPONSES),),
        relays=_OPENAI_HAS,
        takes=_OPENAI_TAKES,
    ),
    Preset(
        name="anthropic",
        dialect=ANTHROPIC,
        base_url="https://api.anthropic.com/v1",
        auth=Auth.X_API_KEY,
        env_keys=("ANTHROPIC_API_KEY",),
        headers=(("anthropic-version", "2023-06-01"),),
        forward_headers=frozenset({"anthropic-beta", "anthropic-version"}),
    ),
    Preset(
        name="gemini",
        dialect=GEMINI,
        base_url="https://generativelanguage.googleapis.com/v1beta",
        auth=Auth.X_GOOG_API_KEY,
        env_keys=("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        aliases=("google-gemini", "google"),
        abort_stops_billing=False,
    ),
    Preset(
        name="deepseek",
        dialect=OPENAI,
        base_url="https://api.deepseek.com",
        env_keys=("DEEPSEEK_API_KEY",),
        quirks=frozenset({Quirk.MAX_TOKENS}),
        also=(Wire(ANTHROPIC, "/anthropic/v1"),),
        reasoning_field="reasoning_content",
        takes=frozenset(),
    ),
    Preset(
        name="mistral",
        dialect=OPENAI,
        base_url="https://api.mistral.ai/v1",
        env_keys=("MISTRAL_API_KEY",),
        quirks=frozenset({Quirk.NO_STREAM_OPTIONS, Quirk.MAX_TOKENS, Quirk.RANDOM_SEED, Quirk.SHORT_TOOL_IDS}),
        relays=frozenset({Operation.TRANSCRIPTIONS, Operation.MODERATIONS}),
        abort_stops_billing=False,
        takes=frozenset(),
    ),
    Preset(
        name="groq",
        dialect=OPENAI,
        base_url="https://api.groq.com/openai/v1",
        env_keys=("GROQ_API_KEY",),
        relays=frozenset({Operation.SPEECH, Operation.TRANSCRIPTIONS}),
        abort_stops_billing=False,
        takes=frozenset({"user", "service_tier"}),
    ),
    Preset(
        name="cerebras",
        dialect=OPENAI,
        base_url="https://api.cerebras.ai/v1",
        env_keys=("CEREBRAS_API_KEY",),
        relays=frozenset({Operation.COMPLETIONS}),
        reasoning_field="reasoning",
        abort_stops_billing=False,
        takes=frozenset({"user"}),
    ),
    Preset(
        name="deepinfra",
        dialect=OPENAI,
        base_url="https://api.deepinfra.com/v1/openai",
        env_keys=("DEEPINFRA_TOKEN",),
        relays=_OPENAI_HAS - {Operation.MODERATIONS},
        takes=frozenset({"user", *_SAMPLING}),
    ),
    Preset(
        name="huggingface",
        dialect=OPENAI,
        base_url="https://router.huggingface.co/v1",
        env_keys=("HF_TOKEN",),
        aliases=("hf",),
        quirks=frozenset({Quirk.MAX_TOKENS}),
        abort_stops_billing=False,
        takes=frozenset(),
    ),
    Preset(
        name="openrouter",
        dialect=OPENAI,
        base_url="https://openrouter.ai/api/v1",
        env_keys=("OPENROUTER_API_KEY",),
        # Sources disagree on whether its transcriptions take OpenAI's form, so they are not offered.
        relays=frozenset({Operation.COMPLETIONS, Operation.SPEECH, Operation.RERANK}),
        reasoning_field="reasoning",
        abort_stops_billing=False,  # It depends on whom it routes to, which is known only afterwards.
        takes=frozenset({"user", "verbosity", *_SAMPLING}),
    ),
    Preset(
        name="xai",
        dialect=OPENAI,
        base_url="https://api.x.ai/v1",
        env_keys=("XAI_API_KEY",),
        also=(Wire(RESPONSES),),
        relays=frozenset({Operation.IMAGES}),
        takes=frozenset({"user"}),
    ),
    Preset(
        name="together",
        dialect=OPENAI,
        base_url="https://api.together.xyz/v1",
        env_keys=("TOGETHER_API_KEY",),
        aliases=("together-ai",),
        relays=_OPENAI_HAS - {Operation.MODERATIONS} | {Operation.RERANK},
        quirks=frozenset({Quirk.MAX_TOKENS}),
        takes=frozenset(_SAMPLING),
    ),
    Preset(
        name="fireworks",
        dialect=OPENAI,
        base_url="https://api.fireworks.ai/inference/v1",
        env_keys=("FIREWORKS_API_KEY",),
        aliases=("fireworks-ai",),
        relays=frozenset({Operation.COMPLETIONS, Operation.RERANK}),
        takes=frozenset({"user", "prompt_cache_key", *_SAMPLING}),
    ),
    Preset(
        name="azure-openai",
        dialect=OPENAI,
        base_url=None,
        auth=Auth.API_KEY,
        aliases=("azure",),
        quirks=frozenset({Quirk.OPENAI_V1_PATH}),
        also=(Wire(RESPONSES),),
        relays=_OPENAI_HAS - {Operation.MODERATIONS},
        takes=_OPENAI_TAKES,
    ),
    Preset(
        name="ollama",
        dialect=OLLAMA,
        base_url="http://localhost:11434",
        env_base_url="OLLAMA_BASE_URL",
        quirks=frozenset({Quirk.ROOT_PATH}),
        relays=_OPENAI_HAS - {Operation.MODERATIONS},  # By version: an older one answers 404 itself.
        relay_path="/v1",
        key_required=False,
    ),
    Preset(
        name="generic-openai",
        dialect=OPENAI,
        base_url=None,
        aliases=("generic", "openai-compatible"),
        quirks=frozenset({Quirk.OMIT_NULL_ENCODING_FORMAT}),
        key_required=False,
    ),
    Preset(
        name=MOCK,
        dialect=OPENAI,
        base_url="http://mock.invalid/v1",  # RFC 2606: resolves nowhere, so a mock call can never leave the machine.
        auth=Auth.NONE,
        key_required=False,
    ),
)

PRESETS: Mapping[str, Preset] = MappingProxyType({preset.name: preset for preset in _ROWS})

_BY_NAME: Mapping[str, Preset] = MappingProxyType(
    {name: preset for preset in _ROWS for name in (preset.name, *preset.aliases)}
)


def find_preset(name: str) -> Preset | None:
    """The preset of a vendor by its name or an alias (`google-gemini`); None when there is none."""
    return _BY_NAME.get(name)
