"""A caller and a provider that both speak Messages: what of the bytes that pass has to be looked at after all."""

from typing import Any

import msgspec

from routerx import jsonx
from routerx.dialects.anthropic.stream import END_MARK, frame
from routerx.dialects.leniently import ABSENT, decode_or_none
from routerx.dialects.signatures import MARK
from routerx.jsonx import Raw

_fields_decoder = msgspec.json.Decoder(dict[str, Raw])
_any_decoder = msgspec.json.Decoder()
_SIGNS = (b'"' + MARK.encode(), b'"encrypted_index"')
"""What stands in a history that may have to be rewritten; looked for as bytes, because most have neither."""
_STOPPING = ("stop_reason", "stop_sequence", "stop_details", "container")
_THOUGHTS = ("thinking", "redacted_thinking")


def own_history(messages: Raw) -> Raw:
    """The messages without what this gateway wrote into earlier answers when they came from other vendors: thoughts
    that are not signed here, and sources of theirs. The vendor refuses both."""
    data = bytes(messages)
    if not any(sign in data for sign in _SIGNS):
        return messages
    try:
        history = jsonx.decode(data)
    except msgspec.DecodeError:
        return messages
    if not isinstance(history, list):
        return messages
    kept = [own for message in history if (own := _own_message(message)) is not None]
    return Raw(jsonx.encode(kept)) if kept != history else messages


def _own_message(message: Any) -> Any:
    """None where nothing is left of it."""
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list) or message.get("role") != "assistant":
        return message
    blocks = [_own(block) for block in content if not _is_foreign(block)]
    return {**message, "content": blocks} if blocks or not content else None


def _is_foreign(block: Any) -> bool:
    if not isinstance(block, dict) or block.get("type") not in _THOUGHTS:
        return False
    signature = block.get("signature", block.get("data"))
    return isinstance(signature, str) and signature.startswith(MARK)


def _own(block: Any) -> Any:
    cited = block.get("citations") if isinstance(block, dict) else None
    if not isinstance(cited, list):
        return block
    own = [one for one in cited if not isinstance(one, dict) or one.get("encrypted_index") != ""]
    return {**block, "citations": own} if own else {key: value for key, value in block.items() if key != "citations"}


def to_stream(body: bytes) -> bytes:
    """A message that read_reply has accepted as the frames of a stream; nothing of it is lost."""
    message: dict[str, Any] = decode_or_none(_fields_decoder, body) or {}
    content = decode_or_none(_any_decoder, message.get("content", ABSENT))
    usage = message.get("usage", ABSENT)
    ending = {key: message[key] for key in _STOPPING if key in message}
    message |= {"content": [], "stop_reason": None, "stop_sequence": None}
    frames = [frame("message_start", message=_plain(message))]
    for index, block in enumerate(content if isinstance(content, list) else ()):
        frames += _block(index, block)
    frames.append(frame("message_delta", delta=_plain(ending), usage=_plain(usage)))
    return b"".join(frames) + END_MARK


def _plain(value: Any) -> Any:
    """Without line breaks between its values, which would cut a `data:` line."""
    return decode_or_none(_any_decoder, jsonx.encode(value))


def _block(index: int, block: Any) -> list[bytes]:
    """One block: begun empty where its kind grows by deltas, begun whole where not."""
    block = block if isinstance(block, dict) else {}
    deltas: list[dict[str, Any]] = []
    match block.get("type"):
        case "text":
            deltas.append({"type": "text_delta", "text": block.get("text")})
            cited = block.get("citations")
            if isinstance(cited, list):
                deltas += [{"type": "citations_delta", "citation": one} for one in cited]
                block = {**block, "citations": []}
            block = {**block, "text": ""}
        case "thinking":
            deltas.append({"type": "thinking_delta", "thinking": block.get("thinking")})
            deltas.append({"type": "signature_delta", "signature": block.get("signature")})
            block = {**block, "thinking": "", "signature": ""}
        case "tool_use" | "server_tool_use" | "mcp_tool_use":
            given = block.get("input")
            text = given if isinstance(given, str) else jsonx.encode({} if given is None else given).decode()
            deltas.append({"type": "input_json_delta", "partial_json": text})
            block = {**block, "input": {}}
    return [
        frame("content_block_start", index=index, content_block=block),
        *(frame("content_block_delta", index=index, delta=delta) for delta in deltas),
        frame("content_block_stop", index=index),
    ]
