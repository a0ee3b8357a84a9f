"""Requests of Messages: a caller's as the canonical request."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from routerx.dialects import media
from routerx.dialects.effort import EFFORTS
from routerx.dialects.reading import Body, Node, check_tool_choice
from routerx.dialects.signatures import UNSIGNED, unpack, unpack_call_id
from routerx.domain.chat import (
    CacheMark,
    ChatRequest,
    Citation,
    FunctionTool,
    JsonSchema,
    Media,
    MediaKind,
    Message,
    Opaque,
    Part,
    Reasoning,
    ReasoningWish,
    Role,
    Sampling,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from routerx.jsonx import Raw

ORIGIN = "anthropic"
CITATIONS = "citations"
"""Type of the Opaque part that holds a wish to cite the document before it, or what an answer cites of one: places
without an address, which only this wire can tell of."""

_OUTPUT = ("effort", "format")
_TIERS = MappingProxyType({"standard_only": "default"})
"""Service tiers that have another name here."""
_PLACES = MappingProxyType(
    {
        "tool_use": (Role.ASSISTANT,),
        "thinking": (Role.ASSISTANT,),
        "redacted_thinking": (Role.ASSISTANT,),
        "tool_result": (Role.USER,),
    }
)
"""In whose messages a block may stand, where not in all."""


def decode_request(fields: Mapping[str, Raw]) -> ChatRequest:
    """See dialects.base.ChatSource."""
    body = Body(fields)
    body.drop("model", "cache_control")  # A mark on the whole request is a hint; the parts' own marks stay.
    stream = body.flag("stream") is True
    system, messages = body.take("system"), body.take("messages")
    tools = tuple(_tools(body.take("tools")))
    choice, parallel = _tool_choice(body.take("tool_choice"))
    effort, schema = _output(body)
    metadata, tier = body.take("metadata"), body.text("service_tier")
    request = ChatRequest(
        messages=(*_system(system), *(one for node in _nodes(messages) for one in _message(node.object()))),
        stream=stream,
        wants_usage=stream,
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=parallel,
        sampling=Sampling(
            temperature=body.number("temperature"),
            top_p=body.number("top_p"),
            top_k=body.integer("top_k"),
            stop=body.strings("stop_sequences"),
        ),
        output_tokens_max=body.integer("max_tokens"),
        response_format=schema,
        reasoning=_thinking(body.take("thinking"), effort),
        user=metadata.object().text_of("user_id") if metadata is not None else None,
        service_tier=_TIERS.get(tier, tier) if tier is not None else None,
        extras=body.extras(),
    )
    return check_tool_choice(request)


def _nodes(node: Node | None) -> Iterator[Node]:
    return node.items() if node is not None else iter(())


def _system(node: Node | None) -> Iterator[Message]:
    if node is None:
        return
    parts = tuple(_content(node))
    if parts:
        yield Message(Role.SYSTEM, parts)


# --- wishes ------------------------------------------------------------------------------------------------------


def _output(body: Body) -> tuple[Node | None, JsonSchema | None]:
    """Effort and format: in `output_config`, or in the older `output_format`. What else is in there is left to it."""
    config, older = body.take("output_config"), body.take("output_format")
    effort = config.object().get("effort") if config is not None else None
    shape = config.get("format") if config is not None else None
    if config is not None:
        body.put_back("output_config", {key: config.value[key] for key in config.value if key not in _OUTPUT})
    shape = shape if shape is not None else older
    if shape is None:
        return effort, None
    shape.object().need("type").one_of("json_schema")
    return effort, JsonSchema(schema=shape.need("schema").object().raw(), name=shape.text_of("name"))


def _thinking(node: Node | None, effort: Node | None) -> ReasoningWish | None:
    word = None if effort is None else effort.one_of(*EFFORTS)
    if node is None:
        return None if word is None else ReasoningWish(effort=word)  # type: ignore[arg-type]  # one_of has checked.
    kind = node.object().need("type").one_of("enabled", "disabled", "adaptive", "between_tools")
    if kind == "disabled":
        return ReasoningWish(effort="none")
    visible = node.text_of("display") != "omitted"
    if kind == "enabled":
        return ReasoningWish(budget_tokens=node.need("budget_tokens").integer(), visible=visible)
    return ReasoningWish(effort=word, visible=visible)  # type: ignore[arg-type]  # As above.


def _tools(node: Node | None) -> Iterator[Tool]:
    for item in _nodes(node):
        kind = item.object().text_of("type")
        if kind not in (None, "custom"):
            yield Opaque(ORIGIN, str(kind), item.raw())
            continue
        schema, strict = item.get("input_schema"), item.get("strict")
        yield FunctionTool(
            name=item.need("name").text(),
            description=item.text_of("description"),
            parameters=None if schema is None else schema.object().raw(),
            strict=None if strict is None else strict.flag(),
            cache=_cache(item),
        )


def _tool_choice(node: Node | None) -> tuple[ToolChoice | None, bool | None]:
    if node is None:
        return None, None
    kind = node.object().need("type").one_of("auto", "any", "tool", "none")
    single = node.get("disable_parallel_tool_use")
    parallel = None if single is None else not single.flag()
    match kind:
        case "any":
            return ToolChoice("required"), parallel
        case "tool":
            return ToolChoice("tool", node.need("name").text()), parallel
    return ToolChoice("none" if kind == "none" else "auto"), parallel


# --- messages ----------------------------------------------------------------------------------------------------


def _message(node: Node) -> Iterator[Message]:
    """One message, or two where a user's turn has results of tools and more."""
    role = Role(node.need("role").one_of("user", "assistant", "system"))
    content = node.get("content")
    if content is not None and isinstance(content.value, list):
        for block in content.items():
            kind = block.object().need("type")
            if role not in _PLACES.get(kind.text(), (role,)):
                raise kind.wrong(f"a block of another type: this one has no place in a message of {role.value!r}")
    parts = tuple(_content(content)) if content is not None else ()
    results = tuple(part for part in parts if isinstance(part, ToolResult))
    if results:
        yield Message(Role.TOOL, results)
        parts = tuple(part for part in parts if not isinstance(part, ToolResult))
        if not parts:
            return
    yield Message(role, parts)


def _cache(node: Node) -> CacheMark | None:
    control = node.get("cache_control")
    if control is None:
        return None
    return CacheMark.ONE_HOUR if control.object().value.get("ttl") == "1h" else CacheMark.FIVE_MINUTES


def _content(node: Node) -> Iterator[Part]:
    if isinstance(node.value, str):
        if node.value:
            yield Text(node.value)
        return
    for item in node.items():
        yield from _part(item.object())


def _part(node: Node) -> Iterator[Part]:
    kind = node.need("type").text()
    match kind:
        case "text":
            text = node.need("text").text()
            if text:
                yield Text(text, _cache(node), tuple(_citations(node)))
        case "image":
            yield _media(node, MediaKind.IMAGE)
        case "document":
            yield from _document(node)
        case "search_result":
            yield _search_result(node)
        case "thinking":
            thought, signature = node.text_of("thinking") or "", node.text_of("signature")
            if thought or signature:
                yield _reasoning(thought, signature, redacted=False)
        case "redacted_thinking":
            yield _reasoning("", node.need("data").text(), redacted=True)
        case "tool_use":
            id_, origin, signature = unpack_call_id(node.need("id").text())
            input_ = node.get("input")
            arguments = "{}" if input_ is None else bytes(input_.object().raw()).decode()
            yield ToolCall(id_, node.need("name").text(), arguments, signature, origin, cache=_cache(node))
        case "tool_result":
            yield _result(node)
        case _:
            yield Opaque(ORIGIN, kind, node.raw())


def _citations(node: Node) -> Iterator[Citation]:
    """Of a text that an assistant wrote: sources with an address. The others say nothing that the text does not."""
    found = node.get("citations")
    for item in found.items() if found is not None and isinstance(found.value, list) else ():
        url = item.object().text_of("url")
        if url:
            yield Citation(url, item.text_of("title"), item.text_of("cited_text") or None)


def _reasoning(text: str, signature: str | None, *, redacted: bool) -> Reasoning:
    """Signed by this wire's own vendor, or by another whose signature was packed into it on the way out."""
    if not signature or signature == UNSIGNED:
        return Reasoning(text)
    packed = unpack(signature)
    if packed is None:
        return Reasoning(text, signature, ORIGIN, redacted=redacted)
    origin, signature, id_ = packed
    return Reasoning(text, signature, origin, redacted=redacted, id=id_)


def _result(node: Node) -> ToolResult:
    content, failed = node.get("content"), node.get("is_error")
    parts: list[Text | Media] = []
    for part in _content(content) if content is not None else ():
        if isinstance(part, Text | Media):
            parts.append(part)
        elif isinstance(part, Opaque) and part.type != CITATIONS:
            parts.append(Text(bytes(part.value).decode()))  # What only this vendor shows, shown as it was written.
    return ToolResult(
        call_id=unpack_call_id(node.need("tool_use_id").text())[0],
        parts=tuple(parts),
        is_error=failed is not None and failed.flag(),
        cache=_cache(node),
    )


# --- media and documents -----------------------------------------------------------------------------------------


def _media(node: Node, kind: MediaKind) -> Media:
    source = node.need("source").object()
    cache = _cache(node)
    match source.need("type").text():
        case "base64":
            data = source.need("data")
            mime = media.media_type(source.need("media_type").text())
            return Media(kind, mime=mime, data=media.checked_base64(data.text(), data.path), cache=cache)
        case "url":
            url = source.need("url")
            return media.from_url(kind, url.text(), url.path, cache=cache)
        case "file":
            return Media(kind, file_id=source.need("file_id").text(), cache=cache)
    raise source.need("type").wrong("one of 'base64', 'url', 'file'")


def _document(node: Node) -> Iterator[Part]:
    """A file, or what stands in one, which any wire can tell; a wish to cite it is this wire's own."""
    source = node.need("source").object()
    title, context = node.text_of("title"), node.text_of("context")
    match source.need("type").text():
        case "text":
            lines = (title, context, source.need("data").text())
            yield Text("\n\n".join(line for line in lines if line), _cache(node))
        case "content":
            heading = "\n\n".join(line for line in (title, context) if line)
            if heading:
                yield Text(heading)
            yield from _content(source.need("content"))
        case _:
            found = _media(node, MediaKind.FILE)
            yield Media(MediaKind.FILE, found.mime, found.data, found.url, found.file_id, title, cache=found.cache)
            if context:
                yield Text(context)
    wish = node.get("citations")
    if wish is not None and wish.object().value.get("enabled") is True:
        yield Opaque(ORIGIN, CITATIONS, wish.raw())


def _search_result(node: Node) -> Text:
    """What the caller's own search found, as text: title, source and what it says."""
    texts = [item.object().text_of("text") for item in node.need("content").items()]
    lines = (node.text_of("title"), node.text_of("source"), *texts)
    return Text("\n\n".join(line for line in lines if line), _cache(node))
