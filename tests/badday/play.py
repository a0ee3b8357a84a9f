"""Plays one scenario: the configuration on its scale of time, one call of the official client, and what came of it."""

import time
from dataclasses import dataclass
from typing import Any

import openai

from tests.badday.scenarios import FALLBACK_USAGE, USAGE, Scenario
from tests.support.gateway import HELLO, Config, config
from tests.support.upstream import ScriptedUpstream

PATIENCE = 1.5
"""How much longer than wanted an answer may take on a scaled clock, where other work weighs more."""


@dataclass
class Got:
    """What the caller saw, and how long it took."""

    text: str | None
    finish: str | None
    usage: tuple[int, int] | None
    model: str | None
    code: str | None
    status: int | None
    seconds: float
    calls: tuple[int, int]


def scaled(up: str, spare: str, scenario: Scenario, scale: float) -> Config:
    """The plain configuration with the defaults of docs/routing.md, all times multiplied by `scale`."""

    def span(seconds: float) -> str:
        return f"{seconds * scale * 1000:.0f}ms"

    value = config(up, spare)
    policy: dict[str, Any] = {}
    if scale != 1.0:
        timeouts = {"connect": span(5), "first_token": span(12), "idle": span(300), "total": span(600)}
        policy = {
            "timeouts": timeouts,
            "retry": {"backoff": f"{span(0.3)}..{span(5)}"},
            "breaker": {"window": span(60), "cooldown": span(30), "cooldown_max": span(300)},
        }
    if scenario.idle_s is not None:
        policy.setdefault("timeouts", {})["idle"] = span(scenario.idle_s)
    if scenario.alone:  # A Retry-After is in whole seconds, and has to fit into what is left.
        policy.pop("timeouts", None)
    value["policies"] = {"default": policy}
    return value


def script(scenario: Scenario, up: ScriptedUpstream, spare: ScriptedUpstream, scale: float) -> None:
    """Tell both providers what to play."""
    *first, last = scenario.primary(scale)
    up.queue(*first)
    up.default, spare.default = last, scenario.fallback


async def call(client: openai.AsyncOpenAI, scenario: Scenario, up: ScriptedUpstream, spare: ScriptedUpstream) -> Got:
    """One call, as an unsuspecting caller makes it."""
    got = Got(None, None, None, None, None, None, 0.0, (0, 0))
    began_s = time.monotonic()
    model = "solo" if scenario.alone else "duo"
    try:
        if scenario.stream:
            await _streamed(client, model, got)
        else:
            answer = await client.chat.completions.create(model=model, messages=HELLO)  # type: ignore[arg-type]
            assert answer.usage is not None
            got.text, got.finish, got.model = (
                answer.choices[0].message.content,
                answer.choices[0].finish_reason,
                answer.model,
            )
            got.usage = (answer.usage.prompt_tokens, answer.usage.completion_tokens)
    except openai.APIError as error:
        got.code = error.code
        got.status = getattr(error, "status_code", None)
    got.seconds = time.monotonic() - began_s
    got.calls = (len(up.requests), len(spare.requests))
    return got


async def _streamed(client: openai.AsyncOpenAI, model: str, got: Got) -> None:
    stream = await client.chat.completions.create(
        model=model,
        messages=HELLO,  # type: ignore[arg-type]
        stream=True,
        stream_options={"include_usage": True},
    )
    got.text = ""
    async for chunk in stream:
        got.model = chunk.model
        for choice in chunk.choices:
            got.text += choice.delta.content or ""
            got.finish = choice.finish_reason or got.finish
        if chunk.usage is not None:
            got.usage = (chunk.usage.prompt_tokens, chunk.usage.completion_tokens)


def complaints(scenario: Scenario, got: Got, scale: float) -> list[str]:
    """What is not as wanted; empty when all is well."""
    want = scenario.want
    found = []
    if want.text is not None:
        usage = FALLBACK_USAGE if want.by_fallback else USAGE
        if got.text != want.text:
            found.append(f"text {got.text!r}, error {got.code}")
        elif got.finish != "stop":
            found.append(f"finish {got.finish!r}")
        elif got.usage != usage:
            found.append(f"usage {got.usage}, not {usage}")
    elif got.code != want.code:
        found.append(f"error {got.code!r}, not {want.code!r}")
    if got.calls != want.calls:
        found.append(f"calls {got.calls}, not {want.calls}")
    shortest, longest = want.within_s
    if not scenario.alone:  # Whose wait is in whole seconds on every scale.
        shortest, longest = shortest * scale, longest * scale + (0.0 if scale == 1.0 else PATIENCE)
    if not shortest <= got.seconds <= longest:
        found.append(f"{got.seconds:.2f} s, not {shortest:.2f} to {longest:.2f}")
    return found
