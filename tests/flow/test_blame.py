"""Who is to blame, and who pays: callers who leave or linger, providers who say too much, limits that hold."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from routerx.dialects.registry import dialect
from routerx.domain.call import Operation
from routerx.errors import ShuttingDown
from routerx.gateway.context import Inbound
from routerx.ids import new_request_id
from tests.flow.flow_kit import OPENING, completion, planned, within
from tests.support.gateway import KEY, Gateway, config, running, wait_for
from tests.support.upstream import End, Endless, Json, Ok, ScriptedUpstream, Stream, sse, usage_of

FRAME = sse({"id": "x", "choices": [{"index": 0, "delta": {"content": "x" * 8_000}, "finish_reason": None}]})


class Leaver:
    """A caller who takes everything and hangs up as the last bytes come."""

    async def start(self, headers: Any) -> None: ...

    async def write(self, data: bytes) -> None: ...

    async def finish(self, data: bytes) -> None:
        raise ConnectionResetError


def inbound(gw: Gateway, body: bytes) -> Inbound:
    snapshot, clock = gw.runtime.holder.current, gw.runtime.clock
    return Inbound(
        request_id=new_request_id(clock.now_ns()),
        operation=Operation.CHAT,
        dialect=dialect("openai"),
        snapshot=snapshot,
        principal=next(iter(snapshot.keys.values())),
        body=body,
        started_ns=clock.now_ns(),
        started_s=clock.monotonic_s(),
    )


STREAMED = b'{"model":"solo","stream":true,"messages":[{"role":"user","content":"Hello"}]}'


async def test_leaving_during_the_error_of_a_broken_answer_does_not_make_it_chargeable(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        up.queue(Stream(["Hel", "lo"], end=End.RESET, frames=[FRAME, FRAME]))
        with contextlib.suppress(ConnectionError):
            await gw.runtime.gateway.serve(inbound(gw, STREAMED), Leaver())
        row = await gw.settled()
        assert row.outcome.startswith("upstream_")
        assert (row.billing, row.cost_nano) == ("void", 0)
        assert gw.funds().balance_nano == OPENING
        await gw.assert_books_are_clean()


async def test_an_error_body_over_the_limit_keeps_its_status_and_opens_no_circuit(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        up.queue(*[Json({"detail": "x" * 200_000}, status=422) for _ in range(6)])
        replies = [await gw.chat() for _ in range(6)]
        assert {(one.status, one.error["code"]) for one in replies} == {(422, "upstream_rejected")}
        assert (await gw.chat()).status == 200


async def test_a_caller_who_does_not_read_is_not_the_providers_failure(tmp_path: Path) -> None:
    async with within(tmp_path, total="400ms") as (gw, up):
        up.queue(Endless(FRAME, "text/event-stream"))
        caller = await gw.begin(stream=True)
        await caller.head()
        row = await gw.settled()
        assert (row.outcome, row.billing) == ("client_slow", "paid")
        assert row.cost_nano > 0
        (view,) = gw.runtime.routing.view(gw.runtime.clock.monotonic_s())
        assert view.failures == 0
        await gw.assert_books_are_clean()


async def test_a_body_is_not_let_in_without_a_key(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        caller = await gw.connect()
        caller._writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{")
        reply = await caller.reply()
        assert (reply.status, reply.headers["connection"]) == (401, "close")
        await caller.closed()


async def test_a_key_revoked_while_its_body_arrives_is_refused(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        key, row = await gw.runtime.ledger.issue_key("acme", actor="test", label=None)
        caller = await gw.connect()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        caller._writer.write(head.encode() + b"Content-Length: %d\r\n\r\n" % len(STREAMED) + STREAMED[:10])
        await wait_for(lambda: gw.runtime.edge.in_flight == 1)
        await gw.runtime.ledger.revoke_key(row.id, (), actor="test")
        caller._writer.write(STREAMED[10:])
        assert (await caller.reply()).status == 401
        assert up.requests == []


async def test_what_a_limit_refuses_says_what_the_limits_are(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, planned(up.url, limits={"rpm": 1})) as gw:
        assert (await gw.chat()).status == 200
        refused = await gw.chat()
        assert (refused.status, refused.headers["x-ratelimit-limit-requests"]) == (429, "1")
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"


async def test_what_cannot_be_paid_for_does_not_use_up_the_limits(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, planned(up.url, "$0.000001", limits={"rpm": 1})) as gw:
        assert [(await gw.chat()).status for _ in range(3)] == [402, 402, 402]
        await gw.runtime.ledger.top_up("acme", OPENING, actor="test", reference=None, note=None)
        assert (await gw.chat()).status == 200


class Connecting:
    """A transport that never gets a connection."""

    async def open(self, call: Any) -> Any:
        await asyncio.Event().wait()

    async def close(self) -> None: ...


@pytest.mark.parametrize("stream", [False, True])
async def test_a_caller_who_leaves_before_anything_was_sent_owes_nothing(tmp_path: Path, stream: bool) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        gw.runtime._transports.get = lambda provider: Connecting()  # type: ignore[method-assign,assignment]
        for _ in range(35):  # More than the allowance of free aborts.
            caller = await gw.begin(stream=stream)
            await wait_for(lambda: gw.runtime.gateway.in_flight == 1)
            caller.leave()
            row = await gw.settled()
            assert (row.outcome, row.cost_nano, row.attempts[0].dispatched) == ("client_gone_predispatch", 0, False)
        assert gw.funds().balance_nano == OPENING


async def test_nothing_new_begins_after_the_drain_deadline(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        gw.runtime.gateway.cut_off()
        with pytest.raises(ShuttingDown):
            await gw.runtime.gateway.serve(inbound(gw, STREAMED), Leaver())
        assert up.requests == []


async def test_a_second_cut_off_does_not_strike_an_end_that_is_being_written(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        up.queue(Stream(["Hel", "lo"], gates={2: asyncio.Event()}))
        caller = await gw.begin(stream=True)
        head = await caller.head()
        await caller.until(b"Hel")
        assert (gw.runtime.gateway.cut_off(), gw.runtime.gateway.cut_off()) == (1, 0)
        reply = await caller.reply(head)
        assert b"shutting_down" in reply.body
        assert not reply.cut


@pytest.mark.parametrize("usage", [usage_of(7, 10**9), usage_of(10**9, 3)])
async def test_usage_that_nothing_can_mean_is_estimated_within_the_hold(tmp_path: Path, usage: dict[str, Any]) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        up.queue(Json(completion(usage)))
        assert (await gw.chat(max_tokens=10)).status == 200
        row = await gw.settled()
        assert (row.usage_source, row.flags) == ("estimated", ("anomaly",))
        assert 0 < row.cost_nano <= row.held_nano


async def test_a_json_answer_is_labelled_json_whatever_the_provider_called_it(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        up.queue(Json(completion(usage_of(7, 3)), headers={"content-type": "text/plain"}))
        up.queue(Json(completion(usage_of(7, 3)), headers={"content-type": "application/json; charset=utf-8"}))
        labels = [(await gw.chat()).headers["content-type"] for _ in range(2)]
        assert labels == ["application/json", "application/json; charset=utf-8"]


async def test_metrics_from_elsewhere_need_an_admin_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        assert (await gw.ask("GET", "/metrics", key=None)).status == 200
        monkeypatch.setattr("routerx.http.ops._from_this_machine", lambda request: False)
        assert (await gw.ask("GET", "/metrics", key=None)).status == 401
        assert (await gw.ask("GET", "/metrics", key=KEY)).status == 401
        assert (await gw.ask("GET", "/metrics", key="admin_key_fake_123456")).status == 200


async def test_health_shows_endpoints_of_the_configuration_and_no_typed_paths(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        assert (await gw.chat()).status == 200
        up.queue(Ok())
        await gw.chat("up/typed-by-a-caller")
        health = (await gw.ask("GET", "/health", key=None)).json
        assert [one["endpoint"] for one in health["endpoints"]] == ["up/solo"]


async def test_usage_that_nothing_can_mean_is_not_charged_to_a_caller_who_left_either(tmp_path: Path) -> None:
    absurd = {"id": "x", "choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": None}]}
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        frames = [sse(absurd | {"usage": usage_of(7, 10**9)}), FRAME]
        up.queue(Stream(frames=frames, gates={1: asyncio.Event()}))
        caller = await gw.begin(stream=True, max_tokens=10)
        await caller.head()
        await caller.until(b"hi")
        caller.leave()
        row = await gw.settled()
        assert (row.outcome, row.usage_source) == ("client_gone_midstream", "estimated")
        assert 0 < row.cost_nano <= row.held_nano


async def test_an_answer_with_absurd_usage_is_estimated_from_its_text_too(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, running(tmp_path, config(up.url)) as gw:
        up.queue(Json(completion(usage_of(7, 10**9))))
        assert (await gw.chat()).status == 200
        usage = (await gw.settled()).usage
        assert usage is not None
        assert usage.out_text > 0
