"""Requests that go out with tenants' own provider keys: who gets which key, who pays what, what the house learns."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.flow.flow_kit import UP_COST, metrics
from tests.flow.rescue_kit import policy, staged, tells
from tests.support.behaviours import Behaviour, Peer
from tests.support.gateway import (
    ADMIN_KEY,
    HELLO,
    KEY,
    TENANT,
    UPSTREAM_KEY,
    Config,
    Gateway,
    Reply,
    config,
    digest,
    running,
)
from tests.support.upstream import Json, Ok, Reset, ScriptedUpstream, Silence, Status, Stream

OWN, NEXT, SENT = "canary-own-key-1", "canary-own-key-2", "canary-sent-key-3"
OTHER, OTHER_KEY, OTHER_OWN = "other", "other_key_fake_123456", "canary-key-of-other-4"
CHAT, EXPLAIN = "/v1/chat/completions", "/v1/explain"
FEE = UP_COST // 10
MARKED_UP = UP_COST * 3 // 2
Change = Callable[[Config], None]


@dataclass(frozen=True)
class ByKey:
    """Answers the house's key and any other one differently."""

    own: Behaviour
    house: Behaviour

    async def play(self, peer: Peer) -> None:
        await (self.house if _key(peer.request.headers) == UPSTREAM_KEY else self.own).play(peer)


def _key(headers: dict[str, str]) -> str:
    return headers.get("x-api-key") or headers["authorization"].removeprefix("Bearer ")


def keys_at(upstream: ScriptedUpstream) -> list[str]:
    """The keys that it was asked with, in order."""
    return [_key(request.headers) for request in upstream.requests]


@asynccontextmanager
async def two(
    tmp_path: Path, change: Change = lambda _: None
) -> AsyncIterator[tuple[Gateway, ScriptedUpstream, ScriptedUpstream]]:
    """`acme` pays a fee of 10% on own keys and a markup of 50% on the house's, and has a key of its own for `up`."""
    async with ScriptedUpstream() as up, ScriptedUpstream() as spare:
        value = config(up.url, spare.url)
        value["plans"]["prepaid"] |= {"byok_fee": "10%", "markup": "50%"}
        value["tenants"][OTHER] = {"plan": "prepaid", "opening_balance": "$10", "keys": [digest(OTHER_KEY)]}
        value["providers"]["claude"] = {"dialect": "anthropic", "base_url": up.url, "keys": ["${env:UP_KEY}"]}
        value["models"]["sonnet"] = {"endpoints": [{"provider": "claude", "price": {"input": 1, "output": 2}}]}
        change(value)
        async with running(tmp_path, value) as gateway:
            await store(gateway, OWN)
            yield gateway, up, spare
            await gateway.assert_books_are_clean()


@pytest.fixture(autouse=True)
def _files_settle_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("routerx.config.watch.SETTLE_S", 0.005)


def opted_in(value: Config) -> None:
    value["tenants"][TENANT]["byok_fallback"] = True


async def store(gateway: Gateway, key: str | None, provider: str = "up", tenant: str = TENANT) -> None:
    path = f"/admin/v1/tenants/{tenant}/byok/{provider}"
    body = None if key is None else {"key": key}
    reply = await gateway.ask("DELETE" if key is None else "PUT", path, body, key=ADMIN_KEY)
    assert reply.status == 200, reply.body


async def chat(gateway: Gateway, model: str = "duo", *, headers: Any = None, key: str = KEY, **fields: Any) -> Reply:
    body = {"model": model, "messages": HELLO, **fields}
    return await gateway.ask("POST", CHAT, body, key=key, headers=headers)


# --- what is sent, and what it costs


ANTHROPIC_ANSWER = Json(
    {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 7, "output_tokens": 3},
    }
)
VECTOR = {"object": "embedding", "index": 0, "embedding": [0.5]}
VECTORS = Json({"object": "list", "model": "m", "data": [VECTOR], "usage": {"prompt_tokens": 7, "total_tokens": 7}})
CALLS = {
    "buffered": (CHAT, {"model": "duo", "messages": HELLO}, Ok()),
    "streamed": (CHAT, {"model": "duo", "messages": HELLO, "stream": True}, Stream()),
    "embeddings": ("/v1/embeddings", {"model": "vectors", "input": "Hello"}, VECTORS),
    "anthropic": ("/v1/messages", {"model": "sonnet", "max_tokens": 9, "messages": HELLO}, ANTHROPIC_ANSWER),
    "translated": ("/v1/messages", {"model": "duo", "max_tokens": 9, "messages": HELLO}, Ok()),
}


@pytest.mark.parametrize("call", CALLS)
async def test_the_stored_key_is_what_the_provider_gets_and_the_fee_is_all_that_is_charged(
    tmp_path: Path, call: str
) -> None:
    path, body, answer = CALLS[call]
    async with two(tmp_path) as (gw, up, spare):
        await store(gw, OWN, "claude")
        before = gw.funds().balance_nano
        up.default = answer
        reply = await gw.ask("POST", path, body)
        assert reply.status == 200, reply.body
        assert (keys_at(up), spare.requests) == ([OWN], [])
        assert OWN not in f"{reply.body!r}{reply.headers}"
        row = await gw.settled()
        fee = 700 if call == "embeddings" else FEE
        assert (row.billing.value, row.cost_nano, "byok" in row.flags) == ("byok", fee, True)
        assert OWN not in repr(row)
        assert gw.funds().balance_nano == before - fee
        transfers = await gw.runtime.ledger.transfers(TENANT, 10)
        assert [one.kind for one in transfers if one.request_id is not None] == ["byok_fee"]
        assert "canary" not in await metrics(gw)
        own = (await gw.ask("GET", "/v1/key")).body
        assert b"canary" not in own


async def test_a_key_that_comes_with_the_request_goes_before_the_stored_one(tmp_path: Path) -> None:
    async with two(tmp_path) as (gw, up, _):
        assert (await chat(gw, headers={"X-RouterX-API-Key": SENT})).status == 200
        assert (await chat(gw)).status == 200
        assert keys_at(up) == [SENT, OWN]
        assert not any(name.startswith("x-routerx") for name in up.requests[0].headers)


async def test_a_prompt_is_counted_with_the_own_key_and_for_nothing(tmp_path: Path) -> None:
    async with two(tmp_path) as (gw, up, _):
        await store(gw, OWN, "claude")
        up.default = Json({"input_tokens": 7})
        body = {"model": "sonnet", "messages": HELLO}
        assert (await gw.ask("POST", "/v1/messages/count_tokens", body)).json == {"input_tokens": 7}
        assert (keys_at(up), (await gw.settled()).cost_nano) == ([OWN], 0)


async def test_set_replace_and_remove_count_for_the_next_request_and_not_for_one_in_flight(tmp_path: Path) -> None:
    async with two(tmp_path) as (gw, up, _):
        for now in (NEXT, None):
            gate = asyncio.Event()
            before = keys_at(up)
            up.queue(Held(gate, Status(500)))
            running_one = asyncio.create_task(chat(gw, "solo"))
            old = _key((await up.arrived(len(before) + 1)).headers)
            await store(gw, now)
            assert (await chat(gw, "solo")).status == 200
            gate.set()
            assert (await running_one).status == 200
            assert keys_at(up)[len(before) :] == [old, now or UPSTREAM_KEY, old]


@dataclass(frozen=True)
class Held:
    """Waits before it answers."""

    gate: asyncio.Event
    then: Behaviour

    async def play(self, peer: Peer) -> None:
        await self.gate.wait()
        await self.then.play(peer)


async def test_a_reload_keeps_own_keys_and_what_is_in_flight(tmp_path: Path) -> None:
    async with two(tmp_path) as (gw, up, spare):
        gate = asyncio.Event()
        up.queue(Held(gate, Ok()))
        running_one = asyncio.create_task(chat(gw))
        await up.arrived(1)
        value = config(up.url, spare.url)
        value["tenants"][OTHER] = {"plan": "prepaid"}
        value["models"]["duo"]["endpoints"].reverse()
        assert (await gw.reload(value)).ok
        gate.set()
        assert (await running_one).status == 200
        assert (await chat(gw)).status == 200
        assert (keys_at(up), spare.requests) == ([OWN, OWN], [])


async def test_two_tenants_at_one_provider_never_mix(tmp_path: Path) -> None:
    """Forty callers at once, over kept connections, with stored and sent keys and the house's."""
    async with two(tmp_path) as (gw, up, _):
        await store(gw, OTHER_OWN, tenant=OTHER)
        callers = {
            OWN: (KEY, None),
            OTHER_OWN: (OTHER_KEY, None),
            SENT: (KEY, {"X-RouterX-API-Key": SENT}),
            NEXT: (OTHER_KEY, {"X-RouterX-API-Key": NEXT}),
        }

        async def ask(own: str, n: int) -> None:
            key, headers = callers[own]
            for turn in range(3):
                asked = await chat(gw, "solo", key=key, headers=headers, user=own, stream=(n + turn) % 2 == 0)
                assert asked.status == 200
                assert asked.text

        up.default = Either()
        await asyncio.gather(*(ask(own, n) for n in range(10) for own in callers))
        seen = [(json.loads(request.body)["user"], _key(request.headers)) for request in up.requests]
        assert len(seen) == 120
        assert [pair for pair in seen if pair[0] != pair[1]] == []


@dataclass(frozen=True)
class Either:
    """A stream for who asks for one."""

    async def play(self, peer: Peer) -> None:
        wants = json.loads(peer.request.body).get("stream")
        await asyncio.sleep(0)
        await (Stream() if wants else Ok()).play(peer)


# --- what the house learns


LIMITED = {"retry-after": "30", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "50s"}
TROUBLES: dict[str, Behaviour] = {
    "fine": Ok(headers=LIMITED),
    "refused": Status(401),
    "limited": Status(429, headers=LIMITED),
    "failing": Status(500),
    "overloaded": Status(503),
    "hung up": Reset(),
}


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_the_house_learns_nothing_from_calls_with_own_keys(tmp_path: Path, trouble: str) -> None:
    async with two(tmp_path, impatient) as (gw, up, _):
        up.default = ByKey(TROUBLES[trouble], Ok())
        for stream in (False, True) * 3:
            await chat(gw, "solo", stream=stream)
        routing = gw.runtime.routing
        assert (routing.view(0.0), routing.key_stats(0.0)) == ((), ())
        assert (await chat(gw, "solo", key=OTHER_KEY)).status == 200
        (view,) = routing.view(0.0)
        assert (view.circuit, view.requests, view.failures, view.uptime) == ("closed", 1, 0.0, 1.0)
        (stats,) = routing.key_stats(0.0)
        assert (stats.requests, stats.failures, stats.rate_limited) == (1, 0, 0)


def impatient(value: Config) -> None:
    """Nobody waits for the end of a Retry-After."""
    value["policies"]["default"]["retry"]["attempts"] = 2
    value["policies"]["default"]["timeouts"] = {"total": "1s"}


async def test_what_rests_at_the_house_does_not_keep_own_keys_from_being_asked(tmp_path: Path) -> None:
    async with two(tmp_path) as (gw, up, _):
        up.default = ByKey(Ok(), Status(401))
        assert (await chat(gw, "solo", key=OTHER_KEY)).status == 502
        assert (await chat(gw, "solo", key=OTHER_KEY)).status == 503
        assert (await chat(gw, "solo")).status == 200


async def test_an_own_key_is_asked_again_after_a_passing_fault(tmp_path: Path) -> None:
    async with two(tmp_path) as (gw, up, spare):
        for fault in (Status(500), Reset(), Status(429)):
            up.queue(fault)
            assert (await chat(gw)).status == 200
        assert (set(keys_at(up)), len(up.requests), spare.requests) == ({OWN}, 6, [])


async def test_what_an_own_key_may_cost_is_no_cost_of_the_houses(tmp_path: Path) -> None:
    async with two(tmp_path) as (gw, up, _):
        up.default = Reset()
        assert (await chat(gw)).status == 502
        row = await gw.settled()
        assert row.attempts
        assert [one.cost_est_nano for one in row.attempts] == [0] * len(row.attempts)
        up.default = Stream(["Hel", "lo"], stop_after=2)
        assert (await chat(gw, stream=True)).stream_error is not None
        row = await gw.settled()
        assert [one.cost_est_nano for one in row.attempts] == [0] * len(row.attempts)


async def test_what_own_keys_are_billed_for_is_in_no_sum_of_the_houses(tmp_path: Path) -> None:
    async with two(tmp_path) as (gw, _, _):
        for key, house in ((KEY, 0), (OTHER_KEY, UP_COST)):
            assert (await chat(gw, "solo", key=key)).status == 200
            assert (await gw.settled()).provider_cost_nano == UP_COST
            usage = (await gw.ask("GET", "/v1/stats/providers/tokens", key=ADMIN_KEY)).json["totals"]
            assert [one["provider_cost_nano"] for one in usage] == [house]
            told_of = [line for line in (await metrics(gw)).splitlines() if line.startswith("routerx_provider_cost")]
            assert [float(line.split()[-1]) for line in told_of] == [house / 1e9]


# --- nothing is replaced in silence


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refused_key_is_told_and_no_key_of_the_house_is_used(tmp_path: Path, stream: bool) -> None:
    async with two(tmp_path) as (gw, up, spare):
        for number, status in enumerate((401, 402, 403), 1):
            up.default = ByKey(Status(status, {"error": {"message": f"bad key {OWN}"}}), Ok())
            reply = await chat(gw, stream=stream)
            assert (reply.status, reply.error["code"]) == (403, "byok_key_rejected")
            assert OWN not in reply.body.decode()
            assert (keys_at(up), spare.requests) == ([OWN] * number, [])
            row = await gw.settled()
            assert (row.outcome, row.cost_nano) == ("byok_rejected", 0)
            assert (gw.funds().spent_total_nano, gw.funds().held_nano) == (0, 0)


async def test_an_own_key_for_the_next_provider_may_stand_in_for_a_refused_one(tmp_path: Path) -> None:
    async with two(tmp_path) as (gw, up, spare):
        await store(gw, NEXT, "spare")
        up.default = Status(401)
        assert (await chat(gw)).status == 200
        assert (keys_at(up), keys_at(spare)) == ([OWN], [NEXT])
        assert (await gw.settled()).cost_nano == 10 * FEE


@pytest.mark.parametrize("trouble", ["limited", "failing", "overloaded", "hung up"])
async def test_no_trouble_leads_to_the_houses_keys(tmp_path: Path, trouble: str) -> None:
    async with two(tmp_path, impatient) as (gw, up, spare):
        up.default = ByKey(TROUBLES[trouble], Ok())
        assert (await chat(gw)).status >= 400
        assert (set(keys_at(up)), spare.requests) == ({OWN}, [])
        assert (await gw.settled()).cost_nano == 0


async def test_a_lost_key_is_told_and_no_provider_serves_with_the_houses(tmp_path: Path) -> None:
    async with two(tmp_path) as (gw, up, spare):
        value = json.loads((gw.folder / "routerx.yaml").read_text())
    (tmp_path / "data" / "secrets" / "vault.key").unlink()
    async with running(tmp_path, value) as gw:
        reply = await chat(gw)
        assert (reply.status, reply.error["code"]) == (503, "no_healthy_upstream")
        assert "cannot be read" in reply.error["message"]
        assert (up.requests, spare.requests, gw.funds().held_nano) == ([], [], 0)


# --- with the tenant's word for it


@pytest.mark.parametrize("stream", [False, True])
async def test_who_opts_in_is_served_by_the_houses_keys_and_pays_the_plans_prices(tmp_path: Path, stream: bool) -> None:
    async with two(tmp_path, opted_in) as (gw, up, spare):
        for trouble in ("refused", "limited", "failing", "overloaded", "hung up"):
            up.default = ByKey(TROUBLES[trouble], Stream() if stream else Ok())
            before, asked = gw.funds().balance_nano, len(up.requests)
            assert (await chat(gw, stream=stream)).status == 200
            assert keys_at(up)[asked] == OWN
            assert keys_at(up)[-1] == UPSTREAM_KEY
            row = await gw.settled()
            assert (row.billing.value, row.cost_nano, "byok" in row.flags) == ("paid", MARKED_UP, False)
            assert gw.funds().balance_nano == before - MARKED_UP
        assert spare.requests == []


async def test_who_opts_in_is_still_served_by_its_own_key_while_that_works(tmp_path: Path) -> None:
    async with two(tmp_path, opted_in) as (gw, up, _):
        assert (await chat(gw)).status == 200
        assert keys_at(up) == [OWN]
        row = await gw.settled()
        assert (row.billing.value, row.cost_nano) == ("byok", FEE)
        assert row.held_nano >= MARKED_UP  # The house may come to serve it.


@pytest.mark.parametrize("stream", [False, True])
async def test_an_own_key_without_a_fee_costs_nothing_beside_the_houses_hold(tmp_path: Path, stream: bool) -> None:
    def no_fee(value: Config) -> None:
        opted_in(value)
        del value["plans"]["prepaid"]["byok_fee"]

    async with two(tmp_path, no_fee) as (gw, up, _):
        up.default = Stream() if stream else Ok()
        assert (await chat(gw, stream=stream)).text
        row = await gw.settled()
        assert (row.billing.value, row.cost_nano) == ("byok", 0)
        assert row.held_nano > 0


@pytest.mark.parametrize("stream", [False, True])
async def test_who_cannot_pay_for_the_house_goes_by_its_own_key_alone(tmp_path: Path, stream: bool) -> None:
    def poor(value: Config) -> None:
        opted_in(value)
        del value["plans"]["prepaid"]["byok_fee"]
        value["tenants"][TENANT]["opening_balance"] = "$0"

    async with two(tmp_path, poor) as (gw, up, spare):
        up.default = ByKey(Stream() if stream else Ok(), Ok())
        assert (await chat(gw, stream=stream)).status == 200
        up.default = ByKey(Status(401), Ok())
        assert (await chat(gw, stream=stream)).error["code"] == "byok_key_rejected"
        assert (keys_at(up), spare.requests) == ([OWN, OWN], [])
        told_of = (await gw.ask("POST", EXPLAIN, {"model": "duo", "messages": HELLO})).json
        assert told_of["refused"] is None
        assert [(one["endpoint"], one["own_key"]) for one in told_of["candidates"]] == [("up/duo", True)]
        assert [(one["endpoint"], one["rule"]) for one in told_of["excluded"]] == [("spare/duo", "unpayable")]


async def test_who_cannot_pay_the_fee_is_refused_as_anybody_without_money(tmp_path: Path) -> None:
    def poor(value: Config) -> None:
        opted_in(value)
        value["tenants"][TENANT]["opening_balance"] = "$0"

    async with two(tmp_path, poor) as (gw, up, _):
        reply = await chat(gw)
        assert (reply.status, reply.error["code"], up.requests) == (402, "insufficient_balance", [])


async def test_a_key_that_was_sent_is_never_replaced_whatever_the_tenant_has_opted_in_to(tmp_path: Path) -> None:
    async with two(tmp_path, opted_in) as (gw, up, spare):
        up.default = Status(401)
        reply = await chat(gw, headers={"X-RouterX-API-Key": SENT})
        assert (reply.status, reply.error["code"]) == (403, "byok_key_rejected")
        assert (keys_at(up), spare.requests) == ([SENT], [])


async def test_no_hedge_goes_from_an_own_key_to_the_houses(tmp_path: Path) -> None:
    def hedged(value: Config) -> None:
        opted_in(value)
        value["policies"]["default"] |= {"hedge": "10ms", "timeouts": {"first_token": "150ms"}}

    async with two(tmp_path, hedged) as (gw, up, spare):
        up.default = ByKey(Silence(), Stream())
        assert (await chat(gw, stream=True)).status == 200
        assert (keys_at(up), spare.requests) == ([OWN, UPSTREAM_KEY], [])
        row = await gw.settled()
        assert [one.outcome for one in row.attempts] == ["upstream_first_byte_timeout", "ok"]


@pytest.mark.parametrize("opts_in", [False, True])
async def test_a_stream_is_rescued_by_the_house_only_for_who_has_opted_in(tmp_path: Path, opts_in: bool) -> None:
    def change(value: Config) -> None:
        policy(rescue="on")(value)
        value["tenants"][TENANT]["byok_fallback"] = opts_in

    async with staged(tmp_path, change) as stage:
        gw, up = stage.gateway, stage.up
        await store(gw, OWN)
        up.default = ByKey(stage.breaks("Hel", "lo"), tells("Hel", "lo", " you"))
        reply = await stage.ask()
        row = await gw.settled()
        if opts_in:
            assert (reply.text, keys_at(up)) == ("Hello you", [OWN, UPSTREAM_KEY])
            assert (row.billing.value, row.cost_nano, "rescued" in row.flags) == ("paid", UP_COST, True)
        else:
            assert reply.stream_error is not None
            assert (keys_at(up), row.cost_nano) == ([OWN], 0)
        assert stage.spare.requests == []


# --- answers that are told again


async def test_a_cached_answer_is_the_tenants_own_and_free(tmp_path: Path) -> None:
    async with two(tmp_path) as (gw, up, _):
        cache = {"X-RouterX-Cache": "true"}
        assert (await chat(gw, headers=cache)).status == 200
        assert (await gw.settled()).cost_nano == FEE
        assert (await chat(gw, headers=cache)).headers["x-routerx-cache-hit"] == "true"
        row = await gw.settled()
        assert (row.billing.value, row.cost_nano) == ("cached", 0)
        assert (await chat(gw, headers=cache, key=OTHER_KEY)).status == 200
        assert keys_at(up) == [OWN, UPSTREAM_KEY]


@pytest.mark.parametrize("sent", [False, True])
async def test_a_request_that_is_sent_again_is_neither_asked_nor_charged_again(tmp_path: Path, sent: bool) -> None:
    async with two(tmp_path) as (gw, up, _):
        headers = {"Idempotency-Key": "order-1"} | ({"X-RouterX-API-Key": SENT} if sent else {})
        first, again = [await chat(gw, headers=headers) for _ in range(2)]
        assert (first.body, first.status) == (again.body, 200)
        assert keys_at(up) == [SENT if sent else OWN]
        assert gw.funds().spent_total_nano == FEE


# --- explained


async def test_an_explanation_says_which_candidates_are_asked_with_an_own_key(tmp_path: Path) -> None:
    async with two(tmp_path, opted_in) as (gw, up, _):
        up.default = ByKey(Ok(), Status(500))
        assert (await chat(gw, key=OTHER_KEY)).status == 200
        body = {"model": "duo", "messages": HELLO}
        own = await gw.ask("POST", EXPLAIN, body)
        operators = await gw.ask("POST", "/admin/v1/explain", {"request": body, "tenant": TENANT}, key=ADMIN_KEY)
        for reply in (own, operators):
            told_of = [(one["endpoint"], one["own_key"], one["cost_most_nano"]) for one in reply.json["candidates"]]
            assert [one[:2] for one in told_of] == [("up/duo", True), ("up/duo", False), ("spare/duo", False)]
            assert told_of[0][2] * 15 == told_of[1][2]
            first = reply.json["candidates"][0]
            assert first["why"].startswith("asked with the tenant's own key, priority 0")
            assert first["circuits"] == []
            assert b"canary" not in reply.body
        sent = await gw.ask("POST", EXPLAIN, body, headers={"X-RouterX-API-Key": SENT}, key=OTHER_KEY)
        assert [(one["endpoint"], one["own_key"]) for one in sent.json["candidates"]] == [("up/duo", True)]
        assert ("spare/duo", "other_provider") in [(one["endpoint"], one["rule"]) for one in sent.json["excluded"]]


async def test_an_operator_is_shown_which_line_keeps_the_houses_keys_out(tmp_path: Path) -> None:
    def opted_out(value: Config) -> None:
        value["tenants"][TENANT]["byok_fallback"] = False

    async with two(tmp_path, opted_out) as (gw, _, _):
        assert await said_at(gw, "duo", TENANT) == [("house_key", '"byok_fallback": false')]


async def said_at(gateway: Gateway, model: str, tenant: str) -> list[tuple[str, str]]:
    """Rules that leave out what serves the model, and the line of the file that each is from."""
    question = {"request": {"model": model, "messages": HELLO}, "tenant": tenant}
    told_of = (await gateway.ask("POST", "/admin/v1/explain", question, key=ADMIN_KEY)).json["excluded"]
    lines = (gateway.folder / "routerx.yaml").read_text().splitlines()
    return [(one["rule"], lines[int(one["place"].rpartition(":")[2]) - 1].strip(" ,")) for one in told_of]


# --- providers with own keys only


def only_own(value: Config) -> None:
    """The house has no key for `up`."""
    value["providers"]["up"] = {"base_url": value["providers"]["up"]["base_url"], "byok_only": True}
    value["models"]["own"] = {"endpoints": [{"provider": "up", "price": {"input": 1, "output": 2}}]}


async def test_a_provider_with_own_keys_only_serves_who_has_one_and_sends_others_elsewhere(tmp_path: Path) -> None:
    async with two(tmp_path, only_own) as (gw, up, spare):
        assert (await chat(gw)).status == 200
        assert (await gw.settled()).cost_nano == FEE
        assert (await chat(gw, key=OTHER_KEY, headers={"X-RouterX-API-Key": SENT})).status == 200
        assert (await chat(gw, key=OTHER_KEY)).status == 200
        assert (keys_at(up), keys_at(spare)) == ([OWN, SENT], [UPSTREAM_KEY])


async def test_who_has_no_key_where_only_own_ones_are_taken_is_told_to_bring_one(tmp_path: Path) -> None:
    async with two(tmp_path, only_own) as (gw, up, _):
        for model in ("own", "up/own", "up/undeclared"):
            reply = await chat(gw, model, key=OTHER_KEY)
            assert (reply.status, reply.error["code"]) == (403, "permission_denied")
            assert "send yours in X-RouterX-API-Key" in reply.error["message"]
        body = {"model": "own", "messages": HELLO}
        told_of = (await gw.ask("POST", EXPLAIN, body, key=OTHER_KEY)).json
        assert (told_of["refused"]["status"], told_of["excluded"][0]["rule"]) == (403, "no_house_key")
        assert await said_at(gw, "own", OTHER) == [("no_house_key", '"byok_only": true')]
        assert up.requests == []
        await store(gw, None)
        assert (await chat(gw, "own")).status == 403


async def test_a_reload_takes_a_key_of_the_house_and_lets_it_go(tmp_path: Path) -> None:
    async with two(tmp_path, only_own) as (gw, up, _):
        value = json.loads((gw.folder / "routerx.yaml").read_text())
        value["providers"]["up"] = {"base_url": value["providers"]["up"]["base_url"], "keys": ["${env:UP_KEY}"]}
        assert (await gw.reload(value)).ok
        assert (await chat(gw, "own", key=OTHER_KEY)).status == 200
        only_own(value)
        assert (await gw.reload(value)).ok
        assert (await chat(gw, "own", key=OTHER_KEY)).status == 403
        assert (await chat(gw, "own")).status == 200
        assert keys_at(up) == [UPSTREAM_KEY, OWN]


async def test_models_are_listed_to_who_can_use_them(tmp_path: Path) -> None:
    async with two(tmp_path, only_own) as (gw, _, _):

        async def listed(key: str, **headers: str) -> dict[str, list[str]]:
            reply = await gw.ask("GET", "/v1/models", key=key, headers=headers)
            return {model["id"]: model["providers"] for model in reply.json["data"]}

        has_one, has_none = await listed(KEY), await listed(OTHER_KEY)
        assert (has_one["own"], has_one["duo"]) == (["up"], ["spare", "up"])
        assert ("own" in has_none, has_none["duo"]) == (False, ["spare"])
        assert await listed(OTHER_KEY, **{"X-RouterX-API-Key": SENT}) == has_one
        assert [(await gw.ask("GET", "/v1/models/own", key=key)).status for key in (KEY, OTHER_KEY)] == [200, 404]


async def test_operators_see_that_own_keys_only_are_taken_and_nobody_looks_without_one(tmp_path: Path) -> None:
    async with two(tmp_path, only_own) as (gw, up, _):
        view = (await gw.ask("GET", "/admin/v1/providers/up", key=ADMIN_KEY)).json
        assert (view["provider"]["state"], view["keys"]) == ("own_keys", [])
        tested = (await gw.ask("POST", "/admin/v1/providers/up/test", key=ADMIN_KEY)).json
        assert (tested["ok"], tested["looks"]) == (False, [])
        assert sorted(gw.runtime.checks.book.due(1.0, frozenset(), 10**9)) == ["claude", "spare"]
        (stored,) = (await gw.ask("GET", f"/admin/v1/tenants/{TENANT}/byok", key=ADMIN_KEY)).json["data"]
        assert stored["state"] == "active"
        refused = await gw.ask("POST", "/v1/admin/keys", {"provider": "up", "key": NEXT}, key=ADMIN_KEY)
        assert (refused.status, "providers.up.byok_only" in refused.error["message"]) == (409, True)
        assert up.requests == []
