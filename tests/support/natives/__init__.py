"""Fake providers, each a server of one native wire, that share no code with RouterX.

    async with Gemini() as native:
        ...                                  # ask native.url for gemini-3-tools: the model's last word is its scenario
        assert native.refusals == []         # why requests were refused with a 400
        native.tokens("tools", 1)            # what the first turn used, as this wire tells it

Each checks what it gets against the request types of the vendor's official client and the rules of its documentation,
and plays the scenarios of script.py, buffered and streamed in awkward pieces.
"""

from tests.support.natives.anthropic import Anthropic
from tests.support.natives.gemini import Gemini
from tests.support.natives.ollama import Ollama
from tests.support.natives.openai_chat import OpenAIChat
from tests.support.natives.openai_responses import OpenAIResponses
from tests.support.natives.server import KEY, Native, Sent

__all__ = ["KEY", "Anthropic", "Gemini", "Native", "Ollama", "OpenAIChat", "OpenAIResponses", "Sent"]
