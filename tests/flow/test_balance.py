"""The balance under load and failure: refusals, overruns, races, and nothing complete before its charge is on disk."""

import asyncio
from pathlib import Path

import pytest

from routerx.money import parse_usd
from tests.flow.flow_kit import OPENING, UP_COST, completion, planned, stream_with
from tests.support.gateway import HELLO, USD, Reply, config, running
from tests.support.upstream import DONE, Json, Ok, ScriptedUpstream, Status, Stream, sse, usage_of


async def test_402_says_what_is_missing_and_what_would_fit(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, planned(up.url, opening="$0.001")) as gw:
        refused = await gw.chat()
        error = refused.error
        assert (refused.status, error["code"], error["type"]) == (402, "insufficient_balance", "insufficient_quota")
        assert (error["available"], error["retryable"]) == ("0.001", False)
        assert refused.headers["x-should-retry"] == "false"
        assert parse_usd(error["needed"]) > 4_096 * 2_000
        fits = error["max_affordable_tokens"]
        assert 400 < fits < 500

        assert (await gw.chat(max_tokens=fits + 1)).status == 402
        assert up.requests == []
        assert (await gw.chat(max_tokens=fits)).status == 200
        rows = [await gw.settled() for _ in range(3)]
        assert [row.outcome for row in rows] == ["rejected_balance", "rejected_balance", "ok"]
        await gw.assert_books_are_clean()


async def test_hold_counts_while_a_call_runs_and_is_given_back(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, planned(up.url, opening="$1")) as gw:
        gate = asyncio.Event()
        up.queue(Ok(gate=gate), Status(400))
        caller = await gw.begin("flat")
        await up.arrived()
        assert (gw.funds().held_nano, gw.funds().balance_nano) == (USD, USD)
        assert (await gw.chat("flat")).error["available"] == "0.00"
        caller.leave()
        await gw.settled()
        await gw.settled()
        assert (gw.funds().held_nano, gw.funds().balance_nano) == (0, USD)
        assert (await gw.chat("flat")).status == 400
        assert (gw.funds().held_nano, gw.funds().balance_nano) == (0, USD)
        assert (await gw.chat("flat")).status == 200
        assert gw.funds().balance_nano == 0
        await gw.assert_books_are_clean()


@pytest.mark.parametrize("stream", [False, True])
async def test_usage_above_the_hold_is_paid_from_the_balance(tmp_path: Path, stream: bool) -> None:
    usage = usage_of(5_000, 5_000)
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        up.default = stream_with(usage) if stream else Json(completion(usage))
        await gw.chat(stream=stream, max_tokens=10)
        row = await gw.settled()
        assert row.cost_nano == 15_000_000 > row.held_nano
        assert row.flags == ()
        assert gw.funds().balance_nano == OPENING - 15_000_000
        await gw.assert_books_are_clean()


@pytest.mark.parametrize("stream", [False, True])
async def test_usage_above_the_balance_is_the_house_s_loss(tmp_path: Path, stream: bool) -> None:
    usage = usage_of(5_000_000, 5_000_000)
    async with ScriptedUpstream() as up, running(tmp_path, planned(up.url, opening="$1")) as gw:
        up.default = stream_with(usage) if stream else Json(completion(usage))
        reply = await gw.chat(stream=stream, max_tokens=10)
        assert reply.status == 200
        row = await gw.settled()
        assert (row.cost_nano, row.flags) == (15 * USD, ("overrun",))
        assert (gw.funds().balance_nano, await gw.spent()) == (0, 1 * USD)
        if not stream:
            assert reply.headers["x-routerx-cost-usd"] == "1.00"
        await gw.assert_books_are_clean()


async def test_other_calls_holds_are_not_eaten_by_an_overrun(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, planned(up.url, opening="$2")) as gw:
        gate = asyncio.Event()
        up.queue_for("flat", Ok(gate=gate))
        up.queue_for("solo", Json(completion(usage_of(5_000_000, 5_000_000))))
        caller = await gw.begin("flat")
        await up.arrived()
        assert (await gw.chat(max_tokens=10)).headers["x-routerx-cost-usd"] == "1.00"
        gate.set()
        assert (await caller.reply()).headers["x-routerx-cost-usd"] == "1.00"
        assert gw.funds().balance_nano == 0
        await gw.assert_books_are_clean()


@pytest.mark.parametrize("stream", [False, True])
async def test_200_calls_at_once_on_a_balance_for_exactly_10(tmp_path: Path, stream: bool) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        replies = await asyncio.gather(*(gw.chat("flat", stream=stream) for _ in range(200)))

        assert sorted(reply.status for reply in replies) == [200] * 10 + [402] * 190
        assert len(up.requests) == 10
        assert (gw.funds().balance_nano, await gw.spent()) == (0, OPENING)
        rows = [await gw.settled() for _ in range(200)]
        assert sum(row.cost_nano for row in rows) == OPENING
        await gw.assert_books_are_clean()


async def test_200_calls_at_once_priced_by_token_never_pass_the_floor(tmp_path: Path) -> None:
    """Room for about ten holds; what is used is mostly less than held, and now and then far more."""
    async with ScriptedUpstream() as up, running(tmp_path, planned(up.url, opening="$0.01")) as gw:
        for n in range(200):
            up.queue(Json(completion(usage_of(90, 400 if n % 7 else 3_000))))
        seen: list[int] = []

        async def one() -> Reply:
            reply = await gw.chat(max_tokens=500)
            seen.append(gw.funds().balance_nano)
            return reply

        replies = await asyncio.gather(*(one() for _ in range(200)))

        served = [reply for reply in replies if reply.status == 200]
        refused = [reply for reply in replies if reply.status != 200]
        assert {reply.status for reply in refused} == {402}
        assert all(parse_usd(r.error["needed"]) > parse_usd(r.error["available"]) for r in refused)
        assert len(served) == len(up.requests) >= 3
        assert min(seen) >= 0
        charged = sum(parse_usd(reply.headers["x-routerx-cost-usd"]) for reply in served)
        assert charged == await gw.spent() == USD // 100 - gw.funds().balance_nano
        await gw.assert_books_are_clean()


# --- durability: nothing is complete before its charge


async def test_stream_is_finished_only_once_its_charge_is_durable(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        up.default = Stream(["Hel", "lo"])
        async with gw.commits_blocked():
            caller = await gw.begin(stream=True)
            head = await caller.head()
            seen = await caller.until(b'"lo"')
            await gw.settling()
            await asyncio.sleep(0.05)  # Time for a mistake.
            assert b'finish_reason":"stop' not in seen + caller.unread
            assert b"[DONE]" not in seen + caller.unread
            assert await gw.charged_on_disk() == 0
        reply = await caller.reply(head, seen)
        assert (reply.text, reply.events[-1], reply.stream_error) == ("Hello", "[DONE]", None)
        assert reply.events[-2]["choices"][0]["finish_reason"] == "stop"
        assert await gw.spent() == UP_COST
        await gw.assert_books_are_clean()


async def test_buffered_answer_is_sent_only_once_its_charge_is_durable(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        async with gw.commits_blocked():
            caller = await gw.begin()
            await gw.settling()
            await asyncio.sleep(0.05)  # Time for a mistake.
            assert caller.unread == b""
        assert (await caller.reply()).status == 200
        assert await gw.spent() == UP_COST
        await gw.assert_books_are_clean()


async def test_first_choice_to_finish_flows_and_only_the_last_is_withheld(tmp_path: Path) -> None:
    def of(index: int, finish: str | None) -> bytes:
        choice = {"index": index, "delta": {"content": f"c{index}"}, "finish_reason": finish}
        return sse({"id": "x", "choices": [choice]})

    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        up.default = Stream(frames=[of(0, None), of(0, "stop"), of(1, None), of(1, "length"), DONE])
        async with gw.commits_blocked():
            caller = await gw.begin(stream=True, n=2)
            head = await caller.head()
            seen = await caller.until(b"c1")
            assert b'"finish_reason":"stop"' in seen
            await gw.settling()
            assert b'"length"' not in seen + caller.unread
        reply = await caller.reply(head, seen)
        assert reply.body == b"".join([of(0, None), of(0, "stop"), of(1, None), of(1, "length"), DONE])
        await gw.assert_books_are_clean()


@pytest.mark.parametrize("stream", [False, True])
async def test_answer_whose_charge_cannot_be_written_does_not_end_well(tmp_path: Path, stream: bool) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        async with gw.commits_failing():
            reply = await gw.chat(stream=stream)
            if stream:
                error = reply.stream_error
                assert error is not None
                assert b'"finish_reason":"stop"' not in reply.body
            else:
                assert reply.status == 503
                error = reply.error
            assert error["code"] == "storage_unavailable"
        assert gw.funds().balance_nano == OPENING
        assert (await gw.chat(stream=stream)).status == 200
        assert (gw.funds().balance_nano, await gw.spent()) == (OPENING - UP_COST, UP_COST)
        await gw.assert_books_are_clean()


async def test_money_survives_a_restart(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up:
        async with running(tmp_path, config(up.url)) as gw:
            await gw.chat()
        async with running(tmp_path, config(up.url)) as gw:
            assert gw.funds().balance_nano == OPENING - UP_COST
            await gw.chat()
            assert gw.funds().balance_nano == OPENING - 2 * UP_COST
            await gw.assert_books_are_clean()


async def test_request_with_several_choices_holds_for_all_of_them(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        for n in (1, 4):
            body = {"model": "solo", "messages": HELLO, "max_tokens": 1_000, "n": n}
            assert (await gw.ask("POST", "/v1/chat/completions", body)).status == 200
        one, four = [(await gw.settled()).held_nano for _ in range(2)]
        assert four - one >= 3 * 1_000 * 2_000
        await gw.assert_books_are_clean()
