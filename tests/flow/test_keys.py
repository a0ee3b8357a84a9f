"""Keys with terms of their own, issued by the ledger or declared in YAML: what each may, and when it may no more."""

from pathlib import Path
from typing import Any

from routerx.domain.tenant import KeyTerms, Limits, Period, SpendLimit
from tests.support.gateway import KEY, TENANT, Config, Gateway, config, digest, running
from tests.support.upstream import ScriptedUpstream

OTHER = "second_key_fake_123456"
USD = 10**9


def declaring(up: str, **terms: Any) -> Config:
    """The plain configuration, with a second key that has terms."""
    value = config(up)
    value["tenants"][TENANT]["keys"] = [digest(KEY), {"key": digest(OTHER), **terms}]
    return value


async def issued(gw: Gateway, **terms: Any) -> tuple[str, str]:
    """(key, its id)."""
    key, row = await gw.runtime.ledger.issue_key(TENANT, actor="test", label=None, terms=KeyTerms(**terms))
    return key, row.id


async def test_a_key_is_limited_for_itself_also_after_a_restart(tmp_path: Path, up: ScriptedUpstream) -> None:
    async with running(tmp_path, declaring(up.url, daily_requests=2)) as gw:
        key, _ = await issued(gw, limits=Limits(daily_requests=1))
        assert [(await gw.chat(key=OTHER)).status for _ in range(3)] == [200, 200, 429]
        assert [(await gw.chat(key=key)).status for _ in range(2)] == [200, 429]
        assert (await gw.chat()).status == 200
        await gw.assert_books_are_clean()
    async with running(tmp_path, declaring(up.url, daily_requests=3)) as gw:
        refused = await gw.chat(key=key)
        assert (refused.status, refused.error["limit_of"]) == (429, "key")
        assert [(await gw.chat(key=OTHER)).status for _ in range(2)] == [200, 429]


async def test_a_spend_limit_of_a_key_holds_also_after_a_restart(tmp_path: Path, up: ScriptedUpstream) -> None:
    async def bought(key: str) -> list[int]:
        """Of three requests for $1 each."""
        return [(await gw.chat("flat", key=key)).status for _ in range(3)]

    async with running(tmp_path, declaring(up.url, spend_limit="$2/month")) as gw:
        key, _ = await issued(gw, spend_limit=SpendLimit(USD, Period.TOTAL))
        assert (await bought(OTHER), await bought(key)) == ([200, 200, 402], [200, 402, 402])
        refused = await gw.chat("flat", key=key)
        assert (refused.error["code"], refused.error["limit_of"]) == ("spend_limit_reached", "key")
        assert (await gw.chat("flat")).status == 200
    async with running(tmp_path, declaring(up.url, spend_limit="$3/month")) as gw:
        told = (await gw.ask("GET", "/v1/key", key=OTHER)).json
        assert told["spend_limit"] == {"amount_usd": "3.00", "period": "month", "left_usd": "1.00"}
        assert (await bought(OTHER), await bought(key)) == ([200, 402, 402], [402, 402, 402])
        await gw.assert_books_are_clean()


async def test_a_key_may_use_no_model_that_its_patterns_leave_out(tmp_path: Path, up: ScriptedUpstream) -> None:
    async with running(tmp_path, declaring(up.url, allow=["sol*", "vec*"])) as gw:
        key, _ = await issued(gw, allow=("flat",))
        # Asked with the free key before and after, so that no plan of one key serves the other.
        for one, model, status in (
            (KEY, "solo", 200),
            (key, "solo", 404),
            (OTHER, "solo", 200),
            (KEY, "flat", 200),
            (OTHER, "flat", 404),
            (key, "flat", 200),
            (KEY, "flat", 200),
        ):
            assert (await gw.chat(model, key=one)).status == status, (one, model)
        listed = (await gw.ask("GET", "/v1/models", key=key)).json["data"]
        assert [model["id"] for model in listed] == ["flat"]
        assert (await gw.ask("GET", "/v1/models/solo", key=key)).status == 404
        named = (await gw.ask("GET", "/v1/key", key=OTHER)).json
        assert (named["allow"], named["tenant_allow"]) == (["sol*", "vec*"], [])


async def test_what_a_key_may_use_lies_within_what_its_tenant_may(tmp_path: Path, up: ScriptedUpstream) -> None:
    value = declaring(up.url, allow=["flat", "solo"])
    value["tenants"][TENANT]["allow"] = ["solo", "vectors"]
    async with running(tmp_path, value) as gw:
        assert [(await gw.chat(model, key=OTHER)).status for model in ("solo", "flat")] == [200, 404]


async def test_an_expired_key_is_told_what_an_unknown_one_is(tmp_path: Path, up: ScriptedUpstream) -> None:
    async with running(tmp_path, declaring(up.url, expires="2001-01-01")) as gw:
        now_ns = gw.runtime.clock.now_ns()
        past, _ = await issued(gw, expires_ns=now_ns)
        future, key_id = await issued(gw, expires_ns=now_ns + 3600 * 10**9)
        unknown = await gw.chat(key="unknown_key_fake_123456")
        for key in (OTHER, past):
            refused = await gw.chat(key=key)
            assert refused.status == 401
            assert {**refused.error, "request_id": ""} == {**unknown.error, "request_id": ""}
        assert (await gw.ask("GET", "/v1/key", key=past)).status == 401
        assert (await gw.chat(key=future)).status == 200
        assert (await gw.ask("GET", "/v1/key", key=future)).json["expires"].endswith("Z")
        await gw.runtime.ledger.limit_key(key_id, KeyTerms(expires_ns=now_ns), actor="test")
        assert (await gw.chat(key=future)).status == 401


async def test_a_key_sees_its_own_limits_and_spending(tmp_path: Path, up: ScriptedUpstream) -> None:
    async with running(tmp_path, declaring(up.url, rpm=5)) as gw:
        await gw.chat(key=OTHER)
        await gw.chat()
        mine = (await gw.ask("GET", "/v1/key", key=OTHER)).json
        assert (mine["tenant"], mine["requests_today"]) == (TENANT, 1)
        assert mine["spent_today_usd"] == mine["spent_month_usd"] == mine["spent_total_usd"] == "0.000013"
        assert mine["held_usd"] == "0.00"
        rpm = mine["limits"]["requests_per_minute"]
        assert (rpm["limit"], rpm["remaining"]) == (5, 4)
        assert mine["tenant_limits"]["requests_per_minute"] is None
        assert (await gw.ask("GET", "/v1/key", key=None)).status == 401
        plain = (await gw.ask("GET", "/v1/key")).json
        assert (plain["spend_limit"], plain["expires"], plain["id"] != mine["id"]) == (None, None, True)


async def test_a_tenant_may_have_limits_in_place_of_its_plans(tmp_path: Path, up: ScriptedUpstream) -> None:
    value = config(up.url)
    value["plans"]["prepaid"]["limits"] = {"rpm": 100, "concurrency": 3}
    value["tenants"][TENANT] |= {"limits": {"rpm": 1}, "spend_limit": "$1/day"}
    async with running(tmp_path, value) as gw:
        assert [(await gw.chat()).status for _ in range(2)] == [200, 429]
        plan = gw.runtime.holder.current.tenants[TENANT].plan
        assert (plan.limits.concurrency, plan.spend_limit) == (3, SpendLimit(USD, Period.DAY))
        assert gw.runtime.holder.current.plans["prepaid"].limits.rpm == 100
