"""How much a model is to think, as this wire says it, and what does not go together with thinking.

Facts of Anthropic's documentation of extended and adaptive thinking: a budget is at least 1,024 tokens and below
`max_tokens`; with thinking on, temperature and top_k are not taken and top_p is at least 0.95; with a budget, tools
cannot be forced, and in an open round of tools the assistant's turn must begin with the thought that was signed. Newer
models decide by themselves how much to think, take an effort in place of a budget, and know neither of these two rules.
"""

from collections.abc import Sequence
from typing import Any

from routerx.dialects.anthropic.request import ORIGIN
from routerx.dialects.base import Aim
from routerx.dialects.effort import budget_of, effort_of
from routerx.dialects.rounds import open_round
from routerx.domain.chat import ChatRequest, Message, Reasoning, ReasoningWish
from routerx.domain.model import Capability

BUDGET_MIN = 1_024
TOP_P_MIN = 0.95

_EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "max"}


def put_thinking(fields: dict[str, Any], request: ChatRequest, aim: Aim, dropped: set[str]) -> None:
    """Add `thinking` (and `output_config.effort`) to the fields of a request that are otherwise complete."""
    wish = request.reasoning
    if wish is None:
        return
    if wish.effort == "none" or wish.budget_tokens == 0:
        if Capability.ALWAYS_REASONS in aim.capabilities:
            dropped.add("reasoning_effort")
        elif Capability.REASONING in aim.capabilities:
            fields["thinking"] = {"type": "disabled"}
        return
    if Capability.REASONING in aim.capabilities and Capability.ADAPTIVE_REASONING in aim.capabilities:
        _adapt(fields, wish)
    elif Capability.REASONING not in aim.capabilities or not _budget(fields, request, wish, aim):
        dropped.add("reasoning_effort")
        return
    _make_room(fields, dropped)


def _adapt(fields: dict[str, Any], wish: ReasoningWish) -> None:
    fields["thinking"] = {"type": "adaptive", "display": "omitted" if wish.visible is False else "summarized"}
    effort = wish.effort if wish.budget_tokens is None else effort_of(wish.budget_tokens)
    if effort is not None:
        fields["output_config"] = {**fields.get("output_config", {}), "effort": _EFFORTS[effort]}


def _budget(fields: dict[str, Any], request: ChatRequest, wish: ReasoningWish, aim: Aim) -> bool:
    """False where a tool is forced, there is no room to think, or a round of tools is open whose thought was not signed
    here."""
    if fields.get("tool_choice", {}).get("type") in ("any", "tool"):
        return False
    # The ceiling is what the caller is ready to pay for, so it is the budget that gives way.
    ceiling = fields["max_tokens"]
    if wish.budget_tokens is not None:
        budget = min(wish.budget_tokens, ceiling - 1)
    else:
        budget = min(budget_of(wish.effort or "medium", aim.output_tokens_max), ceiling * 4 // 5)
    budget = max(BUDGET_MIN, budget)
    if budget >= ceiling or _is_unsigned(request.messages):
        return False
    fields["thinking"] = {"type": "enabled", "budget_tokens": budget}
    if wish.visible is False:
        fields["thinking"]["display"] = "omitted"
    return True


def _is_unsigned(messages: Sequence[Message]) -> bool:
    """Whether the turn that the results of tools belong to does not begin with a thought that was signed here."""
    first = next((part for message in open_round(messages) for part in message.parts), None)
    if first is None:
        return False
    return not (isinstance(first, Reasoning) and first.origin == ORIGIN and first.signature)


def _make_room(fields: dict[str, Any], dropped: set[str]) -> None:
    for key in ("temperature", "top_k"):
        if key in fields and fields[key] != 1:
            dropped.add(key)
        fields.pop(key, None)
    if "top_p" in fields and fields["top_p"] < TOP_P_MIN:
        del fields["top_p"]
        dropped.add("top_p")
