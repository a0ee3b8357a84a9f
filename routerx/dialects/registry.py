"""The dialects there are, by the name that providers carry."""

from routerx.dialects.anthropic import ANTHROPIC
from routerx.dialects.base import Dialect
from routerx.dialects.gemini import GEMINI
from routerx.dialects.ollama import OLLAMA
from routerx.dialects.openai_chat import OPENAI
from routerx.dialects.responses import RESPONSES

_DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (OPENAI, RESPONSES, ANTHROPIC, GEMINI, OLLAMA)}

NAMES = tuple(_DIALECTS)


def dialect(name: str) -> Dialect:
    """Raises KeyError for a name not in NAMES; configuration is checked against these before anything runs."""
    return _DIALECTS[name]
