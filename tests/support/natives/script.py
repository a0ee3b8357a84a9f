"""What the fake providers are asked and what they say: one script for all of them, whatever the wire.

The last word of a model's name is its scenario (`claude-x-tools` plays `tools`). A fake reads a request of its own wire
into Heard, said() decides, and the fake tells what was Said in its own wire again. Numbers of tokens differ in every
bucket, scenario and turn, so that one in the wrong place shows.
"""

import base64
import binascii
import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

SCENARIOS = ("text", "image", "tools", "schema", "reasoning")
ANY = "any"
"""A scenario that answers whatever is valid, so that a test may ask what it likes."""
OTHER_PICTURE = (-1, -1)
"""Size of a picture that is not this script's."""

SYSTEM = "Answer in one line."
HELLO = "Grüß Gott! 今日は?"
TEXT = (
    'Grüße aus Bergen: 7 °C, Regen ☔, 東京 auch 🌧️. "Quoted", back\\slash,\ttab,\nnewline; data: [DONE] is only text.'
)
LOOK = "How large is this picture?"
WHERE = "What are weather and time in Tromsø?"
THOUGHT = "The user wants weather. Ærlig talt: 考える 🤔."
AFTERTHOUGHT = "Now I know it → tell."


@dataclass(frozen=True)
class Tool:
    """A function that callers offer."""

    name: str
    description: str
    argument: str

    @property
    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {self.argument: {"type": "string"}},
            "required": [self.argument],
            "additionalProperties": False,
        }


WEATHER = Tool("weather", "The weather of a city.", "city")
CLOCK = Tool("clock", "The time in a zone.", "zone")
TOOLS = (WEATHER, CLOCK)


@dataclass(frozen=True)
class Call:
    name: str
    arguments: Mapping[str, Any]


CALLS = (Call("weather", {"city": "Tromsø"}), Call("clock", {"zone": "Europe/Oslo"}))
RESULTS = ("Snow, −3 °C", "12:34 😀")
"""What the callers' tools answer to CALLS."""

TRIP: dict[str, Any] = {"city": "Bergen", "days": 3, "museums": ["Fløien", "Bryggen"]}
TRIP_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "museums": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["city", "days", "museums"],
    "additionalProperties": False,
}

# --- pictures

WIDTH, HEIGHT = 5, 3


def png(width: int = WIDTH, height: int = HEIGHT) -> bytes:
    """A grey picture."""
    rows = b"".join(b"\0" + b"\x80" * width for _ in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    packed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


PICTURE = base64.b64encode(png()).decode()


def size_of(data: str, mime: str) -> tuple[int, int]:
    """Width and height of a picture in base64. Raises Refused for what is no picture."""
    refuse_unless(mime in ("image/png", "image/jpeg", "image/gif", "image/webp"), f"media type {mime!r}")
    try:
        found = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(f"image is no base64: {error}") from None
    refuse_unless(len(found) > 24, "image has no bytes")
    width, height = struct.unpack(">II", found[16:24])
    ours = width * height < 10_000 and found == png(width, height)
    return (width, height) if ours else OTHER_PICTURE


# --- tokens


@dataclass(frozen=True)
class Tokens:
    """What a turn used, no token in two buckets."""

    fresh: int = 0
    read: int = 0
    write_5m: int = 0
    write_1h: int = 0
    text: int = 0
    thought: int = 0

    @property
    def prompt(self) -> int:
        return self.fresh + self.read + self.written

    @property
    def written(self) -> int:
        return self.write_5m + self.write_1h

    @property
    def output(self) -> int:
        return self.text + self.thought


def tokens_of(scenario: str, turn: int) -> Tokens:
    """Before a wire leaves out what it does not count. Only who thinks has tokens of thought."""
    step = 10 * (*SCENARIOS, ANY).index(scenario) + turn
    thought = 700 + step if scenario == "reasoning" else 0
    return Tokens(100 + step, 300 + step, 3_000 + step, 5_000 + step, 200 + step, thought)


# --- hearing and saying


class Refused(Exception):
    """The request is not valid on this wire; the reason."""


def refuse_unless(condition: object, reason: str) -> None:
    if not condition:
        raise Refused(reason)


@dataclass(frozen=True)
class Heard:
    """What a request says, whatever the wire."""

    scenario: str
    system: str = ""
    tools: frozenset[str] = frozenset()
    results: tuple[str, ...] | None = None
    """What the tools answered, in the order of the calls; None: nothing has been called yet."""
    pictures: tuple[tuple[int, int], ...] = ()
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Said:
    """What a model says."""

    text: str = ""
    thought: str = ""
    calls: tuple[Call, ...] = ()


def scenario_of(model: str) -> str:
    found = model.rpartition("-")[2]
    refuse_unless(found in (*SCENARIOS, ANY), f"no such model: {model!r}")
    return found


def said(heard: Heard) -> Said:
    """The model's turn. Raises Refused where the request lacks what its scenario is about."""
    if heard.scenario == ANY:
        return Said(TEXT)
    match heard.scenario:
        case "text":
            refuse_unless(heard.system == SYSTEM, f"the system prompt came as {heard.system!r}")
            return Said(TEXT)
        case "image":
            refuse_unless(len(heard.pictures) == 1, f"{len(heard.pictures)} pictures")
            refuse_unless(heard.pictures[0] != OTHER_PICTURE, "not the picture that was sent")
            return Said(seen_text(*heard.pictures[0]))
        case "schema":
            refuse_unless(heard.schema is not None, "no schema came")
            assert heard.schema is not None
            return Said(_filled(heard.schema))
        case _:
            calls = CALLS if heard.scenario == "tools" else CALLS[:1]
            refuse_unless(heard.tools == {tool.name for tool in TOOLS}, f"tools {set(heard.tools)}")
            thinks = heard.scenario == "reasoning"
            if heard.results is None:
                return Said(thought=THOUGHT if thinks else "", calls=calls)
            refuse_unless(len(heard.results) == len(calls), f"{len(heard.results)} results for {len(calls)} calls")
            return Said(told_text(heard.results), AFTERTHOUGHT if thinks else "")


def turn_of(heard: Heard) -> int:
    return 1 if heard.results is None else 2


def seen_text(width: int, height: int) -> str:
    return f"A picture of {width} × {height} pixels."


def told_text(results: tuple[str, ...]) -> str:
    return "They say: " + " | ".join(results)


def without(tokens: Tokens, *buckets: str) -> Tokens:
    """As a wire tells them that does not know these buckets."""
    return replace(tokens, **dict.fromkeys(buckets, 0))


def pieces(text: str) -> list[str]:
    """A text as a model says it: words, and now and then half of one."""
    found, at = [], 0
    while at < len(text):
        size = 3 + at % 5
        found.append(text[at : at + size])
        at += size
    return found


def _filled(schema: Mapping[str, Any]) -> str:
    """TRIP, as far as the schema asks for it. Raises Refused for a schema that is not TRIP's."""
    properties = schema.get("properties")
    refuse_unless(isinstance(properties, Mapping), f"a schema without properties: {schema}")
    assert isinstance(properties, Mapping)
    refuse_unless(set(properties) == set(TRIP), f"a schema of {sorted(properties)}")
    for name, kind in (("city", "string"), ("days", "integer"), ("museums", "array")):
        refuse_unless(str(properties[name].get("type")).lower() == kind, f"{name} is {properties[name]}")
    refuse_unless(set(schema.get("required", ())) == set(TRIP), f"required are {schema.get('required')}")
    return json.dumps(TRIP, ensure_ascii=False)
