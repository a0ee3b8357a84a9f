"""The dialects there are, by the name that providers carry."""

from routerx.dialects.base import Dialect
from routerx.dialects.openai_chat import OPENAI

_DIALECTS: dict[str, Dialect] = {OPENAI.name: OPENAI}

NAMES = tuple(_DIALECTS)


def dialect(name: str) -> Dialect:
    """Raises KeyError for a name not in NAMES; configuration is checked against these before anything runs."""
    return _DIALECTS[name]
