"""A fake of OpenAI's Responses, after its reference and the official client's types.

Thoughts are told as summaries where a summary was asked for, and encrypted where `include` says so; an encrypted
thought that comes back has to be the one that was given out. Every thought that a call rests on belongs before it.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from openai.types.responses.response_create_params import (
    ResponseCreateParamsNonStreaming,
    ResponseCreateParamsStreaming,
)

from tests.support.natives.script import (
    HEIGHT,
    WIDTH,
    Heard,
    Said,
    Tokens,
    pieces,
    refuse_unless,
    said,
    scenario_of,
    size_of,
    tokens_of,
    turn_of,
    without,
)
from tests.support.natives.server import KEY, Native, Reply, Sent, arguments_of, dumped
from tests.support.natives.shapes import complaints

Json = dict[str, Any]

ENCRYPTED = "gAAAAABnative+/thought=="
REASONING_ID = "rs_native1"


class OpenAIResponses(Native):
    """POST /v1/responses."""

    name = "responses"

    def tokens(self, scenario: str, turn: int) -> Tokens:
        return without(tokens_of(scenario, turn), "write_1h")

    def refused(self, reason: str) -> Mapping[str, Any]:
        return {"error": {"message": reason, "type": "invalid_request_error", "param": None, "code": None}}

    def answer(self, sent: Sent) -> Reply:
        refuse_unless(sent.path == "/v1/responses", f"no such path: {sent.path}")
        refuse_unless(sent.headers.get("authorization") == f"Bearer {KEY}", "no API key")
        body = sent.body
        stream = body.get("stream") is True
        hint = ResponseCreateParamsStreaming if stream else ResponseCreateParamsNonStreaming
        wrong = complaints(_completed(body), hint)
        refuse_unless(not wrong, "; ".join(wrong))
        heard = _heard(sent)
        if heard.scenario == "reasoning":
            refuse_unless((body.get("reasoning") or {}).get("effort") is not None, "nobody asked to think")
        answer = said(heard)
        whole = _whole(body, answer, _usage(self.tokens(heard.scenario, turn_of(heard))))
        if not stream:
            return Reply(whole)
        frames = tuple(_frame(place, event) for place, event in enumerate(_events(whole)))
        return Reply(frames=frames, content_type="text/event-stream")


def _completed(body: Json) -> Json:
    """With the id and status of assistant messages, which the type demands and the vendor does not (as recorded)."""
    items = body.get("input")
    if not isinstance(items, list):
        return body
    filled = {"id": "msg_x", "status": "completed", "type": "message"}
    told = [filled | item if item.get("role") == "assistant" and _parts(item["content"]) else item for item in items]
    return body | {"input": told}


def _usage(tokens: Tokens) -> Json:
    return {
        "input_tokens": tokens.prompt,
        "input_tokens_details": {"cached_tokens": tokens.read, "cache_write_tokens": tokens.written},
        "output_tokens": tokens.output,
        "output_tokens_details": {"reasoning_tokens": tokens.thought},
        "total_tokens": tokens.prompt + tokens.output,
    }


# --- hearing


def _heard(sent: Sent) -> Heard:
    body = sent.body
    given = body.get("input")
    refuse_unless(given, "no input")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    assert isinstance(items, list)
    system = [body["instructions"]] if body.get("instructions") else []
    pictures: list[tuple[int, int]] = []
    for place, item in enumerate(items):
        kind = item.get("type", "message")
        if kind == "reasoning":
            _check_reasoning(sent, items[place + 1 :])
            sent.signatures += [ENCRYPTED] if item.get("encrypted_content") == ENCRYPTED else []
            refuse_unless(item.get("encrypted_content") in (ENCRYPTED, None), "an encrypted thought was changed")
        elif kind == "message" and item["role"] in ("system", "developer"):
            system.append(_text(item["content"]))
        elif kind == "message":
            pictures += [_picture(one) for one in _parts(item["content"]) if one["type"] == "input_image"]
    wish = (body.get("text") or {}).get("format") or {}
    return Heard(
        scenario_of(body["model"]),
        "\n".join(system),
        frozenset(str(one["name"]) for one in body.get("tools", ()) if one["type"] == "function"),
        _results(items),
        tuple(pictures),
        wish.get("schema"),
    )


def _check_reasoning(sent: Sent, behind: list[Json]) -> None:
    refuse_unless(
        behind and behind[0].get("type", "message") in ("message", "function_call"),
        "a reasoning item without the item that followed it",
    )
    refuse_unless(
        sent.body.get("store") is False or "encrypted_content" not in str(behind),
        "encrypted thoughts are for store=false",
    )


def _parts(content: Any) -> list[Json]:
    return content if isinstance(content, list) else []


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(one.get("text", "") for one in _parts(content))


def _picture(part: Json) -> tuple[int, int]:
    url = part.get("image_url") or ""
    if url.startswith("http"):
        return WIDTH, HEIGHT  # This vendor fetches pictures by itself.
    head, _, data = url.partition(",")
    refuse_unless(head.startswith("data:") and head.endswith(";base64"), f"no data URL: {head}")
    return size_of(data, head[5:-7])


def _results(items: list[Json]) -> tuple[str, ...] | None:
    wanted: list[str] = []
    found: dict[str, str] = {}
    for item in items:
        match item.get("type", "message"):
            case "function_call":
                arguments_of(item["arguments"])
                refuse_unless(item["call_id"] not in wanted, f"two calls {item['call_id']!r}")
                wanted.append(item["call_id"])
            case "function_call_output":
                id_ = item["call_id"]
                refuse_unless(id_ in wanted and id_ not in found, f"a result for {id_!r}, which was not called")
                found[id_] = _text(item["output"])
    refuse_unless(set(wanted) == set(found), f"calls {wanted} without results")
    return tuple(found[id_] for id_ in wanted) if wanted else None


# --- saying


def _whole(body: Json, answer: Said, usage: Json) -> Json:
    output: list[Json] = []
    if answer.thought:
        summary = []
        if (body.get("reasoning") or {}).get("summary"):
            summary = [{"type": "summary_text", "text": answer.thought}]
        item: Json = {"id": REASONING_ID, "type": "reasoning", "summary": summary}
        if "reasoning.encrypted_content" in (body.get("include") or ()):
            item["encrypted_content"] = ENCRYPTED
        output.append(item)
    if answer.text:
        part = {"type": "output_text", "text": answer.text, "annotations": [], "logprobs": []}
        message = {
            "id": "msg_native1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [part],
        }
        output.append(message)
    output += [
        {
            "id": f"fc_native{place}",
            "type": "function_call",
            "status": "completed",
            "call_id": f"call_r{place}r{place}",
            "name": call.name,
            "arguments": json.dumps(call.arguments, ensure_ascii=False),
        }
        for place, call in enumerate(answer.calls)
    ]
    return {
        "id": "resp_native1",
        "object": "response",
        "created_at": 1_767_225_600,
        "status": "completed",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "model": body["model"],
        "output": output,
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None} | (body.get("reasoning") or {}),
        "service_tier": "default",
        "store": body.get("store", True),
        "temperature": body.get("temperature", 1.0),
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools", []),
        "top_p": body.get("top_p", 1.0),
        "truncation": "disabled",
        "usage": usage,
        "metadata": {},
    }


def _events(whole: Json) -> Iterator[Json]:
    bare = whole | {"output": [], "usage": None, "status": "in_progress"}
    yield {"type": "response.created", "response": bare}
    yield {"type": "response.in_progress", "response": bare}
    for place, item in enumerate(whole["output"]):
        where = {"output_index": place}
        begun = item | {"status": "in_progress"} if item["type"] != "reasoning" else dict(item)
        empty = {"message": {"content": []}, "reasoning": {"summary": []}, "function_call": {"arguments": ""}}
        yield {"type": "response.output_item.added", **where, "item": begun | empty[item["type"]]}
        where["item_id"] = item["id"]
        match item["type"]:
            case "message":
                yield from _message_events(item["content"][0], where | {"content_index": 0})
            case "reasoning":
                for part in item["summary"]:
                    yield from _summary_events(part, where | {"summary_index": 0})
            case _:
                name = "response.function_call_arguments"
                for piece in pieces(item["arguments"]):
                    yield {"type": f"{name}.delta", **where, "delta": piece}
                yield {"type": f"{name}.done", **where, "arguments": item["arguments"]}
        yield {"type": "response.output_item.done", "output_index": place, "item": item}
    yield {"type": "response.completed", "response": whole}


def _message_events(part: Json, where: Json) -> Iterator[Json]:
    yield {"type": "response.content_part.added", **where, "part": part | {"text": ""}}
    for piece in pieces(part["text"]):
        yield {"type": "response.output_text.delta", **where, "delta": piece, "logprobs": [], "obfuscation": "xY7"}
    yield {"type": "response.output_text.done", **where, "text": part["text"], "logprobs": []}
    yield {"type": "response.content_part.done", **where, "part": part}


def _summary_events(part: Json, where: Json) -> Iterator[Json]:
    yield {"type": "response.reasoning_summary_part.added", **where, "part": part | {"text": ""}}
    for piece in pieces(part["text"]):
        yield {"type": "response.reasoning_summary_text.delta", **where, "delta": piece, "obfuscation": "q"}
    yield {"type": "response.reasoning_summary_text.done", **where, "text": part["text"]}
    yield {"type": "response.reasoning_summary_part.done", **where, "part": part}


def _frame(place: int, event: Json) -> bytes:
    kind = event["type"].encode()
    return b"event: " + kind + b"\ndata: " + dumped(event | {"sequence_number": place}) + b"\n\n"
