"""What RouterX sends to Anthropic and Gemini for conversations in OpenAI's format.

The fakes of tests/support/natives refuse what the vendors' types and rules refuse. What they accept is read back here
into one plain form and has to say what the caller said.
"""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from routerx.domain.model import EVERYTHING
from tests.support.gateway import TENANT, Caller, Reply, config, running
from tests.support.natives import KEY, Anthropic, Gemini, Native
from tests.support.natives.script import PICTURE, TOOLS

TARGETS: dict[str, type[Native]] = {"anthropic": Anthropic, "gemini": Gemini}
BASES = {"anthropic": "/v1", "gemini": "/v1beta"}
MODELS = {"anthropic": "claude-sonnet-4-5-any", "gemini": "gemini-3-pro-any"}
OUTPUT_MAX = 8192

Json = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """A gateway before one fake provider."""

    native: Native
    connection: Caller

    async def send(self, request: Mapping[str, Any]) -> tuple[Reply, Json | None]:
        """A chat completion; the reply, and the body that the provider got."""
        before = len(self.native.requests)
        body = {**request, "model": self.native.name}
        await self.connection.send("POST", "/v1/chat/completions", body)
        reply = await self.connection.reply()
        return reply, self.native.requests[-1].body if len(self.native.requests) > before else None


@asynccontextmanager
async def stage(tmp_path: Path, target: str) -> AsyncIterator[Stage]:
    async with TARGETS[target]() as native:
        value = config("http://127.0.0.1:1")
        up = {"dialect": target, "base_url": native.url + BASES[target], "keys": [KEY]}
        offer = {
            "provider": "up",
            "model": MODELS[target],
            "price": {"input": 1, "output": 1},
            "max_output": OUTPUT_MAX,
        }
        offer["supports"] = [str(one) for one in EVERYTHING]
        value["providers"], value["models"] = {"up": up}, {target: {"endpoints": [offer]}}
        value["policies"]["default"] = {"retry": {"max": 0, "attempts": 1}}
        value["tenants"][TENANT]["opening_balance"] = "$1000"
        async with running(tmp_path, value) as gateway:
            yield Stage(native, await gateway.connect())


# --- reading native requests back


@dataclass(frozen=True)
class Plain:
    """A native request in one form for both wires. A result names its call by its number; they stand in its order."""

    system: str
    turns: list[tuple[str, list[tuple[Any, ...]]]]
    tools: dict[str, tuple[str, Any]]
    choice: Any
    output_max: int | None
    stop: list[str]
    schema: Any


def read_anthropic(body: Json) -> Plain:
    system = body.get("system", "")
    numbers: dict[str, int] = {}
    turns = []
    for message in body["messages"]:
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        items: list[tuple[Any, ...]] = []
        for block in blocks:
            match block["type"]:
                case "text":
                    items.append(("text", block["text"]))
                case "image":
                    items.append(("image", block["source"]["media_type"], block["source"]["data"]))
                case "tool_use":
                    numbers[block["id"]] = len(numbers)
                    items.append(("call", block["name"], block["input"]))
                case "tool_result":
                    inner = block["content"]
                    text = inner if isinstance(inner, str) else "".join(one["text"] for one in inner)
                    items.append(("result", numbers[block["tool_use_id"]], text))
        turns.append((message["role"], ordered(items)))
    choice = body.get("tool_choice") or {}
    wish = (body.get("output_config") or {}).get("format") or {}
    return Plain(
        system if isinstance(system, str) else "\n".join(block["text"] for block in system),
        turns,
        {one["name"]: (one.get("description", ""), one["input_schema"]) for one in body.get("tools", ())},
        {"any": "required", "none": "none", "tool": choice.get("name")}.get(choice.get("type")),
        body["max_tokens"],
        body.get("stop_sequences", []),
        wish.get("schema"),
    )


def read_gemini(body: Json) -> Plain:
    calls: list[Json] = []
    turns = []
    for content in body["contents"]:
        items: list[tuple[Any, ...]] = []
        for part in content["parts"]:
            if "text" in part:
                items.append(("text", part["text"]))
            elif "inlineData" in part:
                items.append(("image", part["inlineData"]["mimeType"], part["inlineData"]["data"]))
            elif "functionCall" in part:
                calls.append(part["functionCall"])
                items.append(("call", part["functionCall"]["name"], part["functionCall"].get("args", {})))
            elif "functionResponse" in part:
                (text,) = part["functionResponse"]["response"].values()
                items.append(("result", number_of(part["functionResponse"], calls), text))
        turns.append((content["role"].replace("model", "assistant"), ordered(items)))
    wish = (body.get("toolConfig") or {}).get("functionCallingConfig") or {}
    names = wish.get("allowedFunctionNames") or ["required"]
    settings = body.get("generationConfig") or {}
    declared = [one for each in body.get("tools", ()) for one in each["functionDeclarations"]]
    return Plain(
        "\n".join(part["text"] for part in (body.get("systemInstruction") or {"parts": []})["parts"]),
        turns,
        {
            one["name"]: (one.get("description", ""), one.get("parametersJsonSchema") or one.get("parameters"))
            for one in declared
        },
        {"ANY": names[0], "NONE": "none"}.get(wish.get("mode")),
        settings.get("maxOutputTokens"),
        settings.get("stopSequences", []),
        settings.get("responseJsonSchema") or settings.get("responseSchema"),
    )


def number_of(result: Json, calls: list[Json]) -> int:
    """Of the call that a result answers: by its id, or by its name where there is none."""
    key = "id" if "id" in result else "name"
    return next(place for place, one in enumerate(calls) if one.get(key) == result[key])


def ordered(items: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    results = sorted((item for item in items if item[0] == "result"), key=lambda item: item[1])
    return results + [item for item in items if item[0] != "result"]


READ = {"anthropic": read_anthropic, "gemini": read_gemini}

# --- conversations

IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}}
WEATHER, CLOCK = ({"type": "function", "function": {"name": tool.name, "parameters": tool.schema}} for tool in TOOLS)


def call(id_: str, name: str, **arguments: str) -> Json:
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


ASK = {"role": "user", "content": "Weather and time in Oslo?"}
CALLED = {
    "role": "assistant",
    "content": "Let me see.",
    "tool_calls": [call("call_a", "weather", city="Oslo"), call("call_b", "clock", zone="Europe/Oslo")],
}
RESULTS = [
    {"role": "tool", "tool_call_id": "call_a", "content": "Snow"},
    {"role": "tool", "tool_call_id": "call_b", "content": "12:00"},
]
TURNS_OF_A_ROUND = [
    ("user", [("text", "Weather and time in Oslo?")]),
    (
        "assistant",
        [
            ("text", "Let me see."),
            ("call", "weather", {"city": "Oslo"}),
            ("call", "clock", {"zone": "Europe/Oslo"}),
        ],
    ),
    ("user", [("result", 0, "Snow"), ("result", 1, "12:00")]),
]

CONVERSATIONS: dict[str, tuple[Json, list[tuple[str, list[tuple[Any, ...]]]]]] = {
    # A request in OpenAI's format, and the turns that the provider is to be told.
    "several turns": (
        {
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello!"},
                {"role": "user", "content": [{"type": "text", "text": "And "}, {"type": "text", "text": "now?"}]},
            ]
        },
        [
            ("user", [("text", "Hi")]),
            ("assistant", [("text", "Hello!")]),
            ("user", [("text", "And "), ("text", "now?")]),
        ],
    ),
    "two user messages in a row": (
        {"messages": [{"role": "user", "content": "One"}, {"role": "user", "content": "Two"}]},
        [("user", [("text", "One"), ("text", "Two")])],
    ),
    "an image between texts": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "This"}, IMAGE, {"type": "text", "text": "what?"}],
                }
            ]
        },
        [("user", [("text", "This"), ("image", "image/png", PICTURE), ("text", "what?")])],
    ),
    "parallel calls and their results": (
        {"messages": [ASK, CALLED, *RESULTS], "tools": [WEATHER, CLOCK]},
        TURNS_OF_A_ROUND,
    ),
    "results in another order than their calls": (
        {"messages": [ASK, CALLED, *reversed(RESULTS)], "tools": [WEATHER, CLOCK]},
        TURNS_OF_A_ROUND,
    ),
    "results and then a question": (
        {"messages": [ASK, CALLED, *RESULTS, {"role": "user", "content": "Sure?"}], "tools": [WEATHER, CLOCK]},
        [*TURNS_OF_A_ROUND[:2], ("user", [*TURNS_OF_A_ROUND[2][1], ("text", "Sure?")])],
    ),
    "a history of tools in a request without tools": ({"messages": [ASK, CALLED, *RESULTS]}, TURNS_OF_A_ROUND),
    "an empty text beside calls": (
        {"messages": [ASK, CALLED | {"content": ""}, *RESULTS], "tools": [WEATHER, CLOCK]},
        [TURNS_OF_A_ROUND[0], ("assistant", TURNS_OF_A_ROUND[1][1][1:]), TURNS_OF_A_ROUND[2]],
    ),
}


@pytest.fixture(params=TARGETS)
async def on(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stage]:
    async with stage(tmp_path, request.param) as found:
        yield found


async def sent(on: Stage, request: Json) -> Plain:
    reply, body = await on.send(request)
    assert on.native.refusals == []
    assert reply.status == 200, reply.body
    assert body is not None
    return READ[on.native.name](body)


async def test_conversation_arrives_whole(on: Stage) -> None:
    for name, (request, turns) in CONVERSATIONS.items():
        plain = await sent(on, request)
        assert plain.turns == turns, name


async def test_system_prompt_and_limits_arrive(on: Stage) -> None:
    plain = await sent(
        on,
        {
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
            "max_tokens": 77,
            "stop": ["END", "\n\n"],
        },
    )
    assert (plain.system, plain.output_max, plain.turns) == ("Be brief.", 77, [("user", [("text", "Hi")])])
    assert "END" in plain.stop


async def test_system_message_in_the_middle_keeps_its_place(on: Stage) -> None:
    plain = await sent(
        on,
        {
            "messages": [
                {"role": "system", "content": "First."},
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello"},
                {"role": "system", "content": "Second."},
                {"role": "user", "content": "Go on"},
            ]
        },
    )
    assert plain.system == "First."
    assert [role for role, _ in plain.turns] == ["user", "assistant", "user"]
    assert "Second." in str(plain.turns[2][1][0])
    assert plain.turns[2][1][-1] == ("text", "Go on")


async def test_tools_arrive_with_their_schemas(on: Stage) -> None:
    described = {"type": "function", "function": {**WEATHER["function"], "description": "The weather."}}
    plain = await sent(on, {"messages": [ASK], "tools": [described, CLOCK]})
    schemas = {tool.name: tool.schema for tool in TOOLS}
    assert list(plain.tools) == ["weather", "clock"]
    assert plain.tools["weather"][0] == "The weather."
    for name, (_, schema) in plain.tools.items():
        assert schema["properties"].keys() == schemas[name]["properties"].keys()
        assert schema["required"] == schemas[name]["required"]
    assert plain.choice is None


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ("auto", None),
        ("none", "none"),
        ("required", "required"),
        ({"type": "function", "function": {"name": "clock"}}, "clock"),
    ],
    ids=["auto", "none", "required", "named"],
)
async def test_tool_choice_arrives(on: Stage, choice: Any, wanted: str | None) -> None:
    plain = await sent(on, {"messages": [ASK], "tools": [WEATHER, CLOCK], "tool_choice": choice})
    assert plain.choice == wanted


async def test_schema_of_the_answer_arrives(on: Stage) -> None:
    schema = TOOLS[0].schema
    wish = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    plain = await sent(on, {"messages": [ASK], "response_format": wish})
    assert plain.schema["properties"] == schema["properties"]
    assert plain.schema["required"] == schema["required"]


async def test_what_a_target_cannot_take_is_told(on: Stage) -> None:
    reply, body = await on.send({"messages": [ASK], "seed": 7, "logit_bias": {"50256": -100}})
    assert reply.status == 200, reply.body
    dropped = set(reply.headers["x-routerx-dropped"].replace(" ", "").split(","))
    assert dropped == ({"logit_bias"} if on.native.name == "gemini" else {"logit_bias", "seed"})
    assert "logit_bias" not in json.dumps(body)


async def test_nothing_is_told_where_nothing_is_lost(on: Stage) -> None:
    defaults = {"n": 1, "presence_penalty": 0, "frequency_penalty": 0, "logprobs": False, "parallel_tool_calls": True}
    reply, _ = await on.send({"messages": [ASK], "tools": [WEATHER], "response_format": {"type": "text"}} | defaults)
    assert reply.status == 200, reply.body
    assert "x-routerx-dropped" not in reply.headers
