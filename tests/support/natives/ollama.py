"""A fake of Ollama's /api/chat, after its documentation (there is no client's type to check against in this project).

Answers are lines of JSON, streamed unless `stream` is false. Arguments of tool calls are objects, pictures bare base64.
It counts the prompt and the output and nothing else.
"""

from collections.abc import Mapping
from typing import Any, Literal, Required

from typing_extensions import TypedDict

from tests.support.natives.script import (
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
)
from tests.support.natives.server import Native, Reply, Sent, dumped
from tests.support.natives.shapes import complaints

Json = dict[str, Any]


class CalledFunction(TypedDict, total=False):
    name: Required[str]
    arguments: Required[dict[str, Any]]
    index: int
    description: str


class ToolCall(TypedDict, total=False):
    function: Required[CalledFunction]
    id: str
    type: Literal["function"]


class Message(TypedDict, total=False):
    role: Required[Literal["system", "user", "assistant", "tool"]]
    content: str
    thinking: str
    images: list[str]
    tool_calls: list[ToolCall]
    tool_name: str
    tool_call_id: str


class Function(TypedDict, total=False):
    name: Required[str]
    description: str
    parameters: Required[dict[str, Any]]


class Tool(TypedDict, total=False):
    type: Required[Literal["function"]]
    function: Required[Function]


class Options(TypedDict, total=False):
    num_ctx: int
    num_predict: int
    num_keep: int
    repeat_last_n: int
    repeat_penalty: float
    presence_penalty: float
    frequency_penalty: float
    temperature: float
    seed: int
    stop: list[str]
    top_k: int
    top_p: float
    min_p: float
    typical_p: float


class Chat(TypedDict, total=False):
    model: Required[str]
    messages: Required[list[Message]]
    tools: list[Tool]
    format: Literal["json"] | dict[str, Any]
    options: Options
    stream: bool
    keep_alive: str | int
    think: bool | Literal["low", "medium", "high", "max"]
    logprobs: bool
    top_logprobs: int


class Ollama(Native):
    """POST /api/chat."""

    name = "ollama"

    def tokens(self, scenario: str, turn: int) -> Tokens:
        full = tokens_of(scenario, turn)
        return Tokens(fresh=full.prompt, text=full.output)

    def refused(self, reason: str) -> Mapping[str, Any]:
        return {"error": reason}

    def answer(self, sent: Sent) -> Reply:
        refuse_unless(sent.path == "/api/chat", f"no such path: {sent.path}")
        body = sent.body
        wrong = complaints(body, Chat)
        refuse_unless(not wrong, "; ".join(wrong))
        heard = _heard(body)
        thinks = body.get("think") not in (None, False)
        if heard.scenario == "reasoning":
            refuse_unless(thinks, "nobody asked to think")
        answer, tokens = said(heard), self.tokens(heard.scenario, turn_of(heard))
        if body.get("stream") is False:
            return Reply(_line(body["model"], _message(answer)) | _end(tokens))
        return Reply(frames=tuple(_frames(body["model"], answer, tokens)), content_type="application/x-ndjson")


# --- hearing


def _heard(body: Json) -> Heard:
    messages: list[Json] = body["messages"]
    refuse_unless(messages, "no messages")
    schema = body.get("format")
    return Heard(
        scenario_of(body["model"]),
        "\n".join(one["content"] for one in messages if one["role"] == "system"),
        frozenset(one["function"]["name"] for one in body.get("tools", ())),
        _results(messages),
        tuple(size_of(data, "image/png") for one in messages for data in one.get("images", ())),
        schema if isinstance(schema, dict) else None,
    )


def _results(messages: list[Json]) -> tuple[str, ...] | None:
    """The model reads results as they stand behind the calls; a name or an id that is given has to fit."""
    wanted: list[Json] = []
    found: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            refuse_unless(wanted, "a result without a call")
            call = wanted.pop(0)
            refuse_unless(
                message.get("tool_name") == call["function"]["name"], f"tool_name {message.get('tool_name')!r}"
            )
            found.append(message.get("content", ""))
            continue
        refuse_unless(not wanted, "calls without results")
        wanted = list(message.get("tool_calls", ()))
    refuse_unless(not wanted, "calls without results")
    return tuple(found) if found else None


# --- saying


def _line(model: str, message: Json) -> Json:
    return {"model": model, "created_at": "2026-01-01T00:00:00.123456789Z", "message": message, "done": False}


def _end(tokens: Tokens) -> Json:
    return {
        "done": True,
        "done_reason": "stop",
        "total_duration": 174_560_334,
        "load_duration": 101_397_084,
        "prompt_eval_count": tokens.prompt,
        "prompt_eval_duration": 13_074_791,
        "eval_count": tokens.output,
        "eval_duration": 52_479_709,
    }


def _calls(answer: Said) -> list[Json]:
    return [
        {"function": {"index": place, "name": call.name, "arguments": dict(call.arguments)}}
        for place, call in enumerate(answer.calls)
    ]


def _message(answer: Said) -> Json:
    message: Json = {"role": "assistant", "content": answer.text}
    if answer.thought:
        message["thinking"] = answer.thought
    if answer.calls:
        message["tool_calls"] = _calls(answer)
    return message


def _frames(model: str, answer: Said, tokens: Tokens) -> list[bytes]:
    """Each call on a line of its own; the last line says nothing but the end."""
    base: Json = {"role": "assistant", "content": ""}
    lines = [_line(model, base | {"thinking": piece}) for piece in pieces(answer.thought)]
    lines += [_line(model, base | {"content": piece}) for piece in pieces(answer.text)]
    lines += [_line(model, base | {"tool_calls": [call]}) for call in _calls(answer)]
    lines.append(_line(model, base) | _end(tokens))
    return [dumped(line) + b"\n" for line in lines]
