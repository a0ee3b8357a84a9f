"""Usage as callers of the OpenAI wire read it: totals that include their parts."""

from typing import Any

from routerx.domain.usage import Usage


def usage_object(usage: Usage) -> dict[str, Any]:
    """The `usage` of a chat answer (OpenAI's reference, CompletionUsage; `cache_write_tokens` is the field's name)."""
    into: dict[str, int] = {"cached_tokens": usage.in_cache_read, "audio_tokens": usage.in_audio}
    written = usage.in_cache_write_5m + usage.in_cache_write_1h
    if written:
        into["cache_write_tokens"] = written
    if usage.in_image:
        into["image_tokens"] = usage.in_image
    out = {"reasoning_tokens": usage.out_reasoning, "audio_tokens": usage.out_audio}
    if usage.out_image:
        out["image_tokens"] = usage.out_image
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": into,
        "completion_tokens_details": out,
    }
