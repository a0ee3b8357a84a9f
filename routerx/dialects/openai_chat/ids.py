"""Ids of tool calls as providers of this wire take them."""

import hashlib
from typing import Any

from routerx import jsonx
from routerx.dialects.signatures import PACKED, unpack_call_id
from routerx.jsonx import Raw

CALL_ID_CHARS_MAX = 40
"""Longer ones are refused: "string too long. Expected a string with maximum length 40" (OpenAI, on
`messages[].tool_calls[].id`, in many projects' tickets)."""


def call_id(text: str) -> str:
    """The id, or one made of it where it is too long: the same for a call and its result."""
    if len(text) <= CALL_ID_CHARS_MAX:
        return text
    return f"call_{hashlib.blake2b(text.encode('utf-8', 'replace'), digest_size=16).hexdigest()}"


def unpacked(messages: Raw) -> Raw:
    """A caller's messages, which pass, without what another vendor signed in the ids of its calls: a conversation that
    was begun with that vendor may go on with one who refuses ids of such length."""
    if PACKED not in bytes(messages):
        return messages
    value = jsonx.decode(bytes(messages))
    for message in value if isinstance(value, list) else ():
        if isinstance(message, dict):
            _unpack(message, "tool_call_id")
            calls = message.get("tool_calls")
            for call in calls if isinstance(calls, list) else ():
                if isinstance(call, dict):
                    _unpack(call, "id")
    return Raw(jsonx.encode(value))


def _unpack(owner: dict[str, Any], key: str) -> None:
    text = owner.get(key)
    if isinstance(text, str):
        plain = unpack_call_id(text)[0]
        if plain != text:
            owner[key] = call_id(plain)
