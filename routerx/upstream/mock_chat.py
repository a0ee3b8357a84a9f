"""What the mock provider says: a chat request → an answer, and the answer as bytes of the wire format. Pure.

The same request gives the same bytes. A token is a word, or a piece of a long one; a prompt is counted by its bytes.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from routerx import jsonx
from routerx.upstream.mock_values import sample

CREATED = 1_767_225_600
"""2026-01-01: a fixed release date, since the same request must give the same bytes."""
CHOICES_MAX = 128
QUOTE_CHARS_MAX = 400
"""How much of a prompt or a tool's result is quoted back."""
IMAGE_TOKENS = 85
MESSAGE_TOKENS = 4
BYTES_PER_TOKEN = 4
DONE = b"data: [DONE]\n\n"

_PIECE = re.compile(r"\s*\S{1,12}|\s+$")
_FILLER = ("and", "so", "it", "goes", "on", "in", "the", "same", "even", "tone")


class BadRequest(Exception):
    """The request cannot be answered; `param` names the field."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class Part(msgspec.Struct):
    """One part of a message's content."""

    type: str = "text"
    text: str | None = None


class Message(msgspec.Struct):
    role: str
    content: str | list[Part] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return " ".join(part.text for part in self.content or () if part.text is not None)

    @property
    def images(self) -> int:
        if not isinstance(self.content, list):
            return 0
        return sum(part.type in ("image_url", "input_image", "image") for part in self.content)


class Function(msgspec.Struct):
    name: str
    parameters: Any = None


class Tool(msgspec.Struct):
    function: Function | None = None


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class ChatRequest(msgspec.Struct):
    """The fields the mock heeds; all others are accepted and change nothing but the id."""

    model: str
    messages: list[Message]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    tools: list[Tool] | None = None
    tool_choice: Any = None
    response_format: Any = None
    stop: str | list[str] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None


class Choice(msgspec.Struct, frozen=True):
    """One choice: `pieces` are its tokens, of its text or of its tool call's arguments."""

    pieces: Sequence[str]
    finish: str
    tool: str | None = None


class Answer(msgspec.Struct, frozen=True):
    """A whole answer, buffered or streamed."""

    id: str
    model: str
    choices: Sequence[Choice]
    prompt_tokens: int

    @property
    def usage(self) -> dict[str, int]:
        output = sum(len(choice.pieces) for choice in self.choices)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": output,
            "total_tokens": self.prompt_tokens + output,
        }


_decoder = msgspec.json.Decoder(ChatRequest)


def parse(body: bytes) -> ChatRequest:
    """Raises BadRequest."""
    try:
        request = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"The body is not a chat request: {error}") from None
    if not request.messages:
        raise BadRequest("At least one message is needed.", "messages")
    if request.n is not None and not 1 <= request.n <= CHOICES_MAX:
        raise BadRequest(f"n is {request.n}; it must be between 1 and {CHOICES_MAX}.", "n")
    for name in ("max_tokens", "max_completion_tokens"):
        value = getattr(request, name)
        if value is not None and value < 1:
            raise BadRequest(f"{name} is {value}; it must be at least 1.", name)
    return request


def answer(request: ChatRequest, body: bytes, output_tokens: int | None) -> Answer:
    """The answer to `request`; `output_tokens` is the length of a text answer, None as the text has it."""
    tool = _called_tool(request)
    if tool is not None:
        # A call's arguments are a few bytes a token, as a real tokenizer has them, not a whole object in one piece.
        arguments = jsonx.encode(sample(tool.parameters if tool.parameters is not None else {"type": "object"}))
        choice = _limited(request, Choice(pieces(arguments.decode()), "tool_calls", tool.name))
        choices = [choice] * (request.n or 1)
    else:
        choices = [_text_choice(request, n, output_tokens) for n in range(request.n or 1)]
    return Answer(f"chatcmpl-mock-{digest(body)}", request.model, choices, _prompt_tokens(request))


def digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=12).hexdigest()


def count_tokens(text: str) -> int:
    return -(-len(text.encode()) // BYTES_PER_TOKEN)


def pieces(text: str) -> list[str]:
    """`text` cut into tokens; joined they are the text."""
    return _PIECE.findall(text)


# --- deciding what to say ----------------------------------------------------------------------------------------


def _called_tool(request: ChatRequest) -> Function | None:
    """The tool to call: the one chosen, else the first; none after a tool's result, which wants an answer."""
    if request.messages[-1].role in ("tool", "function") or request.tool_choice == "none":
        return None
    functions = [tool.function for tool in request.tools or () if tool.function is not None]
    if not functions:
        return None
    if not isinstance(request.tool_choice, dict):
        return functions[0]
    chosen = request.tool_choice.get("function")
    name = chosen.get("name") if isinstance(chosen, dict) else None
    for function in functions:
        if function.name == name:
            return function
    raise BadRequest(f"tool_choice names {name!r}, which is not among the tools.", "tool_choice")


def _text_choice(request: ChatRequest, n: int, output_tokens: int | None) -> Choice:
    if isinstance(request.response_format, dict) and request.response_format.get("type") in _JSON_FORMATS:
        text = jsonx.encode(_json_answer(request)).decode()
        return _limited(request, Choice(pieces(text), "stop"))
    text = _text(request)
    if n:
        text = f"{text} (Choice {n + 1}.)"
    tokens = pieces(text)
    if output_tokens is not None:
        tokens = tokens[:output_tokens]
        tokens += [f" {_FILLER[i % len(_FILLER)]}" for i in range(output_tokens - len(tokens))]
    return _limited(request, Choice(_until_stop(tokens, request.stop), "stop"))


_JSON_FORMATS = ("json_object", "json_schema")


def _json_answer(request: ChatRequest) -> Any:
    if request.response_format["type"] == "json_schema":
        outer = request.response_format.get("json_schema")
        schema = outer.get("schema") if isinstance(outer, dict) else None
        if schema is None:
            raise BadRequest("response_format.json_schema.schema is missing.", "response_format")
        return sample(schema)
    return {"answer": _text(request)}


def _text(request: ChatRequest) -> str:
    last = request.messages[-1]
    if last.role in ("tool", "function"):
        return f"The tool answered: {_quoted(last.text)}"
    asked = next((message.text for message in reversed(request.messages) if message.role == "user"), "")
    images = sum(message.images for message in request.messages)
    seen = "" if not images else f" I see {images} image{'' if images == 1 else 's'}."
    return f"This is RouterX's mock provider speaking for {request.model}.{seen} You said: {_quoted(asked)}"


def _quoted(text: str) -> str:
    return text if len(text) <= QUOTE_CHARS_MAX else f"{text[:QUOTE_CHARS_MAX]}…"


def _until_stop(tokens: list[str], stop: str | list[str] | None) -> list[str]:
    """The tokens before the first stop sequence; it may begin inside a token and end in another."""
    marks = [stop] if isinstance(stop, str) else stop or []
    text = "".join(tokens)
    ends = [found for mark in marks if mark and (found := text.find(mark)) >= 0]
    return pieces(text[: min(ends)]) if ends else tokens


def _limited(request: ChatRequest, choice: Choice) -> Choice:
    limit = request.max_completion_tokens if request.max_completion_tokens is not None else request.max_tokens
    if limit is None or len(choice.pieces) <= limit:
        return choice
    return Choice(choice.pieces[:limit], "length", choice.tool)


def _prompt_tokens(request: ChatRequest) -> int:
    return sum(
        MESSAGE_TOKENS + count_tokens(message.text) + IMAGE_TOKENS * message.images for message in request.messages
    )


# --- as bytes ----------------------------------------------------------------------------------------------------


def as_completion(found: Answer) -> bytes:
    """The buffered form."""
    choices = []
    for index, choice in enumerate(found.choices):
        text = "".join(choice.pieces)
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if choice.tool is not None:
            call = {"name": choice.tool, "arguments": text}
            message = {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": _call_id(found, index), "type": "function", "function": call}],
            }
        choices.append({"index": index, "message": message, "logprobs": None, "finish_reason": choice.finish})
    return jsonx.encode(
        {
            "id": found.id,
            "object": "chat.completion",
            "created": CREATED,
            "model": found.model,
            "choices": choices,
            "usage": found.usage,
        }
    )


def as_frames(found: Answer, *, include_usage: bool) -> list[bytes]:
    """The streamed form: per choice a role frame, a frame per token and a finish frame; then usage; then the end."""
    frames = []
    for index, choice in enumerate(found.choices):
        opening: dict[str, Any] = {"role": "assistant", "content": ""}
        if choice.tool is not None:
            call = {"name": choice.tool, "arguments": ""}
            opening = {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"index": 0, "id": _call_id(found, index), "type": "function", "function": call}],
            }
        frames.append(_frame(found, index, opening))
        for piece in choice.pieces:
            delta: dict[str, Any] = {"content": piece}
            if choice.tool is not None:
                delta = {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}
            frames.append(_frame(found, index, delta))
        frames.append(_frame(found, index, {}, choice.finish))
    if include_usage:
        frames.append(_event(found, [], usage=found.usage))
    return [*frames, DONE]


def _frame(found: Answer, index: int, delta: dict[str, Any], finish: str | None = None) -> bytes:
    return _event(found, [{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}])


def _event(found: Answer, choices: list[dict[str, Any]], **more: Any) -> bytes:
    head = {"id": found.id, "object": "chat.completion.chunk", "created": CREATED, "model": found.model}
    return b"data: " + jsonx.encode(head | {"choices": choices} | more) + b"\n\n"


def _call_id(found: Answer, index: int) -> str:
    return f"call_{digest(f'{found.id}/{index}'.encode())}"
