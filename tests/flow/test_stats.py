"""Figures: of providers and keys for operators, of their own requests for tenants, and nothing of others."""

from pathlib import Path
from typing import Any

import pytest

from tests.flow.flow_kit import UP_COST
from tests.support.gateway import ADMIN_KEY, KEY, TENANT, UPSTREAM_KEY, Config, Gateway, config, digest, running
from tests.support.upstream import Ok, ScriptedUpstream, Status

OTHER_KEY = "other_tenant_key_fake_123456"
OWN = (
    "/router/stats",
    "/router/health",
    "/router/rate-limits",
    "/auth/status",
    "/auth/metrics",
    "/v1/health/providers",
)


def shared(up: ScriptedUpstream) -> Config:
    """A second tenant, `rival`, which may only use `flat`; both have limits."""
    value = config(up.url, up.url)
    value["plans"]["prepaid"]["limits"] = {"rpm": 100, "daily_requests": 50}
    rival = {"plan": "prepaid", "opening_balance": "$10", "keys": [digest(OTHER_KEY)], "allow": ["flat"]}
    value["tenants"]["rival"] = rival
    return value


async def stats(gateway: Gateway, path: str, status: int = 200) -> Any:
    reply = await gateway.ask("GET", path, key=ADMIN_KEY)
    assert reply.status == status, reply.body
    assert UPSTREAM_KEY.encode() not in reply.body
    return reply.json if status == 200 else reply.error


async def test_keys_and_providers_have_counts_and_a_history(gw: Gateway, up: ScriptedUpstream) -> None:
    up.queue(Ok(), Ok(), Status(400), Status(429, headers={"retry-after": "60"}))
    for _ in range(4):
        await gw.chat()
    (key,) = (await stats(gw, "/v1/stats/keys"))["data"]
    counts = {name: key["stats"][name] for name in ("requests", "successes", "rate_limited", "tokens")}
    assert counts == {"requests": 4, "successes": 2, "rate_limited": 1, "tokens": 20}
    assert key["state"] == "cooling"
    assert 50 < key["ready_in_s"] <= 60
    assert key["stats"]["last_used"].startswith("20")

    (provider,) = (await stats(gw, "/v1/stats/providers"))["data"]
    assert (provider["provider"], provider["stats"]) == ("up", key["stats"])

    series = await stats(gw, f"/v1/stats/keys/{key['id']}/timeseries?window_minutes=10&step_seconds=300")
    assert (len(series["points"]), series["step_seconds"]) == (2, 300)
    assert sum(point["requests"] for point in series["points"]) == 4
    assert sum(point["tokens"] for point in series["points"]) == 20
    assert series["points"][0]["at"] < series["points"][1]["at"]

    debug = await stats(gw, f"/v1/stats/debug/key/{key['id']}")
    assert (debug["key"]["state"], debug["circuits"][0]["endpoint"]) == ("cooling", "up/solo")


async def test_tokens_by_provider_come_from_the_books(tmp_path: Path, up: ScriptedUpstream) -> None:
    async with running(tmp_path, shared(up)) as gateway:
        await gateway.chat()
        await gateway.chat("flat", key=OTHER_KEY)
        up.queue(Status(400))
        await gateway.chat()
        await gateway.spent()
        for period, step in (("hour", 300), ("day", 3_600), ("week", 86_400), ("month", 86_400)):
            report = await stats(gateway, f"/v1/stats/providers/tokens?period={period}")
            (total,) = report["totals"]
            assert (report["step_seconds"], total["provider"]) == (step, "up")
            assert (total["input_tokens"], total["output_tokens"], total["succeeded"]) == (14, 6, 2)
            assert total["cost_nano"] == UP_COST + 10**9
            assert sum(row["requests"] for row in report["series"]) == total["requests"]
            assert {row["at"] for row in report["series"]} >= {report["series"][-1]["at"]}
        own = (await gateway.ask("GET", "/auth/metrics?period=week")).json
        assert [row["input_tokens"] for row in own["totals"]] == [7]
        assert "provider_cost" not in str(own)


@pytest.mark.parametrize(
    ("path", "status", "param", "says"),
    [
        ("/v1/stats/providers/tokens?period=year", 404, "period", "no period 'year'"),
        ("/v1/stats/providers/tokens?days=3", 400, "days", "known: period"),
        ("/v1/stats/providers?x=1", 400, "x", "There is no parameter 'x' here."),
        ("/v1/stats/keys?provider=none", 404, "provider", "no provider 'none'"),
        ("/v1/stats/keys/none/timeseries", 404, "key", "no key 'none'"),
        ("/v1/stats/keys/KEY/timeseries?window_minutes=0", 400, "window_minutes", "from 1 to 1440"),
        ("/v1/stats/keys/KEY/timeseries?window_minutes=x", 400, "window_minutes", "a whole number"),
        ("/v1/stats/keys/KEY/timeseries?window_minutes=1&step_seconds=61", 400, "step_seconds", "window's length"),
        ("/v1/stats/keys/KEY/timeseries?window_minutes=1440&step_seconds=1", 400, "step_seconds", "1440 steps"),
        ("/v1/stats/debug/key/none", 404, "key", "no key 'none'"),
        ("/v1/stats/nothing", 404, None, "no admin route"),
    ],
)
async def test_what_is_wrong_with_a_question_is_named(
    gw: Gateway, path: str, status: int, param: str | None, says: str
) -> None:
    (key,) = (await stats(gw, "/v1/stats/keys"))["data"]
    error = await stats(gw, path.replace("KEY", key["id"]), status)
    assert error["param"] == param
    assert says in error["message"]


async def test_a_tenant_sees_its_own_and_nothing_of_the_house_or_of_others(
    tmp_path: Path, up: ScriptedUpstream
) -> None:
    async with running(tmp_path, shared(up)) as gateway:
        await gateway.chat()
        await gateway.chat("flat", key=OTHER_KEY)
        await gateway.spent()
        (key, _) = (await stats(gateway, "/v1/stats/keys"))["data"]
        for path in OWN:
            mine = await gateway.ask("GET", path)
            assert mine.status == 200
            assert mine.headers["x-request-id"].startswith("req_")
            for secret in (key["id"], "rival", "127.0.0.1", str(gateway.folder), UPSTREAM_KEY, "balance"):
                assert secret not in mine.body.decode(), path
            assert (await gateway.ask("GET", path, key=None)).status == 401
            assert (await gateway.ask("GET", path, key=ADMIN_KEY)).status == 401
            assert (await gateway.ask("POST", path, {})).status == 405
        mine, theirs = [(await gateway.ask("GET", "/router/stats", key=key)).json for key in (KEY, OTHER_KEY)]
        assert (mine["tenant"], mine["requests_today"], theirs["tenant"]) == (TENANT, 1, "rival")
        assert (mine["last_24h"][0]["cost_usd"], theirs["last_24h"][0]["cost_usd"]) == ("0.000013", "1.00")
        assert (mine["models"], theirs["models"]) == (4, 1)
        providers = (await gateway.ask("GET", "/v1/health/providers", key=OTHER_KEY)).json["data"]
        assert [(one["provider"], one["models"]) for one in providers] == [("up", 1)]
        status = (await gateway.ask("GET", "/auth/status", key=OTHER_KEY)).json
        assert (status["tenant"], status["plan"], status["allow"]) == ("rival", "prepaid", ["flat"])
        limits = (await gateway.ask("GET", "/router/rate-limits")).json
        assert (limits["requests_per_minute"]["limit"], limits["requests_per_minute"]["remaining"]) == (100, 99)
        daily = limits["daily_requests"]
        assert (daily["limit"], daily["remaining"], daily["reset"][-1], limits["key"]) == (50, 49, "s", None)
        assert (limits["tokens_per_minute"], limits["concurrency"]) == (None, None)


async def test_health_says_when_none_of_a_tenants_providers_is_usable(gw: Gateway, up: ScriptedUpstream) -> None:
    assert (await gw.ask("GET", "/router/health")).json["status"] == "ok"
    up.default = Status(500)
    for _ in range(4):
        await gw.chat()
    health = (await gw.ask("GET", "/router/health")).json
    assert (health["status"], health["providers_usable"]) == ("degraded", 0)
    assert health["providers"][0]["circuit"] == "open"


async def test_anybody_may_ask_what_the_gateway_can(gw: Gateway) -> None:
    info = await gw.ask("GET", "/backend/info", key=None)
    assert (info.json["name"], "chat" in info.json["operations"]) == ("routerx", True)
    assert info.json["dialects"] == ["openai", "responses", "anthropic", "gemini"]
    assert "up" not in info.json.values()
