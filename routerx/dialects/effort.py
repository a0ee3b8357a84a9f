"""How much to think: words on some wires, tokens on others, and one table between them.

Shares of the output limit as the field has them (OpenRouter's documentation of `reasoning.effort`): high 80%, medium
50%, low 20%, minimal 10%.
"""

from types import MappingProxyType
from typing import Literal

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
EFFORTS: tuple[Effort, ...] = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

_SHARE_PERCENT = MappingProxyType({"minimal": 10, "low": 20, "medium": 50, "high": 80, "xhigh": 90, "max": 95})
_TOKENS_MIN = 1_024
"""The least that budgets may be on the wire that has a minimum."""
_TOKENS_MAX = 32_000
_UNKNOWN_LIMIT = 32_000


def budget_of(effort: str, output_tokens_max: int | None) -> int:
    """Tokens of thought that an effort stands for, of an output limit; 0 for `none`."""
    if effort == "none":
        return 0
    limit = output_tokens_max if output_tokens_max is not None else _UNKNOWN_LIMIT
    return max(_TOKENS_MIN, min(_TOKENS_MAX, limit * _SHARE_PERCENT[effort] // 100))


def effort_of(budget_tokens: int) -> Effort:
    """The word for so many tokens of thought."""
    if budget_tokens <= 0:
        return "none"
    if budget_tokens <= 4_096:
        return "low"
    return "medium" if budget_tokens <= 12_000 else "high"
