"""Rounds of tools in a conversation."""

from collections.abc import Sequence

from routerx.domain.chat import Message, Role


def open_round(messages: Sequence[Message]) -> list[Message]:
    """The assistant's messages since the user last spoke, where the conversation ends with results of tools."""
    found: list[Message] = []
    if messages and messages[-1].role is Role.TOOL:
        for message in reversed(messages):
            if message.role is Role.USER:
                break
            if message.role is Role.ASSISTANT:
                found.insert(0, message)
    return found
