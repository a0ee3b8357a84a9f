"""Thoughts on the OpenAI chat wire, which has no place of its own for them.

The field's conventions: text in `reasoning_content` (or `reasoning`), and in `reasoning_details` items that also hold
what the vendor signed, each with a `format` that says whose it is (OpenRouter's documentation of reasoning tokens).
Clients that return an assistant's message as they got it return the signature with it.
"""

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from routerx.dialects.reading import Node
from routerx.domain.chat import Reasoning

FORMATS: Mapping[str, str] = MappingProxyType(
    {"anthropic": "anthropic-claude-v1", "gemini": "google-gemini-v1", "responses": "openai-responses-v1"}
)
"""Dialect that signed → `format`."""
ORIGINS: Mapping[str, str] = MappingProxyType({name: origin for origin, name in FORMATS.items()})

_ENCRYPTED = frozenset({"responses"})
"""Dialects that encrypt every thought, so that encrypted does not mean redacted."""


def items_of(thought: Reasoning, index: int) -> list[dict[str, Any]]:
    """The items of a thought that somebody signed, with its whole text; none for any other. Their indexes count from
    `index`: clients run together what they get under one (the official one's `accumulate_delta`)."""
    if thought.origin is None or thought.signature is None:
        return []
    whose: dict[str, Any] = {"format": FORMATS.get(thought.origin, thought.origin)}
    items: list[dict[str, Any]] = []
    if not thought.redacted and thought.origin not in _ENCRYPTED:
        items.append({"type": "reasoning.text", "text": thought.text, "signature": thought.signature, **whose})
    else:
        if thought.text:
            items.append({"type": "reasoning.summary", "summary": thought.text, **whose})
        items.append({"type": "reasoning.encrypted", "data": thought.signature, **whose})
    if thought.id is not None:
        items[-1]["id"] = thought.id
    return [{**item, "index": place} for place, item in enumerate(items, index)]


def details(thoughts: Iterable[Reasoning]) -> list[dict[str, Any]]:
    """The items of a message's thoughts, all of them; none where nobody signed any."""
    thoughts = tuple(thoughts)
    if all(thought.signature is None for thought in thoughts):
        return []
    items: list[dict[str, Any]] = []
    for thought in thoughts:
        place = len(items)
        items += items_of(thought, place) or [{"type": "reasoning.text", "text": thought.text, "index": place}]
    return items


def from_details(value: Any) -> list[Reasoning]:
    """The thoughts of a list of items. A thought may be several of them: a summary and what it sums up, encrypted; or,
    where a stream was gathered piece by piece, texts of one index, the last one with the signature."""
    whole: list[dict[str, Any]] = []
    for item in value if isinstance(value, list) else ():
        if isinstance(item, dict):
            if whole and _continues(whole[-1], item):
                text = f"{_said(whole[-1])}{_said(item)}"
                whole[-1] = {**whole[-1], **{key: one for key, one in item.items() if one is not None}, "text": text}
            else:
                whole.append(item)
    return [thought for item in whole if (thought := _from_item(item)) is not None]


def _continues(one: dict[str, Any], other: dict[str, Any]) -> bool:
    match one.get("type"), other.get("type"):
        case "reasoning.summary", "reasoning.encrypted":
            return True
        case ("reasoning.text", "reasoning.text") | ("reasoning.summary", "reasoning.summary"):
            return one.get("index") is not None and one.get("index") == other.get("index") and not one.get("signature")
    return False


def _said(item: dict[str, Any]) -> str:
    return _text(item.get("text")) or _text(item.get("summary"))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _from_item(item: dict[str, Any]) -> Reasoning | None:
    """The thought of one item; None where there is none."""
    shape = item.get("format")
    origin = ORIGINS.get(shape, shape) if isinstance(shape, str) else None
    text = _said(item)
    encrypted = item.get("type") == "reasoning.encrypted"
    signature = item.get("data") if encrypted else item.get("signature")
    id_ = item.get("id")
    if isinstance(signature, str) and signature and origin is not None:
        redacted = encrypted and origin not in _ENCRYPTED
        return Reasoning(text, signature, origin, redacted=redacted, id=id_ if isinstance(id_, str) else None)
    return Reasoning(text) if text else None


def thoughts_of(message: Node) -> Iterator[Reasoning]:
    """The thoughts in an assistant's message (or in a `thinking` part) of a caller's history."""
    items = message.get("reasoning_details")
    thoughts = from_details(items.value) if items is not None else []
    if thoughts:
        yield from thoughts
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
    text = _text(text)
    if isinstance(signature, str) and signature:
        return Reasoning(text, signature, "anthropic")
    return Reasoning(text) if text else None
