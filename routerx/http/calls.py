"""The routes that ask a model for something: what each wants done, and in whose wire format."""

from collections.abc import Mapping
from types import MappingProxyType

from routerx import jsonx
from routerx.dialects.anthropic import ANTHROPIC
from routerx.dialects.base import CallerDialect
from routerx.dialects.gemini import GEMINI
from routerx.dialects.openai_chat import OPENAI
from routerx.dialects.responses import RESPONSES
from routerx.domain.call import Operation
from routerx.errors import NotFound
from routerx.jsonx import Raw

CHAT_PATH = "/v1/chat/completions"
MESSAGES_PATH = "/v1/messages"
GENERATE_PATHS = ("/v1beta/models/", "/v1/models/")
"""Older and newer clients of Google's."""

CALLS: Mapping[str, tuple[Operation, CallerDialect]] = MappingProxyType(
    {
        CHAT_PATH: (Operation.CHAT, OPENAI),
        "/v1/embeddings": (Operation.EMBEDDINGS, OPENAI),
        "/v1/completions": (Operation.COMPLETIONS, OPENAI),
        "/v1/images/generations": (Operation.IMAGES, OPENAI),
        "/v1/audio/speech": (Operation.SPEECH, OPENAI),
        "/v1/audio/transcriptions": (Operation.TRANSCRIPTIONS, OPENAI),
        "/v1/moderations": (Operation.MODERATIONS, OPENAI),
        "/v1/rerank": (Operation.RERANK, OPENAI),
        "/v1/responses": (Operation.CHAT, RESPONSES),
        MESSAGES_PATH: (Operation.CHAT, ANTHROPIC),
    }
)
"""Routes whose body says everything; all are POST."""

_METHODS = {"generateContent": False, "streamGenerateContent": True}
"""Methods of a model in Gemini's paths, and whether they stream."""


def named_in_path(target: str) -> Mapping[str, Raw]:
    """What a path of Gemini's says that others say in the body: `gemini-2.5-pro:generateContent`. Raises NotFound."""
    model, _, method = target.rpartition(":")
    if method not in _METHODS or not model:
        raise NotFound(f"There is no method {method[:64]!r} of models here; use {' or '.join(_METHODS)}.")
    return {"model": Raw(jsonx.encode(model)), "stream": Raw(b"true" if _METHODS[method] else b"false")}


def call_at(path: str) -> tuple[Operation, CallerDialect, Mapping[str, Raw]] | None:
    """What a path asks for, and what it says itself; None where it asks no model for anything."""
    path = path.partition("?")[0]
    if path in CALLS:
        return (*CALLS[path], {})
    if path.startswith(GENERATE_PATHS) and ":" in path:
        return Operation.CHAT, GEMINI, named_in_path(path.split("/models/", 1)[1])
    return None
