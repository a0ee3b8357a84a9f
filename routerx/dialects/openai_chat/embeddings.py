"""Embeddings as callers ask for them, for providers that have a wire of their own."""

import base64
import sys
from array import array
from collections.abc import Mapping
from typing import Any

from routerx import jsonx
from routerx.dialects.reading import Body
from routerx.domain.embedding import EmbeddingAnswer, EmbeddingRequest
from routerx.errors import InvalidParameter
from routerx.jsonx import Raw


class Embeddings:
    """See dialects.base.EmbeddingSource."""

    def decode_request(self, fields: Mapping[str, Raw]) -> EmbeddingRequest:
        body = Body(fields)
        model = body.text("model")
        body.drop("user")
        node = body.take("input")
        if node is None:
            raise InvalidParameter("'input' is missing.", param="input")
        items = [node] if isinstance(node.value, str) else list(node.items())
        if not all(isinstance(item.value, str) for item in items):
            raise InvalidParameter(
                f"'input' holds tokens, which the provider of {model!r} cannot read. Send text.", param="input"
            )
        shape = body.take("encoding_format")
        return EmbeddingRequest(
            inputs=tuple(item.value for item in items),
            dimensions=body.integer("dimensions"),
            base64=shape is not None and shape.one_of("float", "base64") == "base64",
            extras=body.extras(),
        )

    def encode_answer(self, answer: EmbeddingAnswer, request: EmbeddingRequest) -> bytes:
        tokens = answer.usage.input_tokens if answer.usage is not None else 0
        data: list[dict[str, Any]] = []
        for index, vector in enumerate(answer.vectors):
            shown: Any = list(vector)
            if request.base64:
                # Through an array of C floats, which makes infinity of what is too large, where struct raises.
                floats = array("f", vector)
                if sys.byteorder == "big":
                    floats.byteswap()
                shown = base64.b64encode(floats.tobytes()).decode()
            data.append({"object": "embedding", "index": index, "embedding": shown})
        return jsonx.encode(
            {
                "object": "list",
                "data": data,
                "model": answer.model,
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            }
        )
