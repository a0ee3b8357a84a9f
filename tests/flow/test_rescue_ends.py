"""Rescue of a stream: with a given beginning, as the policy says, and when somebody leaves meanwhile."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.flow.rescue_kit import WIRES, Broken, Stage, cut_short, outcomes, policy, staged, tells, told
from tests.support.behaviours import Behaviour
from tests.support.gateway import TENANT, Config
from tests.support.upstream import Ok, Silence, Status, Stream


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as found:
        yield found


# --- going on with a given beginning


def prefills(wire: str) -> Callable[[Config], None]:
    def change(value: Config) -> None:
        value["providers"]["spare"]["dialect"] = wire
        value["models"]["duo"]["endpoints"][1]["supports"] = ["prefill"]

    return change


@pytest.mark.parametrize("wire", WIRES)
async def test_an_endpoint_that_goes_on_with_a_beginning_is_given_one(tmp_path: Path, wire: str) -> None:
    async with staged(tmp_path, prefills(wire)) as stage:
        stage.up.default = stage.breaks("Hello ")
        stage.spare.queue(tells("Good day", wire=wire), tells(" the", "re", wire=wire))
        reply = await stage.ask()
        assert (reply.text, reply.stream_error) == ("Hello there", None)
        last = stage.spare.requests[1].json["messages"][-1]
        assert last["role"] == "assistant"
        content = last["content"]
        assert (content if isinstance(content, str) else content[0]["text"]) == "Hello"
        row = await stage.gateway.settled()
        assert [one.outcome for one in row.attempts] == ["upstream_truncated", "rescue_diverged", "ok"]
        assert (row.outcome, "rescued" in row.flags, row.usage_source.value) == ("ok", True, "estimated")
        assert row.usage is not None
        given = -(-len(b"Hello") // 4)
        assert 3 < row.usage.output_tokens <= 3 + given + 1  # What it was given, and what it said.
        assert row.usage.input_tokens <= 7  # The prompt, once.
        assert row.cost_nano == row.usage.input_tokens * 10_000 + row.usage.output_tokens * 20_000 <= row.held_nano
        assert await stage.gateway.spent() == row.cost_nano


@pytest.mark.parametrize("refusal", [Status(400), Status(503), tells("there")], ids=["400", "503", "no_blank"])
async def test_a_beginning_that_is_refused_ends_in_one_error(tmp_path: Path, refusal: Behaviour) -> None:
    async with staged(tmp_path, prefills("openai")) as stage:
        stage.up.default = stage.breaks("Hello ")
        stage.spare.queue(tells("Good day"), refusal)
        assert cut_short(await stage.ask()) == "Hello "
        assert await stage.gateway.spent() == 0


async def test_nobody_is_given_a_beginning_who_does_not_say_so(stage: Stage) -> None:
    stage.up.default, stage.spare.default = stage.breaks("Hello"), tells("Good day")
    assert cut_short(await stage.ask()) == "Hello"
    assert len(stage.spare.requests) == 1


async def test_a_restart_is_tried_before_a_beginning_is_given(tmp_path: Path) -> None:
    async with staged(tmp_path, prefills("openai")) as stage:
        stage.up.default = stage.breaks("Hel")
        stage.spare.default = tells("Hello")
        assert (await stage.ask()).text == "Hello"
        assert [one["role"] for one in stage.spare.requests[0].json["messages"]] == ["user"]


# --- the policy's word


async def test_rescue_may_be_turned_off(tmp_path: Path) -> None:
    async with staged(tmp_path, policy(rescue="off")) as stage:
        stage.up.default, stage.spare.default = stage.breaks("Hel"), tells("Hello")
        assert cut_short(await stage.ask()) == "Hel"
        assert stage.spare.requests == []


async def test_what_is_known_for_the_sake_of_money_is_no_leave_to_rescue(tmp_path: Path) -> None:
    def poor(value: Config) -> None:
        policy(rescue="off")(value)
        value["tenants"][TENANT]["opening_balance"] = "$0.2"

    async with staged(tmp_path, poor) as stage:
        stage.up.default, stage.spare.default = stage.breaks("Hel"), tells("Hello")
        assert cut_short(await stage.ask()) == "Hel"
        assert stage.spare.requests == []


@pytest.mark.parametrize("stream", [{"commit": "full"}, {"commit": "probe", "probe": "5s"}], ids=["full", "probe"])
async def test_a_break_within_the_held_stretch_is_never_noticed(tmp_path: Path, stream: dict[str, str]) -> None:
    def change(value: Config) -> None:
        policy(**stream)(value)
        value["server"]["keep_alive"] = "10ms"

    async with staged(tmp_path, change) as stage:
        gate = asyncio.Event()
        stage.up.default = Broken(told("openai", ["Hel"], whole=False), gate.wait)
        stage.spare.default = tells("Another", " answer")
        caller = await stage.gateway.begin("duo", stream=True)
        head = await caller.head()
        seen = await caller.until(b": keep-alive\n\n: keep-alive\n\n")
        assert b"data:" not in seen
        gate.set()
        reply = await caller.reply(head, seen)
        assert (reply.text, reply.stream_error) == ("Another answer", None)
        row = await stage.gateway.settled()
        assert [one.provider for one in row.attempts] == ["up", "up", "spare"]  # Asked again, as ever.
        assert "rescued" not in row.flags


@pytest.mark.parametrize(
    "stream", [{"commit": "probe", "probe": "30ms"}, {"commit": "probe", "probe_size": "16B"}], ids=["time", "size"]
)
async def test_what_is_held_flows_once_the_probe_is_over(tmp_path: Path, stream: dict[str, str]) -> None:
    async with staged(tmp_path, policy(**stream)) as stage:
        gate = asyncio.Event()
        stage.up.default = Stream(["Hel", "lo"], gates={2: gate})
        caller = await stage.gateway.begin("duo", stream=True)
        head = await caller.head()
        seen = await caller.until(b"Hel")
        gate.set()
        assert (await caller.reply(head, seen)).text == "Hello"


# --- who leaves meanwhile


async def test_a_caller_who_leaves_during_a_rescue_pays_for_what_was_delivered(stage: Stage) -> None:
    stage.up.default, stage.spare.default = stage.breaks("Hel"), Silence()
    caller = await stage.gateway.begin("duo", stream=True)
    await caller.head()
    await caller.until(b"Hel")
    await stage.spare.arrived()
    caller.leave()
    await stage.spare.requests[0].gone()
    row = await stage.gateway.settled()
    assert row.outcome == "client_gone_midstream"
    assert outcomes(row) == [("up", "upstream_truncated", False), ("spare", "cancelled", False)]
    assert row.usage is not None
    assert row.cost_nano == row.usage.input_tokens * 1_000 + row.usage.output_tokens * 2_000
    assert row.usage.output_tokens <= 3


@pytest.mark.parametrize("wish", ["cancel", "drain"])
async def test_whatever_the_plan_says_of_callers_who_leave(tmp_path: Path, wish: str) -> None:
    def change(value: Config) -> None:
        value["plans"]["prepaid"]["on_disconnect"] = wish

    async with staged(tmp_path, change) as stage:
        stage.up.default, stage.spare.default = stage.breaks("Hel"), Silence()
        caller = await stage.gateway.begin("duo", stream=True)
        await caller.head()
        await caller.until(b"Hel")
        await stage.spare.arrived()
        caller.leave()
        await stage.spare.requests[0].gone()
        assert (await stage.gateway.settled()).outcome == "client_gone_midstream"


async def test_a_shutdown_during_a_rescue_ends_the_stream_in_band(stage: Stage) -> None:
    stage.up.default, stage.spare.default = stage.breaks("Hel"), Silence()
    caller = await stage.gateway.begin("duo", stream=True)
    head = await caller.head()
    seen = await caller.until(b"Hel")
    await stage.spare.arrived()
    assert stage.gateway.runtime.gateway.cut_off() == 1
    reply = await caller.reply(head, seen)
    assert cut_short(reply, "shutting_down") == "Hel"
    await stage.spare.requests[0].gone()
    row = await stage.gateway.settled()
    assert (row.outcome, row.cost_nano) == ("shutting_down", 0)


async def test_a_caller_is_kept_patient_during_a_rescue(tmp_path: Path) -> None:
    def change(value: Config) -> None:
        value["server"]["keep_alive"] = "10ms"

    async with staged(tmp_path, change) as stage:
        gate = asyncio.Event()
        stage.up.default, stage.spare.default = stage.breaks("Hel"), Ok("Hello", gate=gate)
        caller = await stage.gateway.begin("duo", stream=True)
        head = await caller.head()
        seen = await caller.until(b": keep-alive\n\n: keep-alive\n\n")
        gate.set()
        reply = await caller.reply(head, seen)
        assert (reply.text, reply.stream_error) == ("Hello", None)


async def test_the_callers_deadline_bounds_a_rescue(stage: Stage) -> None:
    stage.up.default, stage.spare.default = stage.breaks("Hel"), Silence()
    body = {"model": "duo", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
    reply = await stage.gateway.ask("POST", "/v1/chat/completions", body, headers={"X-RouterX-Timeout": "500ms"})
    assert cut_short(reply) == "Hel"
    await stage.spare.requests[0].gone()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"model": "duo", "input": "Hello", "stream": True}),
        ("/v1/messages", {"model": "duo", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}),
        (
            "/v1beta/models/duo:streamGenerateContent?alt=sse",
            {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]},
        ),
    ],
    ids=["responses", "messages", "gemini"],
)
async def test_every_wire_says_once_that_an_answer_is_cut_short(stage: Stage, path: str, body: dict[str, Any]) -> None:
    stage.up.default, stage.spare.default = stage.breaks("Hello"), tells("Good day")
    reply = await stage.gateway.ask("POST", path, body if "contents" in body else body | {"stream": True})
    assert (reply.status, reply.cut) == (200, False)
    data = [line[6:] for line in reply.body.splitlines() if line.startswith(b"data: ")]
    events = [json.loads(one) for one in data]
    assert b"Good" not in reply.body
    assert len([one for one in events if "error" in one or one.get("type") in ("error", "response.failed")]) == 1
    for whole in (b"message_stop", b"response.completed", b'"finishReason":"STOP"', b"end_turn"):
        assert whole not in reply.body
