"""The names of what a translation may have to leave out: the vocabulary of X-RouterX-Dropped and its counter.

In OpenAI chat's names, without indices. A caller's unknown top-level key is reported by its own name, and counted as
`other`, because metrics must not grow by what callers make up.
"""

DROPPABLE: frozenset[str] = frozenset(
    {
        "allowed_tools",
        "frequency_penalty",
        "logit_bias",
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
        "seed",
        "service_tier",
        "stop",
        "temperature",
        "tool_choice",
        "top_k",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
    }
)
