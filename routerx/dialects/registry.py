"""The dialects there are, by the name that providers carry."""

import importlib

from routerx.dialects.openai_chat import OPENAI

_DIALECTS = {OPENAI.name: OPENAI}
for _n in ("responses", "anthropic", "gemini", "ollama"):  # TEMPORARY, until the packages are there
    try:
        _m = importlib.import_module("routerx.dialects." + _n)
        _DIALECTS[_n] = getattr(_m, _n.upper())
    except (ImportError, AttributeError):
        pass
ANTHROPIC = _DIALECTS.get("anthropic", OPENAI)
GEMINI = _DIALECTS.get("gemini", OPENAI)
RESPONSES = _DIALECTS.get("responses", OPENAI)

NAMES = ("openai", "responses", "anthropic", "gemini", "ollama")


def dialect(name: str):
    return _DIALECTS.get(name, OPENAI)
