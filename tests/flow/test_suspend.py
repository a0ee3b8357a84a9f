"""Suspending tenants: at once for what is new, and for what runs either not at all or within a second."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.flow.flow_kit import OPENING
from tests.support.gateway import ADMIN_KEY, HELLO, KEY, TENANT, Config, Gateway, Reply, config, digest, running
from tests.support.upstream import Ok, ScriptedUpstream, Stream

RIVAL_KEY = "rival_key_fake_123456"


def two_tenants(up: str) -> Config:
    value = config(up)
    value["tenants"]["rival"] = {"plan": "prepaid", "opening_balance": "$10", "keys": [digest(RIVAL_KEY)]}
    return value


async def admin(gw: Gateway, method: str, path: str, body: Any = None) -> Reply:
    return await gw.ask(method, f"/admin/v1{path}", body, key=ADMIN_KEY)


async def test_what_runs_ends_as_it_would_and_what_is_new_is_refused(tmp_path: Path, up: ScriptedUpstream) -> None:
    async with running(tmp_path, config(up.url)) as gw:
        gate = asyncio.Event()
        up.queue(Stream(["Hel", "lo"], gates={2: gate}))
        stream = await gw.begin(stream=True)
        head = await stream.head()
        seen = await stream.until(b'"Hel"')
        assert (await admin(gw, "POST", f"/tenants/{TENANT}/suspend", {"reason": "unpaid"})).json["suspended"]
        refused = await gw.chat()
        assert (refused.status, refused.error["code"]) == (403, "tenant_suspended")
        gate.set()
        whole = await stream.reply(head, seen)
        assert (whole.text, whole.stream_error) == ("Hello", None)
        await admin(gw, "POST", f"/tenants/{TENANT}/unsuspend")
        assert (await gw.chat()).status == 200


async def test_hard_ends_what_runs_within_a_second_and_charges_what_was_delivered(
    tmp_path: Path, up: ScriptedUpstream
) -> None:
    async with running(tmp_path, two_tenants(up.url)) as gw:
        never = asyncio.Event()
        up.queue(Stream(["x" * 400, "lo"], gates={2: never}), Stream(gates={0: never}), Ok(gate=never))
        half = await gw.begin(stream=True)
        head = await half.head()
        seen = await half.until(b"xx")
        silent = await gw.begin(stream=True)
        await up.arrived(2)
        buffered = await gw.begin()
        await up.arrived(3)
        gate = asyncio.Event()
        up.queue(Stream(["Hel", "lo"], gates={2: gate}))
        rival = await gw.connect()
        await rival.send(
            "POST",
            "/v1/chat/completions",
            {"model": "solo", "messages": HELLO, "stream": True},
            key=RIVAL_KEY,
        )
        await up.arrived(4)

        began_s = time.monotonic()
        assert (await admin(gw, "POST", f"/tenants/{TENANT}/suspend", {"reason": "stolen", "hard": True})).status == 200
        told = (await half.reply(head, seen)).stream_error
        assert told is not None
        assert told["code"] == "tenant_suspended"
        for caller in (silent, buffered):
            reply = await caller.reply()
            assert (reply.status, reply.error["code"]) == (403, "tenant_suspended")
        assert time.monotonic() - began_s < 1.0

        records = {(record.stream, record.cost_nano > 0): record for record in [await gw.settled() for _ in range(3)]}
        assert {record.outcome for record in records.values()} == {"tenant_suspended"}
        assert set(records) == {(True, True), (True, False), (False, False)}
        charged = records[True, True]
        assert charged.usage is not None
        assert charged.usage.output_tokens == 100
        assert gw.funds().balance_nano == OPENING - charged.cost_nano
        gate.set()
        assert (await rival.reply()).text == "Hello"
        # The connection of a caller who was cut off is good for the next request.
        await admin(gw, "POST", f"/tenants/{TENANT}/unsuspend")
        await buffered.send("POST", "/v1/chat/completions", {"model": "solo", "messages": HELLO})
        assert (await buffered.reply()).status == 200
        await gw.assert_books_are_clean()

        history = (await admin(gw, "GET", f"/tenants/{TENANT}/history")).json["data"]
        assert [(row["action"], row["detail"]) for row in history[-3:]] == [
            ("tenant.suspend", "stolen"),
            ("tenant.cut_off", "3 running requests"),
            ("tenant.unsuspend", ""),
        ]
        assert history[-1]["actor"] != "socket"


async def test_limits_of_a_tenant_are_written_to_its_file_and_live_at_once(
    tmp_path: Path, up: ScriptedUpstream
) -> None:
    value = config(up.url)
    value["plans"]["prepaid"]["limits"] = {"rpm": 50, "tpm": 1_000_000}
    async with running(tmp_path, value) as gw:
        change = {"rpm": 1, "daily_requests": 7, "spend_limit": "$5/day"}
        changed = (await admin(gw, "PATCH", f"/tenants/{TENANT}/limits", change)).json
        assert changed["plan"]["limits"] == {"rpm": 1, "tpm": 1_000_000, "concurrency": None, "daily_requests": 7}
        assert changed["plan"]["spend_limit"]["amount_usd"] == "5.00"
        assert [(await gw.chat()).status for _ in range(2)] == [200, 429]
        undone = {"rpm": None, "spend_limit": None}
        back = (await admin(gw, "PATCH", f"/tenants/{TENANT}/limits", undone)).json
        assert (back["plan"]["limits"]["rpm"], back["plan"]["spend_limit"]) == (50, None)
        rows = (await admin(gw, "GET", f"/tenants/{TENANT}/history?limit=2")).json["data"]
        assert [row["action"] for row in rows] == ["tenant.limit", "tenant.limit"]
        assert json.loads(rows[0]["detail"]) == change
    async with running(tmp_path, (tmp_path / "routerx.yaml").read_text()) as gw:
        assert gw.runtime.holder.current.tenants[TENANT].plan.limits.daily_requests == 7


@pytest.mark.parametrize(
    ("body", "status"),
    [({}, 400), ({"rpm": 0}, 400), ({"rpm": "many"}, 400), ({"spend_limit": "$5"}, 400), ({"rps": 5}, 400)],
)
async def test_limits_that_are_none_change_nothing(
    tmp_path: Path, up: ScriptedUpstream, body: dict[str, Any], status: int
) -> None:
    async with running(tmp_path, config(up.url)) as gw:
        before = (tmp_path / "routerx.yaml").read_text()
        assert (await admin(gw, "PATCH", f"/tenants/{TENANT}/limits", body)).status == status
        assert (await admin(gw, "PATCH", "/tenants/nobody/limits", {"rpm": 1})).status == 404
        assert (tmp_path / "routerx.yaml").read_text() == before
        assert (await gw.ask("PATCH", f"/admin/v1/tenants/{TENANT}/limits", {"rpm": 1}, key=KEY)).status == 401
