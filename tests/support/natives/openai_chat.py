"""A fake of OpenAI's Chat Completions, after its reference and the official client's types.

It shows no thoughts, as the real one: reasoning is only counted. Cached and written tokens are parts of
`prompt_tokens`, reasoning tokens of `completion_tokens`. A stream has usage only where it was asked for.
"""

import json
from collections.abc import Mapping
from typing import Any

from openai.types.chat.completion_create_params import (
    CompletionCreateParamsNonStreaming,
    CompletionCreateParamsStreaming,
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


class OpenAIChat(Native):
    """POST /v1/chat/completions."""

    name = "openai"

    def tokens(self, scenario: str, turn: int) -> Tokens:
        return without(tokens_of(scenario, turn), "write_1h")

    def refused(self, reason: str) -> Mapping[str, Any]:
        error = {"message": reason, "type": "invalid_request_error", "param": None, "code": None}
        return {"error": error}

    def answer(self, sent: Sent) -> Reply:
        refuse_unless(sent.path == "/v1/chat/completions", f"no such path: {sent.path}")
        refuse_unless(sent.headers.get("authorization") == f"Bearer {KEY}", "no API key")
        body = sent.body
        stream = body.get("stream") is True
        hint = CompletionCreateParamsStreaming if stream else CompletionCreateParamsNonStreaming
        wrong = complaints(body, hint)
        refuse_unless(not wrong, "; ".join(wrong))
        heard = _heard(body)
        if heard.scenario == "reasoning":
            refuse_unless(body.get("reasoning_effort") is not None, "nobody asked to think")
        answer, usage = said(heard), _usage(self.tokens(heard.scenario, turn_of(heard)))
        if not stream:
            return Reply(_whole(body["model"], answer, usage))
        asked = (body.get("stream_options") or {}).get("include_usage") is True
        return Reply(
            frames=tuple(_frames(body["model"], answer, usage if asked else None)), content_type="text/event-stream"
        )


def _usage(tokens: Tokens) -> Json:
    return {
        "prompt_tokens": tokens.prompt,
        "completion_tokens": tokens.output,
        "total_tokens": tokens.prompt + tokens.output,
        "prompt_tokens_details": {
            "cached_tokens": tokens.read,
            "cache_write_tokens": tokens.written,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": tokens.thought,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


# --- hearing


def _heard(body: Json) -> Heard:
    scenario = scenario_of(body["model"])
    refuse_unless(body["messages"], "no messages")
    system, pictures = [], []
    for message in body["messages"]:
        content = message.get("content")
        if message["role"] in ("system", "developer"):
            system.append(_text(content))
        elif message["role"] == "user":
            refuse_unless(content, "an empty user message")
            pictures += [_picture(one["image_url"]["url"]) for one in _parts(content) if one["type"] == "image_url"]
    return Heard(
        scenario,
        "\n".join(system),
        frozenset(_tool(one) for one in body.get("tools", ())),
        _results(body["messages"]),
        tuple(pictures),
        _schema(body.get("response_format")),
    )


def _parts(content: Any) -> list[Json]:
    return content if isinstance(content, list) else []


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(one["text"] for one in _parts(content))


def _tool(tool: Json) -> str:
    refuse_unless(tool["type"] == "function", f"a tool of type {tool['type']!r}")
    function = tool["function"]
    if function.get("strict"):
        _check_strict(function["parameters"])
    return str(function["name"])


def _check_strict(schema: Json) -> None:
    refuse_unless(schema.get("additionalProperties") is False, "strict schemas forbid additionalProperties")
    refuse_unless(set(schema.get("required", ())) == set(schema["properties"]), "strict schemas require every property")


def _picture(url: str) -> tuple[int, int]:
    if url.startswith("http"):
        return WIDTH, HEIGHT  # This vendor fetches pictures by itself.
    head, _, data = url.partition(",")
    refuse_unless(head.startswith("data:") and head.endswith(";base64"), f"no data URL: {head}")
    return size_of(data, head[5:-7])


def _schema(wish: Json | None) -> Json | None:
    if wish is None or wish["type"] != "json_schema":
        return None
    described = wish["json_schema"]
    if described.get("strict"):
        _check_strict(described["schema"])
    schema: Json = described["schema"]
    return schema


def _results(messages: list[Json]) -> tuple[str, ...] | None:
    """Checks that every call is answered, by its id and right after it."""
    found: dict[str, str] = {}
    wanted: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            id_ = message["tool_call_id"]
            refuse_unless(id_ in wanted and id_ not in found, f"a result for {id_!r}, which was not called")
            found[id_] = _text(message["content"])
            continue
        refuse_unless(set(wanted) == set(found), f"calls {wanted} without results")
        for call in message.get("tool_calls", ()) if message["role"] == "assistant" else ():
            arguments_of(call["function"]["arguments"])
            refuse_unless(call["id"] not in wanted, f"two calls {call['id']!r}")
            wanted.append(call["id"])
    refuse_unless(set(wanted) == set(found), f"calls {wanted} without results")
    return tuple(found[id_] for id_ in wanted) if wanted else None


# --- saying


def _calls(answer: Said) -> list[Json]:
    return [
        {
            "id": f"call_{place}x{place}",
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
        }
        for place, call in enumerate(answer.calls)
    ]


def _finish(answer: Said) -> str:
    return "tool_calls" if answer.calls else "stop"


def _whole(model: str, answer: Said, usage: Json) -> Json:
    message: Json = {"role": "assistant", "content": answer.text or None, "refusal": None, "annotations": []}
    if answer.calls:
        message["tool_calls"] = _calls(answer)
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(answer)}
    return {
        "id": "chatcmpl-native",
        "object": "chat.completion",
        "created": 1_767_225_600,
        "model": model,
        "choices": [choice],
        "usage": usage,
        "service_tier": "default",
        "system_fingerprint": "fp_x",
    }


def _frames(model: str, answer: Said, usage: Json | None) -> list[bytes]:
    base: Json = {
        "id": "chatcmpl-native",
        "object": "chat.completion.chunk",
        "created": 1_767_225_600,
        "model": model,
        "system_fingerprint": "fp_x",
    }

    def told(delta: Json, finish: str | None = None) -> Json:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return base | {"choices": [choice], "usage": None}

    events = [told({"role": "assistant", "content": "" if answer.text else None, "refusal": None})]
    events += [told({"content": piece}) for piece in pieces(answer.text)]
    for place, call in enumerate(_calls(answer)):
        opened = {"name": call["function"]["name"], "arguments": ""}
        events.append(told({"tool_calls": [{"index": place, **call, "function": opened}]}))
        for piece in pieces(call["function"]["arguments"]):
            events.append(told({"tool_calls": [{"index": place, "function": {"arguments": piece}}]}))
    events.append(told({}, _finish(answer)))
    if usage is not None:
        events.append(base | {"choices": [], "usage": usage})
    return [*(b"data: " + dumped(event) + b"\n\n" for event in events), b"data: [DONE]\n\n"]
