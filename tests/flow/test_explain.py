"""POST /v1/explain: the plan of a request that is not made, told to tenants without what is the operator's alone."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from routerx.gateway.reasons import RULES
from routerx.http.calls import CALLS
from tests.support.gateway import ADMIN_KEY, HELLO, ROOT, TENANT, Config, Gateway, Reply, config, digest, running
from tests.support.upstream import ScriptedUpstream, Status

OTHER_KEY = "other_key_fake_123456"


def two(up: str, spare: str) -> Config:
    value = config(up, spare)
    value["plans"]["prepaid"] |= {"limits": {"rpm": 5, "tpm": 9_000, "concurrency": 2, "daily_requests": 100}}
    value["models"]["secret"] = {"endpoints": [{"provider": "spare", "price": {"input": 1, "output": 1}}]}
    value["tenants"][TENANT]["allow"] = ["solo", "duo", "flat", "vectors"]
    value["tenants"]["other"] = {"plan": "prepaid", "keys": [digest(OTHER_KEY)]}
    return value


@pytest.fixture
async def gateway(tmp_path: Path, up: ScriptedUpstream) -> AsyncIterator[Gateway]:
    async with running(tmp_path, two(up.url, up.url)) as gateway:
        yield gateway


async def explain(gateway: Gateway, model: str = "duo", headers: dict[str, str] | None = None, **fields: Any) -> Any:
    body = {"model": model, "messages": HELLO, **fields}
    reply = await gateway.ask("POST", "/v1/explain", body, headers=headers)
    assert reply.status == 200, reply.body
    return reply.json


async def as_operator(gateway: Gateway, request: Any, **question: Any) -> Reply:
    return await gateway.ask("POST", "/admin/v1/explain", {"request": request, **question}, key=ADMIN_KEY)


async def test_candidates_come_in_order_with_reasons_prices_and_deadlines(gateway: Gateway) -> None:
    told = await explain(gateway, stream=True, max_tokens=100)
    assert [(one["n"], one["endpoint"], one["fallback_model"]) for one in told["candidates"]] == [
        (1, "up/duo", False),
        (2, "spare/duo", False),
    ]
    first, second = told["candidates"]
    assert first["why"] == "priority 0, latency not known yet"
    assert second["why"].startswith("priority 1, ")
    assert first["price"] == {
        "input_usd_per_million": "1.00",
        "output_usd_per_million": "2.00",
        "request_usd": "0.00",
    }
    assert second["cost_most_nano"] == 10 * first["cost_most_nano"] > 100 * 2_000
    # While another is left the first token is waited for less.
    assert first["deadlines"] == {"connect_s": 5.0, "first_token_s": 12.0, "idle_s": 300.0, "total_s": 600.0}
    assert second["deadlines"]["first_token_s"] == 60.0
    assert (told["tenant"], told["asked"], told["model"], told["policy"], told["sort"]) == (
        TENANT,
        "duo",
        "duo",
        "default",
        "latency",
    )
    assert told["settings"]["attempts_max"] == 3
    assert told["refused"] is None


async def test_what_was_measured_and_what_broke_is_part_of_it(gateway: Gateway, up: ScriptedUpstream) -> None:
    await gateway.chat("duo", stream=True)
    told = await explain(gateway, stream=True)
    assert re.fullmatch(r"priority 0, \d\.\d\d s to the first token", told["candidates"][0]["why"])
    assert told["candidates"][0]["circuits"] == [
        {
            "credential_id": None,
            "circuit": "closed",
            "credential": "active",
            "ready_in_s": 0.0,
            "failures": None,
            "requests": None,
        }
    ]
    up.default = Status(401)
    await gateway.chat("solo")
    told = await explain(gateway, "solo")
    assert told["candidates"] == []
    assert told["excluded"] == [
        {
            "endpoint": "up/solo",
            "rule": "credential_quarantined",
            "says": "its keys are refused, or their accounts exhausted",
            "place": None,
        }
    ]
    assert (told["refused"]["status"], told["refused"]["code"]) == (503, "no_healthy_upstream")
    assert told["refused"]["retry_after_s"] > 100


async def test_nothing_is_called_held_counted_or_logged(gateway: Gateway, up: ScriptedUpstream) -> None:
    before = [await explain(gateway) for _ in range(7)]  # More than the plan's rpm.
    assert all(told["limits"] == before[0]["limits"] for told in before)
    assert {one["limit"]: (one["value"], one["left"]) for one in before[0]["limits"]} == {
        "rpm": (5, 5),
        "tpm": (9_000, 9_000),
        "concurrency": (2, 2),
        "daily_requests": (100, 100),
    }
    assert up.requests == []
    assert gateway.runtime.ledger.held_nano() == 0
    assert gateway.settles.empty()
    assert gateway.runtime.routing.view(0.0) == ()
    await gateway.chat("duo")
    assert {one["limit"]: one["left"] for one in (await explain(gateway))["limits"]}["rpm"] == 4


async def test_round_robin_and_exploration_keep_their_turn(tmp_path: Path, up: ScriptedUpstream) -> None:
    value = config(up.url, up.url)
    del value["models"]["duo"]["endpoints"][1]["priority"]
    value["policies"]["default"]["sort"] = "round-robin"
    async with running(tmp_path, value) as gateway:
        for first in ("up/duo", "spare/duo"):
            for _ in range(3):
                told = await explain(gateway)
                assert told["candidates"][0]["endpoint"] == first
                assert told["candidates"][0]["why"] == "priority 0, in turn"
            await gateway.chat("duo")
            assert (await gateway.settled()).endpoint == first


async def test_the_hold_is_the_one_that_would_be_taken(gateway: Gateway, up: ScriptedUpstream) -> None:
    hold = (await explain(gateway, max_tokens=50))["hold"]
    assert (hold["available_usd"], hold["fits"], hold["output_tokens_most"]) == ("10.00", True, 50)
    await gateway.chat("duo", max_tokens=50)
    assert (await gateway.settled()).held_nano == hold["amount_nano"] > 0
    poor = await explain(gateway, max_tokens=10**6)
    assert not poor["hold"]["fits"]
    assert (poor["refused"]["status"], poor["refused"]["code"]) == (402, "insufficient_balance")


async def test_what_nobody_could_ever_serve_is_explained_by_what_left_out_each(gateway: Gateway) -> None:
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]}]
    told = await explain(gateway, "flat", messages=picture)
    assert (told["refused"]["status"], told["refused"]["code"]) == (400, "invalid_parameter")
    assert [(one["rule"], one["says"]) for one in told["excluded"]] == [
        ("lacks_vision", "it does not offer vision, which the request needs")
    ]
    told = (await as_operator(gateway, {"model": "flat", "messages": picture})).json
    assert told["excluded"][0]["place"] is not None


async def test_headers_and_body_steer_it_as_they_steer_a_request(gateway: Gateway) -> None:
    told = await explain(gateway, headers={"X-RouterX-Provider-Ignore": "up", "X-RouterX-Timeout": "7"})
    assert [one["endpoint"] for one in told["candidates"]] == ["spare/duo"]
    assert told["candidates"][0]["deadlines"]["total_s"] == 7.0
    assert [(one["endpoint"], one["rule"]) for one in told["excluded"]] == [("up/duo", "ignored")]
    assert told["excluded"][0]["says"] == "'ignore' names its provider"
    told = await explain(gateway, provider={"order": ["spare", "up"]})
    assert [one["endpoint"] for one in told["candidates"]] == ["spare/duo", "up/duo"]
    assert told["candidates"][0]["why"] == "in the order that the caller gave"


@pytest.mark.parametrize("route", [*sorted(CALLS), "/v1beta/models/duo:streamGenerateContent?alt=sse"])
async def test_requests_of_every_route_can_be_explained(gateway: Gateway, route: str) -> None:
    request: dict[str, Any] = {"model": "duo", "messages": HELLO, "input": "Hello", "max_tokens": 5, "prompt": "Hello"}
    request |= {"query": "Hello", "documents": ["Hi"], "voice": "alto"}
    if "models/" in route:
        request = {"contents": [{"parts": [{"text": "Hello"}]}]}
    reply = await gateway.ask("POST", "/v1/explain", {"route": route, "request": request})
    if route == "/v1/audio/transcriptions":
        assert (reply.status, reply.error["param"]) == (400, "route")
        return
    assert reply.status == 200, reply.body
    assert reply.json["route"] == route
    assert reply.json["asked"] == "duo"
    assert reply.json["stream"] is ("stream" in route)
    if reply.json["refused"] is None:
        assert reply.json["candidates"][0]["endpoint"] == "up/duo"
    else:  # A model of chats.
        assert reply.json["refused"]["code"] == "model_not_found"


async def test_what_cannot_be_read_is_refused_as_the_request_would_be(gateway: Gateway) -> None:
    for body in ({"model": "duo", "messages": HELLO, "n": 0}, {"model": "duo", "messages": HELLO, "provider": 3}):
        reply = await gateway.ask("POST", "/v1/explain", body)
        assert (reply.status, reply.error["code"]) == (400, "invalid_parameter")
    reply = await gateway.ask("POST", "/v1/explain", {"route": "/v1/models", "request": {"model": "duo"}})
    assert (reply.status, reply.error["param"]) == (400, "route")
    assert "/v1/chat/completions" in reply.error["message"]
    reply = await gateway.ask("POST", "/v1/explain", {"rute": "/v1/messages", "request": {"model": "duo"}})
    assert (reply.status, reply.error["param"]) == (400, "request")
    assert (await gateway.ask("POST", "/v1/explain", {"model": "duo"}, key="wrong")).status == 401
    assert (await gateway.ask("GET", "/v1/explain")).status == 405


# --- who may know what


async def test_tenants_learn_no_paths_keys_or_hidden_models(tmp_path: Path, up: ScriptedUpstream) -> None:
    value = two(up.url, up.url)
    value["policies"]["default"] |= {"on_failure": ["secret"], "fence": {"max_cost_ratio": 2}}
    async with running(tmp_path, value) as gateway:
        await gateway.chat("duo")
        reply = await gateway.ask("POST", "/v1/explain", {"model": "duo", "messages": HELLO})
        assert [one["rule"] for one in reply.json["excluded"]] == ["fence_max_cost_ratio"]
        for hidden in (b"yaml", str(tmp_path).encode(), b"secret", b"up-", b"spare-"):
            assert hidden not in reply.body
        hidden_model = await explain(gateway, "secret")
        unknown = await explain(gateway, "secreu")
        words = hidden_model["refused"]["message"].replace("secret", "secreu")
        assert words == unknown["refused"]["message"]


async def test_operators_get_lines_and_credentials(tmp_path: Path, up: ScriptedUpstream) -> None:
    value = two(up.url, up.url)
    value["policies"]["default"] |= {"on_failure": ["secret"], "fence": {"max_cost_ratio": 2}}
    async with running(tmp_path, value) as gateway:
        await gateway.chat("duo")
        reply = await as_operator(gateway, {"model": "duo", "messages": HELLO}, tenant=TENANT)
        told = reply.json
        lines = (tmp_path / "routerx.yaml").read_text().splitlines()

        def line(place: str) -> str:
            file, _, number = place.rpartition(":")
            assert file == str(tmp_path / "routerx.yaml")
            return lines[int(number) - 1].strip()

        assert {one["rule"]: line(one["place"]) for one in told["excluded"]} == {
            "fence_max_cost_ratio": '"max_cost_ratio": 2',
            "not_allowed": '"allow": [',
        }
        assert line(told["settings"]["place"]) == '"default": {'
        [circuit] = told["candidates"][0]["circuits"]
        assert circuit["credential_id"].startswith("up-")
        assert (circuit["failures"], circuit["requests"]) == (0.0, 1)
        assert told["candidates"][0]["place"] is not None


async def test_operators_ask_as_any_tenant_with_headers_and_a_length(gateway: Gateway) -> None:
    request = {"model": "duo", "messages": HELLO}
    told = (await as_operator(gateway, request, tenant="other", headers={"x-routerx-sort": "price"})).json
    assert (told["tenant"], told["sort"]) == ("other", "price")
    assert told["candidates"][0]["why"] == "priority 0, $0.005 for 3,000 tokens in and 1,000 out"
    assert told["hold"]["available_usd"] == "0.00"
    told = (await as_operator(gateway, request, prompt_tokens=4_000)).json
    assert told["hold"]["input_tokens_most"] == 8_000
    assert (await as_operator(gateway, request, tenant="othr")).error["message"].endswith("did you mean 'other'?")
    assert (await gateway.ask("POST", "/admin/v1/explain", {"request": request})).status == 401


def test_every_rule_has_its_sentence() -> None:
    page = (ROOT / "docs/routing.md").read_text()
    table = page.split("## Who is a candidate")[1].split("\n## ")[0]
    rules = {
        rule
        for row in table.splitlines()
        if row.startswith("| `")
        for rule in re.findall(r"`(\w+)`", row.split("|")[1])
    }
    named = {rule for rule in rules if not rule.startswith("lacks_")}
    assert named == set(RULES)
