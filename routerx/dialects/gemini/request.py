"""Requests of generateContent: a caller's as the canonical request. Names come in camel or in snake case, as the JSON
form of protocol buffers allows."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from routerx import jsonx
from routerx.dialects import media
from routerx.dialects.gemini import signing
from routerx.dialects.gemini.signing import ORIGIN
from routerx.dialects.reading import Body, Node
from routerx.domain.chat import (
    ChatRequest,
    FunctionTool,
    JsonObject,
    JsonSchema,
    Media,
    Message,
    Opaque,
    Part,
    Reasoning,
    ReasoningWish,
    ResponseFormat,
    Role,
    Sampling,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from routerx.jsonx import Raw

_SNAKE = re.compile(r"_([a-z])")
_EFFORTS = {"minimal": "minimal", "low": "low", "medium": "medium", "high": "high"}


def decode_request(fields: Mapping[str, Raw]) -> ChatRequest:
    """See dialects.base.ChatSource."""
    body = Body({camel(key): raw for key, raw in fields.items()})
    body.drop("model", "store")
    stream = body.flag("stream") is True
    system, contents = body.take("systemInstruction"), body.take("contents")
    config = body.take("generationConfig")
    wishes = _Wishes(config.object().value if config is not None else {})
    reader = _Contents()
    messages: list[Message] = []
    if system is not None:
        # One text or a content; its role says nothing.
        parts = [Text(system.value)] if isinstance(system.value, str) else list(reader.parts(system.object()))
        messages.append(Message(Role.SYSTEM, tuple(parts)))
    for node in _turns(contents):
        messages += reader.message(node)
    tools, choice = tuple(_tools(body.take("tools"))), _choice(body.take("toolConfig"))
    return ChatRequest(
        messages=tuple(messages),
        stream=stream,
        wants_usage=stream,
        tools=tools,
        tool_choice=choice,
        sampling=Sampling(
            temperature=wishes.number("temperature"),
            top_p=wishes.number("topP"),
            top_k=wishes.integer("topK"),
            seed=wishes.integer("seed"),
            presence_penalty=wishes.number("presencePenalty"),
            frequency_penalty=wishes.number("frequencyPenalty"),
            stop=tuple(item.text() for item in wishes.items("stopSequences")),
        ),
        output_tokens_max=wishes.integer("maxOutputTokens"),
        choices=wishes.integer("candidateCount") or 1,
        response_format=wishes.response_format(),
        reasoning=wishes.thinking(),
        logprobs=wishes.flag("responseLogprobs"),
        top_logprobs=wishes.integer("logprobs"),
        extras=body.extras() | wishes.extras(),
    )


def camel(key: str) -> str:
    """`top_p` → `topP`."""
    return _SNAKE.sub(lambda found: found[1].upper(), key)


def _camel_node(node: Node) -> Node:
    """An object with its own keys in camel case."""
    return Node({camel(key): value for key, value in node.object().value.items()}, node.path)


def _turns(contents: Node | None) -> Iterator[Node]:
    if contents is None:
        return
    if isinstance(contents.value, dict):
        yield contents
    else:
        yield from contents.items()


class _Wishes:
    """`generationConfig`, taken key by key; what is left over goes on to providers of this wire."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._left = {camel(key): value for key, value in config.items() if value is not None}

    def take(self, key: str) -> Node | None:
        value = self._left.pop(key, None)
        return None if value is None else Node(value, f"generationConfig.{key}")

    def number(self, key: str) -> float | None:
        node = self.take(key)
        return None if node is None else node.number()

    def integer(self, key: str) -> int | None:
        node = self.take(key)
        return None if node is None else node.integer()

    def flag(self, key: str) -> bool:
        node = self.take(key)
        return node is not None and node.flag()

    def items(self, key: str) -> Iterator[Node]:
        node = self.take(key)
        return iter(()) if node is None else node.items()

    def response_format(self) -> ResponseFormat | None:
        mime, schema, plain = (
            self.take("responseMimeType"),
            self.take("responseJsonSchema"),
            self.take("responseSchema"),
        )
        schema = schema if schema is not None else plain
        if schema is not None:
            return JsonSchema(schema.object().raw() if schema is not plain else Raw(jsonx.encode(_lower(schema.value))))
        if mime is None or mime.text() == "text/plain":
            return None
        if mime.value != "application/json":
            raise mime.wrong("'text/plain' or 'application/json'")
        return JsonObject()

    def thinking(self) -> ReasoningWish | None:
        node = self.take("thinkingConfig")
        if node is None:
            return None
        config = _camel_node(node)
        budget, level, shown = (
            config.get("thinkingBudget"),
            config.text_of("thinkingLevel"),
            config.get("includeThoughts"),
        )
        visible = None if shown is None else shown.flag()
        if budget is not None and budget.integer() >= 0:
            return ReasoningWish(budget_tokens=budget.integer(), visible=visible)
        effort = _EFFORTS.get(level.lower()) if level is not None else None
        return ReasoningWish(effort=effort, visible=visible)  # type: ignore[arg-type]  # The table's words are.

    def extras(self) -> dict[str, Raw]:
        return {"generationConfig": Raw(jsonx.encode(self._left))} if self._left else {}


def _lower(schema: Any) -> Any:
    """The wire's own kind of schema, whose types are in capitals, as a JSON schema."""
    if isinstance(schema, list):
        return [_lower(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: _lower(value) for key, value in schema.items()}
    if isinstance(plain.get("type"), str):
        plain["type"] = plain["type"].lower()
    return plain


# --- tools -------------------------------------------------------------------------------------------------------


def _tools(node: Node | None) -> Iterator[Tool]:
    for item in node.items() if node is not None else ():
        tool = _camel_node(item)
        declared = tool.get("functionDeclarations")
        for function in declared.items() if declared is not None else ():
            yield _function(_camel_node(function))
        others = {key: value for key, value in tool.value.items() if key != "functionDeclarations"}
        for key, value in others.items():
            yield Opaque(ORIGIN, key, Raw(jsonx.encode({key: value})))


def _function(node: Node) -> FunctionTool:
    plain, older = node.get("parametersJsonSchema"), node.get("parameters")
    parameters = plain.object().raw() if plain is not None else None
    if parameters is None and older is not None:
        parameters = Raw(jsonx.encode(_lower(older.object().value)))
    return FunctionTool(node.need("name").text(), node.text_of("description"), parameters)


def _choice(node: Node | None) -> ToolChoice | None:
    if node is None:
        return None
    calling = _camel_node(node).get("functionCallingConfig")
    if calling is None:
        return None
    config = _camel_node(calling)
    names = config.get("allowedFunctionNames")
    allowed = [item.text() for item in names.items()] if names is not None else []
    match (config.text_of("mode") or "AUTO").upper():
        case "NONE":
            return ToolChoice("none")
        case "ANY":
            return ToolChoice("tool", allowed[0]) if len(allowed) == 1 else ToolChoice("required")
    return ToolChoice("auto")


# --- contents ----------------------------------------------------------------------------------------------------


class _Contents:
    """Reads turns in their order: calls have no ids on this wire, so results are matched by name."""

    def __init__(self) -> None:
        self._count = 0
        self._open: list[tuple[str, str]] = []
        """(name, id) of calls without a result."""

    def message(self, node: Node) -> Iterator[Message]:
        role = node.object().text_of("role") or "user"
        parts = tuple(self.parts(node))
        if role in ("model", "assistant"):
            yield Message(Role.ASSISTANT, tuple(_joined(parts)))
            return
        results = tuple(part for part in parts if isinstance(part, ToolResult))
        if results:
            yield Message(Role.TOOL, results)
        rest = tuple(part for part in parts if not isinstance(part, ToolResult))
        if rest or not results:
            yield Message(Role.USER, rest)

    def parts(self, content: Node) -> Iterator[Part]:
        parts = content.get("parts")
        for item in parts.items() if parts is not None else ():
            yield from self._part(_camel_node(item))

    def _part(self, node: Node) -> Iterator[Part]:
        signature = node.text_of("thoughtSignature")
        if (text := node.get("text")) is not None:
            yield from _text(text.text(), node, signature)
        elif (call := node.get("functionCall")) is not None:
            yield self._call(_camel_node(call), signature)
        elif (response := node.get("functionResponse")) is not None:
            yield self._result(_camel_node(response))
        elif (inline := node.get("inlineData")) is not None:
            blob = _camel_node(inline)
            mime = media.media_type(blob.need("mimeType").text())
            data = blob.need("data")
            kind = media.kind_of(mime or "")
            yield Media(kind, mime=mime, data=media.checked_base64(data.text(), data.path))
        elif (file := node.get("fileData")) is not None:
            target = _camel_node(file)
            mime = target.text_of("mimeType")
            yield Media(media.kind_of(mime or ""), mime=mime, url=target.need("fileUri").text())
        else:
            kinds = [key for key in node.value if key not in ("thought", "thoughtSignature")]
            if kinds:
                yield Opaque(ORIGIN, kinds[0], node.raw())

    def _call(self, node: Node, signature: str | None) -> ToolCall:
        name, args = node.need("name").text(), node.get("args")
        id_ = node.text_of("id") or f"call_{self._count}"
        self._count += 1
        self._open.append((name, id_))
        arguments = "{}" if args is None else bytes(args.object().raw()).decode()
        if signature is None:
            return ToolCall(id_, name, arguments)
        origin, signature, _, _ = signing.read(signature)
        return ToolCall(id_, name, arguments, signature, origin)

    def _result(self, node: Node) -> ToolResult:
        name, id_ = node.need("name").text(), node.text_of("id")
        for place, (called, call_id) in enumerate(self._open):
            if called == name and id_ in (None, call_id):
                id_ = call_id
                del self._open[place]
                break
        value = node.get("response")
        response = value.object().value if value is not None else {}
        is_error = set(response) == {"error"}
        said = response.get("error") if is_error else response
        if set(response) == {"result"}:
            said = response["result"]
        text = said if isinstance(said, str) else jsonx.encode(said).decode()
        return ToolResult(id_ if id_ is not None else f"call_{name}", (Text(text),), is_error, name)


def _joined(parts: tuple[Part, ...]) -> Iterator[Part]:
    """Parts in which a thought that was streamed in pieces, the last of them signed, is one again."""
    pending: Reasoning | None = None
    for part in parts:
        if isinstance(part, Reasoning) and not part.redacted:
            if pending is not None:
                part = msgspec.structs.replace(part, text=pending.text + part.text)
            if part.signature is None:
                pending = part
                continue
            pending = None
        elif pending is not None:
            yield pending
            pending = None
        yield part
    if pending is not None:
        yield pending


def _text(text: str, node: Node, signature: str | None) -> Iterator[Part]:
    thought = node.get("thought")
    is_thought = thought is not None and thought.flag()
    if text and not is_thought:
        yield Text(text)
        text = ""
    if signature is not None:
        origin, signature, id_, redacted = signing.read(signature)
        yield Reasoning(text, signature, origin, redacted, id_)
    elif is_thought:
        yield Reasoning(text)
