"""The names of what a translation may have to leave out: the vocabulary of X-RouterX-Dropped and its counter.

In OpenAI chat's names, without indices. A caller's unknown top-level key, and a part or tool that only one vendor
knows, is reported by its own name, and counted as `other`, because metrics must not grow by what callers make up.
"""

from routerx.domain.chat import MediaKind

_WISHES = frozenset(
    {
        "frequency_penalty",
        "logprobs",
        "min_p",
        "n",
        "parallel_tool_calls",
        "prefill",
        "presence_penalty",
        "prompt_cache_key",
        "reasoning_effort",
        "repetition_penalty",
        "response_format",
        "response_format.json_schema.description",
        "response_format.json_schema.name",
        "seed",
        "service_tier",
        "stop",
        "temperature",
        "tool_choice",
        "tools.custom",
        "tools.strict",
        "top_k",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
    }
)
_MESSAGES = frozenset({"messages.cache_control", "messages.name", "messages.reasoning"})
_MEDIA = frozenset(f"{where}{kind.value}" for where in ("", "messages.", "messages.tool.") for kind in MediaKind)

DROPPABLE: frozenset[str] = _WISHES | _MESSAGES | _MEDIA
"""Names that are ours."""
