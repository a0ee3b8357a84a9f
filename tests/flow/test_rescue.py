"""Streams that break after they have begun to flow: the whole answer, or what was delivered and one clear error."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.flow.flow_kit import chunk
from tests.flow.rescue_kit import WIRES, Broken, Stage, cut_short, delta, outcomes, staged, tells, told
from tests.support.behaviours import Behaviour
from tests.support.gateway import KEY, Config
from tests.support.natives.callers import ChatCaller, GeminiCaller, MessagesCaller, OfficialCaller, ResponsesCaller
from tests.support.upstream import DONE, End, Json, Silence, Status, Stream, sse, usage_of

CALLERS = (ChatCaller, ResponsesCaller, MessagesCaller, GeminiCaller)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as found:
        yield found


# --- the whole answer


@pytest.mark.parametrize("official", CALLERS, ids=lambda one: one.name)
@pytest.mark.parametrize("first", WIRES)
@pytest.mark.parametrize("second", WIRES)
async def test_official_clients_read_the_whole_answer(
    tmp_path: Path, official: type[OfficialCaller], first: str, second: str
) -> None:
    def wires(value: Config) -> None:
        value["providers"]["up"]["dialect"] = first
        value["providers"]["spare"]["dialect"] = second

    async with staged(tmp_path, wires) as stage:
        stage.up.default = stage.breaks("Größe 🙂 u", wire=first)
        stage.spare.default = tells("Gr", "öße 🙂", " und", " mehr", wire=second)
        caller = official(stage.gateway.url, KEY)  # type: ignore[call-arg]  # Each has the same two.
        seen = await caller.text("duo", True)
        await caller.close()
        assert (seen.text, seen.finish) == ("Größe 🙂 und mehr", "stop")
        row = await stage.gateway.settled()
        assert outcomes(row) == [("up", "upstream_truncated", False), ("spare", "ok", True)]
        assert "rescued" in row.flags
        if seen.usage is not None:
            assert (seen.usage.prompt, seen.usage.output) == (7, 3)


async def test_one_charge_for_a_restarted_answer_by_who_finished_it(stage: Stage) -> None:  # MONEY.md row X
    stage.up.default = stage.breaks("Hel")
    stage.spare.default = tells("Hello", " you")
    reply = await stage.ask(stream_options={"include_usage": True})
    assert reply.stream_error is None
    assert reply.text == "Hello you"
    usages = [event["usage"] for event in reply.events[:-1] if event.get("usage")]
    assert [(one["prompt_tokens"], one["completion_tokens"]) for one in usages] == [(7, 3)]
    row = await stage.gateway.settled()
    assert (row.outcome, row.usage_source.value) == ("ok", "provider")
    assert row.cost_nano == 7 * 10_000 + 3 * 20_000 <= row.held_nano
    assert await stage.gateway.spent() == row.cost_nano
    broken, won = row.attempts
    assert (broken.cost_est_nano > 0, won.cost_est_nano) == (True, 0)
    assert row.flags.count("rescued") == 1


async def test_the_answer_keeps_its_id_and_tells_its_role_once(stage: Stage) -> None:
    stage.up.default = stage.breaks("Hel")
    stage.spare.default = Stream(["Hello", " you"])
    events = (await stage.ask()).events[:-1]
    assert {event["id"] for event in events} == {"chatcmpl-x"}
    assert [event["choices"][0]["delta"].get("role") for event in events].count("assistant") == 1
    assert [choice["finish_reason"] for event in events for choice in event["choices"]].count("stop") == 1


async def test_a_stream_without_reported_usage_is_estimated_as_a_whole(stage: Stage) -> None:
    text = "a word " * 40
    stage.up.default = stage.breaks(text)
    stage.spare.default = Stream([text, "more"], usage=None)
    assert (await stage.ask()).text == text + "more"
    rescued = await stage.gateway.settled()
    stage.up.default = Stream([text, "more"], usage=None)
    assert (await stage.ask()).text == text + "more"
    plain = await stage.gateway.settled()
    assert rescued.usage_source.value == "estimated"
    assert rescued.usage is not None
    assert plain.usage is not None
    assert abs(rescued.usage.output_tokens - plain.usage.output_tokens) <= 1
    assert rescued.usage.input_tokens == plain.usage.input_tokens


async def test_who_answers_as_a_whole_is_spliced_too(stage: Stage) -> None:
    stage.up.default = stage.breaks("Hel")
    body: dict[str, Any] = {"id": "x", "object": "chat.completion", "model": "m", "usage": usage_of(7, 3)}
    body["choices"] = [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}]
    stage.spare.default = Json(body)
    reply = await stage.ask()
    assert (reply.text, reply.stream_error) == ("Hello", None)


@pytest.mark.parametrize("end", [End.FIN, End.RESET, End.STALL])
async def test_however_it_breaks(tmp_path: Path, end: End) -> None:
    def idle(value: Config) -> None:
        value["providers"]["up"]["timeouts"] = {"idle": "60ms"}

    async with staged(tmp_path, idle) as stage:
        stage.up.default = Broken(told("openai", ["Hel"], whole=False), stage.flowing, end)
        stage.spare.default = tells("Hello")
        reply = await stage.ask()
        assert (reply.text, reply.stream_error) == ("Hello", None)
        await stage.up.requests[0].gone()


@pytest.mark.parametrize(
    "rest",
    [
        sse(chunk("lo"))[:-9],
        sse(chunk("ö"))[:-30],
        'data: {"id":"x","choices":[{"index":0,"delta":{"content":"ö'.encode()[:-1],
        b"data: {nonsense}\n\n",
        sse({"error": {"message": "scripted", "type": "server_error", "code": None}}),
    ],
    ids=["half_event", "half_escape", "half_code_point", "malformed", "error"],
)
async def test_wherever_it_breaks(stage: Stage, rest: bytes) -> None:
    stage.up.default = Broken(told("openai", ["Hel"], whole=False), stage.flowing, rest=rest)
    stage.spare.default = tells("Hel", "lö")
    reply = await stage.ask()
    assert (reply.text, reply.stream_error) == ("Hellö", None)


async def test_half_a_surrogate_is_no_fault_of_ours(stage: Stage) -> None:
    """JSON can say half of a character; whoever says all of it says something else."""
    half = sse(chunk("@")).replace(b"@", b"\\ud83d")
    stage.up.default = Broken([*told("openai", ["Hi "], whole=False), half], stage.flowing)
    stage.spare.default = tells("Hi 🙂", "!")
    reply = await stage.ask()
    row = await stage.gateway.settled()
    assert row.outcome in ("ok", "upstream_truncated", "upstream_invalid_chunk", "upstream_unreadable")
    if row.outcome == "ok":
        assert reply.text == "Hi 🙂!"
    else:
        assert reply.stream_error is not None


async def test_two_breaks_in_a_row(stage: Stage) -> None:
    more = asyncio.Event()
    stage.up.default = stage.breaks("He")
    stage.spare.default = Broken(told("openai", ["Hel", "lo"], whole=False), more.wait)
    stage.third.default = tells("Hello", " you")
    caller = await stage.gateway.begin("trio", stream=True)
    head = await caller.head()
    seen = await caller.until(b"lo")
    more.set()
    reply = await caller.reply(head, seen)
    assert (reply.text, reply.stream_error) == ("Hello you", None)
    row = await stage.gateway.settled()
    assert outcomes(row) == [
        ("up", "upstream_truncated", False),
        ("spare", "upstream_truncated", False),
        ("third", "ok", True),
    ]
    assert row.cost_nano == 7 * 100_000 + 3 * 200_000
    assert await stage.gateway.spent() == row.cost_nano


async def test_two_breaks_and_nobody_left(stage: Stage) -> None:
    more = asyncio.Event()
    stage.up.default = stage.breaks("He")
    stage.spare.default = Broken(told("openai", ["Hel", "lo"], whole=False), more.wait)
    caller = await stage.gateway.begin("duo", stream=True)
    head = await caller.head()
    seen = await caller.until(b"lo")
    more.set()
    assert cut_short(await caller.reply(head, seen)) == "Hello"
    row = await stage.gateway.settled()
    assert (row.outcome, row.cost_nano) == ("upstream_truncated", 0)
    assert not any(one.won for one in row.attempts)


@pytest.mark.parametrize("fault", [Status(503), Status(400), Status(429), Stream(stop_after=0), Silence()])
async def test_a_fallback_that_fails_makes_place_for_the_next(tmp_path: Path, fault: Behaviour) -> None:
    def quick(value: Config) -> None:
        value["providers"]["spare"]["timeouts"] = {"first_token": "60ms"}

    async with staged(tmp_path, quick) as stage:
        stage.up.default, stage.spare.default = stage.breaks("Hel"), fault
        stage.third.default = tells("Hello")
        reply = await stage.ask("trio")
        assert (reply.text, reply.stream_error) == ("Hello", None)
        row = await stage.gateway.settled()
        assert [one.provider for one in row.attempts] == ["up", "spare", "third"]


async def test_the_first_failure_is_told_where_nobody_goes_on(stage: Stage) -> None:
    stage.up.default, stage.spare.default = stage.breaks("Hel"), Status(503)
    assert cut_short(await stage.ask()) == "Hel"
    row = await stage.gateway.settled()
    assert (row.outcome, row.cost_nano, "rescued" in row.flags) == ("upstream_truncated", 0, False)
    assert outcomes(row) == [("up", "upstream_truncated", False), ("spare", "upstream_5xx", False)]
    assert await stage.gateway.spent() == 0


async def test_attempts_are_bounded(tmp_path: Path) -> None:
    def two(value: Config) -> None:
        value["policies"]["default"]["retry"] |= {"attempts": 2}

    async with staged(tmp_path, two) as stage:
        stage.up.default, stage.spare.default = stage.breaks("Hel"), tells("Nay")
        assert cut_short(await stage.ask("trio")) == "Hel"
        assert stage.third.requests == []


# --- byte for byte


@pytest.mark.parametrize(
    ("said", "whole"),
    [
        (["Xello"], None),
        (["Hellx", " you"], None),
        (["Hello", "!"], "Hello!"),
        (["H", "ello"], "Hello"),
        (["Hell"], None),
        ([" Hello"], None),
        (["hello you"], None),
        (["Hello\u0301"], "Hello\u0301"),
    ],
    ids=["first", "last", "after", "equal", "shorter", "white_space", "case", "combined"],
)
async def test_only_what_repeats_the_delivered_text_goes_on(stage: Stage, said: list[str], whole: str | None) -> None:
    stage.up.default, stage.spare.default = stage.breaks("Hello"), tells(*said)
    reply = await stage.ask()
    if whole is None:
        assert cut_short(reply) == "Hello"
        assert (await stage.gateway.settled()).attempts[-1].outcome == "rescue_diverged"
        assert await stage.gateway.spent() == 0
    else:
        assert (reply.text, reply.stream_error) == (whole, None)


TEXTS = st.text("aé🙂\n", min_size=1, max_size=6)


def calm(value: Config) -> None:
    """Streams break here all the time."""
    value["policies"]["default"]["breaker"] = {"min_requests": 100_000, "consecutive": 100_000}


@pytest.fixture
async def calm_stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path, calm) as found:
        yield found


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(delivered=TEXTS, same=st.booleans(), other=TEXTS, cut=st.integers(1, 3))
@example(delivered="aa", same=False, other="a", cut=1)
@example(delivered="a", same=False, other="aa", cut=1)
async def test_the_caller_gets_one_whole_answer_or_a_beginning_and_one_error(
    calm_stage: Stage, delivered: str, same: bool, other: str, cut: int
) -> None:
    stage, answer = calm_stage, delivered + other if same else other
    pieces = [answer[at : at + cut] for at in range(0, len(answer), cut)]
    stage.up.default, stage.spare.default = stage.breaks(delivered), tells(*pieces)
    reply = await stage.ask()
    if answer.startswith(delivered):
        assert (reply.text, reply.stream_error) == (answer, None)
    else:
        assert cut_short(reply) == delivered


# --- what cannot be repeated


CALL = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":'}}
SIGNED = {"type": "reasoning.text", "text": "hm", "signature": "sig", "format": "anthropic-claude-v1"}


@pytest.mark.parametrize(
    "frames",
    [
        [delta(content="Hel"), delta(tool_calls=[CALL])],
        [delta(tool_calls=[CALL])],
        [delta(tool_calls=[CALL]), delta(content="Hel")],
        [delta(reasoning="hm", reasoning_details=[SIGNED]), delta(content="Hel")],
        [delta(refusal="No")],
    ],
    ids=["before_call", "call", "after_call", "signed", "refusal"],
)
async def test_what_cannot_be_repeated_is_not_rescued(stage: Stage, frames: list[bytes]) -> None:
    gate = asyncio.Event()
    stage.up.default = Broken([*frames, delta(content="@")], gate.wait)
    stage.spare.default = tells("Hel", "@lo")
    caller = await stage.gateway.begin("duo", stream=True)
    head = await caller.head()
    seen = await caller.until(b"@")
    gate.set()
    cut_short(await caller.reply(head, seen))
    assert stage.spare.requests == []


@pytest.mark.parametrize("fields", [{"n": 2}, {"logprobs": True}])
async def test_several_choices_and_probabilities_are_not_rescued(stage: Stage, fields: Mapping[str, Any]) -> None:
    stage.up.default, stage.spare.default = stage.breaks("Hel"), tells("Hello")
    reply = await stage.ask(**fields)
    assert (reply.text, reply.events[-2]["error"]["code"]) == ("Hel", "upstream_truncated")
    assert stage.spare.requests == []


async def test_a_fallback_that_calls_a_tool_says_something_else(stage: Stage) -> None:
    stage.up.default = stage.breaks("Hello")
    stage.spare.default = Stream(frames=[delta(tool_calls=[CALL]), sse(chunk(None, "tool_calls")), DONE])
    assert cut_short(await stage.ask()) == "Hello"


async def test_a_fallback_may_call_a_tool_after_the_delivered_text(stage: Stage) -> None:
    stage.up.default = stage.breaks("Hel")
    call = CALL | {"function": {"name": "f", "arguments": "{}"}}
    stage.spare.default = Stream(
        frames=[delta(content="Hello"), delta(tool_calls=[call]), sse(chunk(None, "tool_calls")), DONE]
    )
    reply = await stage.ask()
    assert (reply.text, reply.stream_error) == ("Hello", None)
    calls = [one for event in reply.events[:-1] for c in event["choices"] for one in c["delta"].get("tool_calls", ())]
    assert "".join(one["function"].get("arguments") or "" for one in calls) == "{}"


@pytest.mark.parametrize(("thought", "repeats"), [("hm, so", True), ("ho, so", False)])
async def test_unsigned_thoughts_have_to_repeat_as_well(stage: Stage, thought: str, repeats: bool) -> None:
    stage.up.default = Broken([delta(reasoning_content="hm"), delta(reasoning_content=", so")], stage.flowing)
    said = [delta(reasoning_content=thought[:1]), delta(reasoning_content=thought[1:]), delta(content="Hello")]
    stage.spare.default = Stream(frames=[*said, sse(chunk(None, "stop")), DONE])
    gate_reply = await stage.ask()
    if repeats:
        assert (gate_reply.text, gate_reply.stream_error) == ("Hello", None)
        deltas = [c["delta"] for event in gate_reply.events[:-1] for c in event["choices"]]
        assert "".join(one.get("reasoning_content") or "" for one in deltas) == "hm, so"
    else:
        assert cut_short(gate_reply) == ""
