"""Usage on Ollama's wire: two counts on the last line (PROVIDERS.md 6b). Durations are left alone."""

from typing import Any

from routerx.domain.usage import Usage

TOKENS_MAX = 1 << 40


def read_usage(value: dict[str, Any]) -> tuple[Usage | None, bool]:
    """What the last line reports, and whether a report was there that cannot be used.

    The server leaves out counts that are zero. Without one of the output nothing was written. Without one of the prompt
    the whole prompt came from the server's memory, and how long it was nobody says: that is no report, and an estimate
    stands in.
    """
    prompt, output = value.get("prompt_eval_count"), value.get("eval_count")
    counts = [count for count in (prompt, output) if count is not None]
    if not all(type(count) is int and 0 <= count <= TOKENS_MAX for count in counts):
        return None, True
    if prompt is None:
        return None, False
    return Usage(in_fresh=prompt, out_text=output if output is not None else 0), False
