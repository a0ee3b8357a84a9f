"""Who may call what: switches of the configuration that open or close doors."""

from pathlib import Path

import pytest

from tests.flow.flow_kit import planned
from tests.support.gateway import HELLO, KEY, TENANT, config, running
from tests.support.upstream import ScriptedUpstream


async def test_without_authentication_every_caller_is_the_first_tenant(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up:
        value = config(up.url)
        value["server"]["auth"] = False
        async with running(tmp_path, value) as gw:
            assert (await gw.chat(key=None)).status == 200
            assert (await gw.chat(key="whatever_key_fake_123")).status == 200
            assert [(await gw.settled()).tenant for _ in range(2)] == [TENANT, TENANT]
            assert (await gw.ask("GET", "/admin/v1/status", key=None)).status == 401
            await gw.assert_books_are_clean()


async def test_further_header_may_carry_the_key(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up:
        value = config(up.url)
        value["server"]["auth_header"] = "X-Team-Key"
        async with running(tmp_path, value) as gw:
            body = {"model": "solo", "messages": HELLO}
            for headers, status in (
                ({"X-Team-Key": KEY}, 200),
                ({"X-Team-Key": f"Bearer {KEY}"}, 200),
                ({"X-Team-Key": "wrong_key_fake_123456"}, 401),
                ({"X-Team-Key": KEY, "x-api-key": "other_key_fake_123456"}, 400),
            ):
                reply = await gw.ask("POST", "/v1/chat/completions", body, key=None, headers=headers)
                assert reply.status == status
            assert "x-team-key" not in up.requests[0].headers


@pytest.mark.parametrize("public", [False, True])
async def test_models_are_public_where_the_operator_says_so(tmp_path: Path, public: bool) -> None:
    async with ScriptedUpstream() as up:
        value = config(up.url)
        value["server"]["public_models"] = public
        value["tenants"][TENANT]["allow"] = ["flat"]
        async with running(tmp_path, value) as gw:
            listed = await gw.ask("GET", "/v1/models", key=None)
            one = await gw.ask("GET", "/v1/models/solo", key=None)
            assert listed.status == one.status == (200 if public else 401)
            if public:
                assert {"solo", "flat"} <= {model["id"] for model in listed.json["data"]}
                assert one.json["pricing"] == {"input_usd_per_million": "1.00", "output_usd_per_million": "2.00"}
            assert (await gw.ask("GET", "/v1/models/solo")).status == 404  # A key sees what it may use.
            assert (await gw.ask("GET", "/v1/models", key="wrong_key_fake_123456")).status == 401


async def test_model_without_a_price_is_sold_to_nobody_unless_allowed(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up:
        async with running(tmp_path, config(up.url)) as gw:
            refused = await gw.chat("up/undeclared")
            assert (refused.status, refused.error["code"]) == (403, "permission_denied")
            assert up.requests == []
        async with running(tmp_path, planned(up.url, on_unpriced="allow_flagged")) as gw:
            assert (await gw.chat("up/undeclared")).status == 200
            row = await gw.settled()
            assert (row.billing, row.cost_nano, row.flags) == ("free", 0, ("unpriced",))
            await gw.assert_books_are_clean()


async def test_capability_that_no_endpoint_has_is_a_bad_request(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up:
        value = config(up.url)
        del value["models"]["solo"]["endpoints"][0]["supports"]
        async with running(tmp_path, value) as gw:
            tool = {"type": "function", "function": {"name": "f"}}
            reply = await gw.chat(tools=[tool])
            assert (reply.status, reply.error["code"]) == (400, "invalid_parameter")
            assert (await gw.ask("POST", "/v1/embeddings", {"model": "solo", "input": "a"})).status == 404
            assert up.requests == []
