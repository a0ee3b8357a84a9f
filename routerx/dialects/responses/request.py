"""Requests of Responses: a caller's as the canonical request. Items of one turn come one by one on this wire; here they
are the parts of one message."""

from collections.abc import Iterator, Mapping

from routerx.dialects import media
from routerx.dialects.effort import EFFORTS
from routerx.dialects.reading import Body, Node, check_tool_choice
from routerx.dialects.signatures import UNSIGNED, unpack, unpack_call_id
from routerx.domain.chat import (
    ChatRequest,
    CustomTool,
    FunctionTool,
    JsonObject,
    JsonSchema,
    Media,
    MediaKind,
    Message,
    Opaque,
    Part,
    Reasoning,
    ReasoningWish,
    Refusal,
    ResponseFormat,
    Role,
    Sampling,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from routerx.errors import InvalidParameter
from routerx.jsonx import Raw

ORIGIN = "responses"
REDACTED = "redacted"
"""In place of an id, of a thought that another vendor redacted."""

IMAGE_TYPE = "image/png"
"""Of pictures that a model made, where the item does not say."""

_STATEFUL = ("previous_response_id", "conversation", "prompt")
_LOGPROBS = "message.output_text.logprobs"


def decode_request(fields: Mapping[str, Raw]) -> ChatRequest:
    """See dialects.base.ChatSource. Nothing is stored by a gateway, so `store` asks for nothing that is missed; what
    rests on something stored is refused. `include` adds to items of built-in tools, which are reported as such."""
    body = Body(fields)
    body.drop("model", "store", "stream_options")
    for key in _STATEFUL:
        if body.take(key) is not None:
            raise InvalidParameter(
                f"{key!r} rests on what a provider has stored, and this model's does not speak this format. "
                "Send the whole conversation in 'input'.",
                param=key,
            )
    if body.flag("background"):
        raise InvalidParameter("'background' is not possible with this model's provider.", param="background")
    if fields.get("truncation") == Raw(b'"disabled"'):
        body.drop("truncation")  # The default of every wire.
    messages = [*_instructions(body.take("instructions")), *_messages(body.take("input"))]
    text, metadata = body.take("text"), body.take("metadata")
    stream = body.flag("stream") is True
    tools, choice = tuple(_tools(body.take("tools"))), body.take("tool_choice")
    wish = _tool_choice(choice)
    if wish is None and choice is not None:
        body.put_back("tool_choice", choice.value)
    top_logprobs = body.integer("top_logprobs")
    user, thought = body.text("user"), body.take("reasoning")
    if thought is not None:
        body.put_back("reasoning", {key: one for key, one in thought.object().value.items() if _is_lost(key, one)})
    return check_tool_choice(
        ChatRequest(
            messages=tuple(messages),
            stream=stream,
            wants_usage=stream,
            tools=_allowed(tools, choice),
            tool_choice=wish,
            parallel_tool_calls=body.flag("parallel_tool_calls"),
            sampling=Sampling(temperature=body.number("temperature"), top_p=body.number("top_p")),
            output_tokens_max=body.integer("max_output_tokens"),
            response_format=_format(text.object().get("format")) if text is not None else None,
            reasoning=_reasoning(thought),
            logprobs=_LOGPROBS in body.strings("include") or bool(top_logprobs),
            top_logprobs=top_logprobs,
            verbosity=text.text_of("verbosity") if text is not None else None,
            user=user if user is not None else body.text("safety_identifier"),
            metadata=None if metadata is None else metadata.object().raw(),
            service_tier=body.text("service_tier"),
            prompt_cache_key=body.text("prompt_cache_key"),
            extras=body.extras(),
        )
    )


def _instructions(node: Node | None) -> Iterator[Message]:
    if node is not None and node.text():
        yield Message(Role.SYSTEM, (Text(node.text()),))


# --- wishes ------------------------------------------------------------------------------------------------------


def _format(node: Node | None) -> ResponseFormat | None:
    if node is None:
        return None
    kind = node.object().need("type").one_of("text", "json_object", "json_schema")
    if kind == "text":
        return None
    if kind == "json_object":
        return JsonObject()
    strict = node.get("strict")
    return JsonSchema(
        schema=node.need("schema").object().raw(),
        name=node.text_of("name"),
        description=node.text_of("description"),
        strict=None if strict is None else strict.flag(),
    )


def _reasoning(node: Node | None) -> ReasoningWish | None:
    if node is None:
        return None
    effort = node.object().get("effort")
    summary = node.text_of("summary") or node.text_of("generate_summary")
    word = None if effort is None else effort.one_of(*EFFORTS)
    return ReasoningWish(effort=word, visible=True if summary else None)  # type: ignore[arg-type]  # Checked above.


def _is_lost(key: str, value: object) -> bool:
    """Whether a member of `reasoning` is one that only this wire has, and not its default."""
    return key not in ("effort", "summary", "generate_summary") and value not in (None, "auto", "standard")


def _tools(node: Node | None) -> Iterator[Tool]:
    for item in node.items() if node is not None else ():
        kind = item.object().need("type").text()
        if kind == "function":
            parameters, strict = item.get("parameters"), item.get("strict")
            yield FunctionTool(
                name=item.need("name").text(),
                description=item.text_of("description"),
                parameters=None if parameters is None else parameters.object().raw(),
                strict=None if strict is None else strict.flag(),
            )
        elif kind == "custom":
            shape = item.get("format")
            raw = None if shape is None else shape.raw()
            yield CustomTool(item.need("name").text(), item.text_of("description"), raw)
        else:
            yield Opaque(ORIGIN, kind, item.raw())


def _tool_choice(node: Node | None) -> ToolChoice | None:
    if node is None:
        return None
    if isinstance(node.value, str):
        return ToolChoice(node.one_of("auto", "none", "required"))  # type: ignore[arg-type]  # one_of has checked.
    kind = node.object().need("type").text()
    if kind in ("function", "custom"):
        return ToolChoice("tool", node.need("name").text())
    if kind == "allowed_tools":
        return ToolChoice(node.need("mode").one_of("auto", "required"))  # type: ignore[arg-type]  # As above.
    return None  # A built-in tool by its type: only a provider of this wire has it.


def _allowed(tools: tuple[Tool, ...], choice: Node | None) -> tuple[Tool, ...]:
    """Those that a choice of `allowed_tools` leaves; built-in ones, which go by other names, are left."""
    if choice is None or not isinstance(choice.value, dict) or choice.value.get("type") != "allowed_tools":
        return tools
    names = {item.object().text_of("name") for item in choice.need("tools").items()}
    return tuple(tool for tool in tools if isinstance(tool, Opaque) or tool.name in names)


# --- items -------------------------------------------------------------------------------------------------------


def _messages(node: Node | None) -> Iterator[Message]:
    """Items in turns: what one speaker said in a row is one message."""
    if node is None:
        return
    if isinstance(node.value, str):
        yield Message(Role.USER, (Text(node.value),))
        return
    role: Role | None = None
    parts: list[Part] = []
    for item in node.items():
        if isinstance(item.value, str):
            item = Node({"role": "user", "content": item.value}, item.path)
        said_by, said = _item(item.object())
        joins = said_by is role and role in (Role.ASSISTANT, Role.TOOL)
        if not joins:
            if role is not None:
                yield Message(role, tuple(parts))
            role, parts = said_by, []
        parts += said
    if role is not None:
        yield Message(role, tuple(parts))


def _item(node: Node) -> tuple[Role, list[Part]]:
    kind = node.text_of("type")
    if kind is None:
        kind = "item_reference" if node.value.keys() == {"id"} else "message"
    match kind:
        case "message":
            role = Role(node.need("role").one_of("user", "assistant", "system", "developer"))
            content = node.get("content")
            return role, list(_content(content)) if content is not None else []
        case "reasoning":
            return Role.ASSISTANT, [_thought(node)]
        case "function_call" | "custom_tool_call":
            custom = kind == "custom_tool_call"
            id_, origin, signature = unpack_call_id(node.need("call_id").text())
            said = node.text_of("input" if custom else "arguments") or ("" if custom else "{}")
            return Role.ASSISTANT, [ToolCall(id_, node.need("name").text(), said, signature, origin, custom)]
        case "function_call_output" | "custom_tool_call_output":
            output = node.get("output")
            parts = tuple(_output(output)) if output is not None else ()
            call_id = unpack_call_id(node.need("call_id").text())[0]
            return Role.TOOL, [ToolResult(call_id, parts, custom=kind == "custom_tool_call_output")]
        case "item_reference":
            raise InvalidParameter(
                f"{node.path!r} refers to an item that a provider has stored, and this model's does not speak this "
                "format. Send the item itself.",
                param=node.path,
            )
        case "compaction":
            raise InvalidParameter(
                f"{node.path!r} holds a conversation that a provider has encrypted, and this model's is another. "
                "Send the conversation itself.",
                param=node.path,
            )
        case "image_generation_call" if made := node.text_of("result"):
            data = media.checked_base64(made, f"{node.path}.result")
            return Role.ASSISTANT, [Media(MediaKind.IMAGE, mime=IMAGE_TYPE, data=data)]
    return Role.ASSISTANT, [Opaque(ORIGIN, kind, node.raw())]


def _thought(node: Node) -> Reasoning:
    """A reasoning item: signed by this wire's vendor, or by another whose signature was packed on the way out."""
    text = thought_text(node.value)
    encrypted = node.text_of("encrypted_content")
    if not encrypted:
        return Reasoning(text)
    if encrypted == UNSIGNED:
        return Reasoning(text)
    packed = unpack(encrypted)
    if packed is None:
        return Reasoning(text, encrypted, ORIGIN, id=node.text_of("id"))
    origin, signature, id_ = packed
    redacted = id_ == REDACTED
    return Reasoning(text, signature, origin, redacted=redacted, id=None if redacted else id_)


def thought_text(item: Mapping[str, object]) -> str:
    """The text of a reasoning item: its summary, else the thought itself where a server shows it."""
    for key in ("summary", "content"):
        parts = item.get(key)
        texts = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
        said = "\n\n".join(text for text in texts if isinstance(text, str) and text)
        if said:
            return said
    return ""


def _content(node: Node) -> Iterator[Part]:
    if isinstance(node.value, str):
        if node.value:
            yield Text(node.value)
        return
    for item in node.items():
        yield from _part(item.object())


def _output(node: Node) -> Iterator[Text | Media]:
    """What a tool answered."""
    if isinstance(node.value, str):
        yield from (Text(node.value),) if node.value else ()
        return
    for item in node.items():
        for part in _part(item.object()):
            if not isinstance(part, Text | Media):
                raise item.need("type").wrong("one of 'input_text', 'input_image', 'input_file'")
            yield part


def _part(node: Node) -> Iterator[Part]:
    kind = node.need("type").text()
    match kind:
        case "input_text" | "output_text" | "text":
            yield Text(node.need("text").text())
        case "refusal":
            yield Refusal(node.need("refusal").text())
        case "input_image":
            yield _image(node)
        case "input_file":
            yield _file(node)
        case "input_audio":
            sound = node.need("input_audio").object()
            shape, data = sound.need("format").text().lower(), sound.need("data")
            mime = media.AUDIO_TYPES.get(shape, f"audio/{shape}")
            yield Media(MediaKind.AUDIO, mime=mime, data=media.checked_base64(data.text(), data.path))
        case _:
            yield Opaque(ORIGIN, kind, node.raw())


def _image(node: Node) -> Media:
    detail = node.text_of("detail")
    detail = None if detail == "auto" else detail  # The default of every wire.
    file_id = node.text_of("file_id")
    if file_id is not None:
        return Media(MediaKind.IMAGE, file_id=file_id, detail=detail)
    url = node.need("image_url")
    return media.from_url(MediaKind.IMAGE, url.text(), url.path, detail=detail)


def _file(node: Node) -> Media:
    name, file_id, url = node.text_of("filename"), node.text_of("file_id"), node.get("file_url")
    if file_id is not None:
        return Media(MediaKind.FILE, file_id=file_id, name=name)
    if url is None:
        url = node.need("file_data")
        if not url.text().startswith("data:"):
            return Media(MediaKind.FILE, data=media.checked_base64(url.text(), url.path), name=name)
    found = media.from_url(MediaKind.FILE, url.text(), url.path)
    return Media(MediaKind.FILE, found.mime, found.data, found.url, name=name)
