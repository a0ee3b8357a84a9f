"""Thoughts on the OpenAI chat wire, which has no place of its own for them.

The field's conventions: text in `reasoning_content` (or `reasoning`), and in `reasoning_details` items that also hold
what the vendor signed, each with a `format` that says whose it is (OpenRouter's documentation of reasoning tokens).
Clients that return an assistant's message as they got it return the signature with it.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from routerx.dialects.reading import Node
from routerx.domain.chat import Reasoning

FORMATS: Mapping[str, str] = MappingProxyType(
    {"anthropic": "anthropic-claude-v1", "gemini": "google-gemini-v1", "responses": "openai-responses-v1"}
)
"""Dialect that signed → `format`."""
ORIGINS: Mapping[str, str] = MappingProxyType(
    {name: origin for origin, name in FORMATS.items()} | {"xai-responses-v1": "responses"}
)


def detail(thought: Reasoning, index: int) -> dict[str, Any] | None:
    """The item of a thought that somebody signed; None for any other."""
    if thought.origin is None or thought.signature is None:
        return None
    whose = {"format": FORMATS.get(thought.origin, thought.origin), "index": index}
    if thought.id is not None:
        whose["id"] = thought.id
    if thought.redacted:
        return {"type": "reasoning.encrypted", "data": thought.signature, **whose}
    return {"type": "reasoning.text", "text": thought.text, "signature": thought.signature, **whose}


def from_detail(item: Any) -> Reasoning | None:
    """The thought of one item; None where there is none."""
    if not isinstance(item, dict):
        return None
    shape = item.get("format")
    origin = ORIGINS.get(shape, shape) if isinstance(shape, str) else None
    text = item.get("text") or item.get("summary")
    text = text if isinstance(text, str) else ""
    encrypted = item.get("type") == "reasoning.encrypted"
    signature = item.get("data") if encrypted else item.get("signature")
    id_ = item.get("id")
    id_ = id_ if isinstance(id_, str) else None
    if isinstance(signature, str) and signature and origin is not None:
        return Reasoning(text, signature, origin, redacted=encrypted, id=id_)
    return Reasoning(text) if text else None


def thoughts_of(message: Node) -> Iterator[Reasoning]:
    """The thoughts in an assistant's message (or in a `thinking` part) of a caller's history."""
    details = message.get("reasoning_details")
    if details is not None and isinstance(details.value, list) and details.value:
        yield from (thought for thought in map(from_detail, details.value) if thought is not None)
        return
    blocks = message.get("thinking_blocks")
    if blocks is not None and isinstance(blocks.value, list) and blocks.value:
        yield from (thought for thought in map(_from_block, blocks.value) if thought is not None)
        return
    for key in ("reasoning_content", "reasoning", "thinking"):
        node = message.get(key)
        if node is not None:
            text = plain_text(node.value)
            if text:
                yield Reasoning(text)
            return


def plain_text(value: Any) -> str:
    """The text of a thought told as a string or as a list of typed parts."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(plain_text(item) for item in value)
    if isinstance(value, dict):
        text = value.get("text")
        return text if isinstance(text, str) else ""
    return ""


def _from_block(block: Any) -> Reasoning | None:
    """A block in Anthropic's own shape, as some clients keep it beside the message."""
    if not isinstance(block, dict):
        return None
    data, text, signature = block.get("data"), block.get("thinking"), block.get("signature")
    if isinstance(data, str) and data:
        return Reasoning("", data, "anthropic", redacted=True)
    text = text if isinstance(text, str) else ""
    if isinstance(signature, str) and signature:
        return Reasoning(text, signature, "anthropic")
    return Reasoning(text) if text else None
