"""Embeddings of this wire: one call for all texts (Google's reference of batchEmbedContents)."""

from typing import Any

import msgspec

from routerx.dialects.base import Aim, Encoded
from routerx.dialects.gemini.usage import UsageReader
from routerx.dialects.leniently import decode_or_none
from routerx.domain.embedding import EmbeddingAnswer, EmbeddingRequest

_any_decoder = msgspec.json.Decoder()
_NATIVE = {"taskType": "taskType", "task_type": "taskType", "title": "title"}


class Embeddings:
    """See dialects.base.EmbeddingTarget."""

    def encode_request(self, request: EmbeddingRequest, aim: Aim) -> Encoded:
        name = aim.model if "/" in aim.model else f"models/{aim.model}"
        common: dict[str, Any] = {"model": name}
        if request.dimensions is not None:
            common["outputDimensionality"] = request.dimensions
        dropped: set[str] = set()
        for key, raw in request.extras.items():
            if key in _NATIVE:
                common[_NATIVE[key]] = raw
            else:
                dropped.add(key)
        requests = [{**common, "content": {"parts": [{"text": text}]}} for text in request.inputs]
        return Encoded({"requests": requests}, tuple(sorted(dropped)))

    def decode_answer(self, body: bytes) -> EmbeddingAnswer:
        value = decode_or_none(_any_decoder, body)
        reports = UsageReader()
        reports.read(value.get("usageMetadata"))
        return EmbeddingAnswer(vectors=vectors_of(value) or (), usage=reports.usage)


def vectors_of(value: Any) -> tuple[tuple[float, ...], ...] | None:
    """The vectors of an answer, of one text or of many; None where there are none."""
    if not isinstance(value, dict):
        return None
    many = value.get("embeddings")
    items = many if isinstance(many, list) else [value.get("embedding")]
    vectors = [item.get("values") for item in items if isinstance(item, dict)]
    if not vectors or len(vectors) < len(items):
        return None
    if not all(isinstance(one, list) and all(isinstance(x, int | float) for x in one) for one in vectors):
        return None
    return tuple(tuple(map(float, vector)) for vector in vectors if vector is not None)
