"""A conversation as this wire has it: the system prompt apart, then turns of the user and the assistant by turns.

What the wire demands and others do not (Anthropic's reference of Messages): turns that alternate and begin with the
user's, results of tools first in the user's turn, no blank texts, no thought at the end of a turn, no white space at
the end of a prefill, media of the user only, ids of few characters and each used once.
"""

import base64
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from routerx import jsonx
from routerx.dialects.anthropic.request import CITATIONS, ORIGIN
from routerx.dialects.reading import arguments_object, nothing_to_say
from routerx.dialects.rounds import open_round
from routerx.domain.chat import (
    CacheMark,
    Media,
    MediaKind,
    Message,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Role,
    Text,
    ToolCall,
    ToolResult,
)

Block = dict[str, Any]

_NOT_IN_ID = re.compile(r"[^a-zA-Z0-9_-]")
_MEDIA = ("image", "document")
_THOUGHTS = ("thinking", "redacted_thinking")
_NOTHING_SAID = {"type": "text", "text": "…"}
"""The user's turn before an assistant that speaks first."""
_PDF = base64.b64encode(b"%PDF-").decode()[:6]
_TEXTS = ("text/", "application/json", "application/xml")


class Marks(Protocol):
    """Puts cache marks on blocks."""

    def put(self, block: Block, mark: CacheMark | None) -> Block: ...


class Conversation:
    """Writes one conversation."""

    def __init__(self, marks: Marks, dropped: set[str]) -> None:
        self._marks = marks
        self._dropped = dropped
        self._unanswered: dict[str, deque[str]] = {}
        """A call's id in the request → the wire's ids of those that have it and no result yet."""
        self._used: set[str] = set()

    def of(self, messages: Sequence[Message]) -> tuple[list[Block], list[Block]]:
        """The system prompt's blocks, and the turns, at least one. Raises InvalidParameter where there are none."""
        system: list[Block] = []
        said: list[tuple[str, list[Block]]] = []
        leading = True
        for message in messages:
            if message.name is not None:
                self._dropped.add("messages.name")
            blocks = list(self._blocks(message))
            if message.role in (Role.SYSTEM, Role.DEVELOPER):
                if leading:
                    system += [block for block in blocks if block["type"] == "text"]
                    blocks = [block for block in blocks if block["type"] != "text"]
                else:
                    blocks = [_as_system(block) for block in blocks]
                said.append(("user", blocks))
                continue
            leading = False
            said.append(("assistant" if message.role is Role.ASSISTANT else "user", blocks))
        turns = _alternating(said)
        if not turns:
            # A prompt of nothing but instructions: they are all the user says.
            turns, system = _alternating([("user", system)]), []
        elif turns[0]["role"] == "assistant":
            turns.insert(0, {"role": "user", "content": [dict(_NOTHING_SAID)]})
        if turns and turns[-1]["role"] == "assistant":
            last = turns[-1]["content"][-1]
            if last["type"] == "text":
                last["text"] = last["text"].rstrip()
        if not turns:
            raise nothing_to_say()
        self._report_lost_thoughts(messages)
        return system, turns

    def _report_lost_thoughts(self, messages: Sequence[Message]) -> None:
        """A thought without this vendor's signature cannot go back; it is missed while its round of tools is open."""
        for message in open_round(messages):
            for part in message.parts:
                if isinstance(part, Reasoning) and part.text and part.origin != ORIGIN:
                    self._dropped.add("messages.reasoning")

    # --- blocks

    def _blocks(self, message: Message) -> Iterator[Block]:
        before: Block | None = None
        for part in message.parts:
            if isinstance(part, Opaque) and part.origin == ORIGIN and part.type == CITATIONS:
                if before is not None and before["type"] == "document":
                    before["citations"] = jsonx.decode(bytes(part.value))
                continue
            block = self._block(part)
            if block is not None:
                before = block
                yield block

    def _block(self, part: Part) -> Block | None:
        match part:
            case Text():
                return self._marks.put({"type": "text", "text": part.text}, part.cache) if part.text.strip() else None
            case Refusal():
                return {"type": "text", "text": part.text} if part.text.strip() else None
            case Media():
                block = self._media(part, "messages")
                return None if block is None else self._marks.put(block, part.cache)
            case Reasoning(origin=origin, signature=signature) if origin == ORIGIN and signature is not None:
                if part.redacted:
                    return {"type": "redacted_thinking", "data": signature}
                return {"type": "thinking", "thinking": part.text, "signature": signature}
            case ToolCall():
                block = {"type": "tool_use", "id": self._new_id(part.id), "name": part.name}
                return self._marks.put(block | {"input": arguments_object(part.arguments)}, part.cache)
            case ToolResult():
                return self._marks.put(self._result(part), part.cache)
            case Opaque(origin=origin):
                value = jsonx.decode(bytes(part.value)) if origin == ORIGIN else None
                if isinstance(value, dict) and "type" in value:
                    return value
                self._dropped.add(f"messages.{part.type}")
        return None

    def _new_id(self, id_: str) -> str:
        """Legacy clients name the calls of every round alike; here an id is used once."""
        plain = wished = _plain(id_)
        number = 1
        while plain in self._used:
            number += 1
            plain = f"{wished}_{number}"
        self._used.add(plain)
        self._unanswered.setdefault(id_, deque()).append(plain)
        return plain

    def _result(self, result: ToolResult) -> Block:
        waiting = self._unanswered.get(result.call_id)
        id_ = waiting.popleft() if waiting else _plain(result.call_id)
        block: Block = {"type": "tool_result", "tool_use_id": id_}
        content: list[Block] = []
        for part in result.parts:
            if isinstance(part, Text):
                if part.text.strip():
                    content.append({"type": "text", "text": part.text})
            elif (encoded := self._media(part, "messages.tool")) is not None:
                content.append(encoded)
        if len(content) == 1 and content[0]["type"] == "text":
            block["content"] = content[0]["text"]
        elif content:
            block["content"] = content
        if result.is_error:
            block["is_error"] = True
        return block

    def _media(self, media: Media, where: str) -> Block | None:
        if media.file_id is None:
            if media.kind is MediaKind.IMAGE:
                return {"type": "image", "source": _source(media, "image/png")}
            if media.kind is MediaKind.FILE and (source := _document(media)) is not None:
                block: Block = {"type": "document", "source": source}
                return block | ({"title": media.name} if media.name is not None else {})
        self._dropped.add(f"{where}.{media.kind.value}")
        return None


def _plain(id_: str) -> str:
    return _NOT_IN_ID.sub("_", id_) or "call"


def _as_system(block: Block) -> Block:
    return block | {"text": f"<system>{block['text']}</system>"} if block["type"] == "text" else block


def _source(media: Media, otherwise: str) -> Block:
    if media.url is not None:
        return {"type": "url", "url": media.url}
    return {"type": "base64", "media_type": otherwise if media.mime is None else media.mime, "data": media.data}


def _document(media: Media) -> Block | None:
    """A PDF, or a file of text; None for any other, which this wire does not take."""
    pdf = "application/pdf"
    if media.data is None or media.mime == pdf or (media.mime is None and media.data.startswith(_PDF)):
        return _source(media, pdf)
    if media.mime is not None and not media.mime.startswith(_TEXTS):
        return None
    try:
        text = base64.b64decode(media.data).decode()
    except ValueError:
        return None
    return {"type": "text", "media_type": "text/plain", "data": text}


# --- turns -------------------------------------------------------------------------------------------------------


def _alternating(said: Iterable[tuple[str, list[Block]]]) -> list[Block]:
    """Turns of one role each, none empty."""
    turns: list[Block] = []
    shown: list[Block] = []
    for role, blocks in [*said, ("user", [])]:
        if role == "assistant":
            # What the model drew is shown to it by the user: an assistant's turn takes no media.
            shown += [block for block in blocks if block["type"] in _MEDIA]
            blocks = [block for block in blocks if block["type"] not in _MEDIA]
        else:
            blocks, shown = [*shown, *blocks], []
        if blocks and turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": role, "content": blocks})
    for turn in turns:
        if turn["role"] == "user":
            turn["content"].sort(key=lambda block: block["type"] != "tool_result")
        else:
            while turn["content"] and turn["content"][-1]["type"] in _THOUGHTS:
                turn["content"].pop()
    if all(turn["content"] for turn in turns):
        return turns
    return _alternating((turn["role"], turn["content"]) for turn in turns)
