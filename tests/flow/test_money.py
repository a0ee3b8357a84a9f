"""What is charged, seen from outside: each row of the charge policy, on real sockets and a real ledger."""

import asyncio
from pathlib import Path

import pytest

from routerx.money import parse_usd
from tests.flow.flow_kit import OPENING, UP_COST, chunk, completion, planned, priced, stream_with
from tests.support.gateway import USD, config, running
from tests.support.upstream import (
    DONE,
    End,
    Json,
    Ok,
    ScriptedUpstream,
    Stream,
    Truncated,
    sse,
    usage_of,
)

USAGES = {
    "plain": (usage_of(7, 3), 7 * 1_000 + 3 * 2_000),
    "one_prompt_token": (usage_of(1, 0), 1_000),
    "cached": (usage_of(1_000, 10) | {"prompt_tokens_details": {"cached_tokens": 600}}, 400_000 + 60_000 + 20_000),
    "reasoning": (usage_of(10, 50) | {"completion_tokens_details": {"reasoning_tokens": 40}}, 10_000 + 100_000),
    "large": (usage_of(123_457, 7_919), 123_457 * 1_000 + 7_919 * 2_000),
}


# --- complete answers: rows A, B, C, I


@pytest.mark.parametrize("name", USAGES)
async def test_streamed_and_buffered_answers_cost_the_same(tmp_path: Path, name: str) -> None:
    usage, cost = USAGES[name]
    async with (
        ScriptedUpstream() as up,
        running(tmp_path, priced(up.url, input=1, output=2, cached_input="0.1")) as gw,
    ):
        up.queue(Json(completion(usage)), stream_with(usage))
        buffered, streamed = await gw.chat(), await gw.chat(stream=True)

        assert parse_usd(buffered.headers["x-routerx-cost-usd"]) == cost
        assert streamed.text == buffered.text == "Hello"
        rows = [await gw.settled(), await gw.settled()]
        assert [row.cost_nano for row in rows] == [cost, cost]
        assert rows[0].usage == rows[1].usage
        assert (gw.funds().balance_nano, await gw.spent()) == (OPENING - 2 * cost, 2 * cost)
        await gw.assert_books_are_clean()


async def test_estimate_is_never_above_the_hold(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        for stream in (False, True):
            up.queue(Ok("x" * 4_000, usage=None))
            assert (await gw.chat(max_tokens=5, stream=stream)).status == 200
            row = await gw.settled()
            assert row.usage_source == "estimated"
            assert row.held_nano - 2_000 < row.cost_nano <= row.held_nano
            assert row.flags == ()
        await gw.assert_books_are_clean()


@pytest.mark.parametrize("finish", ["length", "content_filter"])
@pytest.mark.parametrize("stream", [False, True])
async def test_answer_that_was_cut_or_filtered_is_charged_like_any(tmp_path: Path, finish: str, stream: bool) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        up.default = Ok(finish=finish)
        assert (await gw.chat(stream=stream)).status == 200
        assert await gw.spent() == UP_COST
        await gw.assert_books_are_clean()


async def test_embeddings_are_charged_by_input(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        reply = await gw.ask("POST", "/v1/embeddings", {"model": "vectors", "input": ["a", "b"]})
        assert parse_usd(reply.headers["x-routerx-cost-usd"]) == await gw.spent() == 7_000
        await gw.assert_books_are_clean()


# --- clients that leave: rows D and E


@pytest.mark.parametrize("stream", [False, True])
async def test_client_gone_before_the_first_token_is_free_within_the_allowance_and_pays_the_prompt_beyond(
    tmp_path: Path, stream: bool
) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        up.default = Ok(gate=asyncio.Event())
        for n in range(1, 33):
            caller = await gw.begin(stream=stream)
            request = await up.arrived(n)
            caller.leave()
            row = await gw.settled()
            await request.gone()  # The provider stops working, and billing.
            assert row.outcome == ("client_gone_no_output" if stream else "client_gone_nonstream")
            assert [attempt.outcome for attempt in row.attempts] == ["cancelled"]
            if n <= 30:
                assert (row.cost_nano, row.billing) == (0, "void")
            else:
                assert row.usage is not None
                assert row.cost_nano == row.usage.in_fresh * 1_000 > 0
                assert (row.usage_source, row.usage.output_tokens) == ("estimated", 0)
        assert await gw.spent() == 2 * row.cost_nano
        await gw.assert_books_are_clean()


async def test_dear_prompts_use_the_allowance_up_by_their_cost(tmp_path: Path) -> None:
    """$0.50 of prompts an hour; here each costs more than a third of that."""
    async with ScriptedUpstream() as up, running(tmp_path, priced(up.url, input=4_500, output=4_500)) as gw:
        up.default = Ok(gate=asyncio.Event())
        costs = []
        for n in range(1, 4):
            caller = await gw.begin(max_tokens=1)
            await up.arrived(n)
            caller.leave()
            costs.append((await gw.settled()).cost_nano)
        assert costs[:2] == [0, 0]
        assert USD // 6 < costs[2] < USD // 2
        await gw.assert_books_are_clean()


async def test_client_gone_midstream_pays_the_prompt_and_what_was_delivered(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        up.default = Stream(["x" * 400, "never sent"], gates={2: asyncio.Event()})
        caller = await gw.begin(stream=True)
        await caller.head()
        await caller.until(b"x" * 400)
        caller.leave()

        row = await gw.settled()

        await up.requests[0].gone()
        assert (row.outcome, row.flags, row.usage_source) == ("client_gone_midstream", ("cancelled",), "estimated")
        assert row.usage is not None
        assert row.usage.out_text == 100
        assert row.cost_nano == row.usage.in_fresh * 1_000 + 100 * 2_000 == await gw.spent()
        assert [attempt.won for attempt in row.attempts] == [False]
        await gw.assert_books_are_clean()


async def test_client_gone_midstream_pays_the_usage_that_the_provider_has_told(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        frames = [sse(chunk("Hel", usage=usage_of(7, 1))), sse(chunk("lo", usage=usage_of(7, 2))), DONE]
        up.default = Stream(frames=frames, gates={2: asyncio.Event()})
        caller = await gw.begin(stream=True)
        await caller.head()
        await caller.until(b'"lo"')
        caller.leave()
        row = await gw.settled()
        assert (row.usage_source, row.cost_nano) == ("provider", 7 * 1_000 + 2 * 2_000)
        assert await gw.spent() == row.cost_nano
        await gw.assert_books_are_clean()


@pytest.mark.parametrize("stream", [False, True])
async def test_client_that_leaves_while_the_charge_is_written_has_had_its_answer(tmp_path: Path, stream: bool) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        async with gw.commits_blocked():
            caller = await gw.begin(stream=stream)
            await gw.settling()
            caller.leave()
        row = await gw.settled()
        assert (row.outcome, row.cost_nano) == ("ok", UP_COST)
        assert await gw.spent() == UP_COST
        await gw.assert_books_are_clean()


# --- failures: rows G, H, L


@pytest.mark.parametrize("stream", [False, True])
async def test_only_the_answering_attempt_is_charged_at_its_own_price(tmp_path: Path, stream: bool) -> None:
    async with (
        ScriptedUpstream() as up,
        ScriptedUpstream() as spare,
        running(tmp_path, config(up.url, spare.url)) as gw,
    ):
        up.default = Truncated()
        await gw.chat("duo", stream=stream)
        row = await gw.settled()
        assert (row.provider, row.cost_nano, await gw.spent()) == ("spare", 10 * UP_COST, 10 * UP_COST)
        assert row.provider_cost_nano == 10 * UP_COST
        failed, again, won = row.attempts
        assert failed.cost_est_nano == again.cost_est_nano > 0  # The provider may bill the house for these.
        assert won.cost_est_nano == 0
        assert row.price is not None
        assert row.price.card.input_pico == 10_000_000
        await gw.assert_books_are_clean()


async def test_broken_stream_is_free_for_the_tenant_and_an_estimate_for_the_house(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        gate = asyncio.Event()
        up.default = Stream(["Hello", ""], gates={2: gate}, stop_after=3, end=End.RESET)
        caller = await gw.begin(stream=True)
        head = await caller.head()
        seen = await caller.until(b"Hello")
        gate.set()
        reply = await caller.reply(head, seen)
        assert reply.stream_error is not None
        row = await gw.settled()
        assert (row.billing, row.cost_nano, await gw.spent()) == ("void", 0, 0)
        assert row.provider_cost_nano > 0
        await gw.assert_books_are_clean()


# --- plans: row P, postpaid, off, markup, spend limit


async def test_free_suffix_costs_nothing_where_the_plan_allows_it(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, planned(up.url, free_suffix="any")) as gw:
        reply = await gw.chat("solo:free")
        assert reply.headers["x-routerx-cost-usd"] == "0.00"
        row = await gw.settled()
        assert (row.billing, row.cost_nano, row.held_nano, row.provider_cost_nano) == ("free", 0, 0, UP_COST)
        assert up.requests[0].model == "solo"
        assert await gw.spent() == 0
        await gw.assert_books_are_clean()


async def test_free_suffix_is_refused_where_the_plan_does_not_allow_it(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, planned(up.url, free_suffix="off")) as gw:
        reply = await gw.chat("solo:free")
        assert (reply.status, reply.error["code"]) == (403, "free_not_allowed")
        assert up.requests == []


async def test_empty_account_may_still_call_what_is_free(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, planned(up.url, opening="$0", free_suffix="any")) as gw:
        assert (await gw.chat("solo")).status == 402
        assert (await gw.chat("solo:free")).status == 200


async def test_markup_is_charged_and_the_list_price_recorded(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, planned(up.url, markup="12.5%")) as gw:
        reply = await gw.chat()
        row = await gw.settled()
        assert (row.cost_nano, row.provider_cost_nano) == (14_625, 13_000)
        assert parse_usd(reply.headers["x-routerx-cost-usd"]) == await gw.spent() == 14_625
        await gw.assert_books_are_clean()


async def test_cost_is_rounded_up_once_on_the_total(tmp_path: Path) -> None:
    """Three tokens at 0.4 nano-USD each: 1.2, and so 2."""
    async with ScriptedUpstream() as up, running(tmp_path, priced(up.url, input="0.0004", output="0.0004")) as gw:
        up.default = Json(completion(usage_of(2, 1)))
        await gw.chat()
        assert await gw.spent() == 2
        await gw.assert_books_are_clean()


async def test_postpaid_tenant_runs_into_debt(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, planned(up.url, opening="$0", billing="postpaid")) as gw:
        for _ in range(3):
            assert (await gw.chat("flat")).status == 200
        assert gw.funds().balance_nano == -3 * USD
        await gw.assert_books_are_clean()


async def test_billing_off_meters_and_does_not_charge(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, planned(up.url, opening="$0", billing="off")) as gw:
        for stream in (False, True):
            reply = await gw.chat(stream=stream)
            assert reply.status == 200
            row = await gw.settled()
            assert (row.billing, row.cost_nano, row.provider_cost_nano) == ("off", 0, UP_COST)
            assert row.usage is not None
        assert (gw.funds().balance_nano, gw.funds().requests_today) == (0, 2)
        await gw.assert_books_are_clean()


async def test_spend_limit_stops_before_it_is_passed(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, planned(up.url, spend_limit="$2/month")) as gw:
        assert [(await gw.chat("flat")).status for _ in range(3)] == [200, 200, 402]
        refused = await gw.chat("flat")
        assert refused.error["code"] == "spend_limit_reached"
        assert (gw.funds().balance_nano, len(up.requests)) == (8 * USD, 2)
        await gw.assert_books_are_clean()


# --- price changes: row R


@pytest.mark.parametrize("stream", [False, True])
async def test_price_at_open_holds_for_a_request_in_flight(tmp_path: Path, stream: bool) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, priced(up.url, input=1, output=2)) as gw:
        gate = asyncio.Event()
        up.queue(Ok(gate=gate))
        caller = await gw.begin(stream=stream)
        await up.arrived()

        assert (await gw.reload(priced(up.url, input=100, output=200))).ok

        gate.set()
        assert (await caller.reply()).status == 200
        assert (await gw.settled()).cost_nano == UP_COST
        await gw.chat(stream=stream)
        assert (await gw.settled()).cost_nano == 100 * UP_COST
        await gw.assert_books_are_clean()
