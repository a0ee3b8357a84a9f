"""Errors of Ollama: `{"error": "text"}` with nothing but the status to go by, or that alone on a line of a stream."""

from types import MappingProxyType

from routerx.dialects.classify import ErrorTable
from routerx.domain.failure import FailureKind

TABLE = ErrorTable(statuses=MappingProxyType({503: FailureKind.OVERLOADED}))
"""503 says that the queue is full (Ollama's FAQ, `OLLAMA_MAX_QUEUE`). 404 is a model that was not pulled: the common
table's refusal."""
