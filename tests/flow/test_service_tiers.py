"""What a request costs when the provider serves it in another tier than the plain one: by every wire that tells."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from routerx.domain.pricing import PriceCard, PriceSnapshot
from tests.flow.flow_kit import chunk, completion
from tests.support.gateway import ADMIN_KEY, HELLO, KEY, USD, Config, Gateway, Reply, config, running
from tests.support.upstream import DONE, Behaviour, End, Json, Ok, ScriptedUpstream, Stream, sse, usage_of

PRICE = {"input": 1, "output": 2, "tiers": {"flex": {"input": 0.5, "output": 1}, "priority": {"output": 6}}}
PLAIN, FLEX, PRIORITY = (7 * 1_000 + 3 * 2_000, 7 * 500 + 3 * 1_000, 7 * 1_000 + 3 * 6_000)
"""Of 7 tokens in and 3 out, in nano-USD. `priority` does not say what input costs."""
ROUTES = {"openai": "/v1/chat/completions", "responses": "/v1/responses", "anthropic": "/v1/messages"}


def tiered(up: str, dialect: str = "openai", **price: Any) -> Config:
    value = config(up)
    value["providers"]["up"] |= {"dialect": dialect, "base_url": up if dialect == "anthropic" else f"{up}/v1"}
    value["models"]["solo"]["endpoints"][0]["price"] = PRICE | price
    return value


def body_of(caller: str, **fields: Any) -> dict[str, Any]:
    """A request as callers of one wire write it."""
    body = {"model": "solo", **({"input": "Hello"} if caller == "responses" else {"messages": HELLO})}
    if caller == "anthropic":
        body["max_tokens"] = 100
    return body | fields


async def ask(gw: Gateway, caller: str, **fields: Any) -> Reply:
    return await gw.ask("POST", ROUTES[caller], body_of(caller, **fields), key=KEY)


def said(dialect: str, tier: Any, *, stream: bool) -> Behaviour:
    """An answer of a provider that speaks `dialect` and names `tier`."""
    return {"openai": _chat, "responses": _response, "anthropic": _message}[dialect](tier, stream)


def _chat(tier: Any, stream: bool) -> Behaviour:
    usage, served = usage_of(7, 3), {"service_tier": tier}
    if not stream:
        return Json(completion(usage) | served)
    last = {"id": "x", "object": "chat.completion.chunk", "model": "m", "choices": [], "usage": usage}
    asked = {"service_tier": "auto"}
    frames = [sse(chunk("Hello") | asked), sse(chunk(None, "stop") | asked), sse(last | served), DONE]
    return Stream(frames=frames)


def _response(tier: Any, stream: bool) -> Behaviour:
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed"}
    item["content"] = [{"type": "output_text", "text": "Hello", "annotations": []}]
    whole = {"id": "resp_1", "object": "response", "model": "m", "status": "completed", "output": [item]}
    whole |= {"service_tier": tier, "usage": {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}}
    if not stream:
        return Json(whole)
    opened = whole | {"service_tier": "auto", "status": "in_progress", "output": [], "usage": None}
    events = [
        {"type": "response.created", "response": opened},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": whole},
    ]
    return Stream(frames=[sse(event) for event in events])


def _message(tier: Any, stream: bool) -> Behaviour:
    whole = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn"}
    whole["content"] = [{"type": "text", "text": "Hello"}]
    usage = {"input_tokens": 7, "output_tokens": 3, "service_tier": tier}
    if not stream:
        return Json(whole | {"usage": usage})
    opened = whole | {"content": [], "stop_reason": None, "usage": usage | {"output_tokens": 1}}
    events = [
        {"type": "message_start", "message": opened},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}},
        {"type": "message_stop"},
    ]
    return Stream(frames=[sse(event) for event in events])


@pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])
@pytest.mark.parametrize("provider", ROUTES)
@pytest.mark.parametrize("caller", ["own", "other"])
async def test_the_tier_that_served_is_charged_on_every_wire(
    tmp_path: Path, caller: str, provider: str, stream: bool
) -> None:
    """Whether the caller speaks the provider's wire or another one."""
    route = provider if caller == "own" else "anthropic" if provider == "openai" else "openai"
    async with ScriptedUpstream() as up, running(tmp_path, tiered(up.url, provider)) as gw:
        for tier, cost in (("priority", PRIORITY), ("flex", FLEX)):
            up.queue(said(provider, tier, stream=stream))
            assert (await ask(gw, route, stream=stream)).status == 200
            row = await gw.settled()
            assert (row.cost_nano, row.price and row.price.tier) == (cost, tier)
        assert await gw.spent() == PRIORITY + FLEX
        await gw.assert_books_are_clean()


@pytest.mark.parametrize(
    ("asked", "reported", "cost", "flags"),
    [
        ("priority", "default", PLAIN, ()),
        ("flex", "standard", PLAIN, ()),
        ("flex", None, FLEX, ()),
        ("flex", 7, FLEX, ()),
        ("flex", "a tier with a name that is longer than any", FLEX, ()),
        ("auto", None, PLAIN, ()),
        (None, None, PLAIN, ()),
        (None, "auto", PLAIN, ()),
        (None, "priority", PRIORITY, ()),
        (None, "Priority", PRIORITY, ()),
        ("flex", "priority", PRIORITY, ()),
        ("scale", None, PLAIN, ()),
        ("flex", "scale", PLAIN, ("tier_unpriced",)),
    ],
)
async def test_the_answer_says_which_tier_served_and_else_the_request(
    tmp_path: Path, asked: str | None, reported: Any, cost: int, flags: tuple[str, ...]
) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, tiered(up.url)) as gw:
        up.queue(said("openai", reported, stream=False))
        await ask(gw, "openai", **({} if asked is None else {"service_tier": asked}))
        row = await gw.settled()
        assert (row.cost_nano, row.flags) == (cost, flags)
        await gw.assert_books_are_clean()


@pytest.mark.parametrize("wire", ROUTES)
@pytest.mark.parametrize(("asked", "cost"), [("flex", FLEX), ("default", PLAIN), (7, PLAIN), (None, PLAIN)])
async def test_where_no_tier_is_reported_the_one_asked_for_is_charged_on_every_wire(
    tmp_path: Path, wire: str, asked: Any, cost: int
) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, tiered(up.url, wire)) as gw:
        up.queue(said(wire, None, stream=False))
        assert (await ask(gw, wire, service_tier=asked)).status == 200
        assert (await gw.settled()).cost_nano == cost


async def test_a_tier_that_the_wire_of_the_provider_cannot_be_asked_for_has_not_served(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, tiered(up.url, "anthropic")) as gw:
        up.queue(said("anthropic", None, stream=False))
        await ask(gw, "openai", service_tier="flex")
        row = await gw.settled()
        assert row.cost_nano == PLAIN
        assert row.price == PriceSnapshot(PriceCard(1_000_000, 2_000_000))


async def test_a_tier_without_a_price_is_named_so_that_it_can_be_rated_later(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        up.queue(said("openai", "priority", stream=False))
        await gw.chat()
        row = await gw.settled()
        assert (row.cost_nano, row.flags) == (PLAIN, ("tier_unpriced",))
        assert (await gw.reload(tiered(up.url))).ok
        assert (await rerate(gw))["taken_nano"] == PRIORITY - PLAIN
        assert gw.funds().balance_nano == 10 * USD - PRIORITY
        assert (await rerate(gw))["corrected"] == 0
        account = await gw.ask("GET", f"/admin/v1/logs/{row.id}", key=ADMIN_KEY)
        assert account.json["tier"] == "priority"
        await gw.assert_books_are_clean()


async def rerate(gw: Gateway) -> Any:
    body = {"model": "solo", "since": "2020-01-01"}
    return (await gw.ask("POST", "/admin/v1/ledger/rerate", body, key=ADMIN_KEY)).json


@pytest.mark.parametrize(
    ("asked", "out_nano"),
    [("default", 2_000), ("flex", 2_000), ("priority", 6_000), ("auto", 6_000), (None, 6_000), ("scale", 6_000)],
)
async def test_as_much_is_held_as_the_dearest_tier_costs_that_may_serve(
    tmp_path: Path, asked: str | None, out_nano: int
) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, tiered(up.url)) as gw:
        fields = {} if asked is None else {"service_tier": asked}
        await gw.chat(max_tokens=1_000, **fields)
        await gw.chat(max_tokens=2_000, **fields)
        rows = [await gw.settled(), await gw.settled()]
        assert rows[1].held_nano - rows[0].held_nano == 1_000 * out_nano


async def test_a_stream_in_a_dear_tier_grows_its_hold_by_the_dear_price(tmp_path: Path) -> None:
    """Else a long answer would cost more than is held for it, and the rest would be the house's loss."""
    words = [*["word " * 60] * 36, "the last word"]
    frames = [*(sse(chunk(word) | {"service_tier": "priority"}) for word in words), sse(chunk(None, "stop"))]
    used = {"id": "x", "object": "chat.completion.chunk", "choices": [], "usage": usage_of(7, 3_600)}
    read = asyncio.Event()
    async with ScriptedUpstream() as up, running(tmp_path, tiered(up.url)) as gw:
        for _ in range(20):  # What such answers take is known then, and less is held for the next one.
            up.queue(Ok(usage=(7, 100)))
            await gw.chat()
            await gw.settled()
        up.queue(Stream(frames=[*frames, sse(used), DONE], gates={len(words): read}))
        caller = await gw.begin(stream=True)
        await caller.head()
        await caller.until(b"the last word")
        read.set()
        row = await gw.settled()
        assert row.cost_nano == 7 * 1_000 + 3_600 * 6_000
        assert row.cost_nano <= row.held_nano
        await gw.assert_books_are_clean()


async def test_what_still_fits_is_told_by_the_dearest_tier_that_may_serve(tmp_path: Path) -> None:
    def poor(up: str) -> Config:
        value = tiered(up)
        value["tenants"]["acme"]["opening_balance"] = "$0.01"
        return value

    async with ScriptedUpstream() as up, running(tmp_path, poor(up.url)) as gw:
        told = [(await gw.chat(max_tokens=100_000, service_tier=tier)).error for tier in ("default", "priority")]
        plain, dear = (error["max_affordable_tokens"] for error in told)
        assert plain // dear == 3


async def test_a_request_that_is_not_charged_in_a_tier_stores_no_other_tiers(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, tiered(up.url)) as gw:
        up.queue(said("openai", "default", stream=False))
        await gw.chat()
        row = await gw.settled()
        assert b"tiers" not in msgspec.json.encode(row.price)


@pytest.mark.parametrize("caller", ["openai", "anthropic"])
async def test_the_charge_of_a_caller_who_left_is_by_the_tier_that_was_told_so_far(tmp_path: Path, caller: str) -> None:
    """Passed on, and translated."""
    costs: dict[str, int] = {}
    async with ScriptedUpstream() as up, running(tmp_path, tiered(up.url)) as gw:
        for tier in ("default", "priority"):
            frame = sse(chunk("word " * 400) | {"service_tier": tier})
            up.queue(Stream(frames=[frame], stop_after=1, end=End.STALL))
            reader = await gw.connect()
            await reader.send("POST", ROUTES[caller], body_of(caller, stream=True))
            await reader.head()
            await reader.until(b"word")
            reader.leave()
            row = await gw.settled()
            assert row.usage is not None
            costs[tier] = row.cost_nano - row.usage.in_fresh * 1_000
        assert costs["priority"] == 3 * costs["default"] > 0
        await gw.assert_books_are_clean()
