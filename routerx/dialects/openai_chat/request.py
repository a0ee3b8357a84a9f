"""Requests of chat: a caller's as the canonical request.

Reads what OpenAI's reference has and what the field has added to it: plain strings for `image_url`, `cache_control` on
parts, thoughts in `reasoning_content`, `reasoning` and `reasoning_details`, Gemini's `extra_content` on tool calls.
"""

from collections.abc import Iterator, Mapping

from routerx.dialects import media
from routerx.dialects.effort import EFFORTS
from routerx.dialects.openai_chat.reasoning import thoughts_of
from routerx.dialects.reading import Body, Node, check_tool_choice
from routerx.dialects.signatures import unpack_call_id
from routerx.domain.chat import (
    CacheMark,
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
from routerx.jsonx import Raw

ORIGIN = "openai"
_LEGACY_ID = "call_{}"
"""Function calls before there were tool calls had no ids; one answer could hold one call only."""


def decode_request(fields: Mapping[str, Raw]) -> ChatRequest:
    """See dialects.base.ChatSource."""
    body = Body(fields)
    body.drop("model", "store", "metadata")  # Nothing is stored here, and what labels a stored answer goes with it.
    messages = body.take("messages")
    stream_options = body.take("stream_options")
    budget = body.integer("max_completion_tokens")
    older = body.integer("max_tokens")
    tools, choice = tuple(_tools(body)), body.take("tool_choice") or body.take("function_call")
    return check_tool_choice(
        ChatRequest(
            messages=tuple(_message(node.object()) for node in messages.items()) if messages is not None else (),
            stream=body.flag("stream") is True,
            wants_usage=stream_options is not None and stream_options.object().value.get("include_usage") is True,
            tools=_allowed(tools, choice),
            tool_choice=_tool_choice(choice),
            parallel_tool_calls=body.flag("parallel_tool_calls"),
            sampling=_sampling(body),
            output_tokens_max=budget if budget is not None else older,
            choices=_or(body.integer("n"), 1),
            response_format=_response_format(body.take("response_format")),
            reasoning=_reasoning(body),
            logprobs=body.flag("logprobs") is True,
            top_logprobs=body.integer("top_logprobs"),
            verbosity=body.text("verbosity"),
            user=body.text("user"),
            service_tier=body.text("service_tier"),
            prompt_cache_key=body.text("prompt_cache_key"),
            extras=body.extras(),
        )
    )


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def _sampling(body: Body) -> Sampling:
    return Sampling(
        temperature=body.number("temperature"),
        top_p=body.number("top_p"),
        top_k=body.integer("top_k"),
        min_p=body.number("min_p"),
        seed=body.integer("seed"),
        presence_penalty=body.number("presence_penalty"),
        frequency_penalty=body.number("frequency_penalty"),
        repetition_penalty=body.number("repetition_penalty"),
        stop=body.strings("stop"),
    )


def _reasoning(body: Body) -> ReasoningWish | None:
    """`reasoning_effort`, or the field's `reasoning: {effort, max_tokens, exclude, enabled}`."""
    effort = body.take("reasoning_effort")
    if effort is not None:
        return ReasoningWish(effort=effort.one_of(*EFFORTS))  # type: ignore[arg-type]  # one_of has checked it.
    wish = body.take("reasoning")
    if wish is None:
        return None
    wish.object()
    word, budget, exclude = wish.get("effort"), wish.get("max_tokens"), wish.get("exclude")
    enabled = wish.get("enabled")
    visible = None if exclude is None else not exclude.flag()
    if budget is not None:
        return ReasoningWish(budget_tokens=budget.integer(), visible=visible)
    if word is not None:
        return ReasoningWish(effort=word.one_of(*EFFORTS), visible=visible)  # type: ignore[arg-type]  # As above.
    if enabled is not None and not enabled.flag():
        return ReasoningWish(effort="none", visible=visible)
    return ReasoningWish(visible=visible)


def _response_format(node: Node | None) -> ResponseFormat | None:
    if node is None:
        return None
    kind = node.object().need("type").one_of("text", "json_object", "json_schema")
    if kind == "text":
        return None
    if kind == "json_object":
        return JsonObject()
    schema = node.need("json_schema").object()
    strict = schema.get("strict")
    return JsonSchema(
        schema=schema.need("schema").object().raw(),
        name=schema.text_of("name"),
        description=schema.text_of("description"),
        strict=None if strict is None else strict.flag(),
    )


# --- tools -------------------------------------------------------------------------------------------------------


def _tools(body: Body) -> Iterator[Tool]:
    tools, functions = body.take("tools"), body.take("functions")
    for node in tools.items() if tools is not None else ():
        kind = node.object().need("type").text()
        if kind == "function":
            yield _function(node.need("function").object(), cache_mark(node))
        elif kind == "custom":
            custom = node.need("custom").object()
            shape = custom.get("format")
            yield CustomTool(
                custom.need("name").text(), custom.text_of("description"), None if shape is None else shape.raw()
            )
        else:
            yield Opaque(ORIGIN, kind, node.raw())
    for node in functions.items() if functions is not None else ():
        yield _function(node.object(), None)


def _function(node: Node, cache: CacheMark | None) -> FunctionTool:
    parameters, strict = node.get("parameters"), node.get("strict")
    return FunctionTool(
        name=node.need("name").text(),
        description=node.text_of("description"),
        parameters=None if parameters is None else parameters.object().raw(),
        strict=None if strict is None else strict.flag(),
        cache=cache if cache is not None else cache_mark(node),
    )


def _tool_choice(node: Node | None) -> ToolChoice | None:
    if node is None:
        return None
    if isinstance(node.value, str):
        word = "required" if node.value == "any" else node.one_of("auto", "none", "required")
        return ToolChoice(word)  # type: ignore[arg-type]  # one_of has checked it.
    kind = node.object().text_of("type")
    if kind == "allowed_tools":
        return _tool_choice(node.need("allowed_tools").object().need("mode"))
    if kind is not None:
        return ToolChoice(
            "tool", node.need(node.need("type").one_of("function", "custom")).object().need("name").text()
        )
    # The older `function_call: {"name": …}`, or what some clients send without a type.
    function = node.get("function")
    return ToolChoice("tool", (node if function is None else function.object()).need("name").text())


def _allowed(tools: tuple[Tool, ...], choice: Node | None) -> tuple[Tool, ...]:
    """Those that a choice of `allowed_tools` leaves; what it cannot name (a tool only this wire has) is left."""
    if choice is None or not isinstance(choice.value, dict) or choice.value.get("type") != "allowed_tools":
        return tools
    listed = choice.need("allowed_tools").object().need("tools")
    names = set()
    for item in listed.items():
        kind = item.object().need("type").text()
        if kind in ("function", "custom"):
            names.add(item.need(kind).object().need("name").text())
    return tuple(tool for tool in tools if isinstance(tool, Opaque) or tool.name in names)


# --- messages ----------------------------------------------------------------------------------------------------

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")


def _message(node: Node) -> Message:
    role = node.need("role").one_of(*_ROLES)
    if role in ("tool", "function"):
        return Message(Role.TOOL, (_result(node, legacy=role == "function"),))
    parts = list(_content(node.get("content")))
    if role == "assistant":
        parts = [*thoughts_of(node), *parts, *_refusal(node), *_made(node), *_calls(node)]
    return Message(Role(role), tuple(parts), node.text_of("name"))


def _refusal(node: Node) -> Iterator[Part]:
    refusal = node.text_of("refusal")
    if refusal:
        yield Refusal(refusal)


def _made(node: Node) -> Iterator[Part]:
    """Pictures that the model made, as clients return them, and sound, which only its maker keeps."""
    images = node.get("images")
    for image in images.items() if images is not None else ():
        yield _linked(MediaKind.IMAGE, image.object(), "image_url")
    audio = node.get("audio")
    if audio is not None:
        yield Opaque(ORIGIN, "audio", audio.raw())


def _calls(node: Node) -> Iterator[Part]:
    calls = node.get("tool_calls")
    for call in calls.items() if calls is not None else ():
        yield _call(call.object())
    function = node.get("function_call")
    if function is not None:
        name = function.object().need("name").text()
        yield ToolCall(_LEGACY_ID.format(name), name, _arguments(function.get("arguments")))


def _call(node: Node) -> ToolCall:
    id_, origin, signature = unpack_call_id(node.need("id").text())
    extra = node.get("extra_content")
    if extra is not None and isinstance(extra.value, dict) and isinstance(extra.value.get("google"), dict):
        found = extra.value["google"].get("thought_signature")
        if isinstance(found, str) and found:
            origin, signature = "gemini", found
    if node.text_of("type") == "custom":
        custom = node.need("custom").object()
        return ToolCall(id_, custom.need("name").text(), custom.need("input").text(), signature, origin, custom=True)
    function = node.need("function").object()
    return ToolCall(id_, function.need("name").text(), _arguments(function.get("arguments")), signature, origin)


def _arguments(node: Node | None) -> str:
    """As text; some clients send the object itself."""
    if node is None:
        return "{}"
    if isinstance(node.value, dict):
        return bytes(node.raw()).decode()
    return node.text().strip() or "{}"


def _result(node: Node, *, legacy: bool) -> ToolResult:
    name = node.text_of("name")
    parts = tuple(map(_plain, _content(node.get("content"))))
    if legacy:
        assert node is not None
        return ToolResult(_LEGACY_ID.format(node.need("name").text()), parts, name=name)
    call_id = unpack_call_id(node.need("tool_call_id").text())[0]
    return ToolResult(call_id, parts, name=name, cache=cache_mark(node))


def _plain(part: Part) -> Text | Media:
    """What a result may hold: of other kinds, the words, or the JSON that the model would have been shown."""
    match part:
        case Text() | Media():
            return part
        case Refusal() | Reasoning():
            return Text(part.text)
        case Opaque():
            return Text(bytes(part.value).decode())
    raise AssertionError(f"{part!r} is no part of a content.")


# --- content -----------------------------------------------------------------------------------------------------


def cache_mark(node: Node) -> CacheMark | None:
    """`cache_control: {"type": "ephemeral", "ttl": "1h"}`, as clients send it to Anthropic's models."""
    control = node.get("cache_control")
    if control is None:
        return None
    return CacheMark.ONE_HOUR if control.object().value.get("ttl") == "1h" else CacheMark.FIVE_MINUTES


def _content(node: Node | None) -> Iterator[Part]:
    if node is None:
        return
    if isinstance(node.value, str):
        if node.value:
            yield Text(node.value)
        return
    for item in node.items():
        if isinstance(item.value, str):
            yield Text(item.value)
        else:
            yield from _part(item.object())


def _part(node: Node) -> Iterator[Part]:
    kind = node.need("type").text()
    cache = cache_mark(node)
    match kind:
        case "text" | "input_text" | "output_text":
            yield Text(node.need("text").text(), cache)
        case "refusal":
            yield Refusal(node.need("refusal").text())
        case "image_url" | "input_image" | "image":
            yield _linked(MediaKind.IMAGE, node, "image_url" if kind != "image" or node.get("image_url") else kind)
        case "video_url":
            yield _linked(MediaKind.VIDEO, node, kind)
        case "audio_url":
            yield _linked(MediaKind.AUDIO, node, kind)
        case "input_audio":
            sound = node.need("input_audio").object()
            shape = sound.need("format").text().lower()
            data = media.checked_base64(sound.need("data").text(), f"{sound.path}.data")
            mime = media.AUDIO_TYPES.get(shape, f"audio/{shape}")
            yield Media(MediaKind.AUDIO, mime=mime, data=data, cache=cache)
        case "file":
            yield _file(node.need("file").object(), cache)
        case "thinking":
            yield from thoughts_of(node)
        case _:
            yield Opaque(ORIGIN, kind, node.raw())


def _linked(kind: MediaKind, node: Node, key: str) -> Media:
    target = node.need(key)
    if isinstance(target.value, str):
        return media.from_url(kind, target.value, target.path, detail=node.text_of("detail"), cache=cache_mark(node))
    url = target.object().need("url")
    return media.from_url(kind, url.text(), url.path, detail=target.text_of("detail"), cache=cache_mark(node))


def _file(node: Node, cache: CacheMark | None) -> Media:
    name, file_id = node.text_of("filename"), node.text_of("file_id")
    if file_id is not None:
        return Media(MediaKind.FILE, file_id=file_id, name=name, cache=cache)
    data = node.need("file_data")
    text = data.text()
    if text.startswith(("data:", "http://", "https://")):
        found = media.from_url(MediaKind.FILE, text, data.path, cache=cache)
    else:
        found = Media(MediaKind.FILE, data=media.checked_base64(text, data.path), cache=cache)
    mime = found.mime
    kind = MediaKind.FILE if mime is None else media.kind_of(mime)
    return Media(kind, mime=mime, data=found.data, url=found.url, name=name, cache=cache)
