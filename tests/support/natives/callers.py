"""The official clients, unmodified, playing the scenarios of script.py; what each has seen, in one form.

    async with ChatCaller(url, key) as caller:
        turns = await caller.play("tools", "claude-x-tools", stream=True)
        assert turns[-1].text == told_text(RESULTS)

Histories are what the clients' documentation tells people to send: the answer as it came, appended.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import anthropic
import httpx2
import openai
from google import genai
from google.genai import types
from pydantic import BaseModel

from tests.support.natives.script import HELLO, LOOK, PICTURE, RESULTS, SYSTEM, TOOLS, WHERE, Call, Tokens, png

GUARD_S = 10.0
OUTPUT_MAX = 4096
BUDGET = 2048

Finish = Literal["stop", "tools"]


class Trip(BaseModel):
    """The structured answer. Its schema is TRIP_SCHEMA, however a client writes it."""

    city: str
    days: int
    museums: list[str]


@dataclass(frozen=True)
class Told:
    """Usage as a client reads it; None is a number that its wire has no place for."""

    prompt: int
    output: int
    read: int | None
    written: int | None
    thought: int | None


@dataclass(frozen=True)
class Seen:
    """One answer, as its client gives it."""

    text: str
    thought: str
    calls: tuple[Call, ...]
    finish: Finish
    usage: Told | None
    parsed: Any = None
    signed: bool = False
    """Something opaque came that has to go back."""


class OfficialCaller(ABC):
    """One official client. `play` gives the answers of every turn of a scenario."""

    name: ClassVar[str]

    async def play(self, scenario: str, model: str, *, stream: bool, url: str | None = None) -> list[Seen]:
        """`url` is a picture's, in the place of its bytes."""
        match scenario:
            case "text":
                return [await self.text(model, stream)]
            case "image":
                return [await self.image(model, stream, url)]
            case "schema":
                return [await self.schema(model, stream)]
            case _:
                return await self.round_trip(model, stream, thinks=scenario == "reasoning")

    async def __aenter__(self) -> "OfficialCaller":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    async def text(self, model: str, stream: bool) -> Seen: ...

    @abstractmethod
    async def image(self, model: str, stream: bool, url: str | None) -> Seen: ...

    @abstractmethod
    async def schema(self, model: str, stream: bool) -> Seen: ...

    @abstractmethod
    async def round_trip(self, model: str, stream: bool, *, thinks: bool) -> list[Seen]: ...

    @abstractmethod
    def told(self, tokens: Tokens) -> Told:
        """What this client is to read of these tokens."""


def _results(calls: tuple[Call, ...]) -> list[str]:
    """What the caller's tools answer to these calls."""
    return list(RESULTS[: len(calls)])


# --- Chat Completions


class ChatCaller(OfficialCaller):
    """The openai client's chat.completions."""

    name = "openai chat"

    def __init__(self, url: str, key: str) -> None:
        self._client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=GUARD_S)

    async def close(self) -> None:
        await self._client.close()

    def told(self, tokens: Tokens) -> Told:
        return Told(tokens.prompt, tokens.output, tokens.read, tokens.written, tokens.thought)

    async def text(self, model: str, stream: bool) -> Seen:
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": HELLO}]
        return (await self._ask(stream, model=model, messages=messages))[0]

    async def image(self, model: str, stream: bool, url: str | None) -> Seen:
        picture = {"type": "image_url", "image_url": {"url": url or f"data:image/png;base64,{PICTURE}"}}
        content = [{"type": "text", "text": LOOK}, picture]
        return (await self._ask(stream, model=model, messages=[{"role": "user", "content": content}]))[0]

    async def schema(self, model: str, stream: bool) -> Seen:
        messages = [{"role": "user", "content": HELLO}]
        return (await self._ask(stream, model=model, messages=messages, response_format=Trip))[0]

    async def round_trip(self, model: str, stream: bool, *, thinks: bool) -> list[Seen]:
        tools = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.schema,
                    "strict": True,
                },
            }
            for tool in TOOLS
        ]
        fields: dict[str, Any] = {"model": model, "tools": tools}
        if thinks:
            fields |= {"reasoning_effort": "medium", "max_completion_tokens": OUTPUT_MAX}
        messages: list[Any] = [{"role": "user", "content": WHERE}]
        first, message = await self._ask(stream, messages=messages, **fields)
        messages.append(_plain(message))
        for call, result in zip(message.tool_calls or (), _results(first.calls), strict=True):
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
        second, _ = await self._ask(stream, messages=messages, **fields)
        return [first, second]

    async def _ask(self, stream: bool, **fields: Any) -> tuple[Seen, Any]:
        if stream:
            wish: Any = {"stream_options": {"include_usage": True}}
            async with self._client.chat.completions.stream(**fields, **wish) as events:
                async for _ in events:
                    pass
                answer = await events.get_final_completion()
        elif "response_format" in fields:
            answer = await self._client.chat.completions.parse(**fields)
        else:
            answer = await self._client.chat.completions.create(**fields)
        return self._seen(answer), answer.choices[0].message

    def _seen(self, answer: Any) -> Seen:
        (choice,) = answer.choices
        message = choice.message
        calls = tuple(Call(one.function.name, json.loads(one.function.arguments)) for one in message.tool_calls or ())
        finishes: dict[str, Finish] = {"stop": "stop", "tool_calls": "tools"}
        extra = message.model_extra or {}
        signed = bool(extra.get("reasoning_details")) or any(one.model_extra for one in message.tool_calls or ())
        usage = answer.usage
        told = usage and Told(
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.prompt_tokens_details and usage.prompt_tokens_details.cached_tokens,
            usage.prompt_tokens_details and usage.prompt_tokens_details.cache_write_tokens,
            usage.completion_tokens_details and usage.completion_tokens_details.reasoning_tokens,
        )
        if usage is not None:
            assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
        thought = extra.get("reasoning_content") or ""
        return Seen(
            message.content or "",
            thought,
            calls,
            finishes[choice.finish_reason],
            told,
            getattr(message, "parsed", None),
            signed,
        )


def _plain(message: Any) -> dict[str, Any]:
    """A message as it goes back; what the client itself had put into it is left out."""
    found: dict[str, Any] = message.model_dump(exclude_none=True, exclude={"parsed"})
    for call in found.get("tool_calls", ()):
        call.pop("index", None)
        call["function"].pop("parsed_arguments", None)
    if not found.get("annotations"):
        found.pop("annotations", None)
    return found


# --- Responses


class ResponsesCaller(OfficialCaller):
    """The openai client's responses."""

    name = "openai responses"

    def __init__(self, url: str, key: str) -> None:
        self._client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=GUARD_S)

    async def close(self) -> None:
        await self._client.close()

    def told(self, tokens: Tokens) -> Told:
        return Told(tokens.prompt, tokens.output, tokens.read, tokens.written, tokens.thought)

    async def text(self, model: str, stream: bool) -> Seen:
        return (await self._ask(stream, model=model, instructions=SYSTEM, input=HELLO))[0]

    async def image(self, model: str, stream: bool, url: str | None) -> Seen:
        picture = {
            "type": "input_image",
            "image_url": url or f"data:image/png;base64,{PICTURE}",
            "detail": "auto",
        }
        content = [{"type": "input_text", "text": LOOK}, picture]
        return (await self._ask(stream, model=model, input=[{"role": "user", "content": content}]))[0]

    async def schema(self, model: str, stream: bool) -> Seen:
        return (await self._ask(stream, model=model, input=HELLO, text_format=Trip))[0]

    async def round_trip(self, model: str, stream: bool, *, thinks: bool) -> list[Seen]:
        tools = [
            {
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.schema,
                "strict": True,
            }
            for tool in TOOLS
        ]
        fields: dict[str, Any] = {"model": model, "tools": tools, "store": False}
        if thinks:
            fields |= {
                "reasoning": {"effort": "medium", "summary": "auto"},
                "include": ["reasoning.encrypted_content"],
                "max_output_tokens": OUTPUT_MAX,
            }
        items: list[Any] = [{"role": "user", "content": WHERE}]
        first, answer = await self._ask(stream, input=items, **fields)
        items += answer.output
        asked = [one for one in answer.output if one.type == "function_call"]
        for call, result in zip(asked, _results(first.calls), strict=True):
            items.append({"type": "function_call_output", "call_id": call.call_id, "output": result})
        second, _ = await self._ask(stream, input=items, **fields)
        return [first, second]

    async def _ask(self, stream: bool, **fields: Any) -> tuple[Seen, Any]:
        if stream:
            async with self._client.responses.stream(**fields) as events:
                async for _ in events:
                    pass
                answer = await events.get_final_response()
        elif "text_format" in fields:
            answer = await self._client.responses.parse(**fields)
        else:
            answer = await self._client.responses.create(**fields)
        return self._seen(answer), answer

    def _seen(self, answer: Any) -> Seen:
        assert answer.status == "completed", answer
        calls = tuple(Call(one.name, json.loads(one.arguments)) for one in answer.output if one.type == "function_call")
        thoughts = [one for one in answer.output if one.type == "reasoning"]
        usage = answer.usage
        told = usage and Told(
            usage.input_tokens,
            usage.output_tokens,
            usage.input_tokens_details.cached_tokens,
            usage.input_tokens_details.cache_write_tokens,
            usage.output_tokens_details.reasoning_tokens,
        )
        return Seen(
            answer.output_text,
            "".join(part.text for one in thoughts for part in (*one.summary, *(one.content or ()))),
            calls,
            "tools" if calls else "stop",
            told,
            getattr(answer, "output_parsed", None),
            any(one.encrypted_content for one in thoughts),
        )


# --- Messages


class MessagesCaller(OfficialCaller):
    """The anthropic client's messages."""

    name = "anthropic"

    def __init__(self, url: str, key: str) -> None:
        self._client = anthropic.AsyncAnthropic(base_url=url, api_key=key, max_retries=0, timeout=GUARD_S)

    async def close(self) -> None:
        await self._client.close()

    def told(self, tokens: Tokens) -> Told:
        return Told(tokens.prompt, tokens.output, tokens.read, tokens.written, tokens.thought)

    async def text(self, model: str, stream: bool) -> Seen:
        messages = [{"role": "user", "content": HELLO}]
        return (await self._ask(stream, model=model, system=SYSTEM, messages=messages))[0]

    async def image(self, model: str, stream: bool, url: str | None) -> Seen:
        source = {"type": "base64", "media_type": "image/png", "data": PICTURE}
        if url is not None:
            source = {"type": "url", "url": url}
        content = [{"type": "image", "source": source}, {"type": "text", "text": LOOK}]
        return (await self._ask(stream, model=model, messages=[{"role": "user", "content": content}]))[0]

    async def schema(self, model: str, stream: bool) -> Seen:
        messages = [{"role": "user", "content": HELLO}]
        return (await self._ask(stream, model=model, messages=messages, output_format=Trip))[0]

    async def round_trip(self, model: str, stream: bool, *, thinks: bool) -> list[Seen]:
        tools = [{"name": tool.name, "description": tool.description, "input_schema": tool.schema} for tool in TOOLS]
        fields: dict[str, Any] = {"model": model, "tools": tools}
        if thinks:
            fields["thinking"] = {"type": "enabled", "budget_tokens": BUDGET}
        messages: list[Any] = [{"role": "user", "content": WHERE}]
        first, answer = await self._ask(stream, messages=messages, **fields)
        messages.append({"role": "assistant", "content": answer.content})
        asked = [one for one in answer.content if one.type == "tool_use"]
        results = [
            {"type": "tool_result", "tool_use_id": call.id, "content": result}
            for call, result in zip(asked, _results(first.calls), strict=True)
        ]
        messages.append({"role": "user", "content": results})
        second, _ = await self._ask(stream, messages=messages, **fields)
        return [first, second]

    async def _ask(self, stream: bool, **fields: Any) -> tuple[Seen, Any]:
        fields["max_tokens"] = OUTPUT_MAX
        if stream:
            async with self._client.messages.stream(**fields) as events:
                answer = await events.get_final_message()
        elif "output_format" in fields:
            answer = await self._client.messages.parse(**fields)
        else:
            answer = await self._client.messages.create(**fields)
        return self._seen(answer), answer

    def _seen(self, answer: Any) -> Seen:
        thoughts = [one for one in answer.content if one.type == "thinking"]
        usage = answer.usage
        read, written = usage.cache_read_input_tokens, usage.cache_creation_input_tokens
        told = Told(
            usage.input_tokens + (read or 0) + (written or 0),
            usage.output_tokens,
            read,
            written,
            usage.output_tokens_details and usage.output_tokens_details.thinking_tokens,
        )
        finishes: dict[str, Finish] = {"end_turn": "stop", "tool_use": "tools"}
        return Seen(
            "".join(one.text for one in answer.content if one.type == "text"),
            "".join(one.thinking for one in thoughts),
            tuple(Call(one.name, one.input) for one in answer.content if one.type == "tool_use"),
            finishes[answer.stop_reason],
            told,
            getattr(answer, "parsed_output", None),
            any(one.signature for one in thoughts),
        )


# --- generateContent


class GeminiCaller(OfficialCaller):
    """The google-genai client's models.generate_content."""

    name = "google-genai"

    def __init__(self, url: str, key: str) -> None:
        # Its own choice, aiohttp, is used by it in a way that aiohttp warns of.
        self._http = httpx2.AsyncClient(timeout=GUARD_S)
        options = types.HttpOptions(base_url=url, httpx_async_client=self._http)
        self._client = genai.Client(api_key=key, http_options=options)

    async def close(self) -> None:
        await self._client.aio.aclose()
        self._client.close()
        await self._http.aclose()

    def told(self, tokens: Tokens) -> Told:
        return Told(tokens.prompt, tokens.output, tokens.read, None, tokens.thought)

    async def text(self, model: str, stream: bool) -> Seen:
        return (await self._ask(stream, model, HELLO, system_instruction=SYSTEM))[0]

    async def image(self, model: str, stream: bool, url: str | None) -> Seen:
        assert url is None, "this wire knows uploads, not addresses"
        picture = types.Part.from_bytes(data=png(), mime_type="image/png")
        return (await self._ask(stream, model, [picture, LOOK]))[0]

    async def schema(self, model: str, stream: bool) -> Seen:
        return (await self._ask(stream, model, HELLO, response_mime_type="application/json", response_schema=Trip))[0]

    async def round_trip(self, model: str, stream: bool, *, thinks: bool) -> list[Seen]:
        declared = [
            types.FunctionDeclaration(name=tool.name, description=tool.description, parameters_json_schema=tool.schema)
            for tool in TOOLS
        ]
        config: dict[str, Any] = {"tools": [types.Tool(function_declarations=declared)]}
        if thinks:
            config["thinking_config"] = types.ThinkingConfig(include_thoughts=True, thinking_budget=BUDGET)
        contents: list[Any] = [types.UserContent(WHERE)]
        first, parts = await self._ask(stream, model, contents, **config)
        contents.append(types.Content(role="model", parts=parts))
        asked = [part.function_call for part in parts if part.function_call is not None]
        answers = [
            types.Part(
                function_response=types.FunctionResponse(id=call.id, name=call.name, response={"result": result})
            )
            for call, result in zip(asked, _results(first.calls), strict=True)
        ]
        contents.append(types.Content(role="user", parts=answers))
        second, _ = await self._ask(stream, model, contents, **config)
        return [first, second]

    async def _ask(self, stream: bool, model: str, contents: Any, **config: Any) -> tuple[Seen, list[types.Part]]:
        wish = types.GenerateContentConfig(
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True), **config
        )
        models = self._client.aio.models
        if stream:
            told = [
                one async for one in await models.generate_content_stream(model=model, contents=contents, config=wish)
            ]
        else:
            told = [await models.generate_content(model=model, contents=contents, config=wish)]
        parts = [part for one in told for part in _parts_of(one)]
        return self._seen(told, parts), parts

    def _seen(self, told: list[Any], parts: list[types.Part]) -> Seen:
        finishes = [one.finish_reason for answer in told for one in answer.candidates or () if one.finish_reason]
        assert finishes == [types.FinishReason.STOP]
        usage = told[-1].usage_metadata
        calls = tuple(
            Call(part.function_call.name or "", part.function_call.args or {}) for part in parts if part.function_call
        )
        return Seen(
            _joined(parts, lambda part: not part.thought),
            _joined(parts, lambda part: bool(part.thought)),
            calls,
            "tools" if calls else "stop",
            usage
            and Told(
                usage.prompt_token_count,
                (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0),
                usage.cached_content_token_count or 0,
                None,
                usage.thoughts_token_count or 0,
            ),
            told[-1].parsed if len(told) == 1 else None,
            any(part.thought_signature for part in parts),
        )


def _parts_of(answer: Any) -> list[types.Part]:
    return [part for one in answer.candidates or () for part in (one.content and one.content.parts) or ()]


def _joined(parts: list[types.Part], wanted: Callable[[types.Part], bool]) -> str:
    return "".join(part.text for part in parts if part.text and wanted(part))


CALLERS: tuple[type[OfficialCaller], ...] = (ChatCaller, ResponsesCaller, MessagesCaller, GeminiCaller)
