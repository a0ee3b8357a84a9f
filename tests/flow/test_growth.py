"""Holds that grow with a stream, and money that ends within one."""

import json
from pathlib import Path

import pytest

from tests.flow.flow_kit import planned
from tests.support.gateway import HELLO, running
from tests.support.upstream import Ok, ScriptedUpstream, Stream

SLICE_NANO = 1_024 * 2_000
WORD = "x" * 3_000
"""1,000 tokens, as growth counts them: 200 of them take more than one read of a socket."""


def dry(up: str, opening: str = "$0.01", **plan: object) -> dict[str, object]:
    """10,000,000 nano-USD, and a hold of hardly more than the prompt."""
    return planned(up, opening=opening, hold_output_tokens=10, **plan)


async def test_a_stream_ends_as_cut_by_its_length_when_the_money_ends(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, dry(up.url)) as gw:
        up.default = Stream([WORD] * 200)
        reply = await gw.chat("solo", stream=True)
        assert reply.stream_error is None
        assert b": balance_exhausted\n" in reply.body
        finishes = [c["finish_reason"] for e in reply.events if e != "[DONE]" for c in e["choices"]]
        assert finishes[-1] == "length"
        assert 0 < len(reply.text) < 200 * len(WORD)
        assert set(reply.text) == {"x"}
        row = await gw.settled()
        assert (row.outcome, row.usage_source.value, row.billing.value) == ("balance_exhausted", "estimated", "paid")
        assert row.cost_nano > SLICE_NANO
        await up.requests[0].gone()
        assert 0 <= gw.funds().balance_nano < SLICE_NANO
        assert await gw.spent() == row.cost_nano
        await gw.assert_books_are_clean()


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
async def test_the_money_ends_well_on_other_wires(tmp_path: Path, path: str) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, dry(up.url)) as gw:
        up.default = Stream([WORD] * 200)
        said = {"messages": HELLO, "max_tokens": 100_000} if path == "/v1/messages" else {"input": "Hello"}
        if path == "/v1/messages":
            said["max_tokens"] = 10
        reply = await gw.ask("POST", path, {"model": "solo", "stream": True, **said})
        text = reply.body.decode()
        assert ": balance_exhausted\n" in text
        assert "max_tokens" in text.rpartition(": balance_exhausted")[2] or "max_output_tokens" in text
        assert "error" not in {json.loads(line[6:]).get("type") for line in text.splitlines() if line[:6] == "data: "}
        assert (await gw.settled()).outcome == "balance_exhausted"
        await gw.assert_books_are_clean()


async def test_within_a_tool_call_the_money_ends_in_one_error(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, dry(up.url)) as gw:
        call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": WORD}}
        base = {"id": "x", "object": "chat.completion.chunk", "model": "m", "created": 1}
        frame = {"choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}]}
        up.default = Stream(frames=[b"data: " + json.dumps(base | frame).encode() + b"\n\n"] * 200)
        tools = [{"type": "function", "function": {"name": "f"}}]
        reply = await gw.chat("solo", stream=True, tools=tools)
        error = reply.stream_error
        assert error is not None
        assert error["code"] == "balance_exhausted"
        assert (await gw.settled()).cost_nano > 0
        await gw.assert_books_are_clean()


async def test_a_stream_whose_money_lasts_is_charged_by_its_report(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, dry(up.url, opening="$5")) as gw:
        up.default = Stream([WORD] * 200, usage=(7, 200_000))
        reply = await gw.chat("solo", stream=True)
        assert reply.text == WORD * 200
        row = await gw.settled()
        assert (row.outcome, row.cost_nano) == ("ok", 7 * 1_000 + 200_000 * 2_000)
        assert row.held_nano > 100_000 * 2_000  # It has grown ahead of what flowed.
        assert row.flags == ()
        await gw.assert_books_are_clean()


async def test_what_answers_usually_take_is_held_for_the_next_stream(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, planned(up.url)) as gw:
        up.default = Ok(usage=(7, 300))
        held = []
        for _ in range(22):
            assert (await gw.chat("solo", stream=True)).status == 200
            held.append((await gw.settled()).held_nano)
        assert held[0] > 4_096 * 2_000  # The plan's.
        assert held[-1] < 400 * 2_000
        assert (await gw.chat("solo")).status == 200  # A whole answer cannot grow: the most is held, where it fits.
        assert (await gw.settled()).held_nano == held[0]
