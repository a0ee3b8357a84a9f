"""Embeddings by /api/embed."""

from typing import Any

import msgspec

from routerx.dialects.base import Aim, Encoded
from routerx.dialects.leniently import decode_or_none
from routerx.dialects.ollama.target import put_extras
from routerx.dialects.ollama.usage import read_usage
from routerx.domain.embedding import EmbeddingAnswer, EmbeddingRequest

_NATIVE = frozenset({"truncate", "keep_alive"})


class Embedded(msgspec.Struct):
    """An answer."""

    embeddings: list[list[float]]
    model: Any = None
    prompt_eval_count: Any = None


_decoder = msgspec.json.Decoder(Embedded)


def read_embedded(body: bytes) -> Embedded | None:
    """The answer; None where `body` is none."""
    embedded = decode_or_none(_decoder, body)
    return embedded if isinstance(embedded, Embedded) else None


class Embeddings:
    """See dialects.base.EmbeddingTarget."""

    def encode_request(self, request: EmbeddingRequest, aim: Aim) -> Encoded:
        """A text that is too long is to be refused, as on the wire it came from, unless the caller sends `truncate`:
        by itself this server would cut it and tell nobody."""
        dropped: set[str] = set()
        fields: dict[str, Any] = {"model": aim.model, "input": list(request.inputs)}
        if request.dimensions is not None:
            fields["dimensions"] = request.dimensions
        put_extras(fields, request.extras, _NATIVE, dropped)
        fields.setdefault("truncate", False)
        return Encoded(fields, tuple(sorted(dropped)))

    def decode_answer(self, body: bytes) -> EmbeddingAnswer:
        embedded = read_embedded(body)
        if embedded is None:
            return EmbeddingAnswer(())
        model = embedded.model
        return EmbeddingAnswer(
            vectors=tuple(map(tuple, embedded.embeddings)),
            model=model if isinstance(model, str) and model else None,
            usage=read_usage({"prompt_eval_count": embedded.prompt_eval_count})[0],
        )
