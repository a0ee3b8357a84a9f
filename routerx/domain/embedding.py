"""Embeddings in canonical form, for providers that have a wire of their own for them."""

import msgspec

from routerx.domain.usage import Usage
from routerx.jsonx import Raw


class EmbeddingRequest(msgspec.Struct, frozen=True):
    """Texts to turn into vectors, at least one."""

    inputs: tuple[str, ...]
    dimensions: int | None = None
    base64: bool = False
    """The caller wants little-endian 32-bit floats in base64 instead of numbers."""
    extras: dict[str, Raw] = {}
    """Top-level keys that are none of the above, as the caller sent them."""


class EmbeddingAnswer(msgspec.Struct, frozen=True):
    """One vector for each input, in their order."""

    vectors: tuple[tuple[float, ...], ...]
    model: str | None = None
    usage: Usage | None = None
