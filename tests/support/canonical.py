"""Canonical values made up by Hypothesis: requests, answers and streams of events, within what one wire can say.

A Wire says what that is. What is generated stands in the form that decoding gives (texts of an answer joined, arguments
compact), so that a round trip through the wire has to give back the same value.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest
from typing import Any

import msgspec
from hypothesis import strategies as st

from routerx import jsonx
from routerx.dialects.effort import EFFORTS, Effort
from routerx.domain.chat import (
    Answer,
    CacheMark,
    ChatRequest,
    Choice,
    Citation,
    CustomTool,
    Finish,
    FunctionTool,
    JsonObject,
    JsonSchema,
    Media,
    MediaKind,
    Message,
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
from routerx.domain.events import (
    Event,
    Finished,
    ReasoningDelta,
    Reported,
    TextDelta,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
    events_of,
)
from routerx.domain.usage import Usage
from routerx.jsonx import Raw

BUCKETS = (
    "in_fresh",
    "in_cache_read",
    "in_cache_write_5m",
    "in_cache_write_1h",
    "in_audio",
    "in_image",
    "out_text",
    "out_reasoning",
    "out_audio",
    "out_image",
    "searches",
)
"""Those of Usage that count something reported."""


@dataclass(frozen=True)
class Wire:
    """What one wire can say without loss, in requests and in answers. The defaults are what every wire can."""

    origin: str
    """The dialect's name, and whose signatures are generated."""

    system_anywhere: bool = False
    """Else there is one at most, and it stands first."""
    names: bool = False
    """Messages say who speaks."""
    media: frozenset[MediaKind] = frozenset()
    """Of a user's messages."""
    media_urls: bool = True
    result_media: bool = False
    """Results of tools may hold images."""
    result_errors: bool = False
    result_names: bool = False
    results_together: bool = True
    """The results of one turn stand in one message; else each in its own."""
    text_parts: bool = True
    """A message may hold several texts; else one at most."""
    cache: bool = False
    signed_thoughts: bool = False
    redacted_thoughts: bool = False
    thought_ids: bool = False
    plain_thoughts: bool = False
    """Thoughts that nobody signed."""
    signed_calls: bool = False
    custom_tools: bool = False
    strict_tools: bool = False
    sampling: Mapping[str, st.SearchStrategy[Any]] = field(default_factory=dict)
    """Fields of Sampling but `stop` → values."""
    stops: bool = True
    efforts: tuple[Effort, ...] = EFFORTS
    budgets: bool = False
    wishes: tuple[str, ...] = ()
    """Fields of ChatRequest that hold a short text (`user`) and can be said."""
    choices_max: int = 1
    json_object: bool = False
    json_schema: bool = False
    schema_names: bool = False
    parallel: bool = True

    citations: bool = False
    finishes: Mapping[Finish, str] = field(default_factory=dict)
    """Finishes that can be told, each with the wire's own word."""
    stop_sequence: str | None = None
    """The wire's own word for an answer that one of the caller's sequences ended, if it says which."""
    buckets: tuple[str, ...] = ("in_fresh", "out_text")
    """Of Usage, that can be told apart."""


# --- small things ------------------------------------------------------------------------------------------------

_CHARACTERS = st.characters(exclude_categories=["Cs"])
texts = st.text(_CHARACTERS, min_size=1, max_size=12).filter(lambda text: text == text.strip())
"""Any characters, neither end blank."""
words = st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=8)
_tool_names = st.sampled_from(("look_up", "add", "send-mail", "Weather7"))
_ids = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789_", min_size=4, max_size=12)
signatures = st.text("ABCDEFabcdef0123456789+/", min_size=4, max_size=16).map(lambda text: f"{text}==")
_marks = st.sampled_from((None, None, CacheMark.FIVE_MINUTES, CacheMark.ONE_HOUR))
_scalars = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | texts
_values = st.recursive(_scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=2))
arguments = st.dictionaries(words, _values, max_size=3).map(lambda value: jsonx.encode(value).decode())
"""JSON text of an object, as compact as encoders write it."""
# Closed, as some wires demand of a strict one.
schemas = st.dictionaries(words, st.sampled_from(("string", "integer")), max_size=2).map(
    lambda kinds: Raw(
        jsonx.encode(
            {
                "type": "object",
                "properties": {name: {"type": kind} for name, kind in kinds.items()},
                "additionalProperties": False,
            }
        )
    )
)
data = st.binary(min_size=1, max_size=6).map(lambda raw: base64.b64encode(raw).decode())
"""Base64."""
MIMES = {
    MediaKind.IMAGE: "image/png",
    MediaKind.AUDIO: "audio/wav",
    MediaKind.VIDEO: "video/mp4",
    MediaKind.FILE: "application/pdf",
}


def _marked(wire: Wire) -> st.SearchStrategy[CacheMark | None]:
    return _marks if wire.cache else st.none()


@st.composite
def media(draw: st.DrawFn, wire: Wire, kind: MediaKind) -> Media:
    cache = draw(_marked(wire))
    if wire.media_urls and draw(st.booleans()):
        return Media(kind, url=f"https://example.com/{draw(words)}", cache=cache)
    return Media(kind, mime=MIMES[kind], data=draw(data), cache=cache)


@st.composite
def thoughts(draw: st.DrawFn, wire: Wire) -> tuple[Reasoning, ...]:
    """Of one turn: signed ones, or a single one that nobody signed."""
    shapes = [
        *(["signed"] if wire.signed_thoughts else []),
        *(["redacted"] if wire.redacted_thoughts else []),
    ]
    if wire.plain_thoughts and (not shapes or draw(st.booleans())):
        return (Reasoning(draw(texts)),) if draw(st.booleans()) else ()
    if not shapes:
        return ()
    found = []
    for shape in draw(st.lists(st.sampled_from(shapes), max_size=2)):
        id_ = draw(_ids) if wire.thought_ids else None
        text = draw(texts) if shape == "signed" else ""
        found.append(Reasoning(text, draw(signatures), wire.origin, redacted=shape == "redacted", id=id_))
    return tuple(found)


@st.composite
def calls(draw: st.DrawFn, wire: Wire, names: tuple[str, ...], size: int, turn: int = 0) -> tuple[ToolCall, ...]:
    """Of one turn; their ids are like no other's."""
    ids = draw(st.lists(_ids, min_size=size, max_size=size, unique=True))
    made = []
    for id_ in ids:
        signed = wire.signed_calls and draw(st.booleans())
        signature, origin = (draw(signatures), wire.origin) if signed else (None, None)
        made.append(ToolCall(f"call_{turn}_{id_}", draw(st.sampled_from(names)), draw(arguments), signature, origin))
    return tuple(made)


# --- requests ----------------------------------------------------------------------------------------------------


@st.composite
def requests(draw: st.DrawFn, wire: Wire) -> ChatRequest:
    """A conversation that any server would take: whose calls are answered, and whose last word is not the model's."""
    tools = draw(_tools(wire))
    functions = tuple(tool.name for tool in tools if isinstance(tool, FunctionTool))
    wishes: dict[str, Any] = {name: draw(st.none() | words) for name in wire.wishes}
    return ChatRequest(
        messages=draw(_messages(wire, functions)),
        tools=tools,
        tool_choice=draw(_tool_choice(functions)),
        parallel_tool_calls=draw(st.sampled_from((None, False))) if wire.parallel and functions else None,
        sampling=draw(_sampling(wire)),
        output_tokens_max=draw(st.integers(2_000, 100_000)),
        choices=draw(st.integers(1, wire.choices_max)),
        response_format=draw(_response_format(wire)),
        reasoning=draw(_reasoning(wire)),
        **wishes,
    )


@st.composite
def _tools(draw: st.DrawFn, wire: Wire) -> tuple[Tool, ...]:
    names = draw(st.lists(_tool_names, max_size=3, unique=True))
    tools: list[Tool] = [
        FunctionTool(
            name,
            draw(st.none() | texts),
            draw(schemas),
            draw(st.none() | st.booleans()) if wire.strict_tools else None,
            draw(_marked(wire)),
        )
        for name in names
    ]
    if wire.custom_tools and draw(st.booleans()):
        tools.append(CustomTool("free_text", draw(st.none() | texts)))
    return tuple(tools)


@st.composite
def _tool_choice(draw: st.DrawFn, functions: tuple[str, ...]) -> ToolChoice | None:
    if not functions or draw(st.booleans()):
        return None
    choices = [
        ToolChoice("auto"),
        ToolChoice("none"),
        ToolChoice("required"),
        *(ToolChoice("tool", name) for name in functions),
    ]
    return draw(st.sampled_from(choices))


@st.composite
def _sampling(draw: st.DrawFn, wire: Wire) -> Sampling:
    wishes = {name: draw(st.none() | values) for name, values in wire.sampling.items()}
    return Sampling(**wishes, stop=tuple(draw(st.lists(words, max_size=2, unique=True))) if wire.stops else ())


@st.composite
def _reasoning(draw: st.DrawFn, wire: Wire) -> ReasoningWish | None:
    kinds = [*(["effort"] if wire.efforts else []), *(["budget"] if wire.budgets else []), "none"]
    match draw(st.sampled_from(kinds)):
        case "effort":
            return ReasoningWish(effort=draw(st.sampled_from(wire.efforts)))
        case "budget":
            return ReasoningWish(budget_tokens=draw(st.integers(1_024, 1_999)))
    return None


@st.composite
def _response_format(draw: st.DrawFn, wire: Wire) -> ResponseFormat | None:
    kinds = [*(["object"] if wire.json_object else []), *(["schema"] if wire.json_schema else []), "text"]
    match draw(st.sampled_from(kinds)):
        case "object":
            return JsonObject()
        case "schema":
            return JsonSchema(draw(schemas), draw(words) if wire.schema_names else None)
    return None


@st.composite
def _messages(draw: st.DrawFn, wire: Wire, functions: tuple[str, ...]) -> tuple[Message, ...]:
    found: list[Message] = []
    if draw(st.booleans()):
        found.append(Message(Role.SYSTEM, draw(_texts(wire))))
    for place in range(draw(st.integers(1, 3))):
        if place:
            found += draw(_turn(wire, functions, place))
        if wire.system_anywhere and draw(st.booleans()):
            found.append(Message(Role.SYSTEM, draw(_texts(wire))))
        found.append(draw(_question(wire)))
    if functions != () and draw(st.booleans()):
        found += [draw(_assistant(wire, made := draw(calls(wire, functions, draw(st.integers(1, 2))))))]
        found += draw(_results(wire, made))
    return tuple(found)


@st.composite
def _turn(draw: st.DrawFn, wire: Wire, functions: tuple[str, ...], place: int) -> list[Message]:
    """What comes between two questions: an answer, or a round of tools and an answer."""
    found = []
    if functions != () and draw(st.booleans()):
        made = draw(calls(wire, functions, draw(st.integers(1, 3)), place))
        found += [draw(_assistant(wire, made)), *draw(_results(wire, made))]
    return [*found, draw(_assistant(wire, ()))]


@st.composite
def _texts(draw: st.DrawFn, wire: Wire) -> tuple[Part, ...]:
    size = draw(st.integers(1, 2)) if wire.text_parts else 1
    return tuple(Text(draw(texts), draw(_marked(wire))) for _ in range(size))


@st.composite
def _question(draw: st.DrawFn, wire: Wire) -> Message:
    parts: list[Part] = list(draw(_texts(wire)))
    if wire.media:
        kinds = st.sampled_from(sorted(wire.media))
        parts += [draw(media(wire, draw(kinds))) for _ in range(draw(st.integers(0, 2)))]
    return Message(Role.USER, tuple(parts), draw(st.none() | words) if wire.names else None)


@st.composite
def _assistant(draw: st.DrawFn, wire: Wire, made: tuple[ToolCall, ...]) -> Message:
    spoken = draw(_texts(wire)) if not made or draw(st.booleans()) else ()
    return Message(Role.ASSISTANT, (*draw(thoughts(wire)), *spoken, *made))


@st.composite
def _results(draw: st.DrawFn, wire: Wire, made: tuple[ToolCall, ...]) -> list[Message]:
    results = []
    for call in made:
        parts: list[Text | Media] = [Text(draw(texts))]
        if wire.result_media and draw(st.booleans()):
            parts.append(draw(media(wire, MediaKind.IMAGE)))
        failed = wire.result_errors and draw(st.booleans())
        name = call.name if wire.result_names else None
        results.append(ToolResult(call.id, tuple(parts), failed, name, cache=draw(_marked(wire))))
    if wire.results_together:
        return [Message(Role.TOOL, tuple(results))]
    return [Message(Role.TOOL, (result,)) for result in results]


# --- answers -----------------------------------------------------------------------------------------------------


@st.composite
def usages(draw: st.DrawFn, wire: Wire) -> Usage:
    return Usage(**{name: draw(st.integers(0, 1_000_000)) for name in wire.buckets})


@st.composite
def answers(draw: st.DrawFn, wire: Wire) -> Answer:
    """Whole, with its id, its model and its usage."""
    return Answer(
        choices=tuple(draw(choice(wire)) for _ in range(draw(st.integers(1, wire.choices_max)))),
        id=f"id_{draw(_ids)}",
        model=draw(words),
        usage=draw(usages(wire)),
    )


@st.composite
def choice(draw: st.DrawFn, wire: Wire) -> Choice:
    parts: list[Part] = list(draw(thoughts(wire)))
    made = draw(calls(wire, ("look_up", "add"), draw(st.integers(0, 3))))
    if not made or draw(st.booleans()):
        cited = draw(st.lists(_citations(), max_size=2)) if wire.citations else ()
        parts.append(Text(draw(texts), citations=tuple(cited)))
    parts += made
    if made and Finish.TOOL_CALLS in wire.finishes:
        return Choice(tuple(parts), Finish.TOOL_CALLS, wire.finishes[Finish.TOOL_CALLS])
    if wire.stop_sequence is not None and not made and draw(st.booleans()):
        return Choice(tuple(parts), Finish.STOP, wire.stop_sequence, draw(words))
    finish = draw(st.sampled_from([one for one in wire.finishes if one is not Finish.TOOL_CALLS]))
    return Choice(tuple(parts), finish, wire.finishes[finish])


@st.composite
def _citations(draw: st.DrawFn) -> Citation:
    return Citation(f"https://example.com/{draw(words)}", draw(st.none() | words), draw(st.none() | texts))


@st.composite
def streams(draw: st.DrawFn, wire: Wire) -> list[Event]:
    """The events of an answer, its texts cut anywhere and its usage told more than once, cumulative."""
    answer = draw(answers(wire))
    events: list[Event] = []
    for event in events_of(answer):
        match event:
            case TextDelta() | ReasoningDelta():
                events += [msgspec.structs.replace(event, text=piece) for piece in draw(_cut(event.text))]
            case ToolCallDelta():
                events += [msgspec.structs.replace(event, arguments=piece) for piece in draw(_cut(event.arguments))]
            case _:
                events.append(event)
    if answer.usage is not None and draw(st.booleans()):
        spent = msgspec.structs.replace(answer.usage, out_text=0, out_reasoning=0)
        events.insert(1, Reported(spent))
    return events


@st.composite
def _cut(draw: st.DrawFn, text: str) -> list[str]:
    cuts = sorted(draw(st.sets(st.integers(1, max(len(text) - 1, 1)), max_size=3)) - {len(text)})
    return [text[a:b] for a, b in pairwise([0, *cuts, len(text)])]


def interleaved(events: list[Event]) -> list[Event]:
    """The same stream of one choice, its calls told side by side, a piece of each in turn, before the finish."""
    starts, ends, others = [], [], []
    pieces: dict[int, list[ToolCallDelta]] = {}
    for event in events:
        match event:
            case ToolCallStarted():
                starts.append(event)
            case ToolCallDelta():
                pieces.setdefault(event.index, []).append(event)
            case ToolCallEnded():
                ends.append(event)
            case _:
                others.append(event)
    mixed = [piece for turn in zip_longest(*pieces.values()) for piece in turn if piece is not None]
    place = next(place for place, event in enumerate(others) if isinstance(event, Finished))
    return [*others[:place], *starts, *mixed, *ends, *others[place:]]
