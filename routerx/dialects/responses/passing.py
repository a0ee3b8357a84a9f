"""Responses whose bytes pass, from a caller to a provider who speak alike: what must change on the way, and a whole
answer told as a stream."""

from collections.abc import Iterator
from typing import Any

import msgspec

from routerx import jsonx
from routerx.dialects.leniently import ABSENT, decode_or_none, one_line
from routerx.dialects.openai_chat.ids import call_id
from routerx.dialects.signatures import MARK, PACKED, unpack_call_id
from routerx.jsonx import Raw

_any_decoder = msgspec.json.Decoder()
_fields_decoder = msgspec.json.Decoder(dict[str, Raw])
_raws_decoder = msgspec.json.Decoder(list[Raw])

# --- history


def own_history(input_: Raw) -> Raw:
    """The input without what this gateway wrote into earlier answers when they came from other vendors: thoughts that
    are not signed here, which the vendor refuses, and signatures in the ids of calls, which may not be that long."""
    data = bytes(input_)
    if MARK.encode() not in data and PACKED not in data:
        return input_
    try:
        items = jsonx.decode(data)
    except msgspec.DecodeError:
        return input_
    if not isinstance(items, list):
        return input_
    return Raw(jsonx.encode([_own(item) for item in items if not _is_foreign(item)]))


def _is_foreign(item: Any) -> bool:
    if not isinstance(item, dict) or item.get("type") != "reasoning":
        return False
    encrypted = item.get("encrypted_content")
    return isinstance(encrypted, str) and encrypted.startswith(MARK)


def _own(item: Any) -> Any:
    id_ = item.get("call_id") if isinstance(item, dict) else None
    if not isinstance(id_, str):
        return item
    plain = unpack_call_id(id_)[0]
    return item if plain == id_ else {**item, "call_id": call_id(plain)}


# --- a whole response as a stream


def to_stream(body: bytes) -> bytes:
    """A response that read_reply has accepted as the frames of a stream; nothing of it is lost."""
    compact = one_line(body)
    response: dict[str, Raw] = decode_or_none(_fields_decoder, compact) or {}
    opened: dict[str, Any] = {**response, "output": [], "usage": None, "status": "in_progress"}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": opened},
        {"type": "response.in_progress", "response": opened},
    ]
    for place, item in enumerate(decode_or_none(_raws_decoder, response.get("output", ABSENT)) or ()):
        events += _item(item, place)
    status = decode_or_none(_any_decoder, response.get("status", ABSENT))
    end = "response.incomplete" if status == "incomplete" else "response.completed"
    events.append({"type": end, "response": response})
    return b"".join(
        b"event: " + event["type"].encode() + b"\ndata: " + jsonx.encode({**event, "sequence_number": number}) + b"\n\n"
        for number, event in enumerate(events)
    )


def _item(raw: Raw, place: int) -> Iterator[dict[str, Any]]:
    item = decode_or_none(_any_decoder, raw)
    item = item if isinstance(item, dict) else {}
    where = {"item_id": item.get("id", ""), "output_index": place}
    kind = item.get("type")
    begun: Any = raw
    pieces: list[dict[str, Any]] = []
    if kind == "message":
        begun, pieces = {**item, "content": [], "status": "in_progress"}, list(_content(item))
    elif kind == "function_call":
        begun = {**item, "arguments": "", "status": "in_progress"}
        said = {"arguments": item.get("arguments", ""), "name": item.get("name", "")}
        pieces = list(_told("response.function_call_arguments", item.get("arguments"), said))
    elif kind == "custom_tool_call":
        begun = {**item, "input": ""}
        pieces = list(_told("response.custom_tool_call_input", item.get("input"), {"input": item.get("input", "")}))
    elif kind == "reasoning":
        begun, pieces = {**item, "summary": []}, list(_summary(item))
    yield {"type": "response.output_item.added", "output_index": place, "item": begun}
    for piece in pieces:
        yield {**piece, **where}
    yield {"type": "response.output_item.done", "output_index": place, "item": raw}


def _content(item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The parts of a message."""
    content = item.get("content")
    for index, part in enumerate(content if isinstance(content, list) else ()):
        if not isinstance(part, dict):
            continue
        where = {"content_index": index}
        if part.get("type") == "refusal":
            yield {"type": "response.content_part.added", "part": {**part, "refusal": ""}, **where}
            for piece in _told("response.refusal", part.get("refusal"), {"refusal": part.get("refusal", "")}):
                yield {**piece, **where}
        else:
            logprobs = part.get("logprobs") or []
            empty = {**part, "text": "", "annotations": [], "logprobs": []}
            yield {"type": "response.content_part.added", "part": empty, **where}
            said = {"text": part.get("text", "")}
            for piece in _told("response.output_text", part.get("text"), said):
                yield {**piece, "logprobs": logprobs, **where}
            annotations = part.get("annotations")
            for place, one in enumerate(annotations if isinstance(annotations, list) else ()):
                yield {
                    "type": "response.output_text.annotation.added",
                    "annotation_index": place,
                    "annotation": one,
                    **where,
                }
        yield {"type": "response.content_part.done", "part": part, **where}


def _summary(item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The parts of a thought's summary."""
    summary = item.get("summary")
    for index, part in enumerate(summary if isinstance(summary, list) else ()):
        if not isinstance(part, dict):
            continue
        where = {"summary_index": index}
        yield {"type": "response.reasoning_summary_part.added", "part": {**part, "text": ""}, **where}
        for piece in _told("response.reasoning_summary_text", part.get("text"), {"text": part.get("text", "")}):
            yield {**piece, **where}
        yield {"type": "response.reasoning_summary_part.done", "part": part, **where}


def _told(kind: str, text: Any, said: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A text in one piece, and its end."""
    if isinstance(text, str) and text:
        yield {"type": f"{kind}.delta", "delta": text}
    yield {"type": f"{kind}.done", **said}
