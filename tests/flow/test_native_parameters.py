"""Parameters of chat completions as Anthropic and Gemini get them: in their own words, or named as dropped."""

from collections.abc import AsyncIterator
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from tests.flow.test_native_requests import ASK, CLOCK, OUTPUT_MAX, TARGETS, WEATHER, Stage, stage

Json = dict[str, Any]

TABLE: list[tuple[Json, Json | str, Json | str]] = [
    # What is asked; what Anthropic and Gemini get, by dotted paths, or (a string) what is told to be dropped.
    ({"temperature": 0.5}, {"temperature": 0.5}, {"generationConfig.temperature": 0.5}),
    ({"temperature": 1.5}, "temperature", {"generationConfig.temperature": 1.5}),
    ({"top_p": 0.9}, {"top_p": 0.9}, {"generationConfig.topP": 0.9}),
    ({"top_k": 5}, {"top_k": 5}, {"generationConfig.topK": 5}),
    ({"seed": 7}, "seed", {"generationConfig.seed": 7}),
    ({"presence_penalty": 0.5}, "presence_penalty", {"generationConfig.presencePenalty": 0.5}),
    ({"frequency_penalty": 0.5}, "frequency_penalty", {"generationConfig.frequencyPenalty": 0.5}),
    ({"stop": "END"}, {"stop_sequences": ["END"]}, {"generationConfig.stopSequences": ["END"]}),
    ({"max_tokens": 99}, {"max_tokens": 99}, {"generationConfig.maxOutputTokens": 99}),
    ({"max_completion_tokens": 99}, {"max_tokens": 99}, {"generationConfig.maxOutputTokens": 99}),
    ({}, {"max_tokens": OUTPUT_MAX}, {}),
    ({"n": 2}, "n", {"generationConfig.candidateCount": 2}),
    ({"user": "alice"}, {"metadata.user_id": "alice"}, {}),
    ({"verbosity": "low"}, "verbosity", "verbosity"),
    ({"logit_bias": {"1": 1}}, "logit_bias", "logit_bias"),
    ({"odd": 1}, "odd", "odd"),
    (
        {"parallel_tool_calls": False, "tools": [WEATHER, CLOCK]},
        {"tool_choice.disable_parallel_tool_use": True},
        "parallel_tool_calls",
    ),
    (
        {"response_format": {"type": "json_object"}},
        "response_format",
        {"generationConfig.responseMimeType": "application/json"},
    ),
    (
        {"reasoning_effort": "low"},
        {"thinking.type": "adaptive", "output_config.effort": "low"},
        {
            "generationConfig.thinkingConfig.thinkingLevel": "low",
            "generationConfig.thinkingConfig.includeThoughts": True,
        },
    ),
    (
        {"reasoning_effort": "low", "tools": [WEATHER], "tool_choice": "required"},
        {"tool_choice.type": "any", "thinking.type": "adaptive"},  # With a budget it could not be forced.
        {"toolConfig.functionCallingConfig.mode": "ANY", "generationConfig.thinkingConfig.thinkingLevel": "low"},
    ),
]


@pytest.fixture(params=TARGETS)
async def on(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stage]:
    async with stage(tmp_path, request.param) as found:
        yield found


async def test_parameters_arrive_in_the_targets_words_or_are_told_to_be_dropped(on: Stage) -> None:
    for request, anthropic, gemini in TABLE:
        wanted = anthropic if on.native.name == "anthropic" else gemini
        reply, body = await on.send({"messages": [ASK], **request})
        assert (reply.status, on.native.refusals) == (200, []), request
        assert body is not None
        dropped = reply.headers.get("x-routerx-dropped")
        if isinstance(wanted, str):
            assert dropped == wanted, request
        else:
            assert dropped is None, request
            assert {path: at(body, path) for path in wanted} == wanted, request


def at(body: Any, path: str) -> Any:
    return reduce(lambda value, name: value.get(name) if isinstance(value, dict) else None, path.split("."), body)
